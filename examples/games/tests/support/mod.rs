//! The program itself, started as a user starts it, and small clients that say exactly what a test wants said.

#![allow(dead_code, reason = "each test file uses another part of this")]

use std::{path::Path, process::Stdio, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// Nothing here takes so long, except when it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A running program.
pub(crate) struct Games {
    pub(crate) child: Child,
    pub(crate) address: String,
}

/// The program with some arguments, its output to be read.
///
/// `cargo xtask test-all` names the release build, which is what users run.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let program = std::env::var_os("WEFT_GAMES_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_games").into());
    let mut command = Command::new(program);
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Games {
    /// Starts it on a free port and waits until it says that it is ready.
    pub(crate) async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// The same with further arguments.
    pub(crate) async fn start_with(data: &Path, more: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        let arguments = ["--listen", "127.0.0.1:0", "--data", data, "--log", "warn"];
        let mut command = command(&[&arguments[..], more].concat());
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.expect("ready in time").unwrap();
        let line = line.expect("the address is printed");
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        Self { child, address }
    }

    /// `kill -9`, and gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client { address: self.address.clone() }
    }
}

/// How many answers came, whoever got them.
#[derive(Clone, Default)]
pub(crate) struct Answers(watch::Sender<u64>);

impl Answers {
    pub(crate) fn count(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Waits until so many more have come.
    pub(crate) async fn reach_more(&self, more: u64) {
        let mut answers = self.0.subscribe();
        let wanted = *answers.borrow() + more;
        let reached = timeout(DEADLINE, answers.wait_for(|count| *count >= wanted)).await;
        reached.expect("requests are answered").expect("it is told for as long as this is there");
    }
}

/// One HTTP client.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: String,
}

/// A request that may have been carried out or not.
#[derive(Debug)]
pub(crate) struct Lost;

impl Client {
    /// Status and body; `Lost` when the connection ended before the answer did.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: &Value,
    ) -> Result<(u16, Value), Lost> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut stream = TcpStream::connect(&self.address).await.map_err(|_| Lost)?;
        stream.write_all(text.as_bytes()).await.map_err(|_| Lost)?;
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer").map_err(|_| Lost)?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or(Lost)?;
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let body = &answer[end + 4..];
        if length.unwrap_or(0) != body.len() {
            return Err(Lost);
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(body).unwrap() };
        Ok((status, body))
    }

    /// Status, head in lower case and body of a file.
    pub(crate) async fn file(&self, path: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let text = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer").unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer.split_off(end + 4))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.request("GET", path, &[], &Value::Null).await.expect("an answer");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// A socket that has said hello.
    pub(crate) async fn socket(&self, name: &str, hello: Value) -> Result<Socket, Lost> {
        let mut request = format!("ws://{}/sync", self.address).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "eventsync.v1.json".parse().unwrap());
        let (stream, _) = connect_async(request).await.map_err(|_| Lost)?;
        let mut socket = Socket { stream };
        let mut message = json!({"type": "hello", "clientId": name});
        for (field, value) in hello.as_object().unwrap() {
            message[field] = value.clone();
        }
        socket.send(&message).await?;
        assert_eq!(socket.next().await?["type"], "welcome");
        Ok(socket)
    }
}

pub(crate) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub(crate) async fn send(&mut self, message: &Value) -> Result<(), Lost> {
        self.stream.send(Message::text(message.to_string())).await.map_err(|_| Lost)
    }

    pub(crate) async fn next(&mut self) -> Result<Value, Lost> {
        loop {
            match timeout(DEADLINE, self.stream.next()).await.expect("a message in time") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return Err(Lost),
            }
        }
    }

    /// What comes up to the end, and the close code.
    pub(crate) async fn until_closed(&mut self) -> (Vec<Value>, Option<u16>) {
        let mut messages = Vec::new();
        loop {
            match timeout(DEADLINE, self.stream.next()).await.expect("a message in time") {
                Some(Ok(Message::Text(text))) => messages.push(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return (messages, frame.map(|frame| frame.code.into())),
                Some(Ok(_)) => {}
                _ => return (messages, None),
            }
        }
    }
}
