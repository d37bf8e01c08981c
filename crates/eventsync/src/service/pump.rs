//! The tasks behind the service: from the storage's changes to the broker, and snapshots that are due.

use std::time::Duration;

use futures_util::StreamExt;
use nodestorage::{DocumentId, Storage, StorageError, WatchEvent, WatchFilter, WatchFrom};
use tokio::sync::mpsc;

use super::{SyncService, aging::Aging, now, now_ms};
use crate::{compaction::EventCompactor, event::Event};

/// How many documents wait for their snapshot. At the bound one is left out, and made at its next interval.
const SNAPSHOTS_WAITING_MAX: usize = 64;

/// How often the service looks for events that may go.
const COMPACT_EVERY: Duration = Duration::from_secs(3600);

/// How many documents are read at a time for that.
const COMPACT_PAGE: usize = 64;

/// How long the pump waits before it watches again after a failure.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// How often the watch is opened anew without having yielded anything, before the service says that it is not ready.
const WATCH_TRIES_MAX: u32 = 25;

/// How often old idempotency keys are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

impl SyncService {
    pub(super) async fn start_pump(&self) -> Result<(), StorageError> {
        let position = self.0.storage.position().await?;
        let (due, waiting) = mpsc::channel(SNAPSHOTS_WAITING_MAX);
        let (pump, snapshots, keys) = (self.clone(), self.clone(), self.clone());
        let stopped = &self.0.stopped;
        self.0.tasks.spawn(stopped.clone().run_until_cancelled_owned(async move {
            pump.pump(position, due).await;
        }));
        self.0.tasks.spawn(stopped.clone().run_until_cancelled_owned(async move {
            snapshots.make_snapshots(waiting).await;
        }));
        self.0.tasks.spawn(stopped.clone().run_until_cancelled_owned(async move {
            keys.forget_old_keys().await;
        }));
        Ok(())
    }

    /// Hands every change to the broker. A watch that fails is opened again after the last position that it yielded,
    /// so nothing is lost and nothing comes twice.
    async fn pump(&self, mut position: u64, due: mpsc::Sender<DocumentId>) {
        let mut failures = 0;
        let mut aging = Aging::new(self.0.policy.age);
        loop {
            let before = position;
            let error = match self.0.storage.watch(WatchFilter::default(), WatchFrom::After(position)).await {
                Ok(mut watch) => loop {
                    let old_at = aging.next(now());
                    let next = tokio::select! {
                        next = watch.next() => next,
                        () = tokio::time::sleep_until(old_at.unwrap_or_else(now)), if old_at.is_some() => {
                            aging.hand_over(now(), |document| demand(&due, document));
                            continue;
                        }
                    };
                    match next {
                        Some(Ok(WatchEvent::Change(change) | WatchEvent::Full { change, .. })) => {
                            position = change.position;
                            if self.0.policy.is_due(change.version)
                                && demand(&due, change.document_id.clone()).is_ok()
                            {
                                aging.forget(&change.document_id);
                            } else {
                                aging.changed(&change.document_id, now());
                            }
                            self.0.broker.publish(&Event::new(change));
                        }
                        Some(Ok(WatchEvent::Missed { resume_after })) => {
                            position = position.max(resume_after);
                            // What was missed may be that the store was put back to a backup.
                            self.0.storage.clocks().forget_memory();
                            self.0.broker.lag_all();
                        }
                        Some(Ok(WatchEvent::Reached { position: reached })) => {
                            position = position.max(reached);
                        }
                        Some(Ok(_)) => self.0.broker.lag_all(),
                        Some(Err(error)) => break error,
                        None => break StorageError::Closed,
                    }
                },
                Err(error) => error,
            };
            failures = if position > before { 0 } else { failures + 1 };
            if matches!(error, StorageError::Closed) || failures > WATCH_TRIES_MAX {
                tracing::error!(%error, "no more live events: the storage's watch ended");
                *self.0.failure.lock() = Some(error.to_string());
                return;
            }
            tracing::warn!(%error, position, "watch failed, opening it again");
            tokio::time::sleep(WATCH_PAUSE).await;
            // Whatever was committed meanwhile comes with the new watch; those who wait need not wait for it.
            self.0.broker.lag_all();
        }
    }

    async fn make_snapshots(&self, mut waiting: mpsc::Receiver<DocumentId>) {
        while let Some(document) = waiting.recv().await {
            if let Err(problem) = self.snapshot(&document).await {
                tracing::warn!(%document, %problem, "snapshot not made");
            }
        }
    }

    /// Compacts all documents from time to time.
    pub(super) fn start_compaction(&self, compactor: EventCompactor) {
        let (service, stopped) = (self.clone(), self.0.stopped.clone());
        self.0.tasks.spawn(stopped.run_until_cancelled_owned(async move {
            let mut every = tokio::time::interval(COMPACT_EVERY);
            loop {
                every.tick().await;
                if let Err(error) = service.compact_all(compactor).await {
                    tracing::warn!(%error, "not all documents were looked at for old events");
                }
            }
        }));
    }

    async fn compact_all(&self, compactor: EventCompactor) -> Result<(), StorageError> {
        let mut after: Option<DocumentId> = None;
        loop {
            let page = self.0.storage.list(after.as_ref(), COMPACT_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for document in page {
                self.compact_one(compactor, &document.id).await;
            }
        }
        // A document that was deleted leaves a history like any other.
        let mut after: Option<DocumentId> = None;
        loop {
            let page = self.0.storage.list_deleted(after.as_ref(), COMPACT_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for document in &page {
                self.compact_one(compactor, document).await;
            }
        }
    }

    /// One whose history can't be read keeps its events, and does not keep those of the others.
    async fn compact_one(&self, compactor: EventCompactor, document: &DocumentId) {
        match compactor.compact(self, document).await {
            Ok(0) => {}
            Ok(gone) => tracing::debug!(%document, gone, "old events removed"),
            Err(problem) => tracing::warn!(%document, %problem, "old events not removed"),
        }
    }

    async fn forget_old_keys(&self) {
        let mut every = tokio::time::interval(FORGET_EVERY);
        loop {
            every.tick().await;
            if let Err(error) = self.0.idempotency.forget_old(now_ms()).await {
                tracing::warn!(%error, "old idempotency keys not forgotten");
            }
        }
    }
}

/// Asks for a snapshot of a document; gives it back when too many are waiting.
fn demand(due: &mpsc::Sender<DocumentId>, document: DocumentId) -> Result<(), DocumentId> {
    due.try_send(document).map_err(|refused| {
        let document = refused.into_inner();
        tracing::debug!(%document, "too many snapshots due, one is left out");
        document
    })
}
