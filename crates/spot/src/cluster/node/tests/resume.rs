//! Who was away, and where it goes on.

use super::*;
use crate::cluster::partition;

fn subscribed(node: &mut Node, name: &str, bounds: SubscriptionOptions) -> SubId {
    let sub = node.sub_open(bounds, false);
    node.subscribe(sub, TopicPattern::new(name).unwrap()).unwrap();
    sub
}

fn holds(bytes: &[Bytes], command: &Command<'_>) -> bool {
    let mut expected = BytesMut::new();
    command.put(&mut expected, false);
    bytes.concat().windows(expected.len()).any(|window| window == expected)
}

/// What was granted with SUBSCRIBE is nothing, because a queue was full; it is emptied before the owner has answered.
#[test]
fn a_queue_that_is_emptied_before_its_owner_answers_is_filled_again() {
    let mut node = node_with(|_| {});
    let link = joined(&mut node, ANN, 1);
    let sub = subscribed(&mut node, "t", SubscriptionOptions { messages_max: 4, bytes_max: 1 << 20 });
    let ack = |next, continues| Command::SubAck { topic: "t", epoch: 5, next, lossless: true, continues };
    tell(&mut node, link, &[Command::Announce { topic: "t", epoch: 5 }, ack(1, false)]);
    tell(&mut node, link, &[stream(1, Kind::Message, 5, 1, "t", &[b"a", b"b", b"c", b"d"])]);
    node.link_closed(link, "lost");
    let link = joined(&mut node, ANN, 1);
    tell(&mut node, link, &[Command::Announce { topic: "t", epoch: 5 }]);
    let granted = |node: &Node| node.topics[node.named("t").unwrap()].upstream.granted;
    assert_eq!(granted(&node).messages, 0);
    assert_eq!(texts(arrivals(&mut node, sub)), ["a", "b", "c", "d"]);
    sent(&mut node, link);
    tell(&mut node, link, &[ack(5, false)]);
    assert_eq!(granted(&node).messages, 4, "the owner may send nothing, and nobody will tell it that it may");
    let credit =
        Command::Credit { topic: "t", up: false, acked: 4, limit: 8, limit_bytes: granted(&node).bytes };
    assert!(holds(&sent(&mut node, link), &credit));
}

#[test]
fn a_topic_that_is_created_again_is_another_one() {
    let mut node = node_with(|_| {});
    let mut epochs = Vec::new();
    for _ in 0..3 {
        node.topic_create("t", TopicOptions::STANDARD).unwrap();
        epochs.push(node.topic_owner("t").unwrap().0);
        node.topic_destroy("t").unwrap();
    }
    // Under the name of another one that went, too.
    node.topic_create("other", TopicOptions::STANDARD).unwrap();
    epochs.push(node.topic_owner("other").unwrap().0);
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}

#[test]
fn partitions_come_back_under_later_epochs_than_all_that_were_seen() {
    let mut node = node_with(|_| {});
    // As the only member, again and again.
    let mut epochs = Vec::new();
    for n in 1..=3 {
        node.topic_create_partitioned("p", 2, TopicOptions::STANDARD).unwrap();
        epochs.push(node.topic_owner("p#1").expect("it is claimed").0);
        node.topic_destroy_partitioned("p").unwrap();
        node.advance(node.options().heartbeat * n);
        assert!(!node.is_member("p"));
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:x?}");
    // After an owner that was known before we joined, and dies.
    let ann = joined(&mut node, ANN, 1);
    let epoch = partition::next_epoch(7 << 40, ANN, 1);
    let member = partition::member_name("q", 1, ANN);
    let topics = vec!["q#0", member.as_str()];
    tell(&mut node, ann, &[Command::QueryResp { topics, epochs: vec![epoch, 1] }]);
    node.topic_create_partitioned("q", 1, TopicOptions::STANDARD).unwrap();
    node.link_closed(ann, "it died");
    let (claimed, owner) = node.topic_owner("q#0").expect("it is claimed");
    assert_eq!(owner, Some(node.id()));
    assert!(claimed > epoch, "{claimed:x} is not later than {epoch:x}");
}

/// The old life's connection is still open here when the new one says what it is.
#[test]
fn a_member_that_restarts_under_its_id_stays_one() {
    let mut node = node_with(|_| {});
    let old = joined(&mut node, ANN, 1);
    let member = partition::member_name("p", 8, ANN);
    tell(&mut node, old, &[Command::Announce { topic: &member, epoch: 1 }]);
    let new = node.link_up(accepted("", true));
    tell(&mut node, new, &[hello(ANN, 2), Command::Announce { topic: &member, epoch: 2 }]);
    node.link_closed(old, "the peer has restarted");
    assert_eq!(node.partition_count("p"), Some(8));
    node.link_closed(new, "it goes");
    assert_eq!(node.partition_count("p"), None);
}

/// A monitor hears topics of owners that come and go.
#[test]
fn a_pattern_is_live_where_there_is_an_owner_and_forgets_those_that_stay_away() {
    let mut node = node_with(|_| {});
    let game = TopicPattern::new("game:*").unwrap();
    let sub = subscribed(&mut node, "game:*", SubscriptionOptions::STANDARD);
    let owned = |node: &mut Node, owner: NodeId, topic: &str| {
        let link = joined(node, owner, 1);
        let ack = Command::SubAck { topic, epoch: 1, next: 1, lossless: true, continues: false };
        tell(node, link, &[Command::Announce { topic, epoch: 1 }, ack]);
        link
    };
    owned(&mut node, ANN, "game:0");
    let mut now = Duration::ZERO;
    for n in 1..100 {
        let topic = format!("game:{n}");
        let link = owned(&mut node, BOB, &topic);
        assert!(node.is_live(sub, &game));
        node.link_closed(link, "it is gone");
        assert!(node.is_live(sub, &game), "who is there is heard");
        for _ in 0..20 {
            now += node.options().heartbeat * 2;
            node.advance(now);
        }
        let kept = node.topics.len();
        assert!(kept <= 2, "{kept} topics are kept");
    }
    // What was missed meanwhile nobody can say: that is told once of each.
    let gaps = arrivals(&mut node, sub);
    assert!(gaps.len() == 99 && gaps.iter().all(|a| matches!(a, Arrival::Gap { first: 1, last: None, .. })));
    // Who asks for one topic gets its place back for as long as it asks.
    let exact = subscribed(&mut node, "one", SubscriptionOptions::STANDARD);
    let link = owned(&mut node, BOB, "one");
    node.link_closed(link, "it is gone");
    node.advance(now + Duration::from_secs(3600));
    node.advance(now + Duration::from_secs(7200));
    assert_eq!(node.topics[node.named("one").unwrap()].upstream.epoch, 1);
    assert_eq!(arrivals(&mut node, exact), []);
}

#[test]
fn what_was_published_to_an_owner_that_stays_away_is_let_go_of() {
    let mut node = node_with(|_| {});
    let mut now = Duration::ZERO;
    let publish = |node: &mut Node, topic: &str| {
        let done = node.publish(topic, &"x".into(), false);
        assert!(matches!(done, Ok(Publish::Done(_))), "{done:?}");
    };
    for n in 0..10 {
        let topic = format!("job:{n}");
        let link = joined(&mut node, ANN, n + 1);
        tell(&mut node, link, &[Command::Announce { topic: &topic, epoch: 1 }]);
        publish(&mut node, &topic);
        node.link_closed(link, "it is gone");
        now += node.options().heartbeat * 2;
        node.advance(now);
        // Back in time it gets what it has not acknowledged.
        let link = joined(&mut node, ANN, n + 1);
        tell(&mut node, link, &[Command::Announce { topic: &topic, epoch: 1 }]);
        let told = sent(&mut node, link);
        assert!(told.concat().ends_with(b"x"), "{told:?}");
        node.link_closed(link, "it is gone");
        for _ in 0..2 {
            now += Duration::from_secs(3600);
            node.advance(now);
        }
        assert_eq!(node.topics.len(), 0);
        assert_eq!(node.counters().dropped, n + 1);
    }
    // What was meant for a topic that its owner ends is not for the next one of that name.
    let link = joined(&mut node, BOB, 1);
    tell(&mut node, link, &[Command::Announce { topic: "job", epoch: 1 }]);
    publish(&mut node, "job");
    tell(&mut node, link, &[Command::Remove { topic: "job", epoch: 1 }]);
    assert_eq!((node.topics.len(), node.counters().dropped), (0, 11));
}
