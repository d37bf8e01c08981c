//! What a session knows of the others, and how differences are noticed.

mod exchange;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crdt_core::{SessionId, StateVector};

pub use self::status::PeerStatus;
pub(crate) use self::status::ticks;
use super::{SessionOptions, Standing};
use crate::{PeerId, Want, causal::CausalOrder, dag::Link};

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// What it said it has, the last time. Those that said the same share it: mostly that is what is here.
    pub(super) vector: Option<Arc<StateVector<SessionId>>>,
    /// Where it said it has more than we had then. No vector: causes that both have are not in it, so that it says
    /// nothing about what can be folded.
    pub(super) ahead: StateVector<SessionId>,
    /// What it has proven to have: nobody else has said that in its name. What it had once it has, so nothing that it does
    /// later takes that back.
    proven: Option<Arc<StateVector<SessionId>>>,
    /// Who has proven it.
    voice: Option<u64>,
    /// What of it is asked for next.
    pub(super) order: CausalOrder,
    /// The digest that it said when it had the same as we.
    agreed: Option<u64>,
    /// The heads of its DAG, when it said another digest the last time.
    pub(super) heads: Vec<Link>,
    /// Its unknown heads are due to be walked from.
    pub(super) walk: bool,
    /// Since when it has been sent coded symbols, and how often.
    pub(super) sketches: (Duration, u32),
    /// It said another digest: ask it then, unless the difference has gone away by itself.
    probe: Option<(Duration, u64)>,
    /// Not asked before that.
    pub(super) distrusted_until: Duration,
    /// It can bring nothing as long as there is no room for newcomers.
    pub(super) waits_for_room: bool,
    /// It is not reported again before that that it has other patches under the same times.
    pub(super) diverged_until: Duration,
    /// It is not asked for what it has of the own session, because of that, before that.
    pub(super) own_check_from: Duration,
    /// When it was asked for what it has of the own session, and up to which time.
    pub(super) own_asked: Option<(Duration, u64)>,
    heard_at: Duration,
    attendance: Attendance,
    /// Its snapshot and the one here each contain what the other lacks, so that neither can take over the other's; and when
    /// that was reported.
    parted: Option<Duration>,
    /// When it was told our state, to bound what a peer can make us send.
    told_at: Option<Duration>,
    /// A page is being read for it; a second one at the same time is not.
    reading: bool,
}

/// What discovery says of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Attendance {
    /// Nothing.
    #[default]
    Stranger,
    /// It was there and is gone, without a goodbye. What it is not known to have is kept for it until then.
    Absent {
        until: Duration,
        /// Nothing has been heard of it since.
        silent: bool,
    },
    /// It is there.
    Found,
}

impl Peer {
    /// Whether nobody has seen or heard it lately, so that it is not to be asked.
    const fn is_silent(&self) -> bool {
        matches!(self.attendance, Attendance::Absent { silent: true, .. })
    }

    const fn is_found(&self) -> bool {
        matches!(self.attendance, Attendance::Found)
    }

    /// What it is known to have.
    fn word(&self, proves_words: bool) -> Option<&StateVector<SessionId>> {
        if proves_words { self.proven.as_deref() } else { self.vector.as_deref() }
    }

    /// It has proven to have this too.
    fn prove(&mut self, has: &Arc<StateVector<SessionId>>) {
        match &mut self.proven {
            Some(proven) if !has.contains(proven) => Arc::make_mut(proven).merge(has),
            proven => *proven = Some(Arc::clone(has)),
        }
    }

    /// The difference is explained.
    pub(super) fn clear_probe(&mut self) {
        self.probe = None;
    }

    /// It can't be asked now, and what it said counts for nothing.
    pub(super) fn distrust(&mut self, until: Duration) {
        self.distrusted_until = until;
        self.forget_entries();
        self.heads.clear();
        self.walk = false;
    }

    /// What it said it has is not known any more; if it says the same again, it is.
    fn forget_entries(&mut self) {
        (self.vector, self.agreed) = (None, None);
        self.order.goes_on();
        self.ahead = StateVector::new();
    }

    /// The state vectors that are held of it and that others may share.
    fn vectors(&self) -> impl Iterator<Item = &Arc<StateVector<SessionId>>> {
        [&self.vector, &self.proven].into_iter().flatten()
    }

    /// How many entries of state vectors it would free if it were forgotten; `holders` says how often each vector is held.
    fn entries(&self, holders: &Holders) -> usize {
        let share = |vector: &Arc<StateVector<SessionId>>| {
            vector.len() / holders.get(&Arc::as_ptr(vector)).map_or(1, |count| (*count).max(1))
        };
        self.vectors().map(share).sum::<usize>() + self.ahead.len()
    }

    /// What it can be asked for on top of `accepted`.
    pub(super) fn wants(&self, accepted: &StateVector<SessionId>) -> Vec<Want> {
        let mut all = self.ahead.clone();
        self.vector.iter().for_each(|vector| all.merge(vector));
        Want::missing(accepted, &all)
    }

    fn is_ahead_of(&self, accepted: &StateVector<SessionId>) -> bool {
        let more = |vector: &StateVector<SessionId>| !accepted.contains(vector);
        self.vector.as_deref().is_some_and(more) || more(&self.ahead)
    }
}

/// How often each state vector is held by peers.
type Holders = BTreeMap<*const StateVector<SessionId>, usize>;

/// How many entries of state vectors those are told, in the time of `settle`, whom discovery does not name: a question takes
/// a few bytes, under any number of names. At least one is answered, however long the vector is; the others ask again.
const STRANGERS_ENTRIES_MAX: usize = 1 << 16;

/// What strangers were told lately.
#[derive(Debug, Default)]
pub(super) struct Told {
    since: Duration,
    entries: usize,
}

impl Told {
    /// Whether one more may be told so many entries.
    fn takes(&mut self, now: Duration, settle: Duration, entries: usize) -> bool {
        if now >= self.since + settle {
            *self = Self { since: now, entries: 0 };
        }
        let fits = self.entries == 0 || self.entries + entries <= STRANGERS_ENTRIES_MAX;
        self.entries += if fits { entries } else { 0 };
        fits
    }
}

#[derive(Debug)]
pub(super) struct Peers {
    known: BTreeMap<PeerId, Peer>,
    max: usize,
    /// How long a silent stranger is remembered.
    stranger_max: Duration,
    /// How long somebody is who was found and is gone without a goodbye.
    absent_max: Duration,
    /// Whether only proven words count for what may be folded.
    proves_words: bool,
    /// Whether a peer may have something that is missing here: comparing vectors at each patch would cost more than the
    /// patch.
    maybe_ahead: bool,
    /// No peer is to be asked before that.
    probes_from: Duration,
    /// When to look for strangers again.
    strangers_from: Duration,
}

/// How long somebody is remembered whom discovery does not name and who says nothing: one who left while a last word was
/// under way, or made up a name. What such a peer has is not known, and what a known peer may lack is never folded, so that
/// without an end each of them would keep the log from ever getting shorter. Where replicas speak more seldom than by the
/// standard, it is [`STRANGER_INTERVALS`] of the longest intervals, if that is more.
///
/// Two replicas that discovery never names and that are parted for longer no longer wait for each other: each may fold what
/// the other lacks. If one has nothing that the other's snapshot lacks, it takes that over. If both have folded, neither
/// snapshot contains the other, and neither can be taken over; that is why discovery is to name whoever may come back.
const STRANGER_MAX: Duration = Duration::from_secs(60);
/// A replica may be silent in an interval, because others have said the same, and be lost in the next.
const STRANGER_INTERVALS: u32 = 4;
/// How often it is reported of a peer that it is parted.
const PARTED_PAUSE: Duration = Duration::from_secs(60);
/// How often strangers are looked for.
const STRANGERS_PAUSE: Duration = Duration::from_secs(10);

impl Peers {
    pub(super) fn new(options: &SessionOptions) -> Self {
        let (max, proves_words) = (options.peers_max, options.proves_words);
        let intervals = options.trickle.interval_max.saturating_mul(STRANGER_INTERVALS);
        let (stranger_max, absent_max) = (STRANGER_MAX.max(intervals), options.absent_max);
        let (maybe_ahead, probes_from, strangers_from) = (false, Duration::MAX, Duration::ZERO);
        Self {
            known: BTreeMap::new(),
            max,
            stranger_max,
            absent_max,
            proves_words,
            maybe_ahead,
            probes_from,
            strangers_from,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn absent(&self) -> usize {
        self.known.values().filter(|peer| matches!(peer.attendance, Attendance::Absent { .. })).count()
    }

    pub(super) fn parted(&self) -> usize {
        self.known.values().filter(|peer| peer.parted.is_some()).count()
    }

    /// Whoever could not be got together with this replica may have been by what has come.
    pub(super) fn none_is_parted(&mut self) {
        self.known.values_mut().for_each(|peer| peer.parted = None);
    }

    /// Notes that a peer has folded what is not here, and this replica what it lacks. Returns whether that is to be reported.
    pub(super) fn note_parted(&mut self, id: &PeerId, now: Duration) -> bool {
        let Some(peer) = self.known.get_mut(id) else { return false };
        let report = peer.parted.is_none_or(|at| now >= at + PARTED_PAUSE);
        if report {
            peer.parted = Some(now);
        }
        report
    }

    pub(super) fn get(&self, id: &PeerId) -> Option<&Peer> {
        self.known.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &PeerId) -> Option<&mut Peer> {
        self.known.get_mut(id)
    }

    /// Notes what a peer has.
    fn has(&mut self, id: &PeerId, vector: Arc<StateVector<SessionId>>) {
        if let Some(peer) = self.known.get_mut(id) {
            peer.vector = Some(vector);
        }
    }

    /// How many entries of state vectors are held of all.
    pub(super) fn entries(&self) -> usize {
        let mut held: Vec<_> = self.known.values().flat_map(Peer::vectors).collect();
        held.sort_unstable_by_key(|vector| Arc::as_ptr(vector));
        held.dedup_by_key(|vector| Arc::as_ptr(vector));
        let ahead = self.known.values().map(|peer| peer.ahead.len());
        held.iter().map(|vector| vector.len()).chain(ahead).sum()
    }

    /// Forgets what peers said until at most `max` entries of state vectors are left; the longest go first.
    pub(super) fn forget_above(&mut self, max: usize) {
        while self.entries() > max {
            let mut holders = Holders::new();
            for vector in self.known.values().flat_map(Peer::vectors) {
                *holders.entry(Arc::as_ptr(vector)).or_default() += 1;
            }
            let longest = self.known.values_mut().max_by_key(|peer| peer.entries(&holders));
            let Some(peer) = longest else { return };
            peer.forget_entries();
            peer.proven = None;
        }
    }

    /// Notes that a peer says something. `None` if there is no room for it: made-up names put out each other, and nobody whom
    /// discovery names, or has named and who may come back.
    fn heard(&mut self, id: &PeerId, now: Duration) -> Option<&mut Peer> {
        if self.is_full_for(id) {
            self.first_to_go().filter(|(_, peer)| peer.attendance == Attendance::Stranger)?;
            self.put_one_out();
        }
        let peer = self.known.entry(id.clone()).or_default();
        peer.heard_at = now;
        if let Attendance::Absent { until, silent } = &mut peer.attendance {
            (*until, *silent) = (now.saturating_add(self.absent_max), false);
        }
        Some(peer)
    }

    /// Notes that discovery names a peer: there is always room for it. Returns it as it was, and who had to go, unless that
    /// was a stranger.
    fn found(&mut self, id: &PeerId, now: Duration) -> (&mut Peer, Option<PeerId>) {
        let put_out = if self.is_full_for(id) { self.put_one_out() } else { None };
        let peer = self.known.entry(id.clone()).or_default();
        peer.heard_at = now;
        (peer, put_out)
    }

    fn is_full_for(&self, id: &PeerId) -> bool {
        self.known.len() >= self.max && !self.known.contains_key(id)
    }

    /// A stranger goes first, then who is gone and may come back; of the same, the one heard longest ago.
    fn first_to_go(&self) -> Option<(&PeerId, &Peer)> {
        let rank = |peer: &Peer| match peer.attendance {
            Attendance::Stranger => 0,
            Attendance::Absent { .. } => 1,
            Attendance::Found => 2,
        };
        self.known.iter().min_by_key(|(_, peer)| (rank(peer), peer.heard_at))
    }

    fn put_one_out(&mut self) -> Option<PeerId> {
        let id = self.first_to_go()?.0.clone();
        let peer = self.known.remove(&id)?;
        (peer.attendance != Attendance::Stranger).then_some(id)
    }

    /// Remembers who was there before this replica was started, and for how long.
    pub(super) fn remember(&mut self, now: Duration, absent: impl IntoIterator<Item = (PeerId, Duration)>) {
        for (id, left) in absent.into_iter().take(self.max) {
            let until = now.saturating_add(left.min(self.absent_max));
            let attendance = Attendance::Absent { until, silent: true };
            self.known.insert(id, Peer { attendance, ..Peer::default() });
        }
    }

    /// Who was found and has not said goodbye; and of those who are not there, for how much longer they are remembered.
    pub(super) fn members(&self, now: Duration) -> impl Iterator<Item = (&PeerId, Option<Duration>)> {
        self.known.iter().filter_map(move |(id, peer)| match peer.attendance {
            Attendance::Stranger => None,
            Attendance::Absent { until, .. } => Some((id, Some(until.saturating_sub(now)))),
            Attendance::Found => Some((id, None)),
        })
    }

    /// Forgets those whom discovery does not name and who have been silent for long. Returns who of them was found before:
    /// what it lacks is kept no longer.
    pub(super) fn forget_strangers(&mut self, now: Duration) -> Vec<PeerId> {
        let mut forgotten = Vec::new();
        if now >= self.strangers_from {
            self.strangers_from = now + STRANGERS_PAUSE;
            self.known.retain(|id, peer| {
                let heard_lately = now < peer.heard_at + self.stranger_max;
                match &mut peer.attendance {
                    Attendance::Stranger => heard_lately,
                    Attendance::Absent { until, silent } => {
                        *silent |= !heard_lately;
                        if now >= *until {
                            forgotten.push(id.clone());
                        }
                        now < *until
                    }
                    Attendance::Found => true,
                }
            });
        }
        forgotten
    }

    pub(super) fn wakes_at(&self) -> Option<Duration> {
        (self.probes_from < Duration::MAX).then_some(self.probes_from)
    }

    /// Whether no peer is to be asked for anything now.
    pub(super) fn are_quiet(&self, now: Duration) -> bool {
        !self.maybe_ahead && now < self.probes_from
    }

    /// Notes that a peer's word is to be looked into at some time.
    fn probe(&mut self, id: &PeerId, at: Duration, digest: u64) {
        if let Some(peer) = self.known.get_mut(id) {
            peer.probe = Some((at, digest));
            self.probes_from = self.probes_from.min(at);
        }
    }

    /// The peers whose word is due to be looked into.
    fn due(&mut self, now: Duration) -> Vec<PeerId> {
        if now < self.probes_from {
            return Vec::new();
        }
        let due = |peer: &Peer| peer.probe.is_some_and(|(at, _)| at <= now);
        let ids = self.known.iter().filter(|(_, peer)| due(peer)).map(|(id, _)| id.clone()).collect();
        let later = self.known.values().filter(|peer| !due(peer));
        self.probes_from =
            later.filter_map(|peer| peer.probe.map(|(at, _)| at)).min().unwrap_or(Duration::MAX);
        ids
    }

    /// Notes that a peer has said something new of what it has.
    pub(super) fn may_be_ahead(&mut self) {
        self.maybe_ahead = true;
    }

    /// What every known peer, apart from `without`, and `own` have.
    pub(super) fn stable(
        &self,
        own: &StateVector<SessionId>,
        without: Option<&PeerId>,
        standing: impl Fn(&PeerId, Option<u64>) -> Standing,
    ) -> StateVector<SessionId> {
        let others = self.known.iter().filter(|(id, _)| without != Some(*id));
        let words =
            others.filter_map(|(id, peer)| match self.proves_words.then(|| standing(id, peer.voice)) {
                None => Some(peer.vector.as_deref()),
                Some(Standing::Counts) => Some(peer.proven.as_deref()),
                Some(Standing::Lapsed) => Some(None),
                Some(Standing::Guest) => None,
            });
        // Who has said nothing may lack everything.
        let Some(words) = words.collect::<Option<Vec<_>>>() else { return StateVector::new() };
        let least = |sid, own| words.iter().map(|vector| vector.get(sid)).fold(own, u64::min);
        own.iter().map(|(sid, time)| (*sid, least(sid, time))).collect()
    }

    /// The peers that may be asked now, in the order of their names.
    pub(super) fn trusted(&self, now: Duration) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.known.iter().filter(move |(_, peer)| peer.distrusted_until <= now && !peer.is_silent())
    }

    /// The peers that may be asked now and have something that `accepted` lacks.
    pub(super) fn ahead_of(&mut self, accepted: &StateVector<SessionId>, now: Duration) -> Vec<PeerId> {
        if !self.maybe_ahead {
            return Vec::new();
        }
        self.maybe_ahead = self.known.values().any(|peer| !peer.is_silent() && peer.is_ahead_of(accepted));
        self.trusted(now).filter(|(_, peer)| peer.is_ahead_of(accepted)).map(|(id, _)| id.clone()).collect()
    }
}
