//! A document that was deleted, whose history was let go of, and that was created anew: whoever is behind all of that is
//! told, and the numbers go on.

use std::sync::Arc;

use crdt_core::ClientId;
use eventsync::{
    EventCompactor, EventSyncStorage, FeedItem, PageLimit, ProblemType, Resume, Scope, SnapshotPolicy,
    SyncService, SyncServiceOptions,
    protocol::PushOp,
    service::WriteOptions,
    shelf::{MemoryShelf, Shelf},
};
use nodestorage::{DocumentId, MemoryStorage, Storage};
use serde_json::{Value, json};

async fn write(service: &SyncService, name: &str, op: PushOp) -> u64 {
    let by = WriteOptions::by(ClientId::new("p").unwrap());
    service.write(&DocumentId::new(name).unwrap(), &op, by).await.unwrap().version
}

fn replace(n: u64) -> PushOp {
    PushOp::Replace { state: json!({"n": n}).as_object().unwrap().clone() }
}

/// What a reader takes from a place on until it is live: whether it was told of a gap, the state, and its version.
async fn read(service: &SyncService, id: &DocumentId, after: u64) -> (bool, Value, u64) {
    let mut reader = service.follow(Scope::Document(id.clone()), Resume::After(after), PageLimit::STANDARD);
    let (mut told, mut state, mut version) = (false, Value::Null, after);
    loop {
        match reader.next().await.unwrap() {
            FeedItem::Events(events) => {
                for event in events {
                    assert_eq!(event.sequence_num(), version + 1, "no gap that nobody tells");
                    let body = state.as_object().cloned();
                    let patch = &event.change().diff;
                    state = patch.apply(body).unwrap().map_or(Value::Null, Value::Object);
                    version += 1;
                }
            }
            FeedItem::Snapshot(snapshot) => {
                (told, version) = (true, snapshot.version);
                state = snapshot.state.as_ref().map_or(Value::Null, |body| Value::Object((**body).clone()));
            }
            FeedItem::Resync { .. } => told = true,
            FeedItem::Live { cursor } => {
                assert_eq!(cursor, version);
                return (told, state, version);
            }
        }
    }
}

async fn check(storage: Arc<dyn Storage>, shelf: Arc<dyn Shelf>) {
    let service = SyncService::start(SyncServiceOptions {
        storage: Arc::new(EventSyncStorage::new(storage)),
        shelf,
        snapshots: SnapshotPolicy::STANDARD,
        compaction: None,
        rules: None,
    })
    .await
    .unwrap();
    let go = DocumentId::new("go").unwrap();
    for n in 1..=4 {
        assert_eq!(write(&service, "go", replace(n)).await, n);
    }
    assert_eq!(write(&service, "go", PushOp::Delete).await, 5);
    assert_eq!(service.storage().list_deleted(None, 9).await.unwrap(), std::slice::from_ref(&go));
    assert_eq!(read(&service, &go, 5).await, (false, Value::Null, 5));

    assert_eq!(EventCompactor::keeping(0).compact(&service, &go).await.unwrap(), 5);
    assert_eq!(service.storage().list_deleted(None, 9).await.unwrap(), []);
    for behind in [0, 2, 4] {
        let (told, state, version) = read(&service, &go, behind).await;
        assert_eq!((told, state, version), (true, Value::Null, 5), "from {behind} on");
    }
    let gone = service.state_at(&go, 3).await.unwrap_err();
    assert!(gone.is(ProblemType::HistoryCompacted), "{gone}");

    // It comes back under the next number, whoever is behind or was there.
    assert_eq!(write(&service, "go", replace(6)).await, 6);
    assert_eq!(write(&service, "go", replace(7)).await, 7);
    for behind in [0, 2, 4] {
        assert_eq!(read(&service, &go, behind).await, (true, json!({"n": 7}), 7), "from {behind} on");
    }
    assert_eq!(read(&service, &go, 5).await, (false, json!({"n": 7}), 7));
    assert_eq!(service.state_at(&go, 6).await.unwrap().value(), json!({"n": 6}));
    // And once more, with some of its history left.
    assert_eq!(write(&service, "go", PushOp::Delete).await, 8);
    assert_eq!(EventCompactor::keeping(1).compact(&service, &go).await.unwrap(), 2);
    assert_eq!(service.storage().list_deleted(None, 9).await.unwrap(), std::slice::from_ref(&go));
    assert_eq!(write(&service, "go", replace(9)).await, 9);
    assert_eq!(read(&service, &go, 6).await, (true, json!({"n": 9}), 9));
    assert_eq!(read(&service, &go, 8).await, (false, json!({"n": 9}), 9));
    service.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_behind_a_document_that_came_back_is_told_in_memory() {
    check(Arc::new(MemoryStorage::default()), Arc::new(MemoryShelf::new())).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_behind_a_document_that_came_back_is_told_by_the_embedded_store() {
    use nodestorage::{
        StorageOptions, Store,
        embedded::{EmbeddedOptions, EmbeddedStore},
    };
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path().join("documents"), EmbeddedOptions::default()).unwrap();
    let shelf = eventsync::shelf::EmbeddedShelf::open(folder.path().join("shelf")).unwrap();
    let games = (&store as &dyn Store).collection("games", StorageOptions::default()).await.unwrap();
    check(games, Arc::new(shelf)).await;
    store.close().await.unwrap();
}

#[cfg(all(feature = "mongodb", feature = "conformance"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_reader_behind_a_document_that_came_back_is_told_over_mongodb() {
    use eventsync::shelf::MongoShelf;
    use nodestorage::{MongoOptions, MongoStore, StorageOptions, Store, mongo::testing::TestServer};
    let server = TestServer::start();
    let options = MongoOptions { database: Some(server.database().to_owned()), ..MongoOptions::default() };
    let store = MongoStore::connect(server.uri(), options).await.unwrap();
    let games = store.collection("games", StorageOptions::default()).await.unwrap();
    check(Arc::new(games), Arc::new(MongoShelf::new(&store))).await;
    store.close().await.unwrap();
}
