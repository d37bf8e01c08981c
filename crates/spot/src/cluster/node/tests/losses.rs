//! What goes when there is no room, and who learns of it.

use super::*;

/// A topic of ours that is full: nobody reads what it has, so what others publish to it waits.
fn full_topic(node: &mut Node) -> SubId {
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let sub = node.sub_open(SubscriptionOptions { messages_max: 1, bytes_max: 1 << 20 }, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    assert!(matches!(node.publish("t", &"first".into(), false), Ok(Publish::Done(_))));
    sub
}

#[test]
fn a_publisher_that_restarts_while_its_messages_wait_loses_none() {
    let mut node = node_with(|_| {});
    let sub = full_topic(&mut node);
    let link = joined(&mut node, ANN, 1);
    tell(&mut node, link, &[stream(1, Kind::Publish, 1, 1, "t", &[b"a", b"b", b"c"])]);
    node.link_closed(link, "it was killed");
    let link = joined(&mut node, ANN, 2);
    tell(&mut node, link, &[stream(1, Kind::Publish, 2, 1, "t", &[b"d"])]);
    assert_eq!(texts(arrivals(&mut node, sub)), ["first", "a", "b", "c", "d"]);
    let topic = node.topics[node.named("t").expect("it is known")].local.as_ref().unwrap();
    let publisher = &topic.flow.publishers[&ANN];
    assert_eq!((publisher.taken, publisher.waiting, topic.flow.unnumbered_bytes), (1, Amount::default(), 0));
    assert_eq!(node.counters().dropped, 0);
}

#[test]
fn a_publisher_that_restarts_again_and_again_cannot_fill_the_memory() {
    let mut node = node_with(|options| options.retained_messages_max = 10);
    let sub = full_topic(&mut node);
    for life in 1..100 {
        let link = joined(&mut node, ANN, life);
        tell(&mut node, link, &[stream(1, Kind::Publish, life, 1, "t", &[b"a", b"b", b"c"])]);
        node.link_closed(link, "it was killed");
    }
    let backlog =
        node.topics[node.named("t").expect("it is known")].local.as_ref().unwrap().flow.backlog.len();
    assert_eq!(backlog, 10 + 3);
    assert_eq!(node.counters().dropped, 99 * 3 - 13);
    assert_eq!(arrivals(&mut node, sub).len(), 14);
}

#[test]
fn all_that_are_in_the_way_lose_their_place_at_once() {
    let mut node = node_with(|options| options.retained_messages_max = 8);
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let links: Vec<LinkId> = (0..3000_u128).map(|n| joined(&mut node, NodeId(100 + n), 1)).collect();
    for &link in &links {
        let resume = Resume { window: 1, window_bytes: 1000, ..Resume::default() };
        tell(&mut node, link, &[Command::Subscribe { topic: "t", resume: Some(resume) }]);
    }
    while !matches!(node.publish("t", &"x".into(), false), Ok(Publish::Full)) {}
    while node.poll_output().is_some() {}
    assert!(matches!(node.publish("t", &"x".into(), true), Ok(Publish::Done(_))));
    let mut told = 0;
    while let Some(output) = node.poll_output() {
        if let Output::Event(Event::Dropped { messages, .. }) = output {
            assert_eq!(messages, 7);
            told += 1;
        }
    }
    assert_eq!(told, links.len());
}

#[test]
fn replay_gives_way_to_what_has_to_arrive() {
    let mut node = node_with(|options| options.retained_bytes_max = 1000);
    let policy = Policy::Block { timeout: Duration::from_secs(1) };
    node.topic_create("t", TopicOptions { policy, replay: 1000 }).unwrap();
    let link = joined(&mut node, ANN, 1);
    let resume = Resume { window: 1000, window_bytes: 1 << 20, ..Resume::default() };
    tell(&mut node, link, &[Command::Subscribe { topic: "t", resume: Some(resume) }]);
    for n in 1..=100 {
        assert!(matches!(node.publish("t", &vec![0; 100].into(), false), Ok(Publish::Done(_))), "{n}");
        assert!(
            node.topics[node.named("t").expect("it is known")].local.as_ref().unwrap().flow.log.bytes()
                <= 1000
        );
        sent(&mut node, link);
        // It acknowledges a little late, as peers do.
        let acked = u64::saturating_sub(n, 5);
        tell(
            &mut node,
            link,
            &[Command::Credit { topic: "t", up: false, acked, limit: 1000, limit_bytes: 1 << 20 }],
        );
    }
    // What there is room for is replayed: the latest.
    let late = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(late, TopicPattern::new("t").unwrap()).unwrap();
    assert_eq!(arrivals(&mut node, late).len(), 10);
}

#[test]
fn every_drop_is_told_by_topic_and_peer() {
    for policy in [Policy::DropNewest, Policy::DropOldest, Policy::Conflate, Policy::Disconnect] {
        let mut node = node_with(|options| {
            options.send_messages_max = 10;
            options.retained_messages_max = 10;
        });
        node.topic_create("t", TopicOptions { policy, replay: 0 }).unwrap();
        let link = joined(&mut node, ANN, 1);
        sent(&mut node, link);
        tell(&mut node, link, &[Command::Subscribe { topic: "t", resume: Some(Resume::default()) }]);
        for _ in 0..100 {
            let _ = node.publish("t", &"x".into(), false);
        }
        sent(&mut node, link);
        node.heard(link);
        node.advance(Duration::from_secs(1));
        node.link_closed(link, "over");
        let mut told = 0;
        while let Some(output) = node.poll_output() {
            if let Output::Event(Event::Dropped { topic, peer, messages }) = output {
                assert_eq!((topic.as_str(), &*peer), ("t", "test"));
                told += messages;
            }
        }
        assert!(told > 50, "{policy:?}");
        assert_eq!(told, node.counters().dropped, "{policy:?}");
    }
}

#[test]
fn what_local_subscriptions_drop_is_counted() {
    let mut node = node_with(|_| {});
    node.topic_create("t", TopicOptions { policy: Policy::DropNewest, replay: 0 }).unwrap();
    let sub = node.sub_open(SubscriptionOptions { messages_max: 10, bytes_max: 1000 }, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    for _ in 0..25 {
        assert!(matches!(node.publish("t", &"x".into(), false), Ok(Publish::Done(_))));
    }
    assert_eq!(node.counters().dropped, 15);
}

/// What a publisher without an owner said meanwhile is lost; who comes first after that may be somebody else.
#[test]
fn a_gap_is_told_when_a_publisher_is_back_and_hears_our_interest_again() {
    let mut node = node_with(|_| {});
    let sub = open_sub(&mut node, "news*");
    let ack = || Command::SubAck { topic: "news*", epoch: 0, next: 0, lossless: false, continues: false };
    let gaps = |node: &mut Node| {
        arrivals(node, sub).iter().filter(|arrival| matches!(arrival, Arrival::Gap { .. })).count()
    };
    let bob = joined(&mut node, BOB, 1);
    tell(&mut node, bob, &[ack()]);
    assert_eq!(gaps(&mut node), 0, "nobody was away");
    node.link_closed(bob, "lost");
    let ann = joined(&mut node, ANN, 1);
    tell(&mut node, ann, &[ack()]);
    gaps(&mut node);
    let bob = joined(&mut node, BOB, 1);
    assert_eq!(gaps(&mut node), 0, "what he says until our interest has reached him is missing too");
    tell(&mut node, bob, &[ack()]);
    assert_eq!(gaps(&mut node), 1);
    // Interest that begins now misses nothing.
    node.subscribe(sub, TopicPattern::new("more").unwrap()).unwrap();
    let ack = Command::SubAck { topic: "more", epoch: 0, next: 0, lossless: false, continues: false };
    tell(&mut node, bob, &[ack]);
    assert_eq!(gaps(&mut node), 0);
}

/// The owner before was a founding peer, which numbers nothing: there is no place to go on from.
#[test]
fn nobody_goes_on_from_an_owner_that_numbered_nothing() {
    let mut node = node_with(|_| {});
    let founding = node.link_up(accepted("", false));
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    tell(&mut node, founding, &[Command::QueryResp { topics: vec!["t"], epochs: vec![] }]);
    let link = joined(&mut node, ANN, 1);
    let ack = Command::SubAck { topic: "t", epoch: 5, next: 1, lossless: true, continues: true };
    let gap = Command::Gap { topic: "t", first: 1, last: 2 };
    tell(&mut node, link, &[Command::Announce { topic: "t", epoch: 5 }, ack, gap]);
    tell(&mut node, link, &[stream(1, Kind::Message, 5, 3, "t", &[b"c"])]);
    assert_eq!(texts(arrivals(&mut node, sub)).last().unwrap(), "c");
}

/// A stream is defined anew when its owner's epoch changes. It is none more.
#[test]
fn a_stream_is_defined_anew_where_no_further_one_has_room() {
    let mut node = node_with(|_| {});
    let link = joined(&mut node, ANN, 1);
    let sub = open_sub(&mut node, "news");
    let mut body = BytesMut::new();
    for alias in 1..=1 << 17 {
        put_define(&mut body, alias, Kind::Open, 1, 1, "news");
    }
    tell(&mut node, link, &[Command::Batch(body.freeze())]);
    assert_eq!(node.counters().refused, 0);
    tell(&mut node, link, &[stream((1 << 17) + 1, Kind::Open, 1, 1, "news", &[b"one too many"])]);
    assert_eq!(node.counters().refused, 2, "the stream, and its message");
    tell(&mut node, link, &[stream(7, Kind::Open, 2, 1, "news", &[b"anew"])]);
    assert_eq!(texts(arrivals(&mut node, sub)), ["anew"]);
}
