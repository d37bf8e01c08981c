//! Storage of a sequence of many chunks: a B-tree of run-length chunks with counts, and an index by id.
//!
//! Leaves hold 32 chunks and know their parents and neighbours. Inner nodes hold for each child
//! how many visible elements it has. The count of the leaf that is being edited is written up the tree only when the
//! edits go elsewhere, so typing costs one addition.

mod check;
mod floors;
mod grow;
mod index;
mod node;
mod search;
mod typing;

use std::sync::OnceLock;

use floors::Floors;
use index::Index;
use node::{FILL, Inner, Leaf, NIL, WIDTH};

use super::chunk::{Chunk, Id};

#[derive(Debug, Clone)]
pub(super) struct Tree {
    leaves: Vec<Leaf>,
    inner: Vec<Inner>,
    /// [`NIL`] while chunks are being appended.
    root: u32,
    head: u32,
    tail: u32,
    /// Leaves that were emptied and can be used again.
    free_leaves: Vec<u32>,
    free_inner: Vec<u32>,
    index: OnceLock<Index>,
    /// The leaf whose count the inner nodes do not have yet, and by how much they are short.
    pending: (u32, i32),
    /// A leaf and how many visible elements stand before it.
    near: Option<(u32, u32)>,
    /// Whether no id stands in two of the chunks that were appended, as far as that is known.
    distinct: bool,
    floors: Option<Box<Floors>>,
}

impl Tree {
    /// A tree to which chunks are [appended](Self::append); it cannot be used before it is [sealed](Self::seal). It
    /// has room for about so many.
    pub(super) fn open(chunks: usize) -> Self {
        let mut leaves = Vec::with_capacity(chunks / FILL + 1);
        leaves.push(Leaf::new());
        Self {
            leaves,
            inner: Vec::new(),
            root: NIL,
            head: 0,
            tail: 0,
            free_leaves: Vec::new(),
            free_inner: Vec::new(),
            index: OnceLock::new(),
            pending: (NIL, 0),
            near: None,
            distinct: false,
            floors: None,
        }
    }

    /// Appends a chunk to an open tree.
    #[inline]
    pub(super) fn append(&mut self, chunk: Chunk) {
        if self.leaves[self.tail as usize].len as usize >= FILL {
            self.append_leaf();
        }
        self.leaves[self.tail as usize].append(chunk);
        self.distinct = false;
    }

    /// Appends many chunks to an open tree. Says how many elements they have that can be seen, how many in all, and the
    /// time after the last one.
    #[inline(always)]
    pub(super) fn append_all(&mut self, chunks: &mut impl Iterator<Item = Chunk>) -> (u32, u32, u64) {
        let (mut weight, mut span, mut end) = (0, 0, 0);
        self.distinct = false;
        loop {
            let leaf = &mut self.leaves[self.tail as usize];
            let mut slot = leaf.len as usize;
            while slot < FILL
                && let Some(chunk) = chunks.next()
            {
                leaf.set(slot & (WIDTH - 1), chunk);
                weight += chunk.span.weight();
                span += chunk.span.len();
                end = chunk.end().max(end);
                slot += 1;
            }
            leaf.len = slot as u32;
            if slot < FILL {
                self.drop_spare_leaf();
                return (weight, span, end);
            }
            self.append_leaf();
        }
    }

    #[cold]
    fn append_leaf(&mut self) {
        let (last, new) = (self.tail as usize, self.leaves.len() as u32);
        self.make_room_for_leaf();
        // A copy of the last one, whose chunks are not its own: an empty one would be made elsewhere and moved here.
        self.leaves.extend_from_within(last..=last);
        self.leaves[last].next = new;
        let leaf = &mut self.leaves[new as usize];
        (leaf.len, leaf.prev, leaf.next) = (0, self.tail, NIL);
        self.tail = new;
    }

    /// Drops the last leaf of an open tree, if nothing came for it.
    fn drop_spare_leaf(&mut self) {
        let Leaf { len, prev, .. } = self.leaves[self.tail as usize];
        if len == 0 && prev != NIL {
            self.leaves.pop();
            self.leaves[prev as usize].next = NIL;
            self.tail = prev;
        }
    }

    /// Notes that all chunks of an open tree are known to have different ids.
    pub(super) const fn set_distinct(&mut self) {
        self.distinct = true;
    }

    /// Builds the inner nodes over what was appended. Whether ids occur twice is for the caller to
    /// [ask](Self::find_double).
    pub(super) fn seal(&mut self) {
        self.leaves[self.tail as usize].free_spare();
        self.build_inner();
    }

    /// An id that stands in more than one chunk of those that were appended.
    pub(super) fn find_double(&self) -> Option<Id> {
        if self.distinct { None } else { index::find_double(&self.leaves) }
    }

    /// How many chunks there are.
    pub(super) fn len(&self) -> usize {
        let (mut at, mut len) = (self.head, 0);
        while let Some(leaf) = self.leaves.get(at as usize) {
            len += leaf.len as usize;
            at = leaf.next;
        }
        len
    }

    /// All chunks in order.
    #[inline]
    pub(super) fn walk(&self) -> TreeWalk<'_> {
        TreeWalk { leaves: &self.leaves, leaf: &self.leaves[self.head as usize], rank: 0 }
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::build(&self.leaves))
    }

    /// Builds the inner nodes over the leaves, bottom up.
    fn build_inner(&mut self) {
        let mut level: Vec<(u32, u32)> =
            self.leaves.iter().zip(0..).map(|(leaf, at)| (at, leaf.weight())).collect();
        let mut low = true;
        loop {
            let mut above = Vec::with_capacity(level.len() / FILL + 1);
            for group in level.chunks(FILL) {
                let at = self.inner.len() as u32;
                let mut node = Inner::new(low);
                for &(child, weight) in group {
                    node.push(child, weight);
                    self.set_parent(low, child, at);
                }
                above.push((at, node.total()));
                self.inner.push(node);
            }
            level = above;
            low = false;
            if let [(root, _)] = level[..] {
                self.root = root;
                return;
            }
        }
    }

    fn set_parent(&mut self, low: bool, child: u32, parent: u32) {
        if low {
            self.leaves[child as usize].parent = parent;
        } else {
            self.inner[child as usize].parent = parent;
        }
    }

    /// Notes that a leaf has more or fewer visible elements.
    fn weigh(&mut self, leaf: u32, change: i32) {
        if self.pending.0 != leaf {
            self.settle();
            self.pending.0 = leaf;
            if self.near.is_some_and(|(near, _)| near != leaf) {
                self.near = None;
            }
        }
        self.pending.1 += change;
    }

    /// Writes the pending count up the tree.
    fn settle(&mut self) {
        let (leaf, change) = std::mem::replace(&mut self.pending, (NIL, 0));
        if change == 0 {
            return;
        }
        let (mut child, mut parent) = (leaf, self.leaves[leaf as usize].parent);
        while parent != NIL {
            let node = &mut self.inner[parent as usize];
            let slot = node.slot_of(child);
            node.weight[slot] = node.weight[slot].wrapping_add_signed(change);
            (child, parent) = (parent, node.parent);
        }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + self.leaves.capacity() * size_of::<Leaf>()
            + self.inner.capacity() * size_of::<Inner>()
            + self.index.get().map_or(0, Index::size_bytes)
    }
}

/// All chunks of a tree in order.
#[derive(Debug, Clone)]
pub(super) struct TreeWalk<'t> {
    leaves: &'t [Leaf],
    leaf: &'t Leaf,
    rank: usize,
}

impl TreeWalk<'_> {
    /// Whether the next chunk may go on with the last one.
    #[inline]
    pub(super) fn is_soft_next(&self) -> bool {
        let (mut leaf, mut rank) = (self.leaf, self.rank);
        while rank >= leaf.len as usize {
            let Some(next) = self.leaves.get(leaf.next as usize) else { return false };
            (leaf, rank) = (next, 0);
        }
        leaf.span[leaf.place(rank)].is_soft()
    }

    #[inline]
    pub(super) fn next(&mut self) -> Option<Chunk> {
        while self.rank >= self.leaf.len as usize {
            self.leaf = self.leaves.get(self.leaf.next as usize)?;
            self.rank = 0;
        }
        let chunk = self.leaf.get(self.leaf.place(self.rank));
        self.rank += 1;
        Some(chunk)
    }
}
