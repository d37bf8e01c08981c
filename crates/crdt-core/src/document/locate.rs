//! Where elements stand, by their ids: for positions that outlive edits, for undo, and to tell what an edit changed.

use super::{
    Document, Place,
    content::TextOut,
    node::{Form, NIL},
    sequence::{At, Chunk, Id},
};
use crate::{Timespan, Timestamp, text::Text};

/// Where an element of a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// How many visible elements stand before it.
    pub position: usize,
    /// Whether it has been deleted.
    pub deleted: bool,
}

/// Consecutive elements that stand side by side in a sequence, in the same state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// The first id.
    pub(crate) id: Timestamp,
    pub(crate) units: u32,
    pub(crate) live: bool,
    /// How many visible elements stand before it.
    pub(crate) position: u32,
    /// Whether it begins where a chunk does that is one with the chunk before to the outside.
    pub(crate) goes_on: bool,
    chunk: Chunk,
}

impl Piece {
    /// The last id.
    pub(crate) const fn last(&self) -> Timestamp {
        self.id.tick(self.units as u64 - 1)
    }
}

impl Document {
    /// Where an element of a text, byte string or array stands; `None` if the node has no such element.
    pub fn locate(&self, node: Timestamp, element: Timestamp) -> Option<Located> {
        let node = self.sequence_node(node)?;
        let sequence = self.store.sequence(node);
        let id = self.store.id(element)?;
        let at = sequence.find(id)?;
        let (chunk, before) = (sequence.chunk(at), sequence.position(at) as usize);
        let deleted = chunk.span.is_dead();
        let within = if deleted { 0 } else { (id.time - chunk.time) as usize };
        Some(Located { position: before + within, deleted })
    }

    /// The id of the visible element at a position of a text, byte string or array.
    pub fn element_id(&self, node: Timestamp, position: usize) -> Option<Timestamp> {
        self.element_at(self.sequence_node(node)?, u32::try_from(position).ok()?)
    }

    /// Whether an element of a sequence stands behind another, deleted ones included. Takes as many steps as there are
    /// tombstones between them, if nothing else is.
    pub(crate) fn stands_behind(&self, node: Timestamp, element: Timestamp, other: Timestamp) -> bool {
        let place = |element| {
            let sequence = self.store.sequence(self.sequence_node(node)?);
            Some((sequence, sequence.find(self.store.id(element)?)?))
        };
        let (Some((sequence, at)), Some((_, other_at))) = (place(element), place(other)) else {
            return false;
        };
        if at == other_at {
            return element.time > other.time;
        }
        let (before, other_before) = (sequence.position(at), sequence.position(other_at));
        if before != other_before {
            return before > other_before;
        }
        // Nothing visible is between them: the one from which the other is reached stands in front. Both look in step, so
        // that neither goes further than the other is away.
        let step = |at: At| sequence.next(at).filter(|_| sequence.chunk(at).span.is_dead());
        let (mut from, mut from_other) = (at, other_at);
        loop {
            match step(from_other) {
                None => return false,
                Some(next) if next == at => return true,
                Some(next) => from_other = next,
            }
            match step(from) {
                None => return true,
                Some(next) if next == other_at => return false,
                Some(next) => from = next,
            }
        }
    }

    /// The first of the visible elements that stand side by side with consecutive ids up to one of them.
    pub(crate) fn run_start(&self, node: Timestamp, element: Timestamp) -> Option<Timestamp> {
        let sequence = self.store.sequence(self.sequence_node(node)?);
        let chunk = sequence.chunk(sequence.find(self.store.id(element)?)?);
        Some(self.store.timestamp(chunk.id()))
    }

    fn sequence_node(&self, node: Timestamp) -> Option<u32> {
        let node = self.store.find(node)?;
        matches!(self.store.form(node), Form::Str | Form::Bin | Form::Arr).then_some(node)
    }

    /// The elements of a span that are in a sequence, visible or not, in the order of their ids.
    pub(crate) fn pieces(&self, node: Timestamp, span: Timespan) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (Some(node), Some(start)) = (self.sequence_node(node), self.store.id(span.start)) else {
            return pieces;
        };
        let sequence = self.store.sequence(node);
        let end = start.time.saturating_add(span.span);
        let mut time = start.time;
        while time < end {
            let id = Id::new(start.session, time);
            let Some(at) = sequence.find(id) else {
                match sequence.ceiling(id) {
                    Some(next) if next > time => time = next,
                    _ => break,
                }
                continue;
            };
            let piece = self.piece(sequence.chunk(at), sequence.position(at), time, end);
            time += u64::from(piece.units);
            pieces.push(piece);
        }
        pieces
    }

    /// The visible elements at a range of positions, in the order in which they stand.
    pub(crate) fn pieces_at(&self, node: Timestamp, position: u32, len: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let Some(node) = self.sequence_node(node) else { return pieces };
        let sequence = self.store.sequence(node);
        let mut left = len.min(sequence.len().saturating_sub(position));
        let mut next = sequence.seek(position);
        let mut position = position;
        while let Some((at, within)) = next.filter(|_| left > 0) {
            let chunk = sequence.chunk(at);
            if !chunk.span.is_dead() {
                let from = chunk.time + u64::from(within);
                let piece = self.piece(chunk, position - within, from, from + u64::from(left));
                left -= piece.units;
                position += piece.units;
                pieces.push(piece);
            }
            next = sequence.next(at).map(|at| (at, 0));
        }
        pieces
    }

    /// All elements that stand right of one (`None`: of the beginning) up to the next visible one, that one left out.
    pub(crate) fn tombstones_after(&self, node: Timestamp, after: Option<Timestamp>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let Some(node) = self.sequence_node(node) else { return pieces };
        let sequence = self.store.sequence(node);
        let mut next: Option<At> = match after {
            None => sequence.first(),
            Some(after) => {
                let Some(id) = self.store.id(after) else { return pieces };
                let Some(at) = sequence.find(id) else { return pieces };
                let chunk = sequence.chunk(at);
                if id.time + 1 < chunk.end() {
                    if chunk.span.is_dead() {
                        pieces.push(self.piece(chunk, sequence.position(at), id.time + 1, chunk.end()));
                    } else {
                        return pieces;
                    }
                }
                sequence.next(at)
            }
        };
        while let Some(at) = next {
            let chunk = sequence.chunk(at);
            if !chunk.span.is_dead() {
                break;
            }
            pieces.push(self.piece(chunk, sequence.position(at), chunk.time, chunk.end()));
            next = sequence.next(at);
        }
        pieces
    }

    /// The part of a chunk from a time to before another.
    fn piece(&self, chunk: Chunk, before: u32, from: u64, end: u64) -> Piece {
        let within = (from - chunk.time) as u32;
        let units = (chunk.end().min(end) - from) as u32;
        let live = !chunk.span.is_dead();
        Piece {
            id: self.store.timestamp(Id::new(chunk.session, from)),
            units,
            live,
            position: if live { before + within } else { before },
            goes_on: within == 0 && chunk.span.is_soft(),
            chunk: Chunk {
                time: from,
                span: chunk.span.with_len(units),
                offset: if live { chunk.offset + within } else { 0 },
                ..chunk
            },
        }
    }

    /// The text of a visible piece of a text.
    pub(crate) fn piece_text(&self, piece: &Piece) -> Text {
        let mut bytes = Vec::with_capacity(piece.units as usize);
        self.store.contents.read_text(piece.chunk, &mut TextOut::new(&mut bytes));
        Text::trusted(bytes)
    }

    /// The bytes of a visible piece of a byte string.
    pub(crate) fn piece_bytes(&self, piece: &Piece) -> &[u8] {
        self.store.contents.narrow.get(piece.chunk.offset, piece.units)
    }

    /// The ids of the nodes in a visible piece of an array.
    pub(crate) fn piece_nodes(&self, piece: &Piece) -> impl Iterator<Item = Timestamp> + '_ {
        let slots = self.store.slots(piece.chunk.offset, piece.units);
        slots.iter().map(|&node| self.store.timestamp(self.store.node(node).id()))
    }

    /// The id of the node at a place of a container, whether or not the node is still there.
    pub(crate) fn held(&self, container: Timestamp, place: &Place) -> Option<Timestamp> {
        let store = &self.store;
        let node = match place {
            Place::Root => store.root,
            place => {
                let container = store.find(container)?;
                match (store.form(container), place) {
                    (Form::Val, Place::Register) => store.node(container).payload(),
                    (Form::Obj, Place::Key(key)) => {
                        let obj = store.obj(container);
                        obj.entries[obj.find(store.keys.find(key.as_bytes())?)?].node
                    }
                    (Form::Vec, Place::Index(index)) => *store.vec(container).get(usize::from(*index))?,
                    (Form::Arr, Place::Slot(slot)) => {
                        let sequence = store.sequence(container);
                        let slot = store.id(*slot)?;
                        let chunk = sequence.chunk(sequence.find(slot)?);
                        if chunk.span.is_dead() {
                            return None;
                        }
                        store.slots(chunk.offset + (slot.time - chunk.time) as u32, 1)[0]
                    }
                    _ => return None,
                }
            }
        };
        (node != NIL).then(|| store.timestamp(store.node(node).id()))
    }
}
