//! What each client has of each document, as it last said.

use std::sync::Arc;

use crdt_core::ClientId;
use nodestorage::{DocumentId, StorageError};
use serde::{Deserialize, Serialize};

use crate::{
    event::ClientVector,
    shelf::{self, Durability, ScanRange, Shelf, ShelfError},
    store::{EventPage, EventStore, PageLimit},
};

/// What one client has of one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientState {
    /// Which client.
    pub client_id: ClientId,
    /// Which document.
    pub document_id: DocumentId,
    /// Which writes of which clients it has.
    pub vector_clock: ClientVector,
    /// The last sequence number of the document that it has; a count of its own, not one of the vector's.
    pub cursor: u64,
    /// When it last said so, in milliseconds since 1970 UTC.
    pub last_updated: u64,
}

/// Keeps the state vectors of clients, per client and document, over restarts.
///
/// It is a memory of what clients said, not the truth about what they have: a resuming client sends its own vector, and
/// that counts. A record that a crash loses costs nothing but a line in a table.
pub struct StateVectorManager {
    shelf: Arc<dyn Shelf>,
    events: Arc<dyn EventStore>,
    // Orders the read and write of one update, so that two of one client do not lose one; held over shelf calls only.
    updates: tokio::sync::Mutex<()>,
}

/// Why a look-up of missing events failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorError {
    /// The side store.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The event store.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl StateVectorManager {
    /// How many clients are remembered per document. At the bound those longest silent are forgotten.
    pub const CLIENTS_PER_DOCUMENT_MAX: usize = 1024;

    /// Keeps them on a shelf.
    pub fn new(shelf: Arc<dyn Shelf>, events: Arc<dyn EventStore>) -> Self {
        Self { shelf, events, updates: tokio::sync::Mutex::new(()) }
    }

    /// What a client has; `None` if it is not registered.
    pub async fn get(
        &self,
        document: &DocumentId,
        client: &ClientId,
    ) -> Result<Option<ClientState>, ShelfError> {
        let bytes = self.shelf.get(&key(document, client)).await?;
        Ok(bytes.and_then(|bytes| shelf::decode("state vector", &bytes)))
    }

    /// Registers a client that has nothing yet. One that is registered already keeps what it has.
    pub async fn register(
        &self,
        document: &DocumentId,
        client: &ClientId,
        now_ms: u64,
    ) -> Result<ClientState, ShelfError> {
        self.update(document, client, &ClientVector::new(), 0, now_ms).await
    }

    /// Takes in what a client says it has. What it had before it still has: vectors and cursors only grow.
    pub async fn update(
        &self,
        document: &DocumentId,
        client: &ClientId,
        vector: &ClientVector,
        cursor: u64,
        now_ms: u64,
    ) -> Result<ClientState, ShelfError> {
        let _one_at_a_time = self.updates.lock().await;
        let known = self.get(document, client).await?;
        if known.is_none() {
            self.make_room(document).await?;
        }
        let mut state = known.unwrap_or_else(|| ClientState {
            client_id: client.clone(),
            document_id: document.clone(),
            vector_clock: ClientVector::new(),
            cursor: 0,
            last_updated: 0,
        });
        state.vector_clock.merge(vector);
        state.cursor = state.cursor.max(cursor);
        state.last_updated = now_ms.max(state.last_updated);
        self.shelf.put(key(document, client), shelf::encode(&state)?, Durability::Lazy).await?;
        Ok(state)
    }

    /// Forgets a client.
    pub async fn unregister(&self, document: &DocumentId, client: &ClientId) -> Result<(), ShelfError> {
        self.shelf.remove(key(document, client)).await
    }

    /// The clients of a document in the order of their ids, at most `limit`.
    pub async fn clients(&self, document: &DocumentId, limit: usize) -> Result<Vec<ClientState>, ShelfError> {
        let range = ScanRange::of_prefix(&shelf::key(&["vector", document.as_str()]));
        let found = self.shelf.scan(range, limit).await?;
        Ok(found.iter().filter_map(|(_, bytes)| shelf::decode("state vector", bytes)).collect())
    }

    /// The events that a registered client lacks, as far as it said what it has. All of them for a stranger.
    pub async fn missing_events(
        &self,
        document: &DocumentId,
        client: &ClientId,
        limit: PageLimit,
    ) -> Result<EventPage, VectorError> {
        let (vector, cursor) = match self.get(document, client).await? {
            Some(state) => (state.vector_clock, state.cursor),
            None => (ClientVector::new(), 0),
        };
        Ok(self.events.events_missing(document, &vector, cursor, limit).await?)
    }

    async fn make_room(&self, document: &DocumentId) -> Result<(), ShelfError> {
        let range = ScanRange::of_prefix(&shelf::key(&["vector", document.as_str()]));
        if self.shelf.scan(range, Self::CLIENTS_PER_DOCUMENT_MAX).await?.len()
            < Self::CLIENTS_PER_DOCUMENT_MAX
        {
            return Ok(());
        }
        let clients = self.clients(document, Self::CLIENTS_PER_DOCUMENT_MAX).await?;
        match clients.iter().min_by_key(|state| state.last_updated) {
            Some(silent) => self.unregister(document, &silent.client_id).await,
            None => Ok(()),
        }
    }
}

fn key(document: &DocumentId, client: &ClientId) -> Vec<u8> {
    shelf::key(&["vector", document.as_str(), client.as_str()])
}
