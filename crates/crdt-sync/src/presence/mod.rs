//! Who is here, and what each has to show for it: a cursor, a name, a colour.
//!
//! Presence is not part of the document: it is kept nowhere and ends by itself. Each replica repeats its own to all now
//! and then; whoever has not been heard for a while is gone. [`Presence`] is the machine without IO,
//! [`PubSubPresence`] runs it.

mod driver;
mod farewell;
mod message;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    PeerId,
    session::{Jitter, WAIT_MAX},
};

pub use driver::{PubSubPresence, ShownTooLarge};
pub use farewell::Farewell;
pub use message::{InvalidPresence, PresenceMessage};

/// How presence behaves. Every bound says what happens when it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceOptions {
    /// How often a replica repeats its presence when nothing changes.
    pub interval: Duration,
    /// After how long without a word a replica is gone. Several intervals, or one lost message makes it flicker.
    pub expiry: Duration,
    /// The shortest time between two messages of one's own. What changes in between is sent together, the last wins.
    pub pause_min: Duration,
    /// How long a replica may take to greet a newcomer, so that a large group does not answer all at once.
    pub greeting_max: Duration,
    /// What a replica may show, in bytes. Above it, setting is an error, and a message of others is refused.
    pub shown_bytes_max: usize,
    /// Others that are remembered. Above it newcomers are ignored until somebody goes.
    pub others_max: usize,
}

impl PresenceOptions {
    /// Fits people at a document: gone after 15 s, twenty updates in a second, 4 KiB, 1 024 others.
    pub const STANDARD: Self = Self {
        interval: Duration::from_secs(5),
        expiry: Duration::from_secs(15),
        pause_min: Duration::from_millis(50),
        greeting_max: Duration::from_millis(500),
        shown_bytes_max: 4096,
        others_max: 1024,
    };

    /// The same with waits that can be added to a time.
    fn bounded(self) -> Self {
        Self {
            interval: self.interval.min(WAIT_MAX),
            expiry: self.expiry.min(WAIT_MAX),
            pause_min: self.pause_min.min(WAIT_MAX),
            greeting_max: self.greeting_max.min(WAIT_MAX),
            ..self
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceInput {
    /// The application shows something else.
    Show(Bytes),
    /// A message came.
    Heard(PresenceMessage),
    /// Messages may have been lost.
    Gap,
    /// The time of [`Presence::wakes_at`] has come.
    Tick,
    /// This replica goes.
    Leave,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceOutput {
    /// Send it to all.
    Send(PresenceMessage),
    /// Someone came, or shows something else.
    Shows {
        /// Who.
        peer: PeerId,
        /// What.
        shown: Bytes,
    },
    /// Someone has not been heard for too long.
    Gone(PeerId),
    /// Someone said goodbye, who need not have been seen here.
    Left(PeerId),
    /// Another replica uses this one's name, and came later: this one is no longer heard.
    NameTaken,
}

/// How often what happened, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PresenceCounters {
    /// Messages sent.
    pub sent: u64,
    /// Messages heard from others.
    pub heard: u64,
    /// Of those, older than what was known.
    pub stale: u64,
    /// Of those, from newcomers for whom there was no room.
    pub crowded_out: u64,
    /// Of those, that showed too much.
    pub too_large: u64,
    /// Goodbyes beside those, that somebody else may have said than the peer that they name: not believed.
    pub doubted: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Presence {
    options: PresenceOptions,
    own: PeerId,
    /// Grows from one start of a replica to the next, so that the later one wins.
    run: u64,
    /// Counts the own messages of this run.
    count: u64,
    shown: Bytes,
    /// When the next message is due. Brought forward by changes and newcomers.
    send_at: Duration,
    /// No message before this, however much changes.
    not_before: Duration,
    /// Whether the next message asks the others to say who they are.
    hello: bool,
    name_taken: bool,
    left: bool,
    others: BTreeMap<PeerId, Other>,
    /// The same in the order of expiry.
    expiries: BTreeSet<(Duration, PeerId)>,
    /// The last word of those who said goodbye, for as long as an older one may still come behind it; as many as there may be
    /// others.
    parted: BTreeMap<PeerId, Parted>,
    jitter: Jitter,
    counters: PresenceCounters,
    outputs: VecDeque<PresenceOutput>,
}

#[derive(Debug)]
struct Other {
    run: u64,
    count: u64,
    shown: Bytes,
    expires: Duration,
}

#[derive(Debug)]
struct Parted {
    run: u64,
    count: u64,
    until: Duration,
}

impl Presence {
    /// Starts the machine of a replica that came at `now`. `run` must be greater than at its last start; `seed` is for
    /// jitter only.
    pub fn new(options: PresenceOptions, own: PeerId, run: u64, now: Duration, seed: u64) -> Self {
        Self {
            options: options.bounded(),
            own,
            run,
            count: 0,
            shown: Bytes::new(),
            send_at: now,
            not_before: now,
            hello: true,
            name_taken: false,
            left: false,
            others: BTreeMap::new(),
            expiries: BTreeSet::new(),
            parted: BTreeMap::new(),
            jitter: Jitter::new(seed),
            counters: PresenceCounters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle_input(&mut self, now: Duration, input: PresenceInput) {
        match input {
            PresenceInput::Show(shown) => {
                if shown != self.shown && shown.len() <= self.options.shown_bytes_max {
                    self.shown = shown;
                    self.send_at = now;
                }
            }
            PresenceInput::Heard(message) => self.heard(now, message),
            PresenceInput::Gap => {
                self.hello = true;
                self.send_at = now;
            }
            PresenceInput::Tick => {}
            PresenceInput::Leave => {
                if !self.left {
                    self.left = true;
                    self.send(false);
                }
                return;
            }
        }
        self.tick(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<PresenceOutput> {
        self.outputs.pop_front()
    }

    /// When to come back with [`PresenceInput::Tick`] if nothing happens before.
    pub fn wakes_at(&self) -> Duration {
        let send_at = self.send_at.max(self.not_before);
        self.expiries.first().map_or(send_at, |(expires, _)| send_at.min(*expires))
    }

    /// What was counted.
    pub fn counters(&self) -> PresenceCounters {
        self.counters
    }

    fn heard(&mut self, now: Duration, message: PresenceMessage) {
        if message.peer == self.own {
            // Our own words come back to us; those of a later run are another's.
            if message.run > self.run && !self.name_taken {
                self.name_taken = true;
                self.outputs.push_back(PresenceOutput::NameTaken);
            }
            return;
        }
        self.counters.heard += 1;
        if message.shown.len() > self.options.shown_bytes_max {
            self.counters.too_large += 1;
            return;
        }
        let known = self.others.get(&message.peer);
        let parted = self.parted.get(&message.peer).filter(|parted| now < parted.until);
        let last = known.map(|known| (known.run, known.count));
        if last.max(parted.map(|parted| (parted.run, parted.count))) >= Some((message.run, message.count)) {
            self.counters.stale += 1;
            return;
        }
        if message.hello {
            let greeting = self.jitter.below(self.options.greeting_max.as_nanos() as u64);
            self.send_at = self.send_at.min(now + Duration::from_nanos(greeting));
        }
        if !message.here {
            let was_seen = known.is_some();
            self.remove(&message.peer, PresenceOutput::Left);
            // Who was there before this one was may be remembered from then. It is told once, so only of so many.
            if self.part(now, &message) && !was_seen {
                self.outputs.push_back(PresenceOutput::Left(message.peer));
            }
            return;
        }
        if known.is_none() && self.others.len() >= self.options.others_max {
            self.counters.crowded_out += 1;
            return;
        }
        let news = known.is_none_or(|known| known.shown != message.shown);
        if news {
            let (peer, shown) = (message.peer.clone(), message.shown.clone());
            self.outputs.push_back(PresenceOutput::Shows { peer, shown });
        }
        let expires = now + self.options.expiry;
        let other = Other { run: message.run, count: message.count, shown: message.shown, expires };
        if let Some(before) = self.others.insert(message.peer.clone(), other) {
            self.expiries.remove(&(before.expires, message.peer.clone()));
        }
        self.expiries.insert((expires, message.peer));
    }

    /// Remembers a goodbye: what was said before it may come behind it. Returns whether there was room for it.
    fn part(&mut self, now: Duration, message: &PresenceMessage) -> bool {
        self.parted.retain(|_, parted| now < parted.until);
        let has_room = self.parted.len() < self.options.others_max || self.parted.contains_key(&message.peer);
        if has_room {
            let parted = Parted { run: message.run, count: message.count, until: now + self.options.expiry };
            self.parted.insert(message.peer.clone(), parted);
        }
        has_room
    }

    fn remove(&mut self, peer: &PeerId, how: impl FnOnce(PeerId) -> PresenceOutput) {
        if let Some(other) = self.others.remove(peer) {
            self.expiries.remove(&(other.expires, peer.clone()));
            self.outputs.push_back(how(peer.clone()));
        }
    }

    fn tick(&mut self, now: Duration) {
        while let Some((expires, peer)) = self.expiries.first() {
            if *expires > now {
                break;
            }
            let peer = peer.clone();
            self.remove(&peer, PresenceOutput::Gone);
        }
        if self.left || now < self.send_at.max(self.not_before) {
            return;
        }
        self.send(true);
        self.hello = false;
        self.not_before = now + self.options.pause_min;
        // Spread over the last quarter of the interval, or replicas that started together stay together.
        let quarter = self.options.interval / 4;
        let early = Duration::from_nanos(self.jitter.below(quarter.as_nanos() as u64));
        self.send_at = now + self.options.interval - early;
    }

    fn send(&mut self, here: bool) {
        self.count += 1;
        self.counters.sent += 1;
        self.outputs.push_back(PresenceOutput::Send(PresenceMessage {
            peer: self.own.clone(),
            run: self.run,
            count: self.count,
            here,
            hello: here && self.hello,
            shown: if here { self.shown.clone() } else { Bytes::new() },
        }));
    }
}

#[cfg(test)]
mod tests;
