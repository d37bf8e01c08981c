//! Clusters of simulated nodes: the machines that production runs, on wires that are cut, slow and lost.
//!
//! A failure prints its seed: `WEFT_SIM_SEED=… cargo test -p spot --test sim`. `WEFT_SIM_SEEDS=n` runs more of them.

mod again;
mod open;
mod partitions;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use spot::cluster::{Arrival, NodeId, NodeOptions, Policy, TopicOptions, node::Publish};
use world::World;

/// The registries agree this long after the last fault: a silence has to be noticed, and the longest pause before a
/// reconnect has to pass.
const CONVERGENCE_MAX: Duration = Duration::from_secs(12);

fn seeds(count: u64) -> Vec<u64> {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    match (setting("WEFT_SIM_SEED"), setting("WEFT_SIM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(count)) => (1..=count).collect(),
        _ => (1..=count).collect(),
    }
}

fn for_seeds(count: u64, run: impl Fn(u64)) {
    for seed in seeds(count) {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if let Err(panic) = failed {
            eprintln!("failed with WEFT_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn number(payload: &Bytes) -> (u8, u32) {
    (payload[0], u32::from_le_bytes(payload[1..5].try_into().unwrap()))
}

fn payload(publisher: usize, number: u32) -> Bytes {
    sized(publisher, number, 200)
}

fn sized(publisher: usize, number: u32, len: usize) -> Bytes {
    let mut bytes = vec![publisher as u8];
    bytes.extend(number.to_le_bytes());
    bytes.resize(len, 0);
    bytes.into()
}

fn patient(options: &mut NodeOptions) {
    options.resume_grace = Duration::from_secs(3600);
    options.retained_messages_max = 400;
    options.reconnect_max = Duration::from_secs(2);
    options.send_bytes_max = 16 << 10;
}

/// The gate of the specification: with `Block`, nothing is lost, repeated or reordered per publisher and topic over 100
/// random partitions, while both sides stay up.
fn block_loses_nothing(seed: u64) {
    let mut world = World::new(seed, 3, patient);
    let forever = TopicOptions { policy: Policy::Block { timeout: Duration::from_secs(1 << 30) }, replay: 0 };
    world.node(0).unwrap().topic_create("t", forever).unwrap();
    for place in 0..3 {
        world.subscribe(place, "t");
    }
    world.run(Duration::from_secs(5));
    // Subscriptions are live, by QUERY and SUB_ACK; from here on everything counts.
    let mut next = [0_u32; 3];
    let mut seen = [[0_u32; 3]; 3];
    let mut check = |world: &mut World| {
        for (place, seen) in seen.iter_mut().enumerate() {
            for arrival in world.arrivals(place) {
                let Arrival::Message { payload, .. } = &arrival else { panic!("at {place}: {arrival:?}") };
                let (publisher, number) = number(payload);
                let expected = &mut seen[usize::from(publisher)];
                assert_eq!(number, *expected, "at {place} from {publisher}");
                *expected += 1;
            }
        }
        seen
    };
    let mut partitions = 0;
    while partitions < 100 {
        for (place, next) in next.iter_mut().enumerate() {
            for _ in 0..world.chance.below(20) {
                // Some are larger than what a slow reader has room for.
                let len = match world.chance.below(200) {
                    0 => 1_100_000,
                    1..10 => 60_000,
                    10..30 => 5000,
                    _ => 200,
                };
                let message = sized(place, *next, len);
                if let Ok(Publish::Done(_)) = world.node(place).unwrap().publish("t", &message, false) {
                    *next += 1;
                }
            }
        }
        if world.chance.one_in(4) {
            partitions += 1;
            let (a, b) = [(0, 1), (0, 2), (1, 2)][world.chance.below(3) as usize];
            world.cut(a, b);
            // Some are over before anybody notices, some are not.
            let pause = 20 << world.chance.below(9);
            world.run(Duration::from_millis(pause));
            world.heal(a, b);
        }
        if world.chance.one_in(8) {
            let place = world.chance.below(3) as usize;
            world.places[place].takes = [0, 1, 20, usize::MAX][world.chance.below(4) as usize];
        }
        let pause = Duration::from_millis(10 + world.chance.below(200));
        world.run(pause);
        check(&mut world);
    }
    world.heal_all();
    world.run(Duration::from_secs(60));
    let seen = check(&mut world);
    assert_eq!(seen, [next; 3], "published {next:?}");
    assert!(next.iter().all(|n| *n > 500), "the run was too quiet: {next:?}");
}

#[test]
fn block_loses_repeats_and_reorders_nothing_over_100_partitions() {
    for_seeds(3, block_loses_nothing);
}

fn quick(options: &mut NodeOptions) {
    options.reconnect_max = Duration::from_secs(2);
    options.send_bytes_max = 32 << 10;
    options.resume_grace = Duration::from_secs(10);
    options.retained_messages_max = 64;
}

/// What a subscriber may conclude from what it was told, checked against what was published.
#[derive(Default)]
struct Account {
    /// The number that must come next, unless a gap says otherwise; none after a gap of unknown size.
    expected: Option<u32>,
    /// Of which of the topics that the publisher has had one after the other.
    generation: u32,
}

/// Messages say of which topic of a name they are, in front of their number.
const GENERATION: u32 = 1 << 20;

/// What happened. Places below `founding` speak the founding protocol: their messages have no numbers, so what they miss
/// cannot be told exactly.
fn chaos(seed: u64, nodes: usize, founding: usize, ids_stay: bool) -> Vec<String> {
    let mut world = World::new(seed, nodes, quick);
    world.ids_stay = ids_stay;
    for place in &mut world.places[..founding] {
        place.founding = true;
    }
    let policies = [
        Policy::Block { timeout: Duration::from_millis(300) },
        Policy::DropNewest,
        Policy::DropOldest,
        Policy::Disconnect,
    ];
    let mut topics: BTreeMap<String, usize> = BTreeMap::new();
    let create = |world: &mut World, place: usize, topics: &mut BTreeMap<String, usize>| {
        let policy = policies[world.chance.below(4) as usize];
        let name = format!("of-{place}");
        world.node(place).unwrap().topic_create(&name, TopicOptions { policy, replay: 0 }).unwrap();
        topics.insert(name, place);
    };
    let subscribe = |world: &mut World, place: usize| {
        for other in 0..nodes.min(4) {
            world.subscribe(place, &format!("of-{}", (place + other) % nodes));
        }
        world.subscribe(place, "shared");
    };
    for place in 0..nodes {
        create(&mut world, place, &mut topics);
        subscribe(&mut world, place);
    }
    // Numbers begin with each life of an owner; what its messages say is the sequence number that the node gives them.
    let mut next: BTreeMap<(usize, u64), u32> = BTreeMap::new();
    let mut generations = vec![0; nodes];
    let mut accounts: BTreeMap<(usize, u64, u8), Account> = BTreeMap::new();
    // The last that came to "shared" of each of its owners.
    let mut shared: BTreeMap<(usize, u64, u8), u32> = BTreeMap::new();
    let mut shared_next: BTreeMap<usize, u32> = BTreeMap::new();
    let mut duplicates_checked = 0_u64;
    let mut check = |world: &mut World, generations: &[u32]| {
        for place in 0..nodes {
            let life = world.places[place].life;
            for arrival in world.arrivals(place) {
                match arrival {
                    Arrival::Message { topic, payload } if topic.as_str() == "shared" => {
                        let (publisher, number) = number(&payload);
                        let last = shared.insert((place, life, publisher), number);
                        assert!(last.is_none_or(|last| last < number), "at {place} from {publisher}: again");
                    }
                    Arrival::Gap { topic, .. } if topic.to_string() == "shared" => {}
                    Arrival::Message { payload, .. } => {
                        let (publisher, number) = number(&payload);
                        let (generation, number) = (number / GENERATION, number % GENERATION);
                        let account = accounts.entry((place, life, publisher)).or_default();
                        assert!(
                            generation >= account.generation,
                            "at {place} from {publisher}: the last topic"
                        );
                        if generation > account.generation {
                            // Who was there saw the last one end, and hears this one since it has subscribed.
                            *account = Account { expected: None, generation };
                        }
                        if let Some(expected) = account.expected {
                            if place.min(usize::from(publisher)) < founding {
                                // A new life of the publisher counts from 1 again.
                                assert!(
                                    number >= expected || number < 12,
                                    "at {place} from {publisher}: again"
                                );
                            } else {
                                assert_eq!(
                                    number, expected,
                                    "at {place} from {publisher}: a gap that was not told"
                                );
                            }
                            duplicates_checked += 1;
                        }
                        account.expected = Some(number + 1);
                    }
                    Arrival::Gap { topic, first, last } => {
                        let publisher: u8 = topic.to_string()[3..].parse().unwrap();
                        let account = accounts.entry((place, life, publisher)).or_default();
                        let is_last = account.generation == generations[usize::from(publisher)];
                        if let (Some(expected), Some(_), true) = (account.expected, last, is_last) {
                            assert_eq!(
                                first,
                                u64::from(expected),
                                "at {place} from {publisher}: the gap begins elsewhere"
                            );
                        }
                        account.expected = last.map(|last| last as u32 + 1);
                    }
                    // The ring's own losses come first, so what follows is not comparable.
                    Arrival::Lagged { .. } => {
                        accounts.retain(|(p, l, _), _| (*p, *l) != (place, life));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        duplicates_checked
    };
    for _ in 0..120 {
        for (place, generation) in generations.iter().enumerate() {
            let life = world.places[place].life;
            let count = world.chance.below(12);
            for _ in 0..count {
                let Some(node) = world.places[place].node.as_mut() else { break };
                let number = next.entry((place, life)).or_insert(1);
                let message = payload(place, generation * GENERATION + *number);
                // Whoever is in the way of a lossless topic loses its place after a while.
                let force = number.is_multiple_of(40);
                if let Ok(Publish::Done(_)) = node.publish(&format!("of-{place}"), &message, force) {
                    *number += 1;
                }
            }
        }
        for place in 0..nodes {
            publish_shared(&mut world, place, &mut shared_next);
        }
        let place = world.chance.below(nodes as u64) as usize;
        let other = world.chance.below(nodes as u64) as usize;
        match world.chance.below(12) {
            0 if place != other => world.cut(place, other),
            1 | 2 => world.heal(place, other),
            // Somebody has to be there in the end.
            3 if world.places.iter().filter(|place| place.node.is_some()).count() > 2 => world.crash(place),
            4 | 5 if world.node(place).is_none() => {
                world.start(place);
                create(&mut world, place, &mut topics);
                subscribe(&mut world, place);
            }
            6 => world.freeze(place, true),
            7 | 8 => world.freeze(place, false),
            9 => {
                // Two owners of one name: the later one wins.
                if let Some(node) = world.node(place) {
                    let _ = node.topic_create("shared", TopicOptions::STANDARD);
                }
            }
            10 if founding == 0 && world.node(place).is_some() => {
                // A topic ends, and another one of its name begins.
                world.node(place).unwrap().topic_destroy(&format!("of-{place}")).unwrap();
                create(&mut world, place, &mut topics);
                generations[place] += 1;
                next.remove(&(place, world.places[place].life));
            }
            _ => {}
        }
        let pause = Duration::from_millis(20 + world.chance.below(400));
        world.run(pause);
        check(&mut world, &generations);
    }
    world.heal_all();
    world.run(CONVERGENCE_MAX);
    check(&mut world, &generations);

    let mut views = world.views();
    if founding > 0 {
        // They tell names only.
        views.iter_mut().flatten().for_each(|(_, epoch, owner)| (*epoch, *owner) = (0, None));
    }
    for view in &views[1..] {
        assert_eq!(*view, views[0], "registries differ");
    }
    let living: BTreeSet<String> = (0..nodes)
        .filter(|place| world.places[*place].node.is_some())
        .map(|place| format!("of-{place}"))
        .collect();
    let mut seen: BTreeSet<String> = views[0].iter().map(|(name, ..)| name.clone()).collect();
    seen.remove("shared");
    assert_eq!(seen, living, "topics of the dead stayed, or of the living are missing");

    // And everything flows: one message each, to each subscriber once.
    for (place, generation) in generations.iter().enumerate() {
        let life = world.places[place].life;
        if let Some(node) = world.places[place].node.as_mut() {
            let number = next.entry((place, life)).or_insert(1);
            let message = payload(place, generation * GENERATION + *number);
            let done = node.publish(&format!("of-{place}"), &message, true).unwrap();
            let subscribers = (0..nodes.min(4)).filter(|other| {
                let at = (place + nodes - other) % nodes;
                world.places[at].node.is_some()
            });
            let Publish::Done(report) = done else { panic!("at {place}: forced and not done") };
            assert_eq!(report.delivered + report.queued + report.dropped, subscribers.count(), "at {place}");
            *number += 1;
        }
    }
    let owners: Vec<usize> =
        (0..nodes).filter(|place| publish_shared(&mut world, *place, &mut shared_next)).collect();
    world.run(Duration::from_secs(5));
    assert!(check(&mut world, &generations) > 100, "the run was too quiet");
    if founding == 0 && views[0].iter().any(|(name, ..)| name == "shared") {
        let &[owner] = &owners[..] else { panic!("all of {owners:?} own one topic") };
        for place in (0..nodes).filter(|place| world.places[*place].node.is_some()) {
            let heard = shared.get(&(place, world.places[place].life, owner as u8));
            assert_eq!(heard, Some(&(shared_next[&owner] - 1)), "at {place} from {owner}");
        }
    }
    world.log
}

/// Who owns "shared" in its own view publishes to it: what it says goes no way twice.
fn publish_shared(world: &mut World, place: usize, next: &mut BTreeMap<usize, u32>) -> bool {
    let Some(node) = world.node(place) else { return false };
    let own: NodeId = node.id();
    if node.topic_owner("shared").is_none_or(|(_, owner)| owner != Some(own)) {
        return false;
    }
    let number = next.entry(place).or_insert(1);
    let message = payload(place, *number);
    if let Ok(Publish::Done(_)) = node.publish("shared", &message, true) {
        *number += 1;
    }
    true
}

#[test]
fn three_nodes_converge_after_chaos() {
    for_seeds(8, |seed| drop(chaos(seed, 3, 0, false)));
}

#[test]
fn five_nodes_converge_after_chaos() {
    for_seeds(4, |seed| drop(chaos(seed, 5, 0, false)));
}

#[test]
fn nodes_that_keep_their_ids_converge_after_chaos() {
    for_seeds(4, |seed| drop(chaos(seed, 5, 0, true)));
}

#[test]
fn twenty_nodes_converge_after_chaos() {
    for_seeds(3, |seed| drop(chaos(seed, 20, 0, false)));
}

#[test]
fn founding_nodes_among_others_converge_after_chaos() {
    for_seeds(4, |seed| drop(chaos(seed, 5, 2, false)));
}

/// A node took a topic over while its founding owner could not be heard. What that one had said was still on its way, and came to
/// those who heard both a second time.
#[test]
fn what_a_founding_owner_said_comes_once_when_its_topic_is_taken_over() {
    chaos(168, 5, 2, false);
}

#[test]
fn ten_thousand_topics_are_known_everywhere_and_go_with_their_owner() {
    let mut world = World::new(1, 3, quick);
    for i in 0..10_000 {
        world.node(i % 3).unwrap().topic_create(&format!("topic-{i}"), TopicOptions::STANDARD).unwrap();
    }
    world.run(Duration::from_secs(3));
    assert!(world.views().iter().all(|view| view.len() == 10_000));
    world.crash(2);
    world.run(Duration::from_secs(1));
    assert!(world.views().iter().all(|view| view.len() == 6_667));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut world = World::new(7, 3, quick);
        world.node(0).unwrap().topic_create("of-0", TopicOptions::STANDARD).unwrap();
        world.subscribe(1, "of-0");
        world.run(Duration::from_secs(2));
        for i in 1..50 {
            let _ = world.node(0).unwrap().publish("of-0", &payload(0, i), false).unwrap();
            world.run(Duration::from_millis(20));
        }
        let arrivals = world.arrivals(1);
        (arrivals, world.node(0).unwrap().counters())
    };
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    assert_eq!(first.0.len(), 49);
    // With every kind of fault, event by event.
    let (first, second) = (chaos(7, 5, 0, false), chaos(7, 5, 0, false));
    assert!(first.len() > 100, "{}", first.len());
    for (number, (one, other)) in first.iter().zip(&second).enumerate() {
        assert_eq!(one, other, "event {number}");
    }
    assert_eq!(first.len(), second.len());
}
