//! What other programs write to a collection directly: seen, numbered and recorded.
//!
//! A change stream tells which documents were written; those whose body is not what their history says are recorded as
//! they are. The stream's resume token is kept, so what happened while nobody listened is told later. When the token is
//! too old the whole collection is read anew, and the log gets a marker: from there on watchers know that they missed
//! something. Several listeners may see the same: the version check lets one of them record it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::TryStreamExt;
use mongodb::{
    bson::{DateTime, Document as Bsons, RawDocumentBuf, doc, oid::ObjectId},
    change_stream::event::{ChangeStreamEvent, OperationType, ResumeToken},
};
use tokio::time::Instant;

use super::{
    failure::{Failure, has_no_streams, is_history_lost, is_of_the_document, is_refusal, is_too_large},
    log::{OF_NO_DOCUMENT, STREAM_PAUSE},
    record::{Stored, WriteId, encode_event, event_version, id_of, packed, whole},
    relay::Moved,
    storage::MongoStorage,
    tombstones::key_of,
    value::{OWN, count},
    whole::{brings_no_event, own_of},
};
use crate::{Body, Change, Diff, DocumentId, Operation, Producer, Storage, StorageError};

/// How often the resume token is kept, at most: what comes after it is looked at again after a crash.
const TOKEN_EVERY: Duration = Duration::from_secs(1);

/// How long the event of another process's write may take into the log before this one moves it there.
const GRACE: Duration = Duration::from_secs(2);

/// What the driver does not have and sends for takes longer than this; the rest of a reply it has.
const SENT_FOR: Duration = Duration::from_micros(100);

/// After each reply the listener rests, so that the next one brings what came meanwhile, mostly writes of this store: a
/// reply for each of them would cost the server as much as the write.
const REST: Duration = Duration::from_millis(20);

/// What reads much and seldom finds anything is done so often: a look for documents that are gone each so many looks, and where
/// nobody listens a look for what a crash left.
const LOOKS_BETWEEN: u32 = 30;

/// How many documents are looked for at a time of those that the log knows.
const NAMES_STEP: usize = 1_000;

/// How many writes of others are remembered for that. What is forgotten is found by the next who reads or opens.
const WAITING_MAX: usize = 4_096;

/// Documents that are not what the log says.
struct Odd {
    /// Neither here nor deleted long ago.
    gone: Vec<DocumentId>,
    /// Here as they were before their last change.
    behind: Vec<DocumentId>,
}

/// Says that the stream tells what others write, for as long as it does.
struct Heard<'h>(&'h AtomicBool);

impl<'h> Heard<'h> {
    fn on(heard: &'h AtomicBool) -> Self {
        heard.store(true, Ordering::Release);
        Self(heard)
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What is wrong with one document, because another program made it what it is, is no reason not to look at the others.
/// Whoever reads it or writes to it is told as well.
pub(super) fn go_on(id: &DocumentId, seen_to: Result<(), Failure>) -> Result<(), Failure> {
    match seen_to {
        Err(Failure::Driver(error)) if is_too_large(&error) => {
            tracing::warn!(document = %id, %error, "what another program wrote can't be recorded: it is too large");
        }
        Err(Failure::Driver(error)) if is_of_the_document(&error) => {
            tracing::warn!(document = %id, %error, "what another program wrote can't be recorded");
        }
        Err(Failure::Storage(
            error @ (StorageError::Corrupt { .. } | StorageError::InvalidDocument { .. }),
        )) => {
            tracing::warn!(document = %id, %error, "what another program wrote can't be recorded");
        }
        seen_to => return seen_to,
    }
    Ok(())
}

impl MongoStorage {
    /// Listens for as long as the store is open.
    pub(super) async fn listen(self) {
        let mut waiting: Vec<(Instant, DocumentId, u64)> = Vec::new();
        // Whoever crashed may have left events in outboxes.
        let mut recovered = false;
        let mut refused = 0;
        loop {
            let listened = async {
                if !recovered {
                    self.recover().await?;
                    recovered = true;
                }
                self.listen_once(&mut waiting).await
            };
            match listened.await {
                Ok(()) => {}
                Err(Failure::Driver(error)) if has_no_streams(&error) => return self.look().await,
                Err(Failure::Driver(error)) if is_refusal(&error) && !is_history_lost(&error) => {
                    // As of a role that may not open streams: it may never be otherwise.
                    if refused == 0 {
                        tracing::warn!(%error, collection = &*self.name, "no change stream, the collection is looked at instead");
                    }
                    self.look_once(refused % LOOKS_BETWEEN == 0).await;
                    refused = refused.wrapping_add(1);
                    tokio::time::sleep(self.shared().options.poll_interval).await;
                }
                Err(error) => {
                    tracing::debug!(?error, collection = &*self.name, "the listener ended, opening it again");
                }
            }
            tokio::time::sleep(STREAM_PAUSE).await;
        }
    }

    /// Moves what others left who crashed, where nobody listens: at once and from time to time.
    pub(super) async fn only_recover(self) {
        loop {
            let pause = match self.recover().await {
                Ok(()) => self.shared().options.poll_interval.saturating_mul(LOOKS_BETWEEN),
                Err(error) => {
                    tracing::debug!(?error, collection = &*self.name, "what a crash left is not moved yet");
                    STREAM_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn listen_once(&self, waiting: &mut Vec<(Instant, DocumentId, u64)>) -> Result<(), Failure> {
        let shared = self.shared();
        let documents =
            shared.streams.database(shared.database.name()).collection::<RawDocumentBuf>(&self.name);
        let tokens = shared.own("listeners");
        let kept = tokens.find_one(doc! {"_id": &*self.name}).await?;
        let token = kept.as_ref().and_then(|kept| kept.get("token"));
        let token: Option<ResumeToken> =
            token.and_then(|token| mongodb::bson::deserialize_from_bson(token.clone()).ok());
        // Without a stage that leaves out what is not asked for: a server takes each event apart for that, and nearly all are
        // updates, in which there is nothing to leave out.
        let opened = documents.watch().resume_after(token.clone()).await;
        let (mut stream, lost) = match opened {
            Ok(stream) => (stream, false),
            Err(error) if is_history_lost(&error) => (documents.watch().await?, true),
            Err(error) => return Err(error.into()),
        };
        if token.is_none() || lost {
            // The stream is open, so nothing that comes from here on is missed.
            self.read_anew(lost).await?;
        }
        let _heard = Heard::on(&self.heard);
        let mut kept_at = super::now();
        let mut unkept = token.is_none() || lost;
        loop {
            let asked_at = super::now();
            let event = stream.next_if_any().await;
            let was_sent_for = asked_at.elapsed() >= SENT_FOR;
            match event {
                Ok(Some(event)) => {
                    unkept = true;
                    self.look_at(event, waiting).await?;
                    if was_sent_for {
                        tokio::time::sleep(REST).await;
                    }
                }
                // The collection was dropped or renamed. From here on the answer is the same, and comes at once.
                Ok(None) if !stream.is_alive() => return self.lose_history().await,
                Ok(None) => {}
                Err(error) if is_history_lost(&error) => return self.lose_history().await,
                Err(error) => return Err(error.into()),
            }
            self.help(waiting).await?;
            if unkept
                && kept_at.elapsed() >= TOKEN_EVERY
                && let Some(token) = stream.resume_token()
                && let Ok(token) = mongodb::bson::serialize_to_bson(&token)
            {
                let set = doc! {"$set": {"token": token}};
                tokens.update_one(doc! {"_id": &*self.name}, set).upsert(true).await?;
                (kept_at, unkept) = (super::now(), false);
            }
        }
    }

    async fn look_at(
        &self,
        event: ChangeStreamEvent<RawDocumentBuf>,
        waiting: &mut Vec<(Instant, DocumentId, u64)>,
    ) -> Result<(), Failure> {
        let Some(id) = key_of(event.document_key.as_ref()) else { return Ok(()) };
        let own = match event.operation_type {
            OperationType::Update => event.update_description.map(|update| update.updated_fields),
            OperationType::Insert => event.full_document.map(|inserted| own_of(&inserted)),
            // No write of this storage is one.
            OperationType::Replace => return go_on(&id, self.look_at_replaced(&id, false).await),
            OperationType::Delete => return go_on(&id, self.look_at_delete(&id, false).await),
            _ => return Ok(()),
        };
        let Some(own) = own else { return Ok(()) };
        // As the writes of transactions are, those of others look like what another program has copied.
        if let Ok(own) = own.get_document(OWN)
            && let Some(write) = brings_no_event(own)
            && let Some(version) = own.get("version").and_then(whole)
            && version > 0
            && !self.shared().relay.sees_to(&self.key(&id), version)
        {
            return go_on(&id, self.look_at_inserted(&id, write).await);
        }
        // One of this storage, here or in another process: its event is on its way.
        let version = match own.get_document("_weft") {
            Ok(own) if own.contains_key("write") => own.get("version"),
            _ if own.contains_key("_weft.write") => own.get("_weft.version"),
            // Nothing but the outbox or the marks.
            _ if !own.is_empty() && own.keys().all(|name| name.starts_with("_weft.")) => return Ok(()),
            _ => None,
        };
        match version.and_then(whole) {
            // What only stands in for a document that is absent has no event.
            Some(0) => Ok(()),
            Some(version) => {
                if waiting.len() < WAITING_MAX && !self.shared().relay.sees_to(&self.key(&id), version) {
                    waiting.push((super::now() + GRACE, id, version));
                }
                Ok(())
            }
            None => self.adopt_unrecorded(&id, false).await,
        }
    }

    async fn adopt_unrecorded(&self, id: &DocumentId, missed: bool) -> Result<(), Failure> {
        let adopted = async {
            match self.stored(id).await? {
                Some(stored) if !self.is_recorded(&stored) => self.adopt(stored, missed).await.map(drop),
                _ => Ok(()),
            }
        };
        go_on(id, adopted.await)
    }

    /// A document went: a tombstone that was purged, or a delete behind our back.
    pub(super) async fn look_at_delete(&self, id: &DocumentId, missed: bool) -> Result<(), Failure> {
        let shared = self.shared();
        shared.relay.settle().await?;
        let last = shared.relay.last_version(&self.name, id).await?;
        if last == 0
            || shared.relay.buried_version(&self.name, id).await?.is_some_and(|version| version >= last)
        {
            return Ok(());
        }
        let of = doc! {"collection": &*self.name, "documentId": id.as_str(), "sequenceNum": count(last)};
        let ended = shared.events().find_one(of).projection(doc! {"operation": 1}).await?;
        if ended.is_none_or(|ended| ended.get_str("operation").is_ok_and(|operation| operation == "delete")) {
            return Ok(());
        }
        self.record_delete(id, last, missed).await
    }

    async fn record_delete(&self, id: &DocumentId, last: u64, missed: bool) -> Result<(), Failure> {
        let shared = self.shared();
        let version = last + 1;
        let client = crdt_core::ClientId::new(super::DIRECT).expect("a short name");
        let base = self.absent(id).await?;
        let sequence = base.producers.get(&client).map_or(0, |mark| mark.sequence) + 1;
        let change = Change {
            document_id: id.clone(),
            version,
            position: 0,
            operation: Operation::Delete,
            diff: Diff::between(Some(&Body::new()), None, version),
            timestamp_ms: shared.now_ms(0),
            producer: Producer { client_id: client, sequence: Some(sequence) },
            metadata: super::adopt::metadata(missed),
        };
        let write = WriteId::new();
        let event = encode_event(write, &change);
        let mut producers = base.producers;
        let mark = super::record::Mark { sequence, version };
        producers.insert(change.producer.client_id.clone(), mark);
        let tombstone = doc! {"_id": id.as_str(), self.version_field(): count(version), "_weft": {
            "version": count(version), "write": write, "digest": mongodb::bson::Bson::Null,
            "time": count(change.timestamp_ms), "producers": super::record::encode_marks(&producers),
            "spilled": base.spilled,
            "deleted": DateTime::from_millis(count(change.timestamp_ms)), "outbox": [packed(&event)],
        }};
        match self.documents.insert_one(tombstone).await {
            Ok(_) => shared.relay.take(Moved { key: self.key(id), events: vec![event] }),
            // It is there again, and whoever made it has continued the numbers.
            Err(error) if super::failure::is_duplicate(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Moves what others should have moved by now.
    async fn help(&self, waiting: &mut Vec<(Instant, DocumentId, u64)>) -> Result<(), Failure> {
        let now = super::now();
        while let Some((due, id, version)) = waiting.first() {
            let shared = self.shared();
            let seen_to = shared.relay.sees_to(&self.key(id), *version);
            if !seen_to && *due > now {
                break;
            }
            if !seen_to {
                // Another process writes. From here on the log says itself what of its events is there.
                shared.followed.notify_one();
                let placed = async {
                    let Some(stored) = self.stored(id).await? else { return Ok(()) };
                    let moved = Moved { key: self.key(id), events: stored.outbox };
                    Ok(shared.relay.place_now(moved).await?)
                };
                go_on(id, placed.await)?;
            }
            waiting.remove(0);
        }
        Ok(())
    }

    /// Moves what a process left in the outboxes that crashed.
    pub(super) async fn recover(&self) -> Result<(), Failure> {
        let left = self.documents.find(doc! {"_weft.outbox.0": {"$exists": true}});
        let mut left = left.projection(doc! {"_weft.outbox": 1}).await?;
        while let Some(raw) = left.try_next().await? {
            let Ok(stored) = Stored::decode(raw, self.version_field()) else { continue };
            let key = self.key(&stored.id);
            let last = stored.outbox.last().map_or(0, event_version);
            if self.shared().relay.placed(&key) < last {
                self.shared().relay.place_now(Moved { key, events: stored.outbox }).await?;
            }
        }
        Ok(())
    }

    /// The stream can't go on: the next one begins anew.
    async fn lose_history(&self) -> Result<(), Failure> {
        // As when the collection was put back: what came into the log before may not be there now, and numbers come again.
        self.shared().relay.forget().await;
        self.shared().own("listeners").delete_one(doc! {"_id": &*self.name}).await?;
        self.read_anew(true).await?;
        // The log may have been put back with it: to where it ended before, or further by what came since.
        Ok(self.shared().relay.begin_anew().await?)
    }

    /// Compares all that is there with its history, and all that has a history with what is there. `lost`: what happened in
    /// between can't be told one by one.
    async fn read_anew(&self, lost: bool) -> Result<(), Failure> {
        self.compare_all(lost).await?;
        self.look_for_deleted(lost).await?;
        if lost {
            tracing::warn!(
                collection = &*self.name,
                "the change stream's history is lost: what other programs wrote is recorded as one change each"
            );
            self.mark_missed().await?;
        }
        Ok(())
    }

    /// Compares every document with its history.
    async fn compare_all(&self, lost: bool) -> Result<(), Failure> {
        let mut all = self.documents.find(doc! {}).sort(doc! {"_id": 1}).await?;
        while let Some(raw) = all.try_next().await? {
            match Stored::decode(raw, self.version_field()) {
                Ok(stored) if !self.is_recorded(&stored) => {
                    // Once more, as a writer may have come between since the page was read.
                    let id = stored.id.clone();
                    self.adopt_unrecorded(&id, lost).await?;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a document that is none of ours"),
            }
        }
        Ok(())
    }

    /// Looks which documents have a history and are gone without a tombstone.
    async fn look_for_deleted(&self, lost: bool) -> Result<(), Failure> {
        let of = doc! {"collection": &*self.name, "documentId": {"$ne": OF_NO_DOCUMENT}};
        let last = doc! {"_id": "$documentId", "last": {"$max": "$sequenceNum"}};
        let mut known =
            self.shared().events().aggregate([doc! {"$match": of}, doc! {"$group": last}]).await?;
        loop {
            let mut step = BTreeMap::new();
            while step.len() < NAMES_STEP
                && let Some(row) = known.try_next().await?
            {
                if let (Ok(id), Some(last)) = (id_of(row.get("_id")), row.get("last").and_then(whole)) {
                    step.insert(id, last);
                }
            }
            if step.is_empty() {
                return Ok(());
            }
            let odd = self.odd_of(step).await?;
            for id in odd.gone {
                go_on(&id, self.look_at_delete(&id, lost).await)?;
            }
            for id in odd.behind {
                go_on(&id, self.look_at_replaced(&id, lost).await)?;
            }
        }
    }

    /// Those of some documents that are not what the log says, as far as can be told for all at once. Each comes with the last
    /// version that is in the log.
    async fn odd_of(&self, mut names: BTreeMap<DocumentId, u64>) -> Result<Odd, Failure> {
        let all: Vec<&str> = names.keys().map(DocumentId::as_str).collect();
        let here =
            self.documents.find(doc! {"_id": {"$in": &all}}).projection(doc! {"_weft.version": 1}).await?;
        let places = all.iter().map(|id| doc! {"c": &*self.name, "d": *id}).collect::<Vec<_>>();
        let tombstones = self.shared().own("tombstones");
        let buried = tombstones.find(doc! {"_id": {"$in": places}}).projection(doc! {"version": 1}).await?;
        let (here, buried): (Vec<Bsons>, Vec<Bsons>) =
            (here.try_collect().await?, buried.try_collect().await?);
        let mut behind = Vec::new();
        for row in here {
            let version = row.get_document(OWN).ok().and_then(|own| own.get("version")).and_then(whole);
            if let Ok(id) = id_of(row.get("_id"))
                && let Some(last) = names.remove(&id)
                && version.is_some_and(|version| version < last)
            {
                behind.push(id);
            }
        }
        for row in buried {
            let id = row.get_document("_id").ok().and_then(|place| id_of(place.get("d")).ok());
            let version = row.get("version").and_then(whole).unwrap_or(0);
            if let Some(id) = id
                && names.get(&id).is_some_and(|last| version >= *last)
            {
                names.remove(&id);
            }
        }
        Ok(Odd { gone: names.into_keys().collect(), behind })
    }

    /// Tells all watchers of the collection, those to come as well, that something was missed here.
    async fn mark_missed(&self) -> Result<(), Failure> {
        self.shared().relay.settle().await?;
        loop {
            let position = self.shared().relay.last_position().await? + 1;
            let marker = doc! {
                "_id": ObjectId::new(), "collection": &*self.name, "documentId": OF_NO_DOCUMENT, "sequenceNum": count(position),
                "position": count(position), "removed": true, "missed": true,
                "removedAt": DateTime::from_millis(count(self.shared().now_ms(0))),
            };
            match self.shared().events().insert_one(marker).await {
                Ok(_) => {
                    self.shared().relay.hold().await.forget();
                    self.shared().relay.rise(position);
                    return Ok(());
                }
                Err(error) if super::failure::is_duplicate(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks for itself, where the server can't tell.
    async fn look(&self) {
        for nth in (0..LOOKS_BETWEEN).cycle() {
            self.look_once(nth == 0).await;
            tokio::time::sleep(self.shared().options.poll_interval).await;
        }
    }

    /// `at_all`: also for what is there no more.
    async fn look_once(&self, at_all: bool) {
        let looked = async {
            self.recover().await?;
            self.compare_all(false).await?;
            if at_all {
                self.look_for_deleted(false).await?;
            }
            Ok::<_, Failure>(())
        };
        if let Err(error) = looked.await {
            tracing::debug!(?error, collection = &*self.name, "the collection can't be looked at");
        }
    }
}
