//! Updates per second of the store over MongoDB beside the raw `mongodb` driver on the same server.
//!
//! Both do the same compare-and-swap on documents of about 300 bytes: read the document, count a field up, write it back
//! with one `findOneAndUpdate` that asks for the version that was read. Ours also leaves the change's event in the same
//! write, and its relay moves the events to the log meanwhile; the second time of ours is the one until the log has all
//! of them. The last row of the raw driver leaves the read out, as a program may that remembers the version.
//!
//! On Linux, and with a server that was started here, it also says what an update costs both programs in processor time, the
//! least of all runs: it is what they are short of, and is moved less by what else runs on the machine.
//!
//! The server is the one that `MONGODB_URI` names, else one that `WEFT_SECANTUSD` starts. Every run ends by comparing what
//! is stored with what was asked for.

use std::{convert::Infallible, time::Instant};

use crdt_core::ClientId;
use nodestorage::{
    Body, DocumentId, EditOptions, MongoOptions, MongoStore, Storage, StorageExt, StorageOptions, Store,
    mongo::{
        driver::{
            Client, Collection,
            bson::{Document, doc},
            options::{Acknowledgment, ClientOptions, ReadConcern, WriteConcern},
        },
        testing::TestServer,
    },
};
use serde_json::json;
use tokio::task::JoinSet;

/// Runs of each row if the caller names no number, taken in turn so that a noisy moment hits all; the median counts.
const ROUNDS: u64 = 5;

/// How many updates one run of a row makes, shared by its writers.
const UPDATES: u64 = 1_024;

/// As many connections as the store has by default.
const CONNECTIONS: u32 = 32;

/// How the raw driver knows which version it follows.
#[derive(Clone, Copy)]
enum Version {
    Read,
    Remembered,
}

fn name(writer: u64) -> String {
    format!("game {writer}")
}

/// What one update takes, in microseconds of the client's and the server's processor time.
#[derive(Clone, Copy)]
struct Spent {
    client: f64,
    server: f64,
}

impl Spent {
    const NOTHING_YET: Self = Self { client: f64::MAX, server: f64::MAX };

    /// What both have used up to now. `None` where that is not told.
    fn so_far(server: &TestServer) -> Option<Self> {
        let of = |process: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            // User and system time in hundredths of a second: the 14th and 15th field, of which two are cut off here.
            Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) * 10_000.0)
        };
        Some(Self { client: of(std::process::id())?, server: of(server.process()?)? })
    }

    /// The lesser of this and of what was used since `start`, by so many updates.
    fn least(self, start: Option<Self>, server: &TestServer, updates: u64) -> Self {
        let (Some(start), Some(end)) = (start, Self::so_far(server)) else { return self };
        Self {
            client: self.client.min((end.client - start.client) / updates as f64),
            server: self.server.min((end.server - start.server) / updates as f64),
        }
    }
}

/// Updates per second of the driver alone.
async fn raw(server: &TestServer, round: u64, version: Version, writers: u64, spent: &mut Spent) -> f64 {
    let mut options = ClientOptions::parse(server.uri()).await.unwrap();
    options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
    options.read_concern = Some(ReadConcern::majority());
    options.max_pool_size = Some(CONNECTIONS);
    let client = Client::with_options(options).unwrap();
    let database = client.database(&format!("{}_raw_{round}_{writers}", server.database()));
    let games: Collection<Document> = database.collection("games");
    for writer in 0..writers {
        let items: Vec<_> = (0..8).map(|n| doc! {"id": n, "name": format!("item {n}")}).collect();
        let game =
            doc! {"_id": name(writer), "name": "a game", "gold": 0i64, "items": items, "_version": 1i64};
        games.insert_one(game).await.unwrap();
    }
    let each = UPDATES / writers;
    let (start, before) = (Instant::now(), Spent::so_far(server));
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let games = games.clone();
        tasks.spawn(async move {
            let (mut at, mut gold) = (1i64, 0i64);
            for _ in 0..each {
                if let Version::Read = version {
                    let found = games.find_one(doc! {"_id": name(writer)}).await.unwrap().unwrap();
                    (at, gold) = (found.get_i64("_version").unwrap(), found.get_i64("gold").unwrap());
                }
                let unless = doc! {"_id": name(writer), "_version": at};
                let update = doc! {"$set": {"gold": gold + 1, "_version": at + 1}};
                let swapped = games.find_one_and_update(unless, update).projection(doc! {"_id": 1});
                assert!(swapped.await.unwrap().is_some());
                (at, gold) = (at + 1, gold + 1);
            }
        });
    }
    tasks.join_all().await;
    let took = start.elapsed().as_secs_f64();
    *spent = spent.least(before, server, writers * each);
    for writer in 0..writers {
        let game = games.find_one(doc! {"_id": name(writer)}).await.unwrap().unwrap();
        assert_eq!(game.get_i64("gold").unwrap(), i64::try_from(each).unwrap());
    }
    database.drop().await.unwrap();
    (writers * each) as f64 / took
}

/// Updates per second until each is answered, and until the log has all of them.
async fn ours(server: &TestServer, round: u64, writers: u64, spent: &mut Spent) -> (f64, f64) {
    let database = format!("{}_own_{round}_{writers}", server.database());
    let options = MongoOptions { database: Some(database), ..MongoOptions::default() };
    let store = MongoStore::connect(server.uri(), options).await.unwrap();
    let games = store.collection("games", StorageOptions::default()).await.unwrap();
    let by = || EditOptions::by(ClientId::new("bench").unwrap());
    let id = |writer: u64| DocumentId::new(name(writer)).unwrap();
    for writer in 0..writers {
        let items: Vec<_> = (0..8).map(|n| json!({"id": n, "name": format!("item {n}")})).collect();
        let game = json!({"name": "a game", "gold": 0, "items": items});
        games.find_one_and_upsert(&id(writer), game.as_object().unwrap().clone(), by()).await.unwrap();
    }
    assert_eq!(games.position().await.unwrap(), writers);
    let each = UPDATES / writers;
    let (start, before) = (Instant::now(), Spent::so_far(server));
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let games = games.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                let earn = |body: &mut Body| {
                    body["gold"] = json!(body["gold"].as_u64().unwrap() + 1);
                    Ok::<_, Infallible>(())
                };
                games.edit(&id(writer), earn, by()).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let answered = start.elapsed().as_secs_f64();
    assert_eq!(games.position().await.unwrap(), writers + writers * each);
    let logged = start.elapsed().as_secs_f64();
    *spent = spent.least(before, server, writers * each);
    for writer in 0..writers {
        let game = games.find_one(&id(writer)).await.unwrap().unwrap();
        assert_eq!((game.version, &game.body["gold"]), (1 + each, &json!(each)));
    }
    store.close().await.unwrap();
    store.database().drop().await.ok();
    let updates = (writers * each) as f64;
    (updates / answered, updates / logged)
}

/// The middle of a row's figures.
fn median(of: &[f64]) -> f64 {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// `mongodb [rounds [in flight…]]`
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if std::env::var_os("MONGODB_URI").is_none() && std::env::var_os("WEFT_SECANTUSD").is_none() {
        println!("skipped: no server; `cargo xtask services` installs one and says where it is");
        return;
    }
    let mut asked = std::env::args().skip(1).filter_map(|count| count.parse::<u64>().ok());
    let rounds = asked.next().unwrap_or(ROUNDS);
    let mut sizes: Vec<u64> = asked.collect();
    if sizes.is_empty() {
        sizes = vec![1, 16, 256];
    }
    let server = TestServer::start();
    println!(
        "updates per second (medians)   raw driver   MongoStorage   and logged   raw, no read   time, times (median; \
         least to most)   raw by raw"
    );
    for writers in sizes {
        let mut rates: [Vec<f64>; 5] = Default::default();
        let mut spent = [Spent::NOTHING_YET; 3];
        for round in 0..rounds {
            // The raw driver comes twice: how far the two are apart says what a difference is worth. Who comes first changes.
            for turn in 0..4 {
                let kind = (turn + round) % 4;
                let number = round * 4 + kind;
                match kind {
                    0 | 2 => rates[kind as usize / 2]
                        .push(raw(&server, number, Version::Read, writers, &mut spent[0]).await),
                    1 => {
                        let own = ours(&server, number, writers, &mut spent[1]).await;
                        rates[2].push(own.0);
                        rates[3].push(own.1);
                    }
                    _ => {
                        rates[4].push(raw(&server, number, Version::Remembered, writers, &mut spent[2]).await)
                    }
                }
            }
        }
        let [once, again, answered, logged, blind] = &rates;
        let times: Vec<f64> =
            (0..answered.len()).map(|round| once[round].midpoint(again[round]) / answered[round]).collect();
        let noise: Vec<f64> =
            once.iter().zip(again).map(|(once, again)| (once / again).max(again / once)).collect();
        let both: Vec<f64> = once.iter().chain(again).copied().collect();
        let (least, most) =
            times.iter().fold((f64::MAX, 0f64), |(least, most), &of| (least.min(of), most.max(of)));
        println!(
            "{writers:>3} in flight {:>28.0} {:>14.0} {:>12.0} {:>14.0} {:>13.2}; {least:.2} to {most:.2} {:>25.2}",
            median(&both),
            median(answered),
            median(logged),
            median(blind),
            median(&times),
            median(&noise),
        );
        if spent[0].client < f64::MAX {
            let [raw, own, blind] = spent.map(|of| format!("{:.0} + {:.0}", of.client, of.server));
            println!("    µs of client + server: {raw}, with events {own}, raw without a read {blind}");
        }
    }
}
