//! Documents with versions, changed by compare-and-swap, each change recorded with its diff in the same commit.
//!
//! This crate knows no clients and no transports.

pub mod change;
pub mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod diff;
pub mod document;
pub mod edit;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod error;
pub mod memory;
pub mod options;
mod rules;
pub mod storage;
pub mod store;
mod verbs;
mod watch;

pub use change::{Change, ChangePage, Operation, Producer, Watch, WatchEvent, WatchFilter, WatchFrom};
pub use clock::Clock;
pub use diff::{Diff, DiffError};
pub use document::{Body, Document, DocumentId};
pub use edit::{Deleted, EditFn, EditOptions, Edited, Upserted};
#[cfg(feature = "embedded")]
pub use embedded::{Durability, EmbeddedOptions, EmbeddedStorage, EmbeddedStore};
pub use error::StorageError;
pub use memory::{MemoryStorage, MemoryStore};
pub use options::StorageOptions;
pub use storage::{Storage, StorageExt};
pub use store::Store;
