//! Documents with versions, changed by compare-and-swap, each change recorded with its diff in the same commit.
//!
//! This crate knows no clients and no transports.

pub mod change;
pub mod diff;
pub mod document;
pub mod edit;
pub mod error;
pub mod storage;

pub use change::{Change, ChangePage, Operation, Producer, Watch, WatchEvent, WatchFilter, WatchFrom};
pub use diff::Diff;
pub use document::{Body, Document, DocumentId};
pub use edit::{Deleted, EditFn, EditOptions, Edited, Upserted};
pub use error::StorageError;
pub use storage::{Storage, StorageExt};
