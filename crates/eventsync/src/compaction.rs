//! Old events go; what they made stays.

use nodestorage::{DocumentId, Storage};

use crate::{
    protocol::{Problem, ProblemType},
    service::SyncService,
};

/// Removes old events of documents, and never strands a reader: before an event goes there is a snapshot that contains
/// it, and a reader that still needed it is told to take the document's latest state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCompactor {
    /// How many of the latest events of a document stay.
    pub keep: u64,
}

impl EventCompactor {
    /// Compacts one document. Returns how many events went.
    pub async fn compact(&self, service: &SyncService, document: &DocumentId) -> Result<u64, Problem> {
        let last = service.events().latest(document).await?;
        let up_to = last.saturating_sub(self.keep);
        if up_to == 0 {
            return Ok(0);
        }
        // Durable before anything goes: what the events that stay start from.
        match service.state_at(document, up_to).await {
            Ok(base) => service.keep_snapshot(&base, up_to).await?,
            // It went before, and with it what could be made here.
            Err(problem) if problem.is(ProblemType::HistoryCompacted) => return Ok(0),
            Err(problem) => return Err(problem),
        }
        Ok(service.storage().remove_changes(document, up_to).await?)
    }
}
