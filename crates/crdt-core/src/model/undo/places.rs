//! Where deleted elements come back.
//!
//! Their tombstones tell where they stood among all that others have inserted since; but nothing may be inserted behind a
//! tombstone, since others may have compacted it away. So they come back behind a visible element, in front of the
//! tombstones beside. There the tombstones tell no longer what stood in front of what: of two that were deleted side by
//! side, the one that comes back first stands in front of both. That is told by the neighbours at the time of the deletion.
//! What a session did last is undone first, so all that was visible then is so again, in the same order, whatever its
//! ids are by now. Others' elements that came in between, and came back too, are compared by where they stood before.
//!
//! The exception are tombstones that a timestamp in a constant names, as the marks of rich text do: these are kept by
//! whoever compacts. What comes back stands on the same side of them as before, so that it is marked as before.

use super::{ids::IdMap, step::Stood};
use crate::{Timespan, Timestamp, document::Document};

/// What is left of deleted elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Tombstones.
    Tombstone,
    /// Nothing: they were compacted away, or are in a sequence that was made again without them.
    Nothing,
    /// They were not deleted after all.
    Visible,
}

/// Deleted elements as they are now: others can have inserted something between them, and some tombstones can be gone.
pub(super) fn parts(doc: &Document, node: Timestamp, span: Timespan) -> Vec<(Timespan, Part)> {
    let mut parts = Vec::new();
    let mut put = |start: Timestamp, end: u64, part| {
        if start.time < end {
            parts.push((Timespan { start, span: end - start.time }, part));
        }
    };
    let mut start = span.start;
    for piece in doc.pieces(node, span) {
        let end = piece.last().tick(1);
        put(start, piece.id.time, Part::Nothing);
        put(piece.id, end.time, if piece.live { Part::Visible } else { Part::Tombstone });
        start = end;
    }
    put(start, span.start.time + span.span, Part::Nothing);
    parts
}

/// So many runs of others' elements are looked behind for something that came back earlier and stood behind.
const RUNS_PASSED_MAX: usize = 64;

/// A sequence in which deleted elements come back.
pub(super) struct Places<'m> {
    pub(super) doc: &'m Document,
    pub(super) ids: &'m IdMap,
    pub(super) node: Timestamp,
    /// What constants named before it was deleted, sorted: whoever compacts keeps that.
    pub(super) named: &'m [Timestamp],
    /// The first operation of the step that is reversed: what came back since then stood elsewhere when the step was made.
    pub(super) since: Timestamp,
}

impl Places<'_> {
    /// The element (or the node itself) behind which elements come back.
    pub(super) fn after(&self, ids: Timespan, part: Part, stood: Stood) -> Timestamp {
        // A neighbour that others have deleted is no measure: what came back can stand on the wrong side of it.
        let visible =
            |id| self.doc.locate(self.node, id).filter(|at| !at.deleted).map(|at| (id, at.position));
        let (left, right) = (stood.left.and_then(visible), stood.right.and_then(visible));
        let tombstone = ids.start.tick(ids.span - 1);
        let own = self.doc.locate(self.node, tombstone).filter(|_| part == Part::Tombstone);
        match (own, left, right) {
            (Some(own), ..) => {
                let least = left.map_or(0, |(_, before)| before + 1);
                let most = right.map_or(usize::MAX, |(_, before)| before);
                let place = self.in_front_of_later(tombstone, own.position, least).min(most);
                match left.filter(|_| place <= least) {
                    Some((left, _)) => left,
                    None => self.in_gap(place, Some(tombstone).filter(|_| place == own.position)),
                }
            }
            (None, Some((left, _)), _) => left,
            (None, None, Some((_, before))) => self.in_gap(before, None),
            // The sequence was made again without them.
            (None, None, None) if self.ids.is_left_out(ids.start) => {
                let exists = |id| self.doc.locate(self.node, id).is_some();
                self.ids.before(ids.start, exists).map_or(self.node, |before| self.behind(before))
            }
            (None, None, None) => self.in_gap(stood.position as usize, None),
        }
    }

    /// Where a tombstone stands, or in front of the elements that have come back further in front, and stood behind it
    /// before. Elements in front of a least position are not looked at.
    fn in_front_of_later(&self, tombstone: Timestamp, at: usize, least: usize) -> usize {
        let (mut place, mut look, mut passed) = (at, at, 0);
        while look > least
            && let Some(last) = self.doc.element_id(self.node, look - 1)
        {
            let mut start = self.doc.run_start(self.node, last).unwrap_or(last);
            let image = self.ids.image_since(last, self.since);
            match image {
                Some((_, was)) if !self.doc.stands_behind(self.node, was, tombstone) => break,
                // What was put down with it can be in another sequence.
                Some((first, _)) => start = self.first_behind(start.max(first), last, tombstone),
                None if passed == RUNS_PASSED_MAX => break,
                None => {}
            }
            look -= (last.time - start.time + 1) as usize;
            match image {
                Some(_) => (place, passed) = (look, 0),
                None => passed += 1,
            }
        }
        place
    }

    /// The first of elements that came back with consecutive ids that stood behind a tombstone, as the last one did.
    fn first_behind(&self, start: Timestamp, last: Timestamp, tombstone: Timestamp) -> Timestamp {
        let is_behind = |at: u64| {
            let image = self.ids.image_since(start.tick(at), self.since);
            image.is_some_and(|(_, was)| self.doc.stands_behind(self.node, was, tombstone))
        };
        let (mut low, mut high) = (0, last.time - start.time);
        while low < high {
            let middle = low.midpoint(high);
            if is_behind(middle) { high = middle } else { low = middle + 1 }
        }
        start.tick(high)
    }

    /// An element, or what stands in front of it that may be inserted behind.
    fn behind(&self, element: Timestamp) -> Timestamp {
        match self.doc.locate(self.node, element) {
            Some(at) if at.deleted => self.in_gap(at.position, Some(element)),
            _ => element,
        }
    }

    /// The last that may be inserted behind of what stands at a position between two visible elements, and up to a
    /// tombstone if one is told: tombstones that are kept by whoever compacts, or the visible element in front.
    fn in_gap(&self, position: usize, to: Option<Timestamp>) -> Timestamp {
        let len = self.doc.node(self.node).map_or(0, |node| node.len());
        let visible = position.min(len).checked_sub(1);
        let visible = visible.and_then(|before| self.doc.element_id(self.node, before));
        let mut last = visible.unwrap_or(self.node);
        if self.named.is_empty() {
            return last;
        }
        for piece in self.doc.tombstones_after(self.node, visible) {
            let (first, mut end) = (piece.id, piece.last());
            let to = to.filter(|to| to.sid == first.sid && (first.time..=end.time).contains(&to.time));
            end = to.unwrap_or(end);
            let up_to = self.named.partition_point(|named| (named.sid, named.time) <= (end.sid, end.time));
            let named = up_to.checked_sub(1).map(|named| self.named[named]);
            last = named.filter(|named| named.sid == first.sid && named.time >= first.time).unwrap_or(last);
            if to.is_some() {
                break;
            }
        }
        last
    }
}
