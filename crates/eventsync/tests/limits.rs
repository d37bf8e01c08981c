//! What one address and one principal may cost.

mod support;

use std::{num::NonZeroU32, sync::Arc};

use async_trait::async_trait;
use eventsync::{
    access::{Authorizer, Grant, NotAuthenticated, Principal},
    http::{Allowance, ClientAddress, HttpOptions},
};
use serde_json::{Value, json};
use support::{Reply, Server, Socket};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Believes every token: it is the name of who shows it.
#[derive(Debug)]
struct Believer;

#[async_trait]
impl Authorizer for Believer {
    async fn authorize(&self, token: Option<&str>, _: u64) -> Result<Principal, NotAuthenticated> {
        Principal::new(token.ok_or(NotAuthenticated::Missing)?, vec![Grant::everything()], None)
    }
}

/// So slow that no test waits for more than was allowed at once.
fn allowance(burst: u32, connections: usize) -> Option<Allowance> {
    let per_second = NonZeroU32::new(1).unwrap();
    Some(Allowance { burst: NonZeroU32::new(burst).unwrap(), ..Allowance::new(per_second, connections) })
}

fn options(per_address: Option<Allowance>, per_principal: Option<Allowance>) -> HttpOptions {
    let client_address = ClientAddress::Header("x-forwarded-for".parse().unwrap());
    let mut options = HttpOptions { per_address, per_principal, client_address, ..HttpOptions::new("games") };
    if per_principal.is_some() {
        options.authorizer = Some(Arc::new(Believer));
    }
    options
}

async fn ask(server: &Server, address: &str, token: &str, path: &str) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers = [("X-Forwarded-For", address), ("Authorization", bearer.as_str())];
    let shown = if token.is_empty() { &headers[..1] } else { &headers };
    server.request("GET", path, shown, b"").await
}

async fn socket(server: &Server, address: &str) -> Result<Socket, u16> {
    let mut request = format!("ws://{}/sync", server.address).into_client_request().unwrap();
    request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
    match tokio_tungstenite::connect_async(request).await {
        Ok((stream, _)) => Ok(Socket { stream }),
        Err(tokio_tungstenite::tungstenite::Error::Http(reply)) => Err(reply.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

fn hello(name: &str) -> Value {
    json!({"type": "hello", "clientId": format!("{name}/c"), "token": name})
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_back() {
    let server = Server::start_with(options(allowance(5, 9), None)).await;
    let status = async |address: &str, path: &str| ask(&server, address, "", path).await.status;
    let games = async |address: &str| {
        let mut statuses = Vec::new();
        for _ in 0..6 {
            statuses.push(status(address, "/api/games").await);
        }
        statuses
    };
    assert_eq!(games("192.0.2.1").await, [200, 200, 200, 200, 200, 429]);
    let refused = ask(&server, "192.0.2.1", "", "/api/games").await;
    assert_eq!((refused.problem().as_str(), refused.header("retry-after")), ("too-many", Some("1")));
    let problem = refused.json();
    assert_eq!((&problem["limit"], &problem["unit"]), (&json!(1), &json!("requests per second")));
    assert!(problem["retryAfterMs"].as_u64().is_some_and(|ms| (1..=1000).contains(&ms)), "{problem}");
    // Whatever it asks for, but not whether the server lives; and others have their own.
    for path in ["/openapi.json", "/api/games/x", "/events", "/sync", "/api/events?wait=20"] {
        assert_eq!(status("192.0.2.1", path).await, 429, "{path}");
    }
    assert_eq!((status("192.0.2.1", "/livez").await, status("192.0.2.1", "/readyz").await), (200, 200));
    assert_eq!(games("192.0.2.2").await[..5], [200; 5]);
    // One network of IPv6 is one address.
    assert_eq!(games("2001:db8::1").await[..5], [200; 5]);
    assert_eq!(status("2001:db8::ffff:2", "/api/games").await, 429);
    assert_eq!(status("2001:db8:0:1::1", "/api/games").await, 200);
}

/// Else anybody could give themselves a new address with each request.
#[tokio::test]
async fn what_a_header_says_counts_only_if_it_was_named() {
    let server = Server::start_with(HttpOptions {
        client_address: ClientAddress::Connection,
        ..options(allowance(1, 1), None)
    })
    .await;
    for _ in 0..5 {
        // It comes from this machine, which is not limited.
        assert_eq!(ask(&server, "192.0.2.1", "", "/api/games").await.status, 200);
    }
}

#[tokio::test]
async fn a_principal_is_limited_from_wherever_it_comes() {
    let server = Server::start_with(options(None, allowance(4, 9))).await;
    for n in 0..4 {
        assert_eq!(ask(&server, &format!("192.0.2.{n}"), "ann", "/api/games").await.status, 200);
    }
    let refused = ask(&server, "192.0.2.77", "ann", "/api/games").await;
    assert_eq!((refused.status, refused.problem().as_str()), (429, "too-many"));
    assert_eq!(refused.json()["detail"], "more than 1 requests per second of this principal");
    assert_eq!(ask(&server, "192.0.2.77", "bob", "/api/games").await.status, 200);
}

#[tokio::test]
async fn who_can_not_say_who_it_is_is_limited_by_its_address() {
    let server = Server::start_with(HttpOptions {
        authorizer: Some(Arc::new(Believer)),
        ..options(allowance(3, 9), None)
    })
    .await;
    let guess =
        async || server.request("GET", "/api/games", &[("X-Forwarded-For", "192.0.2.1")], b"").await.status;
    assert_eq!((guess().await, guess().await, guess().await, guess().await), (401, 401, 401, 429));
}

#[tokio::test]
async fn connections_of_an_address_are_counted_while_they_are_open() {
    let server = Server::start_with(options(allowance(99, 2), None)).await;
    let from = "192.0.2.1";
    let mut first = socket(&server, from).await.unwrap();
    let _stream = server.stream("/events", &[("X-Forwarded-For", from)]).await;
    assert_eq!(socket(&server, from).await.err(), Some(429));
    for path in ["/events", "/api/events?wait=20"] {
        let refused = ask(&server, from, "", path).await;
        assert_eq!((refused.status, refused.problem().as_str()), (429, "too-many"), "{path}");
        assert_eq!(refused.json()["detail"], "all 2 connections of this address are taken");
    }
    assert_eq!(ask(&server, from, "", "/api/events").await.status, 200, "what does not stay takes no place");
    socket(&server, "192.0.2.2").await.unwrap();
    first.stream.close(None).await.unwrap();
    first.until_closed().await;
    let again = async {
        while socket(&server, from).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::DEADLINE, again).await.expect("its place is free again");
}

#[tokio::test]
async fn one_socket_too_many_of_a_principal_is_closed_with_4429() {
    let server = Server::start_with(options(None, allowance(99, 2))).await;
    let mut open = Vec::new();
    for n in 0..2 {
        let mut socket = socket(&server, &format!("192.0.2.{n}")).await.unwrap();
        socket.send(&hello("ann")).await;
        assert_eq!(socket.next().await["type"], "welcome");
        open.push(socket);
    }
    let mut third = socket(&server, "192.0.2.9").await.unwrap();
    third.send(&hello("ann")).await;
    let (messages, code) = third.until_closed().await;
    assert_eq!((code, messages.len()), (Some(4429), 1));
    assert_eq!(messages[0]["problem"]["detail"], "all 2 connections of this principal are taken");
    assert_eq!(ask(&server, "192.0.2.9", "ann", "/events").await.status, 429, "a stream is one too");
    let mut other = socket(&server, "192.0.2.9").await.unwrap();
    other.send(&hello("bob")).await;
    assert_eq!(other.next().await["type"], "welcome");
}

/// A queue that was written offline may be long: it is taken, only more slowly, and none of it is lost.
#[tokio::test]
async fn a_socket_that_sends_too_much_is_read_more_slowly() {
    let per_second = NonZeroU32::new(50).unwrap();
    let few = Allowance { burst: NonZeroU32::new(10).unwrap(), ..Allowance::new(per_second, 9) };
    let server = Server::start_with(options(None, Some(few))).await;
    let bearer = [("Authorization", "Bearer admin"), ("Content-Type", "application/json")];
    assert_eq!(server.request("PUT", "/api/games/go", &bearer, b"{\"name\": \"Go\"}").await.status, 201);
    let mut socket = socket(&server, "192.0.2.1").await.unwrap();
    let started = tokio::time::Instant::from_std(std_now());
    socket.send(&hello("ann")).await;
    for seq in 1..=40 {
        socket
            .send(&json!({"type": "push", "documentId": "go", "clientSeq": seq, "op": "merge", "patch": {"n": seq}}))
            .await;
    }
    for seq in 1..=40 {
        assert_eq!(socket.next_of("pushed").await["clientSeq"], seq);
    }
    // Ten at once; behind each of the others but the last 20 ms in which nothing is read.
    let least = std::time::Duration::from_millis(29 * 20);
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
}

#[expect(clippy::disallowed_methods, reason = "the test looks at how long the server took")]
fn std_now() -> std::time::Instant {
    std::time::Instant::now()
}

#[tokio::test]
async fn a_socket_that_would_wait_for_too_long_is_closed_with_4429() {
    let server = Server::start_with(options(None, allowance(1, 20))).await;
    // Several sockets share what their principal has, so they owe more together than one would.
    let mut sockets = Vec::new();
    for _ in 0..14 {
        let mut socket = socket(&server, "192.0.2.1").await.unwrap();
        socket.send(&hello("ann")).await;
        assert_eq!(socket.next().await["type"], "welcome");
        sockets.push(socket);
    }
    for socket in &mut sockets {
        for id in 0..2 {
            socket.send(&json!({"type": "ping", "id": id})).await;
        }
    }
    let mut closed = Vec::new();
    for mut socket in sockets {
        closed.push(tokio::spawn(async move { socket.until_closed().await }));
    }
    let (first, _, others) = futures_util::future::select_all(closed).await;
    let (messages, code) = first.unwrap();
    assert_eq!(code, Some(4429));
    let problem = &messages.last().unwrap()["problem"];
    assert_eq!(problem["type"], "urn:weft:problem:too-many");
    assert!(problem["retryAfterMs"].as_u64().is_some_and(|ms| ms > 10_000), "{problem}");
    others.iter().for_each(tokio::task::JoinHandle::abort);
}
