//! The store over MongoDB, on a server of its own per test: the laws of all stores, and what only a database of several
//! programs can do to one.

mod crashes;
mod direct;
mod effects;
mod faults;
mod filters;
mod groups;
mod layout;
mod listening;
mod meddling;
mod otherwise;
mod pages;
mod pipelines;
mod proxy;
mod remembered;
mod second_opinion;
mod transactions;
mod turns;
mod updates;
mod verbs;
mod waiting;
mod whole;

use crdt_core::ClientId;
use nodestorage::{
    Body, DocumentId, EditOptions, MongoOptions, MongoStorage, MongoStore, StorageOptions,
    mongo::testing::TestServer,
};

/// Nothing here takes so long, except when it is broken.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Nor do all the writes of one test together, each of which may be tried again and again.
const WRITES_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(180);

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn by(name: &str) -> EditOptions {
    EditOptions::by(ClientId::new(name).unwrap())
}

fn counted(name: &str, sequence: u64) -> EditOptions {
    let mut options = by(name);
    options.producer.sequence = Some(sequence);
    options
}

fn body(value: serde_json::Value) -> Body {
    value.as_object().unwrap().clone()
}

fn options(server: &TestServer) -> MongoOptions {
    MongoOptions { database: Some(server.database().to_owned()), ..MongoOptions::default() }
}

async fn open(server: &TestServer) -> MongoStore {
    MongoStore::connect(server.uri(), options(server)).await.unwrap()
}

async fn games(store: &MongoStore) -> MongoStorage {
    store.collection("games", StorageOptions::default()).await.unwrap()
}

async fn store() -> (MongoStore, TestServer) {
    let server = TestServer::start();
    (open(&server).await, server)
}

mod laws_behind_a_cache {
    use std::sync::Arc;

    use nodestorage::{CachedStore, MemoryCache, mongo::testing::TestServer};

    async fn store() -> (CachedStore, TestServer) {
        let (store, server) = super::store().await;
        (CachedStore::new(Arc::new(store), |_| Arc::new(MemoryCache::default())), server)
    }

    nodestorage::conformance_tests!(
        #[ignore = "needs secantusd"]
        store
    );
}

mod laws {
    use super::store;

    nodestorage::conformance_tests!(
        #[ignore = "needs secantusd"]
        store
    );
}
