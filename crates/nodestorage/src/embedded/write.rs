//! What a writer does: decides behind its document's gate, takes its place in the queue, waits for its batch.

use std::{ops::Bound, sync::Arc};

use async_trait::async_trait;
use crdt_core::ClientId;

use super::{
    EmbeddedStorage,
    committer::Answered,
    engine::{Engine, Write, corrupt},
    queue::{Order, Part, Pending, Request},
    record::{self, ChangeRecord, DocumentKey, Head, LogRecord, Space, trailing_number},
};
use crate::{
    Body, Change, Diff, Document, DocumentId, EditOptions, Operation, Producer, StorageError, StorageOptions,
    retry::within,
    rules::{self, Turn},
    transaction::staging::{Commit, Draft, Entry, Ground, Outside, StagedChange},
    verbs::{Outcome, Step},
    watch::LogEntry,
};

/// What a writer finds behind the gate of its document.
struct Found {
    key: DocumentKey,
    /// The version that the next change follows; that of the delete if it is deleted.
    version: u64,
    document: Option<Document>,
    /// What the queue holds about it. An answer that rests on it waits for it.
    pending: Option<Pending>,
}

/// What a verb comes to.
enum Decision {
    Write { operation: Operation, after: Option<Body>, sequence: u64 },
    Keep,
    Repeated(u64),
}

/// A change with all that can be worked out before it has its place in the queue.
struct Prepared {
    key: DocumentKey,
    id: DocumentId,
    version: u64,
    operation: Operation,
    body: Option<Arc<Body>>,
    diff: Diff,
    producer: Producer,
    metadata: Body,
    writes: Vec<Write>,
    record: ChangeRecord,
}

impl EmbeddedStorage {
    /// Carries out one verb.
    pub(super) async fn run(
        &self,
        id: &DocumentId,
        options: EditOptions,
        verb: impl FnOnce(Option<&Document>) -> Result<Step, StorageError> + Send,
    ) -> Result<Outcome, StorageError> {
        rules::check_metadata(id, &options.metadata, &self.options)?;
        within(self.options.operation_timeout, self.carry_out(id, options, verb)).await
    }

    async fn carry_out(
        &self,
        id: &DocumentId,
        options: EditOptions,
        verb: impl FnOnce(Option<&Document>) -> Result<Step, StorageError> + Send,
    ) -> Result<Outcome, StorageError> {
        let engine = self.engine()?;
        let key = self.key(id);
        let gate = self.shared.gate(&key).lock().await;
        let found = self.find(&engine, key, id)?;
        match self.decide(&engine, &found, &options, verb) {
            Ok(Decision::Write { operation, after, sequence }) => {
                let (version, before) = (found.version + 1, found.document.clone());
                let staged =
                    StagedChange { id: id.clone(), operation, before, after, version, sequence, options };
                let prepared = self.prepare(found.key, staged)?;
                let document = prepared.document().or(found.document);
                let (mut changes, answered) = self.push(vec![prepared], Vec::new()).await?;
                drop(gate);
                answered.durable().await?;
                let change = changes.pop().expect("one was pushed");
                Ok(Outcome::Changed { document: document.expect("it is there now or was before"), change })
            }
            Ok(Decision::Keep) => {
                match options.producer.sequence {
                    Some(sequence) => {
                        let note = note(&found.key, options.producer.client_id, sequence, found.version);
                        let (_, answered) = self.push(Vec::new(), vec![(note, found.pending())]).await?;
                        drop(gate);
                        answered.durable().await?;
                    }
                    None => {
                        drop(gate);
                        self.settle(&found).await?;
                    }
                }
                Ok(Outcome::Kept(found.document))
            }
            Ok(Decision::Repeated(sequence)) => {
                drop(gate);
                self.settle(&found).await?;
                let version = answer(&engine, &found.key, &options.producer.client_id, sequence)?;
                let version = version.ok_or_else(|| no_answer(&found.key))?;
                Ok(Outcome::Repeated { version, document: found.document })
            }
            Err(error) => {
                drop(gate);
                self.settle(&found).await?;
                Err(error)
            }
        }
    }

    fn find(&self, engine: &Engine, key: DocumentKey, id: &DocumentId) -> Result<Found, StorageError> {
        let pending = self.shared.queue.pending(&key);
        let (version, body) = match &pending {
            Some(pending) => (pending.version, pending.body.clone()),
            None => match engine.get(Space::Documents, key.as_bytes(), Head::decode)? {
                Some(head) => (head.version, head.body.map(Arc::new)),
                None => (0, None),
            },
        };
        let document = body.map(|body| Document { id: id.clone(), version, body });
        Ok(Found { key, version, document, pending })
    }

    fn decide(
        &self,
        engine: &Engine,
        found: &Found,
        options: &EditOptions,
        verb: impl FnOnce(Option<&Document>) -> Result<Step, StorageError>,
    ) -> Result<Decision, StorageError> {
        let Producer { client_id, sequence } = &options.producer;
        let sequence = match rules::turn(*sequence, found.last_sequence(engine, client_id)?)? {
            Turn::Next(sequence) => sequence,
            Turn::Repeated(sequence) => return Ok(Decision::Repeated(sequence)),
        };
        let document = found.document.as_ref();
        let id = document.map_or_else(|| split_id(&found.key), |document| document.id.clone());
        rules::expect_version(&id, options, document.map_or(0, |document| document.version))?;
        match verb(document)? {
            Step::Keep => Ok(Decision::Keep),
            Step::Write(operation, after) => {
                if let Some(after) = &after {
                    rules::check_body(&id, after, &self.options)?;
                }
                Ok(Decision::Write { operation, after, sequence })
            }
        }
    }

    /// Works out what a change writes.
    fn prepare(&self, key: DocumentKey, staged: StagedChange) -> Result<Prepared, StorageError> {
        let StagedChange { id, operation, before, after, version, sequence, options } = staged;
        let diff = Diff::between(before.as_ref().map(|d| &*d.body), after.as_ref(), version);
        let producer = Producer { client_id: options.producer.client_id, sequence: Some(sequence) };
        let mut writes = self.index_writes(&id, before.as_ref().map(|d| &*d.body), after.as_ref())?;
        let head = Head::encode(version, after.as_ref());
        writes.push(Write::put(Space::Documents, key.as_bytes(), head));
        writes.push(answer_write(&key, &producer.client_id, sequence, version));
        let record = ChangeRecord::encode(operation, &producer, &diff, after.as_ref(), &options.metadata);
        let body = after.map(Arc::new);
        let metadata = options.metadata;
        Ok(Prepared { key, id, version, operation, body, diff, producer, metadata, writes, record })
    }

    /// Puts changes and notes into the queue, as one. Each note comes with the document as it is.
    async fn push(
        &self,
        prepared: Vec<Prepared>,
        notes: Vec<(Note, Pending)>,
    ) -> Result<(Vec<Arc<Change>>, Answered), StorageError> {
        let room = prepared.iter().map(Prepared::len_bytes).sum::<usize>()
            + notes.iter().map(|(note, _)| note.write.len_bytes()).sum::<usize>();
        let share = self.shared.queue.room(room).await?;
        let mut changes = Vec::with_capacity(prepared.len());
        let answered = self.shared.commits.push(|order, answer| {
            let mut writes = Vec::new();
            let mut parts = Vec::with_capacity(prepared.len() + notes.len());
            if !prepared.is_empty() {
                order.state.timestamp_ms = (self.shared.clock)().max(order.state.timestamp_ms);
            }
            for prepared in prepared {
                let (change, part) = self.place(order, prepared, &mut writes);
                changes.push(change);
                parts.push(part);
            }
            for (note, as_found) in notes {
                let pending = order.pending.entry(note.key.clone()).or_insert(as_found);
                // All changes were placed before: one of the same producer may have a later number.
                let last = pending.lasts.entry(note.client.clone()).or_insert(0);
                *last = (*last).max(note.sequence);
                pending.requests += 1;
                writes.push(note.write);
                let sequence = Some((note.client, note.sequence));
                parts.push(Part { document: note.key, sequence, logged: None });
            }
            let timestamp_ms = order.state.timestamp_ms;
            Request { writes, parts, timestamp_ms, removed: Vec::new(), answer, share }
        })?;
        Ok((changes, answered))
    }

    /// Numbers a change.
    fn place(&self, order: &mut Order, prepared: Prepared, writes: &mut Vec<Write>) -> (Arc<Change>, Part) {
        let Prepared { key, id, version, operation, body, diff, producer, metadata, .. } = prepared;
        order.state.position += 1;
        let (position, timestamp_ms) = (order.state.position, order.state.timestamp_ms);
        let change = Arc::new(Change {
            document_id: id.clone(),
            version,
            position,
            operation,
            diff,
            timestamp_ms,
            producer,
            metadata,
        });
        writes.extend(prepared.writes);
        let len_bytes = prepared.record.len_bytes();
        let record = prepared.record.place(position, timestamp_ms);
        writes.push(Write::put(Space::Changes, key.change(version), record));
        let entry = LogRecord { collection: self.number, id: id.clone(), version, removed: false };
        writes.push(Write::put(Space::Log, position.to_be_bytes(), entry.encode()));
        let entry =
            LogEntry { position, collection: self.number, id: Some(id), change: Some(change.clone()) };
        let Producer { client_id, sequence } = &change.producer;
        let sequence = sequence.map(|sequence| (client_id.clone(), sequence));
        let pending = order.pending.entry(key.clone()).or_default();
        pending.version = version;
        pending.body = body;
        if let Some((client, sequence)) = sequence.clone() {
            pending.lasts.insert(client, sequence);
        }
        pending.requests += 1;
        (change, Part { document: key, sequence, logged: Some((entry, len_bytes)) })
    }

    /// Waits until what was found is durable.
    async fn settle(&self, found: &Found) -> Result<(), StorageError> {
        if found.pending.is_some() { self.shared.settle().await } else { Ok(()) }
    }
}

impl Found {
    /// The last sequence of a producer on this document, in the queue or on the disk.
    fn last_sequence(&self, engine: &Engine, client: &ClientId) -> Result<u64, StorageError> {
        if let Some(last) = self.pending.as_ref().and_then(|pending| pending.lasts.get(client)) {
            return Ok(*last);
        }
        let last = engine.last(Space::Answers, &self.key.answers(client), |key, _| trailing_number(key))?;
        Ok(last.unwrap_or(0))
    }

    /// The document for the queue, which holds nothing about it yet.
    fn pending(&self) -> Pending {
        let body = self.document.as_ref().map(|document| document.body.clone());
        Pending { version: self.version, body, ..Pending::default() }
    }
}

impl Prepared {
    fn document(&self) -> Option<Document> {
        let body = self.body.clone()?;
        Some(Document { id: self.id.clone(), version: self.version, body })
    }

    fn len_bytes(&self) -> usize {
        self.record.len_bytes() + self.writes.iter().map(Write::len_bytes).sum::<usize>()
    }
}

/// A counted write that changes nothing, kept so that its repeat is known.
struct Note {
    key: DocumentKey,
    client: ClientId,
    sequence: u64,
    write: Write,
}

fn note(key: &DocumentKey, client: ClientId, sequence: u64, version: u64) -> Note {
    let write = answer_write(key, &client, sequence, version);
    Note { key: key.clone(), client, sequence, write }
}

fn split_id(key: &DocumentKey) -> DocumentId {
    DocumentKey::split(key.as_bytes()).expect("the key was made of an id").1
}

fn answer_write(key: &DocumentKey, client: &ClientId, sequence: u64, version: u64) -> Write {
    let mut key = key.answers(client);
    key.extend(sequence.to_be_bytes());
    Write::put(Space::Answers, key, version.to_le_bytes().to_vec())
}

/// The answer to a producer's sequence; when it has been compacted away, the next later one.
fn answer(
    engine: &Engine,
    key: &DocumentKey,
    client: &ClientId,
    sequence: u64,
) -> Result<Option<u64>, StorageError> {
    let prefix = key.answers(client);
    let start = [&prefix[..], &sequence.to_be_bytes()].concat();
    let view = engine.view();
    let mut answers = view
        .scan(Space::Answers, &prefix, Bound::Included(&start[..]), |_, contents| record::answer(contents));
    answers.next().transpose()
}

fn no_answer(key: &DocumentKey) -> StorageError {
    corrupt(Space::Answers, key.as_bytes(), "the producer's last answer is missing")
}

#[async_trait]
impl Ground for EmbeddedStorage {
    fn options(&self) -> &StorageOptions {
        &self.options
    }

    async fn outside(&self, id: &DocumentId) -> Result<Outside, StorageError> {
        let Found { version, document, .. } = self.find(&*self.engine()?, self.key(id), id)?;
        Ok(Outside { version, document })
    }

    async fn last_sequence(&self, id: &DocumentId, client: &ClientId) -> Result<u64, StorageError> {
        let engine = self.engine()?;
        self.find(&engine, self.key(id), id)?.last_sequence(&engine, client)
    }

    async fn answer(&self, id: &DocumentId, client: &ClientId, sequence: u64) -> Result<u64, StorageError> {
        self.shared.settle().await?;
        // Gone since it was found: the commit sees it too, and the transaction runs again.
        Ok(answer(&*self.engine()?, &self.key(id), client, sequence)?.unwrap_or(0))
    }

    async fn commit(&self, draft: &mut Draft) -> Result<Commit, StorageError> {
        let engine = self.engine()?;
        // All gates, in one order for all, so that no two transactions wait for each other.
        let keys = draft.touched.keys().map(|id| self.key(id));
        let mut gates: Vec<_> = keys.map(|key| self.shared.gate_number(&key)).collect();
        gates.sort_unstable();
        gates.dedup();
        let mut held = Vec::with_capacity(gates.len());
        for gate in gates {
            held.push(self.shared.gates[gate].lock().await);
        }
        let mut settled = true;
        let mut notes_of = std::collections::HashMap::new();
        for id in draft.touched.keys() {
            let found = self.find(&engine, self.key(id), id)?;
            let conflict =
                draft.conflict(id, found.version, |client| found.last_sequence(&engine, client))?;
            if let Some(conflict) = conflict {
                drop(held);
                return Ok(Commit::Conflict(conflict));
            }
            settled &= found.pending.is_none();
            notes_of.insert(id.clone(), found.pending());
        }
        let (mut prepared, mut notes) = (Vec::with_capacity(draft.changes), Vec::<(Note, Pending)>::new());
        for entry in draft.entries.drain(..) {
            match entry {
                Entry::Change(change) => prepared.push(self.prepare(self.key(&change.id), change)?),
                Entry::Note { id, client, sequence, version } => {
                    let as_found = notes_of[&id].clone();
                    notes.push((note(&self.key(&id), client, sequence, version), as_found));
                }
            }
        }
        if prepared.is_empty() && notes.is_empty() {
            drop(held);
            if !settled {
                self.shared.settle().await?;
            }
            return Ok(Commit::Done(Vec::new()));
        }
        let (changes, answered) = self.push(prepared, notes).await?;
        drop(held);
        answered.durable().await?;
        Ok(Commit::Done(changes))
    }
}
