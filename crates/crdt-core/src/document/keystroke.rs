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
    patch::{
        TextOp,
        keystroke::{self, Keystroke, Start},
    },
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
        let seen = store.sessions.at(session).seen?;
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
                store.sessions.at_mut(session).seen = Some(id.time + span - 1);
                self.time = self.time.max(id.time + span);
                return Some(());
            }
            self.insert_read(new, keystroke)?;
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
        self.store.sessions.at_mut(session).seen = Some(last);
        self.time = self.time.max(last + 1);
        Some(())
    }

    /// Text that is not just typed on.
    fn insert_read(&mut self, new: Id, keystroke: Keystroke<'_>) -> Option<()> {
        let Keystroke { id, span, obj, at, text, .. } = keystroke;
        if at.sid != id.sid && !self.has_seen(at) {
            return None;
        }
        self.insert_text(new, &TextOp { id, obj, after: at, text, units: span })?;
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
