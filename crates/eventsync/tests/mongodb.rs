//! Events, snapshots, state vectors and clocks in a MongoDB database outlive the server of clients.

use std::sync::Arc;

use crdt_core::ClientId;
use eventsync::{
    EventSyncStorage, FeedItem, MongoVectorClockManager, PageLimit, Resume, Scope, Snapshot, SnapshotPolicy,
    SnapshotStore, StateVectorManager, SyncService, SyncServiceOptions, VectorClockManager,
    event::ClientVector, shelf::MongoShelf, snapshot::ShelfSnapshotStore,
};
use nodestorage::{
    Body, DocumentId, EditOptions, MongoOptions, MongoStore, Storage, StorageExt, StorageOptions, Store,
    mongo::testing::TestServer,
};
use serde_json::json;

async fn open(server: &TestServer) -> MongoStore {
    let options = MongoOptions { database: Some(server.database().to_owned()), ..MongoOptions::default() };
    MongoStore::connect(server.uri(), options).await.unwrap()
}

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).unwrap()
}

/// Everything that the service keeps, over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn events_snapshots_vectors_and_clocks_are_there_after_a_restart() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = Arc::new(store.collection("games", StorageOptions::default()).await.unwrap());
    let shelf = Arc::new(MongoShelf::new(&store));
    let clocks = Arc::new(MongoVectorClockManager::new(shelf.clone()));
    let storage = Arc::new(EventSyncStorage::new(games).with_vector_clock_manager(clocks));
    let by = |sequence| {
        let mut options = EditOptions::by(client("p.1"));
        options.producer.sequence = Some(sequence);
        options
    };
    storage.find_one_and_upsert(&id("go"), Body::new(), by(1)).await.unwrap();
    for n in 2..=130u64 {
        let edit = |body: &mut Body| {
            body.insert("n".to_owned(), json!(n));
            Ok::<_, std::convert::Infallible>(())
        };
        storage.edit(&id("go"), edit, by(n)).await.unwrap();
    }
    let vector = ClientVector::from_iter([(client("p.1"), 90)]);
    let vectors = StateVectorManager::new(shelf.clone(), storage.events().clone());
    vectors.update(&id("go"), &client("reader.1"), &vector, 90, 7).await.unwrap();
    let snapshots = ShelfSnapshotStore::new(shelf);
    let snapshot = Snapshot {
        document_id: id("go"),
        version: 100,
        state: None,
        state_vector: vector.clone(),
        created_at: 5,
        timestamp: Some(4),
    };
    snapshots.save(&snapshot).await.unwrap();
    store.close().await.unwrap();

    let store = open(&server).await;
    let shelf = Arc::new(MongoShelf::new(&store));
    let clocks = MongoVectorClockManager::new(shelf.clone());
    assert_eq!(clocks.get_vector_clock(&id("go")).await.unwrap().version, 128, "written every 64 events");
    let games = Arc::new(store.collection("games", StorageOptions::default()).await.unwrap());
    let storage = Arc::new(EventSyncStorage::new(games));
    let vectors = StateVectorManager::new(shelf.clone(), storage.events().clone());
    let missing = vectors.missing_events(&id("go"), &client("reader.1"), PageLimit::STANDARD).await.unwrap();
    let numbers: Vec<u64> = missing.events.iter().map(|event| event.sequence_num()).collect();
    assert_eq!(numbers, (91..=130).collect::<Vec<_>>());
    assert_eq!(storage.events().latest(&id("go")).await.unwrap(), 130);
    let found = ShelfSnapshotStore::new(shelf.clone()).at_or_before(&id("go"), 129).await.unwrap();
    assert_eq!(found, Some(snapshot));

    let options = SyncServiceOptions {
        storage,
        shelf,
        snapshots: SnapshotPolicy::STANDARD,
        compaction: None,
        rules: None,
    };
    let service = SyncService::start(options).await.unwrap();
    let mut reader = service.follow(Scope::Document(id("go")), Resume::After(120), PageLimit::STANDARD);
    let FeedItem::Events(events) = reader.next().await.unwrap() else { panic!("events come first") };
    assert_eq!(events[0].sequence_num(), 121);
    service.close().await.unwrap();
}
