//! What comes in requests.

use eventsync::http::HttpOptions;
use serde_json::{Value, json};

use crate::{nested, support::Server};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const MERGE: (&str, &str) = ("Content-Type", "application/merge-patch+json");
const PATCH: (&str, &str) = ("Content-Type", "application/json-patch+json");

struct Case {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    expect: (u16, &'static str),
}

fn case(
    method: &'static str,
    path: impl Into<String>,
    headers: &[(&'static str, &str)],
    body: impl Into<Vec<u8>>,
    expect: (u16, &'static str),
) -> Case {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Case { method, path: path.into(), headers, body: body.into(), expect }
}

/// A list that is copied into itself again and again: few bytes, many to come.
fn bomb() -> Value {
    let mut ops = vec![json!({"op": "add", "path": "/l", "value": ["x".repeat(1000)]})];
    ops.extend(vec![json!({"op": "copy", "from": "/l", "path": "/l/-"}); 40]);
    Value::Array(ops)
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn cases() -> Vec<Case> {
    let long = "x".repeat(256);
    let huge = format!(r#"{{"name":"{}"}}"#, "x".repeat(2 << 20));
    let ops = |ops: Value| ops.to_string();
    vec![
        // Bodies that are no JSON, or not the JSON that is expected.
        case("POST", "/api/games", &[JSON], "{\"name\": ", (400, "invalid-json")),
        case("POST", "/api/games", &[JSON], "", (400, "invalid-json")),
        case("POST", "/api/games", &[JSON], "{} {}", (400, "invalid-json")),
        case("POST", "/api/games", &[JSON], b"{\"name\": \"\xff\xfe\"}".to_vec(), (400, "invalid-json")),
        case("POST", "/api/games", &[JSON], "\u{feff}{}", (400, "invalid-json")),
        case("POST", "/api/games", &[JSON], "{'name': 'x'}", (400, "invalid-json")),
        case("POST", "/api/games", &[JSON], "NaN", (400, "invalid-json")),
        case("POST", "/api/games", &[JSON], "[1]", (400, "invalid-request")),
        case("POST", "/api/games", &[JSON], "null", (400, "invalid-request")),
        case("POST", "/api/games", &[JSON], "\"text\"", (400, "invalid-request")),
        case("POST", "/api/games", &[JSON], nested(80), (400, "invalid-request")),
        case("POST", "/api/games", &[JSON], nested(100_000), (400, "invalid-json")),
        case("POST", "/api/games", &[JSON], huge, (413, "too-large")),
        case("POST", "/api/games", &[JSON], "{}", (422, "invalid-document")),
        case("POST", "/api/games", &[JSON], r#"{"name": 7}"#, (422, "invalid-document")),
        case("POST", "/api/games", &[], r#"{"name": "x"}"#, (415, "unsupported-media-type")),
        case("POST", "/api/games", &[("Content-Type", "text/plain")], "{}", (415, "unsupported-media-type")),
        case("POST", "/api/games?id=", &[JSON], r#"{"name":"x"}"#, (400, "invalid-id")),
        case("POST", format!("/api/games?id={long}"), &[JSON], r#"{"name":"x"}"#, (400, "invalid-id")),
        case("POST", "/api/games?id=a%00b", &[JSON], r#"{"name":"x"}"#, (400, "invalid-id")),
        case("POST", "/api/games?id=go", &[JSON], r#"{"name":"x"}"#, (409, "already-exists")),
        // Headers.
        case(
            "POST",
            "/api/games",
            &[JSON, ("Idempotency-Key", "")],
            r#"{"name":"x"}"#,
            (400, "invalid-request"),
        ),
        case(
            "POST",
            "/api/games",
            &[JSON, ("Idempotency-Key", &long)],
            r#"{"name":"x"}"#,
            (400, "invalid-request"),
        ),
        case("PATCH", "/api/games/go", &[MERGE, ("If-Match", "1")], "{}", (400, "invalid-request")),
        case("PATCH", "/api/games/go", &[MERGE, ("If-Match", "\"x\"")], "{}", (400, "invalid-request")),
        case("PATCH", "/api/games/go", &[MERGE, ("If-Match", "\"-1\"")], "{}", (400, "invalid-request")),
        case(
            "PATCH",
            "/api/games/go",
            &[MERGE, ("If-Match", "\"7\"")],
            r#"{"a":1}"#,
            (412, "version-mismatch"),
        ),
        case(
            "PUT",
            "/api/games/go",
            &[JSON, ("If-None-Match", "*")],
            r#"{"name":"x"}"#,
            (412, "version-mismatch"),
        ),
        case(
            "PUT",
            "/api/games/none",
            &[JSON, ("If-Match", "*")],
            r#"{"name":"x"}"#,
            (412, "version-mismatch"),
        ),
        case(
            "PUT",
            "/api/games/none",
            &[JSON, ("If-Match", "\"3\"")],
            r#"{"name":"x"}"#,
            (412, "version-mismatch"),
        ),
        case("DELETE", "/api/games/go", &[("If-Match", "\"9\"")], "", (412, "version-mismatch")),
        case("PATCH", "/api/games/go", &[MERGE, ("Weft-Client-Id", &long)], "{}", (400, "invalid-id")),
        case("PATCH", "/api/games/go", &[MERGE, ("Weft-Client-Id", "")], "{}", (400, "invalid-id")),
        case("PATCH", "/api/games/go", &[MERGE, ("Weft-Client-Seq", "one")], "{}", (400, "invalid-request")),
        case(
            "PATCH",
            "/api/games/go",
            &[MERGE, ("Weft-Client-Seq", "99999999999999999999")],
            "{}",
            (400, "invalid-request"),
        ),
        case(
            "PATCH",
            "/api/games/go",
            &[MERGE, ("Weft-Client-Id", "n"), ("Weft-Client-Seq", "5")],
            r#"{"a":1}"#,
            (409, "sequence-gap"),
        ),
        case(
            "PATCH",
            "/api/games/go",
            &[MERGE, ("Weft-Client-Seq", "1"), ("Idempotency-Key", "k")],
            "{}",
            (400, "invalid-request"),
        ),
        // Patches.
        case(
            "PATCH",
            "/api/games/go",
            &[("Content-Type", "text/html")],
            "{}",
            (415, "unsupported-media-type"),
        ),
        case("PATCH", "/api/games/go", &[MERGE], "[]", (400, "invalid-request")),
        case("PATCH", "/api/games/go", &[MERGE], r#"{"name":null}"#, (422, "invalid-document")),
        case("PATCH", "/api/games/go", &[PATCH], "{}", (400, "invalid-request")),
        case(
            "PATCH",
            "/api/games/go",
            &[PATCH],
            ops(json!([{"op": "explode", "path": "/a"}])),
            (400, "invalid-request"),
        ),
        case(
            "PATCH",
            "/api/games/go",
            &[PATCH],
            ops(json!([{"op": "add", "path": "a", "value": 1}])),
            (400, "invalid-request"),
        ),
        case(
            "PATCH",
            "/api/games/go",
            &[PATCH],
            ops(json!([{"op": "remove", "path": "/none"}])),
            (422, "invalid-patch"),
        ),
        case(
            "PATCH",
            "/api/games/go",
            &[PATCH],
            ops(
                json!([{"op": "add", "path": "/ok", "value": 1}, {"op": "test", "path": "/name", "value": "no"}]),
            ),
            (422, "invalid-patch"),
        ),
        case(
            "PATCH",
            "/api/games/go",
            &[PATCH],
            ops(json!([{"op": "replace", "path": "", "value": 7}])),
            (422, "invalid-document"),
        ),
        case(
            "PATCH",
            "/api/games/go",
            &[PATCH],
            ops(Value::Array(vec![json!({"op": "copy", "from": "", "path": "/b"}); 70])),
            (422, "invalid-patch"),
        ),
        case("PATCH", "/api/games/go", &[PATCH], ops(bomb()), (413, "too-large")),
        case("PATCH", "/api/games/none", &[MERGE], r#"{"a":1}"#, (404, "unknown-document")),
        case("DELETE", "/api/games/none", &[], "", (404, "unknown-document")),
        // Paths and queries.
        case("GET", "/api/games/none", &[], "", (404, "unknown-document")),
        case("GET", "/api/games/%FF", &[], "", (400, "invalid-id")),
        case("GET", "/api/games/%00", &[], "", (400, "invalid-id")),
        case("GET", format!("/api/games/{long}"), &[], "", (400, "invalid-id")),
        case("GET", "/api/games/go?version=99", &[], "", (404, "unknown-version")),
        case("GET", "/api/games/go?version=0", &[], "", (404, "unknown-version")),
        case("GET", "/api/games/go?version=-1", &[], "", (400, "invalid-request")),
        case("GET", "/api/games?limit=many", &[], "", (400, "invalid-request")),
        case("GET", "/api/games/none?version=1", &[], "", (404, "unknown-version")),
        case("GET", "/api", &[], "", (404, "not-found")),
        case("TRACE", "/api/games", &[], "", (405, "method-not-allowed")),
        case("PUT", "/api/games", &[JSON], "{}", (405, "method-not-allowed")),
        // Catching up.
        case("POST", "/api/sync/none", &[JSON], "{}", (404, "unknown-document")),
        case("POST", "/api/sync/go", &[JSON], "[]", (400, "invalid-request")),
        case("POST", "/api/sync/go", &[JSON], r#"{"vectorClock": {"a": -1}}"#, (400, "invalid-request")),
        case("POST", "/api/sync/go", &[JSON], r#"{"vectorClock": {"a": 1.5}}"#, (400, "invalid-request")),
        case("POST", "/api/sync/go", &[JSON], r#"{"vectorClock": {"a": "1"}}"#, (400, "invalid-request")),
        case("POST", "/api/sync/go", &[JSON], r#"{"vectorClock": {"": 1}}"#, (400, "invalid-request")),
        case(
            "POST",
            "/api/sync/go",
            &[JSON],
            r#"{"vectorClock": {"a": 18446744073709551615}}"#,
            (400, "invalid-request"),
        ),
        case("POST", "/api/sync/go", &[JSON], r#"{"vectorClock": [["a", 1]]}"#, (400, "invalid-request")),
        case("POST", "/api/sync/go", &[JSON], r#"{"cursor": "3"}"#, (400, "invalid-request")),
        case("POST", "/api/sync/go", &[JSON], r#"{"clientId": 7}"#, (400, "invalid-request")),
        case("GET", "/api/events/none", &[], "", (404, "unknown-document")),
        case("GET", "/api/events/go?after=x", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?wait=-1", &[], "", (400, "invalid-request")),
        case("GET", "/api/events?after=1e3", &[], "", (400, "invalid-request")),
        case("GET", "/events/none", &[], "", (404, "unknown-document")),
        case("GET", "/events/go", &[("Last-Event-ID", "abc")], "", (400, "invalid-request")),
        case("GET", "/events?after=-3", &[], "", (400, "invalid-request")),
        // A place is a number, and perhaps when its event was made: both whole, in every way to say it.
        case("GET", "/api/events/go?after=1@", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=@1", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=@", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=1@-5", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=1@5.0", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=1@5@5", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=1@2026-01-01", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=1@9007199254740992", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=1%20@5", &[], "", (400, "invalid-request")),
        case("GET", "/api/events/go?after=1%00@5", &[], "", (400, "invalid-request")),
        case("GET", "/api/events?after=1@ms", &[], "", (400, "invalid-request")),
        case("GET", "/events/go?after=1@", &[], "", (400, "invalid-request")),
        case("GET", "/events?after=@7", &[], "", (400, "invalid-request")),
        case("GET", "/events/go", &[("Last-Event-ID", "1@x")], "", (400, "invalid-request")),
        case("GET", "/events/go", &[("Last-Event-ID", "1@9007199254740992")], "", (400, "invalid-request")),
        case("GET", "/events", &[("Last-Event-ID", "7@7@7")], "", (400, "invalid-request")),
        // Well said, and of no event that there is.
        case("GET", "/api/events/go?after=1@7", &[], "", (410, "history-compacted")),
        case("GET", "/api/events/go?after=9@7", &[], "", (410, "history-compacted")),
        case("GET", "/api/events?after=1@7", &[], "", (410, "history-compacted")),
        case("POST", "/api/sync/go", &[JSON], r#"{"cursor": 1, "timestamp": "7"}"#, (400, "invalid-request")),
        case("POST", "/api/sync/go", &[JSON], r#"{"cursor": 1, "timestamp": -7}"#, (400, "invalid-request")),
        case("POST", "/api/sync/go", &[JSON], r#"{"cursor": "1@7"}"#, (400, "invalid-request")),
        case("POST", "/api/snapshots/none", &[], "", (404, "unknown-document")),
        case("GET", "/api/snapshots/none", &[], "", (404, "unknown-document")),
        case("GET", "/api/snapshots/go/5", &[], "", (404, "unknown-version")),
        case("GET", "/api/snapshots/go/x", &[], "", (400, "invalid-request")),
        case("GET", "/api/state-vectors/none", &[], "", (404, "unknown-document")),
        case("GET", "/api/state-vectors/go?limit=-1", &[], "", (400, "invalid-request")),
        case("GET", "/api/state-vectors/go?after=", &[], "", (400, "invalid-id")),
        case("GET", "/api/state-vectors/go?after=a%00b", &[], "", (400, "invalid-id")),
        // Pushes without a socket.
        case("POST", "/api/push/go", &[JSON], "{}", (400, "invalid-request")),
        case("POST", "/api/push/go", &[JSON], r#"{"clientId":"a","op":"burn"}"#, (400, "invalid-request")),
        case("POST", "/api/push/go", &[JSON], r#"{"clientId":"a","op":"merge"}"#, (400, "invalid-request")),
        case(
            "POST",
            "/api/push/go",
            &[JSON],
            r#"{"clientId":"a","op":"merge","patch":[]}"#,
            (400, "invalid-request"),
        ),
        case(
            "POST",
            "/api/push/go",
            &[JSON],
            r#"{"clientId":"a","documentId":"other","op":"delete"}"#,
            (400, "invalid-request"),
        ),
        case(
            "POST",
            "/api/push/go",
            &[JSON],
            r#"{"clientId":"a","baseVersion":9,"op":"delete"}"#,
            (412, "version-mismatch"),
        ),
        case(
            "POST",
            "/api/push/go",
            &[JSON],
            r#"{"clientId":"a","clientSeq":2,"op":"delete"}"#,
            (409, "sequence-gap"),
        ),
        case(
            "POST",
            "/api/push/go",
            &[JSON],
            r#"{"clientId":"a","clientSeq":9007199254740992,"op":"delete"}"#,
            (400, "invalid-request"),
        ),
        // Upgrades that are none.
        case("GET", "/sync/go", &[], "", (400, "invalid-request")),
        case(
            "GET",
            "/sync/go",
            &[("Connection", "upgrade"), ("Upgrade", "h2c")],
            "",
            (400, "invalid-request"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_request_is_told_what_is_wrong_and_changes_nothing() {
    let server = Server::start().await;
    assert_eq!(server.json("POST", "/api/games?id=go", &json!({"name": "Go"})).await.status, 201);
    let before = server.fingerprint().await;
    let cases = cases();
    assert!(cases.len() >= 60);
    for Case { method, path, headers, body, expect } in cases {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = server.request(method, &path, &headers, &body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let what = format!("{method} {path} {headers:?} {shown}");
        assert_eq!(reply.status, expect.0, "{what}: {}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.problem(), expect.1, "{what}");
        assert_eq!(server.fingerprint().await, before, "{what} changed the store");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_100_megabytes_is_refused_without_being_read() {
    let server = Server::start().await;
    let length = 100 << 20;
    let head = |extra: &str| {
        format!(
            "POST /api/games HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{extra}\r\n\r\n"
        )
    };
    // Announced: the answer comes before the body does.
    let reply = server.raw(head(&format!("Content-Length: {length}")).as_bytes()).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too-large"));
    assert_eq!(reply.json()["limit"], 1 << 20);
    // Not announced: the answer comes after the limit.
    let mut chunked = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..3 {
        chunked.extend_from_slice(format!("{:x}\r\n", 1 << 20).as_bytes());
        chunked.extend(std::iter::repeat_n(b' ', 1 << 20));
        chunked.extend_from_slice(b"\r\n");
    }
    let reply = server.raw(&chunked).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too-large"));
    assert_eq!(server.fingerprint().await.0, 0);
}

/// Half a body, and then nothing: nobody waits for the rest for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let body_wait = std::time::Duration::from_millis(200);
    let server = Server::start_with(HttpOptions { body_wait, ..HttpOptions::new("games") }).await;
    for line in ["PUT /api/games/go", "POST /api/push/go", "POST /api/sync/go", "PATCH /api/games/go"] {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
        );
        // Read to its end: the connection is closed.
        let reply = server.raw(head.as_bytes()).await;
        assert_eq!((reply.status, reply.problem().as_str()), (408, "too-slow"), "{line}");
    }
    assert_eq!(server.fingerprint().await.0, 0);
}

/// Who owns a domain can let it point here: to a browser its page is then of this very place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_public_name_reads_and_writes_nothing() {
    let server = Server::start().await;
    let open = Server::start_with(HttpOptions { any_host: true, ..HttpOptions::new("games") }).await;
    let request = async |server: &Server, host: &str, line: &str, more: &str| {
        let text = format!(
            "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}Content-Length: 2\r\n\r\n{{}}"
        );
        server.raw(text.as_bytes()).await
    };
    let json = "Content-Type: application/json\r\n";
    for line in ["GET /api/games", "POST /api/sync/go", "GET /api/events", "GET /events"] {
        let refused = request(&server, "evil.example", line, json).await;
        assert_eq!((refused.status, refused.problem().as_str()), (421, "misdirected"), "{line}");
    }
    assert_eq!(request(&server, "localhost", "GET /api/games", "").await.status, 200);
    assert_eq!(request(&open, "games.example", "GET /api/games", "").await.status, 200);
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Origin: http://evil.example\r\n";
    let text =
        format!("GET /sync HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade, close\r\n{upgrade}\r\n");
    assert_eq!(server.raw(text.as_bytes()).await.status, 421);
}
