//! A keystroke from elsewhere, applied: text that is typed on or a run that is erased, by a session that is known, at the
//! node that was edited last. What is unusual in any way is left to the general rules.

use super::{
    Document, Order,
    node::{Form, NIL},
    sequence::{Id, SPAN_MAX},
    store::Store,
};
use crate::{
    Timestamp,
    patch::keystroke::{self, Keystroke, Start},
};

impl Document {
    /// Applies the only operation of a patch, if it is a keystroke. `false`, and nothing has changed, if the general rules
    /// have to look at it.
    #[inline]
    pub(super) fn apply_keystroke(&mut self, patch: Start<'_>) -> bool {
        keystroke::read_one(patch).and_then(|keystroke| self.apply_read(keystroke)).is_some()
    }

    #[inline(always)]
    fn apply_read(&mut self, keystroke: Keystroke<'_>) -> Option<()> {
        let Keystroke { id, span, obj, at, text, deleted, .. } = keystroke;
        // A patch that turns out to be known must not cost a copy.
        let store = self.store.own()?;
        let own = store.sessions.own;
        let session = store.sessions.look_up(id.sid.get()).filter(|&session| session != own)?;
        let seen = store.sessions.seen(session)?;
        if id.time <= seen.max(self.compacted_to) || self.order != Order::Logical {
            return None;
        }
        let sequence = store.text_at(self.target, obj)?;
        let at_session = if at.sid == id.sid { session } else { store.sessions.get(at.sid.get())? };
        let element = Id::new(at_session, at.time);
        if deleted == 0 {
            if store.span + span > u64::from(SPAN_MAX) {
                return None;
            }
            let (new, bytes) = (Id::new(session, id.time), text.as_bytes());
            let sequence = store.sequences.at_mut(sequence);
            let typed_on = bytes.len() as u64 == span
                && at != obj
                && sequence.type_after(element, new, bytes, &store.sessions, &mut store.contents.narrow);
            if typed_on {
                store.span += span;
                store.sessions.go_on(session, id.time + span - 1);
                self.time = self.time.max(id.time + span);
                return Some(());
            }
            self.insert_read(new, (at != obj).then_some(element), keystroke)?;
        } else {
            if at.sid != id.sid && !self.has_seen(at.tick(deleted - 1)) {
                return None;
            }
            let store = &mut *self.store;
            let (contents, sequence) = (&mut store.contents, store.sequences.at_mut(sequence));
            sequence.delete(element, deleted, |dead| contents.kill_text(dead.span, dead.offset));
            store.tidy();
        }
        let last = id.time + span - 1;
        self.store.sessions.go_on(session, last);
        self.time = self.time.max(last + 1);
        Some(())
    }

    /// Text that is not just typed on.
    fn insert_read(&mut self, new: Id, after: Option<Id>, keystroke: Keystroke<'_>) -> Option<()> {
        let Keystroke { id, span, at, text, .. } = keystroke;
        let is_seen = |at: Id| self.store.sessions.seen_or_made(at.session) >= Some(at.time);
        if at.sid != id.sid && !after.is_none_or(is_seen) {
            return None;
        }
        let units = span as u32;
        self.insert_run(self.target, after, new, units, |contents, left| {
            contents.store_text(left, text, units)
        })?;
        self.store.tidy();
        Some(())
    }
}

impl Store {
    /// The sequence of a text, if it is the node that was edited last.
    #[inline]
    fn text_at(&self, target: u32, obj: Timestamp) -> Option<u32> {
        let node = if target == NIL { return None } else { self.nodes.get(target as usize)? };
        let id = node.id();
        let same = id.time == obj.time && self.sessions.sid_at(id.session) == obj.sid.get();
        (same && node.form() == Form::Str && !node.is_dead()).then(|| node.payload())
    }
}
