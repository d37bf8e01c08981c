//! How a page is read: wanted ranges merged by their keys, each record when its turn comes.
//!
//! A document may have ten thousand sessions, and of each a patch of megabytes that comes next. So what is held of a
//! session that waits is the key of that patch; of a few, whose ranges stay open because they are read on from, the patch.

use std::{cmp::Reverse, collections::BinaryHeap};

use crdt_core::SessionId;
use fjall::{Iter, Keyspace, Readable, Snapshot, UserValue};

use super::{
    backend, corrupt,
    layout::{self, DocumentNumber},
};
use crate::{PatchRecord, Want, store::PatchStoreError};

/// How many ranges stay open, with the patch that comes next in each. To read on in another one it is searched for anew.
const OPEN_MAX: usize = 16;

/// The patches of some ranges in the order of (last time, session).
pub(super) struct Merged<'a> {
    view: &'a Snapshot,
    patches: &'a Keyspace,
    document: DocumentNumber,
    ranges: Vec<Range>,
    /// The next patch of each range, by its key.
    next: BinaryHeap<Reverse<(u64, SessionId, usize)>>,
    open: usize,
}

struct Range {
    /// What is left of it.
    want: Want,
    /// Where it is open, that, and the patch that comes next.
    open: Option<(Iter, UserValue)>,
}

impl<'a> Merged<'a> {
    pub(super) fn new(
        view: &'a Snapshot,
        patches: &'a Keyspace,
        document: DocumentNumber,
        want: &[Want],
    ) -> Result<Self, PatchStoreError> {
        let ranges = want.iter().map(|want| Range { want: *want, open: None }).collect();
        let next = BinaryHeap::with_capacity(want.len());
        let mut merged = Self { view, patches, document, ranges, next, open: 0 };
        for at in 0..want.len() {
            merged.seek(at)?;
        }
        Ok(merged)
    }

    /// Finds the first patch of what is left of a range.
    fn seek(&mut self, at: usize) -> Result<(), PatchStoreError> {
        let want = self.ranges[at].want;
        if want.after >= want.upto {
            return Ok(());
        }
        let key = |last| layout::record_key(self.document, want.sid, last);
        let mut range = self.view.range(self.patches, key(want.after + 1)..=key(want.upto));
        if self.open < OPEN_MAX {
            self.open += 1;
            return self.read_on(at, range);
        }
        if let Some(entry) = range.next() {
            let key = entry.key().map_err(backend)?;
            self.comes(at, &key)?;
        }
        Ok(())
    }

    /// Reads on in an open range.
    fn read_on(&mut self, at: usize, mut range: Iter) -> Result<(), PatchStoreError> {
        match range.next() {
            Some(entry) => {
                let (key, value) = entry.into_inner().map_err(backend)?;
                self.comes(at, &key)?;
                self.ranges[at].open = Some((range, value));
            }
            None => self.open -= 1,
        }
        Ok(())
    }

    fn comes(&mut self, at: usize, key: &[u8]) -> Result<(), PatchStoreError> {
        let (sid, last) = layout::record_key_parts(key).map_err(|damage| corrupt(key, damage))?;
        self.next.push(Reverse((last, sid, at)));
        Ok(())
    }

    fn take(&mut self, (last, sid, at): (u64, SessionId, usize)) -> Result<PatchRecord, PatchStoreError> {
        let key = layout::record_key(self.document, sid, last);
        self.ranges[at].want.after = last;
        let value = match self.ranges[at].open.take() {
            Some((range, value)) => {
                self.read_on(at, range)?;
                value
            }
            None => {
                let value = self.view.get(self.patches, key).map_err(backend)?;
                self.seek(at)?;
                // It was found in this very view.
                value.ok_or_else(|| corrupt(&key, layout::Damage::Length))?
            }
        };
        layout::read_record(&key, &value).map_err(|damage| corrupt(&key, damage))
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<PatchRecord, PatchStoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse(next) = self.next.pop()?;
        Some(self.take(next))
    }
}
