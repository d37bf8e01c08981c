//! The collection: its verbs, and how it reads what is durable.

use std::{ops::Bound, sync::Arc};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};
use tokio::sync::watch;

use super::{
    Shared,
    engine::{Engine, Write, corrupt},
    indexes::Indexes,
    record::{self, ChangeRecord, DocumentKey, Head, LogRecord, Space, State, trailing_number},
};
use crate::{
    Body, Change, ChangePage, Deleted, Document, DocumentId, EditFn, EditOptions, Edited, Explained, Index,
    IndexStatus, Storage, StorageError, StorageOptions, TransactionFn, Upserted, Watch, WatchFilter,
    WatchFrom,
    edit::SectionFn,
    query::{FieldPath, Page, Query},
    transaction::staging,
    verbs::{self, Outcome, SectionVersion},
    watch::{Log, LogEntry, LogPage, PAGE_BYTES_MAX},
};

/// How many changes and answers are removed in one batch.
const REMOVE_STEP_MAX: usize = 1024;

/// A collection of an embedded store. Clones are the same handle; closing it leaves the store open.
#[derive(Clone)]
pub struct EmbeddedStorage {
    pub(super) shared: Arc<Shared>,
    pub(super) number: u32,
    pub(super) options: StorageOptions,
    /// Shared by all handles of the collection.
    pub(super) indexes: Arc<Indexes>,
    /// Ends the handle and its watches.
    closed: watch::Sender<bool>,
}

impl EmbeddedStorage {
    pub(super) fn new(
        shared: Arc<Shared>,
        number: u32,
        indexes: Arc<Indexes>,
        options: StorageOptions,
    ) -> Self {
        let (closed, _) = watch::channel(false);
        Self { shared, number, options, indexes, closed }
    }

    pub(super) fn engine(&self) -> Result<Arc<Engine>, StorageError> {
        if *self.closed.borrow() { Err(StorageError::Closed) } else { self.shared.engine() }
    }

    pub(super) fn key(&self, id: &DocumentId) -> DocumentKey {
        DocumentKey::new(self.number, id)
    }

    /// Reads on a thread where reading may take its time.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Engine) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let engine = self.engine()?;
        let read = tokio::task::spawn_blocking(move || read(&engine)).await;
        read.unwrap_or_else(|e| Err(StorageError::Backend(e.to_string())))
    }
}

#[async_trait]
impl Storage for EmbeddedStorage {
    fn backend(&self) -> &'static str {
        "the embedded store"
    }

    fn version_field(&self) -> &str {
        &self.options.version_field
    }

    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        let head = self.engine()?.get(Space::Documents, self.key(id).as_bytes(), Head::decode)?;
        Ok(head.and_then(|Head { version, body }| {
            Some(Document { id: id.clone(), version, body: Arc::new(body?) })
        }))
    }

    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError> {
        let (number, after) = (self.number, after.map(|after| self.key(after)));
        self.read(move |engine| {
            let start = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
            let view = engine.view();
            let prefix = number.to_be_bytes();
            let documents = view.scan(Space::Documents, &prefix, start, |key, contents| {
                let (_, id, _) = DocumentKey::split(key)?;
                let Head { version, body } = Head::decode(contents)?;
                Ok(body.map(|body| (contents.len(), Document { id, version, body: Arc::new(body) })))
            });
            let (mut page, mut len_bytes) = (Vec::new(), 0);
            for found in documents.filter_map(Result::transpose).take(limit) {
                let (bytes, document) = found?;
                page.push(document);
                len_bytes += bytes;
                if len_bytes >= PAGE_BYTES_MAX {
                    break;
                }
            }
            Ok(page)
        })
        .await
    }

    async fn list_deleted(
        &self,
        after: Option<&DocumentId>,
        limit: usize,
    ) -> Result<Vec<DocumentId>, StorageError> {
        let (number, after) = (self.number, after.map(|after| self.key(after)));
        self.read(move |engine| {
            let start = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
            let view = engine.view();
            let prefix = number.to_be_bytes();
            let heads = view.scan(Space::Documents, &prefix, start, |key, contents| {
                let (_, id, _) = DocumentKey::split(key)?;
                Ok(Head::is_deleted(contents)?.then_some(id))
            });
            let has_changes = |id: &DocumentId| {
                let key = DocumentKey::new(number, id);
                let mut changes = view.scan(Space::Changes, key.as_bytes(), Bound::Unbounded, |_, _| Ok(()));
                changes.next().transpose().map(|first| first.is_some())
            };
            let mut deleted = Vec::new();
            for head in heads {
                if deleted.len() == limit {
                    break;
                }
                if let Some(id) = head?
                    && has_changes(&id)?
                {
                    deleted.push(id);
                }
            }
            Ok(deleted)
        })
        .await
    }

    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        match self.read_index(&query).await? {
            Some((page, _)) => Ok(page),
            None => query.scan(self).await,
        }
    }

    async fn explain(&self, query: Query) -> Result<Explained, StorageError> {
        match self.read_index(&query).await? {
            Some((_, explained)) => Ok(explained),
            None => query.explain_scan(self).await,
        }
    }

    async fn create_index(&self, index: &Index) -> Result<(), StorageError> {
        self.engine()?;
        self.make_index(index).await
    }

    async fn drop_index(&self, index: &Index) -> Result<bool, StorageError> {
        self.engine()?;
        self.remove_index(index).await
    }

    async fn indexes(&self) -> Result<Vec<IndexStatus>, StorageError> {
        self.engine()?;
        Ok(self.index_statuses())
    }

    async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Upserted, StorageError> {
        self.run(id, options, |found| Ok(verbs::upsert(found, body))).await.map(Outcome::upserted)
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.run(id, options, |found| verbs::update(id, found, edit)).await.map(Outcome::edited)
    }

    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        mut options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let versions = SectionVersion::of(&self.options, &mut options);
        self.run(id, options, |found| verbs::update_section(id, found, section, edit, &versions))
            .await
            .map(Outcome::edited)
    }

    async fn with_transaction(
        &self,
        transaction: TransactionFn<'_>,
    ) -> Result<Vec<Arc<Change>>, StorageError> {
        staging::run(Arc::new(self.clone()), transaction).await
    }

    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError> {
        self.run(id, options, |found| Ok(verbs::delete(found))).await.map(Outcome::deleted)
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        let (key, id) = (self.key(id), id.clone());
        self.read(move |engine| {
            let start = key.change(after);
            let view = engine.view();
            let read = |key: &[u8], contents: &[u8]| {
                Ok((contents.len(), ChangeRecord::decode(id.clone(), trailing_number(key)?, contents)?))
            };
            let mut page = ChangePage { changes: Vec::new(), more: false };
            let mut len_bytes = 0;
            for found in view.scan(Space::Changes, key.as_bytes(), Bound::Excluded(&start[..]), read) {
                let (bytes, change) = found?;
                if page.changes.len() == limit || len_bytes >= PAGE_BYTES_MAX {
                    page.more = true;
                    break;
                }
                len_bytes += bytes;
                page.changes.push(change);
            }
            Ok(page)
        })
        .await
    }

    async fn last_version(&self, id: &DocumentId) -> Result<u64, StorageError> {
        let version = self.engine()?.get(Space::Documents, self.key(id).as_bytes(), Head::version)?;
        Ok(version.unwrap_or(0))
    }

    async fn remove_changes(&self, id: &DocumentId, up_to_version: u64) -> Result<u64, StorageError> {
        let key = self.key(id);
        let mut count = 0;
        loop {
            self.engine()?;
            let _gate = self.shared.gate(&key).lock().await;
            self.shared.settle().await?;
            let (of, id, number) = (key.clone(), id.clone(), self.number);
            let (writes, removed) = self
                .read(move |engine| {
                    let mut writes = stale_answers(engine, &of, up_to_version)?;
                    let changes = old_changes(engine, &of, up_to_version)?;
                    for &(version, position) in &changes {
                        writes.push(Write::remove(Space::Changes, of.change(version)));
                        let entry = LogRecord { collection: number, id: id.clone(), version, removed: true };
                        writes.push(Write::put(Space::Log, position.to_be_bytes(), entry.encode()));
                    }
                    Ok((writes, changes.into_iter().map(|(_, position)| position).collect::<Vec<_>>()))
                })
                .await?;
            if writes.is_empty() {
                return Ok(count);
            }
            count += removed.len() as u64;
            // The gate is held until it is durable: whoever comes next sees what is left.
            self.shared.write_and_remove(writes, removed).await?;
        }
    }

    async fn producers(&self, id: &DocumentId) -> Result<StateVector<ClientId>, StorageError> {
        let key = self.key(id);
        self.read(move |engine| {
            let view = engine.view();
            let answers = view.scan(Space::Answers, key.as_bytes(), Bound::Unbounded, client_and_sequence);
            // In the order of sequences, so the last of each producer stays.
            answers.collect()
        })
        .await
    }

    async fn position(&self) -> Result<u64, StorageError> {
        self.engine()?;
        Ok(self.shared.tail.last())
    }

    async fn watch(&self, filter: WatchFilter, from: WatchFrom) -> Result<Watch, StorageError> {
        self.engine()?;
        crate::watch::check(&self.options)?;
        let after = match from {
            WatchFrom::Now => self.shared.tail.last(),
            WatchFrom::After(position) => position,
        };
        let (tide, closed) = (self.shared.tide.subscribe(), self.closed.subscribe());
        let full = self.options.watch_full_document.then(|| Arc::new(self.clone()) as Arc<dyn Storage>);
        let what = (self.number, filter, after);
        Ok(crate::watch::stream(self.shared.clone(), what, full, tide, closed))
    }

    async fn close(&self) -> Result<(), StorageError> {
        if !self.closed.send_replace(true) && self.shared.queue.check_open().is_ok() {
            self.shared.settle().await?;
        }
        Ok(())
    }
}

fn client_and_sequence(key: &[u8], _: &[u8]) -> Result<(ClientId, u64), record::RecordError> {
    let (_, _, rest) = DocumentKey::split(key)?;
    Ok((record::client_of_answer(rest)?, trailing_number(key)?))
}

/// Some changes up to a version: their versions and positions.
fn old_changes(engine: &Engine, key: &DocumentKey, up_to: u64) -> Result<Vec<(u64, u64)>, StorageError> {
    let view = engine.view();
    let changes = view.scan(Space::Changes, key.as_bytes(), Bound::Unbounded, |key, contents| {
        Ok((trailing_number(key)?, ChangeRecord::position(contents)?))
    });
    let old = changes.take_while(|change| change.as_ref().map_or(true, |&(version, _)| version <= up_to));
    old.take(REMOVE_STEP_MAX).collect()
}

/// Some answers up to a version, but never the last one of a producer.
fn stale_answers(engine: &Engine, key: &DocumentKey, up_to: u64) -> Result<Vec<Write>, StorageError> {
    let view = engine.view();
    let answers = view.scan(Space::Answers, key.as_bytes(), Bound::Unbounded, |key, contents| {
        trailing_number(key)?;
        Ok((key.to_vec(), record::answer(contents)?))
    });
    let mut stale = Vec::new();
    // Each has a number behind it, of eight bytes.
    let mut before: Option<(Vec<u8>, u64)> = None;
    for answer in answers {
        let answer = answer?;
        if let Some((key, version)) = before.replace(answer)
            && version <= up_to
            && let Some((next, _)) = &before
            && next[..next.len() - 8] == key[..key.len() - 8]
        {
            stale.push(Write::remove(Space::Answers, key));
            if stale.len() == REMOVE_STEP_MAX {
                break;
            }
        }
    }
    Ok(stale)
}

#[async_trait]
impl Log for Shared {
    async fn read(&self, after: u64, limit: usize) -> Result<LogPage, StorageError> {
        if let Some(page) = self.tail.read(after, limit) {
            return Ok(page);
        }
        let engine = self.engine()?;
        let read = tokio::task::spawn_blocking(move || read_log(&engine, after, limit)).await;
        read.unwrap_or_else(|e| Err(StorageError::Backend(e.to_string())))
    }
}

/// Reads the log on the disk.
pub(super) fn read_log(engine: &Engine, after: u64, limit: usize) -> Result<LogPage, StorageError> {
    let view = engine.view();
    let State { floor, position: last, .. } =
        view.get(Space::Meta, State::KEY, State::decode)?.unwrap_or_default();
    let start = if after > last { last } else { after.max(floor) }.to_be_bytes();
    let logged = view.scan(Space::Log, &[], Bound::Excluded(&start[..]), |key, contents| {
        Ok((trailing_number(key)?, LogRecord::decode(contents)?))
    });
    let mut entries = Vec::new();
    let mut len_bytes = 0;
    for entry in logged.take(limit) {
        let (position, LogRecord { collection, id, version, removed }) = entry?;
        let change = if removed {
            None
        } else {
            let key = DocumentKey::new(collection, &id).change(version);
            let read = |contents: &[u8]| {
                len_bytes += contents.len();
                ChangeRecord::decode(id.clone(), version, contents)
            };
            let change = view.get(Space::Changes, &key, read)?;
            Some(Arc::new(change.ok_or_else(|| corrupt(Space::Changes, &key, "it is missing"))?))
        };
        entries.push(LogEntry { position, collection, id: Some(id), change });
        if len_bytes >= PAGE_BYTES_MAX {
            break;
        }
    }
    Ok(LogPage { floor, last, entries })
}
