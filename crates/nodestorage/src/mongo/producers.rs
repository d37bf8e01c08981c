//! Producers: the answers to their writes, and where those stand whose marks are not in the document: they have not written
//! for long, or another program has taken the marks away.

use std::collections::BTreeMap;

use crdt_core::ClientId;
use futures_util::TryStreamExt;
use mongodb::{
    Cursor,
    bson::{Bson, Document as Bsons, doc},
    error::Error,
};

use super::{
    Shared,
    failure::Failure,
    record::{Mark, Stored, client_of, encode_mark, event_version, mark_of, whole},
    relay::Key,
    value::count,
};
use crate::StorageError;

/// How many producers a document holds the marks of. More are kept beside, those who have not written for longest.
pub const PRODUCERS_MAX: usize = 512;

/// How many go at a time, so that it does not happen with every write.
const PRODUCERS_SPILLED: usize = 128;

fn row(key: &Key, client: &ClientId) -> Bsons {
    doc! {"c": &*key.collection, "d": key.id.as_str(), "p": client.as_str()}
}

/// All rows of a document are between these two.
fn all_rows(key: &Key) -> (Bsons, Bsons) {
    let from = doc! {"c": &*key.collection, "d": key.id.as_str()};
    let to = doc! {"c": &*key.collection, "d": key.id.as_str(), "p": Bson::MaxKey};
    (from, to)
}

async fn marks_of(mut found: Cursor<Bsons>) -> Result<Vec<(ClientId, Mark)>, Failure> {
    let mut marks = Vec::new();
    while let Some(row) = found.try_next().await? {
        let client = row.get_document("_id").ok().and_then(|id| id.get_str("p").ok());
        if let Some(Ok(client)) = client.map(client_of)
            && let Ok(mark) = mark_of(&row)
        {
            marks.push((client, mark));
        }
    }
    Ok(marks)
}

/// Notes a mark, unless a later one of the same producer is known.
pub(super) fn raise(marks: &mut BTreeMap<ClientId, Mark>, client: ClientId, mark: Mark) {
    let known = marks.entry(client).or_insert(mark);
    if mark.sequence > known.sequence {
        *known = mark;
    }
}

impl Shared {
    /// Where a producer stands, if its mark is not in the document.
    pub(super) async fn spilled_mark(&self, key: &Key, client: &ClientId) -> Result<Option<Mark>, Error> {
        let found = self.own("producers").find_one(doc! {"_id": row(key, client)}).await?;
        Ok(found.and_then(|found| mark_of(&found).ok()))
    }

    /// All marks that are beside.
    pub(super) async fn spilled_marks(&self, key: &Key) -> Result<Vec<(ClientId, Mark)>, Failure> {
        let (from, to) = all_rows(key);
        marks_of(self.own("producers").find(doc! {"_id": {"$gt": from, "$lt": to}}).await?).await
    }

    /// Finds the marks that a document had which was taken away with them: the last of each producer that is in the log, and
    /// those that are beside.
    pub(super) async fn marks_left(&self, key: &Key, stored: &mut Stored) -> Result<(), Failure> {
        let of = doc! {
            "collection": &*key.collection, "documentId": key.id.as_str(), "clientSeq": {"$exists": true},
        };
        let last = doc! {"_id": "$clientId", "s": {"$max": "$clientSeq"}, "v": {"$max": "$sequenceNum"}};
        // Never more than a document holds: the others are beside.
        let limit = count(PRODUCERS_MAX as u64);
        let stages =
            [doc! {"$match": of}, doc! {"$group": last}, doc! {"$sort": {"v": -1}}, doc! {"$limit": limit}];
        let mut found = self.events().aggregate(stages).await?;
        while let Some(row) = found.try_next().await? {
            let read = || Ok((client_of(row.get_str("_id").unwrap_or_default())?, mark_of(&row)?));
            let (client, mark) = read().map_err(|reason: String| StorageError::Corrupt {
                place: format!("events of {}", key.id),
                reason,
            })?;
            raise(&mut stored.producers, client, mark);
        }
        let (from, to) = all_rows(key);
        let producers = self.own("producers");
        let beside = producers.find_one(doc! {"_id": {"$gt": from, "$lt": to}});
        stored.spilled |= beside.projection(doc! {"_id": 1}).await?.is_some();
        if stored.spilled {
            // The document's own mark of a producer is the one that is asked for.
            for (client, mark) in self.marks_beside(key, stored.producers.keys()).await? {
                raise(&mut stored.producers, client, mark);
            }
        }
        Ok(())
    }

    /// Keeps beside what [`marks_left`](Self::marks_left) would not find once the changes up to a version are removed.
    pub(super) async fn keep_marks(&self, key: &Key, stored: &Stored, up_to: u64) -> Result<(), Failure> {
        let old = || stored.producers.iter().filter(|(_, mark)| mark.version <= up_to);
        let kept = self.marks_beside(key, old().map(|(client, _)| client)).await?;
        for (client, mark) in old().filter(|(client, mark)| kept.get(client) != Some(mark)) {
            self.keep_mark(key, client, *mark).await?;
        }
        Ok(())
    }

    /// The marks of these producers that are beside.
    async fn marks_beside(
        &self,
        key: &Key,
        clients: impl Iterator<Item = &ClientId>,
    ) -> Result<BTreeMap<ClientId, Mark>, Failure> {
        let ids: Vec<Bsons> = clients.map(|client| row(key, client)).collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.own("producers").find(doc! {"_id": {"$in": ids}}).await?;
        Ok(marks_of(found).await?.into_iter().collect())
    }

    async fn keep_mark(&self, key: &Key, client: &ClientId, mark: Mark) -> Result<(), Error> {
        // Whoever was held up on the way here must not put an older one in the place of a newer.
        let raise = doc! {"$max": encode_mark(mark)};
        self.own("producers").update_one(doc! {"_id": row(key, client)}, raise).upsert(true).await?;
        Ok(())
    }

    /// Keeps the marks of those who have not written for longest beside, and says who they are. What is written here
    /// counts only when the document lets go of them.
    pub(super) async fn spill(&self, key: &Key, stored: &Stored) -> Result<Vec<ClientId>, Error> {
        if stored.producers.len() < PRODUCERS_MAX {
            return Ok(Vec::new());
        }
        let mut by_age: Vec<_> = stored.producers.iter().collect();
        by_age.sort_by_key(|(_, mark)| mark.version);
        let mut spilled = Vec::new();
        for (client, mark) in by_age.into_iter().take(PRODUCERS_SPILLED) {
            self.keep_mark(key, client, *mark).await?;
            spilled.push(client.clone());
        }
        Ok(spilled)
    }

    /// Notes the answer to a write that changed nothing. It counts only when the producer's mark says so.
    pub(super) async fn note_answer(&self, key: &Key, client: &ClientId, mark: Mark) -> Result<(), Error> {
        let mut id = row(key, client);
        id.insert("s", count(mark.sequence));
        let set = doc! {"$set": {"v": count(mark.version)}};
        self.own("answers").update_one(doc! {"_id": id}, set).upsert(true).await?;
        Ok(())
    }

    /// The version that a sequence of a producer was answered with; when that has been compacted away, the next later
    /// answer.
    pub(super) async fn answer(
        &self,
        key: &Key,
        stored: &Stored,
        client: &ClientId,
        sequence: u64,
    ) -> Result<u64, Failure> {
        let last = match stored.producers.get(client) {
            Some(mark) => Some(*mark),
            None => self.spilled_mark(key, client).await?,
        };
        let last = last.ok_or_else(|| StorageError::Corrupt {
            place: format!("document {}", key.id),
            reason: format!("the last answer to {client} is missing"),
        })?;
        if last.sequence == sequence {
            return Ok(last.version);
        }
        // The document may have been read without its outbox, because this process sees to all that is in it.
        self.relay.settle().await?;
        let mut answers: Vec<(u64, u64)> = vec![(last.sequence, last.version)];
        for event in &stored.outbox {
            if event.get_str("clientId").is_ok_and(|by| by == client.as_str())
                && let Some(written) = event.get("clientSeq").and_then(whole)
            {
                answers.push((written, event_version(event)));
            }
        }
        let events = doc! {
            "collection": &*key.collection, "documentId": key.id.as_str(), "clientId": client.as_str(),
            "clientSeq": {"$gte": count(sequence)}, "removed": {"$exists": false},
        };
        let event = self.events().find_one(events).sort(doc! {"clientSeq": 1});
        if let Some(event) = event.projection(doc! {"clientSeq": 1, "sequenceNum": 1}).await? {
            answers.push((event.get("clientSeq").and_then(whole).unwrap_or(u64::MAX), event_version(&event)));
        }
        let mut id = row(key, client);
        let mut end = id.clone();
        id.insert("s", count(sequence));
        end.insert("s", count(last.sequence));
        let answered = self.own("answers");
        let noted = answered.find_one(doc! {"_id": {"$gte": id, "$lte": end}}).sort(doc! {"_id": 1});
        if let Some(noted) = noted.await?
            && let Some(version) = noted.get("v").and_then(whole)
            && let Some(written) = noted.get_document("_id").ok().and_then(|id| id.get("s").and_then(whole))
        {
            // Behind the events in this list: one of the same sequence was written in its place.
            answers.push((written, version));
        }
        let answers =
            answers.into_iter().filter(|(written, _)| *written >= sequence && *written <= last.sequence);
        Ok(answers.min_by_key(|(written, _)| *written).map_or(last.version, |(_, version)| version))
    }

    /// Forgets the answers up to a version.
    pub(super) async fn forget_answers(&self, key: &Key, up_to: u64) -> Result<(), Error> {
        let (from, to) = all_rows(key);
        let of = doc! {"_id": {"$gt": from, "$lt": to}, "v": {"$lte": count(up_to)}};
        self.own("answers").delete_many(of).await?;
        Ok(())
    }
}
