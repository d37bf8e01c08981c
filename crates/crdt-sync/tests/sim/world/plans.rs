//! What is going to happen in a world: drawn when it begins, all of it from the seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crdt_sync::session::SyncMode;

use super::{TROUBLE, Trouble, What, World};
use crate::{random::Random, replica::Replica};

impl World {
    pub(crate) fn new(seed: u64, print: bool) -> Self {
        let mut random = Random(seed);
        let count = 2 + random.below(5) as usize;
        let trouble =
            Trouble { loss: random.below(40), repeat: random.below(20), delay_max_ms: 1 + random.below(400) };
        let liar = count > 2 && random.percent(20);
        let mut world = Self { liar, ..Self::empty(random, trouble, print) };
        if count > 2 && world.random.percent(30) {
            world.slow = Some((world.random.below(count as u64) as usize, 2 + world.random.below(9)));
        }
        // Most groups use one way to synchronise; a mixed one gets there too.
        let group = world.random.below(10);
        for index in 0..count {
            world.add_replica(match group {
                0..=3 => SyncMode::Vectors,
                4..=8 => SyncMode::Dag,
                _ if index % 2 == 0 => SyncMode::Vectors,
                _ => SyncMode::Dag,
            });
        }
        // Before anything else: all that are there know each other.
        world.plan(Duration::ZERO, What::Look);
        world.plan_trouble();
        if world.random.percent(40) {
            let join = world.random.ms(TROUBLE.as_millis() as u64);
            world.replicas[count - 1].crash();
            world.members -= 1;
            world.plan(join, What::Join(count - 1));
        }
        world
    }

    /// The same, which tells in the end what happened, as one number.
    pub(crate) fn traced(self) -> Self {
        Self { trace: Some(0), ..self }
    }

    pub(super) fn empty(random: Random, trouble: Trouble, print: bool) -> Self {
        Self {
            now: Duration::ZERO,
            print,
            queue: BTreeMap::new(),
            events: 0,
            replicas: Vec::new(),
            wakes: Vec::new(),
            side: Vec::new(),
            reached: Vec::new(),
            misled: false,
            liar: false,
            trouble,
            slow: None,
            acknowledged: BTreeSet::new(),
            sessions: 0,
            counts: BTreeMap::new(),
            members: 0,
            trace: None,
            gone: None,
            backup: None,
            windows: Default::default(),
            #[cfg(feature = "crypto")]
            signed: Default::default(),
            random,
        }
    }

    pub(super) fn add_replica(&mut self, sync: SyncMode) {
        let index = self.replicas.len();
        let (session, seed) = (self.new_session(), self.random.next());
        self.replicas.push(Replica::new(index, session, sync, seed));
        self.wakes.push(Duration::ZERO);
        self.side.push(0);
        self.reached.push(Default::default());
        self.members += 1;
        self.plan(Duration::ZERO, What::Wake(index));
    }

    /// A world in which the network is bad and nothing else goes wrong, but that the first replica's store is put back from a
    /// backup, and that it goes on under its session before it hears of anybody. In a group that uses state vectors: a node of the
    /// DAG names what it follows by its hash, so that there it comes out with the first one that follows the other patch.
    pub(crate) fn with_backup(seed: u64, print: bool) -> Self {
        let mut random = Random(seed ^ 0x6261_636b_7570);
        let trouble =
            Trouble { loss: random.below(40), repeat: random.below(20), delay_max_ms: 1 + random.below(400) };
        let (mut world, count) = (Self::empty(random, trouble, print), 2 + seed % 4);
        for _ in 0..count {
            world.add_replica(SyncMode::Vectors);
        }
        world.plan(Duration::ZERO, What::Look);
        let ms = TROUBLE.as_millis() as u64;
        for index in 0..world.replicas.len() {
            for _ in 0..world.random.below(40) {
                let at = world.random.ms(ms);
                world.plan(at, What::Edit(index));
            }
        }
        let (backup, lost, after) = (world.random.ms(ms / 2), world.random.ms(ms / 2), world.random.ms(3000));
        world.plan(backup, What::Backup);
        world.plan(backup + lost, What::PutBack);
        for _ in 0..world.random.below(8) {
            let at = world.random.ms(1000);
            world.plan(backup + lost + at, What::Edit(0));
        }
        // Before all is well: a partition of then would last.
        world.plan((backup + lost + after).min(TROUBLE - Duration::from_millis(1)), What::Partition);
        world
    }

    pub(super) fn plan_trouble(&mut self) {
        let ms = TROUBLE.as_millis() as u64;
        for index in 0..self.replicas.len() {
            for _ in 0..self.random.below(60) {
                let at = self.random.ms(ms);
                self.plan(at, What::Edit(index));
            }
            for _ in 0..self.random.below(3) {
                let (crash, pause) = (self.random.ms(ms), self.random.ms(4000));
                self.plan(crash, What::Crash(index));
                self.plan(crash + pause, What::Restart(index));
            }
            for _ in 0..self.random.below(6) {
                let at = self.random.ms(ms);
                self.plan(at, What::Compact(index));
            }
        }
        for _ in 0..self.random.below(6) {
            let at = self.random.ms(ms);
            self.plan(at, What::Partition);
        }
        if self.random.percent(40) {
            for index in 0..self.replicas.len() {
                for _ in 0..self.random.below(4) {
                    let (from, length) = (self.random.ms(ms), self.random.ms(4000));
                    self.replicas[index].disk.fails.push(from..(from + length).min(TROUBLE));
                }
            }
        }
        if self.random.percent(40) {
            self.misled = true;
            for index in 0..self.replicas.len() {
                for _ in 0..self.random.below(20) {
                    let at = self.random.ms(ms);
                    self.plan(at, What::Discover(index));
                }
                // In the end it is right.
                self.plan(TROUBLE + Duration::from_millis(1), What::Discover(index));
            }
        }
        if self.random.percent(30) {
            // It goes on for a while when the network is good again, as long as it is not tired of it.
            for _ in 0..1 + self.random.below(60) {
                let at = self.random.ms(ms * 3 / 2);
                self.plan(at, What::Outside);
            }
        }
    }
}
