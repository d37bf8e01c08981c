//! How a watch reads the log: backfill and live tail are the same reading.
//!
//! A watcher is a position and nothing else. It is woken when the log has grown and reads on from its position, a
//! page at a time, so there is no queue that could overflow, no hand-over that could miss or repeat a change, and a
//! slow watcher costs nobody anything.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::watch;

use crate::{Change, DocumentId, Storage, StorageError, StorageOptions, Watch, WatchEvent, WatchFilter};

/// How many log entries a watcher holds at most.
const PAGE_MAX: usize = 256;

/// How many bytes of changes one reading takes from the disk or the database, as they are kept there. A page ends with
/// the change that reaches this; the next one goes on behind it.
pub(crate) const PAGE_BYTES_MAX: usize = 1 << 20;

/// One position of the log.
#[derive(Debug, Clone)]
pub(crate) struct LogEntry {
    pub(crate) position: u64,
    pub(crate) collection: u32,
    /// `None` for a mark that something was missed, whichever document it was of.
    pub(crate) id: Option<DocumentId>,
    /// `None` when the change has been compacted away.
    pub(crate) change: Option<Arc<Change>>,
}

/// The entries after a position.
#[derive(Debug)]
pub(crate) struct LogPage {
    /// The positions up to here are no longer in the log.
    pub(crate) floor: u64,
    /// The last position of the log.
    pub(crate) last: u64,
    /// What comes right after the position asked for, or after `floor` if that is higher. Fewer than asked for do not mean
    /// that there are no more; none does.
    pub(crate) entries: Vec<LogEntry>,
}

/// A log that can be read from any position.
#[async_trait]
pub(crate) trait Log: Send + Sync {
    async fn read(&self, after: u64, limit: usize) -> Result<LogPage, StorageError>;
}

/// What watchers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tide {
    /// The last durable position.
    pub(crate) position: u64,
    /// How often the log was put back under the store: by then `position` may have gone down, and what a watcher has behind it is
    /// of another life.
    pub(crate) put_back: u64,
    pub(crate) closed: bool,
}

/// The reading position of one watcher, and what it passes on.
#[derive(Debug)]
struct Cursor {
    collection: u32,
    documents: Option<HashSet<DocumentId>>,
    after: u64,
}

impl Cursor {
    /// The log was put back, and ended at `last` when that was seen.
    fn go_back(&mut self, last: u64) -> WatchEvent {
        self.after = self.after.min(last);
        WatchEvent::Missed { resume_after: self.after }
    }

    fn take(&mut self, page: LogPage) -> Result<VecDeque<WatchEvent>, StorageError> {
        let mut events = VecDeque::new();
        let mut passed_over = false;
        if self.after < page.floor || self.after > page.last {
            // Ahead of the log is a cursor from another life of the store: as good as none.
            self.after = if self.after < page.floor { page.floor } else { page.last };
            events.push_back(WatchEvent::Missed { resume_after: self.after });
        }
        for entry in page.entries {
            if entry.position != self.after + 1 {
                return Err(StorageError::Corrupt {
                    place: format!("position {}", self.after + 1),
                    reason: format!("the log goes on at {}", entry.position),
                });
            }
            self.after = entry.position;
            let of_these = |documents: &HashSet<_>| entry.id.as_ref().is_none_or(|id| documents.contains(id));
            let wanted = entry.collection == self.collection && self.documents.as_ref().is_none_or(of_these);
            passed_over = !wanted;
            match (wanted, entry.change) {
                (false, _) => {}
                (true, Some(change)) => events.push_back(WatchEvent::Change(change)),
                (true, None) => {
                    // One notice for a run of lost changes.
                    if matches!(events.back(), Some(WatchEvent::Missed { .. })) {
                        events.pop_back();
                    }
                    events.push_back(WatchEvent::Missed { resume_after: entry.position });
                }
            }
        }
        if passed_over {
            // Who reads up to a position of the store would wait for a change of its own that never comes.
            events.push_back(WatchEvent::Reached { position: self.after });
        }
        Ok(events)
    }
}

/// Whether a collection can be watched.
pub(crate) fn check(options: &StorageOptions) -> Result<(), StorageError> {
    if options.watch_enabled {
        return Ok(());
    }
    let backend = "a collection whose option watch_enabled is off";
    Err(StorageError::Unsupported { what: "watch".into(), backend })
}

/// Streams the log of a collection after a position until one of the two handles is closed. With `full`, the documents
/// are read there and come with the changes.
pub(crate) fn stream(
    log: Arc<dyn Log>,
    (collection, filter, after): (u32, WatchFilter, u64),
    full: Option<Arc<dyn Storage>>,
    tide: watch::Receiver<Tide>,
    closed: watch::Receiver<bool>,
) -> Watch {
    let documents = filter.documents.map(HashSet::from_iter);
    let cursor = Cursor { collection, documents, after };
    let put_back = tide.borrow().put_back;
    let reader = Reader { log, cursor, full, tide, closed, ready: VecDeque::new(), fresh: true, put_back };
    Box::pin(stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(event) => event.map(|event| (Ok(event), Some(reader))),
            // Closed while a document was read: the end, as everywhere else.
            Err(StorageError::Closed) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

struct Reader {
    log: Arc<dyn Log>,
    cursor: Cursor,
    full: Option<Arc<dyn Storage>>,
    tide: watch::Receiver<Tide>,
    closed: watch::Receiver<bool>,
    ready: VecDeque<WatchEvent>,
    /// The first reading does not wait: it finds out whether the cursor is one of this log.
    fresh: bool,
    /// How often the log was put back, as far as this watcher was told.
    put_back: u64,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<WatchEvent>, StorageError> {
        loop {
            if *self.closed.borrow() || self.tide.borrow().closed {
                return Ok(None);
            }
            match (self.ready.pop_front(), &self.full) {
                (Some(WatchEvent::Change(change)), Some(documents)) => {
                    let document = documents.find_one(&change.document_id).await?;
                    return Ok(Some(WatchEvent::Full { change, document }));
                }
                (Some(event), _) => return Ok(Some(event)),
                (None, _) => {}
            }
            if !std::mem::take(&mut self.fresh) {
                let (after, told) = (self.cursor.after, self.put_back);
                let moved = |tide: &Tide| tide.closed || tide.position > after || tide.put_back != told;
                tokio::select! {
                    moved = self.tide.wait_for(moved) => {
                        if moved.is_err() { return Ok(None); }
                    }
                    _ = self.closed.wait_for(|closed| *closed) => return Ok(None),
                }
            }
            let tide = *self.tide.borrow();
            if tide.put_back != self.put_back {
                self.put_back = tide.put_back;
                self.ready.push_back(self.cursor.go_back(tide.position));
                continue;
            }
            // A reading may wait for a server that is away; closing does not.
            let page = tokio::select! {
                page = self.log.read(self.cursor.after, PAGE_MAX) => page?,
                _ = self.closed.wait_for(|closed| *closed) => return Ok(None),
                _ = self.tide.wait_for(|tide| tide.closed) => return Ok(None),
            };
            self.ready = self.cursor.take(page)?;
        }
    }
}
