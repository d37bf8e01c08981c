//! A store whose collections are cached.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Cache, CachedStorage};
use crate::{Storage, StorageError, StorageOptions, Store};

/// Makes the cache of a collection.
type MakeCache = Box<dyn Fn(&str) -> Arc<dyn Cache> + Send + Sync>;

/// A store with a cache in front of each collection. All handles of a collection share its cache.
pub struct CachedStore {
    inner: Arc<dyn Store>,
    cache: MakeCache,
    /// The first handle of each collection, which nobody closes. Async, as a cache is put in step before it is used.
    collections: Mutex<Option<HashMap<String, CachedStorage>>>,
}

impl CachedStore {
    /// Puts caches in front of a store; `cache` makes one for a collection, by its name.
    pub fn new(
        inner: Arc<dyn Store>,
        cache: impl Fn(&str) -> Arc<dyn Cache> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, cache: Box::new(cache), collections: Mutex::new(Some(HashMap::new())) }
    }

    /// Opens a collection. The options of its cache are those of whoever opens it first.
    pub async fn cached(&self, name: &str, options: StorageOptions) -> Result<CachedStorage, StorageError> {
        let mut collections = self.collections.lock().await;
        let collections = collections.as_mut().ok_or(StorageError::Closed)?;
        let inner = self.inner.collection(name, options.clone()).await?;
        if !collections.contains_key(name) {
            let own = self.inner.collection(name, options.clone()).await?;
            let cache = (self.cache)(name);
            let storage = CachedStorage::over(Arc::clone(&own), own, cache, options).await;
            collections.insert(name.to_owned(), storage);
        }
        Ok(collections[name].again(inner))
    }
}

#[async_trait]
impl Store for CachedStore {
    async fn collection(
        &self,
        name: &str,
        options: StorageOptions,
    ) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(self.cached(name, options).await?))
    }

    async fn close(&self) -> Result<(), StorageError> {
        if let Some(collections) = self.collections.lock().await.take() {
            // The caches would still answer.
            for storage in collections.values() {
                storage.shared.closed.store(true, Ordering::Release);
            }
        }
        self.inner.close().await
    }
}
