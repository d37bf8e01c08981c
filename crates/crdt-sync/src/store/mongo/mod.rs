//! Patches in a MongoDB database: `docs/formats/mongodb.md`, "Patches".
//!
//! A patch is a row that names the last time of its session's previous patch, under a unique index: so a session's
//! patches form one chain, whoever appends. A document's head says what is kept and which snapshot counts; a snapshot is
//! written in pieces first and counts when the head names it.

mod command;
mod rows;

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{SessionId, StateVector, Timestamp};
use futures_util::TryStreamExt;
use nodestorage::{
    MongoStore,
    mongo::driver::{
        Collection, IndexModel,
        bson::{Bson, Document as Bsons, doc, oid::ObjectId},
        options::IndexOptions,
    },
};

use self::{
    command::{Failed, again, backend, within},
    rows::{binary, blob, corrupt, count, fields, fields_of, number, number_of, read, row, sid, vector},
};
use super::{PatchPage, PatchStore, PatchStoreError, StoreId};
use crate::{PatchRecord, Want};

/// How many bytes of a snapshot one row holds.
const PIECE_BYTES: usize = 8 << 20;

/// How many patches one command appends.
const APPEND_STEP: usize = 500;

/// About how many bytes a row takes, to ask the server for no more of them than a page holds.
const ROW_BYTES: usize = 512;
/// How many rows of a page come at once.
const ROWS_MAX: usize = 1_000;

/// After so long nobody is still writing the pieces of a snapshot that does not count: who did has crashed.
const LEFTOVER_AGE: Duration = Duration::from_hours(24);

/// The patches of one document in a MongoDB database. Any number of processes may have it open.
pub struct MongoPatchStore {
    name: String,
    id: StoreId,
    patches: Collection<Bsons>,
    heads: Collection<Bsons>,
    pieces: Collection<Bsons>,
    notes: Collection<Bsons>,
    closed: AtomicBool,
}

struct Head {
    vector: StateVector<SessionId>,
    contained: StateVector<SessionId>,
    snapshot: Option<ObjectId>,
}

impl MongoPatchStore {
    /// The store of a document, beside the documents of a store and over its connections. Makes the indexes, and finds
    /// what a process that crashed has appended without noting it.
    pub async fn open(store: &MongoStore, name: &str) -> Result<Self, PatchStoreError> {
        let database = store.database();
        let heads = database.collection("patch_documents");
        let id = store_id(&heads, name).await?;
        let this = Self {
            name: name.to_owned(),
            id,
            patches: database.collection("patches"),
            heads,
            pieces: database.collection("patch_snapshots"),
            notes: database.collection("patch_notes"),
            closed: AtomicBool::new(false),
        };
        let unique = IndexOptions::builder().unique(true).build();
        let chain = IndexModel::builder().keys(doc! {"d": 1, "s": 1, "prev": 1}).options(unique).build();
        let order = IndexModel::builder().keys(doc! {"d": 1, "t": 1, "s": 1}).build();
        this.patches.create_indexes([chain, order]).await.map_err(backend)?;
        this.pieces.create_index(IndexModel::builder().keys(doc! {"d": 1}).build()).await.map_err(backend)?;
        let last = [doc! {"$match": {"d": name}}, doc! {"$group": {"_id": "$s", "t": {"$max": "$t"}}}];
        let mut found = this.patches.aggregate(last).await.map_err(backend)?;
        let mut vector = StateVector::default();
        while let Some(row) = found.try_next().await.map_err(backend)? {
            vector.advance(sid(&row, "_id")?, number(&row, "t")?);
        }
        this.advance(&vector).await?;
        Ok(this)
    }

    fn check_open(&self) -> Result<(), PatchStoreError> {
        if self.closed.load(Relaxed) { Err(PatchStoreError::Closed) } else { Ok(()) }
    }

    async fn head(&self) -> Result<Head, PatchStoreError> {
        self.head_of(Bsons::new()).await
    }

    async fn head_of(&self, fields: Bsons) -> Result<Head, PatchStoreError> {
        let here = doc! {"_id": &self.name};
        let find = || async { self.heads.find_one(here.clone()).projection(fields.clone()).await };
        let found = again(find).await?;
        let found = found.unwrap_or_default();
        Ok(Head {
            vector: vector(&found, "vector")?,
            contained: vector(&found, "contained")?,
            snapshot: found.get_object_id("snapshot").ok(),
        })
    }

    /// Notes what is kept. Numbers only rise, so that it may be noted twice and in any order.
    async fn advance(&self, vector: &StateVector<SessionId>) -> Result<(), PatchStoreError> {
        if vector.is_empty() {
            return Ok(());
        }
        let max = doc! {"$max": fields("vector", vector)};
        again(|| async { self.heads.update_one(doc! {"_id": &self.name}, max.clone()).upsert(true).await })
            .await?;
        Ok(())
    }

    async fn insert(&self, rows: &[Bsons]) -> Result<(), PatchStoreError> {
        let mut from = 0;
        while from < rows.len() {
            let to = rows.len().min(from + APPEND_STEP);
            match again(|| async { self.patches.insert_many(&rows[from..to]).ordered(true).await }).await {
                Ok(_) => from = to,
                Err(Failed::Duplicate(at)) => {
                    // Ours, before the connection was cut, or another's with the same patch.
                    let row = &rows[from + at];
                    let same = doc! {"d": &self.name, "s": number_of(row, "s"), "t": number_of(row, "t")};
                    let there = again(|| async { self.patches.find_one(same.clone()).await }).await?;
                    if there.is_none() {
                        let (s, t) = (sid(row, "s")?, number(row, "t")?);
                        let last = self.head().await?.vector.get(&s);
                        return Err(PatchStoreError::Order { id: Timestamp::new(s, t), last });
                    }
                    from += at + 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// What asks for the patches of some sessions.
fn wanted_rows(name: &str, want: &[&Want]) -> Bsons {
    let ranges: Vec<Bsons> = want
        .iter()
        .map(|want| doc! {"s": count(want.sid.get()), "t": {"$gt": count(want.after), "$lte": count(want.upto)}})
        .collect();
    let mut wanted = doc! {"d": name};
    let first = want.iter().map(|want| want.after).min().unwrap_or(0);
    if want.len() > 1 && first > 0 {
        // Said of each alone a server may go through all patches of the document for its last few: of all of them together it
        // is the part of an index.
        wanted.insert("t", doc! {"$gt": count(first)});
    }
    wanted.insert("$or", ranges);
    wanted
}

#[async_trait]
impl PatchStore for MongoPatchStore {
    fn id(&self) -> Option<StoreId> {
        Some(self.id)
    }

    #[tracing::instrument(name = "store_append", level = "debug", skip_all, fields(records = records.len()))]
    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError> {
        self.check_open()?;
        let sessions = fields_of("vector", records.iter().map(|record| record.session()));
        let mut kept = self.head_of(sessions).await?.vector;
        let (mut rows, mut risen, mut hole) = (Vec::new(), StateVector::default(), None);
        for record in records {
            let (session, last) = (record.session(), kept.get(&record.session()));
            if record.last() <= last {
                continue;
            }
            if record.prev != last {
                hole = Some(PatchStoreError::Order { id: record.id, last });
                break;
            }
            kept.advance(session, record.last());
            risen.advance(session, record.last());
            rows.push(row(&self.name, record));
        }
        self.insert(&rows).await?;
        self.advance(&risen).await?;
        hole.map_or(Ok(()), Err)
    }

    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError> {
        self.check_open()?;
        Ok(self.head().await?.vector)
    }

    #[tracing::instrument(name = "store_page", level = "debug", skip_all, fields(sessions = want.len()))]
    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        self.check_open()?;
        let wanted: Vec<&Want> = want.iter().filter(|want| want.after < want.upto).collect();
        let (mut records, mut bytes) = (Vec::new(), 0);
        if !wanted.is_empty() {
            let wanted = wanted_rows(&self.name, &wanted);
            let batch = (bytes_max / ROW_BYTES).clamp(1, ROWS_MAX) as u32;
            let find = || async {
                let find = self.patches.find(wanted.clone()).sort(doc! {"t": 1, "s": 1});
                find.batch_size(batch).await
            };
            let mut rows = again(find).await?;
            while let Some(row) = within(rows.try_next()).await? {
                let record = read(&row)?;
                bytes += record.len_bytes();
                if bytes > bytes_max && !records.is_empty() {
                    break;
                }
                records.push(record);
            }
        }
        // A snapshot may have taken their place before, or while they were read.
        let sessions = fields_of("contained", want.iter().map(|want| want.sid));
        let contained = self.head_of(sessions).await?.contained;
        if want.iter().any(|want| want.after < contained.get(&want.sid)) {
            Ok(PatchPage::Compacted)
        } else {
            Ok(PatchPage::Records(records))
        }
    }

    #[tracing::instrument(name = "store_install", level = "debug", skip_all, fields(len_bytes = snapshot.len()))]
    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        self.check_open()?;
        let number = ObjectId::new();
        for (at, piece) in snapshot.chunks(PIECE_BYTES).enumerate() {
            let set = doc! {"$set": {"d": &self.name, "bytes": binary(piece)}};
            let id = doc! {"_id": {"g": number, "n": count(at as u64)}};
            again(|| async { self.pieces.update_one(id.clone(), set.clone()).upsert(true).await }).await?;
        }
        loop {
            let head = self.head().await?;
            if head.snapshot == Some(number) {
                // Taken, and the answer was lost.
                break;
            }
            if head.snapshot.is_some() && head.contained.contains(vector) {
                self.forget(number).await?;
                break;
            }
            let missing = vector.missing_from(&head.contained).next().map(|(sid, _, upto)| (*sid, upto));
            if let Some((sid, upto)) = missing.filter(|_| head.snapshot.is_some()) {
                self.forget(number).await?;
                return Err(PatchStoreError::Diverged { sid, upto });
            }
            let of = head.snapshot.map_or_else(|| doc! {"$exists": false}.into(), Bson::ObjectId);
            let mut set: Bsons = fields("contained", vector);
            set.insert("snapshot", number);
            let pieces = snapshot.len().div_ceil(PIECE_BYTES);
            set.insert("pieces", count(pieces as u64));
            let mut update = doc! {"$set": set};
            if !vector.is_empty() {
                update.insert("$max", fields("vector", vector));
            }
            let filter = doc! {"_id": &self.name, "snapshot": of};
            let first = head.snapshot.is_none();
            let take = || async { self.heads.update_one(filter.clone(), update.clone()).upsert(first).await };
            match again(take).await {
                Ok(done) if done.matched_count > 0 || done.upserted_id.is_some() => {
                    if let Some(before) = head.snapshot {
                        self.forget(before).await?;
                    }
                    break;
                }
                // Another was first, or this one, before its connection was cut; which the head tells.
                Ok(_) | Err(Failed::Duplicate(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Also what an installation has left that was cut off here.
        for (session, last) in vector.iter() {
            let gone = doc! {"d": &self.name, "s": count(session.get()), "t": {"$lte": count(last)}};
            again(|| async { self.patches.delete_many(gone.clone()).await }).await?;
        }
        self.forget_leftovers(number).await
    }

    #[tracing::instrument(name = "store_mend", level = "debug", skip_all, fields(id = ?record.id))]
    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        self.check_open()?;
        let (sid, last, head) = (record.session(), record.last(), self.head().await?);
        let contained = head.contained.get(&sid);
        if last <= contained || last > head.vector.get(&sid) {
            return Ok(());
        }
        let row = row(&self.name, record);
        let same = doc! {"d": &self.name, "s": count(sid.get()), "t": count(last)};
        again(|| async { self.patches.replace_one(same.clone(), &row).upsert(true).await }).await?;
        Ok(())
    }

    #[tracing::instrument(name = "store_snapshot", level = "debug", skip_all)]
    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        self.check_open()?;
        loop {
            let head = again(|| async { self.heads.find_one(doc! {"_id": &self.name}).await }).await?;
            let head = head.unwrap_or_default();
            let Ok(snapshot) = head.get_object_id("snapshot") else { return Ok(None) };
            let pieces = number(&head, "pieces")?;
            let find = self.pieces.find(doc! {"_id": {
                "$gte": {"g": snapshot, "n": 0_i64}, "$lt": {"g": snapshot, "n": count(pieces)},
            }});
            let mut cursor = within(find.sort(doc! {"_id": 1}).into_future()).await?;
            // Each piece has its time: all of them together take what the line takes.
            let mut rows: Vec<Bsons> = Vec::new();
            while let Some(row) = within(cursor.try_next()).await? {
                rows.push(row);
            }
            if rows.len() as u64 != pieces {
                if self.head().await?.snapshot != Some(snapshot) {
                    // Another took its place while it was read.
                    continue;
                }
                return Err(corrupt("pieces of the snapshot are missing"));
            }
            let mut bytes = Vec::new();
            for row in &rows {
                bytes.extend_from_slice(&blob(row, "bytes")?);
            }
            return Ok(Some((vector(&head, "contained")?, bytes.into())));
        }
    }

    #[tracing::instrument(name = "store_keep_note", level = "debug", skip_all)]
    async fn keep_note(&self, note: Bytes) -> Result<(), PatchStoreError> {
        self.check_open()?;
        let (id, set) = (doc! {"_id": &self.name}, doc! {"$set": {"bytes": binary(&note)}});
        again(|| async { self.notes.update_one(id.clone(), set.clone()).upsert(true).await }).await?;
        Ok(())
    }

    async fn note(&self) -> Result<Bytes, PatchStoreError> {
        self.check_open()?;
        let found = again(|| async { self.notes.find_one(doc! {"_id": &self.name}).await }).await?;
        found.map_or_else(|| Ok(Bytes::new()), |row| blob(&row, "bytes"))
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        // What was answered is durable, so there is nothing to finish.
        self.closed.store(true, Relaxed);
        Ok(())
    }
}

impl MongoPatchStore {
    async fn forget(&self, snapshot: ObjectId) -> Result<(), PatchStoreError> {
        let gone = doc! {"_id": {"$gte": {"g": snapshot, "n": 0_i64}, "$lt": {"g": snapshot, "n": i64::MAX}}};
        again(|| async { self.pieces.delete_many(gone.clone()).await }).await?;
        Ok(())
    }

    /// Takes away the pieces of snapshots that never counted, or do no more, and that somebody who crashed has left. `now` is an id of
    /// this moment: it has the time in it.
    async fn forget_leftovers(&self, now: ObjectId) -> Result<(), PatchStoreError> {
        let seconds = now.timestamp().timestamp_millis() / 1000 - LEFTOVER_AGE.as_secs().cast_signed();
        let Ok(then) = u32::try_from(seconds) else { return Ok(()) };
        let old = ObjectId::from_parts(then, [0; 5], [0; 3]);
        let counts = self.head().await?.snapshot.map_or(Bson::Null, Bson::ObjectId);
        let gone = doc! {"d": &self.name, "_id.g": {"$lt": old, "$ne": counts}};
        again(|| async { self.pieces.delete_many(gone.clone()).await }).await?;
        Ok(())
    }
}

/// Which store this is; drawn by whoever opens it first.
async fn store_id(heads: &Collection<Bsons>, name: &str) -> Result<StoreId, PatchStoreError> {
    let here = doc! {"_id": name};
    let drawn = doc! {"$set": {"store": StoreId::draw().to_string()}};
    let unnamed = doc! {"_id": name, "store": {"$exists": false}};
    match again(|| async { heads.update_one(unnamed.clone(), drawn.clone()).upsert(true).await }).await {
        // The upsert found a head that has an id.
        Ok(_) | Err(Failed::Duplicate(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let head = again(|| async { heads.find_one(here.clone()).await }).await?.unwrap_or_default();
    let id = head.get_str("store").ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    id.and_then(StoreId::new).ok_or_else(|| corrupt("the id of the store is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_patches_of_many_sessions_are_asked_for_by_their_times() {
        let want = |sid, after| Want { sid: SessionId::new(sid).unwrap(), after, upto: 900 };
        let times = |all: &[Want]| {
            let asked = wanted_rows("a", &all.iter().collect::<Vec<_>>());
            assert_eq!(asked.get_array("$or").unwrap().len(), all.len());
            asked.get_document("t").ok().cloned()
        };
        assert_eq!(times(&[want(70_000, 800), want(70_001, 790)]), Some(doc! {"$gt": 790_i64}));
        // From the beginning on there is nothing to leave out, and one session has an index of its own.
        assert_eq!(times(&[want(70_000, 800), want(70_001, 0)]), None);
        assert_eq!(times(&[want(70_000, 800)]), None);
    }
}
