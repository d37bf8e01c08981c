//! What a change is on the server: one command, whose filter asks for the document as it was found.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use crdt_core::ClientId;
use mongodb::bson::{Bson, DateTime, Document as Bsons, doc};

use super::{
    record::{Mark, Stored, WriteId, digest, encode_event, encode_mark, encode_marks, packed},
    relay::Key,
    storage::MongoStorage,
    value::{self, count, escape, escape_field, fields_of},
};
use crate::{Body, Change, Diff, Document, EditOptions, Operation, Producer, Storage};

/// How many producers' marks a write sends again that leaves what the store keeps in a document as one value. Where there
/// are more, or too many bytes of events, it names what is different field by field.
const WHOLE_PRODUCERS_MAX: usize = 8;

/// A change, ready to be written.
pub(super) struct Planned {
    pub(super) before: Option<Document>,
    pub(super) after: Option<Document>,
    pub(super) change: Arc<Change>,
    pub(super) event: Bsons,
    /// The event as the outbox has it.
    pub(super) entry: Bson,
    pub(super) how: How,
}

pub(super) enum How {
    Insert(Bsons),
    Update { filter: Bsons, update: Bsons },
}

impl MongoStorage {
    /// Makes the commands that carry out a change.
    #[expect(clippy::too_many_arguments, reason = "it is where everything about one write comes together")]
    pub(super) fn plan(
        &self,
        key: &Key,
        found: &Stored,
        (operation, after): (Operation, Option<Body>),
        sequence: u64,
        options: &EditOptions,
        write: WriteId,
        spilled: &[ClientId],
    ) -> Planned {
        let version = found.version + 1;
        let timestamp_ms = self.shared().now_ms(found.time_ms);
        let producer = Producer { client_id: options.producer.client_id.clone(), sequence: Some(sequence) };
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
        let event = encode_event(write, &change);
        let entry = packed(&event);
        let how = self.how(found, &change, after.as_ref(), &entry, write, spilled);
        let before = found.document();
        let after = after.map(|body| Document { id: key.id.clone(), version, body: Arc::new(body) });
        Planned { before, after, change, event, entry, how }
    }

    fn how(
        &self,
        found: &Stored,
        change: &Change,
        after: Option<&Body>,
        entry: &Bson,
        write: WriteId,
        spilled: &[ClientId],
    ) -> How {
        let version_field = self.version_field();
        let version = count(change.version);
        let client = &change.producer.client_id;
        let mark = change.producer.sequence.map(|sequence| Mark { sequence, version: change.version });
        let own = |outbox: Vec<&Bson>| {
            let mut producers = found.producers.clone();
            producers.extend(mark.map(|mark| (client.clone(), mark)));
            own(change, after, write, &producers, found.spilled, outbox)
        };
        let Some(raw) = &found.raw else {
            let mut document = doc! {"_id": found.id.as_str()};
            document.extend(after.map(|after| fields_of(after, version_field)).unwrap_or_default());
            document.insert(version_field, version);
            document.insert(value::OWN, own(vec![entry]));
            return How::Insert(document);
        };
        let mut filter = doc! {"_id": found.id.as_str(), version_field: count(found.version)};
        let (mut set, mut unset) = changed_fields(raw, found.body.as_deref(), after, version_field);
        if found.remembered {
            filter.extend(self.as_remembered(found, &set, &unset));
        } else {
            filter.insert("_weft.write", found.write.map_or(Bson::Null, Bson::ObjectId));
        }
        set.insert(version_field, version);
        let mut update = Bsons::new();
        if after.is_some()
            && spilled.is_empty()
            && let Some(waiting) = self.waiting(found)
        {
            set.insert(value::OWN, own(waiting.chain([entry]).collect()));
            update.insert("$set", set);
            if !unset.is_empty() {
                update.insert("$unset", unset);
            }
            return How::Update { filter, update };
        }
        set.insert("_weft.version", version);
        set.insert("_weft.write", write);
        if let Some(mark) = mark {
            let place = format!("_weft.producers.{}", escape(client.as_str()));
            if !found.remembered {
                // A producer that races with itself is no reason to apply two writes under one sequence.
                let last = found.producers.get(client).map(|mark| count(mark.sequence));
                filter.insert(
                    format!("{place}.s"),
                    last.map_or_else(|| Bson::Document(doc! {"$exists": false}), Bson::Int64),
                );
            }
            set.insert(place, encode_mark(mark));
        }
        for gone in spilled.iter().filter(|gone| *gone != client) {
            unset.insert(format!("_weft.producers.{}", escape(gone.as_str())), "");
            set.insert("_weft.spilled", true);
        }
        if after.is_some() && found.body.is_none() {
            unset.insert("_weft.deleted", "");
        }
        set.insert("_weft.time", count(change.timestamp_ms));
        set.insert("_weft.digest", after.map(digest));
        if after.is_none() {
            set.insert("_weft.deleted", DateTime::from_millis(count(change.timestamp_ms)));
        }
        let mut push = doc! {"$each": [entry]};
        let placed = self.shared().relay.placed(&self.key(&found.id));
        if placed > 0 {
            // What is in the log already leaves the outbox with this write, and costs none of its own.
            push.insert("$slice", -count(change.version.saturating_sub(placed)).max(1));
        }
        update.insert("$push", doc! {"_weft.outbox": push});
        update.insert("$set", set);
        if !unset.is_empty() {
            update.insert("$unset", unset);
        }
        How::Update { filter, update }
    }

    /// The entries that the outbox of a remembered document has to keep, if all of what the store keeps in it is known and
    /// little enough to be sent again.
    fn waiting<'s>(&self, found: &'s Stored) -> Option<impl Iterator<Item = &'s Bson> + use<'s>> {
        let placed = self.shared().relay.placed(&self.key(&found.id));
        let waiting = found.waiting.iter().filter(move |(version, _)| *version > placed);
        let first = found.waiting.first().map_or(found.version + 1, |(version, _)| *version);
        let is_little = found.producers.len() <= WHOLE_PRODUCERS_MAX;
        (found.remembered && first <= placed + 1 && is_little).then(|| waiting.map(|(_, entry)| entry))
    }
}

/// All that the store keeps in a document with such an outbox, and that is not deleted.
fn own(
    change: &Change,
    after: Option<&Body>,
    write: WriteId,
    producers: &BTreeMap<ClientId, Mark>,
    spilled: bool,
    outbox: Vec<&Bson>,
) -> Bsons {
    let mut own = doc! {
        "version": count(change.version), "write": write, "producers": encode_marks(producers),
        "time": count(change.timestamp_ms), "digest": after.map(digest),
        "outbox": outbox.into_iter().cloned().collect::<Vec<_>>(),
    };
    if spilled {
        own.insert("spilled", true);
    }
    own
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
