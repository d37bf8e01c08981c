//! A shelf that lives as long as the process.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::RwLock;

use super::{Durability, ScanRange, Shelf, ShelfError};

/// Keeps everything in memory: for tests, and for servers whose documents live in memory too.
#[derive(Debug, Default)]
pub struct MemoryShelf {
    entries: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryShelf {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Shelf for MemoryShelf {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ShelfError> {
        Ok(self.entries.read().get(key).cloned())
    }

    async fn put(&self, key: Vec<u8>, value: Vec<u8>, _: Durability) -> Result<(), ShelfError> {
        self.entries.write().insert(key, value);
        Ok(())
    }

    async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError> {
        self.entries.write().remove(&key);
        Ok(())
    }

    async fn swap(
        &self,
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        _: Durability,
    ) -> Result<bool, ShelfError> {
        let mut entries = self.entries.write();
        if entries.get(&key) != expected.as_ref() {
            return Ok(false);
        }
        match value {
            Some(value) => drop(entries.insert(key, value)),
            None => drop(entries.remove(&key)),
        }
        Ok(true)
    }

    async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError> {
        if range.from >= range.to {
            return Ok(Vec::new());
        }
        let entries = self.entries.read();
        let found = entries.range(range.from..range.to).map(|(key, value)| (key.clone(), value.clone()));
        Ok(if range.backwards { found.rev().take(limit).collect() } else { found.take(limit).collect() })
    }

    async fn keys(&self, range: ScanRange, limit: usize) -> Result<Vec<Vec<u8>>, ShelfError> {
        if range.from >= range.to {
            return Ok(Vec::new());
        }
        let entries = self.entries.read();
        let found = entries.range(range.from..range.to).map(|(key, _)| key.clone());
        Ok(if range.backwards { found.rev().take(limit).collect() } else { found.take(limit).collect() })
    }
}
