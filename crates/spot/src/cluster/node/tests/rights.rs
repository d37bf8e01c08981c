//! Who may do what, and who is told that it may not.

use std::sync::Arc;

use bytes::BytesMut;

use super::*;

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
pub(super) fn talk(a: (&mut Node, LinkId), b: (&mut Node, LinkId)) {
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
pub(super) fn dial(a: &mut Node, b: &mut Node, to: &str, principal: &str) -> (LinkId, LinkId) {
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

fn dialed_as(node: &mut Node, endpoint: &str, principal: &str) -> LinkId {
    node.target_add(endpoint);
    node.link_up(LinkInfo {
        role: Role::Dialed(endpoint.into()),
        named: !principal.is_empty(),
        ..accepted(principal, true)
    })
}

/// One connection is usual between two nodes, and the one that dialed knows the other by its key.
#[test]
fn nobody_joins_a_node_that_we_dialed_and_know_by_its_key() {
    let mut node = node_with(|_| {});
    let ann = dialed_as(&mut node, "tcp://ann:1", "ann");
    tell(&mut node, ann, &[hello(ANN, 1), Command::Announce { topic: "t", epoch: 1 }]);
    for incarnation in [1, 2] {
        let mallory = node.link_up(accepted("mallory", true));
        tell(&mut node, mallory, &[hello(ANN, incarnation)]);
        assert!(node.links[mallory].closing && !node.links[ann].closing);
        node.link_closed(mallory, "closed");
    }
    // Ann herself may come as well.
    let again = joined_as(&mut node, "ann", ANN);
    assert!(!node.links[again].closing && !node.links[ann].closing);
}

#[test]
fn who_took_the_place_of_a_node_loses_it_when_we_dial_the_node_itself() {
    for incarnation in [1, 2] {
        let mut node = node_with(|_| {});
        let mallory = joined_as(&mut node, "mallory", ANN);
        tell(&mut node, mallory, &[Command::Announce { topic: "t", epoch: 1 }]);
        let ann = dialed_as(&mut node, "tcp://ann:1", "ann");
        tell(&mut node, ann, &[hello(ANN, incarnation)]);
        assert!(node.links[mallory].closing && !node.links[ann].closing, "{incarnation}");
        node.link_closed(mallory, "closed");
        assert_eq!(node.topic_owner("t"), None);
        assert_eq!(node.by_node[&ANN], node.links[ann].peer.unwrap());
    }
}

/// A key that only says who may be dialed is nobody's name: all servers may share one.
#[test]
fn a_key_without_a_name_does_not_keep_a_node_from_dialing_back() {
    let mut node = node_with(|_| {});
    node.target_add("tcp://ann:1");
    let shared = LinkInfo { role: Role::Dialed("tcp://ann:1".into()), ..accepted("the key of all", true) };
    let dialed = node.link_up(LinkInfo { named: false, ..shared });
    tell(&mut node, dialed, &[hello(ANN, 1)]);
    let ann = joined_as(&mut node, "ann", ANN);
    assert!(!node.links[ann].closing && !node.links[dialed].closing);
}

/// Somebody with a name of his own joined it under its id, which its key alone can't refute; its next life is let in.
#[test]
fn a_dialed_node_that_restarts_is_not_locked_out_by_who_spoke_for_it() {
    let mut node = node_with(|_| {});
    node.target_add("tcp://ann:1");
    let of_ann = || {
        let info = LinkInfo { role: Role::Dialed("tcp://ann:1".into()), ..accepted("her key", true) };
        LinkInfo { named: false, ..info }
    };
    let dialed = node.link_up(of_ann());
    tell(&mut node, dialed, &[hello(ANN, 1)]);
    let mallory = joined_as(&mut node, "mallory", ANN);
    node.link_closed(dialed, "she restarts");
    let again = node.link_up(of_ann());
    tell(&mut node, again, &[hello(ANN, 2)]);
    assert!(!node.links[again].closing && node.links[mallory].closing);
}

/// Gossip may bring an endpoint of anybody's, who may say that it is a node that we know.
#[test]
fn whom_gossip_brought_is_nobody_that_we_know_by_name() {
    let told = |endpoints| {
        Command::Hello(Hello { version: 2, node: BOB, incarnation: 1, heartbeat_ms: 1000, endpoints })
    };
    for principal in ["", "mallory"] {
        let mut node = node_with(|options| options.advertise = vec!["tcp://here:1".into()]);
        let bob = node.link_up(accepted("bob", true));
        tell(&mut node, bob, &[told(vec![(NodeId(99), "tcp://evil:1".into())])]);
        let ann = joined_as(&mut node, "ann", ANN);
        let info = LinkInfo { role: Role::Dialed("tcp://evil:1".into()), ..accepted(principal, true) };
        let evil = node.link_up(LinkInfo { named: !principal.is_empty(), ..info });
        tell(&mut node, evil, &[hello(ANN, 1)]);
        assert!(node.links[evil].closing && !node.links[ann].closing, "{principal:?}");
    }
}

#[test]
fn an_endpoint_that_gossip_brought_is_dialed_again_with_the_security_it_is_added_with() {
    let mut node = node_with(|options| options.advertise = vec!["tcp://here:1".into()]);
    let bob = node.link_up(accepted("bob", true));
    let endpoints = vec![(ANN, "tcp://ann:1".into())];
    let told = Hello { version: 2, node: BOB, incarnation: 1, heartbeat_ms: 1000, endpoints };
    tell(&mut node, bob, &[Command::Hello(told)]);
    let ann = node.link_up(LinkInfo { role: Role::Dialed("tcp://ann:1".into()), ..accepted("", true) });
    tell(&mut node, ann, &[hello(ANN, 1), Command::QueryResp { topics: vec![], epochs: vec![] }]);
    let known = |node: &Node| node.targets().any(|(_, _, known)| known);
    assert!(known(&node));
    assert!(node.target_add("tcp://ann:1"), "it is added by name only now");
    node.target_redial("tcp://ann:1");
    assert!(node.links[ann].closing && !known(&node));
    node.link_closed(ann, "closed");
    node.advance(Duration::from_secs(10));
    assert!(std::iter::from_fn(|| node.poll_output()).any(|o| o == Output::Dial("tcp://ann:1".into())));
}

/// A peer may name whatever it likes, also sockets of this machine.
#[test]
fn gossip_leads_only_to_endpoints_of_a_kind_that_was_named_here() {
    let dialed = |change: &dyn Fn(&mut NodeOptions), named: &[&str]| {
        let mut node = node_with(change);
        for endpoint in named {
            node.endpoint_named(endpoint);
        }
        let bob = node.link_up(accepted("bob", true));
        let endpoints = ["tcp://a:1", "ipc:///run/other.sock", "inproc://x", "udp://a:1", "a", ""];
        let endpoints: Vec<_> = (90..).map(NodeId).zip(endpoints.map(str::to_owned)).collect();
        let all = endpoints.len() as u64;
        let told = Hello { version: 2, node: BOB, incarnation: 1, heartbeat_ms: 1000, endpoints };
        tell(&mut node, bob, &[Command::Hello(told)]);
        let dialed: Vec<String> = std::iter::from_fn(|| node.poll_output())
            .filter_map(|output| if let Output::Dial(endpoint) = output { Some(endpoint) } else { None })
            .collect();
        assert_eq!(node.counters().undialed + dialed.len() as u64, all);
        dialed
    };
    assert_eq!(dialed(&|_| {}, &[]), [""; 0]);
    assert_eq!(dialed(&|_| {}, &["tcp://*:5000"]), ["tcp://a:1"]);
    assert_eq!(dialed(&|options| options.advertise = vec!["tcp://here:1".into()], &[]), ["tcp://a:1"]);
    assert_eq!(dialed(&|_| {}, &["ipc:///run/this.sock"]), ["ipc:///run/other.sock"]);
    // Who decides for each decides.
    let allow: Allow = std::sync::Arc::new(|endpoint: &str| endpoint.ends_with('x'));
    let decides = |options: &mut NodeOptions| options.gossip_allow = Some(allow.clone());
    assert_eq!(dialed(&decides, &["tcp://*:5000"]), ["inproc://x"]);
}
