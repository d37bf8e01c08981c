//! Dropping tombstones that nobody can refer to any more.

use super::{
    ApplyError, Document,
    node::{Form, NIL},
    sequence::{Chunk, Id, Sequence, Span},
};
use crate::{
    SessionId, StateVector, Timestamp,
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

/// An element that a constant names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub(crate) id: Timestamp,
    /// Whether the place before it is the border of a mark.
    pub(crate) before: bool,
    /// Whether the place after it is.
    pub(crate) after: bool,
}

impl Named {
    /// What they are sorted by.
    pub(crate) const fn key(&self) -> (SessionId, u64) {
        (self.id.sid, self.id.time)
    }
}

impl Document {
    /// Drops the tombstones of all sequences, and nodes that came too late for their place. An element that a timestamp in
    /// a constant names stays, as the marks of rich text do.
    ///
    /// `stable` is a version that **every replica has reached, and everything that any of them made before it reached
    /// it is part of it**: each patch that is still to come was made by a session that had seen all of `stable`. Then
    /// no patch to come can refer to an element that is deleted in it. The document must stand exactly at this version.
    ///
    /// A patch that breaks this is refused: one that is not known and of a time within `stable`, and one that
    /// inserts behind an element that is gone ([`ApplyError::Compacted`]). Replicas may compact at different moments, or
    /// never: the visible document and what patches to come do to it stay the same. Positions outside of the document that name
    /// a deleted element cannot be resolved afterwards.
    pub fn compact(&mut self, stable: &StateVector) -> Compaction {
        let seen = self.state_vector();
        if let Some((&sid, _, there)) = seen.missing_from(stable).next() {
            return Compaction::Behind { missing: Timestamp::new(sid, there) };
        }
        if let Some((&sid, _, here)) = stable.missing_from(&seen).next() {
            return Compaction::Ahead { extra: Timestamp::new(sid, here) };
        }
        let before = self.store.span;
        let named = self.named_ids();
        for at in 0..self.store.nodes.len() as u32 {
            let node = self.store.node(at);
            if node.is_lost() && node.refs() == 0 && !node.is_dead() && node.form() != Form::Free {
                self.store.drop_lost(at);
            }
        }
        let released = before - self.store.span;
        let store = &mut *self.store;
        for sequence in &mut store.sequences.items {
            let gone = sequence.drop_tombstones(&named);
            store.span -= u64::from(gone);
        }
        store.tidy();
        self.compacted_to = self.compacted_to.max(seen.iter().map(|(_, time)| time).max().unwrap_or(0));
        Compaction::Done { elements: before - released - self.store.span }
    }

    /// What timestamps in constants name, sorted: rich text anchors its marks so, also at elements that were deleted.
    fn named_ids(&self) -> Vec<(u32, u64)> {
        let store = &self.store;
        let named = (0..store.nodes.len() as u32).filter_map(|node| store.id(store.con_id(node)?));
        let mut named: Vec<(u32, u64)> = named.map(|id| (id.session, id.time)).collect();
        named.sort_unstable();
        named.dedup();
        named
    }

    /// What timestamps in constants name that were made before a time (or before another one for some of what they name)
    /// and are part of the document, sorted. Whoever [compacts](Self::compact) at a version that something of this time
    /// or later is part of keeps that. `made` tells when a constant was made.
    pub(crate) fn named_before(
        &self,
        time: u64,
        or: impl Fn(Timestamp) -> Option<u64>,
        made: impl Fn(Timestamp) -> u64,
    ) -> Vec<Named> {
        let store = &self.store;
        let named = |node: u32| {
            let (at, id) = (store.node(node), store.con_id(node)?);
            let is_part = at.refs() > 0 && !at.is_lost();
            let made = made(store.timestamp(at.id()));
            (is_part && (made < time || or(id).is_some_and(|time| made < time))).then_some(id)
        };
        let mut all = Vec::new();
        for node in 0..store.nodes.len() as u32 {
            all.extend(named(node).map(|id| Named { id, before: false, after: false }));
            if store.form(node) != Form::Vec {
                continue;
            }
            // The anchors of a mark, as in `model::rich`: the header says on which side of its element each one is.
            if let [header, start, end, _, ..] = *store.vec(node)
                && [header, start, end].iter().all(|&place| place != NIL)
                && let Some(header) = store.con(header).and_then(|header| header.to_value().as_u64())
            {
                let end = if store.con(end).is_some() { start } else { end };
                for (anchor, bit) in [(start, 0), (end, 1)] {
                    let after = header >> bit & 1 != 0;
                    all.extend(named(anchor).map(|id| Named { id, before: !after, after }));
                }
            }
        }
        all.sort_unstable_by_key(Named::key);
        all.dedup_by(|next, one| {
            let is_same = next.id == one.id;
            if is_same {
                (one.before, one.after) = (one.before || next.before, one.after || next.after);
            }
            is_same
        });
        all
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
    /// Drops all tombstones but those of some ids, which are sorted. Tells how many elements they were.
    fn drop_tombstones(&mut self, named: &[(u32, u64)]) -> u32 {
        if self.span() == self.len() {
            return 0;
        }
        let before = self.span();
        let mut compact = Self::default();
        for chunk in self.chunks() {
            if !chunk.span.is_dead() {
                compact.push(chunk);
                continue;
            }
            let from = named.partition_point(|&id| id < (chunk.session, chunk.time));
            let kept = named[from..].iter().take_while(|&&id| id < (chunk.session, chunk.end()));
            // Named elements that follow each other stay one tombstone.
            let mut open: Option<Chunk> = None;
            for &(session, time) in kept {
                let one = Chunk { time, session, span: Span::dead(1), offset: 0 };
                open = match open.take() {
                    Some(run) if run.end() == time => {
                        Some(Chunk { span: Span::dead(run.span.len() + 1), ..run })
                    }
                    run => {
                        run.into_iter().for_each(|run| compact.push(run));
                        Some(one)
                    }
                };
            }
            open.into_iter().for_each(|run| compact.push(run));
        }
        // The ids were in one sequence, so none is there twice.
        let sealed: Result<(), Id> = compact.seal();
        debug_assert!(sealed.is_ok());
        *self = compact;
        before - self.span()
    }
}
