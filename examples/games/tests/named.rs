//! Requests with a name (`Idempotency-Key`) and `kill -9` at any moment between the note of the name, the write and the
//! note of its answer: sent again until it is answered, each is done once.

mod support;

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use support::{Answers, Games, Lost};

const ROUNDS: u64 = 30;
const WRITERS: usize = 6;

/// One client: the names of what was answered, with the game that the answer told of, and how often it asked.
struct Writer {
    number: usize,
    answered: BTreeMap<String, String>,
    asked: usize,
    answers: Answers,
}

impl Writer {
    /// The same request again until it is answered; then the next one.
    fn next(&self) -> String {
        format!("writer-{}-request-{}", self.number, self.answered.len())
    }

    async fn write_until_the_server_is_gone(&mut self, client: &support::Client) {
        loop {
            let name = self.next();
            self.asked += 1;
            let headers = [("Idempotency-Key", name.clone())];
            // Without an id: whoever did it twice would make two games.
            match client.request("POST", "/api/games", &headers, &json!({"name": name})).await {
                Ok((201, body)) => {
                    let game = body["id"].as_str().expect("an id").to_owned();
                    self.answered.insert(name, game);
                    self.answers.count();
                }
                Ok((status, body)) => panic!("{status}: {body}"),
                Err(Lost) => return,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_named_request_is_done_once_whenever_the_server_dies() {
    let seed = std::env::var("WEFT_SEED")
        .map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().expect("WEFT_SEED is a number"));
    println!("WEFT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let answers = Answers::default();
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| Writer { number, answered: BTreeMap::new(), asked: 0, answers: answers.clone() })
        .collect();
    for _ in 0..ROUNDS {
        let games = Games::start(folder.path()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for mut writer in writers.drain(..) {
            let client = games.client();
            tasks.spawn(async move {
                writer.write_until_the_server_is_gone(&client).await;
                writer
            });
        }
        // When one writer has its answer the others are between the note of the name and theirs.
        answers.reach_more(rng.random_range(1..40)).await;
        games.kill().await;
        while let Some(writer) = tasks.join_next().await {
            writers.push(writer.unwrap());
        }
    }
    // What was under way at the last crash is asked for once more, and answered.
    let games = Games::start(folder.path()).await;
    let client = games.client();
    for writer in &mut writers {
        let name = writer.next();
        let headers = [("Idempotency-Key", name.clone())];
        let (status, body) =
            client.request("POST", "/api/games", &headers, &json!({"name": name})).await.unwrap();
        assert_eq!(status, 201, "{body}");
        writer.answered.insert(name, body["id"].as_str().unwrap().to_owned());
    }

    let mut done: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut position = 0;
    loop {
        let page = client.get(&format!("/api/events?after={position}")).await;
        for event in page["events"].as_array().unwrap() {
            let name =
                event["metadata"]["idempotencyKey"].as_str().expect("the name is in the event").to_owned();
            done.entry(name).or_default().push(event["documentId"].as_str().unwrap().to_owned());
        }
        position = page["position"].as_u64().unwrap();
        if page.get("next").is_none() {
            break;
        }
    }
    let (mut answered, mut asked) = (0, 0);
    for writer in &writers {
        answered += writer.answered.len();
        asked += writer.asked + 1;
        for (name, game) in &writer.answered {
            assert_eq!(done.get(name), Some(&vec![game.clone()]), "{name}");
        }
    }
    assert_eq!(done.len(), answered, "everything that was done was answered in the end");
    println!("{ROUNDS} crashes, {answered} requests, {} sent again", asked - answered);
    assert!(asked > answered, "no request was under way at a crash");
}
