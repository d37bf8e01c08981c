//! The simulated world: time, the network, what goes wrong, and what must hold all the same.

#[cfg(feature = "crypto")]
use std::sync::Arc;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

#[cfg(feature = "crypto")]
use crdt_core::StateVector;
use crdt_core::{SessionId, Timestamp};
use crdt_sync::{
    PatchRecord, PeerId, SyncMessage,
    dag::{Link, NodeHash},
    session::{Input, SyncMode},
};

#[cfg(feature = "crypto")]
use crate::forger;
use crate::{
    outsider,
    replica::{Replica, Wish},
};

/// How long replicas edit and things go wrong.
const TROUBLE: Duration = Duration::from_secs(20);
/// How long after that they may take to agree.
const PEACE: Duration = Duration::from_secs(60);
/// More events than any good run has: above it something runs in circles.
const EVENTS_MAX: u64 = 400_000;

#[derive(Debug, Clone)]
enum What {
    Deliver {
        to: usize,
        input: Box<Input>,
    },
    Sync(usize),
    Wake(usize),
    Edit(usize),
    Compact(usize),
    Crash(usize),
    Restart(usize),
    Join(usize),
    Partition,
    Outside,
    /// Discovery tells a replica who is there, rightly or wrongly.
    Discover(usize),
    /// The first replica's store is copied, and put back.
    Backup,
    PutBack,
    #[cfg(feature = "crypto")]
    Attack,
    /// One who may only read signs in another's name.
    #[cfg(feature = "crypto")]
    Lie,
    /// A replica is told that a writer is on the list no longer.
    #[cfg(feature = "crypto")]
    Revoke(usize),
}

pub(crate) struct World {
    random: Random,
    now: Duration,
    print: bool,
    queue: BTreeMap<(Duration, u64), What>,
    events: u64,
    replicas: Vec<Replica>,
    /// When each replica is going to be woken.
    wakes: Vec<Duration>,
    /// Which replicas can talk: those with the same number.
    side: Vec<u8>,
    /// The last one tells lies when it has one.
    liar: bool,
    trouble: Trouble,
    /// One whose messages take so many times longer, both ways.
    slow: Option<(usize, u64)>,
    /// Made durable by its author: must be everywhere in the end.
    acknowledged: BTreeSet<Timestamp>,
    sessions: u64,
    /// How often happened what the machines do not count.
    counts: BTreeMap<&'static str, u64>,
    /// How many replicas have started; the last one may come late.
    members: usize,
    trace: u64,
    /// Who has gone for good, and the sessions under which it wrote.
    gone: Option<(usize, BTreeSet<SessionId>)>,
    /// In a world in which a store is put back, what was in it.
    backup: Option<Vec<PatchRecord>>,
    /// In a world in which patches are signed, all that were broadcast, whose they are, and the writer who goes on in the
    /// sessions of others when it passes on their patches.
    #[cfg(feature = "crypto")]
    signed: Signed,
}

#[cfg(feature = "crypto")]
#[derive(Default)]
struct Signed {
    made: Vec<PatchRecord>,
    owners: BTreeMap<SessionId, usize>,
    liar: Option<usize>,
    /// The list of those who may write, as all begin with it.
    list: forger::List,
    /// How many replicas write; those after them have no key.
    writers: usize,
    /// Who is taken from the list.
    revoked: Option<usize>,
}

/// How bad the network is, in per cent.
struct Trouble {
    loss: u64,
    repeat: u64,
    delay_max_ms: u64,
}

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn ms(&mut self, below: u64) -> Duration {
        Duration::from_micros(self.below(below * 1000))
    }
}

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
        world.plan_trouble();
        if world.random.percent(40) {
            let join = world.random.ms(TROUBLE.as_millis() as u64);
            world.replicas[count - 1].crash();
            world.members -= 1;
            world.plan(join, What::Join(count - 1));
        }
        world
    }

    fn empty(random: Random, trouble: Trouble, print: bool) -> Self {
        Self {
            now: Duration::ZERO,
            print,
            queue: BTreeMap::new(),
            events: 0,
            replicas: Vec::new(),
            wakes: Vec::new(),
            side: Vec::new(),
            liar: false,
            trouble,
            slow: None,
            acknowledged: BTreeSet::new(),
            sessions: 0,
            counts: BTreeMap::new(),
            members: 0,
            trace: 0,
            gone: None,
            backup: None,
            #[cfg(feature = "crypto")]
            signed: Signed::default(),
            random,
        }
    }

    /// A world in which patches are signed, and somebody is about who would like to change the document without the right to.
    #[cfg(feature = "crypto")]
    pub(crate) fn with_signatures(seed: u64, print: bool) -> Self {
        let mut random = Random(seed ^ 0x7369_676e);
        let trouble =
            Trouble { loss: random.below(40), repeat: random.below(20), delay_max_ms: 1 + random.below(400) };
        let mut world = Self::empty(random, trouble, print);
        let count = 2 + world.random.below(forger::WRITERS as u64 - 1) as usize;
        let sync = if world.random.percent(50) { SyncMode::Dag } else { SyncMode::Vectors };
        let binds = world.random.percent(70);
        let list = forger::List { binds, waits_for_bound: binds && world.random.percent(60), without: None };
        (world.signed.list, world.signed.writers) = (list, count);
        // One who only reads and has no key, where nobody waits for it.
        let readers = usize::from(list.waits_for_bound && world.random.percent(70));
        for index in 0..count + readers {
            world.add_replica(sync);
            world.replicas[index].guard(Arc::new(move |number| list.guard(number, count)));
            world.signed.owners.insert(world.replicas[index].session, index);
        }
        world.signed.liar = world.random.percent(50).then_some(count - 1);
        let ms = TROUBLE.as_millis() as u64;
        for index in 0..count + readers {
            for _ in 0..world.random.below(12) {
                let at = world.random.ms(ms);
                if index < count {
                    world.plan(at, What::Edit(index));
                }
            }
            if world.random.percent(40) {
                let (crash, pause) = (world.random.ms(ms), world.random.ms(6000));
                world.plan(crash, What::Crash(index));
                world.plan(crash + pause, What::Restart(index));
            }
        }
        for _ in 0..world.random.below(30) {
            let at = world.random.ms(ms * 3 / 2);
            world.plan(at, What::Attack);
        }
        if world.random.percent(50) {
            for index in 0..count + readers {
                let at = world.random.ms(ms);
                world.plan(at, What::Compact(index));
            }
            // It speaks in the names of those who are there.
            for _ in 0..world.random.below(40) {
                let at = world.random.ms(ms * 3 / 2);
                world.plan(at, What::Outside);
            }
            for _ in 0..world.random.below(40) {
                let at = world.random.ms(ms * 3 / 2);
                world.plan(at, What::Lie);
            }
        }
        if world.random.percent(40) {
            let revoked = world.random.below(count as u64) as usize;
            world.signed.revoked = Some(revoked);
            let begins = world.random.ms(ms * 2 / 3);
            for index in 0..count + readers {
                let told = begins + world.random.ms(ms / 3);
                world.plan(told, What::Revoke(index));
            }
        }
        for _ in 0..world.random.below(4) {
            let at = world.random.ms(ms);
            world.plan(at, What::Partition);
        }
        world
    }

    /// Runs to the end a world in which patches are signed: all agree, on what its authors made and nothing else. Returns how
    /// many patches were refused.
    #[cfg(feature = "crypto")]
    pub(crate) fn run_with_signatures(mut self) -> Result<u64, String> {
        self.run_to_end()?;
        self.check_end()?;
        // Who has gone was stopped with an edit in its hands that nobody saw.
        for replica in self.staying() {
            let made = &self.signed.made;
            if let Some(forged) = replica.beyond_snapshot().iter().find(|record| !made.contains(record)) {
                return Err(format!("{} took in {forged:?}", replica.id));
            }
            if let Some(id) = replica.doc.ids.iter().find(|id| !made.iter().any(|made| made.id == **id)) {
                return Err(format!("{} has {id} in its document, which nobody made", replica.id));
            }
        }
        let staying: Vec<&Replica> = self.staying().collect();
        if staying.iter().any(|replica| replica.kept_content() != staying[0].kept_content()) {
            return Err("some have other patches under the same times".to_owned());
        }
        Ok(self.replicas.iter().map(|replica| replica.not_allowed).sum())
    }

    #[cfg(feature = "crypto")]
    fn attack(&mut self) {
        if self.signed.made.is_empty() {
            return;
        }
        let at = self.random.below(self.signed.made.len() as u64) as usize;
        let heard = &self.signed.made[at];
        let owner = self.signed.owners[&heard.session()];
        let forged = forger::attack(&mut self.random, heard, owner);
        for to in 0..self.replicas.len() {
            let pause = self.random.ms(200);
            let input = Input::Heard(forged.clone()).into();
            self.plan(self.now + pause, What::Deliver { to, input });
        }
    }

    /// One on the list says something to all, signed.
    #[cfg(feature = "crypto")]
    fn lie(&mut self) {
        let mut all = StateVector::new();
        self.replicas.iter().for_each(|replica| all.merge(&replica.kept_vector()));
        let (from, message) = self.signed.list.lie(&mut self.random, self.signed.writers, all);
        for to in 0..self.replicas.len() {
            let pause = self.random.ms(20);
            let input = Input::Message { from: from.clone(), message: message.clone() };
            self.plan(self.now + pause, What::Deliver { to, input: input.into() });
        }
    }

    fn add_replica(&mut self, sync: SyncMode) {
        let index = self.replicas.len();
        let (session, seed) = (self.new_session(), self.random.next());
        self.replicas.push(Replica::new(index, session, sync, seed));
        self.wakes.push(Duration::ZERO);
        self.side.push(0);
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

    fn new_session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId::new(SessionId::USER_MIN.get() + self.sessions).unwrap()
    }

    fn plan(&mut self, at: Duration, what: What) {
        self.events += 1;
        self.queue.insert((at, self.events), what);
    }

    fn plan_trouble(&mut self) {
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

    /// Runs to the end. Returns a number that stands for all that happened, and how often what did.
    pub(crate) fn run(mut self) -> Result<(u64, BTreeMap<&'static str, u64>), String> {
        self.run_to_end()?;
        self.check_end()?;
        let mut counts = BTreeMap::new();
        for (name, count) in self.replicas.iter().flat_map(|replica| replica.machine.counters().named()) {
            *counts.entry(name).or_insert(0) += count;
        }
        for name in ["store failures", "stopped", "found"] {
            counts.insert(name, self.counts.get(name).copied().unwrap_or(0));
        }
        let failures = self.replicas.iter().map(|replica| replica.disk.failures).sum::<u64>();
        *counts.entry("store failures").or_insert(0) += failures;
        Ok((self.trace, counts))
    }

    /// Runs to the end a world in which a store was put back. Returns whether replicas differ: then those whose vectors say that
    /// they have the same know that they do not, and the one that was put back takes no edits.
    pub(crate) fn run_with_backup(mut self) -> Result<bool, String> {
        self.run_to_end()?;
        let kept: Vec<_> = self.replicas.iter().map(|one| (one.kept_vector(), one.kept_content())).collect();
        let differ = kept.iter().any(|one| *one != kept[0]);
        for (at, (vector, content)) in kept.iter().enumerate() {
            let unlike = kept.iter().any(|(other, theirs)| vector == other && content != theirs);
            if unlike && !self.replicas[at].noticed {
                return Err(format!(
                    "{} has other patches than one with the same times",
                    self.replicas[at].id
                ));
            }
        }
        // Whose peers have folded all that they have of its session can't be shown a patch that differs.
        let own = self.replicas[0].session;
        let mut others = self.replicas[1..].iter().flat_map(Replica::beyond_snapshot);
        if differ && !self.replicas[0].is_stopped() && others.any(|record| record.session() == own) {
            return Err("the one that was put back has not noticed it".to_owned());
        }
        Ok(differ)
    }

    fn run_to_end(&mut self) -> Result<(), String> {
        while let Some(((at, _), what)) = self.queue.pop_first() {
            if at > TROUBLE + PEACE {
                break;
            }
            if self.events > EVENTS_MAX {
                return Err(format!("still busy after {EVENTS_MAX} events, at {at:?}"));
            }
            if at >= TROUBLE && self.now < TROUBLE {
                self.heal()?;
            }
            self.now = at;
            if self.print {
                eprintln!("{at:>12?} {what:?}");
            }
            self.trace = (self.trace.rotate_left(5) ^ at.as_nanos() as u64).wrapping_mul(0x0100_0000_01b3);
            self.step(what)?;
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), String> {
        self.now = TROUBLE;
        self.trouble = Trouble { loss: 0, repeat: 0, delay_max_ms: 20 };
        self.side.fill(0);
        self.members = self.replicas.len();
        let staying = (0..self.replicas.len()).filter(|index| !self.has_gone(*index)).collect::<Vec<_>>();
        staying.into_iter().try_for_each(|index| self.restart(index))
    }

    /// Whether a replica is not to come again: its key was revoked.
    fn has_gone(&self, index: usize) -> bool {
        self.gone.as_ref().is_some_and(|(gone, _)| *gone == index)
    }

    fn staying(&self) -> impl Iterator<Item = &Replica> {
        let staying = self.replicas.iter().enumerate().filter(|(index, _)| !self.has_gone(*index));
        staying.map(|(_, replica)| replica)
    }

    /// What was acknowledged and may be lost: of one who was taken from the list before anybody had it.
    fn may_be_lost(&self, id: Timestamp) -> bool {
        self.gone.as_ref().is_some_and(|(_, sessions)| sessions.contains(&id.sid))
    }

    #[cfg(feature = "crypto")]
    fn revoke(&mut self, index: usize) {
        let Some(revoked) = self.signed.revoked else { return };
        let list = forger::List { without: Some(revoked), ..self.signed.list };
        let writers = self.signed.writers;
        self.replicas[index].revoke(Arc::new(move |number| list.guard(number, writers)));
        if index == revoked {
            let owners = self.signed.owners.iter().filter(|(_, owner)| **owner == revoked);
            self.gone = Some((revoked, owners.map(|(sid, _)| *sid).collect()));
            self.replicas[index].crash();
        }
    }

    fn step(&mut self, what: What) -> Result<(), String> {
        let mut wishes = Vec::new();
        let actor = match what {
            What::Partition => {
                let sides: Vec<u8> = (0..self.side.len()).map(|_| self.random.below(2) as u8).collect();
                self.side = if self.random.percent(40) { vec![0; self.side.len()] } else { sides };
                return Ok(());
            }
            What::Outside => {
                self.outside();
                return Ok(());
            }
            #[cfg(feature = "crypto")]
            What::Attack => {
                self.attack();
                return Ok(());
            }
            #[cfg(feature = "crypto")]
            What::Lie => {
                self.lie();
                return Ok(());
            }
            #[cfg(feature = "crypto")]
            What::Revoke(index) => {
                self.revoke(index);
                return Ok(());
            }
            What::Backup => {
                self.backup = self.replicas[0].kept();
                return Ok(());
            }
            What::PutBack => {
                // Nobody is heard until the next partition, or until all is well.
                self.side[0] = 2;
                let seed = self.random.next();
                if let Some(backup) = &self.backup {
                    self.replicas[0].put_back(backup, self.now, seed)?;
                    self.plan(self.now, What::Wake(0));
                }
                return Ok(());
            }
            What::Restart(index) if index >= self.members || self.has_gone(index) => return Ok(()),
            What::Restart(index) => return self.restart(index),
            What::Join(index) => {
                self.members = self.replicas.len();
                return self.restart(index);
            }
            What::Crash(index) => {
                self.replicas[index].crash();
                return Ok(());
            }
            What::Deliver { to: index, .. }
            | What::Sync(index)
            | What::Wake(index)
            | What::Edit(index)
            | What::Compact(index)
            | What::Discover(index)
                if self.replicas[index].down =>
            {
                return Ok(());
            }
            What::Wake(index) | What::Edit(index) | What::Compact(index)
                if self.replicas[index].disk.is_waited_for() =>
            {
                return Ok(());
            }
            What::Discover(index) => {
                let peers = self.peers_found(index);
                let changes = self.replicas[index].discover(self.now, peers, &mut wishes)?;
                *self.counts.entry("found").or_insert(0) += changes;
                index
            }
            What::Deliver { to, input } => {
                self.replicas[to].deliver(self.now, *input, &mut wishes)?;
                to
            }
            What::Sync(index) => {
                let kept = self.random.below(4) as usize;
                self.replicas[index].sync(self.now, kept, &mut wishes)?;
                index
            }
            What::Wake(index) => {
                if self.replicas[index].machine.wakes_at() <= self.now {
                    self.replicas[index].input(self.now, Input::Tick, &mut wishes)?;
                }
                index
            }
            What::Edit(index) => {
                self.edit(index, &mut wishes)?;
                index
            }
            What::Compact(index) => {
                let others = self.awaited();
                self.replicas[index].compact(&others)?;
                index
            }
        };
        self.fulfil(actor, wishes);
        Ok(())
    }

    /// Who is there as discovery tells a replica: others that are not, and names that nobody has, as long as there is trouble.
    fn peers_found(&mut self, index: usize) -> BTreeSet<PeerId> {
        let trouble = self.now < TROUBLE;
        let others = self.replicas.iter().enumerate().filter(|(other, _)| *other != index);
        let mut found: BTreeSet<PeerId> = others.map(|(_, replica)| replica.id.clone()).collect();
        if trouble {
            found.retain(|_| self.random.percent(70));
            if self.random.percent(30) {
                found.extend(PeerId::new(format!("ghost-{}", self.random.below(5))));
            }
        }
        found
    }

    /// Those without whom nobody folds.
    fn awaited(&self) -> Vec<PeerId> {
        #[cfg(feature = "crypto")]
        let count = if self.signed.writers > 0 { self.signed.writers } else { self.members };
        #[cfg(not(feature = "crypto"))]
        let count = self.members;
        self.replicas[..count].iter().map(|replica| replica.id.clone()).collect()
    }

    fn edit(&mut self, index: usize, wishes: &mut Vec<Wish>) -> Result<(), String> {
        let seen: Vec<(SessionId, u64)> =
            self.replicas[index].doc.vector.iter().map(|(sid, time)| (*sid, time)).collect();
        let mut needs = Vec::new();
        for _ in 0..self.random.below(3).min(seen.len() as u64) {
            let (sid, upto) = seen[self.random.below(seen.len() as u64) as usize];
            if sid != self.replicas[index].session {
                needs.push(Timestamp::new(sid, 1 + self.random.below(upto)));
            }
        }
        let span = 1 + self.random.below(50);
        self.replicas[index].edit(self.now, span, needs, wishes)
    }

    fn restart(&mut self, index: usize) -> Result<(), String> {
        if self.replicas[index].down && self.replicas[index].disk.fails_at(self.now) {
            // It can't be read.
            let well = self.replicas[index].disk.well_from(self.now);
            self.plan(well, What::Restart(index));
        } else if self.replicas[index].down {
            let (session, seed) = (self.new_session(), self.random.next());
            self.replicas[index].restart(session, self.now, seed)?;
            #[cfg(feature = "crypto")]
            self.signed.owners.insert(session, index);
            self.plan(self.now, What::Wake(index));
        }
        Ok(())
    }

    /// An outsider says something to all.
    fn outside(&mut self) {
        let members: Vec<PeerId> = self.replicas.iter().map(|replica| replica.id.clone()).collect();
        let one = self.random.below(members.len() as u64) as usize;
        let seen = self.replicas[one].kept_vector();
        let (from, message) = outsider::says(&mut self.random, &members, &seen);
        for to in 0..members.len() {
            let pause = self.random.ms(20);
            let input = Input::Message { from: from.clone(), message: message.clone() };
            self.plan(self.now + pause, What::Deliver { to, input: input.into() });
        }
    }

    fn fulfil(&mut self, from: usize, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::TryAgain(pause) => self.plan(self.now + pause, What::Sync(from)),
                Wish::Stopped => {
                    *self.counts.entry("stopped").or_insert(0) += 1;
                    let pause = self.random.ms(3000);
                    self.plan(self.now + pause, What::Restart(from));
                }
                Wish::SyncSoon => {
                    let pause = self.random.ms(30);
                    self.plan(self.now + pause, What::Sync(from));
                }
                Wish::Broadcast(record) => {
                    self.acknowledged.insert(record.id);
                    #[cfg(feature = "crypto")]
                    self.signed.made.push(record.clone());
                    if self.lies(from) {
                        self.forge(from, &record);
                    }
                    for to in 0..self.replicas.len() {
                        self.deliver(from, to, Input::Heard(record.clone()));
                    }
                }
                Wish::Send(to, message) => {
                    let answer = to.as_ref().and_then(|to| outsider::answers(&mut self.random, to, &message));
                    if let Some((name, message, pause)) = answer {
                        let input = Input::Message { from: name, message }.into();
                        self.plan(self.now + pause, What::Deliver { to: from, input });
                    }
                    let message = self.maybe_lie(from, message);
                    #[cfg(feature = "crypto")]
                    let message = self.maybe_go_on(from, message);
                    for to_index in 0..self.replicas.len() {
                        if to.as_ref().is_none_or(|to| *to == self.replicas[to_index].id) {
                            let from_id = self.replicas[from].id.clone();
                            let input = Input::Message { from: from_id, message: message.clone() };
                            self.deliver(from, to_index, input);
                        }
                    }
                }
            }
        }
        let at = self.replicas[from].machine.wakes_at().max(self.now + Duration::from_millis(1));
        if self.wakes[from] <= self.now || at < self.wakes[from] {
            self.wakes[from] = at;
            self.plan(at, What::Wake(from));
        }
    }

    fn lies(&mut self, index: usize) -> bool {
        self.liar && index + 1 == self.replicas.len() && self.random.percent(50)
    }

    /// The liar broadcasts what nobody can have made: it must be refused and change nothing.
    fn forge(&mut self, from: usize, record: &PatchRecord) {
        let mut forged = record.clone();
        match self.random.below(3) {
            0 => forged.span = 0,
            1 => forged.id.time = (1 << 52) + self.random.below(1000),
            _ => forged.needs = std::iter::once(Timestamp::new(forged.id.sid, record.last() + 1)).collect(),
        }
        for to in 0..self.replicas.len() {
            self.deliver(from, to, Input::Heard(forged.clone()));
        }
    }

    /// A writer goes on in the sessions of others when it passes their patches on.
    #[cfg(feature = "crypto")]
    fn maybe_go_on(&mut self, from: usize, message: SyncMessage) -> SyncMessage {
        match message {
            SyncMessage::Patches { id, records } if self.signed.liar == Some(from) => {
                let owners = &self.signed.owners;
                let records = forger::continued(&mut self.random, from, records, |sid| owners[&sid]);
                SyncMessage::Patches { id, records }
            }
            other => other,
        }
    }

    /// The liar says that it has what nobody has, or lacks what it has, and sends too little.
    fn maybe_lie(&mut self, from: usize, message: SyncMessage) -> SyncMessage {
        if !self.lies(from) {
            return message;
        }
        match message {
            SyncMessage::State { mut vector, reply } => {
                if self.random.percent(50) {
                    vector = outsider::lowered(&mut self.random, &vector);
                } else {
                    let ghost = SessionId::new(SessionId::USER_MIN.get() + 1_000_000).unwrap();
                    vector.advance(ghost, 1 + self.random.below(1000));
                }
                SyncMessage::State { vector, reply }
            }
            SyncMessage::Patches { id, mut records } => {
                records.truncate(records.len() / 2);
                records.reverse();
                SyncMessage::Patches { id, records }
            }
            SyncMessage::Digest { digest, .. } if self.random.percent(50) => {
                SyncMessage::Digest { digest, content: Some(self.random.next()) }
            }
            SyncMessage::Digest { .. } => SyncMessage::Digest { digest: self.random.next(), content: None },
            SyncMessage::Heads { mut heads, .. } => {
                let sid = SessionId::new(SessionId::USER_MIN.get() + 1_000_001).unwrap();
                let hash = NodeHash([self.random.below(256) as u8; NodeHash::LEN_BYTES]);
                heads.push(Link { last: 1 + self.random.below(1000), sid, hash });
                SyncMessage::Heads { heads, digest: self.random.next() }
            }
            SyncMessage::Sketch { id, digest, entries, mut symbols } => {
                for symbol in &mut symbols {
                    symbol.check ^= self.random.below(2);
                }
                SyncMessage::Sketch { id, digest, entries, symbols }
            }
            SyncMessage::Ahead { mut vector } => {
                let ghost = SessionId::new(SessionId::USER_MIN.get() + 1_000_002).unwrap();
                vector.advance(ghost, 1 + self.random.below(1000));
                SyncMessage::Ahead { vector }
            }
            SyncMessage::Offer { id, mut snapshot } => {
                let whose = snapshot.vector.iter().next().map(|(sid, last)| (*sid, last));
                if let Some((sid, last)) = whose {
                    snapshot.vector.advance(sid, last + 1 + self.random.below(100));
                }
                SyncMessage::Offer { id, snapshot }
            }
            SyncMessage::Part { id, hash, offset, bytes } => {
                SyncMessage::Part { id, hash, offset: offset + 1, bytes }
            }
            other => other,
        }
    }

    fn deliver(&mut self, from: usize, to: usize, input: Input) {
        if from == to || self.side[from] != self.side[to] || self.random.percent(self.trouble.loss) {
            return;
        }
        let copies = if self.random.percent(self.trouble.repeat) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = self.slow.filter(|(index, _)| [from, to].contains(index));
            let times = slow.map_or(1, |(_, times)| times);
            let delay = self.random.ms(self.trouble.delay_max_ms * times);
            self.plan(self.now + delay, What::Deliver { to, input: Box::new(input.clone()) });
        }
    }

    fn check_end(&self) -> Result<(), String> {
        let Some(first) = self.staying().next() else { return Ok(()) };
        let expected = first.kept_vector();
        for replica in self.staying() {
            let vector = replica.kept_vector();
            if vector != expected {
                let lacks: Vec<_> = vector.missing_from(&expected).collect();
                let more: Vec<_> = expected.missing_from(&vector).collect();
                let status = replica.machine.status();
                return Err(format!(
                    "{} lacks {lacks:?} and has {more:?} more than {}; {status:?}",
                    replica.id, first.id
                ));
            }
            if replica.doc != first.doc {
                return Err(format!("{} has another document than {}", replica.id, first.id));
            }
            let lost = |id: &&Timestamp| !replica.doc.ids.contains(id) && !self.may_be_lost(**id);
            if let Some(lost) = self.acknowledged.iter().find(lost) {
                return Err(format!("{} was acknowledged and is not at {}", lost, replica.id));
            }
            // Of who has gone for good, what followed something that nobody got waits for it as long as there is room.
            let waits =
                self.acknowledged.iter().any(|id| self.may_be_lost(*id) && !replica.doc.ids.contains(id));
            let status = replica.machine.status();
            if (status.parked > 0 && !waits) || status.storing > 0 {
                return Err(format!("{} is not at rest: {status:?}", replica.id));
            }
        }
        Ok(())
    }
}
