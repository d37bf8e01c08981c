//! Other programs at what is the store's own: they take a document's marks away, or leave what nobody can record.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nodestorage::{
    Body, Deleted, MongoOptions, MongoStorage, MongoStore, Storage, StorageExt, Store, Update, Upserted,
    WatchEvent, WatchFilter, WatchFrom,
    mongo::{
        driver::{
            Client, Collection,
            bson::{Bson, DateTime, Document as Bsons, doc},
        },
        testing::TestServer,
    },
};
use serde_json::json;

use super::{
    PATIENCE, body, by, counted,
    direct::{check, direct, next, next_direct},
    games, id, open, options,
    proxy::{self, refusal},
};

/// The collection, for a program that does not know of the store.
async fn raw(server: &TestServer, name: &str) -> Collection<Bsons> {
    Client::with_uri_str(server.uri()).await.unwrap().database(server.database()).collection(name)
}

async fn write(games: &MongoStorage, name: &str, producer: &str, sequence: u64) {
    let edit = |body: &mut Body| {
        body.insert(producer.to_owned(), json!(sequence));
        Ok::<_, Infallible>(())
    };
    games.edit(&id(name), edit, counted(producer, sequence)).await.unwrap();
}

/// `*` is a name like any other; a place where changes were missed belongs to no document, and so to all who watch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_mark_of_missed_changes_is_of_no_document() {
    let server = TestServer::start();
    // This one does not listen, but follows the log.
    let deaf = MongoOptions { listen: false, ..options(&server) };
    let store = MongoStore::connect(server.uri(), deaf).await.unwrap();
    let games = games(&store).await;
    for name in ["a", "b", "c", "*"] {
        games.find_one_and_upsert(&id(name), body(json!({})), by("s")).await.unwrap();
    }
    let position = games.position().await.unwrap();
    let of = |name: &str| WatchFilter { documents: Some(vec![id(name)]) };
    let mut star = games.watch(of("*"), WatchFrom::After(position)).await.unwrap();
    let mut a = games.watch(of("a"), WatchFrom::After(position)).await.unwrap();
    // The log is followed once it shows what another process wrote.
    let writing = open(&server).await;
    let other = super::games(&writing).await;
    other.delete_one(&id("a"), by("s")).await.unwrap();
    assert!(matches!(next(&mut a).await, WatchEvent::Change(_)));
    writing.close().await.unwrap();

    // A token of another life of the server: what happened since then can't be told.
    let lost = doc! {"$set": {"token": {"_data": "8200000001000000012B0229296E04"}}};
    let tokens = raw(&server, "_weft.listeners").await;
    tokens.update_one(doc! {"_id": "games"}, lost).upsert(true).await.unwrap();
    let listening = open(&server).await;
    let _listens = super::games(&listening).await;
    let missed = position + 2;
    assert_eq!(next(&mut a).await, WatchEvent::Missed { resume_after: missed });
    assert_eq!(next(&mut star).await, WatchEvent::Missed { resume_after: missed });

    write(&games, "*", "s", 2).await;
    let WatchEvent::Change(change) = next(&mut star).await else { panic!("a change") };
    assert_eq!((change.version, change.position), (2, missed + 1));
    check(&games, "*").await;
    // Nobody records this, so the last number is that of the last event.
    listening.close().await.unwrap();
    raw(&server, "games").await.delete_one(doc! {"_id": "*"}).await.unwrap();
    assert_eq!(games.last_version(&id("*")).await.unwrap(), 2);
    let stays = raw(&server, "events").await.find_one(doc! {"missed": true}).await.unwrap().unwrap();
    assert_ne!(stays.get("documentId"), Some(&Bson::from("*")));
}
