//! A shelf that tells how much is read of it at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::{Durability, MemoryShelf, ScanRange, Shelf, ShelfError};

#[derive(Debug, Default)]
pub(crate) struct Watched {
    inner: MemoryShelf,
    /// The most values that one scan gave.
    pub(crate) largest: AtomicUsize,
    /// How many bytes of values were read.
    pub(crate) read_bytes: AtomicUsize,
}

#[async_trait]
impl Shelf for Watched {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ShelfError> {
        let found = self.inner.get(key).await?;
        self.read_bytes.fetch_add(found.as_ref().map_or(0, Vec::len), Ordering::Relaxed);
        Ok(found)
    }

    async fn put(&self, key: Vec<u8>, value: Vec<u8>, durability: Durability) -> Result<(), ShelfError> {
        self.inner.put(key, value, durability).await
    }

    async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError> {
        self.inner.remove(key).await
    }

    async fn swap(
        &self,
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        durability: Durability,
    ) -> Result<bool, ShelfError> {
        self.inner.swap(key, expected, value, durability).await
    }

    async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError> {
        let found = self.inner.scan(range, limit).await?;
        self.largest.fetch_max(found.len(), Ordering::Relaxed);
        self.read_bytes.fetch_add(found.iter().map(|(_, value)| value.len()).sum(), Ordering::Relaxed);
        Ok(found)
    }

    async fn keys(&self, range: ScanRange, limit: usize) -> Result<Vec<Vec<u8>>, ShelfError> {
        self.inner.keys(range, limit).await
    }
}
