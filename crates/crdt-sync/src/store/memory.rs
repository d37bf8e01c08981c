//! The store that forgets when the process ends: the reference that the others are compared with.

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{PatchPage, PatchStore, PatchStoreError};
use crate::{PatchRecord, Want};

/// Patches in memory. They are gone with the process; every other store is compared with this one.
#[derive(Debug, Default)]
pub struct MemoryPatchStore {
    // Never held across an await: each call is one short look or change.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Where each session's log stands. Only what is asked for is looked up here: the order of sessions plays no part.
    places: HashMap<SessionId, u32>,
    logs: Vec<Log>,
    snapshot: Option<(StateVector<SessionId>, Bytes)>,
}

/// What is kept of a session.
#[derive(Debug)]
struct Log {
    /// Whose.
    sid: SessionId,
    /// The last time that is kept or in the snapshot.
    last: u64,
    /// In the order of their times. The first few are in the log itself: many people write little, and many small rows
    /// that grow one by one would be what a store of a busy document spends its time on.
    records: SmallVec<[PatchRecord; 8]>,
}

impl Log {
    /// The place of the first record that ends after `time`.
    fn place_after(&self, time: u64) -> usize {
        self.records.partition_point(|record| record.last() <= time)
    }
}

impl MemoryPatchStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Kept {
    fn log(&self, sid: SessionId) -> Option<&Log> {
        self.places.get(&sid).map(|place| &self.logs[*place as usize])
    }

    fn log_mut(&mut self, sid: SessionId) -> &mut Log {
        let place = *self.places.entry(sid).or_insert_with(|| {
            self.logs.push(Log { sid, last: 0, records: SmallVec::new() });
            self.logs.len() as u32 - 1
        });
        &mut self.logs[place as usize]
    }

    fn append(&mut self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        let log = self.log_mut(record.session());
        if record.last() <= log.last {
            return Ok(());
        }
        if record.prev != log.last {
            return Err(PatchStoreError::Order { id: record.id, last: log.last });
        }
        log.last = record.last();
        log.records.push(record.clone());
        Ok(())
    }

    fn mend(&mut self, record: &PatchRecord) {
        let (sid, last) = (record.session(), record.last());
        let contained = self.snapshot.as_ref().map_or(0, |(vector, _)| vector.get(&sid));
        if !self.log(sid).is_some_and(|log| (contained + 1..=log.last).contains(&last)) {
            return;
        }
        let log = self.log_mut(sid);
        let place = log.records.partition_point(|kept| kept.last() < last);
        match log.records.get_mut(place).filter(|kept| kept.last() == last) {
            Some(kept) => *kept = record.clone(),
            None => log.records.insert(place, record.clone()),
        }
    }

    fn vector(&self) -> StateVector<SessionId> {
        self.logs.iter().map(|log| (log.sid, log.last)).collect()
    }

    fn page(&self, want: &[Want], bytes_max: usize) -> PatchPage {
        if let Some((contained, _)) = &self.snapshot
            && want.iter().any(|want| want.after < contained.get(&want.sid))
        {
            return PatchPage::Compacted;
        }
        // The next of each wanted range, merged in the order of (last time, session).
        let mut next: BTreeMap<(u64, SessionId), &[PatchRecord]> = BTreeMap::new();
        for want in want {
            let Some(log) = self.log(want.sid) else { continue };
            let (from, to) = (log.place_after(want.after), log.place_after(want.upto));
            if let Some(wanted @ [first, ..]) = log.records.get(from..to) {
                next.insert((first.last(), want.sid), wanted);
            }
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(((_, sid), [record, rest @ ..])) = next.pop_first() {
            bytes += record.len_bytes();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(record.clone());
            if let [first, ..] = rest {
                next.insert((first.last(), sid), rest);
            }
        }
        PatchPage::Records(records)
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
        for (sid, last) in vector.iter() {
            let log = self.log_mut(*sid);
            log.last = log.last.max(last);
            log.records.drain(..log.place_after(last));
        }
        self.snapshot = Some((vector.clone(), snapshot));
        Ok(())
    }
}

#[async_trait]
impl PatchStore for MemoryPatchStore {
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
        Ok(self.kept().page(want, bytes_max))
    }

    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        self.kept().install(vector, snapshot)
    }

    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        self.kept().mend(record);
        Ok(())
    }

    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        Ok(self.kept().snapshot.clone())
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        Ok(())
    }
}
