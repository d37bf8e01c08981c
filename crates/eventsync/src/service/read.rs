//! Reads: the latest state, a past state, what a client lacks.

use std::{collections::BTreeMap, sync::Arc};

use crdt_core::{ClientId, id::MAX_ID};
use nodestorage::{Document, DocumentId, Storage, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SyncService, locate::Place, now_ms};
use crate::{
    clock::DocumentClock,
    event::{ClientVector, Event},
    feed::{Located, Resume, Scope},
    protocol::{Problem, ProblemType},
    snapshot::Snapshot,
    store::{EventPage, PageLimit},
    vectors::{Grown, Within},
};

/// What a client asks for to catch up: `POST /api/sync/{documentId}`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncRequest {
    /// Who; what it has is remembered.
    pub client_id: Option<ClientId>,
    /// What it has, by writers.
    pub vector_clock: Option<ClientVector>,
    /// What it has, by the document's own count. With a vector as well it starts here, and gets nothing that the vector
    /// contains.
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
    /// The cursor to send for more, with the vector if there was one; `None` when this is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

impl SyncService {
    /// How many clocks of a document may turn out to be of another history: one in memory, one that is written down, and
    /// one that another process writes meanwhile.
    const CLOCK_TRIES_MAX: usize = 3;

    /// How often the end of a document is looked for that a client, as it says elsewhere meanwhile, is past each time; and how
    /// often the latest state or clock, while each is compacted away that was found.
    const LOOKS_MAX: usize = 4;

    /// How many events behind what a client has are read to know whose writes it has.
    const REMEMBERED_MAX: usize = 64;

    /// The document as it is now, with the state vector of exactly that version. Version 0 if it never was.
    pub async fn latest(&self, id: &DocumentId) -> Result<Snapshot, Problem> {
        Self::looked_again(|| self.look_at_latest(id)).await
    }

    /// What a look at the latest of a document finds; where what was the latest is none of it by now, and the events that led to
    /// it are gone, what the next one finds.
    async fn looked_again<T, L>(look: impl Fn() -> L) -> Result<T, Problem>
    where
        L: Future<Output = Result<T, Problem>>,
    {
        for _ in 1..Self::LOOKS_MAX {
            match look().await {
                Err(problem) if problem.is(ProblemType::HistoryCompacted) => {}
                looked => return looked,
            }
        }
        look().await
    }

    async fn look_at_latest(&self, id: &DocumentId) -> Result<Snapshot, Problem> {
        // The clock first: it never runs ahead of the log, so the document read after it is at its version or later.
        let mut clock = self.known_clock(id, u64::MAX).await?;
        let document = self.0.storage.find_one(id).await?;
        if document.as_ref().is_some_and(|document| document.version < clock.version) {
            // The store was put back just now. The log decides.
            clock = DocumentClock::default();
        }
        match document {
            Some(Document { version, body, .. }) => {
                self.catch_up(id, &mut clock, None, version).await?;
                self.learn(id, &clock).await;
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
        let base = self.base(id, version).await?;
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
        // One of a lost history may have the same version; it is written over.
        if let Some(same) = self.base(id, snapshot.version).await?
            && same.version == snapshot.version
        {
            return Ok((same, false));
        }
        self.0.snapshots.save(&snapshot).await?;
        // Only now, because a compaction may have come meanwhile.
        let first = self.0.storage.changes(id, 0, 1).await?.changes.first().map(|change| change.version);
        self.prune(id, first.map_or(snapshot.version, |first| first - 1)).await?;
        Ok((snapshot, true))
    }

    /// Removes old snapshots, but for what the events after `floor` start from.
    pub(crate) async fn prune(&self, id: &DocumentId, floor: u64) -> Result<(), Problem> {
        self.0.snapshots.prune(id, self.0.policy.keep, floor).await?;
        Ok(())
    }

    /// The first event behind a number that is not compacted away; where there is none, the next one to come.
    pub async fn oldest_event(&self, id: &DocumentId, after: u64) -> Result<u64, StorageError> {
        Ok(match self.place(id, after.saturating_add(1)).await? {
            Place::Event(change) => change.version,
            Place::End(last) => last.saturating_add(1),
        })
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
        check_cursor(request.cursor.unwrap_or(0))?;
        if let Some(client) = &request.client_id {
            let latest = self.latest_clock(id).await?;
            let cursor = request.cursor.unwrap_or(0);
            let updated = self.take_in(client, id, &sent, cursor, latest).await;
            // It is a memory of what clients say. The client is answered without it.
            if let Err(error) = updated {
                tracing::warn!(document = %id, %client, %error, "what a client has was not remembered");
            }
        }
        let limit = request.limit.map_or(PageLimit::STANDARD, PageLimit::at_most);
        let scope = Scope::Document(id.clone());
        let resume = match (request.cursor, &request.vector_clock) {
            (Some(cursor), _) => Resume::after(cursor, request.timestamp),
            (None, Some(vector)) => Resume::Vector(vector.clone()),
            (None, None) => Resume::Latest,
        };
        let mut found = None;
        if let Located::After { cursor, skip } = self.locate(&scope, &resume).await? {
            // On later pages too: the cursor of a page says how far was looked, not what was had before.
            let skip = skip.or_else(|| request.vector_clock.clone());
            found = self.page_with_clock(id, cursor, limit).await?.map(|(page, clock)| (page, clock, skip));
        }
        let document_id = id.clone();
        let Some((page, clock, skip)) = found else {
            let snapshot = Arc::new(self.latest(id).await?);
            let (state_vector, cursor) = (snapshot.state_vector.clone(), snapshot.version);
            let (snapshot, events) = (Some(snapshot), Vec::new());
            return Ok(SyncAnswer { document_id, snapshot, events, state_vector, cursor, next: None });
        };
        let EventPage { mut events, cursor, more, .. } = page;
        let mut state_vector = clock.vector;
        // With a vector that held more than the beginning, the client has what it sent and what it gets.
        if let Some(vector) = &skip {
            state_vector.merge(vector);
            events.retain(|event| !event.is_contained_in(vector));
        }
        let next = more.then_some(cursor);
        Ok(SyncAnswer { document_id, snapshot: None, events, state_vector, cursor, next })
    }

    /// The events after a number and the clock at the last of them; `None` where they are compacted away, or were while they
    /// were read.
    async fn page_with_clock(
        &self,
        id: &DocumentId,
        after: u64,
        limit: PageLimit,
    ) -> Result<Option<(EventPage, DocumentClock)>, Problem> {
        let page = self.events().events_after(id, after, limit).await?;
        if page.gap {
            return Ok(None);
        }
        match self.clock_at(id, page.cursor).await {
            Ok(clock) => Ok(Some((page, clock))),
            Err(problem) if problem.is(ProblemType::HistoryCompacted) => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Remembers what a client has, everything up to an event. What of that other writers made is remembered where it takes one
    /// short page: the cursor says all of it.
    pub(crate) async fn remember(
        &self,
        client: &ClientId,
        id: &DocumentId,
        cursor: u64,
    ) -> Result<(), Problem> {
        let latest = self.latest_clock(id).await?;
        let vector = self.vector_before(id, cursor, &latest).await?;
        self.take_in(client, id, &vector, cursor, latest).await
    }

    /// Takes in what a client has of a document that was just looked at.
    async fn take_in(
        &self,
        client: &ClientId,
        id: &DocumentId,
        vector: &ClientVector,
        cursor: u64,
        mut latest: DocumentClock,
    ) -> Result<(), Problem> {
        let mut lost_at = None;
        for _ in 0..Self::LOOKS_MAX {
            let within = Within { latest: &latest, lost_at };
            match self.0.vectors.update_within(id, client, vector, cursor, within, now_ms()).await? {
                Grown::To(_) => break,
                Grown::Behind { cursor } => lost_at = Some(cursor),
            }
            latest = self.latest_clock(id).await?;
        }
        Ok(())
    }

    /// The vector of a document at a version shortly before a clock; an empty one where that is not so short.
    async fn vector_before(
        &self,
        id: &DocumentId,
        version: u64,
        clock: &DocumentClock,
    ) -> Result<ClientVector, Problem> {
        if version >= clock.version {
            return Ok(clock.vector.clone());
        }
        let page = self.events().events_after(id, version, PageLimit::at_most(Self::REMEMBERED_MAX)).await?;
        if page.gap || page.cursor < clock.version {
            return Ok(ClientVector::new());
        }
        // What the clock has without what came after the version: of each writer all before its first event there.
        let mut first = BTreeMap::new();
        for event in page.events.iter().rev() {
            event.client_seq().map(|count| first.insert(event.client_id(), count));
        }
        let before = clock.vector.iter().map(|(writer, count)| {
            let count = first.get(writer).map_or(count, |first| count.min(first - 1));
            (writer.clone(), count)
        });
        Ok(before.filter(|(_, count)| *count > 0).collect())
    }

    /// The clock of a document at its last version; version 0 if it never was.
    pub async fn latest_clock(&self, id: &DocumentId) -> Result<DocumentClock, Problem> {
        let look = || async { self.clock_at(id, self.events().latest(id).await?).await };
        Self::looked_again(look).await
    }

    /// The clock of a document at exactly this version, which must have been committed.
    pub async fn clock_at(&self, id: &DocumentId, version: u64) -> Result<DocumentClock, Problem> {
        let mut clock = self.known_clock(id, version).await?;
        self.catch_up(id, &mut clock, None, version).await?;
        self.learn(id, &clock).await;
        Ok(clock)
    }

    /// Remembers a clock. Where it can't be, the next one who asks reads the log again, and this one has its answer.
    async fn learn(&self, id: &DocumentId, clock: &DocumentClock) {
        if let Err(error) = self.0.storage.clocks().learn(id, clock).await {
            tracing::warn!(document = %id, %error, "vector clock not remembered");
        }
    }

    /// The best clock that is known without reading what leads to it, at or before a version. It is of this history.
    async fn known_clock(&self, id: &DocumentId, version: u64) -> Result<DocumentClock, Problem> {
        let clocks = self.0.storage.clocks();
        // What is wrong in memory is forgotten, then perhaps what is written down.
        for _ in 0..Self::CLOCK_TRIES_MAX {
            let known = clocks.get_vector_clock(id).await?;
            if known.version == 0 || known.version > version {
                break;
            }
            if self.is_of_this_history(id, known.version, known.timestamp).await? {
                return Ok(known);
            }
            if let Err(error) = clocks.forget(id, &known).await {
                tracing::warn!(document = %id, %error, "a vector clock of a lost history is still there");
            }
        }
        Ok(self.base(id, version).await?.map(|s| s.clock()).unwrap_or_default())
    }

    /// The latest snapshot of this history at or before a version.
    pub(super) async fn base(&self, id: &DocumentId, mut version: u64) -> Result<Option<Snapshot>, Problem> {
        while let Some(found) = self.0.snapshots.at_or_before(id, version).await? {
            if self.is_of_this_history(id, found.version, found.timestamp).await? {
                return Ok(Some(found));
            }
            // It is bounded by how many snapshots are kept.
            match found.version.checked_sub(1) {
                Some(before) => version = before,
                None => break,
            }
        }
        Ok(None)
    }

    /// Whether the event of a number is the one that was made at this time. After a store was put back to a backup, what is
    /// remembered beside it may be of events that are lost, and others have their numbers by now. Where the event is compacted
    /// away, or its time was not written down, its number has to do.
    async fn is_of_this_history(
        &self,
        id: &DocumentId,
        version: u64,
        timestamp: Option<u64>,
    ) -> Result<bool, StorageError> {
        Ok(match self.place(id, version).await? {
            Place::Event(change) if change.version == version => {
                timestamp.is_none_or(|timestamp| change.timestamp_ms == timestamp)
            }
            Place::Event(_) => true,
            Place::End(last) => last >= version,
        })
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
                && let Some(base) = self.base(id, version).await?
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
pub(super) fn check_vector(vector: &ClientVector) -> Result<(), Problem> {
    match vector.iter().find(|(_, count)| *count > MAX_ID) {
        Some((client, count)) => {
            let detail = format!("state vector: count {count} of client {client} is above {MAX_ID}");
            Err(Problem::new(ProblemType::InvalidRequest, detail).with("limit", MAX_ID))
        }
        None => Ok(()),
    }
}

/// Refuses a place that is none.
fn check_cursor(cursor: u64) -> Result<(), Problem> {
    if cursor > MAX_ID {
        let detail = format!("cursor {cursor} is above {MAX_ID}");
        return Err(Problem::new(ProblemType::InvalidRequest, detail).with("limit", MAX_ID));
    }
    Ok(())
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
