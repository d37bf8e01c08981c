//! The effect of options that say something of time, of age, and of connections.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use nodestorage::{
    Body, Edited, MongoOptions, MongoStorage, Query, Storage, StorageError, StorageExt, StorageOptions,
    mongo::{
        driver::bson::{Bson, DateTime, Document as Bsons, doc},
        testing::TestServer,
    },
};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use super::{
    PATIENCE, body, by,
    direct::{check, direct},
    games, id, options,
    otherwise::behind,
    proxy::{self, Manner},
};

async fn create(games: &MongoStorage, name: &str) {
    games.find_one_and_upsert(&id(name), body(json!({"n": 0})), by("s")).await.unwrap();
}

async fn count_up(games: &MongoStorage, name: &str) -> Result<Edited, StorageError> {
    let increment = |body: &mut Body| {
        body["n"] = json!(body["n"].as_u64().unwrap() + 1);
        Ok::<_, Infallible>(())
    };
    games.edit(&id(name), increment, by("s")).await
}

/// What the server answers, all of it or what it answers to writes, is on its way until it is let go.
struct Slow {
    all: watch::Receiver<bool>,
    writes: watch::Receiver<bool>,
}

impl Manner for Slow {
    fn answer(&self, _: &Bsons) -> Option<Bsons> {
        None
    }

    fn held(&self, reply: &Bsons) -> Option<watch::Receiver<bool>> {
        Some(if reply.contains_key("lastErrorObject") { self.writes.clone() } else { self.all.clone() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn every_operation_ends_in_its_time() {
    const LIMIT: Duration = Duration::from_millis(300);
    let server = TestServer::own();
    let (hold_all, all) = watch::channel(false);
    let (hold_writes, writes) = watch::channel(false);
    let store = behind(proxy::start(server.port(), Slow { all, writes }).await, options(&server)).await;
    let hasty = StorageOptions { operation_timeout: LIMIT, ..StorageOptions::default() };
    let hasty = store.collection("games", hasty).await.unwrap();
    let patient = games(&store).await;
    create(&patient, "a").await;
    assert_eq!(patient.position().await.unwrap(), 1);

    // It arrives, and its answer does not.
    hold_writes.send_replace(true);
    let edited = count_up(&hasty, "a").await;
    assert!(matches!(edited, Err(StorageError::Timeout(LIMIT))), "{edited:?}");
    hold_all.send_replace(true);
    let a = id("a");
    let outcomes = [
        ("find_one", hasty.find_one(&a).await.err()),
        ("list", hasty.list(None, 9).await.err()),
        ("find_many", hasty.find_many(Query::default()).await.err()),
        ("changes", hasty.changes(&a, 0, 9).await.err()),
        ("last_version", hasty.last_version(&a).await.err()),
        ("producers", hasty.producers(&a).await.err()),
        ("position", hasty.position().await.err()),
        ("remove_changes", hasty.remove_changes(&a, 1).await.err()),
        ("delete_one", hasty.delete_one(&a, by("s")).await.err()),
    ];
    for (verb, error) in outcomes {
        assert!(matches!(error, Some(StorageError::Timeout(LIMIT))), "{verb}: {error:?}");
    }
    hold_writes.send_replace(false);
    hold_all.send_replace(false);
    // Nobody knows of the write, and its event has its place all the same.
    assert_eq!(patient.find_one(&a).await.unwrap().unwrap().version, 2);
    check(&patient, "a").await;
    assert!(
        matches!(count_up(&hasty, "a").await, Ok(Edited::Changed { document, .. }) if document.version == 3)
    );
}

/// Another writer is always faster.
fn always_loses(command: &Bsons) -> Option<Bsons> {
    let lost = doc! {"ok": 1.0, "value": Bson::Null, "lastErrorObject": {"n": 0, "updatedExisting": false}};
    command.contains_key("findAndModify").then_some(lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_writer_that_loses_pauses_as_the_options_say() {
    let server = TestServer::own();
    let store = behind(proxy::start(server.port(), always_loses).await, options(&server)).await;
    create(&games(&store).await, "a").await;
    // Pauses of 100, 200, 250 and 250 ms; with all of the jitter somewhere below.
    for (retry_jitter_percent, least) in [(0, Duration::from_millis(800)), (100, Duration::ZERO)] {
        let options = StorageOptions {
            retries_max: 4,
            retry_delay: Duration::from_millis(100),
            retry_delay_max: Duration::from_millis(250),
            retry_jitter_percent,
            ..StorageOptions::default()
        };
        let games = store.collection("games", options).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "how long the pauses are is what it is about")]
        let started = std::time::Instant::now();
        let refused = count_up(&games, "a").await;
        assert!(matches!(refused, Err(StorageError::RetriesExhausted { attempts: 5 })), "{refused:?}");
        assert!(started.elapsed() >= least, "{:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_tombstone_is_purged_at_its_age_and_not_before() {
    const KEPT: Duration = Duration::from_millis(100);
    const BEGAN_MS: u64 = 1_767_225_600_000;
    let server = TestServer::start();
    let time = Arc::new(AtomicU64::new(BEGAN_MS));
    let clock = Arc::clone(&time);
    let timed = MongoOptions {
        clock: Arc::new(move || clock.load(Relaxed)),
        tombstones_kept: KEPT,
        ..options(&server)
    };
    let store = nodestorage::MongoStore::connect(server.uri(), timed).await.unwrap();
    let games = games(&store).await;
    for name in ["old", "young"] {
        create(&games, name).await;
    }
    games.delete_one(&id("old"), by("s")).await.unwrap();
    time.fetch_add(10, Relaxed);
    games.delete_one(&id("young"), by("s")).await.unwrap();
    let raw = direct(&games);
    let deleted = |ms: u64| doc! {"_weft.deleted": DateTime::from_millis(ms as i64)};
    let of_old = raw.find_one(doc! {"_id": "old"}).await.unwrap().unwrap();
    let stamped =
        of_old.get_document("_weft").unwrap().get_datetime("deleted").unwrap().timestamp_millis() as u64;
    // One more millisecond, and the older one is too old; the younger one is not for as long as the clock stands.
    time.store(stamped + KEPT.as_millis() as u64 + 1, Relaxed);
    timeout(PATIENCE, async {
        while raw.find_one(deleted(stamped)).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the old one is purged");
    // Two more looks.
    tokio::time::sleep(2 * KEPT).await;
    assert!(raw.find_one(doc! {"_id": "young"}).await.unwrap().is_some(), "the young one is gone");
    assert_eq!(games.last_version(&id("old")).await.unwrap(), 2);
}

/// How many questions are under way at once.
#[derive(Default)]
struct Counting {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Questions(Arc<Counting>);

impl Questions {
    fn is_one(command: &Bsons) -> bool {
        command.get_str("find").is_ok_and(|name| name == "games")
            && command.get_document("filter").is_ok_and(|filter| filter.get_str("_id").is_ok())
    }
}

impl Manner for Questions {
    fn way(&self, command: &Bsons) -> Duration {
        if !Self::is_one(command) {
            return Duration::ZERO;
        }
        let now = self.0.now.fetch_add(1, Relaxed) + 1;
        self.0.most.fetch_max(now, Relaxed);
        Duration::from_millis(20)
    }

    fn answer(&self, command: &Bsons) -> Option<Bsons> {
        if Self::is_one(command) {
            self.0.now.fetch_sub(1, Relaxed);
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn so_many_connections_are_open_and_no_more() {
    let server = TestServer::own();
    for connections_max in [2, 6] {
        let counting = Arc::new(Counting::default());
        let port = proxy::start(server.port(), Questions(Arc::clone(&counting))).await;
        let few = MongoOptions { connections_max, listen: false, ..options(&server) };
        let games = games(&behind(port, few).await).await;
        let asked = (0..24).map(|n| {
            let games = games.clone();
            async move { games.find_one(&id(&format!("d{n}"))).await.unwrap() }
        });
        timeout(PATIENCE, join_all(asked)).await.expect("all are answered");
        let most = counting.most.load(Relaxed);
        assert!(most > 1 && most <= connections_max as usize, "{most} of {connections_max}");
    }
}
