//! Writes: one path for REST, WebSocket and the application's own code.

use std::time::Duration;

use crdt_core::ClientId;
use nodestorage::{
    Body, Deleted, Document, DocumentId, EditOptions, Edited, Producer, Storage, StorageError, Upserted,
};

use super::{SyncService, edit, idempotency::Record, now_ms};
use crate::{
    protocol::{Current, Problem, ProblemType, PushOp},
    service::IdempotencyKey,
    shelf::Durability,
};

/// Under which key of its metadata an event carries the name of its request.
const NAME: &str = "idempotencyKey";

/// Who writes, and under which conditions.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteOptions {
    /// Who, and as which of its writes.
    pub producer: Producer,
    /// Only if the document is at this version; 0: only if it is absent.
    pub base_version: Option<u64>,
    /// Only if the document is there, at whatever version.
    pub only_existing: bool,
    /// Kept with the event.
    pub metadata: Body,
}

impl WriteOptions {
    /// A write without conditions by a client that does not count.
    pub fn by(client_id: ClientId) -> Self {
        let producer = Producer { client_id, sequence: None };
        Self { producer, base_version: None, only_existing: false, metadata: Body::new() }
    }
}

/// A write that is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The version that it produced, or found if it changed nothing.
    pub version: u64,
    /// The document after it (after a repeated one: now); `None` where there is none.
    pub document: Option<Document>,
    /// Whether it made the document.
    pub created: bool,
    /// Whether there is an event of it that was not there before.
    pub changed: bool,
    /// Whether it had been done before and was only answered again.
    pub repeated: bool,
}

/// A write that was refused and changed nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Why.
    pub problem: Problem,
    /// What is there now, where that helps to try again.
    pub current: Option<Current>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, current: None }
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        Problem::from(error).into()
    }
}

impl Refusal {
    /// Whether the write is surely not there and will not be. Of one that took too long, or whose store failed, nobody
    /// knows.
    fn is_final(&self) -> bool {
        self.problem.status < 500
    }

    /// The problem with what is there now inside, for transports that answer with nothing else.
    pub fn into_problem(self) -> Problem {
        match &self.current {
            Some(current) => self.problem.with_current(current),
            None => self.problem,
        }
    }
}

impl SyncService {
    /// How often a replace tries again when the document comes and goes under it.
    const REPLACE_TRIES_MAX: usize = 8;
    /// How often a named request is tried against others who write.
    const NAMED_TRIES_MAX: u32 = 32;
    /// The pause after the first of these tries; each further one is longer by as much.
    const NAMED_PAUSE: Duration = Duration::from_millis(2);

    /// Writes. Answered only after document and event are durable.
    pub async fn write(
        &self,
        id: &DocumentId,
        op: &PushOp,
        options: WriteOptions,
    ) -> Result<Written, Refusal> {
        let refused = match self.try_write(id, op, options).await {
            Ok(written) => {
                if written.changed {
                    self.hint(id);
                }
                return Ok(written);
            }
            Err(refusal) => refusal,
        };
        let helps = [
            ProblemType::VersionMismatch,
            ProblemType::AlreadyExists,
            ProblemType::UnknownDocument,
            ProblemType::InvalidPatch,
            ProblemType::SequenceGap,
        ];
        if !helps.into_iter().any(|kind| refused.problem.is(kind)) {
            return Err(refused);
        }
        let current = self.current(id).await.ok();
        Err(Refusal { current, ..refused })
    }

    /// Writes a request that has a name: repeated under the same name, it changes nothing and is answered again, also
    /// when the server died in the middle of the first time, or when it comes to two servers over one store at once.
    /// Tells the document of the first time as well, which a create without an id has drawn.
    pub async fn write_once(
        &self,
        key: &IdempotencyKey,
        id: &DocumentId,
        op: &PushOp,
        mut options: WriteOptions,
    ) -> Result<(DocumentId, Written), Refusal> {
        let table = &self.0.idempotency;
        let _claim = table.claim(&key.name)?;
        let base = self.0.storage.last_version(id).await?;
        let (fingerprint, created_at) = (key.fingerprint, now_ms());
        let fresh = Record { fingerprint, document_id: id.clone(), base, done: None, created_at, claims: 1 };
        let mut record = table.open(key, fresh, now_ms()).await?;
        // The name of the first time counts: a create without an id draws another one for each try.
        let id = record.document_id.clone();
        if let Some(version) = record.done {
            let written = self.replay(&id, version).await?;
            return Ok((id, written));
        }
        options.metadata.insert(NAME.into(), key.name.clone().into());
        match self.write_named(key, &record, op, &options).await {
            Ok(written) => {
                record.done = Some(written.version);
                // A write that made an event can be found by it; one that changed nothing has only this record.
                let durability = if written.changed { Durability::Lazy } else { Durability::Synced };
                table.keep(key, &record, durability).await?;
                Ok((id, written))
            }
            Err(refusal) => {
                // A write whose fate is not known may land yet, and its repeat finds it by this record.
                if refusal.is_final() {
                    table.forget(key, &record).await?;
                }
                Err(refusal)
            }
        }
    }

    /// Writes, unless the events since the record's base have the name already. Each try looks at the document first, then
    /// for the name, and writes only on what it has looked at: so of two processes that are at it, one finds the other's.
    async fn write_named(
        &self,
        key: &IdempotencyKey,
        record: &Record,
        op: &PushOp,
        options: &WriteOptions,
    ) -> Result<Written, Refusal> {
        let id = &record.document_id;
        for tries in 1..=Self::NAMED_TRIES_MAX {
            let found = self.0.storage.find_one(id).await?.map(|document| document.version);
            let last = match found {
                Some(version) => version,
                None => self.0.storage.last_version(id).await?,
            };
            if let Some(version) = self.find_named(key, record, last).await? {
                return Ok(self.replay(id, version).await?);
            }
            if options.only_existing && found.is_none() {
                return Err(self.absent(id, last).into());
            }
            let seen = Some(options.base_version.unwrap_or(found.unwrap_or(0)));
            let refused =
                match self.write(id, op, WriteOptions { base_version: seen, ..options.clone() }).await {
                    Ok(written) => return Ok(written),
                    Err(refused) => refused,
                };
            let last = self.0.storage.last_version(id).await?;
            if let Some(version) = self.find_named(key, record, last).await? {
                return Ok(self.replay(id, version).await?);
            }
            // Somebody wrote in between, which the request itself has nothing against.
            if options.base_version.is_some() || !refused.problem.is(ProblemType::VersionMismatch) {
                return Err(refused);
            }
            tokio::time::sleep(Self::NAMED_PAUSE * tries).await;
        }
        Err(StorageError::RetriesExhausted { attempts: Self::NAMED_TRIES_MAX }.into())
    }

    /// The version that a named request made, if it is among the events.
    async fn find_named(
        &self,
        key: &IdempotencyKey,
        record: &Record,
        last: u64,
    ) -> Result<Option<u64>, StorageError> {
        if last <= record.base {
            return Ok(None);
        }
        let carries_it = |change: &nodestorage::Change| {
            change.metadata.get(NAME).and_then(|name| name.as_str()) == Some(&key.name)
        };
        self.find_change(&record.document_id, record.base, carries_it).await
    }

    /// What is there now.
    pub async fn current(&self, id: &DocumentId) -> Result<Current, StorageError> {
        let mut found = self.0.storage.find_one(id).await?;
        let mut last = 0;
        if found.is_none() {
            last = self.0.storage.last_version(id).await?;
            // Once more: what was made between the two looks is there at the version that the second one saw.
            found = self.0.storage.find_one(id).await?;
        }
        Ok(match found {
            Some(document) => Current { version: document.version, state: Some(document.body) },
            None => Current { version: last, state: None },
        })
    }

    async fn try_write(
        &self,
        id: &DocumentId,
        op: &PushOp,
        options: WriteOptions,
    ) -> Result<Written, Refusal> {
        let mut edit_options = EditOptions {
            expected_version: options.base_version,
            producer: options.producer,
            metadata: options.metadata,
        };
        if options.only_existing && options.base_version.is_none() {
            match op {
                // Whoever creates wants it absent: refused at whatever version it is.
                PushOp::Create { .. } => edit_options.expected_version = Some(1),
                _ => return self.write_existing(id, op, edit_options).await,
            }
        }
        match op {
            PushOp::Create { state } => match self.create(id, state, edit_options).await {
                Err(StorageError::VersionMismatch { actual, .. }) if actual > 0 => {
                    let detail = format!("document {id} exists already, at version {actual}");
                    Err(Problem::new(ProblemType::AlreadyExists, detail)
                        .with("documentId", id.as_str())
                        .with("actual", actual)
                        .into())
                }
                created => Ok(created?),
            },
            PushOp::Replace { state } => self.replace(id, state, op, edit_options).await,
            PushOp::Merge { .. } | PushOp::Patch { .. } => Ok(self.update(id, op, edit_options).await?),
            PushOp::Delete => self.delete(id, edit_options).await,
        }
    }

    /// Writes to a document that must be there. The storage looks whether it did this before it looks for the document, so that a
    /// repeat is answered whatever became of that.
    async fn write_existing(
        &self,
        id: &DocumentId,
        op: &PushOp,
        options: EditOptions,
    ) -> Result<Written, Refusal> {
        if !matches!(op, PushOp::Delete) {
            return match self.update(id, op, options).await {
                Err(StorageError::NotFound { .. }) => {
                    Err(self.absent(id, self.0.storage.last_version(id).await?).into())
                }
                updated => Ok(updated?),
            };
        }
        for _ in 0..Self::REPLACE_TRIES_MAX {
            // A delete of what is absent would count as done. So it is bound to a version, and to one that no absent document has.
            let last = self.0.storage.last_version(id).await?;
            let options = EditOptions { expected_version: Some(last.max(1)), ..options.clone() };
            match self.delete(id, options).await {
                Err(refused) if refused.problem.is(ProblemType::VersionMismatch) => {
                    if refused.problem.number("actual") == Some(0) {
                        return Err(self.absent(id, last).into());
                    }
                }
                deleted => return deleted,
            }
        }
        let attempts = Self::REPLACE_TRIES_MAX as u32;
        Err(StorageError::RetriesExhausted { attempts }.into())
    }

    fn absent(&self, id: &DocumentId, last: u64) -> Problem {
        let detail = format!("document {id} does not exist, and the write was bound to its existence");
        Problem::new(ProblemType::VersionMismatch, detail)
            .with("documentId", id.as_str())
            .with("actual", last)
    }

    /// Sets all fields of a document that may or may not be there.
    async fn replace(
        &self,
        id: &DocumentId,
        state: &Body,
        op: &PushOp,
        options: EditOptions,
    ) -> Result<Written, Refusal> {
        for _ in 0..Self::REPLACE_TRIES_MAX {
            if options.expected_version != Some(0) {
                match self.update(id, op, options.clone()).await {
                    Err(StorageError::NotFound { .. }) if options.expected_version.is_none() => {}
                    updated => return Ok(updated?),
                }
            }
            match self.create(id, state, options.clone()).await {
                Err(StorageError::VersionMismatch { .. }) if options.expected_version.is_none() => {}
                created => return Ok(created?),
            }
        }
        let attempts = Self::REPLACE_TRIES_MAX as u32;
        Err(StorageError::RetriesExhausted { attempts }.into())
    }

    /// Creates, and expects the document to be absent: so that a refused create is one that used up no sequence. An expected
    /// version is that of a document which is there, so it is refused here; a storage would find the document as
    /// expected, leave it as it is and count the producer's number.
    async fn create(
        &self,
        id: &DocumentId,
        state: &Body,
        options: EditOptions,
    ) -> Result<Written, StorageError> {
        self.check(state).map_err(|problem| StorageError::Edit(problem.into()))?;
        if let Some(expected @ 1..) = options.expected_version {
            let actual = self.0.storage.find_one(id).await?.map_or(0, |document| document.version);
            return Err(StorageError::VersionMismatch { id: id.clone(), section: None, expected, actual });
        }
        let options = EditOptions { expected_version: Some(0), ..options };
        Ok(match self.0.storage.find_one_and_upsert(id, state.clone(), options).await? {
            Upserted::Created { document, .. } => {
                Written { created: true, ..Written::changed(document.version, Some(document)) }
            }
            Upserted::Repeated { version, document } => Written::repeated(version, document),
            Upserted::Existing { document } => {
                return Err(StorageError::VersionMismatch {
                    id: id.clone(),
                    section: None,
                    expected: 0,
                    actual: document.version,
                });
            }
            other => return Err(StorageError::Backend(format!("unknown result {other:?}"))),
        })
    }

    async fn update(
        &self,
        id: &DocumentId,
        op: &PushOp,
        options: EditOptions,
    ) -> Result<Written, StorageError> {
        let edit = |body: &mut Body| {
            edit::apply(op, body)?;
            Ok(self.check(body)?)
        };
        Ok(match self.0.storage.find_one_and_update(id, Box::new(edit), options).await? {
            Edited::Changed { document, .. } => Written::changed(document.version, Some(document)),
            Edited::Unchanged { document } => {
                Written { changed: false, ..Written::changed(document.version, Some(document)) }
            }
            Edited::Repeated { version, document } => Written::repeated(version, document),
            other => return Err(StorageError::Backend(format!("unknown result {other:?}"))),
        })
    }

    async fn delete(&self, id: &DocumentId, options: EditOptions) -> Result<Written, Refusal> {
        Ok(match self.0.storage.delete_one(id, options).await? {
            Deleted::Deleted { change, .. } => Written::changed(change.version, None),
            Deleted::Absent => {
                let version = self.0.storage.last_version(id).await?;
                Written { changed: false, ..Written::changed(version, None) }
            }
            Deleted::Repeated { version } => Written::repeated(version, None),
            other => return Err(StorageError::Backend(format!("unknown result {other:?}")).into()),
        })
    }

    fn check(&self, body: &Body) -> Result<(), Problem> {
        edit::check_size(body)?;
        match &self.0.rules {
            Some(rules) => rules(body).map_err(|reason| {
                Problem::new(ProblemType::InvalidDocument, reason.clone()).with("reason", reason)
            }),
            None => Ok(()),
        }
    }

    async fn replay(&self, id: &DocumentId, version: u64) -> Result<Written, StorageError> {
        Ok(Written::repeated(version, self.0.storage.find_one(id).await?))
    }

    async fn find_change(
        &self,
        id: &DocumentId,
        mut after: u64,
        wanted: impl Fn(&nodestorage::Change) -> bool,
    ) -> Result<Option<u64>, StorageError> {
        loop {
            let page = self.0.storage.changes(id, after, 64).await?;
            if let Some(found) = page.changes.iter().find(|change| wanted(change)) {
                return Ok(Some(found.version));
            }
            match page.changes.last() {
                Some(last) if page.more => after = last.version,
                _ => return Ok(None),
            }
        }
    }
}

impl Written {
    fn changed(version: u64, document: Option<Document>) -> Self {
        Self { version, document, created: false, changed: true, repeated: false }
    }

    fn repeated(version: u64, document: Option<Document>) -> Self {
        Self { version, document, created: false, changed: false, repeated: true }
    }
}
