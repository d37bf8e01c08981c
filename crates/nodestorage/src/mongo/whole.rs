//! Documents that other programs write whole, with all that the store keeps in them.
//!
//! Many programs read a document, change a field and save all of it. What the store keeps in it comes back as it was read: after
//! writes that came between it says numbers that were given since, and under another name those of another document. So what a
//! document says of itself is compared with the log: by the listener wherever another program must have put it there, and by who
//! writes upon a copy whose numbers this process has seen go on, or that nobody listens for. Who was faster than all of them has
//! given a number a second time; the relay meets it in the log, and the document is recorded as it is, behind all of its numbers.

use mongodb::bson::{Bson, Document as Bsons, RawDocument, doc};

use super::{
    failure::Failure,
    listener::go_on,
    log::STREAM_PAUSE,
    producers::raise,
    record::{Stored, WriteId, event_version},
    relay::{Doubt, Key, Moved},
    storage::MongoStorage,
    value::OWN,
};
use crate::{DocumentId, StorageError};

/// How often it is looked again at a document that others write meanwhile.
const LOOKS_MAX: u32 = 8;

/// The last event of a document that has its place: its version, the write that made it, and who made it.
struct Last {
    version: u64,
    write: Option<WriteId>,
    direct: bool,
}

impl MongoStorage {
    /// Whether the log has gone on without what was found to be written upon.
    pub(super) async fn is_behind(&self, key: &Key, found: &Stored) -> Result<bool, Failure> {
        let relay = &self.shared().relay;
        let known = relay.reached(key);
        // Who has written it last here has its number. What others write is followed without a question: of an older copy put over
        // it the listener knows in a moment, and until then the log refuses its numbers. Where nobody listens, the log is asked, and
        // where nothing is known of the document: the listener may have much to catch up with.
        let unheard = !self.heard.load(std::sync::atomic::Ordering::Acquire);
        let is_own = relay.taken(key) == found.version;
        if found.raw.is_none() || is_own || (known > 0 && known <= found.version && !unheard) {
            return Ok(false);
        }
        if known > found.version {
            relay.settle().await?;
        }
        let last = relay.last_version(&self.name, &found.id).await?;
        if last < known && known > found.version {
            // The log was put back as well.
            relay.forget_one(key);
        } else {
            relay.note_placed(key.clone(), last);
        }
        Ok(last > found.version)
    }

    /// Looks at a document that another program has replaced.
    pub(super) async fn look_at_replaced(&self, id: &DocumentId, missed: bool) -> Result<(), Failure> {
        for _ in 0..LOOKS_MAX {
            let Some(found) = self.stored(id).await? else { break };
            if self.is_recorded(&found) && self.is_of_its_history(&found).await? {
                break;
            }
            let mut base = self.left_of(&found).await?;
            if found.write.is_some() {
                base.version = base.version.max(found.version);
            }
            if self.record(found, base, missed).await? {
                break;
            }
        }
        Ok(())
    }

    /// Looks at a document that came without the event that a write of this storage leaves in it, with a write in it all the
    /// same. One of a transaction is in the log; any other is a copy, and its numbers are those of another document.
    pub(super) async fn look_at_inserted(&self, id: &DocumentId, write: WriteId) -> Result<(), Failure> {
        let here = doc! {"_id": write, "collection": &*self.name, "documentId": id.as_str()};
        if self.shared().events().find_one(here).projection(doc! {"_id": 1}).await?.is_some() {
            return Ok(());
        }
        match self.stored(id).await? {
            // Nobody has written to it since.
            Some(found) if found.write == Some(write) => {
                let base = self.left_of(&found).await?;
                if self.record(found, base, false).await? {
                    return Ok(());
                }
            }
            Some(_) => {}
            None => return Ok(()),
        }
        self.look_at_replaced(id, false).await
    }

    /// Whether what a document says of itself is what the log says of it.
    async fn is_of_its_history(&self, found: &Stored) -> Result<bool, Failure> {
        self.shared().relay.settle().await?;
        let Some(last) = self.last_of(&found.id).await? else {
            // All of its changes may have been removed.
            return Ok(true);
        };
        let mut end = (last.version, last.write);
        for event in &found.outbox {
            if event_version(event) == end.0 + 1 {
                end = (end.0 + 1, event.get_object_id("_id").ok());
            }
        }
        if end.0 != found.version || end.1 == found.write {
            return Ok(end.0 == found.version);
        }
        // A mark that was noted, a claim and changes that were removed have given it a write that has no event.
        let elsewhere = self.shared().events().find_one(doc! {"_id": found.write});
        Ok(elsewhere.projection(doc! {"_id": 1}).await?.is_none())
    }

    async fn last_of(&self, id: &DocumentId) -> Result<Option<Last>, Failure> {
        let of = doc! {
            "collection": &*self.name, "documentId": id.as_str(), "missed": {"$exists": false},
        };
        let last = self.shared().events().find_one(of).sort(doc! {"sequenceNum": -1});
        let last = last.projection(doc! {"sequenceNum": 1, "clientId": 1}).await?;
        Ok(last.map(|event| Last {
            version: event_version(&event),
            write: event.get_object_id("_id").ok(),
            direct: event.get_str("clientId").is_ok_and(|client| client == super::DIRECT),
        }))
    }

    /// Records documents as they are whose events the log has refused, for as long as the store is open.
    pub(super) async fn mend(self) {
        let relay = &self.shared().relay;
        let mut doubted = relay.doubted();
        loop {
            for (id, doubt) in relay.doubts_of(&self.name) {
                if let Err(error) = go_on(&id, self.mend_one(&id, doubt).await) {
                    tracing::warn!(document = %id, ?error, "its numbers are not mended yet");
                    tokio::time::sleep(STREAM_PAUSE).await;
                    relay.doubt(Key { collection: self.name.clone(), id }, doubt);
                }
            }
            if doubted.changed().await.is_err() {
                return;
            }
        }
    }

    async fn mend_one(&self, id: &DocumentId, doubt: Doubt) -> Result<(), Failure> {
        for _ in 0..LOOKS_MAX {
            // Gone, it is recorded as gone.
            let Some(found) = self.stored(id).await? else { return Ok(()) };
            // What another look has recorded may be nowhere but in the queue.
            self.shared().relay.settle().await?;
            let mut base = match doubt {
                Doubt::Numbered => self.left_of(&found).await?,
                Doubt::Named => {
                    // The numbers of a copy are those of another document. What was written to it since has events of its own.
                    let moved = Moved { key: self.key(id), events: found.outbox.clone() };
                    self.shared().relay.place_now(moved).await?;
                    self.absent(id).await?
                }
            };
            let last = self.last_of(id).await?;
            if let Some(last) = &last
                && (last.direct, last.write, last.version) == (true, found.write, found.version)
                && self.is_recorded(&found)
            {
                // Another process was first.
                return Ok(());
            }
            if last.is_some() {
                base.version = base.version.max(found.version);
            }
            if doubt == Doubt::Numbered {
                // Who was answered under a number that was given before stays known.
                for (client, mark) in &found.producers {
                    raise(&mut base.producers, client.clone(), *mark);
                }
                base.spilled |= found.spilled;
            }
            // What the history says of it is not asked: it may say the same, without the last numbers.
            if self.record_as_it_is(&found, &base, false).await? {
                return Ok(());
            }
        }
        Err(StorageError::RetriesExhausted { attempts: LOOKS_MAX }.into())
    }
}

/// What the store keeps in a document, without its body, which may be large.
pub(super) fn own_of(document: &RawDocument) -> Bsons {
    let own = document.get(OWN).ok().flatten().and_then(|own| Bson::try_from(own).ok());
    own.into_iter().map(|own| (OWN.to_owned(), own)).collect()
}

/// Whether what the store keeps in a document was put there without the event of its last write: no write of this storage
/// does that, but for one in a transaction.
pub(super) fn brings_no_event(own: &Bsons) -> Option<WriteId> {
    let is_empty = own.get("outbox").and_then(Bson::as_array).is_none_or(Vec::is_empty);
    (is_empty && !own.contains_key("deleted")).then(|| own.get_object_id("write").ok()).flatten()
}
