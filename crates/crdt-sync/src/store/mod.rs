//! Where patches are kept.

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "embedded")]
pub mod embedded;
mod id;
mod memory;
#[cfg(feature = "mongodb")]
mod mongo;

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{SessionId, StateVector};

#[cfg(feature = "embedded")]
pub use embedded::{EmbeddedPatchStore, EmbeddedPatchStores};
pub use id::StoreId;
pub use memory::MemoryPatchStore;
#[cfg(feature = "mongodb")]
pub use mongo::MongoPatchStore;

use crate::{PatchRecord, SharedError, Want};

/// Keeps the patches of one document.
///
/// Laws (the conformance suite tests them):
/// - what [`append`](Self::append) has answered is there after any crash; what was appended before it, too;
/// - [`vector`](Self::vector) contains exactly what was appended or is in the snapshot;
/// - [`page`](Self::page) gives patches with causes before effects, and says so when some are only left in a snapshot;
/// - a snapshot and the removal of what it contains are one step.
#[async_trait]
pub trait PatchStore: Send + Sync {
    /// Which store this is. Clients of a [gateway](crate::gateway) see by it that they have come to another one. `None`, which
    /// a store has that does not know, tells them nothing; a store around another passes that one's on.
    fn id(&self) -> Option<StoreId> {
        None
    }

    /// Keeps patches, in their order. The caller sees to it that each is the next one of its session. One that is
    /// there already is left alone.
    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError>;

    /// [`append`](Self::append) of a store that never waits; `None`, and nothing is done, from all others.
    fn append_at_once(&self, records: &[PatchRecord]) -> Option<Result<(), PatchStoreError>> {
        let _ = records;
        None
    }

    /// What is kept.
    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError>;

    /// Reads wanted patches, in the order of (last time, session), until `bytes_max` is reached; at least one if
    /// there is any.
    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError>;

    /// Keeps a snapshot that contains `vector`, and forgets the patches that it contains. If there is one already that
    /// contains as much, nothing happens; one that contains something else can't be replaced.
    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError>;

    /// Puts a patch back whose bytes here are damaged or gone, although [`vector`](Self::vector) contains it. What stood in
    /// its place is replaced, whatever it was: the caller has made sure that this is the right one. One that the vector does
    /// not contain, or that is only left in the snapshot, is left alone.
    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError>;

    /// The snapshot, and what it contains.
    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError>;

    /// Keeps a few bytes beside the patches, in the place of those that were kept so before: what a manager has to know again
    /// after a restart. A manager whose store keeps none forgets who is cut off, and folds what they lack; so there is no
    /// default, and a store around another passes both on.
    async fn keep_note(&self, note: Bytes) -> Result<(), PatchStoreError>;

    /// What was [kept beside](Self::keep_note) the patches; empty if nothing was.
    async fn note(&self) -> Result<Bytes, PatchStoreError>;

    /// Finishes what is under way.
    async fn close(&self) -> Result<(), PatchStoreError>;
}

/// What a store found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchPage {
    /// Patches, causes before effects.
    Records(Vec<PatchRecord>),
    /// Some of those wanted are only left in the snapshot.
    Compacted,
}

impl PatchStoreError {
    /// Whether the same may succeed later. All else is as it is, however often it is tried.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Backend(_))
    }
}

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchStoreError {
    /// A patch is not the next one of its session.
    #[error("patch {id} does not follow {last}, the last time of its session here")]
    Order {
        /// Its id.
        id: crdt_core::Timestamp,
        /// The last time of its session.
        last: u64,
    },
    /// The snapshot lacks something that is only left in the one that it would replace.
    #[error("snapshot lacks patches of {sid} up to {upto} that are only left in the present one")]
    Diverged {
        /// Whose.
        sid: SessionId,
        /// Up to when.
        upto: u64,
    },
    /// The store has been closed.
    #[error("patch store is closed")]
    Closed,
    /// Stored bytes are not what was written.
    #[error("corrupt patch store: {reason} at {place}")]
    Corrupt {
        /// Which record.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed; whether the last append was kept is not known. To try again is safe, and may help.
    #[error("patch store failed: {0}")]
    Backend(#[source] SharedError),
    /// The store failed, and writes nothing any more until it is opened anew.
    #[error("patch store takes nothing any more: a write failed: {0}")]
    Broken(#[source] SharedError),
}
