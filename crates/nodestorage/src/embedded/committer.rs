//! The commits of a store: all that has come is made a batch, synced once, and all are answered.
//!
//! One batch at a time. Mostly it is the commit thread that makes them, as the next batch gathers while it syncs. A
//! writer who comes alone commits in its stead: handing over to another thread and back would cost it more than the
//! writing.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::{
    engine::{Engine, Write},
    queue::{Ended, Order, Queue, Request},
    record::{LogRecord, Space, State},
    tail::Tail,
    watermark::Watermark,
};
use crate::{StorageError, watch::Tide};

/// How many positions of compacted changes are dropped from the start of the log after one batch.
const FLOOR_STEP_MAX: usize = 4096;

/// How many batches a writer commits before it leaves the rest to the commit thread.
const LEAD_BATCHES_MAX: usize = 4;

/// After how many batches of a single writer in a row the next one counts as alone. Of many writers, one is now and then
/// alone in a batch, and the others would wait for its sync.
const LONE_BATCHES_MIN: u32 = 4;

/// Where a sync takes longer than this, writers leave all of them to the commit thread: theirs is a thread that others
/// wait for.
const LEAD_SYNC_MAX: Duration = Duration::from_millis(1);

/// Who commits, and when.
pub(super) struct Commits {
    queue: Arc<Queue>,
    /// Held by whoever has taken a batch, so nobody waits for it. `None` after the end.
    pub(super) committer: Mutex<Option<Committer>>,
    /// Whether a batch is durable before it is answered.
    sync: bool,
    /// Whether the last sync took longer than [`LEAD_SYNC_MAX`].
    slow: AtomicBool,
}

impl Commits {
    pub(super) fn new(queue: Arc<Queue>, committer: Committer) -> Self {
        let sync = committer.sync;
        Self { queue, committer: Mutex::new(Some(committer)), sync, slow: AtomicBool::new(false) }
    }

    /// Puts what `place` numbers into the queue. It waits for nothing.
    pub(super) fn push(
        self: &Arc<Self>,
        place: impl FnOnce(&mut Order, oneshot::Sender<Result<(), StorageError>>) -> Request,
    ) -> Result<Answered, StorageError> {
        let (answer, answered) = oneshot::channel();
        let alone = |order: &Order| {
            !self.sync || order.lone >= LONE_BATCHES_MIN && !self.slow.load(Ordering::Relaxed)
        };
        let lead = self.queue.push(alone, |order| place(order, answer))?;
        Ok(Answered { answered, lead: lead.then(|| self.clone()) })
    }

    /// The commit thread: works until the queue has ended and is empty, or the store fails.
    pub(super) fn run(&self) {
        while let Some(batch) = self.queue.take() {
            self.commit(batch);
            self.queue.rest();
        }
        if let Some(committer) = self.committer.lock().take() {
            committer.end();
        }
    }

    /// Commits in the commit thread's stead, if nobody else does by now.
    fn lead(&self) {
        let Some(batch) = self.queue.lead() else { return };
        self.commit(batch);
        // A sync is long enough for others to gather, and they are the commit thread's.
        let more = if self.sync { 0 } else { LEAD_BATCHES_MAX - 1 };
        for _ in 0..more {
            let Some(batch) = self.queue.next() else { return };
            self.commit(batch);
        }
        self.queue.rest();
    }

    fn commit(&self, batch: Vec<Request>) {
        #[expect(clippy::disallowed_methods, reason = "only who commits depends on it, not what")]
        let start = Instant::now();
        let committed = std::panic::catch_unwind(AssertUnwindSafe(|| {
            if let Some(committer) = &mut *self.committer.lock() {
                committer.commit_and_answer(&self.queue, batch);
            }
        }));
        self.slow.store(self.sync && start.elapsed() > LEAD_SYNC_MAX, Ordering::Relaxed);
        if committed.is_err() {
            self.queue.end(Ended::Failed("a commit panicked".into()));
        }
    }
}

/// What a writer waits for.
#[must_use = "a writer is answered when its write is durable, and may have to make it so itself"]
pub(super) struct Answered {
    answered: oneshot::Receiver<Result<(), StorageError>>,
    /// Given if this writer is to commit.
    lead: Option<Arc<Commits>>,
}

impl Answered {
    /// Waits until what was pushed is durable, or never will be.
    pub(super) async fn durable(mut self) -> Result<(), StorageError> {
        if let Some(commits) = self.lead.take() {
            commits.lead();
        }
        let gone = |_| Err(StorageError::Backend("the commit of this write was broken off".into()));
        (&mut self.answered).await.unwrap_or_else(gone)
    }
}

impl Drop for Answered {
    /// A writer who does not wait has its write made durable all the same.
    fn drop(&mut self) {
        if let Some(commits) = &self.lead {
            commits.queue.wake();
        }
    }
}

pub(super) struct Committer {
    pub(super) engine: Arc<Engine>,
    pub(super) tail: Arc<Tail>,
    pub(super) tide: watch::Sender<Tide>,
    pub(super) watermark: Watermark,
    /// As of the last batch.
    pub(super) state: State,
    /// Whether a batch is durable before it is answered.
    pub(super) sync: bool,
}

impl Committer {
    fn commit_and_answer(&mut self, queue: &Queue, mut requests: Vec<Request>) {
        match self.commit(&mut requests) {
            Ok(()) => {
                let removed: Vec<_> = requests.iter_mut().flat_map(|r| r.removed.drain(..)).collect();
                self.publish(&mut requests, &removed);
                queue.done(requests);
                if !removed.is_empty()
                    && let Err(error) = self.raise_floor()
                {
                    Self::fail(queue, Vec::new(), &error);
                }
            }
            Err(error) => Self::fail(queue, requests, &error),
        }
    }

    fn end(self) {
        if let Err(error) = self.engine.sync() {
            tracing::error!(%error, "the last sync of the store failed");
        }
        self.tide.send_modify(|tide| tide.closed = true);
    }

    fn commit(&mut self, requests: &mut [Request]) -> Result<(), StorageError> {
        let mut writes: Vec<Write> = requests.iter_mut().flat_map(|r| r.writes.drain(..)).collect();
        if writes.is_empty() {
            return Ok(());
        }
        for request in requests.iter() {
            for (entry, _) in request.parts.iter().filter_map(|part| part.logged.as_ref()) {
                self.state.position = entry.position;
            }
            self.state.timestamp_ms = self.state.timestamp_ms.max(request.timestamp_ms);
        }
        self.state.batch += 1;
        writes.push(Write::put(Space::Meta, State::KEY, self.state.encode()));
        self.engine.commit(writes, self.sync)?;
        if self.sync {
            self.watermark.note(self.state.batch).map_err(|e| StorageError::Backend(e.to_string()))?;
        }
        Ok(())
    }

    fn publish(&self, requests: &mut [Request], removed: &[u64]) {
        let parts = requests.iter_mut().flat_map(|request| &mut request.parts);
        self.tail.extend(parts.filter_map(|part| part.logged.take()), removed);
        let position = self.state.position;
        self.tide.send_if_modified(|tide| std::mem::replace(&mut tide.position, position) != position);
    }

    /// Drops the start of the log, as far as its changes have been compacted away. Needs no sync of its own: after a
    /// crash without it, the log is longer and no less true.
    fn raise_floor(&mut self) -> Result<(), StorageError> {
        let mut writes = Vec::new();
        let mut floor = self.state.floor;
        while floor < self.state.position && writes.len() < FLOOR_STEP_MAX {
            let key = (floor + 1).to_be_bytes();
            let entry = self.engine.get(Space::Log, &key, LogRecord::decode)?;
            if entry.is_none_or(|entry| !entry.removed) {
                break;
            }
            writes.push(Write::remove(Space::Log, key));
            floor += 1;
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.state.floor = floor;
        self.state.batch += 1;
        writes.push(Write::put(Space::Meta, State::KEY, self.state.encode()));
        self.engine.commit(writes, false)?;
        self.tail.raise_floor(floor);
        Ok(())
    }

    /// After a failed write nobody knows what is on the disk, so nothing more is written by this handle.
    fn fail(queue: &Queue, requests: Vec<Request>, error: &StorageError) {
        tracing::error!(%error, "the store failed and takes no more writes");
        let ended = Ended::Failed(error.to_string());
        for request in requests {
            let _ = request.answer.send(Err(ended.error()));
        }
        queue.end(ended);
    }
}
