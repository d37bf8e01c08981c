//! A node and libzmq, in both roles: every command of the founding protocol and the announced ones, with and without
//! the delimiter frame, under NULL, PLAIN and CURVE.

#[path = "interop/python.rs"]
mod python;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use python::{Frames, PATIENCE, Python, hex};
use serde_json::{Value, json};
use spot::cluster::{Arrival, Credentials, CurveKeys, CurvePublic, Security, Spot, SpotOptions, TopicOrigin};

fn frames(code: u8, rest: &[&[u8]]) -> Frames {
    [vec![code]].into_iter().chain(rest.iter().map(|frame| frame.to_vec())).collect()
}

/// A pyzmq socket and what is around its messages: the routing id of a ROUTER, the delimiter.
struct Peer {
    python: Python,
    routing_id: Option<Vec<u8>>,
    delimiter: bool,
    /// The topics that it owns: the node may ask for them at any time.
    topics: Vec<&'static str>,
}

const SOCKET: &str = "peer";

impl Peer {
    fn send(&mut self, code: u8, rest: &[&[u8]]) {
        let mut message: Frames = self.routing_id.iter().cloned().collect();
        if self.delimiter {
            message.push(Vec::new());
        }
        message.extend(frames(code, rest));
        self.python.send(SOCKET, &message);
    }

    /// The next command that is no QUERY; those are answered. The delimiter must be there exactly if we use it, but in
    /// the node's first word, when it can't know yet.
    fn receive(&mut self) -> Frames {
        loop {
            let mut message = self.python.receive(SOCKET);
            if let Some(routing_id) = &self.routing_id {
                assert_eq!(&message.remove(0), routing_id);
            }
            if message != frames(4, &[]) {
                if self.delimiter {
                    assert_eq!(message.remove(0), b"", "the delimiter");
                }
                if message != frames(4, &[]) {
                    return message;
                }
            }
            self.tell_topics();
        }
    }

    fn tell_topics(&mut self) {
        let count = (self.topics.len() as u32).to_le_bytes();
        let topics: Vec<_> = self.topics.iter().map(|topic| topic.as_bytes()).collect();
        self.send(5, &[&[&count[..]], &topics[..]].concat());
    }

    fn expect(&mut self, code: u8, rest: &[&[u8]]) {
        assert_eq!(self.receive(), frames(code, rest));
    }

    /// Asks for the topics. What was sent before is done when the answer comes.
    fn query(&mut self) -> Vec<String> {
        self.send(4, &[]);
        let answer = self.receive();
        assert_eq!(answer[0], [5], "{answer:?}");
        let count = u32::from_le_bytes(answer[1].as_slice().try_into().unwrap());
        assert_eq!(count as usize, answer.len() - 2);
        let mut topics: Vec<_> =
            answer[2..].iter().map(|topic| String::from_utf8(topic.clone()).unwrap()).collect();
        topics.sort();
        topics
    }
}

fn options() -> SpotOptions {
    let mut options = SpotOptions::standard();
    options.node.reconnect_min = Duration::from_millis(20);
    options.node.reconnect_max = Duration::from_millis(200);
    options.connect_timeout = PATIENCE;
    options
}

async fn message(spot: &Spot) -> (String, Bytes) {
    match spot.recv_timeout(PATIENCE).await.expect("a message in time") {
        Arrival::Message { topic, payload } => (topic.to_string(), payload),
        other => panic!("a message was expected, not {other:?}"),
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Who shows what to whom: the node's side and libzmq's.
struct Mechanism {
    node: Security,
    libzmq: Value,
}

/// The node lets libzmq in.
fn node_as_server(python: &mut Python) -> Vec<Mechanism> {
    let [public, secret] = keys(python);
    let known = CurvePublic::from_z85(&public).unwrap();
    let check = Arc::new(move |credentials: Credentials<'_>| match credentials {
        Credentials::Plain { username: "ann", password: "secret" } => Ok("ann".to_owned()),
        Credentials::Curve(key) if key == known => Ok("ann".to_owned()),
        _ => Err("unknown".to_owned()),
    });
    let server = CurveKeys::from_secret([1; 32]);
    let curve = json!({
        "CURVE_SERVERKEY": server.public.to_z85(), "CURVE_PUBLICKEY": public, "CURVE_SECRETKEY": secret,
    });
    vec![
        Mechanism { node: Security::Null, libzmq: json!({}) },
        Mechanism {
            node: Security::PlainServer(check.clone()),
            libzmq: json!({"PLAIN_USERNAME": "ann", "PLAIN_PASSWORD": "secret"}),
        },
        Mechanism { node: Security::CurveServer { keys: server, authenticate: check }, libzmq: curve },
    ]
}

/// libzmq lets the node in.
fn node_as_client(python: &mut Python) -> Vec<Mechanism> {
    python.call("authenticate", json!({"users": {"ann": "secret"}}));
    let [public, secret] = keys(python);
    let server = CurvePublic::from_z85(&public).unwrap();
    vec![
        Mechanism { node: Security::Null, libzmq: json!({}) },
        Mechanism {
            node: Security::PlainClient { username: "ann".into(), password: "secret".into() },
            libzmq: json!({"PLAIN_SERVER": 1}),
        },
        Mechanism {
            node: Security::CurveClient { keys: CurveKeys::from_secret([2; 32]), server },
            libzmq: json!({"CURVE_SERVER": 1, "CURVE_PUBLICKEY": public, "CURVE_SECRETKEY": secret}),
        },
    ]
}

fn keys(python: &mut Python) -> [String; 2] {
    let keys = python.call("keys", json!({}));
    [0, 1].map(|which| keys[which].as_str().unwrap().to_owned())
}

async fn dealer(mechanism: &Mechanism, delimiter: bool, mut python: Python) -> (Spot, Peer) {
    let node = Spot::new(SpotOptions { server: mechanism.node.clone(), ..options() });
    let endpoint = node.bind("tcp://127.0.0.1:0").await.unwrap();
    python.open(SOCKET, "DEALER", ("connect", &endpoint), &mechanism.libzmq);
    (node, Peer { python, routing_id: None, delimiter, topics: Vec::new() })
}

/// Runs a test for all mechanisms, with and without the delimiter.
async fn for_each_mechanism<F: Future<Output = ()>>(
    mechanisms: impl Fn(&mut Python) -> Vec<Mechanism>,
    test: impl Fn(Mechanism, bool, Python) -> F,
) {
    for which in 0..3 {
        for delimiter in [false, true] {
            let mut python = Python::start();
            let mechanism = mechanisms(&mut python).swap_remove(which);
            println!("{}, delimiter: {delimiter}", mechanism.node.mechanism());
            test(mechanism, delimiter, python).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pyzmq"]
async fn a_libzmq_dealer_uses_every_founding_command() {
    for_each_mechanism(node_as_server, async |mechanism, delimiter, python| {
        let (node, mut peer) = dealer(&mechanism, delimiter, python).await;
        node.topic_create("game:score").unwrap();
        node.topic_create("game:player1").unwrap();
        assert_eq!(peer.query(), ["game:player1", "game:score"]);

        // The node publishes, the peer is subscribed; protocol 1 brings it as PUBLISH.
        peer.send(2, &[b"game:score"]);
        peer.query();
        node.publish("game:score", "3:2").await.unwrap();
        node.publish("game:player1", "not for you").await.unwrap();
        peer.expect(1, &[b"game:score", b"3:2"]);
        for len in [0, 1, 255, 256, 70_000] {
            let payload = vec![7; len];
            node.publish("game:score", payload.clone()).await.unwrap();
            peer.expect(1, &[b"game:score", &payload]);
        }

        // The peer publishes.
        node.subscribe("game:player1").unwrap();
        for number in 0..100u8 {
            peer.send(1, &[b"game:player1", &[number; 300]]);
        }
        for number in 0..100u8 {
            assert_eq!(message(&node).await, ("game:player1".into(), vec![number; 300].into()));
        }

        peer.send(3, &[b"game:score"]);
        peer.query();
        node.publish("game:score", "nobody hears").await.unwrap();
        // Had it been sent, it would come before the answer.
        assert_eq!(peer.query().len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pyzmq"]
async fn a_libzmq_router_serves_a_node() {
    for_each_mechanism(node_as_client, async |mechanism, delimiter, mut python| {
        let endpoint = python.open(SOCKET, "ROUTER", ("bind", "tcp://127.0.0.1:*"), &mechanism.libzmq);
        let node = Spot::new(SpotOptions { client: mechanism.node.clone(), ..options() });
        node.topic_create("ours").unwrap();
        let adding = tokio::spawn({
            let node = node.clone();
            async move { node.cluster_add(&endpoint).await }
        });
        // The node can't know yet what form the peer uses, so it begins without a delimiter.
        let mut first = python.receive(SOCKET);
        let routing_id = Some(first.remove(0));
        assert_eq!(first, frames(4, &[]));
        let mut peer = Peer { python, routing_id, delimiter, topics: vec!["chat:room1", "chat:lobby"] };
        peer.tell_topics();
        adding.await.unwrap().unwrap();
        let topics: Vec<_> =
            node.list_topics().into_iter().map(|info| (info.topic.to_string(), info.origin)).collect();
        let expected = [("chat:lobby", false), ("chat:room1", false), ("ours", true)];
        let expected = expected.map(|(topic, local)| {
            (topic.to_owned(), if local { TopicOrigin::Local } else { TopicOrigin::Remote })
        });
        assert_eq!(topics, expected);
        assert_eq!(peer.query(), ["ours"]);

        node.subscribe("chat:room1").unwrap();
        peer.expect(2, &[b"chat:room1"]);
        for number in 0..100 {
            peer.send(1, &[b"chat:room1", format!("hello {number}").as_bytes()]);
        }
        for number in 0..100 {
            assert_eq!(message(&node).await, ("chat:room1".into(), format!("hello {number}").into()));
        }

        node.publish("chat:lobby", "anybody?").await.unwrap();
        peer.expect(1, &[b"chat:lobby", b"anybody?"]);
        node.unsubscribe("chat:room1").unwrap();
        peer.expect(3, &[b"chat:room1"]);

        // The next sync tells that a topic is gone.
        let syncing = tokio::spawn({
            let node = node.clone();
            async move { node.cluster_sync(PATIENCE).await }
        });
        // Answers what came until then, the QUERY too.
        peer.topics = vec!["chat:lobby"];
        while !syncing.is_finished() {
            peer.query();
        }
        assert_eq!(syncing.await.unwrap().unwrap().answered.len(), 1);
        assert!(!node.topic_exists("chat:room1"));
        assert!(node.topic_exists("chat:lobby"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pyzmq"]
async fn a_libzmq_owner_announces_and_removes_topics() {
    for_each_mechanism(node_as_server, async |mechanism, delimiter, python| {
        let (node, mut peer) = dealer(&mechanism, delimiter, python).await;
        peer.topics = vec!["news"];
        peer.send(6, &[b"news", &7u64.to_le_bytes()]);
        until("the topic is known", || node.topic_exists("news")).await;
        assert!(!node.topic_is_local("news"));
        node.subscribe("news").unwrap();
        peer.expect(2, &[b"news"]);
        peer.send(8, &[b"news", b"first"]);
        assert_eq!(message(&node).await, ("news".into(), "first".into()));

        // Who announces is told of announcements, and gets messages as MESSAGE.
        node.topic_create("ours").unwrap();
        let announced = peer.receive();
        assert_eq!((&announced[0][..], &announced[1][..], announced[2].len()), (&[6][..], &b"ours"[..], 8));
        peer.send(2, &[b"ours"]);
        peer.query();
        node.publish("ours", "to all").await.unwrap();
        peer.expect(8, &[b"ours", b"to all"]);
        node.topic_destroy("ours").unwrap();
        let removed = peer.receive();
        assert_eq!((&removed[0][..], &removed[1..]), (&[7][..], &announced[1..]));

        peer.topics.clear();
        peer.send(7, &[b"news", &7u64.to_le_bytes()]);
        until("the topic is gone", || !node.topic_exists("news")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pyzmq"]
async fn nonsense_of_a_libzmq_peer_is_refused_counted_and_survived() {
    let (node, mut peer) =
        dealer(&Mechanism { node: Security::Null, libzmq: json!({}) }, false, Python::start()).await;
    node.topic_create("t").unwrap();
    let long = vec![b'x'; 256];
    let nonsense: [(u8, &[&[u8]]); 12] = [
        (0, &[]),
        (0x7f, &[b"t"]),
        (1, &[b"t"]),
        (1, &[b"t", b"data", b"more"]),
        (2, &[]),
        (2, &[&long]),
        (2, &[b"\xff\xfe"]),
        (2, &[b""]),
        (3, &[b"t", b"t"]),
        (4, &[b"t"]),
        (6, &[b"t", b"short"]),
        (5, &[&9u32.to_le_bytes(), b"t"]),
    ];
    for (refused, (code, rest)) in nonsense.into_iter().enumerate() {
        peer.send(code, rest);
        assert_eq!(peer.query(), ["t"], "after {code:#04x} {rest:?}");
        assert_eq!(node.counters().refused, refused as u64 + 1, "after {code:#04x} {rest:?}");
    }
    peer.python.send(SOCKET, &[vec![1, 2], b"t".to_vec()]);
    assert_eq!(peer.query(), ["t"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pyzmq"]
async fn a_libzmq_owner_that_restarts_is_subscribed_to_again() {
    let mut python = Python::start();
    let endpoint = python.open(SOCKET, "ROUTER", ("bind", "tcp://127.0.0.1:*"), &json!({}));
    let node = Spot::new(options());
    let adding = tokio::spawn({
        let (node, endpoint) = (node.clone(), endpoint.clone());
        async move { node.cluster_add(&endpoint).await }
    });
    let mut peer = Peer { python, routing_id: None, delimiter: false, topics: vec!["t"] };
    for round in 0..3 {
        let mut query = peer.python.receive(SOCKET);
        peer.routing_id = Some(query.remove(0));
        assert_eq!(query, frames(4, &[]));
        peer.tell_topics();
        if round == 0 {
            until("the topic is known", || node.topic_exists("t")).await;
            node.subscribe("t").unwrap();
        }
        peer.expect(2, &[b"t"]);
        peer.send(1, &[b"t", b"hello"]);
        loop {
            match node.recv_timeout(PATIENCE).await.unwrap() {
                Arrival::Message { payload, .. } => break assert_eq!(payload, "hello"),
                Arrival::Gap { .. } => assert!(round > 0),
                other => panic!("{other:?}"),
            }
        }
        peer.python.call("close", json!({"name": SOCKET}));
        peer.python.open(SOCKET, "ROUTER", ("bind", &endpoint), &json!({}));
    }
    adding.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pyzmq"]
async fn libzmq_peers_without_the_right_to_are_kept_out() {
    let mut python = Python::start();
    let servers = node_as_server(&mut python).into_iter().skip(1);
    let wrong = [json!({"PLAIN_USERNAME": "ann", "PLAIN_PASSWORD": "wrong"}), {
        let [public, secret] = keys(&mut python);
        let server = CurveKeys::from_secret([1; 32]).public.to_z85();
        json!({"CURVE_SERVERKEY": server, "CURVE_PUBLICKEY": public, "CURVE_SECRETKEY": secret})
    }];
    for (server, wrong) in servers.zip(wrong) {
        let mechanism = server.node.mechanism();
        let node = Spot::new(SpotOptions { server: server.node, ..options() });
        node.topic_create("t").unwrap();
        let endpoint = node.bind("tcp://127.0.0.1:0").await.unwrap();
        for (name, options) in [("wrong", &wrong), ("none", &json!({}))] {
            python.open(name, "DEALER", ("connect", &endpoint), options);
            // Not `send`: libzmq lets go of a peer as soon as that has refused it, and waits for another one.
            let ask: Vec<_> = frames(4, &[]).iter().map(|frame| hex(frame)).collect();
            python.call("offer", json!({"name": name, "frames": ask}));
        }
        // The one that may is answered, although the others were first and go on trying.
        python.open("right", "DEALER", ("connect", &endpoint), &server.libzmq);
        python.send("right", &frames(4, &[]));
        let mut answer = python.receive("right");
        if answer == frames(4, &[]) {
            answer = python.receive("right"); // The node asks, too.
        }
        assert_eq!(answer, frames(5, &[&1u32.to_le_bytes(), b"t"]), "{mechanism}");
        for name in ["wrong", "none"] {
            let answer = python.call("receive", json!({"name": name, "timeout_ms": 300}));
            assert!(answer.is_null(), "{mechanism}: {answer}");
        }
        for name in ["wrong", "none", "right"] {
            python.call("close", json!({"name": name}));
        }
    }
}

/// The other way around: the node dials, and the owner behind the ROUTER announces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pyzmq"]
async fn a_libzmq_router_announces_and_removes_topics() {
    for_each_mechanism(node_as_client, async |mechanism, delimiter, mut python| {
        let endpoint = python.open(SOCKET, "ROUTER", ("bind", "tcp://127.0.0.1:*"), &mechanism.libzmq);
        let node = Spot::new(SpotOptions { client: mechanism.node.clone(), ..options() });
        let adding = tokio::spawn({
            let node = node.clone();
            async move { node.cluster_add(&endpoint).await }
        });
        let mut first = python.receive(SOCKET);
        let routing_id = Some(first.remove(0));
        assert_eq!(first, frames(4, &[]));
        let mut peer = Peer { python, routing_id, delimiter, topics: Vec::new() };
        peer.tell_topics();
        adding.await.unwrap().unwrap();
        assert!(!node.topic_exists("news"));

        peer.topics = vec!["news"];
        peer.send(6, &[b"news", &7u64.to_le_bytes()]);
        until("the topic is known", || node.topic_exists("news")).await;
        node.subscribe("news").unwrap();
        peer.expect(2, &[b"news"]);
        peer.send(8, &[b"news", b"first"]);
        assert_eq!(message(&node).await, ("news".into(), "first".into()));

        node.topic_create("ours").unwrap();
        let announced = peer.receive();
        assert_eq!((&announced[0][..], &announced[1][..], announced[2].len()), (&[6][..], &b"ours"[..], 8));
        peer.send(2, &[b"ours"]);
        peer.query();
        node.publish("ours", "to all").await.unwrap();
        peer.expect(8, &[b"ours", b"to all"]);
        node.topic_destroy("ours").unwrap();
        let removed = peer.receive();
        assert_eq!((&removed[0][..], &removed[1..]), (&[7][..], &announced[1..]));

        peer.topics.clear();
        peer.send(7, &[b"news", &7u64.to_le_bytes()]);
        until("the topic is gone", || !node.topic_exists("news")).await;
    })
    .await;
}
