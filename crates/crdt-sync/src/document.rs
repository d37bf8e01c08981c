//! What the manager asks of a document.

use bytes::Bytes;
use crdt_core::{Document, Patch, SessionId, StateVector};

use crate::{PatchRecord, SignerId, conflict::Conflicts};

/// A replica's document, shared between the application, which edits it, and the manager, which brings the others'
/// patches.
pub trait SyncDocument: Send + Sync {
    /// The session under which the application edits it.
    fn session(&self) -> SessionId;

    /// What every replica of the document starts from, of reserved sessions: a patch that names anything else of them names
    /// what never comes, and is refused.
    fn reserved(&self) -> StateVector<SessionId> {
        StateVector::new()
    }

    /// Takes in a patch whose causes are in the document, with the key that [signed](crate::Guard::signer) it, where that is
    /// known. Taking in one's own patches changes nothing.
    fn apply(&self, record: &PatchRecord, signer: Option<SignerId>) -> Result<(), DocumentError>;

    /// The application's own patches that begin before `time` and have not been [applied](Self::apply), in their order.
    ///
    /// Two tasks may edit one after the other and hand their patches over the other way round. The manager takes in
    /// these first, so that a session's patches are stored in the order of its edits and none is passed over. A document
    /// that does not remember its patches gives none; then one that is handed over too late is refused.
    fn unsent_before(&self, time: u64) -> Vec<Patch> {
        let _ = time;
        Vec::new()
    }

    /// Takes over a snapshot that contains all that the document does, apart from what the application has edited and
    /// not handed over yet: that must not be lost.
    fn install(&self, snapshot: &[u8]) -> Result<(), DocumentError>;

    /// [Installs](Self::install) a snapshot that this document has [begun to read](Self::fold), with what was put on top.
    /// One that can take it over as it is need not write it and read it again.
    fn take_over(&self, fold: Box<dyn Fold>) -> Result<(), DocumentError> {
        self.install(&fold.finish()?)
    }

    /// A snapshot of exactly `stored`, if the document that people edit is just that at the moment. It saves making one
    /// out of patches; `None` is always right.
    fn snapshot(&self, stored: &StateVector<SessionId>) -> Option<Bytes> {
        let _ = stored;
        None
    }

    /// Begins to make a snapshot out of stored patches, apart from the document that people edit, so that it holds
    /// exactly what is stored.
    fn fold(&self, base: Option<&[u8]>) -> Result<Box<dyn Fold>, DocumentError>;

    /// [Begins](Self::fold) with a peer's snapshot, to be [taken over](Self::take_over) as soon as what is stored beyond it
    /// is on top, mostly nothing. One that can take bytes over as they lie there keeps these.
    fn open(&self, snapshot: &Bytes) -> Result<Box<dyn Fold>, DocumentError> {
        self.fold(Some(snapshot))
    }
}

/// A snapshot in the making.
pub trait Fold: Send {
    /// Adds a patch whose causes are in it, with the key that signed it, where that is known.
    fn apply(&mut self, record: &PatchRecord, signer: Option<SignerId>) -> Result<(), DocumentError>;

    /// What is in it so far. Of a snapshot to begin with, what its bytes say, whatever anyone says about them: a peer that
    /// claims more than it sends would have us never ask for the rest.
    fn vector(&self) -> StateVector<SessionId>;

    /// The document itself, for a [`SyncDocument::take_over`] that can use it; none is left then.
    fn take_document(&mut self) -> Option<Document> {
        None
    }

    /// What was tracked for [rules](crate::conflict) beside that document, if something was.
    fn take_tracked(&mut self) -> Option<Conflicts> {
        None
    }

    /// The snapshot.
    fn finish(self: Box<Self>) -> Result<Bytes, DocumentError>;
}

/// Why a document could not take something in. It is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The patch or its envelope is wrong.
    #[error("patch {id} does not apply: {reason}")]
    Patch {
        /// Its id.
        id: crdt_core::Timestamp,
        /// What is wrong.
        reason: String,
    },
    /// The bytes are no snapshot.
    #[error("not a snapshot: {0}")]
    Snapshot(String),
}
