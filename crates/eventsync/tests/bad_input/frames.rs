//! What comes over a WebSocket.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::{nested, support::Server};

fn hello() -> Message {
    Message::text(json!({"type": "hello", "clientId": "c"}).to_string())
}

fn text(message: Value) -> Message {
    Message::text(message.to_string())
}

/// A hello that asks for a document from somewhere on.
fn resume(from: Value) -> Message {
    text(json!({"type": "hello", "clientId": "c", "documents": {"go": from}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_frame_closes_the_socket_with_its_code_and_changes_nothing() {
    let server = Server::start().await;
    assert_eq!(server.json("POST", "/api/games?id=go", &json!({"name": "Go"})).await.status, 201);
    let before = server.fingerprint().await;
    let push = |fields: Value| {
        let mut message = json!({"type": "push", "documentId": "go"});
        for (name, value) in fields.as_object().unwrap() {
            message[name] = value.clone();
        }
        text(message)
    };
    let not_utf8 = Message::Frame(Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true));
    let json_cases: Vec<(Vec<Message>, u16)> = vec![
        (vec![Message::text("hello?")], 1007),
        (vec![Message::text("")], 1007),
        (vec![Message::text("{\"type\":\"hello\"")], 1007),
        (vec![not_utf8], 1007),
        (vec![Message::binary(vec![0x80])], 1003),
        (vec![hello(), Message::binary(vec![0x80])], 1003),
        (vec![Message::text("[]")], 1008),
        (vec![Message::text("7")], 1008),
        (vec![text(json!({}))], 1008),
        (vec![text(json!({"type": "dance"}))], 1008),
        (vec![text(json!({"type": "hello"}))], 1008),
        (vec![text(json!({"type": "hello", "clientId": ""}))], 1008),
        (vec![text(json!({"type": "hello", "clientId": "a\nb"}))], 1008),
        (vec![text(json!({"type": "hello", "clientId": "c", "documents": {"": {}}}))], 1008),
        (vec![text(json!({"type": "hello", "clientId": "c", "documents": {"go": {"cursor": -1}}}))], 1008),
        (
            vec![text(json!({"type": "hello", "clientId": "c", "documents": {"go": {"stateVector": [1]}}}))],
            1008,
        ),
        (vec![text(json!({"type": "hello", "clientId": "c", "documents": ["go"]}))], 1008),
        (vec![resume(json!({"cursor": "1@7"}))], 1008),
        (vec![resume(json!({"cursor": 1, "timestamp": "7"}))], 1008),
        (vec![resume(json!({"cursor": 1, "timestamp": -7}))], 1008),
        (vec![resume(json!({"cursor": 1, "timestamp": 1_u64 << 53}))], 1008),
        (vec![resume(json!({"cursor": 1_u64 << 53}))], 1008),
        (vec![text(json!({"type": "subscribe", "documents": {"go": {}}}))], 1008),
        (vec![push(json!({"op": "delete"}))], 1008),
        (vec![hello(), hello()], 1008),
        (vec![hello(), push(json!({}))], 1008),
        (vec![hello(), push(json!({"op": "burn"}))], 1008),
        (vec![hello(), push(json!({"op": "merge", "patch": 7}))], 1008),
        (vec![hello(), push(json!({"op": "patch", "patch": [{"op": "add"}]}))], 1008),
        (vec![hello(), push(json!({"op": "delete", "clientSeq": "1"}))], 1008),
        (vec![hello(), push(json!({"op": "delete", "clientSeq": 1_u64 << 53}))], 1008),
        (
            vec![
                hello(),
                Message::text(format!(
                    r#"{{"type":"push","documentId":"go","op":"replace","state":{}}}"#,
                    nested(70)
                )),
            ],
            1008,
        ),
        (
            vec![
                hello(),
                Message::text(format!(
                    r#"{{"type":"push","documentId":"go","op":"replace","state":{}}}"#,
                    nested(1000)
                )),
            ],
            1007,
        ),
        (vec![hello(), Message::text(format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(2 << 20)))], 1009),
    ];
    for (frames, code) in json_cases {
        let mut socket = server.socket("/sync", Some("eventsync.v1.json")).await;
        let shown = format!("{:.200}", format!("{frames:?}"));
        for frame in frames {
            // The server may have closed already.
            let _ = futures_util::SinkExt::send(&mut socket.stream, frame).await;
        }
        let (messages, closed) = socket.until_closed().await;
        assert_eq!(closed, Some(code), "{shown}: {messages:?}");
        if code == 1008 || code == 1007 && !shown.contains("Frame") {
            let last = messages.last().unwrap_or_else(|| panic!("{shown}: no error message"));
            assert_eq!(last["type"], "error", "{shown}");
            assert!(last["problem"]["detail"].as_str().is_some_and(|d| !d.is_empty()), "{shown}: {last}");
        }
        assert_eq!(server.fingerprint().await, before, "{shown} changed the store");
    }
    let packed = |message: &Value| Message::binary(rmp_serde::to_vec_named(message).unwrap());
    let mut deep = vec![0x91; 100_000];
    deep.push(0xc0);
    for (frame, code) in [
        (Message::text("{}"), 1003),
        (Message::binary(vec![]), 1007),
        (Message::binary(vec![0xc1]), 1007),
        (Message::binary(vec![0xdf, 0xff, 0xff, 0xff, 0xff]), 1007),
        (Message::binary(deep), 1007),
        (packed(&json!({"type": "dance"})), 1008),
        (packed(&json!([1, 2])), 1008),
    ] {
        let mut socket = server.socket("/sync/go", Some("eventsync.v1.msgpack")).await;
        let _ = futures_util::SinkExt::send(&mut socket.stream, frame.clone()).await;
        assert_eq!(socket.until_closed().await.1, Some(code), "{:.80}", format!("{frame:?}"));
    }
    assert_eq!(server.fingerprint().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_push_says_why_and_the_connection_stays() {
    let server = Server::start().await;
    assert_eq!(server.json("POST", "/api/games?id=go", &json!({"name": "Go"})).await.status, 201);
    let mut socket = server.client("c", json!({})).await;
    let before = server.fingerprint().await;
    for (push, problem) in [
        (json!({"documentId": "go", "op": "create", "state": {"name": "x"}}), "already-exists"),
        (json!({"documentId": "go", "op": "merge", "patch": {"name": 1}}), "invalid-document"),
        (json!({"documentId": "go", "op": "merge", "patch": {"a": 1}, "baseVersion": 5}), "version-mismatch"),
        (json!({"documentId": "go", "op": "merge", "patch": {"a": 1}, "clientSeq": 3}), "sequence-gap"),
        (json!({"documentId": "no", "op": "merge", "patch": {"a": 1}}), "unknown-document"),
        (
            json!({"documentId": "go", "op": "patch", "patch": [{"op": "remove", "path": "/x"}]}),
            "invalid-patch",
        ),
    ] {
        let mut message = push.clone();
        message["type"] = "push".into();
        socket.send(&message).await;
        let rejected = socket.next().await;
        assert_eq!(rejected["type"], "rejected", "{push}: {rejected}");
        assert_eq!(rejected["problem"]["type"], format!("urn:weft:problem:{problem}"), "{push}");
        assert_eq!(server.fingerprint().await, before, "{push} changed the store");
    }
    for (message, problem) in [
        (json!({"type": "presence", "documentId": "go", "data": "x"}), "invalid-message"),
        (json!({"type": "presence", "documentId": "go", "data": "x".repeat(5000)}), "too-large"),
        (json!({"type": "ack", "documentId": "go", "cursor": 9}), "invalid-message"),
    ] {
        socket.send(&message).await;
        let error = socket.next().await;
        assert_eq!(error["problem"]["type"], format!("urn:weft:problem:{problem}"), "{message}");
    }
    socket.send(&json!({"type": "ping", "id": 7})).await;
    assert_eq!(socket.next().await["id"], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subprotocols_and_origins_that_are_not_known_are_refused() {
    let server = Server::start().await;
    let host = server.address.to_string();
    let upgrade = |extra: &[(&'static str, String)]| {
        let mut text = format!(
            "GET /sync/go HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in extra {
            text += &format!("{name}: {value}\r\n");
        }
        text + "\r\n"
    };
    let check = async |extra: &[(&'static str, String)], status: u16| {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, upgrade(extra).as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{extra:?}");
    };
    check(&[], 101).await;
    check(&[("Sec-WebSocket-Protocol", "eventsync.v1.msgpack".into())], 101).await;
    check(&[("Sec-WebSocket-Protocol", "eventsync.v9, eventsync.v1.json".into())], 101).await;
    check(&[("Sec-WebSocket-Protocol", "graphql-ws".into())], 400).await;
    check(&[("Origin", format!("http://{host}"))], 101).await;
    check(&[("Origin", "https://evil.example".into())], 403).await;
    check(&[("Origin", "null".into())], 403).await;
}
