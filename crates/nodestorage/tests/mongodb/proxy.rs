//! A proxy in front of the server that answers some commands itself, as a server would that is set up otherwise.

use std::{sync::Arc, time::Duration};

use nodestorage::mongo::driver::bson::{Document, doc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::{Mutex, watch},
};

/// The wire protocol: a header of four numbers, then flags, then a byte 0 and the command or its answer.
const HEADER_BYTES: usize = 16;
const BODY_AT: usize = HEADER_BYTES + 4 + 1;
const OP_MSG: i32 = 2013;

/// What the proxy makes of the traffic.
pub(crate) trait Manner: Send + Sync + 'static {
    /// Answers a command in the server's place.
    fn answer(&self, command: &Document) -> Option<Document>;

    /// For how long a command is on its way.
    fn way(&self, _command: &Document) -> Duration {
        Duration::ZERO
    }

    /// Until when an answer of the server is held back.
    fn held(&self, _reply: &Document) -> Option<watch::Receiver<bool>> {
        None
    }

    /// Changes an answer of the server.
    fn change(&self, reply: Document) -> Document {
        reply
    }
}

impl<F: Fn(&Document) -> Option<Document> + Send + Sync + 'static> Manner for F {
    fn answer(&self, command: &Document) -> Option<Document> {
        self(command)
    }
}

/// An error as the server words it.
pub(crate) fn refusal(code: i32, reason: &str) -> Document {
    doc! {"ok": 0.0, "code": code, "errmsg": reason}
}

/// Starts a proxy and returns its port. It ends with the test.
pub(crate) async fn start(server: u16, manner: impl Manner) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let manner = Arc::new(manner);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let manner = Arc::clone(&manner);
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                // Answers come from the server and from here.
                let to_client = Arc::new(Mutex::new(to_client));
                let replies = tokio::spawn(replies(from_server, Arc::clone(&to_client), Arc::clone(&manner)));
                requests(from_client, to_server, to_client, &*manner).await;
                replies.abort();
            });
        }
    });
    port
}

/// One message: its length stands in front.
pub(crate) async fn message(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await.ok()?;
    let mut message = vec![0; u32::from_le_bytes(length) as usize];
    message[..4].copy_from_slice(&length);
    from.read_exact(&mut message[4..]).await.ok()?;
    Some(message)
}

fn number(message: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(message[at..at + 4].try_into().unwrap())
}

/// The command or the answer in a message, if it is of the kind that has one.
fn body(message: &[u8]) -> Option<Document> {
    if number(message, 12) != OP_MSG || message.get(BODY_AT - 1) != Some(&0) {
        return None;
    }
    Document::from_reader(&message[BODY_AT..]).ok()
}

fn write(head: &[u8], body: &Document) -> Vec<u8> {
    let body = body.to_vec().unwrap();
    let mut message = head.to_vec();
    message.extend_from_slice(&body);
    let length = u32::try_from(message.len()).unwrap();
    message[..4].copy_from_slice(&length.to_le_bytes());
    message
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: impl AsyncWriteExt + Unpin,
    to_client: Arc<Mutex<impl AsyncWriteExt + Unpin>>,
    manner: &impl Manner,
) {
    while let Some(message) = message(&mut from).await {
        let command = body(&message);
        if let Some(way) = command.as_ref().map(|command| manner.way(command)).filter(|way| !way.is_zero()) {
            tokio::time::sleep(way).await;
        }
        let sent = match command.and_then(|command| manner.answer(&command)) {
            None => to.write_all(&message).await,
            Some(answer) => {
                let mut head = vec![0; BODY_AT];
                head[8..12].copy_from_slice(&message[4..8]);
                head[12..16].copy_from_slice(&OP_MSG.to_le_bytes());
                to_client.lock().await.write_all(&write(&head, &answer)).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn replies(
    mut from: OwnedReadHalf,
    to_client: Arc<Mutex<impl AsyncWriteExt + Unpin>>,
    manner: Arc<impl Manner>,
) {
    while let Some(message) = message(&mut from).await {
        let changed = match body(&message) {
            Some(reply) => {
                if let Some(mut held) = manner.held(&reply) {
                    // An error: nobody is left who could let it go.
                    let _ = held.wait_for(|held| !held).await;
                }
                write(&message[..BODY_AT], &manner.change(reply))
            }
            None => message,
        };
        if to_client.lock().await.write_all(&changed).await.is_err() {
            return;
        }
    }
}
