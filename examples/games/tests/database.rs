//! The whole application over a MongoDB database, and two of it over one.

mod support;

use std::process::Stdio;

use nodestorage::mongo::testing::TestServer;
use serde_json::{Value, json};
use spot::{
    PubSub, Received, RedisOptions, RedisPubSub, SubscriptionOptions, Topic, conformance::RedisServer,
};
use support::{Client, DEADLINE, Games, command};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

async fn start(server: &TestServer, more: &[&str]) -> Games {
    let (head, query) = server.uri().split_once("/?").unwrap_or((server.uri(), ""));
    let uri = format!("{}/{}?{query}", head.trim_end_matches('/'), server.database());
    let arguments = [&["--listen", "127.0.0.1:0", "--store", &uri, "--log", "warn"], more].concat();
    let mut child = command(&arguments).stderr(Stdio::inherit()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(DEADLINE, lines.next_line()).await.expect("ready in time").unwrap();
    let line = line.expect("it says where it is");
    let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    Games { child, address }
}

async fn put(client: &Client, name: &str, game: Value) -> u64 {
    let (status, body) =
        client.request("PUT", &format!("/api/games/{name}"), &[], &game).await.expect("an answer");
    assert!(status == 200 || status == 201, "{status}: {body}");
    body["version"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn two_programs_over_one_database_see_each_others_writes() {
    let server = TestServer::start();
    let (one, other) = (start(&server, &[]).await, start(&server, &[]).await);
    let (here, there) = (one.client(), other.client());
    assert_eq!(put(&here, "go", json!({"name": "Go"})).await, 1);
    assert_eq!(there.get("/api/games/go").await["state"]["name"], "Go");

    let hello = json!({"documents": {"go": {"cursor": 1}}});
    let mut sockets = Vec::new();
    for client in [&here, &there] {
        let mut socket = client.socket("reader", hello.clone()).await.expect("a socket");
        while socket.next().await.expect("a message")["type"] != "live" {}
        sockets.push(socket);
    }
    for n in 0..20 {
        let writer = if n % 2 == 0 { &here } else { &there };
        assert_eq!(put(writer, "go", json!({"name": "Go", "n": n})).await, n + 2);
    }
    for socket in &mut sockets {
        let mut version = 1;
        while version < 21 {
            let message = socket.next().await.expect("a message");
            if message["type"] == "events" {
                for event in message["events"].as_array().unwrap() {
                    version += 1;
                    assert_eq!(event["sequenceNum"], version, "a gap or a repeat");
                }
            }
        }
    }

    // One is killed, the other goes on, and a third finds everything.
    one.kill().await;
    assert_eq!(put(&there, "go", json!({"name": "Go", "n": "last"})).await, 22);
    let third = start(&server, &[]).await;
    let page = third.client().get("/api/events/go?after=0").await;
    let numbers: Vec<u64> =
        page["events"].as_array().unwrap().iter().map(|e| e["sequenceNum"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=22).collect::<Vec<_>>());
    assert_eq!(third.client().get("/api/games/go").await["state"]["n"], "last");
}

/// The number of a metric of a program.
async fn metric(client: &Client, name: &str) -> f64 {
    let (status, _, body) = client.file("/metrics").await;
    assert_eq!(status, 200);
    let body = String::from_utf8(body).unwrap();
    let line = body.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {body}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_one_program_writes_leaves_the_memory_of_the_other() {
    neither_shows_what_the_other_has_replaced("memory").await;
}

/// Here both have one cache, and what one has read the other is given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd and redis-server"]
async fn two_programs_with_one_cache_in_redis_show_nothing_old() {
    let redis = RedisServer::start().await;
    neither_shows_what_the_other_has_replaced(&redis.url()).await;
}

async fn neither_shows_what_the_other_has_replaced(cache: &str) {
    const HITS: &str = "weft_cache_reads_total{result=\"hit\"}";
    let server = TestServer::start();
    let cached = ["--cache", cache];
    let (one, other) = (start(&server, &cached).await, start(&server, &cached).await);
    let (here, there) = (one.client(), other.client());
    put(&here, "go", json!({"name": "Go", "n": 0})).await;
    for n in 1..=5 {
        // It is read until it is served from the cache,
        let reading = async {
            let before = metric(&there, HITS).await;
            while metric(&there, HITS).await <= before {
                there.get("/api/games/go").await;
            }
        };
        timeout(DEADLINE, reading).await.expect("it is served from the cache in time");
        // and then written by the other program.
        let told = metric(&there, "weft_cache_invalidated_total").await;
        put(&here, "go", json!({"name": "Go", "n": n})).await;
        let showing = async { while there.get("/api/games/go").await["state"]["n"] != n {} };
        timeout(DEADLINE, showing).await.expect("the new one shows in time");
        if cache == "memory" {
            assert!(metric(&there, "weft_cache_invalidated_total").await > told, "the feed told of it");
        } else {
            // Who writes puts the new one into the cache of both, and the feed may tell later.
            let telling = async { while metric(&there, "weft_cache_invalidated_total").await <= told {} };
            timeout(DEADLINE, telling).await.expect("the feed tells of it in time");
        }
    }
    assert!(metric(&there, "weft_cache_hit_ratio").await > 0.0);
}

/// Whatever is written through one of them, the others are told over Redis; and Redis may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd and redis-server"]
async fn two_programs_wake_each_other_over_redis() {
    let (server, mut redis) = (TestServer::start(), RedisServer::start().await);
    let url = redis.url();
    let listening = RedisPubSub::connect(&url, RedisOptions::standard()).await.unwrap();
    let topic = Topic::new("games/wake").unwrap();
    let mut heard = listening.subscribe(topic.into(), SubscriptionOptions::STANDARD).await.unwrap();
    let wake = ["--wake", url.as_str()];
    let (one, other) = (start(&server, &wake).await, start(&server, &wake).await);
    for (program, name) in [(&one, "go"), (&other, "chess")] {
        put(&program.client(), name, json!({"name": name})).await;
        let hint = timeout(DEADLINE, heard.recv()).await.expect("a hint in time").expect("no end");
        let Received::Message(hint) = hint else { panic!("{hint:?}") };
        assert!(hint.payload.ends_with(name.as_bytes()), "{hint:?}");
        assert!(hint.payload.len() < 64, "a hint is no event");
    }
    let mut socket =
        other.client().socket("reader", json!({"documents": {"go": {"cursor": 1}}})).await.expect("a socket");
    while socket.next().await.expect("a message")["type"] != "live" {}
    put(&one.client(), "go", json!({"name": "Go", "n": 1})).await;
    let next = socket.next().await.expect("a message");
    assert_eq!(next["events"][0]["sequenceNum"], 2, "{next}");

    // Without Redis the database tells.
    redis.kill();
    assert_eq!(put(&one.client(), "go", json!({"name": "Go", "n": 2})).await, 3);
    let next = socket.next().await.expect("a message");
    assert_eq!(next["events"][0]["sequenceNum"], 3, "{next}");
}

/// The same named requests come to both at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_named_request_to_two_programs_is_done_once() {
    const REQUESTS: usize = 40;
    let server = TestServer::start();
    let programs = [start(&server, &[]).await, start(&server, &[]).await];
    for n in 0..REQUESTS {
        let tasks: Vec<_> = programs
            .iter()
            .map(|program| {
                let client = program.client();
                let headers = [("Idempotency-Key", format!("request-{n}"))];
                tokio::spawn(async move {
                    let game = json!({"name": format!("game {n}")});
                    client.request("POST", "/api/games", &headers, &game).await.expect("an answer")
                })
            })
            .collect();
        let mut games = Vec::new();
        for task in tasks {
            let (status, body) = task.await.unwrap();
            assert_eq!(status, 201, "{body}");
            games.push(body["id"].as_str().expect("an id").to_owned());
        }
        assert_eq!(games[0], games[1], "two games of one request");
    }
    let all = programs[0].client().get("/api/games?limit=100").await;
    assert_eq!(all["items"].as_array().map_or(0, Vec::len), REQUESTS, "{all}");
}
