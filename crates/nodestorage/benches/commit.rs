//! Durable updates per second on the embedded store, with 1, 16 and 256 writers in flight.
//!
//! Each update reads a document of about 300 bytes, edits it, and is answered when document, change and the producer's
//! sequence are on the disk. Every run ends by comparing what is stored with what was asked for.

use std::{convert::Infallible, hint::black_box, time::Duration};

use crdt_core::ClientId;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nodestorage::{
    Body, DocumentId, EditOptions, EmbeddedOptions, EmbeddedStorage, EmbeddedStore, Storage, StorageExt,
    StorageOptions, Store,
};
use serde_json::json;

/// Updates of one writer in one measured round.
const EACH: u64 = 32;

fn game() -> Body {
    let items: Vec<_> = (0..8).map(|n| json!({"id": n, "name": format!("item {n}")})).collect();
    let serde_json::Value::Object(body) = json!({"name": "a game", "gold": 0, "items": items}) else {
        unreachable!()
    };
    body
}

fn options() -> EditOptions {
    EditOptions::by(ClientId::new("bench").unwrap())
}

async fn update(games: &EmbeddedStorage, id: &DocumentId) {
    let earn = |body: &mut Body| {
        body["gold"] = json!(body["gold"].as_u64().unwrap() + 1);
        Ok::<_, Infallible>(())
    };
    black_box(games.edit(id, earn, options()).await.unwrap());
}

/// Each of `writers` tasks updates a document of its own, or all the same one.
async fn round(games: &EmbeddedStorage, writers: u64, documents: &[DocumentId]) {
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (games, id) = (games.clone(), documents[writer as usize % documents.len()].clone());
            tokio::spawn(async move {
                for _ in 0..EACH {
                    update(&games, &id).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn commit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let mut group = c.benchmark_group("commit");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    for (name, documents) in [("own document", 256), ("one document", 1)] {
        for writers in [1, 16, 256] {
            let folder = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
            let documents: Vec<_> =
                (0..documents.min(writers)).map(|n| DocumentId::new(format!("game {n}")).unwrap()).collect();
            let games = runtime.block_on(async {
                let games = store.collection("games", StorageOptions::default()).await.unwrap();
                for id in &documents {
                    games.find_one_and_upsert(id, game(), options()).await.unwrap();
                }
                games
            });
            let mut rounds = 0;
            group.throughput(Throughput::Elements(writers * EACH));
            group.bench_function(BenchmarkId::new(name, writers), |bencher| {
                bencher.iter(|| {
                    rounds += 1;
                    runtime.block_on(round(&games, writers, &documents));
                });
            });
            runtime.block_on(async {
                let mut gold = 0;
                for id in &documents {
                    let document = games.find_one(id).await.unwrap().unwrap();
                    assert_eq!(document.body["gold"], json!(document.version - 1));
                    gold += document.version - 1;
                }
                assert_eq!(gold, rounds * writers * EACH);
                assert_eq!(games.position().await.unwrap(), gold + documents.len() as u64);
                store.close().await.unwrap();
            });
            // What was answered is on the disk, and the store finds itself whole.
            drop((games, store));
            EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        }
    }
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
