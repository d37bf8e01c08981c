//! The reader of the storage's feed of changes: it tells the cache what others have written, and puts a cache that has
//! failed in step again.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::{sync::oneshot, task::JoinSet};

use super::{Cached, storage::Shared};
use crate::{
    Change, DocumentId, Operation, StorageError, Watch, WatchEvent, WatchFilter, WatchFrom, retry::Backoff,
};

/// The shortest time between two rounds of keeping documents warm.
const WARMING_MIN: Duration = Duration::from_millis(10);

/// Runs until the storage can't be watched any more, or is closed. Tells `started` when the cache is in step for the
/// first time, or can't be for now.
pub(super) async fn run(shared: Arc<Shared>, started: oneshot::Sender<()>) {
    let _ending = Ending(&shared);
    let mut started = Some(started);
    let mut backoff = Backoff::new(&shared.options);
    loop {
        let ended = follow(&shared, &mut started, &mut backoff).await;
        shared.coherence.distrust();
        started.take();
        match ended {
            Ok(()) | Err(StorageError::Closed) => return,
            Err(error @ StorageError::Unsupported { .. }) => {
                tracing::warn!(%error, "a collection without a feed of changes is not cached");
                return;
            }
            Err(error) => tracing::warn!(%error, "the feed of changes is opened again"),
        }
        if !backoff.pause().await {
            // The longest pause, then again and again.
            backoff = Backoff::new(&shared.options);
        }
    }
}

/// Nobody trusts a cache that nobody tells, however this has ended.
struct Ending<'s>(&'s Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.coherence.distrust();
    }
}

/// The documents that are being read anew, at most as many as are kept warm. A slow storage holds no change up by them.
///
/// Each is a task: one that moved only while this task has nothing else to do could be the next in line for what this task
/// waits for.
struct Warmth<'s> {
    shared: &'s Arc<Shared>,
    on_the_way: JoinSet<()>,
}

impl Warmth<'_> {
    /// Reads a document anew, unless so many are on the way already: the next round comes.
    fn warm(&mut self, id: DocumentId) {
        if self.on_the_way.len() < self.shared.options.cache_hot_max {
            let shared = Arc::clone(self.shared);
            self.on_the_way.spawn(async move { shared.warm(id).await });
        }
    }
}

/// Follows one watch to its end.
async fn follow(
    shared: &Arc<Shared>,
    started: &mut Option<oneshot::Sender<()>>,
    backoff: &mut Backoff,
) -> Result<(), StorageError> {
    // First the watch, then an empty cache: whatever comes into it from here on, the watch tells of what is newer.
    let position = shared.storage.position().await?;
    let mut watch = shared.storage.watch(WatchFilter::default(), WatchFrom::After(position)).await?;
    let mut warming = tokio::time::interval((shared.options.cache_ttl / 2).max(WARMING_MIN));
    warming.tick().await;
    let mut warmth = Warmth { shared, on_the_way: JoinSet::new() };
    loop {
        if !shared.coherence.is_trusted() {
            match step(shared).await {
                true => *backoff = Backoff::new(&shared.options),
                false => {
                    started.take();
                    drain(shared, &mut watch, backoff).await?;
                    continue;
                }
            }
        }
        started.take();
        tokio::select! {
            event = watch.next() => match event {
                Some(event) => take(&mut warmth, event?).await,
                None => return Ok(()),
            },
            () = shared.troubled.notified() => {}
            _ = warming.tick() => {
                shared.hot.list().into_iter().for_each(|id| warmth.warm(id));
            }
            Some(_) = warmth.on_the_way.join_next() => {}
        }
    }
}

/// Empties the cache, after which it can be trusted. Whether that went well.
async fn step(shared: &Shared) -> bool {
    let failures = shared.coherence.failures();
    match shared.cache.clear().await {
        Ok(()) => {
            shared.counters.cleared.up();
            shared.coherence.trust(failures)
        }
        Err(_) => {
            shared.counters.errors.up();
            false
        }
    }
}

/// Waits for the next try to reach the cache. What the watch tells meanwhile need not be kept, as the cache will be empty;
/// only that nobody may be served less.
async fn drain(shared: &Arc<Shared>, watch: &mut Watch, backoff: &mut Backoff) -> Result<(), StorageError> {
    let pause = async {
        if !backoff.pause().await {
            *backoff = Backoff::new(&shared.options);
        }
    };
    tokio::pin!(pause);
    loop {
        tokio::select! {
            () = &mut pause => return Ok(()),
            event = watch.next() => match event {
                Some(event) => match event? {
                    WatchEvent::Change(change) | WatchEvent::Full { change, .. } => {
                        shared.coherence.see(&change.document_id, change.version);
                    }
                    WatchEvent::Missed { .. } | WatchEvent::Reached { .. } => {}
                },
                None => return Err(StorageError::Closed),
            },
        }
    }
}

async fn take(warmth: &mut Warmth<'_>, event: WatchEvent) {
    match event {
        WatchEvent::Change(change) | WatchEvent::Full { change, .. } => told(warmth, &change).await,
        // Nobody knows what was missed.
        WatchEvent::Missed { .. } => warmth.shared.coherence.distrust(),
        WatchEvent::Reached { .. } => {}
    }
}

async fn told(warmth: &mut Warmth<'_>, change: &Change) {
    let shared = warmth.shared;
    let (id, version) = (&change.document_id, change.version);
    if shared.coherence.has_told(id, version) {
        // Written here, and told already.
        return;
    }
    shared.counters.invalidated.up();
    shared.coherence.disturb(id);
    let entry = match change.operation {
        Operation::Delete => Cached::Absent { version },
        _ => Cached::Changed { version },
    };
    shared.tell(id, entry).await;
    if shared.hot.list().contains(id) {
        warmth.warm(id.clone());
    }
}
