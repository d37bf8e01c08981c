//! Patches that came before their causes.

use std::collections::{BTreeMap, btree_map::Entry};

use crdt_core::{SessionId, StateVector};

use super::Origin;
use crate::{
    PatchRecord,
    dag::{LINKS_MAX, Link},
    record::is_reserved,
};

/// Holds early patches until what they wait for has come. Bounded in number and bytes: when it is full, the patch that
/// is furthest ahead goes, since it would wait the longest; it is asked for again when its turn comes. One that a client brought
/// goes last: nobody can be asked for it.
#[derive(Debug)]
pub(super) struct Parked {
    /// By session and last time, so that a session's next one is its first; with the session that it waits for.
    records: BTreeMap<SessionId, BTreeMap<u64, Waiting>>,
    /// How many records of a session wait for a session: (waited for, waiting) → count.
    waiting: BTreeMap<(SessionId, SessionId), usize>,
    count: usize,
    len_bytes: usize,
    count_max: usize,
    len_bytes_max: usize,
}

#[derive(Debug)]
struct Waiting {
    record: PatchRecord,
    waits: SessionId,
    origin: Origin,
}

/// What a record waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// All of it has been taken in already.
    Known,
    /// Something of this session, which may be its own, has to come first.
    Waits(SessionId),
    /// It overlaps what is known of its session, or skips back: two replicas used one session.
    Forked,
}

/// Whether a record can be taken in on top of a vector, in which `seen` is the time of its session, and `of` finds the others.
pub(super) fn readiness(record: &PatchRecord, seen: u64, mut of: impl FnMut(SessionId) -> u64) -> Readiness {
    let sid = record.session();
    if record.last() <= seen {
        return Readiness::Known;
    }
    if record.prev > seen {
        return Readiness::Waits(sid);
    }
    if record.prev < seen {
        return Readiness::Forked;
    }
    for need in record.needs.iter().filter(|need| !is_reserved(need.sid)) {
        if of(need.sid) < need.time {
            return Readiness::Waits(need.sid);
        }
    }
    match record.links.iter().find(|link| of(link.sid) < link.last) {
        Some(link) => Readiness::Waits(link.sid),
        None => Readiness::Ready,
    }
}

impl Parked {
    pub(super) fn new(count_max: usize, len_bytes_max: usize) -> Self {
        Self {
            records: BTreeMap::new(),
            waiting: BTreeMap::new(),
            count: 0,
            len_bytes: 0,
            count_max,
            len_bytes_max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether one more finds a place without pushing out another.
    pub(super) fn has_room_for(&self, record: &PatchRecord) -> bool {
        self.count < self.count_max && self.len_bytes + record.len_bytes() <= self.len_bytes_max
    }

    /// Keeps a record that waits for `waits`. Returns how many records went because of the bounds.
    pub(super) fn park(&mut self, record: PatchRecord, waits: SessionId, origin: Origin) -> u64 {
        let (sid, last) = (record.session(), record.last());
        *self.waiting.entry((waits, sid)).or_insert(0) += 1;
        self.len_bytes += record.len_bytes();
        self.count += 1;
        let parked = Waiting { record, waits, origin };
        if let Some(same) = self.records.entry(sid).or_default().insert(last, parked) {
            let (_, before) = self.forget(same);
            if before == Origin::Relayed
                && let Some(parked) = self.records.get_mut(&sid).and_then(|of| of.get_mut(&last))
            {
                parked.origin = before;
            }
        }
        let mut dropped = 0;
        while self.count > self.count_max || self.len_bytes > self.len_bytes_max {
            self.drop_furthest();
            dropped += 1;
        }
        dropped
    }

    /// Takes out the parked records that `advanced` may have made ready, or has shown to be wrong; `seen` says how far sessions
    /// are. The caller looks at each again. All that do not wait for their own session any more: of several in one place all
    /// but one are refused, and nothing would come of that to release the others.
    pub(super) fn released_by(
        &mut self,
        advanced: SessionId,
        seen: impl Fn(&SessionId) -> u64,
    ) -> Vec<(PatchRecord, Origin)> {
        if self.count == 0 {
            return Vec::new();
        }
        let lowest = (advanced, SessionId::SYSTEM);
        let waiters = self.waiting.range(lowest..).take_while(|((on, _), _)| *on == advanced);
        let waiters: Vec<SessionId> = waiters.map(|((_, sid), _)| *sid).collect();
        let mut released = Vec::new();
        for sid in waiters {
            let seen = seen(&sid);
            let stands = |parked: &Waiting| parked.record.prev <= seen;
            while self.records.get(&sid).and_then(|of| of.values().next()).is_some_and(stands) {
                released.extend(self.take(sid, BTreeMap::pop_first));
            }
        }
        released
    }

    pub(super) fn contains(&self, sid: SessionId, last: u64) -> bool {
        self.records.get(&sid).is_some_and(|records| records.contains_key(&last))
    }

    /// What parked nodes follow that is neither taken in nor parked, the first few.
    pub(super) fn missing_links(&self, accepted: &StateVector<SessionId>) -> Vec<Link> {
        let links = self.records.values().flat_map(BTreeMap::values).flat_map(|parked| &parked.record.links);
        let missing =
            |link: &&Link| accepted.get(&link.sid) < link.last && !self.contains(link.sid, link.last);
        links.filter(missing).take(LINKS_MAX).copied().collect()
    }

    /// The session that is furthest behind what is parked, to ask for: any will do, as long as it is the same each time.
    pub(super) fn first_wait(&self) -> Option<SessionId> {
        self.waiting.first_key_value().map(|((on, _), _)| *on)
    }

    fn drop_furthest(&mut self) {
        let furthest = |goes: fn(&Waiting) -> bool| {
            let of_session = |(sid, of): (&SessionId, &BTreeMap<u64, Waiting>)| {
                of.iter().rev().find(|(_, parked)| goes(parked)).map(|(last, _)| (*last, *sid))
            };
            self.records.iter().filter_map(of_session).max()
        };
        let first = furthest(|parked| parked.origin != Origin::Relayed).or_else(|| furthest(|_| true));
        if let Some((last, sid)) = first {
            self.take(sid, |of| of.remove_entry(&last));
        }
    }

    fn take(
        &mut self,
        sid: SessionId,
        pop: impl FnOnce(&mut BTreeMap<u64, Waiting>) -> Option<(u64, Waiting)>,
    ) -> Option<(PatchRecord, Origin)> {
        let records = self.records.get_mut(&sid)?;
        let (_, parked) = pop(records)?;
        if records.is_empty() {
            self.records.remove(&sid);
        }
        Some(self.forget(parked))
    }

    fn forget(&mut self, Waiting { record, waits, origin }: Waiting) -> (PatchRecord, Origin) {
        self.count -= 1;
        self.len_bytes -= record.len_bytes();
        if let Entry::Occupied(mut waiting) = self.waiting.entry((waits, record.session())) {
            *waiting.get_mut() -= 1;
            if *waiting.get() == 0 {
                waiting.remove();
            }
        }
        (record, origin)
    }
}
