//! A store that is put back to a backup under those who read it: nobody goes on from what is lost without being told.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crdt_core::ClientId;
use eventsync::{
    ClientVector, DefaultVectorClockManager, EventSyncStorage, FeedItem, PageLimit,
    PersistentVectorClockManager, ProblemType, Resume, Scope, SnapshotPolicy, SyncService,
    SyncServiceOptions, VectorClockManager,
    feed::ResyncReason,
    protocol::PushOp,
    service::{FeedReader, SyncRequest, WriteOptions},
    shelf::{MemoryShelf, Shelf},
};
use nodestorage::{DocumentId, MemoryStorage, Storage, StorageLayer, StorageOptions};
use serde_json::json;

fn go() -> DocumentId {
    DocumentId::new("go").unwrap()
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).unwrap()
}

/// A store whose changes are made at this time.
fn at(time: u64) -> MemoryStorage {
    MemoryStorage::new(StorageOptions::default(), Arc::new(move || time))
}

async fn start(
    storage: Arc<dyn Storage>,
    clocks: Arc<dyn VectorClockManager>,
    shelf: Arc<dyn Shelf>,
) -> SyncService {
    SyncService::start(SyncServiceOptions {
        storage: Arc::new(EventSyncStorage::new(storage).with_vector_clock_manager(clocks)),
        shelf,
        snapshots: SnapshotPolicy { every: None, age: None, keep: 4 },
        compaction: None,
        rules: None,
    })
    .await
    .unwrap()
}

async fn fresh(storage: Arc<dyn Storage>) -> SyncService {
    start(storage, Arc::new(DefaultVectorClockManager::new()), Arc::new(MemoryShelf::new())).await
}

async fn write(service: &SyncService, by: &str, versions: std::ops::RangeInclusive<u64>) {
    for n in versions {
        let state = json!({"by": by, "n": n}).as_object().unwrap().clone();
        let op = PushOp::Replace { state };
        assert_eq!(service.write(&go(), &op, WriteOptions::by(client(by))).await.unwrap().version, n);
    }
}

/// The second store takes the place of the first.
struct SetBack {
    stores: [MemoryStorage; 2],
    done: AtomicBool,
}

impl StorageLayer for SetBack {
    fn inner(&self) -> &dyn Storage {
        &self.stores[usize::from(self.done.load(Ordering::Relaxed))]
    }
}

async fn next(reader: &mut FeedReader) -> FeedItem {
    let item = tokio::time::timeout(std::time::Duration::from_secs(20), reader.next()).await;
    item.expect("something in time").unwrap()
}

async fn live_at(reader: &mut FeedReader, at: u64) {
    loop {
        if let FeedItem::Live { cursor } = next(reader).await {
            return assert_eq!(cursor, at);
        }
    }
}

/// With fewer events than were lost, as many, and more.
#[tokio::test]
async fn a_live_reader_is_told_when_the_store_is_put_back_under_it() {
    for back in [8, 12, 13] {
        let stores = [at(1000), at(2000)];
        write(&fresh(Arc::new(stores[1].clone())).await, "bob", 1..=back).await;
        let storage = Arc::new(SetBack { stores, done: AtomicBool::new(false) });
        let service = fresh(storage.clone()).await;
        write(&service, "alice", 1..=12).await;
        let mut one = service.follow(Scope::Document(go()), Resume::Latest, PageLimit::STANDARD);
        let mut all = service.follow(Scope::Collection, Resume::After(0), PageLimit::STANDARD);
        live_at(&mut one, 12).await;
        live_at(&mut all, 12).await;
        storage.done.store(true, Ordering::Relaxed);
        service.broker().lag_all();
        let reason = ResyncReason::CursorUnknown;
        assert_eq!(next(&mut one).await, FeedItem::Resync { reason, cursor: 0 }, "{back}");
        let FeedItem::Snapshot(snapshot) = next(&mut one).await else { panic!("a snapshot follows") };
        assert_eq!((snapshot.version, snapshot.value()), (back, json!({"by": "bob", "n": back})));
        live_at(&mut one, back).await;
        assert_eq!(next(&mut all).await, FeedItem::Resync { reason, cursor: back }, "{back}");
        live_at(&mut all, back).await;
        // And from there both go on as ever.
        write(&service, "bob", back + 1..=back + 2).await;
        service.broker().lag_all();
        for reader in [&mut one, &mut all] {
            let FeedItem::Events(events) = next(reader).await else { panic!("events follow") };
            assert_eq!(events.iter().map(|e| e.sequence_num()).collect::<Vec<_>>(), [back + 1, back + 2]);
        }
    }
}

/// A look into the log that finds nothing new is no news to the reader, wherever it is.
#[tokio::test]
async fn a_reader_that_looks_in_vain_is_told_nothing() {
    let service = fresh(Arc::new(at(1000))).await;
    let mut one = service.follow(Scope::Document(go()), Resume::After(0), PageLimit::STANDARD);
    live_at(&mut one, 0).await;
    service.broker().lag_all();
    write(&service, "alice", 1..=3).await;
    service.broker().lag_all();
    let mut seen = 0;
    while seen < 3 {
        let FeedItem::Events(events) = next(&mut one).await else { panic!("nothing but events") };
        for event in events {
            seen += 1;
            assert_eq!(event.sequence_num(), seen);
        }
    }
    service.broker().lag_all();
    write(&service, "alice", 4..=4).await;
    assert!(matches!(next(&mut one).await, FeedItem::Events(events) if events.len() == 1));
}

fn only(name: &str, count: u64) -> ClientVector {
    ClientVector::from_iter([(client(name), count)])
}

/// A clock that is kept in memory over a store that has gone back behind it, and beyond it again.
#[tokio::test]
async fn a_clock_of_a_lost_history_is_not_believed_again() {
    for (written_here, count) in [(true, 11), (true, 12), (true, 13), (false, 11), (false, 12), (false, 13)] {
        let clocks = Arc::new(DefaultVectorClockManager::new());
        let shelf = Arc::new(MemoryShelf::new());
        let lost = start(Arc::new(at(1000)), clocks.clone(), shelf.clone()).await;
        write(&lost, "alice", 1..=12).await;
        assert_eq!(lost.latest(&go()).await.unwrap().state_vector, only("alice", 12));
        let storage = at(if written_here { 1000 } else { 2000 });
        let service = start(Arc::new(storage.clone()), clocks, shelf).await;
        let writer = if written_here { service.clone() } else { fresh(Arc::new(storage)).await };
        write(&writer, "bob", 1..=count).await;
        let latest = service.latest(&go()).await.unwrap();
        assert_eq!((latest.version, &latest.state_vector), (count, &only("bob", count)), "{written_here}");
        for version in [1, 9, count] {
            assert_eq!(service.clock_at(&go(), version).await.unwrap().vector, only("bob", version));
        }
        // And the right one is in its place now.
        let known = service.storage().clocks().get_vector_clock(&go()).await.unwrap();
        assert_eq!((known.version, known.vector), (count, only("bob", count)));
    }
}

/// The same for what is written down.
#[tokio::test]
async fn what_is_written_down_of_a_lost_history_is_not_believed() {
    let shelf = Arc::new(MemoryShelf::new());
    let clocks = || Arc::new(PersistentVectorClockManager::new(shelf.clone()));
    let lost = start(Arc::new(at(1000)), clocks(), shelf.clone()).await;
    write(&lost, "alice", 1..=10).await;
    lost.snapshot(&go()).await.unwrap();
    write(&lost, "alice", 11..=70).await;
    let storage = at(2000);
    write(&fresh(Arc::new(storage.clone())).await, "bob", 1..=80).await;
    let service = start(Arc::new(storage), clocks(), shelf.clone()).await;
    assert_eq!(service.latest(&go()).await.unwrap().state_vector, only("bob", 80));
    let past = service.state_at(&go(), 10).await.unwrap();
    assert_eq!((past.value(), past.state_vector), (json!({"by": "bob", "n": 10}), only("bob", 10)));
    let past = service.state_at(&go(), 12).await.unwrap();
    assert_eq!((past.value(), past.state_vector), (json!({"by": "bob", "n": 12}), only("bob", 12)));
    // Who has what bob wrote is not told that it has what alice wrote.
    let request = SyncRequest { vector_clock: Some(only("alice", 10)), ..SyncRequest::default() };
    let answer = service.sync(&go(), &request).await.unwrap();
    assert_eq!((answer.events.len(), answer.cursor), (80, 80));
    // A start after this finds the right clock.
    let again = start(Arc::new(at(3000)), clocks(), shelf).await;
    let known = again.storage().clocks().get_vector_clock(&go()).await.unwrap();
    assert!(known.vector.get(&client("alice")) == 0, "{known:?}");
}

/// A snapshot of the lost history has the version of the one that is to be made.
#[tokio::test]
async fn a_snapshot_takes_the_place_of_one_of_a_lost_history() {
    let shelf = Arc::new(MemoryShelf::new());
    let clocks = || Arc::new(DefaultVectorClockManager::new());
    let lost = start(Arc::new(at(1000)), clocks(), shelf.clone()).await;
    write(&lost, "alice", 1..=10).await;
    lost.snapshot(&go()).await.unwrap();
    let service = start(Arc::new(at(2000)), clocks(), shelf).await;
    write(&service, "bob", 1..=10).await;
    let (made, new) = service.snapshot(&go()).await.unwrap();
    assert_eq!((made.value(), new), (json!({"by": "bob", "n": 10}), true));
    let kept = service.snapshots().at_or_before(&go(), 10).await.unwrap().unwrap();
    assert_eq!(kept.value(), json!({"by": "bob", "n": 10}));
    assert!(!service.snapshot(&go()).await.unwrap().1);
}

/// What a client says of a place that is not there would have it lack nothing for ever.
#[tokio::test]
async fn a_cursor_is_remembered_as_far_as_there_is_something() {
    let shelf = Arc::new(MemoryShelf::new());
    let clocks = || Arc::new(DefaultVectorClockManager::new());
    let service = start(Arc::new(at(1000)), clocks(), shelf.clone()).await;
    write(&service, "alice", 1..=12).await;
    let says = |cursor| SyncRequest {
        client_id: Some(client("reader")),
        cursor: Some(cursor),
        ..SyncRequest::default()
    };
    let refused = service.sync(&go(), &says(u64::MAX)).await.unwrap_err();
    assert!(refused.is(ProblemType::InvalidRequest), "{refused}");
    let lacks = |service: SyncService| async move {
        let page = service.vectors().missing_events(&go(), &client("reader"), PageLimit::STANDARD).await;
        page.unwrap().events.len()
    };
    service.sync(&go(), &says(1 << 40)).await.unwrap();
    write(&service, "alice", 13..=20).await;
    assert_eq!(lacks(service.clone()).await, 8);
    // And when the store was put back, what it had of what is lost counts no more.
    service.sync(&go(), &says(20)).await.unwrap();
    let service = start(Arc::new(at(2000)), clocks(), shelf).await;
    write(&service, "bob", 1..=12).await;
    service.sync(&go(), &says(5)).await.unwrap();
    write(&service, "bob", 13..=30).await;
    assert_eq!(lacks(service).await, 25);
}
