//! A store whose process is killed in the middle of its writes loses nothing that it has acknowledged.
//!
//! The test starts itself again as the writer, reads the acknowledgements from the writer's output, and kills it with
//! SIGKILL after a number of them that the seed decides. Then it opens the store and checks every promise.

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use crdt_core::ClientId;
use futures_util::StreamExt;
use nodestorage::{
    Body, Deleted, DocumentId, EditOptions, Edited, EmbeddedOptions, EmbeddedStorage, EmbeddedStore,
    Operation, Storage, StorageError, StorageExt, StorageOptions, Upserted, WatchEvent, WatchFilter,
    WatchFrom,
};
use serde_json::{Value, json};

/// In this variable the writer finds its folder.
const WRITER: &str = "WEFT_CRASH_WRITER_FOLDER";
/// In this one, how many tasks are to write.
const TASKS: &str = "WEFT_CRASH_WRITER_TASKS";
/// Set it to repeat a run.
const SEED: &str = "WEFT_CRASH_SEED";

const ROUNDS: u64 = 30;
const WRITERS: u64 = 8;
const DOCUMENTS: u64 = 3;
/// The writer is killed after at most so many acknowledgements.
const ACKNOWLEDGEMENTS_MAX: u64 = 150;

fn document(n: u64) -> DocumentId {
    DocumentId::new(format!("d{n}")).unwrap()
}

fn client(n: u64) -> ClientId {
    ClientId::new(format!("w{n}")).unwrap()
}

/// The `sequence`th write of a writer.
fn counted(writer: u64, sequence: u64) -> EditOptions {
    let mut options = EditOptions::by(client(writer));
    options.producer.sequence = Some(sequence);
    options
}

fn scatter(seed: u64, n: u64) -> u64 {
    let mixed = (seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16
}

async fn games(store: &EmbeddedStore) -> EmbeddedStorage {
    store.collection("games", StorageOptions::default()).await.unwrap()
}

/// One write: mostly an update, sometimes a delete or a creation. Returns the version it produced or found.
async fn write(games: &EmbeddedStorage, id: &DocumentId, writer: u64, sequence: u64) -> u64 {
    let options = counted(writer, sequence);
    if scatter(writer, sequence).is_multiple_of(13) {
        return match games.delete_one(id, options).await.unwrap() {
            Deleted::Deleted { change, .. } => change.version,
            Deleted::Absent => games.last_version(id).await.unwrap(),
            Deleted::Repeated { version } => version,
            other => panic!("{other:?}"),
        };
    }
    let edit = |body: &mut Body| {
        body.insert(format!("by {writer}"), json!(sequence));
        let log = body.entry("log").or_insert_with(|| json!([])).as_array_mut().unwrap();
        log.insert(log.len() / 2, json!([writer, sequence]));
        log.truncate(20);
        Ok::<_, Infallible>(())
    };
    loop {
        match games.edit(id, edit, options.clone()).await {
            Ok(Edited::Changed { change, .. }) => return change.version,
            Ok(Edited::Repeated { version, .. }) => return version,
            Err(StorageError::NotFound { .. }) => {}
            other => panic!("{other:?}"),
        }
        // Somebody deleted it: create it with the same sequence, unless somebody else has done that meanwhile.
        let only_if_absent = EditOptions { expected_version: Some(0), ..options.clone() };
        match games.find_one_and_upsert(id, Body::new(), only_if_absent).await {
            Ok(Upserted::Created { change, .. }) => return change.version,
            Ok(Upserted::Repeated { version, .. }) => return version,
            Err(StorageError::VersionMismatch { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Writes until it is killed, and says what was acknowledged.
#[tokio::main]
async fn write_until_killed(folder: &Path) {
    let store = EmbeddedStore::open(folder, EmbeddedOptions::default()).unwrap();
    let games = games(&store).await;
    let output = Arc::new(std::sync::Mutex::new(std::io::stdout()));
    let tasks = std::env::var(TASKS).unwrap().parse().unwrap();
    let writers = (0..tasks).map(|writer| {
        let (games, output) = (games.clone(), output.clone());
        tokio::spawn(async move {
            let id = document(writer % DOCUMENTS);
            let last = games.producers(&id).await.unwrap().get(&client(writer));
            for sequence in last + 1.. {
                let version = write(&games, &id, writer, sequence).await;
                writeln!(output.lock().unwrap(), "ack {writer} {sequence} {version}").unwrap();
            }
        })
    });
    futures_util::future::join_all(writers).await;
}

/// What the writer said before it died.
#[derive(Default)]
struct Acknowledged {
    /// By writer and sequence.
    versions: BTreeMap<(u64, u64), u64>,
}

/// Runs the writer until it has given so many acknowledgements, and kills it.
fn run_writer(folder: &Path, tasks: u64, acknowledgements: u64, acknowledged: &mut Acknowledged) {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_acknowledged_write_survives_a_kill_at_any_moment", "--nocapture"])
        .env(WRITER, folder)
        .env(TASKS, tasks.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut note = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let numbers: Vec<u64> = words[1..].iter().filter_map(|word| word.parse().ok()).collect();
        match (words[0], numbers.as_slice()) {
            ("ack", &[writer, sequence, version]) => {
                acknowledged.versions.insert((writer, sequence), version);
                1
            }
            _ => 0,
        }
    };
    let mut seen = 0;
    while seen < acknowledgements {
        match lines.next() {
            Some(line) => seen += note(&line.unwrap()),
            None => panic!("the writer ended by itself: {:?}", writer.wait()),
        }
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    // What it had said before it died counts as well. A last line may be torn.
    for line in lines.map_while(Result::ok) {
        note(&line);
    }
}

/// Every promise of the store.
#[tokio::main]
async fn check(folder: &Path, acknowledged: &Acknowledged) {
    let store = EmbeddedStore::open(folder, EmbeddedOptions::default()).unwrap();
    let games = games(&store).await;
    let mut by_producer = HashMap::new();
    let mut total = 0;
    for n in 0..DOCUMENTS {
        let id = document(n);
        let changes = games.changes(&id, 0, usize::MAX).await.unwrap().changes;
        let mut state = None;
        for (change, version) in changes.iter().zip(1..) {
            assert_eq!(change.version, version, "the versions of {id} have a gap");
            let was_there = state.is_some();
            state = change.diff.apply(state).unwrap();
            assert_eq!(was_there, change.operation != Operation::Create);
            let sequence = change.producer.sequence.unwrap();
            let twice = by_producer.insert((change.producer.client_id.to_string(), sequence), version);
            assert_eq!(twice, None, "{} applied its write {sequence} twice", change.producer.client_id);
        }
        let document = games.find_one(&id).await.unwrap();
        assert_eq!(
            document.map(|document| Value::Object((*document.body).clone())),
            state.map(Value::Object)
        );
        assert_eq!(games.last_version(&id).await.unwrap(), changes.len() as u64);
        total += changes.len() as u64;
    }
    assert_eq!(games.position().await.unwrap(), total);
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::After(0)).await.unwrap();
    for position in 1..=total {
        match watch.next().await.unwrap().unwrap() {
            WatchEvent::Change(change) => assert_eq!(change.position, position),
            other => panic!("{other:?}"),
        }
    }
    for (&(writer, sequence), &version) in &acknowledged.versions {
        match by_producer.get(&(client(writer).to_string(), sequence)) {
            Some(&kept) => assert_eq!(kept, version, "write {sequence} of {writer} has another version"),
            // A delete of what was not there makes no change, but is known.
            None => assert!(scatter(writer, sequence).is_multiple_of(13), "{writer}'s {sequence} is lost"),
        }
    }
    // Who repeats a write gets the first answer.
    for (&(writer, sequence), &version) in acknowledged.versions.iter().rev().take(20) {
        if by_producer.contains_key(&(client(writer).to_string(), sequence)) {
            assert_eq!(write(&games, &document(writer % DOCUMENTS), writer, sequence).await, version);
        }
    }
    assert_eq!(games.position().await.unwrap(), total, "a repeat changed something");
}

#[test]
fn an_acknowledged_write_survives_a_kill_at_any_moment() {
    if let Some(folder) = std::env::var_os(WRITER) {
        return write_until_killed(Path::new(&folder));
    }
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("{SEED}={seed}");
    let folder = common::folder();
    let mut acknowledged = Acknowledged::default();
    for round in 0..ROUNDS {
        // In some rounds before the first answer, or while the store is being opened.
        let acknowledgements = scatter(seed, round) % ACKNOWLEDGEMENTS_MAX;
        // One task commits its writes itself, several leave it to the commit thread.
        let tasks = if round % 2 == 0 { WRITERS } else { 1 };
        run_writer(folder.path(), tasks, acknowledgements, &mut acknowledged);
        check(folder.path(), &acknowledged);
    }
    assert!(acknowledged.versions.len() as u64 > ROUNDS, "the writer has hardly written");
}
