//! Founding peers number nothing and have one code for both: what they publish to us, and what they own and we hear.

use super::*;

fn heard(node: &mut Node, topic: &str) -> SubId {
    let sub = node.sub_open(SubscriptionOptions::STANDARD, false);
    node.subscribe(sub, TopicPattern::new(topic).unwrap()).unwrap();
    sub
}

fn says(data: &'static str) -> Command<'static> {
    Command::Publish { topic: "t", data: data.into() }
}

fn answer(topics: &[&'static str]) -> Command<'static> {
    Command::QueryResp { topics: topics.to_vec(), epochs: vec![] }
}

/// It published them as the owner, to all who heard it: taken for publications to us, they would come to those a second time.
#[test]
fn what_an_owner_said_before_it_knew_of_us_is_not_published_again() {
    let mut node = node_with(|_| {});
    let founding = node.link_up(accepted("", false));
    let sub = heard(&mut node, "t");
    tell(&mut node, founding, &[answer(&["t"]), answer(&["t"]), says("a")]);
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    tell(&mut node, founding, &[says("on its way"), says("too")]);
    assert_eq!(node.counters().refused, 2);
    // What comes behind its answer it has said since it knows that we do not listen any more.
    tell(&mut node, founding, &[answer(&["t"]), says("b")]);
    let mut heard = texts(arrivals(&mut node, sub));
    heard.retain(|text| !text.starts_with("Gap"));
    assert_eq!(heard, ["a", "b"]);
}

/// Who comes back to an owner hears it at once.
#[test]
fn who_subscribes_again_to_a_founding_owner_hears_it() {
    let mut node = node_with(|_| {});
    let founding = node.link_up(accepted("", false));
    heard(&mut node, "t");
    tell(&mut node, founding, &[answer(&["t"]), answer(&["t"])]);
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    node.topic_destroy("t").unwrap();
    let sub = heard(&mut node, "t");
    tell(&mut node, founding, &[says("a")]);
    assert_eq!(texts(arrivals(&mut node, sub)).last().map(String::as_str), Some("a"));
}

/// Every heartbeat asks, and their answers name no epochs. Between two connections to one peer, each a peer of its own to us,
/// the topic would go back and forth with each of them.
#[test]
fn an_answer_without_epochs_takes_none_back() {
    let mut node = node_with(|_| {});
    let links = [(); 2].map(|()| node.link_up(accepted("", false)));
    let sub = heard(&mut node, "t");
    for link in links {
        tell(&mut node, link, &[answer(&[]), Command::Announce { topic: "t", epoch: 5 }]);
    }
    let topic = node.named("t").unwrap();
    let chosen = node.topics[topic].upstream.link;
    for link in [links[0], links[1], links[0]] {
        tell(&mut node, link, &[answer(&["t"])]);
        assert_eq!(node.topics[topic].upstream.link, chosen);
    }
    assert_eq!(texts(arrivals(&mut node, sub)), Vec::<String>::new());
}
