//! Peers that answer the engine's questions and nothing else.

use super::*;

/// Time passes; the engines of all peers answer.
fn wait(node: &mut Node, seconds: u64) {
    for _ in 0..seconds {
        for link in node.links.iter().map(|(link, _)| link).collect::<Vec<_>>() {
            node.heard(link);
        }
        node.advance(node.now + Duration::from_secs(1));
    }
}

#[test]
fn who_announces_our_kind_and_says_no_hello_is_closed() {
    let mut node = node_with(|_| {});
    wait(&mut node, 100);
    let (silent, founding) = (node.link_up(accepted("", true)), node.link_up(accepted("", false)));
    let spoke = joined(&mut node, ANN, 1);
    wait(&mut node, 2);
    assert!(!node.links[silent].closing);
    wait(&mut node, 2);
    assert!(node.links[silent].closing);
    assert!(!node.links[founding].closing && !node.links[spoke].closing);
}

#[test]
fn who_comes_again_and_again_without_a_hello_does_not_keep_partitions_from_being_claimed() {
    let mut node = node_with(|_| {});
    let mut silent = node.link_up(accepted("", true));
    node.topic_create_partitioned("p", 4, TopicOptions::STANDARD).unwrap();
    for _ in 0..3 {
        wait(&mut node, 2);
        let next = node.link_up(accepted("", true));
        node.link_closed(std::mem::replace(&mut silent, next), "it went");
    }
    let owned = (0..4).filter(|k| node.topic_owner(&format!("p#{k}")).is_some()).count();
    assert_eq!(owned, 4);
}

#[test]
fn who_comes_again_and_again_under_another_id_does_not_keep_partitions_from_being_claimed() {
    let mut node = node_with(|_| {});
    let mut silent = joined(&mut node, NodeId(100), 1);
    node.topic_create_partitioned("p", 4, TopicOptions::STANDARD).unwrap();
    for n in 101..104 {
        wait(&mut node, 2);
        let next = joined(&mut node, NodeId(n), 1);
        node.link_closed(std::mem::replace(&mut silent, next), "it went");
    }
    let owned = (0..4).filter(|k| node.topic_owner(&format!("p#{k}")).is_some()).count();
    assert_eq!(owned, 4);
}

#[test]
fn who_answers_nothing_does_not_keep_partitions_from_being_claimed() {
    for founding in [true, false] {
        let mut node = node_with(|_| {});
        match founding {
            true => drop(node.link_up(accepted("", false))),
            false => drop(joined(&mut node, ANN, 1)),
        }
        node.topic_create_partitioned("p", 4, TopicOptions::STANDARD).unwrap();
        wait(&mut node, 5);
        let owned = (0..4).filter(|k| node.topic_owner(&format!("p#{k}")).is_some()).count();
        assert_eq!(owned, 4, "founding: {founding}");
    }
}
