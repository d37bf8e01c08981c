//! The writes of one place.

use std::{collections::BTreeMap, sync::Arc};

use crdt_core::{SessionId, StateVector, Text, Timestamp};

use super::Write;

/// Where in its container something is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The register's only place; the document's root is the register [`Timestamp::ORIGIN`].
    Register,
    /// A key of a map.
    Key(Text),
    /// A place of a tuple.
    Index(u8),
    /// The element of an array with an id.
    Slot(Timestamp),
}

/// What is known of a place. Both parts only ever grow with the set of the writes and don't ask for their order: `seen`
/// is the join of what all authors had seen, and a write lives as long as it is not in it.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    /// What the authors of all writes here had seen, dropped ones included.
    pub(super) seen: Arc<StateVector>,
    /// The writes outside of `seen`, by their nodes: the last one is what the document keeps.
    pub(super) live: BTreeMap<(Timestamp, Timestamp), Write>,
    /// The latest write of each session that may decide, live or not.
    pub(super) decided: BTreeMap<SessionId, Write>,
}

impl Tracked {
    /// How much would be lost with it: whether there is a conflict, or what was decided is not what the document has, and how
    /// late the last write was.
    pub(super) fn rank(&self) -> (bool, u64) {
        let latest = self.live.values().map(|write| write.id.time).max();
        let decided = self.decided.values().any(|write| !self.live.contains_key(&rank(write)));
        (self.live.len() > 1 || decided, latest.unwrap_or(0))
    }

    /// Takes in what is known of the same place elsewhere. Returns the writes that are news, each with those that it is concurrent
    /// with.
    pub(super) fn join(&mut self, theirs: &Self) -> Vec<(Write, Vec<Write>)> {
        self.see(&theirs.seen);
        self.live.retain(|_, held| theirs.seen.get(&held.author()) < held.id.time);
        for write in theirs.decided.values() {
            self.decide(write);
        }
        let news = theirs.live.values();
        news.filter_map(|write| Some((write.clone(), self.add(write, false)?))).collect()
    }

    fn decide(&mut self, write: &Write) {
        if self.decided.get(&write.author()).is_none_or(|held| rank(held) < rank(write)) {
            self.decided.insert(write.author(), write.clone());
        }
    }

    fn see(&mut self, clock: &Arc<StateVector>) {
        if clock.contains(&self.seen) {
            // The patch's own vector, shared by all that it writes, for as long as it will do.
            self.seen = Arc::clone(clock);
        } else if !self.seen.contains(clock) {
            Arc::make_mut(&mut self.seen).merge(clock);
        }
    }

    /// Takes in a write. Returns those that it is concurrent with; `None` if it is known, or another's author had seen it.
    pub(super) fn add(&mut self, write: &Write, decides: bool) -> Option<Vec<Write>> {
        if decides {
            self.decide(write);
        }
        self.see(&write.clock);
        // A session has seen its own writes, those of the same patch too.
        let (seen, by) = (&self.seen, write.author());
        let known = |held: &Write| held.author() == by && (held.id, held.node) >= (write.id, write.node);
        if seen.get(&by) >= write.id.time || self.live.values().any(known) {
            self.live.retain(|_, held| seen.get(&held.author()) < held.id.time);
            return None;
        }
        self.live.retain(|_, held| held.author() != by && seen.get(&held.author()) < held.id.time);
        let rivals = self.live.values().cloned().collect();
        self.live.insert(rank(write), write.clone());
        Some(rivals)
    }
}

/// The document's order of writes: by the node. The operation only makes it total.
const fn rank(write: &Write) -> (Timestamp, Timestamp) {
    (write.node, write.id)
}
