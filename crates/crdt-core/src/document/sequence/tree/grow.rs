//! Leaves and inner nodes come and go.

use super::{
    super::runs::At,
    Tree,
    node::{Inner, Leaf, NIL, WIDTH},
};

impl Tree {
    /// Splits a full leaf, the new one on the right; at the very end of all the new one is empty.
    pub(super) fn split_leaf(&mut self, leaf: u32, rank: usize) -> u32 {
        self.settle();
        self.floors = None;
        let at_end = rank == WIDTH && self.leaves[leaf as usize].next == NIL;
        let keep = if at_end { WIDTH } else { WIDTH / 2 };
        let old = &mut self.leaves[leaf as usize];
        let (parent, next) = (old.parent, old.next);
        let from: [usize; WIDTH] = std::array::from_fn(|rank| old.place(rank));
        let mut right = old.split_off(keep);
        (right.prev, right.next, right.parent) = (leaf, next, parent);
        let (moved, weight) = (right.len as usize, right.weight());
        let heads = right.head;

        let new = self.push_leaf(right);
        self.leaves[leaf as usize].next = new;
        match next {
            NIL => self.tail = new,
            next => self.leaves[next as usize].prev = new,
        }
        if let Some(index) = self.index.get_mut() {
            for ((head, &from), slot) in heads[..moved].iter().zip(&from[keep..]).zip(0..) {
                let author = index.author(head.session);
                author.times.insert(head.time, new);
                if author.last == (At { leaf, slot: from as u32 }) {
                    author.last = At { leaf: new, slot };
                }
            }
        }
        self.insert_child(parent, leaf, new, weight);
        new
    }

    /// Puts an empty leaf before all others, for who goes on inserting at the start: nothing moves then.
    pub(super) fn lead_leaf(&mut self) -> u32 {
        self.floors = None;
        let first = self.head;
        let parent = self.leaves[first as usize].parent;
        if self.inner[parent as usize].len as usize == WIDTH {
            // The left half stays where it is.
            self.split_inner(parent);
        }
        let mut leaf = Leaf::new();
        (leaf.next, leaf.parent) = (first, parent);
        let new = self.push_leaf(leaf);
        self.leaves[first as usize].prev = new;
        self.head = new;
        let node = &mut self.inner[parent as usize];
        let len = node.len as usize;
        node.child.copy_within(..len, 1);
        node.weight.copy_within(..len, 1);
        (node.child[0], node.weight[0]) = (new, 0);
        node.len += 1;
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

    /// Puts a leaf where one was freed, or behind all others.
    pub(super) fn push_leaf(&mut self, leaf: Leaf) -> u32 {
        if let Some(at) = self.free_leaves.pop() {
            self.leaves[at as usize] = leaf;
            return at;
        }
        self.make_room_for_leaf();
        self.leaves.push(leaf);
        self.leaves.len() as u32 - 1
    }

    /// Lets the list of leaves grow by small steps once it is long: by doubling, a text would keep up to twice the memory that
    /// it needs.
    pub(super) fn make_room_for_leaf(&mut self) {
        if self.leaves.len() == self.leaves.capacity() && self.leaves.len() >= 64 {
            self.leaves.reserve_exact(self.leaves.len() / 8 + 1);
        }
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
    pub(super) fn drop_leaf(&mut self, leaf: u32) {
        let Leaf { next, prev, parent, .. } = self.leaves[leaf as usize];
        if next == NIL && prev == NIL {
            return;
        }
        self.settle();
        self.floors = None;
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
}
