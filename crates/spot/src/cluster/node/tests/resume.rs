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
