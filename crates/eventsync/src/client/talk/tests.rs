//! The client against a server that says exactly what a test wants said, at a time that the test makes go by.

use std::sync::{Arc, Mutex};

use crdt_core::ClientId;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role},
    },
};

use super::*;
use crate::{
    client::{ConflictResolver, SyncClient, SyncClientOptions},
    protocol::PushOp,
    shelf::{MemoryShelf, Shelf},
};

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn set(gold: Value) -> PushOp {
    PushOp::Merge { patch: json!({"gold": gold}).as_object().unwrap().clone() }
}

/// A server of one client.
struct Server {
    /// The connections that the client has made.
    coming: mpsc::UnboundedReceiver<DuplexStream>,
    /// What it says in its welcome.
    welcome: Value,
    /// How many of the client's writes it has stored of each document.
    stored: u64,
}

/// Its end of one connection.
struct Spoken {
    stream: WebSocketStream<DuplexStream>,
}

/// A client that follows documents, and its server.
async fn begin(
    shelf: Arc<dyn Shelf>,
    resolver: ConflictResolver,
    documents: &[&str],
) -> (SyncClient, Server) {
    let (going, coming) = mpsc::unbounded_channel();
    // The driver asks from one task; the lock is for the compiler.
    let going = Mutex::new(going);
    let open = move || {
        let (near, far) = tokio::io::duplex(1 << 20);
        going.lock().unwrap().send(far).expect("the test is there");
        async { Ok(Connection::over(WebSocketStream::from_raw_socket(near, Role::Client, None).await)) }
    };
    let options = SyncClientOptions {
        url: "ws://nowhere/sync".to_owned(),
        client_id: ClientId::new("me").unwrap(),
        token: None,
        resolver,
        shelf,
    };
    let client = SyncClient::over(options, open);
    for name in documents {
        client.open(&id(name)).await.unwrap();
    }
    (client, Server { coming, welcome: json!({"type": "welcome", "clientId": "me"}), stored: 0 })
}

impl Server {
    /// The next connection, with all that the client follows at version 1 of a minute ago, and what it has stored since.
    async fn greet(&mut self) -> Spoken {
        let far = self.coming.recv().await.expect("the client runs");
        let mut spoken = Spoken { stream: WebSocketStream::from_raw_socket(far, Role::Server, None).await };
        assert_eq!(spoken.hear().await["type"], "hello");
        spoken.say(self.welcome.clone()).await;
        let subscribe = spoken.hear().await;
        let now = self.welcome["serverTime"].as_u64().unwrap_or(60_000);
        for name in subscribe["documents"].as_object().expect("the client subscribes").keys() {
            spoken
                .say(json!({
                    "type": "snapshot", "documentId": name, "version": 1 + self.stored, "state": {"gold": 0},
                    "stateVector": {"ann": 1, "me": self.stored}, "createdAt": now.saturating_sub(60_000),
                }))
                .await;
            spoken.say(json!({"type": "live", "documentId": name, "version": 1 + self.stored})).await;
        }
        spoken
    }
}

impl Spoken {
    /// What the client says next, besides asking whether anybody is there.
    async fn hear(&mut self) -> Value {
        let next = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let message: Value = serde_json::from_str(&text).unwrap();
                        match message["type"].as_str() {
                            Some("ping") => self.say(json!({"type": "pong"})).await,
                            _ => return message,
                        }
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    other => panic!("the client says something: {other:?}"),
                }
            }
        };
        // By the test's clock, which stands still but for pauses.
        tokio::time::timeout(Duration::from_secs(120), next).await.expect("the client says something in time")
    }

    async fn say(&mut self, message: Value) {
        self.stream.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn reject(&mut self, push: &Value, problem: Value) {
        let (document_id, client_seq) = (&push["documentId"], &push["clientSeq"]);
        let (kind, status) = (problem["type"].as_str().unwrap(), problem["status"].as_u64().unwrap());
        let mut said = json!({"type": format!("urn:weft:problem:{kind}"), "title": kind, "status": status});
        for (name, value) in problem.as_object().unwrap().iter().filter(|(name, _)| *name != "type") {
            said[name] = value.clone();
        }
        let current = problem.get("current").cloned().unwrap_or_default();
        let mut message =
            json!({"type": "rejected", "documentId": document_id, "clientSeq": client_seq, "problem": said});
        if !current.is_null() {
            message["current"] = current;
        }
        self.say(message).await;
    }

    /// The write is stored as the version after the first, and changed nothing.
    async fn took(&mut self, push: &Value) {
        let (document_id, client_seq) = (&push["documentId"], &push["clientSeq"]);
        let pushed =
            json!({"type": "pushed", "documentId": document_id, "clientSeq": client_seq, "version": 1});
        self.say(pushed).await;
    }

    async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        let _ = self.stream.send(Message::Close(Some(frame))).await;
    }
}

/// Whether a pause is as long as that, or up to half longer: clients that were told the same do not all come back at once.
fn is_about(pause: Duration, said: Duration) -> bool {
    // Timers have a millisecond.
    (said..=said.mul_f64(1.5) + Duration::from_millis(5)).contains(&pause)
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the test's clock stands still but for the client's pauses")]
async fn a_write_that_the_server_could_not_decide_about_is_sent_again_when_it_says() {
    let (client, mut server) =
        begin(Arc::new(MemoryShelf::new()), ConflictResolver::ServerWins, &["g", "h"]).await;
    let mut spoken = server.greet().await;
    client.write(&id("g"), set(json!(1)), false).await.unwrap();
    let first = spoken.hear().await;
    let said = [(Some(5_000), 5), (Some(700), 0), (None, 1), (Some(3_600_000), 30), (Some(0), 0)];
    for (retry_after_ms, _) in said {
        let mut problem = json!({"type": "unavailable", "status": 503});
        if let Some(after) = retry_after_ms {
            problem["retryAfterMs"] = after.into();
        }
        let began = Instant::now();
        spoken.reject(&first, problem).await;
        // Neither its own next write nor that of another document makes it any sooner, and the latter waits for nothing.
        client.write(&id("g"), set(json!(2)), false).await.unwrap();
        client.write(&id("h"), set(json!(3)), false).await.unwrap();
        let other = spoken.hear().await;
        if retry_after_ms != Some(0) {
            assert_eq!(
                (&other["documentId"], began.elapsed()),
                (&json!("h"), Duration::ZERO),
                "{retry_after_ms:?}"
            );
            spoken.took(&other).await;
            assert_eq!(spoken.hear().await, first, "the very same, under its number");
            let expect = Duration::from_millis(retry_after_ms.unwrap_or(1000).min(30_000));
            assert!(is_about(began.elapsed(), expect), "{:?} for {retry_after_ms:?}", began.elapsed());
        } else {
            let both = [other, spoken.hear().await];
            assert!(both.contains(&first), "{both:?}");
        }
    }
    spoken.took(&first).await;
    assert_eq!(spoken.hear().await["clientSeq"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_with_its_connection() {
    let (client, mut server) =
        begin(Arc::new(MemoryShelf::new()), ConflictResolver::ServerWins, &["g"]).await;
    let mut spoken = server.greet().await;
    client.write(&id("g"), set(json!(1)), false).await.unwrap();
    let first = spoken.hear().await;
    spoken.reject(&first, json!({"type": "unavailable", "status": 503, "retryAfterMs": 30_000})).await;
    // It has heard that once it answers to what came after it.
    spoken.say(json!({"type": "snapshot", "documentId": "g", "version": 2, "state": {"gold": 9}, "stateVector": {"ann": 2}, "createdAt": 1})).await;
    let mut changes = client.changes();
    while client.version(&id("g")).unwrap() < 2 {
        changes.changed().await.unwrap();
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the test's clock stands still but for the client's pauses"
    )]
    let began = Instant::now();
    spoken.close(1012).await;
    let mut spoken = server.greet().await;
    assert_eq!(spoken.hear().await, first);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_two_writes_the_later_one_counts_by_the_servers_clock() {
    const HOUR_MS: u64 = 3_600_000;
    // The client's clock is an hour behind the server's, and an hour ahead of it. Others wrote a minute ago.
    for server_time in [now_ms() + HOUR_MS, now_ms() - HOUR_MS] {
        let (client, mut server) =
            begin(Arc::new(MemoryShelf::new()), ConflictResolver::LastWriterWins, &["g"]).await;
        server.welcome["serverTime"] = server_time.into();
        let mut spoken = server.greet().await;
        client.write(&id("g"), set(json!(5)), true).await.unwrap();
        let first = spoken.hear().await;
        let theirs = json!({"version": 1, "state": {"gold": 7}});
        let conflict = json!({"type": "version-mismatch", "status": 412, "current": theirs});
        spoken.reject(&first, conflict.clone()).await;
        let again = spoken.hear().await;
        assert_eq!((&again["clientSeq"], &again["patch"]), (&json!(1), &json!({"gold": 5})), "written later");
        // Then somebody else writes, by a clock of the server that has gone on.
        spoken
            .say(json!({
                "type": "snapshot", "documentId": "g", "version": 2, "state": {"gold": 8}, "stateVector": {"ann": 2},
                "createdAt": server_time + 60_000,
            }))
            .await;
        let conflict = json!({"type": "version-mismatch", "status": 412, "current": {"version": 2, "state": {"gold": 8}}});
        spoken.reject(&again, conflict).await;
        let mut changes = client.changes();
        while client.unsent() > 0 {
            changes.changed().await.unwrap();
        }
        assert_eq!(client.view(&id("g")).unwrap(), json!({"gold": 8}), "written earlier");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_over_a_message_that_is_too_big_twice_has_the_largest_write_held() {
    let shelf: Arc<dyn Shelf> = Arc::new(MemoryShelf::new());
    let (client, mut server) = begin(Arc::clone(&shelf), ConflictResolver::ServerWins, &["g", "h"]).await;
    let mut events = client.events();
    let mut spoken = server.greet().await;
    let long = "x".repeat(5000);
    client.write(&id("g"), set(json!(long)), false).await.unwrap();
    client.write(&id("g"), set(json!(2)), false).await.unwrap();
    client.write(&id("h"), set(json!(3)), false).await.unwrap();
    // Once may be about something else.
    for tries in 1..=2 {
        let both = [spoken.hear().await, spoken.hear().await];
        assert_eq!([&both[0]["clientSeq"], &both[1]["clientSeq"]], [1, 1]);
        assert_eq!((client.held().len(), client.unsent()), (0, 3), "{tries}");
        spoken.close(1009).await;
        spoken = server.greet().await;
    }
    // An attempt may be stored still, so nothing else takes its number before that is known. The other one was cut off by
    // no fault of its own.
    let fence = spoken.hear().await;
    assert_eq!(
        (&fence["documentId"], &fence["clientSeq"], &fence["patch"]),
        (&json!("g"), &json!(1), &json!({}))
    );
    let [(document, held)] = client.held().try_into().unwrap();
    assert_eq!((document, held.write.op.clone(), held.is_open), (id("g"), set(json!(long)), true));
    assert_eq!(client.view(&id("g")).unwrap(), json!({"gold": 2}));
    let told = loop {
        if let crate::client::ClientEvent::Refused { problem, held, .. } = events.recv().await.unwrap() {
            break (problem.status, held);
        }
    };
    assert_eq!(told, (413, Some(held.id)));
    assert!(!client.send_held(&id("g"), held.id).await.unwrap(), "it is not known whether it was stored");
    spoken.took(&fence).await;
    let next = spoken.hear().await;
    assert_eq!(
        (&next["documentId"], &next["clientSeq"], &next["patch"]),
        (&json!("g"), &json!(2), &json!({"gold": 2}))
    );
    assert_eq!(spoken.hear().await["documentId"], "h");
    // Over a restart.
    client.close().await.unwrap();
    let (client, _server) = begin(shelf, ConflictResolver::ServerWins, &["g", "h"]).await;
    assert_eq!(client.held().len(), 1);
    assert!(client.send_held(&id("g"), held.id).await.unwrap());
    assert_eq!((client.held().len(), client.view(&id("g")).unwrap()), (0, json!({"gold": long})));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_brings_down_each_connection_lets_others_go_first_and_waits_longer_each_time() {
    let (client, mut server) =
        begin(Arc::new(MemoryShelf::new()), ConflictResolver::ServerWins, &["g", "h"]).await;
    client.write(&id("g"), set(json!(2)), false).await.unwrap();
    for pause in [0, 0, 1, 2, 4, 8, 16, 30, 30] {
        let mut spoken = server.greet().await;
        #[expect(
            clippy::disallowed_methods,
            reason = "the test's clock stands still but for the client's pauses"
        )]
        let began = Instant::now();
        if pause > 0 {
            client.write(&id("h"), set(json!(pause)), false).await.unwrap();
            let other = spoken.hear().await;
            assert_eq!(other["documentId"], "h");
            spoken.took(&other).await;
        }
        assert_eq!(spoken.hear().await["documentId"], "g");
        assert!(is_about(began.elapsed(), Duration::from_secs(pause)), "{:?} for {pause}", began.elapsed());
        // As if it had never been there.
        drop(spoken);
    }
}

/// Each of them is stored, and only its answer lost: that says nothing about the next one.
#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the test's clock stands still but for the client's pauses")]
async fn connections_that_broke_over_writes_that_went_through_are_not_counted_for_the_next_one() {
    for code in [1009, 1012] {
        let (client, mut server) =
            begin(Arc::new(MemoryShelf::new()), ConflictResolver::ServerWins, &["g"]).await;
        let mut events = client.events();
        for stored in 0..5 {
            client.write(&id("g"), set(json!(stored)), false).await.unwrap();
            server.stored = stored;
            let mut spoken = server.greet().await;
            let began = Instant::now();
            let push = spoken.hear().await;
            assert_eq!((&push["clientSeq"], &push["patch"]), (&json!(stored + 1), &json!({"gold": stored})));
            assert_eq!(began.elapsed(), Duration::ZERO, "{stored} by {code}");
            spoken.close(code).await;
        }
        while let Ok(event) = events.try_recv() {
            assert!(!matches!(event, crate::client::ClientEvent::Refused { .. }), "{event:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_behind_its_event_is_none_to_the_next_write() {
    let (client, mut server) =
        begin(Arc::new(MemoryShelf::new()), ConflictResolver::ServerWins, &["g"]).await;
    let mut spoken = server.greet().await;
    client.write(&id("g"), set(json!(1)), false).await.unwrap();
    client.write(&id("g"), set(json!(2)), false).await.unwrap();
    for lost in 1..=3 {
        let first = spoken.hear().await;
        if lost == 1 {
            spoken.say(json!({"type": "snapshot", "documentId": "g", "version": 2, "state": {"gold": 1}, "stateVector": {"ann": 1, "me": 1}, "createdAt": 1})).await;
            let second = spoken.hear().await;
            assert_eq!(second["clientSeq"], 2);
            spoken.took(&first).await;
            server.stored = 1;
        } else {
            assert_eq!(first["clientSeq"], 2);
        }
        // Twice over the second write, and then it is that.
        assert_eq!(client.held().len(), 0, "{lost}");
        spoken.close(1009).await;
        spoken = server.greet().await;
        if lost == 2 {
            break;
        }
    }
    assert_eq!(spoken.hear().await["patch"], json!({}), "a fence");
    assert_eq!(client.held().len(), 1);
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the test's clock stands still but for the client's pauses")]
async fn a_server_that_can_never_decide_is_asked_more_and_more_rarely() {
    let (client, mut server) =
        begin(Arc::new(MemoryShelf::new()), ConflictResolver::ServerWins, &["g"]).await;
    let mut spoken = server.greet().await;
    client.write(&id("g"), set(json!(1)), false).await.unwrap();
    let first = spoken.hear().await;
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        let began = Instant::now();
        spoken.reject(&first, json!({"type": "unavailable", "status": 503})).await;
        assert_eq!(spoken.hear().await, first);
        assert!(is_about(began.elapsed(), Duration::from_secs(pause)), "{:?} for {pause}", began.elapsed());
    }
    // The next one begins anew.
    spoken.took(&first).await;
    client.write(&id("g"), set(json!(2)), false).await.unwrap();
    let second = spoken.hear().await;
    let began = Instant::now();
    spoken.reject(&second, json!({"type": "unavailable", "status": 503})).await;
    assert_eq!(spoken.hear().await, second);
    assert!(is_about(began.elapsed(), Duration::from_secs(1)), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_time_that_a_server_says_ends_the_client() {
    for time in [0, 1 << 63, u64::MAX] {
        let (client, mut server) =
            begin(Arc::new(MemoryShelf::new()), ConflictResolver::LastWriterWins, &["g"]).await;
        server.welcome["serverTime"] = time.into();
        let mut spoken = server.greet().await;
        client.write(&id("g"), set(json!(5)), true).await.unwrap();
        let first = spoken.hear().await;
        let theirs = json!({"version": 1, "state": {"gold": 7}});
        spoken.reject(&first, json!({"type": "version-mismatch", "status": 412, "current": theirs})).await;
        while client.unsent() > 0 {
            // Written later than theirs or not; in either case somebody is there.
            let push = tokio::time::timeout(Duration::from_secs(1), spoken.hear()).await;
            let Ok(push) = push else { break };
            spoken.took(&push).await;
        }
    }
}
