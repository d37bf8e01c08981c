//! What the driver does with patches that are made here: by the application, or by a client of this node.

use std::hash::Hasher as _;

use bytes::Bytes;
use crdt_core::{Patch, Timestamp};

use super::{Done, Driver, HANDED_MAX};
use crate::{
    PatchRecord, Want,
    manager::SyncError,
    session::{Input, Refusal},
    store::PatchPage,
};

/// Stands for the bytes of a patch, so that it is known when it is handed over twice.
fn number_of(patch: &Patch) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(patch.as_bytes());
    hasher.finish()
}

impl Driver {
    pub(super) fn apply_patch(&mut self, patch: Patch, done: Done) {
        let session = self.parts.options.session;
        if patch.id().sid != session {
            drop(done.send(Err(SyncError::NotOwn { id: patch.id(), session })));
        } else if patch.id().time <= self.own_last {
            self.repeated.push((patch, done));
        } else {
            match self.hand_over(&patch) {
                Ok(last) => self.waiting.push_back((last, done)),
                Err(error) => drop(done.send(Err(error))),
            }
        }
    }

    /// Gives the machine a patch, after those that were edited before it. Returns its last time.
    fn hand_over(&mut self, patch: &Patch) -> Result<u64, SyncError> {
        for earlier in self.parts.document.unsent_before(patch.id().time) {
            self.hand_over_next(&earlier)?;
        }
        self.hand_over_next(patch)
    }

    fn hand_over_next(&mut self, patch: &Patch) -> Result<u64, SyncError> {
        let record = self.own_record(patch)?;
        self.own_last = record.last();
        if self.handed.len() == HANDED_MAX {
            self.handed.pop_front();
        }
        self.handed.push_back((patch.id().time, number_of(patch)));
        self.input(Input::Local(record));
        Ok(self.own_last)
    }

    /// Answers those whose patch is not beyond what was handed over: the store tells whether it was among that.
    pub(super) async fn answer_repeated(&mut self) {
        for (patch, done) in std::mem::take(&mut self.repeated) {
            let (Timestamp { sid, time }, end) = (patch.id(), patch.next_time());
            // What is known lately is known for certain, the same patch or another one.
            let known = self.handed.iter().find(|(known, _)| *known == time);
            let mut stored = known.is_some_and(|(_, number)| *number == number_of(&patch));
            if known.is_none() {
                let want = Want { sid, after: time.saturating_sub(1), upto: end.saturating_sub(1) };
                stored = match self.parts.store.page(&[want], 1).await {
                    Ok(PatchPage::Records(records)) => {
                        records.first().is_some_and(|record| record.patch == patch.as_bytes())
                    }
                    // Nothing tells any more, and to say that it is stored could be wrong.
                    Ok(PatchPage::Compacted) => false,
                    Err(error) => {
                        let _ = done.send(Err(error.into()));
                        continue;
                    }
                };
            }
            let answer = if stored { Ok(()) } else { Err(Refusal::OutOfOrder(patch.id()).into()) };
            let _ = done.send(answer);
        }
    }

    /// Compares a peer's patches of the own session with those in the store. What can't be read is passed over: the peer says
    /// again that it differs.
    pub(super) async fn compare_own(&mut self, want: Want, theirs: &[PatchRecord]) -> Input {
        let compared = self.parts.folding().first_different(want, theirs).await;
        let differs = compared.unwrap_or_else(|error| {
            self.read_failed(&error);
            None
        });
        Input::Compared { upto: want.upto, differs }
    }

    /// Whether a patch of the own session ends at a time; also if that can't be told.
    pub(super) async fn own_patch_ends_at(&mut self, time: u64) -> bool {
        let want = Want { sid: self.parts.options.session, after: time.saturating_sub(1), upto: time };
        match self.parts.store.page(&[want], 1).await {
            Ok(PatchPage::Records(records)) => !records.is_empty(),
            Ok(PatchPage::Compacted) => true,
            Err(error) => {
                self.read_failed(&error.into());
                true
            }
        }
    }

    pub(super) fn relay(&mut self, record: PatchRecord) -> Result<(), SyncError> {
        if let Some(refusal) = self.machine.client_refusal(&record) {
            return Err(refusal.into());
        }
        if !self.machine.has_room_for(&record) {
            return Err(SyncError::Busy);
        }
        let id = record.id;
        let vouched = self.gate.vouch(&self.machine, record);
        let record = vouched.map_err(|reason| Refusal::NotAllowed { id, reason })?;
        self.input(Input::Relayed(record));
        Ok(())
    }

    /// The next patch of the own session, in its envelope and in the document.
    fn own_record(&self, patch: &Patch) -> Result<PatchRecord, SyncError> {
        let bytes = Bytes::copy_from_slice(patch.as_bytes());
        let record = PatchRecord::new(self.own_last, bytes).map_err(Refusal::Invalid)?;
        let mut record = record.with_links(self.machine.links(patch.id().time)).map_err(Refusal::Invalid)?;
        if let Some(refusal) = self.machine.local_refusal(&record) {
            return Err(refusal.into());
        }
        if let Some(guard) = &self.parts.guard {
            let id = record.id;
            record = guard.prove(record).map_err(|reason| Refusal::NotAllowed { id, reason })?;
        }
        self.parts.apply(&record)?;
        Ok(record)
    }
}
