//! Tombstones: what a deleted document leaves, first where it was, later beside.
//!
//! A delete empties the document and leaves its version, its producers and its outbox. After a while that moves to a
//! small row of the store's own, and the document goes. A document that is created anew continues from either.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crdt_core::ClientId;
use futures_util::TryStreamExt;
use mongodb::{
    IndexModel,
    bson::{Bson, DateTime, Document as Bsons, doc},
    error::Error,
    options::IndexOptions,
};

use super::{
    Shared,
    failure::Failure,
    record::{Mark, Stored, WriteId, client_of, encode_marks, id_of, mark_of, whole},
    relay::{Key, Moved},
    storage::MongoStorage,
    value::{OWN, count, unescape},
};
use crate::{DocumentId, Storage, StorageError};

/// How often old tombstones are looked for, at most.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// How many tombstones one look moves at most.
const PURGE_STEP: u64 = 1_000;

/// How many tombstones one look for changes goes through at most; few enough to be done long before an operation has to.
const WALK_STEP: usize = 500;

impl Shared {
    /// Moves old tombstones for as long as the store is open.
    pub(super) async fn purge_tombstones(self: Arc<Self>) {
        let every = PURGE_EVERY.min(self.options.tombstones_kept.max(Duration::from_millis(50)));
        loop {
            tokio::time::sleep(every).await;
            let names = self.names.lock().clone();
            for name in names {
                if let Err(error) = self.purge(&name).await {
                    tracing::debug!(?error, collection = &*name, "tombstones were not purged");
                }
            }
        }
    }

    async fn purge(&self, name: &Arc<str>) -> Result<(), Failure> {
        let collection = self.database.collection::<Bsons>(name);
        let kept = self.options.tombstones_kept.as_millis() as u64;
        let before = (self.options.clock)().saturating_sub(kept);
        let old = doc! {"_weft.deleted": {"$lt": DateTime::from_millis(count(before))}};
        let mut found = collection.find(old).await?;
        let mut moved = 0;
        while moved < PURGE_STEP
            && let Some(raw) = found.try_next().await?
        {
            let version_field = raw.keys().find(|name| *name != "_id" && *name != OWN);
            let version_field = version_field.cloned().unwrap_or_default();
            // As it lies there: two documents are equal only if their fields come in the same order.
            let marks = raw.get_document(OWN).ok().and_then(|own| own.get("producers").cloned());
            let Ok(stored) = Stored::decode(raw, &version_field) else { continue };
            if stored.body.is_some() {
                continue;
            }
            let key = Key { collection: name.clone(), id: stored.id.clone() };
            if !stored.outbox.is_empty() {
                self.relay.place_now(Moved { key, events: stored.outbox.clone() }).await?;
            }
            // What only stood in for a document that never was leaves nothing.
            if stored.version > 0 || !stored.producers.is_empty() || stored.spilled {
                self.bury(name, &stored).await?;
            }
            let same = doc! {
                "_id": stored.id.as_str(),
                "_weft.version": count(stored.version),
                "_weft.deleted": {"$exists": true},
                "_weft.producers": marks.unwrap_or_else(|| doc! {"$exists": false}.into()),
            };
            moved += collection.delete_one(same).await?.deleted_count;
        }
        Ok(())
    }

    async fn bury(&self, collection: &str, stored: &Stored) -> Result<(), Error> {
        let place = doc! {"_id": {"c": collection, "d": stored.id.as_str()}};
        let row = doc! {"$set": {
            "version": count(stored.version), "producers": encode_marks(&stored.producers), "spilled": stored.spilled,
        }};
        self.own("tombstones").update_one(place, row).upsert(true).await?;
        Ok(())
    }

    /// A document that is not there: what is left of those that had its name.
    pub(super) async fn absent(&self, collection: &str, id: &DocumentId) -> Result<Stored, Failure> {
        let place = doc! {"_id": {"c": collection, "d": id.as_str()}};
        let buried = self.own("tombstones").find_one(place).await?;
        let mut stored = Stored::absent(id.clone(), 0, BTreeMap::new());
        if let Some(buried) = buried {
            stored.version = buried.get("version").and_then(whole).unwrap_or(0);
            stored.spilled = buried.get_bool("spilled").unwrap_or(false);
            for (client, mark) in buried.get_document("producers").ok().into_iter().flatten() {
                let read = |client: &str| -> Result<(ClientId, Mark), String> {
                    let mark = mark.as_document().ok_or("a producer has no mark")?;
                    Ok((client_of(&unescape(client))?, mark_of(mark)?))
                };
                let (client, mark) = read(client).map_err(|reason| StorageError::Corrupt {
                    place: format!("tombstone of {id}"),
                    reason,
                })?;
                stored.producers.insert(client, mark);
            }
        }
        // Somebody who deleted or replaced the document behind our back left no tombstone.
        let last = self.relay.last_version(collection, id).await?;
        if last > stored.version {
            stored.version = last;
            let key = Key { collection: collection.into(), id: id.clone() };
            self.marks_left(&key, &mut stored).await?;
        }
        Ok(stored)
    }
}

/// How far a walk through the tombstones of a collection has come.
#[derive(Debug, Clone, Default)]
struct Walk {
    /// All up to this one were looked at.
    after: String,
    /// Once there is no further tombstone where its document was: those that were not looked at yet.
    last_here: Option<Vec<String>>,
}

impl MongoStorage {
    /// What stands where an absent document would be, for those who have to meet there: a tombstone of what is left of it.
    pub(super) fn stand_in(&self, found: &Stored, producers: &BTreeMap<ClientId, Mark>) -> Bsons {
        let version = count(found.version);
        let own = doc! {
            "version": version, "write": WriteId::new(), "producers": encode_marks(producers),
            "digest": Bson::Null, "spilled": found.spilled,
            "deleted": DateTime::from_millis(count(self.shared().now_ms(0))),
        };
        doc! {"_id": found.id.as_str(), self.version_field(): version, OWN: own}
    }

    /// What finds the tombstones among the living. Only they are in it, so a write of a living document does not touch it.
    pub(super) async fn create_tombstone_index(&self) -> Result<(), StorageError> {
        let only = doc! {"_weft.deleted": {"$exists": true}};
        let options =
            IndexOptions::builder().name("_weft deleted".to_owned()).partial_filter_expression(only).build();
        let keys = doc! {"_id": 1, "_weft.deleted": 1};
        let model = IndexModel::builder().keys(keys).options(options).build();
        self.reading(|| async {
            self.documents.create_index(model.clone()).await?;
            Ok(())
        })
        .await
    }

    /// Documents that are deleted, their tombstones where they were or beside, and of which changes are left.
    pub(super) async fn deleted_with_changes(
        &self,
        after: Option<&DocumentId>,
        limit: usize,
    ) -> Result<Vec<DocumentId>, StorageError> {
        // What is in an outbox still is no less a change.
        self.reading(|| async { Ok(self.shared().relay.settle().await?) }).await?;
        let mut walk = Walk { after: after.map(ToString::to_string).unwrap_or_default(), last_here: None };
        // Each step has its own time, as there may be any number of tombstones without changes before one with some.
        while let Some((deleted, next)) =
            self.reading(|| self.walk_tombstones(&walk, limit.min(WALK_STEP))).await?
        {
            // An empty page would mean the end.
            if !deleted.is_empty() {
                return Ok(deleted);
            }
            walk = next;
        }
        Ok(Vec::new())
    }

    /// Looks at the next tombstones, at most `limit`; `None` if there are no more.
    async fn walk_tombstones(
        &self,
        walk: &Walk,
        limit: usize,
    ) -> Result<Option<(Vec<DocumentId>, Walk)>, Failure> {
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let (here, is_last) = match &walk.last_here {
            Some(here) => (here.clone(), true),
            None => {
                let here =
                    doc! {"_id": {"$gt": &walk.after, "$type": "string"}, "_weft.deleted": {"$exists": true}};
                let here = self.documents.find(here).projection(doc! {"_id": 1}).sort(doc! {"_id": 1});
                let here: Vec<Bsons> = here.limit(rows).await?.try_collect().await?;
                let is_last = here.len() < limit;
                (here.iter().filter_map(|row| Some(row.get_str("_id").ok()?.to_owned())).collect(), is_last)
            }
        };
        let from = doc! {"c": &*self.name, "d": &walk.after};
        let to = doc! {"c": &*self.name, "d": Bson::MaxKey};
        let tombstones = self.shared().own("tombstones");
        let beside = tombstones.find(doc! {"_id": {"$gt": from, "$lt": to}});
        let beside = beside.projection(doc! {"_id": 1}).sort(doc! {"_id": 1}).limit(rows);
        let beside: Vec<Bsons> = beside.await?.try_collect().await?;
        let of_rows = beside.iter().filter_map(|row| row.get_document("_id").ok()?.get_str("d").ok());
        // Each list has its first `limit`, or all there are, so the first `limit` of both together are among them.
        let ids: BTreeSet<&str> = here.iter().map(String::as_str).chain(of_rows).collect();
        let ids: Vec<&str> = ids.into_iter().take(limit).collect();
        let Some(&last) = ids.last() else { return Ok(None) };
        let mut deleted = Vec::new();
        for id in &ids {
            if let Ok(id) = id_of(Some(&Bson::from(*id)))
                && self.is_deleted_with_changes(&id).await?
            {
                deleted.push(id);
            }
        }
        let last_here = is_last.then(|| here.iter().filter(|id| id.as_str() > last).cloned().collect());
        Ok(Some((deleted, Walk { after: last.to_owned(), last_here })))
    }

    async fn is_deleted_with_changes(&self, id: &DocumentId) -> Result<bool, Failure> {
        let shared = self.shared();
        let deleted = doc! {"_weft.deleted": 1};
        let here = self.documents.find_one(doc! {"_id": id.as_str()}).projection(deleted).await?;
        let is_deleted = match here {
            Some(here) => here.get_document(OWN).is_ok_and(|own| own.contains_key("deleted")),
            // The row of a tombstone stays when its document is created anew. If another program has deleted that one behind
            // our back, its last change is all that tells which numbers were given.
            None => {
                let buried = shared.relay.buried_version(&self.name, id).await?;
                let last = shared.relay.last_version(&self.name, id).await?;
                buried.is_some_and(|buried| buried >= last)
            }
        };
        if !is_deleted {
            return Ok(false);
        }
        let left = doc! {"collection": &*self.name, "documentId": id.as_str(), "removed": {"$exists": false}};
        Ok(shared.events().find_one(left).projection(doc! {"_id": 1}).await?.is_some())
    }
}

/// The id of a document in an event of a change stream.
pub(super) fn key_of(key: Option<&Bsons>) -> Option<DocumentId> {
    id_of(key?.get("_id")).ok()
}
