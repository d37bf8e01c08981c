//! What can go wrong.

use std::time::Duration;

use crate::DocumentId;

/// Why a storage operation failed. Nothing was written unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// There is no such document.
    #[error("document {id} not found")]
    NotFound {
        /// The document asked for.
        id: DocumentId,
    },
    /// The document has nothing at this place.
    #[error("document {id} has no section {section}")]
    SectionNotFound {
        /// The document.
        id: DocumentId,
        /// The place asked for.
        section: String,
    },
    /// The document is at another version than the caller expected.
    #[error("{}document {id} is at version {actual}, expected {expected}", of_section(section.as_deref()))]
    VersionMismatch {
        /// The document.
        id: DocumentId,
        /// The section, when it is the section's own version.
        section: Option<String>,
        /// What the caller expected.
        expected: u64,
        /// What it is; 0 for absent.
        actual: u64,
    },
    /// The document can't be stored, or not read as the type asked for.
    #[error("invalid document {id}: {reason}")]
    InvalidDocument {
        /// The document.
        id: DocumentId,
        /// What is wrong with it.
        reason: String,
    },
    /// The collection can't be opened like this.
    #[error("collection {name:?} can't be opened: {reason}")]
    InvalidCollection {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The caller's edit said no.
    #[error("edit refused: {0}")]
    Edit(#[source] crate::edit::EditError),
    /// A producer used a sequence out of its order.
    #[error("client sequence {actual} is out of order: {} is next", last + 1)]
    SequenceGap {
        /// The last one known.
        last: u64,
        /// The one that came.
        actual: u64,
    },
    /// Other writers won every time.
    #[error("gave up after {attempts} attempts against concurrent writers")]
    RetriesExhausted {
        /// How often it was tried.
        attempts: u32,
    },
    /// A transaction was not committed, nothing of it was written. Other writers won every time, or the backend gave it
    /// up; run it again.
    #[error("transaction failed after {attempts} attempts: {reason}")]
    TransactionFailed {
        /// How often it was tried.
        attempts: u32,
        /// What came between the last time.
        reason: String,
    },
    /// It took too long. Whether it was written is not known; repeat it with the same producer sequence to find out.
    #[error("timed out after {0:?}")]
    Timeout(Duration),
    /// The answer was lost. Whether it was written is not known; repeat it with the same producer sequence to find out. Nothing of
    /// it is half done.
    #[error("whether it was written is not known: {reason}")]
    OutcomeUnknown {
        /// What became of the answer.
        reason: String,
    },
    /// A bound was reached; try again later.
    #[error("busy: {what} holds {limit}, its limit")]
    Busy {
        /// Which queue or table.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
    /// Another handle, of this or another process, has the store open.
    #[error("store {} is in use by another process or handle", folder.display())]
    Locked {
        /// Its folder.
        folder: std::path::PathBuf,
    },
    /// The storage has been closed.
    #[error("storage is closed")]
    Closed,
    /// This backend can't do that.
    #[error("{what} is not supported by {backend}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Of whom.
        backend: &'static str,
    },
    /// Stored bytes are not what was written.
    #[error("corrupt store: {reason} at {place}")]
    Corrupt {
        /// Which record.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed. Whether the last write was kept is not known; the handle takes no more writes.
    #[error("storage failed: {0}")]
    Backend(String),
}

impl StorageError {
    /// Whether the same call may succeed when it is made again later, with nothing changed about it. After
    /// [`Timeout`](Self::Timeout) and [`OutcomeUnknown`](Self::OutcomeUnknown) a write has to be the same write for that, with
    /// its producer's sequence.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::RetriesExhausted { .. }
                | Self::TransactionFailed { .. }
                | Self::Timeout(_)
                | Self::OutcomeUnknown { .. }
                | Self::Busy { .. }
                | Self::Locked { .. }
        )
    }
}

fn of_section(section: Option<&str>) -> String {
    section.map_or_else(String::new, |section| format!("section {section} of "))
}
