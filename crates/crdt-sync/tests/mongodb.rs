//! The patch store in a MongoDB database against the laws of the trait.

use std::sync::Arc;

use async_trait::async_trait;
use crdt_sync::store::{MongoPatchStore, PatchStore, conformance::StoreMaker};
use nodestorage::{MongoOptions, MongoStore, mongo::testing::TestServer};

struct Database {
    server: TestServer,
    /// Its connections are the patch store's.
    store: Option<MongoStore>,
}

#[async_trait]
impl StoreMaker for Database {
    async fn open(&mut self) -> (Arc<dyn PatchStore>, bool) {
        let options =
            MongoOptions { database: Some(self.server.database().to_owned()), ..MongoOptions::default() };
        let store = MongoStore::connect(self.server.uri(), options).await.unwrap();
        let patches = MongoPatchStore::open(&store, "doc").await.unwrap();
        self.store = Some(store);
        (Arc::new(patches), true)
    }
}

crdt_sync::patch_store_conformance_tests!(
    Database { server: TestServer::start(), store: None },
    #[ignore = "needs secantusd"]
);
