//! Old events go; what they made stays.

use std::time::Duration;

use nodestorage::{DocumentId, Storage, StorageError};

use crate::{
    protocol::{Problem, ProblemType},
    service::{SyncService, now_ms},
};

/// Removes old events of documents, and never strands a reader: before an event goes there is a snapshot that contains
/// it, and a reader that still needed it is told to take the document's latest state.
///
/// An event goes when it is both beyond `keep` and older than `age`. A service does it by itself when its
/// [`compaction`](crate::SyncServiceOptions::compaction) says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCompactor {
    /// How many of the latest events of a document stay, however old they are.
    pub keep: u64,
    /// How long every event stays; `None`: only their number counts.
    pub age: Option<Duration>,
}

impl EventCompactor {
    /// Keeps so many events of a document, however old they are, and no others.
    pub fn keeping(keep: u64) -> Self {
        Self { keep, age: None }
    }

    /// Compacts one document. Returns how many events went.
    pub async fn compact(&self, service: &SyncService, document: &DocumentId) -> Result<u64, Problem> {
        self.compact_at(service, document, now_ms()).await
    }

    /// Compacts one document at a time, in milliseconds since 1970 UTC. Returns how many events went.
    pub async fn compact_at(
        &self,
        service: &SyncService,
        document: &DocumentId,
        now_ms: u64,
    ) -> Result<u64, Problem> {
        let last = service.events().latest(document).await?;
        let mut up_to = last.saturating_sub(self.keep);
        if let Some(age) = self.age {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            // Nothing that was written in 1970 or later is older than that.
            let Some(before_ms) = now_ms.checked_sub(age_ms) else { return Ok(0) };
            up_to = last_until(service, document, up_to, before_ms).await?;
        }
        if up_to == 0 {
            return Ok(0);
        }
        // Durable before anything goes: what the events that stay start from.
        let base = match service.state_at(document, up_to).await {
            Ok(base) => base,
            // It went before, and with it what could be made here.
            Err(problem) if problem.is(ProblemType::HistoryCompacted) => return Ok(0),
            Err(problem) => return Err(problem),
        };
        let snapshots = service.snapshots();
        // Marked, as who made a snapshot meanwhile did not see yet that events go, and removes old ones.
        snapshots.save_base(&base).await?;
        service.prune(document, up_to).await?;
        let gone = service.storage().remove_changes(document, up_to).await?;
        // One of the same version that was saved meanwhile has no mark, and may be gone again.
        if snapshots.at_or_before(document, up_to).await?.is_none_or(|left| left.version < up_to) {
            snapshots.save_base(&base).await?;
        }
        Ok(gone)
    }
}

/// The last event up to a number that was committed at a time or before; 0 if there is none left. The times of a document's
/// events never go back, so it is found by halving.
async fn last_until(
    service: &SyncService,
    document: &DocumentId,
    up_to: u64,
    before_ms: u64,
) -> Result<u64, StorageError> {
    let (mut old, mut young) = (0, up_to + 1);
    while young - old > 1 {
        let middle = old + (young - old) / 2;
        let page = service.storage().changes(document, middle - 1, 1).await?;
        match page.changes.first() {
            Some(change) if change.version < young && change.timestamp_ms > before_ms => young = middle,
            // The first one that is left may be behind the middle; all before it went already.
            Some(change) if change.version < young => old = change.version,
            _ => old = middle,
        }
    }
    Ok(old)
}
