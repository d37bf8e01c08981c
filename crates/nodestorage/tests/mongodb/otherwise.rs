//! Servers that are set up otherwise, and answers that hardly ever come: by a proxy that gives them in the server's place.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use nodestorage::{
    Body, Edited, MongoOptions, MongoStorage, MongoStore, Storage, StorageError, StorageExt, StorageOptions,
    Store, Upserted, Watch, WatchEvent, WatchFilter, WatchFrom,
    mongo::{
        INSIDE_FAILURES_MAX, OUTBOX_MAX, SHUTDOWN_TIME_MAX,
        driver::bson::{Bson, Document, doc},
        testing::TestServer,
    },
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    PATIENCE, body, by, games, id, open, options,
    proxy::{self, Manner, refusal},
    store,
};

/// A server that is no member of a replica set, as mongod is when it is started without `--replSet`.
struct Standalone;

impl Manner for Standalone {
    fn answer(&self, command: &Document) -> Option<Document> {
        if command.contains_key("txnNumber") {
            let reason = "Transaction numbers are only allowed on a replica set member or mongos";
            return Some(refusal(20, reason));
        }
        without_streams(command)
    }

    fn change(&self, mut reply: Document) -> Document {
        for name in ["setName", "setVersion", "hosts", "primary", "me", "electionId", "secondary"] {
            reply.remove(name);
        }
        reply
    }
}

pub(super) fn without_streams(command: &Document) -> Option<Document> {
    let first = command.get_array("pipeline").ok()?.first()?.as_document()?;
    let reason = "The $changeStream stage is only supported on replica sets";
    first.contains_key("$changeStream").then(|| refusal(40_573, reason))
}

/// As of a role that may read and write, and no more.
fn streams_are_forbidden(command: &Document) -> Option<Document> {
    without_streams(command).map(|_| refusal(13, "not authorized on games to execute command aggregate"))
}

/// A store whose commands go by a proxy.
pub(super) async fn behind(port: u16, options: MongoOptions) -> MongoStore {
    MongoStore::connect(&TestServer::uri_at(port), options).await.unwrap()
}

async fn next(watch: &mut Watch) -> WatchEvent {
    timeout(PATIENCE, watch.next()).await.expect("an event in time").expect("no end").unwrap()
}

async fn count_up(games: &MongoStorage, name: &str) -> Result<Edited, StorageError> {
    let increment = |body: &mut Body| {
        body["n"] = json!(body["n"].as_u64().unwrap() + 1);
        Ok::<_, Infallible>(())
    };
    games.edit(&id(name), increment, by("server")).await
}

async fn create(games: &MongoStorage, name: &str) {
    let made = games.find_one_and_upsert(&id(name), body(json!({"n": 0})), by("server")).await.unwrap();
    assert!(matches!(made, Upserted::Created { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn who_may_open_no_change_stream_looks_for_itself() {
    let server = TestServer::own();
    let port = proxy::start(server.port(), streams_are_forbidden).await;
    let interval = Duration::from_millis(20);
    let store = behind(port, MongoOptions { poll_interval: interval, ..options(&server) }).await;
    let watched = StorageOptions { watch_poll_interval: interval, ..StorageOptions::default() };
    let watching = store.collection("games", watched).await.unwrap();
    let mut watch = watching.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    let other = open(&server).await;
    create(&games(&other).await, "a").await;
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("no change") };
    assert_eq!(change.document_id.as_str(), "a");
    other.close().await.unwrap();
    store.database().collection::<Document>("games").insert_one(doc! {"_id": "b"}).await.unwrap();
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("no change") };
    assert_eq!(change.producer.client_id.as_str(), nodestorage::mongo::DIRECT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn without_change_streams_a_watch_looks_for_itself() {
    let server = TestServer::own();
    let port = server.port();
    let looks = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let mut stores = Vec::new();
    for (looks, interval) in looks.iter().zip([Duration::from_millis(20), Duration::from_secs(3_600)]) {
        let looks = Arc::clone(looks);
        let counted = move |command: &Document| {
            let sort = command.get_document("sort").ok();
            let of_events = command.get_str("find").is_ok_and(|name| name == "events");
            if of_events && sort.is_some_and(|sort| *sort == doc! {"position": -1}) {
                looks.fetch_add(1, Ordering::Relaxed);
            }
            without_streams(command)
        };
        let port = proxy::start(port, counted).await;
        let options = MongoOptions { poll_interval: Duration::from_millis(20), ..options(&server) };
        let store = behind(port, options).await;
        let watched = StorageOptions { watch_poll_interval: interval, ..StorageOptions::default() };
        let games = store.collection("games", watched).await.unwrap();
        stores.push((store, games));
    }
    let (_, watching) = &stores[0];
    let mut watch = watching.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();

    // What another process writes, and then what another program writes directly.
    let other = open(&server).await;
    let writing = games(&other).await;
    create(&writing, "a").await;
    for _ in 0..20 {
        count_up(&writing, "a").await.unwrap();
    }
    for version in 1..=21 {
        let WatchEvent::Change(change) = next(&mut watch).await else { panic!("no change") };
        assert_eq!((change.document_id.as_str(), change.version), ("a", version));
    }
    other.close().await.unwrap();
    let direct = stores[0].0.database().collection::<Document>("games");
    direct.insert_one(doc! {"_id": "b", "by": "hand"}).await.unwrap();
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("no change") };
    assert_eq!((change.document_id.as_str(), change.version), ("b", 1));
    assert_eq!(change.producer.client_id.as_str(), nodestorage::mongo::DIRECT);

    // The option says how often.
    let before = [&looks[0], &looks[1]].map(|looks| looks.load(Ordering::Relaxed));
    let looked = async {
        while looks[0].load(Ordering::Relaxed) < before[0] + 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, looked).await.expect("it looks often");
    // Not by the clock; the other store may still be moving an event.
    assert!(looks[1].load(Ordering::Relaxed) < before[1] + 5, "an hour has not passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_standalone_server_does_all_but_transactions_and_says_so() {
    let server = TestServer::own();
    let port = server.port();
    let store = behind(proxy::start(port, Standalone).await, options(&server)).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    create(&games, "a").await;
    count_up(&games, "a").await.unwrap();
    games.delete_one(&id("a"), by("server")).await.unwrap();
    for version in 1..=3 {
        let WatchEvent::Change(change) = next(&mut watch).await else { panic!("no change") };
        assert_eq!(change.version, version);
    }
    let failed = games
        .transact(|t| {
            Box::pin(async move {
                t.find_one_and_upsert(&id("b"), body(json!({})), by("server")).await?;
                Ok(())
            })
        })
        .await
        .unwrap_err();
    let message = "a transaction on a server that is no member of a replica set is not supported by MongoDB";
    assert_eq!(failed.to_string(), message);
    assert_eq!(games.find_one(&id("b")).await.unwrap(), None);
    assert_eq!(games.last_version(&id("b")).await.unwrap(), 0);
}

/// The server takes documents of 16 MiB, and the event is a part of the document.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_is_too_large_for_the_server_is_refused_and_nothing_is_applied() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    let of = |letter: &str, megabytes: usize| body(json!({"text": letter.repeat(megabytes << 20)}));
    let too_large = |error: StorageError| {
        let message = error.to_string();
        assert!(matches!(error, StorageError::InvalidDocument { .. }), "{message}");
        assert!(message.contains("more than the server takes") && message.len() < 1_000, "{message}");
    };
    too_large(games.find_one_and_upsert(&id("a"), of("a", 9), by("server")).await.unwrap_err());
    assert_eq!(games.find_one(&id("a")).await.unwrap(), None);
    assert_eq!((games.last_version(&id("a")).await.unwrap(), games.position().await.unwrap()), (0, 0));

    // Each change fits beside the document, although two of them would not: the one before makes room.
    games.find_one_and_upsert(&id("a"), of("a", 5), by("server")).await.unwrap();
    for letter in ["b", "c", "d"] {
        let write = |body: &mut Body| {
            *body = of(letter, 5);
            Ok::<_, Infallible>(())
        };
        let edited = games.edit(&id("a"), write, by("server")).await.unwrap();
        assert!(matches!(edited, Edited::Changed { .. }));
    }
    let grow = |body: &mut Body| {
        *body = of("e", 9);
        Ok::<_, Infallible>(())
    };
    too_large(games.edit(&id("a"), grow, by("server")).await.unwrap_err());
    let mut large = by("server");
    large.metadata = of("m", 15);
    large.metadata.insert("more".to_owned(), json!("m".repeat((1 << 20) - 2_000)));
    too_large(games.delete_one(&id("a"), large).await.unwrap_err());
    let kept = games.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!((kept.version, *kept.body == of("d", 5)), (4, true));
    assert_eq!(games.position().await.unwrap(), 4);

    // And the log goes on.
    games.delete_one(&id("a"), by("server")).await.unwrap();
    // Hardly more than one of them is a page.
    let (mut versions, mut more) = (Vec::new(), true);
    while more {
        let after = versions.last().copied().unwrap_or(0);
        let page = games.changes(&id("a"), after, 10).await.unwrap();
        versions.extend(page.changes.iter().map(|change| change.version));
        more = page.more;
    }
    assert!(versions.into_iter().eq(1..=5));
}

/// A log that refuses everything for as long as it is told to.
pub(super) fn log_that_fails(failing: &Arc<AtomicBool>) -> impl Manner + use<> {
    let failing = Arc::clone(failing);
    move |command: &Document| {
        let refused =
            command.get_str("insert").is_ok_and(|name| name == "events") && failing.load(Ordering::Relaxed);
        refused.then(|| refusal(14_031, "the disk is full"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn an_outbox_takes_so_many_events_and_no_more() {
    let server = TestServer::own();
    let port = server.port();
    let failing = Arc::new(AtomicBool::new(true));
    let port = proxy::start(port, log_that_fails(&failing)).await;
    let store = behind(port, options(&server)).await;
    let games = games(&store).await;
    create(&games, "a").await;
    for _ in 1..OUTBOX_MAX {
        count_up(&games, "a").await.unwrap();
    }
    let refused = count_up(&games, "a").await.unwrap_err();
    assert!(refused.to_string().contains("the disk is full"), "{refused}");
    let found = games.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!(found.version, OUTBOX_MAX as u64);
    let raw = store.database().collection::<Document>("games").find_one(doc! {"_id": "a"}).await.unwrap();
    let raw = raw.unwrap();
    assert_eq!(raw.get_document("_weft").unwrap().get_array("outbox").unwrap().len(), OUTBOX_MAX);

    // Nothing is lost by it.
    failing.store(false, Ordering::Relaxed);
    count_up(&games, "a").await.unwrap();
    let changes = games.changes(&id("a"), 0, 1_000).await.unwrap().changes;
    assert!(changes.iter().map(|change| (change.version, change.position)).eq((1..=65).map(|n| (n, n))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn so_many_writes_wait_for_the_relay_and_no_more() {
    let server = TestServer::own();
    let port = server.port();
    let failing = Arc::new(AtomicBool::new(true));
    let port = proxy::start(port, log_that_fails(&failing)).await;
    let store = behind(port, MongoOptions { queue_max: 5, ..options(&server) }).await;
    let games = games(&store).await;
    for n in 0..5 {
        create(&games, &format!("d{n}")).await;
    }
    let refused = games.find_one_and_upsert(&id("d5"), body(json!({})), by("server")).await.unwrap_err();
    assert!(refused.to_string().contains("the disk is full"), "{refused}");
    assert_eq!(games.find_one(&id("d5")).await.unwrap(), None);
    failing.store(false, Ordering::Relaxed);
    create(&games, "d5").await;
    assert_eq!(games.position().await.unwrap(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_writer_that_always_loses_gives_up_after_so_many_tries() {
    let server = TestServer::own();
    let port = server.port();
    let (tries, claims) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (counted, claimed) = (Arc::clone(&tries), Arc::clone(&claims));
    // As when another writer was faster each time. A claim is a reading, and no try.
    let port = proxy::start(port, move |command: &Document| {
        command.contains_key("findAndModify").then(|| {
            let set = command.get_document("update").and_then(|update| update.get_document("$set"));
            let is_claim = set.is_ok_and(|set| set.keys().eq(["_weft.write"]));
            if is_claim { &claimed } else { &counted }.fetch_add(1, Ordering::Relaxed);
            doc! {"ok": 1.0, "value": Bson::Null, "lastErrorObject": {"n": 0, "updatedExisting": false}}
        })
    });
    let store = behind(port.await, options(&server)).await;
    let impatient =
        StorageOptions { retries_max: 3, retry_delay: Duration::from_millis(1), ..StorageOptions::default() };
    let games = store.collection("games", impatient).await.unwrap();
    create(&games, "a").await;
    let refused = count_up(&games, "a").await.unwrap_err();
    assert!(matches!(refused, StorageError::RetriesExhausted { attempts: 4 }), "{refused:?}");
    // Upon what the creation left there may have been one more: no try, as nothing had been read that could be lost.
    assert!((4..=5).contains(&tries.load(Ordering::Relaxed)), "{tries:?}");
    assert_eq!(claims.load(Ordering::Relaxed), 1, "it had lost three times before the last try");
    assert_eq!(games.find_one(&id("a")).await.unwrap().unwrap().version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn an_error_of_the_server_is_told_as_it_is_and_the_store_goes_on() {
    let server = TestServer::own();
    let port = server.port();
    let forbidden = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&forbidden);
    let port = proxy::start(port, move |command: &Document| {
        let refused = command.contains_key("findAndModify") && asked.load(Ordering::Relaxed);
        refused.then(|| refusal(13, "not authorized on games to execute command"))
    });
    let store = behind(port.await, options(&server)).await;
    let games = games(&store).await;
    create(&games, "a").await;
    forbidden.store(true, Ordering::Relaxed);
    let refused = count_up(&games, "a").await.unwrap_err();
    let StorageError::Backend(message) = &refused else { panic!("{refused:?}") };
    assert!(message.contains("not authorized"), "{message}");
    assert!(!refused.is_retryable());
    forbidden.store(false, Ordering::Relaxed);
    let Edited::Changed { document, .. } = count_up(&games, "a").await.unwrap() else { panic!("no change") };
    assert_eq!((document.version, &document.body["n"]), (2, &json!(1)));
}

/// Fails inside as often as it is told to: instead of a reading, or after it has carried a write out.
struct Failing {
    readings: Arc<AtomicU32>,
    writes: Arc<AtomicU32>,
}

fn one_less(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl Manner for Failing {
    fn answer(&self, command: &Document) -> Option<Document> {
        let reads = command.get_str("find").is_ok_and(|collection| collection == "games");
        (reads && one_less(&self.readings)).then(|| refusal(1, "WiredTiger error: Invalid argument"))
    }

    fn change(&self, reply: Document) -> Document {
        let of_a_write = reply.contains_key("lastErrorObject");
        if of_a_write && one_less(&self.writes) { refusal(8, "out of luck") } else { reply }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_server_that_fails_inside_is_asked_again_and_has_done_it_once() {
    let server = TestServer::own();
    let (readings, writes) = <(Arc<AtomicU32>, Arc<AtomicU32>)>::default();
    let failing = Failing { readings: Arc::clone(&readings), writes: Arc::clone(&writes) };
    let port = proxy::start(server.port(), failing).await;
    let store = behind(port, MongoOptions { listen: false, ..options(&server) }).await;
    let games = games(&store).await;
    create(&games, "a").await;
    for n in 1..=INSIDE_FAILURES_MAX {
        writes.store(n, Ordering::Relaxed);
        let Edited::Changed { document, .. } = count_up(&games, "a").await.unwrap() else {
            panic!("no change")
        };
        assert_eq!((document.version, &document.body["n"]), (1 + u64::from(n), &json!(n)));
        readings.store(n, Ordering::Relaxed);
        assert_eq!(games.find_one(&id("a")).await.unwrap().unwrap().version, 1 + u64::from(n));
    }
    // Not for ever.
    readings.store(u32::MAX, Ordering::Relaxed);
    let error = games.find_one(&id("a")).await.unwrap_err();
    assert!(matches!(&error, StorageError::Backend(message) if message.contains("WiredTiger")), "{error:?}");
    assert_eq!(readings.load(Ordering::Relaxed), u32::MAX - 1 - INSIDE_FAILURES_MAX);
}

/// Takes commands, and says nothing to some of them.
struct Mute;

impl Manner for Mute {
    fn answer(&self, _: &Document) -> Option<Document> {
        None
    }

    fn way(&self, command: &Document) -> Duration {
        let unheard = command.contains_key("endSessions")
            || command.get_str("createIndexes").is_ok_and(|collection| collection == "games");
        if unheard { PATIENCE * 10 } else { Duration::ZERO }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_server_that_says_nothing_is_waited_for_so_long() {
    let server = TestServer::own();
    let store = behind(proxy::start(server.port(), Mute).await, options(&server)).await;
    let limit = Duration::from_millis(300);
    let hurried = StorageOptions { operation_timeout: limit, ..StorageOptions::default() };
    let opened = timeout(PATIENCE, store.collection("games", hurried)).await.expect("in time");
    assert!(matches!(opened, Err(StorageError::Timeout(after)) if after == limit), "{:?}", opened.err());
    timeout(SHUTDOWN_TIME_MAX * 3, store.close()).await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_a_crash_left_is_told_also_where_nobody_listens() {
    let server = TestServer::own();
    let deaf = || MongoOptions { listen: false, ..options(&server) };
    let failing = Arc::new(AtomicBool::new(true));
    let port = proxy::start(server.port(), log_that_fails(&failing)).await;
    let crashed = behind(port, deaf()).await;
    create(&games(&crashed).await, "a").await;
    // Without close, and its event is in the outbox alone.
    drop(crashed);
    let store = MongoStore::connect(server.uri(), deaf()).await.unwrap();
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(0)).await.unwrap();
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("no change") };
    assert_eq!((change.document_id.as_str(), change.version, change.position), ("a", 1, 1));
}

/// Among living documents, however many.
#[tokio::test]
#[ignore = "needs secantusd"]
async fn tombstones_are_found_by_an_index() {
    let (store, _server) = store().await;
    let collection = games(&store).await;
    for name in ["a", "b"] {
        collection.find_one_and_upsert(&id(name), body(json!({})), by("p")).await.unwrap();
    }
    collection.delete_one(&id("b"), by("p")).await.unwrap();
    assert_eq!(
        games(&store).await.indexes().await.unwrap(),
        [],
        "opened twice; it is none of the application's"
    );
    let find = doc! {
        "find": "games", "sort": {"_id": 1},
        "filter": {"_id": {"$gt": "", "$type": "string"}, "_weft.deleted": {"$exists": true}},
    };
    let explain = doc! {"explain": find, "verbosity": "queryPlanner"};
    let explained = store.database().run_command(explain).await.unwrap();
    assert!(explained.to_string().contains("\"_weft deleted\""), "{explained}");
    assert_eq!(collection.list_deleted(None, 9).await.unwrap(), [id("b")]);
}
