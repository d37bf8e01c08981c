//! Nodes with real sockets, as an application uses them.

use std::time::Duration;

use bytes::Bytes;
use spot::{
    SubscriptionOptions,
    cluster::{
        Arrival, Credentials, CurveKeys, Policy, Security, Spot, SpotError, SpotOptions, TopicOptions,
    },
};

const PATIENCE: Duration = Duration::from_secs(10);

fn options() -> SpotOptions {
    let mut options = SpotOptions::standard();
    options.node.reconnect_min = Duration::from_millis(20);
    options.node.reconnect_max = Duration::from_millis(200);
    options
}

async fn node() -> (Spot, String) {
    let spot = Spot::new(options());
    let endpoint = spot.bind("tcp://127.0.0.1:0").await.unwrap();
    (spot, endpoint)
}

async fn message(spot: &Spot) -> (String, Bytes) {
    match spot.recv_timeout(PATIENCE).await.unwrap() {
        Arrival::Message { topic, payload } => (topic.to_string(), payload),
        other => panic!("a message was expected, not {other:?}"),
    }
}

fn names(spot: &Spot) -> Vec<String> {
    spot.list_topics().iter().map(|info| format!("{} {:?}", info.topic, info.origin)).collect()
}

/// The two-node set-up of document 004.
async fn two_nodes_share_topics(a: Spot, at_a: String, b: Spot, at_b: String) {
    for topic in ["game:player1", "game:score"] {
        a.topic_create(topic).unwrap();
    }
    for topic in ["chat:room1", "chat:lobby"] {
        b.topic_create(topic).unwrap();
    }
    a.cluster_add(&at_b).await.unwrap();
    b.cluster_add(&at_a).await.unwrap();
    let report = a.cluster_sync(PATIENCE).await.unwrap();
    assert_eq!(report.timed_out, Vec::<String>::new());
    assert_eq!(
        names(&a),
        ["chat:lobby Remote", "chat:room1 Remote", "game:player1 Local", "game:score Local"]
    );
    assert_eq!(
        names(&b),
        ["chat:lobby Local", "chat:room1 Local", "game:player1 Remote", "game:score Remote"]
    );

    a.subscribe("chat:room1").unwrap();
    a.wait_live("chat:room1", PATIENCE).await.unwrap();
    let report = b.publish("chat:room1", "from the owner").await.unwrap();
    assert_eq!((report.queued, report.delivered), (1, 0));
    assert_eq!(message(&a).await, ("chat:room1".into(), "from the owner".into()));

    // A remote publish goes to the owner, who fans out; it comes to us once.
    a.publish("chat:room1", "from afar").await.unwrap();
    assert_eq!(message(&a).await, ("chat:room1".into(), "from afar".into()));
    b.publish("chat:room1", "the last").await.unwrap();
    assert_eq!(message(&a).await, ("chat:room1".into(), "the last".into()));
    assert_eq!(a.try_recv(), None);
    assert_eq!((a.counters().refused, b.counters().refused), (0, 0));
}

#[tokio::test]
async fn two_nodes_share_topics_over_tcp() {
    let ((a, at_a), (b, at_b)) = (node().await, node().await);
    two_nodes_share_topics(a, at_a, b, at_b).await;
}

#[tokio::test]
async fn two_nodes_share_topics_over_ipc_and_inproc() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Spot::new(options()), Spot::new(options()));
    let at_a = a.bind(&format!("ipc://{}/a", folder.path().display())).await.unwrap();
    let at_b = b.bind("inproc://b").await.unwrap();
    two_nodes_share_topics(a, at_a, b, at_b).await;
}

#[tokio::test]
async fn founding_protocol_alone_is_enough() {
    let founding = || Spot::new(SpotOptions { founding_only: true, ..options() });
    let (a, b) = (founding(), founding());
    let (at_a, at_b) =
        (a.bind("tcp://127.0.0.1:0").await.unwrap(), b.bind("tcp://127.0.0.1:0").await.unwrap());
    two_nodes_share_topics(a, at_a, b, at_b).await;
}

#[tokio::test]
async fn lossless_topic_brings_every_message_in_order() {
    let ((a, _), (b, at_b)) = (node().await, node().await);
    b.topic_create("t").unwrap();
    a.cluster_add(&at_b).await.unwrap();
    let bounds = SubscriptionOptions { messages_max: 64, bytes_max: 64 << 10 };
    let mut listening = a.listen(["t"], bounds).unwrap();
    listening.wait_live("t", PATIENCE).await.unwrap();
    const N: u32 = 20_000;
    let publisher = tokio::spawn(async move {
        for i in 0..N {
            // Some are large enough to travel by reference.
            let len = if i % 97 == 0 { 5000 } else { 4 };
            let mut payload = i.to_le_bytes().to_vec();
            payload.resize(len, 7);
            b.publish("t", payload).await.unwrap();
        }
        b
    });
    for i in 0..N {
        match tokio::time::timeout(PATIENCE, listening.recv()).await.unwrap().unwrap() {
            Arrival::Message { payload, .. } => assert_eq!(payload[..4], i.to_le_bytes()),
            other => panic!("message {i} was expected, not {other:?}"),
        }
    }
    let b = publisher.await.unwrap();
    assert_eq!(b.counters().dropped, 0);
    assert_eq!(a.counters().dropped, 0);
}

/// The window of a lossless topic is in bytes too: what a subscriber has no room for is not sent, whatever its size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_wait_for_a_slow_reader_of_a_lossless_topic() {
    let ((a, _), (b, at_b)) = (node().await, node().await);
    let forever = Policy::Block { timeout: Duration::from_secs(3600) };
    b.topic_create_with("t", TopicOptions { policy: forever, replay: 0 }).unwrap();
    a.cluster_add(&at_b).await.unwrap();
    let bounds = SubscriptionOptions { messages_max: 1 << 16, bytes_max: 256 << 10 };
    let mut listening = a.listen(["t"], bounds).unwrap();
    listening.wait_live("t", PATIENCE).await.unwrap();
    // Below and above what travels by reference, one read, the whole window.
    let lens = [16 << 10, 64, 5000, 100_000, 16 << 10, 300_000, 1, 4096, 16 << 10, 255];
    let payload = |i: u32| {
        let mut bytes = vec![0; lens[i as usize % lens.len()].max(4)];
        bytes[..4].copy_from_slice(&i.to_le_bytes());
        bytes
    };
    let (mut published, mut received) = (0_u32, 0);
    for _ in 0..5 {
        // The reader does not read until the publisher is stopped.
        let full = async {
            loop {
                match b.try_publish("t", payload(published)) {
                    Ok(_) => published += 1,
                    Err(SpotError::WouldBlock) => break,
                    Err(other) => panic!("{other}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, full).await.expect("the publisher was never told to wait");
        // A part only, so that the next round begins in the middle of a window.
        while received + 50 < published {
            match tokio::time::timeout(PATIENCE, listening.recv()).await.expect("a message in time").unwrap()
            {
                Arrival::Message { payload: came, .. } => {
                    assert!(came == payload(received), "message {received}");
                }
                other => panic!("message {received} was expected, not {other:?}"),
            }
            received += 1;
        }
    }
    assert!(received > 1000, "{received}");
    assert_eq!((a.counters().dropped, b.counters().dropped), (0, 0));
}

#[tokio::test]
async fn a_restarted_owner_is_subscribed_again_and_the_gap_is_told() {
    let (a, _) = node().await;
    let (b, at_b) = node().await;
    b.topic_create("t").unwrap();
    a.cluster_add(&at_b).await.unwrap();
    a.subscribe("t").unwrap();
    a.wait_live("t", PATIENCE).await.unwrap();
    b.publish("t", "1").await.unwrap();
    assert_eq!(message(&a).await.1, "1");
    b.close();
    drop(b);
    let again = Spot::new(options());
    // The port is free as soon as the old listener is gone.
    while again.bind(&at_b).await.is_err() {
        tokio::task::yield_now().await;
    }
    again.topic_create("t").unwrap();
    assert!(matches!(a.recv_timeout(PATIENCE).await.unwrap(), Arrival::Gap { first: 2, last: None, .. }));
    a.wait_live("t", PATIENCE).await.unwrap();
    again.publish("t", "2").await.unwrap();
    assert_eq!(message(&a).await.1, "2");
}

#[tokio::test]
async fn errors_are_those_of_the_founding_document() {
    let (a, at_a) = node().await;
    assert!(matches!(a.bind("tcp://127.0.0.1:0").await, Err(SpotError::AlreadyBound(_))));
    assert!(matches!(a.subscribe("t"), Err(SpotError::Topic(_))));
    assert!(matches!(a.publish("t", "").await, Err(SpotError::Publish(_))));
    assert!(matches!(a.cluster_remove("tcp://127.0.0.1:1"), Err(SpotError::NotAdded(_))));
    a.topic_create("t").unwrap();
    assert!(matches!(a.topic_create("t"), Err(SpotError::Topic(_))));
    assert!(matches!(a.topic_destroy("u"), Err(SpotError::Topic(_))));
    a.topic_destroy("t").unwrap();
    let mut quick = options();
    quick.connect_timeout = Duration::from_millis(100);
    let b = Spot::new(quick);
    assert!(matches!(b.cluster_add("tcp://127.0.0.1:1").await, Err(SpotError::HostUnreachable { .. })));
    b.cluster_add(&at_a).await.unwrap();
    assert!(matches!(b.cluster_add(&at_a).await, Err(SpotError::AlreadyAdded(_))));
    assert!(matches!(b.bind("tcp://*:0").await, Err(SpotError::Unsafe(_))));
    // Known to be pending, because there is somebody who could own it.
    b.subscribe("later").unwrap();
    a.topic_create("later").unwrap();
    b.wait_live("later", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn patterns_follow_announcements() {
    let ((a, _), (b, at_b)) = (node().await, node().await);
    a.cluster_add(&at_b).await.unwrap();
    a.subscribe_pattern("game:*").unwrap();
    b.topic_create("chat").unwrap();
    b.topic_create("game:1").unwrap();
    a.cluster_sync(PATIENCE).await.unwrap();
    a.wait_live("game:*", PATIENCE).await.unwrap();
    b.publish("chat", "no").await.unwrap();
    b.publish("game:1", "yes").await.unwrap();
    assert_eq!(message(&a).await, ("game:1".into(), "yes".into()));
    b.topic_destroy("game:1").unwrap();
    a.cluster_sync(PATIENCE).await.unwrap();
    assert_eq!(names(&a), ["chat Remote"]);
}

#[tokio::test]
async fn late_joiners_get_the_last_messages() {
    let ((a, _), (b, at_b)) = (node().await, node().await);
    b.topic_create_with("t", TopicOptions { policy: Policy::DropOldest, replay: 2 }).unwrap();
    for payload in ["1", "2", "3"] {
        b.publish("t", payload).await.unwrap();
    }
    a.cluster_add(&at_b).await.unwrap();
    a.subscribe("t").unwrap();
    assert_eq!(message(&a).await.1, "2");
    assert_eq!(message(&a).await.1, "3");
}

#[tokio::test]
async fn one_seed_node_is_enough() {
    let (seed, at_seed) = node().await;
    let ((a, _), (b, _)) = (node().await, node().await);
    a.topic_create("a").unwrap();
    b.topic_create("b").unwrap();
    a.cluster_add(&at_seed).await.unwrap();
    b.cluster_add(&at_seed).await.unwrap();
    a.subscribe("b").unwrap();
    b.subscribe("a").unwrap();
    a.wait_live("b", PATIENCE).await.unwrap();
    b.wait_live("a", PATIENCE).await.unwrap();
    b.publish("b", "hello").await.unwrap();
    assert_eq!(message(&a).await.1, "hello");
    assert_eq!(seed.counters().received, 0);
}

#[tokio::test]
async fn plain_and_curve_let_in_only_whom_they_should() {
    let server_keys = CurveKeys::from_secret([1; 32]);
    let client_keys = CurveKeys::from_secret([2; 32]);
    let known = client_keys.public;
    let check = std::sync::Arc::new(move |credentials: Credentials<'_>| match credentials {
        Credentials::Plain { username: "ann", password: "secret" } => Ok("ann".to_owned()),
        Credentials::Curve(key) if key == known => Ok("ann".to_owned()),
        _ => Err("unknown".to_owned()),
    });
    let plain = |password: &str| Security::PlainClient { username: "ann".into(), password: password.into() };
    let curve = |keys: CurveKeys| Security::CurveClient { keys, server: server_keys.public };
    let servers = [
        (Security::PlainServer(check.clone()), plain("secret"), plain("wrong")),
        (
            Security::CurveServer { keys: server_keys.clone(), authenticate: check },
            curve(client_keys),
            curve(CurveKeys::from_secret([3; 32])),
        ),
    ];
    for (server, right, wrong) in servers {
        let b = Spot::new(SpotOptions { server, ..options() });
        let at_b = b.bind("tcp://127.0.0.1:0").await.unwrap();
        b.topic_create("t").unwrap();
        let a = Spot::new(SpotOptions { connect_timeout: Duration::from_millis(500), ..options() });
        let refused = a.cluster_add_secured(&at_b, wrong).await.unwrap_err();
        assert!(refused.to_string().contains("unknown"), "{refused}");
        let a = Spot::new(options());
        a.cluster_add_secured(&at_b, right).await.unwrap();
        a.subscribe("t").unwrap();
        a.wait_live("t", PATIENCE).await.unwrap();
        b.publish("t", vec![7; 100_000]).await.unwrap();
        assert_eq!(message(&a).await.1, vec![7; 100_000]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_spread_over_nodes_and_keep_each_key_in_order() {
    let mut nodes: Vec<Spot> = Vec::new();
    for _ in 0..3 {
        let (next, at) = node().await;
        for other in &nodes {
            other.cluster_add(&at).await.unwrap();
        }
        nodes.push(next);
    }
    assert!(nodes[0].partition_of("orders", b"ann").is_err());
    for node in &nodes {
        node.topic_create_partitioned("orders", 8).unwrap();
    }
    let count = nodes[1].topic_create_partitioned("orders", 9).unwrap_err();
    assert_eq!(count.to_string(), "9 partitions: the other members have 8");
    let reader = &nodes[2];
    reader.subscribe_partitioned("orders").unwrap();
    // All eight are owned by somebody, and live.
    let owned = async {
        loop {
            let partitions =
                reader.list_topics().into_iter().filter(|t| t.topic.as_str().starts_with("orders#"));
            if partitions.count() == 8 && reader.wait_live("orders#*", PATIENCE).await.is_ok() {
                return;
            }
            reader.cluster_sync(PATIENCE).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, owned).await.unwrap();

    let publisher = nodes[0].clone();
    let publishing = tokio::spawn(async move {
        for number in 0..500_u32 {
            for key in ["ann", "bob", "eve"] {
                let data = format!("{key} {number}");
                publisher.publish_keyed("orders", key.as_bytes(), data).await.unwrap();
            }
        }
    });
    // A member leaves in the middle.
    nodes[1].topic_destroy_partitioned("orders", PATIENCE).await.unwrap();
    let mut next = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..1500 {
        let (topic, payload) = message(reader).await;
        let text = String::from_utf8(payload.to_vec()).unwrap();
        let (key, number) = text.split_once(' ').unwrap();
        assert_eq!(topic, reader.partition_of("orders", key.as_bytes()).unwrap());
        let expected = next.entry(key.to_owned()).or_default();
        assert_eq!(number, expected.to_string(), "{key}");
        *expected += 1;
    }
    publishing.await.unwrap();
}

#[tokio::test]
async fn a_route_leads_to_a_peer_that_tells_no_topics() {
    // Without gossip, or `b` and `c` would find each other and agree.
    let mut alone = options();
    alone.node.gossip = false;
    let [a, b, c] = [1, 2, 3].map(|id| {
        alone.node.id = spot::cluster::NodeId(id);
        Spot::new(alone.clone())
    });
    let (at_b, at_c) =
        (b.bind("tcp://127.0.0.1:0").await.unwrap(), c.bind("tcp://127.0.0.1:0").await.unwrap());
    assert!(matches!(a.topic_route("t", &at_b), Err(SpotError::NotAdded(_))));
    a.cluster_add(&at_b).await.unwrap();
    a.cluster_add(&at_c).await.unwrap();
    // Both own it; without a route the later one would be it.
    b.topic_create("t").unwrap();
    c.topic_create("t").unwrap();
    a.topic_route("t", &at_b).unwrap();
    a.subscribe("t").unwrap();
    a.wait_live("t", PATIENCE).await.unwrap();
    b.publish("t", "from b").await.unwrap();
    assert_eq!(message(&a).await.1, "from b");
    a.publish("t", "from a").await.unwrap();
    assert_eq!(message(&a).await.1, "from a");
    assert_eq!((b.counters().received, c.counters().received), (1, 0));
    assert!(matches!(a.topic_create("t"), Err(SpotError::Topic(_))));
    // Without the route, the registry decides again.
    assert!(a.topic_unroute("t") && !a.topic_unroute("t"));
    a.wait_live("t", PATIENCE).await.unwrap();
    let arrival = a.recv_timeout(PATIENCE).await.unwrap();
    assert!(matches!(arrival, Arrival::Gap { last: None, .. }), "{arrival:?}");
    c.publish("t", "from c").await.unwrap();
    assert_eq!(message(&a).await.1, "from c");
    // A route goes with its endpoint.
    a.topic_route("u", &at_b).unwrap();
    assert!(a.topic_exists("u"));
    a.cluster_remove(&at_b).unwrap();
    assert!(!a.topic_exists("u"));
}
