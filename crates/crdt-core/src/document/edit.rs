//! Local edits by visible position: done at once, and told in ids for the patch.

use smallvec::SmallVec;

use super::{
    ApplyError, Document,
    content::{Contents, Stored},
    node::{Form, Kind},
    sequence::{Chunk, Id},
};
use crate::{SessionId, Timespan, Timestamp, patch::Ops, text::Wtf8};

/// The spans that a deletion touched.
pub(crate) type Spans = SmallVec<[Timespan; 4]>;

impl Document {
    /// Inserts text at a position. Returns the id of the unit before it, or of the text at its start; `None` if the
    /// text is shorter.
    pub(crate) fn edit_text(
        &mut self,
        node: u32,
        position: u32,
        text: Wtf8<'_>,
        units: u32,
    ) -> Option<Timestamp> {
        self.insert_at(node, position, units, |contents, left| contents.store_text(left, text, units))
    }

    /// Inserts bytes at a position: see [`edit_text`](Self::edit_text).
    pub(crate) fn edit_bytes(&mut self, node: u32, position: u32, bytes: &[u8]) -> Option<Timestamp> {
        self.insert_at(node, position, bytes.len() as u32, |contents, left| contents.store_bytes(left, bytes))
    }

    #[inline]
    fn insert_at(
        &mut self,
        node: u32,
        position: u32,
        units: u32,
        store: impl FnOnce(&mut Contents, Option<Chunk>) -> Stored,
    ) -> Option<Timestamp> {
        let held = &mut *self.store;
        let id = Id::new(held.sessions.own, self.time);
        let payload = held.node(node).payload();
        let sequence = held.sequences.at_mut(payload);
        let (after, spot) = sequence.place_at(position, id)?;
        let stored = store(&mut held.contents, sequence.joined(spot));
        if let Some(moved) = stored.moved {
            sequence.relocate(spot, moved);
        }
        let at = sequence.put(spot, id, stored.span, stored.offset);
        sequence.set_cursor(at, position + units);
        held.span += u64::from(units);
        self.time += u64::from(units);
        held.sessions.made = self.time - 1;
        Some(held.timestamp(after.unwrap_or_else(|| held.node(node).id())))
    }

    /// Deletes elements from a position on, at most as many as there are. Takes one tick. Returns their ids, by chunk.
    pub(crate) fn edit_delete(&mut self, node: u32, position: u32, len: u32) -> Spans {
        let store = &mut *self.store;
        let arr = store.form(node) == Form::Arr;
        let payload = store.node(node).payload();
        let sequence = store.sequences.at_mut(payload);
        let contents = &mut store.contents;
        let mut spans = Spans::new();
        let mut released: SmallVec<[u32; 4]> = SmallVec::new();
        let sessions = &store.sessions;
        sequence.delete_at(position, len, |dead| {
            let sid = SessionId::new(sessions.sid_at(dead.id.session)).unwrap_or(SessionId::SYSTEM);
            let start = Timestamp::new(sid, dead.id.time);
            let units = u64::from(dead.span.len());
            match spans.last_mut() {
                // Two pieces of what is one chunk to the outside.
                Some(last) if dead.span.is_soft() && last.start.tick(last.span) == start => {
                    last.span += units;
                }
                _ => spans.push(Timespan { start, span: units }),
            }
            if arr {
                released.extend_from_slice(contents.slots.get(dead.offset, dead.span.len()));
                contents.slots.kill(dead.offset, dead.span.len());
            } else {
                contents.kill_text(dead.span, dead.offset);
            }
        });
        for node in released {
            store.release(node);
        }
        if !spans.is_empty() {
            store.sessions.made = self.time;
            self.time += 1;
        }
        spans
    }

    /// Runs operations of the document's own session that are later than what it has made.
    pub(crate) fn edit_ops(&mut self, ops: Ops<'_>) {
        for (id, op) in ops {
            let end = id.time + op.span();
            let own = self.make_up_to(end);
            self.run(Id::new(own, id.time), id.sid, &op);
        }
    }

    /// The own session makes all times before one. Returns the number of that session.
    pub(super) fn make_up_to(&mut self, end: u64) -> u32 {
        self.time = self.time.max(end);
        let sessions = &mut self.store.sessions;
        sessions.made = end - 1;
        sessions.own
    }

    /// Whether there is room for an edit of so many bytes.
    #[inline]
    pub(crate) fn admit_own(&self, bytes: u64) -> Result<(), ApplyError> {
        if self.is_roomy(bytes) { Ok(()) } else { self.admit(self.next_id(), bytes) }
    }

    /// Whether a node is still the one it was.
    #[inline]
    pub(crate) fn is_node(&self, node: u32, id: Timestamp, kind: Kind) -> bool {
        self.store.is_node(node, id, kind)
    }

    /// How many visible elements a sequence has.
    #[inline]
    pub(crate) fn visible_len(&self, node: u32) -> u32 {
        match self.store.form(node) {
            Form::Str | Form::Bin | Form::Arr => self.store.sequence(node).len(),
            _ => 0,
        }
    }

    /// Moves contents together if that is due.
    pub(crate) fn tidy(&mut self) {
        self.store.tidy();
    }

    /// The id of the element at a visible position.
    pub(crate) fn element_at(&self, node: u32, position: u32) -> Option<Timestamp> {
        let sequence = self.store.sequence(node);
        let (at, offset) = sequence.seek(position)?;
        Some(self.store.timestamp(sequence.chunk(at).id().tick(u64::from(offset))))
    }
}
