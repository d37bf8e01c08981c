//! What is taken in at all, and of how many sessions.

use std::time::Duration;

use crdt_core::{SessionId, StateVector, Timestamp};

use super::{Session, event::Refusal, options::SessionOptions, parked::Readiness};
use crate::{PatchRecord, record::is_reserved};

/// One of so many sessions that a document may have is kept for those that begin elsewhere at the same time as one here.
const NEWCOMERS_PART: usize = 64;

/// Counts the sessions with patches that are not folded: each of them costs something whenever patches are looked for, where one
/// that is folded whole is a number in a state vector.
#[derive(Debug)]
pub(super) struct Crowd {
    /// What the store's own snapshot contains.
    folded: StateVector<SessionId>,
    /// The highest time in it.
    folded_upto: u64,
    unfolded: usize,
}

impl Crowd {
    pub(super) fn new(folded: StateVector<SessionId>, accepted: &StateVector<SessionId>) -> Self {
        let folded_upto = folded.iter().map(|(_, last)| last).max().unwrap_or(0);
        let unfolded = folded.missing_from(accepted).count();
        Self { folded, folded_upto, unfolded }
    }

    pub(super) const fn unfolded(&self) -> usize {
        self.unfolded
    }

    /// A patch of a session was taken in, of which everything up to `before` had been.
    #[inline]
    pub(super) fn note(&mut self, sid: SessionId, before: u64) {
        // What was written after the last one that is folded needs no search, and that are most patches.
        let was_folded = || before <= self.folded_upto && before == self.folded.get(&sid);
        if before == 0 || was_folded() {
            self.unfolded += 1;
        }
    }
}

impl Session {
    /// Why a patch of the application would be refused, if it would be.
    ///
    /// Once somebody else is proven to have used the session, every patch is: after a restore from a backup, say, others have
    /// what was written since, and none of them could ever take what is written in its place.
    pub fn local_refusal(&self, record: &PatchRecord) -> Option<Refusal> {
        if let Some(id) = self.used_twice {
            return Some(Refusal::SessionUsedTwice(id));
        }
        let (sid, own) = (record.session(), self.options.session);
        let next = || sid == own && self.readiness(record) == Readiness::Ready;
        match record.check() {
            Ok(()) if !next() => Some(Refusal::OutOfOrder(record.id)),
            Ok(()) => self.newcomer_refusal(sid),
            Err(invalid) => Some(Refusal::Invalid(invalid)),
        }
    }

    /// Why a patch of a client would be refused, if it would be.
    pub fn client_refusal(&self, record: &PatchRecord) -> Option<Refusal> {
        self.refusal(record).or_else(|| self.newcomer_refusal(record.session()))
    }

    /// Whether a document is too full for a session that begins here: others would refuse it. A part of the room is left for
    /// those who began elsewhere at the same time.
    fn newcomer_refusal(&self, sid: SessionId) -> Option<Refusal> {
        let with_room = |limit| limit - limit / NEWCOMERS_PART;
        if self.accepted.get(&sid) == 0 { self.crowded(with_room) } else { None }
    }

    /// Whether there is room for one more session; `taken` says how much of a bound may be taken.
    fn crowded(&self, taken: impl Fn(usize) -> usize) -> Option<Refusal> {
        let SessionOptions { sessions_max, unfolded_sessions_max, .. } = self.options;
        if self.accepted.len() >= taken(sessions_max) {
            Some(Refusal::TooManySessions { limit: sessions_max })
        } else if self.crowd.unfolded() >= taken(unfolded_sessions_max) {
            Some(Refusal::TooManyUnfoldedSessions { limit: unfolded_sessions_max })
        } else {
            None
        }
    }

    /// Patches went into a snapshot of the store's own: there may be room for newcomers again.
    pub(super) fn folded(&mut self, now: Duration, folded: StateVector<SessionId>) {
        self.crowd = Crowd::new(folded, &self.accepted);
        if std::mem::take(&mut self.no_newcomers_until) > now {
            self.pull_next(now);
        }
    }

    /// Whether a patch finds no room only because its session begins here. Then newcomers are not asked for again at once: who
    /// sends what it was asked for is not to blame, and what else it has is wanted.
    pub(super) fn has_no_room_for(&mut self, now: Duration, record: &PatchRecord) -> bool {
        let crowded = self.crowded(|limit| limit).is_some() && self.accepted.get(&record.session()) == 0;
        if crowded {
            self.no_newcomers_until = now + self.options.distrust;
        }
        crowded
    }

    /// Why a patch from outside would be refused, if it would be.
    pub fn refusal(&self, record: &PatchRecord) -> Option<Refusal> {
        let forked = || match self.readiness(record) {
            Readiness::Forked => Err(Refusal::SessionUsedTwice(record.id)),
            _ => Ok(()),
        };
        let seen = self.accepted.get(&record.session());
        self.admissible(record, seen).and_then(|()| forked()).err()
    }

    /// Whether a patch would find a place if it has to wait for its causes. One that a client brought must not be pushed out:
    /// nobody else has it, and the client would not know.
    pub fn has_room_for(&self, record: &PatchRecord) -> bool {
        !matches!(self.readiness(record), Readiness::Waits(_)) || self.parked.has_room_for(record)
    }

    /// Whether a patch may be looked at; `seen` is the last time taken in of its session.
    pub(super) fn admissible(&self, record: &PatchRecord, seen: u64) -> Result<(), Refusal> {
        record.check().map_err(Refusal::Invalid)?;
        let sid = record.session();
        if is_reserved(sid) {
            return Err(Refusal::ReservedSession(record.id));
        }
        let in_base = |named: &&Timestamp| named.time <= self.base.get(&named.sid);
        if let Some(&named) = record.named_of_reserved().find(|named| !in_base(named)) {
            return Err(Refusal::NotInBase { id: record.id, named });
        }
        if sid == self.options.session && record.last() > seen {
            return Err(Refusal::SessionUsedTwice(record.id));
        }
        if seen == 0
            && let Some(refusal) = self.crowded(|limit| limit)
        {
            return Err(refusal);
        }
        let latest = self.latest;
        if record.last() > latest.saturating_add(self.options.ticks_ahead_max) {
            return Err(Refusal::TooFarAhead { id: record.id, latest, limit: self.options.ticks_ahead_max });
        }
        Ok(())
    }
}
