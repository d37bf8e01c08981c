//! One key of a map set to a new constant or text, taken in at once.

use super::{Document, node::Form, sequence::Id, store::Store};
use crate::patch::{
    TextOp,
    keystroke::Start,
    setting::{self, Fresh, Setting},
};

impl Document {
    /// Applies a patch that sets one key of a map. `false`, and nothing has changed, if it is another or the general rules have
    /// to look at it.
    #[inline]
    pub(super) fn apply_setting(&mut self, patch: Start<'_>) -> bool {
        // A patch that turns out to be known must not cost a copy.
        !self.store.is_shared()
            && self.is_roomy(patch.len_bytes() as u64)
            && setting::read(patch).and_then(|setting| self.set_read(&setting)).is_some()
    }

    fn set_read(&mut self, setting: &Setting<'_>) -> Option<()> {
        let Setting { id, value, obj, key, last } = *setting;
        let known = self.author_of_news(id)?;
        let map = self.target_of(obj, Form::Obj)?;
        if self.store.node(map).id().time >= id.time {
            return None;
        }
        let session = match known {
            Some(session) => session,
            None => self.store.sessions.enter(id.sid.get()),
        };
        self.observe(session, last);
        let at = Id::new(session, id.time);
        let made = match value {
            Fresh::Con(value) => self.store.create_con(at, value)?,
            Fresh::Text(text, units) => {
                let made = self.store.create(at, Form::Str)?;
                self.target = made;
                self.insert_text(at.tick(1), &TextOp { id: id.tick(1), obj: id, after: id, text, units });
                self.target = map;
                made
            }
        };
        self.store.put_key(map, key.as_bytes(), made);
        self.store.tidy();
        Some(())
    }
}

impl Store {
    /// Sets a key of a map to a node by the last-writer rule. Tells whether it did.
    pub(super) fn put_key(&mut self, map: u32, key: &[u8], value: u32) -> bool {
        let before = self.keys.len();
        let key = self.keys.enter(key);
        if (key as usize) < before {
            return self.set_key(map, key, value);
        }
        // A key that no map had before is new to this one too.
        self.push_key(map, key, value);
        true
    }
}
