//! What a listener meets besides writes: streams that end, deletes that no stream tells of, others that died.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::TryStreamExt;
use nodestorage::{
    MongoOptions, MongoStore, Operation, Storage, StorageOptions, Store, WatchEvent, WatchFilter, WatchFrom,
    mongo::{
        driver::{
            Collection,
            bson::{Document as Bsons, doc},
        },
        testing::TestServer,
    },
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    PATIENCE, body, by,
    direct::{check, direct, next, next_direct},
    games, id,
    meddling::raw,
    open, options,
    otherwise::{behind, log_that_fails, without_streams},
    proxy::{self, Manner},
};

/// Ends the change stream of `games`, once, when it is told to: as the server does after a drop.
struct EndsAStream(Arc<AtomicBool>);

impl Manner for EndsAStream {
    fn answer(&self, _: &Bsons) -> Option<Bsons> {
        None
    }

    fn change(&self, mut reply: Bsons) -> Bsons {
        if let Ok(cursor) = reply.get_document_mut("cursor")
            && cursor.contains_key("nextBatch")
            && cursor.get_str("ns").is_ok_and(|ns| ns.ends_with(".games"))
            && self.0.swap(false, Ordering::Relaxed)
        {
            cursor.insert("id", 0_i64);
            cursor.insert("nextBatch", Vec::<Bsons>::new());
        }
        reply
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_stream_that_has_ended_is_opened_again() {
    let server = TestServer::own();
    let ends = Arc::new(AtomicBool::new(false));
    let port = proxy::start(server.port(), EndsAStream(Arc::clone(&ends))).await;
    let store = behind(port, options(&server)).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    let other = direct(&games);
    other.insert_one(doc! {"_id": "a", "n": 1}).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.document_id, id("a"));
    ends.store(true, Ordering::Relaxed);
    timeout(PATIENCE, async {
        while ends.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the stream ends");
    // What it would have told is not known any more.
    other.insert_one(doc! {"_id": "b", "n": 1}).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Missed { .. } | WatchEvent::Change(_)));
    other.insert_one(doc! {"_id": "c", "n": 1}).await.unwrap();
    while next_direct(&mut watch).await.document_id != id("c") {}
    check(&games, "b").await;
    timeout(PATIENCE, store.close()).await.expect("it closes").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_document_as_large_as_the_server_takes_ends_no_stream() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    let other = direct(&games);
    other.insert_one(doc! {"_id": "a", "n": 1}).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.document_id, id("a"));
    // What tells of it holds all of it and more. No event fits beside it, so it is not recorded.
    let large = |name: &str| doc! {"_id": name, "text": "x".repeat((16 << 20) - 64)};
    other.insert_one(large("b")).await.unwrap();
    other.replace_one(doc! {"_id": "b"}, large("b")).await.unwrap();
    other.insert_one(doc! {"_id": "c", "n": 1}).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.document_id, id("c"));
}

/// Without it the whole collection would be compared with the log, which finds the same and takes as long as there are documents.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_listener_goes_on_from_its_token() {
    let server = TestServer::own();
    let store = open(&server).await;
    let first = games(&store).await;
    for name in ["a", "b"] {
        first.find_one_and_upsert(&id(name), body(json!({})), by("s")).await.unwrap();
    }
    let tokens: Collection<Bsons> = raw(&server, "_weft.listeners").await;
    timeout(PATIENCE, async {
        while tokens.find_one(doc! {"_id": "games"}).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the token is kept");
    store.close().await.unwrap();
    let other = raw(&server, "games").await;
    for is_lost in [false, true] {
        other.update_one(doc! {"_id": "a"}, doc! {"$inc": {"n": 1}}).await.unwrap();
        if is_lost {
            let lost = doc! {"$set": {"token": {"_data": "8200000001000000012B0229296E04"}}};
            tokens.update_one(doc! {"_id": "games"}, lost).await.unwrap();
        }
        let walks = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&walks);
        let port = proxy::start(server.port(), move |command: &Bsons| {
            let of_all = command.get_document("filter").is_ok_and(Bsons::is_empty);
            if of_all && command.get_str("find").is_ok_and(|name| name == "games") {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            None
        });
        let store = behind(port.await, options(&server)).await;
        let games = games(&store).await;
        let position = WatchFrom::After(if is_lost { 3 } else { 2 });
        let mut watch = games.watch(WatchFilter::default(), position).await.unwrap();
        let change = next_direct(&mut watch).await;
        let missed = change.metadata.get("missed").is_some();
        assert_eq!((change.document_id, missed), (id("a"), is_lost));
        assert_eq!(walks.load(Ordering::Relaxed) > 0, is_lost, "it looked at all documents");
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_direct_delete_is_told_where_no_stream_tells_it() {
    let server = TestServer::own();
    let port = proxy::start(server.port(), without_streams).await;
    let looks = MongoOptions { poll_interval: Duration::from_millis(20), ..options(&server) };
    let store = behind(port, looks).await;
    let soon = StorageOptions { watch_poll_interval: Duration::from_millis(20), ..StorageOptions::default() };
    let games = store.collection("games", soon).await.unwrap();
    for name in ["a", "b", "c"] {
        games.find_one_and_upsert(&id(name), body(json!({})), by("s")).await.unwrap();
    }
    games.delete_one(&id("c"), by("s")).await.unwrap();
    let position = games.position().await.unwrap();
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(position)).await.unwrap();
    direct(&games).delete_one(doc! {"_id": "b"}).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.document_id, change.version, change.operation), (id("b"), 2, Operation::Delete));
    check(&games, "b").await;
    // Once, and of no other.
    games.find_one_and_upsert(&id("d"), body(json!({})), by("s")).await.unwrap();
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("a change") };
    assert_eq!(change.document_id, id("d"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_direct_delete_is_told_after_the_history_was_lost() {
    let server = TestServer::start();
    let store = open(&server).await;
    let first = games(&store).await;
    for name in ["a", "b"] {
        first.find_one_and_upsert(&id(name), body(json!({})), by("s")).await.unwrap();
    }
    store.close().await.unwrap();
    // The name of one, not of the other, is still on its way from the log's point of view.
    let client = MongoStore::connect(server.uri(), MongoOptions { listen: false, ..options(&server) });
    let client = client.await.unwrap();
    let raw: Collection<Bsons> = client.database().collection("games");
    raw.delete_one(doc! {"_id": "b"}).await.unwrap();
    let lost = doc! {"$set": {"token": {"_data": "8200000001000000012B0229296E04"}}};
    let tokens: Collection<Bsons> = client.database().collection("_weft.listeners");
    tokens.update_one(doc! {"_id": "games"}, lost).upsert(true).await.unwrap();

    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(2)).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.document_id, change.operation), (id("b"), Operation::Delete));
    assert_eq!(change.metadata.get("missed"), Some(&json!(true)));
    assert_eq!(next(&mut watch).await, WatchEvent::Missed { resume_after: 4 });
    check(&games, "b").await;
}

/// As by a backup of the log that is put back while the store is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn who_watches_is_told_that_the_log_was_put_back() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    for name in ["a", "b", "c", "d", "e", "f"] {
        games.find_one_and_upsert(&id(name), body(json!({})), by("s")).await.unwrap();
        assert!(
            matches!(next(&mut watch).await, WatchEvent::Change(change) if change.document_id == id(name))
        );
    }
    let log = raw(&server, "events").await;
    let first = log.find(doc! {"position": {"$lte": 3}}).sort(doc! {"position": 1});
    let first: Vec<Bsons> = first.await.unwrap().try_collect().await.unwrap();
    log.drop().await.unwrap();
    log.insert_many(first).await.unwrap();
    let WatchEvent::Missed { resume_after } = next(&mut watch).await else {
        panic!("it goes on as if nothing was")
    };
    assert!(resume_after <= 3, "{resume_after}");
    // What comes takes the place behind the last that is there now.
    games.find_one_and_upsert(&id("g"), body(json!({})), by("s")).await.unwrap();
    loop {
        if let WatchEvent::Change(change) = next(&mut watch).await
            && change.document_id == id("g")
        {
            assert_eq!(change.position, 4);
            break;
        }
    }
    assert_eq!(games.position().await.unwrap(), 4);
}

/// Also to those who watched before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_a_crash_leaves_later_is_told_where_nobody_listens() {
    let server = TestServer::own();
    let poll_interval = Duration::from_millis(20);
    let deaf = || MongoOptions { listen: false, poll_interval, ..options(&server) };
    let store = MongoStore::connect(server.uri(), deaf()).await.unwrap();
    let watching = games(&store).await;
    let mut watch = watching.watch(WatchFilter::default(), WatchFrom::After(0)).await.unwrap();
    let failing = Arc::new(AtomicBool::new(true));
    let port = proxy::start(server.port(), log_that_fails(&failing)).await;
    let crashed = behind(port, deaf()).await;
    games(&crashed).await.find_one_and_upsert(&id("a"), body(json!({})), by("s")).await.unwrap();
    drop(crashed);
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("no change") };
    assert_eq!((change.document_id.as_str(), change.version, change.position), ("a", 1, 1));
}
