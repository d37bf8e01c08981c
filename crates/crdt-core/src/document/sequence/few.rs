//! Storage of a sequence of few chunks: a plain list, in place when it is one.

use smallvec::SmallVec;

use super::{
    chunk::{Chunk, Id},
    runs::{At, Runs},
};

/// The most chunks that a list holds; one more makes a tree of it.
pub(super) const FEW: usize = 16;

#[derive(Debug, Clone, Default)]
pub(super) struct Few(pub(super) SmallVec<[Chunk; 1]>);

impl Few {
    /// An id that occurs twice.
    pub(super) fn find_double(&self) -> Option<Id> {
        let overlaps = |a: &Chunk, b: &Chunk| a.session == b.session && a.time < b.end() && b.time < a.end();
        let double = |at: usize| self.0[..at].iter().any(|chunk| overlaps(chunk, &self.0[at]));
        (1..self.0.len()).find(|&at| double(at)).map(|at| self.0[at].id())
    }
}

impl Runs for Few {
    fn first(&self) -> Option<At> {
        (!self.0.is_empty()).then_some(At { leaf: 0, slot: 0 })
    }

    fn next(&self, at: At) -> Option<At> {
        ((at.slot as usize) + 1 < self.0.len()).then_some(At { leaf: 0, slot: at.slot + 1 })
    }

    fn prev(&self, at: At) -> Option<At> {
        Some(At { leaf: 0, slot: at.slot.checked_sub(1)? })
    }

    fn get(&self, at: At) -> Chunk {
        self.0[at.slot as usize]
    }

    fn find(&mut self, id: Id) -> Option<At> {
        self.peek(id)
    }

    fn peek(&self, id: Id) -> Option<At> {
        let slot = self.0.iter().position(|chunk| chunk.holds(id))?;
        Some(At { leaf: 0, slot: slot as u32 })
    }

    fn ceiling(&self, id: Id) -> Option<u64> {
        let later = |chunk: &&Chunk| chunk.session == id.session && chunk.time > id.time;
        self.0.iter().filter(later).map(|chunk| chunk.time).min()
    }

    fn is_fresh(&self, id: Id) -> bool {
        self.0.iter().all(|chunk| chunk.session != id.session || chunk.end() <= id.time)
    }

    fn seek(&mut self, position: u32) -> Option<(At, u32)> {
        self.peek_position(position)
    }

    fn peek_position(&self, position: u32) -> Option<(At, u32)> {
        let mut left = position;
        for (slot, chunk) in self.0.iter().enumerate() {
            let weight = chunk.span.weight();
            if left < weight {
                return Some((At { leaf: 0, slot: slot as u32 }, left));
            }
            left -= weight;
        }
        None
    }

    fn position(&self, at: At) -> u32 {
        self.0[..at.slot as usize].iter().map(|chunk| chunk.span.weight()).sum()
    }

    fn insert_after(&mut self, at: Option<At>, chunk: Chunk) -> At {
        let slot = at.map_or(0, |at| at.slot + 1);
        self.0.insert(slot as usize, chunk);
        At { leaf: 0, slot }
    }

    fn replace(&mut self, at: At, chunk: Chunk) {
        self.0[at.slot as usize] = chunk;
    }

    fn remove(&mut self, at: At) {
        self.0.remove(at.slot as usize);
    }

    fn is_full(&self) -> bool {
        self.0.len() >= FEW
    }
}
