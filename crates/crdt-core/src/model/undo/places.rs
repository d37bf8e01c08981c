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
//! whoever compacts. What comes back stands on the same side of them as before, so that it is marked as before; and on that
//! side of its own tombstone on which the mark is not, or is: a mark that ends before an element does not hold it.

use super::{ids::IdMap, step::Stood};
use crate::{
    Timespan, Timestamp,
    document::{Document, Named},
};

/// Deleted elements of a run, and what is left of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// How many of the run stand before them.
    pub(super) from: u64,
    /// The ids by which the sequence has them.
    pub(super) ids: Timespan,
    pub(super) left: Left,
}

impl Part {
    /// The last id.
    pub(super) const fn last(&self) -> Timestamp {
        self.ids.start.tick(self.ids.span - 1)
    }

    /// Its elements from one on.
    const fn part(self, from: u64, span: u64) -> Self {
        Self { from: self.from + from, ids: Timespan { start: self.ids.start.tick(from), span }, ..self }
    }
}

/// What is left of deleted elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Tombstones.
    Tombstone,
    /// Nothing: they were compacted away, or are in a sequence that was made again without them.
    Nothing,
    /// They were not deleted after all.
    Visible,
}

/// Where an element is among those that constants name.
fn find(named: &[Named], id: Timestamp) -> Option<&Named> {
    named.binary_search_by_key(&(id.sid, id.time), Named::key).ok().map(|at| &named[at])
}

/// Deleted elements as they are now: others can have inserted something between them, and some tombstones can be gone. What
/// a mark begins or ends at is the first or last of a part.
pub(super) fn parts(
    doc: &Document,
    ids: &IdMap,
    named: &[Named],
    node: Timestamp,
    span: Timespan,
) -> Vec<Part> {
    let mut all = Vec::new();
    for part in parts_in(doc, node, span) {
        if part.left != Left::Nothing {
            all.push(part);
            continue;
        }
        // In a sequence that was made again tombstones that marks name have other ids.
        let mut from = part.from;
        for now in ids.spans_now(part.ids) {
            let old = span.start.tick(from);
            for again in parts_in(doc, node, now) {
                let ids = match again.left {
                    Left::Nothing => Timespan { start: old.tick(again.from), ..again.ids },
                    _ => again.ids,
                };
                all.push(Part { from: from + again.from, ids, left: again.left });
            }
            from += now.span;
        }
    }
    let mut cut = Vec::with_capacity(all.len());
    for part in all {
        let mut done = 0;
        if part.left == Left::Tombstone {
            let start = part.ids.start;
            let first = named.partition_point(|named| named.key() < (start.sid, start.time));
            let within = |named: &&Named| named.id.sid == start.sid && named.id.time <= part.last().time;
            for named in named[first..].iter().take_while(within) {
                let at = named.id.time - start.time;
                for border in
                    [named.before.then_some(at), named.after.then_some(at + 1)].into_iter().flatten()
                {
                    if border > done {
                        cut.push(part.part(done, border - done));
                        done = border;
                    }
                }
            }
        }
        if done < part.ids.span {
            cut.push(part.part(done, part.ids.span - done));
        }
    }
    cut
}

/// The elements of a span as a sequence has them.
fn parts_in(doc: &Document, node: Timestamp, span: Timespan) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut put = |start: Timestamp, end: u64, left| {
        if start.time < end {
            let (from, span) = (start.time - span.start.time, end - start.time);
            parts.push(Part { from, ids: Timespan { start, span }, left });
        }
    };
    let mut start = span.start;
    for piece in doc.pieces(node, span) {
        let end = piece.last().tick(1);
        put(start, piece.id.time, Left::Nothing);
        put(piece.id, end.time, if piece.live { Left::Visible } else { Left::Tombstone });
        start = end;
    }
    put(start, span.start.time + span.span, Left::Nothing);
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
    pub(super) named: &'m [Named],
    /// The first operation of the step that is reversed: what came back since then stood elsewhere when the step was made.
    pub(super) since: Timestamp,
}

/// Up to where tombstones may be inserted behind.
#[derive(Debug, Clone, Copy)]
enum UpTo {
    /// All up to the next visible element.
    Visible,
    /// All up to one, that one too.
    With(Timestamp),
    /// Those before one, and that one if it is the border of a mark that begins or ends before it.
    Before(Timestamp),
    /// Those before one.
    Until(Timestamp),
}

impl Places<'_> {
    /// The element (or the node itself) behind which elements come back. `tombstone` is the end of a mark that the elements
    /// stood behind, if there is one right before them; `next` is a tombstone that they stood in front of.
    pub(super) fn after(
        &self,
        part: Part,
        stood: Stood,
        tombstone: Option<Timestamp>,
        next: Option<Timestamp>,
    ) -> Timestamp {
        let up_to = next.map_or(UpTo::Visible, UpTo::Until);
        // A neighbour that others have deleted is no measure: what came back can stand on the wrong side of it.
        let visible =
            |id| self.doc.locate(self.node, id).filter(|at| !at.deleted).map(|at| (id, at.position));
        let (left, right) = (stood.left.and_then(visible), stood.right.and_then(visible));
        let (first, last) = (part.ids.start, part.last());
        let own = self.doc.locate(self.node, last).filter(|_| part.left == Left::Tombstone);
        match (own, left, right) {
            (Some(own), ..) => {
                let least = left.map_or(0, |(_, before)| before + 1);
                let most = right.map_or(usize::MAX, |(_, before)| before);
                let place = self.in_front_of_later(last, own.position, least).min(most);
                match left.filter(|_| place < least) {
                    Some((left, _)) => left,
                    None if place == own.position => self.in_gap(place, UpTo::Before(first)),
                    None => self.in_gap(place, UpTo::Visible),
                }
            }
            (None, Some((left, _)), _)
                if tombstone.is_some_and(|tombstone| self.is_behind(tombstone, left)) =>
            {
                tombstone.unwrap_or(left)
            }
            // The sequence was made again without them.
            (None, ..) if self.ids.is_left_out(first) => {
                let place = self.left_out_place(first);
                match (left, right) {
                    (Some((left, _)), _) if !self.is_behind(place, left) => left,
                    (_, Some((right, before))) if place == right || self.is_behind(place, right) => {
                        self.in_gap(before, up_to)
                    }
                    _ => place,
                }
            }
            (None, Some((left, _)), _) => left,
            (None, None, Some((_, before))) => self.in_gap(before, up_to),
            (None, None, None) => self.in_gap(stood.position as usize, up_to),
        }
    }

    /// The last of the elements of a part that a mark ends (or begins) after: what stood behind it comes back behind it.
    pub(super) fn ends_mark(&self, part: Part) -> Option<Timestamp> {
        let ends = || find(self.named, part.last()).is_some_and(|named| named.after && !named.before);
        (part.left == Left::Tombstone && ends()).then(|| part.last())
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

    /// Whether an element (or the node itself, which is in front of all) stands behind another.
    fn is_behind(&self, element: Timestamp, other: Timestamp) -> bool {
        element != self.node && self.doc.stands_behind(self.node, element, other)
    }

    /// Behind what an element stood that was left out when the sequence was made again.
    fn left_out_place(&self, element: Timestamp) -> Timestamp {
        let exists = |id| self.doc.locate(self.node, id).is_some();
        let Some((before, tombstone)) = self.ids.before(element, exists) else { return self.node };
        // What a mark ends after comes back in front of its tombstone, and what stood behind it stands behind that too.
        let ends = find(self.named, tombstone).is_some_and(|named| named.after);
        if ends && exists(tombstone) && self.is_behind(tombstone, before) {
            tombstone
        } else {
            self.behind(before)
        }
    }

    /// An element, or what stands in front of it that may be inserted behind.
    fn behind(&self, element: Timestamp) -> Timestamp {
        match self.doc.locate(self.node, element) {
            Some(at) if at.deleted => self.in_gap(at.position, UpTo::With(element)),
            _ => element,
        }
    }

    /// The last that may be inserted behind of what stands at a position between two visible elements, up to a tombstone
    /// if one is told: tombstones that are kept by whoever compacts, or the visible element in front.
    fn in_gap(&self, position: usize, up_to: UpTo) -> Timestamp {
        let len = self.doc.node(self.node).map_or(0, |node| node.len());
        let visible = position.min(len).checked_sub(1);
        let visible = visible.and_then(|before| self.doc.element_id(self.node, before));
        let mut last = visible.unwrap_or(self.node);
        if self.named.is_empty() {
            return last;
        }
        let may_follow = |named: &Named| match up_to {
            UpTo::Before(to) => named.id != to || named.before,
            UpTo::Until(to) => named.id != to,
            UpTo::With(_) | UpTo::Visible => true,
        };
        for piece in self.doc.tombstones_after(self.node, visible) {
            let (first, mut end) = (piece.id, piece.last());
            let to = match up_to {
                UpTo::With(to) | UpTo::Before(to) | UpTo::Until(to) => Some(to),
                UpTo::Visible => None,
            };
            let to = to.filter(|to| to.sid == first.sid && (first.time..=end.time).contains(&to.time));
            end = to.unwrap_or(end);
            let before = self.named.partition_point(|named| named.key() <= (end.sid, end.time));
            let within = self.named[..before].iter().rev();
            let mut within =
                within.take_while(|named| named.id.sid == first.sid && named.id.time >= first.time);
            last = within.find(|named| may_follow(named)).map_or(last, |named| named.id);
            if to.is_some() {
                break;
            }
        }
        last
    }
}
