//! The storage in memory: the reference that the others are compared with.
//!
//! Everything happens under one lock, so that the rules can be read off in order. It is fit for tests and for data that
//! may vanish with the process.

mod indexes;
mod storage;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use crdt_core::ClientId;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Body, Change, Document, DocumentId, Index, Producer, Storage, StorageError, StorageOptions, Store,
    clock::{self, Clock},
    index::read,
    rules::{self, Turn},
    store,
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
        let (tide, _) = watch::channel(Tide { position: 0, put_back: 0, closed: false });
        Self { shared: Arc::new(Shared { clock, state: Mutex::default(), tide }) }
    }

    /// Opens a collection, creating it if it is absent.
    pub fn collection(&self, name: &str, options: StorageOptions) -> Result<MemoryStorage, StorageError> {
        store::check_collection(name, &options)?;
        let mut state = self.shared.open()?;
        let number = match state.collections.iter().position(|collection| collection.name == name) {
            Some(number) => number,
            None => {
                let name = name.to_owned();
                state.collections.push(Collection { name, documents: BTreeMap::new(), indexes: Vec::new() });
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

    fn open(&self) -> Result<parking_lot::MutexGuard<'_, State>, StorageError> {
        if *self.closed.borrow() {
            return Err(StorageError::Closed);
        }
        self.shared.open()
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

    /// Somebody else writes what it has read each time.
    #[tokio::test]
    async fn a_transaction_that_loses_pauses_as_the_options_say() {
        use std::time::Duration;

        use crate::{EditOptions, StorageExt};

        // Pauses of 50, 75 and 75 ms.
        let options = StorageOptions {
            retries_max: 3,
            retry_delay: Duration::from_millis(50),
            retry_delay_max: Duration::from_millis(75),
            retry_jitter_percent: 0,
            ..StorageOptions::default()
        };
        let games = MemoryStore::default().collection("games", options).unwrap();
        let by = || EditOptions::by(ClientId::new("p").unwrap());
        let id = DocumentId::new("a").unwrap();
        games.find_one_and_upsert(&id, Body::new(), by()).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "how long the pauses are is what it is about")]
        let started = std::time::Instant::now();
        let lost = games.transact(|of| {
            let (other, id) = (games.clone(), id.clone());
            Box::pin(async move {
                let n = of.find_one(&id).await?.map_or(0, |document| document.version);
                let write = |body: &mut Body| {
                    body.insert("n".to_owned(), n.into());
                    Ok::<_, std::convert::Infallible>(())
                };
                other.edit(&id, write, by()).await?;
                of.delete_one(&id, by()).await?;
                Ok(())
            })
        });
        let lost = lost.await;
        assert!(matches!(lost, Err(StorageError::TransactionFailed { attempts: 4, .. })), "{lost:?}");
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    }
}
