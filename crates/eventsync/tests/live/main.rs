//! Clients over the wire: live, away, back again.

mod away;
mod reads;
#[path = "../support/mod.rs"]
mod support;
mod writes;

use std::sync::Arc;

use eventsync::http::HttpOptions;
use serde_json::{Value, json};
use support::{Server, Socket};

async fn merge(server: &Server, game: &str, patch: Value) -> u64 {
    let body = patch.to_string();
    let kind = [("Content-Type", "application/merge-patch+json")];
    let reply = server.request("PATCH", &format!("/api/games/{game}"), &kind, body.as_bytes()).await;
    assert_eq!(reply.status, 200, "{}", reply.json());
    reply.json()["version"].as_u64().unwrap()
}

async fn create(server: &Server, game: &str) {
    let reply = server.json("POST", &format!("/api/games?id={game}"), &json!({"name": game})).await;
    assert_eq!(reply.status, 201, "{}", reply.json());
}

/// Takes events until this one, and checks that they come one after the other.
async fn until(socket: &mut Socket, mut have: u64, version: u64) -> Vec<Value> {
    let mut events = Vec::new();
    while have < version {
        let message = socket.next_of("events").await;
        if message["collection"] == true {
            continue;
        }
        for event in message["events"].as_array().unwrap() {
            have += 1;
            assert_eq!(event["sequenceNum"], have, "a gap or a repeat");
            events.push(event.clone());
        }
    }
    events
}

/// Defect 7: the server sent `events`, the client read `event`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_has_one_shape_live_and_caught_up_on_every_transport() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut live = server.client("a", json!({"documents": {"go": {"cursor": 1}}})).await;
    assert_eq!(live.next().await, json!({"type": "live", "documentId": "go", "version": 1}));
    let mut stream = server.stream("/events/go?after=1", &[]).await;
    assert_eq!(stream.next().await.0, "live");
    merge(&server, "go", json!({"gold": 5})).await;

    let message = live.next().await;
    assert_eq!(message["stateVector"], json!({"http": 2}));
    let event = message["events"][0].clone();
    assert_eq!(event["id"], "go@2");
    assert_eq!(event["diff"]["mergePatch"], json!({"gold": 5}));
    assert_eq!(stream.next().await, ("event".into(), Some(2), event.clone()));
    let mut late = server.client("b", json!({"documents": {"go": {"cursor": 1}}})).await;
    assert_eq!(late.next().await["events"][0], event);
    assert_eq!(server.get("/api/events/go?after=1").await.json()["events"][0], event);
    let synced = server.json("POST", "/api/sync/go", &json!({"vectorClock": {"http": 1}})).await.json();
    assert_eq!(synced["events"], json!([event]));
    assert_eq!((&synced["stateVector"], &synced["cursor"]), (&json!({"http": 2}), &json!(2)));
    let mut packed = server.socket("/sync/go", Some("eventsync.v1.msgpack")).await;
    let hello = json!({"type": "hello", "clientId": "p", "documents": {"go": {"cursor": 1}}});
    packed
        .raw(tokio_tungstenite::tungstenite::Message::binary(rmp_serde::to_vec_named(&hello).unwrap()))
        .await;
    assert_eq!(packed.next().await["type"], "welcome");
    assert_eq!(packed.next().await["events"][0], event);
}

/// Defect 6: the client waited for the next number of each author, and two authors stalled every client for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_authors_do_not_stall_a_reader() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut reader = server.client("reader", json!({"documents": {"go": {"cursor": 0}}})).await;
    let mut authors = [server.client("a.b", json!({})).await, server.client("c", json!({})).await];
    for count in 1..=20 {
        for author in &mut authors {
            author
                .send(&json!({
                    "type": "push", "documentId": "go", "clientSeq": count, "op": "merge",
                    "patch": {"count": count},
                }))
                .await;
            assert_eq!(author.next_of("pushed").await["clientSeq"], count);
        }
    }
    // The second author of each round writes what is there already: that is no event.
    let events = until(&mut reader, 0, 21).await;
    assert_eq!(events.last().unwrap()["clientId"], "a.b");
}

/// Defects 8 and 9: closing a socket locked the service up, and broadcasting ran over a table that others changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sockets_that_come_and_go_hold_nothing_up() {
    let server = Arc::new(Server::start().await);
    create(&server, "go").await;
    let writer = {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            for gold in 0..150 {
                merge(&server, "go", json!({"gold": gold})).await;
            }
        })
    };
    let mut comers = tokio::task::JoinSet::new();
    for comer in 0..40 {
        let server = Arc::clone(&server);
        comers.spawn(async move {
            let hello = json!({"documents": {"go": {"cursor": 0}}, "collection": {}});
            let mut socket = server.client(&format!("c{comer}"), hello).await;
            until(&mut socket, 0, 1 + comer % 7).await;
        });
    }
    while let Some(comer) = comers.join_next().await {
        comer.unwrap();
    }
    writer.await.unwrap();
    let go = nodestorage::DocumentId::new("go").unwrap();
    let gone = async {
        while server.service.broker().readers(&go) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(support::DEADLINE, gone).await.expect("every subscription ends with its socket");
}

/// Defect 10: a full channel dropped the event, and nobody heard of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_gets_every_event_when_it_goes_on() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut slow = server.client("slow", json!({"documents": {"go": {"cursor": 1}}})).await;
    assert_eq!(slow.next().await["type"], "live");
    let padding = "x".repeat(8000);
    for gold in 0..600 {
        merge(&server, "go", json!({"gold": gold, "padding": format!("{gold}{padding}")})).await;
    }
    until(&mut slow, 1, 601).await;
}

/// Defect 11: a watch was registered twice, and each event came twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_twice_gives_each_event_once() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut socket = server.client("a", json!({"documents": {"go": {"cursor": 1}}})).await;
    socket.send(&json!({"type": "subscribe", "documents": {"go": {"cursor": 1}}})).await;
    assert_eq!(socket.next().await["type"], "live");
    assert_eq!(socket.next().await["type"], "live");
    for gold in 0..5 {
        merge(&server, "go", json!({"gold": gold})).await;
    }
    until(&mut socket, 1, 6).await;
    socket.send(&json!({"type": "unsubscribe", "documents": ["go"]})).await;
    socket.send(&json!({"type": "ping", "id": 1})).await;
    assert_eq!(socket.next().await["type"], "pong");
    merge(&server, "go", json!({"gold": 7})).await;
    socket.send(&json!({"type": "ping", "id": 2})).await;
    assert_eq!(socket.next().await["id"], 2, "nothing comes after an unsubscribe");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_is_shown_to_others_and_goes_with_its_socket() {
    let server = Server::start().await;
    let hello = json!({"documents": {"go": {"cursor": 0}}});
    let mut first = server.client("first", hello.clone()).await;
    first.next_of("live").await;
    first.send(&json!({"type": "presence", "documentId": "go", "data": {"at": 3}})).await;
    first.send(&json!({"type": "ping"})).await;
    first.next_of("pong").await;
    let mut second = server.client("second", hello).await;
    let expect =
        |data: Value| json!({"type": "presence", "documentId": "go", "clientId": "first", "data": data});
    assert_eq!(second.next_of("presence").await, expect(json!({"at": 3})));
    second.next_of("live").await;
    first.send(&json!({"type": "presence", "documentId": "go", "data": {"at": 4}})).await;
    assert_eq!(second.next().await, expect(json!({"at": 4})));
    drop(first);
    assert_eq!(second.next().await, expect(Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_down_answers_what_is_under_way_and_says_goodbye() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut socket = server.client("a", json!({})).await;
    let mut stream = server.stream("/events", &[]).await;
    assert_eq!(stream.next().await.0, "live");
    for count in 1..=30 {
        socket
            .send(&json!({"type": "push", "documentId": "go", "clientSeq": count, "op": "merge", "patch": {"n": count}}))
            .await;
    }
    assert_eq!(socket.next().await["clientSeq"], 1);
    let service = server.service.clone();
    let closing = tokio::spawn(async move { service.close().await });
    let (messages, code) = socket.until_closed().await;
    assert_eq!(code, Some(1012));
    assert!(messages.iter().any(|message| message["type"] == "drain"));
    let counts: Vec<u64> = messages.iter().filter_map(|message| message["clientSeq"].as_u64()).collect();
    // Whatever was taken in was answered, in order; the rest is the client's to send again.
    assert!(counts.iter().copied().eq(2..2 + counts.len() as u64), "{counts:?}");
    while stream.next().await.0 != "drain" {}
    tokio::time::timeout(support::DEADLINE, closing).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_subscriptions_have_their_limits() {
    let options = HttpOptions { connections_max: 2, ..HttpOptions::new("games") };
    let server = Server::start_with(options).await;
    create(&server, "go").await;
    let documents: serde_json::Map<String, Value> =
        (0..300).map(|n| (format!("d{n:03}"), json!({"cursor": 0}))).collect();
    let mut socket = server.client("a", json!({"documents": documents})).await;
    let (mut lives, mut refused) = (0, 0);
    while lives < 256 || refused < 44 {
        let message = socket.next().await;
        match message["type"].as_str().unwrap() {
            "live" => lives += 1,
            "error" => {
                assert_eq!(message["problem"]["type"], "urn:weft:problem:too-many");
                assert_eq!(message["problem"]["limit"], 256);
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    let _second = server.stream("/events", &[]).await;
    let third = server.get("/events/go").await;
    assert_eq!((third.status, third.problem().as_str()), (429, "too-many"));
}
