//! The synchronisation of one document by one replica, as a machine without IO.
//!
//! The driver brings what happened ([`Input`]) and the time, and carries out what comes back ([`Output`]) in its order.
//! The same inputs at the same times give the same outputs, so that the simulator runs the code that production runs.
//!
//! What the machine promises: a patch is broadcast only after it is stored; it is applied after its causes, once, and
//! after it is stored; what has been announced as seen is stored. Whatever is lost on the way is asked for again, one
//! page at a time.

mod admission;
mod compare;
mod digest;
mod event;
mod heads;
mod io;
mod options;
mod parked;
mod peers;
mod places;
mod pull;
mod repair;
mod reused;
mod transfer;
mod trickle;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crdt_core::{SessionId, StateVector, Timestamp};

pub(crate) use digest::Jitter;
pub use digest::{content, digest};
pub use event::{Counters, Refusal, SessionEvent};
pub use io::{Input, Output, Page, ReadWhat, Standing, Status, WALK_PAGE_NODES_MAX};
pub use options::{SessionOptions, SyncMode, WAIT_MAX};
pub use peers::PeerStatus;
pub(crate) use peers::ticks;
pub use trickle::TrickleOptions;

use self::{
    admission::Crowd,
    heads::Ends,
    parked::{Parked, Readiness, readiness},
    peers::{Peers, Told},
    places::Places,
    pull::Pull,
    reused::OwnCheck,
    transfer::Long,
    trickle::Trickle,
};
use crate::{PatchRecord, PeerId, SyncMessage, dag::Heads};

/// See the [module](self).
#[derive(Debug)]
pub struct Session {
    options: SessionOptions,
    /// What all start from: of reserved sessions.
    base: StateVector<SessionId>,
    /// What was given to the store: patches that build on it are ready.
    accepted: StateVector<SessionId>,
    /// Where its sessions stand in it and in `stored`, which mostly have the same ones.
    places: Places,
    /// The highest time in it.
    latest: u64,
    /// Which of its sessions have patches that are not folded.
    crowd: Crowd,
    /// What is durable: this is told to peers.
    stored: StateVector<SessionId>,
    /// The same as it was when a peer was last found to have just that: all who have it share this.
    stored_lately: Arc<StateVector<SessionId>>,
    /// The digest of `stored`, and those that it had lately, to know a peer that is only a little behind.
    digest: u64,
    digests_lately: VecDeque<(u64, Option<u64>)>,
    /// The sum of the [`content`] of all patches in `stored`; `None` if it is not known.
    content: Option<u64>,
    /// What of the own session is to be compared with a peer next, and what is being compared.
    own_check: Option<OwnCheck>,
    own_compared: Option<OwnCheck>,
    /// Given to the store and not confirmed yet, in that order.
    storing: VecDeque<(PatchRecord, Origin)>,
    parked: Parked,
    /// In a group that uses the DAG.
    ends: Option<Ends>,
    peers: Peers,
    told: Told,
    pull: Option<Pull>,
    /// A snapshot that takes long comes beside the pull.
    long: Option<Long>,
    /// When to ask for what parked patches wait for.
    ask_at: Option<Duration>,
    /// Until then patches are asked for and no snapshots: one could not be taken over.
    no_offers_until: Duration,
    /// Until then, or until something is folded, no session that would begin here is asked for: there is no room for it.
    no_newcomers_until: Duration,
    /// How often a snapshot has come too slowly since one came whole or a page brought something; each time the next may
    /// take twice as long.
    too_slow: u32,
    /// A patch of the own session that was not made here: one that came itself, past the guard if there is one. Words about
    /// it prove nothing; anybody can say them.
    used_twice: Option<Timestamp>,
    requests: u64,
    reads: usize,
    trickle: Trickle,
    jitter: Jitter,
    counters: Counters,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Local,
    /// Of a client: to the document like a remote one, and to all like a local one.
    Relayed,
    Remote,
    /// Remote, and in the document already: a snapshot that was put in place meanwhile contains it.
    Contained,
}

/// How many of its last digests a replica knows again.
const DIGESTS_LATELY_MAX: usize = 64;

impl Session {
    /// Starts the machine of a replica whose store holds what `stored` says, with these heads (which only a group that
    /// uses the DAG needs). `seed` is for jitter, and salts what is compared.
    pub fn new(
        options: SessionOptions,
        stored: StateVector<SessionId>,
        heads: Heads,
        now: Duration,
        seed: u64,
    ) -> Self {
        let mut jitter = Jitter::new(seed);
        let options = options.bounded();
        Self {
            trickle: Trickle::new(options.trickle, now, &mut jitter),
            parked: Parked::new(options.parked_max, options.parked_bytes_max),
            ends: (options.sync == SyncMode::Dag).then(|| Ends::new(heads)),
            peers: Peers::new(&options),
            told: Told::default(),
            digest: digest(&stored),
            digests_lately: VecDeque::with_capacity(DIGESTS_LATELY_MAX),
            latest: stored.iter().map(|(_, time)| time).max().unwrap_or(0),
            crowd: Crowd::new(StateVector::new(), &stored),
            accepted: stored.clone(),
            content: stored.is_empty().then_some(0),
            own_check: None,
            own_compared: None,
            places: Places::default(),
            stored,
            stored_lately: Arc::default(),
            storing: VecDeque::new(),
            pull: None,
            long: None,
            ask_at: None,
            no_offers_until: Duration::ZERO,
            no_newcomers_until: Duration::ZERO,
            too_slow: 0,
            used_twice: None,
            requests: 0,
            reads: 0,
            jitter,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            base: StateVector::new(),
            options,
        }
    }

    /// The same with what stands for the patches in the store themselves, the sum of their [`content`]: without it nobody
    /// can see whether others have other patches under the same times.
    #[must_use]
    pub fn with_content(self, content: Option<u64>) -> Self {
        Self { content, ..self }
    }

    /// The same with what the store's own snapshot contains: sessions that are folded whole are fewer to look after.
    #[must_use]
    pub fn with_folded(self, folded: StateVector<SessionId>) -> Self {
        Self { crowd: Crowd::new(folded, &self.accepted), ..self }
    }

    /// The same of a document that does not start empty: what there is of reserved sessions.
    #[must_use]
    pub fn with_base(mut self, base: StateVector<SessionId>) -> Self {
        self.base = base;
        self
    }

    /// The same of a replica that knew peers before it was started at `now`, and for how much longer they are remembered: until they
    /// are found they count as those do that went without a goodbye.
    #[must_use]
    pub fn with_absent(
        mut self,
        now: Duration,
        absent: impl IntoIterator<Item = (PeerId, Duration)>,
    ) -> Self {
        self.peers.remember(now, absent);
        self
    }

    /// Who is there, or went without a goodbye and may come back: what they are not known to have is not folded. With how
    /// much longer that holds of those who are not there. This is what is to be known again after a restart.
    pub fn members(&self, now: Duration) -> Vec<(PeerId, Option<Duration>)> {
        self.peers.members(now).map(|(id, left)| (id.clone(), left)).collect()
    }

    /// Takes in what happened at `now`.
    pub fn handle_input(&mut self, now: Duration, input: Input) {
        match input {
            Input::Local(record) => self.local(record),
            // What it refuses of clients was told before.
            Input::Relayed(record) => drop(self.take_in(now, record, Origin::Relayed)),
            Input::Heard(record) => self.heard(now, record),
            Input::Message { from, message } => self.message(now, from, message),
            Input::Proven { from, voice, message } => self.proven(now, from, voice, message),
            Input::Stored => self.confirm(),
            Input::Page { peer, id, page } => self.page(peer, id, page),
            Input::Installed { vector, heads, content } => self.installed(now, &vector, heads, content),
            Input::Folded(folded) => self.folded(now, folded),
            Input::InstallFailed => self.install_failed(now),
            Input::InstallParted => self.install_parted(now),
            Input::Compared { upto, differs } => self.compared(now, upto, differs),
            Input::Repair(links) => self.repair(now, links),
            Input::Gap => self.gap(now),
            Input::PeerUp(peer) => self.peer_up(now, peer),
            Input::PeerDown(peer) => self.peer_down(now, &peer),
            Input::PeerLeft(peer) => self.peer_left(&peer),
            Input::Tick => {}
        }
        if !self.is_quiet(now) {
            self.tick(now);
        }
    }

    /// Whether nothing is due, under way or to be asked for: most patches come in such a time, and a look at every timer
    /// would cost as much as taking one in.
    fn is_quiet(&self, now: Duration) -> bool {
        let pulls = self.pull.is_some() || self.long.is_some();
        let idle = !pulls && self.ask_at.is_none() && self.ends.is_none();
        idle && self.peers.are_quiet(now) && now < self.trickle.wakes_at()
    }

    /// The next thing to do, if there is one.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to say [`Input::Tick`] at the latest, if nothing else comes before.
    pub fn wakes_at(&self) -> Duration {
        let pulls = [self.pull.as_ref().map(Pull::deadline), self.long.as_ref().and_then(Long::deadline)];
        let others = [self.ask_at, self.peers.wakes_at()].into_iter().chain(pulls);
        others.flatten().fold(self.trickle.wakes_at(), Duration::min)
    }

    /// What is durable here.
    pub fn stored(&self) -> &StateVector<SessionId> {
        &self.stored
    }

    /// How many sessions have patches that are not folded.
    pub fn unfolded_sessions(&self) -> usize {
        self.crowd.unfolded()
    }

    /// What stands for the patches that are durable here; `None` if it is not known.
    pub fn content(&self) -> Option<u64> {
        self.content
    }

    /// What all known peers and this replica have, by their last word: nothing below it will be asked for by them.
    pub fn stable(&self) -> StateVector<SessionId> {
        self.stable_by(None, |_, _| Standing::Counts)
    }

    /// Whether a peer is known.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some()
    }

    /// The same as the guard has it, which knows how a peer stands by its name and by who has proven its words. Without a peer it
    /// is what may be in a snapshot for that one: what all others have. (What only some have must stay as patches: two
    /// snapshots that each lack something of the other can't be merged.)
    pub fn stable_by(
        &self,
        without: Option<&PeerId>,
        standing: impl Fn(&PeerId, Option<u64>) -> Standing,
    ) -> StateVector<SessionId> {
        self.peers.stable(&self.stored, without, standing)
    }

    /// What has been counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How the replica stands.
    pub fn status(&self) -> Status {
        Status {
            sessions: self.accepted.len(),
            unfolded_sessions: self.crowd.unfolded(),
            peers: self.peers.len(),
            absent: self.peers.absent(),
            parted: self.peers.parted(),
            peer_entries: self.peers.entries(),
            parked: self.parked.len(),
            parked_bytes: self.parked.len_bytes(),
            storing: self.storing.len(),
            heads: self.ends.as_ref().map_or(0, |ends| ends.stored().len()),
            lag_ticks: self.peers.lag_ticks(&self.accepted),
            pulling: self.pull.is_some() || self.long.is_some(),
        }
    }

    /// How each known peer stands, by their last word.
    pub fn peer_statuses(&self, now: Duration) -> Vec<PeerStatus> {
        self.peers.statuses(&self.accepted, &self.stored, now)
    }

    fn local(&mut self, record: PatchRecord) {
        match self.local_refusal(&record) {
            None => self.accept(record, Origin::Local),
            Some(refusal) => self.refuse(refusal),
        }
    }

    fn heard(&mut self, now: Duration, record: PatchRecord) {
        self.counters.heard += 1;
        self.take_in(now, record, Origin::Remote);
    }

    fn readiness(&self, record: &PatchRecord) -> Readiness {
        readiness(record, self.accepted.get(&record.session()), |sid| self.accepted.get(&sid))
    }

    /// The last time of a session that was taken in.
    fn seen(&mut self, sid: SessionId) -> u64 {
        self.accepted.get_near(&sid, self.places.of(sid))
    }

    /// Takes in a patch from outside. Returns whether it was news.
    fn take_in(&mut self, now: Duration, record: PatchRecord, origin: Origin) -> bool {
        let seen = self.seen(record.session());
        if let Err(refusal) = self.admissible(&record, seen) {
            if let Refusal::SessionUsedTwice(id) = refusal {
                self.used_twice.get_or_insert(id);
            }
            self.refuse(refusal);
            return false;
        }
        let has_room = self.parked.len() == 0 && self.storing.len() < self.options.storing_max;
        if has_room && readiness(&record, seen, |sid| self.seen(sid)) == Readiness::Ready {
            self.accept(record, origin);
            return true;
        }
        self.take_in_any(now, record, origin, seen)
    }

    /// [`take_in`](Self::take_in) of a patch that is not just the next one, or that others may wait for.
    #[inline(never)]
    fn take_in_any(&mut self, now: Duration, record: PatchRecord, origin: Origin, seen: u64) -> bool {
        let (mut seen, mut news) = (seen, false);
        let (mut next, mut work) = (Some((record, origin)), Vec::new());
        while let Some((record, origin)) = next.take() {
            match readiness(&record, seen, |sid| self.seen(sid)) {
                // What a client brought was promised to be stored.
                Readiness::Ready
                    if self.storing.len() >= self.options.storing_max && origin != Origin::Relayed =>
                {
                    self.counters.shed += 1;
                    self.ask_soon(now);
                }
                Readiness::Ready => {
                    let sid = record.session();
                    self.accept(record, origin);
                    self.release(sid, &mut work);
                    news = true;
                }
                Readiness::Waits(on) => {
                    self.counters.parked += 1;
                    self.counters.parked_dropped += self.parked.park(record, on, origin);
                    self.ask_soon(now);
                }
                Readiness::Known => {
                    self.counters.known += 1;
                    // What was parked behind it may have come another way, too.
                    self.release(record.session(), &mut work);
                }
                Readiness::Forked => self.refuse(Refusal::SessionUsedTwice(record.id)),
            }
            next = work.pop();
            if let Some((record, _)) = &next {
                seen = self.seen(record.session());
            }
        }
        news
    }

    /// Lets go of what waited for a session: into `work`, or to whoever has to look at it first.
    fn release(&mut self, sid: SessionId, work: &mut Vec<(PatchRecord, Origin)>) {
        let released = self.parked.released_by(sid, |sid| self.accepted.get(sid));
        if self.options.rechecks_parked {
            let released = released.into_iter();
            self.outputs.extend(
                released
                    .map(|(record, origin)| Output::Released { record, relayed: origin == Origin::Relayed }),
            );
        } else {
            work.extend(released);
        }
    }

    fn accept(&mut self, record: PatchRecord, origin: Origin) {
        let sid = record.session();
        let before = self.accepted.raise_near(sid, record.last(), self.places.of(sid));
        self.crowd.note(sid, before);
        self.latest = self.latest.max(record.last());
        if origin == Origin::Local {
            self.grow(&record);
        }
        self.outputs.push_back(Output::Store(record.clone()));
        self.storing.push_back((record, origin));
    }

    fn confirm(&mut self) {
        let Some((record, origin)) = self.storing.pop_front() else { return };
        self.remember_digest();
        self.note_stored(record.session(), record.last());
        if origin != Origin::Contained {
            match &mut self.ends {
                Some(ends) => ends.note_stored(&record),
                None => self.content = self.content.map(|sum| sum.wrapping_add(content(&record))),
            }
        }
        match origin {
            Origin::Local => {
                self.counters.broadcast += 1;
                self.outputs.push_back(Output::Broadcast(record));
            }
            Origin::Relayed => {
                self.counters.applied += 1;
                self.counters.broadcast += 1;
                self.grow(&record);
                self.outputs.push_back(Output::Apply(record.clone()));
                self.outputs.push_back(Output::Broadcast(record));
            }
            Origin::Remote => {
                self.counters.applied += 1;
                self.grow(&record);
                self.outputs.push_back(Output::Apply(record));
            }
            Origin::Contained => self.counters.known += 1,
        }
    }

    /// The number that stands for what is durable here.
    fn own_digest(&self) -> u64 {
        self.ends.as_ref().map_or(self.digest, |ends| ends.stored().digest())
    }

    fn remember_digest(&mut self) {
        if self.digests_lately.len() == DIGESTS_LATELY_MAX {
            self.digests_lately.pop_front();
        }
        self.digests_lately.push_back((self.own_digest(), self.content));
    }

    fn note_stored(&mut self, sid: SessionId, last: u64) {
        let before = self.stored.raise_near(sid, last, self.places.of(sid));
        if last > before {
            let change = digest::entry(sid, last).wrapping_sub(digest::entry(sid, before));
            self.digest = self.digest.wrapping_add(change);
        }
    }

    /// To be told by the driver, which does not take a snapshot over that holds more of the own session than was made here, or
    /// of any session something else than is here. Whether that is `proven` or only said: what a snapshot has of a session is
    /// not signed by that session's author.
    pub fn session_is_forked(&mut self, id: Timestamp, proven: bool) {
        if proven && id.sid == self.options.session {
            self.used_twice.get_or_insert(id);
        }
        self.refuse(Refusal::SessionUsedTwice(id));
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.counters.refused += 1;
        self.outputs.push_back(Output::Event(SessionEvent::Refused(refusal).into()));
    }

    fn send(&mut self, to: impl Into<Option<PeerId>>, message: SyncMessage) {
        self.outputs.push_back(Output::Send { to: to.into(), message: message.into() });
    }

    fn tick(&mut self, now: Duration) {
        if self.trickle.tick(now, &mut self.jitter) {
            self.announce(None);
        }
        for peer in self.peers.forget_strangers(now) {
            self.forgotten(peer);
        }
        self.tick_pull(now);
        self.tick_peers(now);
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask(now);
        }
    }
}
