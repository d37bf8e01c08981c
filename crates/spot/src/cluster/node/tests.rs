//! What peers may not do to a node: one case each, against the machine.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::cluster::{
    command::{self, Command, Hello, Resume},
    record::{DataHeader, Kind, put_define},
    ring::Arrival,
    zmtp::{Decoder, DecoderLimits},
};
use crate::{Topic, TopicPattern};

const ANN: NodeId = NodeId(0xa);

fn node_with(change: impl FnOnce(&mut NodeOptions)) -> Node {
    let mut options = NodeOptions::standard(NodeId(1), 1);
    change(&mut options);
    Node::new(options)
}

fn accepted(principal: &str, extended: bool) -> LinkInfo {
    LinkInfo {
        role: Role::Accepted,
        name: "test".into(),
        extended,
        pings: true,
        sealed: false,
        principal: principal.into(),
        shown: false,
    }
}

fn hello(node: NodeId, incarnation: u64) -> Command<'static> {
    Command::Hello(Hello { version: 2, node, incarnation, heartbeat_ms: 1000, endpoints: Vec::new() })
}

fn tell(node: &mut Node, link: LinkId, commands: &[Command<'_>]) {
    let mut bytes = BytesMut::new();
    for command in commands {
        command.put(&mut bytes, false);
    }
    let batch = Decoder::plain(DecoderLimits::STANDARD).decode(&mut bytes).unwrap();
    node.handle_batch(link, &batch);
}

fn joined(node: &mut Node, id: NodeId, incarnation: u64) -> LinkId {
    let link = node.link_up(accepted("", true));
    tell(node, link, &[hello(id, incarnation)]);
    link
}

/// A BATCH of one stream, from its definition on.
fn stream(
    alias: u32,
    kind: Kind,
    epoch: u64,
    next: u64,
    topic: &str,
    payloads: &[&[u8]],
) -> Command<'static> {
    let mut body = BytesMut::new();
    put_define(&mut body, alias, kind, epoch, next, topic);
    for payload in payloads {
        put_data_header(&mut body, alias, payload.len());
        body.extend_from_slice(payload);
    }
    Command::Batch(body.freeze())
}

/// Everything that waits for a link, as commands would be read by its peer.
fn sent(node: &mut Node, link: LinkId) -> Vec<Bytes> {
    let mut all = Vec::new();
    while node.take_outbox(link, &mut all) {}
    all
}

fn arrivals(node: &mut Node, sub: SubId) -> Vec<Arrival> {
    let mut all = Vec::new();
    loop {
        let mut taken = Taken::default();
        if node.take(sub, 1 << 10, &mut taken) == 0 {
            return all;
        }
        all.extend(taken);
    }
}

fn put_data_header(out: &mut BytesMut, alias: u32, len: usize) {
    out.extend_from_slice(DataHeader::new(alias, len).as_bytes());
}

fn open_sub(node: &mut Node, pattern: &str) -> SubId {
    let sub = node.sub_open(SubscriptionOptions { messages_max: 1 << 20, bytes_max: 1 << 20 }, true);
    node.subscribe(sub, TopicPattern::new(pattern).unwrap()).unwrap();
    sub
}

#[test]
fn streams_of_peers_are_bounded_like_our_own() {
    let mut node = node_with(|options| options.topics_max = topics::OPEN_TOPICS_MAX + 10);
    let link = joined(&mut node, ANN, 1);
    let sub = open_sub(&mut node, "*");
    let count = topics::OPEN_TOPICS_MAX as u32 + 100;
    for n in 0..count {
        tell(&mut node, link, &[stream(n + 1, Kind::Open, 1, 1, &format!("flood {n}"), &[b"x"])]);
    }
    assert_eq!(node.topics.len(), topics::OPEN_TOPICS_MAX);
    assert_eq!(node.open_order.len(), topics::OPEN_TOPICS_MAX);
    assert_eq!(node.subs[sub].topics.len(), topics::OPEN_TOPICS_MAX);
    // There is room for what this node wants to do itself.
    node.topic_create("own", TopicOptions::STANDARD).unwrap();
    // The first was forgotten long ago. Its stream goes on all the same.
    arrivals(&mut node, sub);
    let mut body = BytesMut::new();
    put_data_header(&mut body, 1, 4);
    body.extend_from_slice(b"more");
    tell(&mut node, link, &[Command::Batch(body.freeze())]);
    let topic = Topic::new("flood 0").unwrap();
    assert_eq!(arrivals(&mut node, sub), [Arrival::Message { topic, payload: "more".into() }]);
    assert_eq!(node.topics.len(), topics::OPEN_TOPICS_MAX + 1);
}

#[test]
fn who_asks_and_does_not_read_is_closed() {
    let questions = [
        Command::Query,
        Command::Status,
        Command::Ping(7),
        Command::Subscribe { topic: "p*", resume: Some(Resume { open: true, ..Resume::default() }) },
    ];
    for question in questions {
        let mut node = node_with(|_| {});
        for n in 0..100 {
            node.topic_create(&format!("topic number {n}"), TopicOptions::STANDARD).unwrap();
        }
        let link = joined(&mut node, ANN, 1);
        sent(&mut node, link);
        let many = vec![question.clone(); 1000];
        let mut rounds = 0;
        let mut queued_max = 0;
        while !node.links[link].closing {
            tell(&mut node, link, &many);
            queued_max = queued_max.max(node.links[link].outbox.bytes());
            rounds += 1;
            assert!(rounds < 1000, "{question:?}");
        }
        assert!(queued_max < 9 << 20, "{question:?}: {queued_max}");
    }
}

#[test]
fn who_reads_may_ask_for_ever() {
    let mut node = node_with(|_| {});
    let link = joined(&mut node, ANN, 1);
    for _ in 0..100 {
        tell(&mut node, link, &vec![Command::Query; 10_000]);
        sent(&mut node, link);
    }
    assert!(!node.links[link].closing);
}

/// The greatest numbers that can be said, wherever an owner may say one.
#[test]
fn the_greatest_epochs_and_numbers_do_not_overflow() {
    let mut node = node_with(|_| {});
    let link = joined(&mut node, ANN, 1);
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    let most = command::SEQUENCE_MAX;
    tell(&mut node, link, &[Command::Announce { topic: "t", epoch: u64::MAX }]);
    tell(&mut node, link, &[Command::Announce { topic: "p#0", epoch: u64::MAX }]);
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    node.topic_create_partitioned("p", 1, TopicOptions::STANDARD).unwrap();
    tell(&mut node, link, &[Command::QueryResp { topics: vec![], epochs: vec![] }]);
    let _ = open_sub(&mut node, "*");
    let mut commands = vec![stream(1, Kind::Open, u64::MAX, most, "o", &[b"x"])];
    commands.extend(vec![Command::Gap { topic: "o", first: 1, last: most }; 10]);
    tell(&mut node, link, &commands);
    assert_eq!(node.counters().gaps, u64::MAX);
}

/// The owner was a founding peer, which numbers nothing. The next one says GAP before it acknowledges the subscription.
#[test]
fn a_gap_before_its_subscription_is_acknowledged_is_refused() {
    let mut node = node_with(|_| {});
    let founding = node.link_up(accepted("", false));
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    tell(&mut node, founding, &[Command::QueryResp { topics: vec!["t"], epochs: vec![] }]);
    assert_eq!(node.topics[node.named("t").expect("it is known")].upstream.have, u64::MAX);
    let link = joined(&mut node, ANN, 1);
    tell(&mut node, link, &[Command::Announce { topic: "t", epoch: 5 }]);
    let refused = node.counters().refused;
    tell(&mut node, link, &[Command::Gap { topic: "t", first: 1, last: 2 }]);
    assert_eq!(node.counters().refused, refused + 1);
    // Once it is, the position is its own.
    let ack = Command::SubAck { topic: "t", epoch: 5, next: 1, lossless: true, continues: false };
    tell(&mut node, link, &[ack, Command::Gap { topic: "t", first: 1, last: 2 }]);
    assert_eq!(node.counters().refused, refused + 1);
    assert_eq!(node.topics[node.named("t").expect("it is known")].upstream.have, 2);
}

/// A topic of ours that is full: nobody reads what it has, so what others publish to it waits.
fn full_topic(node: &mut Node) -> SubId {
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let sub = node.sub_open(SubscriptionOptions { messages_max: 1, bytes_max: 1 << 20 }, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    assert!(matches!(node.publish("t", &"first".into(), false), Ok(Publish::Done(_))));
    sub
}

fn texts(arrivals: Vec<Arrival>) -> Vec<String> {
    let text = |arrival| match arrival {
        Arrival::Message { payload, .. } => payload.escape_ascii().to_string(),
        other => format!("{other:?}"),
    };
    arrivals.into_iter().map(text).collect()
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
    assert_eq!((publisher.taken, publisher.waiting, topic.flow.backlog_bytes), (1, Amount::default(), 0));
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
fn publishers_that_stay_away_are_forgotten() {
    let mut node = node_with(|_| {});
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let stays = joined(&mut node, ANN, 1);
    tell(&mut node, stays, &[stream(1, Kind::Publish, 1, 1, "t", &[b"x"])]);
    let count = credit::PUBLISHERS_AWAY_MAX as u128 + 10;
    for n in 0..count {
        let link = joined(&mut node, NodeId(100 + n), 1);
        tell(&mut node, link, &[stream(1, Kind::Publish, 1, 1, "t", &[b"x"])]);
        node.link_closed(link, "it goes");
    }
    let remembered = |node: &Node| {
        node.topics[node.named("t").expect("it is known")].local.as_ref().unwrap().flow.publishers.len()
    };
    assert_eq!(remembered(&node), count as usize + 1);
    let mut now = Duration::from_secs(2);
    node.advance(now);
    assert_eq!(remembered(&node), credit::PUBLISHERS_AWAY_MAX + 1);
    // Who comes back in time is known, and nothing is taken twice.
    let back = joined(&mut node, NodeId(100 + count - 1), 1);
    let duplicates = node.counters().duplicates;
    tell(&mut node, back, &[stream(1, Kind::Publish, 1, 1, "t", &[b"x", b"y"])]);
    assert_eq!(node.counters().duplicates, duplicates + 1);
    node.link_closed(back, "it goes");
    while now < credit::PUBLISHER_GRACE * 2 {
        now += Duration::from_secs(1);
        node.heard(stays);
        node.advance(now);
    }
    assert_eq!(remembered(&node), 1);
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

/// Ann may do everything with news, Bob may hear it; who shows nothing may do nothing.
fn guarded() -> Node {
    node_with(|options| {
        options.rights = Some(Arc::new(|who, right, topic| match who {
            "ann" => topic.starts_with("news"),
            "bob" => right == Right::Subscribe && topic.starts_with("news"),
            _ => false,
        }));
    })
}

const BOB: NodeId = NodeId(0xb);

fn joined_as(node: &mut Node, principal: &str, id: NodeId) -> LinkId {
    let link = node.link_up(accepted(principal, true));
    tell(node, link, &[hello(id, 1)]);
    link
}

#[test]
fn who_may_not_publish_may_not_do_it_without_an_owner_either() {
    let mut node = guarded();
    let sub = open_sub(&mut node, "news*");
    let (ann, bob) = (joined_as(&mut node, "ann", ANN), joined_as(&mut node, "bob", BOB));
    tell(&mut node, bob, &[stream(1, Kind::Open, 1, 1, "news", &[b"from bob"])]);
    assert_eq!(node.counters().refused, 2, "the stream, and its message");
    tell(&mut node, ann, &[stream(1, Kind::Open, 1, 1, "news", &[b"from ann"])]);
    assert_eq!(texts(arrivals(&mut node, sub)), ["from ann"]);
    tell(&mut node, ann, &[stream(2, Kind::Open, 1, 1, "private", &[b"from ann"])]);
    assert_eq!(arrivals(&mut node, sub), []);
}

#[test]
fn who_may_not_own_a_topic_cannot_take_it_over_or_end_it() {
    let mut node = guarded();
    node.topic_create("news", TopicOptions::STANDARD).unwrap();
    let (ann, bob) = (joined_as(&mut node, "ann", ANN), joined_as(&mut node, "bob", BOB));
    let own = (1, Some(NodeId(1)));
    tell(&mut node, bob, &[Command::Announce { topic: "news", epoch: u64::MAX }]);
    tell(
        &mut node,
        bob,
        &[Command::QueryResp { topics: vec!["news", "private"], epochs: vec![u64::MAX; 2] }],
    );
    assert_eq!(node.topic_owner("news"), Some(own));
    assert_eq!((node.topic_owner("private"), node.counters().refused), (None, 3));
    tell(&mut node, ann, &[Command::Announce { topic: "news", epoch: 7 }]);
    tell(&mut node, bob, &[Command::Remove { topic: "news", epoch: 7 }]);
    assert_eq!(node.topic_owner("news"), Some((7, Some(ANN))));
}

/// Lets two nodes talk over a link of each, until both are silent.
fn talk(a: (&mut Node, LinkId), b: (&mut Node, LinkId)) {
    let mut sides = [a, b];
    loop {
        let mut silent = true;
        for from in 0..2 {
            let bytes = sent(sides[from].0, sides[from].1).concat();
            if !bytes.is_empty() {
                silent = false;
                let batch = Decoder::plain(DecoderLimits::STANDARD).decode(&mut BytesMut::from(&bytes[..]));
                let (node, link) = &mut sides[1 - from];
                node.handle_batch(*link, &batch.unwrap());
            }
        }
        if silent {
            return;
        }
    }
}

/// A connection from `a` to `b`, who sees `principal` there; `a` sees nothing.
fn dial(a: &mut Node, b: &mut Node, to: &str, principal: &str) -> (LinkId, LinkId) {
    a.target_add(to);
    let dialed = LinkInfo {
        role: Role::Dialed(to.to_owned()),
        shown: !principal.is_empty(),
        principal: String::new(),
        ..accepted("", true)
    };
    let links = (a.link_up(dialed), b.link_up(accepted(principal, true)));
    talk((a, links.0), (b, links.1));
    links
}

#[test]
fn a_refused_subscription_is_told() {
    let (mut owner, mut bob) = (guarded(), node_with(|options| options.id = BOB));
    owner.topic_create("private", TopicOptions::STANDARD).unwrap();
    let links = dial(&mut bob, &mut owner, "tcp://owner:1", "bob");
    bob.topic_route("private", "tcp://owner:1").unwrap();
    let sub = bob.sub_open(SubscriptionOptions::STANDARD, false);
    let private = TopicPattern::new("private").unwrap();
    bob.subscribe(sub, private.clone()).unwrap();
    let (open, secret, news) = (open_sub(&mut bob, "secret*"), "secret*", "news*");
    let open_news = open_sub(&mut bob, news);
    assert!(!bob.is_live(open, &TopicPattern::new(secret).unwrap()), "it is not known yet");
    talk((&mut bob, links.0), (&mut owner, links.1));
    let peer = Some("test".to_owned());
    assert_eq!(bob.refused_by(sub, &private), peer);
    assert_eq!(bob.refused_by(open, &TopicPattern::new(secret).unwrap()), peer);
    assert!(!bob.is_live(open, &TopicPattern::new(secret).unwrap()));
    assert!(bob.is_live(open_news, &TopicPattern::new(news).unwrap()));
    let mut events: Vec<_> = std::iter::from_fn(|| bob.poll_output())
        .filter_map(|output| match output {
            Output::Event(Event::Refused { topic, right, .. }) => Some((topic, right)),
            _ => None,
        })
        .collect();
    events.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(events, [("private".into(), Right::Subscribe), (secret.into(), Right::Subscribe)]);
    // A peer that refuses what nobody asked for is refused itself.
    let refused = bob.counters().refused;
    tell(&mut bob, links.0, &[Command::Refusal { topic: "private", publish: true }]);
    tell(&mut bob, links.0, &[Command::Refusal { topic: "other", publish: false }]);
    assert_eq!(bob.counters().refused, refused + 2);
}

#[test]
fn a_refused_publish_is_told_and_tried_again_later() {
    let (mut owner, mut bob) = (guarded(), node_with(|options| options.id = BOB));
    owner.topic_create("news", TopicOptions::STANDARD).unwrap();
    let links = dial(&mut bob, &mut owner, "tcp://owner:1", "bob");
    for round in 0..3_u64 {
        bob.advance(bob.now + Duration::from_secs(1));
        assert!(matches!(bob.publish("news", &"x".into(), false), Ok(Publish::Done(_))), "round {round}");
        talk((&mut bob, links.0), (&mut owner, links.1));
        assert_eq!(
            bob.publish("news", &"x".into(), false),
            Err(PublishError::NotAllowed("news".into())),
            "round {round}"
        );
        assert_eq!(bob.counters().dropped, round + 1);
    }
    assert_eq!(owner.counters().delivered, 0);
}

/// Document 004: each node dials the other. With passwords the one that is dialed shows nothing.
#[test]
fn with_two_connections_a_node_has_its_rights_whichever_came_first() {
    for owner_first in [true, false] {
        let (mut owner, mut ann) = (guarded(), node_with(|options| options.id = ANN));
        owner.topic_create("news", TopicOptions::STANDARD).unwrap();
        let sub = ann.sub_open(SubscriptionOptions::STANDARD, false);
        ann.target_add("tcp://owner:1");
        ann.subscribe(sub, TopicPattern::new("news").unwrap()).unwrap();
        let open = open_sub(&mut ann, "news*");
        let mut links = Vec::new();
        for dials in [owner_first, !owner_first] {
            links.push(match dials {
                true => {
                    let (at_owner, at_ann) = dial(&mut owner, &mut ann, "tcp://ann:1", "");
                    (at_ann, at_owner)
                }
                false => dial(&mut ann, &mut owner, "tcp://owner:1", "ann"),
            });
        }
        let settle = |ann: &mut Node, owner: &mut Node| {
            for _ in 0..3 {
                for link in &links {
                    talk((ann, link.0), (owner, link.1));
                }
            }
        };
        settle(&mut ann, &mut owner);
        assert!(ann.is_live(sub, &TopicPattern::new("news").unwrap()), "{owner_first}");
        assert!(ann.is_live(open, &TopicPattern::new("news*").unwrap()), "{owner_first}");
        assert!(matches!(ann.publish("news", &"from ann".into(), false), Ok(Publish::Done(_))));
        assert!(matches!(owner.publish_open("news", &"open".into()), Ok(Publish::Done(_))));
        ann.topic_create("news of ann", TopicOptions::STANDARD).unwrap();
        let hears = open_sub(&mut owner, "news*");
        settle(&mut ann, &mut owner);
        assert!(matches!(ann.publish_open("news", &"open of ann".into()), Ok(Publish::Done(_))));
        settle(&mut ann, &mut owner);
        assert_eq!(texts(arrivals(&mut ann, sub)), ["from ann"]);
        assert_eq!(texts(arrivals(&mut ann, open)), ["open", "open of ann"], "once each");
        assert_eq!(texts(arrivals(&mut owner, hears)), ["open of ann"]);
        assert_eq!(owner.topic_owner("news of ann").map(|(_, node)| node), Some(Some(ANN)));
    }
}

#[test]
fn nobody_speaks_for_a_node_that_is_known_by_another_name() {
    let mut node = node_with(|_| {});
    let ann = joined_as(&mut node, "ann", ANN);
    tell(&mut node, ann, &[Command::Announce { topic: "t", epoch: 1 }]);
    // In its life, and in a later one.
    for incarnation in [1, 2] {
        let mallory = node.link_up(accepted("mallory", true));
        tell(&mut node, mallory, &[hello(ANN, incarnation), Command::Remove { topic: "t", epoch: 1 }]);
        assert!(node.links[mallory].closing);
        node.link_closed(mallory, "closed");
    }
    assert!(!node.links[ann].closing);
    assert_eq!(node.topic_owner("t"), Some((1, Some(ANN))));
    assert_eq!(node.counters().refused, 2);
    // What we dialed and showed us nothing may be another connection of it, but no next life.
    for (incarnation, closes) in [(2, true), (1, false)] {
        node.target_add("tcp://somewhere:1");
        let dialed = LinkInfo { role: Role::Dialed("tcp://somewhere:1".into()), ..accepted("", true) };
        let link = node.link_up(dialed);
        tell(&mut node, link, &[hello(ANN, incarnation)]);
        assert_eq!(node.links[link].closing, closes);
        assert!(!node.links[ann].closing);
        node.link_closed(link, "closed");
    }
    // Its own next life ends the earlier one.
    let again = node.link_up(accepted("ann", true));
    tell(&mut node, again, &[hello(ANN, 2)]);
    assert!(node.links[ann].closing && !node.links[again].closing);
}

#[test]
fn one_connection_too_many_is_closed_and_counted() {
    let mut node = node_with(|options| options.links_max = 3);
    let links: Vec<LinkId> = (0..3).map(|n| joined(&mut node, NodeId(100 + n), 1)).collect();
    let more = node.link_up(accepted("", true));
    assert!(node.links[more].closing);
    assert_eq!(node.counters().refused, 1);
    node.link_closed(more, "closed");
    // Those that we make ourselves are for us to bound.
    node.target_add("tcp://somewhere:1");
    let own = node.link_up(LinkInfo { role: Role::Dialed("tcp://somewhere:1".into()), ..accepted("", true) });
    assert!(!node.links[own].closing);
    node.link_closed(links[0], "it goes");
    let next = node.link_up(accepted("", true));
    assert!(!node.links[next].closing);
}

#[test]
fn peers_cannot_use_up_the_topics_that_a_node_wants_itself() {
    let mut node = node_with(|options| options.topics_max = 10);
    let link = joined(&mut node, ANN, 1);
    let names: Vec<String> = (0..100).map(|n| format!("topic {n}")).collect();
    for name in &names {
        tell(&mut node, link, &[Command::Announce { topic: name, epoch: 1 }]);
    }
    assert_eq!((node.list_topics().len(), node.counters().refused), (10, 90));
    let topics = names.iter().map(String::as_str).collect();
    tell(&mut node, link, &[Command::QueryResp { topics, epochs: vec![1; 100] }]);
    assert_eq!((node.list_topics().len(), node.counters().refused), (10, 180));
    // The answer counts all the same.
    assert!(node.peers.iter().all(|(_, peer)| peer.is_known()));
    for n in 0..10 {
        node.topic_create(&format!("own {n}"), TopicOptions::STANDARD).unwrap();
    }
    assert_eq!(node.topic_create("one more", TopicOptions::STANDARD), Err(TopicError::TooMany { max: 20 }));
}

#[test]
fn an_answer_that_was_on_a_lost_connection_is_not_waited_for() {
    let mut node = node_with(|_| {});
    let first = joined(&mut node, ANN, 1);
    let second = joined(&mut node, ANN, 1);
    let sync = node.sync_begin();
    node.link_closed(first, "lost");
    tell(&mut node, second, &[Command::QueryResp { topics: vec![], epochs: vec![] }]);
    assert!(node.is_synced(sync) && node.sync_report(sync).timed_out.is_empty());
    // And what nobody asked for answers nothing.
    let answers =
        |node: &Node| node.peers.iter().map(|(_, peer)| (peer.answers, peer.queries)).collect::<Vec<_>>();
    let before = answers(&node);
    assert!(before.iter().all(|(answers, queries)| answers == queries));
    tell(&mut node, second, &[Command::QueryResp { topics: vec![], epochs: vec![] }]);
    assert_eq!(answers(&node), before);
}

#[test]
fn a_peer_that_changes_its_endpoints_all_the_time_costs_the_others_nothing() {
    let mut node = node_with(|_| {});
    let (other, flooder) = (joined(&mut node, BOB, 1), joined(&mut node, ANN, 1));
    node.advance(Duration::from_secs(1));
    sent(&mut node, other);
    let mut bytes = 0;
    for n in 0..10_000 {
        let endpoints = vec![(ANN, format!("tcp://10.0.0.1:{n}"))];
        let hello = Hello { version: 2, node: ANN, incarnation: 1, heartbeat_ms: 1000, endpoints };
        tell(&mut node, flooder, &[Command::Hello(hello)]);
        bytes += sent(&mut node, other).iter().map(Bytes::len).sum::<usize>();
    }
    assert!(bytes < 1000, "{bytes}");
    // The last word gets through.
    node.heard(other);
    node.advance(Duration::from_secs(3));
    let told = sent(&mut node, other).concat();
    assert!(told.windows(16).any(|window| window == b"tcp://10.0.0.1:9"), "nothing was told");
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

/// What peers said while a node was stopped waits to be read: it is not they who were silent.
#[test]
fn a_node_that_was_stopped_does_not_take_its_peers_for_dead() {
    use std::time::Duration;
    let second = Duration::from_secs(1);
    let mut node = node_with(|_| {});
    let link = joined(&mut node, ANN, 1);
    let closed = |node: &mut Node| {
        let mut all = std::iter::from_fn(|| node.poll_output());
        all.any(|output| matches!(output, Output::Close(..)))
    };
    for now in 1..=2 {
        node.heard(link);
        node.advance(second * now);
    }
    node.advance(second * 60);
    assert!(!closed(&mut node), "nobody had a chance to be heard");
    // From here on it has its turns, and hears nothing.
    node.advance(second * 61);
    assert!(!closed(&mut node));
    node.advance(second * 62);
    assert!(closed(&mut node));
}
