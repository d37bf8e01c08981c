//! Local edits by visible position: done at once, and told in ids for the patch.

use smallvec::SmallVec;

use super::{
    ApplyError, Document, Order,
    content::{Contents, Stored},
    node::{Form, Kind},
    sequence::{Chunk, Id},
};
use crate::{SessionId, Timespan, Timestamp, id::MAX_ID, patch::Ops, text::Wtf8};

/// The spans that a deletion touched.
pub(crate) type Spans = SmallVec<[Timespan; 4]>;

impl Document {
    /// Types on in a text where it was typed last, the usual way to edit one. Returns the time of the first new unit,
    /// which follows the own unit before it; `None`, and nothing has changed, if [`edit_text`](Self::edit_text) has to
    /// look at it.
    #[inline]
    pub(crate) fn type_on(&mut self, node: u32, position: usize, text: &[u8]) -> Option<u64> {
        let (time, units) = (self.time, text.len() as u64);
        let is_ascii = match text {
            [one] => one.is_ascii(),
            text => text.is_ascii(),
        };
        if !is_ascii || !self.is_roomy_for(units) {
            return None;
        }
        let sequence = self.store.sequences.at_mut(self.store.nodes[node as usize].payload());
        let (position, id) = (u32::try_from(position).ok()?, Id::new(self.own, time));
        if !sequence.type_on(position, id, text, &mut self.store.contents.narrow) {
            return None;
        }
        self.store.span += units;
        self.made = time + units - 1;
        self.time = time + units;
        Some(time)
    }

    /// Erases text beside where it was erased or typed last, on either side. Returns the id of the first unit; `None`, and
    /// nothing has changed, if [`edit_delete`](Self::edit_delete) has to look at it.
    #[inline]
    pub(crate) fn erase_on(&mut self, node: u32, position: usize, len: usize) -> Option<Timestamp> {
        if !self.is_roomy_for(1) {
            return None;
        }
        let sequence = self.store.sequences.at_mut(self.store.nodes[node as usize].payload());
        let dead = sequence.erase_on(u32::try_from(position).ok()?, u32::try_from(len).ok()?)?;
        self.store.contents.kill_text(dead.span, dead.offset);
        if self.store.contents.is_wasteful() {
            self.store.tidy();
        }
        self.made = self.time;
        self.time += 1;
        Some(self.store.timestamp(dead.id))
    }

    /// Whether so many elements more have room, and so many times.
    #[inline]
    const fn is_roomy_for(&self, units: u64) -> bool {
        self.store.span + units <= Self::ELEMENTS_MAX
            && self.time + units < MAX_ID
            && matches!(self.order, Order::Logical)
    }

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
        let id = Id::new(self.own, self.time);
        let payload = self.store.node(node).payload();
        let sequence = self.store.sequences.at_mut(payload);
        let (after, spot) = sequence.place_at(position, id)?;
        let stored = store(&mut self.store.contents, sequence.joined(spot));
        if let Some(moved) = stored.moved {
            sequence.relocate(spot, moved);
        }
        let at = sequence.put(spot, id, stored.span, stored.offset);
        sequence.set_cursor(at, position + units);
        self.store.span += u64::from(units);
        self.made = self.time + u64::from(units) - 1;
        self.time = self.made + 1;
        Some(self.store.timestamp(after.unwrap_or_else(|| self.store.node(node).id())))
    }

    /// Deletes elements from a position on, at most as many as there are. Takes one tick. Returns their ids, by chunk.
    pub(crate) fn edit_delete(&mut self, node: u32, position: u32, len: u32) -> Spans {
        let arr = self.store.form(node) == Form::Arr;
        let payload = self.store.node(node).payload();
        let sequence = self.store.sequences.at_mut(payload);
        let contents = &mut self.store.contents;
        let mut spans = Spans::new();
        let mut released: SmallVec<[u32; 4]> = SmallVec::new();
        let sessions = &self.store.sessions;
        sequence.delete_at(position, len, |dead| {
            let sid = SessionId::new(sessions.at(dead.id.session).sid).unwrap_or(SessionId::SYSTEM);
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
            self.store.release(node);
        }
        if !spans.is_empty() {
            self.made = self.time;
            self.time += 1;
        }
        spans
    }

    /// Runs operations of the document's own session that are later than what it has made.
    pub(crate) fn edit_ops(&mut self, ops: Ops<'_>) {
        for (id, op) in ops {
            let end = id.time + op.span();
            (self.time, self.made) = (self.time.max(end), end - 1);
            self.run(Id::new(self.own, id.time), id.sid, &op);
        }
    }

    /// Whether there is room for an edit of so many bytes.
    #[inline]
    pub(crate) fn admit_own(&self, bytes: u64) -> Result<(), ApplyError> {
        if self.is_roomy(bytes) { Ok(()) } else { self.admit(self.next_id(), bytes) }
    }

    /// Whether a node is still the one it was.
    #[inline]
    pub(crate) fn is_node(&self, node: u32, id: Timestamp, kind: Kind) -> bool {
        self.store.nodes.get(node as usize).is_some_and(|at| {
            at.is(id.time, kind) && self.store.sessions.sid_at(at.session()) == id.sid.get()
        })
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
