//! How a collection is kept.

/// The options of a collection, chosen when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageOptions {
    /// Whether each change is recorded and can be read, watched and resumed from. Without (for auxiliary collections:
    /// snapshots, vectors, anything derived) documents still have versions and compare-and-swap, but a change takes no
    /// position, and a delete leaves nothing behind: a document that is created anew starts at version 1.
    ///
    /// A collection keeps the choice that it was created with; opening it with the other is an error.
    pub record_changes: bool,
    /// The largest body, as the bytes of its JSON text. A larger one is [`InvalidDocument`](crate::StorageError).
    pub document_bytes_max: usize,
}

impl Default for StorageOptions {
    /// Recorded, bodies up to 16 MiB.
    fn default() -> Self {
        Self { record_changes: true, document_bytes_max: 16 << 20 }
    }
}

impl StorageOptions {
    /// An auxiliary collection: no record of changes.
    pub fn auxiliary() -> Self {
        Self { record_changes: false, ..Self::default() }
    }
}
