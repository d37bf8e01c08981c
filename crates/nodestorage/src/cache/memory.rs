//! A cache in the memory of this process.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use moka::{Expiry, ops::compute::Op, sync::Cache as Moka};
use parking_lot::Mutex;

use super::{Cache, CacheError, Cached, Lookup};
use crate::{DocumentId, rules::json_bytes};

/// What an entry takes besides its body, about.
const ENTRY_BYTES: usize = 200;

/// Keeps documents in memory, up to a number of bytes; then those go that are read least.
///
/// Bodies are shared, not copied: to read an entry costs the same whatever its size.
#[derive(Clone)]
pub struct MemoryCache {
    entries: Moka<DocumentId, Kept>,
}

#[derive(Clone)]
struct Kept {
    entry: Cached,
    ttl: Duration,
    len_bytes: u32,
}

impl MemoryCache {
    /// The bytes that a cache takes if nothing else is said.
    pub const BYTES_MAX: u64 = 64 << 20;

    /// A cache of so many bytes. Bodies are counted by the size of their JSON text.
    pub fn new(bytes_max: u64) -> Self {
        let entries = Moka::builder()
            .max_capacity(bytes_max)
            .weigher(|id: &DocumentId, kept: &Kept| {
                kept.len_bytes.saturating_add((ENTRY_BYTES + id.as_str().len()) as u32)
            })
            .expire_after(Ttl)
            .build();
        Self { entries }
    }
}

#[cfg(test)]
impl MemoryCache {
    /// Brings the cache to its bound, which it otherwise does now and then.
    pub(super) fn settle(&self) {
        self.entries.run_pending_tasks();
    }
}

impl Default for MemoryCache {
    fn default() -> Self {
        Self::new(Self::BYTES_MAX)
    }
}

/// Each entry has its own time, from when it was last put.
struct Ttl;

impl Expiry<DocumentId, Kept> for Ttl {
    fn expire_after_create(&self, _: &DocumentId, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.ttl)
    }

    fn expire_after_update(
        &self,
        _: &DocumentId,
        kept: &Kept,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.ttl)
    }
}

#[async_trait]
impl Cache for MemoryCache {
    async fn get(&self, id: &DocumentId) -> Result<Lookup, CacheError> {
        Ok(self.peek(id).map_or(Lookup::Nothing, Lookup::Found))
    }

    fn peek(&self, id: &DocumentId) -> Option<Cached> {
        self.entries.get(id).map(|kept| kept.entry)
    }

    async fn put(&self, id: &DocumentId, entry: Cached, ttl: Duration) -> Result<bool, CacheError> {
        let len_bytes = match &entry {
            Cached::Document { body, .. } => u32::try_from(json_bytes(&**body)).unwrap_or(u32::MAX),
            Cached::Absent { .. } | Cached::Changed { .. } => 0,
        };
        let kept = Mutex::new(false);
        self.entries.entry_by_ref(id).and_compute_with(|held| {
            if held.is_some_and(|held| !entry.supersedes(&held.value().entry)) {
                return Op::Nop;
            }
            *kept.lock() = true;
            Op::Put(Kept { entry, ttl, len_bytes })
        });
        Ok(kept.into_inner())
    }

    async fn remove(&self, id: &DocumentId) -> Result<(), CacheError> {
        self.entries.invalidate(id);
        Ok(())
    }

    async fn clear(&self) -> Result<(), CacheError> {
        self.entries.invalidate_all();
        Ok(())
    }
}
