//! Local keystrokes beside the last one: letters that are typed on, and what is erased on either side.

use super::{Document, Order, node::Kind, sequence::Id, store::Store};
use crate::{Timestamp, id::MAX_ID};

/// Who types on where a letter was typed last, while nothing else has happened to the [store](Store) since. Whatever changes
/// the store forgets it ([`Held`](super::held::Held)), so all that is said here holds, and needs no second look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Typing {
    /// The text, by number and by id.
    node: u32,
    of: Timestamp,
    /// The time of the next letter.
    time: u64,
    /// The text's sequence. Its cursor stands behind the last letter, whose chunk is the own session's, and what that chunk
    /// holds is the end of the arena.
    sequence: u32,
    /// So many letters more have room.
    left: u32,
}

impl Document {
    /// Types on in a text where it was typed last, the usual way to edit one. Returns the time of the first new unit,
    /// which follows the own unit before it; `None`, and nothing has changed, if [`edit_text`](Self::edit_text) has to
    /// look at it.
    #[inline]
    pub(crate) fn type_on(&mut self, node: u32, of: Timestamp, position: usize, text: &[u8]) -> Option<u64> {
        if let &[letter @ 0..0x80] = text
            && let Some(time) = self.type_letter(node, of, position, letter)
        {
            return Some(time);
        }
        self.type_text(node, of, position, text)
    }

    #[inline(always)]
    fn type_letter(&mut self, node: u32, of: Timestamp, position: usize, letter: u8) -> Option<u64> {
        let Store { typing, sessions, sequences, contents, span, .. } = self.store.typing()?;
        let typing = typing.as_mut()?;
        let time = typing.time;
        if typing.node != node || typing.of != of || time != self.time || typing.left == 0 {
            return None;
        }
        let id = Id::new(sessions.own, time);
        if !sequences.at_mut(typing.sequence).type_letter(position, id) {
            return None;
        }
        contents.narrow.push(&[letter]);
        *span += 1;
        sessions.made = time;
        typing.time = time + 1;
        typing.left -= 1;
        self.time = time + 1;
        Some(time)
    }

    /// Any text that is typed on, or the first letter.
    #[inline(never)]
    fn type_text(&mut self, node: u32, of: Timestamp, position: usize, text: &[u8]) -> Option<u64> {
        let (time, units) = (self.time, text.len() as u64);
        let store = self.store.own()?;
        if !text.is_ascii()
            || !store.is_node(node, of, Kind::Str)
            || !is_roomy_for(store, time, self.order, units)
        {
            return None;
        }
        let payload = store.nodes[node as usize].payload();
        let sequence = store.sequences.at_mut(payload);
        let (position, id) = (u32::try_from(position).ok()?, Id::new(store.sessions.own, time));
        if !sequence.type_on(position, id, text, &mut store.contents.narrow) {
            return None;
        }
        store.span += units;
        store.sessions.made = time + units - 1;
        self.time = time + units;
        if sequence.types_at(Id::new(id.session, self.time), store.contents.narrow.tail()) {
            let left = (Self::ELEMENTS_MAX - store.span).min(MAX_ID - 1 - self.time);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            store.typing = Some(Typing { node, of, time: self.time, sequence: payload, left });
        }
        Some(time)
    }

    /// Erases text beside where it was erased or typed last, on either side. Returns the id of the first unit; `None`, and
    /// nothing has changed, if [`edit_delete`](Self::edit_delete) has to look at it.
    #[inline]
    pub(crate) fn erase_on(
        &mut self,
        node: u32,
        of: Timestamp,
        position: usize,
        len: usize,
    ) -> Option<Timestamp> {
        let store = self.store.own()?;
        if !store.is_node(node, of, Kind::Str) || !is_roomy_for(store, self.time, self.order, 1) {
            return None;
        }
        let sequence = store.sequences.at_mut(store.nodes[node as usize].payload());
        let dead = sequence.erase_on(u32::try_from(position).ok()?, u32::try_from(len).ok()?)?;
        store.contents.kill_text(dead.span, dead.offset);
        if store.contents.is_wasteful() {
            store.tidy();
        }
        store.sessions.made = self.time;
        self.time += 1;
        Some(store.timestamp(dead.id))
    }

    /// Checks what is known of who types on.
    pub(super) fn check_typing(&self) -> Result<(), String> {
        let Some(Typing { node, of, time, sequence, .. }) = self.store.typing else { return Ok(()) };
        let (store, next) = (&self.store, Id::new(self.store.sessions.own, time));
        let holds = store.is_node(node, of, Kind::Str)
            && time == self.time
            && store.node(node).payload() == sequence
            && store.sequences.at(sequence).types_at(next, store.contents.narrow.tail());
        if holds { Ok(()) } else { Err(format!("nobody types on in {of} at {time}")) }
    }
}

impl Store {
    /// Whether a node is still the one it was.
    #[inline]
    pub(super) fn is_node(&self, node: u32, id: Timestamp, kind: Kind) -> bool {
        self.nodes
            .get(node as usize)
            .is_some_and(|at| at.is(id.time, kind) && self.sessions.sid_at(at.session()) == id.sid.get())
    }
}

/// Whether so many elements more have room, and so many times.
#[inline]
const fn is_roomy_for(store: &Store, time: u64, order: Order, units: u64) -> bool {
    store.span + units <= Document::ELEMENTS_MAX && time + units < MAX_ID && matches!(order, Order::Logical)
}
