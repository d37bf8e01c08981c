//! How damaged and missing nodes are found.

use std::collections::{BTreeMap, BTreeSet};

use crdt_core::SessionId;

use super::{Link, NodeHash};
use crate::{PatchRecord, PatchStoreError, Want, store::PatchPage};

/// A look at all stored nodes, from the heads towards the beginning, latest first: each has to have the hash that a link
/// names. A store's own checksums say that bytes are as they were written; this says that they are the right ones, and that
/// none is gone.
///
/// Like a [`Walk`](super::Walk) it reads nothing itself. It remembers which nodes it has yet to see and no more.
#[derive(Debug, Default)]
pub struct Damage {
    /// Seen from a child, and not read yet. No hash where a session's previous patch was written before the group took to
    /// the DAG: then it only has to be there.
    frontier: BTreeMap<(u64, SessionId), Option<NodeHash>>,
    found: BTreeSet<Link>,
    seen: u64,
}

impl Damage {
    /// Begins at heads, or at what a node links to that was put back.
    pub fn new(heads: impl IntoIterator<Item = Link>) -> Self {
        let frontier = heads.into_iter().map(|link| ((link.last, link.sid), Some(link.hash))).collect();
        Self { frontier, ..Self::default() }
    }

    /// The patch to read next; `None` at the end.
    pub fn next_read(&self) -> Option<Want> {
        let ((last, sid), _) = self.frontier.last_key_value()?;
        Some(Want { sid: *sid, after: last.saturating_sub(1), upto: *last })
    }

    /// Takes what the store has there, or that it can't be read. A failure that may pass is no damage: it is returned.
    ///
    /// # Errors
    /// What the store answered.
    pub fn read(&mut self, page: Result<PatchPage, PatchStoreError>) -> Result<(), PatchStoreError> {
        let Some(((last, sid), hash)) = self.frontier.last_key_value().map(|(place, hash)| (*place, *hash))
        else {
            return Ok(());
        };
        let record = match page {
            Ok(PatchPage::Records(mut records)) => records.pop().filter(|record| record.last() == last),
            // What is folded is in one piece, with its own checksum.
            Ok(PatchPage::Compacted) => {
                self.frontier.remove(&(last, sid));
                return Ok(());
            }
            Err(PatchStoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        self.frontier.remove(&(last, sid));
        self.seen += 1;
        match (record, hash) {
            (Some(record), Some(hash)) if NodeHash::of(&record) != hash => {
                self.found.insert(Link { last, sid, hash });
            }
            (Some(record), _) => self.follow(&record),
            (None, Some(hash)) => {
                self.found.insert(Link { last, sid, hash });
            }
            // Nobody can say what it was: the embedded store's `salvage` is for that.
            (None, None) => {}
        }
        Ok(())
    }

    fn follow(&mut self, record: &PatchRecord) {
        for link in &record.links {
            self.frontier.insert((link.last, link.sid), Some(link.hash));
        }
        if record.links.is_empty() && record.prev > 0 {
            self.frontier.entry((record.prev, record.session())).or_insert(None);
        }
    }

    /// How many nodes have been looked at.
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// The nodes whose content is damaged or missing.
    pub fn finish(self) -> Vec<Link> {
        self.found.into_iter().collect()
    }
}
