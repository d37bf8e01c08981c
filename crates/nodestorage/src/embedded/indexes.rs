//! The indexes of a collection: kept in the batches of its documents, built a step at a time while others write.
//!
//! A writer keeps every index that it finds behind its document's gate. A new index is first made known, then every
//! gate is taken once, so that no writer is left who did not know it, and then the builder goes over the documents, each
//! behind its gate. To write an entry twice or to remove one that is not there does no harm, so the builder and the
//! writers need not know of each other.

use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::RwLock;

use super::{
    EmbeddedStorage, Shared,
    engine::{View, Write},
    queue::Request,
    record::{DocumentKey, Head, IndexEntry, IndexRecord, IndexStage, Space},
};
use crate::{
    Body, Document, DocumentId, Explained, Index, IndexStatus, StorageError,
    index::{
        Entries,
        read::{self, Entry, Range, Source},
    },
    query::{Page, Query},
};

/// How many documents the builder writes the entries of before it notes how far it is, and how many entries of a
/// dropped index go at a time. Others write between the steps.
const STEP_MAX: usize = 256;

/// The indexes of one collection.
#[derive(Default)]
pub(super) struct Indexes {
    /// In the order of their numbers. Held for a look only.
    kept: RwLock<Vec<Arc<Kept>>>,
    /// Held by who makes or drops one. Async, as that takes its time.
    changing: tokio::sync::Mutex<()>,
}

struct Kept {
    index: Index,
    number: u32,
    /// How far the builder is; changed by who holds `changing`.
    stage: RwLock<IndexStage>,
    /// Whether a document has several values in one of its fields. Set before the document can be read, so whoever reads
    /// it has seen this.
    several: AtomicBool,
}

impl Indexes {
    pub(super) fn found(&self, number: u32, record: IndexRecord, several: bool) {
        let IndexRecord { index, stage } = record;
        let (stage, several) = (RwLock::new(stage), AtomicBool::new(several));
        self.kept.write().push(Arc::new(Kept { index, number, stage, several }));
    }

    fn all(&self) -> Vec<Arc<Kept>> {
        self.kept.read().clone()
    }

    fn of(&self, index: &Index) -> Option<Arc<Kept>> {
        self.kept.read().iter().find(|kept| kept.index == *index && !kept.is(&IndexStage::Dropped)).cloned()
    }
}

impl Kept {
    fn is(&self, stage: &IndexStage) -> bool {
        *self.stage.read() == *stage
    }

    fn record(&self, collection: u32, stage: IndexStage) -> Write {
        let key = IndexRecord::key(IndexRecord::PREFIX, collection, self.number);
        Write::put(Space::Meta, key, IndexRecord { index: self.index.clone(), stage }.encode())
    }
}

impl EmbeddedStorage {
    /// What a change of a document writes into the indexes. Called behind the document's gate.
    pub(super) fn index_writes(
        &self,
        id: &DocumentId,
        before: Option<&Body>,
        after: Option<&Body>,
    ) -> Result<Vec<Write>, StorageError> {
        let mut writes = Vec::new();
        for kept in self.indexes.kept.read().iter().filter(|kept| !kept.is(&IndexStage::Dropped)) {
            let key = |entry: &[u8]| IndexEntry::key(self.number, kept.number, entry, id);
            let after = Entries::of(&kept.index, id, after)?;
            // What could not be indexed has no entries.
            let before = Entries::of(&kept.index, id, before).unwrap_or_default();
            let gone = before.keys.difference(&after.keys);
            writes.extend(gone.map(|entry| Write::remove(Space::Indexes, key(entry))));
            let new = after.keys.difference(&before.keys);
            writes.extend(new.map(|entry| Write::put(Space::Indexes, key(entry), IndexEntry::encode(id))));
            writes.extend(self.note_several(kept, &after));
        }
        Ok(writes)
    }

    fn note_several(&self, kept: &Kept, entries: &Entries) -> Option<Write> {
        // Written by each until one is durable, as any of them may be the one that is lost.
        let key = IndexRecord::key(IndexRecord::SEVERAL, self.number, kept.number);
        entries.several.then(|| kept.several.store(true, Ordering::SeqCst));
        entries.several.then(|| Write::put(Space::Meta, key, Vec::new()))
    }

    /// Makes an index, or finishes one that was begun.
    pub(super) async fn make_index(&self, index: &Index) -> Result<(), StorageError> {
        if index.fields().iter().any(|(path, _)| path.names() == [self.options.version_field.as_str()]) {
            let what = format!("an index of {}, the documents' version", self.options.version_field);
            return Err(StorageError::Unsupported { what, backend: "the embedded store" });
        }
        let _changing = self.indexes.changing.lock().await;
        let kept = match self.indexes.of(index) {
            Some(kept) if kept.is(&IndexStage::Ready) => return Ok(()),
            Some(kept) => kept,
            None => {
                let number = self.indexes.all().iter().map(|kept| kept.number + 1).max().unwrap_or(0);
                let stage = IndexStage::Building { up_to: None };
                let (index, several) = (index.clone(), AtomicBool::new(false));
                let kept = Arc::new(Kept { index, number, stage: RwLock::new(stage.clone()), several });
                self.shared.write(vec![kept.record(self.number, stage)]).await?;
                self.indexes.kept.write().push(kept.clone());
                kept
            }
        };
        self.shared.wait_for_all_gates().await?;
        match self.build(&kept).await {
            // The collection goes on without the index that it can't have.
            Err(error @ StorageError::InvalidDocument { .. }) => {
                self.remove(&kept).await?;
                Err(error)
            }
            built => built,
        }
    }

    /// Finishes what an earlier process began.
    pub(super) async fn finish_indexes(&self) -> Result<(), StorageError> {
        for kept in self.indexes.all() {
            if kept.is(&IndexStage::Dropped) {
                let _changing = self.indexes.changing.lock().await;
                self.remove(&kept).await?;
            } else if !kept.is(&IndexStage::Ready) {
                self.make_index(&kept.index).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn remove_index(&self, index: &Index) -> Result<bool, StorageError> {
        let _changing = self.indexes.changing.lock().await;
        let Some(kept) = self.indexes.of(index) else { return Ok(false) };
        self.remove(&kept).await?;
        Ok(true)
    }

    pub(super) fn index_statuses(&self) -> Vec<IndexStatus> {
        let kept = self.indexes.all().into_iter().filter(|kept| !kept.is(&IndexStage::Dropped));
        kept.map(|kept| IndexStatus { index: kept.index.clone(), ready: kept.is(&IndexStage::Ready) })
            .collect()
    }

    /// Writes the entries of all documents behind the last one that was done.
    async fn build(&self, kept: &Kept) -> Result<(), StorageError> {
        loop {
            let IndexStage::Building { up_to } = kept.stage.read().clone() else { return Ok(()) };
            let ids = self.ids_after(up_to).await?;
            for id in &ids {
                self.build_one(kept, id).await?;
            }
            let stage = match ids.last() {
                Some(last) => IndexStage::Building { up_to: Some(last.clone()) },
                None => IndexStage::Ready,
            };
            // Behind all the entries in the queue, so it says nothing that is not so.
            self.shared.write(vec![kept.record(self.number, stage.clone())]).await?;
            *kept.stage.write() = stage;
        }
    }

    async fn ids_after(&self, after: Option<DocumentId>) -> Result<Vec<DocumentId>, StorageError> {
        let (number, after) = (self.number, after.map(|id| self.key(&id)));
        self.read(move |engine| {
            let start = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
            let prefix = number.to_be_bytes();
            let view = engine.view();
            let ids = view.scan(Space::Documents, &prefix, start, |key, _| Ok(DocumentKey::split(key)?.1));
            ids.take(STEP_MAX).collect()
        })
        .await
    }

    async fn build_one(&self, kept: &Kept, id: &DocumentId) -> Result<(), StorageError> {
        let engine = self.engine()?;
        let key = self.key(id);
        let _gate = self.shared.gate(&key).lock().await;
        let body = match self.shared.queue.pending(&key) {
            Some(pending) => pending.body,
            None => engine
                .get(Space::Documents, key.as_bytes(), Head::decode)?
                .and_then(|head| head.body)
                .map(Arc::new),
        };
        let entries = Entries::of(&kept.index, id, body.as_deref())?;
        let put = |entry: &Vec<u8>| {
            let key = IndexEntry::key(self.number, kept.number, entry, id);
            Write::put(Space::Indexes, key, IndexEntry::encode(id))
        };
        let mut writes: Vec<_> = entries.keys.iter().map(put).collect();
        writes.extend(self.note_several(kept, &entries));
        let share = self.shared.queue.room(writes.iter().map(Write::len_bytes).sum()).await?;
        let place = |_: &mut _, answer| {
            let (parts, removed) = (Vec::new(), Vec::new());
            Request { writes, parts, timestamp_ms: 0, removed, answer, share }
        };
        // What is written behind them is waited for.
        self.shared.commits.push(place).map(drop)
    }

    /// Removes an index and all of its entries.
    async fn remove(&self, kept: &Kept) -> Result<(), StorageError> {
        self.shared.write(vec![kept.record(self.number, IndexStage::Dropped)]).await?;
        *kept.stage.write() = IndexStage::Dropped;
        // Whoever still wrote entries is done then.
        self.shared.wait_for_all_gates().await?;
        let prefix = IndexEntry::prefix(self.number, kept.number);
        loop {
            let of = prefix.clone();
            let keys: Vec<_> = self
                .read(move |engine| {
                    let view = engine.view();
                    let keys = view.scan(Space::Indexes, &of, Bound::Unbounded, |key, _| Ok(key.to_vec()));
                    keys.take(STEP_MAX).collect()
                })
                .await?;
            if keys.is_empty() {
                break;
            }
            let writes = keys.into_iter().map(|key| Write::remove(Space::Indexes, key));
            self.shared.write(writes.collect()).await?;
        }
        let keys = [IndexRecord::PREFIX, IndexRecord::SEVERAL];
        let keys = keys.map(|prefix| IndexRecord::key(prefix, self.number, kept.number));
        self.shared.write(keys.map(|key| Write::remove(Space::Meta, key)).into()).await?;
        self.indexes.kept.write().retain(|other| other.number != kept.number);
        Ok(())
    }

    /// Answers a query from an index; `None` if none helps.
    pub(super) async fn read_index(&self, query: &Query) -> Result<Option<(Page, Explained)>, StorageError> {
        query.check()?;
        if self.indexes.kept.read().is_empty() {
            return Ok(None);
        }
        let (of, query) = (self.clone(), query.clone());
        self.read(move |engine| {
            // Ready before the view is made, so that the view has all entries; and after, so that none was being removed
            // yet. Whoever made an index narrower to use has said so before this view could show it.
            let is_ready = |kept: &Arc<Kept>| kept.is(&IndexStage::Ready);
            let kept: Vec<_> = of.indexes.all().into_iter().filter(is_ready).collect();
            let view = engine.view();
            let ready = kept.iter().filter(|kept| is_ready(kept)).map(|kept| read::Ready {
                index: &kept.index,
                several: kept.several.load(Ordering::SeqCst),
                source: IndexView { view: &view, collection: of.number, number: kept.number },
            });
            read::answer(&query, ready.collect(), &of.options.version_field)
        })
        .await
    }
}

impl Shared {
    /// Waits until every writer that was behind a gate has left it, and what it wrote is durable.
    async fn wait_for_all_gates(&self) -> Result<(), StorageError> {
        for gate in &self.gates {
            drop(gate.lock().await);
        }
        self.settle().await
    }
}

/// An index as one view of the store shows it.
struct IndexView<'v> {
    view: &'v View<'v>,
    collection: u32,
    number: u32,
}

impl Source for IndexView<'_> {
    fn entries<'s>(
        &'s self,
        range: &Range,
        backwards: bool,
        skip: Option<&Entry>,
    ) -> Box<dyn Iterator<Item = Result<Entry, StorageError>> + 's> {
        let prefix = IndexEntry::prefix(self.collection, self.number);
        let whole = |rest: &[u8]| [&prefix[..], rest].concat();
        let start = match skip {
            Some((entry, id)) => Bound::Excluded(IndexEntry::key(self.collection, self.number, entry, id)),
            None => Bound::Included(whole(&range.start)),
        };
        let end = match &range.end {
            Some(end) => Bound::Excluded(whole(end)),
            None => crate::index::behind(&prefix).map_or(Bound::Unbounded, Bound::Excluded),
        };
        let read = |key: &[u8], contents: &[u8]| {
            IndexEntry::decode(key, contents).map(|(entry, id)| (entry.to_vec(), id))
        };
        self.view.range(Space::Indexes, (start, end), backwards, read)
    }

    fn document(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        let key = DocumentKey::new(self.collection, id);
        let head = self.view.get(Space::Documents, key.as_bytes(), Head::decode)?;
        Ok(head.and_then(|Head { version, body }| {
            Some(Document { id: id.clone(), version, body: Arc::new(body?) })
        }))
    }
}
