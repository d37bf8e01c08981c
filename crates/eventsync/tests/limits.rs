//! What one address and one principal may cost.

mod support;

use std::{num::NonZeroU32, sync::Arc};

use async_trait::async_trait;
use eventsync::{
    access::{Authorizer, Grant, NotAuthenticated, Principal},
    http::{Allowance, ClientAddress, HttpOptions},
    service::RefusedBy,
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

/// Asks until it is refused: what the refusal says, and how many were answered before. How many exactly is for the
/// limiter's own tests, as the clock goes on here.
async fn until_refused(server: &Server, address: &str, token: &str) -> (Reply, usize) {
    for taken in 0..100 {
        let reply = ask(server, address, token, "/api/games").await;
        if reply.status == 429 {
            return (reply, taken);
        }
        assert!([200, 401].contains(&reply.status), "{}", reply.status);
    }
    panic!("{address} may ask for ever");
}

/// Whether a request is refused when another address has used up what it has. Fewer tries than are allowed at once, so
/// that it does not use up an allowance of its own.
async fn is_refused_with(server: &Server, other: &str, address: &str, path: &str) -> bool {
    for _ in 0..3 {
        until_refused(server, other, "").await;
        // An answer may be a stream without an end.
        let asked = tokio::time::timeout(std::time::Duration::from_secs(2), ask(server, address, "", path));
        if asked.await.is_ok_and(|reply| reply.status == 429) {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_back() {
    let server = Server::start_with(options(allowance(5, 9), None)).await;
    let status = async |address: &str, path: &str| ask(&server, address, "", path).await.status;
    let (refused, taken) = until_refused(&server, "192.0.2.1", "").await;
    assert!(taken >= 5, "{taken}");
    assert_eq!((refused.problem().as_str(), refused.header("retry-after")), ("too-many", Some("1")));
    let problem = refused.json();
    assert_eq!((&problem["limit"], &problem["unit"]), (&json!(1), &json!("requests per second")));
    assert!(problem["retryAfterMs"].as_u64().is_some_and(|ms| (1..=1000).contains(&ms)), "{problem}");
    // Whatever it asks for, but not whether the server lives; and others have their own.
    for path in ["/openapi.json", "/api/games/x", "/events", "/sync", "/api/events?wait=20"] {
        assert!(is_refused_with(&server, "192.0.2.1", "192.0.2.1", path).await, "{path}");
    }
    assert_eq!((status("192.0.2.1", "/livez").await, status("192.0.2.1", "/readyz").await), (200, 200));
    assert!(until_refused(&server, "192.0.2.2", "").await.1 >= 5);
    // One network of IPv6 is one address.
    assert!(is_refused_with(&server, "2001:db8::1", "2001:db8::ffff:2", "/api/games").await);
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
    let (refused, _) = until_refused(&server, "192.0.2.77", "ann").await;
    assert_eq!(refused.problem(), "too-many");
    let refusals = server.service.refusals();
    assert_eq!(refusals.of(RefusedBy::PrincipalRequests), 1);
    assert_eq!(refusals.of(RefusedBy::AddressRequests), 0);
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
    assert_eq!(ask(&server, "192.0.2.1", "", "/api/games").await.status, 401);
    assert!(until_refused(&server, "192.0.2.1", "").await.1 >= 2);
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
    assert_eq!(server.service.refusals().of(RefusedBy::AddressConnections), 3);
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
    assert_eq!(server.service.refusals().of(RefusedBy::PrincipalConnections), 2);
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
    // With the hello they are 41, half a burst of them at once; behind each of the others but the last 20 ms in which
    // nothing is read.
    let least = std::time::Duration::from_millis(35 * 20);
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
}

#[expect(clippy::disallowed_methods, reason = "the test looks at how long the server took")]
fn std_now() -> std::time::Instant {
    std::time::Instant::now()
}

#[tokio::test]
async fn a_socket_that_would_wait_for_too_long_is_closed_with_4429() {
    let server = Server::start_with(options(None, allowance(20, 20))).await;
    // Several sockets share what their principal has, so they owe more together than one would.
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let mut socket = socket(&server, "192.0.2.1").await.unwrap();
        socket.send(&hello("ann")).await;
        assert_eq!(socket.next().await["type"], "welcome");
        sockets.push(socket);
    }
    for socket in &mut sockets {
        for id in 0..4 {
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
    assert!(problem["retryAfterMs"].as_u64().is_some_and(|ms| ms > 4_000), "{problem}");
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Else the allowance of a name would be passed by with a new socket for each message.
#[tokio::test]
async fn each_hello_is_paid_for_by_its_principal() {
    let server = Server::start_with(options(None, allowance(4, 99))).await;
    for n in 0..100 {
        let mut socket = socket(&server, &format!("192.0.2.{n}")).await.unwrap();
        socket.send(&hello("ann")).await;
        let answer = socket.next().await;
        if answer["type"] == "error" {
            assert_eq!(answer["problem"]["detail"], "more than 1 requests per second of this principal");
            assert!(n >= 4, "{n}");
            assert_eq!(ask(&server, "192.0.2.200", "bob", "/api/games").await.status, 200);
            return;
        }
        assert_eq!(answer["type"], "welcome");
    }
    panic!("a name may open sockets for ever");
}

#[tokio::test]
async fn pings_of_the_websocket_are_counted_too() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let server = Server::start_with(options(allowance(40, 9), None)).await;
    let mut socket = socket(&server, "192.0.2.1").await.unwrap();
    // As many as are read without a pause.
    for _ in 0..19 {
        socket.stream.send(Message::Ping(Default::default())).await.unwrap();
    }
    for _ in 0..19 {
        let answer = tokio::time::timeout(support::DEADLINE, socket.stream.next()).await.expect("in time");
        assert!(matches!(answer, Some(Ok(Message::Pong(_)))), "{answer:?}");
    }
    let (_, left) = until_refused(&server, "192.0.2.1", "").await;
    assert!((15..30).contains(&left), "{left} of 40");
}
