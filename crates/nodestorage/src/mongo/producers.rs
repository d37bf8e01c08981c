//! Producers: the answers to their writes, and where those stand who have not written for long.

use crdt_core::ClientId;
use futures_util::TryStreamExt;
use mongodb::{
    bson::{Bson, Document as Bsons, doc},
    error::Error,
};

use super::{
    Shared,
    failure::Failure,
    record::{Mark, Stored, event_version, whole},
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

impl Shared {
    /// Where a producer stands, if its mark is not in the document.
    pub(super) async fn spilled_mark(&self, key: &Key, client: &ClientId) -> Result<Option<Mark>, Error> {
        let found = self.own("producers").find_one(doc! {"_id": row(key, client)}).await?;
        Ok(found.and_then(|found| super::record::mark_of(&found).ok()))
    }

    /// All marks that are beside.
    pub(super) async fn spilled_marks(&self, key: &Key) -> Result<Vec<(ClientId, Mark)>, Failure> {
        let from = doc! {"c": &*key.collection, "d": key.id.as_str()};
        let to = doc! {"c": &*key.collection, "d": key.id.as_str(), "p": Bson::MaxKey};
        let mut found = self.own("producers").find(doc! {"_id": {"$gt": from, "$lt": to}}).await?;
        let mut marks = Vec::new();
        while let Some(row) = found.try_next().await? {
            let client = row.get_document("_id").ok().and_then(|id| id.get_str("p").ok());
            if let Some(Ok(client)) = client.map(super::record::client_of)
                && let Ok(mark) = super::record::mark_of(&row)
            {
                marks.push((client, mark));
            }
        }
        Ok(marks)
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
            let set = doc! {"$set": super::record::encode_mark(*mark)};
            self.own("producers").update_one(doc! {"_id": row(key, client)}, set).upsert(true).await?;
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
        let from = doc! {"c": &*key.collection, "d": key.id.as_str()};
        let to = doc! {"c": &*key.collection, "d": key.id.as_str(), "p": Bson::MaxKey};
        let of = doc! {"_id": {"$gt": from, "$lt": to}, "v": {"$lte": count(up_to)}};
        self.own("answers").delete_many(of).await?;
        Ok(())
    }
}
