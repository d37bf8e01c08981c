//! The client: what the application calls.

use std::sync::{Arc, PoisonError};

use crdt_core::ClientId;
use nodestorage::DocumentId;
use serde_json::Value;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};

use super::{
    ClientRecord, ConflictResolver, HeldWrite, StateManager,
    connection::Connection,
    shared::{Opened, Shared},
    talk,
};
use crate::{
    protocol::{Problem, PushOp},
    service::now_ms,
    shelf::{Shelf, ShelfError},
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
/// over any number of lost connections and restarts. It counts once. One that can't go is [held](Self::held) until the user has
/// decided about it, and those behind it go on.
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
    /// A write was refused.
    Refused {
        /// To which document.
        document_id: DocumentId,
        /// Why.
        problem: Problem,
        /// As which of the [held](SyncClient::held) ones it is kept. `None`: others were faster, and the resolver has decided
        /// what became of it.
        held: Option<u64>,
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
    /// The writes that are not answered are too large together.
    #[error(
        "writes of document {document_id} with {bytes} bytes are not answered yet, at most {max} may be",
        max = SyncClient::PENDING_BYTES_MAX
    )]
    TooManyBytes {
        /// Of which document.
        document_id: DocumentId,
        /// How large they are.
        bytes: usize,
    },
}

impl SyncClient {
    /// How many documents can be open: as many as a socket serves.
    pub const DOCUMENTS_MAX: usize = 256;
    /// How many writes of one document wait for their answer; above it writing is an error.
    pub const PENDING_MAX: usize = 1000;
    /// How many bytes they have together, with the states that they were made on, when no further one is taken.
    pub const PENDING_BYTES_MAX: usize = 64 << 20;

    /// Starts the client: it connects, and connects again whenever the connection breaks.
    pub fn start(options: SyncClientOptions) -> Self {
        let shared = Arc::new(Shared::new(options));
        let url = shared.options.url.clone();
        let open = move || {
            let url = url.clone();
            async move { Connection::open(&url).await }
        };
        let task = tokio::spawn(talk::run(Arc::clone(&shared), open));
        Self { shared, task }
    }

    /// A client whose connections a test makes.
    #[cfg(test)]
    pub(super) fn over<S, O>(options: SyncClientOptions, open: impl Fn() -> O + Send + 'static) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        O: Future<Output = Result<Connection<S>, super::connection::Lost>> + Send + 'static,
    {
        let shared = Arc::new(Shared::new(options));
        let task = tokio::spawn(talk::run(Arc::clone(&shared), open));
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
            None => StateManager::new(id.clone(), client),
        };
        {
            let mut documents = self.shared.documents();
            if documents.len() >= Self::DOCUMENTS_MAX {
                return Err(ClientError::TooManyDocuments);
            }
            documents.entry(id.clone()).or_insert(Opened::new(manager));
        }
        self.shared.wanted.notify_one();
        Ok(())
    }

    /// Writes to an open document. It shows at once, and is durable here when this returns. `guarded`: only if the
    /// document is still as it is seen now; else the resolver decides.
    pub async fn write(&self, id: &DocumentId, op: PushOp, guarded: bool) -> Result<(), ClientError> {
        let mut refused = None;
        let write = |manager: &mut StateManager| {
            let bytes = manager.pending_bytes();
            refused = match () {
                () if manager.pending().len() >= Self::PENDING_MAX => {
                    Some(ClientError::TooManyWrites(id.clone()))
                }
                () if bytes >= Self::PENDING_BYTES_MAX => {
                    Some(ClientError::TooManyBytes { document_id: id.clone(), bytes })
                }
                () => None,
            };
            if refused.is_none() {
                manager.write(op, guarded, now_ms());
            }
            refused.is_none()
        };
        self.change(id, write).await?;
        refused.map_or(Ok(()), Err)
    }

    /// Changes what there is to send of a document, durably. Gives what `change` gives: whether it has done anything.
    async fn change(
        &self,
        id: &DocumentId,
        change: impl FnOnce(&mut StateManager) -> bool,
    ) -> Result<bool, ClientError> {
        {
            let mut documents = self.shared.documents();
            let opened = documents.get_mut(id).ok_or_else(|| ClientError::NotOpen(id.clone()))?;
            if !change(&mut opened.manager) {
                return Ok(false);
            }
            opened.changes += 1;
        }
        self.shared.changed(id);
        self.shared.keep(id).await?;
        self.shared.wanted.notify_one();
        Ok(true)
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
        self.shared.documents().values().map(|opened| opened.manager.unsent()).sum()
    }

    /// The writes that can't go, with their documents: the server refuses them, or they are larger than it takes. They are out
    /// of the view, and kept, over restarts, until they are sent again or dropped; of each document the last
    /// [`StateManager::HELD_WRITES_MAX`].
    pub fn held(&self) -> Vec<(DocumentId, HeldWrite)> {
        let documents = self.shared.documents();
        let of = |(id, opened): (&DocumentId, &Opened)| {
            let id = id.clone();
            opened.manager.held().map(move |held| (id.clone(), held.clone())).collect::<Vec<_>>()
        };
        documents.iter().flat_map(of).collect()
    }

    /// Writes a held write anew, onto what the document is now; its values stand where they clash. If it still can't go, it
    /// is held again. `false` if there is no such one, or if it is still being found out whether it was stored.
    pub async fn send_held(&self, id: &DocumentId, held: u64) -> Result<bool, ClientError> {
        self.change(id, |manager| manager.send_held(held, now_ms())).await
    }

    /// Lets go of a held write. `false` if there is no such one.
    pub async fn drop_held(&self, id: &DocumentId, held: u64) -> Result<bool, ClientError> {
        self.change(id, |manager| manager.drop_held(held)).await
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::DuplexStream;

    use super::*;
    use crate::{client::connection::Lost, shelf::MemoryShelf};

    #[tokio::test]
    async fn a_write_behind_as_many_bytes_as_may_wait_is_refused() {
        let options = SyncClientOptions {
            url: "ws://nowhere/sync".to_owned(),
            client_id: ClientId::new("me").unwrap(),
            token: None,
            resolver: ConflictResolver::ServerWins,
            shelf: Arc::new(MemoryShelf::new()),
        };
        let never = std::future::pending::<Result<Connection<DuplexStream>, Lost>>;
        let client = SyncClient::over(options, never);
        let id = DocumentId::new("d").unwrap();
        client.open(&id).await.unwrap();
        let replace = |len: usize| PushOp::Replace {
            state: json!({ "text": "x".repeat(len) }).as_object().unwrap().clone(),
        };
        {
            // Not through the handle: with each of them all would be written down.
            let mut documents = client.shared.documents();
            let manager = &mut documents.get_mut(&id).unwrap().manager;
            manager.write(replace(SyncClient::PENDING_BYTES_MAX), false, 0);
            assert!(manager.pending_bytes() > SyncClient::PENDING_BYTES_MAX);
        }
        let refused = client.write(&id, replace(1), false).await.unwrap_err();
        assert!(matches!(refused, ClientError::TooManyBytes { .. }), "{refused}");
        assert!(refused.to_string().starts_with("writes of document d with 671"), "{refused}");
        assert_eq!(client.shared.documents()[&id].manager.pending().len(), 1);
        // One byte less than too much, and what is there is no matter.
        let room = SyncClient::PENDING_BYTES_MAX - 40;
        {
            let mut documents = client.shared.documents();
            let manager = &mut documents.get_mut(&id).unwrap().manager;
            *manager = StateManager::new(id.clone(), ClientId::new("me").unwrap());
            manager.write(replace(room), false, 0);
            assert!(manager.pending_bytes() < SyncClient::PENDING_BYTES_MAX);
            manager.write(PushOp::Delete, false, 0);
            assert!(manager.pending_bytes() > SyncClient::PENDING_BYTES_MAX, "what was seen counts too");
        }
        assert!(client.write(&id, PushOp::Delete, false).await.is_err());
    }
}
