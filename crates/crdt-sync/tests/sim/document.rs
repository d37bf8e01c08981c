//! The document of a simulated replica: which patches are in it. What a real document would do with them is tested elsewhere;
//! here it matters that each comes once and after its causes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, StateVector, Timestamp};
use crdt_sync::{DocumentError, Fold, PatchRecord, SignerId, SyncDocument, dag::Link, session::content};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Each with the number that stands for what is in it.
    pub(crate) ids: BTreeMap<Timestamp, u64>,
    pub(crate) vector: StateVector<SessionId>,
}

impl Applied {
    pub(crate) fn apply(&mut self, record: &PatchRecord) -> Result<(), String> {
        if self.ids.contains_key(&record.id) {
            return Err(format!("{} applied twice", record.id));
        }
        if self.vector.get(&record.session()) != record.prev {
            return Err(format!("{} applied out of its session's order", record.id));
        }
        let lacks = |link: &&Link| self.vector.get(&link.sid) < link.last;
        if let Some(link) = record.links.iter().find(lacks) {
            return Err(format!("{} applied before {link:?}, which it follows", record.id));
        }
        if let Some(need) = record.needs.iter().find(|need| self.vector.get(&need.sid) < need.time) {
            return Err(format!("{} applied before {need}, which it names", record.id));
        }
        self.ids.insert(record.id, content(record));
        self.vector.advance(record.session(), record.last());
        Ok(())
    }

    /// A patch of a session on top of the document, of so many ticks, that names some others; and its time.
    pub(crate) fn typed(&self, session: SessionId, span: u64, needs: Vec<Timestamp>) -> (u64, Bytes) {
        let time = 1 + self.vector.iter().map(|(_, time)| time).max().unwrap_or(0);
        let mut patch = PatchBuilder::new(session, time);
        let named = needs.len() as u64;
        for need in needs {
            patch.ins_str(need, need, "x");
        }
        patch.nop(span.saturating_sub(named).max(1));
        let patch = patch.finish().map(|patch| Bytes::copy_from_slice(patch.as_bytes()));
        (time, patch.unwrap_or_default())
    }

    /// Stands for the patches in it.
    pub(crate) fn content(&self) -> u64 {
        self.ids.values().fold(0, |sum, content| sum.wrapping_add(*content))
    }

    pub(crate) fn load(snapshot: &[u8]) -> Result<Self, DocumentError> {
        let (ids, vector): (Vec<(u64, u64, u64)>, _) =
            serde_json::from_slice(snapshot).map_err(|e| DocumentError::Snapshot(e.to_string()))?;
        let id = |(sid, time, content)| (Timestamp::new(SessionId::new(sid).unwrap(), time), content);
        Ok(Self { ids: ids.into_iter().map(id).collect(), vector })
    }
}

impl Fold for Applied {
    fn apply(&mut self, record: &PatchRecord, _: Option<SignerId>) -> Result<(), DocumentError> {
        Self::apply(self, record).map_err(|reason| DocumentError::Patch { id: record.id, reason })
    }

    fn vector(&self) -> StateVector<SessionId> {
        self.vector.clone()
    }

    fn finish(self: Box<Self>) -> Result<Bytes, DocumentError> {
        let ids: Vec<_> = self.ids.iter().map(|(id, content)| (id.sid.get(), id.time, content)).collect();
        Ok(serde_json::to_vec(&(ids, &self.vector)).unwrap().into())
    }
}

/// The document as production's code takes it: what it loads and folds goes in and out here.
pub(crate) struct SimDocument {
    session: SessionId,
    applied: Mutex<Applied>,
}

impl SimDocument {
    pub(crate) fn new(session: SessionId) -> Self {
        Self { session, applied: Mutex::default() }
    }

    /// Held for one step.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap()
    }
}

impl SyncDocument for SimDocument {
    fn session(&self) -> SessionId {
        self.session
    }

    fn apply(&self, record: &PatchRecord, signer: Option<SignerId>) -> Result<(), DocumentError> {
        Fold::apply(&mut *self.lock(), record, signer)
    }

    /// What was edited and is not durable yet goes on top of it.
    fn install(&self, snapshot: &[u8]) -> Result<(), DocumentError> {
        let theirs = Applied::load(snapshot)?;
        let mut ours = self.lock();
        let vector = &theirs.vector;
        ours.ids.retain(|id, _| vector.get(&id.sid) < id.time);
        ours.ids.extend(theirs.ids);
        ours.vector.merge(vector);
        Ok(())
    }

    fn fold(&self, base: Option<&[u8]>) -> Result<Box<dyn Fold>, DocumentError> {
        Ok(Box::new(base.map(Applied::load).transpose()?.unwrap_or_default()))
    }
}
