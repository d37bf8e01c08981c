//! Runs the client's machines over the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crdt_core::ClientId;
use nodestorage::DocumentId;
use serde_json::Value;
use tokio::{
    sync::{Mutex, Notify, broadcast, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Applied, ClientRecord, ConflictResolver, StateManager,
    connection::{Connection, Lost, Said},
};
use crate::{
    protocol::{ClientMessage, DocumentResume, Problem, PushOp},
    shelf::{Durability, Shelf, ShelfError},
};

/// How a [`SyncClient`] behaves.
pub struct SyncClientOptions {
    /// The server's socket: `ws://HOST:PORT/sync`.
    pub url: String,
    /// One that no other running client uses.
    pub client_id: ClientId,
    /// A bearer token, where the server asks for one; [`SyncClient::set_token`] gives the next.
    pub token: Option<String>,
    /// Decides when others were faster.
    pub resolver: ConflictResolver,
    /// Where documents and unsent writes are kept: `MemoryShelf`, or a folder of its own.
    pub shelf: Arc<dyn Shelf>,
}

/// Follows documents of an eventsync server and writes to them, online or not.
///
/// A write shows at once, is durable on the shelf when [`write`](Self::write) returns, and is sent until it is answered,
/// over any number of lost connections and restarts. It counts once.
pub struct SyncClient {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// Whether the server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientStatus {
    /// Waiting to try again, or trying.
    Offline,
    /// Connected; some documents have not caught up.
    CatchingUp,
    /// Everything that is open has caught up.
    Live,
}

/// Something that the application may want to know.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// A document looks different.
    Changed(DocumentId),
    /// A write was refused; what became of it, the resolver decided.
    Refused {
        /// To which document.
        document_id: DocumentId,
        /// Why.
        problem: Problem,
    },
}

/// Why a client could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// What is to be kept was not, or could not be read.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// What is kept is no record.
    #[error("the record of {document_id} can't be read: {reason}")]
    Record {
        /// Of which document.
        document_id: DocumentId,
        /// What is wrong.
        reason: String,
    },
    /// The document was not opened.
    #[error("document {0} is not open")]
    NotOpen(DocumentId),
    /// Too many documents.
    #[error("at most {} documents can be open", SyncClient::DOCUMENTS_MAX)]
    TooManyDocuments,
    /// Too many writes that are not answered.
    #[error("{max} writes of document {0} are not answered yet", max = SyncClient::PENDING_MAX)]
    TooManyWrites(DocumentId),
}

struct Shared {
    options: SyncClientOptions,
    // Taken for a copy or an exchange, never across an await.
    token: std::sync::Mutex<Option<String>>,
    // Short looks and changes only, never across an await.
    documents: std::sync::Mutex<BTreeMap<DocumentId, Opened>>,
    // Held while a record is made and kept, so that the last one kept is the newest.
    saving: Mutex<()>,
    /// Tells the task that something is to be sent.
    wanted: Notify,
    /// Counts what has changed, for those who wait.
    changes: watch::Sender<u64>,
    status: watch::Sender<ClientStatus>,
    events: broadcast::Sender<ClientEvent>,
}

struct Opened {
    manager: StateManager,
    /// Counts changes of the manager, and how many of them the shelf has.
    changes: u64,
    kept: u64,
    /// Whether to begin with the latest state, because what is held is not what the server holds.
    afresh: bool,
    /// Whether the server was asked for it on this connection.
    subscribed: bool,
    /// Whether it has caught up on this connection.
    live: bool,
}

/// The first pause before another attempt, which doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long the server may be silent before it is asked whether it is there, and how long until it counts as gone.
const PING_AFTER: Duration = Duration::from_secs(10);
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// How many events wait for a slow listener; above it the oldest go, and the listener is told how many.
const EVENTS_MAX: usize = 256;

impl SyncClient {
    /// How many documents can be open: as many as a socket serves.
    pub const DOCUMENTS_MAX: usize = 256;
    /// How many writes of one document wait for their answer; above it writing is an error.
    pub const PENDING_MAX: usize = 1000;

    /// Starts the client: it connects, and connects again whenever the connection breaks.
    pub fn start(options: SyncClientOptions) -> Self {
        let shared = Arc::new(Shared {
            token: std::sync::Mutex::new(options.token.clone()),
            options,
            documents: std::sync::Mutex::default(),
            saving: Mutex::default(),
            wanted: Notify::new(),
            changes: watch::Sender::new(0),
            status: watch::Sender::new(ClientStatus::Offline),
            events: broadcast::channel(EVENTS_MAX).0,
        });
        let task = tokio::spawn(run(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Follows a document, which need not exist, from where an earlier run left it.
    pub async fn open(&self, id: &DocumentId) -> Result<(), ClientError> {
        if self.shared.documents().contains_key(id) {
            return Ok(());
        }
        let client = self.shared.options.client_id.clone();
        let manager = match self.shared.options.shelf.get(&self.shared.key(id)).await? {
            Some(bytes) => {
                let record: ClientRecord = serde_json::from_slice(&bytes).map_err(|error| {
                    ClientError::Record { document_id: id.clone(), reason: error.to_string() }
                })?;
                StateManager::restore(client, record)
            }
            None => StateManager::new(id.clone(), client, 0),
        };
        {
            let mut documents = self.shared.documents();
            if documents.len() >= Self::DOCUMENTS_MAX {
                return Err(ClientError::TooManyDocuments);
            }
            let opened =
                Opened { manager, changes: 0, kept: 0, afresh: false, subscribed: false, live: false };
            documents.entry(id.clone()).or_insert(opened);
        }
        self.shared.wanted.notify_one();
        Ok(())
    }

    /// Writes to an open document. It shows at once, and is durable here when this returns. `guarded`: only if the
    /// document is still as it is seen now; else the resolver decides.
    pub async fn write(&self, id: &DocumentId, op: PushOp, guarded: bool) -> Result<(), ClientError> {
        {
            let mut documents = self.shared.documents();
            let opened = documents.get_mut(id).ok_or_else(|| ClientError::NotOpen(id.clone()))?;
            if opened.manager.pending().count() >= Self::PENDING_MAX {
                return Err(ClientError::TooManyWrites(id.clone()));
            }
            opened.manager.write(op, guarded, now_ms());
            opened.changes += 1;
        }
        self.shared.changed(id);
        self.shared.keep(id).await?;
        self.shared.wanted.notify_one();
        Ok(())
    }

    /// An open document as the user should see it: the confirmed state under the own writes; `Null` for absent.
    pub fn view(&self, id: &DocumentId) -> Result<Value, ClientError> {
        self.shared.look(id, StateManager::view)
    }

    /// The last event that an open document contains.
    pub fn version(&self, id: &DocumentId) -> Result<u64, ClientError> {
        self.shared.look(id, StateManager::version)
    }

    /// Goes on under another token of the same name, without a new connection. Without one in time the server ends the
    /// connection; what is written meanwhile is kept, and sent under the next token.
    pub fn set_token(&self, token: String) {
        *self.shared.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        self.shared.wanted.notify_one();
    }

    /// How many writes are not answered, over all open documents.
    pub fn unsent(&self) -> usize {
        self.shared.documents().values().map(|opened| opened.manager.pending().count()).sum()
    }

    /// Changes whenever a document or the number of unsent writes does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether the server is reached.
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
        self.shared.status.subscribe()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<ClientEvent> {
        self.shared.events.subscribe()
    }

    /// Ends the connection and keeps what there is. Unsent writes are sent by the next run.
    pub async fn close(self) -> Result<(), ClientError> {
        self.task.abort();
        let ids: Vec<DocumentId> = self.shared.documents().keys().cloned().collect();
        for id in ids {
            self.shared.keep(&id).await?;
        }
        Ok(())
    }
}

impl Drop for SyncClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn documents(&self) -> MutexGuard<'_, BTreeMap<DocumentId, Opened>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look<T>(&self, id: &DocumentId, look: impl FnOnce(&StateManager) -> T) -> Result<T, ClientError> {
        let documents = self.documents();
        let opened = documents.get(id).ok_or_else(|| ClientError::NotOpen(id.clone()))?;
        Ok(look(&opened.manager))
    }

    fn key(&self, id: &DocumentId) -> Vec<u8> {
        [b"client\0", self.options.client_id.as_str().as_bytes(), b"\0", id.as_str().as_bytes()].concat()
    }

    fn changed(&self, id: &DocumentId) {
        self.changes.send_modify(|count| *count += 1);
        // Nobody listening is fine.
        let _ = self.events.send(ClientEvent::Changed(id.clone()));
    }

    /// Makes the shelf's record the present one, durably.
    async fn keep(&self, id: &DocumentId) -> Result<(), ClientError> {
        let _order = self.saving.lock().await;
        let (record, changes) = match self.documents().get(id) {
            Some(opened) if opened.kept < opened.changes => (opened.manager.to_record(), opened.changes),
            _ => return Ok(()),
        };
        let bytes = serde_json::to_vec(&record)
            .map_err(|error| ClientError::Record { document_id: id.clone(), reason: error.to_string() })?;
        self.options.shelf.put(self.key(id), bytes, Durability::Synced).await?;
        if let Some(opened) = self.documents().get_mut(id) {
            opened.kept = changes;
        }
        Ok(())
    }

    fn tell_status(&self, connected: bool) {
        let all_live = self.documents().values().all(|opened| opened.live);
        let status = match (connected, all_live) {
            (false, _) => ClientStatus::Offline,
            (true, false) => ClientStatus::CatchingUp,
            (true, true) => ClientStatus::Live,
        };
        self.status.send_if_modified(|present| std::mem::replace(present, status) != status);
    }
}

async fn run(shared: Arc<Shared>) {
    let mut failures: u32 = 0;
    loop {
        let mut was_live = false;
        let mut pause_min = Duration::ZERO;
        let lost = serve(&shared, &mut was_live, &mut pause_min).await;
        for opened in shared.documents().values_mut() {
            opened.manager.on_disconnected();
            (opened.subscribed, opened.live) = (false, false);
        }
        shared.tell_status(false);
        failures = if was_live { 0 } else { failures.saturating_add(1) };
        tracing::debug!(lost, failures, "the connection to the server is gone");
        // Clients that lost the same server do not all come back at once.
        let ceiling = PAUSE_MAX.min(PAUSE_MIN * 2_u32.saturating_pow(failures.min(16)));
        tokio::time::sleep(pause_min.max(ceiling.mul_f64(0.5 + rand::random::<f64>() / 2.0))).await;
    }
}

/// One connection, until it is lost.
#[expect(clippy::disallowed_methods, reason = "a driver notices silence")]
async fn serve(shared: &Shared, was_live: &mut bool, pause_min: &mut Duration) -> Lost {
    let mut connection = match Connection::open(&shared.options.url).await {
        Ok(connection) => connection,
        Err(lost) => return lost,
    };
    let mut shown = shared.token();
    let hello = ClientMessage::Hello {
        client_id: shared.options.client_id.clone(),
        token: shown.clone(),
        documents: BTreeMap::new(),
        collection: None,
    };
    if let Err(lost) = connection.send(&hello).await {
        return lost;
    }
    let mut heard = Instant::now();
    let mut asked = heard;
    let mut greeted = false;
    loop {
        if greeted && let Err(lost) = show_new_token(shared, &mut connection, &mut shown).await {
            return lost;
        }
        if greeted && let Err(lost) = send_what_there_is(shared, &mut connection).await {
            return lost;
        }
        tokio::select! {
            said = connection.next() => {
                heard = Instant::now();
                match said {
                    Ok(Said::Welcome {}) => greeted = true,
                    Ok(Said::Drain { reconnect_after_ms }) => {
                        *pause_min = Duration::from_millis(reconnect_after_ms).min(PAUSE_MAX);
                        connection.close().await;
                        return "the server goes down".to_owned();
                    }
                    Ok(said) => {
                        if let Err(lost) = take(shared, said) {
                            return lost;
                        }
                    }
                    Err(lost) => return lost,
                }
                shared.tell_status(greeted);
                *was_live |= *shared.status.borrow() == ClientStatus::Live;
            }
            () = shared.wanted.notified() => {}
            () = tokio::time::sleep_until(heard.max(asked) + PING_AFTER) => {
                if heard.elapsed() > SILENCE_MAX {
                    return "the server is silent".to_owned();
                }
                if let Err(lost) = connection.send(&ClientMessage::Ping { id: None }).await {
                    return lost;
                }
                asked = Instant::now();
            }
        }
    }
}

/// Shows the token that has been set since the last one was shown.
async fn show_new_token(
    shared: &Shared,
    connection: &mut Connection,
    shown: &mut Option<String>,
) -> Result<(), Lost> {
    let token = shared.token();
    if let Some(new) = token.clone().filter(|_| token != *shown) {
        *shown = token;
        connection.send(&ClientMessage::Authenticate { token: new }).await?;
    }
    Ok(())
}

/// Subscribes to what was opened, and sends the oldest write of each document that has caught up.
async fn send_what_there_is(shared: &Shared, connection: &mut Connection) -> Result<(), Lost> {
    let mut wanted = BTreeMap::new();
    let mut ready = BTreeSet::new();
    for (id, opened) in &mut *shared.documents() {
        if !opened.subscribed {
            (opened.subscribed, opened.live) = (true, false);
            let resume = opened.manager.resume();
            wanted.insert(id.clone(), if opened.afresh { DocumentResume::default() } else { resume });
        }
        if opened.live {
            ready.insert(id.clone());
        }
    }
    if !wanted.is_empty() {
        connection.send(&subscribe(wanted)).await?;
        shared.tell_status(true);
    }
    for id in ready {
        // Kept before it is sent, also what a refusal has made of it.
        shared.keep(&id).await.map_err(|error| error.to_string())?;
        let push = shared.documents().get_mut(&id).and_then(|opened| opened.manager.poll_push());
        if let Some(push) = push {
            connection.send(&ClientMessage::Push(push)).await?;
        }
    }
    Ok(())
}

fn subscribe(documents: BTreeMap<DocumentId, DocumentResume>) -> ClientMessage {
    ClientMessage::Subscribe { documents, collection: None }
}

/// Takes in what the server said.
fn take(shared: &Shared, said: Said) -> Result<(), Lost> {
    let mut documents = shared.documents();
    let mut refused = None;
    let id = match said {
        Said::Events { document_id: Some(id), events } => {
            let Some(opened) = documents.get_mut(&id) else { return Ok(()) };
            for event in events {
                match opened.manager.on_event(&event) {
                    Ok(Applied::Merged | Applied::Known) => {}
                    Ok(Applied::Gap) => opened.subscribed = false,
                    Err(error) => {
                        opened.afresh = true;
                        return Err(format!("an event of {id} does not fit: {error}"));
                    }
                }
            }
            opened.changes += 1;
            id
        }
        Said::Snapshot(snapshot) => {
            let Some(opened) = documents.get_mut(&snapshot.document_id) else { return Ok(()) };
            opened.manager.on_snapshot(&snapshot);
            opened.afresh = false;
            opened.changes += 1;
            snapshot.document_id
        }
        Said::Live { document_id: Some(id) } => {
            let Some(opened) = documents.get_mut(&id) else { return Ok(()) };
            opened.live = true;
            id
        }
        Said::Pushed { document_id, client_seq: Some(client_seq), version } => {
            let Some(opened) = documents.get_mut(&document_id) else { return Ok(()) };
            opened.manager.on_pushed(client_seq, version);
            opened.changes += 1;
            document_id
        }
        Said::Rejected { document_id, client_seq: Some(client_seq), problem, current } => {
            let Some(opened) = documents.get_mut(&document_id) else { return Ok(()) };
            let resolver = &shared.options.resolver;
            opened.manager.on_rejected(client_seq, &problem, current.as_ref(), resolver);
            opened.changes += 1;
            refused = Some(problem);
            document_id
        }
        Said::Error { problem } => {
            tracing::warn!(detail = problem.detail, "the server did not like a message");
            return Ok(());
        }
        _ => return Ok(()),
    };
    drop(documents);
    if let Some(problem) = refused {
        let _ = shared.events.send(ClientEvent::Refused { document_id: id.clone(), problem });
    }
    shared.changed(&id);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the driver reads the clock for its machines")]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
