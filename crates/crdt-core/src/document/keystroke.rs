//! A keystroke from elsewhere, applied: text that is typed on or a run that is erased, at the node that was edited last. What is
//! unusual in any way is left to the general rules.

use super::{
    Document, Order,
    node::{Form, NIL},
    sequence::{Id, SPAN_MAX},
    store::Store,
};
use crate::{Timestamp, patch::keystroke::Keystroke};

impl Document {
    /// Applies the only operation of a patch, if it is a keystroke. `false`, and nothing has changed, if the general rules
    /// have to look at it.
    #[inline]
    pub(super) fn apply_keystroke(&mut self, keystroke: &Keystroke<'_>) -> bool {
        self.apply_read(keystroke).is_some()
    }

    #[inline(always)]
    fn apply_read(&mut self, keystroke: &Keystroke<'_>) -> Option<()> {
        let Keystroke { id, span, obj, at, text, deleted, .. } = *keystroke;
        // A patch that turns out to be known must not cost a copy.
        let store = self.store.own()?;
        let known = store.sessions.look_up(id.sid.get());
        let seen = known.and_then(|session| store.sessions.seen(session));
        let is_own = known == Some(store.sessions.own);
        if is_own || id.time <= seen.unwrap_or(0).max(self.compacted_to) || self.order != Order::Logical {
            return None;
        }
        let sequence = store.text_at(self.target, obj)?;
        let Some(session) = known else { return self.apply_first(keystroke, sequence) };
        seen?;
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
            self.store.delete_read(sequence, element, deleted);
        }
        let last = id.time + span - 1;
        self.store.sessions.go_on(session, last);
        self.time = self.time.max(last + 1);
        Some(())
    }

    /// A keystroke of a session that is not known yet, in a text: the first one of each author.
    #[inline(never)]
    fn apply_first(&mut self, keystroke: &Keystroke<'_>, sequence: u32) -> Option<()> {
        let Keystroke { id, span, obj, at, deleted, .. } = *keystroke;
        if !self.has_seen(at.tick(deleted.max(1) - 1)) || !self.is_roomy(span) {
            return None;
        }
        let element = Id::new(self.store.sessions.get(at.sid.get())?, at.time);
        let after = (at != obj).then_some(element);
        if deleted == 0
            && let Some(after) = after
        {
            self.store.sequences.at(sequence).find(after)?;
        }
        // Nothing that follows can fail any more: there is nothing of this session that could be in the way.
        let session = self.store.sessions.enter(id.sid.get());
        if deleted == 0 {
            self.insert_read(Id::new(session, id.time), after, keystroke)?;
        } else {
            self.store.delete_read(sequence, element, deleted);
        }
        self.observe(session, id.time + span - 1);
        Some(())
    }

    /// Text that is not just typed on.
    fn insert_read(&mut self, new: Id, after: Option<Id>, keystroke: &Keystroke<'_>) -> Option<()> {
        let Keystroke { id, span, at, text, .. } = *keystroke;
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
    /// Deletes a run of a text.
    #[inline]
    fn delete_read(&mut self, sequence: u32, first: Id, len: u64) {
        let (contents, sequence) = (&mut self.contents, self.sequences.at_mut(sequence));
        sequence.delete(first, len, |dead| contents.kill_text(dead.span, dead.offset));
        self.tidy();
    }

    /// The sequence of a text, if it is the node that was edited last.
    #[inline]
    fn text_at(&self, target: u32, obj: Timestamp) -> Option<u32> {
        let node = if target == NIL { return None } else { self.nodes.get(target as usize)? };
        let id = node.id();
        let same = id.time == obj.time && self.sessions.sid_at(id.session) == obj.sid.get();
        (same && node.form() == Form::Str && !node.is_dead()).then(|| node.payload())
    }
}
