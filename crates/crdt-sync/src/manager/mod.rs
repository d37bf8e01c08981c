//! The synchronisation of one document, running.

mod driver;
pub mod folding;
mod members;
mod owned;
mod policy;
mod readings;
mod repair;
mod retry;
pub mod sealed;
mod snapshots;
mod told;

use std::sync::Arc;

use crdt_core::{Patch, SessionId, StateVector, Timestamp};
use tokio::{
    sync::{Mutex, broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
};

pub(crate) use self::readings::Readings;
use self::{
    driver::{Command, Driver},
    folding::Folding,
    told::Told,
};
pub use self::{
    policy::CompactionPolicy,
    readings::READINGS_MAX,
    repair::Repaired,
    retry::{StoreRetry, StoreTries},
};
use crate::{
    Broadcaster, DiscoveryError, DocumentError, Guard, PatchRecord, PatchStore, PatchStoreError,
    PeerDiscovery, PeerId, SharedError, SyncDocument, Syncer,
    session::{Counters, PeerStatus, Refusal, SessionEvent, SessionOptions, Status, SyncMode},
};

/// How many calls wait for the manager's task; above it the next call waits until there is room.
const COMMANDS_MAX: usize = 256;
/// How many events wait for a slow watcher; above it the oldest go, and the watcher is told how many.
const EVENTS_MAX: usize = 256;

/// Keeps one document in step with its other replicas, from [`start`](Self::start) to [`stop`](Self::stop).
pub struct SyncManager {
    parts: Parts,
    events: broadcast::Sender<SessionEvent>,
    told: Told,
    // Held while the task is started or stopped, so that there is one.
    running: Mutex<Option<Running>>,
}

/// What a manager works with; each part can be another implementation.
#[derive(Clone)]
struct Parts {
    document: Arc<dyn SyncDocument>,
    broadcaster: Arc<dyn Broadcaster>,
    syncer: Arc<dyn Syncer>,
    discovery: Arc<dyn PeerDiscovery>,
    store: Arc<dyn PatchStore>,
    options: SessionOptions,
    guard: Option<Arc<dyn Guard>>,
    compaction: CompactionPolicy,
    retry: StoreRetry,
}

impl Parts {
    fn folding(&self) -> Folding<'_> {
        let dag = self.options.sync == SyncMode::Dag;
        Folding { store: &*self.store, document: &*self.document, guard: self.guard.as_deref(), dag }
    }

    /// Puts a patch into the document, with who signed it.
    fn apply(&self, record: &PatchRecord) -> Result<(), DocumentError> {
        self.document.apply(record, self.guard.as_ref().and_then(|guard| guard.signer(record)))
    }
}

struct Running {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl SyncManager {
    /// Puts the parts together, with [`SessionOptions::standard`].
    pub fn new(
        document: Arc<dyn SyncDocument>,
        broadcaster: Arc<dyn Broadcaster>,
        syncer: Arc<dyn Syncer>,
        discovery: Arc<dyn PeerDiscovery>,
        store: Arc<dyn PatchStore>,
    ) -> Self {
        let options = SessionOptions::standard(document.session());
        let parts = Parts {
            document,
            broadcaster,
            syncer,
            discovery,
            store,
            options,
            guard: None,
            compaction: CompactionPolicy::STANDARD,
            retry: StoreRetry::STANDARD,
        };
        let (events, told) = (broadcast::channel(EVENTS_MAX).0, Told::new());
        Self { parts, events, told, running: Mutex::new(None) }
    }

    /// The same with other bounds. The session is always the document's.
    #[must_use]
    pub fn with_options(mut self, options: SessionOptions) -> Self {
        self.parts.options = SessionOptions { session: self.parts.options.session, ..options };
        self
    }

    /// The same with another policy of when patches are folded and snapshots offered.
    #[must_use]
    pub fn with_compaction(mut self, policy: CompactionPolicy) -> Self {
        self.parts.compaction = policy.bounded();
        self
    }

    /// The same with other bounds of what the store's passing failures may cost.
    #[must_use]
    pub fn with_store_retry(mut self, retry: StoreRetry) -> Self {
        self.parts.retry = retry;
        self
    }

    /// The same with someone who decides what is taken in.
    #[must_use]
    pub fn with_guard(mut self, guard: Arc<dyn Guard>) -> Self {
        self.parts.guard = Some(guard);
        self
    }

    /// Brings the document to what the store has, and begins to synchronise. `seed` is for jitter: let it be different
    /// on each replica.
    pub async fn start(&self, seed: u64) -> Result<(), SyncError> {
        let mut running = self.running.lock().await;
        if running.is_some() {
            return Err(SyncError::AlreadyStarted);
        }
        let told = (self.events.clone(), self.told.clone());
        let driver = Driver::load(self.parts.clone(), told, seed).await?;
        self.parts.discovery.start().await?;
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let task = tokio::spawn(driver.run(receiver, commands.downgrade()));
        *running = Some(Running { commands, task });
        Ok(())
    }

    /// Stores a patch of this replica's session and sends it to all. When this returns, the patch is durable.
    ///
    /// The patch is the next one of the session; whether it is in the document already (from `flush`) or not, it is
    /// afterwards. Handing over the same patch again changes nothing.
    ///
    /// Several tasks may edit and hand over, each its own patch, without a lock: what a
    /// [`SharedModel`](crate::SharedModel) was edited before is stored and sent first, whoever hands it over.
    ///
    /// # Errors
    /// [`Refusal::OutOfOrder`] if the patch is below what was handed over and not among it. It is not stored then.
    pub async fn apply_patch(&self, patch: &Patch) -> Result<(), SyncError> {
        let patch = patch.clone();
        self.ask(|done| Command::Apply { patch, done }).await?
    }

    /// Takes in a patch that a client of this node made under a session of its own: a browser, say, that is no peer and
    /// reaches nobody else. It is stored, then applied and broadcast from here. When this returns it is taken in, and
    /// durable as soon as the store's vector contains it; if its causes are missing, that is when they have come.
    pub async fn relay(&self, record: PatchRecord) -> Result<(), SyncError> {
        self.ask(|done| Command::Relay { record, done }).await?
    }

    /// Whether all there is to a patch are its bytes: no proof of who made it, and no links to what it follows.
    pub(crate) fn takes_patches_bare(&self) -> bool {
        self.parts.guard.is_none() && self.parts.options.sync == SyncMode::Vectors
    }

    /// Changes when something has become durable: the store's vector has grown.
    pub fn stored(&self) -> watch::Receiver<u64> {
        self.told.count.subscribe()
    }

    /// By what the store has grown since [`stored`](Self::stored) counted so many, and the count of now; `None` if that is not
    /// known: then the store is to be asked.
    pub(crate) fn grown_since(&self, count: u64) -> Option<(u64, StateVector<SessionId>)> {
        self.told.since(count)
    }

    /// Asks a peer what it has, now, instead of at the next turn.
    pub async fn sync(&self) -> Result<(), SyncError> {
        self.ask(|done| Command::Sync { done }).await
    }

    /// Folds what this replica and all peers that it knows have into a snapshot, and forgets those patches. Returns
    /// what the snapshot contains. Peers that went without a goodbye count for
    /// [`absent_max`](SessionOptions::absent_max), also over restarts. Somebody who comes later takes over the snapshot, and
    /// adds what it has edited, if it has not folded alone what is missing here ([`SessionEvent::Parted`]).
    pub async fn compact(&self) -> Result<StateVector<SessionId>, SyncError> {
        self.ask(|done| Command::Compact { done }).await?
    }

    /// Looks at every stored node of the DAG, and has peers bring again what is damaged or missing. What they bring is taken
    /// if its hash is the right one. (In a group that uses state vectors alone there are no hashes, and nothing is found.)
    ///
    /// It reads the whole log before anything else is done, so it is for an operator who has reason to doubt a disk, or a
    /// start after a crash.
    ///
    /// # Errors
    /// If the store can't be read or written. What was mended until then is.
    pub async fn repair(&self) -> Result<Repaired, SyncError> {
        self.ask(|done| Command::Repair { done }).await?
    }

    /// Says that a peer which is gone without a goodbye does not come back, so that nothing is kept for it any more;
    /// [`status`](Self::status) tells who is absent and what is kept for each. Returns whether there was such a one.
    ///
    /// If it does come back all the same, with edits of its own: see [`SessionEvent::Parted`].
    ///
    /// # Errors
    /// If the store could not note it. Until a restart it is forgotten all the same.
    pub async fn forget_peer(&self, peer: &PeerId) -> Result<bool, SyncError> {
        let peer = peer.clone();
        self.ask(|done| Command::Forget { peer, done }).await?
    }

    /// How the replica stands.
    pub async fn status(&self) -> Result<SyncStatus, SyncError> {
        self.ask(|done| Command::Status { done }).await
    }

    /// Watches what is reported from now on.
    pub fn events(&self) -> broadcast::Receiver<SessionEvent> {
        self.events.subscribe()
    }

    /// Finishes what is under way and stops. What has been acknowledged is durable already.
    pub async fn stop(&self) {
        let Some(running) = self.running.lock().await.take() else { return };
        drop(running.commands);
        self.parts.discovery.close().await;
        if let Err(error) = running.task.await {
            tracing::error!(%error, "the sync task ended badly");
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, SyncError> {
        let commands = match &*self.running.lock().await {
            Some(running) => running.commands.clone(),
            None => return Err(SyncError::Stopped),
        };
        let (done, answer) = oneshot::channel();
        commands.send(command(done)).await.map_err(|_| SyncError::Stopped)?;
        drop(commands); // The task sees by the last one that it is to stop, whoever waits for an answer.
        answer.await.map_err(|_| SyncError::Stopped)
    }
}

/// How a replica stands, and what has been counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStatus {
    /// Now.
    pub now: Status,
    /// Since the start.
    pub counters: Counters,
    /// What is durable here.
    pub stored: StateVector<SessionId>,
    /// Bytes of patches sent to all.
    pub bytes_broadcast: u64,
    /// Bytes of patches in pages sent to peers.
    pub bytes_paged: u64,
    /// Bytes of patches heard on the patch channel, known ones too.
    pub bytes_heard: u64,
    /// Bytes of patches and of parts of snapshots that peers sent, whether asked for or not.
    pub bytes_pulled: u64,
    /// Patches that are stored and that the document refused, here as on every replica.
    pub not_applied: u64,
    /// Patches and snapshots that the guard refused.
    pub not_allowed: u64,
    /// Bytes that came and were no message.
    pub malformed: u64,
    /// How often a channel reported that it lost something.
    pub gaps: u64,
    /// How often a message could not be sent.
    pub send_failures: u64,
    /// How often the store could not be read for a peer, or to fold.
    pub read_failures: u64,
    /// How often the store could not be written. (Whatever was to be written is tried again; see [`StoreRetry`].)
    pub write_failures: u64,
    /// About how many bytes the stored patches take that are not in a snapshot.
    pub log_bytes: u64,
    /// How many bytes the last snapshot takes that was made or taken over; 0 if there was none.
    pub snapshot_bytes: u64,
    /// How often patches were folded into a snapshot.
    pub folded: u64,
    /// How many bytes of a snapshot are held because a peer fetches it, part by part.
    pub offered_bytes: u64,
    /// Each known peer.
    pub peers: Vec<PeerStatus>,
}

/// Why the manager could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// `start` was called before.
    #[error("sync manager has been started already")]
    AlreadyStarted,
    /// It has not been started, or has been stopped, or stopped itself because its store failed.
    #[error("sync manager is not running")]
    Stopped,
    /// The patch was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A client's patch waits for others, and there is no room for more that do: it is to be sent again later.
    #[error("too many patches wait for their causes; send it again later")]
    Busy,
    /// The patch is of another session than the document's.
    #[error("patch {id} is not of this replica's session {session}")]
    NotOwn {
        /// Its id.
        id: Timestamp,
        /// The session.
        session: SessionId,
    },
    /// The store failed: what was not acknowledged may be lost.
    #[error(transparent)]
    Store(#[from] PatchStoreError),
    /// Other processes folded what was to be read, each time that it was read: [`READINGS_MAX`] times. Nothing is wrong with the
    /// store; the same may succeed later.
    #[error(
        "other processes folded the store each of the {times} times that it was read; try it again later"
    )]
    FoldedMeanwhile {
        /// How often it was read.
        times: usize,
    },
    /// The document refused what the store has.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The store could not be read or written while it was repaired.
    #[error("the repair ended early: {0}")]
    Repair(#[source] SharedError),
    /// The transport has been closed under it.
    #[error("the channel to the other replicas is closed")]
    ChannelClosed,
    /// Discovery did not start.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
}
