//! What the client's handle and its task have in common: the open documents, and what is kept of them.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use nodestorage::DocumentId;
use tokio::{
    sync::{Mutex, Notify, broadcast, watch},
    time::Instant,
};

use super::{
    ClientError, ClientEvent, ClientStatus, StateManager, SyncClientOptions, state_manager::pause_after,
};
use crate::{
    protocol::{ClientMessage, Problem, ProblemType},
    shelf::Durability,
};

/// So many connections may be closed over one write because a message was too big; then it is that write.
const TOO_BIG_MAX: u32 = 2;
/// How many events wait for a slow listener; above it the oldest go, and the listener is told how many.
const EVENTS_MAX: usize = 256;

/// See the [module](self).
pub(super) struct Shared {
    pub(super) options: SyncClientOptions,
    // Taken for a copy or an exchange, never across an await.
    pub(super) token: std::sync::Mutex<Option<String>>,
    // Short looks and changes only, never across an await.
    pub(super) documents: std::sync::Mutex<BTreeMap<DocumentId, Opened>>,
    // Held while a record is made and kept, so that the last one kept is the newest.
    pub(super) saving: Mutex<()>,
    /// Tells the task that something is to be sent.
    pub(super) wanted: Notify,
    /// Counts what has changed, for those who wait.
    pub(super) changes: watch::Sender<u64>,
    pub(super) status: watch::Sender<ClientStatus>,
    pub(super) events: broadcast::Sender<ClientEvent>,
}

/// An open document.
pub(super) struct Opened {
    pub(super) manager: StateManager,
    /// Counts changes of the manager, and how many of them the shelf has.
    pub(super) changes: u64,
    pub(super) kept: u64,
    /// Whether to begin with the latest state, because what is held is not what the server holds.
    pub(super) afresh: bool,
    /// Whether the server was asked for it on this connection.
    pub(super) subscribed: bool,
    /// Whether it has caught up on this connection.
    pub(super) live: bool,
    /// Send nothing before this: the server could not decide about the last one.
    pub(super) again_at: Option<Instant>,
    /// The push that waits for its answer on this connection.
    sent: Option<Sent>,
    /// How many connections were lost while the oldest write waited for its answer, and how many of them because a message
    /// was too big.
    undecided: u32,
    too_big: u32,
}

/// A push on its way.
struct Sent {
    client_seq: u64,
    bytes: usize,
}

impl Opened {
    pub(super) fn new(manager: StateManager) -> Self {
        Self {
            manager,
            changes: 0,
            kept: 0,
            afresh: false,
            subscribed: false,
            live: false,
            again_at: None,
            sent: None,
            undecided: 0,
            too_big: 0,
        }
    }

    /// The connection is lost.
    fn cut_off(&mut self) {
        self.manager.on_disconnected();
        (self.subscribed, self.live, self.again_at) = (false, false, None);
        self.undecided += u32::from(self.sent.take().is_some());
    }

    /// It has caught up. A write that the last connections could not bring to the server, or that brought them down, waits
    /// longer each time, so that it neither keeps others from going nor the connection from staying.
    pub(super) fn on_live(&mut self, now: Instant) {
        self.live = true;
        if self.undecided > 1 && self.sent.is_none() {
            self.again_at = Some(now + jittered(pause_after(self.undecided - 1)));
        }
    }

    /// The server has said something about a write.
    pub(super) fn on_answer(&mut self, client_seq: u64) {
        // What its event has shown already is not what was sent last any more.
        if self.sent.take_if(|sent| sent.client_seq <= client_seq).is_some() {
            (self.undecided, self.too_big) = (0, 0);
        }
    }

    /// An event or a snapshot has come. If it contains own writes behind those of `before`, the oldest is another one: what
    /// became of connections over the last one says nothing about it.
    pub(super) fn on_contained(&mut self, before: u64) {
        let contained = self.manager.last_client_seq();
        if contained > before {
            self.sent.take_if(|sent| sent.client_seq <= contained);
            (self.undecided, self.too_big) = (0, 0);
        }
    }

    /// Takes the text of a push if there is one to be sent now. What is larger than the server takes is held instead, and
    /// noted in `held`.
    pub(super) fn poll_push(
        &mut self,
        now: Instant,
        bytes_max: usize,
        held: &mut Vec<(Problem, u64)>,
    ) -> Option<String> {
        if self.again_at.is_some_and(|at| now < at) {
            return None;
        }
        self.again_at = None;
        loop {
            let push = self.manager.poll_push()?;
            let client_seq = push.client_seq.unwrap_or_default();
            // That it may be with the server outlives this client.
            self.changes += 1;
            let text = encode(&ClientMessage::Push(push));
            if text.len() <= bytes_max {
                self.sent = Some(Sent { client_seq, bytes: text.len() });
                return Some(text);
            }
            let problem = too_large(text.len(), Some(bytes_max));
            let id = self.manager.on_too_large(problem.clone(), false)?;
            held.push((problem, id));
        }
    }
}

/// The text of a message.
pub(super) fn encode(message: &ClientMessage) -> String {
    serde_json::to_string(message).expect("a message has names for keys, and no numbers that are none")
}

/// Clients that were told the same do not all come back at once.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + rand::random::<f64>() / 2.0)
}

fn too_large(bytes: usize, limit: Option<usize>) -> Problem {
    let problem =
        |most: &str| Problem::new(ProblemType::TooLarge, format!("the edit has {bytes} bytes; {most}"));
    match limit {
        Some(limit) => {
            problem(&format!("the server takes at most {limit}")).with("limit", limit).with("unit", "bytes")
        }
        None => problem("something on the way to the server takes no message so large"),
    }
}

impl Shared {
    pub(super) fn new(options: SyncClientOptions) -> Self {
        Self {
            token: std::sync::Mutex::new(options.token.clone()),
            options,
            documents: std::sync::Mutex::default(),
            saving: Mutex::default(),
            wanted: Notify::new(),
            changes: watch::Sender::new(0),
            status: watch::Sender::new(ClientStatus::Offline),
            events: broadcast::channel(EVENTS_MAX).0,
        }
    }

    /// The connection is lost. `too_big`: the other end has closed it because a message of ours was too big; before all
    /// others that is the largest one that waits. Once may be about something else, as a proxy may mean what the server
    /// sent.
    pub(super) fn cut_off(&self, too_big: bool) {
        let mut documents = self.documents();
        let mut held = None;
        let bytes = |opened: &Opened| opened.sent.as_ref().map(|sent| sent.bytes);
        let largest = documents.iter_mut().filter(|_| too_big).max_by_key(|(_, opened)| bytes(opened));
        if let Some((id, opened)) = largest
            && let Some(bytes) = bytes(opened)
        {
            opened.too_big += 1;
            if opened.too_big >= TOO_BIG_MAX {
                (opened.sent, opened.undecided, opened.too_big) = (None, 0, 0);
                opened.changes += 1;
                let problem = too_large(bytes, None);
                let as_what = opened.manager.on_too_large(problem.clone(), true);
                held = as_what.map(|held| (id.clone(), problem, held));
            }
        }
        documents.values_mut().for_each(Opened::cut_off);
        drop(documents);
        if let Some((id, problem, held)) = held {
            self.refused(&id, problem, Some(held));
        }
    }

    /// Tells of a write that was refused, and as what it is held.
    pub(super) fn refused(&self, id: &DocumentId, problem: Problem, held: Option<u64>) {
        let _ = self.events.send(ClientEvent::Refused { document_id: id.clone(), problem, held });
        self.changed(id);
    }

    pub(super) fn documents(&self) -> MutexGuard<'_, BTreeMap<DocumentId, Opened>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn look<T>(
        &self,
        id: &DocumentId,
        look: impl FnOnce(&StateManager) -> T,
    ) -> Result<T, ClientError> {
        let documents = self.documents();
        let opened = documents.get(id).ok_or_else(|| ClientError::NotOpen(id.clone()))?;
        Ok(look(&opened.manager))
    }

    pub(super) fn key(&self, id: &DocumentId) -> Vec<u8> {
        [b"client\0", self.options.client_id.as_str().as_bytes(), b"\0", id.as_str().as_bytes()].concat()
    }

    pub(super) fn changed(&self, id: &DocumentId) {
        self.changes.send_modify(|count| *count += 1);
        // Nobody listening is fine.
        let _ = self.events.send(ClientEvent::Changed(id.clone()));
    }

    /// Makes the shelf's record the present one, durably.
    pub(super) async fn keep(&self, id: &DocumentId) -> Result<(), ClientError> {
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

    pub(super) fn tell_status(&self, connected: bool) {
        let all_live = self.documents().values().all(|opened| opened.live);
        let status = match (connected, all_live) {
            (false, _) => ClientStatus::Offline,
            (true, false) => ClientStatus::CatchingUp,
            (true, true) => ClientStatus::Live,
        };
        self.status.send_if_modified(|present| std::mem::replace(present, status) != status);
    }
}
