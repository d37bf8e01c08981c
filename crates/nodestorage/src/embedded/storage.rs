//! The collection: decides under its document's gate, waits for the commit thread, reads what is durable.

use std::{ops::Bound, sync::Arc};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};
use tokio::sync::{oneshot, watch};

use super::{
    Shared, answer_of,
    engine::{Engine, Write, corrupt},
    queue::{Pending, Request},
    record::{self, ChangeRecord, DocumentKey, Head, LogRecord, Space, State, trailing_number},
};
use crate::{
    Body, Change, ChangePage, Deleted, Diff, Document, DocumentId, EditFn, EditOptions, Edited, Operation,
    Producer, Storage, StorageError, StorageOptions, Upserted, Watch, WatchFilter, WatchFrom,
    edit::SectionFn,
    query::FieldPath,
    rules::{self, Turn},
    verbs::{self, Outcome, Step},
    watch::{Log, LogEntry, LogPage},
};

/// How many changes and answers are removed in one batch.
const REMOVE_STEP_MAX: usize = 1024;

/// A collection of an embedded store. Clones are the same handle; closing it leaves the store open.
#[derive(Clone)]
pub struct EmbeddedStorage {
    shared: Arc<Shared>,
    number: u32,
    options: StorageOptions,
    /// Ends the handle and its watches.
    closed: watch::Sender<bool>,
}

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
    Write { operation: Operation, after: Option<Body>, sequence: Option<u64> },
    Keep,
    Repeated(u64),
}

impl EmbeddedStorage {
    pub(super) fn new(shared: Arc<Shared>, number: u32, options: StorageOptions) -> Self {
        let (closed, _) = watch::channel(false);
        Self { shared, number, options, closed }
    }

    fn engine(&self) -> Result<Arc<Engine>, StorageError> {
        if *self.closed.borrow() { Err(StorageError::Closed) } else { self.shared.engine() }
    }

    fn key(&self, id: &DocumentId) -> DocumentKey {
        DocumentKey::new(self.number, id)
    }

    /// Carries out one verb.
    async fn run(
        &self,
        id: &DocumentId,
        options: EditOptions,
        verb: impl FnOnce(Option<&Document>) -> Result<Step, StorageError> + Send,
    ) -> Result<Outcome, StorageError> {
        rules::check_body(id, &options.metadata, self.options.document_bytes_max)?;
        let engine = self.engine()?;
        let key = self.key(id);
        let gate = self.shared.gate(&key).lock().await;
        let found = self.find(&engine, key, id)?;
        match self.decide(&engine, &found, &options, verb) {
            Ok(Decision::Write { operation, after, sequence }) => {
                let (document, change, answered) =
                    self.change(&engine, found, (operation, after), sequence, options).await?;
                drop(gate);
                answer_of(answered).await?;
                Ok(Outcome::Changed { document, change })
            }
            Ok(Decision::Keep) => {
                match options.producer.sequence {
                    Some(sequence) => {
                        let answered = self.note(&found, options.producer.client_id, sequence).await?;
                        drop(gate);
                        answer_of(answered).await?;
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
        let sequence = if self.options.record_changes || sequence.is_some() {
            match rules::turn(*sequence, self.last_sequence(engine, found, client_id)?)? {
                Turn::Next(sequence) => Some(sequence),
                Turn::Repeated(sequence) => return Ok(Decision::Repeated(sequence)),
            }
        } else {
            None
        };
        let document = found.document.as_ref();
        let id = document.map_or_else(|| split_id(&found.key), |document| document.id.clone());
        rules::expect_version(&id, options, document.map_or(0, |document| document.version))?;
        match verb(document)? {
            Step::Keep => Ok(Decision::Keep),
            Step::Write(operation, after) => {
                if let Some(after) = &after {
                    rules::check_body(&id, after, self.options.document_bytes_max)?;
                }
                Ok(Decision::Write { operation, after, sequence })
            }
        }
    }

    /// The last sequence of a producer on this document, in the queue or on the disk.
    fn last_sequence(&self, engine: &Engine, found: &Found, client: &ClientId) -> Result<u64, StorageError> {
        if let Some(pending) = &found.pending {
            match pending.lasts.get(client) {
                Some(last) => return Ok(*last),
                None if pending.forgotten => return Ok(0),
                None => {}
            }
        }
        let last = engine.last(Space::Answers, &found.key.answers(client), |key, _| trailing_number(key))?;
        Ok(last.unwrap_or(0))
    }

    /// Puts a change into the queue.
    async fn change(
        &self,
        engine: &Engine,
        found: Found,
        (operation, after): (Operation, Option<Body>),
        sequence: Option<u64>,
        options: EditOptions,
    ) -> Result<(Document, Arc<Change>, Answered), StorageError> {
        let recorded = self.options.record_changes;
        let Found { key, version, document: before, pending } = found;
        let id = split_id(&key);
        let version = version + 1;
        let diff = Diff::between(before.as_ref().map(|d| &*d.body), after.as_ref(), version);
        let producer = Producer { client_id: options.producer.client_id, sequence };
        let mut writes = Vec::with_capacity(5);
        let forgotten = !recorded && operation == Operation::Delete;
        if forgotten {
            if pending.is_some() {
                self.shared.settle().await?;
            }
            writes.push(Write::remove(Space::Documents, key.as_bytes()));
            for answer in engine.view().scan(Space::Answers, key.as_bytes(), Bound::Unbounded, own_key) {
                writes.push(Write::remove(Space::Answers, answer?));
            }
        } else {
            let head = Head::encode(version, after.as_ref());
            writes.push(Write::put(Space::Documents, key.as_bytes(), head));
            if let Some(sequence) = sequence {
                writes.push(answer_write(&key, &producer.client_id, sequence, version));
            }
        }
        let record = recorded
            .then(|| ChangeRecord::encode(operation, &producer, &diff, after.as_ref(), &options.metadata));
        let len_bytes = record.as_ref().map_or(0, ChangeRecord::len_bytes);
        let room = len_bytes + writes.iter().map(Write::len_bytes).sum::<usize>();
        let share = self.shared.queue.room(room).await?;

        let body = after.map(Arc::new);
        let (answer, answered) = oneshot::channel();
        let mut change = None;
        self.shared.queue.push(|order| {
            order.state.timestamp_ms = (self.shared.clock)().max(order.state.timestamp_ms);
            order.state.position += u64::from(recorded);
            let timestamp_ms = order.state.timestamp_ms;
            let position = if recorded { order.state.position } else { 0 };
            let change = change.insert(Arc::new(Change {
                document_id: id.clone(),
                version,
                position,
                operation,
                diff,
                timestamp_ms,
                producer: producer.clone(),
                metadata: options.metadata,
            }));
            let logged = record.map(|record| {
                let change_key = key.change(version);
                writes.push(Write::put(Space::Changes, change_key, record.place(position, timestamp_ms)));
                let entry = LogRecord { collection: self.number, id: id.clone(), version, removed: false };
                writes.push(Write::put(Space::Log, position.to_be_bytes(), entry.encode()));
                let change = Some(change.clone());
                (LogEntry { position, collection: self.number, id: id.clone(), change }, len_bytes)
            });
            let pending = order.pending.entry(key.clone()).or_default();
            pending.version = if forgotten { 0 } else { version };
            pending.body = body.clone();
            if forgotten {
                pending.forgotten = true;
                pending.lasts.clear();
            } else if let Some(sequence) = sequence {
                pending.lasts.insert(producer.client_id.clone(), sequence);
            }
            pending.requests += 1;
            let sequence = sequence.map(|sequence| (producer.client_id, sequence));
            Request {
                writes,
                document: Some(key),
                sequence,
                logged,
                timestamp_ms,
                removed: Vec::new(),
                answer,
                share,
            }
        })?;
        let change = change.expect("it was pushed");
        let document = body.map(|body| Document { id, version, body }).or(before);
        Ok((document.expect("it is there now or was before"), change, answered))
    }

    /// Notes a counted write that changed nothing, so that its repeat is known.
    async fn note(&self, found: &Found, client: ClientId, sequence: u64) -> Result<Answered, StorageError> {
        let writes = vec![answer_write(&found.key, &client, sequence, found.version)];
        let share = self.shared.queue.room(writes[0].len_bytes()).await?;
        let (answer, answered) = oneshot::channel();
        self.shared.queue.push(|order| {
            let pending = order.pending.entry(found.key.clone()).or_insert_with(|| Pending {
                version: found.version,
                body: found.document.as_ref().map(|document| document.body.clone()),
                ..Pending::default()
            });
            pending.lasts.insert(client.clone(), sequence);
            pending.requests += 1;
            let (document, sequence) = (Some(found.key.clone()), Some((client, sequence)));
            Request {
                writes,
                document,
                sequence,
                logged: None,
                timestamp_ms: 0,
                removed: Vec::new(),
                answer,
                share,
            }
        })?;
        Ok(answered)
    }

    /// Waits until what was found is durable.
    async fn settle(&self, found: &Found) -> Result<(), StorageError> {
        if found.pending.is_some() { self.shared.settle().await } else { Ok(()) }
    }

    /// Reads on a thread where reading may take its time.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Engine) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let engine = self.engine()?;
        let read = tokio::task::spawn_blocking(move || read(&engine)).await;
        read.unwrap_or_else(|e| Err(StorageError::Backend(e.to_string())))
    }
}

type Answered = oneshot::Receiver<Result<(), StorageError>>;

fn split_id(key: &DocumentKey) -> DocumentId {
    DocumentKey::split(key.as_bytes()).expect("the key was made of an id").1
}

fn own_key(key: &[u8], _: &[u8]) -> Result<Vec<u8>, record::RecordError> {
    Ok(key.to_vec())
}

fn answer_write(key: &DocumentKey, client: &ClientId, sequence: u64, version: u64) -> Write {
    let mut key = key.answers(client);
    key.extend(sequence.to_be_bytes());
    Write::put(Space::Answers, key, version.to_le_bytes().to_vec())
}

/// The answer to a producer's sequence; when it has been compacted away, the next later one.
fn answer(engine: &Engine, key: &DocumentKey, client: &ClientId, sequence: u64) -> Result<u64, StorageError> {
    let prefix = key.answers(client);
    let start = [&prefix[..], &sequence.to_be_bytes()].concat();
    let view = engine.view();
    let mut answers = view
        .scan(Space::Answers, &prefix, Bound::Included(&start[..]), |_, contents| record::answer(contents));
    answers
        .next()
        .unwrap_or_else(|| Err(corrupt(Space::Answers, &start, "the producer's last answer is missing")))
}

#[async_trait]
impl Storage for EmbeddedStorage {
    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        let head = self.engine()?.get(Space::Documents, self.key(id).as_bytes(), Head::decode)?;
        Ok(head.and_then(|Head { version, body }| {
            Some(Document { id: id.clone(), version, body: Arc::new(body?) })
        }))
    }

    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError> {
        let (number, after) = (self.number, after.map(|after| self.key(after)));
        self.read(move |engine| {
            let start = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
            let view = engine.view();
            let prefix = number.to_be_bytes();
            let documents = view.scan(Space::Documents, &prefix, start, |key, contents| {
                let (_, id, _) = DocumentKey::split(key)?;
                let Head { version, body } = Head::decode(contents)?;
                Ok(body.map(|body| Document { id, version, body: Arc::new(body) }))
            });
            documents.filter_map(Result::transpose).take(limit).collect()
        })
        .await
    }

    async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Upserted, StorageError> {
        self.run(id, options, |found| Ok(verbs::upsert(found, body))).await.map(Outcome::upserted)
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.run(id, options, |found| verbs::update(id, found, edit)).await.map(Outcome::edited)
    }

    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.run(id, options, |found| verbs::update_section(id, found, section, edit))
            .await
            .map(Outcome::edited)
    }

    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError> {
        self.run(id, options, |found| Ok(verbs::delete(found))).await.map(Outcome::deleted)
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        let (key, id) = (self.key(id), id.clone());
        self.read(move |engine| {
            let start = key.change(after);
            let view = engine.view();
            let read = |key: &[u8], contents: &[u8]| {
                ChangeRecord::decode(id.clone(), trailing_number(key)?, contents)
            };
            let mut found = view.scan(Space::Changes, key.as_bytes(), Bound::Excluded(&start[..]), read);
            let changes = found.by_ref().take(limit).collect::<Result<_, _>>()?;
            let more = found.next().transpose()?.is_some();
            Ok(ChangePage { changes, more })
        })
        .await
    }

    async fn last_version(&self, id: &DocumentId) -> Result<u64, StorageError> {
        let version = self.engine()?.get(Space::Documents, self.key(id).as_bytes(), Head::version)?;
        Ok(version.unwrap_or(0))
    }

    async fn remove_changes(&self, id: &DocumentId, up_to_version: u64) -> Result<u64, StorageError> {
        let key = self.key(id);
        let mut count = 0;
        loop {
            self.engine()?;
            let _gate = self.shared.gate(&key).lock().await;
            self.shared.settle().await?;
            let (of, id, number) = (key.clone(), id.clone(), self.number);
            let (writes, removed) = self
                .read(move |engine| {
                    let mut writes = stale_answers(engine, &of, up_to_version)?;
                    let changes = old_changes(engine, &of, up_to_version)?;
                    for &(version, position) in &changes {
                        writes.push(Write::remove(Space::Changes, of.change(version)));
                        let entry = LogRecord { collection: number, id: id.clone(), version, removed: true };
                        writes.push(Write::put(Space::Log, position.to_be_bytes(), entry.encode()));
                    }
                    Ok((writes, changes.into_iter().map(|(_, position)| position).collect::<Vec<_>>()))
                })
                .await?;
            if writes.is_empty() {
                return Ok(count);
            }
            count += removed.len() as u64;
            // The gate is held until it is durable: whoever comes next sees what is left.
            self.shared.write_and_remove(writes, removed).await?;
        }
    }

    async fn producers(&self, id: &DocumentId) -> Result<StateVector<ClientId>, StorageError> {
        let key = self.key(id);
        self.read(move |engine| {
            let view = engine.view();
            let answers = view.scan(Space::Answers, key.as_bytes(), Bound::Unbounded, client_and_sequence);
            // In the order of sequences, so the last of each producer stays.
            answers.collect()
        })
        .await
    }

    async fn position(&self) -> Result<u64, StorageError> {
        self.engine()?;
        Ok(self.shared.tail.last())
    }

    async fn watch(&self, filter: WatchFilter, from: WatchFrom) -> Result<Watch, StorageError> {
        self.engine()?;
        if !self.options.record_changes {
            return Err(StorageError::Unsupported {
                what: "watch".into(),
                backend: "an unrecorded collection",
            });
        }
        let after = match from {
            WatchFrom::Now => self.shared.tail.last(),
            WatchFrom::After(position) => position,
        };
        let (tide, closed) = (self.shared.tide.subscribe(), self.closed.subscribe());
        Ok(crate::watch::stream(self.shared.clone(), self.number, filter, after, tide, closed))
    }

    async fn close(&self) -> Result<(), StorageError> {
        if !self.closed.send_replace(true) && self.shared.queue.check_open().is_ok() {
            self.shared.settle().await?;
        }
        Ok(())
    }
}

fn client_and_sequence(key: &[u8], _: &[u8]) -> Result<(ClientId, u64), record::RecordError> {
    let (_, _, rest) = DocumentKey::split(key)?;
    Ok((record::client_of_answer(rest)?, trailing_number(key)?))
}

/// Some changes up to a version: their versions and positions.
fn old_changes(engine: &Engine, key: &DocumentKey, up_to: u64) -> Result<Vec<(u64, u64)>, StorageError> {
    let view = engine.view();
    let changes = view.scan(Space::Changes, key.as_bytes(), Bound::Unbounded, |key, contents| {
        Ok((trailing_number(key)?, ChangeRecord::position(contents)?))
    });
    let old = changes.take_while(|change| change.as_ref().map_or(true, |&(version, _)| version <= up_to));
    old.take(REMOVE_STEP_MAX).collect()
}

/// Some answers up to a version, but never the last one of a producer.
fn stale_answers(engine: &Engine, key: &DocumentKey, up_to: u64) -> Result<Vec<Write>, StorageError> {
    let view = engine.view();
    let answers = view.scan(Space::Answers, key.as_bytes(), Bound::Unbounded, |key, contents| {
        Ok((key.to_vec(), record::answer(contents)?))
    });
    let mut stale = Vec::new();
    let mut before: Option<(Vec<u8>, u64)> = None;
    for answer in answers {
        let answer = answer?;
        if let Some((key, version)) = before.replace(answer)
            && version <= up_to
            && let Some((next, _)) = &before
            && next[..next.len() - 8] == key[..key.len() - 8]
        {
            stale.push(Write::remove(Space::Answers, key));
            if stale.len() == REMOVE_STEP_MAX {
                break;
            }
        }
    }
    Ok(stale)
}

#[async_trait]
impl Log for Shared {
    async fn read(&self, after: u64, limit: usize) -> Result<LogPage, StorageError> {
        if let Some(page) = self.tail.read(after, limit) {
            return Ok(page);
        }
        let engine = self.engine()?;
        let read = tokio::task::spawn_blocking(move || read_log(&engine, after, limit)).await;
        read.unwrap_or_else(|e| Err(StorageError::Backend(e.to_string())))
    }
}

/// Reads the log on the disk.
fn read_log(engine: &Engine, after: u64, limit: usize) -> Result<LogPage, StorageError> {
    let view = engine.view();
    let State { floor, position: last, .. } =
        view.get(Space::Meta, State::KEY, State::decode)?.unwrap_or_default();
    let start = if after > last { last } else { after.max(floor) }.to_be_bytes();
    let logged = view.scan(Space::Log, &[], Bound::Excluded(&start[..]), |key, contents| {
        Ok((trailing_number(key)?, LogRecord::decode(contents)?))
    });
    let entries = logged.take(limit).map(|entry| {
        let (position, LogRecord { collection, id, version, removed }) = entry?;
        let change = if removed {
            None
        } else {
            let key = DocumentKey::new(collection, &id).change(version);
            let read = |contents: &[u8]| ChangeRecord::decode(id.clone(), version, contents);
            let change = view.get(Space::Changes, &key, read)?;
            Some(Arc::new(change.ok_or_else(|| corrupt(Space::Changes, &key, "it is missing"))?))
        };
        Ok(LogEntry { position, collection, id, change })
    });
    Ok(LogPage { floor, last, entries: entries.collect::<Result<_, StorageError>>()? })
}
