//! Patches in an embedded database on disk, durable before they are answered.
//!
//! One thread per database writes: it takes whatever appends wait, of all documents, and makes them durable together.
//! Readers see only what is durable. Opening a document reads it once and checks it.

mod committer;
mod layout;
mod paging;
mod salvage;
mod watermark;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use tokio::sync::{mpsc, oneshot};

use super::{PatchPage, PatchStore, PatchStoreError, StoreId};
use crate::{PatchRecord, SharedError, Want};
use committer::{Job, Writer};
use layout::{Damage, DocumentNumber};
use paging::Merged;
pub use salvage::{Salvaged, SalvagedDocument};
use watermark::Watermark;

/// A folder with the patches of many documents. Clones are the same folder.
#[derive(Clone)]
pub struct EmbeddedPatchStores {
    shared: Arc<Shared>,
}

/// Why a folder could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("patch store {} is open elsewhere", .0.display())]
    Locked(PathBuf),
    /// It was written by a newer version.
    #[error("patch store has layout {found}, this version reads up to {known}")]
    Newer {
        /// Its layout.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// Patches that were durable are gone: the end of its journal is damaged.
    #[error(
        "patch store lost batches: {durable} were durable, {found} are here; \
         `EmbeddedPatchStores::salvage` opens the way to what is left"
    )]
    Lost {
        /// How many batches had been durable.
        durable: u64,
        /// How many there are.
        found: u64,
    },
    /// A document's name is empty or too long.
    #[error("document name of {len} bytes: 1 to {max} are allowed", max = EmbeddedPatchStores::NAME_BYTES_MAX)]
    Name {
        /// Its length in bytes.
        len: usize,
    },
    /// What is there can't be read.
    #[error(transparent)]
    Store(#[from] PatchStoreError),
}

/// What all documents of a folder share. Dropped, it waits for its thread, so that the folder can be opened again.
struct Shared {
    tables: Tables,
    /// Appends wait here for the committing thread; callers wait when [`committer::JOBS_MAX`] are ahead of them.
    jobs: Option<mpsc::Sender<Job>>,
    committer: Option<JoinHandle<()>>,
    /// The documents that are open, so that all stores of one document share what is known of it.
    open: Mutex<HashMap<DocumentNumber, Weak<Document>>>,
}

#[derive(Clone)]
struct Tables {
    database: Database,
    /// Numbers by document name, and the number of the layout.
    names: Keyspace,
    patches: Keyspace,
    snapshots: Keyspace,
    /// The number of the last batch.
    batches: Keyspace,
    /// What [`EmbeddedPatchStores::salvage`] has taken out of the other tables.
    set_aside: Keyspace,
    /// Which folder this is.
    id: StoreId,
    /// What managers keep beside their document's patches.
    notes: Keyspace,
}

/// What is known of an open document.
struct Document {
    number: DocumentNumber,
    // Never held across a wait.
    state: Mutex<State>,
    /// Written while a snapshot takes the place of patches, read while a page is begun: a page sees the patches, or
    /// that they are gone.
    compaction: RwLock<()>,
}

struct State {
    /// What the committing thread has taken.
    accepted: StateVector<SessionId>,
    /// What is durable.
    vector: StateVector<SessionId>,
    /// What the snapshot contains.
    contained: StateVector<SessionId>,
}

impl Document {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EmbeddedPatchStores {
    /// The longest name of a document.
    pub const NAME_BYTES_MAX: usize = 255;

    /// Opens a folder; makes it if there is none.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        blocking(move || Self::open_blocking(&path)).await?
    }

    /// Mends a folder that can't be opened, or a document of which that is true, by setting aside what is damaged and
    /// what can't be without it. Of a whole folder nothing is touched.
    ///
    /// What was acknowledged and is set aside is missing afterwards: a manager gets it back from peers that have it.
    /// A session whose patches were set aside must not be used any more, as after any restart.
    pub async fn salvage(path: impl AsRef<Path>) -> Result<Salvaged, OpenError> {
        salvage::salvage(path.as_ref()).await
    }

    fn open_blocking(path: &Path) -> Result<Self, OpenError> {
        let tables = Tables::open(path)?;
        // The engine's folder is locked from here on, and the watermark with it.
        let (mut watermark, seen) = Watermark::open(path).map_err(backend)?;
        let found = tables.batch_number()?;
        if let Some(durable) = seen.filter(|durable| *durable > found) {
            return Err(OpenError::Lost { durable, found });
        }
        // What is read here is what is answered, so it counts as much as what was answered before.
        watermark.note(found).map_err(backend)?;
        let writer = Writer { tables: tables.clone(), batch: found, watermark };
        let (jobs, queue) = mpsc::channel(committer::JOBS_MAX);
        let committer = std::thread::Builder::new()
            .name("patch-committer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(backend)?;
        let shared = Shared { tables, jobs: Some(jobs), committer: Some(committer), open: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The store of a document. Reads and checks what is there.
    pub async fn document(&self, name: &str) -> Result<EmbeddedPatchStore, OpenError> {
        if name.is_empty() || name.len() > Self::NAME_BYTES_MAX {
            return Err(OpenError::Name { len: name.len() });
        }
        let (answer, number) = oneshot::channel();
        self.shared.send(Job::Name { name: name.to_owned(), answer }).await?;
        let number = number.await.map_err(|_| PatchStoreError::Closed)??;
        let shared = Arc::clone(&self.shared);
        let document = blocking(move || shared.document(number)).await??;
        let shared = Arc::clone(&self.shared);
        Ok(EmbeddedPatchStore { document, shared, closed: AtomicBool::new(false) })
    }

    /// The names of all documents, in order.
    pub async fn names(&self) -> Result<Vec<String>, PatchStoreError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let mut names = Vec::new();
            for entry in shared.tables.names.iter() {
                let key = entry.key().map_err(backend)?;
                names.extend(layout::name(&key).map_err(|damage| corrupt(&key, damage))?.map(str::to_owned));
            }
            Ok(names)
        })
        .await?
    }
}

impl Tables {
    fn open(path: &Path) -> Result<Self, OpenError> {
        let database = match Database::builder(path).open() {
            Ok(database) => database,
            Err(fjall::Error::Locked) => return Err(OpenError::Locked(path.to_owned())),
            Err(error) => return Err(backend(error).into()),
        };
        let table =
            |name, options: fn() -> KeyspaceCreateOptions| database.keyspace(name, options).map_err(backend);
        let names = table("names", KeyspaceCreateOptions::default)?;
        let patches = table("patches", KeyspaceCreateOptions::default)?;
        let snapshots = table("snapshots", || {
            // Large values that are read whole: they need not move when the tree is compacted.
            KeyspaceCreateOptions::default().with_kv_separation(Some(KvSeparationOptions::default()))
        })?;
        let batches = table("batches", KeyspaceCreateOptions::default)?;
        let set_aside = table("set_aside", KeyspaceCreateOptions::default)?;
        let notes = table("notes", KeyspaceCreateOptions::default)?;
        match names.get(layout::VERSION_KEY).map_err(backend)? {
            None => {
                let version = layout::write_name(layout::VERSION_KEY, layout::VERSION);
                let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
                batch.insert(&names, layout::VERSION_KEY, version);
                batch.commit().map_err(backend)?;
            }
            Some(value) => {
                let found = layout::read_name(layout::VERSION_KEY, &value)
                    .map_err(|damage| corrupt(layout::VERSION_KEY, damage))?;
                if found > layout::VERSION {
                    return Err(OpenError::Newer { found, known: layout::VERSION });
                }
            }
        }
        let id = folder_id(&database, &table("folder", KeyspaceCreateOptions::default)?)?;
        Ok(Self { database, names, patches, snapshots, batches, set_aside, id, notes })
    }

    /// How many batches have been written.
    fn batch_number(&self) -> Result<u64, PatchStoreError> {
        let key = layout::BATCH_KEY;
        let value = self.batches.get(key).map_err(backend)?;
        value.map_or(Ok(0), |value| layout::read_batch(key, &value).map_err(|damage| corrupt(key, damage)))
    }

    /// Reads a document and checks that each session's patches follow each other.
    fn load(&self, number: DocumentNumber) -> Result<State, PatchStoreError> {
        let contained = self.snapshot(number)?.map(|(vector, _)| vector).unwrap_or_default();
        let mut vector = contained.clone();
        let mut session = None;
        for entry in self.patches.prefix(number.to_be_bytes()) {
            let (key, value) = entry.into_inner().map_err(backend)?;
            let record = layout::read_record(&key, &value).map_err(|damage| corrupt(&key, damage))?;
            let last = vector.get(&record.session());
            // The first one behind a snapshot may overlap with what is contained; the others follow exactly.
            let follows = if session == Some(record.session()) {
                record.prev == last
            } else {
                record.prev <= last && record.last() > last
            };
            if !follows {
                let reason = format!("patch {} does not follow {last}", record.id);
                return Err(PatchStoreError::Corrupt { place: place(&key), reason });
            }
            session = Some(record.session());
            vector.advance(record.session(), record.last());
        }
        Ok(State { accepted: vector.clone(), vector, contained })
    }

    fn snapshot(
        &self,
        number: DocumentNumber,
    ) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        let key = number.to_be_bytes();
        let value = self.snapshots.get(key).map_err(backend)?;
        value.map(|v| layout::read_snapshot(&key, &v).map_err(|damage| corrupt(&key, damage))).transpose()
    }
}

/// Which folder this is; drawn at the first opening.
fn folder_id(database: &Database, folder: &Keyspace) -> Result<StoreId, PatchStoreError> {
    let key = layout::FOLDER_KEY;
    if let Some(value) = folder.get(key).map_err(backend)? {
        return layout::read_folder(key, &value).map_err(|damage| corrupt(key, damage));
    }
    let id = StoreId::draw();
    let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(folder, key, layout::write_folder(id));
    batch.commit().map_err(backend)?;
    Ok(id)
}

impl Shared {
    async fn send(&self, job: Job) -> Result<(), PatchStoreError> {
        let jobs = self.jobs.as_ref().ok_or(PatchStoreError::Closed)?;
        jobs.send(job).await.map_err(|_| PatchStoreError::Closed)
    }

    fn document(&self, number: DocumentNumber) -> Result<Arc<Document>, PatchStoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, document| document.strong_count() > 0);
        let entry = match open.entry(number) {
            Entry::Occupied(entry) => {
                if let Some(document) = entry.get().upgrade() {
                    return Ok(document);
                }
                Entry::Occupied(entry)
            }
            vacant => vacant,
        };
        // Under the lock: nobody else may open the document, and so write to it, in the meantime.
        let state = Mutex::new(self.tables.load(number)?);
        let document = Arc::new(Document { number, state, compaction: RwLock::default() });
        entry.insert_entry(Arc::downgrade(&document));
        Ok(document)
    }

    fn page(
        &self,
        document: &Document,
        want: &[Want],
        bytes_max: usize,
    ) -> Result<PatchPage, PatchStoreError> {
        let view = {
            let _no_compaction = document.compaction.read().unwrap_or_else(PoisonError::into_inner);
            let state = document.state();
            if want.iter().any(|want| want.after < state.contained.get(&want.sid)) {
                return Ok(PatchPage::Compacted);
            }
            self.tables.database.snapshot()
        };
        let (mut records, mut bytes) = (Vec::new(), 0);
        for record in Merged::new(&view, &self.tables.patches, document.number, want)? {
            let record = record?;
            bytes += record.len_bytes();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(record);
        }
        Ok(PatchPage::Records(records))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs = None; // The committing thread finishes what it has, then ends.
        if let Some(committer) = self.committer.take() {
            let _ = committer.join(); // If it panicked, that was reported there.
        }
    }
}

/// The patches of one document in an [`EmbeddedPatchStores`] folder.
pub struct EmbeddedPatchStore {
    document: Arc<Document>,
    shared: Arc<Shared>,
    closed: AtomicBool,
}

impl EmbeddedPatchStore {
    fn check_open(&self) -> Result<(), PatchStoreError> {
        if self.closed.load(Relaxed) { Err(PatchStoreError::Closed) } else { Ok(()) }
    }

    async fn commit(
        &self,
        job: impl FnOnce(Arc<Document>, committer::Answer<()>) -> Job,
    ) -> Result<(), PatchStoreError> {
        self.check_open()?;
        let (answer, done) = oneshot::channel();
        self.shared.send(job(Arc::clone(&self.document), answer)).await?;
        done.await.map_err(|_| PatchStoreError::Closed)?
    }
}

#[async_trait]
impl PatchStore for EmbeddedPatchStore {
    fn id(&self) -> Option<StoreId> {
        Some(self.shared.tables.id)
    }

    #[tracing::instrument(name = "store_append", level = "debug", skip_all, fields(records = records.len()))]
    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError> {
        let records = records.to_vec();
        self.commit(|document, answer| Job::Append { document, records, answer }).await
    }

    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError> {
        self.check_open()?;
        Ok(self.document.state().vector.clone())
    }

    #[tracing::instrument(name = "store_page", level = "debug", skip_all, fields(sessions = want.len()))]
    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        self.check_open()?;
        let (shared, document) = (Arc::clone(&self.shared), Arc::clone(&self.document));
        let want = want.to_vec();
        blocking(move || shared.page(&document, &want, bytes_max)).await?
    }

    #[tracing::instrument(name = "store_install", level = "debug", skip_all, fields(len_bytes = snapshot.len()))]
    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        let vector = vector.clone();
        self.commit(|document, answer| Job::Install { document, vector, snapshot, answer }).await
    }

    #[tracing::instrument(name = "store_mend", level = "debug", skip_all, fields(id = ?record.id))]
    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        let record = record.clone();
        self.commit(|document, answer| Job::Mend { document, record, answer }).await
    }

    #[tracing::instrument(name = "store_snapshot", level = "debug", skip_all)]
    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        self.check_open()?;
        let (shared, number) = (Arc::clone(&self.shared), self.document.number);
        blocking(move || shared.tables.snapshot(number)).await?
    }

    async fn keep_note(&self, note: Bytes) -> Result<(), PatchStoreError> {
        self.commit(|document, answer| Job::Note { document, note, answer }).await
    }

    async fn note(&self) -> Result<Bytes, PatchStoreError> {
        self.check_open()?;
        let (shared, key) = (Arc::clone(&self.shared), self.document.number.to_be_bytes());
        blocking(move || match shared.tables.notes.get(key).map_err(backend)? {
            Some(value) => layout::read_note(&key, &value).map_err(|damage| corrupt(&key, damage)),
            None => Ok(Bytes::new()),
        })
        .await?
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        // What was answered is durable, so there is nothing to finish.
        self.closed.store(true, Relaxed);
        Ok(())
    }
}

/// Runs what waits for the disk where waiting is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PatchStoreError> {
    tokio::task::spawn_blocking(work).await.map_err(backend)
}

fn backend(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PatchStoreError {
    PatchStoreError::Backend(SharedError::new(error))
}

fn place(key: &[u8]) -> String {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("key {hex}")
}

fn corrupt(key: &[u8], damage: Damage) -> PatchStoreError {
    PatchStoreError::Corrupt { place: place(key), reason: damage.to_string() }
}
/// Reads contents as the value of a patch and of a snapshot, as if their checksum were right: whatever they are, they are
/// read or refused. For the fuzz target, which would find no checksum.
#[doc(hidden)]
pub fn look_at(key: &[u8], contents: &[u8]) {
    let mut value = [&[0; 4], contents].concat();
    layout::seal(key, &mut value);
    let _ = layout::read_snapshot(key, &value);
    if let Ok(record) = layout::read_record(key, &value) {
        let again = layout::write_record(key, &record);
        assert_eq!(layout::read_record(key, &again), Ok(record));
    }
}
