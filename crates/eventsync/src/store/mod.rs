//! Where events are read: the log that the storage committed together with the documents.

mod storage_events;

use async_trait::async_trait;
use nodestorage::{DocumentId, StorageError};

use crate::event::{ClientVector, Event};

pub use storage_events::StorageEventStore;

/// The history of all documents of a collection.
///
/// It has no `append`: an event is recorded by the very commit that changes the document (so neither can be there
/// without the other), and what this trait offers is reading. Every read has a limit.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// The events of a document after a sequence number.
    async fn events_after(
        &self,
        document: &DocumentId,
        after: u64,
        limit: PageLimit,
    ) -> Result<EventPage, StorageError>;

    /// The events of a document that a state vector does not contain, looked for after a sequence number.
    /// [`EventPage::cursor`] says how far was looked, which may be further than the last event returned.
    async fn events_missing(
        &self,
        document: &DocumentId,
        vector: &ClientVector,
        after: u64,
        limit: PageLimit,
    ) -> Result<EventPage, StorageError>;

    /// The sequence number of a document's last event, also after a delete; 0 if it never was.
    async fn latest(&self, document: &DocumentId) -> Result<u64, StorageError>;

    /// The events of the whole collection after a position.
    async fn collection_after(&self, after: u64, limit: PageLimit) -> Result<EventPage, StorageError>;

    /// The last position committed.
    async fn position(&self) -> Result<u64, StorageError>;
}

/// How much one page may hold. A page always holds at least one event if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Events at most.
    pub events_max: usize,
    /// Encoded bytes after which no further event is taken.
    pub bytes_max: usize,
}

impl PageLimit {
    /// 512 events or 1 MiB.
    pub const STANDARD: Self = Self { events_max: 512, bytes_max: 1 << 20 };

    /// Fewer events than [`Self::STANDARD`], or as many.
    pub fn at_most(events: usize) -> Self {
        Self { events_max: events.clamp(1, Self::STANDARD.events_max), ..Self::STANDARD }
    }
}

/// A piece of a history.
#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    /// The events in order.
    pub events: Vec<Event>,
    /// Where to go on: everything up to here has been looked at.
    pub cursor: u64,
    /// Whether there was more behind it.
    pub more: bool,
    /// Events right after the number asked for are gone (compacted away). `events` is empty then, and for a collection
    /// `cursor` is where it goes on.
    pub gap: bool,
}
