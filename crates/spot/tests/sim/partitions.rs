//! Partitions on simulated nodes: placed, moved and lost.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use spot::cluster::{Arrival, NodeId, Policy, TopicOptions, node::Publish, partition};

use crate::{for_seeds, number, patient, quick, sized, world::World};

const COUNT: u32 = 16;
const FOREVER: TopicOptions =
    TopicOptions { policy: Policy::Block { timeout: Duration::from_secs(1 << 30) }, replay: 0 };

/// Who owns each partition in the view of all, who have to agree.
fn owners(world: &mut World) -> Vec<NodeId> {
    let views = world.views();
    for view in &views {
        assert_eq!(view, &views[0], "registries differ");
    }
    let owned: BTreeMap<_, _> =
        views[0].iter().map(|(name, _, owner)| (name.as_str(), owner.expect("a node of our kind"))).collect();
    (0..COUNT).map(|k| owned[partition::partition_name("p", k).as_str()]).collect()
}

fn members(world: &mut World, places: &[usize]) -> Vec<NodeId> {
    places.iter().map(|place| world.node(*place).unwrap().id()).collect()
}

fn expected(members: &[NodeId]) -> Vec<NodeId> {
    (0..COUNT).map(|k| partition::winner("p", k, members.iter().copied()).unwrap()).collect()
}

fn join(world: &mut World, place: usize) {
    world.node(place).unwrap().topic_create_partitioned("p", COUNT, FOREVER).unwrap();
}

fn settle(world: &mut World) {
    world.run(Duration::from_secs(8));
}

fn placed(seed: u64) {
    let mut world = World::new(seed, 5, quick);
    world.run(Duration::from_secs(3));
    for place in 0..3 {
        join(&mut world, place);
    }
    settle(&mut world);
    let three = members(&mut world, &[0, 1, 2]);
    assert_eq!(owners(&mut world), expected(&three));

    join(&mut world, 3);
    settle(&mut world);
    let four = members(&mut world, &[0, 1, 2, 3]);
    assert_eq!(owners(&mut world), expected(&four));

    // One goes with a word, one without.
    world.node(1).unwrap().topic_destroy_partitioned("p").unwrap();
    settle(&mut world);
    let rest = members(&mut world, &[0, 2, 3]);
    assert_eq!(owners(&mut world), expected(&rest));
    world.crash(3);
    settle(&mut world);
    let rest = members(&mut world, &[0, 2]);
    assert_eq!(owners(&mut world), expected(&rest));

    // The last one takes them with it.
    for place in [0, 2] {
        world.node(place).unwrap().topic_destroy_partitioned("p").unwrap();
        settle(&mut world);
    }
    assert!(world.views().iter().all(Vec::is_empty), "{:?}", world.views());
}

#[test]
fn partitions_are_where_the_draw_says_after_members_come_and_go() {
    for_seeds(5, placed);
}

/// Members come and go with a word while all publish: nothing is lost, repeated or out of order, by publisher and key.
fn moves_lose_nothing(seed: u64) {
    let mut world = World::new(seed, 4, patient);
    world.run(Duration::from_secs(3));
    join(&mut world, 0);
    settle(&mut world);
    for place in 0..4 {
        world.subscribe(place, "p#*");
    }
    settle(&mut world);
    let mut is_member = [true, false, false, false];
    let mut next = [[0_u32; COUNT as usize]; 4];
    let mut seen = [[[0_u32; COUNT as usize]; 4]; 4];
    let mut check = |world: &mut World| {
        for (place, seen) in seen.iter_mut().enumerate() {
            for arrival in world.arrivals(place) {
                let Arrival::Message { payload, topic } = &arrival else { panic!("at {place}: {arrival:?}") };
                let (publisher, number) = number(payload);
                let (_, k) = partition::parse_partition(topic.as_str()).unwrap();
                let expected = &mut seen[usize::from(publisher)][k as usize];
                assert_eq!(number, *expected, "at {place} from {publisher} in {k}");
                *expected += 1;
            }
        }
        seen
    };
    let mut moves = 0;
    for round in 0..150 {
        for (place, next) in next.iter_mut().enumerate() {
            for _ in 0..world.chance.below(30) {
                let k = world.chance.below(u64::from(COUNT)) as usize;
                let message: Bytes = sized(place, next[k], 20 + world.chance.below(300) as usize);
                let name = partition::partition_name("p", k as u32);
                if let Publish::Done(_) = world.node(place).unwrap().publish(&name, &message, false).unwrap()
                {
                    next[k] += 1;
                }
            }
        }
        if round % 10 == 5 {
            let place = world.chance.below(4) as usize;
            if is_member[place] && is_member.iter().filter(|m| **m).count() > 1 {
                world.node(place).unwrap().topic_destroy_partitioned("p").unwrap();
                is_member[place] = false;
                moves += 1;
            } else if !is_member[place] {
                // Who has just left may still have something to give away.
                is_member[place] =
                    world.node(place).unwrap().topic_create_partitioned("p", COUNT, FOREVER).is_ok();
                moves += u32::from(is_member[place]);
            }
        }
        if world.chance.one_in(10) {
            let place = world.chance.below(4) as usize;
            world.places[place].takes = [1, 5, usize::MAX][world.chance.below(3) as usize];
        }
        let pause = Duration::from_millis(10 + world.chance.below(800));
        world.run(pause);
        check(&mut world);
    }
    world.heal_all();
    world.run(Duration::from_secs(60));
    let seen = check(&mut world);
    assert_eq!(seen, [next; 4]);
    assert!(moves > 5, "{moves} moves only");
    let there: Vec<usize> = (0..4).filter(|place| is_member[*place]).collect();
    let there = members(&mut world, &there);
    assert_eq!(owners(&mut world), expected(&there));
}

#[test]
fn a_move_loses_repeats_and_reorders_nothing() {
    for_seeds(2, moves_lose_nothing);
}

/// An owner dies with what it had: that is told, the others go on, and what nobody had acknowledged is sent again.
fn crash_is_told(seed: u64) {
    let mut world = World::new(seed, 3, quick);
    world.run(Duration::from_secs(3));
    for place in 0..2 {
        join(&mut world, place);
    }
    settle(&mut world);
    // One listens and owns nothing, the other owns what it hears of the dying one afterwards.
    let listening = [0, 2];
    for place in listening {
        world.subscribe(place, "p#*");
    }
    settle(&mut world);
    let before = owners(&mut world);
    let dying = world.node(1).unwrap().id();
    let publish = |world: &mut World, number: u32| {
        for k in 0..COUNT {
            let message = sized(2, number, 30);
            let name = partition::partition_name("p", k);
            let done = world.node(2).unwrap().publish(&name, &message, false).unwrap();
            assert!(matches!(done, Publish::Done(_)));
        }
    };
    publish(&mut world, 0);
    world.run(Duration::from_secs(1));
    for place in listening {
        assert_eq!(world.arrivals(place).len(), COUNT as usize);
    }
    world.crash(1);
    settle(&mut world);
    publish(&mut world, 1);
    world.run(Duration::from_secs(2));
    for place in listening {
        let mut told = 0;
        let mut came = 0;
        for arrival in world.arrivals(place) {
            match arrival {
                Arrival::Gap { topic, .. } => {
                    let topic = topic.to_string();
                    let (_, k) = partition::parse_partition(&topic).unwrap();
                    assert_eq!(before[k as usize], dying, "at {place}");
                    told += 1;
                }
                Arrival::Message { .. } => came += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, before.iter().filter(|owner| **owner == dying).count(), "at {place}");
        assert_eq!(came, COUNT);
    }
}

#[test]
fn the_partitions_of_a_dead_owner_go_on_elsewhere_and_the_gap_is_told() {
    for_seeds(5, crash_is_told);
}

/// What a place may conclude of the messages of one publisher in one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Account {
    /// The number that comes next,
    expected: u32,
    /// unless a gap was told. After one, what came before may come again.
    gap: bool,
}

/// A member joins, dies, stops or cannot be reached, again and again, while it is given partitions: what is lost with it is told
/// in its place, and what it had not taken stays where it was.
fn dies_while_it_is_given(seed: u64) {
    let mut world = World::new(seed, 4, patient);
    world.run(Duration::from_secs(3));
    join(&mut world, 0);
    settle(&mut world);
    // One of them is the other member, and two are none.
    let others = [0, 2, 3];
    for place in others {
        world.subscribe(place, "p#*");
    }
    settle(&mut world);
    let mut next = [[0_u32; COUNT as usize]; 4];
    let mut accounts = [[[Account::default(); COUNT as usize]; 4]; 4];
    let mut check = |world: &mut World| {
        for place in others {
            for arrival in world.arrivals(place) {
                let (topic, payload) = match &arrival {
                    Arrival::Message { topic, payload } => (topic.to_string(), Some(payload)),
                    Arrival::Gap { topic, .. } => (topic.to_string(), None),
                    // Of whatever it hears.
                    _ => {
                        accounts[place].iter_mut().flatten().for_each(|account| account.gap = true);
                        continue;
                    }
                };
                let (_, k) = partition::parse_partition(&topic).unwrap();
                let Some(payload) = payload else {
                    accounts[place].iter_mut().for_each(|of| of[k as usize].gap = true);
                    continue;
                };
                let (publisher, number) = number(payload);
                let account = &mut accounts[place][usize::from(publisher)][k as usize];
                let what = format!("at {place} from {publisher} in {k}: {number} after {account:?}");
                assert!(account.gap || number >= account.expected, "again {what}");
                assert!(account.gap || number <= account.expected, "missing {what}");
                if number >= account.expected {
                    *account = Account { expected: number + 1, gap: false };
                }
            }
        }
        accounts
    };
    let publish = |world: &mut World, next: &mut [[u32; COUNT as usize]; 4], place: usize, k: u32| {
        let len = 20 + world.chance.below(300) as usize;
        let message = sized(place, next[place][k as usize], len);
        let name = partition::partition_name("p", k);
        let done = world.node(place).unwrap().publish(&name, &message, false);
        let done = matches!(done, Ok(Publish::Done(_)));
        next[place][k as usize] += u32::from(done);
        done
    };
    for _ in 0..40 {
        for k in 0..COUNT {
            for _ in 0..world.chance.below(60) {
                let place = others[world.chance.below(3) as usize];
                publish(&mut world, &mut next, place, k);
            }
        }
        let place = [0, 3][world.chance.below(2) as usize];
        world.places[place].takes = [1, 5, usize::MAX][world.chance.below(3) as usize];
        let pause = 1000 + world.chance.below(4500);
        if world.node(1).is_none() {
            world.start(1);
        } else if !world.node(1).unwrap().is_member("p") {
            join(&mut world, 1);
        } else {
            match world.chance.below(4) {
                0 | 1 => world.crash(1),
                2 => {
                    // Long enough to be taken for dead, or not.
                    world.freeze(1, true);
                    world.run(Duration::from_millis(pause));
                    world.freeze(1, false);
                }
                _ => {
                    let other = others[world.chance.below(3) as usize];
                    world.cut(1, other);
                    world.run(Duration::from_millis(pause));
                    world.heal(1, other);
                }
            }
        }
        let pause = Duration::from_millis(5 + world.chance.below(100) * world.chance.below(20));
        world.run(pause);
        check(&mut world);
    }
    world.heal_all();
    world.run(Duration::from_secs(60));
    check(&mut world);
    for place in others {
        for k in 0..COUNT {
            assert!(publish(&mut world, &mut next, place, k), "{k} is stuck for {place}");
        }
    }
    world.run(Duration::from_secs(5));
    let accounts = check(&mut world);
    for place in others {
        for publisher in others {
            let seen = accounts[place][publisher].map(|account| account.expected);
            assert_eq!(seen, next[publisher], "at {place} from {publisher}");
        }
    }
}

#[test]
fn a_member_that_dies_while_it_is_given_partitions_loses_nothing_in_silence() {
    for_seeds(3, dies_while_it_is_given);
}
