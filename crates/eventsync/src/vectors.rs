//! What each client has of each document, as it last said.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crdt_core::ClientId;
use nodestorage::{DocumentId, StorageError};
use serde::{Deserialize, Serialize};

use crate::{
    clock::DocumentClock,
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
    /// How many clients were seen for the first time.
    newcomers: AtomicU32,
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
    /// How many clients are remembered per document. Beyond it those longest silent are forgotten.
    pub const CLIENTS_PER_DOCUMENT_MAX: usize = 1024;

    /// Every so many newcomers their document is counted, because that reads all of it; so many more may be there meanwhile.
    pub const COUNTED_EVERY: u32 = 32;

    /// How many states are in memory at once while a document's clients are counted.
    const ROOM_PAGE: usize = 64;

    /// Keeps them on a shelf.
    pub fn new(shelf: Arc<dyn Shelf>, events: Arc<dyn EventStore>) -> Self {
        Self { shelf, events, newcomers: AtomicU32::new(0) }
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

    /// Takes in what a client says it has. What it had before it still has: vectors and cursors only grow, also when several
    /// processes over one shelf hear of a client at once.
    pub async fn update(
        &self,
        document: &DocumentId,
        client: &ClientId,
        vector: &ClientVector,
        cursor: u64,
        now_ms: u64,
    ) -> Result<ClientState, ShelfError> {
        match self.grow(document, client, vector, cursor, None, now_ms).await? {
            Grown::To(state) => Ok(state),
            Grown::Behind { .. } => Err(ShelfError("a state is behind nothing".to_owned())),
        }
    }

    /// The same, as far as the document goes. What a client says of writes that the document does not hold is nobody's business:
    /// whoever may read could fill the store with clients that it made up, and a cursor behind the end would have the client
    /// lack nothing for ever. Nor does it count what the client had of a history that is lost by now.
    pub(crate) async fn update_within(
        &self,
        document: &DocumentId,
        client: &ClientId,
        vector: &ClientVector,
        cursor: u64,
        within: Within<'_>,
        now_ms: u64,
    ) -> Result<Grown, ShelfError> {
        self.grow(document, client, vector, cursor, Some(within), now_ms).await
    }

    async fn grow(
        &self,
        document: &DocumentId,
        client: &ClientId,
        vector: &ClientVector,
        cursor: u64,
        bound: Option<Within<'_>>,
        now_ms: u64,
    ) -> Result<Grown, ShelfError> {
        let mut is_new = false;
        let grow = |known: Option<&[u8]>| {
            is_new = known.is_none();
            let known = known.and_then(|bytes| shelf::decode("state vector", bytes));
            let mut state: ClientState = known.unwrap_or_else(|| ClientState {
                client_id: client.clone(),
                document_id: document.clone(),
                vector_clock: ClientVector::new(),
                cursor: 0,
                last_updated: 0,
            });
            if let Some(Within { latest, lost_at }) =
                bound.filter(|bound| state.cursor > bound.latest.version)
            {
                if lost_at != Some(state.cursor) {
                    // The document may have gone on since it was looked at, and another one may have said so.
                    return Ok((None, Grown::Behind { cursor: state.cursor }));
                }
                // It was said of a history that went further than there is one now. What else it says is of that one too.
                state.cursor = 0;
                state.vector_clock = ClientVector::new();
                tracing::debug!(%document, %client, latest.version, "what a client had is of another history");
            }
            state.vector_clock.merge(vector);
            state.cursor = state.cursor.max(cursor);
            if let Some(Within { latest, .. }) = bound {
                state.cursor = state.cursor.min(latest.version);
                state.vector_clock = within(&state.vector_clock, &latest.vector);
            }
            state.last_updated = now_ms.max(state.last_updated);
            Ok((Some(shelf::encode(&state)?), Grown::To(state)))
        };
        let grown = shelf::update(&*self.shelf, key(document, client), Durability::Lazy, grow).await?;
        if is_new && self.newcomers.fetch_add(1, Ordering::Relaxed).is_multiple_of(Self::COUNTED_EVERY) {
            self.make_room(document, client).await?;
        }
        Ok(grown)
    }

    /// Forgets a client.
    pub async fn unregister(&self, document: &DocumentId, client: &ClientId) -> Result<(), ShelfError> {
        self.shelf.remove(key(document, client)).await
    }

    /// The clients of a document in the order of their ids, at most `limit`.
    pub async fn clients(&self, document: &DocumentId, limit: usize) -> Result<Vec<ClientState>, ShelfError> {
        self.clients_after(document, None, limit).await
    }

    /// The clients of a document behind one of them in the order of their ids, at most `limit`.
    pub async fn clients_after(
        &self,
        document: &DocumentId,
        after: Option<&ClientId>,
        limit: usize,
    ) -> Result<Vec<ClientState>, ShelfError> {
        let mut range = ScanRange::of_prefix(&shelf::key(&["vector", document.as_str()]));
        if let Some(after) = after {
            // The next key that there may be.
            range.from = key(document, after);
            range.from.push(0);
        }
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

    /// After a newcomer, which stays: others go if there are too many.
    async fn make_room(&self, document: &DocumentId, newcomer: &ClientId) -> Result<(), ShelfError> {
        // Of each no more than who and when is kept: a vector has an entry for everybody who ever wrote the document.
        let mut clients: Vec<(u64, ClientId)> = Vec::new();
        let range = ScanRange::of_prefix(&shelf::key(&["vector", document.as_str()]));
        shelf::walk(&*self.shelf, range, Self::ROOM_PAGE, |_, bytes| {
            let state: Option<ClientState> = shelf::decode("state vector", bytes);
            clients.extend(state.map(|state| (state.last_updated, state.client_id)));
            clients.len() < 2 * Self::CLIENTS_PER_DOCUMENT_MAX
        })
        .await?;
        let too_many = clients.len().saturating_sub(Self::CLIENTS_PER_DOCUMENT_MAX);
        clients.retain(|(_, client)| client != newcomer);
        clients.sort();
        for (_, silent) in clients.iter().take(too_many) {
            self.unregister(document, silent).await?;
        }
        Ok(())
    }
}

/// How far a document goes, for what a client says of it.
#[derive(Clone, Copy)]
pub(crate) struct Within<'c> {
    /// Its clock. It was read before the client's state is, so the state may be ahead of it.
    pub(crate) latest: &'c DocumentClock,
    /// A cursor that the state had before the clock was read: where that one is ahead still, it is of another history.
    pub(crate) lost_at: Option<u64>,
}

/// What became of a client's state.
pub(crate) enum Grown {
    /// It is this now.
    To(ClientState),
    /// Nothing: it is ahead of what the document was said to be, which is to be read anew.
    Behind {
        /// Where the state is.
        cursor: u64,
    },
}

/// What of a vector another one contains.
fn within(vector: &ClientVector, latest: &ClientVector) -> ClientVector {
    let known = |(writer, count): (&ClientId, u64)| {
        let count = count.min(latest.get(writer));
        (count > 0).then(|| (writer.clone(), count))
    };
    vector.iter().filter_map(known).collect()
}

fn key(document: &DocumentId, client: &ClientId) -> Vec<u8> {
    shelf::key(&["vector", document.as_str(), client.as_str()])
}

#[cfg(test)]
mod tests {
    use nodestorage::MemoryStorage;

    use super::*;
    use crate::{shelf::MemoryShelf, store::StorageEventStore};

    #[tokio::test]
    async fn what_another_request_has_said_meanwhile_does_not_go_back() {
        let events = Arc::new(StorageEventStore::new(Arc::new(MemoryStorage::default())));
        let vectors = StateVectorManager::new(Arc::new(MemoryShelf::default()), events);
        let (go, me) = (DocumentId::new("go").unwrap(), ClientId::new("me").unwrap());
        let of = |count: u64| -> ClientVector { [(me.clone(), count)].into_iter().collect() };
        let clock = |version| DocumentClock { version, vector: of(version), timestamp: None };
        let cursor = async || vectors.get(&go, &me).await.unwrap().unwrap().cursor;
        vectors.update(&go, &me, &of(6), 6, 1).await.unwrap();
        // Who has looked before the sixth was written, and says something of what came before it.
        let take_in = async |latest: &DocumentClock, lost_at| {
            let within = Within { latest, lost_at };
            vectors.update_within(&go, &me, &of(3), 3, within, 2).await.unwrap()
        };
        assert!(matches!(take_in(&clock(5), None).await, Grown::Behind { cursor: 6 }));
        assert_eq!(cursor().await, 6);
        // It looks again, and finds it.
        let Grown::To(state) = take_in(&clock(6), Some(6)).await else { panic!("it is not behind") };
        assert_eq!((state.cursor, state.vector_clock.get(&me)), (6, 6));
        // Or does not: the document was put back.
        let Grown::To(state) = take_in(&clock(5), Some(6)).await else { panic!("it is lost") };
        assert_eq!((state.cursor, state.vector_clock.get(&me)), (3, 3));
    }
}
