//! The nodes of the tree: leaves with chunks, inner nodes with counts.

use super::super::chunk::{Chunk, Id, Span};

/// Chunks per leaf and children per inner node.
pub(super) const WIDTH: usize = 32;
/// How full loading and appending leave a node.
pub(super) const FILL: usize = 24;
/// No node.
pub(super) const NIL: u32 = u32::MAX;

/// Chunks side by side, as parallel arrays: a search reads one field of many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    pub(super) time: [u64; WIDTH],
    pub(super) session: [u32; WIDTH],
    pub(super) span: [Span; WIDTH],
    pub(super) offset: [u32; WIDTH],
    pub(super) len: u32,
    pub(super) parent: u32,
    pub(super) next: u32,
    pub(super) prev: u32,
}

impl Leaf {
    pub(super) const fn new() -> Self {
        Self {
            time: [0; WIDTH],
            session: [0; WIDTH],
            span: [Span::live(0); WIDTH],
            offset: [0; WIDTH],
            len: 0,
            parent: NIL,
            next: NIL,
            prev: NIL,
        }
    }

    #[inline]
    pub(super) fn get(&self, slot: usize) -> Chunk {
        Chunk {
            time: self.time[slot],
            session: self.session[slot],
            span: self.span[slot],
            offset: self.offset[slot],
        }
    }

    #[inline]
    pub(super) fn set(&mut self, slot: usize, chunk: Chunk) {
        self.time[slot] = chunk.time;
        self.session[slot] = chunk.session;
        self.span[slot] = chunk.span;
        self.offset[slot] = chunk.offset;
    }

    pub(super) fn insert(&mut self, slot: usize, chunk: Chunk) {
        let len = self.len as usize;
        self.time.copy_within(slot..len, slot + 1);
        self.session.copy_within(slot..len, slot + 1);
        self.span.copy_within(slot..len, slot + 1);
        self.offset.copy_within(slot..len, slot + 1);
        self.len += 1;
        self.set(slot, chunk);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        let len = self.len as usize;
        self.time.copy_within(slot + 1..len, slot);
        self.session.copy_within(slot + 1..len, slot);
        self.span.copy_within(slot + 1..len, slot);
        self.offset.copy_within(slot + 1..len, slot);
        self.len -= 1;
    }

    /// A leaf with the chunks from `keep` on, which this one loses.
    pub(super) fn split_off(&mut self, keep: usize) -> Self {
        let len = self.len as usize;
        let moved = len - keep;
        let mut right = Self::new();
        right.time[..moved].copy_from_slice(&self.time[keep..len]);
        right.session[..moved].copy_from_slice(&self.session[keep..len]);
        right.span[..moved].copy_from_slice(&self.span[keep..len]);
        right.offset[..moved].copy_from_slice(&self.offset[keep..len]);
        right.len = moved as u32;
        self.len = keep as u32;
        right
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        (0..(self.len as usize).min(WIDTH)).map(|slot| self.get(slot))
    }

    /// How many elements can be seen.
    pub(super) fn weight(&self) -> u32 {
        self.span[..self.len as usize].iter().map(|span| span.weight()).sum()
    }

    /// The slot of the chunk that starts with an id.
    #[inline]
    pub(super) fn slot_of(&self, id: Id) -> Option<usize> {
        let len = self.len as usize;
        let mut chunks = self.time[..len].iter().zip(&self.session[..len]);
        chunks.position(|(&time, &session)| time == id.time && session == id.session)
    }
}

/// Children with the counts of what can be seen in each.
#[derive(Debug, Clone)]
pub(super) struct Inner {
    pub(super) child: [u32; WIDTH],
    pub(super) weight: [u32; WIDTH],
    pub(super) len: u32,
    pub(super) parent: u32,
    /// Whether the children are leaves.
    pub(super) low: bool,
}

impl Inner {
    pub(super) const fn new(low: bool) -> Self {
        Self { child: [NIL; WIDTH], weight: [0; WIDTH], len: 0, parent: NIL, low }
    }

    pub(super) fn push(&mut self, child: u32, weight: u32) {
        self.child[self.len as usize] = child;
        self.weight[self.len as usize] = weight;
        self.len += 1;
    }

    #[inline]
    pub(super) fn slot_of(&self, child: u32) -> usize {
        self.child.iter().position(|&c| c == child).expect("a parent knows its children")
    }

    pub(super) fn total(&self) -> u32 {
        self.weight[..self.len as usize].iter().sum()
    }
}
