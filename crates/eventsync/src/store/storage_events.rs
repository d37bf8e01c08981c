//! The events of a [`Storage`]: a view of its changes.

use std::sync::Arc;

use async_trait::async_trait;
use crdt_core::EncodingFormat;
use futures_util::StreamExt;
use nodestorage::{DocumentId, Storage, StorageError, WatchEvent, WatchFilter, WatchFrom};

use super::{EventPage, EventStore, PageLimit};
use crate::event::{ClientVector, Event};

/// Reads the changes of a storage as events.
pub struct StorageEventStore {
    storage: Arc<dyn Storage>,
}

impl StorageEventStore {
    /// How many changes the first read of a page takes. Changes may be large, and how large is known only after
    /// reading some; further reads of the page take as many as fit its bytes by the average so far.
    const FIRST_READ: usize = 16;

    /// The events of a storage.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    async fn read(
        &self,
        document: &DocumentId,
        after: u64,
        limit: PageLimit,
        skip: Option<&ClientVector>,
    ) -> Result<EventPage, StorageError> {
        let mut page = EventPage { events: Vec::new(), cursor: after, more: false, gap: false };
        let (mut bytes, mut looked_at, mut take) = (0, 0_usize, Self::FIRST_READ);
        loop {
            let left = limit.events_max - page.events.len();
            let take_now = take.min(left.max(1));
            let mut changes = self.storage.changes(document, page.cursor, take_now).await?;
            if changes.changes.is_empty() && page.cursor == after {
                // Nothing yet, or nothing any more? Read again, because something may have come just now.
                if self.storage.last_version(document).await? > after {
                    changes = self.storage.changes(document, after, take_now).await?;
                    page.gap = changes.changes.is_empty();
                }
            }
            for change in changes.changes {
                if change.version != page.cursor + 1 {
                    // What was read so far is good; the next page starts at the hole and says so.
                    page.gap = page.cursor == after;
                    page.more = !page.gap;
                    return Ok(page);
                }
                let event = Event::from(Arc::new(change));
                bytes += event.encoded(EncodingFormat::Json).len();
                looked_at += 1;
                page.cursor += 1;
                if !skip.is_some_and(|vector| event.is_contained_in(vector)) {
                    page.events.push(event);
                }
            }
            page.more = changes.more;
            if !page.more || page.events.len() >= limit.events_max || bytes >= limit.bytes_max {
                return Ok(page);
            }
            take = ((limit.bytes_max - bytes) / (bytes / looked_at.max(1)).max(1)).clamp(1, limit.events_max);
        }
    }
}

#[async_trait]
impl EventStore for StorageEventStore {
    async fn events_after(
        &self,
        document: &DocumentId,
        after: u64,
        limit: PageLimit,
    ) -> Result<EventPage, StorageError> {
        self.read(document, after, limit, None).await
    }

    async fn events_missing(
        &self,
        document: &DocumentId,
        vector: &ClientVector,
        after: u64,
        limit: PageLimit,
    ) -> Result<EventPage, StorageError> {
        self.read(document, after, limit, Some(vector)).await
    }

    async fn latest(&self, document: &DocumentId) -> Result<u64, StorageError> {
        self.storage.last_version(document).await
    }

    async fn collection_after(&self, after: u64, limit: PageLimit) -> Result<EventPage, StorageError> {
        let mut page = EventPage { events: Vec::new(), cursor: after, more: false, gap: false };
        // A watch goes on for ever; what was committed before the call is a page.
        let head = self.storage.position().await?;
        if after >= head {
            return Ok(page);
        }
        let mut watch = self.storage.watch(WatchFilter::default(), WatchFrom::After(after)).await?;
        let mut bytes = 0;
        while let Some(next) = watch.next().await {
            match next? {
                WatchEvent::Change(change) | WatchEvent::Full { change, .. } => {
                    let event = Event::from(change);
                    bytes += event.encoded(EncodingFormat::Json).len();
                    page.cursor = event.position();
                    page.events.push(event);
                }
                // The rest of the page of the store is of others.
                WatchEvent::Reached { position } => page.cursor = position,
                WatchEvent::Missed { resume_after } if page.events.is_empty() => {
                    return Ok(EventPage { cursor: resume_after.max(after), gap: true, ..page });
                }
                _ => {
                    page.more = true;
                    return Ok(page);
                }
            }
            page.more = page.cursor < head;
            if !page.more || page.events.len() >= limit.events_max || bytes >= limit.bytes_max {
                return Ok(page);
            }
        }
        Err(StorageError::Closed)
    }

    async fn position(&self) -> Result<u64, StorageError> {
        self.storage.position().await
    }
}
