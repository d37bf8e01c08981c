//! Snapshots of documents of `crdt-core`: made out of patches, and read.

use bytes::Bytes;
use crdt_core::{Applied, Document, Patch, PatchRef, SessionId, StateVector, codec::Packing};

use crate::{DocumentError, Fold, PatchRecord};

/// The fastest form, and the one that stays the same for all time.
pub(crate) const PACKING: Packing = Packing::Plain;

/// The document of a snapshot; without one, what every replica starts from.
pub(crate) fn from_snapshot(
    base: Option<&Patch>,
    snapshot: Option<&[u8]>,
) -> Result<Document, DocumentError> {
    if let Some(snapshot) = snapshot {
        return read_snapshot(snapshot);
    }
    let mut document = Document::new(SessionId::LOCAL);
    if let Some(base) = base {
        let refused = |error| DocumentError::Patch { id: base.id(), reason: format!("{error}") };
        // That it names nothing else was seen when the model was made.
        let _: Applied = document.apply(base).map_err(refused)?;
    }
    Ok(document)
}

/// What a document contains of what replicas send each other: nothing of reserved sessions.
pub(crate) fn seen(document: &Document) -> StateVector<SessionId> {
    let seen = document.state_vector();
    seen.iter().filter(|(sid, _)| **sid >= SessionId::RESERVED_END).map(|(sid, time)| (*sid, time)).collect()
}

pub(crate) struct DocumentFold(pub(crate) Document);

impl Fold for DocumentFold {
    fn apply(&mut self, record: &PatchRecord) -> Result<(), DocumentError> {
        check(record, self.0.apply_bytes(&record.patch))
    }

    fn vector(&self) -> StateVector<SessionId> {
        seen(&self.0)
    }

    fn take_document(&mut self) -> Option<Document> {
        Some(std::mem::replace(&mut self.0, Document::new(SessionId::LOCAL)))
    }

    fn finish(self: Box<Self>) -> Result<Bytes, DocumentError> {
        Ok(self.0.to_native(PACKING).into())
    }
}

pub(crate) fn read_snapshot(bytes: &[u8]) -> Result<Document, DocumentError> {
    Document::from_native(bytes, SessionId::LOCAL).map_err(|error| DocumentError::Snapshot(error.to_string()))
}

pub(crate) fn patch_of(record: &PatchRecord) -> Result<PatchRef<'_>, DocumentError> {
    let wrong = |error| DocumentError::Patch { id: record.id, reason: format!("{error}") };
    PatchRef::decode(&record.patch).map_err(wrong)
}

pub(crate) fn check(
    record: &PatchRecord,
    applied: Result<Applied, crdt_core::document::ReceiveError>,
) -> Result<(), DocumentError> {
    let reason = match applied {
        Ok(Applied::Parked { missing }) => format!("{missing} has not come"),
        Ok(_) => return Ok(()),
        Err(error) => error.to_string(),
    };
    Err(DocumentError::Patch { id: record.id, reason })
}
