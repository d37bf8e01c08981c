//! Constants that are put into an array, by an edit or by a patch from elsewhere: made, found their place and put there in
//! one go. What is unusual in any way is left to the general rules.

use std::ops::Range;

use super::{
    Document,
    node::{Form, Node},
    sequence::{At, Id, Spot},
    store::{Store, con_node},
};
use crate::{
    Timestamp,
    codec::RawValue,
    patch::{
        elements::{self, Constants, Elements, ROW},
        keystroke::Start,
    },
};

impl Document {
    /// Applies a patch, if it puts constants into an array. `false`, and nothing has changed, if the general rules have to
    /// look at it.
    #[inline]
    pub(super) fn apply_elements(&mut self, patch: Start<'_>) -> bool {
        // A patch that turns out to be known must not cost a copy.
        !self.store.is_shared()
            && self.is_roomy(patch.len_bytes() as u64)
            && elements::read(patch).and_then(|elements| self.put_read(&elements)).is_some()
    }

    /// The author of a patch that begins at an id, and is not from here and seen in no part: its place, if it has one.
    #[inline]
    pub(super) fn author_of_news(&mut self, id: Timestamp) -> Option<Option<u32>> {
        let known = self.store.sessions.look_up(id.sid.get());
        if known == Some(self.store.sessions.own) || id.time <= self.compacted_to {
            return None;
        }
        let sessions = &self.store.sessions;
        let is_known =
            |at| sessions.seen(at) >= Some(id.time) || sessions.at(at).nodes.ceiling(id.time).is_some();
        (!known.is_some_and(is_known)).then_some(known)
    }

    fn put_read(&mut self, elements: &Elements<'_>) -> Option<()> {
        let Elements { id, obj, after, values } = *elements;
        let known = self.author_of_news(id)?;
        if after != obj && after.sid != id.sid && !self.has_seen(after) {
            return None;
        }
        let array = self.target_of(obj, Form::Arr)?;
        let node = self.store.node(array);
        if node.id().time >= id.time {
            return None;
        }
        let payload = node.payload();
        let after = if after == obj { None } else { Some(self.store.id(after)?) };
        let session = match known {
            Some(session) => session,
            // Nothing may have changed if the place is not there; the slots of a new session are not there yet.
            None => {
                after.map_or(Some(()), |after| self.store.sequences.at(payload).find(after).map(drop))?;
                self.store.sessions.enter(id.sid.get())
            }
        };
        let slot = Id::new(session, elements.slot().time);
        let store = &mut *self.store;
        let sequence = store.sequences.at_mut(payload);
        // By reference: a spot is written in parts, and a copy as a whole would wait for them.
        let spot = &sequence.place(after, slot, values.span(), &store.sessions);
        store.put_constants(payload, spot.as_ref()?, Id::new(session, id.time), values);
        store.tidy();
        self.observe(session, elements.last());
        Some(())
    }

    /// Puts constants into an array at an index; they get the next times, and after them their slots. Returns the id of the
    /// slot before them, or of the array at its start; `None` if the array is shorter. Inlined, since that id would be stored in
    /// parts and read as a whole, which waits.
    #[inline]
    pub(crate) fn edit_elements(
        &mut self,
        array: u32,
        index: u32,
        values: Constants<'_>,
    ) -> Option<Timestamp> {
        let len = u64::from(values.span());
        let store = &mut *self.store;
        let id = Id::new(store.sessions.own, self.time);
        let payload = store.node(array).payload();
        let sequence = store.sequences.at_mut(payload);
        let place = &sequence.place_at(index, id.tick(len));
        let (after, spot) = place.as_ref()?;
        let at = store.put_constants(payload, spot, id, values);
        store.sequences.at_mut(payload).set_cursor(at, index + values.span());
        self.time += 2 * len;
        store.sessions.made = self.time - 1;
        let after = match after {
            Some(after) => Id::new(after.session, after.time),
            None => store.node(array).id(),
        };
        Some(store.timestamp(after))
    }
}

impl Store {
    /// Makes constants, and puts them into the array of a sequence at a spot. Their ids start with `id`, and those of their
    /// slots follow.
    fn put_constants(&mut self, sequence: u32, spot: &Spot, id: Id, values: Constants<'_>) -> At {
        let len = values.span();
        let left = self.sequences.at(sequence).joined(*spot);
        let stored = if self.ghosts.is_empty() && self.free.is_empty() {
            let row = self.enter_row(id, values);
            self.contents.store_slots_in_a_row(left, row)
        } else {
            let nodes = self.enter_each(id, values);
            self.contents.store_slots(left, &nodes)
        };
        let sequence = self.sequences.at_mut(sequence);
        if let Some(moved) = stored.moved {
            sequence.relocate(*spot, moved);
        }
        self.span += u64::from(len);
        sequence.put(*spot, id.tick(len.into()), stored.span, stored.offset)
    }

    /// [`enter_each`](Self::enter_each) behind all nodes, where their numbers follow each other too.
    fn enter_row(&mut self, id: Id, values: Constants<'_>) -> Range<u32> {
        let Self { nodes, heap, sessions, .. } = self;
        let (first, len, mut ops) = (nodes.len(), values.span() as usize, values.ops());
        let mut next = Node::short(id, &[]);
        next.link();
        nodes.reserve(len);
        let mut left = len;
        while left > 0 {
            let few = ROW.min(left);
            left -= few;
            if few == ROW
                && let Some((row, behind)) = elements::row_of_numbers(ops)
            {
                nodes.extend(
                    row.iter().zip(0..).map(|(op, ticks)| next.later(ticks, elements::number_in(*op))),
                );
                next = next.later(ROW as u64, [0; 4]);
                ops = behind;
                continue;
            }
            for _ in 0..few {
                if let Some((value, behind)) = elements::brief_constant(ops) {
                    nodes.push(next.later(0, value));
                    ops = behind;
                } else if let Some(any) = elements::any_constant(ops) {
                    nodes.push(long_constant(heap, next.id(), any.value));
                    ops = any.behind;
                }
                next = next.later(1, [0; 4]);
            }
        }
        sessions.at_mut(id.session).nodes.insert_run(id.time, first as u32, len as u32);
        first as u32..(first + len) as u32
    }
}

/// A constant of any length that is referred to once.
#[inline(never)]
fn long_constant(heap: &mut Vec<u8>, id: Id, value: RawValue<'_>) -> Node {
    let mut node = con_node(heap, id, value);
    node.link();
    node
}
