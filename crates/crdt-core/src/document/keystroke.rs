//! A keystroke from elsewhere, applied: text that is typed on or a run that is erased, by a session that is known, at the
//! node that was edited last. What is unusual in any way is left to the general rules.

use super::{
    Applied, Document, Order,
    node::{Form, NIL},
    sequence::{Id, SPAN_MAX},
};
use crate::{
    Timestamp,
    patch::{Keystroke, PatchRef},
};

impl Document {
    /// Applies a keystroke. `None`, and nothing has changed, if the general rules have to look at it.
    #[inline]
    pub(super) fn apply_keystroke(&mut self, patch: PatchRef<'_>) -> Option<Applied> {
        let (keystroke, id) = (patch.keystroke()?, patch.id());
        let session = self.store.sessions.get(id.sid.get()).filter(|&session| session != self.own)?;
        let seen = self.store.sessions.at(session).seen?;
        if id.time <= seen || self.order != Order::Logical {
            return None;
        }
        match keystroke {
            Keystroke::Text { obj, after, at, units } => {
                let sequence = self.text_at(obj)?;
                if after == obj || self.store.span + u64::from(units) > u64::from(SPAN_MAX) {
                    return None;
                }
                let after = self.element(id, session, after)?;
                let bytes = &patch.as_bytes()[at as usize..];
                if bytes.len() != units as usize {
                    return None;
                }
                let narrow = &mut self.store.contents.narrow;
                let new = Id::new(session, id.time);
                let sequence = self.store.sequences.at_mut(sequence);
                if !sequence.type_after(after, new, bytes, &self.store.sessions, narrow) {
                    return None;
                }
                self.store.span += u64::from(units);
            }
            Keystroke::Del { obj, start, span } => {
                let sequence = self.text_at(obj)?;
                if start.sid != id.sid && !self.has_seen(start.tick(span - 1)) {
                    return None;
                }
                let start = self.element(id, session, start)?;
                let contents = &mut self.store.contents;
                let sequence = self.store.sequences.at_mut(sequence);
                sequence.delete(start, span, |dead| contents.kill_text(dead.span, dead.offset));
                self.store.tidy();
            }
        }
        let last = patch.next_time() - 1;
        self.store.sessions.at_mut(session).seen = Some(last);
        self.time = self.time.max(last + 1);
        Some(Applied::Merged)
    }

    /// The sequence of a text, if it is the node that was edited last.
    #[inline]
    fn text_at(&self, obj: Timestamp) -> Option<u32> {
        let node =
            if self.target == NIL { return None } else { self.store.nodes.get(self.target as usize)? };
        let id = node.id();
        let same = id.time == obj.time && self.store.sessions.sid_at(id.session) == obj.sid.get();
        (same && node.form() == Form::Str && !node.is_dead()).then(|| node.payload())
    }

    /// The id of an element that an operation of a session names, if its session is known.
    #[inline]
    fn element(&self, own: Timestamp, session: u32, id: Timestamp) -> Option<Id> {
        let session = if id.sid == own.sid { session } else { self.store.sessions.get(id.sid.get())? };
        Some(Id::new(session, id.time))
    }
}
