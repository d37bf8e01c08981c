//! For who passes many larger chunks at once: the least id of each leaf, and of each two, four, … of them.
//!
//! Where many have inserted at one place, an insertion that comes late has to pass all that are larger. That is a few chunks
//! nearly always; but somebody who wants to can make it all that there are, again and again. So whoever has passed many
//! asks here. What is here is made then, lowered when a leaf gets something smaller, and dropped when leaves come or go.

use super::{
    super::Sids,
    node::{Leaf, NIL},
};

/// An id as it is compared: time and public session.
type Key = (u64, u64);

/// What is above every id.
const NONE: Key = (u64::MAX, u64::MAX);

#[derive(Debug, Clone)]
pub(super) struct Floors {
    /// Leaves in their order.
    order: Vec<u32>,
    /// For each leaf its place in the order.
    place: Vec<u32>,
    /// No id in a leaf is below its floor. The first of two children of `n` is `2n`; the leaves' own are the second half.
    floor: Vec<Key>,
}

impl Floors {
    pub(super) fn of(leaves: &[Leaf], head: u32, sids: &impl Sids) -> Self {
        let mut order = Vec::with_capacity(leaves.len());
        let mut place = vec![NIL; leaves.len()];
        let mut at = head;
        while let Some(leaf) = leaves.get(at as usize) {
            place[at as usize] = order.len() as u32;
            order.push(at);
            at = leaf.next;
        }
        let half = order.len().next_power_of_two();
        let mut floor = vec![NONE; 2 * half];
        for (&leaf, floor) in order.iter().zip(&mut floor[half..]) {
            let keys = leaves[leaf as usize].chunks().map(|chunk| (chunk.time, sids.sid(chunk.session)));
            *floor = keys.min().unwrap_or(NONE);
        }
        for node in (1..half).rev() {
            floor[node] = floor[2 * node].min(floor[2 * node + 1]);
        }
        Self { order, place, floor }
    }

    /// A leaf has got a chunk of a time.
    pub(super) fn lower(&mut self, leaf: u32, time: u64) {
        let mut node = self.floor.len() / 2 + self.place[leaf as usize] as usize;
        while node > 0 && self.floor[node] > (time, 0) {
            self.floor[node] = (time, 0);
            node /= 2;
        }
    }

    /// The first leaf behind one that may have an id that is not above another.
    pub(super) fn first_behind(&self, leaf: u32, id: Key) -> Option<u32> {
        let half = self.floor.len() / 2;
        let mut node = half + self.place[leaf as usize] as usize;
        // Up, until what is on the right of it may have one; then down to the first that may.
        loop {
            if node <= 1 {
                return None;
            }
            if node.is_multiple_of(2) && self.floor[node + 1] <= id {
                node += 1;
                break;
            }
            node /= 2;
        }
        while node < half {
            node = if self.floor[2 * node] <= id { 2 * node } else { 2 * node + 1 };
        }
        self.order.get(node - half).copied()
    }
}
