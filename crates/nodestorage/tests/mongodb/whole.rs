//! Programs that write a document whole, with all that the store keeps in it: from what is there, or from an older copy.

use std::{convert::Infallible, sync::Arc, time::Duration};

use nodestorage::{
    Body, Change, Deleted, Edited, MongoOptions, MongoStorage, MongoStore, Operation, Storage, StorageExt,
    Store, Update, WatchFilter, WatchFrom,
    mongo::{
        DIRECT,
        driver::{
            Collection,
            bson::{Bson, Document as Bsons, doc},
        },
        testing::TestServer,
    },
};
use serde_json::json;
use tokio::{sync::Notify, time::timeout};

use super::{
    PATIENCE, body, by, counted,
    direct::{check, direct, next_direct},
    games, id,
    meddling::raw,
    open, options,
    otherwise::behind,
    proxy::{self, Manner},
};

async fn push(games: &MongoStorage, name: &str, producer: &str, sequence: u64) -> u64 {
    let entry = json!(format!("{producer}{sequence}"));
    if games.find_one(&id(name)).await.unwrap().is_none() {
        let (first, options) = (body(json!({"list": [entry]})), counted(producer, sequence));
        games.find_one_and_upsert(&id(name), first, options).await.unwrap();
        return 1;
    }
    let edit = |body: &mut Body| {
        body["list"].as_array_mut().unwrap().push(entry.clone());
        Ok::<_, Infallible>(())
    };
    match games.edit(&id(name), edit, counted(producer, sequence)).await.unwrap() {
        Edited::Changed { document, .. } => document.version,
        other => panic!("{other:?}"),
    }
}

async fn read(of: &Collection<Bsons>, name: &str) -> Bsons {
    of.find_one(doc! {"_id": name}).await.unwrap().unwrap()
}

async fn deaf(server: &TestServer) -> (MongoStore, MongoStorage) {
    let deaf = MongoOptions { listen: false, ..options(server) };
    let store = MongoStore::connect(server.uri(), deaf).await.unwrap();
    let games = games(&store).await;
    (store, games)
}

fn list(change: &Change) -> serde_json::Value {
    change.diff.apply(None).unwrap().unwrap()["list"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn who_saves_a_document_whole_is_seen() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    let other = direct(&games);
    for sequence in 1..=3 {
        push(&games, "a", "p", sequence).await;
    }
    let old = read(&other, "a").await;
    // Within an array: a writer that remembers the document does not ask for it.
    let mut saved = old.clone();
    saved.get_array_mut("list").unwrap().push("saved".into());
    other.replace_one(doc! {"_id": "a"}, saved).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.version, change.operation), (4, Operation::Update));
    assert_eq!(list(&change), json!(["p1", "p2", "p3", "saved"]));
    assert_eq!(push(&games, "a", "p", 4).await, 5);

    // A copy that is two versions old, with and without another change in it.
    let mut older = old.clone();
    older.get_array_mut("list").unwrap().push("older".into());
    for (copy, version, sequence, left) in
        [(old, 6, 5, json!(["p1", "p2", "p3"])), (older, 8, 6, json!(["p1", "p2", "p3", "older"]))]
    {
        other.replace_one(doc! {"_id": "a"}, copy).await.unwrap();
        let change = next_direct(&mut watch).await;
        assert_eq!((change.version, list(&change)), (version, left));
        // All that was answered is known still.
        assert_eq!(push(&games, "a", "p", sequence).await, version + 1);
    }
    check(&games, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_copy_under_another_name_is_a_document_of_its_own() {
    let server = TestServer::start();
    let (store, writer) = deaf(&server).await;
    for sequence in 1..=3 {
        push(&writer, "a", "p", sequence).await;
    }
    let fresh = read(&raw(&server, "games").await, "a").await;
    assert!(!fresh.get_document("_weft").unwrap().get_array("outbox").unwrap().is_empty(), "{fresh}");
    store.close().await.unwrap();
    let settled = read(&raw(&server, "games").await, "a").await;
    assert!(settled.get_document("_weft").unwrap().get_array("outbox").unwrap().is_empty(), "{settled}");

    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    // When it tells of this one, it listens.
    direct(&games).insert_one(doc! {"_id": "first"}).await.unwrap();
    next_direct(&mut watch).await;
    for (name, mut copy) in [("settled", settled), ("fresh", fresh)] {
        copy.insert("_id", name);
        direct(&games).insert_one(copy).await.unwrap();
        let change = next_direct(&mut watch).await;
        assert_eq!((&change.document_id, change.version), (&id(name), 1));
        assert_eq!(list(&change), json!(["p1", "p2", "p3"]));
        // What was written to the other one is nothing that was written to this one.
        assert_eq!(push(&games, name, "p", 1).await, 2);
        check(&games, name).await;
    }
    check(&games, "a").await;
}

/// Nobody listens: the next writer finds it, whether it has written the document itself or never saw it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn who_writes_upon_an_older_copy_takes_no_number_that_was_given() {
    let server = TestServer::start();
    let (mut store, mut games) = deaf(&server).await;
    for name in ["known", "unknown", "in a transaction"] {
        push(&games, name, "p", 1).await;
        let old = read(&direct(&games), name).await;
        for sequence in 2..=4 {
            push(&games, name, "p", sequence).await;
        }
        games.position().await.unwrap();
        direct(&games).replace_one(doc! {"_id": name}, old).await.unwrap();
        if name == "known" {
            assert_eq!(push(&games, name, "p", 5).await, 6);
        } else {
            store.close().await.unwrap();
            (store, games) = deaf(&server).await;
            if name == "unknown" {
                assert_eq!(push(&games, name, "p", 5).await, 6);
            } else {
                let written = games.transact(|of| {
                    Box::pin(async move {
                        let count_up = Update::parse(&json!({"$inc": {"n": 1}})).unwrap();
                        of.update_one(&id(name), &count_up, by("t")).await?;
                        Ok(())
                    })
                });
                assert_eq!(written.await.unwrap()[0].version, 6);
            }
        }
        let changes = games.changes(&id(name), 0, 10).await.unwrap().changes;
        assert_eq!(changes[4].producer.client_id.as_str(), DIRECT, "{name}");
        assert_eq!((changes.len(), list(&changes[4])), (6, json!(["p1"])), "{name}");
        check(&games, name).await;
    }
}

/// Holds back what the server's change streams tell.
struct TellsNothing(Arc<Notify>);

impl Manner for TellsNothing {
    fn answer(&self, _: &Bsons) -> Option<Bsons> {
        None
    }

    fn way(&self, command: &Bsons) -> Duration {
        if !command.contains_key("getMore") {
            return Duration::ZERO;
        }
        if command.get_str("collection").is_ok_and(|name| name == "games") {
            self.0.notify_one();
        }
        PATIENCE * 10
    }
}

/// Its stream is open, and far behind: it tells of the copy much later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn who_has_just_begun_to_listen_takes_no_number_that_was_given() {
    let server = TestServer::own();
    let (store, writer) = deaf(&server).await;
    push(&writer, "a", "p", 1).await;
    let old = read(&direct(&writer), "a").await;
    for sequence in 2..=4 {
        push(&writer, "a", "p", sequence).await;
    }
    store.close().await.unwrap();
    let listens = Arc::new(Notify::new());
    let port = proxy::start(server.port(), TellsNothing(Arc::clone(&listens))).await;
    let store = behind(port, options(&server)).await;
    let games = games(&store).await;
    timeout(PATIENCE, listens.notified()).await.unwrap();
    raw(&server, "games").await.replace_one(doc! {"_id": "a"}, old).await.unwrap();
    assert_eq!(push(&games, "a", "p", 5).await, 6);
    let changes = games.changes(&id("a"), 0, 10).await.unwrap().changes;
    assert_eq!(changes[4].producer.client_id.as_str(), DIRECT);
    check(&games, "a").await;
}

/// What a writer leaves that has met an older copy before anybody has seen it: a number that was given before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_number_that_was_given_twice_is_mended() {
    let server = TestServer::start();
    let (store, games) = deaf(&server).await;
    push(&games, "a", "p", 1).await;
    let old = read(&direct(&games), "a").await;
    for sequence in 2..=4 {
        push(&games, "a", "q", sequence - 1).await;
    }
    store.close().await.unwrap();
    // In a database that knows nothing of the last three, somebody else writes.
    let database = Some(format!("{}_old", server.database()));
    let elsewhere = MongoOptions { database, listen: false, ..options(&server) };
    let elsewhere = MongoStore::connect(server.uri(), elsewhere).await.unwrap();
    let there = super::games(&elsewhere).await;
    direct(&there).insert_one(old).await.unwrap();
    assert_eq!(push(&there, "a", "p", 2).await, 2);
    let written = read(&direct(&there), "a").await;
    let Some(Bson::Array(outbox)) = written.get_document("_weft").unwrap().get("outbox") else { panic!() };
    assert!(!outbox.is_empty());
    elsewhere.close().await.unwrap();
    raw(&server, "games").await.replace_one(doc! {"_id": "a"}, written).await.unwrap();

    let (_store, games) = deaf(&server).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(4)).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.version, list(&change)), (5, json!(["p1", "p2"])));
    // It was answered, and is not written once more.
    let repeated = games.delete_one(&id("a"), counted("p", 2)).await.unwrap();
    assert!(matches!(repeated, Deleted::Repeated { .. }), "{repeated:?}");
    let repeated = games.delete_one(&id("a"), counted("q", 3)).await.unwrap();
    assert_eq!(repeated, Deleted::Repeated { version: 4 });
    assert_eq!(push(&games, "a", "p", 3).await, 6);
    check(&games, "a").await;
}
