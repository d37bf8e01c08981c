//! How two replicas find out what they differ in: by their state vectors, or, where those are large, by coded symbols.

use std::time::Duration;

use crdt_core::{SessionId, StateVector};

use super::{Session, pull::Stage};
use crate::{
    PeerId, SyncMessage,
    reconcile::{Progress, Reconciler, Symbol, sketch},
};

/// How many symbols are asked for at first.
const SYMBOLS_FIRST: usize = 32;
/// How many symbols are in one message at the most. A request for more gets so many.
const SYMBOLS_PAGE_MAX: usize = 4096;
/// With what index symbols begin at the latest. Requests beyond it are dropped.
const SYMBOLS_MAX: usize = 1 << 16;
/// A symbol takes about so many bytes,
const SYMBOL_BYTES: usize = 24;
/// and an entry of a vector so many: when the symbols would take more than the vector, it is sent as it is.
const ENTRY_BYTES: usize = 14;
/// How often a comparison begins anew because the peer's vector has changed under it. Then it is sent as it is.
const RESTARTS_MAX: usize = 3;
/// How many entries of state vectors are remembered of all peers together: some 16 MiB. Above it the words of those with
/// the most are forgotten, and they are asked anew.
pub(super) const ENTRIES_MAX: usize = 1 << 20;
/// How many pages of symbols are made for a peer in the time of `settle`. More requests are dropped.
const SKETCHES_MAX: u32 = 16;

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Comparison {
    reconciler: Reconciler,
    /// Stands for the peer's vector.
    digest: Option<u64>,
    /// How many symbols were asked for.
    asked: usize,
    restarts: usize,
}

impl Session {
    /// Asks a peer what it has.
    pub(super) fn compare(&mut self, now: Duration, id: PeerId) {
        if self.stored.len() <= self.options.state_entries_max {
            return self.tell_state(now, id, true);
        }
        if self.pull.is_none() {
            let reconciler = Reconciler::new(self.stored.clone(), self.jitter.next());
            self.counters.compared += 1;
            self.ask_symbols(now, id, Comparison { reconciler, digest: None, asked: 0, restarts: 0 });
        }
    }

    fn ask_symbols(&mut self, now: Duration, to: PeerId, mut comparison: Comparison) {
        let (salt, from) = (comparison.reconciler.salt(), comparison.reconciler.taken());
        comparison.asked = from.clamp(SYMBOLS_FIRST, SYMBOLS_PAGE_MAX);
        let count = comparison.asked as u64;
        let id = self.request(now, to.clone(), Stage::Compare(Box::new(comparison)));
        self.send(to, SyncMessage::Compare { id, salt, from: from as u64, count });
    }

    #[tracing::instrument(name = "sketch", level = "debug", skip_all, fields(%from))]
    pub(super) fn on_compare(
        &mut self,
        now: Duration,
        from: PeerId,
        id: u64,
        salt: u64,
        (first, count): (u64, u64),
    ) {
        let window = self.options.settle;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let (since, made) = peer.sketches;
        let made = if now < since + window { made } else { 0 };
        if made >= SKETCHES_MAX || first > SYMBOLS_MAX as u64 {
            self.counters.requests_dropped += 1;
            return;
        }
        peer.sketches = (if made == 0 { now } else { since }, made + 1);
        let count = count.min(SYMBOLS_PAGE_MAX as u64) as usize;
        let symbols = sketch(&self.stored, salt, first as usize, count);
        let entries = self.stored.len() as u64;
        self.send(from, SyncMessage::Sketch { id, digest: self.digest, entries, symbols });
    }

    #[tracing::instrument(name = "reconcile", level = "debug", skip_all, fields(%from))]
    pub(super) fn on_sketch(
        &mut self,
        now: Duration,
        from: &PeerId,
        id: u64,
        (digest, entries): (u64, u64),
        symbols: &[Symbol],
    ) {
        let Some(pull) = self.answered(from, id) else { return };
        let Stage::Compare(mut comparison) = pull.stage else {
            return self.unhelpful(now, from, "sent symbols for something else");
        };
        if comparison.digest.is_some_and(|before| before != digest) {
            // Symbols of two vectors do not go together. (What was not changed costs the same again.)
            comparison.restarts += 1;
            if comparison.restarts > RESTARTS_MAX {
                return self.tell_state(now, from.clone(), true);
            }
            comparison.reconciler = Reconciler::new(self.stored.clone(), self.jitter.next());
            comparison.digest = None;
            return self.ask_symbols(now, from.clone(), *comparison);
        }
        comparison.digest = Some(digest);
        // There are as many as anybody likes. Who sends fewer only keeps us from asking somebody else.
        if symbols.len() != comparison.asked {
            return self.unhelpful(now, from, "sent fewer symbols than it was asked for, or more");
        }
        match comparison.reconciler.take(symbols) {
            Err(_) => self.unhelpful(now, from, "sent symbols of no state vector"),
            Ok(Progress::Done(difference)) => {
                self.told(now, from, difference.theirs);
                if !difference.ours_ahead.is_empty() {
                    self.send(from.clone(), SyncMessage::Ahead { vector: difference.ours_ahead });
                }
                self.pull_next(now);
            }
            Ok(Progress::More) => {
                let taken = comparison.reconciler.taken();
                let vectors = self.stored.len().max(usize::try_from(entries).unwrap_or(usize::MAX));
                if taken * SYMBOL_BYTES > vectors.saturating_mul(ENTRY_BYTES) || taken >= SYMBOLS_MAX {
                    self.tell_state(now, from.clone(), true);
                } else {
                    self.ask_symbols(now, from.clone(), *comparison);
                }
            }
        }
    }

    /// A peer said all that it has.
    pub(super) fn told(&mut self, now: Duration, from: &PeerId, vector: StateVector<SessionId>) {
        if vector != self.stored {
            self.trickle.inconsistent(now, &mut self.jitter);
        }
        let own = self.options.session;
        let (theirs, ours) = (vector.get(&own), self.stored.get(&own));
        let vector = self.as_shared(vector);
        if let Some(peer) = self.peers.get_mut(from) {
            peer.vector = Some(vector);
            peer.ahead = StateVector::new();
            peer.clear_probe();
            self.peers.may_be_ahead();
        }
        self.peers.forget_above(ENTRIES_MAX);
        if theirs < ours {
            self.on_own_time(now, from, theirs);
        }
    }

    /// A peer said where it has more than we have.
    pub(super) fn on_ahead(&mut self, now: Duration, from: &PeerId, vector: &StateVector<SessionId>) {
        if vector.len() > self.options.sessions_max {
            self.counters.requests_dropped += 1;
            return;
        }
        if let Some(peer) = self.peers.get_mut(from) {
            peer.ahead.merge(vector);
            peer.clear_probe();
            // One message is bounded above; many small ones must not come to more.
            if peer.ahead.len() > self.options.sessions_max {
                return self.unhelpful(now, from, "said that it has more sessions than a document may have");
            }
            self.peers.may_be_ahead();
        }
        self.peers.forget_above(ENTRIES_MAX);
        self.pull_next(now);
    }
}
