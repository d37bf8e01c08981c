//! The keys of a document's maps, each once.

use std::{cmp::Ordering, hash::BuildHasher};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Every key that occurs in a document, numbered.
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
}

impl Keys {
    /// A key's bytes, which are WTF-8.
    pub(super) fn get(&self, key: u32) -> &[u8] {
        key_at(&self.bytes, &self.ends, key)
    }

    /// Keys that are sorted, each there once.
    pub(super) fn sorted(bytes: Vec<u8>, ends: Vec<u32>) -> Self {
        Self { bytes, ends, sorted: true, ..Self::default() }
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
    }

    fn make_table(&mut self) {
        let Self { bytes, ends, table, hasher, sorted } = self;
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
