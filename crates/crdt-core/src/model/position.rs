//! Positions that outlive edits: beside which element they stand, not at which count.
//!
//! A cursor or comment that is kept as a number is wrong as soon as someone types before it. A relative position names
//! the element next to it (and the side), and elements keep their ids for ever, deleted ones too. The idea is that of
//! relative positions in Yjs and of the anchors of Peritext (Litt, Lim, Kleppmann, van Hardenberg: "Peritext: A CRDT for
//! Collaborative Rich Text Editing", CSCW 2022).

use crate::{
    Document, Timestamp,
    codec::{
        Malformed,
        wire::{Reader, put_vu57},
    },
    document::{Kind, Located},
};

/// A position in a text, byte string or array that stays beside its element.
///
/// ```
/// use crdt_core::{Model, SessionId, model::{RelativePosition, Side}};
///
/// let mut model = Model::new(SessionId::new(70_001).unwrap());
/// model.api().root("warp weft")?;
/// let cursor = model.api().str("")?.anchor(5, Side::Before)?;
///
/// model.api().str("")?.ins(0, "the ")?;
/// assert_eq!(cursor.resolve(model.document()).unwrap().position, 9);
/// // It travels as bytes, and stands in every replica at the same place.
/// let same = RelativePosition::decode(&cursor.encode()).unwrap();
/// assert_eq!(same, cursor);
/// # Ok::<_, crdt_core::model::EditError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelativePosition {
    /// The text, byte string or array.
    pub node: Timestamp,
    /// The element beside which it stands; the node's own id stands for the borders: after it is the start, before it the
    /// end.
    pub anchor: Timestamp,
    /// On which side of the element.
    pub side: Side,
}

/// On which side of an element a position stands, and so what becomes of it when something is inserted just there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Before its element: what is inserted at the position comes before it, and moves it on.
    Before,
    /// After its element: what is inserted at the position comes after it.
    After,
}

impl RelativePosition {
    /// The position at a count of visible elements; `None` if the node is no text, byte string or array, or is shorter.
    pub fn at(document: &Document, node: Timestamp, position: usize, side: Side) -> Option<Self> {
        let len = len_of(document, node)?;
        if position > len {
            return None;
        }
        let anchor = match side {
            Side::Before if position == len => node,
            Side::Before => document.element_id(node, position)?,
            Side::After if position == 0 => node,
            Side::After => document.element_id(node, position - 1)?,
        };
        Some(Self { node, anchor, side })
    }

    /// Where it is now. If its element was deleted it is where that would be. `None` if the node is gone, if the
    /// element has not come yet, or if it was deleted and forgotten by [compaction](Document::compact).
    pub fn resolve(&self, document: &Document) -> Option<Located> {
        if self.anchor == self.node {
            let len = len_of(document, self.node)?;
            let position = if self.side == Side::After { 0 } else { len };
            return Some(Located { position, deleted: false });
        }
        let at = document.locate(self.node, self.anchor)?;
        let behind = usize::from(self.side == Side::After && !at.deleted);
        Some(Located { position: at.position + behind, ..at })
    }

    /// The same position beside an element that is visible now: for who forgets deleted elements
    /// (compaction), after which a position beside one could not be found any more.
    pub fn refreshed(&self, document: &Document) -> Option<Self> {
        Self::at(document, self.node, self.resolve(document)?.position, self.side)
    }

    /// Its bytes: `docs/formats/crdt-cursor.md`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        self.put(&mut out);
        out
    }

    /// Reads its bytes.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let position = Self::read(&mut r)?;
        r.end()?;
        Ok(position)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let own = self.anchor == self.node;
        out.push(u8::from(self.side == Side::After) | u8::from(own) << 1);
        let ids = [self.node, self.anchor];
        for id in &ids[..if own { 1 } else { 2 }] {
            put_vu57(out, id.sid.get());
            put_vu57(out, id.time);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let flags = r.u8("a side")?;
        if flags > 3 {
            return Err(r.unexpected(flags, "a side: 0 to 3"));
        }
        let id = |r: &mut Reader<'_>| Ok(Timestamp::new(r.session()?, r.time()?));
        let node = id(r)?;
        let anchor = if flags & 2 == 0 { id(r)? } else { node };
        if flags & 2 == 0 && anchor == node {
            return Err(Malformed::NotCanonical);
        }
        let side = if flags & 1 == 0 { Side::Before } else { Side::After };
        Ok(Self { node, anchor, side })
    }
}

/// How many visible elements a text, byte string or array has; `None` for any other node.
fn len_of(document: &Document, node: Timestamp) -> Option<usize> {
    let node = document.node(node)?;
    matches!(node.kind(), Kind::Str | Kind::Bin | Kind::Arr).then(|| node.len())
}

/// What someone has selected: from where the selection began to where it is being drawn. A cursor is an empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Where it began.
    pub anchor: RelativePosition,
    /// Where the cursor is.
    pub focus: RelativePosition,
}

impl Selection {
    /// A cursor: nothing is selected.
    pub const fn cursor(at: RelativePosition) -> Self {
        Self { anchor: at, focus: at }
    }

    /// A selection of a range of positions. What is typed at its borders is not part of it, and one of nothing stays one. A
    /// range that ends before it starts was drawn backwards.
    pub fn range(document: &Document, node: Timestamp, range: std::ops::Range<usize>) -> Option<Self> {
        if range.start == range.end {
            // With two sides what is typed there would come between them.
            let at = |position| RelativePosition::at(document, node, position, Side::After);
            return Some(Self { anchor: at(range.start)?, focus: at(range.end)? });
        }
        let (low, high) = (range.start.min(range.end), range.start.max(range.end));
        let low = RelativePosition::at(document, node, low, Side::Before)?;
        let high = RelativePosition::at(document, node, high, Side::After)?;
        let is_forward = range.start < range.end;
        Some(if is_forward { Self { anchor: low, focus: high } } else { Self { anchor: high, focus: low } })
    }

    /// Where it is now, the smaller position first; `None` if a side of it cannot be found, or if the two are in different
    /// nodes, as those of others can be.
    pub fn resolve(&self, document: &Document) -> Option<std::ops::Range<usize>> {
        if self.anchor.node != self.focus.node {
            return None;
        }
        let (a, b) = (self.anchor.resolve(document)?.position, self.focus.resolve(document)?.position);
        Some(a.min(b)..a.max(b))
    }
}
