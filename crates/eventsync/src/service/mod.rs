//! The service: writes come in, every client gets every event once and in order.

mod aging;
mod edit;
mod idempotency;
mod pump;
mod locate;
mod read;
mod reader;
mod refusals;
mod wake;
mod write;

use std::sync::{Arc, OnceLock};

use nodestorage::{Body, DocumentId, Storage, StorageError};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::EventBroker,
    compaction::EventCompactor,
    shelf::Shelf,
    snapshot::{ShelfSnapshotStore, SnapshotPolicy, SnapshotStore},
    storage::EventSyncStorage,
    store::EventStore,
    vectors::StateVectorManager,
};

pub use edit::{DOCUMENT_BYTES_MAX, PATCH_OPERATIONS_MAX, PATCH_SHIFTS_MAX};
pub(crate) use edit::{apply_locally, op_size, size};
pub use idempotency::IdempotencyKey;
pub use read::{SyncAnswer, SyncRequest};
pub use reader::FeedReader;
pub use refusals::{Refusals, RefusedBy};
pub use write::{Refusal, WriteOptions, Written};

/// What the application demands of its documents. An error says what is wrong in words for the user.
pub type DocumentRules = Arc<dyn Fn(&Body) -> Result<(), String> + Send + Sync>;

/// What a [`SyncService`] is made of.
pub struct SyncServiceOptions {
    /// The documents and their events.
    pub storage: Arc<EventSyncStorage>,
    /// Where snapshots, state vectors and idempotency keys are kept.
    pub shelf: Arc<dyn Shelf>,
    /// When snapshots are made.
    pub snapshots: SnapshotPolicy,
    /// What goes of the events of all documents, deleted ones too, looked at every hour; `None` keeps everything.
    pub compaction: Option<EventCompactor>,
    /// What documents must look like; `None` for any JSON object.
    pub rules: Option<DocumentRules>,
}

/// Serves any number of clients. Cheap to clone.
#[derive(Clone)]
pub struct SyncService(Arc<Parts>);

struct Parts {
    storage: Arc<EventSyncStorage>,
    snapshots: Arc<dyn SnapshotStore>,
    policy: SnapshotPolicy,
    vectors: StateVectorManager,
    broker: Arc<EventBroker>,
    rules: Option<DocumentRules>,
    idempotency: idempotency::Table,
    /// Cancelled first: connections say goodbye.
    draining: CancellationToken,
    /// Cancelled when the connections are gone: the pump stops.
    stopped: CancellationToken,
    /// The tasks of this service and the connections that it serves.
    tasks: TaskTracker,
    connections: TaskTracker,
    /// Of those who asked for too much.
    refusals: Refusals,
    /// Where writes are told to other processes over the same store, once they are joined.
    hints: OnceLock<mpsc::Sender<DocumentId>>,
    // Written once when the pump can't go on; read by `/readyz`.
    failure: Mutex<Option<String>>,
}

impl SyncService {
    /// Starts the service: from now on its broker hears of every change of the storage, whoever makes it.
    /// Must be called within a tokio runtime.
    pub async fn start(options: SyncServiceOptions) -> Result<Self, StorageError> {
        let SyncServiceOptions { storage, shelf, snapshots: policy, compaction, rules } = options;
        let service = Self(Arc::new(Parts {
            snapshots: Arc::new(ShelfSnapshotStore::new(Arc::clone(&shelf))),
            vectors: StateVectorManager::new(Arc::clone(&shelf), Arc::clone(storage.events())),
            idempotency: idempotency::Table::new(shelf),
            broker: EventBroker::new(),
            draining: CancellationToken::new(),
            stopped: CancellationToken::new(),
            tasks: TaskTracker::new(),
            connections: TaskTracker::new(),
            refusals: Refusals::default(),
            hints: OnceLock::new(),
            failure: Mutex::new(None),
            storage,
            policy,
            rules,
        }));
        service.start_pump().await?;
        if let Some(compactor) = compaction {
            service.start_compaction(compactor);
        }
        Ok(service)
    }

    /// The documents.
    pub fn storage(&self) -> &Arc<EventSyncStorage> {
        &self.0.storage
    }

    /// The events.
    pub fn events(&self) -> &Arc<dyn EventStore> {
        self.0.storage.events()
    }

    /// The snapshots.
    pub fn snapshots(&self) -> &Arc<dyn SnapshotStore> {
        &self.0.snapshots
    }

    /// What clients said that they have.
    pub fn vectors(&self) -> &StateVectorManager {
        &self.0.vectors
    }

    /// Who is woken by events.
    pub fn broker(&self) -> &Arc<EventBroker> {
        &self.0.broker
    }

    /// Cancelled when the service begins to go down: connections say goodbye and end.
    pub fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }

    /// What [`close`](Self::close) waits for besides the service's own tasks.
    pub fn connections(&self) -> &TaskTracker {
        &self.0.connections
    }

    /// How often its users' limits refused something.
    pub fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// Whether new clients are welcome; if not, why.
    pub fn ready(&self) -> Result<(), String> {
        if self.0.draining.is_cancelled() {
            return Err("draining".into());
        }
        self.0.failure.lock().clone().map_or(Ok(()), Err)
    }

    /// Says goodbye to the clients. Idempotent.
    pub fn drain(&self) {
        self.0.draining.cancel();
        self.0.connections.close();
    }

    /// Drains, waits for the connections to end, stops, and closes the storage. Idempotent.
    pub async fn close(&self) -> Result<(), StorageError> {
        self.drain();
        self.0.connections.wait().await;
        self.0.stopped.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.storage.close().await
    }
}

/// The time by which the service's tasks wait.
#[expect(
    clippy::disallowed_methods,
    reason = "the service is the driver; its machines get this as a parameter"
)]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// The time in milliseconds since 1970 UTC.
#[expect(
    clippy::disallowed_methods,
    reason = "the service is the driver; its machines get this as a parameter"
)]
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
