//! The store that forgets when the process ends: the reference that the others are compared with.

mod index;
mod log;

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use hashbrown::HashMap;

use self::{
    index::{Index, Row},
    log::{Damaged, Log},
};
use super::{PatchPage, PatchStore, PatchStoreError, StoreId};
use crate::{PatchRecord, Want};

/// Patches in memory. They are gone with the process; every other store is compared with this one.
#[derive(Debug)]
pub struct MemoryPatchStore {
    id: StoreId,
    // Never held across an await: each call is one short look or change.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The last time of each session that is kept or in the snapshot. Only what is asked for is looked up here: the order
    /// of sessions plays no part.
    lasts: HashMap<SessionId, u64>,
    log: Log,
    /// Where each session's patches stand in the log, as far as somebody has asked. Most that is appended is never read
    /// again, and to enter it at once would be half of the work.
    index: Index,
    snapshot: Option<(StateVector<SessionId>, Bytes)>,
    note: Bytes,
}

impl MemoryPatchStore {
    /// An empty store.
    pub fn new() -> Self {
        Self { id: StoreId::draw(), kept: Mutex::default() }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for MemoryPatchStore {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Damaged> for PatchStoreError {
    fn from(damaged: Damaged) -> Self {
        Self::Corrupt { place: "the log in memory".to_owned(), reason: damaged.to_string() }
    }
}

impl Kept {
    fn append(&mut self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        let last = self.lasts.entry(record.session()).or_insert(0);
        if record.last() <= *last {
            return Ok(());
        }
        if record.prev != *last {
            return Err(PatchStoreError::Order { id: record.id, last: *last });
        }
        *last = record.last();
        self.log.push(record);
        Ok(())
    }

    fn mend(&mut self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        let (sid, last) = (record.session(), record.last());
        let contained = self.snapshot.as_ref().map_or(0, |(vector, _)| vector.get(&sid));
        if !self.lasts.get(&sid).is_some_and(|&upto| (contained + 1..=upto).contains(&last)) {
            return Ok(());
        }
        self.index.read_on(&self.log)?;
        let place = self.log.push(record);
        self.index.put(sid, Row { last, place });
        self.index.skip_to_end(&self.log);
        Ok(())
    }

    fn vector(&self) -> StateVector<SessionId> {
        self.lasts.iter().map(|(sid, last)| (*sid, *last)).collect()
    }

    fn page(&mut self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        if let Some((contained, _)) = &self.snapshot
            && want.iter().any(|want| want.after < contained.get(&want.sid))
        {
            return Ok(PatchPage::Compacted);
        }
        self.index.read_on(&self.log)?;
        // The next of each wanted range, merged in the order of (last time, session).
        let mut next: BTreeMap<(u64, SessionId), &[Row]> = BTreeMap::new();
        for want in want {
            if let wanted @ [first, ..] = self.index.range(want) {
                next.insert((first.last, want.sid), wanted);
            }
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(((_, sid), [row, rest @ ..])) = next.pop_first() {
            let record = self.log.read(row.place)?;
            bytes += record.len_bytes();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(record);
            if let [first, ..] = rest {
                next.insert((first.last, sid), rest);
            }
        }
        Ok(PatchPage::Records(records))
    }

    fn install(&mut self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        if let Some((contained, _)) = &self.snapshot {
            if contained.contains(vector) {
                return Ok(());
            }
            if let Some((sid, _, upto)) = vector.missing_from(contained).next() {
                return Err(PatchStoreError::Diverged { sid: *sid, upto });
            }
        }
        // What is not in the snapshot goes into a log of its own.
        self.index.read_on(&self.log)?;
        let mut log = Log::default();
        self.index.keep_after(vector, |place| log.push_from(&self.log, place))?;
        self.index.skip_to_end(&log);
        self.log = log;
        for (sid, upto) in vector.iter() {
            let last = self.lasts.entry(*sid).or_insert(0);
            *last = upto.max(*last);
        }
        self.snapshot = Some((vector.clone(), snapshot));
        Ok(())
    }
}

#[async_trait]
impl PatchStore for MemoryPatchStore {
    fn id(&self) -> Option<StoreId> {
        Some(self.id)
    }

    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError> {
        self.append_at_once(records).unwrap_or(Ok(()))
    }

    fn append_at_once(&self, records: &[PatchRecord]) -> Option<Result<(), PatchStoreError>> {
        let mut kept = self.kept();
        Some(records.iter().try_for_each(|record| kept.append(record)))
    }

    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError> {
        Ok(self.kept().vector())
    }

    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        self.kept().page(want, bytes_max)
    }

    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        self.kept().install(vector, snapshot)
    }

    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        self.kept().mend(record)
    }

    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        Ok(self.kept().snapshot.clone())
    }

    async fn keep_note(&self, note: Bytes) -> Result<(), PatchStoreError> {
        self.kept().note = note;
        Ok(())
    }

    async fn note(&self) -> Result<Bytes, PatchStoreError> {
        Ok(self.kept().note.clone())
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        Ok(())
    }
}
