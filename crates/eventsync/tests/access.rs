//! Nobody reads, writes or shows without the right to.

mod support;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use eventsync::{
    access::{Authorizer, Grant, NotAuthenticated, Principal, TOKEN_BYTES_MAX},
    http::{self, HttpOptions},
};
use serde_json::{Value, json};
use support::{Reply, Server, Socket};
use tokio::net::TcpListener;

/// Believes every token: it is the JSON of who shows it.
#[derive(Debug)]
struct Believer;

#[async_trait]
impl Authorizer for Believer {
    async fn authorize(&self, token: Option<&str>, _: u64) -> Result<Principal, NotAuthenticated> {
        let token = token.ok_or(NotAuthenticated::Missing)?;
        let who: Value = serde_json::from_str(token).map_err(|e| NotAuthenticated::Invalid(e.to_string()))?;
        let grants: Vec<Grant> = serde_json::from_value(who["grants"].clone()).unwrap();
        Principal::new(who["name"].as_str().unwrap(), grants, who["end"].as_u64())
    }
}

fn token(name: &str, grants: &[(&str, &[&str])]) -> String {
    let grants: Vec<_> =
        grants.iter().map(|(documents, rights)| json!({"documents": documents, "rights": rights})).collect();
    json!({"name": name, "grants": grants}).to_string()
}

/// The same until then.
fn until(token: &str, end_ms: u64) -> String {
    let mut token: Value = serde_json::from_str(token).unwrap();
    token["end"] = end_ms.into();
    token.to_string()
}

fn everything(name: &str) -> String {
    token(name, &[("*", &["read", "write", "presence", "admin"])])
}

#[expect(clippy::disallowed_methods, reason = "tokens end by the clock of the server under test")]
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

async fn guarded() -> Server {
    let authorizer: Option<Arc<dyn Authorizer>> = Some(Arc::new(Believer));
    let server = Server::start_with(HttpOptions { authorizer, ..HttpOptions::new("games") }).await;
    let admin = everything("admin");
    for id in ["go", "chess"] {
        assert_eq!(send(&server, &admin, "PUT", &format!("/api/games/{id}"), &[]).await.status, 201);
    }
    server
}

/// A request with a token, and a game as its body.
async fn send(server: &Server, token: &str, method: &str, path: &str, more: &[(&str, &str)]) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers =
        [&[("Authorization", bearer.as_str()), ("Content-Type", "application/json")], more].concat();
    server
        .request(
            method,
            path,
            &headers,
            json!({"name": "Go", "clientId": "c", "op": "delete"}).to_string().as_bytes(),
        )
        .await
}

async fn hello(server: &Server, token: &str, client: &str, documents: Value) -> Socket {
    let mut socket = server.socket("/sync", Some("eventsync.v1.json")).await;
    socket.send(&json!({"type": "hello", "clientId": client, "token": token, "documents": documents})).await;
    socket
}

#[tokio::test]
async fn every_path_that_is_described_asks_who_and_whether_they_may() {
    let server = guarded().await;
    let before = server.fingerprint().await;
    let all = server.get("/openapi.json").await.json();
    let nobody = token("nobody", &[("other", &["read", "write", "presence", "admin"])]);
    let mut guarded = 0;
    for (path, item) in all["paths"].as_object().unwrap() {
        let real = path.replace("{id}", "go").replace("{version}", "1");
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            if operation["security"] == json!([]) {
                assert_eq!(server.get(&real).await.status, 200, "{path} is open");
                continue;
            }
            guarded += 1;
            if path.starts_with("/sync") {
                // The socket is opened and its first message asked, see below.
                continue;
            }
            let unknown = server.request(&method, &real, &[], b"").await;
            assert_eq!(
                (unknown.status, unknown.problem().as_str()),
                (401, "not-authenticated"),
                "{method} {path}"
            );
            assert_eq!(unknown.header("www-authenticate"), Some("Bearer"), "{method} {path}");
            // Create takes its id from the query, so that a grant can cover it.
            let real = if (method.as_str(), path.as_str()) == ("POST", "/api/games") {
                "/api/games?id=new"
            } else {
                &real
            };
            let refused = send(&server, &nobody, &method, real, &[]).await;
            assert_eq!((refused.status, refused.problem().as_str()), (403, "forbidden"), "{method} {path}");
            for status in ["401", "403"] {
                assert!(
                    operation["responses"][status].is_object(),
                    "{method} {path}: {status} is not described"
                );
            }
        }
    }
    assert!(guarded > 15, "{guarded} paths are guarded");
    assert_eq!(server.fingerprint().await, before, "nothing was changed");
}

#[tokio::test]
async fn a_token_is_looked_at_before_anything_else() {
    let server = guarded().await;
    let long = format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1));
    for header in ["Basic dTpw", "Bearer", "Bearer {}x", "Bearer \u{e9}", &long] {
        // The path's id, the body and the type are wrong too: nobody is told.
        let headers = [("Authorization", header), ("Content-Type", "text/plain")];
        let reply = server.request("PUT", "/api/games/%00", &headers, b"{").await;
        assert_eq!((reply.status, reply.problem().as_str()), (401, "not-authenticated"), "{header}");
    }
    let over = until(&everything("alice"), now_ms());
    let reply = send(&server, &over, "GET", "/api/games/go", &[]).await;
    assert_eq!(reply.json()["detail"], "the token expired");
}

#[tokio::test]
async fn a_grant_reaches_as_far_as_it_says() {
    let server = guarded().await;
    let alice = token("alice", &[("go", &["read"]), ("club:*", &["read", "write"])]);
    let status = async |method: &str, path: &str| send(&server, &alice, method, path, &[]).await.status;
    assert_eq!(status("GET", "/api/games/go").await, 200);
    assert_eq!(status("PUT", "/api/games/go").await, 403);
    // What is not there and what may not be seen look the same.
    assert_eq!(status("GET", "/api/games/chess").await, 403);
    assert_eq!(status("GET", "/api/games/none").await, 403);
    assert_eq!(status("PUT", "/api/games/club:1").await, 201);
    assert_eq!(status("POST", "/api/games?id=club:2").await, 201);
    assert_eq!(status("POST", "/api/games").await, 403, "an id that the server draws is in no club");
    assert_eq!(status("GET", "/api/games").await, 403, "the list is of all");
    assert_eq!(status("POST", "/api/snapshots/club:1").await, 403);
    assert_eq!(send(&server, &everything("boss"), "GET", "/api/games", &[]).await.status, 200);
}

/// Else a write of Alice's could be answered as a repetition of one that Bob made in her name, and be lost.
#[tokio::test]
async fn nobody_writes_or_is_remembered_under_the_client_id_of_another() {
    let server = guarded().await;
    let (alice, bob) = (everything("alice"), everything("bob"));
    let write = async |token: &str, client: &str| {
        let headers = [("Weft-Client-Id", client), ("Weft-Client-Seq", "1")];
        send(&server, token, "PUT", "/api/games/new", &headers).await.status
    };
    for of_others in ["alice/phone", "bob", "bob/", "bob/a/b", "phone"] {
        assert_eq!(write(&bob, of_others).await, 403, "{of_others}");
    }
    assert_eq!(write(&alice, "alice/phone").await, 201);
    assert_eq!(write(&bob, "bob/phone").await, 200, "his own count begins at one");
    // The body of these names client c.
    for path in ["/api/push/go", "/api/sync/go"] {
        let reply = send(&server, &bob, "POST", path, &[]).await;
        assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"), "{path}");
    }
    let mut socket = hello(&server, &bob, "alice/phone", json!({})).await;
    assert_eq!(socket.until_closed().await.1, Some(4403));
    // Who writes without saying which client it is, is that client of the principal.
    send(&server, &bob, "PUT", "/api/games/anonymous", &[]).await;
    let events = send(&server, &bob, "GET", "/api/events/anonymous", &[]).await.json();
    assert_eq!(events["events"][0]["clientId"], "bob/http");
}

#[tokio::test]
async fn a_named_request_is_answered_to_who_made_it() {
    let server = guarded().await;
    let create = async |name: &str| {
        let reply = send(&server, &everything(name), "POST", "/api/games", &[("Idempotency-Key", "k")]).await;
        assert_eq!(reply.status, 201);
        reply.json()["id"].as_str().unwrap().to_owned()
    };
    let alices = create("alice").await;
    assert_ne!(create("bob").await, alices, "he got the answer to her request");
    assert_eq!(create("alice").await, alices);
}

#[tokio::test]
async fn a_socket_is_nobodys_until_it_says_who_it_is() {
    let server = guarded().await;
    for bad in [json!(null), json!("x")] {
        let mut socket = server.socket("/sync/go", None).await;
        socket.send(&json!({"type": "hello", "clientId": "alice/c", "token": bad})).await;
        let (messages, code) = socket.until_closed().await;
        assert_eq!(code, Some(4401), "{bad}");
        assert_eq!(messages[0]["problem"]["type"], "urn:weft:problem:not-authenticated");
        assert_eq!(messages.len(), 1, "nothing of the document");
    }
    let mut socket = server.socket("/sync", None).await;
    socket.send(&json!({"type": "subscribe", "documents": {"go": {}}})).await;
    assert_eq!(socket.until_closed().await.1, Some(1008));
    // Somebody unknown may not make the server read much.
    let mut socket = server.socket("/sync", None).await;
    socket.send(&json!({"type": "hello", "clientId": "x".repeat(70_000)})).await;
    assert_eq!(socket.until_closed().await.1, Some(1009));

    let mut alice = hello(&server, &everything("alice"), "alice/c", json!({"go": {}})).await;
    let welcome = alice.next().await;
    assert_eq!((&welcome["type"], &welcome["clientId"]), (&json!("welcome"), &json!("alice/c")));
    assert_eq!(alice.next_of("snapshot").await["documentId"], "go");
}

#[tokio::test]
async fn a_socket_gets_what_its_grants_give() {
    let server = guarded().await;
    let who = token("alice", &[("go", &["read"]), ("chess", &["read", "write", "presence"])]);
    let mut alice = hello(&server, &who, "alice/c", json!({"go": {}, "chess": {}, "other": {}})).await;
    alice.next_of("welcome").await;
    let mut refused = Vec::new();
    let mut live = Vec::new();
    while live.len() + refused.len() < 3 {
        let message = alice.next().await;
        match message["type"].as_str().unwrap() {
            "live" => live.push(message["documentId"].clone()),
            "error" => refused.push(message["documentId"].clone()),
            _ => {}
        }
    }
    assert_eq!((refused, live), (vec![json!("other")], vec![json!("chess"), json!("go")]));
    alice.send(&json!({"type": "subscribe", "collection": {"cursor": 0}})).await;
    assert_eq!(alice.next_of("error").await["problem"]["right"], "read");
    let push = |document: &str, seq: u64| json!({"type": "push", "documentId": document, "clientSeq": seq, "op": "merge", "patch": {"n": 1}});
    alice.send(&push("go", 1)).await;
    assert_eq!(alice.next_of("rejected").await["problem"]["type"], "urn:weft:problem:forbidden");
    alice.send(&push("chess", 1)).await;
    assert_eq!(alice.next_of("pushed").await["documentId"], "chess");
    alice.send(&json!({"type": "presence", "documentId": "go", "data": {"at": 1}})).await;
    assert_eq!(alice.next_of("error").await["problem"]["right"], "presence");
    assert_eq!(server.get("/livez").await.status, 200);
    let admin = everything("admin");
    assert_eq!(send(&server, &admin, "GET", "/api/games/go", &[]).await.json()["version"], 1);
}

#[tokio::test]
async fn what_a_token_says_ends_with_it_unless_a_new_one_is_shown() {
    let server = guarded().await;
    let soon = |ms| until(&token("alice", &[("*", &["read"])]), now_ms() + ms);
    let mut stays = hello(&server, &soon(700), "alice/a", json!({"go": {}, "chess": {}})).await;
    assert!(stays.next_of("welcome").await["expiresAt"].as_u64().unwrap() > now_ms());
    for _ in 0..2 {
        stays.next_of("live").await;
    }
    let mut goes = hello(&server, &soon(700), "alice/b", json!({})).await;
    let bearer = format!("Bearer {}", soon(700));
    let mut stream = server.stream("/events/go", &[("Authorization", &bearer)]).await;
    // The new token says less: what it does not let be read is not followed any more.
    let less = token("alice", &[("go", &["read"])]);
    stays.send(&json!({"type": "authenticate", "token": less})).await;
    assert_eq!(stays.next().await, json!({"type": "authenticated"}));
    let lost = stays.next().await;
    assert_eq!((&lost["type"], &lost["documentId"]), (&json!("error"), &json!("chess")));

    let (messages, code) = goes.until_closed().await;
    assert_eq!(code, Some(4401));
    assert_eq!(messages.last().unwrap()["problem"]["detail"], "the token expired");
    loop {
        let (name, _, data) = stream.next().await;
        if name == "error" {
            assert_eq!(data["problem"]["status"], 401);
            break;
        }
    }
    // Well past the end of the first token.
    let admin = everything("admin");
    send(&server, &admin, "PUT", "/api/games/chess", &[]).await;
    send(&server, &admin, "DELETE", "/api/games/go", &[]).await;
    assert_eq!(stays.next().await["events"][0]["documentId"], "go");

    stays.send(&json!({"type": "authenticate", "token": everything("bob")})).await;
    assert_eq!(stays.until_closed().await.1, Some(4403));
}

#[tokio::test]
async fn numbers_are_for_those_who_administer_all() {
    let server = guarded().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = http::metrics(server.service.clone(), Some(Arc::new(Believer)), |_| {});
    tokio::spawn(async move { axum::serve(listener, router).await });
    let numbers = Server { address, service: server.service.clone() };
    assert_eq!(numbers.get("/metrics").await.status, 401);
    assert_eq!(send(&numbers, &token("a", &[("*", &["read"])]), "GET", "/metrics", &[]).await.status, 403);
    assert_eq!(send(&numbers, &everything("a"), "GET", "/metrics", &[]).await.status, 200);
}

#[cfg(feature = "client")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_under_its_next_token_and_keeps_what_it_writes_without_one() {
    use eventsync::{
        ConflictResolver,
        client::{ClientStatus, SyncClient, SyncClientOptions},
        protocol::PushOp,
        shelf::MemoryShelf,
    };
    let server = guarded().await;
    let go = nodestorage::DocumentId::new("go").unwrap();
    let ann = token("ann", &[("go", &["read", "write"])]);
    let (first, second) = (now_ms() + 500, now_ms() + 1_500);
    let client = SyncClient::start(SyncClientOptions {
        url: format!("ws://{}/sync", server.address),
        client_id: crdt_core::ClientId::new("ann/rust").unwrap(),
        token: Some(until(&ann, first)),
        resolver: ConflictResolver::ThreeWayMerge,
        shelf: Arc::new(MemoryShelf::new()),
    });
    client.open(&go).await.unwrap();
    let mut status = client.status();
    let mut becomes = async |wanted| {
        let waiting = status.wait_for(|status| *status == wanted);
        tokio::time::timeout(support::DEADLINE, waiting).await.expect("in time").unwrap();
    };
    becomes(ClientStatus::Live).await;
    client.set_token(until(&ann, second));
    becomes(ClientStatus::Offline).await;
    assert!(now_ms() >= second, "the first token's end did not matter");

    let merge = PushOp::Merge { patch: json!({"n": 7}).as_object().unwrap().clone() };
    client.write(&go, merge, false).await.unwrap();
    assert_eq!(client.unsent(), 1);
    let mut changes = client.changes();
    client.set_token(ann);
    while client.unsent() > 0 {
        tokio::time::timeout(support::DEADLINE, changes.changed()).await.expect("in time").unwrap();
    }
    let game = send(&server, &everything("admin"), "GET", "/api/games/go", &[]).await.json();
    assert_eq!((&game["state"]["n"], &game["version"]), (&json!(7), &json!(2)));
}
