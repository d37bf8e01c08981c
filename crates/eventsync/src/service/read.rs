//! Reads: the latest state, a past state, what a client lacks.

use std::sync::Arc;

use crdt_core::{ClientId, id::MAX_ID};
use nodestorage::{Document, DocumentId, Storage, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SyncService, now_ms};
use crate::{
    clock::DocumentClock,
    event::{ClientVector, Event},
    feed::{Located, Resume, ResyncReason, Scope},
    protocol::{Problem, ProblemType},
    snapshot::Snapshot,
    store::{EventPage, PageLimit},
};

/// What a client asks for to catch up: `POST /api/sync/{documentId}`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncRequest {
    /// Who; what it has is remembered.
    pub client_id: Option<ClientId>,
    /// What it has, by writers.
    pub vector_clock: Option<ClientVector>,
    /// What it has, by the document's own count; counts if both are there.
    pub cursor: Option<u64>,
    /// When the event at the cursor was made.
    pub timestamp: Option<u64>,
    /// Events at most.
    pub limit: Option<usize>,
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncAnswer {
    /// Of which document.
    pub document_id: DocumentId,
    /// A state that replaces what the client has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Arc<Snapshot>>,
    /// The events after that.
    pub events: Vec<Event>,
    /// What the client has then, by writers.
    pub state_vector: ClientVector,
    /// What the client has then, by the document's own count.
    pub cursor: u64,
    /// The cursor to send for more; `None` when this is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

impl SyncService {
    /// The document as it is now, with the state vector of exactly that version. Version 0 if it never was.
    pub async fn latest(&self, id: &DocumentId) -> Result<Snapshot, Problem> {
        // The clock first: it never runs ahead of the log, so the document read after it is at its version or later.
        let mut clock = self.known_clock(id, u64::MAX).await?;
        let document = self.0.storage.find_one(id).await?;
        if document.as_ref().is_some_and(|document| document.version < clock.version) {
            // A clock of another store (a restored backup). The log decides.
            clock = DocumentClock::default();
        }
        match document {
            Some(Document { version, body, .. }) => {
                self.catch_up(id, &mut clock, None, version).await?;
                self.0.storage.clocks().learn(id, &clock).await?;
                Ok(snapshot_of(id, clock, Some(body)))
            }
            None => {
                // Deleted, or never made, and possibly back by now: its history tells.
                let last = self.0.storage.last_version(id).await?;
                if last == 0 {
                    return Ok(snapshot_of(id, DocumentClock::default(), None));
                }
                self.state_at(id, last).await
            }
        }
    }

    /// The document as it was at a version.
    pub async fn state_at(&self, id: &DocumentId, version: u64) -> Result<Snapshot, Problem> {
        let last = self.0.storage.last_version(id).await?;
        if version == 0 || version > last {
            let detail = match last {
                0 => format!("document {id} never was"),
                _ => format!("document {id} has the versions 1 to {last}, not {version}"),
            };
            return Err(Problem::new(ProblemType::UnknownVersion, detail)
                .with("documentId", id.as_str())
                .with("version", version));
        }
        let base = self.0.snapshots.at_or_before(id, version).await?;
        let (mut clock, mut state) = match base {
            Some(base) if base.version == version => return Ok(base),
            Some(base) => (base.clock(), base.value()),
            None => (DocumentClock::default(), Value::Null),
        };
        self.catch_up(id, &mut clock, Some(&mut state), version).await?;
        let body = match state {
            Value::Object(body) => Some(Arc::new(body)),
            _ => None,
        };
        Ok(snapshot_of(id, clock, body))
    }

    /// Makes a snapshot of the document as it is now and prunes old ones. Tells whether there was none of this version.
    pub async fn snapshot(&self, id: &DocumentId) -> Result<(Snapshot, bool), Problem> {
        let snapshot = self.latest(id).await?;
        if snapshot.version == 0 {
            return Err(Problem::unknown_document(id));
        }
        if let Some(same) = self.0.snapshots.at_or_before(id, snapshot.version).await?
            && same.version == snapshot.version
        {
            return Ok((same, false));
        }
        let first = self.0.storage.changes(id, 0, 1).await?.changes.first().map(|change| change.version);
        let floor = first.map_or(snapshot.version, |first| first - 1);
        self.keep_snapshot(&snapshot, floor).await?;
        Ok((snapshot, true))
    }

    /// Keeps a snapshot and prunes old ones, but for what the events after `floor` start from.
    pub(crate) async fn keep_snapshot(&self, snapshot: &Snapshot, floor: u64) -> Result<(), Problem> {
        self.0.snapshots.save(snapshot).await?;
        self.0.snapshots.prune(&snapshot.document_id, self.0.policy.keep, floor).await?;
        Ok(())
    }

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

    /// The first event behind a number that is not compacted away; where there is none, the next one to come.
    pub async fn oldest_event(&self, id: &DocumentId, after: u64) -> Result<u64, StorageError> {
        let page = self.0.storage.changes(id, after, 1).await?;
        match page.changes.first() {
            Some(change) => Ok(change.version),
            None => Ok(self.0.storage.last_version(id).await? + 1),
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
        let page = self.0.storage.changes(id, cursor.saturating_sub(1), 1).await?;
        // The event at the cursor proves that the cursor is of this history. Without a time, its number has to do; and the
        // one after it where it is compacted away and no snapshot tells.
        let first = page.changes.first();
        if let Some(timestamp) = timestamp {
            let made_at = match first {
                Some(first) if first.version == cursor => Some(first.timestamp_ms),
                _ => self.snapshot_time(id, cursor).await?,
            };
            if made_at.is_some_and(|made_at| made_at != timestamp) {
                return Ok(elsewhere);
            }
        }
        Ok(match first {
            Some(first) if first.version <= cursor + 1 => here,
            Some(_) => Located::Latest(Some(ResyncReason::HistoryCompacted)),
            None if cursor == self.events().latest(id).await? => here,
            None => elsewhere,
        })
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
        let mut cursor = 0;
        for snapshot in self.0.snapshots.list(id, u64::MAX, self.0.policy.keep.max(1)).await? {
            if vector.contains(&snapshot.state_vector) {
                cursor = snapshot.version;
                break;
            }
        }
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

    /// Reads a page of a history.
    pub async fn page(&self, scope: &Scope, after: u64, limit: PageLimit) -> Result<EventPage, Problem> {
        Ok(match scope {
            Scope::Document(id) => self.events().events_after(id, after, limit).await?,
            Scope::Collection => self.events().collection_after(after, limit).await?,
        })
    }

    /// Catches a client up in one step, or in several when there is much.
    pub async fn sync(&self, id: &DocumentId, request: &SyncRequest) -> Result<SyncAnswer, Problem> {
        if self.events().latest(id).await? == 0 {
            return Err(Problem::unknown_document(id));
        }
        let sent = request.vector_clock.clone().unwrap_or_default();
        check_vector(&sent)?;
        if let Some(client) = &request.client_id {
            let cursor = request.cursor.unwrap_or(0);
            // What it says of writes that the document does not hold is nobody's business: whoever may read could fill the
            // store with clients that it made up.
            let latest = self.latest_clock(id).await?.vector;
            let known = |(writer, count): (&ClientId, u64)| {
                let count = count.min(latest.get(writer));
                (count > 0).then(|| (writer.clone(), count))
            };
            let sent: ClientVector = sent.iter().filter_map(known).collect();
            self.0.vectors.update(id, client, &sent, cursor, now_ms()).await?;
        }
        let limit = request.limit.map_or(PageLimit::STANDARD, PageLimit::at_most);
        let scope = Scope::Document(id.clone());
        let resume = match (request.cursor, &request.vector_clock) {
            (Some(cursor), _) => Resume::after(cursor, request.timestamp),
            (None, Some(vector)) => Resume::Vector(vector.clone()),
            (None, None) => Resume::Latest,
        };
        let (mut snapshot, mut page, mut skip) = (None, None, None);
        if let Located::After { cursor, skip: contained } = self.locate(&scope, &resume).await? {
            page = Some(self.page(&scope, cursor, limit).await?).filter(|page| !page.gap);
            skip = contained;
        }
        if page.is_none() {
            snapshot = Some(Arc::new(self.latest(id).await?));
        }
        let cursor = match (&page, &snapshot) {
            (Some(page), _) => page.cursor,
            (None, Some(snapshot)) => snapshot.version,
            (None, None) => 0,
        };
        // With a vector that held more than the beginning, the client has what it sent and what it gets.
        let mut state_vector = self.clock_at(id, cursor).await?.vector;
        if let Some(vector) = &skip {
            state_vector.merge(vector);
        }
        let more = page.as_ref().is_some_and(|page| page.more);
        let mut events = page.map_or_else(Vec::new, |page| page.events);
        events.retain(|event| !skip.as_ref().is_some_and(|vector| event.is_contained_in(vector)));
        let next = more.then_some(cursor);
        Ok(SyncAnswer { document_id: id.clone(), snapshot, events, state_vector, cursor, next })
    }

    /// The clock of a document at its last version.
    async fn latest_clock(&self, id: &DocumentId) -> Result<DocumentClock, Problem> {
        self.clock_at(id, self.events().latest(id).await?).await
    }

    /// The clock of a document at exactly this version, which must have been committed.
    pub async fn clock_at(&self, id: &DocumentId, version: u64) -> Result<DocumentClock, Problem> {
        let mut clock = self.known_clock(id, version).await?;
        self.catch_up(id, &mut clock, None, version).await?;
        self.0.storage.clocks().learn(id, &clock).await?;
        Ok(clock)
    }

    /// The best clock that is known without reading the log, at or before a version.
    async fn known_clock(&self, id: &DocumentId, version: u64) -> Result<DocumentClock, Problem> {
        let known = self.0.storage.clocks().get_vector_clock(id).await?;
        if 0 < known.version && known.version <= version {
            return Ok(known);
        }
        Ok(self.0.snapshots.at_or_before(id, version).await?.map(|s| s.clock()).unwrap_or_default())
    }

    /// Takes the events up to a version into a clock, and into the state at that clock where it is wanted.
    async fn catch_up(
        &self,
        id: &DocumentId,
        clock: &mut DocumentClock,
        mut state: Option<&mut Value>,
        version: u64,
    ) -> Result<(), Problem> {
        while clock.version < version {
            let want = usize::try_from(version - clock.version).unwrap_or(usize::MAX);
            let page = self.events().events_after(id, clock.version, PageLimit::at_most(want)).await?;
            if page.gap
                && let Some(base) = self.0.snapshots.at_or_before(id, version).await?
                && base.version > clock.version
            {
                // Whoever compacts leaves a snapshot of what goes: the clock goes on from there, and the state with it.
                *clock = base.clock();
                if let Some(state) = &mut state {
                    **state = base.value();
                }
                continue;
            }
            if page.gap || page.events.is_empty() {
                let detail = format!("events of document {id} after {} are gone", clock.version);
                return Err(
                    Problem::new(ProblemType::HistoryCompacted, detail).with("documentId", id.as_str())
                );
            }
            for event in &page.events {
                if let Some(state) = &mut state {
                    event.apply(state).map_err(internal)?;
                }
                clock.advance(event);
            }
        }
        Ok(())
    }
}

/// Refuses counts that are none.
fn check_vector(vector: &ClientVector) -> Result<(), Problem> {
    match vector.iter().find(|(_, count)| *count > MAX_ID) {
        Some((client, count)) => {
            let detail = format!("state vector: count {count} of client {client} is above {MAX_ID}");
            Err(Problem::new(ProblemType::InvalidRequest, detail).with("limit", MAX_ID))
        }
        None => Ok(()),
    }
}

fn internal(error: crate::event::DoesNotFit) -> Problem {
    tracing::error!(%error, "the history does not fit together");
    Problem::new(ProblemType::Internal, error.to_string())
}

fn snapshot_of(id: &DocumentId, clock: DocumentClock, state: Option<Arc<nodestorage::Body>>) -> Snapshot {
    Snapshot {
        document_id: id.clone(),
        version: clock.version,
        state,
        state_vector: clock.vector,
        created_at: now_ms(),
        timestamp: clock.timestamp,
    }
}
