//! How a collection is kept.

use std::time::Duration;

use crate::{Index, query::FieldPath};

/// The options of a collection, chosen when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageOptions {
    /// The largest body, as the bytes of its JSON text. A larger one is [`InvalidDocument`](crate::StorageError).
    pub document_bytes_max: usize,
    /// The name under which filters and sorts find a document's version. A body can't have a field of this name; a
    /// backend that keeps the version inside its own documents keeps it there.
    pub version_field: String,
    /// The name under which a section counts its own changes, if its value is an object. With it, the
    /// [`expected_version`](crate::EditOptions::expected_version) of an
    /// [`update_section`](crate::Storage::update_section) is that of the section: writers of different sections never
    /// refuse each other. Without it, it is that of the document.
    pub section_version_field: Option<String>,
    /// The indexes that the collection has from the start; see [`create_index`](crate::Storage::create_index). An
    /// index that is not named here stays until it is dropped.
    pub indexes: Vec<Index>,
    /// How often a write that lost against another writer is tried again, where the backend compares and swaps from
    /// outside, and how often a transaction is. Then it is [`RetriesExhausted`](crate::StorageError), or
    /// [`TransactionFailed`](crate::StorageError).
    pub retries_max: u32,
    /// The pause before the first retry; each next one is twice as long.
    pub retry_delay: Duration,
    /// The longest pause before a retry.
    pub retry_delay_max: Duration,
    /// By how much of itself, in percent, a pause is made shorter at random, so that writers who met don't meet again.
    pub retry_jitter_percent: u8,
    /// How long one operation may take, its retries included, before it is [`Timeout`](crate::StorageError). Of a store in this
    /// process, a write; its reads wait for nothing but the disk.
    pub operation_timeout: Duration,
    /// How long a transaction may take, its retries included.
    pub transaction_timeout: Duration,
    /// How many changes a transaction may make. One more is [`Busy`](crate::StorageError).
    pub transaction_changes_max: usize,
    /// How long a cache may keep what it has read, if nothing tells it earlier that it has changed.
    pub cache_ttl: Duration,
    /// Whether a cache also keeps the pages of queries, until anything in the collection changes.
    pub cache_queries: bool,
    /// How many of the documents that are read most a cache keeps warm: reads them anew when they change, before
    /// somebody asks. 0 for none.
    pub cache_hot_max: usize,
    /// Whether changes can be watched. Without, [`watch`](crate::Storage::watch) is
    /// [`Unsupported`](crate::StorageError).
    pub watch_enabled: bool,
    /// Whether a watch also reads the document: [`WatchEvent::Full`](crate::WatchEvent::Full) instead of
    /// [`WatchEvent::Change`](crate::WatchEvent::Change).
    pub watch_full_document: bool,
    /// How often a watch looks for changes where the backend can't tell of them.
    pub watch_poll_interval: Duration,
}

impl Default for StorageOptions {
    /// Bodies up to 16 MiB, ten retries from 5 ms up to one second, half a minute for an operation, a minute
    /// for a transaction, caches of five minutes with 64 documents kept warm.
    fn default() -> Self {
        Self {
            document_bytes_max: 16 << 20,
            version_field: "_version".to_owned(),
            section_version_field: None,
            indexes: Vec::new(),
            retries_max: 10,
            retry_delay: Duration::from_millis(5),
            retry_delay_max: Duration::from_secs(1),
            retry_jitter_percent: 50,
            operation_timeout: Duration::from_secs(30),
            transaction_timeout: Duration::from_secs(60),
            transaction_changes_max: 1_000,
            cache_ttl: Duration::from_secs(300),
            cache_queries: false,
            cache_hot_max: 64,
            watch_enabled: true,
            watch_full_document: false,
            watch_poll_interval: Duration::from_millis(250),
        }
    }
}

impl StorageOptions {
    /// Whether the options make sense: which one does not, and why.
    pub(crate) fn check(&self) -> Result<(), String> {
        let names = [("version_field", Some(&self.version_field))];
        let names = names.into_iter().chain([("section_version_field", self.section_version_field.as_ref())]);
        for (option, name) in names {
            let plain = |name: &str| {
                name != FieldPath::ID && FieldPath::new(name).is_ok_and(|path| path.names().len() == 1)
            };
            if let Some(name) = name.filter(|name| !plain(name)) {
                return Err(format!("{option} is {name:?}, not the name of a field"));
            }
        }
        if self.retry_jitter_percent > 100 {
            return Err(format!("retry_jitter_percent is {}, more than 100", self.retry_jitter_percent));
        }
        for (option, duration) in [
            ("operation_timeout", self.operation_timeout),
            ("transaction_timeout", self.transaction_timeout),
            ("cache_ttl", self.cache_ttl),
            ("watch_poll_interval", self.watch_poll_interval),
        ] {
            if duration.is_zero() {
                return Err(format!("{option} is zero"));
            }
        }
        Ok(())
    }
}
