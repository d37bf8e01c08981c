//! What clients say that they have: more than a beginning of the history, much of it, and where it can't be written down.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use crdt_core::ClientId;
use eventsync::{
    ClientVector, EventSyncStorage, PersistentVectorClockManager, SnapshotPolicy, SyncService,
    SyncServiceOptions,
    http::HttpOptions,
    protocol::PushOp,
    service::{SyncRequest, WriteOptions},
    shelf::{Durability, MemoryShelf, ScanRange, Shelf, ShelfError},
};
use nodestorage::{ChangePage, DocumentId, MemoryStorage, Storage, StorageError, StorageLayer};
use serde_json::json;
use support::Server;

fn go() -> DocumentId {
    DocumentId::new("go").unwrap()
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).unwrap()
}

async fn service_over(storage: Arc<dyn Storage>, shelf: Arc<dyn Shelf>) -> SyncService {
    let clocks = Arc::new(PersistentVectorClockManager::new(shelf.clone()));
    SyncService::start(SyncServiceOptions {
        storage: Arc::new(EventSyncStorage::new(storage).with_vector_clock_manager(clocks)),
        shelf,
        snapshots: SnapshotPolicy::STANDARD,
        compaction: None,
        rules: None,
    })
    .await
    .unwrap()
}

async fn write(service: &SyncService, by: &str, versions: std::ops::RangeInclusive<u64>) {
    for n in versions {
        let op = PushOp::Replace { state: json!({"name": "go", "n": n}).as_object().unwrap().clone() };
        assert_eq!(service.write(&go(), &op, WriteOptions::by(client(by))).await.unwrap().version, n);
    }
}

/// The vector counted for the first page only, and from the second on the client was sent its own writes.
#[tokio::test]
async fn what_a_vector_contains_is_on_no_page() {
    let service = service_over(Arc::new(MemoryStorage::default()), Arc::new(MemoryShelf::new())).await;
    write(&service, "others", 1..=250).await;
    write(&service, "me", 251..=252).await;
    write(&service, "others", 253..=260).await;
    let mut vector = ClientVector::from_iter([(client("me"), 2)]);
    let mut request = SyncRequest { limit: Some(100), ..SyncRequest::default() };
    let mut seen = Vec::new();
    loop {
        request.vector_clock = Some(vector.clone());
        let answer = service.sync(&go(), &request).await.unwrap();
        assert!(answer.snapshot.is_none());
        assert!(answer.state_vector.contains(&vector), "what a client has does not go back");
        seen.extend(answer.events.iter().map(|event| event.sequence_num()));
        vector = answer.state_vector;
        match answer.next {
            Some(next) => request.cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, (1..=250).chain(253..=260).collect::<Vec<_>>());
    assert_eq!(vector, ClientVector::from_iter([(client("me"), 2), (client("others"), 258)]));
}

/// Counts the events that are read.
#[derive(Default)]
struct Counting {
    inner: MemoryStorage,
    read: AtomicUsize,
}

#[async_trait]
impl StorageLayer for Counting {
    fn inner(&self) -> &dyn Storage {
        &self.inner
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        let page = Storage::changes(&self.inner, id, after, limit).await?;
        self.read.fetch_add(page.changes.len(), Ordering::Relaxed);
        Ok(page)
    }
}

/// Each `ack` of an old cursor read the history up to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_has_is_remembered_without_reading_the_history() {
    let storage = Arc::new(Counting::default());
    let server = Server::start_over(storage.clone(), HttpOptions::new("games")).await;
    write(&server.service, "w", 1..=1000).await;
    write(&server.service, "x", 1001..=1010).await;
    let mut socket = server.client("reader", json!({"documents": {"go": {"cursor": 0}}})).await;
    socket.next_of("live").await;
    // In the order of the cursors, because what is remembered only grows.
    for (cursor, vector) in
        [(900, json!({})), (1005, json!({"w": 1000, "x": 5})), (1010, json!({"w": 1000, "x": 10}))]
    {
        let before = storage.read.load(Ordering::Relaxed);
        for _ in 0..3 {
            socket.send(&json!({"type": "ack", "documentId": "go", "cursor": cursor})).await;
        }
        let state = loop {
            let state = server.service.vectors().get(&go(), &client("reader")).await.unwrap();
            match state.filter(|state| state.cursor == cursor) {
                Some(state) => break state,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(serde_json::to_value(&state.vector_clock).unwrap(), vector, "{cursor}");
        let read = storage.read.load(Ordering::Relaxed) - before;
        assert!(read < 300, "{read} events for acks of {cursor}");
    }
}

/// Takes no clocks and no vectors, as a database that elects.
#[derive(Default)]
struct Forgetful(MemoryShelf);

fn refuses(key: &[u8]) -> Result<(), ShelfError> {
    match key.starts_with(b"clock") || key.starts_with(b"vector") {
        true => Err(ShelfError("not now".to_owned())),
        false => Ok(()),
    }
}

#[async_trait]
impl Shelf for Forgetful {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ShelfError> {
        self.0.get(key).await
    }

    async fn put(&self, key: Vec<u8>, value: Vec<u8>, durability: Durability) -> Result<(), ShelfError> {
        refuses(&key)?;
        self.0.put(key, value, durability).await
    }

    async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError> {
        refuses(&key)?;
        self.0.remove(key).await
    }

    async fn swap(
        &self,
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        durability: Durability,
    ) -> Result<bool, ShelfError> {
        refuses(&key)?;
        self.0.swap(key, expected, value, durability).await
    }

    async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError> {
        self.0.scan(range, limit).await
    }
}

/// A memory aid that failed made an error of every read.
#[tokio::test]
async fn reads_are_answered_though_nothing_can_be_remembered() {
    let shelf = Arc::new(Forgetful::default());
    let storage = Arc::new(MemoryStorage::default());
    let writer = service_over(storage.clone(), Arc::new(MemoryShelf::new())).await;
    write(&writer, "w", 1..=70).await;
    let service = service_over(storage, shelf).await;
    assert_eq!(service.latest(&go()).await.unwrap().version, 70);
    assert_eq!(service.clock_at(&go(), 65).await.unwrap().vector.get(&client("w")), 65);
    let request =
        SyncRequest { client_id: Some(client("reader")), cursor: Some(60), ..SyncRequest::default() };
    assert_eq!(service.sync(&go(), &request).await.unwrap().events.len(), 10);
}
