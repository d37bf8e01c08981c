//! What matters most once more on another make of the server, and what only that one does as MongoDB does.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use nodestorage::{
    MongoOptions, MongoStore, Storage, Store, WatchEvent, WatchFilter, WatchFrom, conformance,
    mongo::{
        driver::{
            Client,
            bson::{Document, doc},
        },
        testing::TestServer,
    },
};
use serde_json::json;

use super::{
    body, by,
    direct::{next, next_direct},
    games, id, open,
};

type Law = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the wheel of the server"]
async fn the_first_laws_hold_on_another_make_of_the_server() {
    let server = TestServer::second_opinion();
    let laws: [Law; 4] = [
        |store| Box::pin(conformance::concurrent_edits_of_one_document_are_all_kept(store)),
        |store| Box::pin(conformance::a_repeated_write_gets_the_first_answer(store)),
        |store| Box::pin(conformance::a_document_created_anew_continues_its_versions(store)),
        |store| Box::pin(conformance::a_transaction_changes_several_documents_as_one(store)),
    ];
    for (n, law) in laws.into_iter().enumerate() {
        let database = Some(format!("{}_{n}", server.database()));
        let options = MongoOptions { database, ..MongoOptions::default() };
        law(Arc::new(MongoStore::connect(server.uri(), options).await.unwrap())).await;
    }
}

/// On the binary an open transaction that has written holds up every change stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the wheel of the server"]
async fn an_open_transaction_of_another_program_holds_up_nobody() {
    let server = TestServer::second_opinion();
    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    let client = Client::with_uri_str(server.uri()).await.unwrap();
    let other = client.database(server.database()).collection::<Document>("games");
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    other.insert_one(doc! {"_id": "late", "n": 1}).session(&mut session).await.unwrap();

    // Both are told meanwhile: what the store writes, and what another program does.
    games.find_one_and_upsert(&id("own"), body(json!({"n": 1})), by("s")).await.unwrap();
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("nothing was missed") };
    assert_eq!(change.document_id, id("own"));
    other.insert_one(doc! {"_id": "direct", "n": 1}).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.document_id, id("direct"));
    assert_eq!(games.find_one(&id("late")).await.unwrap(), None);

    session.commit_transaction().await.unwrap();
    assert_eq!(next_direct(&mut watch).await.document_id, id("late"));
}
