//! Who is here, and what each has to show for it: a cursor, a name, a colour.
//!
//! Presence is not part of the document: it is kept nowhere and ends by itself. Each replica repeats its own to all now
//! and then; whoever has not been heard for a while is gone. [`Presence`] is the machine without IO,
//! [`PubSubPresence`] runs it.

mod driver;
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
mod tests {
    use super::*;

    const OPTIONS: PresenceOptions = PresenceOptions { others_max: 3, ..PresenceOptions::STANDARD };

    fn id(name: &str) -> PeerId {
        PeerId::new(name).unwrap()
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn machine(name: &str, now: f64) -> Presence {
        Presence::new(OPTIONS, id(name), 1, seconds(now), 7)
    }

    fn outputs(machine: &mut Presence, now: f64, input: PresenceInput) -> Vec<PresenceOutput> {
        machine.handle_input(seconds(now), input);
        std::iter::from_fn(|| machine.poll_output()).collect()
    }

    fn says(peer: &str, run: u64, count: u64, shown: &'static str) -> PresenceInput {
        let shown = Bytes::from_static(shown.as_bytes());
        PresenceInput::Heard(PresenceMessage { peer: id(peer), run, count, here: true, hello: false, shown })
    }

    fn shows(peer: &str, shown: &'static str) -> PresenceOutput {
        PresenceOutput::Shows { peer: id(peer), shown: shown.into() }
    }

    fn sent<'a>(outputs: &'a [PresenceOutput]) -> Vec<&'a PresenceMessage> {
        let sent = |output: &'a PresenceOutput| match output {
            PresenceOutput::Send(message) => Some(message),
            _ => None,
        };
        outputs.iter().filter_map(sent).collect()
    }

    #[test]
    fn who_has_gone_is_not_brought_back_by_an_older_word() {
        let mut a = machine("a", 0.0);
        outputs(&mut a, 0.0, PresenceInput::Tick);
        let goodbye = |peer: &str, count| {
            let shown = Bytes::new();
            PresenceInput::Heard(PresenceMessage {
                peer: id(peer),
                run: 1,
                count,
                here: false,
                hello: false,
                shown,
            })
        };
        outputs(&mut a, 1.0, says("b", 1, 1, "x"));
        assert_eq!(outputs(&mut a, 1.1, goodbye("b", 3)), [PresenceOutput::Left(id("b"))]);
        assert_eq!(outputs(&mut a, 1.2, says("b", 1, 2, "late")), []);
        // Also of one who was not seen here: it may have been there before.
        assert_eq!(outputs(&mut a, 1.2, goodbye("c", 2)), [PresenceOutput::Left(id("c"))]);
        assert_eq!(outputs(&mut a, 1.2, goodbye("c", 2)), []);
        assert_eq!(outputs(&mut a, 1.3, says("c", 1, 1, "late")), []);
        assert_eq!(a.counters().stale, 3);
        // Who comes again is there again, and so many and no more are remembered.
        assert_eq!(outputs(&mut a, 1.4, says("b", 2, 1, "back")), [shows("b", "back")]);
        let told = (0..10).map(|number| outputs(&mut a, 1.5, goodbye(&format!("d{number}"), 1)).len());
        assert!(told.sum::<usize>() < OPTIONS.others_max);
        assert_eq!(a.parted.len(), OPTIONS.others_max);
    }

    #[test]
    fn whoever_is_silent_for_too_long_is_gone() {
        let mut a = machine("a", 0.0);
        outputs(&mut a, 0.0, PresenceInput::Tick);
        assert_eq!(outputs(&mut a, 1.0, says("b", 1, 1, "x")), [shows("b", "x")]);
        assert_eq!(outputs(&mut a, 2.0, says("b", 1, 2, "x")), []);
        assert!(
            outputs(&mut a, 16.9, PresenceInput::Tick).iter().all(|o| matches!(o, PresenceOutput::Send(_)))
        );
        assert_eq!(outputs(&mut a, 17.0, PresenceInput::Tick), [PresenceOutput::Gone(id("b"))]);
    }

    #[test]
    fn changes_are_sent_at_a_bounded_rate_and_the_last_wins() {
        let mut a = machine("a", 0.0);
        assert!(sent(&outputs(&mut a, 0.0, PresenceInput::Tick))[0].hello);
        let mut messages = Vec::new();
        for step in 0..1000 {
            let now = 1.0 + f64::from(step) / 1000.0;
            let shown = Bytes::from(step.to_string());
            messages.extend(outputs(&mut a, now, PresenceInput::Show(shown)));
        }
        messages.extend(outputs(&mut a, 2.1, PresenceInput::Tick));
        let messages = sent(&messages);
        assert!((15..=22).contains(&messages.len()), "{}", messages.len());
        assert_eq!(messages.last().unwrap().shown, "999");
        assert!(messages.iter().all(|message| !message.hello));
    }

    #[test]
    fn what_is_shown_again_is_repeated_once_per_interval_only() {
        let mut a = machine("a", 0.0);
        let mut count = 0;
        for step in 0..1000 {
            count += sent(&outputs(&mut a, f64::from(step) / 10.0, PresenceInput::Show("same".into()))).len();
        }
        assert!((20..=28).contains(&count), "{count} in 100 s");
    }

    #[test]
    fn newcomers_are_greeted_soon_and_once() {
        let mut a = machine("a", 0.0);
        let mut b = machine("b", 1.0);
        outputs(&mut a, 0.0, PresenceInput::Tick);
        let hello = outputs(&mut b, 1.0, PresenceInput::Tick);
        let hello = PresenceInput::Heard(sent(&hello)[0].clone());
        assert_eq!(outputs(&mut a, 1.0, hello), [shows("b", "")]);
        assert!(a.wakes_at() <= seconds(1.0) + OPTIONS.greeting_max);
        let greeting = outputs(&mut a, 1.5, PresenceInput::Tick);
        assert!(!sent(&greeting)[0].hello);
        let heard = PresenceInput::Heard(sent(&greeting)[0].clone());
        assert_eq!(outputs(&mut b, 1.5, heard), [shows("a", "")]);
        assert!(b.wakes_at() > seconds(4.0));
    }

    #[test]
    fn old_words_do_not_come_back_and_a_later_run_wins() {
        let mut a = machine("a", 0.0);
        outputs(&mut a, 0.0, PresenceInput::Tick);
        assert_eq!(outputs(&mut a, 0.1, says("b", 5, 2, "new")), [shows("b", "new")]);
        assert_eq!(outputs(&mut a, 0.2, says("b", 5, 1, "old")), []);
        assert_eq!(outputs(&mut a, 0.3, says("b", 4, 9, "older")), []);
        assert_eq!(outputs(&mut a, 0.4, says("b", 6, 1, "restarted")), [shows("b", "restarted")]);
        assert_eq!(a.counters().stale, 2);
    }

    #[test]
    fn a_name_used_twice_is_noticed_by_the_earlier_one() {
        let mut a = machine("a", 0.0);
        outputs(&mut a, 0.0, PresenceInput::Tick);
        assert_eq!(outputs(&mut a, 0.1, says("a", 1, 1, "own echo")), []);
        assert_eq!(outputs(&mut a, 0.2, says("a", 2, 1, "other")), [PresenceOutput::NameTaken]);
        assert_eq!(outputs(&mut a, 0.3, says("a", 2, 2, "other")), []);
    }

    #[test]
    fn a_crowd_costs_no_more_than_its_bound() {
        let mut a = machine("a", 0.0);
        outputs(&mut a, 0.0, PresenceInput::Tick);
        for name in ["b", "c", "d", "e", "f"] {
            outputs(&mut a, 0.1, says(name, 1, 1, ""));
        }
        assert_eq!((a.others.len(), a.expiries.len(), a.counters().crowded_out), (3, 3, 2));
        let left = PresenceMessage {
            peer: id("b"),
            run: 1,
            count: 2,
            here: false,
            hello: false,
            shown: Bytes::new(),
        };
        assert_eq!(outputs(&mut a, 0.2, PresenceInput::Heard(left)), [PresenceOutput::Left(id("b"))]);
        assert_eq!(outputs(&mut a, 0.3, says("e", 1, 2, "")), [shows("e", "")]);
        let large = vec![0; OPTIONS.shown_bytes_max + 1].into();
        let message =
            PresenceMessage { peer: id("c"), run: 1, count: 9, here: true, hello: false, shown: large };
        assert_eq!(outputs(&mut a, 0.4, PresenceInput::Heard(message)), []);
        assert_eq!(a.counters().too_large, 1);
    }

    #[test]
    fn leaving_is_said_once_and_is_the_last_word() {
        let mut a = machine("a", 0.0);
        outputs(&mut a, 0.0, PresenceInput::Tick);
        let left = outputs(&mut a, 1.0, PresenceInput::Leave);
        assert!(!sent(&left)[0].here);
        assert_eq!(outputs(&mut a, 2.0, PresenceInput::Leave), []);
        assert_eq!(outputs(&mut a, 100.0, PresenceInput::Tick), []);
    }
}
