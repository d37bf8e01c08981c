//! The commit thread: the only one that writes. It makes a batch of all that has come, syncs once, and answers all.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    engine::{Engine, Write},
    queue::{Ended, Queue, Request},
    record::{LogRecord, Space, State},
    tail::Tail,
    watermark::Watermark,
};
use crate::{StorageError, watch::Tide};

/// How many positions of compacted changes are dropped from the start of the log after one batch.
const FLOOR_STEP_MAX: usize = 4096;

pub(super) struct Committer {
    pub(super) engine: Arc<Engine>,
    pub(super) queue: Arc<Queue>,
    pub(super) tail: Arc<Tail>,
    pub(super) tide: watch::Sender<Tide>,
    pub(super) watermark: Watermark,
    /// As of the last batch.
    pub(super) state: State,
    /// Whether a batch is durable before it is answered.
    pub(super) sync: bool,
}

impl Committer {
    /// Works until the queue has ended and is empty, or the store fails.
    pub(super) fn run(mut self) {
        while let Some(mut requests) = self.queue.take() {
            match self.commit(&mut requests) {
                Ok(()) => {
                    let removed: Vec<_> = requests.iter_mut().flat_map(|r| r.removed.drain(..)).collect();
                    self.publish(&mut requests, &removed);
                    self.queue.done(requests);
                    if !removed.is_empty()
                        && let Err(error) = self.raise_floor()
                    {
                        self.fail(Vec::new(), &error);
                    }
                }
                Err(error) => self.fail(requests, &error),
            }
        }
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
    fn fail(&self, requests: Vec<Request>, error: &StorageError) {
        tracing::error!(%error, "the store failed and takes no more writes");
        let ended = Ended::Failed(error.to_string());
        for request in requests {
            let _ = request.answer.send(Err(ended.error()));
        }
        self.queue.end(ended);
    }
}
