//! Finding chunks by id and by position, and changing them one by one.

use super::{
    super::{
        super::time_index::TimeIndex,
        Sids,
        chunk::{Chunk, Id},
        runs::{At, Runs},
    },
    Tree,
    floors::Floors,
    node::{Leaf, NIL, WIDTH},
};

impl Tree {
    /// The place of the visible element at `position` of a leaf before which `before` others stand.
    fn within(&self, leaf: u32, before: u32, position: u32) -> Option<(At, u32)> {
        let node = &self.leaves[leaf as usize];
        let mut left = position.checked_sub(before)?;
        for place in node.places(0..WIDTH) {
            let weight = node.span[place].weight();
            if left < weight {
                return Some((At { leaf, slot: place as u32 }, left));
            }
            left -= weight;
        }
        None
    }

    /// The first chunk of a leaf.
    fn first_of(&self, leaf: u32) -> Option<At> {
        let node = &self.leaves[leaf as usize];
        (node.len > 0).then(|| At { leaf, slot: node.place(0) as u32 })
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

impl Runs for Tree {
    fn first(&self) -> Option<At> {
        self.first_of(self.head)
    }

    fn next(&self, at: At) -> Option<At> {
        let leaf = &self.leaves[at.leaf as usize];
        if let Some(place) = leaf.behind(at.slot as usize) {
            return Some(At { slot: place as u32, ..at });
        }
        if leaf.next == NIL { None } else { self.first_of(leaf.next) }
    }

    fn prev(&self, at: At) -> Option<At> {
        let leaf = &self.leaves[at.leaf as usize];
        if let Some(place) = leaf.before(at.slot as usize) {
            return Some(At { slot: place as u32, ..at });
        }
        let last = self.leaves.get(leaf.prev as usize)?;
        let place = last.place((last.len as usize).checked_sub(1)?);
        Some(At { leaf: leaf.prev, slot: place as u32 })
    }

    fn get(&self, at: At) -> Chunk {
        self.leaves[at.leaf as usize].get(at.slot as usize)
    }

    #[inline]
    fn find(&mut self, id: Id) -> Option<At> {
        self.index();
        let author = self.index.get_mut()?.known_mut(id.session)?;
        let At { leaf, slot } = author.last;
        if let Some(node) = self.leaves.get(leaf as usize)
            && node.get(slot as usize).holds(id)
        {
            return Some(author.last);
        }
        let at = lookup(&self.leaves, &author.times, id)?;
        author.last = at;
        Some(at)
    }

    fn peek(&self, id: Id) -> Option<At> {
        lookup(&self.leaves, &self.index().known(id.session)?.times, id)
    }

    fn ceiling(&self, id: Id) -> Option<u64> {
        self.index().known(id.session)?.times.ceiling(id.time + 1)
    }

    fn is_fresh(&self, id: Id) -> bool {
        self.index().known(id.session).is_none_or(|author| author.end <= id.time)
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
        let start = self.first_of(short).map_or(0, |first| self.position(first));
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
        let places = node.places(0..node.rank(at.slot as usize));
        let mut before: u32 = places.map(|place| node.span[place].weight()).sum();
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
        let (mut leaf, mut rank) = match at {
            Some(at) => (at.leaf, self.leaves[at.leaf as usize].rank(at.slot as usize) + 1),
            None => (self.head, 0),
        };
        let Leaf { len, prev, .. } = self.leaves[leaf as usize];
        if len as usize == WIDTH && rank == 0 && prev == NIL {
            leaf = self.lead_leaf();
        } else if len as usize == WIDTH {
            let right = self.split_leaf(leaf, rank);
            let kept = self.leaves[leaf as usize].len as usize;
            if rank > kept || kept == WIDTH {
                if self.near.is_some_and(|(near, _)| near == leaf) {
                    self.near = None;
                }
                (leaf, rank) = (right, rank - kept);
            }
        }
        let place = self.leaves[leaf as usize].insert(rank, chunk);
        if let Some(floors) = &mut self.floors {
            floors.lower(leaf, chunk.time);
        }
        let at = At { leaf, slot: place as u32 };
        if let Some(index) = self.index.get_mut() {
            index.note(chunk, at);
        }
        self.weigh(leaf, chunk.span.weight() as i32);
        at
    }

    fn replace(&mut self, at: At, chunk: Chunk) {
        let leaf = &mut self.leaves[at.leaf as usize];
        let old = leaf.get(at.slot as usize);
        leaf.set(at.slot as usize, chunk);
        if chunk.time < old.time
            && let Some(floors) = &mut self.floors
        {
            floors.lower(at.leaf, chunk.time);
        }
        let change = chunk.span.weight() as i32 - old.span.weight() as i32;
        if let Some(index) = self.index.get_mut() {
            index.grown += change.max(0) as usize;
            let author = index.author(chunk.session);
            author.end = author.end.max(chunk.end());
            if chunk.time != old.time {
                author.times.shift(old.time, chunk.time, at.leaf);
            }
        }
        if change != 0 {
            self.weigh(at.leaf, change);
        }
    }

    fn remove(&mut self, at: At) {
        let leaf = &mut self.leaves[at.leaf as usize];
        let old = leaf.get(at.slot as usize);
        leaf.remove(at.slot as usize);
        let empty = leaf.len == 0;
        if let Some(index) = self.index.get_mut() {
            index.author(old.session).times.remove(old.time);
        }
        self.weigh(at.leaf, -(old.span.weight() as i32));
        if empty {
            self.drop_leaf(at.leaf);
        }
    }

    fn leap(&mut self, at: At, id: Id, sids: &impl Sids) -> At {
        if self.leaves[at.leaf as usize].behind(at.slot as usize).is_some() {
            return at;
        }
        let (leaves, head) = (&self.leaves, self.head);
        let floors = self.floors.get_or_insert_with(|| Box::new(Floors::of(leaves, head, sids)));
        let leaf = match floors.first_behind(at.leaf, (id.time, sids.sid(id.session))) {
            Some(next) => self.leaves[next as usize].prev,
            None => self.tail,
        };
        let last = &self.leaves[leaf as usize];
        match (last.len as usize).checked_sub(1) {
            Some(rank) if leaf != at.leaf => At { leaf, slot: last.place(rank) as u32 },
            _ => at,
        }
    }

    fn is_full(&self) -> bool {
        false
    }
}

/// The chunk that holds an id.
fn lookup(leaves: &[Leaf], times: &TimeIndex, id: Id) -> Option<At> {
    let (time, leaf) = times.floor(id.time)?;
    let node = &leaves[leaf as usize];
    let place = node.place_of(Id::new(id.session, time))?;
    node.get(place).holds(id).then_some(At { leaf, slot: place as u32 })
}
