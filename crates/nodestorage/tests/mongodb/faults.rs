//! A network that cuts connections at the worst moments, by a proxy in front of the database.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nodestorage::{
    Body, Deleted, Edited, MongoStore, Storage, StorageExt, Store, Upserted, mongo::testing::TestServer,
};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{body, by, counted, games, id, open, options, proxy::message};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The request arrives, the connection is cut before anything comes back.
    CutBeforeReply,
    /// The request does not arrive as a whole.
    CutInRequest,
    /// The request arrives, long after its connection was cut.
    Delayed,
}

/// Passes everything on, except that every so many of the commands that write run into a fault.
struct Proxy {
    port: u16,
    faults: Arc<AtomicU64>,
}

impl Proxy {
    async fn start(server: u16, fault: Fault, every: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (faults, writes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counted = faults.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (writes, faults) = (writes.clone(), counted.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let replies = tokio::spawn(pass(from_server, to_client));
                    requests(from_client, to_server, fault, every, &writes, &faults, replies).await;
                });
            }
        });
        Self { port, faults }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

fn contains(message: &[u8], word: &str) -> bool {
    message.windows(word.len()).any(|window| window == word.as_bytes())
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    fault: Fault,
    every: u64,
    writes: &AtomicU64,
    faults: &AtomicU64,
    replies: tokio::task::JoinHandle<()>,
) {
    while let Some(message) = message(&mut from).await {
        let is_write =
            ["findAndModify\0", "insert\0", "update\0", "delete\0"].iter().any(|c| contains(&message, c))
                && contains(&message, "weft_test");
        if !is_write || !(1 + writes.fetch_add(1, Ordering::Relaxed)).is_multiple_of(every) {
            if to.write_all(&message).await.is_err() {
                return;
            }
            continue;
        }
        faults.fetch_add(1, Ordering::Relaxed);
        match fault {
            Fault::CutInRequest => {
                let _ = to.write_all(&message[..message.len() / 2]).await;
                replies.abort();
            }
            Fault::CutBeforeReply => {
                replies.abort();
                let _ = to.write_all(&message).await;
                // Until the server has done it.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Fault::Delayed => {
                replies.abort();
                drop(from);
                tokio::time::sleep(Duration::from_millis(80)).await;
                let _ = to.write_all(&message).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        return;
    }
}

async fn each_write_is_applied_once(fault: Fault) {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 40;
    let server = TestServer::own();
    let port = server.port();
    // Prepared without faults.
    open(&server).await.close().await.unwrap();
    let proxy = Proxy::start(port, fault, 7).await;
    let store = MongoStore::connect(&TestServer::uri_at(proxy.port), options(&server)).await.unwrap();
    let faulty = games(&store).await;
    let writers = (0..WRITERS).map(|writer| {
        let games = faulty.clone();
        tokio::spawn(async move {
            // Two writers per document; one of them counts its writes and one does not.
            let id = id(&format!("d{}", writer / 2));
            let made = games.find_one_and_upsert(&id, body(json!({"n": 0})), by("creator")).await.unwrap();
            assert!(matches!(made, Upserted::Created { .. } | Upserted::Existing { .. }));
            for write in 1..=WRITES {
                let options =
                    if writer % 2 == 0 { by("server") } else { counted(&format!("w{writer}"), write) };
                let increment = |body: &mut Body| {
                    body["n"] = json!(body["n"].as_u64().unwrap() + 1);
                    Ok::<_, Infallible>(())
                };
                let edited = games.edit(&id, increment, options).await.unwrap();
                assert!(matches!(edited, Edited::Changed { .. }), "{edited:?}");
            }
            // A delete too, and a creation after it.
            if writer % 2 == 0 {
                let own = super::id(&format!("own {writer}"));
                for round in 0..6 {
                    let made = games
                        .find_one_and_upsert(&own, body(json!({"n": round})), by("server"))
                        .await
                        .unwrap();
                    let Upserted::Created { document, .. } = made else { panic!("{made:?}") };
                    assert_eq!(document.version, 1 + 2 * round);
                    let deleted = games.delete_one(&own, by("server")).await.unwrap();
                    assert!(matches!(deleted, Deleted::Deleted { .. }), "{deleted:?}");
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert!(proxy.faults.load(Ordering::Relaxed) > 10, "hardly any fault");
    // Whatever is still on its way may arrive.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let store = open(&server).await;
    let games = games(&store).await;
    for document in 0..WRITERS / 2 {
        let id = id(&format!("d{document}"));
        let found = games.find_one(&id).await.unwrap().unwrap();
        assert_eq!((found.version, &found.body["n"]), (1 + 2 * WRITES, &json!(2 * WRITES)), "{fault:?}");
        let changes = games.changes(&id, 0, 1_000).await.unwrap().changes;
        assert!(changes.iter().map(|change| change.version).eq(1..=found.version), "{fault:?}");
    }
    println!("{fault:?}: {} faults", proxy.faults.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_write_whose_reply_is_cut_off_is_applied_once() {
    each_write_is_applied_once(Fault::CutBeforeReply).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_write_that_is_cut_off_itself_is_applied_once() {
    each_write_is_applied_once(Fault::CutInRequest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_write_that_arrives_late_is_applied_once() {
    each_write_is_applied_once(Fault::Delayed).await;
}
