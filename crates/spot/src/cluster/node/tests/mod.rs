//! What peers may not do to a node: one case each, against the machine.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::cluster::{
    command::{self, Command, Hello, Resume},
    record::{DataHeader, Kind, put_define},
    ring::Arrival,
    zmtp::{Decoder, DecoderLimits},
};
use crate::{Topic, TopicPattern};

mod founding;
mod losses;
mod moves;
mod resume;
mod silent;
mod rights;
mod two_links;
mod windows;

const ANN: NodeId = NodeId(0xa);
const BOB: NodeId = NodeId(0xb);

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
        named: !principal.is_empty(),
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

fn texts(arrivals: Vec<Arrival>) -> Vec<String> {
    let text = |arrival| match arrival {
        Arrival::Message { payload, .. } => payload.escape_ascii().to_string(),
        other => format!("{other:?}"),
    };
    arrivals.into_iter().map(text).collect()
}

#[test]
fn publishers_that_stay_away_are_forgotten() {
    let mut node = node_with(|_| {});
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let stays = joined(&mut node, ANN, 1);
    tell(&mut node, stays, &[stream(1, Kind::Publish, 1, 1, "t", &[b"x"])]);
    let count = intake::PUBLISHERS_AWAY_MAX as u128 + 10;
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
    assert_eq!(remembered(&node), intake::PUBLISHERS_AWAY_MAX + 1);
    // Who comes back in time is known, and nothing is taken twice.
    let back = joined(&mut node, NodeId(100 + count - 1), 1);
    let duplicates = node.counters().duplicates;
    tell(&mut node, back, &[stream(1, Kind::Publish, 1, 1, "t", &[b"x", b"y"])]);
    assert_eq!(node.counters().duplicates, duplicates + 1);
    node.link_closed(back, "it goes");
    while now < intake::PUBLISHER_GRACE * 2 {
        now += Duration::from_secs(1);
        node.heard(stays);
        node.advance(now);
    }
    assert_eq!(remembered(&node), 1);
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

#[test]
fn a_sync_reports_what_came_and_went_and_not_what_came_and_went_again() {
    let mut node = node_with(|_| {});
    let link = joined(&mut node, ANN, 1);
    let answer = |topics: &[&'static str]| Command::QueryResp {
        topics: topics.to_vec(),
        epochs: topics.iter().map(|_| 1).collect(),
    };
    // The first answer is to what a node asks when it connects.
    tell(&mut node, link, &[answer(&["gone", "kept", "silent"])]);
    let sync = node.sync_begin();
    let remove = |topic| Command::Remove { topic, epoch: 1 };
    let announce = |topic| Command::Announce { topic, epoch: 2 };
    tell(
        &mut node,
        link,
        &[
            remove("gone"),
            remove("kept"),
            announce("kept"),
            announce("new"),
            announce("passing"),
            remove("passing"),
        ],
    );
    assert!(!node.is_synced(sync));
    tell(&mut node, link, &[answer(&["kept", "new", "newer"])]);
    assert!(node.is_synced(sync));
    let report = node.sync_report(sync);
    let [answered] = &report.answered[..] else { panic!("{report:?}") };
    let names = |topics: &[Topic]| topics.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&answered.added), ["new", "newer"]);
    assert_eq!(names(&answered.removed), ["gone", "silent"]);
    assert_eq!((answered.topics, &report.timed_out[..]), (3, &[][..]));
}

#[test]
fn a_sync_does_not_wait_for_the_successor_of_a_peer_that_is_gone() {
    let mut node = node_with(|_| {});
    let link = joined(&mut node, ANN, 1);
    let answer = || Command::QueryResp { topics: vec!["a"], epochs: vec![1] };
    tell(&mut node, link, &[answer()]);
    // Some answers more than the successor will have given.
    for _ in 0..3 {
        let sync = node.sync_begin();
        tell(&mut node, link, &[answer()]);
        assert!(node.is_synced(sync));
        node.sync_end(sync);
    }
    let sync = node.sync_begin();
    assert!(!node.is_synced(sync));
    node.link_closed(link, "cut");
    assert!(node.is_synced(sync));
    let link = joined(&mut node, BOB, 1);
    tell(&mut node, link, &[answer()]);
    assert!(node.is_synced(sync));
    assert_eq!(node.sync_report(sync), SyncReport::default());
}
