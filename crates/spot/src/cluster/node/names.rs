//! Topics by their names, which are kept once: with the topics.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use slab::Slab;

use super::{Node, TopicId, TopicState};

/// Looked at for each message that is published. Seeded, because names come from peers.
#[derive(Debug, Default)]
pub(super) struct Names {
    table: HashTable<u32>,
    seed: foldhash::fast::RandomState,
}

impl Names {
    #[inline]
    pub(super) fn get(&self, topics: &Slab<TopicState>, name: &str) -> Option<TopicId> {
        let is_it = |id: &u32| topics.get(*id as usize).is_some_and(|topic| topic.name.as_str() == name);
        self.table.find(self.seed.hash_one(name), is_it).map(|id| *id as usize)
    }

    /// Enters a topic that is not in it yet.
    pub(super) fn insert(&mut self, topics: &Slab<TopicState>, id: TopicId) {
        let hash = |id: &u32| self.seed.hash_one(topics[*id as usize].name.as_str());
        let id = id as u32;
        self.table.insert_unique(hash(&id), id, hash);
    }

    pub(super) fn remove(&mut self, id: TopicId, name: &str) {
        if let Ok(entry) = self.table.find_entry(self.seed.hash_one(name), |other| *other as usize == id) {
            entry.remove();
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = TopicId> {
        self.table.iter().map(|id| *id as usize)
    }
}

impl Node {
    /// The topic of this name that has an owner, or is waited for.
    #[inline]
    pub(super) fn named(&self, name: &str) -> Option<TopicId> {
        self.names.get(&self.topics, name)
    }

    /// The stream without an owner of this name.
    #[inline]
    pub(super) fn open_named(&self, name: &str) -> Option<TopicId> {
        self.open_names.get(&self.topics, name)
    }
}
