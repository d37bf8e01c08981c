//! Over MongoDB: reads of one document, from the server and behind a memory cache, and updates with 1, 16 and 256 in flight, each
//! answered when it is durable, with its event.
//!
//! The server is the one that `MONGODB_URI` names, else one that `WEFT_SECANTUSD` starts; without either the bench says that
//! it is skipped. `benches/peers-storage` has the same beside the raw driver.

use std::{convert::Infallible, sync::Arc, time::Duration};

use crdt_core::ClientId;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nodestorage::{
    Body, CachedStorage, DocumentId, EditOptions, MemoryCache, MongoOptions, MongoStore, Storage, StorageExt,
    StorageOptions, Store, mongo::testing::TestServer,
};
use serde_json::json;

/// Updates of one round, shared by the writers.
const UPDATES: u64 = 256;

fn by() -> EditOptions {
    EditOptions::by(ClientId::new("bench").unwrap())
}

fn id(n: u64) -> DocumentId {
    DocumentId::new(format!("game {n:06}")).unwrap()
}

/// About 300 bytes.
fn game() -> Body {
    let items: Vec<_> = (0..8).map(|n| json!({"id": n, "name": format!("item {n}")})).collect();
    json!({"name": "a game", "gold": 0, "items": items}).as_object().unwrap().clone()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn is_skipped() -> bool {
    let skipped = ["MONGODB_URI", "WEFT_SECANTUSD"].iter().all(|name| std::env::var_os(name).is_none());
    if skipped {
        println!("skipped: no server; `cargo xtask services` installs one and says where it is");
    }
    skipped
}

fn reads(c: &mut Criterion) {
    const DOCUMENTS: u64 = 100;
    if is_skipped() {
        return;
    }
    let (runtime, server) = (runtime(), TestServer::start());
    let (store, games) = runtime.block_on(async {
        let database = Some(format!("{}_reads", server.database()));
        let options = MongoOptions { database, ..MongoOptions::default() };
        let store = MongoStore::connect(server.uri(), options).await.unwrap();
        let games = store.collection("games", StorageOptions::default()).await.unwrap();
        for n in 0..DOCUMENTS {
            games.find_one_and_upsert(&id(n), game(), by()).await.unwrap();
        }
        (store, games)
    });
    let mut group = c.benchmark_group("read over MongoDB");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut read = |name: &str, storage: &dyn Storage| {
        let mut n = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                n = (n + 1) % DOCUMENTS;
                let found = runtime.block_on(storage.find_one(&id(n))).unwrap().unwrap();
                assert_eq!((found.version, found.body.len()), (1, 3));
            });
        });
    };
    read("from the server", &games);
    let inner: Arc<dyn Storage> = Arc::new(games.clone());
    let cache = Arc::new(MemoryCache::default());
    let cached = runtime.block_on(CachedStorage::new(inner, cache, StorageOptions::default()));
    assert!(cached.is_cache_trusted());
    read("behind a memory cache", &cached);
    let stats = cached.stats();
    assert!(stats.hit_rate() > 0.9 && stats.errors == 0, "{stats:?}");
    group.finish();
    // What is kept is not old: a write is seen by the next read.
    runtime.block_on(async {
        let earn = |body: &mut Body| {
            body["gold"] = json!(1);
            Ok::<_, Infallible>(())
        };
        cached.edit(&id(7), earn, by()).await.unwrap();
        let found = cached.find_one(&id(7)).await.unwrap().unwrap();
        assert_eq!((found.version, &found.body["gold"]), (2, &json!(1)));
        store.close().await.unwrap();
    });
}

fn updates(c: &mut Criterion) {
    if is_skipped() {
        return;
    }
    let (runtime, server) = (runtime(), TestServer::start());
    let mut group = c.benchmark_group("update over MongoDB");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(3));
    for writers in [1u64, 16, 256] {
        let (store, games) = runtime.block_on(async {
            let database = Some(format!("{}_{writers}", server.database()));
            let options = MongoOptions { database, ..MongoOptions::default() };
            let store = MongoStore::connect(server.uri(), options).await.unwrap();
            let games = store.collection("games", StorageOptions::default()).await.unwrap();
            for n in 0..writers {
                games.find_one_and_upsert(&id(n), game(), by()).await.unwrap();
            }
            (store, games)
        });
        let mut rounds = 0;
        group.throughput(Throughput::Elements(UPDATES));
        group.bench_function(BenchmarkId::new("own document", writers), |bencher| {
            bencher.iter(|| {
                rounds += 1;
                let tasks: Vec<_> = (0..writers)
                    .map(|n| {
                        let games = games.clone();
                        runtime.spawn(async move {
                            for _ in 0..UPDATES / writers {
                                let earn = |body: &mut Body| {
                                    body["gold"] = json!(body["gold"].as_u64().unwrap() + 1);
                                    Ok::<_, Infallible>(())
                                };
                                games.edit(&id(n), earn, by()).await.unwrap();
                            }
                        })
                    })
                    .collect();
                runtime.block_on(async {
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            });
        });
        let position = runtime.block_on(games.position()).unwrap();
        assert_eq!(position, writers + rounds * UPDATES);
        runtime.block_on(store.close()).unwrap();
    }
    group.finish();
}

criterion_group!(benches, reads, updates);
criterion_main!(benches);
