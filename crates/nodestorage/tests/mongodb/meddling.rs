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
    Body, Deleted, Filter, MongoOptions, MongoStorage, MongoStore, Query, Storage, StorageExt, Store, Update,
    Upserted, WatchEvent, WatchFilter, WatchFrom,
    mongo::{
        driver::{
            Client, Collection,
            bson::{Bson, DateTime, Document as Bsons, doc, oid::ObjectId},
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
pub(super) async fn raw(server: &TestServer, name: &str) -> Collection<Bsons> {
    Client::with_uri_str(server.uri()).await.unwrap().database(server.database()).collection(name)
}

async fn write(games: &MongoStorage, name: &str, producer: &str, sequence: u64) {
    let edit = |body: &mut Body| {
        body.insert(producer.to_owned(), json!(sequence));
        Ok::<_, Infallible>(())
    };
    games.edit(&id(name), edit, counted(producer, sequence)).await.unwrap();
}

/// The versions are those that the writes were answered with: `p` wrote 1 to 5, `q` 6.
async fn know_their_producers(games: &MongoStorage, names: &[&str]) {
    for name in names {
        let (name, producers) = (&id(name), games.producers(&id(name)).await.unwrap());
        let lasts: Vec<_> = producers.iter().map(|(client, last)| (client.as_str(), last)).collect();
        assert!(lasts.contains(&("p", 5)) && lasts.contains(&("q", 1)), "{name}: {lasts:?}");
        for (producer, sequence, version) in [("p", 5, 5), ("q", 1, 6)] {
            let repeated = games.delete_one(name, counted(producer, sequence)).await.unwrap();
            assert_eq!(repeated, Deleted::Repeated { version }, "{producer} {sequence} of {name}");
        }
        let repeated = games.delete_one(name, counted("p", 1)).await.unwrap();
        assert!(matches!(repeated, Deleted::Repeated { .. }), "{name}: {repeated:?}");
        assert!(games.delete_one(name, counted("p", 7)).await.is_err(), "{name}: a gap is a gap");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn who_replaces_or_deletes_a_document_does_not_make_its_producers_forgotten() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    for name in ["replaced", "deleted", "compacted", "both"] {
        games.find_one_and_upsert(&id(name), body(json!({})), counted("p", 1)).await.unwrap();
        for sequence in 2..=5 {
            write(&games, name, "p", sequence).await;
        }
        write(&games, name, "q", 1).await;
    }
    assert_eq!(games.remove_changes(&id("compacted"), 6).await.unwrap(), 6);
    assert_eq!(games.remove_changes(&id("both"), 3).await.unwrap(), 3);
    let other = direct(&games);
    for name in ["replaced", "compacted", "both"] {
        other.replace_one(doc! {"_id": name}, doc! {"_id": name, "n": 9}).await.unwrap();
        assert_eq!(next_direct(&mut watch).await.version, 7);
    }
    other.delete_one(doc! {"_id": "deleted"}).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.version, 7);
    know_their_producers(&games, &["replaced", "deleted", "compacted", "both"]).await;
    // A second time: the change that was recorded has its own mark as well.
    other.replace_one(doc! {"_id": "replaced"}, doc! {"_id": "replaced", "n": 10}).await.unwrap();
    let change = next_direct(&mut watch).await;
    assert_eq!((change.version, change.producer.sequence), (8, Some(2)));
    know_their_producers(&games, &["replaced"]).await;
    check(&games, "replaced").await;
    check(&games, "deleted").await;
}

/// Nobody listens: whoever writes next finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn marks_that_are_beside_outlive_a_direct_write() {
    let server = TestServer::start();
    let deaf = MongoOptions { listen: false, ..options(&server) };
    let store = MongoStore::connect(server.uri(), deaf).await.unwrap();
    let games = games(&store).await;
    let producers = nodestorage::mongo::PRODUCERS_MAX as u64 + 40;
    games.find_one_and_upsert(&id("a"), body(json!({})), counted("p0", 1)).await.unwrap();
    for producer in 1..producers {
        write(&games, "a", &format!("p{producer}"), 1).await;
    }
    games.remove_changes(&id("a"), producers).await.unwrap();
    direct(&games).replace_one(doc! {"_id": "a"}, doc! {"_id": "a"}).await.unwrap();
    for producer in [0, 1, producers - 1] {
        let repeated = games.delete_one(&id("a"), counted(&format!("p{producer}"), 1)).await.unwrap();
        assert_eq!(repeated, Deleted::Repeated { version: producer + 1 });
    }
    assert_eq!(games.producers(&id("a")).await.unwrap().iter().count() as u64, producers + 1);
    direct(&games).delete_one(doc! {"_id": "a"}).await.unwrap();
    let repeated = games.delete_one(&id("a"), counted("p1", 1)).await.unwrap();
    assert_eq!(repeated, Deleted::Repeated { version: 2 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn who_deletes_a_document_at_once_does_not_free_a_number_that_was_answered() {
    let server = TestServer::own();
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let log_that_fails = move |command: &Bsons| {
        let refused =
            command.get_str("insert").is_ok_and(|name| name == "events") && fails.load(Ordering::Relaxed);
        refused.then(|| refusal(14_031, "the disk is full"))
    };
    let port = proxy::start(server.port(), log_that_fails).await;
    let deaf = MongoOptions { listen: false, ..options(&server) };
    let store = MongoStore::connect(&TestServer::uri_at(port), deaf).await.unwrap();
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({})), counted("p", 1)).await.unwrap();
    // Its event is nowhere but in the queue of this process now.
    raw(&server, "games").await.delete_one(doc! {"_id": "a"}).await.unwrap();
    let refused = games.find_one_and_upsert(&id("a"), body(json!({})), by("s")).await.unwrap_err();
    assert!(refused.to_string().contains("the disk is full"), "{refused}");
    failing.store(false, Ordering::Relaxed);
    let made = games.find_one_and_upsert(&id("a"), body(json!({})), by("s")).await.unwrap();
    assert!(matches!(&made, Upserted::Created { document, .. } if document.version == 2), "{made:?}");
    let repeated = games.delete_one(&id("a"), counted("p", 1)).await.unwrap();
    assert_eq!(repeated, Deleted::Repeated { version: 1 });
}

/// Nobody listens: the transaction itself finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_transaction_goes_on_from_what_another_program_has_left() {
    let server = TestServer::start();
    let deaf = MongoOptions { listen: false, ..options(&server) };
    let store = MongoStore::connect(server.uri(), deaf).await.unwrap();
    let games = games(&store).await;
    for name in ["replaced", "updated", "deleted", "read"] {
        games.find_one_and_upsert(&id(name), body(json!({"n": 1})), by("s")).await.unwrap();
    }
    let other = direct(&games);
    other.replace_one(doc! {"_id": "replaced"}, doc! {"_id": "replaced", "n": 9}).await.unwrap();
    other.update_one(doc! {"_id": "updated"}, doc! {"$set": {"n": 8}}).await.unwrap();
    for name in ["deleted", "read"] {
        other.delete_one(doc! {"_id": name}).await.unwrap();
    }
    let written = games.transact(|of| {
        Box::pin(async move {
            assert_eq!(of.find_one(&id("read")).await?, None);
            for name in ["replaced", "updated", "deleted"] {
                of.find_one_and_upsert(&id(name), body(json!({"n": 0})), by("s")).await?;
                let count_up = Update::parse(&json!({"$inc": {"n": 1}})).unwrap();
                of.update_one(&id(name), &count_up, by("s")).await?;
            }
            Ok(())
        })
    });
    let written = tokio::time::timeout(PATIENCE, written).await.expect("in time").unwrap();
    let last = |name: &str| written.iter().rfind(|change| change.document_id == id(name)).unwrap().version;
    assert_eq!(["replaced", "updated", "deleted"].map(last), [3, 3, 3]);
    for (name, n) in [("replaced", 10), ("updated", 9), ("deleted", 1)] {
        let found = games.find_one(&id(name)).await.unwrap().unwrap();
        assert_eq!((found.version, &found.body["n"]), (3, &json!(n)), "{name}");
    }
    for name in ["replaced", "updated", "deleted", "read"] {
        check(&games, name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_document_that_can_not_be_recorded_keeps_nobody_from_seeing_the_others() {
    let server = TestServer::start();
    let other = raw(&server, "games").await;
    // With an event that says what it is, it is more than the server takes.
    let large = |name: &str| doc! {"_id": name, "text": "x".repeat(7 << 20)};
    let damaged = |name: &str| doc! {"_id": name, "n": 1, "_weft": {"producers": {"p": 7}}};
    let none = |name: &str| doc! {"_id": name, "n": 1, "_weft": 1};
    let filled = |name: &str| doc! {"_id": name, "n": 1, "_weft": {"outbox": 5}};
    let written = |name: &str| doc! {"_id": name, "_weft": {"write": ObjectId::new(), "outbox": 5}};
    // Some before anybody listens, in the order in which they are looked at.
    let before =
        [large("a"), damaged("b"), none("b1"), filled("b2"), written("b3"), doc! {"_id": "c", "n": 1}];
    other.insert_many(before).await.unwrap();
    let store = open(&server).await;
    let games = games(&store).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(0)).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.document_id, id("c"));

    let later =
        [large("d"), damaged("e"), none("e1"), filled("e2"), written("e3"), doc! {"_id": "f", "n": 1}];
    other.insert_many(later).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.document_id, id("f"));
    // What is there of it is shown, and who writes to it is told.
    assert_eq!(games.find_one(&id("a")).await.unwrap().unwrap().version, 0);
    let refused = games.find_one_and_upsert(&id("d"), body(json!({})), by("s")).await.unwrap_err();
    assert!(refused.to_string().contains("more than the server takes"), "{refused}");
    // Also among the others, and what is damaged of the store's own is nothing to those who only read.
    for name in ["b", "e"] {
        assert_eq!(games.find_one(&id(name)).await.unwrap().unwrap().body["n"], json!(1));
    }
    // Two of them are large, so they come on several pages.
    let (mut listed, mut last) = (0, None);
    loop {
        let page = games.list(last.as_ref(), 100).await.unwrap();
        let Some(end) = page.last() else { break };
        last = Some(end.id.clone());
        listed += page.len();
    }
    assert_eq!(listed, 12);
    let found =
        games.find_many(Query { filter: Filter::parse(&json!({"n": 1})).unwrap(), ..Query::default() });
    assert_eq!(found.await.unwrap().found.len(), 8);
    // When it is small enough it is recorded.
    other.update_one(doc! {"_id": "a"}, doc! {"$set": {"text": "y"}}).await.unwrap();
    assert_eq!(next_direct(&mut watch).await.document_id, id("a"));
}

pub(super) async fn is_purged(raw: &Collection<Bsons>, name: &str) {
    tokio::time::timeout(PATIENCE, async {
        while raw.find_one(doc! {"_id": name}).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the tombstone is purged");
}

/// The marks lie in the order in which their producers first wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_tombstone_is_purged_whoever_wrote_first() {
    let server = TestServer::start();
    let soon = MongoOptions { tombstones_kept: Duration::from_millis(50), ..options(&server) };
    let store = MongoStore::connect(server.uri(), soon).await.unwrap();
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({})), counted("z", 1)).await.unwrap();
    games.delete_one(&id("a"), counted("b", 1)).await.unwrap();
    is_purged(&direct(&games), "a").await;
    for (producer, version) in [("z", 1), ("b", 2)] {
        let repeated = games.delete_one(&id("a"), counted(producer, 1)).await.unwrap();
        assert_eq!(repeated, Deleted::Repeated { version });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn tombstones_that_can_not_be_moved_do_not_keep_the_others() {
    let server = TestServer::start();
    let other = raw(&server, "games").await;
    let damaged = (0..1_100).map(|n| {
        let own = doc! {"version": 1, "deleted": DateTime::from_millis(0), "producers": {"p": 7}};
        doc! {"_id": format!("a{n:04}"), "_weft": own}
    });
    other.insert_many(damaged).await.unwrap();
    let soon = MongoOptions { tombstones_kept: Duration::from_millis(50), listen: false, ..options(&server) };
    let store = MongoStore::connect(server.uri(), soon).await.unwrap();
    let games = games(&store).await;
    games.find_one_and_upsert(&id("b"), body(json!({})), by("s")).await.unwrap();
    games.delete_one(&id("b"), by("s")).await.unwrap();
    is_purged(&other, "b").await;
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

/// Documents that other programs have put there with what is the store's own, but numbers that are gone or were given before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_number_that_was_given_is_not_given_again_whatever_another_program_says_it_is() {
    let server = TestServer::start();
    // Nobody listens: the next writer finds it.
    let deaf = MongoOptions { listen: false, ..options(&server) };
    let store = MongoStore::connect(server.uri(), deaf).await.unwrap();
    let games = games(&store).await;
    let other = direct(&games);
    for name in ["uncounted", "unset", "put back"] {
        games.find_one_and_upsert(&id(name), body(json!({"n": 0})), counted("p", 1)).await.unwrap();
        let old = other.find_one(doc! {"_id": name}).await.unwrap().unwrap();
        for sequence in 2..=4 {
            write(&games, name, "p", sequence).await;
        }
        let direct = match name {
            "uncounted" => {
                let own = doc! {"write": ObjectId::new()};
                other.replace_one(doc! {"_id": name}, doc! {"_id": name, "n": 9, "_weft": own}).await
            }
            "unset" => {
                let unset = doc! {"$unset": {"_weft.version": ""}, "$set": {"n": 9}};
                other.update_one(doc! {"_id": name}, unset).await
            }
            _ => {
                // As who reads a document, takes its time, and writes all of it.
                let mut old = old;
                old.insert("n", 9);
                other.replace_one(doc! {"_id": name}, old).await
            }
        };
        assert_eq!(direct.unwrap().modified_count, 1);
        write(&games, name, "p", 5).await;
        let found = games.find_one(&id(name)).await.unwrap().unwrap();
        assert_eq!((found.version, &found.body["n"], &found.body["p"]), (6, &json!(9), &json!(5)), "{name}");
        check(&games, name).await;
        assert_eq!(games.changes(&id(name), 0, 10).await.unwrap().changes.len(), 6, "{name}");
    }
}

/// As programs do that save a whole document whenever they close it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_document_that_is_replaced_by_the_same_has_not_changed() {
    let server = TestServer::start();
    for listen in [true, false] {
        let store =
            MongoStore::connect(server.uri(), MongoOptions { listen, ..options(&server) }).await.unwrap();
        let name = format!("games {listen}");
        let games = store.collection(&name, nodestorage::StorageOptions::default()).await.unwrap();
        let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
        let other = direct(&games);
        games.find_one_and_upsert(&id("a"), body(json!({"n": 0})), counted("p", 1)).await.unwrap();
        for sequence in 2..=3 {
            write(&games, "a", "p", sequence).await;
        }
        let whole = doc! {"_id": "a", "n": 0, "p": 3};
        // With nothing of the store's own, with only what it needs, and once more after a change of another program.
        other.replace_one(doc! {"_id": "a"}, whole.clone()).await.unwrap();
        write(&games, "a", "p", 4).await;
        other.update_one(doc! {"_id": "a"}, doc! {"$unset": {"_version": ""}}).await.unwrap();
        write(&games, "a", "p", 5).await;
        other.update_one(doc! {"_id": "a"}, doc! {"$set": {"n": 1}}).await.unwrap();
        write(&games, "a", "p", 6).await;
        other.replace_one(doc! {"_id": "a"}, doc! {"_id": "a", "n": 1, "p": 6}).await.unwrap();
        write(&games, "a", "p", 7).await;
        let versions =
            [("p", 1), ("p", 2), ("p", 3), ("p", 4), ("p", 5), ("direct-write", 1), ("p", 6), ("p", 7)];
        for (version, (client, sequence)) in (1..).zip(versions) {
            let WatchEvent::Change(change) = next(&mut watch).await else { panic!("it is told of a change") };
            let producer = (change.producer.client_id.as_str(), change.producer.sequence);
            assert_eq!((change.version, producer), (version, (client, Some(sequence))));
        }
        check(&games, "a").await;
        // What is different is a change, of course.
        other.replace_one(doc! {"_id": "a"}, doc! {"_id": "a", "n": 1, "p": 6}).await.unwrap();
        write(&games, "a", "p", 8).await;
        assert_eq!(games.last_version(&id("a")).await.unwrap(), 10);
        check(&games, "a").await;
        drop(watch);
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_copied_document_keeps_no_event_of_others_from_its_place() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    for name in ["go", "chess"] {
        games.find_one_and_upsert(&id(name), body(json!({})), by("s")).await.unwrap();
    }
    write(&games, "go", "p", 1).await;
    // With all that the store keeps in it, and an event that its outbox still has.
    let mut copy = direct(&games).find_one(doc! {"_id": "go"}).await.unwrap().unwrap();
    assert!(!copy.get_document("_weft").unwrap().get_array("outbox").unwrap().is_empty(), "{copy}");
    copy.insert("_id", "copied");
    direct(&games).insert_one(copy).await.unwrap();

    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    for n in 1..=3 {
        write(&games, "chess", "q", n).await;
        loop {
            if let WatchEvent::Change(change) = next(&mut watch).await
                && change.document_id == id("chess")
            {
                assert_eq!(change.version, n + 1);
                break;
            }
        }
        tokio::time::timeout(PATIENCE, write(&games, "copied", "r", n)).await.expect("in time");
    }
    check(&games, "go").await;
}
