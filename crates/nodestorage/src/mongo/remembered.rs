//! What the last writer left, so that the next one of the same process need not read it.
//!
//! A change over MongoDB is a read, a decision and a compare-and-swap. The read is a third of the time, and mostly it brings
//! what this process has just written. So the gate of a document keeps that. A writer decides on it and sends a
//! compare-and-swap that asks for more than a version: for the write that was remembered, for each field that the write
//! touches as it is remembered, and for each that holds a plain value. So what another process or another program has
//! written meanwhile is never written over; the swap finds nothing then, and the writer reads. Whatever is no write, an
//! answer, a refusal, an error of the caller's function, is never given by what is remembered: it is read, and decided
//! anew.
//!
//! What another program does within an array or object that the write leaves alone is the listener's to tell. So nothing
//! is remembered where no change stream tells it.

use std::sync::{Arc, atomic::Ordering};

use mongodb::bson::{Bson, Document as Bsons, doc};

use super::{
    commit::OUTBOX_MAX,
    plan::{How, Planned},
    record::{Mark, Stored},
    relay::Key,
    storage::MongoStorage,
    value::{self, OWN},
};
use crate::{Storage, rules};

/// How large a body may be, as JSON, to be remembered: the filter carries all of it. There is one document for each gate, so
/// all that is remembered is 4 096 times as much. A larger one is read.
pub(super) const REMEMBERED_BYTES_MAX: usize = 4 << 10;

/// Where the writers of a document in one process take turns.
#[derive(Debug, Default)]
pub(super) struct Gate {
    left: Option<(Key, Stored)>,
}

impl Gate {
    /// Keeps what a write has left, in place of whatever was there.
    pub(super) fn remember(&mut self, key: Key, left: Option<Stored>) {
        self.left = left.map(|stored| (key, stored));
    }

    fn take(&mut self, key: &Key) -> Option<Stored> {
        self.left.take().filter(|(of, _)| of == key).map(|(_, stored)| stored)
    }
}

impl MongoStorage {
    /// The document as the last writer left it, if that is all that a writer has to know. It is gone from the gate then,
    /// so that nobody takes it for true after a write whose end is not known.
    pub(super) fn recall(&self, gate: &mut Gate, key: &Key) -> Option<Stored> {
        let stored = gate.take(key)?;
        let relay = &self.shared().relay;
        if !self.heard.load(Ordering::Acquire) {
            return None;
        }
        // As for what is read without its outbox: this process sees to all events of it, and there is room for one more.
        let seen_to = relay.taken(key) == stored.version;
        let waiting = stored.version - relay.placed(key).min(stored.version);
        (seen_to && waiting < OUTBOX_MAX as u64).then_some(stored)
    }

    /// What a write leaves that was just answered; `None` if it is better read.
    pub(super) fn left_by(&self, found: Stored, planned: &Planned) -> Option<Stored> {
        let after = planned.after.as_ref()?;
        let mut raw = found.raw.unwrap_or_default();
        raw.remove(OWN);
        let own = match &planned.how {
            How::Insert(document) => {
                raw = document.clone();
                raw.remove(OWN)?.as_document().cloned()?
            }
            How::Update { update, .. } => {
                let (mut own, set) = (Bsons::new(), update.get_document("$set").ok()?);
                for (name, value) in set {
                    match name.strip_prefix("_weft.") {
                        Some(name) => own.insert(name, value.clone()),
                        None => raw.insert(name, value.clone()),
                    };
                }
                for name in update.get_document("$unset").into_iter().flat_map(Bsons::keys) {
                    raw.remove(name);
                }
                own
            }
            How::Remove { .. } => return None,
        };
        if own.contains_key("spilled") {
            return None;
        }
        // Names of other programs that a filter would take for paths or operators.
        let plain = |name: &String| !name.contains('.') && !name.starts_with('$');
        if !raw.keys().all(plain) || !rules::is_within(&after.body, REMEMBERED_BYTES_MAX) {
            return None;
        }
        let (mut producers, change) = (found.producers, &planned.change);
        if let Some(sequence) = change.producer.sequence {
            producers.insert(change.producer.client_id.clone(), Mark { sequence, version: change.version });
        }
        Some(Stored {
            id: found.id,
            version: change.version,
            body: Some(Arc::clone(&after.body)),
            producers,
            spilled: found.spilled,
            time_ms: found.time_ms.max(change.timestamp_ms),
            write: own.get_object_id("write").ok(),
            digest: own.get_i64("digest").ok(),
            outbox: Vec::new(),
            raw: Some(raw),
            remembered: true,
        })
    }

    /// What a filter has to ask for besides the versions, for a document that was not read. `set` and `unset` are what the
    /// write touches: what was no field must be none still. Large values that it leaves alone are not asked for, as the
    /// server takes as long to compare an array as to send it.
    pub(super) fn as_remembered(&self, stored: &Stored, set: &Bsons, unset: &Bsons) -> Bsons {
        let mut same = doc! {"_weft.write": stored.write.map_or(Bson::Null, Bson::ObjectId)};
        for (name, value) in stored.raw.iter().flatten() {
            let touched = set.contains_key(name) || unset.contains_key(name);
            let plain = !matches!(value, Bson::Array(_) | Bson::Document(_));
            if value::is_field(name, self.version_field()) && (plain || touched) {
                same.insert(name, doc! {"$eq": value.clone()});
            }
        }
        for name in set.keys().filter(|name| stored.raw.as_ref().is_none_or(|raw| !raw.contains_key(name))) {
            same.insert(name, doc! {"$exists": false});
        }
        same
    }
}
