//! How an answerer finds the ancestors that an asker lacks.

use std::collections::BTreeSet;

use crdt_core::{SessionId, StateVector};

use super::Link;
use crate::{PatchRecord, Want, store::PatchPage};

/// A bounded walk through the stored nodes, from what is wanted towards the beginning, latest first. It stops at what
/// the asker says it has; where the asker has more than it says, it gets something twice.
///
/// The walk reads nothing itself: it says which patch it needs next, and is given what the store has.
#[derive(Debug)]
pub struct Walk {
    /// Seen from a child, and not read yet.
    frontier: BTreeSet<(u64, SessionId)>,
    have: StateVector<SessionId>,
    found: Vec<PatchRecord>,
    compacted: bool,
    bytes_left: usize,
    nodes_left: usize,
}

impl Walk {
    /// Begins at `want`. It ends when the nodes take `bytes_max`, or are `nodes_max`.
    pub fn new(want: &[Link], have: StateVector<SessionId>, bytes_max: usize, nodes_max: usize) -> Self {
        let frontier = want.iter().map(|link| (link.last, link.sid)).collect();
        let (found, compacted) = (Vec::new(), false);
        Self { frontier, have, found, compacted, bytes_left: bytes_max, nodes_left: nodes_max }
    }

    /// The patch to read next; `None` at the end.
    pub fn next_read(&self) -> Option<Want> {
        let (last, sid) = *self.frontier.last()?;
        let want = Want { sid, after: last.saturating_sub(1), upto: last };
        (self.bytes_left > 0 && self.nodes_left > 0).then_some(want)
    }

    /// Takes what the store has there.
    pub fn read(&mut self, page: PatchPage) {
        let Some((last, _)) = self.frontier.pop_last() else { return };
        self.nodes_left -= 1;
        let record = match page {
            // Another patch may end within the range, if the asker wants what is none.
            PatchPage::Records(mut records) => records.pop().filter(|record| record.last() == last),
            PatchPage::Compacted => {
                self.compacted = true;
                None
            }
        };
        let Some(record) = record else { return };
        // A node's links lead to its session's previous one; one that was written before the group took to the DAG has
        // none, and follows that alone.
        let alone = record.links.is_empty().then_some((record.prev, record.session()));
        let parents = record.links.iter().map(|link| (link.last, link.sid)).chain(alone);
        for (last, sid) in parents {
            if last > self.have.get(&sid) {
                self.frontier.insert((last, sid));
            }
        }
        self.bytes_left = self.bytes_left.saturating_sub(record.len_bytes());
        self.found.push(record);
    }

    /// What was found, causes before effects; that it is only left in a snapshot, if nothing else is.
    pub fn finish(mut self) -> PatchPage {
        if self.found.is_empty() && self.compacted {
            return PatchPage::Compacted;
        }
        self.found.reverse();
        PatchPage::Records(self.found)
    }
}
