//! What has been decided and is not durable yet.
//!
//! A writer holds the gate of its document while it reads, edits and takes its place in the queue, and lets go before
//! the write is durable. The next writer of the document starts from what is on its way, so that many writers of one
//! document share a batch like writers of many. No answer leaves before everything it rests on is durable.

use std::{collections::HashMap, sync::Arc};

use crdt_core::ClientId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    engine::Write,
    record::{DocumentKey, State},
};
use crate::{Body, StorageError, watch::LogEntry};

/// How many bytes of writes may wait for the next commit, in steps of [`QUEUE_STEP_BYTES`], of which each write takes
/// at least one. When the queue is full, writers wait for their place; nothing is refused.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

/// The smallest share of the queue that a write takes: bounds the queue to 65 536 writes.
pub const QUEUE_STEP_BYTES: usize = 1 << 10;

/// How many bytes are written as one batch, unless a single write is larger.
pub const BATCH_BYTES_MAX: usize = 8 << 20;

/// What goes into the queue as one: all of its writes become durable together.
pub(super) struct Request {
    pub(super) writes: Vec<Write>,
    /// What it does to documents, in order.
    pub(super) parts: Vec<Part>,
    /// When it was numbered; 0 for what carries no time.
    pub(super) timestamp_ms: u64,
    /// The positions whose changes it removes.
    pub(super) removed: Vec<u64>,
    /// Given when it is durable, or will never be.
    pub(super) answer: oneshot::Sender<Result<(), StorageError>>,
    /// Its share of the queue, given back with the answer.
    #[expect(dead_code, reason = "it is held, and given back when it is dropped")]
    pub(super) share: OwnedSemaphorePermit,
}

/// What a request does to one document.
pub(super) struct Part {
    pub(super) document: DocumentKey,
    /// The producer's sequence that it takes.
    pub(super) sequence: Option<(ClientId, u64)>,
    /// What it adds to the log, with its size.
    pub(super) logged: Option<(LogEntry, usize)>,
}

/// A document as the queue leaves it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    pub(super) version: u64,
    pub(super) body: Option<Arc<Body>>,
    /// The last sequence that each producer has in the queue.
    pub(super) lasts: HashMap<ClientId, u64>,
    /// How many parts of requests in the queue are about this document.
    pub(super) requests: usize,
}

/// The order in which things become durable.
pub(super) struct Order {
    /// The last position and time given out; `batch` and `floor` are the committer's.
    pub(super) state: State,
    pub(super) requests: Vec<Request>,
    pub(super) pending: HashMap<DocumentKey, Pending>,
    /// Somebody is committing: the commit thread, or a writer in its stead.
    pub(super) busy: bool,
    /// How many batches in a row were those of a single writer.
    pub(super) lone: u32,
    /// No more requests are taken: the store is closed, or has failed for this reason.
    pub(super) ended: Option<Ended>,
}

#[derive(Debug, Clone)]
pub(super) enum Ended {
    Closed,
    Failed(String),
}

impl Ended {
    pub(super) fn error(&self) -> StorageError {
        match self {
            Self::Closed => StorageError::Closed,
            Self::Failed(reason) => StorageError::Backend(reason.clone()),
        }
    }
}

pub(super) struct Queue {
    order: Mutex<Order>,
    /// Wakes the commit thread.
    filled: Condvar,
    room: Arc<Semaphore>,
}

impl Order {
    fn take(&mut self) -> Vec<Request> {
        let mut len_bytes = 0;
        let more = self.requests.iter().position(|request| {
            let first = len_bytes == 0;
            len_bytes += request.writes.iter().map(Write::len_bytes).sum::<usize>();
            !first && len_bytes > BATCH_BYTES_MAX
        });
        let rest = more.map_or_else(Vec::new, |more| self.requests.split_off(more));
        let batch = std::mem::replace(&mut self.requests, rest);
        self.busy = true;
        self.lone = if batch.len() == 1 { self.lone.saturating_add(1) } else { 0 };
        batch
    }
}

impl Queue {
    pub(super) fn new(state: State) -> Self {
        let (requests, pending) = (Vec::new(), HashMap::new());
        let order = Order { state, requests, pending, busy: false, lone: 0, ended: None };
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX / QUEUE_STEP_BYTES));
        Self { order: Mutex::new(order), filled: Condvar::new(), room }
    }

    /// Waits for a share of the queue for so many bytes.
    pub(super) async fn room(&self, len_bytes: usize) -> Result<OwnedSemaphorePermit, StorageError> {
        let steps = len_bytes.div_ceil(QUEUE_STEP_BYTES).clamp(1, QUEUE_BYTES_MAX / QUEUE_STEP_BYTES);
        self.room.clone().acquire_many_owned(steps as u32).await.map_err(|_| StorageError::Closed)
    }

    /// The document as the queue leaves it, if the queue holds anything about it.
    pub(super) fn pending(&self, key: &DocumentKey) -> Option<Pending> {
        self.order.lock().pending.get(key).cloned()
    }

    /// Takes a place: `place` numbers the request. It waits for nothing. Returns whether the caller is to
    /// [`lead`](Self::lead); otherwise somebody commits already, or the commit thread has been woken.
    pub(super) fn push(
        &self,
        leads: impl FnOnce(&Order) -> bool,
        place: impl FnOnce(&mut Order) -> Request,
    ) -> Result<bool, StorageError> {
        let mut order = self.order.lock();
        if let Some(ended) = &order.ended {
            return Err(ended.error());
        }
        let request = place(&mut order);
        let (busy, lead) = (order.busy, !order.busy && order.requests.is_empty() && leads(&order));
        order.requests.push(request);
        drop(order);
        if !busy && !lead {
            self.wake();
        }
        Ok(lead)
    }

    /// Wakes the commit thread.
    pub(super) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Waits for what has come, and takes as much as makes one batch. `None` after the end. Whoever has taken a batch is
    /// the only one who commits, until it finds no [`next`](Self::next) or takes its [`rest`](Self::rest).
    pub(super) fn take(&self) -> Option<Vec<Request>> {
        let mut order = self.order.lock();
        while order.busy || order.requests.is_empty() {
            if !order.busy && order.ended.is_some() {
                return None;
            }
            self.filled.wait(&mut order);
        }
        Some(order.take())
    }

    /// Takes a batch, if there is one and nobody commits.
    pub(super) fn lead(&self) -> Option<Vec<Request>> {
        let mut order = self.order.lock();
        (!order.busy && !order.requests.is_empty()).then(|| order.take())
    }

    /// Takes the next batch after one; without any, leaves the committing to others.
    pub(super) fn next(&self) -> Option<Vec<Request>> {
        let mut order = self.order.lock();
        if !order.requests.is_empty() {
            return Some(order.take());
        }
        order.busy = false;
        if order.ended.is_some() {
            self.wake();
        }
        None
    }

    /// Leaves the committing to others, and what has come to the commit thread.
    pub(super) fn rest(&self) {
        let mut order = self.order.lock();
        order.busy = false;
        if !order.requests.is_empty() || order.ended.is_some() {
            self.wake();
        }
    }

    /// Forgets what is durable now, and answers.
    pub(super) fn done(&self, requests: Vec<Request>) {
        let mut order = self.order.lock();
        for part in requests.iter().flat_map(|request| &request.parts) {
            let Some(pending) = order.pending.get_mut(&part.document) else { continue };
            pending.requests -= 1;
            if pending.requests == 0 {
                order.pending.remove(&part.document);
            } else if let Some((client, sequence)) = &part.sequence
                && pending.lasts.get(client) == Some(sequence)
            {
                pending.lasts.remove(client);
            }
        }
        drop(order);
        for request in requests {
            // Nobody there any more is no loss: it is durable, and a repeat will say so.
            let _ = request.answer.send(Ok(()));
        }
    }

    /// Ends the queue. What it holds is still written when it was closed, and refused when it failed.
    pub(super) fn end(&self, ended: Ended) {
        let mut order = self.order.lock();
        let refused = match ended {
            Ended::Closed => Vec::new(),
            Ended::Failed(_) => std::mem::take(&mut order.requests),
        };
        let ended = order.ended.get_or_insert(ended).clone();
        drop(order);
        self.room.close();
        self.wake();
        for request in refused {
            let _ = request.answer.send(Err(ended.error()));
        }
    }

    /// Why nothing is taken any more, if so.
    pub(super) fn check_open(&self) -> Result<(), StorageError> {
        self.order.lock().ended.as_ref().map_or(Ok(()), |ended| Err(ended.error()))
    }
}
