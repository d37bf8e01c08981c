//! The collection: reads, decides, and writes by compare-and-swap.

use std::{
    any::Any,
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};
use futures_util::TryStreamExt;
use mongodb::{
    ClientSession, Collection,
    bson::{Bson, DateTime, Document as Bsons, doc},
};
use tokio::sync::watch;

use super::{
    Handle, Shared,
    failure::{Failure, is_duplicate, is_passing, is_too_large, of_driver},
    record::{
        Mark, Stored, WriteId, decode_event, digest, encode_event, encode_mark, encode_marks, event_version,
    },
    relay::{Key, Moved},
    value::{self, count, escape, escape_field, fields_of},
};
use crate::{
    Body, Change, ChangePage, Deleted, Diff, Document, DocumentId, EditFn, EditOptions, Edited, Explained,
    Index, IndexStatus, Operation, Producer, Storage, StorageError, StorageOptions, TransactionFn, Upserted,
    Watch, WatchFilter, WatchFrom,
    edit::SectionFn,
    query::{FieldPath, Page, Query},
    retry::{self, Backoff},
    rules::{self, Turn},
    verbs::{self, Outcome, SectionVersion, Step},
};

/// The pause before a command is sent again whose connection was cut. The operation's timeout ends it.
const CUT_PAUSE: Duration = Duration::from_millis(25);

/// How many events an outbox may hold before a writer moves them to the log itself.
pub const OUTBOX_MAX: usize = 64;

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
    /// Ends the handle and its watches.
    closed: watch::Sender<bool>,
}

/// What a verb is asked for, as often as it takes.
pub(super) type Verb<'v> = dyn FnMut(Option<&Document>) -> Result<Step, StorageError> + Send + 'v;

/// A write that was sent and not answered.
struct Unsure {
    /// The version that it was to follow.
    base: u64,
    planned: Planned,
}

/// A change, ready to be written.
pub(super) struct Planned {
    pub(super) before: Option<Document>,
    pub(super) after: Option<Document>,
    pub(super) change: Arc<Change>,
    pub(super) event: Bsons,
    how: How,
}

enum How {
    Insert(Bsons),
    Update { filter: Bsons, update: Bsons },
    Remove { filter: Bsons },
}

impl MongoStorage {
    pub(super) fn new(handle: Arc<Handle>, name: &str, number: u32, options: StorageOptions) -> Self {
        let shared = handle.shared.clone();
        let documents = shared.database.collection(name);
        let (closed, _) = watch::channel(false);
        Self { shared, handle: Some(handle), name: name.into(), number, options, documents, closed }
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
        if self.options.record_changes {
            self.shared().absent(&self.name, id).await
        } else {
            Ok(Stored::absent(id.clone(), 0, BTreeMap::new()))
        }
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

    /// Repeats a reading whose connection was cut, for as long as an operation may take.
    pub(super) async fn reading<T, F>(&self, read: impl Fn() -> F + Send) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        self.check_open()?;
        retry::within(self.options.operation_timeout, async {
            loop {
                match read().await {
                    Err(Failure::Driver(error)) if is_passing(&error) => tokio::time::sleep(CUT_PAUSE).await,
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

    /// Carries out one verb.
    async fn run(
        &self,
        id: &DocumentId,
        options: EditOptions,
        verb: &mut Verb<'_>,
    ) -> Result<Outcome, StorageError> {
        rules::check_metadata(id, &options.metadata, &self.options)?;
        self.check_open()?;
        retry::within(self.options.operation_timeout, self.attempts(id, &options, verb)).await
    }

    async fn attempts(
        &self,
        id: &DocumentId,
        options: &EditOptions,
        verb: &mut Verb<'_>,
    ) -> Result<Outcome, StorageError> {
        let key = self.key(id);
        let _gate = self.shared().gate(&key).lock().await;
        self.check_open()?;
        // One id for all attempts: whichever of them the server has applied, it is this write, and it is once.
        let write = WriteId::new();
        let mut unsure: Option<Unsure> = None;
        let mut backoff = Backoff::new(&self.options);
        loop {
            match self.attempt(&key, options, write, &mut unsure, verb).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {
                    if !backoff.pause().await {
                        return Err(StorageError::RetriesExhausted { attempts: backoff.attempts() });
                    }
                }
                Err(Failure::Driver(error)) if is_passing(&error) => tokio::time::sleep(CUT_PAUSE).await,
                Err(Failure::Driver(error)) if is_too_large(&error) => {
                    let reason =
                        format!("the document with its event is more than the server takes: {error}");
                    return Err(StorageError::InvalidDocument { id: id.clone(), reason });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One try: `None` when another writer came between.
    async fn attempt(
        &self,
        key: &Key,
        options: &EditOptions,
        write: WriteId,
        unsure: &mut Option<Unsure>,
        verb: &mut Verb<'_>,
    ) -> Result<Option<Outcome>, Failure> {
        let found = match self.stored(&key.id).await? {
            Some(found) => found,
            None => self.absent(&key.id).await?,
        };
        if let Some(sent) = unsure.take() {
            match self.what_became_of(&sent, write, &found).await? {
                Fate::Applied => return Ok(Some(self.applied(key, sent.planned, &found).await)),
                // The very same again: should both arrive, the version check lets one through.
                Fate::Open => return self.send(key, sent.planned, found, unsure).await,
                Fate::Overtaken => {}
            }
        }
        if !self.is_recorded(&found) {
            self.adopt(found, false).await?;
            return Ok(None);
        }
        if found.outbox.len() >= OUTBOX_MAX {
            self.shared().relay.place_now(Moved { key: key.clone(), events: found.outbox.clone() }).await?;
        }
        let document = found.document();
        let producer = &options.producer;
        let mark = self.mark(&found, &producer.client_id).await?;
        let sequence = if self.options.record_changes || producer.sequence.is_some() {
            match rules::turn(producer.sequence, mark.map_or(0, |mark| mark.sequence))? {
                Turn::Next(sequence) => Some(sequence),
                Turn::Repeated(sequence) => {
                    let version = self.shared().answer(key, &found, &producer.client_id, sequence).await?;
                    return Ok(Some(Outcome::Repeated { version, document }));
                }
            }
        } else {
            None
        };
        rules::expect_version(&key.id, options, document.as_ref().map_or(0, |document| document.version))?;
        match verb(document.as_ref())? {
            Step::Keep => match producer.sequence {
                Some(sequence) => {
                    let noted = self.note(None, &found, &producer.client_id, sequence).await?;
                    Ok(noted.then_some(Outcome::Kept(document)))
                }
                None => Ok(Some(Outcome::Kept(document))),
            },
            Step::Write(operation, after) => {
                if let Some(after) = &after {
                    rules::check_body(&key.id, after, &self.options)?;
                }
                let spilled = self.shared().spill(key, &found).await?;
                let planned = self.plan(key, &found, (operation, after), sequence, options, write, &spilled);
                self.send(key, planned, found, unsure).await
            }
        }
    }

    /// Makes the commands that carry out a change.
    #[expect(clippy::too_many_arguments, reason = "it is where everything about one write comes together")]
    pub(super) fn plan(
        &self,
        key: &Key,
        found: &Stored,
        (operation, after): (Operation, Option<Body>),
        sequence: Option<u64>,
        options: &EditOptions,
        write: WriteId,
        spilled: &[ClientId],
    ) -> Planned {
        let recorded = self.options.record_changes;
        let version = found.version + 1;
        let timestamp_ms = self.shared().now_ms(found.time_ms);
        let producer = Producer { client_id: options.producer.client_id.clone(), sequence };
        let change = Arc::new(Change {
            document_id: key.id.clone(),
            version,
            position: 0,
            operation,
            diff: Diff::between(found.body.as_deref(), after.as_ref(), version),
            timestamp_ms,
            producer,
            metadata: options.metadata.clone(),
        });
        let event = if recorded { encode_event(write, &change) } else { Bsons::new() };
        let how = self.how(found, &change, after.as_ref(), &event, write, spilled);
        let before = found.document();
        let after = after.map(|body| Document { id: key.id.clone(), version, body: Arc::new(body) });
        Planned { before, after, change, event, how }
    }

    fn how(
        &self,
        found: &Stored,
        change: &Change,
        after: Option<&Body>,
        event: &Bsons,
        write: WriteId,
        spilled: &[ClientId],
    ) -> How {
        let (recorded, version_field) = (self.options.record_changes, self.version_field());
        let version = count(change.version);
        let client = &change.producer.client_id;
        let mark = change.producer.sequence.map(|sequence| Mark { sequence, version: change.version });
        let Some(raw) = &found.raw else {
            let mut producers = found.producers.clone();
            producers.extend(mark.map(|mark| (client.clone(), mark)));
            let mut own = doc! {"version": version, "write": write, "producers": encode_marks(&producers)};
            if recorded {
                own.insert("time", count(change.timestamp_ms));
                own.insert("digest", after.map(digest));
                own.insert("outbox", [event.clone()]);
            }
            if found.spilled {
                own.insert("spilled", true);
            }
            let mut document = doc! {"_id": found.id.as_str()};
            document.extend(after.map(|after| fields_of(after, version_field)).unwrap_or_default());
            document.insert(version_field, version);
            document.insert(value::OWN, own);
            return How::Insert(document);
        };
        let mut filter = doc! {
            "_id": found.id.as_str(), version_field: count(found.version), "_weft.version": count(found.version),
        };
        if !recorded && after.is_none() {
            return How::Remove { filter };
        }
        let (mut set, mut unset) = changed_fields(raw, found.body.as_deref(), after, version_field);
        set.insert(version_field, version);
        set.insert("_weft.version", version);
        set.insert("_weft.write", write);
        if let Some(mark) = mark {
            let place = format!("_weft.producers.{}", escape(client.as_str()));
            // A producer that races with itself is no reason to apply two writes under one sequence.
            let last = found.producers.get(client).map(|mark| count(mark.sequence));
            filter.insert(
                format!("{place}.s"),
                last.map_or_else(|| Bson::Document(doc! {"$exists": false}), Bson::Int64),
            );
            set.insert(place, encode_mark(mark));
        }
        for gone in spilled.iter().filter(|gone| *gone != client) {
            unset.insert(format!("_weft.producers.{}", escape(gone.as_str())), "");
            set.insert("_weft.spilled", true);
        }
        if after.is_some() && found.body.is_none() {
            unset.insert("_weft.deleted", "");
        }
        let mut update = Bsons::new();
        if recorded {
            set.insert("_weft.time", count(change.timestamp_ms));
            set.insert("_weft.digest", after.map(digest));
            if after.is_none() {
                set.insert("_weft.deleted", DateTime::from_millis(count(change.timestamp_ms)));
            }
            let mut push = doc! {"$each": [event.clone()]};
            let placed = self.shared().relay.placed(&self.key(&found.id));
            if placed > 0 {
                // What is in the log already leaves the outbox with this write, and costs none of its own.
                push.insert("$slice", -count(change.version.saturating_sub(placed)).max(1));
            }
            update.insert("$push", doc! {"_weft.outbox": push});
        }
        update.insert("$set", set);
        if !unset.is_empty() {
            update.insert("$unset", unset);
        }
        How::Update { filter, update }
    }

    /// Sends a change. `None` when the document is not as it was found any more.
    async fn send(
        &self,
        key: &Key,
        planned: Planned,
        found: Stored,
        unsure: &mut Option<Unsure>,
    ) -> Result<Option<Outcome>, Failure> {
        let sent = match &planned.how {
            How::Insert(document) => match self.documents.insert_one(document).await {
                Ok(_) => Ok(true),
                Err(error) if is_duplicate(&error) => Ok(false),
                Err(error) => Err(error),
            },
            How::Update { filter, update } => {
                let update = self.documents.find_one_and_update(filter.clone(), update.clone());
                update.projection(doc! {"_id": 1}).await.map(|found| found.is_some())
            }
            How::Remove { filter } => {
                self.documents.delete_one(filter.clone()).await.map(|deleted| deleted.deleted_count > 0)
            }
        };
        match sent {
            Ok(true) => Ok(Some(self.applied(key, planned, &found).await)),
            Ok(false) => Ok(None),
            Err(error) => {
                *unsure = Some(Unsure { base: found.version, planned });
                Err(error.into())
            }
        }
    }

    /// Writes a change as a part of a transaction, which puts its event into the log itself. `false` when the document is
    /// not as it was found any more.
    pub(super) async fn write_in(
        &self,
        session: &mut ClientSession,
        planned: &mut Planned,
    ) -> Result<bool, Failure> {
        Ok(match &mut planned.how {
            How::Insert(document) => {
                if let Ok(own) = document.get_document_mut(value::OWN) {
                    own.insert("outbox", Bson::Array(Vec::new()));
                }
                match self.documents.insert_one(&*document).session(session).await {
                    Ok(_) => true,
                    Err(error) if is_duplicate(&error) => false,
                    Err(error) => return Err(error.into()),
                }
            }
            How::Update { filter, update } => {
                update.remove("$push");
                let updated = self.documents.update_one(filter.clone(), update.clone());
                updated.session(session).await?.matched_count > 0
            }
            How::Remove { filter } => {
                self.documents.delete_one(filter.clone()).session(session).await?.deleted_count > 0
            }
        })
    }

    /// A change was written: its event goes to the log.
    async fn applied(&self, key: &Key, planned: Planned, found: &Stored) -> Outcome {
        if self.options.record_changes {
            let placed = self.shared().relay.placed(key);
            let waiting = found.outbox.iter().filter(|event| {
                event_version(event) > placed && event_version(event) < planned.change.version
            });
            let mut events: Vec<Bsons> = waiting.cloned().collect();
            events.push(planned.event);
            self.shared().relay.take(Moved { key: key.clone(), events }).await;
        }
        let document = planned.after.or(planned.before).expect("it is there now or was before");
        Outcome::Changed { document, change: planned.change }
    }

    async fn what_became_of(&self, sent: &Unsure, write: WriteId, found: &Stored) -> Result<Fate, Failure> {
        if !self.options.record_changes {
            let removed = matches!(sent.planned.how, How::Remove { .. });
            return Ok(if found.write == Some(write) || removed && found.raw.is_none() {
                Fate::Applied
            } else if found.version == sent.base && found.raw.is_some() == sent.planned.before.is_some() {
                Fate::Open
            } else {
                Fate::Overtaken
            });
        }
        if found.write == Some(write) {
            return Ok(Fate::Applied);
        }
        if found.version == sent.base {
            return Ok(Fate::Open);
        }
        let of_this = |event: &&Bsons| event.get_object_id("_id").is_ok_and(|id| id == write);
        let applied = found.outbox.iter().any(|event| of_this(&event))
            || self
                .shared()
                .events()
                .find_one(doc! {"_id": write})
                .projection(doc! {"_id": 1})
                .await?
                .is_some();
        Ok(if applied { Fate::Applied } else { Fate::Overtaken })
    }

    /// Notes a counted write that changed nothing, so that its repeat is known. `false` when another writer came between.
    pub(super) async fn note(
        &self,
        session: Option<&mut ClientSession>,
        found: &Stored,
        client: &ClientId,
        sequence: u64,
    ) -> Result<bool, Failure> {
        let mark = Mark { sequence, version: found.version };
        self.shared().note_answer(&self.key(&found.id), client, mark).await?;
        if found.raw.is_none() {
            let mut producers = found.producers.clone();
            producers.insert(client.clone(), mark);
            let version = count(found.version);
            let own = doc! {
                "version": version, "write": WriteId::new(), "producers": encode_marks(&producers),
                "digest": Bson::Null, "spilled": found.spilled,
                "deleted": DateTime::from_millis(count(self.shared().now_ms(0))),
            };
            let placeholder = doc! {"_id": found.id.as_str(), self.version_field(): version, value::OWN: own};
            let insert = self.documents.insert_one(placeholder);
            let inserted = match session {
                Some(session) => insert.session(session).await,
                None => insert.await,
            };
            return match inserted {
                Ok(_) => Ok(true),
                Err(error) if is_duplicate(&error) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
        let place = format!("_weft.producers.{}", escape(client.as_str()));
        let last = found.producers.get(client).map(|mark| count(mark.sequence));
        let mut filter = doc! {"_id": found.id.as_str(), "_weft.version": count(found.version)};
        filter.insert(format!("{place}.s"), last.map_or_else(|| doc! {"$exists": false}.into(), Bson::Int64));
        let update = self.documents.update_one(filter, doc! {"$set": {place: encode_mark(mark)}});
        let noted = match session {
            Some(session) => update.session(session).await?,
            None => update.await?,
        };
        Ok(noted.matched_count > 0)
    }

    /// Whether a document is as this storage has left it. Of what is not recorded, that it is one of ours.
    pub(super) fn is_recorded(&self, found: &Stored) -> bool {
        match &found.raw {
            Some(_) if !self.options.record_changes => found.write.is_some(),
            _ => found.is_recorded(self.version_field()),
        }
    }

    /// Records what another program has made of a document. `missed`: there may have been more between.
    pub(super) async fn adopt(&self, found: Stored, missed: bool) -> Result<(), Failure> {
        let Some(raw) = &found.raw else { return Ok(()) };
        let client = ClientId::new(super::DIRECT).expect("a short name");
        let base = if found.write.is_none() {
            // It was put there, perhaps over one that we know.
            self.shared().relay.settle().await?;
            let absent = self.absent(&found.id).await?;
            Stored { raw: found.raw.clone(), outbox: found.outbox.clone(), ..absent }
        } else {
            found.clone()
        };
        let after = found.body.as_deref().cloned();
        let operation = match (&after, base.version > 0 && found.digest.is_some()) {
            (None, _) => Operation::Delete,
            (Some(_), true) => Operation::Update,
            (Some(_), false) => Operation::Create,
        };
        let sequence = base.producers.get(&client).map_or(0, |mark| mark.sequence) + 1;
        let mut metadata = Body::new();
        if missed {
            metadata.insert("missed".to_owned(), true.into());
        }
        let write = WriteId::new();
        let version = base.version + 1;
        // What it was before is not known: this is right whatever it was.
        let mut diff = match &after {
            Some(after) => Diff::between(None, Some(after), version),
            None => Diff::between(Some(&Body::new()), None, version),
        };
        if operation == Operation::Update {
            diff.merge_patch = None;
        }
        let change = Change {
            document_id: found.id.clone(),
            version,
            position: 0,
            operation,
            diff,
            timestamp_ms: self.shared().now_ms(base.time_ms),
            producer: Producer { client_id: client.clone(), sequence: Some(sequence) },
            metadata,
        };
        let event = encode_event(write, &change);
        let mark = Mark { sequence, version };
        let filter = doc! {
            "_id": found.id.as_str(),
            self.version_field(): raw.get(self.version_field()).cloned().unwrap_or_else(|| doc! {"$exists": false}.into()),
            "_weft.write": found.write.map_or_else(|| doc! {"$exists": false}.into(), Bson::ObjectId),
        };
        let mut set = doc! {
            self.version_field(): count(version),
            "_weft.version": count(version),
            "_weft.write": write,
            "_weft.time": count(change.timestamp_ms),
            "_weft.digest": after.as_ref().map(digest),
        };
        let mut update = Bsons::new();
        if self.options.record_changes {
            update.insert("$push", doc! {"_weft.outbox": event.clone()});
        }
        if found.write.is_none() {
            let mut producers = base.producers.clone();
            producers.insert(client, mark);
            set.insert("_weft.producers", encode_marks(&producers));
        } else {
            set.insert(format!("_weft.producers.{}", escape(client.as_str())), encode_mark(mark));
        }
        if raw.get_document(value::OWN).is_ok_and(|own| own.contains_key("deleted")) && after.is_some() {
            update.insert("$unset", doc! {"_weft.deleted": ""});
        }
        update.insert("$set", set);
        if self.documents.update_one(filter, update).await?.matched_count > 0 && self.options.record_changes {
            let mut events = found.outbox;
            events.push(event);
            let key = self.key(&change.document_id);
            tracing::debug!(document = %change.document_id, version, "recorded what another program wrote");
            self.shared().relay.take(Moved { key, events }).await;
        }
        Ok(())
    }

    /// Sees to it that all events of a document up to its version are in the log.
    async fn place_outbox(&self, id: &DocumentId) -> Result<u64, Failure> {
        let Some(stored) = self.stored(id).await? else {
            self.shared().relay.settle().await?;
            return Ok(0);
        };
        let key = self.key(id);
        if self.shared().relay.placed(&key) < stored.version && !stored.outbox.is_empty() {
            self.shared().relay.place_now(Moved { key, events: stored.outbox }).await?;
        }
        Ok(stored.version)
    }

    async fn read_changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, Failure> {
        let of = doc! {
            "collection": &*self.name, "documentId": id.as_str(), "sequenceNum": {"$gt": count(after)},
            "removed": {"$exists": false},
        };
        let find = self.shared().events().find(of).sort(doc! {"sequenceNum": 1});
        let limit_and_next = i64::try_from(limit).map_or(i64::MAX, |limit| limit.saturating_add(1));
        let found: Vec<Bsons> = find.limit(limit_and_next).await?.try_collect().await?;
        let more = found.len() > limit;
        let changes: Result<_, _> = found.iter().take(limit).map(decode_event).collect();
        Ok(ChangePage { changes: changes?, more })
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

/// What became of a write whose answer was lost.
enum Fate {
    Applied,
    /// Not yet, but it may still arrive.
    Open,
    /// Another write took its version: it never will be.
    Overtaken,
}

/// Only what is different: another program's types stay where nothing has changed.
fn changed_fields(
    raw: &Bsons,
    before: Option<&Body>,
    after: Option<&Body>,
    version_field: &str,
) -> (Bsons, Bsons) {
    let (mut set, mut unset, mut kept) = (Bsons::new(), Bsons::new(), HashSet::new());
    for (name, value) in after.into_iter().flatten() {
        if before.and_then(|before| before.get(name)) == Some(value) {
            kept.insert(name.as_str());
        } else {
            set.insert(escape_field(name, version_field), value::to_bson(value));
        }
    }
    for name in raw.keys().filter(|name| value::is_field(name, version_field)) {
        if !set.contains_key(name) && !kept.contains(&*value::unescape(name)) {
            unset.insert(name, "");
        }
    }
    (set, unset)
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
        let stored = self.reading(|| self.stored(id)).await?;
        Ok(stored.and_then(|stored| stored.document()))
    }

    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError> {
        if limit == 0 {
            return self.check_open().map(|()| Vec::new());
        }
        self.reading(|| async {
            let mut filter = doc! {"_weft.deleted": {"$exists": false}};
            if let Some(after) = after {
                filter.insert("_id", doc! {"$gt": after.as_str()});
            }
            let find = self.documents.find(filter).sort(doc! {"_id": 1});
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut found = find.projection(doc! {"_weft.outbox": 0}).limit(limit).await?;
            let mut documents = Vec::new();
            while let Some(raw) = found.try_next().await? {
                if raw.get_str("_id").is_ok() {
                    documents.extend(Stored::decode(raw, self.version_field())?.document());
                }
            }
            Ok(documents)
        })
        .await
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
        self.run(id, options, &mut |found| Ok(verbs::upsert(found, body.clone())))
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
        self.run(id, options, &mut verb).await.map(Outcome::edited)
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
        self.run(id, options, &mut verb).await.map(Outcome::edited)
    }

    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError> {
        self.run(id, options, &mut |found| Ok(verbs::delete(found))).await.map(Outcome::deleted)
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        if !self.options.record_changes {
            return self.check_open().map(|()| ChangePage { changes: Vec::new(), more: false });
        }
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
        if !self.options.record_changes {
            return self.check_open().map(|()| 0);
        }
        self.reading(|| async {
            self.place_outbox(id).await?;
            let key = self.key(id);
            let of = doc! {
                "collection": &*self.name, "documentId": id.as_str(), "sequenceNum": {"$lte": count(up_to)},
                "removed": {"$exists": false},
            };
            // The place stays, so that who reads from before it is told.
            let empty = doc! {
                "$set": {"removed": true},
                "$unset": {"diff": "", "metadata": "", "clientId": "", "clientSeq": "", "timestamp": ""},
            };
            let removed = self.shared().events().update_many(of, empty).await?.modified_count;
            self.shared().forget_answers(&key, up_to).await?;
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
            WatchFrom::After(position) => self.check_open().map(|()| position)?,
        };
        let (tide, closed) = (self.shared().tide.subscribe(), self.closed.subscribe());
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
    /// Lets go of the beginning of the log as far as nothing is left of it. The last place is kept: it says what the
    /// next one is.
    async fn trim_log(&self) -> Result<(), Failure> {
        let last = self.relay.last_position().await?;
        let kept = self.events().find_one(doc! {"removed": {"$exists": false}}).sort(doc! {"position": 1});
        let kept = kept.projection(doc! {"position": 1}).await?;
        let kept =
            kept.and_then(|event| event.get("position").and_then(super::record::whole)).unwrap_or(last);
        let gone = doc! {"position": {"$lt": count(kept.min(last))}, "removed": true};
        self.events().delete_many(gone).await?;
        Ok(())
    }
}

pub(super) fn driver(error: mongodb::error::Error) -> StorageError {
    of_driver(&error)
}
