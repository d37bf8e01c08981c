//! The record of changes: what is committed together with each document, and how it is read and watched.

use std::pin::Pin;

use crdt_core::ClientId;
use futures_util::Stream;
use serde::{Deserialize, Serialize};

use crate::{Body, Diff, DocumentId, StorageError};

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The document was absent and is there now.
    Create,
    /// The document has another body now.
    Update,
    /// One section of the document has other contents now.
    UpdateSection,
    /// The document is absent now.
    Delete,
}

/// Who asked for a change, and as which of its own writes.
///
/// Repeating a write (same client, same sequence, same document) changes nothing and gives the first answer again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Producer {
    /// Who.
    pub client_id: ClientId,
    /// The client's own count of its writes to this document: 1, 2, 3 …. `None` in a request is a client that does not
    /// count: the storage counts for it when it commits, so that every recorded change has a number.
    pub sequence: Option<u64>,
}

/// One committed change of one document. It is durable if and only if the document's state after it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Which document.
    pub document_id: DocumentId,
    /// The version that the change produced: 1, 2, 3 … without a gap, over deletes and re-creations.
    pub version: u64,
    /// The place in the order of all changes of the store, 1, 2, 3 … without a gap; the resume cursor of `watch`.
    /// 0 in a collection that does not record its changes, and in the answer to a write of a store that finds a change its
    /// place only afterwards (MongoDB).
    pub position: u64,
    /// What it did.
    pub operation: Operation,
    /// What changed, from the state before to the state after.
    pub diff: Diff,
    /// When it was committed, in milliseconds since 1970 UTC, by the storage's clock. Never goes back within a store.
    pub timestamp_ms: u64,
    /// Who asked for it.
    pub producer: Producer,
    /// Whatever the caller wants to keep with it.
    #[serde(default, skip_serializing_if = "Body::is_empty")]
    pub metadata: Body,
}

/// Some changes of one document in the order of their versions.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangePage {
    /// The changes, gapless, starting right after the version asked for.
    pub changes: Vec<Change>,
    /// Whether there are more behind the last one: the page is as long as asked for, or has reached a MiB.
    pub more: bool,
}

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the next change that is committed after the call.
    Now,
    /// With the change after this position; 0 is the beginning.
    After(u64),
}

/// Which changes a watch shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WatchFilter {
    /// Only these documents; `None` for all.
    pub documents: Option<Vec<DocumentId>>,
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The next change, in the order of positions.
    Change(std::sync::Arc<Change>),
    /// As `Change`, of a collection whose option
    /// [`watch_full_document`](crate::StorageOptions::watch_full_document) is on.
    Full {
        /// The change.
        change: std::sync::Arc<Change>,
        /// The document as it was when the event was made: at the change's version or a later one. `None` if it was
        /// deleted by then.
        document: Option<crate::Document>,
    },
    /// Changes up to this position can't be had any more (compacted away, or the store's cursor is too old):
    /// read the documents anew and go on from here.
    Missed {
        /// The position to resume after.
        resume_after: u64,
    },
    /// Up to this position there is nothing more for this watch: what came behind its last change is of other
    /// collections of the store, or of documents that it leaves out. Whoever keeps a cursor may move it there.
    Reached {
        /// The position to resume after.
        position: u64,
    },
}

/// A stream of changes. It ends when the storage is closed, and after an error.
pub type Watch = Pin<Box<dyn Stream<Item = Result<WatchEvent, StorageError>> + Send>>;
