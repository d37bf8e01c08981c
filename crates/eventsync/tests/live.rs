//! Clients over the wire: live, away, back again.

mod support;

use std::{sync::Arc, time::Duration};

use crdt_core::ClientId;
use eventsync::{ClientVector, EventCompactor, http::HttpOptions, protocol::PushOp, service::WriteOptions};
use nodestorage::DocumentId;
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

/// Defect 13: a table of what was seen dropped the second delete of a document that was made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_can_be_deleted_and_made_anew_any_number_of_times() {
    let server = Server::start().await;
    let mut socket = server.client("a", json!({"documents": {"go": {}}, "collection": {}})).await;
    // Nothing there yet: its first state is that there is none.
    assert_eq!(socket.next_of("snapshot").await["state"], Value::Null);
    for _ in 0..3 {
        create(&server, "go").await;
        assert_eq!(server.request("DELETE", "/api/games/go", &[], b"").await.status, 204);
    }
    let mut seen = (Vec::new(), Vec::new());
    while seen.0.len() < 6 || seen.1.len() < 6 {
        let message = socket.next_of("events").await;
        let list = if message["collection"] == true { &mut seen.1 } else { &mut seen.0 };
        for event in message["events"].as_array().unwrap() {
            list.push((
                event["sequenceNum"].as_u64().unwrap(),
                event["operation"].as_str().unwrap().to_owned(),
            ));
        }
    }
    let expect: Vec<_> =
        (1..=6).map(|n| (n, if n % 2 == 1 { "create" } else { "delete" }.to_owned())).collect();
    assert_eq!(seen.0, expect);
    assert_eq!(seen.1, expect);
    let gone = server.get("/api/games/go").await;
    assert_eq!((gone.status, gone.problem().as_str()), (404, "unknown-document"));
    assert_eq!(server.get("/api/games/go?version=5").await.json()["state"], json!({"name": "go"}));
    assert_eq!(server.get("/api/games/go?version=6").await.json()["state"], Value::Null);
}

/// Defects 15 and 17: events after a snapshot could not be found, because they were counted otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_and_the_events_after_it_make_the_document() {
    let server = Server::start().await;
    create(&server, "go").await;
    for gold in 0..4 {
        merge(&server, "go", json!({"gold": gold})).await;
    }
    let made = server.json("POST", "/api/snapshots/go", &json!({})).await;
    assert_eq!(made.status, 201);
    assert_eq!(server.json("POST", "/api/snapshots/go", &json!({})).await.status, 200);
    for gold in 10..14 {
        merge(&server, "go", json!({"gold": gold, "more": {"gold": gold}})).await;
    }
    let snapshot = made.json();
    assert_eq!((&snapshot["version"], &snapshot["stateVector"]), (&json!(5), &json!({"http": 5})));
    assert_eq!(server.get("/api/snapshots/go/5").await.json(), snapshot);
    assert_eq!(server.get("/api/snapshots/go").await.json()["items"][0]["version"], 5);
    let mut state = snapshot["state"].clone();
    let tail = server.get("/api/events/go?after=5").await.json();
    assert_eq!(tail["events"].as_array().unwrap().len(), 4);
    for event in tail["events"].as_array().unwrap() {
        let patch: json_patch::Patch = serde_json::from_value(event["diff"]["jsonPatch"].clone()).unwrap();
        json_patch::patch(&mut state, &patch).unwrap();
    }
    assert_eq!(server.get("/api/games/go").await.json()["state"], state);
    // The policy of this server: every ten events.
    merge(&server, "go", json!({"gold": 99})).await;
    let by_itself = async {
        while server.get("/api/snapshots/go").await.json()["items"][0]["version"] != 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::DEADLINE, by_itself).await.expect("a snapshot at version 10");
}

/// Defect 18: compaction left clients that were away with a hole that nobody told them of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_was_away_too_long_is_told_and_gets_the_latest_state() {
    let server = Server::start().await;
    create(&server, "go").await;
    for gold in 0..20 {
        merge(&server, "go", json!({"gold": gold})).await;
    }
    let go = nodestorage::DocumentId::new("go").unwrap();
    assert_eq!(EventCompactor::keeping(5).compact(&server.service, &go).await.unwrap(), 16);
    for resume in [json!({"cursor": 3}), json!({"stateVector": {"http": 3}})] {
        let mut late = server.client("late", json!({"documents": {"go": resume}})).await;
        let told = late.next().await;
        assert_eq!((&told["type"], &told["reason"]), (&json!("resync"), &json!("history-compacted")));
        let snapshot = late.next().await;
        assert_eq!((&snapshot["type"], &snapshot["version"]), (&json!("snapshot"), &json!(21)));
        assert_eq!(snapshot["state"]["gold"], 19);
        assert_eq!(late.next().await["type"], "live");
    }
    let gone = server.get("/api/events/go?after=3").await;
    assert_eq!((gone.status, gone.problem().as_str()), (410, "history-compacted"));
    // It says from where on there are events: asking from there works.
    let oldest = gone.json()["oldest"].as_u64().unwrap();
    assert_eq!(oldest, 17);
    let synced = server.json("POST", "/api/sync/go", &json!({"cursor": 3})).await.json();
    assert_eq!(synced["snapshot"]["version"], 21);
    // What is left is served as ever.
    assert_eq!(server.get("/api/events/go?after=16").await.json()["events"].as_array().unwrap().len(), 5);
    assert_eq!(server.get("/api/games/go?version=17").await.json()["state"]["gold"], 15);
    assert_eq!(server.get("/api/games/go?version=3").await.problem(), "history-compacted");
    // A cursor of another store is not taken for one of this.
    let mut stranger = server.client("s", json!({"documents": {"go": {"cursor": 500}}})).await;
    assert_eq!(stranger.next().await["reason"], "cursor-unknown");
    let mut everything = server.client("e", json!({"collection": {"cursor": 0}})).await;
    let told = everything.next().await;
    assert_eq!((&told["type"], &told["position"]), (&json!("resync"), &json!(16)));
    assert_eq!(everything.next().await["events"][0]["position"], 17);
}

/// A server that was set back to a backup has other events at the positions that its followers know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_of_all_documents_is_told_that_the_server_was_set_back() {
    let server = Server::start().await;
    create(&server, "go").await;
    for gold in 0..4 {
        merge(&server, "go", json!({"gold": gold})).await;
    }
    let page = server.get("/api/events?after=2&limit=1").await.json();
    let (position, made_at) = (3, page["events"][0]["timestamp"].as_u64().unwrap());
    assert_eq!(page["position"], position);
    // Who knows the very event goes on behind it.
    let here = json!({"collection": {"cursor": position, "timestamp": made_at}});
    assert_eq!(server.client("here", here).await.next().await["events"][0]["position"], 4);
    assert_eq!(server.stream(&format!("/events?after=3@{made_at}"), &[]).await.next().await.1, Some(4));
    let url = format!("/api/events?after=3@{made_at}");
    assert_eq!(server.get(&url).await.json()["events"].as_array().unwrap().len(), 2);
    // Who knows another one there, or one behind the end, reads the list anew and goes on at the end.
    let other = made_at - 1;
    for (cursor, timestamp) in [(3, Some(other)), (5, Some(other)), (9, Some(made_at)), (9, None)] {
        let mut resume = json!({"cursor": cursor});
        let mut place = cursor.to_string();
        if let Some(timestamp) = timestamp {
            resume["timestamp"] = timestamp.into();
            place += &format!("@{timestamp}");
        }
        let mut socket = server.client("away", json!({"collection": resume})).await;
        let told = socket.next().await;
        assert_eq!((&told["type"], &told["collection"]), (&json!("resync"), &json!(true)), "{place}: {told}");
        assert_eq!((&told["reason"], &told["position"]), (&json!("cursor-unknown"), &json!(5)), "{place}");
        assert_eq!(socket.next().await["type"], "live");
        let mut stream = server.stream("/events", &[("Last-Event-ID", place.as_str())]).await;
        let (name, id, _) = stream.next().await;
        assert_eq!((name.as_str(), id), ("resync", Some(5)), "{place}");
        let gone = server.get(&format!("/api/events?after={place}")).await;
        assert_eq!((gone.status, gone.problem().as_str()), (410, "history-compacted"), "{place}");
        assert_eq!(gone.json()["position"], 5, "{place}");
    }
}

/// Defect 21: deleting what is not there was an error in one layer and none in the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_what_is_not_there_changes_nothing_anywhere() {
    let server = Server::start().await;
    assert_eq!(server.request("DELETE", "/api/games/go", &[], b"").await.status, 404);
    let mut socket = server.client("a", json!({})).await;
    socket.send(&json!({"type": "push", "documentId": "go", "clientSeq": 1, "op": "delete"})).await;
    let answer = socket.next().await;
    assert_eq!(
        (&answer["type"], &answer["changed"], &answer["version"]),
        (&json!("pushed"), &json!(false), &json!(0))
    );
    socket
        .send(&json!({"type": "push", "documentId": "go", "clientSeq": 2, "op": "create", "state": {"name": "x"}}))
        .await;
    assert_eq!(socket.next().await["version"], 1);
    assert_eq!(server.service.events().position().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_write_is_answered_again_and_changes_nothing() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut socket = server.client("a", json!({})).await;
    let push =
        json!({"type": "push", "documentId": "go", "clientSeq": 1, "op": "merge", "patch": {"gold": 1}});
    for repeated in [false, true] {
        socket.send(&push).await;
        let answer = socket.next().await;
        assert_eq!(answer["version"], 2);
        assert_eq!((&answer["repeated"], &answer["changed"]), (&json!(repeated), &json!(!repeated)));
    }
    // A refused write leaves its count free.
    let refused =
        json!({"type": "push", "documentId": "go", "clientSeq": 2, "op": "merge", "patch": {"name": 7}});
    socket.send(&refused).await;
    assert_eq!(socket.next().await["type"], "rejected");
    let instead =
        json!({"type": "push", "documentId": "go", "clientSeq": 2, "op": "merge", "patch": {"gold": 2}});
    socket.send(&instead).await;
    assert_eq!(socket.next().await["version"], 3);
    // The same by REST, with a count and with a key.
    let json_kind = ("Content-Type", "application/json");
    let counted = [json_kind, ("Weft-Client-Id", "a"), ("Weft-Client-Seq", "2")];
    let reply = server.request("PATCH", "/api/games/go", &counted, b"{\"gold\": 3}").await;
    assert_eq!((reply.status, reply.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(reply.json()["state"]["gold"], 2);
    let keyed = [json_kind, ("Idempotency-Key", "k-1")];
    let first = server.request("POST", "/api/games", &keyed, b"{\"name\": \"new\"}").await;
    let again = server.request("POST", "/api/games", &keyed, b"{\"name\": \"new\"}").await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json(), again.json());
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = server.request("POST", "/api/games", &keyed, b"{\"name\": \"other\"}").await;
    assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-key-reused"));
    assert_eq!(server.service.events().position().await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_resumes_after_the_last_event_id() {
    let server = Server::start().await;
    create(&server, "go").await;
    create(&server, "chess").await;
    let mut fresh = server.stream("/events/go", &[]).await;
    let (name, id, snapshot) = fresh.next().await;
    assert_eq!((name.as_str(), id, &snapshot["state"]), ("snapshot", Some(1), &json!({"name": "go"})));
    assert_eq!(fresh.next().await.0, "live");
    for gold in 0..3 {
        merge(&server, "go", json!({"gold": gold})).await;
    }
    assert_eq!(fresh.next().await.1, Some(2));
    let mut back = server.stream("/events/go?after=0", &[("Last-Event-ID", "2")]).await;
    for id in [3, 4] {
        assert_eq!(back.next().await.1, Some(id));
    }
    let mut all = server.stream("/events?after=0", &[]).await;
    for position in 1..=5 {
        let (name, id, event) = all.next().await;
        assert_eq!((name.as_str(), id), ("event", Some(position)));
        assert_eq!(event["position"], position);
    }
    assert_eq!(all.next().await, ("live".into(), Some(5), json!({"collection": true, "position": 5})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_waits_for_the_next_event_and_no_longer() {
    let server = Arc::new(Server::start().await);
    create(&server, "go").await;
    let nothing = server.get("/api/events/go?after=1").await.json();
    assert_eq!((&nothing["events"], &nothing["cursor"]), (&json!([]), &json!(1)));
    for path in ["/api/events/go?after=1&wait=20", "/api/events?after=1&wait=20"] {
        let waiting = {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.get(path).await.json() })
        };
        merge(&server, "go", json!({"path": path})).await;
        assert_eq!(waiting.await.unwrap()["events"][0]["sequenceNum"], 2, "{path}");
    }
    let empty = server.get("/api/events/go?after=3&wait=1").await.json();
    assert_eq!(empty["events"], json!([]));
}

/// As after the store was put back to an older state: who waited there would never get what comes before that place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_from_a_place_of_another_history_is_told() {
    let server = Server::start().await;
    create(&server, "go").await;
    merge(&server, "go", json!({"gold": 1})).await;
    for wait in ["", "&wait=20"] {
        let refused = server.get(&format!("/api/events/go?after=9{wait}")).await;
        assert_eq!((refused.status, refused.problem().as_str()), (410, "history-compacted"));
        assert_eq!(refused.json()["detail"], "document go has no event 9: its history ends at 2");
        let refused = server.get(&format!("/api/events?after=9{wait}")).await;
        assert_eq!((refused.status, &refused.json()["position"]), (410, &json!(2)));
        // The document that is not there yet has no history that could be another one.
        let refused = server.get(&format!("/api/events/new?after=1{wait}")).await;
        assert_eq!(refused.status, 410);
    }
    assert_eq!(server.get("/api/events/new?after=0").await.json()["events"], json!([]));
    assert_eq!(server.get("/api/events/go?after=2").await.json()["cursor"], 2);
}

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
async fn a_create_that_is_refused_leaves_its_number_free() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut socket = server.client("a", json!({})).await;
    for (base, problem) in [(1, "already-exists"), (2, "already-exists"), (0, "already-exists")] {
        let push = json!({"type": "push", "documentId": "go", "clientSeq": 1, "baseVersion": base, "op": "create", "state": {"name": "x"}});
        socket.send(&push).await;
        let rejected = socket.next_of("rejected").await;
        assert_eq!(rejected["problem"]["type"], format!("urn:weft:problem:{problem}"), "{rejected}");
    }
    let push = json!({"type": "push", "documentId": "new", "clientSeq": 1, "baseVersion": 3, "op": "create", "state": {"name": "x"}});
    socket.send(&push).await;
    assert_eq!(socket.next_of("rejected").await["problem"]["type"], "urn:weft:problem:version-mismatch");
    for document in ["go", "new"] {
        let (op, fields) = if document == "go" { ("merge", "patch") } else { ("create", "state") };
        let push =
            json!({"type": "push", "documentId": document, "clientSeq": 1, "op": op, fields: {"name": "y"}});
        socket.send(&push).await;
        let pushed = socket.next().await;
        assert_eq!((&pushed["type"], &pushed["repeated"]), (&json!("pushed"), &json!(false)), "{pushed}");
    }
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
