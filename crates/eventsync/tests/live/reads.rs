//! What is read comes in pages; what clients say that they have is remembered.

use std::time::Duration;

use crdt_core::ClientId;
use eventsync::{ClientVector, protocol::PushOp, service::WriteOptions};
use nodestorage::DocumentId;
use serde_json::json;

use crate::{
    create, merge,
    support::{self, Server},
};

/// Defect 3: reads without a limit took the whole history into memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_is_paged() {
    let server = Server::start().await;
    create(&server, "go").await;
    for gold in 0..30 {
        merge(&server, "go", json!({"gold": gold})).await;
    }
    let page = server.get("/api/events/go?limit=7").await.json();
    assert_eq!((page["events"].as_array().unwrap().len(), &page["next"]), (7, &json!(7)));
    let page = server.get("/api/events?limit=7&after=28").await.json();
    assert_eq!((page["events"].as_array().unwrap().len(), page.get("next")), (3, None));
    let page = server.json("POST", "/api/sync/go", &json!({"cursor": 0, "limit": 5})).await.json();
    assert_eq!((page["events"].as_array().unwrap().len(), &page["next"]), (5, &json!(5)));
    assert_eq!(page["stateVector"], json!({"http": 5}));
    for game in ["a", "b", "c"] {
        create(&server, game).await;
    }
    let list = server.get("/api/games?limit=2").await.json();
    assert_eq!((list["items"].as_array().unwrap().len(), &list["next"]), (2, &json!("b")));
    let rest = server.get("/api/games?limit=2&after=b").await.json();
    assert_eq!((&rest["items"][1]["id"], rest.get("next")), (&json!("go"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_large_documents_is_short() {
    let server = Server::start().await;
    for n in 0..7 {
        let state = json!({"name": "x".repeat(900_000)}).as_object().unwrap().clone();
        let options = WriteOptions::by(ClientId::new("w").unwrap());
        let document = DocumentId::new(format!("d{n}")).unwrap();
        server.service.write(&document, &PushOp::Create { state }, options).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/api/games?limit=1000{after}")).await;
        assert!(page.body.len() < 6 << 20, "a page of {} bytes", page.body.len());
        let page = page.json();
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        assert!(items.iter().all(|item| item["version"] == 1 && item["state"]["name"].is_string()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["d0", "d1", "d2", "d3", "d4", "d5", "d6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_a_client_says_it_has_only_what_there_is_is_remembered() {
    let server = Server::start().await;
    create(&server, "go").await;
    let made_up = json!({"http": 7, "nobody": 3, "http2": 1});
    let sync = json!({"clientId": "tab.1", "cursor": 1, "vectorClock": made_up});
    assert_eq!(server.json("POST", "/api/sync/go", &sync).await.status, 200);
    let vectors = server.get("/api/state-vectors/go").await.json();
    assert_eq!(vectors["clients"][0]["vectorClock"], json!({"http": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vectors_of_many_clients_come_in_pages() {
    let server = Server::start().await;
    create(&server, "go").await;
    let go = DocumentId::new("go").unwrap();
    // A document that very many have written: each vector has about a megabyte.
    let long =
        ClientVector::from_iter((0..10_000).map(|n| (ClientId::new(format!("{n:0>100}")).unwrap(), 1)));
    let names: Vec<String> = (0..12).map(|n| format!("tab-{n:02}")).collect();
    for name in &names {
        let client = ClientId::new(name.as_str()).unwrap();
        server.service.vectors().update(&go, &client, &long, 1, 1).await.unwrap();
    }
    for (limit, sizes) in
        [("", vec![4, 4, 4]), ("limit=3&", vec![3, 3, 3, 3]), ("limit=1000000&", vec![4, 4, 4])]
    {
        let (mut seen, mut pages, mut after) = (Vec::new(), Vec::new(), String::new());
        loop {
            let page = server.get(&format!("/api/state-vectors/go?{limit}{after}")).await.json();
            let clients = page["clients"].as_array().unwrap();
            pages.push(clients.len());
            seen.extend(clients.iter().map(|client| client["clientId"].as_str().unwrap().to_owned()));
            assert_eq!((page["version"].as_u64(), &page["stateVector"]), (Some(1), &json!({"http": 1})));
            match page["next"].as_str() {
                Some(next) => after = format!("after={next}"),
                None => break,
            }
        }
        assert_eq!((seen, pages), (names.clone(), sizes), "{limit}");
    }
    assert_eq!(server.get("/api/state-vectors/go?after=zzz").await.json()["clients"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_have_is_remembered_by_client_and_document() {
    let server = Server::start().await;
    create(&server, "go").await;
    server
        .json("POST", "/api/sync/go", &json!({"clientId": "tab.1", "cursor": 1, "vectorClock": {"http": 1}}))
        .await;
    let mut socket = server.client("tab.2", json!({"documents": {"go": {}}})).await;
    socket.next_of("live").await;
    socket.send(&json!({"type": "ack", "documentId": "go", "cursor": 1})).await;
    let both = async {
        loop {
            let vectors = server.get("/api/state-vectors/go").await.json();
            let clients = vectors["clients"].as_array().unwrap().clone();
            if clients.len() == 2 {
                return (vectors, clients);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (vectors, clients) = tokio::time::timeout(support::DEADLINE, both).await.unwrap();
    assert_eq!(vectors["stateVector"], json!({"http": 1}));
    for (client, name) in clients.iter().zip(["tab.1", "tab.2"]) {
        assert_eq!(client["clientId"], name);
        assert_eq!((&client["cursor"], &client["vectorClock"]), (&json!(1), &json!({"http": 1})));
    }
}
