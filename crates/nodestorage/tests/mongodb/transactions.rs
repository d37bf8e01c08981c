//! `kill -9` in the middle of transactions over several documents: each is there whole or not at all.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use nodestorage::{
    Body, MongoStorage, MongoStore, Storage, StorageError, StorageExt, StorageOptions, Store, Update,
    Upserted,
    mongo::{
        driver::bson::{Document, doc},
        testing::{Lines, TestServer},
    },
};
use serde_json::json;

use super::{PATIENCE, by, id, open, options, proxy};

const ROUNDS: u64 = 12;
const WRITERS: u64 = 3;
const PURSES: u64 = 3;
const GOLD: i64 = 1_000;

/// In these variables a writer finds its server and database.
const WRITER: [&str; 2] = ["WEFT_MONGO_TRADER_URI", "WEFT_MONGO_TRADER_DATABASE"];

fn purse(n: u64) -> String {
    format!("purse {}", n % PURSES)
}

async fn purses(store: &nodestorage::MongoStore) -> MongoStorage {
    // They meet all the time.
    let options = StorageOptions { retries_max: 1_000, ..StorageOptions::default() };
    store.collection("purses", options).await.unwrap()
}

/// Moves gold from one purse to another and counts it in the writer's own book, as one.
async fn trade(purses: &MongoStorage, writer: u64, nth: u64) -> Result<(), StorageError> {
    let (from, to) = (&id(&purse(writer + nth)), &id(&purse(writer + nth + 1 + nth % 2)));
    let book = &id(&format!("book {writer}"));
    let update = |change: serde_json::Value| Update::parse(&change).unwrap();
    let (give, take) = (&update(json!({"$inc": {"gold": -3}})), &update(json!({"$inc": {"gold": 3}})));
    let note = &update(json!({"$set": {"trades": nth}}));
    let name = &format!("w{writer}");
    let traded = purses.transact(|of| {
        Box::pin(async move {
            of.update_one(from, give, by(name)).await?;
            of.update_one(to, take, by(name)).await?;
            of.update_one(book, note, by(name)).await?;
            Ok(())
        })
    });
    traded.await.map(|changes| assert_eq!(changes.len(), 3))
}

async fn trades(purses: &MongoStorage, writer: u64) -> u64 {
    let book = purses.find_one(&id(&format!("book {writer}"))).await.unwrap().unwrap();
    book.body["trades"].as_u64().unwrap()
}

/// The writer of the test, a process of its own. By itself it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn trader_process() {
    let Ok(uri) = std::env::var(WRITER[0]) else { return };
    let database = Some(std::env::var(WRITER[1]).unwrap());
    let options = nodestorage::MongoOptions { database, ..Default::default() };
    let store = nodestorage::MongoStore::connect(&uri, options).await.unwrap();
    let purses = purses(&store).await;
    let mut traders = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let purses = purses.clone();
        traders.spawn(async move {
            let mut done = trades(&purses, writer).await;
            loop {
                if trade(&purses, writer, done + 1).await.is_err() {
                    // Its book says what became of a trade whose answer was lost.
                    done = trades(&purses, writer).await;
                    continue;
                }
                done += 1;
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {writer} {done}").unwrap();
                out.flush().unwrap();
            }
        });
    }
    traders.join_all().await;
    // The one that is waited for is the kill.
    std::future::pending::<()>().await;
}

fn start_trader(server: &TestServer) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["transactions::trader_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(WRITER[0], server.uri()).env(WRITER[1], server.database());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().unwrap()
}

/// All gold is there, every document is what its events make, and the log has every position once.
async fn check(store: &nodestorage::MongoStore, acknowledged: &[u64]) {
    let purses = purses(store).await;
    let mut gold = 0;
    let mut positions = BTreeSet::new();
    let books = (0..WRITERS).map(|writer| format!("book {writer}"));
    for name in (0..PURSES).map(purse).chain(books) {
        let document = purses.find_one(&id(&name)).await.unwrap().unwrap();
        gold += document.body.get("gold").map_or(0, |gold| gold.as_i64().unwrap());
        let (mut state, mut version) = (None, 0);
        loop {
            let page = purses.changes(&id(&name), version, 500).await.unwrap();
            for change in page.changes {
                version += 1;
                assert_eq!(change.version, version, "{name}: a number twice, or a gap");
                assert!(positions.insert(change.position), "{name}@{version}: a position twice");
                state = change.diff.apply(state).unwrap();
            }
            if !page.more {
                break;
            }
        }
        assert_eq!((document.version, Some(&*document.body)), (version, state.as_ref()), "{name}");
    }
    assert_eq!(gold, GOLD * PURSES as i64, "half of a transaction is there");
    assert!(positions.into_iter().eq(1..=purses.position().await.unwrap()), "the log has a gap");
    for (writer, acknowledged) in acknowledged.iter().enumerate() {
        let done = trades(&purses, writer as u64).await;
        assert!(done >= *acknowledged, "writer {writer}: {acknowledged} were acknowledged, {done} are there");
        assert!(done <= acknowledged + ROUNDS, "writer {writer}: {done} are there, of {acknowledged}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_transaction_is_whole_or_not_at_all_after_a_kill() {
    let mut server = TestServer::own();
    let store = open(&server).await;
    let start = purses(&store).await;
    for n in 0..PURSES {
        let body = Body::from_iter([("gold".to_owned(), json!(GOLD))]);
        let made = start.find_one_and_upsert(&id(&purse(n)), body, by("bank")).await.unwrap();
        assert!(matches!(made, Upserted::Created { .. }));
    }
    for writer in 0..WRITERS {
        let body = Body::from_iter([("trades".to_owned(), json!(0))]);
        start.find_one_and_upsert(&id(&format!("book {writer}")), body, by("bank")).await.unwrap();
    }
    store.close().await.unwrap();
    let mut acknowledged = vec![0; WRITERS as usize];
    for round in 0..ROUNDS {
        let mut trader = start_trader(&server);
        let lines = Lines::of(trader.stdout.take().unwrap());
        let wanted = 1 + round * 5 % 23;
        let mut seen = 0;
        while let Some(line) = lines.next_within(PATIENCE) {
            let Some(at) = line.find("ack ") else { continue };
            let numbers: Vec<u64> = line[at + 4..].split(' ').map(|n| n.parse().unwrap()).collect();
            acknowledged[numbers[0] as usize] = numbers[1];
            seen += 1;
            if seen == wanted {
                // The server first in every other round; in the others it ends what the writer has left open.
                if round % 2 == 0 {
                    server.crash();
                }
                trader.kill().unwrap();
            }
        }
        trader.wait().unwrap();
        if round % 2 == 1 {
            server.crash();
        }
        let store = open(&server).await;
        tokio::time::timeout(PATIENCE, check(&store, &acknowledged)).await.expect("in time");
        store.close().await.unwrap();
    }
    println!("{ROUNDS} crashes, {acknowledged:?} acknowledged transactions");
    assert!(acknowledged.iter().sum::<u64>() > ROUNDS * 2, "hardly anything was done: {acknowledged:?}");
}

/// Each of two transactions finds that a document is not there, and so creates the other one. Of one of them that is no
/// more true when it is written, although all that it writes to is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs secantusd"]
async fn what_a_transaction_found_absent_is_absent_when_it_is_written() {
    let server = TestServer::own();
    let first = open(&server).await;
    // The second one is held up between its readings and its writes.
    let (reads, (reached, reaching)) = (AtomicU64::new(0), mpsc::channel());
    let (go_on, going_on) = mpsc::channel::<()>();
    let going_on = Mutex::new(going_on);
    let slow = move |command: &Document| {
        let within = matches!(command.get_bool("autocommit"), Ok(false));
        let of_place = command.get_document("sort").is_ok_and(|sort| *sort == doc! {"position": -1});
        if within && command.contains_key("find") {
            reads.fetch_add(1, Ordering::Relaxed);
        } else if (within || of_place) && reads.load(Ordering::Relaxed) == 2 {
            reads.store(9, Ordering::Relaxed);
            reached.send(()).unwrap();
            going_on.lock().unwrap().recv().unwrap();
        }
        None
    };
    let port = proxy::start(server.port(), slow).await;
    let second = MongoStore::connect(&TestServer::uri_at(port), options(&server)).await.unwrap();
    let (first, second) = (purses(&first).await, purses(&second).await);
    // A collection that is there.
    first.find_one_and_upsert(&id("z"), Body::new(), by("s")).await.unwrap();

    async fn unless_there(purses: &MongoStorage, absent: &str, created: &str) -> Result<(), StorageError> {
        let (absent, created) = (&id(absent), &id(created));
        let written = purses.transact(|of| {
            Box::pin(async move {
                if of.find_one(absent).await?.is_none() {
                    of.find_one_and_upsert(created, Body::new(), by("s")).await?;
                }
                Ok(())
            })
        });
        written.await.map(drop)
    }
    let late = tokio::spawn({
        let second = second.clone();
        async move { unless_there(&second, "b", "a").await }
    });
    tokio::task::spawn_blocking(move || reaching.recv_timeout(PATIENCE)).await.unwrap().unwrap();
    unless_there(&first, "a", "b").await.unwrap();
    go_on.send(()).unwrap();
    late.await.unwrap().unwrap();
    assert!(first.find_one(&id("b")).await.unwrap().is_some());
    assert_eq!(first.find_one(&id("a")).await.unwrap(), None, "both were written");

    // What stood in for the absent one is no document, and takes no number from it.
    assert_eq!((first.last_version(&id("a")).await.unwrap(), first.position().await.unwrap()), (0, 2));
    assert!(first.list_deleted(None, 9).await.unwrap().is_empty());
    let made = first.find_one_and_upsert(&id("a"), Body::new(), by("s")).await.unwrap();
    assert!(matches!(made, Upserted::Created { document, .. } if document.version == 1));
}

/// Two documents, both counted up or neither.
async fn count_both(purses: &MongoStorage) -> Result<usize, StorageError> {
    let (up, a, b) = (&Update::parse(&json!({"$inc": {"n": 1}})).unwrap(), &id("a"), &id("b"));
    let written = purses.transact(|of| {
        Box::pin(async move {
            of.update_one(a, up, by("s")).await?;
            of.update_one(b, up, by("s")).await?;
            Ok(())
        })
    });
    written.await.map(|changes| changes.len())
}

async fn two_at_zero(store: &MongoStore) -> MongoStorage {
    let purses = purses(store).await;
    for name in ["a", "b"] {
        let body = Body::from_iter([("n".to_owned(), json!(0))]);
        purses.find_one_and_upsert(&id(name), body, by("s")).await.unwrap();
    }
    purses
}

async fn counts(purses: &MongoStorage) -> [i64; 2] {
    let mut counts = [0, 0];
    for (count, name) in counts.iter_mut().zip(["a", "b"]) {
        *count = purses.find_one(&id(name)).await.unwrap().unwrap().body["n"].as_i64().unwrap();
    }
    counts
}

/// A server that carries the first commit out, and answers that this is not known; then it knows nothing of the transaction.
struct ForgetsCommits {
    commits: AtomicU64,
    answers: AtomicU64,
}

impl proxy::Manner for ForgetsCommits {
    fn answer(&self, command: &Document) -> Option<Document> {
        if !command.contains_key("commitTransaction") {
            return None;
        }
        if self.commits.fetch_add(1, Ordering::Relaxed) == 0 {
            self.answers.store(1, Ordering::Relaxed);
            return None;
        }
        let mut forgotten = proxy::refusal(251, "there is no such transaction");
        forgotten.insert("errorLabels", ["TransientTransactionError"].to_vec());
        Some(forgotten)
    }

    fn change(&self, reply: Document) -> Document {
        let is_plain = !["cursor", "n", "value", "lastErrorObject", "setName", "isWritablePrimary"]
            .iter()
            .any(|name| reply.contains_key(name));
        if is_plain && self.answers.swap(0, Ordering::Relaxed) == 1 {
            let mut lost = proxy::refusal(50, "it took too long");
            lost.insert("errorLabels", ["UnknownTransactionCommitResult"].to_vec());
            return lost;
        }
        reply
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_transaction_that_was_committed_is_not_run_again_because_its_server_has_forgotten_it() {
    let server = TestServer::own();
    let manner = ForgetsCommits { commits: AtomicU64::new(0), answers: AtomicU64::new(0) };
    let port = proxy::start(server.port(), manner).await;
    let store = MongoStore::connect(&TestServer::uri_at(port), options(&server)).await.unwrap();
    let purses = two_at_zero(&store).await;
    assert_eq!(count_both(&purses).await.unwrap(), 2);
    assert_eq!(counts(&purses).await, [1, 1]);
    assert_eq!(purses.position().await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_transaction_whose_commit_can_not_be_asked_for_is_not_known() {
    let server = TestServer::own();
    let port = proxy::start(server.port(), |command: &Document| {
        command.contains_key("commitTransaction").then(|| {
            let mut unknown = proxy::refusal(50, "it took too long");
            unknown.insert("errorLabels", ["UnknownTransactionCommitResult"].to_vec());
            unknown
        })
    });
    let store = MongoStore::connect(&TestServer::uri_at(port.await), options(&server)).await.unwrap();
    let purses = two_at_zero(&store).await;
    let unknown = count_both(&purses).await.unwrap_err();
    assert!(matches!(unknown, StorageError::OutcomeUnknown { .. }), "{unknown:?}");
    assert!(unknown.is_retryable() && unknown.to_string().contains("is not known"), "{unknown}");
    assert_eq!(counts(&purses).await, [0, 0], "nothing is half done");
}
