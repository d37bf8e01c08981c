//! A partition that is given away, and comes back.

use super::*;
use crate::cluster::{command::Handover, partition};

const COUNT: u32 = 48;

/// A partition that Bob wins as soon as he is a member.
fn of_bob(node: &Node) -> String {
    let members = [node.id(), BOB];
    let k = (0..COUNT).find(|k| partition::winner("p", *k, members) == Some(BOB)).unwrap();
    partition::partition_name("p", k)
}

fn answer(node: &mut Node, link: LinkId, topics: &[&str]) {
    let (topics, epochs) = (topics.to_vec(), vec![1; topics.len()]);
    tell(node, link, &[Command::QueryResp { topics, epochs }]);
}

/// A member that has all partitions, and Ann, who publishes.
fn owner(options: TopicOptions) -> (Node, LinkId) {
    let mut node = node_with(|_| {});
    let ann = joined(&mut node, ANN, 1);
    node.topic_create_partitioned("p", COUNT, options).unwrap();
    for _ in 0..2 {
        answer(&mut node, ann, &[]);
    }
    assert_eq!(node.list_topics().len(), COUNT as usize + 1, "it has them all");
    (node, ann)
}

/// Bob becomes a member, so that what he wins is handed over to him.
fn bob_joins(node: &mut Node) -> LinkId {
    let bob = joined(node, BOB, 1);
    answer(node, bob, &[&partition::member_name("p", COUNT, BOB)]);
    bob
}

/// Hears a partition and holds only one message.
fn slow(node: &mut Node, name: &str) -> SubId {
    let sub = node.sub_open(SubscriptionOptions { messages_max: 1, bytes_max: 1 << 20 }, false);
    node.subscribe(sub, TopicPattern::new(name).unwrap()).unwrap();
    assert!(matches!(node.publish(name, &"first".into(), false), Ok(Publish::Done(_))));
    sub
}

/// The next messages of a stream that is defined.
fn more(alias: u32, payloads: &[&[u8]]) -> Command<'static> {
    let mut body = BytesMut::new();
    for payload in payloads {
        put_data_header(&mut body, alias, payload.len());
        body.extend_from_slice(payload);
    }
    Command::Batch(body.freeze())
}

fn is_moving(node: &Node, name: &str) -> bool {
    node.topics[node.named(name).unwrap()].local.as_ref().is_some_and(|local| local.moving)
}

fn holds(sent: &[Bytes], what: &[u8]) -> bool {
    sent.concat().windows(what.len()).any(|window| window == what)
}

/// What came but gaps: whom the partition was given to may have published something before it died.
fn messages(arrivals: Vec<Arrival>) -> Vec<String> {
    texts(arrivals.into_iter().filter(|arrival| matches!(arrival, Arrival::Message { .. })).collect())
}

/// What ends a move without the partition moving.
fn ends(node: &mut Node, bob: LinkId, dies: bool, name: &str) {
    let (epoch, _) = node.topic_owner(name).unwrap();
    if dies {
        return node.link_closed(bob, "it died");
    }
    let epoch = partition::next_epoch(epoch, BOB, 1);
    tell(node, bob, &[Command::NotTaken { topic: name, epoch }]);
}

#[test]
fn what_waits_for_room_is_not_lost_when_its_partition_stays() {
    for dies in [true, false] {
        let (mut node, ann) = owner(TopicOptions::STANDARD);
        let name = of_bob(&node);
        let sub = slow(&mut node, &name);
        tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 1, &name, &[b"a", b"b", b"c"])]);
        let bob = bob_joins(&mut node);
        assert!(is_moving(&node, &name));
        ends(&mut node, bob, dies, &name);
        tell(&mut node, ann, &[more(1, &[b"d"])]);
        if dies {
            // He may have taken some of it: she hears of another epoch, and sends what he has not.
            tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 1, &name, &[b"a", b"b", b"c", b"d"])]);
        }
        assert!(!node.links[ann].closing);
        assert_eq!(messages(arrivals(&mut node, sub)), ["first", "a", "b", "c", "d"]);
        let topic = node.topics[node.named(&name).unwrap()].local.as_ref().unwrap();
        let publisher = &topic.flow.publishers[&ANN];
        assert_eq!((publisher.taken, publisher.waiting), (4, Amount::default()));
    }
}

/// What waits has a hole, and counting it backwards from its end led into the hole: what came before that counted as published.
#[test]
fn what_waits_on_both_sides_of_what_others_took_is_not_lost_when_its_partition_stays() {
    let (mut node, ann) = owner(TopicOptions::STANDARD);
    let name = of_bob(&node);
    let sub = slow(&mut node, &name);
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 5, &name, &[b"5", b"6"])]);
    sent(&mut node, ann);
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 9, &name, &[b"9"])]);
    let publisher = |node: &Node| {
        let local = node.topics[node.named(&name).unwrap()].local.as_ref().unwrap();
        let publisher = &local.flow.publishers[&ANN];
        (publisher.numbered(), publisher.taken)
    };
    assert_eq!(publisher(&node), (4, 9), "nothing of it is published yet");
    let bob = bob_joins(&mut node);
    ends(&mut node, bob, true, &name);
    assert_eq!(publisher(&node), (4, 4));
    // She hears of another epoch.
    let again = [
        stream(1, Kind::Publish, 1, 5, &name, &[b"5", b"6"]),
        stream(1, Kind::Publish, 1, 9, &name, &[b"9"]),
    ];
    tell(&mut node, ann, &again);
    let came = arrivals(&mut node, sub);
    let at = came.len() - 2;
    // In a queue of one message a gap is told as that something was missed.
    assert!(matches!(came[at], Arrival::Gap { .. } | Arrival::Lagged { .. }), "{came:?}");
    assert_eq!(messages(came), ["first", "5", "6", "9"]);
    assert_eq!(publisher(&node), (9, 9));
}

#[test]
fn what_comes_during_a_move_waits_for_its_end() {
    for dies in [true, false] {
        let (mut node, ann) = owner(TopicOptions::STANDARD);
        let name = of_bob(&node);
        let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
        node.subscribe(sub, TopicPattern::new(&name).unwrap()).unwrap();
        tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 1, &name, &[b"a"])]);
        let bob = bob_joins(&mut node);
        tell(&mut node, ann, &[more(1, &[b"b"])]);
        assert_eq!(messages(arrivals(&mut node, sub)), ["a"]);
        let (epoch, _) = node.topic_owner(&name).unwrap();
        ends(&mut node, bob, dies, &name);
        if dies {
            // He lived for long enough to take the second, which nobody else will ever hear.
            tell(&mut node, ann, &[more(1, &[b"c"]), stream(1, Kind::Publish, 1, 3, &name, &[b"c"])]);
        } else {
            tell(&mut node, ann, &[more(1, &[b"c"])]);
        }
        let came = arrivals(&mut node, sub);
        assert_eq!(matches!(came[0], Arrival::Gap { last: None, .. }), dies, "{came:?}");
        assert_eq!(messages(came), if dies { &["c"][..] } else { &["b", "c"] });
        let (after, _) = node.topic_owner(&name).unwrap();
        assert_eq!(after == epoch, !dies, "who says no has published nothing");
    }
}

/// He may have to let go of it first.
#[test]
fn what_is_not_taken_is_offered_again_with_the_next_heartbeat() {
    let (mut node, _) = owner(TopicOptions::STANDARD);
    let name = of_bob(&node);
    let bob = bob_joins(&mut node);
    let (epoch, _) = node.topic_owner(&name).unwrap();
    let offered = partition::next_epoch(epoch, BOB, 1);
    // Not what was not offered, nor from somebody else.
    tell(&mut node, bob, &[Command::NotTaken { topic: &name, epoch: offered + 1 }]);
    let ann = node.peers[node.by_node[&ANN]].links[0];
    tell(&mut node, ann, &[Command::NotTaken { topic: &name, epoch: offered }]);
    assert!(is_moving(&node, &name));
    tell(&mut node, bob, &[Command::NotTaken { topic: &name, epoch: offered }]);
    // Somebody says something: no reason to ask again.
    answer(&mut node, ann, &[]);
    assert!(!is_moving(&node, &name));
    node.heard(bob);
    node.heard(ann);
    node.advance(node.now + Duration::from_secs(1));
    assert!(is_moving(&node, &name));
}

#[test]
fn who_does_not_say_whether_it_takes_a_partition_is_disconnected() {
    let (mut node, ann) = owner(TopicOptions::STANDARD);
    let bob = bob_joins(&mut node);
    let mut seconds = 0;
    while !node.links[bob].closing {
        // It reads, and its engine answers.
        sent(&mut node, bob);
        [ann, bob].into_iter().for_each(|link| node.heard(link));
        node.advance(node.now + Duration::from_secs(1));
        seconds += 1;
        assert!(seconds < 20);
    }
    assert!(seconds >= 12, "after {seconds} s");
}

/// His connection was lost, not he: what was sent to him may have been followed.
#[test]
fn who_followed_a_hand_over_and_was_lost_does_not_get_the_partition() {
    let (mut node, ann) = owner(TopicOptions::STANDARD);
    let name = of_bob(&node);
    // Ann is subscribed, and has had one message.
    let resume = Resume { window: 100, window_bytes: 1 << 20, ..Resume::default() };
    tell(&mut node, ann, &[Command::Subscribe { topic: &name, resume: Some(resume) }]);
    assert!(matches!(node.publish(&name, &"said".into(), false), Ok(Publish::Done(_))));
    let (before, _) = node.topic_owner(&name).unwrap();
    let bob = bob_joins(&mut node);
    sent(&mut node, bob);
    sent(&mut node, ann);
    node.link_closed(bob, "lost");
    let (epoch, own) = node.topic_owner(&name).unwrap();
    let given = partition::next_epoch(before, BOB, 1);
    assert!(epoch > given && own == Some(node.id()), "{epoch:x} is not later than {given:x}");
    let bob = joined(&mut node, BOB, 1);
    tell(&mut node, bob, &[Command::Announce { topic: &name, epoch: given }]);
    assert_eq!(node.topic_owner(&name).unwrap().1, Some(node.id()));
    // Ann is told in her stream that it goes on under the later epoch: what Bob published in between she has missed.
    let told = Command::GoesOn { topic: &name, epoch, doubt: 2 };
    let mut expected = BytesMut::new();
    told.put(&mut expected, false);
    assert!(holds(&sent(&mut node, ann), &expected));
    // Had she been away, she would find her place, and be told the same.
    node.link_closed(ann, "lost");
    let ann = joined(&mut node, ANN, 1);
    let resume = Resume { owner: node.id(), epoch: before, have: 0, ..resume };
    sent(&mut node, ann);
    tell(&mut node, ann, &[Command::Subscribe { topic: &name, resume: Some(resume) }]);
    let ack = Command::SubAck { topic: &name, epoch, next: 1, lossless: true, continues: true };
    let mut expected = BytesMut::new();
    ack.put(&mut expected, false);
    told.put(&mut expected, false);
    let sent = sent(&mut node, ann);
    assert!(holds(&sent, &expected) && holds(&sent, b"said"));
}

/// The subscriber's side of it. What the owner had before it offered the topic still comes first.
#[test]
fn the_gap_of_an_owner_that_goes_on_under_another_epoch_is_told_in_its_place() {
    let mut node = node_with(|_| {});
    let ann = joined(&mut node, ANN, 1);
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    let goes_on = |epoch, doubt| Command::GoesOn { topic: "t", epoch, doubt };
    tell(&mut node, ann, &[Command::Announce { topic: "t", epoch: 5 }, goes_on(9, 4)]);
    assert_eq!(node.counters().refused, 1, "nothing has begun that could go on");
    let ack = Command::SubAck { topic: "t", epoch: 5, next: 1, lossless: true, continues: false };
    tell(&mut node, ann, &[ack, stream(1, Kind::Message, 5, 1, "t", &[b"a", b"b"])]);
    let before = node.topics[node.named("t").unwrap()].upstream.granted;
    tell(&mut node, ann, &[goes_on(9, 4), goes_on(9, 4), goes_on(10, 6)]);
    assert_eq!(node.topics[node.named("t").unwrap()].upstream.granted, before);
    // What is said under an epoch before says nothing any more.
    tell(&mut node, ann, &[more(1, &[b"late"])]);
    tell(&mut node, ann, &[stream(1, Kind::Message, 10, 3, "t", &[b"c", b"d", b"e", b"f", b"g"])]);
    tell(&mut node, ann, &[goes_on(11, 8)]);
    let gap = |first| Arrival::Gap { topic: TopicPattern::new("t").unwrap(), first, last: None };
    let came = arrivals(&mut node, sub);
    assert_eq!([3, 6, 9].map(|at| came[at].clone()), [gap(4), gap(6), gap(8)], "{came:?}");
    assert_eq!(messages(came), ["a", "b", "c", "d", "e", "f", "g"]);
    // One in front of it is none in its place.
    tell(&mut node, ann, &[goes_on(12, 20), Command::Gap { topic: "t", first: 8, last: 30 }]);
    assert_eq!(arrivals(&mut node, sub).len(), 2);
    // More than are kept are told too early.
    let many: Vec<_> = (0..20).map(|n| goes_on(13, 100 + n)).collect();
    tell(&mut node, ann, &many);
    assert_eq!(arrivals(&mut node, sub).len(), 4);
}

/// Who is given a partition may be behind, and at an owner before the last.
#[test]
fn who_is_given_a_partition_hears_what_it_has_missed_of_it() {
    for (place, gaps) in [((ANN, 5), [false, true]), ((BOB, 4), [true, true]), ((BOB, 3), [true, false])] {
        let mut node = node_with(|_| {});
        let ann = joined(&mut node, ANN, 1);
        node.topic_create_partitioned("p", 1, TopicOptions::STANDARD).unwrap();
        let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
        node.subscribe(sub, TopicPattern::new("p#0").unwrap()).unwrap();
        tell(&mut node, ann, &[Command::Announce { topic: "p#0", epoch: 5 }]);
        let id = node.named("p#0").unwrap();
        let upstream = &mut node.topics[id].upstream;
        (upstream.owner, upstream.epoch, upstream.have) = (Some(place.0), place.1, 1);
        if place.0 == ANN {
            upstream.doubts = vec![4];
        }
        let handover = Handover {
            epoch: 9,
            from_epoch: 5,
            first: 2,
            publishers: Vec::new(),
            subscribers: Vec::new(),
            before: vec![command::Before { node: BOB, epoch: 4 }],
            doubts: vec![2, 4],
            messages: vec!["2".into(), "3".into()],
        };
        tell(&mut node, ann, &[Command::Handover { topic: "p#0", handover }]);
        assert_eq!(node.topic_owner("p#0"), Some((9, Some(node.id()))));
        let came = arrivals(&mut node, sub);
        let is_gap = |arrival: Option<&Arrival>| matches!(arrival, Some(Arrival::Gap { last: None, .. }));
        assert_eq!([is_gap(came.first()), came.len() > 1 && is_gap(came.last())], gaps, "{came:?}");
        // Who comes from an owner that nobody knows of finds no place.
        assert_eq!(messages(came).len(), if place == (BOB, 3) { 0 } else { 2 });
    }
}

/// A stream may leave out numbers where it begins, which others have taken, and nowhere else.
#[test]
fn what_was_not_taken_is_not_passed_over() {
    let mut node = node_with(|_| {});
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    let (ann, bob) = (joined(&mut node, ANN, 1), joined(&mut node, BOB, 1));
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 5, "t", &[b"5"])]);
    tell(&mut node, bob, &[Command::Announce { topic: "t", epoch: u64::MAX }]);
    tell(&mut node, ann, &[more(1, &[b"6"])]);
    sent(&mut node, ann);
    tell(&mut node, bob, &[Command::Remove { topic: "t", epoch: u64::MAX }]);
    // On its way before she hears that it is ours again, under another epoch.
    tell(&mut node, ann, &[more(1, &[b"7"])]);
    let (epoch, _) = node.topic_owner("t").unwrap();
    let mut expected = BytesMut::new();
    Command::Announce { topic: "t", epoch }.put(&mut expected, false);
    assert!(epoch == 2 && holds(&sent(&mut node, ann), &expected));
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 6, "t", &[b"6", b"7"])]);
    assert_eq!(messages(arrivals(&mut node, sub)), ["5", "6", "7"]);
    // Who goes on regardless has to come again.
    tell(&mut node, bob, &[Command::Announce { topic: "t", epoch: u64::MAX }]);
    tell(&mut node, ann, &[more(1, &[b"8"])]);
    tell(&mut node, bob, &[Command::Remove { topic: "t", epoch: u64::MAX }]);
    for seconds in [0, 2] {
        node.set_now(node.now + Duration::from_secs(seconds));
        assert!(!node.links[ann].closing);
        tell(&mut node, ann, &[more(1, &[b"9"])]);
    }
    assert!(node.links[ann].closing);
    assert_eq!(messages(arrivals(&mut node, sub)), [""; 0]);
}

/// Two were owners at the same time, because each took the other for dead, and this one hears of it only from a publisher.
#[test]
fn what_a_publisher_leaves_out_is_a_gap_in_front_of_what_it_says_next() {
    let mut node = node_with(|_| {});
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let sub = node.sub_open(SubscriptionOptions { messages_max: 2, bytes_max: 1 << 20 }, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    let (ann, bob) = (joined(&mut node, ANN, 1), joined(&mut node, BOB, 1));
    let resume = Resume { window: 100, window_bytes: 1 << 20, ..Resume::default() };
    tell(&mut node, bob, &[Command::Subscribe { topic: "t", resume: Some(resume) }]);
    // What others took before it came here the first time is nothing to us.
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 5, "t", &[b"5", b"6", b"7"])]);
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 9, "t", &[b"9"])]);
    let mut expected = BytesMut::new();
    let (epoch, _) = node.topic_owner("t").unwrap();
    Command::GoesOn { topic: "t", epoch, doubt: 4 }.put(&mut expected, false);
    assert!(holds(&sent(&mut node, bob), &expected));
    let came = arrivals(&mut node, sub);
    assert!(matches!(came[3], Arrival::Gap { last: None, .. }), "{came:?}");
    assert_eq!((came.len(), messages(came)), (5, ["5", "6", "7", "9"].map(str::to_owned).to_vec()));
}

/// What waits in front of it and finds no room any more, as who published it begins anew, makes the gap come as much earlier.
#[test]
fn a_gap_that_waits_is_told_in_its_place_though_some_of_what_waits_before_it_is_dropped() {
    let mut node = node_with(|options| options.retained_messages_max = 1);
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let sub = slow(&mut node, "t");
    let (ann, bob) = (joined(&mut node, ANN, 1), joined(&mut node, BOB, 1));
    let carol = joined(&mut node, NodeId(BOB.0 + 1), 1);
    let resume = Resume { window: 100, window_bytes: 1 << 20, ..Resume::default() };
    tell(&mut node, carol, &[Command::Subscribe { topic: "t", resume: Some(resume) }]);
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 1, "t", &[b"kept", b"dropped", b"dropped"])]);
    tell(&mut node, bob, &[stream(1, Kind::Publish, 1, 1, "t", &[b"b1"])]);
    tell(&mut node, bob, &[stream(1, Kind::Publish, 1, 3, "t", &[b"b3"])]);
    assert_eq!(node.counters().dropped, 0);
    sent(&mut node, carol);
    tell(&mut node, ann, &[stream(2, Kind::Publish, 2, 1, "t", &[b"anew"])]);
    assert_eq!(node.counters().dropped, 2);
    // Who listens elsewhere is told the right place beside the one it was told before.
    let mut expected = BytesMut::new();
    let (epoch, _) = node.topic_owner("t").unwrap();
    Command::GoesOn { topic: "t", epoch, doubt: 4 }.put(&mut expected, false);
    assert!(holds(&sent(&mut node, carol), &expected));
    let mut came = Vec::new();
    for acked in 1..=6 {
        came.extend(arrivals(&mut node, sub));
        tell(
            &mut node,
            carol,
            &[Command::Credit { topic: "t", up: false, acked, limit: 100, limit_bytes: 1 << 20 }],
        );
    }
    // Its queue is full with one message, and says so.
    assert!(matches!(came[3], Arrival::Lagged { missed: 1 }), "{came:?}");
    assert_eq!(came.len(), 6, "{came:?}");
    assert_eq!(messages(came), ["first", "kept", "b1", "b3", "anew"]);
}

/// The publisher's side of it.
#[test]
fn who_publishes_begins_anew_when_the_owner_has_another_epoch() {
    let mut node = node_with(|_| {});
    let ann = joined(&mut node, ANN, 1);
    tell(&mut node, ann, &[Command::Announce { topic: "t", epoch: 5 }]);
    for payload in ["first", "second"] {
        assert!(matches!(node.publish("t", &payload.into(), false), Ok(Publish::Done(_))));
    }
    assert!(holds(&sent(&mut node, ann), b"first"));
    let credit = |acked| Command::Credit { topic: "t", up: true, acked, limit: 100, limit_bytes: 1 << 20 };
    tell(&mut node, ann, &[credit(1), Command::Announce { topic: "t", epoch: 6 }]);
    let again = sent(&mut node, ann);
    assert!(holds(&again, b"second") && !holds(&again, b"first"));
}

/// It was published here, and never taken by the owner: so it is for the next one, whoever that is.
#[test]
fn what_a_dead_owner_did_not_take_is_published_by_who_has_the_topic_next() {
    let mut node = node_with(|_| {});
    let ann = joined(&mut node, ANN, 1);
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    tell(&mut node, ann, &[Command::Announce { topic: "t", epoch: 5 }]);
    for payload in ["first", "second"] {
        assert!(matches!(node.publish("t", &payload.into(), false), Ok(Publish::Done(_))));
    }
    let credit = Command::Credit { topic: "t", up: true, acked: 1, limit: 100, limit_bytes: 1 << 20 };
    tell(&mut node, ann, &[credit]);
    node.link_closed(ann, "it died");
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    assert_eq!(messages(arrivals(&mut node, sub)), ["second"]);
}

#[test]
fn an_offer_is_no_larger_than_what_the_other_reads() {
    let (mut node, _) = owner(TopicOptions { replay: 10, ..TopicOptions::STANDARD });
    node.options_mut().offer_bytes_max = 4 << 20;
    let name = of_bob(&node);
    let payload = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..10 {
        assert!(matches!(node.publish(&name, &payload, false), Ok(Publish::Done(_))));
    }
    let bob = bob_joins(&mut node);
    assert!(is_moving(&node, &name));
    let bytes: usize = sent(&mut node, bob).iter().map(Bytes::len).sum();
    assert!((4 << 20..5 << 20).contains(&bytes), "{bytes} bytes of ten messages that are kept for replay");
}

#[test]
fn a_joiner_is_given_as_much_at_once_as_it_can_take() {
    let replay = TopicOptions { replay: 10, ..TopicOptions::STANDARD };
    let (mut node, _) = owner(replay);
    let payload = Bytes::from(vec![0; 1 << 20]);
    for k in 0..COUNT {
        for _ in 0..10 {
            let name = partition::partition_name("p", k);
            assert!(matches!(node.publish(&name, &payload, false), Ok(Publish::Done(_))));
        }
    }
    let bob = bob_joins(&mut node);
    let members = [node.id(), BOB];
    let won: Vec<u32> = (0..COUNT).filter(|k| partition::winner("p", *k, members) == Some(BOB)).collect();
    assert!(won.len() >= 7, "{won:?}");
    let mut given = BTreeSet::new();
    let mut rounds = 0;
    while given.len() < won.len() {
        assert!(!node.links[bob].closing, "after {} of {}", given.len(), won.len());
        assert!(node.links[bob].outbox.bytes() < 24 << 20, "{}", node.links[bob].outbox.bytes());
        sent(&mut node, bob);
        for k in &won {
            let name = partition::partition_name("p", *k);
            if is_moving(&node, &name) && given.insert(*k) {
                let epoch = partition::next_epoch(node.topic_owner(&name).unwrap().0, BOB, 1);
                tell(&mut node, bob, &[Command::Announce { topic: &name, epoch }]);
            }
        }
        // What is put off is thought of again with each heartbeat.
        node.heard(bob);
        node.advance(node.now + Duration::from_secs(1));
        rounds += 1;
        assert!(rounds < 100);
    }
}

/// Somebody else owns the topic: whoever published it will send again what was not acknowledged, to the next owner.
#[test]
fn what_waits_for_room_in_a_topic_that_another_node_takes_is_not_published_twice() {
    let mut node = node_with(|_| {});
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    let sub = slow(&mut node, "t");
    let (ann, bob) = (joined(&mut node, ANN, 1), joined(&mut node, BOB, 1));
    let founding = node.link_up(accepted("", false));
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 1, "t", &[b"a", b"b"])]);
    tell(&mut node, founding, &[Command::Publish { topic: "t", data: "nobody numbered it".into() }]);
    sent(&mut node, bob);
    tell(&mut node, bob, &[Command::Announce { topic: "t", epoch: u64::MAX }]);
    assert!(holds(&sent(&mut node, bob), b"nobody numbered it"), "nobody else would send it again");
    assert_eq!(texts(arrivals(&mut node, sub)), ["first"]);
    // It comes back, and Ann with what she still has.
    tell(&mut node, bob, &[Command::Remove { topic: "t", epoch: u64::MAX }]);
    tell(&mut node, ann, &[stream(1, Kind::Publish, 1, 1, "t", &[b"a", b"b"])]);
    let came = texts(arrivals(&mut node, sub));
    assert_eq!(came.iter().filter(|text| *text == "a" || *text == "b").count(), 2, "{came:?}");
}

#[test]
fn a_hand_over_is_followed_only_from_who_may_own_the_partition() {
    // Whatever we dialed may own everything; Bob, who came, may not.
    let mut node = node_with(|options| {
        options.rights = Some(std::sync::Arc::new(|who, right, _| who != "bob" || right != Right::Own));
    });
    node.target_add("tcp://ann:1");
    let ann = node.link_up(LinkInfo { role: Role::Dialed("tcp://ann:1".into()), ..accepted("", true) });
    tell(&mut node, ann, &[hello(ANN, 1)]);
    node.topic_create_partitioned("p", 1, TopicOptions::STANDARD).unwrap();
    tell(&mut node, ann, &[Command::Announce { topic: "p#0", epoch: 1 }]);
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("p#0").unwrap()).unwrap();
    // With passwords who is dialed shows nothing, so Bob may claim to be another connection of Ann's.
    let bob = node.link_up(accepted("bob", true));
    tell(&mut node, bob, &[hello(ANN, 1)]);
    let (publishers, subscribers, messages) = (vec![(BOB, 1, 1 << 62)], Vec::new(), vec!["forged".into()]);
    let (before, doubts) = Default::default();
    let handover =
        Handover { epoch: 9, from_epoch: 1, first: 1, publishers, subscribers, before, doubts, messages };
    tell(&mut node, bob, &[Command::Handover { topic: "p#0", handover }]);
    assert_eq!(node.topic_owner("p#0"), Some((1, Some(ANN))));
    assert_eq!(arrivals(&mut node, sub), []);
    assert!(holds(&sent(&mut node, bob), b"p#0"), "he is told no");
    // Nor does he take Ann's place when her own connection is lost.
    node.link_closed(ann, "lost");
    assert_eq!(node.topics[node.named("p#0").unwrap()].upstream.link, None);
    assert!(!holds(&sent(&mut node, bob), b"p#0"));
}
