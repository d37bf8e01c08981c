//! Events, snapshots, state vectors and clocks in a MongoDB database outlive the server of clients.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crdt_core::ClientId;
use eventsync::{
    EventSyncStorage, FeedItem, MongoVectorClockManager, PageLimit, Resume, Scope, Snapshot, SnapshotPolicy,
    SnapshotStore, StateVectorManager, SyncService, SyncServiceOptions, VectorClockManager,
    event::ClientVector,
    shelf::{Durability, MongoShelf, Shelf},
    snapshot::ShelfSnapshotStore,
};
use nodestorage::{
    Body, DocumentId, EditOptions, MongoOptions, MongoStore, Storage, StorageExt, StorageOptions, Store,
    mongo::testing::TestServer,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

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

/// Forwards to a server, and cuts the first connection by which something is inserted into a collection, once it is answered.
async fn cuts_an_insert(server: u16, collection: &'static str) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cut = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let cut = cut.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let inserts = Arc::new(AtomicBool::new(false));
                let seen = inserts.clone();
                let requests = tokio::spawn(async move {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(len @ 1..) = from_client.read(&mut bytes).await {
                        let has =
                            |text: &str| bytes[..len].windows(text.len()).any(|at| at == text.as_bytes());
                        if has("insert") && has(collection) && !cut.swap(true, Ordering::Relaxed) {
                            seen.store(true, Ordering::Relaxed);
                        }
                        to_server.write_all(&bytes[..len]).await.unwrap();
                    }
                });
                let mut bytes = vec![0; 64 << 10];
                while let Ok(len @ 1..) = from_server.read(&mut bytes).await {
                    if inserts.load(Ordering::Relaxed) || to_client.write_all(&bytes[..len]).await.is_err() {
                        break;
                    }
                }
                requests.abort();
            });
        }
    });
    port
}

/// Whoever is told that somebody else was faster takes a note of its own for another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_swap_whose_answer_was_cut_is_done() {
    let server = TestServer::own();
    let port = cuts_an_insert(server.port(), "idempotency_keys").await;
    let options = MongoOptions { database: Some(server.database().to_owned()), ..MongoOptions::default() };
    let store = MongoStore::connect(&TestServer::uri_at(port), options).await.unwrap();
    let shelf = MongoShelf::new(&store);
    let (key, mine, others) = (b"idempotency\0go\0a".to_vec(), b"mine".to_vec(), b"others".to_vec());
    let swap = |expected: Option<&Vec<u8>>, value: &Vec<u8>| {
        shelf.swap(key.clone(), expected.cloned(), Some(value.clone()), Durability::Synced)
    };
    assert!(swap(None, &mine).await.unwrap());
    assert!(!swap(None, &others).await.unwrap());
    assert!(!swap(Some(&others), &mine).await.unwrap());
    assert!(swap(Some(&mine), &others).await.unwrap());
    store.close().await.unwrap();
}
