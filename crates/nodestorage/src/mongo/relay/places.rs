//! The end of the log: gives events their places there, and empties the outboxes behind them.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use futures_util::TryStreamExt;
use mongodb::{
    bson::{Bson, Document as Bsons, doc},
    error::{Error, ErrorKind},
};
use tokio::time::Instant;

use super::{
    Doubt, Key, Relay,
    queue::{BATCH_MAX, Waiting},
};
use crate::{
    DocumentId,
    mongo::{
        failure::is_duplicate,
        own_collection,
        record::{Stored, event_bytes, event_version, whole},
        value::{OWN, count},
    },
};

/// How many bytes of events are inserted by one command, unless a single one is larger. The server takes 48 MB.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// How many documents are cleared by one command.
const CLEAR_STEP: usize = 256;

/// For how long a relay trusts the last position that it knows. Were the next one taken and let go of since, it would take
/// it once more, behind everybody's back: places are kept for longer than this ([`PLACES_KEPT`](super::super::storage::PLACES_KEPT)).
const LAST_TRUSTED: Duration = Duration::from_secs(5 * 60);

/// What has waited for longer may have got its place by another process, and lost it again when changes were removed: then
/// nothing in the log refuses it a second one. So it is looked for before it is placed. Places are kept for longer than this.
const WAITED_LONG: Duration = Duration::from_secs(30 * 60);

#[derive(Default)]
pub(in crate::mongo) struct End {
    /// The last position, as far as known, and since when.
    last: Option<(u64, Instant)>,
    /// Documents whose outboxes can be emptied, if they are not written again.
    clear: HashMap<Key, Placed>,
}

/// The last event of a document that came into the log, and with it all before.
struct Placed {
    version: u64,
    write: Bson,
    since: Instant,
}

impl End {
    /// Takes out the last position, if it can be trusted still.
    fn take_last(&mut self, now: Instant) -> Option<u64> {
        let (last, since) = self.last.take()?;
        (now.duration_since(since) < LAST_TRUSTED).then_some(last)
    }

    /// Somebody else has taken places.
    pub(in crate::mongo) fn forget(&mut self) {
        self.last = None;
    }
}

/// Why the log refuses an event.
enum Refused {
    /// The position has been taken meanwhile.
    Free,
    /// It is in the log.
    Placed,
    /// It can have no place: another one has its number or its name.
    Doubted(Doubt),
}

/// An event that is given a place.
struct Row {
    key: Key,
    event: Bsons,
    /// Since when it waits, or was last seen to have no place.
    since_ms: u64,
}

/// Events that are given places; those that have none in the end go back into the queue.
struct Rows<'r> {
    waiting: VecDeque<Row>,
    relay: &'r Relay,
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        let again = !self.waiting.is_empty();
        let left = self.waiting.drain(..).map(|row| (row.key, row.event, row.since_ms));
        self.relay.queue.lock().placed(left);
        if again {
            self.relay.filled.notify_one();
        }
    }
}

impl Relay {
    /// Gives places to what has none. On an error the rest of it is taken again later, and so it is when the caller has no
    /// time any more.
    pub(super) async fn place(&self, end: &mut End, batch: Vec<Waiting>) -> Result<(), Error> {
        let mut rows = Rows { waiting: VecDeque::new(), relay: self };
        let mut seen: HashMap<Key, u64> = HashMap::new();
        for Waiting { moved, since_ms } in batch {
            let seen = seen.entry(moved.key.clone()).or_insert_with(|| self.placed(&moved.key));
            for mut event in moved.events {
                let version = event_version(&event);
                if version <= *seen {
                    continue;
                }
                *seen = version;
                event.insert("collection", &*moved.key.collection);
                event.insert("documentId", moved.key.id.as_str());
                rows.waiting.push_back(Row { key: moved.key.clone(), event, since_ms });
            }
        }
        self.look_for_old(&mut rows.waiting).await?;
        self.insert(end, &mut rows.waiting).await
    }

    /// Leaves out of what has waited for long what another process has placed meanwhile.
    async fn look_for_old(&self, rows: &mut VecDeque<Row>) -> Result<(), Error> {
        let now_ms = (self.clock)();
        let is_old = |row: &Row| {
            // A clock that went back says nothing about how long it was.
            now_ms
                .checked_sub(row.since_ms)
                .is_none_or(|waited| u128::from(waited) >= WAITED_LONG.as_millis())
        };
        let mut placed: HashMap<Key, u64> = HashMap::new();
        for row in rows.iter().filter(|row| is_old(row)) {
            if !placed.contains_key(&row.key) {
                let version = self.placed_of(&row.key).await?;
                self.note_placed(row.key.clone(), version);
                placed.insert(row.key.clone(), version);
            }
        }
        rows.retain(|row| placed.get(&row.key).is_none_or(|placed| event_version(&row.event) > *placed));
        for row in rows.iter_mut().filter(|row| placed.contains_key(&row.key)) {
            row.since_ms = now_ms;
        }
        Ok(())
    }

    /// Up to which version the events of a document have got their places, whether they have them still or not: nothing
    /// leaves an outbox before, nor is a document let go of that has something in it.
    async fn placed_of(&self, key: &Key) -> Result<u64, Error> {
        let documents = self.database.collection::<Bsons>(&key.collection);
        let found = documents.find_one(doc! {"_id": key.id.as_str()}).projection(doc! {OWN: 1}).await?;
        // One without a write is another program's, perhaps put over one of ours: its outbox says nothing.
        if let Some(stored) = found.and_then(|raw| Stored::decode(raw, "").ok())
            && stored.write.is_some()
        {
            let first = stored.outbox.first().map_or(stored.version + 1, event_version);
            return Ok(first.saturating_sub(1));
        }
        let buried = self.buried_version(&key.collection, &key.id).await?.unwrap_or(0);
        Ok(buried.max(self.last_version(&key.collection, &key.id).await?))
    }

    /// The version that a purged document ended with, if it was purged.
    pub(in crate::mongo) async fn buried_version(
        &self,
        collection: &str,
        id: &DocumentId,
    ) -> Result<Option<u64>, Error> {
        let place = doc! {"_id": {"c": collection, "d": id.as_str()}};
        let tombstones = own_collection(&self.database, "tombstones");
        let buried = tombstones.find_one(place).projection(doc! {"version": 1}).await?;
        Ok(buried.and_then(|row| row.get("version").and_then(whole)))
    }

    async fn insert(&self, end: &mut End, rows: &mut VecDeque<Row>) -> Result<(), Error> {
        while !rows.is_empty() {
            // Unknown again unless all goes well: also when nobody waits for the answer.
            let started = crate::mongo::now();
            let last = match end.take_last(started) {
                Some(last) => last,
                None => self.last_position().await?,
            };
            let mut bytes = 0;
            let mut batch: Vec<Bsons> = Vec::new();
            for (row, position) in rows.iter().take(BATCH_MAX).zip(last + 1..) {
                bytes += event_bytes(&row.event);
                if bytes > BATCH_BYTES_MAX && !batch.is_empty() {
                    break;
                }
                let mut event = row.event.clone();
                event.insert("position", count(position));
                batch.push(event);
            }
            let inserted = match self.events.insert_many(&batch).ordered(true).await {
                Ok(_) => batch.len(),
                Err(error) if is_duplicate(&error) => {
                    let at = first_refused(&error);
                    match self.why_refused(&batch[at]).await? {
                        // Its position was not free.
                        Refused::Free => {}
                        // Another relay was first, or this one before its connection was cut.
                        Refused::Placed => {
                            let row = rows.remove(at).expect("it was in the batch");
                            self.done(end, &row);
                        }
                        Refused::Doubted(doubt) => {
                            let row = rows.remove(at).expect("it was in the batch");
                            match doubt {
                                Doubt::Numbered => {
                                    self.note_placed(row.key.clone(), event_version(&row.event));
                                }
                                // Its numbers are not those of the document.
                                Doubt::Named => self.forget_one(&row.key),
                            }
                            self.doubt(row.key, doubt);
                        }
                    }
                    at
                }
                Err(error) => return Err(error),
            };
            for row in rows.drain(..inserted) {
                self.done(end, &row);
            }
            let last = last + inserted as u64;
            if inserted == batch.len() {
                end.last = Some((last, started));
            }
            self.rise(last);
        }
        Ok(())
    }

    fn done(&self, end: &mut End, Row { key, event, .. }: &Row) {
        let version = event_version(event);
        self.note_placed(key.clone(), version);
        let write = event.get("_id").cloned().unwrap_or(Bson::Null);
        end.clear.insert(key.clone(), Placed { version, write, since: crate::mongo::now() });
    }

    /// Why the log has refused an event.
    async fn why_refused(&self, event: &Bsons) -> Result<Refused, Error> {
        let field = |name: &str| event.get(name).cloned().unwrap_or(Bson::Null);
        let numbered = doc! {
            "collection": field("collection"),
            "documentId": field("documentId"),
            "sequenceNum": field("sequenceNum"),
        };
        // By its name too: were a copied document's event, which has that of the first one, taken for one whose position was
        // not free, it would be tried for ever, and no other event got a place.
        let either = doc! {"$or": [numbered, {"_id": field("_id")}]};
        let place = doc! {"collection": 1, "documentId": 1, "sequenceNum": 1};
        let found: Vec<Bsons> = self.events.find(either).projection(place).await?.try_collect().await?;
        let same =
            |found: &Bsons, names: &[&str]| names.iter().all(|name| found.get(name) == event.get(name));
        let of_document = ["collection", "documentId"];
        let doubt = match found.iter().find(|found| same(found, &["_id"])) {
            Some(found) if same(found, &of_document) && same(found, &["sequenceNum"]) => {
                return Ok(Refused::Placed);
            }
            Some(found) if !same(found, &of_document) => Doubt::Named,
            _ if found.is_empty() => return Ok(Refused::Free),
            _ => Doubt::Numbered,
        };
        tracing::warn!(
            document = ?field("documentId"), version = ?field("sequenceNum"), others = ?found,
            "another event has its number or its name in the log: another program has put the document back, or has copied \
             it, and it is recorded as it is"
        );
        Ok(Refused::Doubted(doubt))
    }

    pub(in crate::mongo) async fn last_position(&self) -> Result<u64, Error> {
        let options = self.events.find_one(doc! {}).sort(doc! {"position": -1});
        let last = options.projection(doc! {"position": 1}).await?;
        Ok(last.and_then(|event| event.get("position").and_then(whole)).unwrap_or(0))
    }

    /// The last version of a document that is in the log; 0 for none. A mark that something was missed is of none.
    pub(in crate::mongo) async fn last_version(
        &self,
        collection: &str,
        id: &DocumentId,
    ) -> Result<u64, Error> {
        let of = doc! {"collection": collection, "documentId": id.as_str(), "missed": {"$exists": false}};
        let last = self.events.find_one(of).sort(doc! {"sequenceNum": -1});
        let last = last.projection(doc! {"sequenceNum": 1}).await?;
        Ok(last.as_ref().map_or(0, event_version))
    }

    /// Empties the outboxes of documents that were not written for a while since all of theirs came into the log.
    pub(in crate::mongo) async fn clear(&self, age: Duration) -> Result<(), Error> {
        let mut old: Vec<(Key, Placed)> = {
            let mut end = self.end.lock().await;
            end.clear.extract_if(|_, placed| placed.since.elapsed() >= age).collect()
        };
        // What was written again by this process has lost them already, and comes here once more.
        old.retain(|(key, placed)| self.taken(key) <= placed.version);
        old.sort_by(|(a, _), (b, _)| a.collection.cmp(&b.collection));
        let of_one = old.chunk_by(|(a, _), (b, _)| a.collection == b.collection);
        for chunk in of_one.flat_map(|same| same.chunks(CLEAR_STEP)) {
            let ids: Vec<&str> = chunk.iter().map(|(key, _)| key.id.as_str()).collect();
            let writes: Vec<&Bson> = chunk.iter().map(|(_, placed)| &placed.write).collect();
            let collection = self.database.collection::<Bsons>(&chunk[0].0.collection);
            // As the last write left them: one that came since, of whatever process, has an event that may have no place.
            let unwritten = doc! {
                "_id": {"$in": ids}, "_weft.write": {"$in": writes}, "_weft.outbox.0": {"$exists": true},
            };
            collection.update_many(unwritten, doc! {"$set": {"_weft.outbox": []}}).await?;
        }
        Ok(())
    }
}

/// Which row of an ordered insert was refused; all before it are in.
fn first_refused(error: &Error) -> usize {
    match &*error.kind {
        ErrorKind::InsertMany(error) => {
            error.write_errors.as_ref().and_then(|errors| errors.first()).map_or(0, |error| error.index)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::storage::PLACES_KEPT;

    #[test]
    fn an_old_end_is_looked_for_again() {
        let since = crate::mongo::now();
        let mut end = End { last: Some((7, since)), clear: HashMap::new() };
        assert_eq!(end.take_last(since + LAST_TRUSTED), None);
        end.last = Some((7, since));
        assert_eq!(end.take_last(since + LAST_TRUSTED / 2), Some(7));
        assert!(LAST_TRUSTED * 4 < PLACES_KEPT, "there is time to insert");
        assert!(WAITED_LONG * 2 <= PLACES_KEPT, "there is time to insert");
    }
}
