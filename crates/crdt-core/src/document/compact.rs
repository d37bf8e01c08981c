//! Dropping tombstones that nobody can refer to any more.

use super::{
    ApplyError, Document,
    node::Form,
    sequence::{Id, Sequence},
};
use crate::{
    StateVector, Timestamp,
    patch::{Op, PatchRef},
};

/// What became of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a document that is behind or ahead is as it was"]
pub enum Compaction {
    /// The tombstones are gone.
    Done {
        /// How many deleted elements were dropped.
        elements: u64,
    },
    /// The document lacks what everyone else has; it is as it was. Take in the patches, then try again.
    Behind {
        /// The last time of a session that is missing.
        missing: Timestamp,
    },
    /// The document has more than everyone has; it is as it was. Which of its deletions everyone knows cannot be told: compact
    /// at a version that all have reached, such as the start of a [`Log`](crate::codec::Log).
    Ahead {
        /// The last time of a session that is too much.
        extra: Timestamp,
    },
}

impl Document {
    /// Drops the tombstones of all sequences, and nodes that came too late for their place.
    ///
    /// `stable` is a version that **every replica has reached, and everything that any of them made before it reached
    /// it is part of it**: each patch that is still to come was made by a session that had seen all of `stable`. Then
    /// no patch to come can refer to an element that is deleted in it. The document must stand exactly at this version.
    ///
    /// A patch that breaks this is refused: one that is not known and of a time within `stable`, and one that
    /// inserts behind an element that is gone ([`ApplyError::Compacted`]). Replicas may compact at different moments, or
    /// never: the visible document and what patches to come do to it stay the same. Positions that name a deleted element
    /// cannot be resolved afterwards.
    pub fn compact(&mut self, stable: &StateVector) -> Compaction {
        let seen = self.state_vector();
        if let Some((&sid, _, there)) = seen.missing_from(stable).next() {
            return Compaction::Behind { missing: Timestamp::new(sid, there) };
        }
        if let Some((&sid, _, here)) = stable.missing_from(&seen).next() {
            return Compaction::Ahead { extra: Timestamp::new(sid, here) };
        }
        let before = self.store.span;
        for at in 0..self.store.nodes.len() as u32 {
            let node = self.store.node(at);
            if node.is_lost() && node.refs() == 0 && !node.is_dead() && node.form() != Form::Free {
                self.store.release(at);
            }
        }
        let released = before - self.store.span;
        for sequence in &mut self.store.sequences.items {
            let gone = sequence.drop_tombstones();
            self.store.span -= u64::from(gone);
        }
        self.store.tidy();
        self.compacted_to = self.compacted_to.max(seen.iter().map(|(_, time)| time).max().unwrap_or(0));
        Compaction::Done { elements: before - released - self.store.span }
    }

    /// Refuses a patch that may refer to what was dropped; `seen` is the last time of it that is known.
    #[inline]
    pub(super) fn admit_late(&self, patch: PatchRef<'_>, seen: Option<u64>) -> Result<(), ApplyError> {
        if self.compacted_to == 0 { Ok(()) } else { self.check_late(patch, seen) }
    }

    #[cold]
    fn check_late(&self, patch: PatchRef<'_>, seen: Option<u64>) -> Result<(), ApplyError> {
        let (id, compacted_to) = (patch.id(), self.compacted_to);
        let first = seen.map_or(id.time, |seen| id.time.max(seen + 1));
        if first <= compacted_to {
            return Err(ApplyError::Compacted {
                patch: id,
                names: Timestamp::new(id.sid, first),
                compacted_to,
            });
        }
        for (_, op) in patch.ops() {
            let (Op::InsStr { obj, after, .. }
            | Op::InsBin { obj, after, .. }
            | Op::InsArr { obj, after, .. }) = op
            else {
                continue;
            };
            if after.time <= compacted_to && after != obj && !self.has_element(obj, after) {
                return Err(ApplyError::Compacted { patch: id, names: after, compacted_to });
            }
        }
        Ok(())
    }

    /// Whether an element is there, or the node is not.
    fn has_element(&self, node: Timestamp, element: Timestamp) -> bool {
        let store = &self.store;
        let Some(node) = store.find(node) else { return true };
        let is_sequence = matches!(store.form(node), Form::Str | Form::Bin | Form::Arr);
        !is_sequence || store.id(element).is_some_and(|id| store.sequence(node).find(id).is_some())
    }
}

impl Sequence {
    /// Drops all tombstones. Tells how many elements they were.
    fn drop_tombstones(&mut self) -> u32 {
        if self.span() == self.len() {
            return 0;
        }
        let before = self.span();
        let live: Vec<_> = self.chunks().filter(|chunk| !chunk.span.is_dead()).collect();
        let mut compact = Self::default();
        live.into_iter().for_each(|chunk| compact.push(chunk));
        // The ids were in one sequence, so none is there twice.
        let sealed: Result<(), Id> = compact.seal();
        debug_assert!(sealed.is_ok());
        *self = compact;
        before - self.span()
    }
}
