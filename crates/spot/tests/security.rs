//! Who may come in, who it is, and what it may do: nodes with real sockets.

#[path = "support/until.rs"]
mod until;

use std::{sync::Arc, time::Duration};

use spot::{
    PubSub, PubSubError, SubscriptionOptions, TopicPattern,
    cluster::{
        Arrival, Credentials, CurveKeys, NodeId, PeerState, PublishError, Right, Security, Spot, SpotError,
        SpotOptions, SpotPubSub,
    },
};
use until::{PATIENCE, until};

fn options() -> SpotOptions {
    let mut options = SpotOptions::standard();
    options.node.reconnect_min = Duration::from_millis(20);
    options.node.reconnect_max = Duration::from_millis(200);
    options
}

#[tokio::test]
async fn rights_decide_who_sees_hears_and_says_what() {
    let mut guarded = options();
    let known = Arc::new(|credentials: Credentials<'_>| match credentials {
        Credentials::Plain { username, password: "secret" } => Ok(username.to_owned()),
        _ => Err("unknown".to_owned()),
    });
    guarded.server = Security::PlainServer(known);
    // Ann says and hears news; Bob hears it; of what is private neither knows.
    guarded.node.rights = Some(Arc::new(|who, right, topic| match (who, right) {
        ("ann", _) => topic.starts_with("news"),
        ("bob", Right::Subscribe) => topic.starts_with("news"),
        _ => false,
    }));
    let owner = Spot::new(guarded);
    for topic in ["news", "private"] {
        owner.topic_create(topic).unwrap();
    }
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    let connect = async |name: &str| {
        let client = Security::PlainClient { username: name.into(), password: "secret".into() };
        let node = Spot::new(SpotOptions { client, ..options() });
        node.cluster_add(&at).await.unwrap();
        node
    };
    let (ann, bob) = (connect("ann").await, connect("bob").await);
    for node in [&ann, &bob] {
        let topics: Vec<_> = node.list_topics().iter().map(|info| info.topic.to_string()).collect();
        assert_eq!(topics, ["news"]);
        assert!(matches!(node.publish("private", "x").await, Err(SpotError::Publish(_))));
        node.subscribe("news").unwrap();
        node.wait_live("news", PATIENCE).await.unwrap();
    }
    let refused = owner.counters().refused;
    bob.publish("news", "from bob").await.unwrap();
    until("it is refused", || owner.counters().refused > refused).await;
    until("he is told", || {
        matches!(bob.try_publish("news", "again"), Err(SpotError::Publish(PublishError::NotAllowed(_))))
    })
    .await;
    ann.publish("news", "from ann").await.unwrap();
    for node in [&ann, &bob] {
        match node.recv_timeout(PATIENCE).await.unwrap() {
            Arrival::Message { payload, .. } => assert_eq!(payload, "from ann"),
            other => panic!("{other:?}"),
        }
    }
    // Knowing the name is not enough.
    bob.topic_route("private", &at).unwrap();
    bob.subscribe("private").unwrap();
    match bob.wait_live("private", PATIENCE).await {
        Err(SpotError::Refused { what, peer }) => assert_eq!((&*what, peer), ("private", at.clone())),
        other => panic!("{other:?}"),
    }
    let open = SpotPubSub::new(bob.clone());
    let pattern = TopicPattern::new("private*").unwrap();
    let refused = open.subscribe(pattern, SubscriptionOptions::STANDARD).await;
    assert!(matches!(refused, Err(PubSubError::Refused(_))), "{:?}", refused.err());
    owner.publish("private", "secret").await.unwrap();
    bob.cluster_sync(PATIENCE).await.unwrap();
    assert_eq!(bob.try_recv(), None);
}

/// Document 004's two nodes, each dialing the other, with keys and rights on both sides.
#[tokio::test]
async fn two_nodes_that_dial_each_other_have_the_rights_of_their_keys() {
    let keys = [CurveKeys::from_secret([1; 32]), CurveKeys::from_secret([2; 32])];
    let node = |own: usize| {
        let (mine, other) = (keys[own].clone(), keys[1 - own].public);
        let mut options = options();
        let known = move |credentials: Credentials<'_>| match credentials {
            Credentials::Curve(key) if key == other => Ok("the other".to_owned()),
            _ => Err("unknown".to_owned()),
        };
        options.server = Security::CurveServer { keys: mine.clone(), authenticate: Arc::new(known) };
        options.client = Security::CurveClient { keys: mine, server: other };
        options.node.rights = Some(Arc::new(|who, _, topic| who == "the other" && topic.starts_with("t")));
        Spot::new(options)
    };
    let (a, b) = (node(0), node(1));
    let (at_a, at_b) =
        (a.bind("tcp://127.0.0.1:0").await.unwrap(), b.bind("tcp://127.0.0.1:0").await.unwrap());
    a.topic_create("t").unwrap();
    // Before anybody knows it, and before its own connection is there.
    a.cluster_add(&at_b).await.unwrap();
    until("the topic is known", || b.topic_exists("t")).await;
    b.subscribe("t").unwrap();
    b.cluster_add(&at_a).await.unwrap();
    b.wait_live("t", PATIENCE).await.unwrap();
    b.publish("t", "said").await.unwrap();
    let heard = b.recv_timeout(PATIENCE).await.unwrap();
    assert!(matches!(&heard, Arrival::Message { payload, .. } if payload == "said"), "{heard:?}");
    assert_eq!((a.status().len(), b.status().len()), (2, 2));
    assert_eq!((a.counters().refused, b.counters().refused), (0, 0));
}

#[tokio::test]
async fn the_security_of_an_endpoint_stays_until_it_is_removed() {
    let (right, wrong) = (CurveKeys::from_secret([1; 32]), CurveKeys::from_secret([2; 32]));
    let server = || {
        let authenticate = Arc::new(|_: Credentials<'_>| Ok("anybody".to_owned()));
        let server = Security::CurveServer { keys: right.clone(), authenticate };
        Spot::new(SpotOptions { server, ..options() })
    };
    let client =
        |key: &CurveKeys| Security::CurveClient { keys: CurveKeys::from_secret([3; 32]), server: key.public };
    let first = server();
    let at = first.bind("tcp://127.0.0.1:0").await.unwrap();
    let node = Spot::new(SpotOptions { connect_timeout: Duration::from_millis(500), ..options() });
    node.cluster_add_secured(&at, client(&right)).await.unwrap();
    let again = node.cluster_add_secured(&at, client(&wrong)).await;
    assert!(matches!(again, Err(SpotError::AlreadyAdded(_))), "{again:?}");
    // It reconnects with the key that it was added with.
    first.close();
    drop(first);
    until("it is noticed", || node.status().is_empty()).await;
    let second = server();
    let bound = async {
        while second.bind(&at).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, bound).await.expect("the port is free again");
    until("it is connected again", || node.status().iter().any(|link| link.state == PeerState::Up)).await;
    // Once removed, it has none.
    node.cluster_remove(&at).unwrap();
    assert!(matches!(node.cluster_add(&at).await, Err(SpotError::HostUnreachable { .. })));
}

#[tokio::test]
async fn a_password_that_is_too_long_is_an_error_not_another_password() {
    let check = Arc::new(|_: Credentials<'_>| Ok("anybody".to_owned()));
    let server = Spot::new(SpotOptions { server: Security::PlainServer(check), ..options() });
    let at = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let client = Security::PlainClient { username: "ann".into(), password: "x".repeat(256) };
    let connect_timeout = Duration::from_millis(300);
    let node = Spot::new(SpotOptions { client, connect_timeout, ..options() });
    let error = node.cluster_add(&at).await.unwrap_err().to_string();
    assert!(error.contains("password of 256 bytes: at most 255 are allowed"), "{error}");
}

/// Any peer may say that a node is at any endpoint.
#[tokio::test]
async fn a_password_is_not_shown_to_whom_only_gossip_names() {
    let mut guarded = options();
    let check = |credentials: Credentials<'_>| match credentials {
        Credentials::Plain { password: "secret", username } => Ok(username.to_owned()),
        _ => Err("unknown".to_owned()),
    };
    guarded.server = Security::PlainServer(Arc::new(check));
    guarded.node.gossip_allow = Some(Arc::new(|_| false));
    let owner = Spot::new(guarded);
    let at = owner.bind("tcp://127.0.0.1:0").await.unwrap();
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let evil = format!("tcp://{}", elsewhere.local_addr().unwrap());
    let client = || Security::PlainClient { username: "ann".into(), password: "secret".into() };
    let mut mallory = SpotOptions { client: client(), ..options() };
    mallory.node.advertise = vec![evil.clone()];
    let mallory = Spot::new(mallory);
    mallory.cluster_add(&at).await.unwrap();

    let handshake_timeout = Duration::from_millis(300);
    let mut ann = SpotOptions { client: client(), handshake_timeout, ..options() };
    let node = Spot::new(ann.clone());
    node.cluster_add(&at).await.unwrap();
    // By now it has been told of the endpoint, and whatever it dials has been tried.
    assert!(node.cluster_settled(PATIENCE).await);
    let dialed = tokio::time::timeout(Duration::ZERO, elsewhere.accept()).await;
    assert!(dialed.is_err(), "it dialed {evil}");
    // Unless somebody here has said that such endpoints are good.
    ann.node.id = NodeId(1);
    ann.node.gossip_allow = Some(Arc::new(|_| true));
    let trusting = Spot::new(ann);
    trusting.cluster_add(&at).await.unwrap();
    tokio::time::timeout(PATIENCE, elsewhere.accept()).await.unwrap().unwrap();
}
