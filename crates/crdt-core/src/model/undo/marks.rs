//! Marks that are made anew, because what they were on came back under other ids.
//!
//! A mark begins and ends beside elements, which it names. When a deleted element comes back it stands beside its tombstone, so
//! that most marks hold it again without more. Some cannot: one that begins before and ends after the same element, between
//! whose borders nothing can come to stand, and the marker of a block, which is on its own character and no other. These are
//! made anew, on the new ids, and the old ones deleted.
//!
//! What is made anew is younger than all, and of two marks that contradict each other the younger one holds. So those that were
//! younger than it, and contradict it, are made anew after it; likewise after a mark that was removed and came back.
//!
//! All of that belongs to no step. Only the ids are kept in step: whatever a step did to a mark it finds on the one that has
//! taken its place.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{ids::IdMap, step::Action};
use crate::{
    Document, Timespan, Timestamp,
    document::{Kind, Now, Removed, Renamed, Subtree},
    model::{EditError, Model, RelativePosition, Side, Slice, Stacking, rich::Reading},
};

impl Model {
    /// Makes marks anew that what was done does not suit: some of their text came back, or they did.
    pub(super) fn renew_marks(&mut self, actions: &[Action]) -> Result<(), EditError> {
        let Some(undo) = &self.undo else { return Ok(()) };
        let mut touched: Vec<Timestamp> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Deleted { node, removed: Removed::Text(_) | Removed::Nodes(_), .. } => {
                    Some(undo.ids.now(*node))
                }
                _ => None,
            })
            .collect();
        touched.sort_unstable();
        touched.dedup();
        if touched.is_empty() {
            return Ok(());
        }
        let is_touched = |id: Timestamp| touched.binary_search(&id).is_ok();
        let mut rich: Vec<(Timestamp, Timestamp)> = self
            .doc
            .tuples()
            .filter_map(|tuple| {
                let (text, slices) = (tuple.at(0)?, tuple.at(1)?);
                let is_rich = text.kind() == Kind::Str && slices.kind() == Kind::Arr;
                (is_rich && (is_touched(text.id()) || is_touched(slices.id())))
                    .then(|| (text.id(), slices.id()))
            })
            .collect();
        rich.sort_unstable();
        rich.dedup();
        rich.into_iter().try_for_each(|(text, slices)| self.renew_marks_of(text, slices))
    }

    fn renew_marks_of(&mut self, text: Timestamp, slices: Timestamp) -> Result<(), EditError> {
        let Some(undo) = &mut self.undo else { return Ok(()) };
        let marks = Marks::of(&Reading { doc: &self.doc, text, slices }, &undo.ids);
        let renewed = marks.to_renew();
        if renewed.is_empty() {
            return Ok(());
        }
        let ids: BTreeMap<Timestamp, Timestamp> = renewed
            .iter()
            .flat_map(|mark| [mark.slice.start, mark.slice.end])
            .filter_map(|border| Some((border.anchor, marks.now(border.anchor)?)))
            .collect();
        let copies: Vec<(Timestamp, Subtree)> =
            renewed.iter().map(|mark| (mark.slot, Subtree::of(&self.doc, mark.slice.id))).collect();
        let one = |start| Timespan { start, span: 1 };
        let now = Now { id: &|id| ids.get(&id).copied().unwrap_or(id), named: &[] };
        let (mut nodes, mut slots) = (Vec::new(), Vec::new());
        undo.is_aside = true;
        let done = self.write(|patch| {
            // In one go: no replica ever has none of the two, and whoever compacts keeps what they name.
            for (slot, copy) in &copies {
                let mark = copy.write(patch, &now, &mut |renamed: Renamed| nodes.push(renamed));
                slots.push((*slot, patch.ins_arr(slices, *slot, &[mark])));
            }
            let old: Vec<Timespan> = copies.iter().map(|(slot, _)| one(*slot)).collect();
            patch.del(slices, &old);
        });
        let Some(undo) = &mut self.undo else { return Ok(()) };
        undo.is_aside = false;
        done?;
        let ids = Arc::make_mut(&mut undo.ids);
        for Renamed { old, new, .. } in nodes {
            ids.put(old, new, false);
            ids.go_on(old.start, new);
        }
        slots.into_iter().for_each(|(old, new)| ids.put(one(old), new, true));
        Ok(())
    }
}

/// The marks of a rich text.
struct Marks<'m> {
    doc: &'m Document,
    text: Timestamp,
    ids: &'m IdMap,
    /// In the order in which they hold.
    marks: Vec<Mark>,
}

struct Mark {
    slot: Timestamp,
    slice: Slice,
    /// The id that it had at first.
    first: Timestamp,
    /// What it stands on now.
    range: Option<Range<usize>>,
}

impl Mark {
    /// Whether it matters which of two is the younger one.
    fn contradicts(&self, other: &Self) -> bool {
        let (one, two) = (&self.slice, &other.slice);
        let (Some(range), Some(other)) = (&self.range, &other.range) else { return false };
        match (one.stacking, two.stacking) {
            (Stacking::Marker, Stacking::Marker) => range.start == other.start,
            (Stacking::Marker | Stacking::Cursor, _) | (_, Stacking::Marker | Stacking::Cursor) => false,
            _ if one.tag != two.tag => false,
            // Of those that stand beside others the order is left: who refers to a comment does so by its id.
            (Stacking::Many, Stacking::Many) | (Stacking::Erase, Stacking::Erase) => false,
            (Stacking::One, Stacking::One) if one.data == two.data => false,
            // What stands on nothing now can come to stand on something again.
            _ => range.start <= other.end && other.start <= range.end,
        }
    }
}

impl<'m> Marks<'m> {
    fn of(reading: &Reading<'m>, ids: &'m IdMap) -> Self {
        let (doc, text) = (reading.doc, reading.text);
        let slots = reading.slots().into_iter();
        let mut marks: Vec<Mark> = slots
            .map(|(slot, slice)| {
                let position = |border: RelativePosition| Some(border.resolve(doc)?.position);
                let range = position(slice.start).zip(position(slice.end)).map(|(start, end)| start..end);
                Mark { slot, first: ids.first(slice.id), slice, range }
            })
            .collect();
        marks.sort_by_key(|mark| mark.first);
        Self { doc, text, ids, marks }
    }

    /// Those that have to be made anew, in the order in which they hold.
    fn to_renew(&self) -> Vec<&Mark> {
        let mut renewed: Vec<&Mark> = Vec::new();
        // Those that are younger by their ids than they should be: they came back, or others made them anew.
        let mut late: Vec<&Mark> = Vec::new();
        for mark in &self.marks {
            if self.has_lost_its_text(&mark.slice)
                || renewed.iter().any(|other| other.contradicts(mark))
                || late.iter().any(|other| other.slice.id > mark.slice.id && other.contradicts(mark))
            {
                // What is shown in a second place stays there as it is.
                if !Subtree::of(self.doc, mark.slice.id).is_aliased() {
                    renewed.push(mark);
                }
            } else if mark.first != mark.slice.id {
                late.push(mark);
            }
        }
        renewed
    }

    /// Where what an element was is now, if it is anywhere else.
    fn now(&self, element: Timestamp) -> Option<Timestamp> {
        let now = self.ids.now(element);
        let is_visible = || self.doc.locate(self.text, now).is_some_and(|at| !at.deleted);
        (now != element && is_visible()).then_some(now)
    }

    /// Whether what it begins or ends at came back, and stands on the wrong side of it.
    fn has_lost_its_text(&self, slice: &Slice) -> bool {
        let has_lost = |border: &RelativePosition| {
            let Some(now) = self.now(border.anchor) else { return false };
            if slice.stacking == Stacking::Marker || self.doc.locate(self.text, border.anchor).is_none() {
                return true;
            }
            let is_behind = self.doc.stands_behind(self.text, now, border.anchor);
            is_behind != (border.side == Side::Before)
        };
        slice.stacking != Stacking::Cursor && [slice.start, slice.end].iter().any(has_lost)
    }
}
