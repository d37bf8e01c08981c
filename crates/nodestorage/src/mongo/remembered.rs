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

/// How many documents a gate remembers. Of two that share one, and are written by turns, each would have to be read again with
/// one only.
const REMEMBERED_MAX: usize = 2;

/// How large a body may be, as JSON, to be remembered: the filter carries all of it. There are two documents for each gate, so
/// all that is remembered is 8 192 times as much. A larger one is read.
pub(super) const REMEMBERED_BYTES_MAX: usize = 4 << 10;

/// How many bytes of an outbox are remembered with it: so many a write may send again.
const WAITING_BYTES_MAX: usize = 16 << 10;

/// Lets go of the first entries of an outbox until the others are few enough.
fn keep_last(waiting: &mut Vec<(u64, Bson)>) {
    let mut left = WAITING_BYTES_MAX;
    let kept = waiting.iter().rev().take_while(|(_, entry)| {
        let bytes = if let Bson::Binary(packed) = entry { packed.bytes.len() } else { 0 };
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    });
    let gone = waiting.len() - kept.count();
    waiting.drain(..gone);
}

/// Where the writers of a document in one process take turns.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The last ones, the oldest first.
    left: Vec<(Key, Stored)>,
}

impl Gate {
    /// Keeps what a write has left of a document that was [taken](Self::take) out.
    pub(super) fn remember(&mut self, key: Key, left: Option<Stored>) {
        let Some(stored) = left else { return };
        if self.left.len() == REMEMBERED_MAX {
            self.left.remove(0);
        }
        self.left.push((key, stored));
    }

    fn take(&mut self, key: &Key) -> Option<Stored> {
        let at = self.left.iter().position(|(of, _)| of == key)?;
        Some(self.left.remove(at).1)
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
        match &planned.how {
            How::Insert(document) => raw = document.clone(),
            How::Update { update, .. } => {
                let set = update.get_document("$set").ok()?;
                if set.contains_key("_weft.spilled") {
                    // Marks that are in `found` have just gone beside.
                    return None;
                }
                let of_body = set.iter().filter(|(name, _)| *name != OWN && !name.starts_with("_weft."));
                raw.extend(of_body.map(|(name, value)| (name.clone(), value.clone())));
                for name in update.get_document("$unset").into_iter().flat_map(Bsons::keys) {
                    raw.remove(name);
                }
            }
        }
        raw.remove(OWN);
        // Names of other programs that a filter would take for paths or operators.
        let plain = |name: &String| !name.contains('.') && !name.starts_with('$');
        if !raw.keys().all(plain) || !rules::is_within(&after.body, REMEMBERED_BYTES_MAX) {
            return None;
        }
        let (mut producers, change) = (found.producers, &planned.change);
        if let Some(sequence) = change.producer.sequence {
            producers.insert(change.producer.client_id.clone(), Mark { sequence, version: change.version });
        }
        let placed = self.shared().relay.placed(&self.key(&found.id));
        let mut waiting = found.waiting;
        waiting.retain(|(version, _)| *version > placed);
        waiting.push((change.version, planned.entry.clone()));
        keep_last(&mut waiting);
        Some(Stored {
            id: found.id,
            version: change.version,
            body: Some(Arc::clone(&after.body)),
            producers,
            spilled: found.spilled,
            time_ms: found.time_ms.max(change.timestamp_ms),
            write: planned.event.get_object_id("_id").ok(),
            // It is not compared with its history: the listener does that.
            digest: None,
            outbox: Vec::new(),
            raw: Some(raw),
            remembered: true,
            waiting,
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
                // Of others the server would take a part for an operator. These it compares sooner by themselves.
                let bare =
                    matches!(value, Bson::String(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Boolean(_));
                same.insert(name, if bare { value.clone() } else { doc! {"$eq": value.clone()}.into() });
            }
        }
        for name in set.keys().filter(|name| stored.raw.as_ref().is_none_or(|raw| !raw.contains_key(name))) {
            same.insert(name, doc! {"$exists": false});
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Binary, spec::BinarySubtype};

    use super::*;
    use crate::DocumentId;

    #[test]
    fn documents_that_share_a_gate_do_not_put_each_other_out() {
        let key = |name: &str| Key { collection: "games".into(), id: DocumentId::new(name).unwrap() };
        let left = |name: &str| Some(Stored::absent(DocumentId::new(name).unwrap(), 1, Default::default()));
        let mut gate = Gate::default();
        let by_turns = ["a", "b", "a", "b"].map(|name| {
            let had = gate.take(&key(name));
            gate.remember(key(name), left(name));
            had.is_some_and(|had| had.id.as_str() == name)
        });
        assert_eq!(by_turns, [false, false, true, true]);
        // The oldest goes for a third one, and what was written without an answer is not there any more.
        gate.remember(key("c"), left("c"));
        assert!(gate.take(&key("a")).is_none());
        assert!(gate.take(&key("b")).is_some());
        gate.remember(key("b"), None);
        assert!(gate.take(&key("b")).is_none());
        assert!(gate.take(&key("c")).is_some());
    }

    #[test]
    fn so_much_of_an_outbox_is_remembered_and_no_more() {
        let entry = |version: u64, len: usize| {
            (version, Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![0; len] }))
        };
        let check = |lens: &[usize], kept: &[u64]| {
            let mut waiting: Vec<_> = (1..).zip(lens).map(|(version, len)| entry(version, *len)).collect();
            keep_last(&mut waiting);
            assert!(waiting.iter().map(|(version, _)| version).eq(kept), "{lens:?}");
        };
        check(&[], &[]);
        check(&[100; 3], &[1, 2, 3]);
        check(&[WAITING_BYTES_MAX - 200, 100, 100], &[1, 2, 3]);
        check(&[WAITING_BYTES_MAX - 199, 100, 100], &[2, 3]);
        // Those behind a gap are no help.
        check(&[100, WAITING_BYTES_MAX, 100], &[3]);
        check(&[100, 100, WAITING_BYTES_MAX + 1], &[]);
    }
}
