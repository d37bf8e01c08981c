//! Who was away goes on where it was, or is told that it can't.

use std::{sync::Arc, time::Duration};

use eventsync::EventCompactor;
use serde_json::json;

use crate::{
    create, merge,
    support::{self, Server},
};

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
