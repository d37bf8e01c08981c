//! Caches in front of a storage.
//!
//! [`CachedStorage`] reads through a [`Cache`] and writes through it. What makes it safe: an entry has its document's
//! version, and a cache never goes back to a lower one; a reader puts what it has read only if nobody has written
//! meanwhile; while a document is being written, its readers ask the storage; and the storage's own feed of changes
//! tells of the writes of others. A cache that fails is left alone, then emptied, and only then asked again.

mod storage;
mod coherence;
mod feed;
mod hot;
mod stats;
mod store;
mod memory;
#[cfg(feature = "redis")]
pub mod frame;
#[cfg(feature = "redis")]
mod redis;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

#[cfg(feature = "redis")]
pub use self::redis::{RedisCache, RedisCacheOptions};
pub use self::{
    coherence::KNOWN_VERSIONS_MAX,
    hot::HOT_COUNTED_FACTOR,
    memory::MemoryCache,
    stats::CacheStats,
    storage::{CachedStorage, QUERY_BYTES_MAX},
    store::CachedStore,
};
use crate::{Body, Document, DocumentId};

/// What a cache knows of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Cached {
    /// It is like this.
    Document {
        /// Its version.
        version: u64,
        /// Its fields, shared and never changed.
        body: Arc<Body>,
    },
    /// It is absent: deleted at this version, or never there if that is 0.
    Absent {
        /// The version of its last change, as far as that is known.
        version: u64,
    },
    /// It has this version or a later one, and nothing more is known. Keeps out what is older.
    Changed {
        /// The lowest version that may come.
        version: u64,
    },
}

impl Cached {
    /// The version that it is about.
    pub fn version(&self) -> u64 {
        match self {
            Self::Document { version, .. } | Self::Absent { version } | Self::Changed { version } => *version,
        }
    }

    /// Whether this may take the place of what is there.
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        match (self, other) {
            // It says less.
            (Self::Changed { version }, other) => *version > other.version(),
            (this, other) => this.version() >= other.version(),
        }
    }

    /// What it answers a reader with; `None` if it says too little.
    pub(crate) fn answer(self, id: &DocumentId) -> Option<Option<Document>> {
        match self {
            Self::Document { version, body } => Some(Some(Document { id: id.clone(), version, body })),
            Self::Absent { .. } => Some(None),
            Self::Changed { .. } => None,
        }
    }

    /// What was read; `since` is a version that an absent document is known to have reached.
    pub(crate) fn of(document: Option<&Document>, since: u64) -> Self {
        match document {
            Some(document) => Self::Document { version: document.version, body: document.body.clone() },
            None => Self::Absent { version: since },
        }
    }
}

/// What a cache finds.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// An entry.
    Found(Cached),
    /// None.
    Nothing,
    /// Bytes that are no entry of this document: why not. The cache has taken them away, so that nothing is kept out
    /// by what they seem to be.
    Poisoned(String),
}

/// A cache that can't be asked. Nothing is known about whether it did what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cache unreachable: {0}")]
pub struct CacheError(pub String);

/// Where entries are kept. Losing some is no harm; going back to an older version is.
#[async_trait]
pub trait Cache: Send + Sync {
    /// What it knows of a document.
    async fn get(&self, id: &DocumentId) -> Result<Lookup, CacheError>;

    /// As [`get`](Self::get), if that takes no waiting.
    fn peek(&self, id: &DocumentId) -> Option<Cached> {
        let _ = id;
        None
    }

    /// Keeps an entry for at most so long, unless what is there is newer, all in one step. Returns whether it was kept.
    async fn put(&self, id: &DocumentId, entry: Cached, ttl: Duration) -> Result<bool, CacheError>;

    /// Forgets what it knows of a document.
    async fn remove(&self, id: &DocumentId) -> Result<(), CacheError>;

    /// Forgets everything about the collection.
    async fn clear(&self) -> Result<(), CacheError>;
}

#[cfg(test)]
mod tests;
