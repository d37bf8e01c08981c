//! `kill -9`, of the server and of the writer, in the middle of writes.

use std::{
    convert::Infallible,
    io::Write,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::StreamExt;
use nodestorage::{
    Body, Edited, MongoOptions, MongoStorage, MongoStore, Storage, StorageError, StorageExt, Store, Upserted,
    WatchEvent, WatchFilter, WatchFrom,
    mongo::testing::{Lines, TestServer},
};
use serde_json::json;

use super::{
    PATIENCE, WRITES_TIME_MAX, body, by, games, id, open, options,
    verbs::{self, Acknowledged, Writer},
};

const ROUNDS: u64 = 30;
const WRITERS: u64 = 4;
const DOCUMENTS: u64 = 3;

/// Waits until so many writes were answered, or nobody writes any more.
async fn reach(answers: &mut tokio::sync::watch::Receiver<u64>, wanted: u64) {
    let reached = tokio::time::timeout(PATIENCE, answers.wait_for(|count| *count >= wanted)).await;
    reached.expect("writes are answered").ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let mut server = TestServer::own();
    // One lane: what meets shares its command.
    let one_lane = MongoOptions { write_lanes: 1, ..options(&server) };
    let store = MongoStore::connect(server.uri(), one_lane).await.unwrap();
    let (games, seed) = (games(&store).await, verbs::seed());
    let mut acknowledged = Acknowledged::new();
    // One that watches through all of it.
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    let watching = tokio::spawn(async move {
        let mut positions = Vec::new();
        loop {
            let event = watch.next().await.expect("a crash does not end it").unwrap();
            let WatchEvent::Change(change) = event else { panic!("{event:?}") };
            positions.push(change.position);
            if change.document_id == id("end") {
                return positions;
            }
        }
    });
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let (answered, mut answers) = tokio::sync::watch::channel(0);
        let writers = (0..WRITERS).map(|writer| {
            let (games, stop, answered) = (games.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move {
                let mut done = Acknowledged::new();
                let document = verbs::document(writer % DOCUMENTS);
                let mut writer = Writer::new(&games, seed, (writer, WRITERS), document).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    done.extend(writer.write().await.unwrap());
                    answered.send_modify(|count| *count += 1);
                }
                done
            })
        });
        let writers: Vec<_> = writers.collect();
        drop(answered);
        // When one writer has its answer, the others are in the middle of something.
        // In every fourth round it is later, when events were moved and outboxes emptied many times.
        reach(&mut answers, if round % 4 == 3 { 25 + round * 25 % 76 } else { 1 + round * 5 % 9 }).await;
        server.crash();
        // They go on through the crash: a write whose answer was lost is found, or done again.
        let before = *answers.borrow();
        reach(&mut answers, before + 1).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            acknowledged.extend(tokio::time::timeout(PATIENCE, writer).await.expect("in time").unwrap());
        }
    }
    assert!(acknowledged.len() as u64 > 4 * ROUNDS, "hardly anything was written: {}", acknowledged.len());
    verbs::check(&games, DOCUMENTS, WRITERS, &acknowledged).await;
    // The watch has seen everything, in order and nothing twice.
    let end = games.find_one_and_upsert(&id("end"), Body::new(), by("server")).await.unwrap();
    assert!(matches!(end, Upserted::Created { .. }));
    let watched = tokio::time::timeout(PATIENCE, watching).await.expect("in time").unwrap();
    assert!(watched.iter().copied().eq(1..=games.position().await.unwrap()), "a gap or a repeat");
    let shared = store.shared_writes();
    println!("{ROUNDS} crashes of the server, {} acknowledged writes, {shared:?}", acknowledged.len());
}

/// In these variables a writer finds its server and database, its round, and its seed.
const WRITER: [&str; 4] =
    ["WEFT_MONGO_WRITER_URI", "WEFT_MONGO_WRITER_DATABASE", "WEFT_MONGO_WRITER", "WEFT_MONGO_WRITER_SEED"];

/// What a writer leaves open that is killed within a transaction, the server ends after a minute, or when it is killed itself.
fn is_ended_by_the_server(round: u64) -> bool {
    round % 3 == 2
}

fn start_writer(server: &TestServer, number: u64, seed: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["crashes::writer_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(WRITER[0], server.uri()).env(WRITER[1], server.database()).env(WRITER[2], number.to_string());
    command.env(WRITER[3], seed.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().unwrap()
}

/// The writer of the other tests, a process of its own. By itself it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn writer_process() {
    let Ok(uri) = std::env::var(WRITER[0]) else { return };
    let (database, number) = (std::env::var(WRITER[1]).unwrap(), std::env::var(WRITER[2]).unwrap());
    let options = MongoOptions { database: Some(database), write_lanes: 1, ..Default::default() };
    let store = MongoStore::connect(&uri, options).await.unwrap();
    let games = games(&store).await;
    if number == "counter" {
        count_to_100(&games).await;
        store.close().await.unwrap();
        return;
    }
    let (round, seed) = (number.parse().unwrap(), std::env::var(WRITER[3]).unwrap().parse().unwrap());
    let writers = (0..WRITERS).map(|writer| {
        let games = games.clone();
        tokio::spawn(async move {
            let document = verbs::document(writer % DOCUMENTS);
            let mut writer = Writer::new(&games, seed, (writer, WRITERS), document).await.unwrap();
            writer.transacts = is_ended_by_the_server(round);
            loop {
                let done = match writer.write().await {
                    Ok(done) => done.into_iter().collect::<Vec<_>>(),
                    Err(error) => return error,
                };
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {}", serde_json::to_string(&done).unwrap()).unwrap();
                out.flush().unwrap();
            }
        })
    });
    let (ended, ..) = futures_util::future::select_all(writers.collect::<Vec<_>>()).await;
    panic!("the server stays, and a writer ended: {ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn nothing_acknowledged_is_lost_when_the_writer_is_killed() {
    let mut server = TestServer::own();
    let (mut acknowledged, seed) = (Acknowledged::new(), verbs::seed());
    for round in 0..ROUNDS {
        let mut writer = start_writer(&server, round, seed);
        let lines = Lines::of(writer.stdout.take().unwrap());
        let wanted = 1 + round * 7 % 40;
        let mut seen = 0;
        while let Some(line) = lines.next_within(PATIENCE) {
            let Some(at) = line.find("ack ") else { continue };
            let done: Vec<_> = serde_json::from_str(&line[at + 4..]).unwrap();
            acknowledged.extend::<Vec<_>>(done);
            seen += 1;
            if seen == wanted {
                // What it says after this is read to the end all the same: it was acknowledged.
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(seen >= wanted, "it ended by itself");
        if is_ended_by_the_server(round) {
            server.crash();
        }
    }
    let store = open(&server).await;
    verbs::check(&games(&store).await, DOCUMENTS, WRITERS, &acknowledged).await;
    println!("{ROUNDS} crashes of the writer, {} acknowledged writes", acknowledged.len());
}

async fn count_to_100(games: &MongoStorage) {
    let tasks = (0..100).map(|_| {
        let games = games.clone();
        tokio::spawn(async move {
            let increment = |body: &mut Body| {
                body["n"] = json!(body["n"].as_u64().unwrap() + 1);
                Ok::<_, Infallible>(())
            };
            loop {
                match games.edit(&id("counter"), increment, by("counter")).await {
                    Ok(Edited::Changed { .. }) => return,
                    Err(StorageError::RetriesExhausted { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// 200 tasks, half of them in another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn two_processes_count_one_counter_and_lose_nothing() {
    let server = TestServer::start();
    let store = open(&server).await;
    let games = games(&store).await;
    games.find_one_and_upsert(&id("counter"), body(json!({"n": 0})), by("counter")).await.unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["crashes::writer_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    other.env(WRITER[0], server.uri()).env(WRITER[1], server.database()).env(WRITER[2], "counter");
    let mut other =
        tokio::process::Command::from(other).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    tokio::time::timeout(WRITES_TIME_MAX, count_to_100(&games)).await.expect("it comes to an end");
    let ended = tokio::time::timeout(WRITES_TIME_MAX, other.wait()).await.expect("it comes to an end");
    assert!(ended.unwrap().success());
    let counter = games.find_one(&id("counter")).await.unwrap().unwrap();
    assert_eq!((counter.version, &counter.body["n"]), (201, &json!(200)));
    let mut values = Vec::new();
    let mut state: Option<Body> = None;
    for change in games.changes(&id("counter"), 0, 500).await.unwrap().changes {
        state = change.diff.apply(state).unwrap();
        values.push(state.as_ref().and_then(|body| body["n"].as_u64()).unwrap());
    }
    assert!(values.into_iter().eq(0..=200), "each change counts one up");
}
