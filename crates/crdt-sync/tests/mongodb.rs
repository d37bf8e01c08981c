//! The patch store in a MongoDB database against the laws of the trait.

use std::{process::Stdio, sync::Arc};

use async_trait::async_trait;
use crdt_core::{PatchBuilder, SessionId, StateVector};
use crdt_sync::{
    PatchRecord, Want,
    store::{MongoPatchStore, PatchPage, PatchStore, conformance::StoreMaker},
};
use nodestorage::{
    MongoOptions, MongoStore,
    mongo::{
        driver::bson::{Document, doc, oid::ObjectId},
        testing::TestServer,
    },
};

use spot::conformance::DEADLINE;
use tokio::{
    io::{AsyncBufReadExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::watch,
};

struct Database {
    server: TestServer,
    /// Its connections are the patch store's.
    store: Option<MongoStore>,
}

#[async_trait]
impl StoreMaker for Database {
    async fn open(&mut self) -> (Arc<dyn PatchStore>, bool) {
        let options =
            MongoOptions { database: Some(self.server.database().to_owned()), ..MongoOptions::default() };
        let store = MongoStore::connect(self.server.uri(), options).await.unwrap();
        let patches = MongoPatchStore::open(&store, "doc").await.unwrap();
        self.store = Some(store);
        (Arc::new(patches), true)
    }
}

crdt_sync::patch_store_conformance_tests!(
    Database { server: TestServer::start(), store: None },
    #[ignore = "needs secantusd"]
);

/// Somebody crashed while he installed a snapshot: before the head named it, or right behind.
#[tokio::test]
#[ignore = "needs secantusd"]
async fn what_an_installation_left_that_was_cut_off_goes_with_the_next() {
    let mut database = Database { server: TestServer::start(), store: None };
    let (store, _) = database.open().await;
    let session = SessionId::new(70_000).unwrap();
    let mut builder = PatchBuilder::new(session, 1);
    builder.nop(3);
    let patch = builder.finish().unwrap();
    let record = PatchRecord::new(0, patch.as_bytes().to_vec().into()).unwrap();
    store.append(std::slice::from_ref(&record)).await.unwrap();
    let mongo = database.store.as_ref().unwrap().database();
    let (patches, pieces) =
        (mongo.collection::<Document>("patches"), mongo.collection::<Document>("patch_snapshots"));
    let folded = patches.find_one(doc! {}).await.unwrap().unwrap();
    let vector = StateVector::from_iter([(session, 3)]);
    store.install(&vector, "snapshot".into()).await.unwrap();
    assert_eq!(patches.count_documents(doc! {}).await.unwrap(), 0);

    patches.insert_one(&folded).await.unwrap();
    let (old, new) = (ObjectId::from_parts(1_000_000_000, [1; 5], [1; 3]), ObjectId::new());
    for left in [old, new] {
        pieces.insert_one(doc! {"_id": {"g": left, "n": 0_i64}, "d": "doc", "bytes": "x"}).await.unwrap();
    }
    store.install(&vector, "snapshot".into()).await.unwrap();
    assert_eq!(patches.count_documents(doc! {}).await.unwrap(), 0);
    // What somebody may still be writing stays.
    assert_eq!(pieces.count_documents(doc! {"_id.g": old}).await.unwrap(), 0);
    assert_eq!(pieces.count_documents(doc! {"_id.g": new}).await.unwrap(), 1);
    assert_eq!(store.snapshot().await.unwrap(), Some((vector, "snapshot".into())));
}

/// In this variable a writer finds its server and database.
const WRITER: &str = "WEFT_TEST_PATCH_WRITER";
const SESSIONS: u64 = 3;
const ROUNDS: usize = 8;

fn session(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

/// The patch of a session that follows the one that ends at `prev`.
fn next(number: u64, prev: u64) -> PatchRecord {
    let mut builder = PatchBuilder::new(session(number), prev + 1);
    builder.nop(1);
    PatchRecord::new(prev, builder.finish().unwrap().as_bytes().to_vec().into()).unwrap()
}

async fn open_at(uri: &str, database: &str) -> MongoPatchStore {
    let options = MongoOptions { database: Some(database.to_owned()), ..MongoOptions::default() };
    let store = MongoStore::connect(uri, options).await.unwrap();
    MongoPatchStore::open(&store, "doc").await.unwrap()
}

/// Appends until it is killed, and says of each patch that it was answered. Folds now and then.
async fn append_until_killed(place: &str) {
    let (database, uri) = place.split_once(' ').unwrap();
    let store = Arc::new(open_at(uri, database).await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..SESSIONS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            loop {
                let vector = store.vector().await.unwrap();
                let prev = vector.get(&session(number));
                store.append(&[next(number, prev)]).await.unwrap();
                println!("answered {number} {}", prev + 1);
                if prev % 40 == 39 && number == 0 {
                    store.install(&vector, format!("snapshot at {prev}").into()).await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
}

/// Stands between the writer and the server. Each change of the number cuts all connections; new ones are let through.
async fn cable(server: u16) -> (u16, watch::Sender<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (cuts, watched) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut watched = watched.clone();
            watched.mark_unchanged();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = watched.changed() => {}
                }
            });
        }
    });
    (port, cuts)
}

/// `kill -9` of the writer in the middle of appends, in every second round after its connections were cut several times.
/// What was answered is there, each patch once and where it belongs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn nothing_acknowledged_is_lost_or_kept_twice_when_the_writer_is_killed_or_cut_off() {
    if let Ok(place) = std::env::var(WRITER) {
        return append_until_killed(&place).await;
    }
    let server = TestServer::own();
    let (port, cuts) = cable(server.port()).await;
    let place = format!("{} {}", server.database(), TestServer::uri_at(port));
    let (mut answered, mut seen_snapshot) = ([0; SESSIONS as usize], false);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "nothing_acknowledged_is_lost_or_kept_twice_when_the_writer_is_killed_or_cut_off",
            ])
            .args(["--ignored", "--nocapture"])
            .env(WRITER, &place)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: &str| {
            let mut words = line.split(' ').skip_while(|word| !word.ends_with("answered")).skip(1);
            let mut number = || words.next()?.parse::<u64>().ok();
            if let (Some(session), Some(last)) = (number(), number()) {
                answered[session as usize] = last;
            }
        };
        for count in 0..30 + 17 * round {
            let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("it goes on");
            note(&line.unwrap().expect("it runs"));
            if round % 2 == 1 && count % 20 == 19 {
                cuts.send_modify(|cuts| *cuts += 1);
            }
        }
        child.kill().await.unwrap();
        // What it said before it died.
        while let Ok(Some(line)) = lines.next_line().await {
            note(&line);
        }

        let store = open_at(server.uri(), server.database()).await;
        let vector = store.vector().await.unwrap();
        let contained = store.snapshot().await.unwrap().map(|(vector, _)| vector).unwrap_or_default();
        seen_snapshot |= !contained.is_empty();
        for number in 0..SESSIONS {
            let sid = session(number);
            let (last, after) = (vector.get(&sid), contained.get(&sid));
            assert!(last >= answered[number as usize], "round {round}: {last} of {answered:?}");
            let want = [Want { sid, after, upto: last }];
            let PatchPage::Records(page) = store.page(&want, usize::MAX).await.unwrap() else { panic!() };
            let expected: Vec<_> = (after..last).map(|prev| next(number, prev)).collect();
            assert_eq!(page, expected, "round {round}");
        }
    }
    assert!(seen_snapshot && answered.iter().all(|last| *last > 50), "{answered:?}");
    assert!(*cuts.borrow() > 8);
}
