//! A cache in a real Redis: it keeps the laws, finds out what is not its own, and does no harm when it dies.

mod common;

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crdt_core::ClientId;
use nodestorage::{
    Body, CachedStorage, CachedStore, DocumentId, EditOptions, EmbeddedOptions, EmbeddedStore, MemoryStorage,
    MemoryStore, RedisCache, RedisCacheOptions, Storage, StorageExt, StorageOptions,
    cache::{Cache, Cached, frame},
};
use serde_json::json;

/// A real `redis-server` on a free port that keeps nothing on disk. Dropping it kills it.
struct Redis {
    port: u16,
    process: Child,
}

impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Self { port, process: Self::run(port) }
    }

    fn run(port: u16) -> Child {
        let program = std::env::var("WEFT_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let mut process = Command::new(&program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{program}: {error}. Install redis-server (Debian: apt-get install redis-server) or set \
                     WEFT_REDIS_SERVER to the program"
                )
            });
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(process.try_wait().unwrap().is_none(), "{program} on port {port} ended");
            std::thread::yield_now();
        }
        process
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops it, or lets it go on: it takes connections and answers nothing.
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill {signal}");
    }

    fn restart(&mut self) {
        self.process = Self::run(self.port);
    }

    fn cache(&self, collection: &str) -> Arc<RedisCache> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        Arc::new(RedisCache::new(&url, collection, RedisCacheOptions::default()).unwrap())
    }

    async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

mod over_memory {
    use super::*;

    async fn store() -> (CachedStore, Arc<Redis>) {
        let redis = Arc::new(Redis::start());
        let of = redis.clone();
        (CachedStore::new(Arc::new(MemoryStore::default()), move |name| of.cache(name)), redis)
    }

    nodestorage::conformance_tests!(
        #[ignore = "needs redis-server"]
        store
    );
}

#[cfg(feature = "mongodb")]
mod over_mongodb {
    use nodestorage::{MongoOptions, MongoStore, mongo::testing::TestServer};

    use super::*;

    async fn store() -> (CachedStore, (Arc<Redis>, TestServer)) {
        let (redis, server) = (Arc::new(Redis::start()), TestServer::start());
        let options =
            MongoOptions { database: Some(server.database().to_owned()), ..MongoOptions::default() };
        let store = MongoStore::connect(server.uri(), options).await.unwrap();
        let of = redis.clone();
        (CachedStore::new(Arc::new(store), move |name| of.cache(name)), (redis, server))
    }

    nodestorage::conformance_tests!(
        #[ignore = "needs redis-server and secantusd"]
        store
    );
}

mod over_embedded {
    use super::*;

    async fn store() -> (CachedStore, (Arc<Redis>, tempfile::TempDir)) {
        let redis = Arc::new(Redis::start());
        let folder = common::folder();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let of = redis.clone();
        (CachedStore::new(Arc::new(store), move |name| of.cache(name)), (redis, folder))
    }

    nodestorage::conformance_tests!(
        #[ignore = "needs redis-server"]
        store
    );
}

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn by() -> EditOptions {
    EditOptions::by(ClientId::new("p").unwrap())
}

async fn count(storage: &dyn Storage, name: &str, n: u64) -> u64 {
    let edit = |body: &mut Body| {
        body.insert("n".to_owned(), json!(n));
        Ok::<_, std::convert::Infallible>(())
    };
    match storage.edit(&id(name), edit, by()).await.unwrap() {
        nodestorage::Edited::Changed { document, .. } => document.version,
        other => panic!("{other:?}"),
    }
}

async fn version(storage: &dyn Storage, name: &str) -> u64 {
    storage.find_one(&id(name)).await.unwrap().map_or(0, |document| document.version)
}

async fn games() -> MemoryStorage {
    let games = MemoryStorage::default();
    games.find_one_and_upsert(&id("a"), Body::new(), by()).await.unwrap();
    games
}

async fn node(redis: &Redis, games: &MemoryStorage) -> CachedStorage {
    CachedStorage::new(Arc::new(games.clone()), redis.cache("games"), StorageOptions::default()).await
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn two_nodes_share_what_one_has_read_and_see_each_others_writes() {
    let redis = Redis::start();
    let games = games().await;
    let (one, other) = (node(&redis, &games).await, node(&redis, &games).await);
    assert_eq!(version(&one, "a").await, 1);
    assert_eq!(version(&other, "a").await, 1);
    assert_eq!((one.stats().misses, other.stats().hits), (1, 1));
    for n in 2..50 {
        assert_eq!(count(&one, "a", n).await, n);
        until("the other sees it", async || version(&other, "a").await == n).await;
    }
    one.delete_one(&id("a"), by()).await.unwrap();
    until("the other sees it go", async || version(&other, "a").await == 0).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_poisoned_entry_is_found_out_and_replaced() {
    let redis = Redis::start();
    let games = games().await;
    let node = node(&redis, &games).await;
    let key = "weft:games:a";
    let mut connection = redis.connect().await;
    assert_eq!(version(&node, "a").await, 1);
    let good: Vec<u8> = redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
    let foreign = frame::encode(&id("b"), &Cached::Document { version: 9, body: Arc::default() });
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let cut = &good[..good.len() - 1];
    for (nth, poison) in
        [&b"hello"[..], &[0x80], &foreign, &flipped, cut, &good[..10]].into_iter().enumerate()
    {
        let _: () = redis::cmd("SET").arg(key).arg(poison).query_async(&mut connection).await.unwrap();
        assert_eq!(version(&node, "a").await, 1, "poison {nth} was served");
        assert_eq!(node.stats().poisoned, nth as u64 + 1);
        let now: Vec<u8> = redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
        assert_eq!(now, good, "poison {nth} is still there");
    }
    // An entry of the past, put behind everybody's back.
    assert_eq!(count(&node, "a", 5).await, 2);
    let _: () = redis::cmd("SET").arg(key).arg(&good).query_async(&mut connection).await.unwrap();
    assert_eq!(version(&node, "a").await, 2, "an old entry was served");
    assert_eq!(node.stats().stale, 1);
    // Something that is no text at all.
    let _: () = redis::cmd("DEL").arg(key).query_async(&mut connection).await.unwrap();
    let _: () = redis::cmd("LPUSH").arg(key).arg("x").query_async(&mut connection).await.unwrap();
    assert_eq!(version(&node, "a").await, 2);
    until("the cache is emptied and trusted again", async || node.is_cache_trusted()).await;
    assert_eq!(version(&node, "a").await, 2);
    let kind: String = redis::cmd("TYPE").arg(key).query_async(&mut connection).await.unwrap();
    assert_eq!(kind, "string");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_entry_in_redis_never_goes_back_and_has_its_time() {
    let redis = Redis::start();
    let cache = redis.cache("games");
    let document = |version| Cached::Document { version, body: Arc::default() };
    let ttl = Duration::from_secs(60);
    for (entry, kept) in [
        (document(300), true),
        (document(299), false),
        (document(255), false),
        (Cached::Changed { version: 300 }, false),
        (document(300), true),
        (Cached::Changed { version: 1 << 40 }, true),
        (document(u64::from(u32::MAX)), false),
        (document(1 << 40), true),
        (Cached::Absent { version: u64::MAX }, true),
        (document(1 << 41), false),
    ] {
        assert_eq!(cache.put(&id("a"), entry.clone(), ttl).await.unwrap(), kept, "{entry:?}");
    }
    let mut connection = redis.connect().await;
    let left: i64 = redis::cmd("PTTL").arg("weft:games:a").query_async(&mut connection).await.unwrap();
    assert!((1..=60_000).contains(&left), "{left} ms are left");
    // Emptying it leaves what belongs to others.
    let other = redis.cache("games2");
    other.put(&id("a"), document(1), ttl).await.unwrap();
    cache.clear().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    assert_eq!(keys, ["weft:games2:a"]);
}

/// Writers count up, readers read through two nodes; Redis is killed and comes back, some times. Nobody gets an error,
/// nobody reads less than what was there when the read began, and in the end everything is as in the storage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn redis_killed_under_load_makes_nothing_stale() {
    const DOCUMENTS: usize = 4;
    let mut redis = Redis::start();
    let games = games().await;
    for n in 0..DOCUMENTS {
        games.find_one_and_upsert(&id(&format!("d{n}")), Body::new(), by()).await.unwrap();
    }
    let nodes = [Arc::new(node(&redis, &games).await), Arc::new(node(&redis, &games).await)];
    let written: Arc<Vec<AtomicU64>> = Arc::new((0..DOCUMENTS).map(|_| AtomicU64::new(1)).collect());
    let reads = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    // All writes go through the first node, whose readers must see them at once.
    for n in 0..DOCUMENTS {
        let (node, written, stop) = (nodes[0].clone(), written.clone(), stop.clone());
        tasks.spawn(async move {
            let mut n_written = 0;
            while !stop.load(Ordering::SeqCst) {
                n_written += 1;
                let version = count(&*node, &format!("d{n}"), n_written).await;
                written[n].store(version, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        });
    }
    for reader in 0..4 {
        let node = nodes[reader % 2].clone();
        let (written, reads, stop) = (written.clone(), reads.clone(), stop.clone());
        tasks.spawn(async move {
            let mut last = [0; DOCUMENTS];
            let mut turn = reader;
            while !stop.load(Ordering::SeqCst) {
                turn += 1;
                let n = turn % DOCUMENTS;
                let before = written[n].load(Ordering::SeqCst);
                let read = version(&*node, &format!("d{n}")).await;
                if reader % 2 == 0 {
                    assert!(read >= before, "d{n} was written at {before} and read at {read}");
                    assert!(read >= last[n], "d{n} went from {} back to {read}", last[n]);
                }
                last[n] = read;
                reads.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 0..3 {
        let some_more = async |more: u64| {
            let now = reads.load(Ordering::SeqCst);
            until("reads go on", async || reads.load(Ordering::SeqCst) > now + more).await;
        };
        some_more(500).await;
        redis.kill();
        until("the nodes notice", async || nodes.iter().all(|node| !node.is_cache_trusted())).await;
        some_more(500).await;
        redis.restart();
        until("the cache is used again", async || nodes.iter().all(|node| node.is_cache_trusted())).await;
        println!("round {round}: {:?}", nodes[0].stats());
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    for n in 0..DOCUMENTS {
        let name = format!("d{n}");
        let now = games.find_one(&id(&name)).await.unwrap().unwrap().version;
        assert_eq!(version(&*nodes[0], &name).await, now);
        until("the other node has it too", async || version(&*nodes[1], &name).await == now).await;
    }
    assert!(nodes[0].stats().cleared >= 4);
}

/// It is alive and says nothing, as a machine that swaps does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn a_redis_that_hangs_keeps_readers_waiting_for_the_timeout_and_no_longer() {
    const LONG: Duration = Duration::from_millis(1_500);
    for timeout in [Duration::from_millis(100), LONG] {
        let redis = Redis::start();
        let games = games().await;
        let options = RedisCacheOptions { timeout, ..RedisCacheOptions::default() };
        let url = format!("redis://127.0.0.1:{}", redis.port);
        let cache = Arc::new(RedisCache::new(&url, "games", options).unwrap());
        let node = CachedStorage::new(Arc::new(games), cache, StorageOptions::default()).await;
        assert_eq!(version(&node, "a").await, 1);
        redis.signal("-STOP");
        #[expect(clippy::disallowed_methods, reason = "how long a reader waits is what it is about")]
        let started = std::time::Instant::now();
        assert_eq!(version(&node, "a").await, 1);
        let waited = started.elapsed();
        assert_eq!(waited >= LONG, timeout == LONG, "{waited:?} with {timeout:?}");
        assert_eq!(count(&node, "a", 2).await, 2);
        assert_eq!(version(&node, "a").await, 2);
        redis.signal("-CONT");
        until("it is served from Redis again", async || {
            let before = node.stats().hits;
            version(&node, "a").await;
            node.stats().hits > before
        })
        .await;
        assert_eq!(version(&node, "a").await, 2);
    }
}
