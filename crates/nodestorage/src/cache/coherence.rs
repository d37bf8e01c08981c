//! When an entry may be served, and when it may be put.
//!
//! The rules of one process, without IO: who writes, who is on the way to the storage, what is known of versions.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::{BoxFuture, Shared, WeakShared};
use moka::sync::Cache as Moka;
use parking_lot::Mutex;

use crate::{Document, DocumentId, StorageError};

/// How many documents' versions are remembered. Of others an entry is served whatever its version.
pub const KNOWN_VERSIONS_MAX: u64 = 65_536;

/// A reader's trip to the storage that others may share. An error is shared as text.
pub(super) type Flight = Shared<Trip>;
type Trip = BoxFuture<'static, Result<Option<Document>, Arc<StorageError>>>;

/// What a reader may do.
pub(super) enum Reading {
    /// Go past the cache.
    Around,
    /// Join the one who is on the way.
    Join(Flight),
    /// Go: others may join.
    Go(Flight),
}

/// What was so when a reader set out. If it still is when it comes back, it may fill the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    document: u64,
    all: u64,
}

#[derive(Default)]
struct State {
    documents: HashMap<DocumentId, OfDocument>,
    /// How many writes of whatever documents are under way: transactions, of which nobody knows what they write.
    wide_writers: usize,
    /// How many writes there are of single documents.
    writers: usize,
    /// Counted up by everything that concerns all documents.
    all: u64,
    /// Counted up by every write, at its beginning and its end, and by every change that the feed tells of.
    writes: u64,
    trusted: bool,
    /// How often the cache has failed.
    failures: u64,
}

/// Of a document that somebody reads or writes just now.
#[derive(Default)]
struct OfDocument {
    writers: usize,
    /// Counted up by each beginning and end of a write, and by each change that the feed tells of.
    writes: u64,
    /// Readers on the way, by number, and the one that can be joined. It is its readers': when the last of them goes away,
    /// the trip ends there, and not where the lock is held.
    readers: usize,
    flight: Option<(Ticket, WeakShared<Trip>)>,
}

/// The versions of a document that this process knows to be committed.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Written, read or heard of here: nobody is served less.
    seen: u64,
    /// The cache has been told of: it need not be told again.
    told: u64,
}

pub(super) struct Coherence {
    state: Mutex<State>,
    known: Moka<DocumentId, Known>,
}

impl Coherence {
    /// Trusts nothing yet.
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), known: Moka::new(KNOWN_VERSIONS_MAX) }
    }

    /// Whether the cache may be asked about a document at all.
    pub(super) fn may_serve(&self, id: &DocumentId) -> bool {
        let state = self.state.lock();
        state.may_serve(id)
    }

    /// Whether pages of queries may be served, and the number that they must have been read under.
    pub(super) fn quiet(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.trusted && state.writers + state.wide_writers == 0).then_some(state.writes)
    }

    /// Sets out to read. `go` makes the trip.
    pub(super) fn read(&self, id: &DocumentId, go: impl FnOnce(Ticket) -> Flight) -> Reading {
        let mut state = self.state.lock();
        if !state.may_serve(id) {
            return Reading::Around;
        }
        let all = state.all;
        let of = state.documents.entry(id.clone()).or_default();
        if let Some(flight) = of.flight.as_ref().and_then(|(_, flight)| flight.upgrade()) {
            return Reading::Join(flight);
        }
        let ticket = Ticket { document: of.writes, all };
        let flight = go(ticket);
        of.flight = flight.downgrade().map(|flight| (ticket, flight));
        of.readers += 1;
        Reading::Go(flight)
    }

    /// Comes back from reading. Whether what was read may be put.
    pub(super) fn may_fill(&self, id: &DocumentId, ticket: Ticket) -> bool {
        let state = self.state.lock();
        let same = state.documents.get(id).is_some_and(|of| of.writes == ticket.document);
        same && state.all == ticket.all && state.may_serve(id)
    }

    /// Ends a reader's trip, whatever came of it.
    pub(super) fn landed(&self, id: &DocumentId, ticket: Ticket) {
        let mut state = self.state.lock();
        if let Some(of) = state.documents.get_mut(id) {
            of.readers -= 1;
            // Not the flight of somebody who set out later.
            of.flight.take_if(|(of, _)| *of == ticket);
            state.tidy(id);
        }
    }

    /// Begins a write: from here on readers ask the storage.
    pub(super) fn begin(&self, id: &DocumentId) {
        let mut state = self.state.lock();
        state.writers += 1;
        state.writes += 1;
        let of = state.documents.entry(id.clone()).or_default();
        of.writers += 1;
        of.writes += 1;
        of.flight = None;
    }

    pub(super) fn end(&self, id: &DocumentId) {
        let mut state = self.state.lock();
        state.writers -= 1;
        state.writes += 1;
        if let Some(of) = state.documents.get_mut(id) {
            of.writers -= 1;
            of.writes += 1;
            state.tidy(id);
        }
    }

    /// Begins a write of nobody knows what.
    pub(super) fn begin_wide(&self) {
        let mut state = self.state.lock();
        state.wide_writers += 1;
        state.disturb_all();
    }

    pub(super) fn end_wide(&self) {
        let mut state = self.state.lock();
        state.wide_writers -= 1;
        state.disturb_all();
    }

    /// Somebody else has written: who is on the way may bring what is old.
    pub(super) fn disturb(&self, id: &DocumentId) {
        let mut state = self.state.lock();
        state.writes += 1;
        if let Some(of) = state.documents.get_mut(id) {
            of.writes += 1;
            of.flight = None;
        }
    }

    /// Remembers a version that was seen here, whether or not the cache can be told of it: what another node puts into
    /// an emptied cache may be older.
    pub(super) fn see(&self, id: &DocumentId, version: u64) {
        self.admits(id, version);
    }

    /// Whether an entry of this version may be served. If so, nobody is served less from here on.
    pub(super) fn admits(&self, id: &DocumentId, version: u64) -> bool {
        let known = self.known(id);
        if known < version {
            self.learn(id, Known { seen: version, told: 0 });
        }
        known <= version
    }

    /// Remembers a version that the cache has been told of.
    pub(super) fn told(&self, id: &DocumentId, version: u64) {
        self.learn(id, Known { seen: version, told: version });
    }

    fn learn(&self, id: &DocumentId, new: Known) {
        self.known.entry_by_ref(id).and_upsert_with(|known| {
            let known = known.map_or_else(Known::default, moka::Entry::into_value);
            Known { seen: known.seen.max(new.seen), told: known.told.max(new.told) }
        });
    }

    /// The highest version that was seen here.
    pub(super) fn known(&self, id: &DocumentId) -> u64 {
        self.known.get(id).map_or(0, |known| known.seen)
    }

    /// Whether the cache has been told of a version, or of a later one.
    pub(super) fn has_told(&self, id: &DocumentId, version: u64) -> bool {
        self.known.get(id).is_some_and(|known| known.told >= version)
    }

    /// The cache has failed: nobody asks it until it has been emptied.
    pub(super) fn distrust(&self) {
        let mut state = self.state.lock();
        state.failures += 1;
        state.trusted = false;
        state.disturb_all();
    }

    pub(super) fn failures(&self) -> u64 {
        self.state.lock().failures
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.state.lock().trusted
    }

    /// Of how many documents somebody is about.
    #[cfg(test)]
    pub(super) fn documents(&self) -> usize {
        self.state.lock().documents.len()
    }

    /// The cache has been emptied, since this many failures. Whether it is trusted now.
    pub(super) fn trust(&self, failures: u64) -> bool {
        let mut state = self.state.lock();
        state.trusted = state.failures == failures;
        state.trusted
    }
}

impl State {
    fn may_serve(&self, id: &DocumentId) -> bool {
        self.trusted && self.wide_writers == 0 && self.documents.get(id).is_none_or(|of| of.writers == 0)
    }

    fn disturb_all(&mut self) {
        self.all += 1;
        self.writes += 1;
        self.documents.values_mut().for_each(|of| of.flight = None);
    }

    /// Forgets a document that nobody is about.
    fn tidy(&mut self, id: &DocumentId) {
        if self.documents.get(id).is_some_and(|of| of.writers == 0 && of.readers == 0) {
            self.documents.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn id() -> DocumentId {
        DocumentId::new("d").unwrap()
    }

    fn flight() -> Flight {
        async { Ok(None) }.boxed().shared()
    }

    fn trusted() -> Coherence {
        let coherence = Coherence::new();
        assert!(coherence.trust(0));
        coherence
    }

    /// Sets out, and gives the ticket and the flight, which can be joined as long as somebody has it.
    fn go(coherence: &Coherence) -> (Ticket, Flight) {
        let mut ticket = None;
        let reading = coherence.read(&id(), |given| {
            ticket = Some(given);
            flight()
        });
        let Reading::Go(flight) = reading else { panic!("somebody else is on the way") };
        (ticket.unwrap(), flight)
    }

    fn joins(coherence: &Coherence) -> bool {
        matches!(coherence.read(&id(), |_| flight()), Reading::Join(_))
    }

    #[test]
    fn a_reader_may_fill_if_nobody_has_written_meanwhile() {
        let coherence = trusted();
        let (ticket, _flight) = go(&coherence);
        assert!(joins(&coherence));
        assert!(coherence.may_fill(&id(), ticket));
        coherence.landed(&id(), ticket);
        assert_eq!(coherence.documents(), 0);
    }

    #[test]
    fn a_reader_that_a_write_overtook_may_not_fill_and_is_not_joined() {
        type Disturbance = fn(&Coherence);
        let disturbances: [Disturbance; 4] = [
            |c| {
                c.begin(&id());
                c.end(&id());
            },
            |c| {
                c.begin_wide();
                c.end_wide();
            },
            |c| c.disturb(&id()),
            |c| {
                c.distrust();
                assert!(c.trust(1));
            },
        ];
        for disturb in disturbances {
            let coherence = trusted();
            let (late, _late_flight) = go(&coherence);
            disturb(&coherence);
            assert!(!coherence.may_fill(&id(), late));
            let (next, _flight) = go(&coherence);
            coherence.landed(&id(), late);
            // The one that lands late does not end the other's flight.
            assert!(joins(&coherence));
            assert!(coherence.may_fill(&id(), next));
            coherence.landed(&id(), next);
            assert_eq!(coherence.documents(), 0);
        }
    }

    #[test]
    fn readers_go_around_while_somebody_writes() {
        let coherence = trusted();
        coherence.begin(&id());
        assert!(matches!(coherence.read(&id(), |_| flight()), Reading::Around));
        assert!(!coherence.may_serve(&id()));
        assert!(coherence.may_serve(&DocumentId::new("other").unwrap()));
        assert_eq!(coherence.quiet(), None);
        coherence.end(&id());
        assert!(coherence.may_serve(&id()));
        coherence.begin_wide();
        assert!(!coherence.may_serve(&id()));
        coherence.end_wide();
        assert!(coherence.quiet().is_some());
    }

    #[test]
    fn a_cache_that_failed_again_is_not_trusted() {
        let coherence = Coherence::new();
        assert!(!coherence.may_serve(&id()));
        let failures = coherence.failures();
        coherence.distrust();
        assert!(!coherence.trust(failures));
        assert!(coherence.trust(coherence.failures()));
    }

    #[test]
    fn what_is_known_never_goes_back() {
        let coherence = trusted();
        for version in [3, 7, 5] {
            coherence.told(&id(), version);
        }
        for version in [6, 9, 8] {
            coherence.see(&id(), version);
        }
        assert_eq!(coherence.known(&id()), 9);
        assert!(coherence.has_told(&id(), 7) && !coherence.has_told(&id(), 8));
    }
}
