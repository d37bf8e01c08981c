//! Who may send how much, where many want to.

use super::*;

fn subscribed(node: &mut Node, pattern: &str, bounds: SubscriptionOptions) -> SubId {
    let sub = node.sub_open(bounds, false);
    node.subscribe(sub, TopicPattern::new(pattern).unwrap()).unwrap();
    sub
}

fn ack(topic: &str) -> Command<'_> {
    Command::SubAck { topic, epoch: 5, next: 1, lossless: true, continues: false }
}

fn granted(node: &Node, topic: &str) -> Amount {
    node.topics[node.named(topic).unwrap()].upstream.granted
}

/// The whole queue is promised to the first topics, which are silent: each reader's take looked at all others.
#[test]
fn a_take_looks_at_few_topics_and_leaves_none_hanging() {
    const TOPICS: usize = 2000;
    let mut node = node_with(|_| {});
    let link = joined(&mut node, ANN, 1);
    let sub = subscribed(&mut node, "*", SubscriptionOptions::STANDARD);
    let names: Vec<String> = (0..TOPICS).map(|n| format!("t{n:04}")).collect();
    for name in &names {
        tell(&mut node, link, &[Command::Announce { topic: name, epoch: 5 }, ack(name)]);
    }
    assert!(node.subs[sub].starved.len() > TOPICS / 2, "{}", node.subs[sub].starved.len());
    // Those that were late say something, again and again, all at once.
    let late = &names[TOPICS / 2..];
    let (mut looks, mut takes, mut came) = (0, 0, 0);
    for round in 1..=3 {
        for (n, name) in late.iter().enumerate() {
            assert!(granted(&node, name).messages > 0, "{name} may send its message {round}");
            tell(&mut node, link, &[stream(n as u32 + 1, Kind::Message, 5, round, name, &[b"x"])]);
        }
        // As `Node::take` does it.
        let mut taken = Taken::default();
        while node.subs[sub].ring.take(10, &mut taken) > 0 {
            if node.subs[sub].ring.is_half_empty() {
                looks += node.credit_after_take(sub);
            }
            takes += 1;
            came += taken.by_ref().count();
        }
        node.advance(node.now + CREDIT_DELAY);
    }
    assert_eq!(came, 3 * late.len());
    // Once for each message, and some in turn with each take.
    assert!(looks <= came + takes * 64, "{looks} looks for {came} messages in {takes} takes");
}

#[test]
fn a_topic_that_waits_for_the_slower_of_two_readers_goes_on_when_that_one_has_read() {
    for leaves in [false, true] {
        let mut node = node_with(|_| {});
        let link = joined(&mut node, ANN, 1);
        let bounds = SubscriptionOptions { messages_max: 4, bytes_max: 1 << 20 };
        let [fast, slow] = [(); 2].map(|()| subscribed(&mut node, "t", bounds));
        tell(&mut node, link, &[Command::Announce { topic: "t", epoch: 5 }, ack("t")]);
        tell(&mut node, link, &[stream(1, Kind::Message, 5, 1, "t", &[b"a", b"b", b"c", b"d"])]);
        assert_eq!(texts(arrivals(&mut node, fast)).len(), 4);
        assert_eq!(granted(&node, "t").messages, 0, "the other one has no room");
        assert!(node.subs[fast].hungry.is_empty(), "it is not the one in the way");
        match leaves {
            true => node.sub_close(slow),
            false => assert_eq!(texts(arrivals(&mut node, slow)).len(), 4),
        }
        assert_eq!(granted(&node, "t").messages, 4, "leaves: {leaves}");
    }
}

/// It was counted from the beginning of another stream, and opened the window as wide as all that had been sent on that one.
#[test]
fn credit_for_the_stream_before_does_not_widen_the_window_of_the_next() {
    const LEN: usize = 1 << 20;
    let mut node = node_with(|_| {});
    let ann = joined(&mut node, ANN, 1);
    tell(&mut node, ann, &[Command::Announce { topic: "t", epoch: 5 }]);
    let payload = Bytes::from(vec![0; LEN]);
    let window = credit::UPLINK_WINDOW.bytes;
    let limit_bytes =
        |node: &Node| node.topics[node.named("t").unwrap()].uplink.as_ref().unwrap().limit_bytes;
    let publish = |node: &mut Node| {
        for _ in 0..window / LEN as u64 {
            assert!(matches!(node.publish("t", &payload, false), Ok(Publish::Done(_))));
            sent(node, ann);
        }
    };
    let credit =
        |acked, limit_bytes| Command::Credit { topic: "t", up: true, acked, limit: 9000, limit_bytes };
    publish(&mut node);
    tell(&mut node, ann, &[credit(4, 2 * window)]);
    assert_eq!(limit_bytes(&node), 2 * window);
    publish(&mut node);
    // The owner goes on under another epoch, and what it said before that comes after.
    tell(&mut node, ann, &[Command::Announce { topic: "t", epoch: 6 }, credit(4, 2 * window)]);
    assert_eq!(limit_bytes(&node), window);
    sent(&mut node, ann);
    tell(&mut node, ann, &[credit(8, 2 * window)]);
    assert_eq!(limit_bytes(&node), 2 * window, "it has all of them");
}
