//! What the last writer left is written upon without a reading, and never written over.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nodestorage::{
    Body, Edited, MongoOptions, MongoStorage, MongoStore, Storage, StorageError, StorageExt, Upserted,
    mongo::{
        driver::{
            Collection,
            bson::{Document, doc},
        },
        testing::TestServer,
    },
};
use serde_json::json;

use super::{PATIENCE, body, by, games, id, open, options, proxy};

async fn count_up(games: &MongoStorage) -> u64 {
    let increment = |body: &mut Body| {
        body["n"] = json!(body["n"].as_u64().unwrap() + 1);
        Ok::<_, Infallible>(())
    };
    let edited = games.edit(&id("a"), increment, by("server")).await.unwrap();
    let Edited::Changed { document, .. } = edited else { panic!("{edited:?}") };
    document.body["n"].as_u64().unwrap()
}

/// Counts up until that takes no reading: the change stream is open.
async fn count_up_until_heard(games: &MongoStorage, reads: &AtomicU64) -> u64 {
    let heard = async {
        loop {
            let before = reads.load(Ordering::Relaxed);
            let n = count_up(games).await;
            if reads.load(Ordering::Relaxed) == before {
                return n;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("the listener listens")
}

/// A store, and how often it has read a game.
async fn counted(server: &TestServer, listen: bool) -> (MongoStore, Arc<AtomicU64>) {
    counted_with(server, listen, &Arc::default()).await
}

/// The same, with a log that refuses everything for as long as it is told to.
async fn counted_with(
    server: &TestServer,
    listen: bool,
    failing: &Arc<AtomicBool>,
) -> (MongoStore, Arc<AtomicU64>) {
    let (reads, failing) = (Arc::new(AtomicU64::new(0)), Arc::clone(failing));
    let counting = Arc::clone(&reads);
    let manner = move |command: &Document| {
        if command.get_str("insert").is_ok_and(|name| name == "events") && failing.load(Ordering::Relaxed) {
            return Some(proxy::refusal(14_031, "the disk is full"));
        }
        let one = command.get_document("filter").is_ok_and(|filter| filter.get_str("_id").is_ok());
        if one && command.get_str("find").is_ok_and(|name| name == "games") {
            counting.fetch_add(1, Ordering::Relaxed);
        }
        None
    };
    let port = proxy::start(server.port(), manner).await;
    let options = MongoOptions { listen, ..options(server) };
    (MongoStore::connect(&TestServer::uri_at(port), options).await.unwrap(), reads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_writer_does_not_read_what_its_process_has_left() {
    let server = TestServer::own();
    let (store, reads) = counted(&server, true).await;
    let first = games(&store).await;
    let other = open(&server).await;
    let second = games(&other).await;
    let made = first.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("server")).await.unwrap();
    assert!(matches!(made, Upserted::Created { .. }));
    let n = count_up_until_heard(&first, &reads).await;
    let before = reads.load(Ordering::Relaxed);
    for more in 1..=40 {
        assert_eq!(count_up(&first).await, n + more);
    }
    assert_eq!(reads.load(Ordering::Relaxed), before, "it was all written here");
    // What another process writes is found by the write that does not fit, and read.
    for round in 0..10 {
        let n = n + 41 + 3 * round;
        assert_eq!(count_up(&second).await, n);
        assert_eq!((count_up(&first).await, count_up(&first).await), (n + 1, n + 2));
    }
    assert!(reads.load(Ordering::Relaxed) > before);
    let changes = first.changes(&id("a"), 0, 1_000).await.unwrap().changes;
    assert!(changes.iter().map(|change| change.version).eq(1..=n + 71));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn where_nobody_listens_nothing_is_remembered() {
    let server = TestServer::own();
    let (store, reads) = counted(&server, false).await;
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("server")).await.unwrap();
    for n in 1..=5 {
        let before = reads.load(Ordering::Relaxed);
        assert_eq!(count_up(&games).await, n);
        assert_eq!(reads.load(Ordering::Relaxed), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_another_program_writes_meanwhile_is_not_written_over() {
    let server = TestServer::own();
    let (store, reads) = counted(&server, true).await;
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({"n": 0, "x": [1]})), by("server")).await.unwrap();
    let n = count_up_until_heard(&games, &reads).await;
    let direct = games.native().unwrap().downcast_ref::<Collection<Document>>().unwrap().clone();
    // Each time the edit begins from what the last edit left, and must see what came between.
    let between = [
        (doc! {"$set": {"n": n as i64 + 10}}, json!({"n": n + 11, "x": [1], "y": 1})),
        (doc! {"$set": {"x.0": 2}}, json!({"n": n + 12, "x": [2], "y": 2})),
        (doc! {"$unset": {"x": ""}}, json!({"n": n + 13, "y": 3})),
        (doc! {"$unset": {"y": ""}}, json!({"n": n + 14, "y": 1})),
        (doc! {"$set": {"z": 1}}, json!({"n": n + 15, "y": 2, "z": 2})),
    ];
    for (update, expected) in between {
        direct.update_one(doc! {"_id": "a"}, update).await.unwrap();
        let edit = |body: &mut Body| {
            let up =
                |body: &Body, name: &str| json!(body.get(name).and_then(|n| n.as_u64()).unwrap_or(0) + 1);
            body["n"] = up(body, "n");
            let y = up(body, "y");
            body.insert("y".to_owned(), y);
            if expected.get("z").is_some() {
                // Where a field is made, none may have been.
                let z = up(body, "z");
                body.insert("z".to_owned(), z);
            }
            Ok::<_, Infallible>(())
        };
        games.edit(&id("a"), edit, by("server")).await.unwrap();
        let found = games.find_one(&id("a")).await.unwrap().unwrap();
        assert_eq!(*found.body, body(expected));
    }
    // The listener, or a writer, puts all of it into the history.
    let expected = Some(body(json!({"n": n + 15, "y": 2, "z": 2})));
    let recorded = async {
        loop {
            let mut state = None;
            for (change, version) in games.changes(&id("a"), 0, 1_000).await.unwrap().changes.iter().zip(1..)
            {
                assert_eq!(change.version, version);
                state = change.diff.apply(state).unwrap();
            }
            if state == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, recorded).await.expect("the history makes the document");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn no_answer_is_given_by_what_is_remembered() {
    let server = TestServer::own();
    let (store, reads) = counted(&server, true).await;
    let first = games(&store).await;
    let other = open(&server).await;
    let second = games(&other).await;
    first.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("server")).await.unwrap();

    // A version that only the other process knows is no conflict.
    let n = count_up_until_heard(&first, &reads).await;
    assert_eq!(count_up(&second).await, n + 1);
    let increment = |body: &mut Body| {
        body["n"] = json!(body["n"].as_u64().unwrap() + 1);
        Ok::<_, Infallible>(())
    };
    let mut expecting = by("server");
    expecting.expected_version = Some(n + 2);
    let edited = first.edit(&id("a"), increment, expecting.clone()).await.unwrap();
    assert!(matches!(edited, Edited::Changed { document, .. } if document.version == n + 3));
    let refused = first.edit(&id("a"), increment, expecting).await;
    assert!(matches!(refused, Err(StorageError::VersionMismatch { .. })), "{refused:?}");

    // What is left as it is, is as the other process made it; and so is what is refused.
    assert_eq!((count_up(&first).await, count_up(&second).await), (n + 3, n + 4));
    let keep = |_: &mut Body| Ok::<_, Infallible>(());
    let kept = first.edit(&id("a"), keep, by("server")).await.unwrap();
    let Edited::Unchanged { document, .. } = kept else { panic!("{kept:?}") };
    assert_eq!((document.version, &document.body["n"]), (n + 5, &json!(n + 4)));
    assert_eq!((count_up(&first).await, count_up(&second).await), (n + 5, n + 6));
    let refuse = |body: &mut Body| Err::<(), _>(std::io::Error::other(body["n"].to_string()));
    let refused = first.edit(&id("a"), refuse, by("server")).await.unwrap_err();
    assert!(
        matches!(&refused, StorageError::Edit(error) if error.to_string() == (n + 6).to_string()),
        "{refused:?}"
    );

    // Deleted and made again elsewhere.
    assert_eq!(count_up(&first).await, n + 7);
    second.delete_one(&id("a"), by("server")).await.unwrap();
    let gone = first.edit(&id("a"), increment, by("server")).await;
    assert!(matches!(gone, Err(StorageError::NotFound { .. })), "{gone:?}");
    second.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("server")).await.unwrap();
    assert_eq!(count_up(&first).await, 1);
}

/// A write upon what is remembered leaves all that the store keeps in the document.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_mark_that_another_process_has_left_meanwhile_is_not_written_over() {
    let server = TestServer::own();
    let (store, reads) = counted(&server, true).await;
    let first = games(&store).await;
    let other = open(&server).await;
    let second = games(&other).await;
    first.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("server")).await.unwrap();
    let n = count_up_until_heard(&first, &reads).await;
    for round in 1..=3 {
        first.position().await.unwrap();
        assert_eq!(count_up(&first).await, n + 2 * round - 1);
        // Counted, and it changes nothing.
        let keep = |_: &mut Body| Ok::<_, Infallible>(());
        let kept = second.edit(&id("a"), keep, super::counted("p", round)).await.unwrap();
        assert!(matches!(kept, Edited::Unchanged { .. }), "{kept:?}");
        assert_eq!(count_up(&first).await, n + 2 * round);
        let change = |body: &mut Body| {
            body.insert("twice".to_owned(), json!(true));
            Ok::<_, Infallible>(())
        };
        let repeated = second.edit(&id("a"), change, super::counted("p", round)).await.unwrap();
        assert!(matches!(repeated, Edited::Repeated { .. }), "{repeated:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_was_removed_does_not_come_back_from_what_is_remembered() {
    let server = TestServer::own();
    let failing = Arc::new(AtomicBool::new(false));
    let (store, reads) = counted_with(&server, true, &failing).await;
    let first = games(&store).await;
    let other = open(&server).await;
    let second = games(&other).await;
    first.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("server")).await.unwrap();
    let n = count_up_until_heard(&first, &reads).await;
    first.position().await.unwrap();
    let raw = other.database().collection::<Document>("games");
    let waiting = async || {
        let raw = raw.find_one(doc! {"_id": "a"}).await.unwrap().unwrap();
        raw.get_document("_weft").unwrap().get_array("outbox").unwrap().len()
    };
    failing.store(true, Ordering::Relaxed);
    for more in 1..=3 {
        assert_eq!(count_up(&first).await, n + more);
        assert_eq!(waiting().await, more as usize, "each write keeps what has no place yet");
    }
    assert_eq!(second.remove_changes(&id("a"), u64::MAX).await.unwrap(), n + 4);
    assert_eq!(count_up(&first).await, n + 4);
    assert_eq!(waiting().await, 1);
    failing.store(false, Ordering::Relaxed);
    assert_eq!(first.position().await.unwrap(), n + 5);
    let changes = first.changes(&id("a"), 0, 10).await.unwrap().changes;
    assert!(changes.iter().map(|change| change.version).eq([n + 5]));
}
