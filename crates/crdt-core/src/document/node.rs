//! Nodes: sixteen bytes each, and what hangs on them.

use std::sync::OnceLock;

use hashbrown::HashTable;

use super::sequence::{Id, Sequence};

/// No node.
pub(super) const NIL: u32 = u32::MAX;

/// What a node is, as everyone sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A constant.
    Con,
    /// A register: holds one node, the last one written.
    Val,
    /// A map from keys to nodes.
    Obj,
    /// A tuple of at most 256 nodes.
    Vec,
    /// Text.
    Str,
    /// Bytes.
    Bin,
    /// An array of nodes.
    Arr,
}

/// What a node is, in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// A constant whose value lies in the heap.
    Con,
    Val,
    Obj,
    Vec,
    Str,
    Bin,
    Arr,
    /// A constant that is a timestamp.
    ConId,
    /// A constant of at most three bytes, in the node.
    ConShort,
    /// A place for a node.
    Free,
}

impl Form {
    const ALL: [Self; 10] = [
        Self::Con,
        Self::Val,
        Self::Obj,
        Self::Vec,
        Self::Str,
        Self::Bin,
        Self::Arr,
        Self::ConId,
        Self::ConShort,
        Self::Free,
    ];

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Con | Self::ConId | Self::ConShort | Self::Free => Kind::Con,
            Self::Val => Kind::Val,
            Self::Obj => Kind::Obj,
            Self::Vec => Kind::Vec,
            Self::Str => Kind::Str,
            Self::Bin => Kind::Bin,
            Self::Arr => Kind::Arr,
        }
    }
}

const TIME_BITS: u32 = 53;
const DEAD: u64 = 1 << 63;
const LOST: u64 = 1 << 62;
const SESSION_BITS: u32 = 24;

/// A node. Its id, how often it is referred to, and the place of its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// Time, form, whether it has been removed while something still refers to it, and whether it came too late for
    /// its place.
    word: u64,
    /// Session, and in the high byte the count of references; a full byte counts no more.
    owner: u32,
    payload: [u8; 4],
}

impl Node {
    pub(super) const fn new(id: Id, form: Form, payload: u32) -> Self {
        Self { word: id.time | (form as u64) << TIME_BITS, owner: id.session, payload: payload.to_le_bytes() }
    }

    /// A constant of at most three bytes.
    pub(super) fn short(id: Id, bytes: &[u8]) -> Self {
        // A copy of a length that is not known calls for help; these are moves.
        let payload = match *bytes {
            [a] => [1, a, 0, 0],
            [a, b] => [2, a, b, 0],
            [a, b, c] => [3, a, b, c],
            _ => [0; 4],
        };
        Self { payload, ..Self::new(id, Form::ConShort, 0) }
    }

    /// The same constant so many ticks later, with other bytes: how many of the three behind, and these.
    #[inline]
    pub(super) const fn later(&self, ticks: u64, payload: [u8; 4]) -> Self {
        Self { word: self.word + ticks, payload, ..*self }
    }

    pub(super) const fn id(&self) -> Id {
        Id::new(self.owner & ((1 << SESSION_BITS) - 1), self.word & ((1 << TIME_BITS) - 1))
    }

    pub(super) const fn form(&self) -> Form {
        Form::ALL[(self.word >> TIME_BITS & 15) as usize]
    }

    pub(super) const fn is_dead(&self) -> bool {
        self.word & DEAD != 0
    }

    /// Whether it is a node of a kind that was made at a time, and is still there.
    #[inline]
    pub(super) const fn is(&self, time: u64, kind: Kind) -> bool {
        let form = match kind {
            Kind::Con => match self.form() {
                Form::ConId => Form::ConId,
                Form::ConShort => Form::ConShort,
                _ => Form::Con,
            },
            Kind::Val => Form::Val,
            Kind::Obj => Form::Obj,
            Kind::Vec => Form::Vec,
            Kind::Str => Form::Str,
            Kind::Bin => Form::Bin,
            Kind::Arr => Form::Arr,
        };
        self.word & !LOST == time | (form as u64) << TIME_BITS
    }

    /// The place of the session of its id.
    pub(super) const fn session(&self) -> u32 {
        self.owner & ((1 << SESSION_BITS) - 1)
    }

    pub(super) const fn kill(&mut self) {
        self.word |= DEAD;
    }

    /// Whether it came too late for its place, and nothing has referred to it since.
    pub(super) const fn is_lost(&self) -> bool {
        self.word & LOST != 0
    }

    pub(super) const fn lose(&mut self) {
        self.word |= LOST;
    }

    pub(super) const fn payload(&self) -> u32 {
        u32::from_le_bytes(self.payload)
    }

    pub(super) const fn set_payload(&mut self, payload: u32) {
        self.payload = payload.to_le_bytes();
    }

    /// The bytes of a short constant.
    pub(super) fn short_bytes(&self) -> &[u8] {
        &self.payload[1..=usize::from(self.payload[0])]
    }

    pub(super) const fn refs(&self) -> u8 {
        (self.owner >> SESSION_BITS) as u8
    }

    pub(super) const fn link(&mut self) {
        self.word &= !LOST;
        if self.refs() < u8::MAX {
            self.owner += 1 << SESSION_BITS;
        }
    }

    pub(super) const fn unlink(&mut self) {
        if self.refs() > 0 && self.refs() < u8::MAX {
            self.owner -= 1 << SESSION_BITS;
        }
    }

    /// The same references to new contents.
    pub(super) const fn keep_refs(&mut self, old: &Self) {
        self.owner |= old.owner & !((1 << SESSION_BITS) - 1);
    }
}

/// A key of a map and the node there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: u32,
    pub(super) node: u32,
}

/// A map's entries, in the order in which their keys were set first.
#[derive(Debug, Clone, Default)]
pub(super) struct Obj {
    pub(super) entries: Vec<Entry>,
    /// From keys to places in `entries`, made when a big map that is not in the order of its keys' numbers is asked for
    /// the first time. New keys get ascending numbers, so most maps are in order.
    index: OnceLock<Box<HashTable<u32>>>,
    unordered: bool,
}

impl Obj {
    /// So few entries are found by looking at each.
    const LISTED: usize = 16;

    const fn hash(key: u32) -> u64 {
        (key as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The place of a key's entry.
    pub(super) fn find(&self, key: u32) -> Option<usize> {
        if self.entries.len() <= Self::LISTED {
            return self.entries.iter().position(|entry| entry.key == key);
        }
        if !self.unordered {
            return self.entries.binary_search_by_key(&key, |entry| entry.key).ok();
        }
        let index = self.index.get_or_init(|| {
            let mut index = HashTable::with_capacity(self.entries.len());
            for (entry, at) in self.entries.iter().zip(0..) {
                index.insert_unique(Self::hash(entry.key), at, |_| 0);
            }
            Box::new(index)
        });
        let place = index.find(Self::hash(key), |&at| self.entries[at as usize].key == key)?;
        Some(*place as usize)
    }

    /// Adds an entry for a key that has none.
    pub(super) fn push(&mut self, entry: Entry) {
        let at = self.entries.len() as u32;
        self.unordered |= self.entries.last().is_some_and(|last| last.key > entry.key);
        self.entries.push(entry);
        let entries = &self.entries;
        if let Some(index) = self.index.get_mut() {
            index.insert_unique(Self::hash(entry.key), at, |&at| Self::hash(entries[at as usize].key));
        }
    }

    /// Whether each key is there once and is found, and is one of so many.
    pub(super) fn check(&self, keys: usize) -> Result<(), String> {
        for (place, entry) in self.entries.iter().enumerate() {
            if entry.key as usize >= keys {
                return Err(format!("key {} of {keys}", entry.key));
            }
            if self.find(entry.key) != Some(place) {
                return Err(format!("key {} is there twice or not found", entry.key));
            }
        }
        Ok(())
    }

    /// The keys have other numbers now, in the same order.
    pub(super) fn renumber(&mut self, numbers: &[u32]) {
        self.entries.iter_mut().for_each(|entry| entry.key = numbers[entry.key as usize]);
        self.index.take();
    }

    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.index.get().map_or(0, |index| index.allocation_size())
    }
}

/// Things that nodes refer to by number.
#[derive(Debug, Clone)]
pub(super) struct Slab<T> {
    pub(super) items: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }
}

impl<T: Default> Slab<T> {
    pub(super) fn add(&mut self) -> u32 {
        if let Some(at) = self.free.pop() {
            return at;
        }
        self.items.push(T::default());
        self.items.len() as u32 - 1
    }

    pub(super) fn take(&mut self, at: u32) -> T {
        self.free.push(at);
        std::mem::take(&mut self.items[at as usize])
    }

    /// Whether each thing is one of those that are used, given in any order, or free.
    pub(super) fn check(&self, mut used: Vec<u32>) -> Result<(), String> {
        used.extend(&self.free);
        used.sort_unstable();
        if used.iter().copied().eq(0..self.items.len() as u32) {
            Ok(())
        } else {
            Err(format!("{} things, not each of them used once or free", self.items.len()))
        }
    }

    pub(super) fn at(&self, at: u32) -> &T {
        &self.items[at as usize]
    }

    pub(super) fn at_mut(&mut self, at: u32) -> &mut T {
        &mut self.items[at as usize]
    }
}

/// What sequences of all three kinds are kept in.
pub(super) type Sequences = Slab<Sequence>;
