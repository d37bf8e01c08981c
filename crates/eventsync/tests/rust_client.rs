//! The client in Rust against a server: what it follows, and what becomes of writes that can't go.

mod support;

use std::sync::Arc;

use crdt_core::ClientId;
use eventsync::{
    ConflictResolver,
    client::{ClientEvent, SyncClient, SyncClientOptions},
    protocol::PushOp,
    shelf::{MemoryShelf, Shelf},
};
use nodestorage::DocumentId;
use serde_json::{Value, json};
use support::Server;
use tokio::time::timeout;

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn merge(patch: Value) -> PushOp {
    PushOp::Merge { patch: patch.as_object().unwrap().clone() }
}

/// A client that follows one document.
async fn start(server: &Server, shelf: &Arc<MemoryShelf>) -> SyncClient {
    let client = SyncClient::start(SyncClientOptions {
        url: format!("ws://{}/sync", server.address),
        client_id: ClientId::new("rust").unwrap(),
        token: None,
        resolver: ConflictResolver::ThreeWayMerge,
        shelf: Arc::clone(shelf) as Arc<dyn Shelf>,
    });
    client.open(&id("go")).await.unwrap();
    client
}

async fn until(client: &SyncClient, what: &str, holds: impl Fn(&SyncClient) -> bool) {
    let mut changes = client.changes();
    let waiting = async {
        while !holds(client) {
            changes.changed().await.unwrap();
        }
    };
    if timeout(support::DEADLINE, waiting).await.is_err() {
        panic!(
            "{what}: {} unsent, {} bytes seen",
            client.unsent(),
            client.view(&id("go")).unwrap().to_string().len()
        );
    }
}

/// A message larger than the server takes ended the connection, and was sent again on the next one, for ever, with all
/// others behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_larger_than_a_message_is_held_over_restarts_and_those_behind_it_go_on() {
    let (server, shelf) = (Server::start().await, Arc::new(MemoryShelf::new()));
    assert_eq!(server.json("PUT", "/api/games/go", &json!({"name": "Go"})).await.status, 201);
    let client = start(&server, &shelf).await;
    until(&client, "it hears of the document", |client| client.version(&id("go")).unwrap() == 1).await;
    let mut events = client.events();
    let notes = "x".repeat(2 << 20);
    client.write(&id("go"), merge(json!({"notes": notes})), false).await.unwrap();
    client.write(&id("go"), merge(json!({"gold": 1})), true).await.unwrap();
    let small = json!({"name": "Go", "gold": 1});
    until(&client, "the small one goes through", |client| client.version(&id("go")).unwrap() == 2).await;
    assert_eq!(server.get("/api/games/go").await.json()["state"], small);
    assert_eq!((client.view(&id("go")).unwrap(), client.unsent()), (small.clone(), 0));
    // Told once.
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let ClientEvent::Refused { problem, held, .. } = event {
            told.push((problem.status, problem.number("limit"), held));
        }
    }
    let [(document, held)] = client.held().try_into().unwrap();
    assert_eq!(told, [(413, Some(1 << 20), Some(held.id))]);
    assert_eq!((document, held.is_open), (id("go"), false), "it never left");

    client.close().await.unwrap();
    let client = start(&server, &shelf).await;
    assert_eq!(client.held()[0].1.write.op, merge(json!({"notes": notes})));
    // What can't go still can't, and is held again; what is dropped is gone.
    assert!(client.send_held(&id("go"), held.id).await.unwrap());
    until(&client, "held again", |client| client.unsent() == 0 && client.held().len() == 1).await;
    let again = client.held()[0].1.id;
    assert!(client.drop_held(&id("go"), again).await.unwrap());
    assert!(!client.drop_held(&id("go"), again).await.unwrap());
    client.close().await.unwrap();
    let client = start(&server, &shelf).await;
    assert_eq!((client.held(), client.view(&id("go")).unwrap()), (Vec::new(), small));
}

/// What the server refuses was gone: whoever had written it saw it vanish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_the_server_refuses_is_held_and_can_be_sent_again() {
    let (server, shelf) = (Server::start().await, Arc::new(MemoryShelf::new()));
    assert_eq!(server.json("PUT", "/api/games/go", &json!({"name": "Go", "gold": 1})).await.status, 201);
    let client = start(&server, &shelf).await;
    until(&client, "it hears of the document", |client| client.version(&id("go")).unwrap() == 1).await;
    client
        .write(&id("go"), PushOp::Replace { state: body(json!({"gold": 2, "level": 3})) }, true)
        .await
        .unwrap();
    client.write(&id("go"), merge(json!({"more": 1})), false).await.unwrap();
    until(&client, "the one behind it", |client| client.version(&id("go")).unwrap() == 2).await;
    let [(_, held)] = client.held().try_into().unwrap();
    assert_eq!((held.problem.status, held.is_open), (422, false));
    // A document of more than it takes is refused by the server, whatever the message's size: of that it is asked whether
    // the number is free.
    client.write(&id("go"), merge(json!({"gold": 9})), false).await.unwrap();
    until(&client, "sent", |client| client.unsent() == 0).await;
    assert!(client.send_held(&id("go"), held.id).await.unwrap());
    // Its values stand where they clash; what it took away stays away, so it is refused as before.
    assert_eq!(client.view(&id("go")).unwrap(), json!({"gold": 2, "level": 3, "more": 1}));
    until(&client, "refused again", |client| client.held().len() == 1 && client.unsent() == 0).await;
    assert_eq!(client.view(&id("go")).unwrap(), json!({"name": "Go", "gold": 9, "more": 1}));
}

/// Each of two halves passes, and the document of both is larger than one may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_makes_a_document_too_large_is_held_and_its_number_is_asked_about() {
    let (server, shelf) = (Server::start().await, Arc::new(MemoryShelf::new()));
    let half = "x".repeat(600 << 10);
    assert_eq!(server.json("PUT", "/api/games/go", &json!({"name": "Go", "a": half})).await.status, 201);
    let client = start(&server, &shelf).await;
    until(&client, "it hears of the document", |client| client.version(&id("go")).unwrap() == 1).await;
    client.write(&id("go"), merge(json!({"b": half})), false).await.unwrap();
    for gold in 1..=3 {
        client.write(&id("go"), merge(json!({"gold": gold})), false).await.unwrap();
    }
    until(&client, "all of the small ones", |client| client.version(&id("go")).unwrap() == 4).await;
    let [(_, held)] = client.held().try_into().unwrap();
    assert_eq!((held.problem.status, held.is_open, client.unsent()), (413, false, 0));
    let events = server.get("/api/events/go?after=1").await.json();
    let numbers: Vec<_> =
        events["events"].as_array().unwrap().iter().map(|event| &event["clientSeq"]).collect();
    assert_eq!(numbers, [2, 3, 4], "the first went to what asked about it");
}

fn body(state: Value) -> nodestorage::Body {
    state.as_object().unwrap().clone()
}

/// A document is as deep as a message may be, and an event has it within others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deepest_document_is_followed_by_our_own_client() {
    let server = Server::start().await;
    let deepest = (1..63).fold(json!([]), |inner, _| json!([inner]));
    let reply = server.json("PUT", "/api/games/go", &json!({"name": "go", "deep": deepest})).await;
    assert_eq!(reply.status, 201, "{}", reply.json());
    let client = start(&server, &Arc::new(MemoryShelf::new())).await;
    // First a snapshot, then an event.
    for n in [Value::Null, json!(1)] {
        let is_there = |view: Value| view["deep"] == deepest && view["n"] == n;
        until(&client, "it is here", |client| is_there(client.view(&id("go")).unwrap())).await;
        let other = json!({"name": "go", "deep": deepest, "n": 1});
        assert_eq!(server.json("PUT", "/api/games/go", &other).await.status, 200);
    }
}
