//! Streams without an owner, as `SpotPubSub` uses them, through cuts, freezes and crashes.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use spot::cluster::{Arrival, node::Publish};

use crate::{CONVERGENCE_MAX, for_seeds, payload, quick, world::World};

/// Who published, in which life, and its how manieth message.
fn said(place: usize, life: u64, number: u32) -> Bytes {
    let mut bytes = payload(place, number).to_vec();
    bytes[5..13].copy_from_slice(&life.to_le_bytes());
    bytes.into()
}

fn heard(payload: &Bytes) -> (usize, u64, u32) {
    let (place, number) = crate::number(payload);
    (usize::from(place), u64::from_le_bytes(payload[5..13].try_into().unwrap()), number)
}

/// What a subscriber knows of a publisher's life.
#[derive(Default)]
struct Account {
    next: u32,
    /// It was told since then that something may be missing.
    told: bool,
}

fn streams(seed: u64, nodes: usize) {
    let mut world = World::new(seed, nodes, quick);
    for place in 0..nodes {
        world.subscribe_open(place, "from-*");
    }
    world.run(Duration::from_secs(3));
    let mut next: BTreeMap<(usize, u64), u32> = BTreeMap::new();
    let mut accounts: BTreeMap<(usize, u64, usize, u64), Account> = BTreeMap::new();
    let mut checked = 0;
    let publish = |world: &mut World, place: usize, next: &mut BTreeMap<(usize, u64), u32>| {
        let life = world.places[place].life;
        let number = next.entry((place, life)).or_insert(0);
        let message = said(place, life, *number);
        let Some(node) = world.node(place) else { return };
        let Ok(Publish::Done(_)) = node.publish_open(&format!("from-{place}"), &message) else {
            panic!("at {place}: who has no owner never waits")
        };
        *number += 1;
    };
    let mut check = |world: &mut World| {
        for place in 0..nodes {
            let life = world.places[place].life;
            for arrival in world.open_arrivals(place) {
                let Arrival::Message { payload, .. } = arrival else {
                    for (key, account) in &mut accounts {
                        account.told |= (key.0, key.1) == (place, life);
                    }
                    continue;
                };
                let (from, its_life, number) = heard(&payload);
                let key = (place, life, from, its_life);
                let first = !accounts.contains_key(&key);
                let account = accounts.entry(key).or_default();
                assert!(number >= account.next, "at {place} from {from}: {number} again or late");
                let missing = number - account.next;
                assert!(
                    first || missing == 0 || account.told,
                    "at {place} from {from}: {missing} messages before {number} are missing in silence"
                );
                *account = Account { next: number + 1, told: false };
                checked += 1;
            }
        }
        checked
    };
    for _ in 0..120 {
        for place in 0..nodes {
            for _ in 0..world.chance.below(12) {
                publish(&mut world, place, &mut next);
            }
        }
        let place = world.chance.below(nodes as u64) as usize;
        let other = world.chance.below(nodes as u64) as usize;
        match world.chance.below(10) {
            0 if place != other => world.cut(place, other),
            1 | 2 => world.heal(place, other),
            3 if world.places.iter().filter(|place| place.node.is_some()).count() > 2 => world.crash(place),
            4 | 5 if world.node(place).is_none() => {
                world.start(place);
                world.subscribe_open(place, "from-*");
            }
            6 => world.freeze(place, true),
            7 | 8 => world.freeze(place, false),
            _ => world.places[place].takes = [1, 20, usize::MAX][world.chance.below(3) as usize],
        }
        let pause = Duration::from_millis(20 + world.chance.below(400));
        world.run(pause);
        check(&mut world);
    }
    world.heal_all();
    world.run(CONVERGENCE_MAX);
    check(&mut world);
    // And everything flows: one message of each, to each once.
    let before = check(&mut world);
    let living: Vec<usize> = (0..nodes).filter(|place| world.places[*place].node.is_some()).collect();
    for place in &living {
        publish(&mut world, *place, &mut next);
    }
    world.run(Duration::from_secs(2));
    assert_eq!(check(&mut world) - before, living.len() * living.len());
    assert!(before > 500, "the run was too quiet: {before}");
}

#[test]
fn streams_without_an_owner_repeat_nothing_and_lose_nothing_in_silence() {
    for_seeds(4, |seed| streams(seed, 4));
}
