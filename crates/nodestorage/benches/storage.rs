//! Reads through a cache and past it, queries with an index and without, updates in memory, and diffs.
//!
//! Durable updates on the embedded store have a bench of their own, `commit`.

use std::{convert::Infallible, hint::black_box, sync::Arc, time::Duration};

use crdt_core::ClientId;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nodestorage::{
    Body, CachedStorage, Diff, DocumentId, Durability, EditOptions, EmbeddedOptions, EmbeddedStore, Index,
    MemoryCache, MemoryStorage, Plan, Query, Storage, StorageExt, StorageOptions,
    diff::MongoUpdate,
    query::{Direction, FieldPath, Filter, SortBy},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn body(value: Value) -> Body {
    let Value::Object(body) = value else { panic!("{value} is not an object") };
    body
}

fn by() -> EditOptions {
    EditOptions::by(ClientId::new("bench").unwrap())
}

fn id(n: u64) -> DocumentId {
    DocumentId::new(format!("game {n:06}")).unwrap()
}

/// About 300 bytes.
fn game(n: u64) -> Body {
    let items: Vec<_> = (0..8).map(|n| json!({"id": n, "name": format!("item {n}")})).collect();
    body(json!({"name": format!("game {n}"), "rank": n * 7_919 % 100_003, "gold": 0, "items": items}))
}

fn settings(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
}

fn embedded(folder: &tempfile::TempDir) -> EmbeddedStore {
    let options = EmbeddedOptions { durability: Durability::Buffered, ..EmbeddedOptions::default() };
    EmbeddedStore::open(folder.path(), options).unwrap()
}

fn reads(c: &mut Criterion) {
    const DOCUMENTS: u64 = 1_000;
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    let store = embedded(&folder);
    let (bare, cached) = runtime.block_on(async {
        let games = store.collection("games", StorageOptions::default()).await.unwrap();
        for n in 0..DOCUMENTS {
            games.find_one_and_upsert(&id(n), game(n), by()).await.unwrap();
        }
        let inner: Arc<dyn Storage> = Arc::new(games.clone());
        let cached = CachedStorage::new(inner, Arc::new(MemoryCache::default()), StorageOptions::default());
        (games, cached.await)
    });
    let mut group = c.benchmark_group("read");
    settings(&mut group);
    let mut n = 0;
    for (name, storage) in [("embedded", &bare as &dyn Storage), ("behind a memory cache", &cached)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                n = (n + 1) % DOCUMENTS;
                let found = runtime.block_on(storage.find_one(&id(n))).unwrap().unwrap();
                assert_eq!(found.version, 1);
            });
        });
    }
    assert!(cached.stats().hit_rate() > 0.5, "{:?}", cached.stats());
    #[cfg(feature = "redis")]
    redis_reads(&runtime, &bare, &mut group);
    group.finish();
}

/// Each read goes to a `redis-server` of its own on this machine.
#[cfg(feature = "redis")]
fn redis_reads(
    runtime: &Runtime,
    games: &nodestorage::EmbeddedStorage,
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
) {
    use std::process::{Command, Stdio};

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let program = std::env::var("WEFT_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let settings = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()];
    let server = Command::new(&program).args(settings).stdout(Stdio::null()).spawn();
    let Ok(mut server) = server else {
        println!("read/behind a Redis cache: left out, as there is no {program}");
        return;
    };
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(server.try_wait().unwrap().is_none(), "{program} ended");
    }
    let address = format!("redis://127.0.0.1:{port}");
    let cache = nodestorage::RedisCache::new(&address, "games", nodestorage::RedisCacheOptions::default());
    let inner: Arc<dyn Storage> = Arc::new(games.clone());
    let options = StorageOptions::default();
    let cached = runtime.block_on(CachedStorage::new(inner, Arc::new(cache.unwrap()), options));
    assert!(cached.is_cache_trusted());
    group.bench_function("behind a Redis cache", |bencher| {
        bencher.iter(|| {
            let found = runtime.block_on(cached.find_one(&id(7))).unwrap().unwrap();
            assert_eq!(found.version, 1);
        });
    });
    let stats = cached.stats();
    assert!(stats.hit_rate() > 0.9 && stats.errors == 0, "{stats:?}");
    server.kill().unwrap();
    server.wait().unwrap();
}

fn updates(c: &mut Criterion) {
    const EACH: u64 = 32;
    let runtime = runtime();
    let mut group = c.benchmark_group("update in memory");
    settings(&mut group);
    for writers in [1u64, 16, 256] {
        let games = MemoryStorage::default();
        runtime.block_on(async {
            for n in 0..writers {
                games.find_one_and_upsert(&id(n), game(n), by()).await.unwrap();
            }
        });
        let mut rounds = 0;
        group.throughput(Throughput::Elements(writers * EACH));
        group.bench_function(BenchmarkId::new("own document", writers), |bencher| {
            bencher.iter(|| {
                rounds += 1;
                let tasks: Vec<_> = (0..writers)
                    .map(|n| {
                        let games = games.clone();
                        runtime.spawn(async move {
                            for _ in 0..EACH {
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
        assert_eq!(position, writers + rounds * writers * EACH);
    }
    group.finish();
}

fn queries(c: &mut Criterion) {
    const DOCUMENTS: u64 = 100_000;
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    let store = embedded(&folder);
    let rank = FieldPath::new("rank").unwrap();
    let games = runtime.block_on(async {
        let games = store.collection("games", StorageOptions::default()).await.unwrap();
        let fill: Vec<_> = (0..64)
            .map(|task| {
                let games = games.clone();
                tokio::spawn(async move {
                    for n in (task..DOCUMENTS).step_by(64) {
                        games.find_one_and_upsert(&id(n), game(n), by()).await.unwrap();
                    }
                })
            })
            .collect();
        for task in fill {
            task.await.unwrap();
        }
        games
    });
    let filter = |filter: Value| Query { filter: Filter::parse(&filter).unwrap(), ..Query::default() };
    let top = Query {
        sort: vec![(SortBy::Field(rank.clone()), Direction::Descending)],
        limit: 10,
        ..Query::default()
    };
    let questions = [
        ("one of 100 000", filter(json!({"rank": 7_919})), 1),
        ("a range of 50", filter(json!({"rank": {"$gte": 1_000, "$lt": 1_050}})), 40),
        ("the best 10", top, 10),
    ];
    for indexed in [false, true] {
        if indexed {
            runtime.block_on(games.create_index(&Index::of(rank.clone()))).unwrap();
        }
        let name = if indexed { "find_many with an index" } else { "find_many without an index" };
        let mut group = c.benchmark_group(name);
        settings(&mut group);
        for (name, query, least) in &questions {
            let plan = runtime.block_on(games.explain(query.clone())).unwrap().plan;
            assert_eq!(matches!(plan, Plan::Index { .. }), indexed);
            group.bench_function(*name, |bencher| {
                bencher.iter(|| {
                    let page = runtime.block_on(games.find_many(query.clone())).unwrap();
                    assert!(page.found.len() >= *least, "{}", page.found.len());
                });
            });
        }
        group.finish();
    }
}

fn large(bytes: usize) -> Body {
    let games: Vec<_> = (0..bytes / 160)
        .map(|n| json!({"id": n, "name": format!("game {n}"), "tags": ["a", "b", n % 7], "note": "x".repeat(90)}))
        .collect();
    body(json!({"title": "large", "games": games}))
}

fn diffs(c: &mut Criterion) {
    let mut group = c.benchmark_group("diff");
    settings(&mut group);
    for (size, bytes) in [("1 KB", 1_000), ("32 KB", 32_000), ("1 MB", 1_000_000)] {
        let before = large(bytes);
        let mut small = before.clone();
        let games = small["games"].as_array_mut().unwrap();
        let (last, middle) = (games.len() - 1, games.len() / 2);
        games[middle]["name"] = json!("renamed");
        let moved = games.remove(0);
        games.insert(last, moved);
        let mut much = before.clone();
        for game in much["games"].as_array_mut().unwrap().iter_mut().step_by(2) {
            game["note"] = json!("changed");
        }
        for (change, after) in [("a small change", small), ("half of it", much)] {
            let mut diff = None;
            group.bench_function(BenchmarkId::new(change, size), |bencher| {
                bencher.iter(|| diff = Some(Diff::between(Some(black_box(&before)), Some(&after), 2)));
            });
            let diff = diff.unwrap();
            assert_eq!(diff.apply(Some(before.clone())).unwrap().as_ref(), Some(&after));
            let patch_bytes = serde_json::to_vec(&diff.json_patch).unwrap().len();
            println!("diff/{change}/{size}: the JSON Patch has {patch_bytes} bytes");
            if change == "a small change" {
                assert!(patch_bytes < 500);
            }
            group.bench_function(
                BenchmarkId::new(format!("{change}, as MongoDB operators"), size),
                |bencher| {
                    bencher.iter(|| black_box(MongoUpdate::between(black_box(&before), &after).unwrap()));
                },
            );
        }
    }
    group.finish();
}

criterion_group!(benches, reads, updates, diffs, queries);
criterion_main!(benches);
