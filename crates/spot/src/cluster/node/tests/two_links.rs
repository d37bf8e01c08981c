//! Between two nodes there may be two connections, and what is said on one is not in order with what is said on the other.

use super::{
    rights::{dial, talk},
    *,
};

/// Carries what waits on one side of a connection to the other.
fn carry(from: (&mut Node, LinkId), to: (&mut Node, LinkId)) {
    let bytes = sent(from.0, from.1).concat();
    let batch = Decoder::plain(DecoderLimits::STANDARD).decode(&mut BytesMut::from(&bytes[..])).unwrap();
    to.0.handle_batch(to.1, &batch);
}

fn settle(a: &mut Node, b: &mut Node, links: &[(LinkId, LinkId)]) {
    for _ in 0..4 {
        for link in links {
            talk((a, link.0), (b, link.1));
        }
    }
}

/// Each side comes to prefer the connection that it made. What the first one carries must not be lost by that.
#[test]
fn a_better_connection_takes_over_and_nothing_is_missed() {
    let (mut owner, mut node) = (node_with(|options| options.id = ANN), node_with(|_| {}));
    owner.topic_create("t", TopicOptions::STANDARD).unwrap();
    let (at_owner, here) = dial(&mut owner, &mut node, "tcp://node:1", "ann");
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new("t").unwrap()).unwrap();
    talk((&mut owner, at_owner), (&mut node, here));
    let publish = |owner: &mut Node, text: &'static str| {
        assert!(matches!(owner.publish("t", &text.into(), false), Ok(Publish::Done(_))));
    };
    publish(&mut owner, "a");
    talk((&mut owner, at_owner), (&mut node, here));
    publish(&mut owner, "b");
    // Its own connection is there while that is on its way.
    node.target_add("tcp://ann:1");
    let dialed = LinkInfo { role: Role::Dialed("tcp://ann:1".to_owned()), shown: true, ..accepted("", true) };
    let (own, there) = (node.link_up(dialed), owner.link_up(accepted("node", true)));
    carry((&mut owner, there), (&mut node, own));
    publish(&mut owner, "c");
    // The first is faster.
    talk((&mut owner, at_owner), (&mut node, here));
    publish(&mut owner, "d");
    settle(&mut owner, &mut node, &[(there, own), (at_owner, here)]);
    publish(&mut owner, "e");
    settle(&mut owner, &mut node, &[(there, own), (at_owner, here)]);
    assert_eq!(texts(arrivals(&mut node, sub)), ["a", "b", "c", "d", "e"]);
    let topic = owner.named("t").unwrap();
    let cursors = |owner: &Node| owner.topics[topic].local.as_ref().unwrap().flow.cursors.len();
    assert_eq!(cursors(&owner), 1, "the old place is given up");
    // It is lost before the owner has answered on it: back to the other one.
    owner.link_closed(there, "lost");
    publish(&mut owner, "f");
    node.link_closed(own, "lost");
    settle(&mut owner, &mut node, &[(at_owner, here)]);
    publish(&mut owner, "g");
    settle(&mut owner, &mut node, &[(at_owner, here)]);
    assert_eq!(texts(arrivals(&mut node, sub)), ["f", "g"]);
    assert_eq!(cursors(&owner), 1);
}

/// Asks on its own connection, is told news on the other's: the answer may be older than the news, or newer.
#[test]
fn an_answer_and_news_that_overtake_each_other_agree_in_the_end() {
    for first in [0, 1] {
        let (mut peer, mut node) = (node_with(|options| options.id = ANN), node_with(|_| {}));
        let there = dial(&mut peer, &mut node, "tcp://node:1", "ann");
        let here = dial(&mut node, &mut peer, "tcp://ann:1", "node");
        let links = [there, (here.1, here.0)];
        peer.topic_create("ends", TopicOptions::STANDARD).unwrap();
        settle(&mut peer, &mut node, &links);
        assert!(node.topic_owner("ends").is_some());
        let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
        node.subscribe(sub, TopicPattern::new("begins").unwrap()).unwrap();
        settle(&mut peer, &mut node, &links);
        // Asked and answered, but the answer is on its way.
        let sync = node.sync_begin();
        for link in links {
            carry((&mut node, link.1), (&mut peer, link.0));
        }
        peer.topic_create("begins", TopicOptions::STANDARD).unwrap();
        peer.topic_destroy("ends").unwrap();
        let order = if first == 0 { links } else { [links[1], links[0]] };
        for link in order {
            carry((&mut peer, link.0), (&mut node, link.1));
        }
        settle(&mut peer, &mut node, &links);
        assert!(node.is_synced(sync));
        assert_eq!(node.topic_owner("begins"), peer.topic_owner("begins"), "{first}");
        assert_eq!(node.topic_owner("ends"), None, "{first}");
        assert!(node.is_live(sub, &TopicPattern::new("begins").unwrap()));
    }
}

#[test]
fn a_second_dial_to_one_endpoint_makes_no_second_connection() {
    let closing = |node: &Node, link: LinkId| node.links[link].closing;
    let endpoint = "tcp://ann:1";
    let dialed = || LinkInfo { role: Role::Dialed(endpoint.to_owned()), ..accepted("", true) };
    // Added, given up while it is dialed, and added again: both dials come to something.
    let mut node = node_with(|_| {});
    node.target_add(endpoint);
    node.target_remove(endpoint);
    node.target_add(endpoint);
    let links = [node.link_up(dialed()), node.link_up(dialed())];
    assert_eq!(links.map(|link| closing(&node, link)), [false, true]);
    // The end of the one too many says nothing of the other.
    tell(&mut node, links[0], &[hello(ANN, 1)]);
    node.link_closed(links[1], "closed");
    node.dial_failed(endpoint, "and a third failed");
    let up = |node: &Node| {
        node.targets().any(|(_, state, _)| matches!(state, crate::cluster::membership::PeerState::Up))
    };
    assert!(up(&node));
    node.target_remove(endpoint);
    assert!(closing(&node, links[0]));
    // One that is being closed does not keep the next from being made.
    node.target_add(endpoint);
    let next = node.link_up(dialed());
    node.link_closed(links[0], "removed");
    assert!(!closing(&node, next));
    tell(&mut node, next, &[hello(ANN, 1)]);
    assert!(up(&node));
}
