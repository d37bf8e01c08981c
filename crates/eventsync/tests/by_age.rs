//! Snapshots and compaction by age, on a clock that stands still until everybody waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crdt_core::ClientId;
use eventsync::{
    EventCompactor, EventSyncStorage, ProblemType, SnapshotPolicy, SyncService, SyncServiceOptions,
    protocol::PushOp, service::WriteOptions, shelf::MemoryShelf,
};
use nodestorage::{DocumentId, MemoryStorage, StorageOptions};
use serde_json::json;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

/// A service whose changes carry the time that the test says.
async fn service(
    snapshots: SnapshotPolicy,
    compaction: Option<EventCompactor>,
) -> (SyncService, Arc<AtomicU64>) {
    let time_ms = Arc::new(AtomicU64::new(1));
    let told = Arc::clone(&time_ms);
    let clock: nodestorage::clock::Clock = Arc::new(move || told.load(Ordering::Relaxed));
    let storage = MemoryStorage::new(StorageOptions::default(), clock);
    let storage = Arc::new(EventSyncStorage::new(Arc::new(storage)));
    let shelf = Arc::new(MemoryShelf::new());
    let options = SyncServiceOptions { storage, shelf, snapshots, compaction, rules: None };
    (SyncService::start(options).await.unwrap(), time_ms)
}

async fn write(service: &SyncService, name: &str, n: u64) {
    let op = PushOp::Replace { state: json!({"n": n}).as_object().unwrap().clone() };
    let by = WriteOptions::by(ClientId::new("p").unwrap());
    service.write(&id(name), &op, by).await.unwrap();
}

async fn snapshots(service: &SyncService, name: &str) -> Vec<u64> {
    let found = service.snapshots().list(&id(name), u64::MAX, 99).await.unwrap();
    found.iter().rev().map(|snapshot| snapshot.version).collect()
}

/// The first event that is left.
async fn oldest(service: &SyncService, name: &str) -> u64 {
    service.oldest_event(&id(name), 0).await.unwrap()
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_without_a_snapshot_gets_one_when_it_is_old() {
    let policy = SnapshotPolicy { every: None, age: Some(Duration::from_secs(60)), keep: 9 };
    let (service, _) = service(policy, None).await;
    write(&service, "a", 0).await;
    seconds(30).await;
    write(&service, "a", 1).await;
    write(&service, "b", 0).await;
    seconds(29).await;
    assert_eq!((snapshots(&service, "a").await, snapshots(&service, "b").await), (vec![], vec![]));
    seconds(2).await;
    assert_eq!((snapshots(&service, "a").await, snapshots(&service, "b").await), (vec![2], vec![]));
    seconds(30).await;
    assert_eq!((snapshots(&service, "a").await, snapshots(&service, "b").await), (vec![2], vec![1]));
    // A document that nobody changes gets no other one, and the next change waits as long again.
    seconds(600).await;
    write(&service, "a", 2).await;
    seconds(59).await;
    assert_eq!(snapshots(&service, "a").await, [2]);
    seconds(2).await;
    assert_eq!((snapshots(&service, "a").await, snapshots(&service, "b").await), (vec![2, 3], vec![1]));
    service.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whichever_of_number_and_age_is_first_makes_the_snapshot() {
    let policy = SnapshotPolicy { every: Some(5), age: Some(Duration::from_secs(60)), keep: 9 };
    let (service, _) = service(policy, None).await;
    for n in 0..4 {
        write(&service, "a", n).await;
    }
    seconds(50).await;
    write(&service, "a", 4).await;
    seconds(1).await;
    assert_eq!(snapshots(&service, "a").await, [5]);
    // What had waited is in it: nothing is due for another minute after the next change.
    write(&service, "a", 5).await;
    seconds(59).await;
    assert_eq!(snapshots(&service, "a").await, [5]);
    seconds(2).await;
    assert_eq!(snapshots(&service, "a").await, [5, 6]);
    service.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn events_go_when_they_are_both_old_and_many() {
    let (service, time_ms) = service(SnapshotPolicy::STANDARD, None).await;
    let chess = id("a");
    // Ten events, one a day.
    for n in 0..10 {
        time_ms.store(n * DAY_MS, Ordering::Relaxed);
        write(&service, "a", n).await;
    }
    let days = |count: u64| Some(Duration::from_millis(count * DAY_MS));
    for (keep, age, today, gone, first) in [
        // Nothing is old yet; then the first alone is, and it is not removed twice.
        (0, days(10), 9, 0, 1),
        (0, days(9), 9, 1, 2),
        (0, days(9), 9, 0, 2),
        // Old enough, but among the latest; and the other way round.
        (9, days(0), 9, 0, 2),
        (2, days(6), 9, 3, 5),
        (2, days(6), 9, 0, 5),
        (5, None, 9, 1, 6),
        // An age before the first of all days.
        (0, days(99), 9, 0, 6),
        (1, days(3), 99, 4, 10),
    ] {
        let compactor = EventCompactor { keep, age };
        let removed = compactor.compact_at(&service, &chess, today * DAY_MS).await.unwrap();
        assert_eq!((removed, oldest(&service, "a").await), (gone, first), "{compactor:?} on day {today}");
        // Whatever went, the state behind it is still known.
        let state = service.state_at(&chess, 10).await.unwrap();
        assert_eq!(state.value(), json!({"n": 9}));
        let before = service.state_at(&chess, first - 1).await;
        assert!(first == 1 || before.is_ok(), "{before:?}");
    }
    let long_gone = service.state_at(&chess, 3).await.unwrap_err();
    assert!(long_gone.is(ProblemType::HistoryCompacted), "{long_gone}");
    service.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_compacts_by_itself() {
    // The changes are of 1970, so every age is over.
    let compactor = EventCompactor { keep: 2, age: Some(Duration::from_secs(60)) };
    let (service, _) = service(SnapshotPolicy::STANDARD, Some(compactor)).await;
    for n in 0..6 {
        write(&service, "a", n).await;
        write(&service, "b", n).await;
    }
    // Of one that is deleted the history goes too.
    for n in 0..5 {
        write(&service, "gone", n).await;
    }
    let by = WriteOptions::by(ClientId::new("p").unwrap());
    service.write(&id("gone"), &PushOp::Delete, by).await.unwrap();
    let oldest_of_all =
        async || (oldest(&service, "a").await, oldest(&service, "b").await, oldest(&service, "gone").await);
    assert_eq!(oldest_of_all().await, (1, 1, 1));
    seconds(3601).await;
    assert_eq!(oldest_of_all().await, (5, 5, 5));
    assert_eq!(service.latest(&id("a")).await.unwrap().value(), json!({"n": 5}));
    assert_eq!(service.state_at(&id("gone"), 4).await.unwrap().value(), json!({"n": 3}));
    assert_eq!(service.latest(&id("gone")).await.unwrap().value(), json!(null));
    service.close().await.unwrap();
}
