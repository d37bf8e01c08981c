//! The simulated world: time, the network, what goes wrong, and what must hold all the same.

mod plans;
mod finding;
mod network;
mod liar;
mod windows;
mod gateway;
#[cfg(feature = "crypto")]
mod signed;
mod end;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use crdt_core::{SessionId, Timestamp};
use crdt_sync::{PatchRecord, PeerId, session::Input};

#[cfg(feature = "crypto")]
use self::signed::Signed;
use self::{
    network::Trouble,
    windows::{Windowed, Windows},
};
use crate::{
    outsider,
    random::Random,
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
    /// Discovery looks who can be reached.
    Look,
    /// It tells a replica who is there, rightly or wrongly.
    Discover(usize),
    /// The first replica's store is copied, and put back.
    Backup,
    PutBack,
    Window(Windowed),
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
    /// When each replica was last seen to reach which others.
    reached: Vec<BTreeMap<usize, Duration>>,
    /// Whether discovery tells what is not so, and little else.
    misled: bool,
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
    /// Stands for all that happened, if that is asked for.
    trace: Option<u64>,
    /// Who has gone for good, and the sessions under which it wrote.
    gone: Option<(usize, BTreeSet<SessionId>)>,
    /// In a world in which a store is put back, what was in it.
    backup: Option<Vec<PatchRecord>>,
    /// Those at the replicas who are no peers.
    windows: Windows,
    /// In a world in which patches are signed, all that were broadcast, whose they are, and the writer who goes on in the
    /// sessions of others when it passes on their patches.
    #[cfg(feature = "crypto")]
    signed: Signed,
}

impl World {
    fn new_session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId::new(SessionId::USER_MIN.get() + self.sessions).unwrap()
    }

    fn plan(&mut self, at: Duration, what: What) {
        self.events += 1;
        self.queue.insert((at, self.events), what);
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
            if let Some(trace) = &mut self.trace {
                let mut hasher = DefaultHasher::new();
                (*trace, at, format!("{what:?}")).hash(&mut hasher);
                *trace = hasher.finish();
            }
            self.step(what)?;
            self.end_lines_of_the_down();
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

    fn step(&mut self, what: What) -> Result<(), String> {
        let mut wishes = Vec::new();
        let actor = match what {
            What::Partition => {
                let sides: Vec<u8> = (0..self.side.len()).map(|_| self.random.below(2) as u8).collect();
                self.side = if self.random.percent(40) { vec![0; self.side.len()] } else { sides };
                return Ok(());
            }
            What::Look => return self.look(),
            What::Window(what) => return self.windowed(what),
            What::Discover(index) => return self.discover(index),
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
                    self.reached[0].clear();
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
                if self.replicas[index].down =>
            {
                return Ok(());
            }
            What::Wake(index) | What::Edit(index) | What::Compact(index)
                if self.replicas[index].disk.is_waited_for() =>
            {
                return Ok(());
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
                self.replicas[index].compact(self.now, &mut wishes)?;
                index
            }
        };
        self.fulfil(actor, wishes);
        Ok(())
    }

    fn edit(&mut self, index: usize, wishes: &mut Vec<Wish>) -> Result<(), String> {
        let seen: Vec<(SessionId, u64)> =
            self.replicas[index].doc.lock().vector.iter().map(|(sid, time)| (*sid, time)).collect();
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
            self.reached[index].clear();
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
}
