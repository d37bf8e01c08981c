//! A shelf in a folder.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use super::{Durability, ScanRange, Shelf, ShelfError};

/// Keeps everything in a folder of its own. One process at a time.
#[derive(Clone)]
pub struct EmbeddedShelf {
    database: Database,
    entries: Keyspace,
    /// Held from looking at a value to setting it.
    swapping: Arc<Mutex<()>>,
}

impl From<fjall::Error> for ShelfError {
    fn from(error: fjall::Error) -> Self {
        Self(error.to_string())
    }
}

impl EmbeddedShelf {
    /// The cache for reading; what is here is small and rarely read.
    const CACHE_BYTES: u64 = 8 << 20;

    /// Opens the folder or makes it.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, ShelfError> {
        let database = Database::builder(folder).cache_size(Self::CACHE_BYTES).open()?;
        let entries = database.keyspace("entries", KeyspaceCreateOptions::default)?;
        Ok(Self { database, entries, swapping: Arc::default() })
    }

    /// Runs engine code where it may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ShelfError> + Send + 'static,
    ) -> Result<T, ShelfError> {
        let this = self.clone();
        spawn_blocking(move || work(&this)).await.map_err(|e| ShelfError(e.to_string()))?
    }
}

#[async_trait]
impl Shelf for EmbeddedShelf {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ShelfError> {
        let key = key.to_vec();
        self.blocking(move |shelf| Ok(shelf.entries.get(key)?.map(|value| value.to_vec()))).await
    }

    async fn put(&self, key: Vec<u8>, value: Vec<u8>, durability: Durability) -> Result<(), ShelfError> {
        self.blocking(move |shelf| {
            shelf.entries.insert(key, value)?;
            match durability {
                Durability::Synced => Ok(shelf.database.persist(PersistMode::SyncAll)?),
                Durability::Lazy => Ok(()),
            }
        })
        .await
    }

    async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError> {
        self.blocking(move |shelf| Ok(shelf.entries.remove(key)?)).await
    }

    async fn swap(
        &self,
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        durability: Durability,
    ) -> Result<bool, ShelfError> {
        self.blocking(move |shelf| {
            let swapping = shelf.swapping.lock();
            if shelf.entries.get(&key)?.map(|value| value.to_vec()) != expected {
                return Ok(false);
            }
            match value {
                Some(value) => shelf.entries.insert(key, value)?,
                None => shelf.entries.remove(key)?,
            }
            drop(swapping);
            if durability == Durability::Synced {
                shelf.database.persist(PersistMode::SyncAll)?;
            }
            Ok(true)
        })
        .await
    }

    async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError> {
        self.blocking(move |shelf| {
            if range.from >= range.to {
                return Ok(Vec::new());
            }
            let found = shelf.entries.range(range.from..range.to);
            let take = |guard: fjall::Guard| {
                let (key, value) = guard.into_inner()?;
                Ok((key.to_vec(), value.to_vec()))
            };
            if range.backwards {
                found.rev().take(limit).map(take).collect()
            } else {
                found.take(limit).map(take).collect()
            }
        })
        .await
    }

    async fn keys(&self, range: ScanRange, limit: usize) -> Result<Vec<Vec<u8>>, ShelfError> {
        self.blocking(move |shelf| {
            if range.from >= range.to {
                return Ok(Vec::new());
            }
            let found = shelf.entries.range(range.from..range.to);
            let take = |guard: fjall::Guard| Ok(guard.key()?.to_vec());
            if range.backwards {
                found.rev().take(limit).map(take).collect()
            } else {
                found.take(limit).map(take).collect()
            }
        })
        .await
    }
}
