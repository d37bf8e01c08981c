//! The keys of a document's maps, each once. Those that no map has any more are dropped now and then.

use std::{cmp::Ordering, hash::BuildHasher};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Every key that occurs in a document, or did not long ago, numbered.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends; it starts where the one before ends.
    ends: Vec<u32>,
    /// From a key to its number. Made when a key is added to those that a snapshot brought.
    table: HashTable<u32>,
    /// Whether there is no table, and the keys are sorted instead.
    sorted: bool,
    hasher: DefaultHashBuilder,
    /// With so much and [`DEAD_FREE`] more it is worth looking for keys that no map has any more.
    enough: usize,
    /// How often keys got other numbers.
    moves: u32,
}

/// So much of dead keys is not worth looking for.
const DEAD_FREE: usize = 64 * 1024;

impl Keys {
    /// A key's bytes, which are WTF-8.
    pub(super) fn get(&self, key: u32) -> &[u8] {
        key_at(&self.bytes, &self.ends, key)
    }

    /// Keys that are sorted, each there once.
    pub(super) fn sorted(bytes: Vec<u8>, ends: Vec<u32>) -> Self {
        let mut keys = Self { bytes, ends, sorted: true, ..Self::default() };
        keys.are_alive();
        keys
    }

    /// Notes that maps have all keys that there are.
    fn are_alive(&mut self) {
        self.enough = 2 * self.weight();
    }

    fn weight(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ends)
    }

    /// Whether there are so many more keys than at the last look that it is worth looking which ones a map has.
    #[inline]
    pub(super) fn may_be_dead(&self) -> bool {
        self.weight() > self.enough + DEAD_FREE
    }

    /// Drops the keys that no map has, if they are many. Tells the new numbers of the others, which are in the same order.
    /// To find out which maps have which took so many steps: the next time is when as much has come.
    pub(super) fn keep(&mut self, has: impl Fn(u32) -> bool, steps: usize) -> Option<Vec<u32>> {
        let mut kept = Self { sorted: self.sorted, moves: self.moves.wrapping_add(1), ..Self::default() };
        let mut numbers = Vec::with_capacity(self.len());
        for key in 0..self.len() as u32 {
            numbers.push(kept.ends.len() as u32);
            if has(key) {
                kept.bytes.extend_from_slice(self.get(key));
                kept.ends.push(kept.bytes.len() as u32);
            }
        }
        let is_worth_it = kept.weight() <= self.weight() / 4 * 3;
        if is_worth_it {
            if !kept.sorted {
                kept.make_table();
            }
            kept.fit();
            *self = kept;
        }
        self.are_alive();
        self.enough += steps;
        is_worth_it.then_some(numbers)
    }

    /// How often keys got other numbers: who keeps numbers looks whether it is as often still.
    pub(super) const fn moves(&self) -> u32 {
        self.moves
    }

    fn bisect(&self, key: &[u8]) -> Option<u32> {
        let numbers = self.ends.len() as u32;
        let (mut low, mut high) = (0, numbers);
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Some(middle),
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The number of a key, if it occurs.
    pub(super) fn find(&self, key: &[u8]) -> Option<u32> {
        if self.sorted {
            return self.bisect(key);
        }
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |&at| self.get(at) == key).copied()
    }

    /// The number of a key, a new one if need be.
    pub(super) fn enter(&mut self, key: &[u8]) -> u32 {
        if self.sorted {
            if let Some(number) = self.bisect(key) {
                return number;
            }
            self.make_table();
        }
        let Self { bytes, ends, table, hasher, .. } = self;
        let hash = hasher.hash_one(key);
        let entry = table.entry(
            hash,
            |&at| key_at(bytes, ends, at) == key,
            |&at| hasher.hash_one(key_at(bytes, ends, at)),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(entry) => *entry.get(),
            hashbrown::hash_table::Entry::Vacant(entry) => {
                let at = ends.len() as u32;
                entry.insert(at);
                bytes.extend_from_slice(key);
                ends.push(bytes.len() as u32);
                at
            }
        }
    }

    /// Makes room for so many new keys.
    pub(super) fn reserve(&mut self, more: usize) {
        if self.sorted {
            self.make_table();
        }
        let Self { bytes, ends, table, hasher, .. } = self;
        table.reserve(more, |&at| hasher.hash_one(key_at(bytes, ends, at)));
        ends.reserve(more);
    }

    /// Gives back room that growing left over.
    pub(super) fn fit(&mut self) {
        if self.bytes.capacity() - self.bytes.len() > self.bytes.len() / 8 + 64 {
            self.bytes.shrink_to_fit();
            self.ends.shrink_to_fit();
        }
        self.are_alive();
    }

    fn make_table(&mut self) {
        let Self { bytes, ends, table, hasher, sorted, .. } = self;
        let hash = |at: u32| hasher.hash_one(key_at(bytes, ends, at));
        table.reserve(ends.len() + 1, |&at| hash(at));
        for at in 0..ends.len() as u32 {
            table.insert_unique(hash(at), at, |&at| hash(at));
        }
        *sorted = false;
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * 4 + self.table.allocation_size()
    }

    /// Whether each key is there once and is found.
    pub(super) fn check(&self) -> Result<(), String> {
        let is_ordered = self.ends.windows(2).all(|ends| ends[0] <= ends[1]);
        if !is_ordered || self.ends.last().map_or(0, |&end| end as usize) != self.bytes.len() {
            return Err("the ends of keys are not where keys end".to_owned());
        }
        if !self.sorted && self.table.len() != self.len() {
            return Err(format!("{} keys, {} of them in the table", self.len(), self.table.len()));
        }
        match (0..self.len() as u32).find(|&key| self.find(self.get(key)) != Some(key)) {
            Some(lost) => Err(format!("key {lost} is not found by its name")),
            None => Ok(()),
        }
    }

    /// How many keys there are.
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all keys together.
    pub(super) const fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

fn key_at<'a>(bytes: &'a [u8], ends: &[u32], key: u32) -> &'a [u8] {
    let key = key as usize;
    let start = if key == 0 { 0 } else { ends[key - 1] as usize };
    &bytes[start..ends[key] as usize]
}
