//! How fast events reach their readers: one event to many, and many events to one.

use std::{sync::Arc, time::Duration};

use crdt_core::{ClientId, EncodingFormat};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use eventsync::{
    EventSyncStorage, FeedItem, PageLimit, Resume, Scope, SnapshotPolicy, SyncService, SyncServiceOptions,
    protocol::{PushOp, ServerMessage},
    service::WriteOptions,
    shelf::MemoryShelf,
};
use nodestorage::{DocumentId, MemoryStorage};
use serde_json::json;
use tokio::{runtime::Runtime, sync::mpsc};

/// How many events a reader that was away catches up on.
const HISTORY: u64 = 100_000;

fn go() -> DocumentId {
    DocumentId::new("go").unwrap()
}

async fn service() -> SyncService {
    SyncService::start(SyncServiceOptions {
        storage: Arc::new(EventSyncStorage::new(Arc::new(MemoryStorage::default()))),
        shelf: Arc::new(MemoryShelf::new()),
        snapshots: SnapshotPolicy { every: None, age: None, keep: 1 },
        compaction: None,
        rules: None,
    })
    .await
    .unwrap()
}

async fn write(service: &SyncService, n: u64) {
    let state = json!({"name": "Go", "n": n, "text": "about as long as a small game's change"});
    let op = PushOp::Replace { state: state.as_object().unwrap().clone() };
    let written = service.write(&go(), &op, WriteOptions::by(ClientId::new("bench").unwrap())).await;
    assert!(written.unwrap().changed);
}

/// From the write to the encoded frame in the hands of every reader.
fn fan_out(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("fan-out");
    for readers in [1_usize, 100, 1000] {
        group.throughput(Throughput::Elements(readers as u64));
        group.bench_function(readers.to_string(), |bencher| {
            let service = runtime.block_on(service());
            runtime.block_on(write(&service, 0));
            let (sender, mut got) = mpsc::unbounded_channel();
            for _ in 0..readers {
                let scope = Scope::Document(go());
                let mut reader = service.follow(scope.clone(), Resume::After(1), PageLimit::STANDARD);
                let sender = sender.clone();
                runtime.spawn(async move {
                    while let Ok(item) = reader.next().await {
                        let events = match &item {
                            FeedItem::Events(events) => events.len() as u64,
                            _ => 0,
                        };
                        let message = ServerMessage::Feed { scope: scope.clone(), item };
                        assert!(message.encode(EncodingFormat::Json).len() > 10);
                        if sender.send(events).is_err() {
                            break;
                        }
                    }
                });
            }
            // Everybody says that it is live.
            runtime.block_on(async {
                for _ in 0..readers {
                    assert_eq!(got.recv().await, Some(0));
                }
            });
            let mut n = 0;
            bencher.iter(|| {
                n += 1;
                runtime.block_on(async {
                    write(&service, n).await;
                    let mut events = 0;
                    while events < readers as u64 {
                        events += got.recv().await.unwrap();
                    }
                    assert_eq!(events, readers as u64, "every reader got the event once");
                });
            });
        });
    }
}

fn catch_up(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let service = runtime.block_on(async {
        let service = service().await;
        for n in 0..HISTORY {
            write(&service, n).await;
        }
        service
    });
    let mut group = criterion.benchmark_group("catch-up");
    group.sample_size(10).throughput(Throughput::Elements(HISTORY));
    group.bench_function("100000", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let scope = Scope::Document(go());
                let mut reader = service.follow(scope.clone(), Resume::After(0), PageLimit::STANDARD);
                let mut got = 0;
                loop {
                    match reader.next().await.unwrap() {
                        FeedItem::Live { .. } => break,
                        FeedItem::Events(events) => {
                            got += events.len() as u64;
                            let item = FeedItem::Events(events);
                            let message = ServerMessage::Feed { scope: scope.clone(), item };
                            assert!(message.encode(EncodingFormat::Json).len() > 10);
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(got, HISTORY, "every event once");
            });
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = fan_out, catch_up
}
criterion_main!(benches);
