//! Where a reader goes on, from what it says that it has.

use nodestorage::{Change, DocumentId, Storage, StorageError};

use super::{SyncService, read::check_vector};
use crate::{
    event::ClientVector,
    feed::{Located, Resume, ResyncReason, Scope},
    protocol::Problem,
    store::PageLimit,
};

/// How many snapshots are listed at once where one is looked for.
const SNAPSHOTS_AT_ONCE: usize = 4;

/// What the log of a document has at a number.
pub(super) enum Place {
    /// The event of that number, or the first one after it.
    Event(Change),
    /// Nothing, there or behind; this is the last number that was given.
    End(u64),
}

impl SyncService {
    /// Finds out where a reader is.
    pub async fn locate(&self, scope: &Scope, resume: &Resume) -> Result<Located, Problem> {
        match (scope, resume) {
            (Scope::Collection, Resume::After(cursor)) => self.locate_position(*cursor, None).await,
            (Scope::Collection, Resume::AfterEvent { cursor, timestamp }) => {
                self.locate_position(*cursor, Some(*timestamp)).await
            }
            (Scope::Collection, Resume::Latest | Resume::Vector(_)) => {
                Ok(Located::After { cursor: self.events().position().await?, skip: None })
            }
            (Scope::Document(_), Resume::Latest) => Ok(Located::Latest(None)),
            (Scope::Document(id), Resume::After(cursor)) => self.locate_cursor(id, *cursor, None).await,
            (Scope::Document(id), Resume::AfterEvent { cursor, timestamp }) => {
                self.locate_cursor(id, *cursor, Some(*timestamp)).await
            }
            (Scope::Document(id), Resume::Vector(vector)) => self.locate_vector(id, vector).await,
        }
    }

    async fn locate_cursor(
        &self,
        id: &DocumentId,
        cursor: u64,
        timestamp: Option<u64>,
    ) -> Result<Located, Problem> {
        let here = Located::After { cursor, skip: None };
        let elsewhere = Located::Latest(Some(ResyncReason::CursorUnknown));
        let place = self.place(id, cursor).await?;
        // The event at the cursor proves that the cursor is of this history. Without a time, its number has to do; and the
        // one after it where it is compacted away and no snapshot tells.
        if let Some(timestamp) = timestamp {
            let made_at = match &place {
                Place::Event(first) if first.version == cursor => Some(first.timestamp_ms),
                _ => self.snapshot_time(id, cursor).await?,
            };
            if made_at.is_some_and(|made_at| made_at != timestamp) {
                return Ok(elsewhere);
            }
        }
        Ok(match place {
            Place::Event(first) if first.version <= cursor + 1 => here,
            Place::Event(_) => Located::Latest(Some(ResyncReason::HistoryCompacted)),
            Place::End(last) if last == cursor => here,
            Place::End(_) => elsewhere,
        })
    }

    /// Looks into the log of a document at a number.
    pub(super) async fn place(&self, id: &DocumentId, number: u64) -> Result<Place, StorageError> {
        if let Some(event) = self.event_at(id, number).await? {
            return Ok(Place::Event(event));
        }
        // In this order: the end of the log, read after nothing was found, would count what was written between the two looks,
        // and nobody would have looked at it.
        let last = self.0.storage.last_version(id).await?;
        Ok(self.event_at(id, number).await?.map_or(Place::End(last), Place::Event))
    }

    /// The event of a number, or the first one after it that is in the log.
    async fn event_at(&self, id: &DocumentId, number: u64) -> Result<Option<Change>, StorageError> {
        let page = self.0.storage.changes(id, number.saturating_sub(1), 1).await?;
        Ok(page.changes.into_iter().next())
    }

    /// When the event was made that a snapshot of exactly this version ends with, if there is one that tells.
    async fn snapshot_time(&self, id: &DocumentId, version: u64) -> Result<Option<u64>, Problem> {
        let found = self.0.snapshots.at_or_before(id, version).await?;
        Ok(found.filter(|found| found.version == version).and_then(|found| found.timestamp))
    }

    async fn locate_position(&self, cursor: u64, timestamp: Option<u64>) -> Result<Located, Problem> {
        let head = self.events().position().await?;
        let mut known = cursor <= head;
        if let Some(timestamp) = timestamp.filter(|_| known && cursor > 0) {
            let page = self.events().collection_after(cursor - 1, PageLimit::at_most(1)).await?;
            // One that is compacted away may have been it.
            let there = page.events.first().filter(|event| event.position() == cursor);
            known = there.is_none_or(|event| event.timestamp() == timestamp);
        }
        Ok(if known {
            Located::After { cursor, skip: None }
        } else {
            Located::Moved { reason: ResyncReason::CursorUnknown, cursor: head }
        })
    }

    /// The longest beginning of the history that the vector contains, and the vector for what is contained behind it.
    async fn locate_vector(&self, id: &DocumentId, vector: &ClientVector) -> Result<Located, Problem> {
        check_vector(vector)?;
        let latest = self.latest(id).await?;
        if vector.contains(&latest.state_vector) {
            return Ok(Located::After { cursor: latest.version, skip: Some(vector.clone()) });
        }
        let mut cursor = self.contained_snapshot(id, vector, latest.version).await?;
        loop {
            let page = self.events().events_after(id, cursor, PageLimit::STANDARD).await?;
            if page.gap {
                return Ok(Located::Latest(Some(ResyncReason::HistoryCompacted)));
            }
            let contained = page.events.iter().take_while(|event| event.is_contained_in(vector)).count();
            cursor += contained as u64;
            if contained < page.events.len() || !page.more {
                return Ok(Located::After { cursor, skip: Some(vector.clone()) });
            }
        }
    }

    /// The version of the latest snapshot that a vector contains; 0 without one. From the newest on: who comes back was mostly
    /// there not long ago, and few are kept. Only the one that is found is looked at whole.
    async fn contained_snapshot(
        &self,
        id: &DocumentId,
        vector: &ClientVector,
        last: u64,
    ) -> Result<u64, Problem> {
        let mut before = last.saturating_add(1);
        loop {
            let some = self.0.snapshots.list(id, before, SNAPSHOTS_AT_ONCE).await?;
            let Some(oldest) = some.last() else { return Ok(0) };
            before = oldest.version;
            for snapshot in some.iter().filter(|snapshot| vector.contains(&snapshot.state_vector)) {
                // A list may tell of a snapshot that another one has taken the place of.
                let base = self.base(id, snapshot.version).await?;
                if base.is_some_and(|base| {
                    base.version == snapshot.version && vector.contains(&base.state_vector)
                }) {
                    return Ok(snapshot.version);
                }
            }
        }
    }
}
