//! A cached storage keeps every law, and the promises of its own.

use std::{pin::pin, sync::atomic::Ordering::SeqCst};

use crdt_core::ClientId;
use futures_util::FutureExt;
use serde_json::{Value, json};

use super::*;
use crate::{
    Body, DocumentId, EditOptions, MemoryStore, Storage, StorageError, StorageExt, StorageOptions, Store,
    query::{Filter, Query},
};

mod failing;
mod gated;
mod narrow;

use failing::Failing;
use gated::Gated;
use narrow::Narrow;

mod over_memory {
    use super::*;

    pub(super) async fn store() -> (CachedStore, ()) {
        (CachedStore::new(Arc::new(MemoryStore::default()), |_| Arc::new(MemoryCache::default())), ())
    }

    crate::conformance_tests!(store);
}

#[cfg(feature = "embedded")]
mod over_embedded {
    use super::*;

    pub(super) async fn store() -> (CachedStore, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::EmbeddedStore::open(folder.path(), crate::EmbeddedOptions::default()).unwrap();
        (CachedStore::new(Arc::new(store), |_| Arc::new(MemoryCache::default())), folder)
    }

    crate::conformance_tests!(store);
}

/// What only MongoDB has is refused by name, and nothing is written.
#[tokio::test]
async fn pipelines_are_refused_by_who_has_none() {
    let mut all: Vec<(&str, Arc<dyn Store>)> = vec![
        ("the storage in memory", Arc::new(MemoryStore::default())),
        ("the storage in memory", Arc::new(over_memory::store().await.0)),
    ];
    #[cfg(feature = "embedded")]
    let (store, _folder) = over_embedded::store().await;
    #[cfg(feature = "embedded")]
    all.push(("the embedded store", Arc::new(store)));
    for (backend, store) in all {
        let games = store.collection("games", StorageOptions::default()).await.unwrap();
        games.find_one_and_upsert(&id("a"), body(json!({"n": 1})), by()).await.unwrap();
        let refused = games.update_one_with_pipeline(&id("a"), &[json!({"$unset": "n"})], by()).await;
        let Err(StorageError::Unsupported { what, backend: by }) = refused else { panic!("{refused:?}") };
        assert_eq!((what.as_str(), by), ("an update by a pipeline", backend));
        assert_eq!(n(&*games, "a").await, Some(1));
        assert!(games.native().is_none(), "{backend}");
    }
}

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn by() -> EditOptions {
    EditOptions::by(ClientId::new("p").unwrap())
}

fn body(value: Value) -> Body {
    match value {
        Value::Object(body) => body,
        other => panic!("{other} is not an object"),
    }
}

async fn set(storage: &dyn Storage, name: &str, n: u64) {
    let edit = |body: &mut Body| {
        body.insert("n".to_owned(), json!(n));
        Ok::<_, std::convert::Infallible>(())
    };
    storage.edit(&id(name), edit, by()).await.unwrap();
}

async fn n(storage: &dyn Storage, name: &str) -> Option<u64> {
    storage.find_one(&id(name)).await.unwrap().map(|document| document.body["n"].as_u64().unwrap())
}

/// Waits for something that has to come.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

const MANY: usize = 1_000_000;

async fn cached(inner: &Arc<Gated>, options: StorageOptions) -> Arc<CachedStorage> {
    let inner: Arc<dyn Storage> = inner.clone();
    Arc::new(CachedStorage::new(inner, Arc::new(MemoryCache::default()), options).await)
}

#[tokio::test]
async fn a_document_is_read_once_and_then_from_the_cache() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let games = cached(&inner, StorageOptions::default()).await;
    for _ in 0..10 {
        assert_eq!(n(&*games, "a").await, Some(1));
        assert_eq!(n(&*games, "absent").await, None);
    }
    assert_eq!(inner.reads(), 2);
    let stats = games.stats();
    assert_eq!((stats.hits, stats.misses), (18, 2));
    assert!((stats.hit_rate() - 0.9).abs() < 1e-9);
    // What was written is there without a read.
    set(&*games, "a", 2).await;
    assert_eq!(n(&*games, "a").await, Some(2));
    games.delete_one(&id("a"), by()).await.unwrap();
    assert_eq!(n(&*games, "a").await, None);
    assert_eq!(inner.reads(), 2);
}

#[tokio::test]
async fn many_readers_of_a_missing_entry_make_one_trip() {
    let inner = Gated::open(&StorageOptions::default(), 0).await;
    let games = cached(&inner, StorageOptions::default()).await;
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let games = games.clone();
            tokio::spawn(async move { n(&*games, "a").await })
        })
        .collect();
    until("the readers join", async || games.stats().shared == 49).await;
    assert_eq!(inner.reads(), 1);
    inner.gate.add_permits(1);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), Some(1));
    }
    assert_eq!(inner.reads(), 1);
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_nobody_waiting() {
    let inner = Gated::open(&StorageOptions::default(), 0).await;
    let games = cached(&inner, StorageOptions::default()).await;
    let read = |games: Arc<CachedStorage>| tokio::spawn(async move { n(&*games, "a").await });
    let first = read(games.clone());
    until("the first is on the way", async || inner.reads() == 1).await;
    let second = read(games.clone());
    until("the second joins", async || games.stats().shared == 1).await;
    first.abort();
    inner.gate.add_permits(1);
    assert_eq!(second.await.unwrap(), Some(1));
}

/// The map of who is on the way keeps nothing of a reader that nobody waits for.
#[tokio::test]
async fn a_write_after_a_reader_has_gone_away_is_not_held_up() {
    let inner = Gated::open(&StorageOptions::default(), 0).await;
    let games = cached(&inner, StorageOptions::default()).await;
    for with in ["one write", "a transaction", "the feed", "a failing cache"] {
        let reads = inner.reads();
        let reader = tokio::spawn({
            let games = games.clone();
            async move { n(&*games, "a").await }
        });
        until("it is on the way", async || inner.reads() > reads).await;
        reader.abort();
        assert!(reader.await.unwrap_err().is_cancelled());
        assert_eq!(games.shared.coherence.documents(), 0);
        match with {
            "one write" => set(&*games, "a", 2).await,
            "a transaction" => games.shared.coherence.begin_wide(),
            "the feed" => games.shared.coherence.disturb(&id("a")),
            _ => games.shared.coherence.distrust(),
        }
        if with == "a transaction" {
            games.shared.coherence.end_wide();
        }
        // Nothing in the cache: the next one makes its way again.
        games.shared.cache.clear().await.unwrap();
    }
}

/// What is hot is read anew beside the changes, not before them.
#[tokio::test]
async fn a_slow_storage_does_not_hold_up_what_the_feed_tells() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let games = cached(&inner, StorageOptions { cache_hot_max: 1, ..StorageOptions::default() }).await;
    for _ in 0..10 {
        n(&*games, "a").await;
    }
    n(&*games, "b").await;
    // From here on no read comes back.
    let _held =
        inner.gate.acquire_many(u32::try_from(inner.gate.available_permits()).unwrap()).await.unwrap();
    let reads = inner.reads();
    for n in 2..9 {
        set(&inner.inner, "a", n).await;
        set(&inner.inner, "b", n).await;
    }
    until("all is told", async || games.shared.coherence.has_told(&id("b"), 8)).await;
    assert_eq!(inner.reads(), reads + 1, "at most as many are read anew as are kept warm");
}

/// Defect 29 of the prototype: a stale fill wins the race.
#[tokio::test]
async fn a_slow_read_never_overwrites_what_is_newer() {
    for by_feed in [false, true] {
        let inner = Gated::open(&StorageOptions::default(), 0).await;
        let games = cached(&inner, StorageOptions::default()).await;
        let slow = tokio::spawn({
            let games = games.clone();
            async move { n(&*games, "a").await }
        });
        until("the slow reader has read", async || inner.reads() == 1).await;
        if by_feed {
            set(&inner.inner, "a", 2).await;
            until("the feed tells", async || games.stats().invalidated == 1).await;
        } else {
            set(&*games, "a", 2).await;
        }
        inner.gate.add_permits(1);
        assert_eq!(slow.await.unwrap(), Some(1), "it began before the write");
        assert_eq!(games.stats().fills_refused, 1);
        inner.gate.add_permits(MANY);
        assert_eq!(n(&*games, "a").await, Some(2));
    }
}

/// A reader that starts after a write does not join one that started before it.
#[tokio::test]
async fn a_reader_after_a_write_does_not_join_one_from_before() {
    let inner = Gated::open(&StorageOptions::default(), 0).await;
    // An entry that does not fit is not kept: each read goes to the storage.
    let nothing = Arc::new(MemoryCache::new(0));
    let games = Arc::new(CachedStorage::new(inner.clone(), nothing, StorageOptions::default()).await);
    let slow = tokio::spawn({
        let games = games.clone();
        async move { n(&*games, "a").await }
    });
    until("the slow reader has read", async || inner.reads() == 1).await;
    set(&*games, "a", 2).await;
    let next = tokio::spawn({
        let games = games.clone();
        async move { n(&*games, "a").await }
    });
    inner.gate.add_permits(2);
    assert_eq!((slow.await.unwrap(), next.await.unwrap()), (Some(1), Some(2)));
}

#[tokio::test]
async fn a_write_by_others_shows_when_the_feed_has_told_of_it() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let games = cached(&inner, StorageOptions::default()).await;
    assert_eq!(n(&*games, "a").await, Some(1));
    set(&inner.inner, "a", 2).await;
    until("the change shows", async || n(&*games, "a").await == Some(2)).await;
    inner.inner.delete_one(&id("a"), by()).await.unwrap();
    until("the delete shows", async || n(&*games, "a").await.is_none()).await;
    assert_eq!(games.stats().invalidated, 2);
    // Its own writes come back by the feed and are known.
    set(&*games, "b", 3).await;
    set(&inner.inner, "b", 4).await;
    until("the other's change shows", async || n(&*games, "b").await == Some(4)).await;
    assert_eq!(games.stats().invalidated, 3);
}

/// Written while the cache could not be told; then it is back, and another node that had read before the write puts what
/// it brought.
#[tokio::test]
async fn what_was_written_while_the_cache_was_away_is_never_older_when_it_is_back() {
    for how in ["here", "by others and seen here", "by others and told by the feed"] {
        let inner = Gated::open(&StorageOptions::default(), MANY).await;
        let cache = Arc::new(Failing::default());
        let games = CachedStorage::new(inner.clone(), cache.clone(), StorageOptions::default()).await;
        cache.is_away.store(true, SeqCst);
        assert_eq!(n(&games, "a").await, Some(1));
        assert!(!games.is_cache_trusted());
        match how {
            "here" => set(&games, "a", 2).await,
            _ => set(&inner.inner, "a", 2).await,
        }
        match how {
            "by others and seen here" => assert_eq!(n(&games, "a").await, Some(2)),
            _ => until("it is known", async || games.shared.coherence.known(&id("a")) == 2).await,
        }
        cache.is_away.store(false, SeqCst);
        until("the cache is trusted", async || games.is_cache_trusted()).await;
        let old = Cached::Document { version: 1, body: Arc::new(body(json!({"n": 1}))) };
        // Without what the feed may have told meanwhile.
        cache.clear().await.unwrap();
        assert!(cache.put(&id("a"), old, Duration::from_secs(60)).await.unwrap());
        assert_eq!((n(&games, "a").await, games.stats().stale), (Some(2), 1), "written {how}");
    }
}

/// The caller of a delete went away when the storage had it and the cache had not.
#[tokio::test]
async fn a_write_whose_caller_goes_away_is_not_taken_back() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let cache = Arc::new(Failing::default());
    let games = Arc::new(CachedStorage::new(inner.clone(), cache.clone(), StorageOptions::default()).await);
    assert_eq!(n(&*games, "a").await, Some(1));
    let held = cache.hold.clone().write_owned().await;
    let delete = tokio::spawn({
        let games = games.clone();
        async move { games.delete_one(&id("a"), by()).await }
    });
    until("it is deleted", async || n(&*games, "a").await.is_none()).await;
    delete.abort();
    assert!(delete.await.unwrap_err().is_cancelled());
    assert_eq!(n(&*games, "a").await, None);
    drop(held);
    until("the cache has been told", async || games.shared.coherence.may_serve(&id("a"))).await;
    assert_eq!(n(&*games, "a").await, None);
}

/// A slow node read that a document is absent, and put that into a cache that had been emptied meanwhile.
#[tokio::test]
async fn an_absence_from_before_a_create_is_not_served() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let cache = Arc::new(MemoryCache::default());
    let games = CachedStorage::new(inner.clone(), cache.clone(), StorageOptions::default()).await;
    let ttl = Duration::from_secs(60);
    set(&games, "b", 1).await;
    cache.clear().await.unwrap();
    assert!(cache.put(&id("b"), Cached::Absent { version: 0 }, ttl).await.unwrap());
    assert_eq!((n(&games, "b").await, games.stats().stale), (Some(1), 1));
    // What was read after a delete says so, and is served.
    games.delete_one(&id("b"), by()).await.unwrap();
    cache.clear().await.unwrap();
    let reads = inner.reads();
    assert_eq!((n(&games, "b").await, n(&games, "b").await), (None, None));
    assert_eq!(inner.reads(), reads + 1);
}

#[tokio::test]
async fn hot_documents_are_read_anew_before_somebody_asks() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let options = StorageOptions { cache_hot_max: 1, ..StorageOptions::default() };
    let games = cached(&inner, options).await;
    for _ in 0..10 {
        n(&*games, "a").await;
    }
    n(&*games, "b").await;
    assert_eq!(games.hot_documents(), [id("a")]);
    let reads = inner.reads();
    set(&inner.inner, "a", 2).await;
    until("it is read anew", async || inner.reads() == reads + 1).await;
    until("it is there", async || games.shared.cache.peek(&id("a")).is_some_and(|e| e.version() == 2)).await;
    assert_eq!(n(&*games, "a").await, Some(2));
    assert_eq!(inner.reads(), reads + 1, "nobody had to wait for it");
    // Who is not hot is read when somebody asks.
    set(&inner.inner, "b", 2).await;
    until("the change shows", async || n(&*games, "b").await == Some(2)).await;
    let cold = cached(&inner, StorageOptions { cache_hot_max: 0, ..StorageOptions::default() }).await;
    (0..10).for_each(|_| cold.shared.hot.touch(&id("a")));
    assert_eq!(cold.hot_documents(), []);
}

/// The turn at the cache came to what is read anew, while the reader of the feed waited for its own behind it.
#[tokio::test]
async fn what_is_kept_warm_does_not_keep_the_feed_waiting() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let cache = Arc::new(Narrow::default());
    let games = CachedStorage::new(inner.clone(), cache.clone(), StorageOptions::default()).await;
    for _ in 0..10 {
        n(&games, "a").await;
    }
    let turn = cache.door.lock().await;
    set(&inner.inner, "a", 2).await;
    until("the feed tells", async || cache.waiting() == 1).await;
    let mut next = pin!(cache.door.lock());
    assert!(next.as_mut().now_or_never().is_none());
    drop(turn);
    let turn = next.await;
    until("it is read anew", async || cache.waiting() == 1).await;
    set(&inner.inner, "a", 3).await;
    until("the feed tells again", async || cache.waiting() == 2).await;
    drop(turn);
    until("each has had its turn", async || n(&games, "a").await == Some(3)).await;
}

#[tokio::test]
async fn an_entry_has_its_time() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let cache_ttl = Duration::from_millis(30);
    let games =
        cached(&inner, StorageOptions { cache_ttl, cache_hot_max: 0, ..StorageOptions::default() }).await;
    assert_eq!(n(&*games, "a").await, Some(1));
    until("it is read again", async || {
        n(&*games, "a").await;
        inner.reads() > 1
    })
    .await;
}

#[tokio::test]
async fn pages_of_queries_are_kept_until_something_changes() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let query = || Query { filter: Filter::parse(&json!({"n": {"$gt": 0}})).unwrap(), ..Query::default() };
    let plain = cached(&inner, StorageOptions::default()).await;
    for _ in 0..3 {
        plain.find_many(query()).await.unwrap();
    }
    assert_eq!(inner.reads(), 3, "it is off");
    let games = cached(&inner, StorageOptions { cache_queries: true, ..StorageOptions::default() }).await;
    for _ in 0..3 {
        assert_eq!(games.find_many(query()).await.unwrap().found.len(), 2);
    }
    assert_eq!(inner.reads(), 4);
    games.delete_one(&id("a"), by()).await.unwrap();
    assert_eq!(games.find_many(query()).await.unwrap().found.len(), 1);
    inner.inner.find_one_and_upsert(&id("c"), body(json!({"n": 1})), by()).await.unwrap();
    until("the new one shows", async || games.find_many(query()).await.unwrap().found.len() == 2).await;
    assert!(games.stats().query_hits >= 2);
}

#[tokio::test]
async fn a_page_of_large_documents_is_not_kept() {
    let inner = Gated::open(&StorageOptions::default(), MANY).await;
    let large = body(json!({"n": 1, "text": "x".repeat(1 << 20)}));
    for name in ["c", "d", "e"] {
        inner.inner.find_one_and_upsert(&id(name), large.clone(), by()).await.unwrap();
    }
    let games = cached(&inner, StorageOptions { cache_queries: true, ..StorageOptions::default() }).await;
    let of = |limit| Query { filter: Filter::parse(&json!({"n": 1})).unwrap(), limit, ..Query::default() };
    for limit in [1, 1, 5, 5] {
        games.find_many(of(limit)).await.unwrap();
    }
    assert_eq!(
        (games.stats().query_hits, games.stats().query_misses),
        (1, 3),
        "three megabytes are too many"
    );
}

#[tokio::test]
async fn a_collection_without_a_feed_is_not_cached() {
    let options = StorageOptions { watch_enabled: false, ..StorageOptions::default() };
    let inner = Gated::open(&options, MANY).await;
    let games = cached(&inner, options).await;
    for _ in 0..3 {
        assert_eq!(n(&*games, "a").await, Some(1));
    }
    assert_eq!(inner.reads(), 3);
    assert!(!games.is_cache_trusted());
}

#[tokio::test]
async fn a_memory_cache_keeps_to_its_bytes() {
    let cache = MemoryCache::new(100_000);
    let large = Arc::new(body(json!({"text": "x".repeat(1_000)})));
    for n in 0..1_000 {
        let entry = Cached::Document { version: 1, body: large.clone() };
        cache.put(&id(&format!("d{n}")), entry, Duration::from_secs(60)).await.unwrap();
    }
    cache.settle();
    let kept = (0..1_000).filter(|n| cache.peek(&id(&format!("d{n}"))).is_some()).count();
    assert!((1..=100).contains(&kept), "{kept} documents of 1 kB are kept");
}

#[tokio::test]
async fn an_entry_never_goes_back() {
    let cache = MemoryCache::default();
    let ttl = Duration::from_secs(60);
    let document = |version| Cached::Document { version, body: Arc::default() };
    for (entry, kept) in [
        (document(3), true),
        (document(2), false),
        (Cached::Changed { version: 3 }, false),
        (Cached::Changed { version: 4 }, true),
        (document(3), false),
        (document(4), true),
        (Cached::Absent { version: 5 }, true),
        (document(4), false),
        (document(6), true),
    ] {
        assert_eq!(cache.put(&id("a"), entry.clone(), ttl).await.unwrap(), kept, "{entry:?}");
    }
    assert_eq!(cache.peek(&id("a")), Some(document(6)));
}
