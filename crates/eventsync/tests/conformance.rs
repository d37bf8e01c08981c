//! Events, snapshots, state vectors and clocks keep their laws in memory, in a folder and in MongoDB.

use std::sync::Arc;

use eventsync::{conformance::Stores, shelf::MemoryShelf};
use nodestorage::MemoryStorage;

mod memory {
    use super::*;

    async fn make() -> (Stores, ()) {
        let shelf = Arc::new(MemoryShelf::new());
        (Stores { storage: Arc::new(MemoryStorage::default()), other: shelf.clone(), shelf }, ())
    }

    eventsync::conformance_tests!(make);
}

#[cfg(feature = "embedded")]
mod embedded {
    use eventsync::shelf::EmbeddedShelf;
    use nodestorage::{EmbeddedOptions, EmbeddedStore, StorageOptions};
    use tempfile::TempDir;

    use super::*;

    async fn make() -> (Stores, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path().join("documents"), EmbeddedOptions::default()).unwrap();
        let storage = store.collection("games", StorageOptions::default()).await.unwrap();
        // One process at a time has the folder, so the other handle is a clone.
        let shelf = Arc::new(EmbeddedShelf::open(folder.path().join("side")).unwrap());
        (Stores { storage: Arc::new(storage), other: Arc::new((*shelf).clone()), shelf }, folder)
    }

    eventsync::conformance_tests!(make);
}

#[cfg(feature = "mongodb")]
mod mongodb {
    use eventsync::{
        EventSyncStorage, SnapshotPolicy, SyncService, SyncServiceOptions,
        protocol::PushOp,
        service::{IdempotencyKey, SyncRequest, WriteOptions},
        shelf::MongoShelf,
    };
    use futures_util::TryStreamExt;
    use nodestorage::{
        DocumentId, MongoOptions, MongoStore, StorageOptions,
        mongo::{
            driver::bson::{Document, doc},
            testing::TestServer,
        },
    };
    use serde_json::json;

    use super::*;

    async fn open(server: &TestServer) -> MongoStore {
        let database = Some(server.database().to_owned());
        MongoStore::connect(server.uri(), MongoOptions { database, ..MongoOptions::default() }).await.unwrap()
    }

    async fn make() -> (Stores, (MongoStore, MongoStore, TestServer)) {
        let server = TestServer::start();
        // Two processes over one database share no more than that.
        let (one, other) = (open(&server).await, open(&server).await);
        let storage = Arc::new(one.collection("games", StorageOptions::default()).await.unwrap());
        let (shelf, second) = (Arc::new(MongoShelf::new(&one)), Arc::new(MongoShelf::new(&other)));
        (Stores { storage, shelf, other: second }, (one, other, server))
    }

    eventsync::conformance_tests!(
        #[ignore = "needs secantusd"]
        make
    );

    /// Founding documents 001 and 003 name the collections.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs secantusd"]
    async fn each_kind_is_in_the_collection_of_its_name() {
        let server = TestServer::start();
        let store = open(&server).await;
        let shelf: Arc<dyn eventsync::shelf::Shelf> = Arc::new(MongoShelf::new(&store));
        let games = Arc::new(store.collection("games", StorageOptions::default()).await.unwrap());
        let clocks = eventsync::PersistentVectorClockManager::new(Arc::clone(&shelf));
        let storage = EventSyncStorage::new(games).with_vector_clock_manager(Arc::new(clocks));
        let snapshots = SnapshotPolicy { every: Some(50), ..SnapshotPolicy::STANDARD };
        let options = SyncServiceOptions {
            storage: Arc::new(storage),
            shelf,
            snapshots,
            compaction: None,
            rules: None,
        };
        let service = SyncService::start(options).await.unwrap();
        let chess = DocumentId::new("chess").unwrap();
        let by = || WriteOptions::by(crdt_core::ClientId::new("p.1").unwrap());
        let key = IdempotencyKey { name: "first".to_owned(), fingerprint: 1 };
        for n in 0..64 {
            let op = PushOp::Replace { state: json!({"n": n}).as_object().unwrap().clone() };
            match n {
                0 => service.write_once(&key, &chess, &op, by()).await.unwrap().1,
                _ => service.write(&chess, &op, by()).await.unwrap(),
            };
        }
        let request =
            SyncRequest { client_id: Some(crdt_core::ClientId::new("tab").unwrap()), ..Default::default() };
        service.sync(&chess, &request).await.unwrap();
        service.snapshot(&chess).await.unwrap();
        let named = async |name: &str, about: &str| {
            let rows: Vec<Document> =
                store.database().collection(name).find(doc! {}).await.unwrap().try_collect().await.unwrap();
            assert!(!rows.is_empty(), "nothing is in {name}");
            for row in rows {
                assert_eq!(
                    row.get_str(about).unwrap_or_default(),
                    if name == "idempotency_keys" { "first" } else { "chess" },
                    "{name}: {row}"
                );
            }
        };
        named("games", "_id").await;
        named("events", "documentId").await;
        for name in ["snapshots", "state_vectors", "vector_clocks", "idempotency_keys"] {
            named(name, "about").await;
        }
        let mut others = store.database().list_collection_names().await.unwrap();
        others.retain(|name| {
            !["games", "events", "snapshots", "state_vectors", "vector_clocks", "idempotency_keys"]
                .contains(&name.as_str())
                && !name.starts_with("_weft.")
        });
        assert_eq!(others, [""; 0], "docs/formats/mongodb.md does not name them");
        service.close().await.unwrap();
    }
}
