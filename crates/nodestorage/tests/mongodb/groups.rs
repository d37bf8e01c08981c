//! Writes that meet share a command: how many, and what becomes of them when it fails, or one of them does.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{future::join_all, poll};
use nodestorage::{
    Body, Edited, MongoOptions, MongoStorage, MongoStore, Storage, StorageError, StorageExt, Store,
    mongo::{
        GROUP_BYTES_MAX, GROUP_MAX,
        driver::{
            Client,
            bson::{Document as Bsons, doc},
        },
        testing::TestServer,
    },
};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use super::{
    PATIENCE, body, by,
    direct::{check, direct},
    games, id, open, options,
    otherwise::behind,
    proxy::{self, Manner, refusal},
};

/// How often something is tried that goes another way when the machine is busy.
const TRIES: u64 = 20;

/// How many documents are written at once.
const DOCUMENTS: usize = 9;

fn name(n: usize) -> String {
    format!("d{n}")
}

type Writing<'g> = Pin<Box<dyn Future<Output = Result<Edited, StorageError>> + Send + 'g>>;

fn count_up(games: &MongoStorage, n: usize) -> Writing<'_> {
    Box::pin(async move {
        let increment = |body: &mut Body| {
            body["n"] = json!(body["n"].as_u64().unwrap() + 1);
            Ok::<_, Infallible>(())
        };
        games.edit(&id(&name(n)), increment, by("s")).await
    })
}

/// All of these are carried out, in time.
async fn all_changed<'g>(writes: impl IntoIterator<Item = Writing<'g>>) {
    for edited in timeout(PATIENCE, join_all(writes)).await.expect("in time") {
        assert!(matches!(edited, Ok(Edited::Changed { .. })), "{edited:?}");
    }
}

/// Counts all documents up at once.
async fn round(games: &MongoStorage) {
    all_changed((0..DOCUMENTS).map(|n| count_up(games, n))).await;
}

/// Begins a write of each document. The first has the lane, the others wait for it. On a busy machine one may have to be read
/// first: then all of them are ended, which makes one version more, and begun anew.
async fn begun<'g>(store: &MongoStore, games: &'g MongoStorage, at: &mut u64) -> Vec<Writing<'g>> {
    for _ in 0..TRIES {
        let mut writes: Vec<_> = (0..DOCUMENTS).map(|n| count_up(games, n)).collect();
        for write in &mut writes {
            assert!(poll!(write).is_pending());
        }
        if store.shared_writes().waiting == DOCUMENTS - 1 {
            return writes;
        }
        all_changed(writes).await;
        *at += 1;
    }
    panic!("what is begun at once does not meet");
}

/// Counts the commands, and does what a test asks for.
#[derive(Clone, Default)]
struct Network {
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    /// The answers to these are held back.
    held: Arc<Mutex<Option<watch::Receiver<bool>>>>,
    /// It is a server before 8.0.
    old: bool,
    /// It does not know the command, though its version says so.
    refuses: Arc<AtomicBool>,
}

impl Network {
    fn count(&self, command: &str) -> u64 {
        self.counts.lock().unwrap().get(command).copied().unwrap_or(0)
    }

    async fn store(&self, server: &TestServer) -> MongoStore {
        // One lane: what meets shares its command.
        let options = MongoOptions { write_lanes: 1, ..options(server) };
        behind(proxy::start(server.port(), self.clone()).await, options).await
    }
}

impl Manner for Network {
    fn answer(&self, command: &Bsons) -> Option<Bsons> {
        let name = command.keys().next().unwrap().clone();
        let of_games = command.get_str(&name).is_ok_and(|of| of == "games");
        if of_games || name == "bulkWrite" {
            let counts = &mut *self.counts.lock().unwrap();
            *counts.entry(name.clone()).or_default() += 1;
            if let Ok(of) = command.get_document("filter").and_then(|filter| filter.get_str("_id")) {
                *counts.entry(format!("{name} {of}")).or_default() += 1;
            }
        }
        (name == "bulkWrite" && self.refuses.load(Relaxed))
            .then(|| refusal(59, "no such command: 'bulkWrite'"))
    }

    fn held(&self, reply: &Bsons) -> Option<watch::Receiver<bool>> {
        reply.contains_key("nMatched").then(|| self.held.lock().unwrap().clone()).flatten()
    }

    fn change(&self, mut reply: Bsons) -> Bsons {
        if self.old && reply.contains_key("maxWireVersion") {
            reply.insert("maxWireVersion", 21);
        }
        reply
    }
}

/// Makes the documents, and writes until each is remembered: then all that is begun at once meets.
async fn prepare(games: &MongoStorage, network: &Network) {
    let made = (0..DOCUMENTS).map(|n| {
        let new = body(json!({"n": 0}));
        async move { games.find_one_and_upsert(&id(&name(n)), new, by("s")).await.unwrap() }
    });
    join_all(made).await;
    let remembered = async {
        loop {
            let before = network.count("find");
            round(games).await;
            if network.count("find") == before {
                break;
            }
        }
    };
    timeout(PATIENCE, remembered).await.expect("the listener is there");
}

/// Documents that are remembered, all at the same version, in a store behind a network.
struct Scene {
    server: TestServer,
    network: Network,
    store: MongoStore,
    games: MongoStorage,
    at: u64,
}

async fn scene(network: Network) -> Scene {
    let server = TestServer::own();
    let store = network.store(&server).await;
    let games = games(&store).await;
    prepare(&games, &network).await;
    let at = version(&games, 0).await;
    Scene { server, network, store, games, at }
}

async fn version(games: &MongoStorage, n: usize) -> u64 {
    games.find_one(&id(&name(n))).await.unwrap().unwrap().version
}

/// Each document is at its version, and each version has its event, in the document's outbox or in the log.
async fn each_is_at(games: &MongoStorage, versions: impl Fn(usize) -> u64) {
    for n in 0..DOCUMENTS {
        assert_eq!(version(games, n).await, versions(n), "{n}");
        check(games, &name(n)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn writes_that_meet_share_a_command_and_a_lone_one_goes_alone() {
    let Scene { server: _server, network, store, games, mut at } = scene(Network::default()).await;
    let mut answered = false;
    let sent = || (network.count("findAndModify"), network.count("bulkWrite"));
    // On a busy machine a command may not be answered in time: then they look for themselves, and go alone.
    for _ in 0..TRIES {
        let writes = begun(&store, &games, &mut at).await;
        let (counts, before) = (store.shared_writes(), sent());
        join_all(writes).await;
        at += 1;
        let shared = store.shared_writes();
        assert_eq!((shared.commands - counts.commands, shared.waiting), (1, 0));
        assert_eq!(shared.writes - counts.writes, DOCUMENTS as u64 - 1);
        // The first one, and all others.
        let now = sent();
        answered = now.0 <= before.0 + 1 && now.1 == before.1 + 1;
        if answered {
            break;
        }
    }
    assert!(answered, "each went alone, every time");
    let before = sent();
    for _ in 0..3 {
        count_up(&games, 0).await.unwrap();
    }
    assert_eq!(sent(), (before.0 + 3, before.1));
    each_is_at(&games, |n| at + if n == 0 { 3 } else { 0 }).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn creations_that_meet_share_a_command_and_one_of_each_name_is_made() {
    let (server, network) = (TestServer::own(), Network::default());
    let store = network.store(&server).await;
    let (here, other) = (games(&store).await, open(&server).await);
    let there = games(&other).await;
    let make = |games: &MongoStorage, n: usize| {
        let games = games.clone();
        async move { games.find_one_and_upsert(&id(&name(n)), body(json!({"n": 0})), by("s")).await }
    };
    let made = timeout(
        PATIENCE,
        futures_util::future::join(
            join_all((0..DOCUMENTS).map(|n| make(&here, n))),
            join_all((0..DOCUMENTS).rev().map(|n| make(&there, n))),
        ),
    );
    let (here_made, there_made) = made.await.expect("in time");
    let created = |made: &Result<nodestorage::Upserted, StorageError>| {
        matches!(made.as_ref().unwrap(), nodestorage::Upserted::Created { .. })
    };
    for n in 0..DOCUMENTS {
        assert!(created(&here_made[n]) != created(&there_made[DOCUMENTS - 1 - n]), "{n}");
    }
    each_is_at(&here, |_| 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_lost_race_concerns_its_own_document() {
    let Scene { server, network, store, games: here, mut at } = scene(Network::default()).await;
    let other = open(&server).await;
    let there = games(&other).await;
    let finds = |n: usize| network.count(&format!("find {}", name(n)));
    let (mut rounds, mut has_read) = (0, Vec::new());
    // Where a command is not answered in time all of its writers read.
    while rounds < TRIES && has_read != [3] {
        count_up(&there, 3).await.unwrap();
        let before: Vec<u64> = (0..DOCUMENTS).map(finds).collect();
        all_changed(begun(&store, &here, &mut at).await).await;
        (at, rounds) = (at + 1, rounds + 1);
        has_read = (0..DOCUMENTS).filter(|n| finds(*n) > before[*n]).collect();
        // So that it is remembered again.
        count_up(&here, 3).await.unwrap();
    }
    assert_eq!(has_read, [3], "only who lost");
    each_is_at(&here, |n| at + if n == 3 { 2 * rounds } else { 0 }).await;
    let found = here.find_one(&id("d3")).await.unwrap().unwrap();
    assert_eq!(found.body["n"], json!(found.version - 1), "nothing is counted twice");
}

/// As alone: the server's own words, and only to its writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_refused_write_is_told_so_and_the_others_are_written() {
    let Scene { server, network: _network, store, games, mut at } = scene(Network::default()).await;
    // Another program asks that no two have the same name, and one of ours has the other's.
    let raw = direct(&games);
    let unique = doc! {"createIndexes": "games", "indexes": [
        {"key": {"only": 1}, "name": "only", "unique": true, "sparse": true},
    ]};
    Client::with_uri_str(server.uri())
        .await
        .unwrap()
        .database(server.database())
        .run_command(unique)
        .await
        .unwrap();
    raw.insert_one(doc! {"_id": 7, "only": "one"}).await.unwrap();
    let take_the_name = |n: usize| {
        let games = games.clone();
        async move {
            let edit = |body: &mut Body| {
                body.insert("only".to_owned(), json!("one"));
                Ok::<_, Infallible>(())
            };
            games.edit(&id(&name(n)), edit, by("s")).await
        }
    };
    let alone = take_the_name(5).await.unwrap_err();
    assert!(matches!(&alone, StorageError::Backend(_)), "{alone:?}");
    // What it had remembered it does not any more.
    count_up(&games, 5).await.unwrap();
    // What comes behind it is the server's time.
    let says = |error: &StorageError| error.to_string().split(", labels").next().unwrap().to_owned();
    let mut rounds = 0;
    loop {
        let mut writes = begun(&store, &games, &mut at).await;
        drop(writes.remove(5));
        writes.push(Box::pin(take_the_name(5)));
        let mut edited = timeout(PATIENCE, join_all(writes)).await.expect("in time");
        let refused = edited.pop().unwrap().unwrap_err();
        assert!(edited.iter().all(|edited| matches!(edited, Ok(Edited::Changed { .. }))), "{edited:?}");
        (at, rounds) = (at + 1, rounds + 1);
        // Where the command is not answered in time, what is refused may still have arrived.
        if !matches!(refused, StorageError::OutcomeUnknown { .. }) || rounds == TRIES {
            assert_eq!(says(&refused), says(&alone));
            break;
        }
    }
    each_is_at(&games, |n| if n == 5 { at + 1 - rounds } else { at }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_waits_for_a_caller_that_is_gone_is_not_sent() {
    let Scene { server: _server, network: _network, store, games, mut at } = scene(Network::default()).await;
    let mut writes = begun(&store, &games, &mut at).await;
    drop(writes.remove(4));
    all_changed(writes).await;
    each_is_at(&games, |n| at + u64::from(n != 4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_caller_that_goes_takes_no_other_writes_with_it() {
    let Scene { server: _server, network, store, games, mut at } = scene(Network::default()).await;
    let (hold, held) = watch::channel(true);
    *network.held.lock().unwrap() = Some(held);
    let shared = store.shared_writes().commands;
    let mut writes = begun(&store, &games, &mut at).await;
    let first = writes.remove(0);
    first.await.unwrap();
    // The others are under way, and the answer to them is not. One of the callers goes.
    let sent = async {
        while network.count("bulkWrite") <= shared {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, sent).await.expect("it is sent");
    drop(writes.remove(4));
    hold.send_replace(false);
    all_changed(writes).await;
    // Its write was carried out, nobody was told, and who comes next goes on from there.
    count_up(&games, 5).await.unwrap();
    each_is_at(&games, |n| at + if n == 5 { 2 } else { 1 }).await;
    assert_eq!(store.shared_writes().commands, shared + 1);
}

/// A caller may begin a write and turn to something else, as the streams of `futures` do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_write_that_nobody_asks_for_does_not_keep_its_lane() {
    let Scene { server: _server, network: _network, store, games, mut at } = scene(Network::default()).await;
    let mut writes = begun(&store, &games, &mut at).await;
    let first = writes.remove(0);
    // Though the first is not asked.
    all_changed(writes).await;
    first.await.unwrap();
    each_is_at(&games, |_| at + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_command_that_is_not_answered_is_looked_after() {
    let Scene { server: _server, network, store, games, at } = scene(Network::default()).await;
    let (_hold, held) = watch::channel(true);
    *network.held.lock().unwrap() = Some(held);
    round(&games).await;
    each_is_at(&games, |_| at + 1).await;
    store.close().await.unwrap();
}

/// One document is in another program's transaction: its writer waits, and the others do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_write_that_waits_for_a_transaction_holds_up_no_other() {
    let Scene { server, network: _network, store, games, mut at } = scene(Network::default()).await;
    let other = Client::with_uri_str(server.uri()).await.unwrap();
    let raw = other.database(server.database()).collection::<Bsons>("games");
    // Who empties outboxes would wait for the transaction too, and on this server keep all documents meanwhile.
    let cleared = async {
        while raw.count_documents(doc! {"_weft.outbox.0": {"$exists": true}}).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, cleared).await.expect("in time");
    let mut session = other.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    raw.update_one(doc! {"_id": "d3"}, doc! {"$set": {"aside": 1}}).session(&mut session).await.unwrap();

    let mut writes = begun(&store, &games, &mut at).await;
    let blocked = writes.remove(3);
    all_changed(writes).await;
    // A round more, with nobody in the way.
    let more = (0..DOCUMENTS).filter(|n| *n != 3).map(|n| count_up(&games, n));
    all_changed(more).await;
    session.abort_transaction().await.unwrap();
    all_changed([blocked]).await;
    each_is_at(&games, |n| at + if n == 3 { 1 } else { 2 }).await;
}

async fn each_goes_alone(network: Network) {
    let Scene { server: _server, network, store: _store, games, at } = scene(network).await;
    let (tried, sent) = (network.count("bulkWrite"), network.count("findAndModify"));
    round(&games).await;
    assert_eq!(network.count("findAndModify") - sent, DOCUMENTS as u64);
    assert_eq!(network.count("bulkWrite"), tried, "that there is none was found out before");
    assert!(tried <= 1, "{tried}");
    each_is_at(&games, |_| at + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn to_an_old_server_each_write_goes_alone() {
    each_goes_alone(Network { old: true, ..Network::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn to_a_server_without_the_command_each_write_goes_alone() {
    let network = Network::default();
    network.refuses.store(true, Relaxed);
    each_goes_alone(network).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_command_has_so_many_writes_and_bytes_and_no_more() {
    const FEW: usize = 12;
    let (server, network) = (TestServer::own(), Network::default());
    let store = network.store(&server).await;
    let games = games(&store).await;
    let create = |count: usize, text: String| {
        let games = games.clone();
        join_all((0..count).map(move |n| {
            let (games, name) = (games.clone(), id(&format!("{} {n}", text.len())));
            let new = body(json!({"text": text}));
            async move { games.find_one_and_upsert(&name, new, by("s")).await.unwrap() }
        }))
    };
    create(2 * GROUP_MAX, "few bytes".to_owned()).await;
    let few = store.shared_writes();
    assert!(few.writes as usize > GROUP_MAX && few.writes <= few.commands * GROUP_MAX as u64, "{few:?}");
    // A creation says its body three times: four of these are more than one command has.
    create(FEW, "x".repeat(GROUP_BYTES_MAX / 11)).await;
    let more = store.shared_writes();
    let (writes, commands) = (more.writes - few.writes, more.commands - few.commands);
    assert!(writes > 0 && writes <= 3 * commands, "{more:?}");
    // And each of these is more by itself.
    create(FEW, "x".repeat(GROUP_BYTES_MAX / 2)).await;
    assert_eq!(store.shared_writes(), more);
    assert_eq!(games.position().await.unwrap(), (2 * GROUP_MAX + 2 * FEW) as u64);
}

/// The option that says how many commands are under way at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn with_a_lane_for_each_every_write_goes_alone() {
    let (server, network) = (TestServer::own(), Network::default());
    let many = MongoOptions { write_lanes: DOCUMENTS, ..options(&server) };
    let store = behind(proxy::start(server.port(), network.clone()).await, many).await;
    let games = games(&store).await;
    prepare(&games, &network).await;
    round(&games).await;
    assert_eq!(store.shared_writes(), Default::default());
}
