//! What the client's handle and its task have in common: the open documents, and what is kept of them.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
};

use nodestorage::DocumentId;
use tokio::{
    sync::{Mutex, Notify, broadcast, watch},
    time::Instant,
};

use super::{ClientError, ClientEvent, ClientStatus, StateManager, SyncClientOptions};
use crate::{protocol::Push, shelf::Durability};

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
}

impl Opened {
    pub(super) fn new(manager: StateManager) -> Self {
        let (changes, kept) = (0, 0);
        Self { manager, changes, kept, afresh: false, subscribed: false, live: false, again_at: None }
    }

    /// The connection is lost.
    pub(super) fn cut_off(&mut self) {
        self.manager.on_disconnected();
        (self.subscribed, self.live, self.again_at) = (false, false, None);
    }

    /// Takes a push if there is one to be sent now.
    pub(super) fn poll_push(&mut self, now: Instant) -> Option<Push> {
        if self.again_at.is_some_and(|at| now < at) {
            return None;
        }
        self.again_at = None;
        let push = self.manager.poll_push()?;
        // That it may be with the server outlives this client.
        self.changes += 1;
        Some(push)
    }
}

impl Shared {
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
