//! The storage in memory: the reference that the others are compared with.
//!
//! Everything happens under one lock, so that the rules can be read off in order. It is fit for tests and for data that
//! may vanish with the process.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Body, Change, ChangePage, Deleted, Diff, Document, DocumentId, EditFn, EditOptions, Edited, Explained,
    Index, IndexStatus, Operation, Producer, Storage, StorageError, StorageOptions, Store, TransactionFn,
    Upserted, Watch, WatchFilter, WatchFrom,
    clock::{self, Clock},
    edit::SectionFn,
    index::{
        Entries,
        read::{self, Range, Source},
    },
    query::{FieldPath, Page, Query},
    rules::{self, Turn},
    store,
    transaction::staging::{self, Commit, Draft, Entry as StagedEntry, Ground, Outside},
    verbs::{self, Outcome, SectionVersion, Step},
    watch::{Log, LogEntry, LogPage, Tide},
};

/// A store in memory.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// Tells the watchers; sent under the lock of `state`, so that its order is the log's.
    tide: watch::Sender<Tide>,
}

#[derive(Default)]
struct State {
    closed: bool,
    collections: Vec<Collection>,
    timestamp_ms: u64,
    /// Positions `floor + 1 ..`, without a gap.
    log: VecDeque<LogEntry>,
    floor: u64,
}

struct Collection {
    name: String,
    recorded: bool,
    documents: BTreeMap<DocumentId, Entry>,
    indexes: Vec<KeptIndex>,
}

struct KeptIndex {
    index: Index,
    /// Whether a document has, or had, several values in one of its fields.
    several: bool,
    entries: BTreeSet<read::Entry>,
}

/// A document and everything known about it; kept after its deletion, as the version goes on.
#[derive(Default)]
struct Entry {
    version: u64,
    body: Option<Arc<Body>>,
    /// The recorded changes, the last of which made `version`.
    changes: VecDeque<Arc<Change>>,
    /// For each client, the version that each of its sequences was answered with.
    answers: BTreeMap<ClientId, BTreeMap<u64, u64>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(clock::system())
    }
}

impl MemoryStore {
    /// An empty store whose changes carry the time of `clock`.
    pub fn new(clock: Clock) -> Self {
        let (tide, _) = watch::channel(Tide { position: 0, closed: false });
        Self { shared: Arc::new(Shared { clock, state: Mutex::default(), tide }) }
    }

    /// Opens a collection, creating it if it is absent.
    pub fn collection(&self, name: &str, options: StorageOptions) -> Result<MemoryStorage, StorageError> {
        store::check_collection(name, &options)?;
        let mut state = self.shared.open()?;
        let number = match state.collections.iter().position(|collection| collection.name == name) {
            Some(number) if state.collections[number].recorded != options.record_changes => {
                return Err(store::other_kind_of_collection(name, !options.record_changes));
            }
            Some(number) => number,
            None => {
                let (name, recorded) = (name.to_owned(), options.record_changes);
                state.collections.push(Collection {
                    name,
                    recorded,
                    documents: BTreeMap::new(),
                    indexes: Vec::new(),
                });
                state.collections.len() - 1
            }
        };
        drop(state);
        let (closed, _) = watch::channel(false);
        let storage = MemoryStorage { shared: self.shared.clone(), number, options, closed };
        for index in &storage.options.indexes {
            storage.make_index(index)?;
        }
        Ok(storage)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn collection(
        &self,
        name: &str,
        options: StorageOptions,
    ) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(self.collection(name, options)?))
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.shared.state.lock().closed = true;
        self.shared.tide.send_modify(|tide| tide.closed = true);
        Ok(())
    }
}

/// A collection in memory. Clones are the same handle; closing it leaves the store open.
#[derive(Clone)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
    number: usize,
    options: StorageOptions,
    /// Ends the handle and its watches.
    closed: watch::Sender<bool>,
}

impl Default for MemoryStorage {
    /// The only collection of a store of its own, with the system's clock.
    fn default() -> Self {
        Self::new(StorageOptions::default(), clock::system())
    }
}

impl MemoryStorage {
    /// The only collection of a store of its own.
    pub fn new(options: StorageOptions, clock: Clock) -> Self {
        MemoryStore::new(clock).collection("documents", options).expect("a new store takes any collection")
    }

    fn make_index(&self, index: &Index) -> Result<(), StorageError> {
        if index.fields().iter().any(|(path, _)| path.names() == [self.options.version_field.as_str()]) {
            let what = format!("an index of {}, the documents' version", self.options.version_field);
            return Err(self.unsupported(what));
        }
        let mut state = self.open()?;
        let Collection { documents, indexes, .. } = &mut state.collections[self.number];
        if indexes.iter().any(|kept| kept.index == *index) {
            return Ok(());
        }
        let mut kept = KeptIndex { index: index.clone(), several: false, entries: BTreeSet::new() };
        for (id, entry) in documents.iter() {
            let found = Entries::of(index, id, entry.body.as_deref())?;
            kept.several |= found.several;
            kept.entries.extend(found.keys.into_iter().map(|key| (key, id.clone())));
        }
        indexes.push(kept);
        Ok(())
    }

    /// Answers a query from an index; `None` if none helps.
    fn read_index(&self, query: &Query) -> Result<Option<(Page, Explained)>, StorageError> {
        query.check()?;
        let state = self.open()?;
        let collection = &state.collections[self.number];
        let ready = collection.indexes.iter().map(|kept| read::Ready {
            index: &kept.index,
            several: kept.several,
            source: IndexView { documents: &collection.documents, entries: &kept.entries },
        });
        read::answer(query, ready.collect(), &self.options.version_field)
    }

    fn open(&self) -> Result<parking_lot::MutexGuard<'_, State>, StorageError> {
        if *self.closed.borrow() {
            return Err(StorageError::Closed);
        }
        self.shared.open()
    }

    /// Carries out one verb, under the lock.
    fn run(
        &self,
        id: &DocumentId,
        options: EditOptions,
        verb: impl FnOnce(Option<&Document>) -> Result<Step, StorageError>,
    ) -> Result<Outcome, StorageError> {
        rules::check_metadata(id, &options.metadata, &self.options)?;
        let mut state = self.open()?;
        let absent = Entry::default();
        let entry = state.collections[self.number].documents.get(id).unwrap_or(&absent);
        let document = entry.document(id);
        let sequence = match entry.turn(&options.producer)? {
            // Who does not count is counted for, in the record.
            Ok(sequence) if self.options.record_changes => Some(sequence),
            Ok(_) => options.producer.sequence,
            Err(version) => return Ok(Outcome::Repeated { version, document }),
        };
        rules::expect_version(id, &options, document.as_ref().map_or(0, |document| document.version))?;
        match verb(document.as_ref())? {
            Step::Keep => {
                state.note(self.number, id, &options.producer);
                Ok(Outcome::Kept(document))
            }
            Step::Write(operation, after) => {
                if let Some(after) = &after {
                    rules::check_body(id, after, &self.options)?;
                }
                state.collections[self.number].check_indexes(id, after.as_ref())?;
                let outcome = self.commit(&mut state, document, (id, operation, after), (sequence, options));
                self.shared.tell(&state);
                Ok(outcome)
            }
        }
    }

    fn commit(
        &self,
        state: &mut State,
        before: Option<Document>,
        (id, operation, after): (&DocumentId, Operation, Option<Body>),
        (sequence, options): (Option<u64>, EditOptions),
    ) -> Outcome {
        let timestamp_ms = (self.shared.clock)().max(state.timestamp_ms);
        state.timestamp_ms = timestamp_ms;
        let position = if self.options.record_changes { state.position() + 1 } else { 0 };
        let entry = state.collections[self.number].documents.entry(id.clone()).or_default();
        let version = entry.version + 1;
        let client_id = options.producer.client_id;
        let change = Arc::new(Change {
            document_id: id.clone(),
            version,
            position,
            operation,
            diff: Diff::between(before.as_ref().map(|d| &*d.body), after.as_ref(), version),
            timestamp_ms,
            producer: Producer { client_id: client_id.clone(), sequence },
            metadata: options.metadata,
        });
        entry.version = version;
        let body = after.map(Arc::new);
        entry.body.clone_from(&body);
        if let Some(sequence) = sequence {
            entry.answers.entry(client_id).or_default().insert(sequence, version);
        }
        let was = before.as_ref().map(|document| document.body.clone());
        let document = entry.document(id).or(before).expect("it is there now or was before");
        if self.options.record_changes {
            entry.changes.push_back(change.clone());
            let (collection, id) = (self.number as u32, id.clone());
            state.log.push_back(LogEntry { position, collection, id, change: Some(change.clone()) });
        } else if operation == Operation::Delete {
            state.collections[self.number].documents.remove(id);
        }
        state.collections[self.number].index(id, was.as_deref(), body.as_deref());
        Outcome::Changed { document, change }
    }
}

impl Shared {
    fn open(&self) -> Result<parking_lot::MutexGuard<'_, State>, StorageError> {
        let state = self.state.lock();
        if state.closed { Err(StorageError::Closed) } else { Ok(state) }
    }

    /// Tells the watchers how far the log goes.
    fn tell(&self, state: &State) {
        let position = state.position();
        self.tide.send_if_modified(|tide| std::mem::replace(&mut tide.position, position) != position);
    }
}

impl Collection {
    /// Whether the indexes can hold a document.
    fn check_indexes(&self, id: &DocumentId, body: Option<&Body>) -> Result<(), StorageError> {
        self.indexes.iter().try_for_each(|kept| Entries::of(&kept.index, id, body).map(drop))
    }

    fn index(&mut self, id: &DocumentId, before: Option<&Body>, after: Option<&Body>) {
        for kept in &mut self.indexes {
            let entries = |body| Entries::of(&kept.index, id, body).expect("it was checked");
            let (before, after) = (entries(before), entries(after));
            kept.several |= after.several;
            for key in before.keys {
                kept.entries.remove(&(key, id.clone()));
            }
            kept.entries.extend(after.keys.into_iter().map(|key| (key, id.clone())));
        }
    }
}

/// An index and its documents.
struct IndexView<'s> {
    documents: &'s BTreeMap<DocumentId, Entry>,
    entries: &'s BTreeSet<read::Entry>,
}

impl Source for IndexView<'_> {
    fn entries<'s>(
        &'s self,
        range: &Range,
        backwards: bool,
        skip: Option<&read::Entry>,
    ) -> Box<dyn Iterator<Item = Result<read::Entry, StorageError>> + 's> {
        let behind =
            |(key, _): &&read::Entry, end: &Option<Vec<u8>>| end.as_ref().is_none_or(|end| key < end);
        let start = match skip {
            Some(skip) => Bound::Excluded(skip.clone()),
            // No id is before this one.
            None => Bound::Included((range.start.clone(), DocumentId::least())),
        };
        let end = range.end.clone();
        let entries = self.entries.range((start, Bound::Unbounded));
        let entries = entries.take_while(move |entry| behind(entry, &end)).cloned().map(Ok);
        if backwards {
            // What is in memory may be gathered to be turned over.
            let entries: Vec<_> = entries.collect();
            return Box::new(entries.into_iter().rev());
        }
        Box::new(entries)
    }

    fn document(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        Ok(self.documents.get(id).and_then(|entry| entry.document(id)))
    }
}

impl State {
    fn position(&self) -> u64 {
        self.floor + self.log.len() as u64
    }

    /// Notes a counted write that changed nothing, so that its repeat is known.
    fn note(&mut self, collection: usize, id: &DocumentId, producer: &Producer) {
        if let Some(sequence) = producer.sequence {
            let entry = self.collections[collection].documents.entry(id.clone()).or_default();
            let version = entry.version;
            entry.answers.entry(producer.client_id.clone()).or_default().insert(sequence, version);
        }
    }
}

impl Entry {
    fn document(&self, id: &DocumentId) -> Option<Document> {
        let body = self.body.clone()?;
        Some(Document { id: id.clone(), version: self.version, body })
    }

    /// Whether this is the producer's next write, or else what it was answered. An answer that has been compacted away
    /// is given as the next later one: the version is then one that contains the write.
    fn turn(&self, producer: &Producer) -> Result<Result<u64, u64>, StorageError> {
        Ok(match rules::turn(producer.sequence, self.last_sequence(&producer.client_id))? {
            Turn::Next(sequence) => Ok(sequence),
            Turn::Repeated(sequence) => {
                Err(self.answer(&producer.client_id, sequence).expect("the last one is always kept"))
            }
        })
    }

    fn last_sequence(&self, client: &ClientId) -> u64 {
        let answers = self.answers.get(client);
        answers.and_then(|answers| answers.last_key_value()).map_or(0, |(&last, _)| last)
    }

    fn answer(&self, client: &ClientId, sequence: u64) -> Option<u64> {
        let answers = self.answers.get(client)?;
        answers.range(sequence..).map(|(_, version)| *version).next()
    }
}

#[async_trait]
impl Ground for MemoryStorage {
    fn options(&self) -> &StorageOptions {
        &self.options
    }

    async fn outside(&self, id: &DocumentId) -> Result<Outside, StorageError> {
        let state = self.open()?;
        let entry = state.collections[self.number].documents.get(id);
        let outside = |entry: &Entry| Outside { version: entry.version, document: entry.document(id) };
        Ok(entry.map_or(Outside { version: 0, document: None }, outside))
    }

    async fn last_sequence(&self, id: &DocumentId, client: &ClientId) -> Result<u64, StorageError> {
        let state = self.open()?;
        let entry = state.collections[self.number].documents.get(id);
        Ok(entry.map_or(0, |entry| entry.last_sequence(client)))
    }

    async fn answer(&self, id: &DocumentId, client: &ClientId, sequence: u64) -> Result<u64, StorageError> {
        let state = self.open()?;
        let entry = state.collections[self.number].documents.get(id);
        // Gone since it was found: the commit sees it too, and the transaction runs again.
        Ok(entry.and_then(|entry| entry.answer(client, sequence)).unwrap_or(0))
    }

    async fn commit(&self, draft: &mut Draft) -> Result<Commit, StorageError> {
        let mut state = self.open()?;
        for id in draft.touched.keys() {
            let entry = state.collections[self.number].documents.get(id);
            let last = |client: &ClientId| Ok(entry.map_or(0, |entry| entry.last_sequence(client)));
            if let Some(conflict) = draft.conflict(id, entry.map_or(0, |entry| entry.version), last)? {
                return Ok(Commit::Conflict(conflict));
            }
        }
        for entry in &draft.entries {
            if let StagedEntry::Change(change) = entry {
                state.collections[self.number].check_indexes(&change.id, change.after.as_ref())?;
            }
        }
        let mut changes = Vec::with_capacity(draft.changes);
        for entry in draft.entries.drain(..) {
            match entry {
                StagedEntry::Note { id, client, sequence, .. } => {
                    let producer = Producer { client_id: client, sequence: Some(sequence) };
                    state.note(self.number, &id, &producer);
                }
                StagedEntry::Change(change) => {
                    let what = (&change.id, change.operation, change.after);
                    let by = (change.sequence, change.options);
                    let outcome = self.commit(&mut state, change.before, what, by);
                    let Outcome::Changed { change, .. } = outcome else { unreachable!("it was staged") };
                    changes.push(change);
                }
            }
        }
        // Watchers are told of all of it at once.
        self.shared.tell(&state);
        Ok(Commit::Done(changes))
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn backend(&self) -> &'static str {
        "the storage in memory"
    }

    fn version_field(&self) -> &str {
        &self.options.version_field
    }

    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        let state = self.open()?;
        Ok(state.collections[self.number].documents.get(id).and_then(|entry| entry.document(id)))
    }

    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError> {
        let state = self.open()?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let documents = state.collections[self.number].documents.range((start, Bound::Unbounded));
        Ok(documents.filter_map(|(id, entry)| entry.document(id)).take(limit).collect())
    }

    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        match self.read_index(&query)? {
            Some((page, _)) => Ok(page),
            None => query.scan(self).await,
        }
    }

    async fn explain(&self, query: Query) -> Result<Explained, StorageError> {
        match self.read_index(&query)? {
            Some((_, explained)) => Ok(explained),
            None => query.explain_scan(self).await,
        }
    }

    async fn create_index(&self, index: &Index) -> Result<(), StorageError> {
        self.make_index(index)
    }

    async fn drop_index(&self, index: &Index) -> Result<bool, StorageError> {
        let mut state = self.open()?;
        let indexes = &mut state.collections[self.number].indexes;
        let before = indexes.len();
        indexes.retain(|kept| kept.index != *index);
        Ok(indexes.len() < before)
    }

    async fn indexes(&self) -> Result<Vec<IndexStatus>, StorageError> {
        let state = self.open()?;
        let indexes = state.collections[self.number].indexes.iter();
        Ok(indexes.map(|kept| IndexStatus { index: kept.index.clone(), ready: true }).collect())
    }

    async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Upserted, StorageError> {
        self.run(id, options, |found| Ok(verbs::upsert(found, body))).map(Outcome::upserted)
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.run(id, options, |found| verbs::update(id, found, edit)).map(Outcome::edited)
    }

    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        mut options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let versions = SectionVersion::of(&self.options, &mut options);
        self.run(id, options, |found| verbs::update_section(id, found, section, edit, &versions))
            .map(Outcome::edited)
    }

    async fn with_transaction(
        &self,
        transaction: TransactionFn<'_>,
    ) -> Result<Vec<Arc<Change>>, StorageError> {
        staging::run(Arc::new(self.clone()), transaction).await
    }

    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError> {
        self.run(id, options, |found| Ok(verbs::delete(found))).map(Outcome::deleted)
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        let state = self.open()?;
        let Some(entry) = state.collections[self.number].documents.get(id) else {
            return Ok(ChangePage { changes: Vec::new(), more: false });
        };
        let start = entry.changes.partition_point(|change| change.version <= after);
        let changes: Vec<_> = entry.changes.range(start..).take(limit).map(|c| (**c).clone()).collect();
        Ok(ChangePage { more: start + changes.len() < entry.changes.len(), changes })
    }

    async fn last_version(&self, id: &DocumentId) -> Result<u64, StorageError> {
        Ok(self.open()?.collections[self.number].documents.get(id).map_or(0, |entry| entry.version))
    }

    async fn remove_changes(&self, id: &DocumentId, up_to: u64) -> Result<u64, StorageError> {
        let mut state = self.open()?;
        let State { collections, log, floor, .. } = &mut *state;
        let Some(entry) = collections[self.number].documents.get_mut(id) else { return Ok(0) };
        let count = entry.changes.partition_point(|change| change.version <= up_to);
        for change in entry.changes.drain(..count) {
            log[(change.position - *floor - 1) as usize].change = None;
        }
        for answers in entry.answers.values_mut() {
            let last = answers.last_key_value().map_or(0, |(&last, _)| last);
            answers.retain(|&sequence, &mut version| version > up_to || sequence == last);
        }
        while log.front().is_some_and(|entry| entry.change.is_none()) {
            log.pop_front();
            *floor += 1;
        }
        Ok(count as u64)
    }

    async fn producers(&self, id: &DocumentId) -> Result<StateVector<ClientId>, StorageError> {
        let state = self.open()?;
        let entry = state.collections[self.number].documents.get(id);
        let answers = entry.into_iter().flat_map(|entry| &entry.answers);
        let lasts = answers.filter_map(|(client, answers)| {
            answers.last_key_value().map(|(&last, _)| (client.clone(), last))
        });
        Ok(lasts.collect())
    }

    async fn position(&self) -> Result<u64, StorageError> {
        Ok(self.open()?.position())
    }

    async fn watch(&self, filter: WatchFilter, from: WatchFrom) -> Result<Watch, StorageError> {
        crate::watch::check(&self.options)?;
        let state = self.open()?;
        let after = match from {
            WatchFrom::Now => state.position(),
            WatchFrom::After(position) => position,
        };
        let (tide, closed) = (self.shared.tide.subscribe(), self.closed.subscribe());
        let full = self.options.watch_full_document.then(|| Arc::new(self.clone()) as Arc<dyn Storage>);
        let what = (self.number as u32, filter, after);
        Ok(crate::watch::stream(self.shared.clone(), what, full, tide, closed))
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.closed.send_replace(true);
        Ok(())
    }
}

#[async_trait]
impl Log for Shared {
    async fn read(&self, after: u64, limit: usize) -> Result<LogPage, StorageError> {
        let state = self.state.lock();
        let start = after.saturating_sub(state.floor).min(state.log.len() as u64) as usize;
        let entries = state.log.range(start..).take(limit).cloned().collect();
        Ok(LogPage { floor: state.floor, last: state.position(), entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (MemoryStore, ()) {
        (MemoryStore::default(), ())
    }

    crate::conformance_tests!(store);
}
