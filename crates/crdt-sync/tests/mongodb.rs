//! The patch store in a MongoDB database against the laws of the trait.

use std::sync::Arc;

use async_trait::async_trait;
use crdt_core::{PatchBuilder, SessionId, StateVector};
use crdt_sync::{
    PatchRecord,
    store::{MongoPatchStore, PatchStore, conformance::StoreMaker},
};
use nodestorage::{
    MongoOptions, MongoStore,
    mongo::{
        driver::bson::{Document, doc, oid::ObjectId},
        testing::TestServer,
    },
};

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

/// Somebody crashed while he installed a snapshot: before the head named it, or right behind.
#[tokio::test]
#[ignore = "needs secantusd"]
async fn what_an_installation_left_that_was_cut_off_goes_with_the_next() {
    let mut database = Database { server: TestServer::start(), store: None };
    let (store, _) = database.open().await;
    let session = SessionId::new(70_000).unwrap();
    let mut builder = PatchBuilder::new(session, 1);
    builder.nop(3);
    let patch = builder.finish().unwrap();
    let record = PatchRecord::new(0, patch.as_bytes().to_vec().into()).unwrap();
    store.append(std::slice::from_ref(&record)).await.unwrap();
    let mongo = database.store.as_ref().unwrap().database();
    let (patches, pieces) =
        (mongo.collection::<Document>("patches"), mongo.collection::<Document>("patch_snapshots"));
    let folded = patches.find_one(doc! {}).await.unwrap().unwrap();
    let vector = StateVector::from_iter([(session, 3)]);
    store.install(&vector, "snapshot".into()).await.unwrap();
    assert_eq!(patches.count_documents(doc! {}).await.unwrap(), 0);

    patches.insert_one(&folded).await.unwrap();
    let (old, new) = (ObjectId::from_parts(1_000_000_000, [1; 5], [1; 3]), ObjectId::new());
    for left in [old, new] {
        pieces.insert_one(doc! {"_id": {"g": left, "n": 0_i64}, "d": "doc", "bytes": "x"}).await.unwrap();
    }
    store.install(&vector, "snapshot".into()).await.unwrap();
    assert_eq!(patches.count_documents(doc! {}).await.unwrap(), 0);
    // What somebody may still be writing stays.
    assert_eq!(pieces.count_documents(doc! {"_id.g": old}).await.unwrap(), 0);
    assert_eq!(pieces.count_documents(doc! {"_id.g": new}).await.unwrap(), 1);
    assert_eq!(store.snapshot().await.unwrap(), Some((vector, "snapshot".into())));
}
