//! Updates per second of the embedded store beside PoloDB, an embedded document store: each update reads a document of
//! about 300 bytes by its id, counts a field up and writes it back.
//!
//! PoloDB 4 never syncs, so its update survives the end of the process but not of the machine. It is compared on equal
//! terms: as it is, with ours `Buffered`; and with ours `Synced`, once with a sync of its files after each update, which is
//! what its user can be sure of, and once with a sync of its log alone, which is where it writes between two checkpoints.
//! Ours also records each change with its diff. Every run ends by comparing what is stored with what was asked for.
//!
//! PoloDB makes `serde_json` keep the order of members, which makes ours slower here than it is without.
//!
//! The store over MongoDB has a program of its own, `mongodb`.

use std::{
    convert::Infallible,
    fs::File,
    sync::{Arc, Mutex},
    time::Instant,
};

use crdt_core::ClientId;
use nodestorage::{
    Body, DocumentId, Durability, EditOptions, EmbeddedOptions, EmbeddedStore, Storage, StorageExt,
    StorageOptions,
};
use polodb_core::{
    Database,
    bson::{Document, doc},
};
use serde_json::json;

/// Runs of each row; the best counts, in turn, so that a noisy moment hits all.
const ROUNDS: usize = 3;

fn game() -> Body {
    let items: Vec<_> = (0..8).map(|n| json!({"id": n, "name": format!("item {n}")})).collect();
    let serde_json::Value::Object(body) = json!({"name": "a game", "gold": 0, "items": items}) else {
        unreachable!()
    };
    body
}

/// Updates per second.
fn ours(durability: Durability, writers: u64, each: u64) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let options = EmbeddedOptions { durability, ..EmbeddedOptions::default() };
        let store = EmbeddedStore::open(folder.path(), options).unwrap();
        let games = store.collection("games", StorageOptions::default()).await.unwrap();
        let by = || EditOptions::by(ClientId::new("bench").unwrap());
        let id = |n: u64| DocumentId::new(format!("game {n}")).unwrap();
        for n in 0..writers {
            games.find_one_and_upsert(&id(n), game(), by()).await.unwrap();
        }
        let start = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|n| {
                let games = games.clone();
                tokio::spawn(async move {
                    for _ in 0..each {
                        let earn = |body: &mut Body| {
                            body["gold"] = json!(body["gold"].as_u64().unwrap() + 1);
                            Ok::<_, Infallible>(())
                        };
                        games.edit(&id(n), earn, by()).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let took = start.elapsed().as_secs_f64();
        for n in 0..writers {
            assert_eq!(games.find_one(&id(n)).await.unwrap().unwrap().body["gold"], json!(each));
        }
        assert_eq!(games.position().await.unwrap(), writers + writers * each);
        (writers * each) as f64 / took
    })
}

/// What is synced after each update of PoloDB.
#[derive(Clone, Copy)]
enum Sync {
    Nothing,
    Log,
    Files,
}

fn polodb(sync: Sync, writers: u64, each: u64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::open_file(folder.path().join("games.db")).unwrap());
    let games = database.collection::<Document>("games");
    for n in 0..writers {
        let items: Vec<_> = (0..8).map(|n| doc! {"id": n, "name": format!("item {n}")}).collect();
        let game = doc! {"_id": format!("game {n}"), "name": "a game", "gold": 0i64, "items": items};
        games.insert_one(game).unwrap();
    }
    let turns = Arc::new(Mutex::new(()));
    let start = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|n| {
            let files: &[&str] = match sync {
                Sync::Nothing => &[],
                Sync::Log => &["games.db.wal"],
                Sync::Files => &["games.db.wal", "games.db"],
            };
            let files: Vec<_> =
                files.iter().map(|name| File::open(folder.path().join(name)).unwrap()).collect();
            let database = database.clone();
            let turns = turns.clone();
            std::thread::spawn(move || {
                let games = database.collection::<Document>("games");
                for _ in 0..each {
                    let id = doc! {"_id": format!("game {n}")};
                    // It has one writer at a time, and of two that meet it may lose one without a word.
                    let turn = turns.lock().unwrap();
                    games.update_one(id, doc! {"$inc": {"gold": 1i64}}).unwrap();
                    drop(turn);
                    for file in &files {
                        file.sync_data().unwrap();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let took = start.elapsed().as_secs_f64();
    for n in 0..writers {
        let game = games.find_one(doc! {"_id": format!("game {n}")}).unwrap().unwrap();
        assert_eq!(game.get_i64("gold").unwrap(), each as i64, "game {n}");
    }
    (writers * each) as f64 / took
}

fn main() {
    println!("updates per second        writers   nodestorage      PoloDB   times");
    for (name, durability, sync) in [
        ("not synced", Durability::Buffered, Sync::Nothing),
        ("durable", Durability::Synced, Sync::Files),
        ("durable, its log alone", Durability::Synced, Sync::Log),
    ] {
        for (writers, each) in [(1, 400), (16, 100)] {
            let (mut own, mut other) = (0f64, 0f64);
            for _ in 0..ROUNDS {
                own = own.max(ours(durability, writers, each));
                other = other.max(polodb(sync, writers, each));
            }
            println!("{name:<25} {writers:>7} {own:>13.0} {other:>11.0} {:>7.1}", own / other);
        }
    }
}
