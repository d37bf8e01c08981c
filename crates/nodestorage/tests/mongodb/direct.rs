//! Other programs at the same database.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt;
use nodestorage::{
    Body, Change, MongoOptions, MongoStorage, MongoStore, Operation, Storage, StorageExt, StorageOptions,
    Store, Upserted, Watch, WatchEvent, WatchFilter, WatchFrom,
    mongo::{
        DIRECT,
        driver::{
            Client, Collection,
            bson::{DateTime, Document as Bsons, doc},
        },
        testing::TestServer,
    },
};
use serde_json::json;

use super::{PATIENCE, body, by, counted, games, id, open, options};

pub(super) fn direct(games: &MongoStorage) -> Collection<Bsons> {
    games.native().unwrap().downcast_ref::<Collection<Bsons>>().unwrap().clone()
}

/// The log, as other programs read it.
async fn raw_log(server: &TestServer) -> Collection<Bsons> {
    Client::with_uri_str(server.uri()).await.unwrap().database(server.database()).collection("events")
}

pub(super) async fn next(watch: &mut Watch) -> WatchEvent {
    loop {
        match tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").unwrap().unwrap() {
            // That others were written to, as well.
            WatchEvent::Reached { .. } => {}
            event => return event,
        }
    }
}

pub(super) async fn next_direct(watch: &mut Watch) -> Change {
    loop {
        if let WatchEvent::Change(change) = next(watch).await
            && change.producer.client_id.as_str() == DIRECT
        {
            return (*change).clone();
        }
    }
}

/// The state that the events make is the document.
pub(super) async fn check(games: &MongoStorage, name: &str) {
    let mut state = None;
    for (change, version) in games.changes(&id(name), 0, 1_000).await.unwrap().changes.iter().zip(1..) {
        assert_eq!(change.version, version);
        state = change.diff.apply(state).unwrap();
    }
    let found = games.find_one(&id(name)).await.unwrap();
    assert_eq!(found.map(|found| (*found.body).clone()), state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_other_programs_write_is_seen_and_numbered() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    games.find_one_and_upsert(&id("go"), body(json!({"gold": 1, "name": "Go"})), by("s")).await.unwrap();
    let other = direct(&games);

    other.update_one(doc! {"_id": "go"}, doc! {"$set": {"gold": 5}, "$unset": {"name": ""}}).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.version, change.operation), (2, Operation::Update));
    let found = games.find_one(&id("go")).await.unwrap().unwrap();
    assert_eq!((found.version, &*found.body), (2, &body(json!({"gold": 5}))));

    other.insert_one(doc! {"_id": "new", "since": DateTime::from_millis(0), "n": 7_i32}).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.version, change.operation), (1, Operation::Create));
    // An edit elsewhere leaves the other program's date a date.
    let edit = |body: &mut Body| {
        body["n"] = json!(8);
        Ok::<_, Infallible>(())
    };
    games.edit(&id("new"), edit, by("s")).await.unwrap();
    let raw = other.find_one(doc! {"_id": "new"}).await.unwrap().unwrap();
    assert!(raw.get_datetime("since").is_ok() && raw.get_i64("n").is_ok_and(|n| n == 8), "{raw}");

    other.replace_one(doc! {"_id": "new"}, doc! {"_id": "new", "n": 9}).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!(change.version, 3);

    other.delete_one(doc! {"_id": "go"}).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.version, change.operation), (3, Operation::Delete));
    let made = games.find_one_and_upsert(&id("go"), body(json!({})), by("s")).await.unwrap();
    assert!(matches!(made, Upserted::Created { document, .. } if document.version == 4));
    check(&games, "go").await;
    check(&games, "new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_direct_write_between_two_edits_breaks_no_history() {
    let server = TestServer::start();
    // Nobody listens: the next writer finds it.
    let deaf = MongoOptions { listen: false, ..options(&server) };
    let store = MongoStore::connect(server.uri(), deaf).await.unwrap();
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({"list": [1, 2]})), by("s")).await.unwrap();
    direct(&games).update_one(doc! {"_id": "a"}, doc! {"$set": {"list": [9]}}).await.unwrap();
    let push = |body: &mut Body| {
        body["list"].as_array_mut().unwrap().push(json!(3));
        Ok::<_, Infallible>(())
    };
    games.edit(&id("a"), push, by("s")).await.unwrap();
    let found = games.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!((found.version, &found.body["list"]), (3, &json!([9, 3])));
    check(&games, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_was_written_while_nobody_listened_is_told_later() {
    let server = TestServer::start();
    let store = open(&server).await;
    let first = games(&store).await;
    first.find_one_and_upsert(&id("a"), body(json!({"n": 1})), by("s")).await.unwrap();
    // Its resume token has to be kept before it goes.
    let kept = store.database().collection::<Bsons>("_weft.listeners");
    tokio::time::timeout(PATIENCE, async {
        while kept.find_one(doc! {"_id": "games"}).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the token is kept");
    let client = Client::with_uri_str(server.uri()).await.unwrap();
    store.close().await.unwrap();
    let raw = client.database(server.database()).collection::<Bsons>("games");
    raw.update_one(doc! {"_id": "a"}, doc! {"$set": {"n": 2}}).await.unwrap();

    let store = open(&server).await;
    let second = games(&store).await;
    let mut watch = second.watch(WatchFilter::default(), WatchFrom::After(1)).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.version, 2);

    // A token of another life of the server: the collection is read anew, and whoever watches is told.
    store.close().await.unwrap();
    raw.update_one(doc! {"_id": "a"}, doc! {"$set": {"n": 3}}).await.unwrap();
    let tokens = client.database(server.database()).collection::<Bsons>("_weft.listeners");
    let lost = doc! {"$set": {"token": {"_data": "8200000001000000012B0229296E04"}}};
    tokens.update_one(doc! {"_id": "games"}, lost).await.unwrap();
    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(2)).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.version, change.metadata.get("missed")), (3, Some(&json!(true))));
    assert_eq!(next(&mut watch).await, WatchEvent::Missed { resume_after: 4 });
    check(&games, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_purged_tombstone_keeps_its_numbers_and_its_producers() {
    let server = TestServer::start();
    let soon = MongoOptions { tombstones_kept: Duration::from_millis(50), ..options(&server) };
    let store = MongoStore::connect(server.uri(), soon).await.unwrap();
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({})), counted("p", 1)).await.unwrap();
    games.delete_one(&id("a"), counted("p", 2)).await.unwrap();
    let raw = direct(&games);
    tokio::time::timeout(PATIENCE, async {
        while raw.find_one(doc! {"_id": "a"}).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the tombstone is purged");
    assert_eq!(games.last_version(&id("a")).await.unwrap(), 2);
    let repeated = games.find_one_and_upsert(&id("a"), body(json!({})), counted("p", 1)).await.unwrap();
    assert!(matches!(repeated, Upserted::Repeated { version: 1, .. }), "{repeated:?}");
    let made = games.find_one_and_upsert(&id("a"), body(json!({"n": 1})), counted("p", 3)).await.unwrap();
    assert!(matches!(made, Upserted::Created { document, .. } if document.version == 3));
    check(&games, "a").await;
}

/// The history of such a document has to stay, or its numbers would be given a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn who_deletes_a_document_that_came_back_from_its_tombstone_does_not_free_its_numbers() {
    let server = TestServer::start();
    let soon = MongoOptions { tombstones_kept: Duration::from_millis(50), ..options(&server) };
    let store = MongoStore::connect(server.uri(), soon).await.unwrap();
    let games = games(&store).await;
    let raw = direct(&games);
    for name in ["a", "b", "c"] {
        games.find_one_and_upsert(&id(name), body(json!({})), by("s")).await.unwrap();
        games.delete_one(&id(name), by("s")).await.unwrap();
    }
    tokio::time::timeout(PATIENCE, async {
        while raw.count_documents(doc! {}).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the tombstones are purged");
    // One page after another, past those of which nothing is left.
    assert_eq!(games.list_deleted(None, 9).await.unwrap(), ["a", "b", "c"].map(id));
    games.remove_changes(&id("a"), 2).await.unwrap();
    assert_eq!(games.list_deleted(None, 1).await.unwrap(), [id("b")]);
    games.find_one_and_upsert(&id("b"), body(json!({})), by("s")).await.unwrap();
    assert_eq!(games.list_deleted(None, 1).await.unwrap(), [id("c")]);
    store.close().await.unwrap();

    let client = Client::with_uri_str(server.uri()).await.unwrap();
    let raw = client.database(server.database()).collection::<Bsons>("games");
    raw.delete_one(doc! {"_id": "b"}).await.unwrap();
    // As if the stream of changes did not reach back so far.
    client.database(server.database()).collection::<Bsons>("_weft.listeners").drop().await.unwrap();
    // Nobody listens, or the delete would be recorded at any moment.
    let deaf = MongoOptions { listen: false, ..options(&server) };
    let store = MongoStore::connect(server.uri(), deaf).await.unwrap();
    let games = super::games(&store).await;
    assert_eq!(games.list_deleted(None, 9).await.unwrap(), [id("c")]);
    assert_eq!(games.last_version(&id("b")).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn names_that_are_the_servers_are_no_collections() {
    let server = TestServer::start();
    let store = open(&server).await;
    for name in ["events", "snapshots", "patches", "_weft.answers", "a$b", "system.users"] {
        assert!(store.collection(name, StorageOptions::default()).await.is_err(), "{name}");
    }
    let own = StorageOptions { version_field: "_weft".to_owned(), ..StorageOptions::default() };
    assert!(store.collection("games", own).await.is_err(), "a field of the store's own");
    // A second time everything is there already.
    open(&server).await.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn removed_changes_do_not_come_back_from_an_outbox_that_a_crash_left() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = super::games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("s")).await.unwrap();
    for n in 1..4 {
        let edit = |body: &mut Body| {
            body["n"] = json!(n);
            Ok::<_, Infallible>(())
        };
        games.edit(&id("a"), edit, by("s")).await.unwrap();
    }
    assert_eq!(games.remove_changes(&id("a"), 4).await.unwrap(), 4);
    let position = games.position().await.unwrap();
    // Without close: nothing is cleared on the way out.
    drop((games, store));
    let store = open(&server).await;
    let games = super::games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(position)).await.unwrap();
    games.find_one_and_upsert(&id("b"), body(json!({"n": 0})), by("s")).await.unwrap();
    let WatchEvent::Change(first) = next(&mut watch).await else { panic!("it is told of a change") };
    assert_eq!((&first.document_id, first.version), (&id("b"), 1));
}

/// Two processes: one compacts the beginning of the log away, while the other believes that the log ends there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_place_that_the_log_has_let_go_of_is_not_given_again() {
    let server = TestServer::start();
    let start_ms = 1_767_225_600_000;
    let time = Arc::new(AtomicU64::new(start_ms));
    let clock = Arc::clone(&time);
    let timed = MongoOptions { clock: Arc::new(move || clock.load(Relaxed)), ..options(&server) };
    let (idle, busy) = (open(&server).await, MongoStore::connect(server.uri(), timed).await.unwrap());
    let (idle, busy) = (super::games(&idle).await, super::games(&busy).await);
    idle.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("idle")).await.unwrap();
    assert_eq!(idle.position().await.unwrap(), 1);
    for name in ["b", "c", "d", "e"] {
        busy.find_one_and_upsert(&id(name), body(json!({"n": 0})), by("busy")).await.unwrap();
    }
    assert_eq!(busy.position().await.unwrap(), 5);
    for name in ["a", "b", "c", "d", "e"] {
        busy.remove_changes(&id(name), u64::MAX).await.unwrap();
    }
    let mut watch = busy.watch(WatchFilter::default(), WatchFrom::After(5)).await.unwrap();
    let edit = |body: &mut Body| {
        body["n"] = json!(1);
        Ok::<_, Infallible>(())
    };
    idle.edit(&id("a"), edit, by("idle")).await.unwrap();
    assert_eq!(idle.position().await.unwrap(), 6);
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("it is told of a change") };
    assert_eq!((&change.document_id, change.version, change.position), (&id("a"), 2, 6));

    // Much later the places go.
    let log = raw_log(&server).await;
    time.store(start_ms + 24 * 60 * 60 * 1_000, Relaxed);
    busy.remove_changes(&id("a"), 1).await.unwrap();
    assert_eq!(log.count_documents(doc! {}).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_document_may_have_more_producers_than_it_holds_marks() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    let producers = nodestorage::mongo::PRODUCERS_MAX as u64 + 40;
    games.find_one_and_upsert(&id("a"), body(json!({"n": 0})), counted("p0", 1)).await.unwrap();
    for producer in 1..producers {
        let edit = |body: &mut Body| {
            body["n"] = json!(producer);
            Ok::<_, Infallible>(())
        };
        games.edit(&id("a"), edit, counted(&format!("p{producer}"), 1)).await.unwrap();
    }
    let raw = direct(&games).find_one(doc! {"_id": "a"}).await.unwrap().unwrap();
    let held = raw.get_document("_weft").unwrap().get_document("producers").unwrap().len();
    assert!(held <= nodestorage::mongo::PRODUCERS_MAX, "{held}");
    assert_eq!(games.producers(&id("a")).await.unwrap().iter().count() as u64, producers);
    let repeated = games.delete_one(&id("a"), counted("p0", 1)).await.unwrap();
    assert_eq!(repeated, nodestorage::Deleted::Repeated { version: 1 });
    assert!(games.delete_one(&id("a"), counted("p1", 3)).await.is_err(), "a gap is a gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn two_stores_over_one_database_see_each_others_changes() {
    let server = TestServer::start();
    let (one, other) = (open(&server).await, open(&server).await);
    let (one, other) = (games(&one).await, games(&other).await);
    let mut watch = other.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    one.find_one_and_upsert(&id("a"), body(json!({})), by("s")).await.unwrap();
    let WatchEvent::Change(change) = next(&mut watch).await else { panic!("a change") };
    assert_eq!((change.version, change.position), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_document_whose_id_is_no_name_here_is_left_alone() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    let other = direct(&games);
    let long = "x".repeat(300);
    for foreign in ["", "a\nb", &long] {
        other.insert_one(doc! {"_id": foreign, "gold": 1}).await.unwrap();
    }
    other.insert_one(doc! {"_id": 7, "gold": 1}).await.unwrap();
    for name in ["a", "b"] {
        games.find_one_and_upsert(&id(name), body(json!({"gold": 1})), by("s")).await.unwrap();
    }
    let mut listed = Vec::new();
    loop {
        let page = games.list(listed.last(), 1).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|document| document.id));
    }
    assert_eq!(listed, [id("a"), id("b")]);
    let found = games.find_many(nodestorage::Query::default()).await.unwrap().found;
    assert!(found.iter().map(|found| &found.id).eq(&listed));
}
