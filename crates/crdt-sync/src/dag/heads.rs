//! The end of a DAG: the nodes that no other node follows.

use std::collections::BTreeMap;

use crdt_core::SessionId;

use super::{LINKS_MAX, Link, NodeHash};
use crate::PatchRecord;

/// The nodes without a successor. Replicas with the same heads have the same nodes.
///
/// A session's patches follow each other, so it has one head at the most: a patch follows its session's previous one
/// even where it does not link to it, as those do not that were written before the group took to the DAG.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heads {
    of: BTreeMap<SessionId, (u64, NodeHash)>,
    digest: u64,
}

impl Heads {
    /// No nodes.
    pub const fn new() -> Self {
        Self { of: BTreeMap::new(), digest: 0 }
    }

    /// Puts a node on top of those that it follows. Nodes come after those that they follow. Returns the link that
    /// names another node at a head's place, if there is one: then two replicas have used one session.
    pub fn add(&mut self, record: &PatchRecord) -> Option<Link> {
        let mut forked = None;
        for link in &record.links {
            match self.of.get(&link.sid) {
                Some((last, hash)) if *last == link.last => {
                    if *hash != link.hash {
                        forked = Some(*link);
                    }
                    self.remove(link.sid);
                }
                _ => {}
            }
        }
        self.put(Link::to(record));
        forked
    }

    /// The heads, in the order of their sessions.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Link> {
        self.of.iter().map(|(sid, (last, hash))| Link { last: *last, sid: *sid, hash: *hash })
    }

    /// The latest heads, at most [`LINKS_MAX`], in the order of links: what the next node follows. The one of `own`,
    /// if there is one, is among them: a node's links lead to its session's previous one.
    pub fn latest(&self, own: SessionId) -> Box<[Link]> {
        let mut links: Vec<Link> = self.iter().collect();
        links.sort_unstable_by_key(|link| (link.sid == own, *link));
        links.drain(..links.len().saturating_sub(LINKS_MAX));
        links.sort_unstable();
        links.into()
    }

    /// The head of a session.
    pub fn get(&self, sid: SessionId) -> Option<Link> {
        self.of.get(&sid).map(|(last, hash)| Link { last: *last, sid, hash: *hash })
    }

    /// A number that stands for all heads.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether there is no node at all.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    fn put(&mut self, link: Link) {
        self.remove(link.sid);
        self.digest = self.digest.wrapping_add(link.hash.short());
        self.of.insert(link.sid, (link.last, link.hash));
    }

    fn remove(&mut self, sid: SessionId) {
        if let Some((_, hash)) = self.of.remove(&sid) {
            self.digest = self.digest.wrapping_sub(hash.short());
        }
    }
}

impl FromIterator<Link> for Heads {
    fn from_iter<I: IntoIterator<Item = Link>>(links: I) -> Self {
        let mut heads = Self::new();
        links.into_iter().for_each(|link| heads.put(link));
        heads
    }
}
