//! Two servers over one MongoDB database, as two processes have it: whatever a client asks of one, it gets what was written
//! by way of either, once and in order.

mod support;

use std::sync::Arc;

use eventsync::{EventCompactor, http::HttpOptions, shelf::MongoShelf};
use nodestorage::{DocumentId, MongoOptions, MongoStore, StorageOptions, Store, mongo::testing::TestServer};
use serde_json::{Value, json};
use support::{EventStream, Server, Socket};

/// A server with a store of its own over the database.
async fn open(database: &TestServer) -> (Server, MongoStore) {
    let name = Some(database.database().to_owned());
    let options = MongoOptions { database: name, ..MongoOptions::default() };
    let store = MongoStore::connect(database.uri(), options).await.unwrap();
    let games = store.collection("games", StorageOptions::default()).await.unwrap();
    let shelf = Arc::new(MongoShelf::new(&store));
    (Server::start_beside(Arc::new(games), shelf, HttpOptions::new("games")).await, store)
}

async fn close(servers: [(Server, MongoStore); 2]) {
    for (server, store) in servers {
        server.service.close().await.unwrap();
        store.close().await.unwrap();
    }
}

/// The numbers of the next events of a socket, in the order that they came.
async fn numbers(socket: &mut Socket, number: &str, up_to: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&up_to) {
        let message = socket.next_of("events").await;
        let events = message["events"].as_array().unwrap();
        seen.extend(events.iter().map(|event| event[number].as_u64().unwrap()));
    }
    seen
}

async fn ids(stream: &mut EventStream, up_to: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&up_to) {
        let (name, id, _) = stream.next().await;
        if name == "event" {
            seen.push(id.unwrap());
        }
    }
    seen
}

/// Twelve changes of one document by way of both servers in turn, a delete and a new life among them.
async fn write(servers: &[(Server, MongoStore); 2]) -> Vec<Value> {
    let mut states = vec![Value::Null];
    for n in 1..=12_u64 {
        let server = &servers[n as usize % 2].0;
        let reply = match n {
            6 => server.request("DELETE", "/api/games/go", &[], b"").await,
            n => server.json("PUT", "/api/games/go", &json!({"name": "go", "n": n})).await,
        };
        assert!(matches!(reply.status, 200 | 201 | 204), "{n}: {reply:?}");
        states.push(if n == 6 { Value::Null } else { json!({"name": "go", "n": n}) });
    }
    states
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn clients_of_either_server_get_what_comes_by_way_of_both() {
    let database = TestServer::start();
    let servers = [open(&database).await, open(&database).await];
    let (all, one): (Vec<u64>, Value) = ((1..=12).collect(), json!({"go": {"cursor": 0}}));
    let mut live = Vec::new();
    for (server, _) in &servers {
        let socket = server.client("reader", json!({"documents": one, "collection": {"cursor": 0}})).await;
        let stream = server.stream("/events?after=0", &[]).await;
        let of_one = server.stream("/events/go?after=0", &[]).await;
        live.push((socket, stream, of_one));
    }
    let states = write(&servers).await;
    for (socket, stream, of_one) in &mut live {
        // Events of the document and of the collection come on one socket, each in its order.
        let (mut document, mut collection) = (Vec::new(), Vec::new());
        while document.len() + collection.len() < 24 {
            let message = socket.next_of("events").await;
            let (seen, number) = match message.get("collection") {
                Some(_) => (&mut collection, "position"),
                None => (&mut document, "sequenceNum"),
            };
            let events = message["events"].as_array().unwrap();
            seen.extend(events.iter().map(|event| event[number].as_u64().unwrap()));
        }
        assert_eq!((&document, &collection), (&all, &all));
        assert_eq!(ids(stream, 12).await, all);
        assert_eq!(ids(of_one, 12).await, all);
    }
    for (server, _) in &servers {
        // Who comes now gets the same from the log, in pages, by a long poll, and as of any version.
        let mut late = server.client("late", json!({"documents": one})).await;
        assert_eq!(numbers(&mut late, "sequenceNum", 12).await, all);
        let poll = server.get("/api/events/go?after=10&wait=20").await.json();
        assert_eq!(poll["events"].as_array().unwrap().len(), 2);
        let synced = server.json("POST", "/api/sync/go", &json!({"cursor": 7})).await.json();
        assert_eq!((synced["events"].as_array().unwrap().len(), &synced["cursor"]), (5, &json!(12)));
        let latest = server.json("POST", "/api/sync/go", &json!({})).await.json();
        assert_eq!(latest["snapshot"]["state"], states[12]);
        assert_eq!(latest["stateVector"], json!({"http": 12}));
        for (version, state) in states.iter().enumerate().skip(1) {
            let past = server.get(&format!("/api/games/go?version={version}")).await.json();
            assert_eq!(past["state"], *state, "{version}");
        }
    }
    close(servers).await;
}

/// What one of them lets go of, the readers of the other are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_one_server_compacts_readers_of_the_other_are_told() {
    let database = TestServer::start();
    let servers = [open(&database).await, open(&database).await];
    let states = write(&servers).await;
    let go = DocumentId::new("go").unwrap();
    let gone = EventCompactor::keeping(3).compact(&servers[0].0.service, &go).await.unwrap();
    assert_eq!(gone, 9);
    let other = &servers[1].0;
    let mut behind = other.client("behind", json!({"documents": {"go": {"cursor": 4}}})).await;
    assert_eq!(behind.next().await["reason"], "history-compacted");
    let snapshot = behind.next().await;
    assert_eq!((&snapshot["version"], &snapshot["state"]), (&json!(12), &states[12]));
    assert_eq!(behind.next().await["type"], "live");
    assert_eq!(other.get("/api/events/go?after=4").await.status, 410);
    assert_eq!(other.get("/api/games/go?version=4").await.status, 410);
    let past = other.get("/api/games/go?version=10").await.json();
    assert_eq!(past["state"], states[10], "from the snapshot that was made before they went");
    let mut near = other.client("near", json!({"documents": {"go": {"cursor": 9}}})).await;
    assert_eq!(numbers(&mut near, "sequenceNum", 12).await, [10, 11, 12]);
    // And both go on.
    servers[0].0.json("PUT", "/api/games/go", &json!({"name": "go", "n": 13})).await;
    for socket in [&mut behind, &mut near] {
        assert_eq!(numbers(socket, "sequenceNum", 13).await, [13]);
    }
    close(servers).await;
}

/// A counted write whose answer was lost is repeated to the other server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_write_that_is_repeated_to_the_other_server_is_done_once() {
    let database = TestServer::start();
    let servers = [open(&database).await, open(&database).await];
    let kind = ("Content-Type", "application/json");
    for n in 1..=6_u64 {
        let (first, second) = (&servers[n as usize % 2].0, &servers[(n as usize + 1) % 2].0);
        let (count, body) = (n.to_string(), json!({"name": "go", "n": n}).to_string());
        let counted = [kind, ("Weft-Client-Id", "a"), ("Weft-Client-Seq", count.as_str())];
        let key = format!("make-{n}");
        let named = [kind, ("Idempotency-Key", key.as_str())];
        for (server, repeated) in [(first, None), (second, Some("true"))] {
            let reply = server.request("PUT", "/api/games/go", &counted, body.as_bytes()).await;
            assert_eq!(
                (reply.header("idempotent-replayed"), &reply.json()["version"]),
                (repeated, &json!(n))
            );
        }
        let made = first.request("POST", "/api/games", &named, body.as_bytes()).await;
        let again = second.request("POST", "/api/games", &named, body.as_bytes()).await;
        assert_eq!((made.status, made.json()), (again.status, again.json()));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!(servers[0].0.service.events().position().await.unwrap(), 12);
    close(servers).await;
}
