//! A store: several collections that share one order of changes.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Storage, StorageError, StorageOptions};

/// Where collections live. All collections of a store share its positions, without a gap.
#[async_trait]
pub trait Store: Send + Sync {
    /// Opens a collection, creating it if it is absent. All handles of one collection see the same documents.
    async fn collection(&self, name: &str, options: StorageOptions)
    -> Result<Arc<dyn Storage>, StorageError>;

    /// Closes every collection: finishes what is under way, makes it durable, and refuses everything after.
    async fn close(&self) -> Result<(), StorageError>;
}

/// The longest name of a collection.
pub const COLLECTION_NAME_BYTES_MAX: usize = 120;

/// Whether a collection can be opened like this.
pub(crate) fn check_collection(name: &str, options: &StorageOptions) -> Result<(), StorageError> {
    let reason = match name {
        "" => "it is empty".to_owned(),
        name if name.len() > COLLECTION_NAME_BYTES_MAX => "it is longer than 120 bytes".to_owned(),
        name if name.chars().any(char::is_control) => "it has a control character".to_owned(),
        _ => match options.check() {
            Ok(()) => return Ok(()),
            Err(reason) => reason,
        },
    };
    Err(StorageError::InvalidCollection { name: name.to_owned(), reason })
}

/// A collection of an earlier release, which could leave out the record: its documents have no history to go on from.
#[cfg(any(feature = "embedded", feature = "mongodb"))]
pub(crate) fn unrecorded_collection(name: &str) -> StorageError {
    let reason =
        "an earlier release made it without a record of its changes; copy its documents into a new one";
    StorageError::InvalidCollection { name: name.to_owned(), reason: reason.to_owned() }
}
