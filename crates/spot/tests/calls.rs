//! What an application may call and set beyond the daily round: bounds, timeouts, reports, streams.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use peer::shake_hands;
use spot::{
    PubSub, Received, Subscription, SubscriptionOptions, Topic, TopicPattern,
    cluster::{
        Arrival, Policy, Spot, SpotError, SpotOptions, SpotPubSub, TopicOptions,
        node::{SyncReport, TopicError},
    },
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use until::{PATIENCE, until};

#[path = "../examples/cluster.rs"]
#[expect(dead_code, reason = "its `main` is for people")]
mod example;
#[path = "support/peer.rs"]
mod peer;
#[path = "support/until.rs"]
mod until;

const HERE: &str = "tcp://127.0.0.1:0";

fn options() -> SpotOptions {
    let mut options = SpotOptions::standard();
    options.node.reconnect_min = Duration::from_millis(20);
    options.node.reconnect_max = Duration::from_millis(200);
    options
}

fn text(arrival: Option<Arrival>) -> String {
    match arrival {
        Some(Arrival::Message { topic, payload }) => format!("{topic} {}", payload.escape_ascii()),
        other => panic!("a message was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn the_examples_of_document_004_show_what_they_promise() {
    assert_eq!(
        example::two_nodes().await.unwrap(),
        [
            "A received on chat:room1: hello from the owner",
            "A received on chat:room1: hello through the owner"
        ]
    );
    assert_eq!(
        example::three_nodes().await.unwrap(),
        ["A received on c: hello to all", "B received on c: hello to all"]
    );
}

#[tokio::test]
async fn a_sync_that_nobody_answers_times_out_and_one_without_time_counts_what_has_come() {
    let node = Spot::new(options());
    // Alone there is nobody to wait for.
    let report = node.cluster_sync(PATIENCE).await.unwrap();
    assert!(report.answered.is_empty() && report.timed_out.is_empty());

    let at = node.bind(HERE).await.unwrap();
    let _silent = shake_hands(&at, false).await;
    until("the peer is there", || node.status().len() == 1).await;
    let timeout = Duration::from_millis(100);
    assert!(matches!(node.cluster_sync(timeout).await, Err(SpotError::Timeout(after)) if after == timeout));
    let report = node.cluster_sync(Duration::ZERO).await.unwrap();
    assert_eq!((report.answered.len(), report.timed_out.len()), (0, 1));

    // One that answers is enough.
    let other = Spot::new(options());
    other.topic_create("theirs").unwrap();
    other.cluster_add(&at).await.unwrap();
    let report = node.cluster_sync(Duration::from_millis(500)).await.unwrap();
    assert_eq!((report.answered.len(), report.timed_out.len()), (1, 1));
    assert_eq!(report.answered[0].topics, 1);
}

#[tokio::test]
async fn a_sync_tells_what_was_added_and_removed_at_each_peer() {
    // Founding peers tell nothing on their own.
    let founding = || Spot::new(SpotOptions { founding_only: true, ..options() });
    let (node, [a, b]) = (founding(), [founding(), founding()]);
    let mut at = Vec::new();
    for (peer, name) in [(&a, "a"), (&b, "b")] {
        peer.topic_create(&format!("{name} old")).unwrap();
        peer.topic_create(&format!("{name} kept")).unwrap();
        at.push(peer.bind(HERE).await.unwrap());
        node.cluster_add(at.last().unwrap()).await.unwrap();
    }
    a.topic_destroy("a old").unwrap();
    for name in ["new 2", "new 1"] {
        b.topic_create(name).unwrap();
    }
    let mut report = node.cluster_sync(PATIENCE).await.unwrap();
    report.answered.sort_by_key(|answer| at.iter().position(|at| *at == answer.peer));
    let told: Vec<_> = report
        .answered
        .iter()
        .map(|answer| {
            (answer.peer.as_str(), answer.topics, format!("{:?} {:?}", answer.added, answer.removed))
        })
        .collect();
    let (of_a, of_b) =
        ("[] [Topic(\"a old\")]".to_owned(), "[Topic(\"new 1\"), Topic(\"new 2\")] []".to_owned());
    assert_eq!(told, [(at[0].as_str(), 1, of_a), (at[1].as_str(), 4, of_b)]);
    assert!(!node.topic_exists("a old"));
}

#[tokio::test]
async fn who_is_not_reached_is_tried_on_or_given_up_as_the_call_says() {
    let mut impatient = options();
    impatient.connect_timeout = Duration::from_millis(200);
    let node = Spot::new(impatient);
    let at = {
        let gone = Spot::new(options());
        gone.bind(HERE).await.unwrap()
    };
    until("the port is free", || std::net::TcpListener::bind(at.strip_prefix("tcp://").unwrap()).is_ok())
        .await;
    assert!(matches!(node.cluster_try(&at).await, Err(SpotError::HostUnreachable { .. })));
    assert!(matches!(node.cluster_remove(&at), Err(SpotError::NotAdded(_))));

    assert!(matches!(node.cluster_add(&at).await, Err(SpotError::HostUnreachable { .. })));
    assert!(matches!(node.cluster_add(&at).await, Err(SpotError::AlreadyAdded(_))));
    let back = Spot::new(options());
    back.topic_create("back").unwrap();
    back.bind(&at).await.unwrap();
    until("it is reached in the end", || node.topic_exists("back")).await;

    let there = Spot::new(options());
    let at_there = there.bind(HERE).await.unwrap();
    node.cluster_try(&at_there).await.unwrap();
    node.cluster_remove(&at_there).unwrap();
}

#[tokio::test]
async fn gossip_connects_only_to_where_it_is_allowed() {
    let (seed, allowed, other) = (Spot::new(options()), Spot::new(options()), Spot::new(options()));
    let at_seed = seed.bind(HERE).await.unwrap();
    let at_allowed = allowed.bind(HERE).await.unwrap();
    let at_other = other.bind(HERE).await.unwrap();
    for node in [&allowed, &other] {
        node.cluster_add(&at_seed).await.unwrap();
    }
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let mut options = options();
    let (wanted, noted) = (at_allowed.clone(), asked.clone());
    options.node.gossip_allow = Some(Arc::new(move |endpoint: &str| {
        noted.lock().unwrap().insert(endpoint.to_owned());
        endpoint == wanted
    }));
    let node = Spot::new(options);
    node.cluster_add(&at_seed).await.unwrap();
    let reaches = |at: &str| node.status().iter().any(|link| link.name == at);
    until("the allowed one is connected", || reaches(&at_allowed)).await;
    until("the other one was told of", || asked.lock().unwrap().contains(&at_other)).await;
    assert!(node.cluster_settled(PATIENCE).await);
    assert!(!reaches(&at_other));
}

/// Its peers need not find out by its silence, which here would never end.
#[tokio::test]
async fn a_node_that_is_closed_is_gone_for_its_peers_at_once() {
    for closes_who_dialed in [true, false] {
        let patient = || {
            let mut options = options();
            options.node.heartbeat = Duration::from_secs(3600);
            Spot::new(options)
        };
        let (bound, dialed) = (patient(), patient());
        let at = bound.bind(HERE).await.unwrap();
        dialed.cluster_add(&at).await.unwrap();
        until("both are connected", || bound.status().len() == 1).await;
        let (closes, stays) = if closes_who_dialed { (&dialed, &bound) } else { (&bound, &dialed) };
        closes.close();
        until("the other one notices", || stays.status().is_empty()).await;
    }
}

#[tokio::test]
async fn topics_beyond_the_bound_are_refused() {
    let mut options = options();
    options.node.topics_max = 2;
    let node = Spot::new(options);
    // As many for us as peers may make us know.
    for n in 0..4 {
        node.topic_create(&format!("t{n}")).unwrap();
    }
    let error = node.topic_create("one more").unwrap_err();
    assert!(matches!(error, SpotError::Topic(TopicError::TooMany { max: 4 })), "{error}");
    node.topic_destroy("t0").unwrap();
    node.topic_create("one more").unwrap();
}

#[tokio::test]
async fn a_publish_to_an_owner_that_is_away_waits_as_long_as_it_is_told() {
    let mut options = options();
    (options.connect_timeout, options.publish_timeout) =
        (Duration::from_millis(50), Duration::from_millis(100));
    let node = Spot::new(options);
    let nowhere = "tcp://127.0.0.1:1";
    assert!(node.cluster_add(nowhere).await.is_err());
    node.topic_route("t", nowhere).unwrap();
    let error = node.publish("t", "x").await.unwrap_err();
    assert!(matches!(error, SpotError::Timeout(after) if after == Duration::from_millis(100)), "{error}");
    assert!(matches!(node.try_publish("t", "x"), Err(SpotError::WouldBlock)));
}

#[tokio::test]
async fn many_are_received_at_once_up_to_what_was_asked_for() {
    let node = Spot::new(options());
    node.topic_create("t").unwrap();
    let mut listening = node.listen(["t"], SubscriptionOptions::STANDARD).unwrap();
    for n in 0..10 {
        node.publish("t", format!("{n}")).await.unwrap();
    }
    let mut all = Vec::new();
    assert_eq!(listening.recv_many(4, &mut all).await, 4);
    assert_eq!(listening.recv_many(100, &mut all).await, 6);
    let all: Vec<String> = all.into_iter().map(|arrival| text(Some(arrival))).collect();
    assert_eq!(all, (0..10).map(|n| format!("t {n}")).collect::<Vec<_>>());
    node.close();
    assert_eq!(listening.recv_many(100, &mut Vec::new()).await, 0);
}

#[tokio::test]
async fn many_are_subscribed_to_up_to_the_first_that_is_wrong() {
    let node = Spot::new(options());
    for topic in ["a", "b", "c"] {
        node.topic_create(topic).unwrap();
    }
    assert!(matches!(node.subscribe_many(["a", "b*", "*c", "c"]), Err(SpotError::Pattern(_))));
    for topic in ["c", "b", "a"] {
        node.publish(topic, "x").await.unwrap();
    }
    assert_eq!(text(node.try_recv()), "b x");
    assert_eq!(text(node.try_recv()), "a x");
    assert_eq!(node.try_recv(), None);
}

#[tokio::test]
async fn received_messages_are_a_stream_that_ends_with_the_node() {
    let node = Spot::new(options());
    node.topic_create("t").unwrap();
    node.subscribe("t").unwrap();
    let listening = node.listen(["t"], SubscriptionOptions::STANDARD).unwrap();
    for word in ["one", "two", "three"] {
        node.publish("t", word).await.unwrap();
    }
    let mut own = listening.into_stream();
    // What a stream has not yielded is not lost with it.
    assert_eq!(text(node.stream().next().await), "t one");
    assert_eq!(text(node.recv().await), "t two");
    let mut inbox = node.stream();
    assert_eq!(text(inbox.next().await), "t three");
    assert_eq!(text(own.next().await), "t one");
    node.close();
    assert_eq!(inbox.next().await, None);
    let rest: Vec<String> = own.map(|arrival| text(Some(arrival))).collect().await;
    assert_eq!(rest, ["t two", "t three"]);
}

#[tokio::test]
async fn unfinished_messages_of_all_peers_together_are_bounded() {
    let mut options = options();
    options.unfinished_bytes_max = 1 << 20;
    let node = Spot::new(options);
    node.topic_create("t").unwrap();
    let at = node.bind(HERE).await.unwrap();
    // The beginning of a message of 60 MB, which is allowed.
    let begins = {
        let mut bytes = vec![2];
        bytes.extend((60_u64 << 20).to_be_bytes());
        bytes.resize(700 << 10, 0);
        bytes
    };
    let mut peers = [shake_hands(&at, false).await, shake_hands(&at, false).await];
    until("both are there", || node.status().len() == 2).await;
    for peer in &mut peers {
        // One of them is closed, perhaps while it says this.
        let _ = peer.write_all(&begins).await;
    }
    until("one is closed", || node.status().len() == 1).await;
    let other = Spot::new(SpotOptions::standard());
    other.cluster_add(&at).await.unwrap();
    assert!(other.topic_exists("t"));
    // What was held for them counts no more when they are gone.
    drop(peers);
    until("only the honest one is left", || node.status().len() == 1).await;
    let mut third = shake_hands(&at, false).await;
    third.write_all(&begins).await.unwrap();
    until("the third is there", || node.status().len() == 2).await;
    other.cluster_sync(PATIENCE).await.unwrap();
    assert_eq!(node.status().len(), 2);
}

/// A way to somewhere that can be cut.
async fn cable(to: &str) -> (String, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("tcp://{}", listener.local_addr().unwrap());
    let to = to.strip_prefix("tcp://").unwrap().to_owned();
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        loop {
            let Ok((mut near, _)) = listener.accept().await else { return };
            let (to, mut over) = (to.clone(), is_cut.clone());
            if *is_cut.borrow_and_update() {
                continue;
            }
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(&to).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = over.wait_for(|cut| *cut) => {}
                }
            });
        }
    });
    (at, cut)
}

async fn received(subscription: &mut Subscription) -> Received {
    tokio::time::timeout(PATIENCE, subscription.recv()).await.expect("something in time").expect("it is open")
}

/// Publishes until it is heard; the gap comes first.
async fn heard_after_a_gap(publisher: &SpotPubSub, subscription: &mut Subscription, word: &'static str) {
    let topic = Topic::new("t").unwrap();
    let heard = async {
        let mut told = false;
        loop {
            publisher.publish(&topic, Bytes::from_static(word.as_bytes())).await.unwrap();
            let next = tokio::time::timeout(Duration::from_millis(20), subscription.recv());
            match next.await.map(|next| next.expect("it is open")) {
                Ok(Received::Gap { .. }) => told = true,
                Ok(Received::Message(message)) if message.payload == word => break told,
                Ok(other) => panic!("{word}: {other:?}"),
                Err(_) => {}
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, heard).await.expect("it is heard in time");
    assert!(told, "{word}: in silence");
}

#[tokio::test]
async fn a_subscription_over_the_cluster_is_told_of_a_cut_and_of_a_restart_and_goes_on() {
    let (near, far) = (Spot::new(options()), Spot::new(options()));
    let at = far.bind(HERE).await.unwrap();
    let (through, cut) = cable(&at).await;
    near.cluster_add(&through).await.unwrap();
    let (near, publisher) = (SpotPubSub::new(near), SpotPubSub::new(far));
    let (topic, pattern) = (Topic::new("t").unwrap(), TopicPattern::new("t").unwrap());
    let mut subscription = near.subscribe(pattern, SubscriptionOptions::STANDARD).await.unwrap();
    publisher.publish(&topic, Bytes::from_static(b"before")).await.unwrap();
    assert!(matches!(received(&mut subscription).await, Received::Message(m) if m.payload == "before"));

    cut.send(true).unwrap();
    until("the cut is noticed", || publisher.spot().status().is_empty()).await;
    publisher.publish(&topic, Bytes::from_static(b"lost")).await.unwrap();
    cut.send(false).unwrap();
    heard_after_a_gap(&publisher, &mut subscription, "mended").await;

    publisher.close().await;
    let again = Spot::new(options());
    until("the port is free", || std::net::TcpListener::bind(at.strip_prefix("tcp://").unwrap()).is_ok())
        .await;
    again.bind(&at).await.unwrap();
    let publisher = SpotPubSub::new(again);
    // What was published before is read first.
    while subscription.try_recv().is_some() {}
    heard_after_a_gap(&publisher, &mut subscription, "restarted").await;
}

#[tokio::test]
async fn a_file_in_the_way_of_a_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let endpoint = format!("ipc://{}", path.display());
    std::fs::write(&path, "precious").unwrap();
    let node = Spot::new(options());
    assert!(matches!(node.bind(&endpoint).await, Err(SpotError::Io { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    // A socket that nobody answers may go.
    std::fs::remove_file(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    node.bind(&endpoint).await.unwrap();
}

#[tokio::test]
async fn a_node_at_all_addresses_tells_nobody_to_come_there() {
    let public = || SpotOptions { public: true, ..options() };
    let seed = Spot::new(public());
    let at = seed.bind("tcp://0.0.0.0:0").await.unwrap();
    let at = at.replace("0.0.0.0", "127.0.0.1");
    let (a, b) = (Spot::new(public()), Spot::new(public()));
    let at_a = a.bind("tcp://127.0.0.1:0").await.unwrap();
    a.cluster_add(&at).await.unwrap();
    b.cluster_add(&at).await.unwrap();
    // The seed tells of A, and A does not tell of the seed.
    until("B is connected to A", || b.status().iter().any(|link| link.name == at_a)).await;
    for node in [&a, &b] {
        assert!(node.status().iter().all(|link| !link.name.contains("0.0.0.0")), "{:?}", node.status());
    }
}

/// What a closed node would take goes nowhere.
#[tokio::test]
async fn a_closed_node_takes_nothing() {
    let node = Spot::new(options());
    node.topic_create("t").unwrap();
    node.close();
    let refused = |result: Result<(), SpotError>| matches!(result, Err(SpotError::Closed));
    assert!(refused(node.publish("t", "x").await.map(drop)));
    assert!(refused(node.try_publish("t", "x").map(drop)));
    assert!(refused(node.topic_create("other")));
    assert!(refused(node.topic_create_partitioned("p", 2)));
    assert!(refused(node.topic_destroy("t")));
    assert!(refused(node.topic_route("r", "tcp://127.0.0.1:1")));
    assert!(refused(node.subscribe("t")));
    assert!(refused(node.listen(["t"], SubscriptionOptions::STANDARD).map(drop)));
}

#[tokio::test]
async fn a_timeout_of_any_length_is_one() {
    let node = Spot::new(options());
    let policy = Policy::Block { timeout: Duration::MAX };
    node.topic_create_with("t", TopicOptions { policy, replay: 0 }).unwrap();
    let one = SubscriptionOptions { messages_max: 1, bytes_max: 1 << 20 };
    node.set_hwm(SubscriptionOptions::STANDARD, one);
    node.subscribe("t").unwrap();
    node.wait_live("t", Duration::MAX).await.unwrap();
    assert_eq!(node.cluster_sync(Duration::MAX).await.unwrap(), SyncReport::default());
    node.publish("t", "a").await.unwrap();
    assert!(matches!(node.try_publish("t", "b"), Err(SpotError::WouldBlock)));
    let (published, read) = tokio::join!(node.publish("t", "b"), async {
        tokio::task::yield_now().await;
        text(node.recv().await)
    });
    assert_eq!((published.unwrap().delivered, &*read), (1, "t a"));
    assert_eq!(text(node.recv().await), "t b");
}

/// Whoever binds last: its endpoint is news to those that are connected.
#[tokio::test]
async fn a_node_that_is_bound_after_it_has_joined_is_found() {
    let [seed, late, other] = [(); 3].map(|()| Spot::new(options()));
    let endpoint = seed.bind(HERE).await.unwrap();
    late.cluster_add(&endpoint).await.unwrap();
    other.cluster_add(&endpoint).await.unwrap();
    other.topic_create("of the other").unwrap();
    // Nobody has dialed it, and nobody could: it is it that becomes known.
    late.bind(HERE).await.unwrap();
    until("they know each other", || late.topic_exists("of the other")).await;
}
