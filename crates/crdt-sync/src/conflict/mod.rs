//! Writes of the same thing at the same time: who wrote what, and who decides what holds.
//!
//! The document has its own rule, the later write wins, and it stays as it is: nothing here writes. [`Conflicts`] looks
//! at the patches beside it and *resolves in the view*, so replicas that resolve at once don't make new conflicts. What
//! it says is a function of the set of patches and of nothing else.
//!
//! Two writes are concurrent if neither author had seen the other's. Patches don't tell what their author had seen, so
//! authors who want to know [`stamp`] theirs. Of a patch without a stamp it is known what it names and that it follows
//! its session's earlier ones; apart from that it counts as concurrent, so that a conflict may be reported that was none,
//! and none is hidden.
//!
//! ```
//! use crdt_core::{Model, SessionId, Value};
//! use crdt_sync::conflict::{Conflicts, Rules, Strategy, Write, stamped};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut alice = Model::new(SessionId::new(70_001)?);
//! alice.api().root(Value::from(&serde_json::json!({"votes": 0})))?;
//! let first = alice.flush().unwrap();
//! let mut bob = alice.fork(SessionId::new(70_002)?);
//!
//! // Both write without having seen the other's.
//! let a = stamped(&mut alice, |model| model.api().obj("")?.set([("votes", 3)]))?.unwrap();
//! let b = stamped(&mut bob, |model| model.api().obj("")?.set([("votes", 5)]))?.unwrap();
//!
//! let highest = |writes: &[Write]| writes.iter().filter_map(|write| write.value.as_u64()).max().into_iter().collect();
//! let mut conflicts = Conflicts::new(Rules::new().with("/votes", Strategy::merge(highest)));
//! for patch in [&first, &b, &a] {
//!     conflicts.observe(patch.as_ref());
//!     alice.apply(patch)?;
//! }
//! assert_eq!(conflicts.view(alice.document()).get("votes"), Some(&Value::from_iter([5_u64])));
//! let report = conflicts.poll_report().unwrap();
//! assert_eq!((report.kept.author().get(), report.other.author().get()), (70_002, 70_001));
//! # Ok(()) }
//! ```

mod rules;
mod section;
mod stamp;
mod tracked;
mod view;
mod written;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crdt_core::{Document, PatchRef, SessionId, StateVector, Timestamp, Value};

pub use rules::{MergeFn, Rules, Strategy};
pub use stamp::{SEEN_MAX, seen_by, stamp, stamped};
pub use tracked::Place;
pub use view::Open;

pub(crate) use section::NoSection;
use tracked::Tracked;

use crate::SignerId;

/// A write of a register, of a key, or of a place of a tuple or array.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The node written. Of two writes the document keeps the one where this is greater.
    pub node: Timestamp,
    /// The operation that wrote it: its author and time.
    pub id: Timestamp,
    /// What its author had seen before the patch, as far as that is known.
    pub clock: Arc<StateVector>,
    /// What was written: the value as it is now if the document keeps it, else as it was at first. `undefined` for a
    /// deletion, and for something that was made in an earlier patch and is gone.
    pub value: Value,
}

impl Write {
    /// Who wrote it.
    pub const fn author(&self) -> SessionId {
        self.id.sid
    }
}

/// Two writes of one thing, neither of whose authors had seen the other's.
#[derive(Debug, Clone, PartialEq)]
pub struct ConflictReport {
    /// The register, map, tuple or array.
    pub container: Timestamp,
    /// Where in it.
    pub place: Place,
    /// The one that the document keeps.
    pub kept: Write,
    /// The other.
    pub other: Write,
}

/// What was written at the same time, in the places that [`Rules`] name.
///
/// Give it every patch, one's own too, in any order, as often as you like. Without rules it keeps nothing and looks at
/// nothing. With rules it keeps for each place that was written the writes that no later one has seen, at most one for
/// each session that writes there, and one state vector, up to [`PLACES_MAX`](Self::PLACES_MAX) places. What was deleted
/// with all that is in it goes by [`purge`](Self::purge).
#[derive(Debug)]
pub struct Conflicts {
    rules: Rules,
    authorities: BTreeSet<SessionId>,
    /// The keys that decide somewhere, and the sessions whose patches they have signed.
    keys: BTreeSet<SignerId>,
    signers: BTreeMap<SessionId, SignerId>,
    tracked: BTreeMap<(Timestamp, Place), Tracked>,
    reports: VecDeque<ConflictReport>,
    reports_dropped: u64,
    places_forgotten: u64,
    /// From how many places on it is worth looking which of them are left.
    purge_at: usize,
}

/// Fewer places are not worth a look.
const PURGE_MIN: usize = 256;

impl Conflicts {
    /// How many reports wait for [`poll_report`](Self::poll_report). Beyond that the oldest is dropped and counted; what
    /// is in conflict at the moment is not lost by it, [`open`](Self::open) tells.
    pub const REPORTS_MAX: usize = 1024;

    /// How many places are remembered. Beyond that a sixteenth of them is forgotten and counted: first places where
    /// nothing is in conflict and the document has what was decided, and first those written longest ago, by the times of their writes. What is written there
    /// at the same time as a forgotten write is not seen as a conflict; the document is not touched by it.
    pub const PLACES_MAX: usize = 1 << 16;

    /// Nothing seen yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            authorities: rules.authorities().collect(),
            keys: rules.keys().collect(),
            signers: BTreeMap::new(),
            rules,
            tracked: BTreeMap::new(),
            reports: VecDeque::new(),
            reports_dropped: 0,
            places_forgotten: 0,
            purge_at: PURGE_MIN,
        }
    }

    /// Looks at a patch.
    pub fn observe(&mut self, patch: PatchRef<'_>) {
        self.observe_signed(patch, None);
    }

    /// Looks at a patch that somebody has found to be [signed](crate::Guard::signer) with this key: a rule may say whose word
    /// decides by [key](Strategy::Signed).
    pub fn observe_signed(&mut self, patch: PatchRef<'_>, signer: Option<SignerId>) {
        if self.rules.is_empty() {
            return;
        }
        let _span = tracing::trace_span!("observe", id = ?patch.id()).entered();
        if let Some(key) = signer.filter(|key| self.keys.contains(key)) {
            self.signers.insert(patch.id().sid, key);
        }
        for (container, place, write) in written::writes(patch, |place| self.rules.may_name(place)) {
            let tracked = self.tracked.entry((container, place.clone())).or_default();
            let author = write.author();
            let decides = self.authorities.contains(&author) || self.signers.contains_key(&author);
            if let Some(rivals) = tracked.add(&write, decides) {
                self.report((container, &place), &write, rivals);
            }
        }
        if self.tracked.len() > Self::PLACES_MAX {
            self.make_room();
        }
    }

    /// Takes in what is known of a place elsewhere.
    fn join(&mut self, (container, place): (Timestamp, Place), theirs: &Tracked) {
        let tracked = self.tracked.entry((container, place.clone())).or_default();
        for (write, rivals) in tracked.join(theirs) {
            self.report((container, &place), &write, rivals);
        }
        if self.tracked.len() > Self::PLACES_MAX {
            self.make_room();
        }
    }

    fn report(&mut self, (container, place): (Timestamp, &Place), write: &Write, rivals: Vec<Write>) {
        for rival in rivals {
            let (kept, other) =
                if rival.node > write.node { (rival, write.clone()) } else { (write.clone(), rival) };
            if self.reports.len() == Self::REPORTS_MAX {
                self.reports.pop_front();
                self.reports_dropped += 1;
            }
            self.reports.push_back(ConflictReport { container, place: place.clone(), kept, other });
        }
    }

    fn make_room(&mut self) {
        let mut ranks: Vec<(bool, u64)> = self.tracked.values().map(Tracked::rank).collect();
        let mut left = ranks.len() - Self::PLACES_MAX / 16 * 15;
        self.places_forgotten += left as u64;
        let (below, last, _) = ranks.select_nth_unstable(left - 1);
        let last = *last;
        // Of those of the same rank, which one patch may make many of, only so many.
        left -= below.iter().filter(|rank| **rank < last).count();
        self.tracked.retain(|_, tracked| match tracked.rank().cmp(&last) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal if left > 0 => {
                left -= 1;
                false
            }
            _ => true,
        });
    }

    /// Forgets the places of registers, maps, tuples and arrays that the document has no more: they were deleted with what
    /// held them, and nothing that is written there can ever be seen. Give it a document that has taken in every patch that
    /// was looked at. Returns how many places went.
    pub fn purge(&mut self, document: &Document) -> usize {
        let before = self.tracked.len();
        let lives =
            |container: Timestamp| container == Timestamp::ORIGIN || document.node(container).is_some();
        self.tracked.retain(|(container, _), _| lives(*container));
        self.purge_at = (self.tracked.len() * 2).max(PURGE_MIN);
        before - self.tracked.len()
    }

    /// [Purges](Self::purge) when the places have doubled since the last time, so that it stays a small part of all looking.
    pub fn purge_when_due(&mut self, document: &Document) {
        if self.tracked.len() >= self.purge_at {
            self.purge(document);
        }
    }

    /// How many places are remembered.
    pub fn places(&self) -> usize {
        self.tracked.len()
    }

    /// How many places were forgotten because there were too many.
    pub const fn places_forgotten(&self) -> u64 {
        self.places_forgotten
    }

    /// The oldest conflict not reported yet, as this replica came to see it: one that a later write had settled before
    /// both were here is not reported.
    pub fn poll_report(&mut self) -> Option<ConflictReport> {
        self.reports.pop_front()
    }

    /// How many reports were dropped because nobody took them.
    pub const fn reports_dropped(&self) -> u64 {
        self.reports_dropped
    }
}
