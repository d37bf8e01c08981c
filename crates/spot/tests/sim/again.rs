//! What ends and begins again under the same name: topics, and nodes with an id of their own choice.

use std::time::Duration;

use spot::cluster::{Arrival, TopicOptions, node::Publish};

use super::{for_seeds, number, payload, quick, world::World};

/// Who was away when a topic ended and began again must not take the new one's messages for those that it has.
fn an_absent_subscriber_hears_the_new_topic(seed: u64) {
    let mut world = World::new(seed, 2, quick);
    world.node(0).unwrap().topic_create("t", TopicOptions::STANDARD).unwrap();
    world.subscribe(1, "t");
    world.run(Duration::from_secs(5));
    let publish = |world: &mut World, numbers: std::ops::Range<u32>| {
        for n in numbers {
            let done = world.node(0).unwrap().publish("t", &payload(0, n), false);
            assert!(matches!(done, Ok(Publish::Done(_))), "{done:?}");
        }
    };
    publish(&mut world, 0..20);
    world.run(Duration::from_secs(1));
    assert_eq!(world.arrivals(1).len(), 20);
    world.cut(0, 1);
    world.run(Duration::from_secs(6));
    let node = world.node(0).unwrap();
    node.topic_destroy("t").unwrap();
    node.topic_create("t", TopicOptions::STANDARD).unwrap();
    world.heal(0, 1);
    // Some is published before it is back, and some after.
    let pause = world.chance.below(3000);
    world.run(Duration::from_millis(pause));
    publish(&mut world, 100..105);
    world.run(Duration::from_secs(10));
    publish(&mut world, 105..110);
    world.run(Duration::from_secs(1));
    let arrivals = world.arrivals(1);
    let [Arrival::Gap { last: None, .. }, heard @ ..] = &arrivals[..] else { panic!("{arrivals:?}") };
    let heard: Vec<u32> = heard
        .iter()
        .map(|arrival| match arrival {
            Arrival::Message { payload, .. } => number(payload).1,
            other => panic!("{other:?}"),
        })
        .collect();
    // What was published to nobody is within the gap.
    assert!(heard == (100..110).collect::<Vec<_>>() || heard == [105, 106, 107, 108, 109], "{heard:?}");
}

#[test]
fn who_was_away_hears_a_topic_that_was_created_again() {
    for_seeds(20, an_absent_subscriber_hears_the_new_topic);
}
