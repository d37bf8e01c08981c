//! Snapshots of documents of `crdt-core`: made out of patches, and read.

use bytes::{BufMut as _, Bytes, BytesMut};
use crdt_core::{Applied, Document, Patch, PatchRef, SessionId, StateVector, codec::Packing};

use crate::{
    DocumentError, Fold, PatchRecord, SignerId,
    conflict::{Conflicts, NoSection, Rules},
};

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

/// A document in the making, and what rules have tracked of it.
pub(crate) struct DocumentFold {
    document: Document,
    conflicts: Option<Conflicts>,
}

impl DocumentFold {
    /// Begins with a snapshot, or with what every replica starts from. With rules, what they track goes along.
    pub(crate) fn new(
        base: Option<&Patch>,
        snapshot: Option<&[u8]>,
        rules: Option<Rules>,
    ) -> Result<Self, DocumentError> {
        let mut conflicts = rules.map(Conflicts::new);
        if let (Some(snapshot), Some(conflicts)) = (snapshot, &mut conflicts) {
            take_section(conflicts, snapshot)?;
        }
        Ok(Self { document: from_snapshot(base, snapshot)?, conflicts })
    }

    /// Begins with a snapshot, which is read when a patch comes on top, or when the document is asked for more than its view.
    pub(crate) fn open(snapshot: &Bytes, rules: Option<Rules>) -> Result<Self, DocumentError> {
        let mut conflicts = rules.map(Conflicts::new);
        if let Some(conflicts) = &mut conflicts {
            take_section(conflicts, snapshot)?;
        }
        let (_, native) = split(snapshot)?;
        let document = Document::open_native(snapshot.slice_ref(native), SessionId::LOCAL)
            .map_err(|error| DocumentError::Snapshot(error.to_string()))?;
        Ok(Self { document, conflicts })
    }
}

impl Fold for DocumentFold {
    fn apply(&mut self, record: &PatchRecord, signer: Option<SignerId>) -> Result<(), DocumentError> {
        check(record, self.document.apply_bytes(&record.patch))?;
        if let Some(conflicts) = &mut self.conflicts {
            conflicts.observe_signed(patch_of(record)?, signer);
            conflicts.purge_when_due(&self.document);
        }
        Ok(())
    }

    fn vector(&self) -> StateVector<SessionId> {
        seen(&self.document)
    }

    fn take_document(&mut self) -> Option<Document> {
        Some(std::mem::replace(&mut self.document, Document::new(SessionId::LOCAL)))
    }

    fn take_tracked(&mut self) -> Option<Conflicts> {
        self.conflicts.take()
    }

    fn finish(self: Box<Self>) -> Result<Bytes, DocumentError> {
        Ok(write_snapshot(&self.document, self.conflicts.as_ref()))
    }
}

/// A snapshot with what is tracked for rules begins so; a document's own bytes do not.
const MAGIC: [u8; 8] = *b"\xffweftcon";

/// A document's snapshot, and in front of it what rules have tracked.
pub(crate) fn write_snapshot(document: &Document, conflicts: Option<&Conflicts>) -> Bytes {
    let native = document.to_native(PACKING);
    let Some(section) = conflicts.map(Conflicts::section) else { return native.into() };
    let mut out = BytesMut::with_capacity(MAGIC.len() + 4 + section.len() + native.len());
    out.put_slice(&MAGIC);
    out.put_u32(section.len() as u32);
    out.put_slice(&section);
    out.put_slice(&native);
    out.freeze()
}

/// What rules have tracked, if that is there, and the document's own bytes.
fn split(snapshot: &[u8]) -> Result<(Option<&[u8]>, &[u8]), DocumentError> {
    let Some(rest) = snapshot.strip_prefix(&MAGIC) else { return Ok((None, snapshot)) };
    let cut = || DocumentError::Snapshot("cut off within what is tracked for rules".to_owned());
    let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let (section, native) = rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(cut)?;
    Ok((Some(section), native))
}

/// Takes in what is tracked in a snapshot. One that has nothing of it is from an older release, or of a replica without rules.
pub(crate) fn take_section(conflicts: &mut Conflicts, snapshot: &[u8]) -> Result<(), DocumentError> {
    let (section, _) = split(snapshot)?;
    let wrong = |error: NoSection| DocumentError::Snapshot(error.to_string());
    section.map_or(Ok(()), |section| conflicts.take_section(section).map_err(wrong))
}

pub(crate) fn read_snapshot(bytes: &[u8]) -> Result<Document, DocumentError> {
    let (_, native) = split(bytes)?;
    Document::from_native(native, SessionId::LOCAL)
        .map_err(|error| DocumentError::Snapshot(error.to_string()))
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
