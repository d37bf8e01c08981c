//! Small durable things beside the documents: snapshots, state vectors, clocks, idempotency keys.
//!
//! All of them can be made again from the documents' history or are worth less than a commit, so they need no
//! transaction with it. One seam serves them all.

#[cfg(feature = "embedded")]
mod embedded;
mod memory;
#[cfg(feature = "mongodb")]
mod mongo;
#[cfg(test)]
mod watched;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "embedded")]
pub use embedded::EmbeddedShelf;
pub use memory::MemoryShelf;
#[cfg(feature = "mongodb")]
pub use mongo::MongoShelf;
#[cfg(test)]
pub(crate) use watched::Watched;

/// How often [`update`] tries against others who change the same key: each time one of them got through.
const TRIES_MAX: u32 = 256;

/// The pause of [`update`] after a try that failed; each further one is longer by as much, up to sixteen times.
const TRY_PAUSE: Duration = Duration::from_millis(1);

/// Ordered keys with values.
#[async_trait]
pub trait Shelf: Send + Sync {
    /// The value of a key.
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ShelfError>;

    /// Sets a value. With [`Durability::Synced`] it survives a crash once this returns.
    async fn put(&self, key: Vec<u8>, value: Vec<u8>, durability: Durability) -> Result<(), ShelfError>;

    /// Removes a key; one that is not there is no error.
    async fn remove(&self, key: Vec<u8>) -> Result<(), ShelfError>;

    /// Gives a key a value, or none, if it holds what is expected: one step among all who share the shelf. Returns whether
    /// it did; then, with [`Durability::Synced`], it survives a crash. Whoever swaps a key relies on nobody setting it
    /// otherwise meanwhile.
    async fn swap(
        &self,
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        durability: Durability,
    ) -> Result<bool, ShelfError>;

    /// The entries from `from` (inclusive) to `to` (exclusive) in the order of the keys or against it, at most `limit`.
    async fn scan(&self, range: ScanRange, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ShelfError>;

    /// The keys that [`scan`](Self::scan) would give. Values may be large: a shelf that can leaves them where they are.
    async fn keys(&self, range: ScanRange, limit: usize) -> Result<Vec<Vec<u8>>, ShelfError> {
        Ok(self.scan(range, limit).await?.into_iter().map(|(key, _)| key).collect())
    }
}

/// What [`Shelf::scan`] looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRange {
    /// The first key.
    pub from: Vec<u8>,
    /// The key behind the last.
    pub to: Vec<u8>,
    /// Start at the end.
    pub backwards: bool,
}

impl ScanRange {
    /// All keys that start with a prefix. Prefixes here end in a zero byte, so the end is the same with a one.
    pub(crate) fn of_prefix(prefix: &[u8]) -> Self {
        let mut to = prefix.to_vec();
        *to.last_mut().expect("a prefix that ends in a zero byte") += 1;
        Self { from: prefix.to_vec(), to, backwards: false }
    }
}

/// Whether a write waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Answered only after it is on disk.
    Synced,
    /// May be lost in a crash: it can be made again, or its loss costs only time.
    Lazy,
}

/// Why a shelf failed.
#[derive(Debug, thiserror::Error)]
#[error("side store failed: {0}")]
pub struct ShelfError(pub String);

/// A key of parts. Ids hold no control characters, so a zero byte separates them and no two lists of parts collide.
pub(crate) fn key(parts: &[&str]) -> Vec<u8> {
    let mut key = Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts {
        key.extend_from_slice(part.as_bytes());
        key.push(0);
    }
    key
}

/// A value's bytes: JSON, so that an operator can read them.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ShelfError> {
    serde_json::to_vec(value).map_err(|e| ShelfError(e.to_string()))
}

/// Reads a key, decides, and swaps, as often as it takes: no write of another handle or process is lost. `change` returns the
/// new value and what to answer with; without a value nothing is written.
pub(crate) async fn update<T>(
    shelf: &(impl Shelf + ?Sized),
    key: Vec<u8>,
    durability: Durability,
    mut change: impl FnMut(Option<&[u8]>) -> Result<(Option<Vec<u8>>, T), ShelfError> + Send,
) -> Result<T, ShelfError> {
    for tries in 1..=TRIES_MAX {
        let known = shelf.get(&key).await?;
        let (value, answer) = change(known.as_deref())?;
        let Some(value) = value else { return Ok(answer) };
        if shelf.swap(key.clone(), known, Some(value), durability).await? {
            return Ok(answer);
        }
        tokio::time::sleep(TRY_PAUSE * tries.min(16)).await;
    }
    Err(ShelfError(format!("others changed the same key {TRIES_MAX} times in between")))
}

/// Goes through a range, `step` entries at a time, as values may be large: what is needed of one is to be taken out of it.
/// `visit` says whether to go on.
pub(crate) async fn walk(
    shelf: &(impl Shelf + ?Sized),
    mut range: ScanRange,
    step: usize,
    mut visit: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), ShelfError> {
    loop {
        let mut page = shelf.scan(range.clone(), step).await?;
        let goes_on = page.iter().all(|(key, value)| visit(key, value)) && page.len() >= step;
        match page.pop() {
            Some((last, _)) if goes_on && range.backwards => range.to = last,
            Some((mut last, _)) if goes_on => {
                // The next key that there may be.
                last.push(0);
                range.from = last;
            }
            _ => return Ok(()),
        }
    }
}

/// Reads a value. One that can't be read counts as absent, with a warning: everything here can be made again.
pub(crate) fn decode<T: DeserializeOwned>(kind: &'static str, bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes)
        .inspect_err(|error| tracing::warn!(kind, %error, "side store holds an unreadable value; ignored"))
        .ok()
}
