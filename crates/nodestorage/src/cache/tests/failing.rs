//! A cache that goes away and comes back, and is as slow as a test wants.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::RwLock;

use crate::{
    DocumentId,
    cache::{Cache, CacheError, Cached, Lookup, MemoryCache},
};

#[derive(Default)]
pub(super) struct Failing {
    inner: MemoryCache,
    pub(super) is_away: AtomicBool,
    /// Held by a test that wants what is put or removed to wait.
    pub(super) hold: Arc<RwLock<()>>,
}

impl Failing {
    fn ask(&self) -> Result<&MemoryCache, CacheError> {
        match self.is_away.load(SeqCst) {
            true => Err(CacheError("it is away".to_owned())),
            false => Ok(&self.inner),
        }
    }
}

#[async_trait]
impl Cache for Failing {
    async fn get(&self, id: &DocumentId) -> Result<Lookup, CacheError> {
        self.ask()?.get(id).await
    }

    async fn put(&self, id: &DocumentId, entry: Cached, ttl: Duration) -> Result<bool, CacheError> {
        let _held = self.hold.read().await;
        self.ask()?.put(id, entry, ttl).await
    }

    async fn remove(&self, id: &DocumentId) -> Result<(), CacheError> {
        let _held = self.hold.read().await;
        self.ask()?.remove(id).await
    }

    async fn clear(&self) -> Result<(), CacheError> {
        self.ask()?.clear().await
    }
}
