//! The embedded store: one folder, no server.
//!
//! Writers decide and wait in a queue (`queue`) for the next batch, which one of all threads commits (`committer`). A batch holds, for each
//! write, the document, its change, its place in the log and the producer's answer, and is durable before any of it can
//! be read. `docs/formats/embedded-store.md` describes the bytes ([`record`]).

mod check;
mod committer;
mod engine;
mod indexes;
mod queue;
pub mod record;
mod storage;
mod tail;
mod watermark;
mod write;

use std::{
    collections::HashMap,
    fs::File,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use self::{
    committer::{Commits, Committer},
    engine::{Engine, Write},
    indexes::Indexes,
    queue::{Ended, Queue, Request},
    record::{CollectionRecord, DocumentKey, Space},
    tail::Tail,
    watermark::Watermark,
};
pub use self::{
    queue::{BATCH_BYTES_MAX, QUEUE_BYTES_MAX, QUEUE_STEP_BYTES},
    storage::EmbeddedStorage,
    tail::{TAIL_BYTES_MAX, TAIL_ENTRIES_MAX},
};
use crate::{
    Storage, StorageError, StorageOptions, Store,
    clock::{self, Clock},
    store,
    watch::Tide,
};

/// How many gates the documents of a store share: writers of different documents rarely meet at one.
const GATES: usize = 1024;

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it is on the disk: it survives a power failure.
    #[default]
    Synced,
    /// When the operating system has it: it survives the end of the process, however sudden, but not of the machine.
    /// The store stays whole; after a power failure some of its latest writes may be missing.
    Buffered,
}

/// How an embedded store is opened.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// When a write is answered.
    pub durability: Durability,
    /// The time that changes carry.
    pub clock: Clock,
}

impl Default for EmbeddedOptions {
    /// Synced, with the system's clock.
    fn default() -> Self {
        Self { durability: Durability::default(), clock: clock::system() }
    }
}

/// A store in a folder. One process at a time has it open; clones are the same store.
///
/// The folder is free again when the store is closed, or when the last handle of it and its collections is dropped.
#[derive(Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    clock: Clock,
    /// `None` after the store was closed. Held for the length of one read.
    engine: RwLock<Option<Arc<Engine>>>,
    queue: Arc<Queue>,
    commits: Arc<Commits>,
    tail: Arc<Tail>,
    tide: watch::Sender<Tide>,
    /// A writer holds the gate of its document from reading it until its write has its place in the queue. Async, as a
    /// writer may wait for room in the queue meanwhile.
    gates: Vec<tokio::sync::Mutex<()>>,
    /// Async, as a new collection is written before its number is used.
    collections: tokio::sync::Mutex<HashMap<String, CollectionRecord>>,
    /// By the numbers of collections. Held for a look only.
    indexes: Mutex<HashMap<u32, Arc<Indexes>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens the store in a folder, creating it if it is absent, and checks that it is whole. Blocks meanwhile, for a
    /// time that grows with the store: about a second for a million changes.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when another handle has it open, [`StorageError::Corrupt`] when something that was
    /// acknowledged is missing or damaged.
    pub fn open(folder: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Self, StorageError> {
        let folder = folder.as_ref().to_owned();
        let unusable = |e: std::io::Error| StorageError::Backend(format!("{}: {e}", folder.display()));
        std::fs::create_dir_all(&folder).map_err(unusable)?;
        // The engine's folder is locked from here on, and the watermark with it.
        let engine = Arc::new(Engine::open(&folder.join("engine"))?);
        let (mut watermark, batch) = Watermark::open(&folder).map_err(unusable)?;
        let found = check::check(&engine, batch)?;
        watermark.note(found.state.batch).map_err(unusable)?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(unusable)?;

        let mut indexes: HashMap<u32, Arc<Indexes>> = HashMap::new();
        for (collection, number, record, several) in found.indexes {
            indexes.entry(collection).or_default().found(number, record, several);
        }
        let queue = Arc::new(Queue::new(found.state));
        let tail = Arc::new(Tail::new(found.state));
        let (tide, _) = watch::channel(Tide { position: found.state.position, put_back: 0, closed: false });
        let committer = Committer {
            engine: engine.clone(),
            tail: tail.clone(),
            tide: tide.clone(),
            watermark,
            state: found.state,
            sync: options.durability == Durability::Synced,
        };
        let commits = Arc::new(Commits::new(queue.clone(), committer));
        let run = {
            let commits = commits.clone();
            move || commits.run()
        };
        let thread = std::thread::Builder::new().name("nodestorage-commit".into()).spawn(run);
        Ok(Self {
            shared: Arc::new(Shared {
                clock: options.clock,
                engine: RwLock::new(Some(engine)),
                queue,
                commits,
                tail,
                tide,
                gates: (0..GATES).map(|_| tokio::sync::Mutex::default()).collect(),
                collections: tokio::sync::Mutex::new(found.collections),
                indexes: Mutex::new(indexes),
                thread: Mutex::new(Some(thread.map_err(unusable)?)),
                folder,
            }),
        })
    }

    /// Opens a collection, creating it if it is absent. Waits until it has the indexes that the options name.
    pub async fn collection(
        &self,
        name: &str,
        options: StorageOptions,
    ) -> Result<EmbeddedStorage, StorageError> {
        store::check_collection(name, &options)?;
        self.shared.queue.check_open()?;
        let mut collections = self.shared.collections.lock().await;
        let record = match collections.get(name) {
            Some(record) if !record.recorded => return Err(store::unrecorded_collection(name)),
            Some(record) => *record,
            None => {
                let number = collections.values().map(|record| record.number + 1).max().unwrap_or(0);
                let record = CollectionRecord { number, recorded: true };
                let write = Write::put(Space::Meta, CollectionRecord::key(name), record.encode());
                self.shared.write(vec![write]).await?;
                collections.insert(name.to_owned(), record);
                record
            }
        };
        drop(collections);
        let indexes = self.shared.indexes.lock().entry(record.number).or_default().clone();
        let storage = EmbeddedStorage::new(self.shared.clone(), record.number, indexes, options);
        storage.finish_indexes().await?;
        for index in &storage.options.indexes {
            storage.make_index(index).await?;
        }
        Ok(storage)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn collection(
        &self,
        name: &str,
        options: StorageOptions,
    ) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(self.collection(name, options).await?))
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.shared.queue.end(Ended::Closed);
        let shared = self.shared.clone();
        let ended = tokio::task::spawn_blocking(move || shared.finish()).await;
        ended.map_err(|e| StorageError::Backend(e.to_string()))?;
        match self.shared.queue.check_open() {
            Err(StorageError::Backend(reason)) => Err(StorageError::Backend(reason)),
            _ => Ok(()),
        }
    }
}

impl Shared {
    fn engine(&self) -> Result<Arc<Engine>, StorageError> {
        self.engine.read().clone().ok_or(StorageError::Closed)
    }

    fn gate(&self, key: &DocumentKey) -> &tokio::sync::Mutex<()> {
        &self.gates[self.gate_number(key)]
    }

    fn gate_number(&self, key: &DocumentKey) -> usize {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(key) as usize % GATES
    }

    /// Writes records that are about no document, and waits until they are durable.
    async fn write(&self, writes: Vec<Write>) -> Result<(), StorageError> {
        self.write_and_remove(writes, Vec::new()).await
    }

    /// Waits until everything that is in the queue is durable.
    async fn settle(&self) -> Result<(), StorageError> {
        self.write(Vec::new()).await
    }

    async fn write_and_remove(&self, writes: Vec<Write>, removed: Vec<u64>) -> Result<(), StorageError> {
        let share = self.queue.room(writes.iter().map(Write::len_bytes).sum()).await?;
        let place = |_: &mut _, answer| {
            let (parts, timestamp_ms) = (Vec::new(), 0);
            Request { writes, parts, timestamp_ms, removed, answer, share }
        };
        self.commits.push(place)?.durable().await
    }

    /// Waits for the commit thread and lets go of the folder.
    fn finish(&self) {
        let mut thread = self.thread.lock();
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
        self.engine.write().take();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.end(Ended::Closed);
        self.finish();
    }
}

#[cfg(test)]
mod tests;
