//! How a document is changed.

use std::sync::Arc;

use crdt_core::ClientId;

use crate::{Body, Change, Document, Producer};

/// Edits a copy of a body in place; may run several times (once per try), so it must have no other effects.
/// An error is returned to the caller at once and nothing is written.
pub type EditFn<'a> = Box<dyn FnMut(&mut Body) -> Result<(), EditError> + Send + 'a>;

/// As [`EditFn`], for one section of a body.
pub type SectionFn<'a> = Box<dyn FnMut(&mut serde_json::Value) -> Result<(), EditError> + Send + 'a>;

/// Why an edit refused: any error of the application.
pub type EditError = Box<dyn std::error::Error + Send + Sync>;

/// How one change is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct EditOptions {
    /// Only if the document is at this version (0: only if absent); otherwise `VersionMismatch`, without a retry.
    pub expected_version: Option<u64>,
    /// Who asks. Events carry it, and a repeated sequence is answered from the first time.
    pub producer: Producer,
    /// Kept with the change.
    pub metadata: Body,
}

impl EditOptions {
    /// A change by a client that does not count its writes.
    pub fn by(client_id: ClientId) -> Self {
        Self {
            expected_version: None,
            producer: Producer { client_id, sequence: None },
            metadata: Body::new(),
        }
    }
}

/// What became of an edit.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Edited {
    /// Committed and durable.
    Changed {
        /// The document after the change.
        document: Document,
        /// The change.
        change: Arc<Change>,
    },
    /// The edit changed nothing, so nothing was written. (The producer's sequence, if any, was noted.)
    Unchanged {
        /// The document as it is.
        document: Document,
    },
    /// The same producer and sequence has been here before; nothing was written.
    Repeated {
        /// The version that the first time produced, or found when it changed nothing. If that answer has been
        /// compacted away ([`remove_changes`](crate::Storage::remove_changes)), a later version that contains it.
        version: u64,
        /// The document as it is now; `None` when it has been deleted since.
        document: Option<Document>,
    },
}

/// What became of an upsert.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Upserted {
    /// It was absent and has been created.
    Created {
        /// The document as created.
        document: Document,
        /// The change.
        change: Arc<Change>,
    },
    /// It was there already and was left as it is.
    Existing {
        /// The document as it is.
        document: Document,
    },
    /// As [`Edited::Repeated`].
    Repeated {
        /// The version that the first time produced.
        version: u64,
        /// The document as it is now; `None` when it has been deleted since.
        document: Option<Document>,
    },
}

/// What became of a delete.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Deleted {
    /// It was there and is gone.
    Deleted {
        /// The document as it was.
        document: Document,
        /// The change.
        change: Arc<Change>,
    },
    /// It was not there.
    Absent,
    /// As [`Edited::Repeated`].
    Repeated {
        /// The version that the first time produced.
        version: u64,
    },
}
