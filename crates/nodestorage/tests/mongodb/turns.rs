//! Who loses against other processes gets a turn.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nodestorage::{
    Body, Edited, MongoOptions, MongoStorage, Storage, StorageExt,
    mongo::{
        driver::bson::{Document, doc, oid::ObjectId},
        testing::TestServer,
    },
    query::FieldPath,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    PATIENCE, body, by, counted, direct::direct, games, id, open, options, otherwise::behind, proxy,
};

/// A network on which each command for the games takes its time.
struct Far;

impl proxy::Manner for Far {
    fn answer(&self, _: &Document) -> Option<Document> {
        None
    }

    fn way(&self, command: &Document) -> Duration {
        let commands = ["find", "findAndModify", "aggregate"];
        let of_games = commands.iter().any(|name| command.get_str(name).is_ok_and(|of| of == "games"));
        let streams = command.get_array("pipeline").is_ok_and(|stages| {
            stages
                .first()
                .and_then(|stage| stage.as_document())
                .is_some_and(|stage| stage.contains_key("$changeStream"))
        });
        if of_games && !streams { Duration::from_millis(15) } else { Duration::ZERO }
    }
}

async fn count_up(games: &MongoStorage) -> Result<Edited, nodestorage::StorageError> {
    let increment = |body: &mut Body| {
        body["n"] = json!(body["n"].as_u64().unwrap() + 1);
        Ok::<_, Infallible>(())
    };
    games.edit(&id("a"), increment, by("s")).await
}

/// A process near the database writes without a pause, upon what it remembers. One that is far away reads, computes and
/// writes, and others have always written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_process_far_away_gets_its_turn() {
    const WRITES: u64 = 12;
    let server = TestServer::own();
    let far = behind(proxy::start(server.port(), Far).await, options(&server)).await;
    let near = open(&server).await;
    let (far, near) = (games(&far).await, games(&near).await);
    near.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("s")).await.unwrap();
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = (0..3).map(|_| {
        let (near, stop, written) = (near.clone(), stop.clone(), written.clone());
        tokio::spawn(async move {
            while !stop.load(Relaxed) {
                count_up(&near).await.unwrap();
                written.fetch_add(1, Relaxed);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let pipeline = [json!({"$set": {"n": {"$add": ["$n", 1]}}})];
    for n in 0..WRITES {
        let edited = if n % 2 == 0 {
            count_up(&far).await
        } else {
            far.update_one_with_pipeline(&id("a"), &pipeline, by("s")).await
        };
        assert!(matches!(edited, Ok(Edited::Changed { .. })), "{n}: {edited:?}");
    }
    stop.store(true, Relaxed);
    for writer in writers {
        timeout(PATIENCE, writer).await.expect("in time").unwrap();
    }
    let all = written.load(Relaxed) + WRITES;
    let found = near.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!((found.version, &found.body["n"]), (all + 1, &json!(all)));
    assert!(all > 4 * WRITES, "the near ones have hardly written: {all}");
}

/// The swap is on the version of the whole document, and within one process a gate hides it: two of them lose to each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn sections_are_edited_apart_by_two_processes() {
    const WRITERS: usize = 6;
    const EACH: u64 = 5;
    let server = TestServer::start();
    let (one, other) = (open(&server).await, open(&server).await);
    let (one, other) = (games(&one).await, games(&other).await);
    let sections: Body = (0..2 * WRITERS).map(|n| (format!("s{n}"), json!({"n": 0}))).collect();
    one.find_one_and_upsert(&id("a"), sections, by("s")).await.unwrap();
    let writers = (0..2 * WRITERS).map(|n| {
        let games = if n % 2 == 0 { one.clone() } else { other.clone() };
        tokio::spawn(async move {
            let section = FieldPath::new(&format!("s{n}")).unwrap();
            for sequence in 1..=EACH {
                let edit = |section: &mut Value| {
                    section["n"] = json!(section["n"].as_u64().unwrap() + 1);
                    Ok(())
                };
                let options = counted(&format!("w{n}"), sequence);
                let edited = games.update_section(&id("a"), &section, Box::new(edit), options).await;
                assert!(matches!(edited, Ok(Edited::Changed { .. })), "{n}: {edited:?}");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        timeout(PATIENCE, writer).await.expect("in time").unwrap();
    }
    let found = one.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!(found.version, 1 + 2 * WRITERS as u64 * EACH);
    assert!(found.body.values().all(|section| section["n"] == json!(EACH)), "{:?}", found.body);
}

/// A claim whose claimant is gone keeps nobody from writing, and is no change. Who reads one reads again before it writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_claim_that_was_left_is_written_over() {
    let server = TestServer::own();
    let looks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&looks);
    let port = proxy::start(server.port(), move |command: &Document| {
        let of_one = command.get_document("filter").is_ok_and(|filter| filter.get_str("_id").is_ok());
        if of_one && command.get_str("find").is_ok_and(|name| name == "games") {
            counted.fetch_add(1, Relaxed);
        }
        None
    });
    let store = behind(port.await, MongoOptions { listen: false, ..options(&server) }).await;
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("s")).await.unwrap();
    for n in 1..4 {
        looks.store(0, Relaxed);
        let mut claim = ObjectId::new().bytes();
        claim[..4].fill(0);
        let claim = doc! {"$set": {"_weft.write": ObjectId::from_bytes(claim)}};
        direct(&games).update_one(doc! {"_id": "a"}, claim).await.unwrap();
        let Ok(Edited::Changed { document, .. }) = count_up(&games).await else { panic!("unchanged") };
        assert_eq!((document.version, &document.body["n"]), (n + 1, &json!(n)));
        assert_eq!(looks.load(Relaxed), 2, "before the turn of the claimant and after it");
    }
    let changes = games.changes(&id("a"), 0, 9).await.unwrap().changes;
    assert!(changes.iter().all(|change| change.producer.client_id.as_str() == "s"), "{changes:?}");
    assert_eq!(changes.len(), 4);
}
