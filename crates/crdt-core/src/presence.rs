//! What a session shows of itself to the others: who it is and what it has selected.
//!
//! It is no part of the document: it is in no patch, no snapshot and no history, and ends with the session. The bytes
//! travel with whatever tells who is here, such as the presence of `crdt-sync`. Selections are relative positions, so a
//! cursor stands at the right place whatever is edited before the next message.
//!
//! ```
//! use crdt_core::{Model, SessionId, model::Selection, presence::{Others, Shown}};
//!
//! let mut alice = Model::new(SessionId::new(70_001).unwrap());
//! let note = alice.api().root("warp and weft")?;
//! let mut bob = alice.fork(SessionId::new(70_002).unwrap());
//!
//! let selected = Selection::range(alice.document(), note, 9..13);
//! let shown = Shown { user: "Alice".into(), selections: selected.into_iter().collect(), ..Shown::of(&alice) };
//! let mut others = Others::default();
//! others.shows("peer 1", &shown.encode())?;
//!
//! bob.api().str("")?.ins(0, "the ")?;
//! let (_, ranges) = others.selected_in(bob.document(), note).next().unwrap();
//! assert_eq!(ranges, [13..17]);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::{borrow::Borrow, collections::BTreeMap, ops::Range};

use crate::{
    Document, Model, SessionId, Timestamp, Value,
    codec::{
        Malformed, cbor,
        wire::{Reader, put_vu57},
    },
    model::{RelativePosition, Selection},
};

/// What a session shows of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The session whose edits these are, to be found in [blame](Model::blame).
    pub session: SessionId,
    /// What the application says of its user: a name, a colour.
    pub user: Value,
    /// What is selected; cursors are empty selections.
    pub selections: Vec<Selection>,
}

/// The version of the bytes: `docs/formats/crdt-cursor.md`.
const VERSION: u8 = 1;

impl Shown {
    /// The most selections. More are not written, and refused when read.
    pub const SELECTIONS_MAX: usize = 256;

    /// A model's session, with nothing else to show yet.
    pub fn of(model: &Model) -> Self {
        Self { session: model.document().session(), user: Value::Undefined, selections: Vec::new() }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_vu57(&mut out, self.session.get());
        cbor::write(&mut out, &self.user);
        let selections = &self.selections[..self.selections.len().min(Self::SELECTIONS_MAX)];
        put_vu57(&mut out, selections.len() as u64);
        for selection in selections {
            selection.anchor.put(&mut out);
            selection.focus.put(&mut out);
        }
        out
    }

    /// Reads its bytes.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let version = r.u8("a version")?;
        if version != VERSION {
            return Err(r.unexpected(version, "version 1"));
        }
        let session = r.session()?;
        let user = cbor::read_within(&mut r, Value::DEPTH_MAX)?;
        let len = r.vu57_up_to(Self::SELECTIONS_MAX as u64, "count of selections")?;
        let mut selections = Vec::new();
        for _ in 0..len {
            let anchor = RelativePosition::read(&mut r)?;
            selections.push(Selection { anchor, focus: RelativePosition::read(&mut r)? });
        }
        r.end()?;
        Ok(Self { session, user, selections })
    }
}

/// What the others show, by the name under which each is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Others<K: Ord> {
    /// Each with how long its message was.
    shown: BTreeMap<K, (Shown, usize)>,
    /// How long all messages were.
    bytes: usize,
}

impl<K: Ord> Default for Others<K> {
    fn default() -> Self {
        Self { shown: BTreeMap::new(), bytes: 0 }
    }
}

impl<K: Ord> Others<K> {
    /// The most others that are remembered. Newcomers above it are not, until somebody goes.
    pub const LEN_MAX: usize = 4096;
    /// The most bytes of messages whose contents are remembered. What does not fit is not, until others go or show less.
    pub const BYTES_MAX: usize = 16 << 20;

    /// Someone shows something, in place of what was shown before. Tells whether there was room; if not, what was shown
    /// before stays.
    ///
    /// # Errors
    /// [`Malformed`]; then what was shown before stays.
    pub fn shows(&mut self, who: K, bytes: &[u8]) -> Result<bool, Malformed> {
        let shown = Shown::decode(bytes)?;
        let before = self.shown.get(&who).map(|(_, len)| *len);
        let bytes_now = self.bytes - before.unwrap_or(0) + bytes.len();
        if before.is_none() && self.shown.len() >= Self::LEN_MAX || bytes_now > Self::BYTES_MAX {
            return Ok(false);
        }
        self.bytes = bytes_now;
        self.shown.insert(who, (shown, bytes.len()));
        Ok(true)
    }

    /// Someone is gone.
    pub fn gone<Q: Ord + ?Sized>(&mut self, who: &Q) -> Option<Shown>
    where
        K: Borrow<Q>,
    {
        let (shown, bytes) = self.shown.remove(who)?;
        self.bytes -= bytes;
        Some(shown)
    }

    /// What someone shows.
    pub fn get<Q: Ord + ?Sized>(&self, who: &Q) -> Option<&Shown>
    where
        K: Borrow<Q>,
    {
        self.shown.get(who).map(|(shown, _)| shown)
    }

    /// Everyone with what they show, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &Shown)> {
        self.shown.iter().map(|(who, (shown, _))| (who, shown))
    }

    /// Who has selected something in a node, and where that is now. What cannot be found (yet) is left out.
    pub fn selected_in<'a>(
        &'a self,
        document: &'a Document,
        node: Timestamp,
    ) -> impl Iterator<Item = (&'a K, Vec<Range<usize>>)> {
        self.iter().filter_map(move |(who, shown)| {
            let here = shown.selections.iter().filter(|selection| selection.focus.node == node);
            let ranges: Vec<_> = here.filter_map(|selection| selection.resolve(document)).collect();
            (!ranges.is_empty()).then_some((who, ranges))
        })
    }
}
