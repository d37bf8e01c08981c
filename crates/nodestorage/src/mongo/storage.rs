//! A collection as a [`Storage`]: what it reads, and its verbs.

use std::{
    any::Any,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Bson, DateTime, Document as Bsons, doc},
};
use tokio::sync::watch;

use super::{
    Handle, Shared,
    commit::{OUTBOX_MAX, Verb},
    failure::{Failure, Tolerance, of_driver},
    record::{Mark, Stored, WriteId, decode_event, event_bytes, is_ours, shown, whole},
    relay::{Key, Moved},
    value::{self, count},
};
use crate::{
    Body, Change, ChangePage, Deleted, Document, DocumentId, EditFn, EditOptions, Edited, Explained, Index,
    IndexStatus, Storage, StorageError, StorageOptions, TransactionFn, Upserted, Watch, WatchFilter,
    WatchFrom,
    edit::SectionFn,
    query::{FieldPath, Page, Query},
    retry,
    rules::json_bytes,
    verbs::{self, Outcome, SectionVersion},
    watch::PAGE_BYTES_MAX,
};

/// The pause before a command is sent again whose connection was cut. The operation's timeout ends it.
pub(super) const CUT_PAUSE: Duration = Duration::from_millis(25);

/// How long the place of a removed change stays in the log. As long as it is there, no relay can give the place, or the
/// change that has it, a second time, however long ago it looked; nor can the fate of a write be told wrongly.
pub(super) const PLACES_KEPT: Duration = Duration::from_secs(60 * 60);

/// How many documents of a list are read at first. What they weigh says how many more are.
const LIST_STEP_FIRST: usize = 4;

/// A collection of a [`MongoStore`](super::MongoStore). Clones are the same handle; closing it leaves the store open.
#[derive(Clone)]
pub struct MongoStorage {
    shared: Arc<Shared>,
    #[expect(dead_code, reason = "it keeps the store's tasks running; a task of the store itself has none")]
    handle: Option<Arc<Handle>>,
    pub(super) name: Arc<str>,
    number: u32,
    pub(super) options: StorageOptions,
    pub(super) documents: Collection<Bsons>,
    /// Whether a change stream tells this process what other programs write here. The listener says so.
    pub(super) heard: Arc<AtomicBool>,
    /// Ends the handle and its watches.
    closed: watch::Sender<bool>,
}

impl MongoStorage {
    pub(super) fn new(handle: Arc<Handle>, name: &str, number: u32, options: StorageOptions) -> Self {
        let shared = handle.shared.clone();
        let documents = shared.database.collection(name);
        let (closed, _) = watch::channel(false);
        let heard = shared.heard(number);
        Self { shared, handle: Some(handle), name: name.into(), number, options, documents, heard, closed }
    }

    /// The same for a task of the store.
    pub(super) fn for_task(&self) -> Self {
        let (closed, _) = watch::channel(false);
        Self { handle: None, closed, ..self.clone() }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A document that is not there: what is left of those that had its name.
    pub(super) async fn absent(&self, id: &DocumentId) -> Result<Stored, Failure> {
        let (relay, key) = (&self.shared().relay, self.key(id));
        if relay.taken(&key) > relay.placed(&key) {
            // It was here a moment ago: its last changes are on their way, and their numbers are given.
            relay.settle().await?;
        }
        self.absent_in_log(id).await
    }

    /// [`absent`](Self::absent) for whoever holds the end of the log, and has moved to it what was on its way.
    pub(super) async fn absent_in_log(&self, id: &DocumentId) -> Result<Stored, Failure> {
        self.shared().absent(&self.name, id).await
    }

    /// Where a producer stands with a document.
    pub(super) async fn mark(&self, found: &Stored, client: &ClientId) -> Result<Option<Mark>, Failure> {
        match found.producers.get(client) {
            Some(mark) => Ok(Some(*mark)),
            None if found.spilled => Ok(self.shared().spilled_mark(&self.key(&found.id), client).await?),
            None => Ok(None),
        }
    }

    pub(super) fn key(&self, id: &DocumentId) -> Key {
        Key { collection: self.name.clone(), id: id.clone() }
    }

    pub(super) fn check_open(&self) -> Result<(), StorageError> {
        if *self.closed.borrow() || self.shared().tide.borrow().closed {
            Err(StorageError::Closed)
        } else {
            Ok(())
        }
    }

    /// Repeats a reading whose connection was cut, for as long as an operation may take, and one at which the server failed.
    pub(super) async fn reading<T, F>(&self, read: impl Fn() -> F + Send) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        self.check_open()?;
        retry::within(self.options.operation_timeout, async {
            let mut tolerance = Tolerance::default();
            loop {
                match read().await {
                    Err(Failure::Driver(error)) if tolerance.bears(&error) => {
                        tokio::time::sleep(CUT_PAUSE).await;
                    }
                    read => return read.map_err(StorageError::from),
                }
            }
        })
        .await
    }

    /// Reads a document as it is, recorded or not.
    pub(super) async fn stored(&self, id: &DocumentId) -> Result<Option<Stored>, Failure> {
        let raw = self.documents.find_one(doc! {"_id": id.as_str()}).await?;
        Ok(raw.map(|raw| Stored::decode(raw, self.version_field())).transpose()?)
    }

    /// Reads a document to write it. Its outbox stays where it is if this process sees to all of it already and there is room.
    pub(super) async fn stored_to_write(&self, key: &Key) -> Result<Option<Stored>, Failure> {
        let relay = &self.shared().relay;
        let taken = relay.taken(key);
        if taken > 0 && taken - relay.placed(key).min(taken) < OUTBOX_MAX as u64 {
            let Some(stored) = self.stored_alone(&key.id).await? else { return Ok(None) };
            if stored.version == taken && self.is_recorded(&stored) {
                return Ok(Some(stored));
            }
        }
        self.stored(&key.id).await
    }

    /// Reads a document without its outbox.
    async fn stored_alone(&self, id: &DocumentId) -> Result<Option<Stored>, Failure> {
        let found = self.documents.find_one(doc! {"_id": id.as_str()});
        let raw = found.projection(doc! {"_weft.outbox": 0}).await?;
        Ok(raw.map(|raw| Stored::decode(raw, self.version_field())).transpose()?)
    }

    /// Sees to it that all events of a document up to its version are in the log. Answers with that version, and with what
    /// the outbox held.
    pub(super) async fn place_outbox(&self, id: &DocumentId) -> Result<(u64, Vec<Bson>), Failure> {
        // One without a write is another program's, perhaps put over one of ours.
        let Some(stored) = self.stored(id).await?.filter(|stored| stored.write.is_some()) else {
            self.shared().relay.settle().await?;
            return Ok((self.shared().relay.last_version(&self.name, id).await?, Vec::new()));
        };
        let key = self.key(id);
        if self.shared().relay.placed(&key) < stored.version && !stored.outbox.is_empty() {
            self.shared().relay.place_now(Moved { key, events: stored.outbox }).await?;
        }
        let own = stored.raw.as_ref().and_then(|raw| raw.get_document(value::OWN).ok());
        Ok((stored.version, own.and_then(|own| own.get_array("outbox").ok()).cloned().unwrap_or_default()))
    }

    async fn read_changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, Failure> {
        let of = doc! {
            "collection": &*self.name, "documentId": id.as_str(), "sequenceNum": {"$gt": count(after)},
            "removed": {"$exists": false},
        };
        let find = self.shared().events().find(of).sort(doc! {"sequenceNum": 1});
        let limit_and_next = i64::try_from(limit).map_or(i64::MAX, |limit| limit.saturating_add(1));
        let mut found = find.limit(limit_and_next).await?;
        let mut page = ChangePage { changes: Vec::new(), more: false };
        let mut len_bytes = 0;
        while let Some(event) = found.try_next().await? {
            if page.changes.len() == limit || len_bytes >= PAGE_BYTES_MAX {
                page.more = true;
                break;
            }
            len_bytes += event_bytes(&event);
            page.changes.push(decode_event(&event)?);
        }
        Ok(page)
    }

    /// The version of a document, also of a deleted one; 0 if there never was one.
    async fn version_of(&self, id: &DocumentId) -> Result<u64, Failure> {
        let head = self.documents.find_one(doc! {"_id": id.as_str()});
        match head.projection(doc! {"_weft.version": 1}).await? {
            Some(head) => Ok(Stored::decode(head, self.version_field())?.version),
            None => Ok(self.absent(id).await?.version),
        }
    }
}

#[async_trait]
impl Storage for MongoStorage {
    fn backend(&self) -> &'static str {
        "MongoDB"
    }

    fn version_field(&self) -> &str {
        &self.options.version_field
    }

    /// A `mongodb::Collection<bson::Document>`.
    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.documents)
    }

    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        self.reading(|| async {
            let found = self.documents.find_one(doc! {"_id": id.as_str()});
            let raw = found.projection(doc! {"_weft.outbox": 0}).await?;
            Ok(raw.map(|raw| shown(&raw, self.version_field())).transpose()?.flatten())
        })
        .await
    }

    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError> {
        if limit == 0 {
            return self.check_open().map(|()| Vec::new());
        }
        self.reading(|| async {
            let mut after = after.map(ToString::to_string);
            let (mut page, mut len_bytes) = (Vec::new(), 0);
            let mut step = LIST_STEP_FIRST.min(limit);
            loop {
                let mut filter = doc! {"_id": {"$type": "string"}, "_weft.deleted": {"$exists": false}};
                if let Some(after) = &after {
                    filter.insert("_id", doc! {"$gt": after, "$type": "string"});
                }
                let find = self.documents.find(filter).sort(doc! {"_id": 1});
                let rows = i64::try_from(step).unwrap_or(i64::MAX);
                let mut found = find.projection(doc! {"_weft.outbox": 0}).limit(rows).await?;
                let mut read = 0;
                while let Some(raw) = found.try_next().await? {
                    read += 1;
                    after = raw.get_str("_id").ok().map(str::to_owned);
                    if let Some(document) = is_ours(&raw).then(|| shown(&raw, self.version_field())) {
                        let document = document?;
                        len_bytes += document.as_ref().map_or(0, |document| json_bytes(&*document.body));
                        page.extend(document);
                    }
                }
                if read < step || page.len() >= limit || len_bytes >= PAGE_BYTES_MAX {
                    return Ok(page);
                }
                // As many more as have room, if they are like those that were read.
                let room = (page.len() * (PAGE_BYTES_MAX - len_bytes)).checked_div(len_bytes);
                step = (limit - page.len()).min(room.map_or(limit, |room| room.max(LIST_STEP_FIRST)));
            }
        })
        .await
    }

    async fn list_deleted(
        &self,
        after: Option<&DocumentId>,
        limit: usize,
    ) -> Result<Vec<DocumentId>, StorageError> {
        if limit == 0 {
            return self.check_open().map(|()| Vec::new());
        }
        self.deleted_with_changes(after, limit).await
    }

    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        self.find_natively(query).await
    }

    async fn explain(&self, query: Query) -> Result<Explained, StorageError> {
        self.explain_natively(query).await
    }

    async fn create_index(&self, index: &Index) -> Result<(), StorageError> {
        self.create_native_index(index).await
    }

    async fn drop_index(&self, index: &Index) -> Result<bool, StorageError> {
        self.drop_native_index(index).await
    }

    async fn indexes(&self) -> Result<Vec<IndexStatus>, StorageError> {
        self.native_indexes().await
    }

    async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Upserted, StorageError> {
        self.run(id, options, Verb::Here(&mut |found| Ok(verbs::upsert(found, body.clone()))))
            .await
            .map(Outcome::upserted)
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        mut edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let mut verb = |found: Option<&Document>| verbs::update(id, found, Box::new(&mut edit));
        self.run(id, options, Verb::Here(&mut verb)).await.map(Outcome::edited)
    }

    /// The server computes what becomes of the document, and the change is written as any other: compared with the version
    /// that was read, with its diff in its event. Stages are those that MongoDB has for updates. The pipeline sees names
    /// as they are in the database, and what it makes is taken as JSON: a date becomes a text.
    async fn update_one_with_pipeline(
        &self,
        id: &DocumentId,
        pipeline: &[serde_json::Value],
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let stages = super::pipeline::parse(pipeline)?;
        self.run(id, options, Verb::Pipeline(stages)).await.map(Outcome::edited)
    }

    async fn with_transaction(
        &self,
        transaction: TransactionFn<'_>,
    ) -> Result<Vec<Arc<Change>>, StorageError> {
        self.transact(transaction).await
    }

    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        mut edit: SectionFn<'_>,
        mut options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let versions = SectionVersion::of(&self.options, &mut options);
        let mut verb = |found: Option<&Document>| {
            verbs::update_section(id, found, section, Box::new(&mut edit), &versions)
        };
        self.run(id, options, Verb::Here(&mut verb)).await.map(Outcome::edited)
    }

    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError> {
        self.run(id, options, Verb::Here(&mut |found| Ok(verbs::delete(found)))).await.map(Outcome::deleted)
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        self.reading(|| async {
            let page = self.read_changes(id, after, limit).await?;
            let last = page.changes.last().map_or(after, |change| change.version);
            if page.more || self.version_of(id).await? <= last {
                return Ok(page);
            }
            // Some are in the outbox still, whoever wrote them.
            self.place_outbox(id).await?;
            self.read_changes(id, after, limit).await
        })
        .await
    }

    async fn last_version(&self, id: &DocumentId) -> Result<u64, StorageError> {
        self.reading(|| self.version_of(id)).await
    }

    async fn remove_changes(&self, id: &DocumentId, up_to: u64) -> Result<u64, StorageError> {
        self.reading(|| async {
            let (version, outbox) = self.place_outbox(id).await?;
            // What is written from here on is not removed: its events may come into the log at any time.
            let up_to = up_to.min(version);
            let key = self.key(id);
            if let Some(stored) = self.stored_alone(id).await? {
                self.shared().keep_marks(&key, &stored, up_to).await?;
            }
            let of = doc! {
                "collection": &*self.name, "documentId": id.as_str(), "sequenceNum": {"$lte": count(up_to)},
                "removed": {"$exists": false},
            };
            // The place stays, so that who reads from before it is told.
            let empty = doc! {
                "$set": {"removed": true, "removedAt": DateTime::from_millis(count(self.shared().now_ms(0)))},
                "$unset": {"diff": "", "metadata": "", "clientId": "", "clientSeq": "", "timestamp": ""},
            };
            let removed = self.shared().events().update_many(of, empty).await?.modified_count;
            self.shared().forget_answers(&key, up_to).await?;
            // Before the places go: an outbox that outlives them would get its events new ones.
            if removed > 0 || !outbox.is_empty() {
                let of_ours = doc! {"_id": id.as_str(), "_weft.write": {"$exists": true}};
                // Whoever remembers the document finds by the other id that it must not leave there what is removed.
                let pull = doc! {
                    "$pull": {"_weft.outbox": {"$in": outbox}}, "$set": {"_weft.write": WriteId::new()},
                };
                self.documents.update_one(of_ours, pull).await?;
            }
            self.shared().trim_log().await?;
            Ok(removed)
        })
        .await
    }

    async fn producers(&self, id: &DocumentId) -> Result<StateVector<ClientId>, StorageError> {
        self.reading(|| async {
            let stored = match self.stored(id).await? {
                Some(stored) => stored,
                None => self.absent(id).await?,
            };
            let lasts = stored.producers.iter().map(|(client, mark)| (client.clone(), mark.sequence));
            let mut vector: StateVector<ClientId> = lasts.collect();
            if stored.spilled {
                for (client, mark) in self.shared().spilled_marks(&self.key(id)).await? {
                    vector.advance(client, mark.sequence);
                }
            }
            Ok(vector)
        })
        .await
    }

    async fn position(&self) -> Result<u64, StorageError> {
        self.reading(|| async {
            self.shared().relay.settle().await?;
            Ok(self.shared().relay.last_position().await?)
        })
        .await
    }

    async fn watch(&self, filter: WatchFilter, from: WatchFrom) -> Result<Watch, StorageError> {
        crate::watch::check(&self.options)?;
        let after = match from {
            WatchFrom::Now => self.position().await?,
            WatchFrom::After(position) => {
                // What was written before the call is part of the history that the cursor is compared with.
                self.position().await?;
                position
            }
        };
        let (tide, closed) = (self.shared().tide.subscribe(), self.closed.subscribe());
        self.shared().followed.notify_one();
        let full: Option<Arc<dyn Storage>> =
            if self.options.watch_full_document { Some(Arc::new(self.clone())) } else { None };
        let what = (self.number, filter, after);
        Ok(crate::watch::stream(self.shared().clone(), what, full, tide, closed))
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.closed.send_replace(true);
        Ok(())
    }
}

impl Shared {
    /// Lets go of the beginning of the log as far as nothing has been left of it for a while. The last place is kept: it
    /// says what the next one is.
    async fn trim_log(&self) -> Result<(), Failure> {
        let last = self.relay.last_position().await?;
        let since = (self.options.clock)().saturating_sub(PLACES_KEPT.as_millis() as u64);
        let kept = doc! {"$or": [
            {"removed": {"$exists": false}}, {"removedAt": {"$gte": DateTime::from_millis(count(since))}},
        ]};
        let kept = self.events().find_one(kept).sort(doc! {"position": 1}).projection(doc! {"position": 1});
        let kept = kept.await?.and_then(|event| event.get("position").and_then(whole)).unwrap_or(last);
        let gone = doc! {"position": {"$lt": count(kept.min(last))}, "removed": true};
        self.events().delete_many(gone).await?;
        Ok(())
    }
}

pub(super) fn driver(error: mongodb::error::Error) -> StorageError {
    of_driver(&error)
}
