//! `kill -9` at any answer: whatever was confirmed is there, once, and clients go on where they were.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use support::{Answers, Client, Games, Lost};
use tokio::sync::Mutex;

const ROUNDS: u64 = 32;
const GAMES: [&str; 3] = ["go", "ches/s ?", "né"];
const HTTP_WRITERS: usize = 3;
const SOCKET_WRITERS: usize = 3;

fn path(prefix: &str, game: &str) -> String {
    let encoded: String = game.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("{prefix}/{encoded}")
}

/// One client that writes, over all rounds.
struct Writer {
    name: String,
    /// By game: how many of its writes were confirmed, and with which versions.
    confirmed: BTreeMap<&'static str, Vec<u64>>,
    /// Told of each of them.
    answers: Answers,
}

impl Writer {
    fn new(name: String, answers: Answers) -> Arc<Mutex<Self>> {
        let confirmed = GAMES.iter().map(|game| (*game, Vec::new())).collect();
        Arc::new(Mutex::new(Self { name, confirmed, answers }))
    }

    /// What it writes next to a game: the same again until it is confirmed.
    fn next(&self, game: &str) -> (u64, Value) {
        let count = self.confirmed[game].len() as u64 + 1;
        (count, json!({&self.name: count}))
    }

    fn confirm(&mut self, game: &'static str, count: u64, version: u64) {
        let versions = self.confirmed.get_mut(game).unwrap();
        assert_eq!(versions.len() as u64 + 1, count);
        versions.push(version);
        self.answers.count();
    }

    /// Writes with one request after the other until the server is gone.
    async fn write_by_http(&mut self, client: &Client, rng: &mut StdRng) {
        loop {
            let game = GAMES[rng.random_range(0..GAMES.len())];
            let (count, patch) = self.next(game);
            let headers = [("Weft-Client-Id", self.name.clone()), ("Weft-Client-Seq", count.to_string())];
            match client.request("PATCH", &path("/api/games", game), &headers, &patch).await {
                Ok((200, body)) => {
                    // A repeated write is answered with the document as it is now, which contains it.
                    assert!(body["state"][&self.name].as_u64() == Some(count), "{body}");
                    self.confirm(game, count, body["version"].as_u64().unwrap());
                }
                Ok((status, body)) => panic!("{status}: {body}"),
                Err(Lost) => return,
            }
        }
    }

    /// Writes over a socket, several at a time, until the server is gone.
    async fn write_by_socket(&mut self, client: &Client, rng: &mut StdRng) -> Result<(), Lost> {
        let mut socket = client.socket(&self.name, json!({})).await?;
        loop {
            let game = GAMES[rng.random_range(0..GAMES.len())];
            let (first, _) = self.next(game);
            let last = first + rng.random_range(0..4);
            for count in first..=last {
                let push = json!({
                    "type": "push", "documentId": game, "clientSeq": count, "op": "merge",
                    "patch": {&self.name: count},
                });
                socket.send(&push).await?;
            }
            for count in first..=last {
                let answer = socket.next().await?;
                assert_eq!(answer["type"], "pushed", "{answer}");
                assert_eq!(answer["clientSeq"], count, "answers come in the order of the pushes");
                self.confirm(game, count, answer["version"].as_u64().unwrap());
            }
        }
    }
}

/// A client that follows one game over all rounds and never forgets what it has.
#[derive(Clone)]
struct Follower {
    game: &'static str,
    version: u64,
    state: Value,
}

impl Follower {
    /// Follows until the server is gone, or until it has this version.
    async fn follow(&mut self, client: &Client, until: Option<u64>) -> Result<(), Lost> {
        let hello = json!({"documents": {self.game: {"cursor": self.version}}});
        let mut socket = client.socket("follower", hello).await?;
        while until.is_none_or(|version| self.version < version) {
            let message = socket.next().await?;
            match message["type"].as_str().unwrap() {
                "events" => {
                    for event in message["events"].as_array().unwrap() {
                        assert_eq!(event["sequenceNum"], self.version + 1, "a gap or a repeat");
                        apply(&mut self.state, event);
                        self.version += 1;
                    }
                }
                "live" => assert!(message["version"].as_u64().unwrap() <= self.version),
                other => panic!("a follower with a cursor got {other}: {message}"),
            }
        }
        Ok(())
    }
}

fn apply(state: &mut Value, event: &Value) {
    let patch: json_patch::Patch = serde_json::from_value(event["diff"]["jsonPatch"].clone()).unwrap();
    json_patch::patch(state, &patch).unwrap();
}

/// Reads a whole history and checks it against the document and what was confirmed.
async fn check(client: &Client, writers: &[Arc<Mutex<Writer>>]) {
    let mut positions = BTreeSet::new();
    for game in GAMES {
        let (mut version, mut state, mut writes) = (0, Value::Null, BTreeMap::new());
        loop {
            let page = client.get(&format!("{}?after={version}", path("/api/events", game))).await;
            for event in page["events"].as_array().unwrap() {
                version += 1;
                assert_eq!(event["sequenceNum"], version, "version n is event n, without a gap");
                assert!(positions.insert(event["position"].as_u64().unwrap()), "a position twice");
                apply(&mut state, event);
                let writer = event["clientId"].as_str().unwrap().to_owned();
                let count = event["clientSeq"].as_u64().unwrap();
                assert_eq!(writes.insert((writer, count), version), None, "a write twice");
            }
            if page.get("next").is_none() {
                break;
            }
        }
        let document = client.get(&path("/api/games", game)).await;
        assert_eq!(document["version"], version, "the document and its history differ");
        assert_eq!(document["state"], state, "the document is not what its events make");
        for writer in writers {
            let writer = writer.lock().await;
            for (count, confirmed) in (1..).zip(&writer.confirmed[game]) {
                let found = writes.get(&(writer.name.clone(), count));
                let found =
                    found.unwrap_or_else(|| panic!("{} {count} was confirmed and is lost", writer.name));
                // The answer to a repeat tells of a later version, when others wrote in between.
                assert!(found <= confirmed, "{} {count}", writer.name);
            }
        }
    }
    let last = positions.len() as u64;
    assert!(positions.iter().copied().eq(1..=last), "positions without a gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_confirmed_is_lost_and_clients_go_on_where_they_were() {
    let seed = std::env::var("WEFT_SEED")
        .map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().expect("WEFT_SEED is a number"));
    println!("WEFT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let answers = Answers::default();
    let writers: Vec<_> = (0..HTTP_WRITERS + SOCKET_WRITERS)
        .map(|n| Writer::new(format!("writer.{n}"), answers.clone()))
        .collect();
    let new = |game: &&'static str| Follower { game, version: 0, state: Value::Null };
    let mut followers: Vec<Follower> = GAMES.iter().map(new).collect();
    for round in 0..ROUNDS {
        let games = Games::start(folder.path()).await;
        let client = games.client();
        if round == 0 {
            for game in GAMES {
                let made =
                    client.request("PUT", &path("/api/games", game), &[], &json!({"name": game})).await;
                assert_eq!(made.unwrap().0, 201);
            }
        }
        check(&client, &writers).await;
        let mut tasks = tokio::task::JoinSet::new();
        for (number, writer) in writers.iter().enumerate() {
            let (client, writer) = (client.clone(), Arc::clone(writer));
            let mut rng = StdRng::seed_from_u64(rng.random());
            tasks.spawn(async move {
                let mut writer = writer.lock().await;
                if number < HTTP_WRITERS {
                    writer.write_by_http(&client, &mut rng).await;
                } else {
                    let _gone = writer.write_by_socket(&client, &mut rng).await;
                }
            });
        }
        let mut following = tokio::task::JoinSet::new();
        for mut follower in followers.drain(..) {
            let client = client.clone();
            following.spawn(async move {
                let _gone = follower.follow(&client, None).await;
                follower
            });
        }
        // When one writer has its answer the others are in the middle of something. In every fourth round much was done before.
        let more = if round % 4 == 3 { rng.random_range(60..240) } else { rng.random_range(1..30) };
        answers.reach_more(more).await;
        games.kill().await;
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        while let Some(follower) = following.join_next().await {
            followers.push(follower.unwrap());
        }
    }
    let games = Games::start(folder.path()).await;
    let client = games.client();
    check(&client, &writers).await;
    let mut confirmed = 0;
    for writer in &writers {
        confirmed += writer.lock().await.confirmed.values().map(Vec::len).sum::<usize>();
    }
    assert!(confirmed > ROUNDS as usize, "hardly anything was written: {confirmed}");
    println!("{ROUNDS} crashes, {confirmed} confirmed writes");
    for mut follower in followers {
        let document = client.get(&path("/api/games", follower.game)).await;
        follower.follow(&client, document["version"].as_u64()).await.expect("the server stays");
        assert_eq!(follower.version, document["version"]);
        assert_eq!(follower.state, document["state"], "the client's view is the store's");
    }
}
