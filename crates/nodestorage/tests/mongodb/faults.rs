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
    Body, Deleted, Edited, MongoOptions, MongoStore, Storage, StorageExt, Store, Upserted,
    mongo::testing::TestServer,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, oneshot, watch},
};

use super::{
    PATIENCE, WRITES_TIME_MAX, body, by, counted, games, id, open, options,
    proxy::message,
    verbs::{self, Acknowledged, Writer},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The request arrives, the connection is cut before anything comes back.
    CutBeforeReply,
    /// The request does not arrive as a whole.
    CutInRequest,
    /// The request arrives, long after its connection was cut.
    Delayed,
    /// The request arrives just before the one that is sent in its place.
    JustBeforeTheNext,
}

/// How long a request is late.
const LATE: Duration = Duration::from_millis(80);

/// A request whose connection was cut, and the way to the server on which it waits.
struct Held {
    document: &'static str,
    message: Vec<u8>,
    to: OwnedWriteHalf,
    replies: tokio::task::JoinHandle<()>,
}

impl Held {
    async fn arrive(mut self) {
        let _ = self.to.write_all(&self.message).await;
        let _ = tokio::time::timeout(PATIENCE, self.replies).await;
    }
}

/// Which of the test's documents a request is about.
fn document_of(message: &[u8]) -> Option<&'static str> {
    let all =
        ["d0\0", "d1\0", "d2\0", "d3\0", "d4\0", "own 0\0", "own 2\0", "book 0\0", "book 1\0", "book 2\0"];
    all.into_iter().find(|id| contains(message, id))
}

/// Whether a request writes, or computes what is to be written: anything of a transaction but its readings, too.
fn is_write(message: &[u8]) -> bool {
    let commands = ["findAndModify\0", "bulkWrite\0", "insert\0", "update\0", "delete\0", "aggregate\0"];
    let writes = commands.iter().any(|command| contains(message, command)) && contains(message, "weft_test");
    writes && !contains(message, "$changeStream") || contains(message, "commitTransaction\0")
}

/// Passes everything on, except that every so many of the commands that write run into a fault.
struct Proxy {
    port: u16,
    faults: Arc<AtomicU64>,
    /// How many requests are still on their way from a connection that was cut.
    cut_off: watch::Receiver<u64>,
    held: Arc<Mutex<Vec<Held>>>,
}

impl Proxy {
    async fn start(server: u16, fault: Fault, every: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (faults, writes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counted = faults.clone();
        let (on_their_way, cut_off) = watch::channel(0);
        let held = Arc::<Mutex<Vec<Held>>>::default();
        let all_held = held.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (writes, faults, cut_off) = (writes.clone(), counted.clone(), on_their_way.clone());
                let held = all_held.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let (cut, is_cut) = oneshot::channel();
                    let replies = tokio::spawn(replies(from_server, to_client, is_cut));
                    let wire = Wire { from: from_client, to: to_server, cut, replies, held };
                    wire.requests(fault, every, &writes, &faults, &cut_off).await;
                });
            }
        });
        Self { port, faults, cut_off, held }
    }

    /// There were faults, and whatever is still on its way arrives.
    async fn end(&mut self) {
        assert!(self.faults.load(Ordering::Relaxed) > 10, "hardly any fault");
        for held in self.held.lock().await.drain(..) {
            held.arrive().await;
        }
        let arrived = self.cut_off.wait_for(|count| *count == 0);
        tokio::time::timeout(PATIENCE, arrived).await.expect("in time").unwrap();
    }
}

/// Passes on what the server says until the connection is cut. Then it ends with the next thing that the server says: it
/// has done what it was asked last.
async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_cut: oneshot::Receiver<()>) {
    let mut piece = vec![0; 64 << 10];
    loop {
        tokio::select! {
            biased;
            _ = &mut is_cut => break,
            read = from.read(&mut piece) => match read {
                Ok(length @ 1..) if to.write_all(&piece[..length]).await.is_ok() => {}
                _ => return,
            },
        }
    }
    drop(to);
    let _ = from.read(&mut piece).await;
}

fn contains(message: &[u8], word: &str) -> bool {
    message.windows(word.len()).any(|window| window == word.as_bytes())
}

/// One connection through the proxy.
struct Wire {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    /// Cuts what goes back to the client.
    cut: oneshot::Sender<()>,
    replies: tokio::task::JoinHandle<()>,
    held: Arc<Mutex<Vec<Held>>>,
}

impl Wire {
    async fn requests(
        mut self,
        fault: Fault,
        every: u64,
        writes: &AtomicU64,
        faults: &AtomicU64,
        cut_off: &watch::Sender<u64>,
    ) {
        while let Some(message) = message(&mut self.from).await {
            let is_write = is_write(&message);
            let document = document_of(&message).filter(|_| is_write);
            let before: Vec<Held> =
                self.held.lock().await.extract_if(.., |held| Some(held.document) == document).collect();
            for held in before {
                held.arrive().await;
            }
            if is_write && (1 + writes.fetch_add(1, Ordering::Relaxed)).is_multiple_of(every) {
                cut_off.send_modify(|count| *count += 1);
                faults.fetch_add(1, Ordering::Relaxed);
                self.fail(fault, &message).await;
                cut_off.send_modify(|count| *count -= 1);
                return;
            }
            if self.to.write_all(&message).await.is_err() {
                return;
            }
        }
        self.replies.abort();
    }

    async fn fail(mut self, fault: Fault, message: &[u8]) {
        let _ = self.cut.send(());
        if fault == Fault::CutInRequest {
            let _ = self.to.write_all(&message[..message.len() / 2]).await;
            return;
        }
        if let (Fault::JustBeforeTheNext, Some(document)) = (fault, document_of(message)) {
            let held = Held { document, message: message.to_vec(), to: self.to, replies: self.replies };
            // Before the client can know.
            self.held.lock().await.push(held);
            return;
        }
        if fault == Fault::Delayed {
            drop(self.from);
            tokio::time::sleep(LATE).await;
        }
        let _ = self.to.write_all(message).await;
        let _ = tokio::time::timeout(PATIENCE, self.replies).await;
    }
}

/// Edits, operators, sections, pipelines, transactions, creations and deletes, and several at once.
async fn each_verb_is_applied_once(fault: Fault) {
    const WRITERS: u64 = 3;
    const WRITES: u64 = 30;
    let server = TestServer::own();
    open(&server).await.close().await.unwrap();
    let mut proxy = Proxy::start(server.port(), fault, 9).await;
    let one_lane = MongoOptions { write_lanes: 1, ..options(&server) };
    let store = MongoStore::connect(&TestServer::uri_at(proxy.port), one_lane).await.unwrap();
    let (faulty, seed) = (games(&store).await, verbs::seed());
    let writers = (0..WRITERS).map(|writer| {
        let games = faulty.clone();
        tokio::spawn(async move {
            let mut done = Acknowledged::new();
            let document = verbs::document(writer % 2);
            let mut writer = Writer::new(&games, seed, (writer, WRITERS), document).await.unwrap();
            for _ in 0..WRITES {
                done.extend(writer.write().await.unwrap());
            }
            done
        })
    });
    let mut acknowledged = Acknowledged::new();
    for writer in writers.collect::<Vec<_>>() {
        let writer = tokio::time::timeout(WRITES_TIME_MAX, writer).await.expect("its writes end");
        acknowledged.extend(writer.unwrap());
    }
    proxy.end().await;
    let store = open(&server).await;
    verbs::check(&games(&store).await, 2, WRITERS, &acknowledged).await;
    println!("{fault:?}: {} faults", proxy.faults.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_verb_whose_reply_is_cut_off_is_applied_once() {
    each_verb_is_applied_once(Fault::CutBeforeReply).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_verb_that_is_cut_off_itself_is_applied_once() {
    each_verb_is_applied_once(Fault::CutInRequest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_verb_that_arrives_late_is_applied_once() {
    each_verb_is_applied_once(Fault::Delayed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_verb_that_arrives_just_before_it_is_sent_again_is_applied_once() {
    each_verb_is_applied_once(Fault::JustBeforeTheNext).await;
}

/// Writes that meet, and share their commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn writes_that_share_a_command_are_each_applied_once() {
    const WRITES: u64 = 6;
    const DOCUMENTS: u64 = 5;
    let fault = Fault::CutBeforeReply;
    let server = TestServer::own();
    open(&server).await.close().await.unwrap();
    let mut proxy = Proxy::start(server.port(), fault, 3).await;
    let one_lane = MongoOptions { write_lanes: 1, ..options(&server) };
    let store = MongoStore::connect(&TestServer::uri_at(proxy.port), one_lane).await.unwrap();
    let faulty = games(&store).await;
    let writers = (0..DOCUMENTS).map(|writer| {
        let games = faulty.clone();
        tokio::spawn(async move {
            let id = verbs::document(writer);
            games.find_one_and_upsert(&id, body(json!({"n": 0})), by("creator")).await.unwrap();
            for write in 1..=WRITES {
                let increment = |body: &mut Body| {
                    body["n"] = json!(body["n"].as_u64().unwrap() + 1);
                    Ok::<_, Infallible>(())
                };
                let options = if writer % 2 == 0 { by("server") } else { counted("w", write) };
                let edited = games.edit(&id, increment, options).await.unwrap();
                assert!(matches!(edited, Edited::Changed { .. }), "{edited:?}");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        tokio::time::timeout(WRITES_TIME_MAX, writer).await.expect("its writes end").unwrap();
    }
    let shared = store.shared_writes();
    proxy.end().await;
    let store = open(&server).await;
    let games = games(&store).await;
    for document in 0..DOCUMENTS {
        let id = verbs::document(document);
        let found = games.find_one(&id).await.unwrap().unwrap();
        assert_eq!((found.version, &found.body["n"]), (1 + WRITES, &json!(WRITES)), "{fault:?}");
        let changes = games.changes(&id, 0, 1_000).await.unwrap().changes;
        assert!(changes.iter().map(|change| change.version).eq(1..=found.version), "{fault:?}");
    }
    assert!(shared.commands > 0, "none was shared");
    println!("{fault:?}: {} faults, {shared:?}", proxy.faults.load(Ordering::Relaxed));
}

async fn each_write_is_applied_once(fault: Fault) {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 40;
    let server = TestServer::own();
    let port = server.port();
    // Prepared without faults.
    open(&server).await.close().await.unwrap();
    let mut proxy = Proxy::start(port, fault, 7).await;
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
        tokio::time::timeout(WRITES_TIME_MAX, writer).await.expect("its writes end").unwrap();
    }
    proxy.end().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_write_that_arrives_just_before_it_is_sent_again_is_applied_once() {
    each_write_is_applied_once(Fault::JustBeforeTheNext).await;
}
