//! A storage whose reads take as long as a test wants.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{body, by, id};
use crate::{
    Document, DocumentId, MemoryStorage, Storage, StorageError, StorageLayer, StorageOptions, clock,
    query::{Page, Query},
};

/// A storage whose reads wait to be let through.
pub(super) struct Gated {
    pub(super) inner: MemoryStorage,
    reads: AtomicUsize,
    pub(super) gate: Semaphore,
}

impl Gated {
    pub(super) async fn open(options: &StorageOptions, permits: usize) -> Arc<Self> {
        let inner = MemoryStorage::new(options.clone(), clock::system());
        for name in ["a", "b"] {
            inner.find_one_and_upsert(&id(name), body(json!({"n": 1})), by()).await.unwrap();
        }
        Arc::new(Self { inner, reads: AtomicUsize::new(0), gate: Semaphore::new(permits) })
    }

    pub(super) fn reads(&self) -> usize {
        self.reads.load(SeqCst)
    }
}

#[async_trait]
impl StorageLayer for Gated {
    fn inner(&self) -> &dyn Storage {
        &self.inner
    }

    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        let found = self.inner.find_one(id).await;
        self.reads.fetch_add(1, SeqCst);
        // What was found grows old here.
        self.gate.acquire().await.unwrap().forget();
        found
    }

    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        self.reads.fetch_add(1, SeqCst);
        self.inner.find_many(query).await
    }
}
