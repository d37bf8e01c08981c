//! The keys of a document's maps, each once.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Every key that occurs in a document, numbered.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends; it starts where the one before ends.
    ends: Vec<u32>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Keys {
    /// A key's bytes, which are WTF-8.
    pub(super) fn get(&self, key: u32) -> &[u8] {
        key_at(&self.bytes, &self.ends, key)
    }

    /// The number of a key, if it occurs.
    pub(super) fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |&at| self.get(at) == key).copied()
    }

    /// The number of a key, a new one if need be.
    pub(super) fn enter(&mut self, key: &[u8]) -> u32 {
        let Self { bytes, ends, table, hasher } = self;
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
