//! A store whose process is killed in the middle of transactions shows each of them whole or not at all, and its index
//! agrees with its documents.
//!
//! The test starts itself again as the writer and kills it with SIGKILL after a number of acknowledgements that the
//! seed decides. The writer also makes the index, so that some kills come while it is being built.

mod common;

use std::{
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crdt_core::ClientId;
use nodestorage::{
    Body, DocumentId, EditOptions, EmbeddedOptions, EmbeddedStorage, EmbeddedStore, Index, Plan, Query,
    Storage, StorageExt, StorageOptions, Store, Update,
    query::{FieldPath, Filter},
};
use serde_json::json;

/// In this variable the writer finds its folder.
const WRITER: &str = "WEFT_CRASH_WRITER_FOLDER";
/// Set it to repeat a run.
const SEED: &str = "WEFT_CRASH_SEED";

const ROUNDS: u64 = 30;
const WRITERS: u64 = 6;
const PURSES: u64 = 5;
const GOLD: i64 = 1_000;
const ACKNOWLEDGEMENTS_MAX: u64 = 120;

fn purse(n: u64) -> DocumentId {
    DocumentId::new(format!("purse {}", n % PURSES)).unwrap()
}

fn by(writer: u64) -> EditOptions {
    EditOptions::by(ClientId::new(format!("w{writer}")).unwrap())
}

fn by_gold() -> Index {
    Index::of(FieldPath::new("gold").unwrap())
}

fn scatter(seed: u64, n: u64) -> u64 {
    let mixed = (seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16
}

async fn purses(store: &EmbeddedStore) -> EmbeddedStorage {
    // They meet all the time, and are not to wait for long.
    let options = StorageOptions {
        retries_max: 10_000,
        retry_delay: Duration::from_micros(100),
        retry_delay_max: Duration::from_millis(5),
        ..StorageOptions::default()
    };
    store.collection("purses", options).await.unwrap()
}

/// Moves gold from one purse to another, and writes it into the writer's own book.
async fn transfer(purses: &EmbeddedStorage, writer: u64, nth: u64) {
    let (from, to) = (&purse(writer + nth), &purse(writer + nth + 1 + nth % 3));
    let book = &DocumentId::new(format!("book {writer}")).unwrap();
    let amount = (scatter(writer, nth) % 10) as i64 + 1;
    let update = |change: serde_json::Value| Update::parse(&change).unwrap();
    let give = &update(json!({"$inc": {"gold": -amount}}));
    let take = &update(json!({"$inc": {"gold": amount}}));
    let note =
        &update(json!({"$inc": {"transfers": 1}, "$set": {"last": [from.as_str(), to.as_str(), amount]}}));
    let transferred = purses
        .transact(|of| {
            Box::pin(async move {
                of.find_one_and_upsert(book, Body::new(), by(writer)).await?;
                of.update_one(from, give, by(writer)).await?;
                of.update_one(to, take, by(writer)).await?;
                of.update_one(book, note, by(writer)).await?;
                Ok(())
            })
        })
        .await;
    transferred.unwrap();
}

/// Writes until it is killed, and says what was acknowledged.
#[tokio::main]
async fn write_until_killed(folder: &Path) {
    let store = EmbeddedStore::open(folder, EmbeddedOptions::default()).unwrap();
    let purses = purses(&store).await;
    for n in 0..PURSES {
        let full = Body::from_iter([("gold".to_owned(), json!(GOLD))]);
        purses.find_one_and_upsert(&purse(n), full, by(0)).await.unwrap();
    }
    let writers = (0..WRITERS).map(|writer| {
        let purses = purses.clone();
        tokio::spawn(async move {
            for nth in 0.. {
                transfer(&purses, writer, nth).await;
                println!("ack {writer}");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    // Again and again, as most of it is over before the kill.
    for _ in 0.. {
        purses.create_index(&by_gold()).await.unwrap();
        purses.drop_index(&by_gold()).await.unwrap();
    }
    futures_util::future::join_all(writers).await;
}

/// Runs the writer until it has given so many acknowledgements, and kills it.
fn run_writer(folder: &Path, acknowledgements: u64, acknowledged: &mut [u64]) {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_transaction_is_whole_or_not_there_after_a_kill_at_any_moment", "--nocapture"])
        .env(WRITER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut note = |line: &str| {
        let writer: Option<usize> = line.strip_prefix("ack ").and_then(|writer| writer.parse().ok());
        writer.map(|writer| acknowledged[writer] += 1).is_some()
    };
    let mut seen = 0;
    while seen < acknowledgements {
        match lines.next() {
            Some(line) => seen += u64::from(note(&line.unwrap())),
            None => panic!("the writer ended by itself: {:?}", writer.wait()),
        }
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    for line in lines.map_while(Result::ok) {
        note(&line);
    }
}

#[tokio::main]
async fn check(folder: &Path, acknowledged: &[u64]) {
    let store = EmbeddedStore::open(folder, EmbeddedOptions::default()).unwrap();
    let purses = purses(&store).await;
    let documents = purses.list(None, 100).await.unwrap();
    let gold: Vec<_> = documents.iter().filter_map(|document| document.body.get("gold")?.as_i64()).collect();
    // A kill may come before the first purse was filled.
    assert_eq!(gold.iter().sum::<i64>(), GOLD * gold.len() as i64, "a transfer is half there: {gold:?}");
    let mut changes = 0;
    let mut transfers = 0;
    for (writer, acknowledged) in acknowledged.iter().enumerate() {
        let book = purses.find_one(&DocumentId::new(format!("book {writer}")).unwrap()).await.unwrap();
        let noted = book.map_or(0, |book| book.body["transfers"].as_u64().unwrap());
        assert!(noted >= *acknowledged, "{acknowledged} transfers were acknowledged, {noted} are there");
        transfers += noted;
        changes += u64::from(noted > 0) + noted;
    }
    // Each transfer made its three changes, and each book was made once.
    assert_eq!(purses.position().await.unwrap(), gold.len() as u64 + changes + 2 * transfers);
    for document in &documents {
        let changes = purses.changes(&document.id, 0, usize::MAX).await.unwrap().changes;
        assert_eq!(changes.len() as u64, document.version);
    }
    // What was begun is finished when the collection is opened, and agrees with the documents.
    purses.create_index(&by_gold()).await.unwrap();
    let query = |filter| Query { filter: Filter::parse(&filter).unwrap(), ..Query::default() };
    for gold in gold {
        let with_so_much = query(json!({ "gold": gold }));
        assert!(matches!(purses.explain(with_so_much.clone()).await.unwrap().plan, Plan::Index { .. }));
        let found = purses.find_many(with_so_much).await.unwrap().found;
        let expected = documents.iter().filter(|document| document.body.get("gold") == Some(&json!(gold)));
        assert!(found.iter().map(|found| &found.id).eq(expected.map(|document| &document.id)));
    }
    let with_any = purses.find_many(query(json!({"gold": {"$gt": i64::MIN}}))).await.unwrap();
    assert_eq!(with_any.found.len(), documents.iter().filter(|d| d.body.contains_key("gold")).count());
    store.close().await.unwrap();
}

#[test]
fn a_transaction_is_whole_or_not_there_after_a_kill_at_any_moment() {
    if let Some(folder) = std::env::var_os(WRITER) {
        return write_until_killed(Path::new(&folder));
    }
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("{SEED}={seed}");
    let folder = common::folder();
    let mut acknowledged = [0; WRITERS as usize];
    for round in 0..ROUNDS {
        run_writer(folder.path(), scatter(seed, round) % ACKNOWLEDGEMENTS_MAX, &mut acknowledged);
        check(folder.path(), &acknowledged);
    }
    assert!(acknowledged.iter().sum::<u64>() > ROUNDS, "the writer has hardly written");
}
