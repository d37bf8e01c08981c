//! A storage behind a cache.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use futures_util::FutureExt;
use moka::sync::Cache as Moka;
use serde_json::Value;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    Cache, CacheError, CacheStats, Cached, Lookup,
    coherence::{Coherence, Flight, Reading, Ticket},
    feed,
    hot::Hot,
    stats::Counters,
};
use crate::{
    Body, Change, Deleted, Document, DocumentId, EditFn, EditOptions, Edited, Operation, Storage,
    StorageError, StorageLayer, StorageOptions, TransactionFn, Update, Upserted,
    edit::SectionFn,
    query::{FieldPath, Page, Query},
    rules::json_bytes,
};

/// How many bytes of query pages are kept, about, where query results are cached.
pub const QUERY_BYTES_MAX: u64 = 16 << 20;

/// How large a page may be to be kept: one alone drives out not more than some of the others.
const PAGE_BYTES_MAX: u64 = QUERY_BYTES_MAX / 8;

/// A storage whose documents are read from a cache when they are there.
///
/// Reads through this handle are never older than what was written or seen through it. Writes by others show after the
/// storage's feed of changes has told of them; so do deletes in a transaction whose end is not known. A collection that records no changes, or can't be watched, has no such
/// feed; it is not cached at all.
///
/// Dropping the last handle ends the feed.
pub struct CachedStorage {
    inner: Arc<dyn Storage>,
    pub(super) shared: Arc<Shared>,
    /// Ends the handle, as the cache would still answer.
    closed: watch::Sender<bool>,
    /// Ends the task that reads the feed, when the last handle is dropped.
    feed: Arc<FeedTask>,
}

/// What the handles of a collection and the reader of its feed share.
pub(super) struct Shared {
    /// Of the feed's own: closing a handle does not close it.
    pub(super) storage: Arc<dyn Storage>,
    pub(super) cache: Arc<dyn Cache>,
    pub(super) options: StorageOptions,
    pub(super) coherence: Coherence,
    pub(super) counters: Counters,
    pub(super) hot: Hot,
    /// By the query as text.
    queries: Moka<String, KeptPage>,
    /// Whether the store has been closed, with all handles.
    pub(super) closed: AtomicBool,
    /// Wakes the reader of the feed when the cache has failed.
    pub(super) troubled: tokio::sync::Notify,
}

#[derive(Clone)]
struct KeptPage {
    /// The number of writes that it was read under.
    under: u64,
    page: Arc<Page>,
    /// As JSON, about.
    len_bytes: u64,
}

pub(super) struct FeedTask(AbortHandle);

impl Drop for FeedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl CachedStorage {
    /// Puts a cache in front of a storage. `options` are those that the storage was opened with. Waits until the cache
    /// is in step with the storage: it is emptied for that, as nobody knows what it has missed. A cache that can't be
    /// reached is tried again in the background.
    pub async fn new(inner: Arc<dyn Storage>, cache: Arc<dyn Cache>, options: StorageOptions) -> Self {
        Self::over(Arc::clone(&inner), inner, cache, options).await
    }

    pub(super) async fn over(
        inner: Arc<dyn Storage>,
        storage: Arc<dyn Storage>,
        cache: Arc<dyn Cache>,
        options: StorageOptions,
    ) -> Self {
        let weigher = |query: &String, kept: &KeptPage| {
            u32::try_from(query.len() as u64 + kept.len_bytes).unwrap_or(u32::MAX)
        };
        let queries = Moka::builder().max_capacity(QUERY_BYTES_MAX).weigher(weigher);
        let shared = Arc::new(Shared {
            storage,
            cache,
            coherence: Coherence::new(),
            counters: Counters::default(),
            hot: Hot::new(options.cache_hot_max),
            queries: queries.time_to_live(options.cache_ttl).build(),
            closed: AtomicBool::new(false),
            troubled: tokio::sync::Notify::new(),
            options,
        });
        let (started, start) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(feed::run(Arc::clone(&shared), started));
        let feed = Arc::new(FeedTask(task.abort_handle()));
        // An error is a feed that has ended already: there is none, and nothing is cached.
        let _ = start.await;
        let (closed, _) = watch::channel(false);
        Self { inner, shared, closed, feed }
    }

    /// Another handle, over another handle of the same collection.
    pub(super) fn again(&self, inner: Arc<dyn Storage>) -> Self {
        let (closed, _) = watch::channel(false);
        Self { inner, shared: Arc::clone(&self.shared), closed, feed: Arc::clone(&self.feed) }
    }

    /// How well the cache does.
    pub fn stats(&self) -> CacheStats {
        self.shared.counters.read()
    }

    /// The documents that are read most and kept warm, the hottest first.
    pub fn hot_documents(&self) -> Vec<DocumentId> {
        self.shared.hot.list()
    }

    /// Whether the cache is asked at all: it is reachable, and in step with the storage.
    pub fn is_cache_trusted(&self) -> bool {
        self.shared.coherence.is_trusted()
    }

    fn check_open(&self) -> Result<(), StorageError> {
        if *self.closed.borrow() || self.shared.closed.load(Ordering::Acquire) {
            Err(StorageError::Closed)
        } else {
            Ok(())
        }
    }

    /// Writes one document, and tells the cache before the caller.
    async fn write<T>(
        &self,
        id: &DocumentId,
        write: impl Future<Output = Result<T, StorageError>>,
        told: impl Fn(&T) -> Option<Cached>,
    ) -> Result<T, StorageError> {
        let mut writing = Writing::begin(&self.shared, id);
        let written = write.await;
        match written.as_ref().ok().and_then(told) {
            Some(entry) => self.shared.tell(id, entry).await,
            None => self.shared.forget(id).await,
        }
        writing.is_told = true;
        written
    }
}

/// A write that is under way, until it is dropped. If its caller drops it before the cache was told, that is made up for
/// first: somebody may have read what it wrote.
struct Writing<'s> {
    shared: &'s Arc<Shared>,
    id: &'s DocumentId,
    is_told: bool,
}

impl<'s> Writing<'s> {
    fn begin(shared: &'s Arc<Shared>, id: &'s DocumentId) -> Self {
        shared.coherence.begin(id);
        Self { shared, id, is_told: false }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !self.is_told => {
                let (shared, id) = (Arc::clone(self.shared), self.id.clone());
                runtime.spawn(async move {
                    shared.forget(&id).await;
                    shared.coherence.end(&id);
                });
            }
            _ => self.shared.coherence.end(self.id),
        }
    }
}

/// A transaction that is under way, until it is dropped.
struct Transacting<'s>(&'s Shared);

impl Drop for Transacting<'_> {
    fn drop(&mut self) {
        self.0.coherence.end_wide();
    }
}

impl Shared {
    /// Tells the cache of a committed version.
    pub(super) async fn tell(&self, id: &DocumentId, entry: Cached) {
        let version = entry.version();
        self.coherence.see(id, version);
        // While it is not trusted it need not be told: it will be emptied.
        if self.coherence.is_trusted() {
            let put = self.cache.put(id, entry, self.options.cache_ttl).await;
            if let Some(kept) = self.noted(put) {
                if kept {
                    self.counters.fills.up();
                }
                self.coherence.told(id, version);
            }
        }
    }

    /// Takes away what is cached of a document of which nobody knows whether it was written.
    async fn forget(&self, id: &DocumentId) {
        if self.coherence.is_trusted() {
            let removed = self.cache.remove(id).await;
            self.noted(removed);
        }
    }

    /// What the cache answered; `None` if it failed, after which it is not asked until it has been emptied.
    pub(super) fn noted<T>(&self, answer: Result<T, CacheError>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.counters.errors.up();
                tracing::warn!(%error, "the cache is left alone until it has been emptied");
                self.coherence.distrust();
                self.troubled.notify_one();
                None
            }
        }
    }

    /// One reader's trip: to the cache, and if that has nothing, to the storage.
    async fn fetch(
        self: Arc<Self>,
        id: DocumentId,
        ticket: Ticket,
    ) -> Result<Option<Document>, StorageError> {
        let _landing = Landing { shared: &self, id: &id, ticket };
        let lookup = self.cache.get(&id).await;
        match self.noted(lookup) {
            Some(Lookup::Found(entry)) => {
                if !self.coherence.admits(&id, entry.version()) {
                    self.counters.stale.up();
                } else if let Some(found) = entry.answer(&id) {
                    self.counters.hits.up();
                    return Ok(found);
                }
            }
            Some(Lookup::Poisoned(reason)) => {
                self.counters.poisoned.up();
                tracing::warn!(document = %id, reason, "a cache entry that is none was taken away");
            }
            Some(Lookup::Nothing) | None => {}
        }
        self.counters.misses.up();
        self.fill(&id, ticket).await
    }

    /// Reads from the storage, and keeps what was read unless somebody has written meanwhile.
    async fn fill(&self, id: &DocumentId, ticket: Ticket) -> Result<Option<Document>, StorageError> {
        // What is absent is so since the last version that was known before.
        let known = self.coherence.known(id);
        let document = self.ask_storage(id).await?;
        let entry = Cached::of(document.as_ref(), known);
        if self.coherence.may_fill(id, ticket) {
            let put = self.cache.put(id, entry, self.options.cache_ttl).await;
            match self.noted(put) {
                Some(true) => self.counters.fills.up(),
                Some(false) => self.counters.fills_refused.up(),
                None => {}
            }
        } else {
            self.counters.fills_refused.up();
        }
        Ok(document)
    }

    /// Reads past the cache. What is seen so is not forgotten when the cache is asked again.
    async fn ask_storage(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        let document = self.storage.find_one(id).await?;
        if let Some(document) = &document {
            self.coherence.see(id, document.version);
        }
        Ok(document)
    }

    /// Reads a document anew, so that it is there before somebody asks.
    pub(super) async fn warm(self: &Arc<Self>, id: DocumentId) {
        let shared = Arc::clone(self);
        let of = id.clone();
        let go = |ticket| -> Flight {
            let warm = async move {
                let _landing = Landing { shared: &shared, id: &of, ticket };
                shared.fill(&of, ticket).await.map_err(Arc::new)
            };
            warm.boxed().shared()
        };
        if let Reading::Go(flight) = self.coherence.read(&id, go)
            && let Err(error) = flight.await
        {
            tracing::debug!(document = %id, %error, "a hot document was not read anew");
        }
    }

    async fn find_one(self: &Arc<Self>, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        self.hot.touch(id);
        if self.coherence.may_serve(id)
            && let Some(entry) = self.cache.peek(id)
            && self.coherence.admits(id, entry.version())
            && let Some(found) = entry.answer(id)
        {
            self.counters.hits.up();
            return Ok(found);
        }
        let (shared, of) = (Arc::clone(self), id.clone());
        let go = |ticket| -> Flight {
            async move { shared.fetch(of, ticket).await.map_err(Arc::new) }.boxed().shared()
        };
        let flight = match self.coherence.read(id, go) {
            Reading::Around => {
                self.counters.bypassed.up();
                return self.ask_storage(id).await;
            }
            Reading::Join(flight) => {
                self.counters.shared.up();
                flight
            }
            Reading::Go(flight) => flight,
        };
        match flight.await {
            Ok(document) => Ok(document),
            // An error is the first reader's; each other one makes its own way.
            Err(error) => match Arc::try_unwrap(error) {
                Ok(error) => Err(error),
                Err(_) => self.ask_storage(id).await,
            },
        }
    }

    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        let Some(writes) = self.coherence.quiet().filter(|_| self.options.cache_queries) else {
            return self.storage.find_many(query).await;
        };
        let key = format!("{query:?}");
        if let Some(kept) = self.queries.get(&key)
            && kept.under == writes
        {
            self.counters.query_hits.up();
            return Ok((*kept.page).clone());
        }
        self.counters.query_misses.up();
        let page = self.storage.find_many(query).await?;
        let len_bytes = page.found.iter().map(|found| 100 + json_bytes(&found.fields) as u64).sum();
        if len_bytes <= PAGE_BYTES_MAX && self.coherence.quiet() == Some(writes) {
            self.queries.insert(key, KeptPage { under: writes, page: Arc::new(page.clone()), len_bytes });
        }
        Ok(page)
    }
}

/// Ends a reader's trip, also when the reader is dropped on the way.
struct Landing<'s> {
    shared: &'s Shared,
    id: &'s DocumentId,
    ticket: Ticket,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.shared.coherence.landed(self.id, self.ticket);
    }
}

fn of_document(document: &Document) -> Cached {
    Cached::of(Some(document), document.version)
}

fn of_edited(edited: &Edited) -> Option<Cached> {
    match edited {
        Edited::Changed { document, .. } | Edited::Unchanged { document } => Some(of_document(document)),
        Edited::Repeated { document, .. } => document.as_ref().map(of_document),
    }
}

#[async_trait]
impl StorageLayer for CachedStorage {
    fn inner(&self) -> &dyn Storage {
        &*self.inner
    }

    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        self.check_open()?;
        self.shared.find_one(id).await
    }

    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        self.check_open()?;
        self.shared.find_many(query).await
    }

    async fn update_one(
        &self,
        id: &DocumentId,
        update: &Update,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.write(id, self.inner.update_one(id, update, options), of_edited).await
    }

    async fn update_one_with_pipeline(
        &self,
        id: &DocumentId,
        pipeline: &[Value],
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.write(id, self.inner.update_one_with_pipeline(id, pipeline, options), of_edited).await
    }

    async fn with_transaction(
        &self,
        transaction: TransactionFn<'_>,
    ) -> Result<Vec<Arc<Change>>, StorageError> {
        // Nobody knows what it will write, so all readers go around the cache until it is known.
        self.shared.coherence.begin_wide();
        let _transacting = Transacting(&self.shared);
        let changes = self.inner.with_transaction(transaction).await?;
        for change in &changes {
            let version = change.version;
            let entry = match change.operation {
                Operation::Delete => Cached::Absent { version },
                _ => Cached::Changed { version },
            };
            self.shared.tell(&change.document_id, entry).await;
        }
        Ok(changes)
    }

    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.write(id, self.inner.update_section(id, section, edit, options), of_edited).await
    }

    async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Upserted, StorageError> {
        let told = |upserted: &Upserted| match upserted {
            Upserted::Created { document, .. } | Upserted::Existing { document } => {
                Some(of_document(document))
            }
            Upserted::Repeated { document, .. } => document.as_ref().map(of_document),
        };
        self.write(id, self.inner.find_one_and_upsert(id, body, options), told).await
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.write(id, self.inner.find_one_and_update(id, edit, options), of_edited).await
    }

    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError> {
        let told = |deleted: &Deleted| match deleted {
            Deleted::Deleted { change, .. } => Some(Cached::Absent { version: change.version }),
            Deleted::Absent | Deleted::Repeated { .. } => None,
        };
        self.write(id, self.inner.delete_one(id, options), told).await
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.closed.send_replace(true);
        self.inner.close().await
    }
}
