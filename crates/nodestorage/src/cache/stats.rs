//! How well a cache does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the cached storage was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Reads that the cache answered.
    pub hits: u64,
    /// Reads that went to the storage because the cache had nothing.
    pub misses: u64,
    /// Reads that waited for another reader's trip to the storage instead of making one.
    pub shared: u64,
    /// Reads that went past the cache: the document was being written, or the cache could not be trusted.
    pub bypassed: u64,
    /// Pages of queries that the cache answered.
    pub query_hits: u64,
    /// Pages of queries that were read, where query results are cached.
    pub query_misses: u64,
    /// Entries that were put.
    pub fills: u64,
    /// Entries that were not put, as somebody wrote meanwhile.
    pub fills_refused: u64,
    /// Entries that were older than what was known, and were not served.
    pub stale: u64,
    /// Entries that were not readable, and were not served.
    pub poisoned: u64,
    /// Changes by others that the feed told of.
    pub invalidated: u64,
    /// How often the cache could not be asked.
    pub errors: u64,
    /// How often it was emptied to be trusted again.
    pub cleared: u64,
}

impl CacheStats {
    /// The share of reads that made no trip to the storage: 0 to 1, and 0 before the first read.
    pub fn hit_rate(&self) -> f64 {
        let free = self.hits + self.shared;
        let reads = free + self.misses + self.bypassed;
        if reads == 0 { 0.0 } else { free as f64 / reads as f64 }
    }
}

macro_rules! counters {
    ($($name:ident)*) => {
        /// The counts as they are made.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn read(&self) -> CacheStats {
                CacheStats { $($name: self.$name.0.load(Relaxed),)* }
            }
        }
    };
}

counters!(
    hits misses shared bypassed query_hits query_misses fills fills_refused stale poisoned invalidated errors cleared
);

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn up(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_was_never_read_has_a_rate() {
        assert!(CacheStats::default().hit_rate().abs() < f64::EPSILON);
        let stats = CacheStats { hits: 2, shared: 1, misses: 1, ..CacheStats::default() };
        assert!((stats.hit_rate() - 0.75).abs() < f64::EPSILON);
    }
}
