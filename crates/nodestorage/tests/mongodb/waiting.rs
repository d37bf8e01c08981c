//! What waits for its place in the log: how much may, and what becomes of it when that takes long.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nodestorage::{
    Body, Deleted, Edited, MongoOptions, MongoStorage, MongoStore, Storage, StorageExt, Upserted, WatchEvent,
    WatchFilter, WatchFrom,
    mongo::{driver::bson::doc, testing::TestServer},
};
use serde_json::json;

use super::{
    body, by,
    direct::next,
    games, id,
    meddling::{is_purged, raw},
    options,
    otherwise::{behind, log_that_fails},
    proxy,
};

async fn create(games: &MongoStorage, name: &str, text: &str) {
    let new = body(json!({"n": 0, "text": text}));
    let made = games.find_one_and_upsert(&id(name), new, by("server")).await.unwrap();
    assert!(matches!(made, Upserted::Created { .. }));
}

async fn count_up(games: &MongoStorage, name: &str) -> u64 {
    let increment = |body: &mut Body| {
        body["n"] = json!(body["n"].as_u64().unwrap() + 1);
        Ok::<_, Infallible>(())
    };
    let edited = games.edit(&id(name), increment, by("server")).await.unwrap();
    let Edited::Changed { change, .. } = edited else { panic!("{edited:?}") };
    change.version
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn so_many_bytes_wait_for_the_relay_and_no_more() {
    const BYTES_MAX: usize = 10_000;
    let server = TestServer::own();
    let failing = Arc::new(AtomicBool::new(true));
    let port = proxy::start(server.port(), log_that_fails(&failing)).await;
    let store = behind(port, MongoOptions { queue_bytes_max: BYTES_MAX, ..options(&server) }).await;
    let games = games(&store).await;
    // A creation says its body twice, as both patches.
    create(&games, "a", &"x".repeat(BYTES_MAX / 2 - 400)).await;
    create(&games, "b", "under the bound still").await;
    create(&games, "c", &"x".repeat(BYTES_MAX)).await;
    let refused = games.find_one_and_upsert(&id("d"), body(json!({})), by("server")).await.unwrap_err();
    assert!(refused.to_string().contains("the disk is full"), "{refused}");
    assert_eq!(games.find_one(&id("d")).await.unwrap(), None);
    failing.store(false, Relaxed);
    create(&games, "d", "").await;
    assert_eq!(games.position().await.unwrap(), 4);
}

/// Two processes. One can write documents and not the log, for hours; the other places what the first has written, removes it, and lets
/// go of its places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_waited_for_long_is_not_placed_a_second_time() {
    const HOUR_MS: u64 = 60 * 60 * 1_000;
    let server = TestServer::own();
    let time = Arc::new(AtomicU64::new(1_767_225_600_000));
    let timed = || {
        let time = Arc::clone(&time);
        let clock = Arc::new(move || time.load(Relaxed));
        MongoOptions { clock, listen: false, tombstones_kept: Duration::ZERO, ..options(&server) }
    };
    let failing = Arc::new(AtomicBool::new(true));
    let port = proxy::start(server.port(), log_that_fails(&failing)).await;
    let cut_off = behind(port, timed()).await;
    let other = MongoStore::connect(server.uri(), timed()).await.unwrap();
    let (here, there) = (games(&cut_off).await, games(&other).await);
    for name in ["a", "gone"] {
        create(&here, name, "").await;
    }
    assert_eq!(count_up(&here, "a").await, 2);
    // Only this one has no place in the end.
    create(&here, "left", "").await;

    assert_eq!(count_up(&there, "a").await, 3);
    let deleted = there.delete_one(&id("gone"), by("server")).await.unwrap();
    assert!(matches!(deleted, Deleted::Deleted { .. }));
    assert_eq!(there.position().await.unwrap(), 5);
    assert_eq!(there.remove_changes(&id("a"), 2).await.unwrap(), 2);
    assert_eq!(there.remove_changes(&id("gone"), 2).await.unwrap(), 2);
    create(&there, "b", "").await;
    assert_eq!(there.position().await.unwrap(), 6);
    time.fetch_add(2 * HOUR_MS, Relaxed);
    is_purged(&raw(&server, "games").await, "gone").await;
    assert_eq!(there.remove_changes(&id("a"), 3).await.unwrap(), 1);
    time.fetch_add(2 * HOUR_MS, Relaxed);
    there.remove_changes(&id("a"), 3).await.unwrap();
    let log = raw(&server, "events").await;
    assert_eq!(log.count_documents(doc! {"position": {"$lt": 6}}).await.unwrap(), 0, "their places are gone");

    let mut watch = there.watch(WatchFilter::default(), WatchFrom::After(6)).await.unwrap();
    failing.store(false, Relaxed);
    assert_eq!(here.position().await.unwrap(), 7);
    create(&here, "new", "").await;
    for (name, version) in [("left", 1), ("new", 1)] {
        let WatchEvent::Change(change) = next(&mut watch).await else { panic!("it is told of a change") };
        assert_eq!((&change.document_id, change.version), (&id(name), version));
    }
    let again = log.count_documents(doc! {"documentId": {"$in": ["a", "gone"]}}).await.unwrap();
    assert_eq!(again, 0, "what was removed is back");
}
