//! What other programs write to the collection directly becomes a change like any other.

use crdt_core::ClientId;
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document as Bsons, doc};

use super::{
    failure::Failure,
    record::{
        Mark, Stored, WriteId, check_event, decode_event, digest, encode_event, encode_mark, encode_marks,
        event_bytes, event_version, packed,
    },
    relay::Moved,
    storage::MongoStorage,
    value::{self, count, escape},
};
use crate::{Body, Change, Diff, DocumentId, Operation, Producer, Storage};

/// How many changes are read back to see whether a document that was replaced is still what its history says. Where none of
/// them says the whole document, the replacement is taken for a change.
const READ_BACK_MAX: i64 = 64;

/// How many bytes of changes are held for that; two of the largest.
const READ_BACK_BYTES_MAX: usize = 32 << 20;

/// What is said of a change that another program made. `missed`: there may have been more between.
pub(super) fn metadata(missed: bool) -> Body {
    missed.then(|| ("missed".to_owned(), true.into())).into_iter().collect()
}

impl MongoStorage {
    /// Whether a document is as this storage has left it.
    pub(super) fn is_recorded(&self, found: &Stored) -> bool {
        found.is_recorded(self.version_field())
    }

    /// Records what another program has made of a document. `missed`: there may have been more between. `false` when another
    /// writer came between.
    pub(super) async fn adopt(&self, found: Stored, missed: bool) -> Result<bool, Failure> {
        let base = self.followed(&found).await?;
        self.record(found, base, missed).await
    }

    /// Records a document as what follows `base`, unless that is what its history says.
    pub(super) async fn record(&self, found: Stored, base: Stored, missed: bool) -> Result<bool, Failure> {
        if let Some(body) = &found.body
            && base.version > 0
            && self.digest_of(&found.id, &base).await? == Some(digest(body))
        {
            return self.restore(self.as_found(&found), &base, body).await;
        }
        self.record_as_it_is(&found, &base, missed).await
    }

    /// Asks for a document as it was found.
    fn as_found(&self, found: &Stored) -> Bsons {
        let absent = || Bson::from(doc! {"$exists": false});
        let raw = found.raw.as_ref();
        let own = raw.and_then(|raw| raw.get_document(value::OWN).ok());
        let version = raw.and_then(|raw| raw.get(self.version_field()));
        doc! {
            "_id": found.id.as_str(),
            self.version_field(): version.cloned().unwrap_or_else(absent),
            "_weft.write": own.and_then(|own| own.get("write")).cloned().unwrap_or_else(absent),
        }
    }

    /// Records a document as what follows `base`.
    pub(super) async fn record_as_it_is(
        &self,
        found: &Stored,
        base: &Stored,
        missed: bool,
    ) -> Result<bool, Failure> {
        let client = ClientId::new(super::DIRECT).expect("a short name");
        // Whether what is kept in it is this store's, and what it was written upon.
        let is_ours = base.write.is_some();
        let after = found.body.as_deref();
        let operation = match after {
            None => Operation::Delete,
            Some(_) if self.was_there(found, base).await? => Operation::Update,
            Some(_) => Operation::Create,
        };
        let sequence = base.producers.get(&client).map_or(0, |mark| mark.sequence) + 1;
        let write = WriteId::new();
        let version = base.version + 1;
        // What it was before is not known: this is right whatever it was.
        let mut diff = match after {
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
            metadata: metadata(missed),
        };
        let event = encode_event(write, &change);
        // No server reads a command that holds such a one: some say no more than that they close the connection.
        check_event(&found.id, &event)?;
        let mark = Mark { sequence, version };
        let mut set = doc! {
            self.version_field(): count(version),
            "_weft.version": count(version),
            "_weft.write": write,
            "_weft.time": count(change.timestamp_ms),
            "_weft.digest": after.map(digest),
        };
        let mut update = Bsons::new();
        if is_ours || found.outbox.is_empty() {
            update.insert("$push", doc! {"_weft.outbox": packed(&event)});
        } else {
            // What another program has brought has its place, or has none.
            set.insert("_weft.outbox", vec![packed(&event)]);
        }
        if is_ours {
            set.insert(format!("_weft.producers.{}", escape(client.as_str())), encode_mark(mark));
        } else {
            let mut producers = base.producers.clone();
            producers.insert(client, mark);
            set.insert("_weft.producers", encode_marks(&producers));
            if base.spilled {
                set.insert("_weft.spilled", true);
            }
        }
        let own = found.raw.as_ref().and_then(|raw| raw.get_document(value::OWN).ok());
        if own.is_some_and(|own| own.contains_key("deleted")) && after.is_some() {
            update.insert("$unset", doc! {"_weft.deleted": ""});
        }
        update.insert("$set", set);
        let recorded = self.documents.update_one(self.as_found(found), update).await?.matched_count > 0;
        if recorded {
            let mut events = base.outbox.clone();
            events.push(event);
            let key = self.key(&change.document_id);
            tracing::debug!(document = %change.document_id, version, "recorded what another program wrote");
            self.shared().relay.take(Moved { key, events });
        }
        Ok(recorded)
    }

    /// Whether there was a document before another program wrote it.
    async fn was_there(&self, found: &Stored, base: &Stored) -> Result<bool, Failure> {
        if base.write.is_some() || base.version == 0 {
            return Ok(base.version > 0 && found.digest.is_some());
        }
        let of =
            doc! {"collection": &*self.name, "documentId": found.id.as_str(), "missed": {"$exists": false}};
        let last = self.shared().events().find_one(of).sort(doc! {"sequenceNum": -1});
        let last = last.projection(doc! {"operation": 1}).await?;
        Ok(last.is_some_and(|last| last.get_str("operation").is_ok_and(|operation| operation != "delete")))
    }

    /// What a document that another program has written follows: without a write if what is kept in it is not this store's, or
    /// is older than its history.
    async fn followed(&self, found: &Stored) -> Result<Stored, Failure> {
        let relay = &self.shared().relay;
        // What this process has written last may be nowhere but in its queue.
        relay.settle().await?;
        let last = relay.last_version(&self.name, &found.id).await?;
        if found.write.is_some() && last <= found.version {
            return Ok(found.clone());
        }
        self.left_of(found).await
    }

    /// What is left of the history of a document where what is kept in it is not believed.
    pub(super) async fn left_of(&self, found: &Stored) -> Result<Stored, Failure> {
        let (relay, key) = (&self.shared().relay, self.key(&found.id));
        relay.settle().await?;
        let last = relay.last_version(&self.name, &found.id).await?;
        // Its outbox may be all that is left of the last changes; what is in it besides is nobody's.
        let behind = found.outbox.iter().filter(|event| event_version(event) > last);
        let events: Vec<Bsons> = behind
            .zip(last + 1..)
            .take_while(|(event, at)| event_version(event) == *at)
            .map(|(event, _)| event.clone())
            .collect();
        if !events.is_empty() {
            relay.place_now(Moved { key, events }).await?;
        }
        let absent = self.absent(&found.id).await?;
        Ok(Stored { raw: found.raw.clone(), ..absent })
    }

    /// What the history says of a body, if it is told by what was found or by few changes.
    async fn digest_of(&self, id: &DocumentId, base: &Stored) -> Result<Option<i64>, Failure> {
        if base.write.is_some() {
            return Ok(base.digest);
        }
        let of = doc! {
            "collection": &*self.name, "documentId": id.as_str(), "sequenceNum": {"$lte": count(base.version)},
            "removed": {"$exists": false},
        };
        let events = self.shared().events().find(of).sort(doc! {"sequenceNum": -1}).limit(READ_BACK_MAX);
        let mut events = events.await?;
        let (mut changes, mut version, mut len_bytes) = (Vec::new(), base.version, 0);
        while let Some(event) = events.try_next().await? {
            len_bytes += event_bytes(&event);
            if len_bytes > READ_BACK_BYTES_MAX {
                return Ok(None);
            }
            let change = decode_event(&event)?;
            if change.version != version {
                return Ok(None);
            }
            version -= 1;
            let is_whole = change.operation == Operation::Create || change.diff.is_whole();
            changes.push(change);
            if is_whole {
                let body = changes.iter().rev().try_fold(None, |body, change| change.diff.apply(body));
                return Ok(body.ok().flatten().map(|body| digest(&body)));
            }
        }
        Ok(None)
    }

    /// Gives a document back what it had of the store's own, where another program has replaced it by the same: that is no
    /// change, and nobody is told of one.
    async fn restore(&self, filter: Bsons, base: &Stored, body: &Body) -> Result<bool, Failure> {
        let mut set = doc! {self.version_field(): count(base.version)};
        if base.write.is_none() {
            set.insert("_weft.version", count(base.version));
            set.insert("_weft.write", WriteId::new());
            set.insert("_weft.time", count(self.shared().now_ms(base.time_ms)));
            set.insert("_weft.digest", digest(body));
            set.insert("_weft.outbox", Bson::Array(Vec::new()));
            set.insert("_weft.producers", encode_marks(&base.producers));
            if base.spilled {
                set.insert("_weft.spilled", true);
            }
        }
        let update = doc! {"$set": set, "$unset": {"_weft.deleted": ""}};
        Ok(self.documents.update_one(filter, update).await?.matched_count > 0)
    }
}
