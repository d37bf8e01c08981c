//! A cache that is asked by one at a time, each in their turn, as one whose connection is being opened.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    DocumentId,
    cache::{Cache, CacheError, Cached, Lookup, MemoryCache},
};

#[derive(Default)]
pub(super) struct Narrow {
    inner: MemoryCache,
    pub(super) door: Mutex<()>,
    waiting: AtomicUsize,
}

impl Narrow {
    /// How many wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.waiting.fetch_add(1, SeqCst);
        let turn = self.door.lock().await;
        self.waiting.fetch_sub(1, SeqCst);
        turn
    }
}

#[async_trait]
impl Cache for Narrow {
    async fn get(&self, id: &DocumentId) -> Result<Lookup, CacheError> {
        let _turn = self.turn().await;
        self.inner.get(id).await
    }

    async fn put(&self, id: &DocumentId, entry: Cached, ttl: Duration) -> Result<bool, CacheError> {
        let _turn = self.turn().await;
        self.inner.put(id, entry, ttl).await
    }

    async fn remove(&self, id: &DocumentId) -> Result<(), CacheError> {
        let _turn = self.turn().await;
        self.inner.remove(id).await
    }

    async fn clear(&self) -> Result<(), CacheError> {
        let _turn = self.turn().await;
        self.inner.clear().await
    }
}
