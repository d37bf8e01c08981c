//! Storage of a sequence of many chunks: a B-tree of run-length chunks with counts, and an index by id.
//!
//! Leaves hold 32 chunks as parallel arrays and know their parents and neighbours. Inner nodes hold for each child
//! how many visible elements it has. The count of the leaf that is being edited is written up the tree only when the
//! edits go elsewhere, so typing costs one addition.

use super::{
    super::time_index::TimeIndex,
    chunk::{Chunk, Id, Span},
    runs::{At, Runs},
};

/// Chunks per leaf and children per inner node.
const WIDTH: usize = 32;
/// How full loading and appending leave a node.
const FILL: usize = 24;
const NIL: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Leaf {
    time: [u64; WIDTH],
    session: [u32; WIDTH],
    span: [Span; WIDTH],
    offset: [u32; WIDTH],
    len: u32,
    parent: u32,
    next: u32,
    prev: u32,
}

impl Leaf {
    const fn new() -> Self {
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

    fn get(&self, slot: usize) -> Chunk {
        Chunk {
            time: self.time[slot],
            session: self.session[slot],
            span: self.span[slot],
            offset: self.offset[slot],
        }
    }

    fn set(&mut self, slot: usize, chunk: Chunk) {
        self.time[slot] = chunk.time;
        self.session[slot] = chunk.session;
        self.span[slot] = chunk.span;
        self.offset[slot] = chunk.offset;
    }

    fn insert(&mut self, slot: usize, chunk: Chunk) {
        let len = self.len as usize;
        self.time.copy_within(slot..len, slot + 1);
        self.session.copy_within(slot..len, slot + 1);
        self.span.copy_within(slot..len, slot + 1);
        self.offset.copy_within(slot..len, slot + 1);
        self.len += 1;
        self.set(slot, chunk);
    }

    fn remove(&mut self, slot: usize) {
        let len = self.len as usize;
        self.time.copy_within(slot + 1..len, slot);
        self.session.copy_within(slot + 1..len, slot);
        self.span.copy_within(slot + 1..len, slot);
        self.offset.copy_within(slot + 1..len, slot);
        self.len -= 1;
    }

    fn weight(&self) -> u32 {
        self.span[..self.len as usize].iter().map(|span| span.weight()).sum()
    }

    /// The slot of the chunk that starts with an id.
    fn slot_of(&self, id: Id) -> Option<usize> {
        let len = self.len as usize;
        (0..len).find(|&slot| self.time[slot] == id.time && self.session[slot] == id.session)
    }
}

#[derive(Debug, Clone)]
struct Inner {
    child: [u32; WIDTH],
    weight: [u32; WIDTH],
    len: u32,
    parent: u32,
    /// Whether the children are leaves.
    low: bool,
}

impl Inner {
    const fn new(low: bool) -> Self {
        Self { child: [NIL; WIDTH], weight: [0; WIDTH], len: 0, parent: NIL, low }
    }

    fn slot_of(&self, child: u32) -> usize {
        self.child.iter().position(|&c| c == child).expect("a parent knows its children")
    }

    fn total(&self) -> u32 {
        self.weight[..self.len as usize].iter().sum()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Tree {
    leaves: Vec<Leaf>,
    inner: Vec<Inner>,
    root: u32,
    head: u32,
    tail: u32,
    /// Leaves that were emptied and can be used again.
    free_leaves: Vec<u32>,
    free_inner: Vec<u32>,
    /// By session: from the time of a chunk's first id to the chunk's leaf.
    index: Vec<Option<Box<TimeIndex>>>,
    /// The leaf whose count the inner nodes do not have yet, and by how much they are short.
    pending: (u32, i32),
    /// A leaf and how many visible elements stand before it.
    near: Option<(u32, u32)>,
    /// The chunk that was found last by id, if it still stands there.
    last_found: At,
    /// Elements that were added to chunks without the index hearing of it.
    grown: usize,
}

impl Tree {
    pub(super) fn from_chunks(chunks: impl IntoIterator<Item = Chunk>) -> Self {
        let mut tree = Self {
            leaves: vec![Leaf::new()],
            inner: Vec::new(),
            root: NIL,
            head: 0,
            tail: 0,
            free_leaves: Vec::new(),
            free_inner: Vec::new(),
            index: Vec::new(),
            pending: (NIL, 0),
            near: None,
            last_found: At { leaf: 0, slot: 0 },
            grown: 0,
        };
        for chunk in chunks {
            let mut leaf = tree.leaves.len() - 1;
            if tree.leaves[leaf].len as usize == FILL {
                let mut next = Leaf::new();
                next.prev = leaf as u32;
                leaf += 1;
                tree.leaves[leaf - 1].next = leaf as u32;
                tree.leaves.push(next);
            }
            let slot = tree.leaves[leaf].len as usize;
            tree.leaves[leaf].set(slot, chunk);
            tree.leaves[leaf].len += 1;
            tree.note(chunk, leaf as u32);
        }
        tree.tail = tree.leaves.len() as u32 - 1;
        tree.build_inner();
        tree
    }

    /// Builds the inner nodes over the leaves, bottom up.
    fn build_inner(&mut self) {
        let mut level: Vec<(u32, u32)> =
            self.leaves.iter().enumerate().map(|(i, leaf)| (i as u32, leaf.weight())).collect();
        let mut low = true;
        loop {
            let mut above = Vec::with_capacity(level.len() / FILL + 1);
            for group in level.chunks(FILL) {
                let at = self.inner.len() as u32;
                let mut node = Inner::new(low);
                for &(child, weight) in group {
                    node.child[node.len as usize] = child;
                    node.weight[node.len as usize] = weight;
                    node.len += 1;
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

    fn times(&mut self, session: u32) -> &mut TimeIndex {
        let session = session as usize;
        if self.index.len() <= session {
            self.index.resize_with(session + 1, || None);
        }
        self.index[session].get_or_insert_default()
    }

    /// Enters a new chunk into the index by id.
    fn note(&mut self, chunk: Chunk, leaf: u32) {
        let units = std::mem::take(&mut self.grown) + chunk.span.weight() as usize;
        let times = self.times(chunk.session);
        times.allow(units);
        times.insert(chunk.time, leaf);
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

    /// Splits a full leaf, the new one on the right; at the very end of all the new one is empty.
    fn split_leaf(&mut self, leaf: u32, slot: usize) -> u32 {
        self.settle();
        let at_end = slot == WIDTH && self.leaves[leaf as usize].next == NIL;
        let keep = if at_end { WIDTH } else { WIDTH / 2 };
        let old = &mut self.leaves[leaf as usize];
        let moved = WIDTH - keep;
        let mut right = Leaf::new();
        right.time[..moved].copy_from_slice(&old.time[keep..]);
        right.session[..moved].copy_from_slice(&old.session[keep..]);
        right.span[..moved].copy_from_slice(&old.span[keep..]);
        right.offset[..moved].copy_from_slice(&old.offset[keep..]);
        right.len = moved as u32;
        right.prev = leaf;
        right.next = old.next;
        right.parent = old.parent;
        old.len = keep as u32;
        let (parent, next) = (old.parent, old.next);
        let weight = right.weight();
        let ids: [Id; WIDTH] = std::array::from_fn(|i| Id::new(right.session[i], right.time[i]));

        let new = match self.free_leaves.pop() {
            Some(new) => {
                self.leaves[new as usize] = right;
                new
            }
            None => {
                self.leaves.push(right);
                self.leaves.len() as u32 - 1
            }
        };
        self.leaves[leaf as usize].next = new;
        match next {
            NIL => self.tail = new,
            next => self.leaves[next as usize].prev = new,
        }
        for id in &ids[..moved] {
            self.times(id.session).insert(id.time, new);
        }
        self.insert_child(parent, leaf, new, weight);
        new
    }

    /// Puts a child beside another one from which it took `weight` visible elements.
    fn insert_child(&mut self, parent: u32, left: u32, new: u32, weight: u32) {
        let mut parent = parent;
        if self.inner[parent as usize].len as usize == WIDTH {
            let right = self.split_inner(parent);
            if !self.inner[parent as usize].child[..WIDTH / 2].contains(&left) {
                parent = right;
            }
        }
        let node = &mut self.inner[parent as usize];
        let (slot, len) = (node.slot_of(left), node.len as usize);
        node.child.copy_within(slot + 1..len, slot + 2);
        node.weight.copy_within(slot + 1..len, slot + 2);
        node.child[slot + 1] = new;
        node.weight[slot + 1] = weight;
        node.weight[slot] -= weight;
        node.len += 1;
        let low = node.low;
        self.set_parent(low, new, parent);
    }

    fn split_inner(&mut self, node: u32) -> u32 {
        let old = &mut self.inner[node as usize];
        let half = WIDTH / 2;
        let mut right = Inner::new(old.low);
        right.child[..half].copy_from_slice(&old.child[half..]);
        right.weight[..half].copy_from_slice(&old.weight[half..]);
        right.len = half as u32;
        right.parent = old.parent;
        old.child[half..].fill(NIL);
        old.len = half as u32;
        let (low, parent, weight) = (old.low, old.parent, right.total());
        let left_weight = old.total();
        let children = right.child;
        let new = self.push_inner(right);
        for &child in &children[..half] {
            self.set_parent(low, child, new);
        }
        if parent == NIL {
            let mut root = Inner::new(false);
            root.child[..2].copy_from_slice(&[node, new]);
            root.weight[..2].copy_from_slice(&[left_weight, weight]);
            root.len = 2;
            let root = self.push_inner(root);
            self.root = root;
            self.inner[node as usize].parent = root;
            self.inner[new as usize].parent = root;
        } else {
            self.insert_child(parent, node, new, weight);
        }
        new
    }

    fn push_inner(&mut self, node: Inner) -> u32 {
        if let Some(at) = self.free_inner.pop() {
            self.inner[at as usize] = node;
            return at;
        }
        self.inner.push(node);
        self.inner.len() as u32 - 1
    }

    /// Takes an empty leaf out of the tree, and the inner nodes that become empty with it. The last leaf stays.
    fn drop_leaf(&mut self, leaf: u32) {
        let Leaf { next, prev, parent, .. } = self.leaves[leaf as usize];
        if next == NIL && prev == NIL {
            return;
        }
        self.settle();
        self.near = None;
        match prev {
            NIL => self.head = next,
            prev => self.leaves[prev as usize].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => self.leaves[next as usize].prev = prev,
        }
        self.free_leaves.push(leaf);
        let (mut child, mut parent) = (leaf, parent);
        while parent != NIL {
            let node = &mut self.inner[parent as usize];
            let (slot, len) = (node.slot_of(child), node.len as usize);
            node.child.copy_within(slot + 1..len, slot);
            node.weight.copy_within(slot + 1..len, slot);
            node.child[len - 1] = NIL;
            node.len -= 1;
            if node.len > 0 {
                return;
            }
            self.free_inner.push(parent);
            (child, parent) = (parent, node.parent);
        }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + self.leaves.capacity() * size_of::<Leaf>()
            + self.inner.capacity() * size_of::<Inner>()
            + self.index.capacity() * 8
            + self
                .index
                .iter()
                .flatten()
                .map(|times| size_of::<TimeIndex>() + times.size_bytes())
                .sum::<usize>()
    }

    /// Checks every count, link and index entry; says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let ensure = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        let (mut leaf, mut prev, mut chunks) = (self.head, NIL, 0);
        while leaf != NIL {
            let node = &self.leaves[leaf as usize];
            ensure(node.prev == prev, "leaf does not know its left neighbour")?;
            ensure(node.len > 0 || self.head == self.tail, "an empty leaf stands in the tree")?;
            let parent = &self.inner[node.parent as usize];
            let slot = parent.slot_of(leaf);
            let short = if self.pending.0 == leaf { self.pending.1 } else { 0 };
            ensure(
                parent.low && parent.weight[slot].wrapping_add_signed(short) == node.weight(),
                "leaf's count is wrong",
            )?;
            for slot in 0..node.len as usize {
                let id = node.get(slot).id();
                let at = self.index.get(id.session as usize).and_then(|times| times.as_ref()?.get(id.time));
                ensure(at == Some(leaf), "chunk is not in the index")?;
            }
            chunks += node.len as usize;
            (prev, leaf) = (leaf, node.next);
        }
        ensure(prev == self.tail, "tail is not the last leaf")?;
        let indexed: usize = self.index.iter().flatten().map(|times| times.iter().count()).sum();
        ensure(indexed == chunks, "index has entries without a chunk")?;
        for (at, node) in self.inner.iter().enumerate() {
            if self.free_inner.contains(&(at as u32)) || node.parent == NIL {
                continue;
            }
            let parent = &self.inner[node.parent as usize];
            ensure(parent.weight[parent.slot_of(at as u32)] == node.total(), "inner count is wrong")?;
        }
        if let Some((leaf, before)) = self.near {
            ensure(self.position(At { leaf, slot: 0 }) == before, "remembered position is wrong")?;
        }
        Ok(())
    }

    /// The place of the visible element at `position` of a leaf before which `before` others stand.
    fn within(&self, leaf: u32, before: u32, position: u32) -> Option<(At, u32)> {
        let node = &self.leaves[leaf as usize];
        let mut left = position.checked_sub(before)?;
        for (slot, span) in node.span[..node.len as usize].iter().enumerate() {
            let weight = span.weight();
            if left < weight {
                return Some((At { leaf, slot: slot as u32 }, left));
            }
            left -= weight;
        }
        None
    }

    /// The leaf with the visible element at a position, and how many stand before it. Counts must be settled.
    fn descend(&self, position: u32) -> (u32, u32) {
        let (mut node, mut before) = (&self.inner[self.root as usize], 0);
        loop {
            let (mut slot, last) = (0, node.len as usize - 1);
            while slot < last && position - before >= node.weight[slot] {
                before += node.weight[slot];
                slot += 1;
            }
            if node.low {
                return (node.child[slot], before);
            }
            node = &self.inner[node.child[slot] as usize];
        }
    }
}

impl Tree {
    /// Makes a live chunk longer by elements whose content follows its own, if that is so: `tail` is where new narrow
    /// content goes, `id` the first new id.
    #[inline]
    pub(super) fn extend(&mut self, at: At, id: Id, units: u32, tail: u32) -> bool {
        let slot = at.slot as usize;
        let leaf = &mut self.leaves[at.leaf as usize];
        let span = leaf.span[slot];
        let end = leaf.time[slot] + u64::from(span.len());
        let fits = !span.is_dead() && !span.is_wide() && leaf.offset[slot] + span.len() == tail;
        if !fits || end != id.time || leaf.session[slot] != id.session {
            return false;
        }
        leaf.span[slot] = span.with_len(span.len() + units);
        self.grown += units as usize;
        if self.pending.0 == at.leaf {
            self.pending.1 += units as i32;
        } else {
            self.weigh(at.leaf, units as i32);
        }
        true
    }

    /// [`extend`](Self::extend) for the chunk that was found last.
    #[inline]
    pub(super) fn extend_found(&mut self, id: Id, units: u32, tail: u32) -> bool {
        let At { leaf, slot } = self.last_found;
        let stands = self.leaves.get(leaf as usize).is_some_and(|node| slot < node.len);
        stands && self.extend(self.last_found, id, units, tail)
    }

    /// Gives the last `len` elements of a live chunk to the tombstone on its right in the same leaf, if the two have
    /// consecutive ids and the chunk keeps some. Returns what the chunk was.
    #[inline]
    pub(super) fn shrink(&mut self, at: At, len: u32) -> Option<Chunk> {
        let slot = at.slot as usize;
        let leaf = &mut self.leaves[at.leaf as usize];
        if slot + 1 >= leaf.len as usize {
            return None;
        }
        let (span, next) = (leaf.span[slot], leaf.span[slot + 1]);
        let end = leaf.time[slot] + u64::from(span.len());
        if span.is_dead()
            || span.len() <= len
            || !next.is_dead()
            || leaf.session[slot] != leaf.session[slot + 1]
            || leaf.time[slot + 1] != end
        {
            return None;
        }
        let chunk = leaf.get(slot);
        leaf.span[slot] = span.with_len(span.len() - len);
        leaf.span[slot + 1] = next.with_len(next.len() + len);
        let start = end - u64::from(len);
        leaf.time[slot + 1] = start;
        self.times(chunk.session).shift(end, start, at.leaf);
        if self.pending.0 == at.leaf {
            self.pending.1 -= len as i32;
        } else {
            self.weigh(at.leaf, -(len as i32));
        }
        Some(chunk)
    }

    /// [`shrink`](Self::shrink) for the chunk that was found last, if its last `len` elements start with an id.
    #[inline]
    pub(super) fn shrink_found(&mut self, id: Id, len: u32) -> Option<Chunk> {
        let At { leaf, slot } = self.last_found;
        let node = self.leaves.get(leaf as usize)?;
        let slot = slot as usize;
        let ends = slot < node.len as usize
            && node.session[slot] == id.session
            && node.time[slot] + u64::from(node.span[slot].len()) == id.time + u64::from(len);
        if ends { self.shrink(self.last_found, len) } else { None }
    }
}

impl Runs for Tree {
    fn first(&self) -> Option<At> {
        (self.leaves[self.head as usize].len > 0).then_some(At { leaf: self.head, slot: 0 })
    }

    fn last(&self) -> Option<At> {
        Some(At { leaf: self.tail, slot: self.leaves[self.tail as usize].len.checked_sub(1)? })
    }

    fn next(&self, at: At) -> Option<At> {
        let leaf = &self.leaves[at.leaf as usize];
        if at.slot + 1 < leaf.len {
            return Some(At { slot: at.slot + 1, ..at });
        }
        (leaf.next != NIL).then_some(At { leaf: leaf.next, slot: 0 })
    }

    fn prev(&self, at: At) -> Option<At> {
        if let Some(slot) = at.slot.checked_sub(1) {
            return Some(At { slot, ..at });
        }
        let leaf = self.leaves[at.leaf as usize].prev;
        (leaf != NIL).then(|| At { leaf, slot: self.leaves[leaf as usize].len - 1 })
    }

    fn get(&self, at: At) -> Chunk {
        self.leaves[at.leaf as usize].get(at.slot as usize)
    }

    fn find(&mut self, id: Id) -> Option<At> {
        let At { leaf, slot } = self.last_found;
        if let Some(node) = self.leaves.get(leaf as usize)
            && slot < node.len
            && node.get(slot as usize).holds(id)
        {
            return Some(self.last_found);
        }
        let at = self.peek(id)?;
        self.last_found = at;
        Some(at)
    }

    fn peek(&self, id: Id) -> Option<At> {
        let (time, leaf) = self.index.get(id.session as usize)?.as_ref()?.floor(id.time)?;
        let slot = self.leaves[leaf as usize].slot_of(Id::new(id.session, time))?;
        let at = At { leaf, slot: slot as u32 };
        self.get(at).holds(id).then_some(at)
    }

    fn ceiling(&self, id: Id) -> Option<u64> {
        self.index.get(id.session as usize)?.as_ref()?.ceiling(id.time + 1)
    }

    fn seek(&mut self, position: u32) -> Option<(At, u32)> {
        if let Some((leaf, before)) = self.near
            && let Some(found) = self.within(leaf, before, position)
        {
            return Some(found);
        }
        self.settle();
        let (leaf, before) = self.descend(position);
        self.near = Some((leaf, before));
        self.within(leaf, before, position)
    }

    fn peek_position(&self, position: u32) -> Option<(At, u32)> {
        // The pending count may send the descent into a neighbour; a walk along the leaves mends that.
        if self.pending.1 == 0 {
            let (leaf, before) = self.descend(position);
            return self.within(leaf, before, position);
        }
        let short = self.pending.0;
        let start = self.position(At { leaf: short, slot: 0 });
        if position < start {
            let (leaf, before) = self.descend(position);
            return self.within(leaf, before, position);
        }
        let weight = self.leaves[short as usize].weight();
        if position < start + weight {
            return self.within(short, start, position);
        }
        let shifted = position.wrapping_add_signed(-self.pending.1);
        let (leaf, before) = self.descend(shifted);
        self.within(leaf, before, shifted)
    }

    fn position(&self, at: At) -> u32 {
        let node = &self.leaves[at.leaf as usize];
        let mut before: u32 = node.span[..at.slot as usize].iter().map(|span| span.weight()).sum();
        let (mut child, mut parent) = (at.leaf, node.parent);
        // Where the leaf with the pending count hangs, level by level, to correct the counts on the left.
        let mut short =
            (self.pending.1 != 0).then(|| (self.pending.0, self.leaves[self.pending.0 as usize].parent));
        while parent != NIL {
            let node = &self.inner[parent as usize];
            let slot = node.slot_of(child);
            before += node.weight[..slot].iter().sum::<u32>();
            if let Some((short_child, short_parent)) = short {
                if short_parent == parent && node.slot_of(short_child) < slot {
                    before = before.wrapping_add_signed(self.pending.1);
                }
                short = Some((short_parent, self.inner[short_parent as usize].parent))
                    .filter(|_| short_parent != parent);
            }
            (child, parent) = (parent, node.parent);
        }
        before
    }

    fn insert_after(&mut self, at: Option<At>, chunk: Chunk) -> At {
        let (mut leaf, mut slot) = match at {
            Some(at) => (at.leaf, at.slot as usize + 1),
            None => (self.head, 0),
        };
        if self.leaves[leaf as usize].len as usize == WIDTH {
            let right = self.split_leaf(leaf, slot);
            let kept = self.leaves[leaf as usize].len as usize;
            if slot > kept || kept == WIDTH {
                if self.near.is_some_and(|(near, _)| near == leaf) {
                    self.near = None;
                }
                (leaf, slot) = (right, slot - kept);
            }
        }
        self.leaves[leaf as usize].insert(slot, chunk);
        self.note(chunk, leaf);
        self.weigh(leaf, chunk.span.weight() as i32);
        let at = At { leaf, slot: slot as u32 };
        self.last_found = at;
        at
    }

    fn replace(&mut self, at: At, chunk: Chunk) {
        let leaf = &mut self.leaves[at.leaf as usize];
        let old = leaf.get(at.slot as usize);
        leaf.set(at.slot as usize, chunk);
        let change = chunk.span.weight() as i32 - old.span.weight() as i32;
        if chunk.time != old.time {
            self.times(chunk.session).shift(old.time, chunk.time, at.leaf);
        }
        self.grown += change.max(0) as usize;
        if change != 0 {
            self.weigh(at.leaf, change);
        }
    }

    fn remove(&mut self, at: At) {
        let leaf = &mut self.leaves[at.leaf as usize];
        let old = leaf.get(at.slot as usize);
        leaf.remove(at.slot as usize);
        let empty = leaf.len == 0;
        self.times(old.session).remove(old.time);
        self.weigh(at.leaf, -(old.span.weight() as i32));
        if empty {
            self.drop_leaf(at.leaf);
        }
    }

    fn is_full(&self) -> bool {
        false
    }
}
