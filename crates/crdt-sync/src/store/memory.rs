//! The store that forgets when the process ends: the reference that the others are compared with.

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{SessionId, StateVector};

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
    vector: StateVector<SessionId>,
    /// By session and last time.
    records: BTreeMap<(SessionId, u64), PatchRecord>,
    snapshot: Option<(StateVector<SessionId>, Bytes)>,
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
    fn append(&mut self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        let (sid, last) = (record.session(), self.vector.get(&record.session()));
        if record.last() <= last {
            return Ok(());
        }
        if record.prev != last {
            return Err(PatchStoreError::Order { id: record.id, last });
        }
        self.vector.advance(sid, record.last());
        self.records.insert((sid, record.last()), record.clone());
        Ok(())
    }

    fn page(&self, want: &[Want], bytes_max: usize) -> PatchPage {
        if let Some((contained, _)) = &self.snapshot
            && want.iter().any(|want| want.after < contained.get(&want.sid))
        {
            return PatchPage::Compacted;
        }
        // The wanted ranges, merged in the order of (last time, session).
        let mut next: BTreeMap<(u64, SessionId), u64> = BTreeMap::new();
        let first = |sid: SessionId, after: u64, upto: u64| {
            let mut range = self.records.range((sid, after + 1)..=(sid, upto.max(after + 1)));
            range.next().map(|((_, last), _)| *last).filter(|last| *last <= upto)
        };
        for want in want {
            if let Some(last) = first(want.sid, want.after, want.upto) {
                next.insert((last, want.sid), want.upto);
            }
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(((last, sid), upto)) = next.pop_first() {
            let record = &self.records[&(sid, last)];
            bytes += record.len_bytes();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(record.clone());
            if let Some(last) = first(sid, last, upto) {
                next.insert((last, sid), upto);
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
        self.vector.merge(vector);
        self.records.retain(|(sid, last), _| *last > vector.get(sid));
        self.snapshot = Some((vector.clone(), snapshot));
        Ok(())
    }
}

#[async_trait]
impl PatchStore for MemoryPatchStore {
    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError> {
        let mut kept = self.kept();
        records.iter().try_for_each(|record| kept.append(record))
    }

    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError> {
        Ok(self.kept().vector.clone())
    }

    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        Ok(self.kept().page(want, bytes_max))
    }

    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        self.kept().install(vector, snapshot)
    }

    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        Ok(self.kept().snapshot.clone())
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        Ok(())
    }
}
