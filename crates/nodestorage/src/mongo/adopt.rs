//! What other programs write to the collection directly becomes a change like any other.

use crdt_core::ClientId;
use mongodb::bson::{Bson, doc};

use super::{
    failure::Failure,
    record::{Mark, Stored, WriteId, digest, encode_event, encode_mark, encode_marks, packed},
    relay::Moved,
    storage::MongoStorage,
    value::{self, count, escape},
};
use crate::{Body, Change, Diff, Operation, Producer, Storage};

/// What is said of a change that another program made. `missed`: there may have been more between.
pub(super) fn metadata(missed: bool) -> Body {
    missed.then(|| ("missed".to_owned(), true.into())).into_iter().collect()
}

impl MongoStorage {
    /// Whether a document is as this storage has left it.
    pub(super) fn is_recorded(&self, found: &Stored) -> bool {
        found.is_recorded(self.version_field())
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
            metadata: metadata(missed),
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
        let mut update = doc! {"$push": {"_weft.outbox": packed(&event)}};
        if found.write.is_none() {
            let mut producers = base.producers.clone();
            producers.insert(client, mark);
            set.insert("_weft.producers", encode_marks(&producers));
            if base.spilled {
                set.insert("_weft.spilled", true);
            }
        } else {
            set.insert(format!("_weft.producers.{}", escape(client.as_str())), encode_mark(mark));
        }
        if raw.get_document(value::OWN).is_ok_and(|own| own.contains_key("deleted")) && after.is_some() {
            update.insert("$unset", doc! {"_weft.deleted": ""});
        }
        update.insert("$set", set);
        if self.documents.update_one(filter, update).await?.matched_count > 0 {
            let mut events = found.outbox;
            events.push(event);
            let key = self.key(&change.document_id);
            tracing::debug!(document = %change.document_id, version, "recorded what another program wrote");
            self.shared().relay.take(Moved { key, events });
        }
        Ok(())
    }
}
