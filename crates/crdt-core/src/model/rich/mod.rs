//! Rich text: text with marks that several set at the same time, after Peritext.
//!
//! Marks are not characters in the text, and not attributes of characters: each is a slice of its own, from beside one
//! character to beside another. So two people who make overlapping ranges bold get one bold range, what is typed into
//! one belongs to it, and whether what is typed at its end belongs to it is the mark's own business. The rules are those
//! of Litt, Lim, Kleppmann and van Hardenberg, "Peritext: A CRDT for Collaborative Rich Text Editing" (CSCW 2022); its
//! examples are in `tests/rich_text.rs`. A mark that comes before the text that it stands on waits for it. In the document a
//! rich text is json-joy's extension 2 (or 3 for the Quill editor).

mod editor;
mod quill;
mod read;
mod slice;

use std::{collections::BTreeSet, ops::Range};

pub use editor::QuillEditor;
pub use quill::{InvalidQuill, QuillOp};
pub(super) use read::Reading;
pub use slice::{BlockStep, Slice, Stacking};

use super::{
    Api, EditError, Extension, Model, ObjCursor, Path, RelativePosition, Side, find_node, past_registers,
};
use crate::{PatchBuilder, Text, Timestamp, Value, document::NodeRef, text::Wtf8};

/// Which text typed at the borders of a mark belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expand {
    /// What is typed at its end: bold, italic.
    After,
    /// What is typed at its start.
    Before,
    /// Both.
    Both,
    /// Neither: a link, a comment.
    None,
}

/// Marks by tag, with what they say.
type Marks = Vec<(Text, Value)>;

/// A piece of rich text under the same marks.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The text.
    pub text: Text,
    /// Its marks by tag, in the order of the tags. A mark of which there can be many has an array of what they say.
    pub marks: Vec<(Text, Value)>,
}

/// A block of rich text: from one marker to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// What it is: the tag of the marker that begins it; `None` for what stands before the first marker.
    pub tag: Option<Text>,
    /// All steps of what it is, the outermost first and the tag last: a list item is `ul`, `li`. Empty before the first
    /// marker.
    pub steps: Vec<BlockStep>,
    /// What the marker says beside.
    pub data: Value,
    /// Its text, without the marker's own character.
    pub range: Range<usize>,
    /// The same with its marks.
    pub spans: Vec<Span>,
}

/// Rich text. Positions and lengths count UTF-16 code units.
///
/// ```
/// use crdt_core::{Model, SessionId, Value, model::Expand};
///
/// let mut alice = Model::new(SessionId::new(70_001).unwrap());
/// alice.api().root(Value::Map(vec![]))?;
/// alice.api().obj("")?.set_rich_text("note", "The fox jumped.")?;
/// let mut bob = alice.fork(SessionId::new(70_002).unwrap());
/// alice.flush();
///
/// alice.api().rich_text("/note")?.mark(0..7, "bold", true, Expand::After)?;
/// bob.api().rich_text("/note")?.ins(4, "brown ")?;
/// alice.apply(&bob.flush().unwrap())?;
///
/// let spans = alice.api().rich_text("/note")?.spans()?;
/// assert_eq!(spans[0].text, "The brown fox");
/// assert_eq!(spans[0].marks, [("bold".into(), Value::from(true))]);
/// assert!(spans[1].marks.is_empty());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RichTextCursor<'m> {
    model: &'m mut Model,
    text: Timestamp,
    slices: Timestamp,
}

impl<'m> Api<'m> {
    /// The rich text at a path, json-joy's or the Quill editor's.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn rich_text(self, path: impl Path) -> Result<RichTextCursor<'m>, EditError> {
        let not_found = || EditError::NotFound { path: path.pointer() };
        let node = find_node(&self.model.doc, &path)?.and_then(past_registers).ok_or_else(not_found)?;
        let Reading { text, slices, .. } = Reading::of(&self.model.doc, node).ok_or_else(not_found)?;
        Ok(RichTextCursor { model: self.model, text, slices })
    }
}

impl PatchBuilder {
    /// Creates a rich text.
    pub fn new_rich_text<'t>(&mut self, extension: Extension, text: impl Into<Wtf8<'t>>) -> Timestamp {
        let text = text.into();
        self.new_extension(extension, |patch| {
            let data = patch.new_vec();
            let str = patch.new_str();
            patch.ins_str(str, str, text);
            let slices = patch.new_arr();
            patch.ins_vec(data, [(0, str), (1, slices)]);
            data
        })
    }
}

impl ObjCursor<'_> {
    /// Puts a new rich text at a key.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set_rich_text<'t>(
        &mut self,
        key: impl Into<Text>,
        text: impl Into<Wtf8<'t>>,
    ) -> Result<(), EditError> {
        self.set_rich(key.into(), Extension::Peritext, text.into())
    }

    /// Puts a new rich text at a key as json-joy keeps it for the Quill editor: its view there is a Quill delta.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set_quill<'t>(
        &mut self,
        key: impl Into<Text>,
        text: impl Into<Wtf8<'t>>,
    ) -> Result<(), EditError> {
        self.set_rich(key.into(), Extension::QuillDelta, text.into())
    }

    fn set_rich(&mut self, key: Text, extension: Extension, text: Wtf8<'_>) -> Result<(), EditError> {
        let obj = self.node()?.id();
        self.model().write(|patch| {
            let node = patch.new_rich_text(extension, text);
            patch.ins_obj(obj, [(key.as_wtf8(), node)]);
        })
    }
}

impl RichTextCursor<'_> {
    const fn read(&self) -> Reading<'_> {
        Reading { doc: self.model.document(), text: self.text, slices: self.slices }
    }

    fn node(&self) -> Result<NodeRef<'_>, EditError> {
        self.read().node()
    }

    /// The id of the text, for [`RelativePosition`] and [`Selection`](super::Selection).
    pub const fn text_id(&self) -> Timestamp {
        self.text
    }

    /// How many UTF-16 code units there are.
    pub fn len(&self) -> usize {
        self.node().map_or(0, |node| node.len())
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text without its marks.
    pub fn text(&self) -> Text {
        self.read().text()
    }

    /// Inserts text at a position. It gets the marks of the text before it that grow.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn ins<'t>(&mut self, position: usize, text: impl Into<Wtf8<'t>>) -> Result<(), EditError> {
        let text = text.into();
        let (node, after) = (self.text, self.place(position)?);
        self.model.write(|patch| _ = patch.ins_str(node, after, text))
    }

    /// The element behind which text goes that is inserted at a position.
    fn place(&self, position: usize) -> Result<Timestamp, EditError> {
        let len = self.node()?.len();
        let before = match position.checked_sub(1) {
            Some(before) => self.model.doc.element_id(self.text, before),
            None => Some(self.text),
        };
        let before = before.filter(|_| position <= len).ok_or(EditError::OutOfRange { position, len })?;
        Ok(self.behind_ends(before))
    }

    /// Where text goes that is inserted behind an element: behind deleted ones at which a mark ends (or begins) that does
    /// not grow, so that it does not grow over them.
    fn behind_ends(&self, before: Timestamp) -> Timestamp {
        let doc = &self.model.doc;
        let tombstones = doc.tombstones_after(self.text, Some(before).filter(|&at| at != self.text));
        if tombstones.is_empty() {
            return before;
        }
        let slices = self.slices();
        let anchors = slices.iter().flat_map(|slice| [slice.start, slice.end]);
        let ends: BTreeSet<(u64, u64)> = anchors
            .filter(|at| at.side == Side::After && at.anchor != self.text)
            .map(|at| (at.anchor.sid.get(), at.anchor.time))
            .collect();
        let last = tombstones.iter().rev().find_map(|piece| {
            let (sid, time) = (piece.id.sid.get(), piece.id.time);
            let mut within = ends.range((sid, time)..(sid, time + u64::from(piece.units)));
            within.next_back().map(|&(_, time)| Timestamp::new(piece.id.sid, time))
        });
        last.unwrap_or(before)
    }

    /// Deletes `len` code units from a position on.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn del(&mut self, position: usize, len: usize) -> Result<(), EditError> {
        let node = self.node()?.number();
        super::StrCursor::new(self.model, node).del(position, len)
    }

    /// Marks a range, in place of older marks with the same tag. `value` is what the mark says: `true`, a link's target.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn mark(
        &mut self,
        range: Range<usize>,
        tag: impl Into<Text>,
        value: impl Into<Value>,
        expand: Expand,
    ) -> Result<(), EditError> {
        self.slice(range, Stacking::One, tag.into(), value.into(), expand).map(drop)
    }

    /// Marks a range beside other marks with the same tag: a comment. Returns its id.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn mark_also(
        &mut self,
        range: Range<usize>,
        tag: impl Into<Text>,
        value: impl Into<Value>,
    ) -> Result<Timestamp, EditError> {
        self.slice(range, Stacking::Many, tag.into(), value.into(), Expand::None)
    }

    /// Takes the marks with a tag away from a range. Give the `expand` that the mark has: then what is typed at the end
    /// of what is plain now is plain.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn unmark(
        &mut self,
        range: Range<usize>,
        tag: impl Into<Text>,
        expand: Expand,
    ) -> Result<(), EditError> {
        self.slice(range, Stacking::Erase, tag.into(), Value::Undefined, expand).map(drop)
    }

    /// Removes one slice: a comment, by the id that marking returned.
    ///
    /// # Errors
    /// [`EditError::Removed`] if there is no such slice, since someone has removed it, say.
    pub fn remove(&mut self, slice: Timestamp) -> Result<(), EditError> {
        let slices = self.model.doc.node(self.slices).ok_or(EditError::Removed(self.slices))?;
        let index = (0..slices.len()).find(|&at| slices.at(at).is_some_and(|node| node.id() == slice));
        let node = slices.number();
        match index {
            Some(index) => super::ArrCursor::new(self.model, node).del(index, 1),
            None => Err(EditError::Removed(slice)),
        }
    }

    /// Splits the text at a position: what follows is a block with a tag. It begins with a character of its own, a line
    /// feed; deleting that joins the blocks again.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn split(
        &mut self,
        position: usize,
        tag: impl Into<Text>,
        data: impl Into<Value>,
    ) -> Result<(), EditError> {
        self.split_nested(position, [] as [BlockStep; 0], tag.into(), data)
    }

    /// [Splits](Self::split) the text where what follows is a block within others: a list item in a list, a paragraph in a
    /// quotation. `outer` are the others, the outermost first.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId, Value};
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.api().root(Value::Map(vec![]))?;
    /// model.api().obj("")?.set_rich_text("note", "warpweft")?;
    /// let mut note = model.api().rich_text("/note")?;
    /// note.split_nested(4, ["ul"], "li", Value::Undefined)?;
    /// note.split_nested(0, ["ul"], "li", Value::Undefined)?;
    /// let blocks = note.blocks()?;
    /// // Two items of one list: their steps agree in all but the last.
    /// assert_eq!(blocks.len(), 2);
    /// assert_eq!(blocks[0].steps, blocks[1].steps);
    /// assert_eq!(blocks[1].tag, Some("li".into()));
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    ///
    /// # Errors
    /// [`EditError`]
    pub fn split_nested<S: Into<BlockStep>>(
        &mut self,
        position: usize,
        outer: impl IntoIterator<Item = S>,
        step: impl Into<BlockStep>,
        data: impl Into<Value>,
    ) -> Result<(), EditError> {
        if self.model.doc.node(self.slices).is_none() {
            return Err(EditError::Removed(self.slices));
        }
        let steps: Vec<BlockStep> = outer.into_iter().map(Into::into).chain([step.into()]).collect();
        let (node, after, data) = (self.text, self.place(position)?, data.into());
        let slices = self.slices;
        // In one: if there is no room for the marker, or its data is too deep, there is no line feed either.
        self.model.write(|patch| {
            let anchor = patch.ins_str(node, after, "\n");
            let at = RelativePosition { node, anchor, side: Side::Before };
            let slice = Slice::write(patch, (at, at), Stacking::Marker, &steps, &data);
            patch.ins_arr(slices, slices, &[slice]);
        })
    }

    fn slice(
        &mut self,
        range: Range<usize>,
        stacking: Stacking,
        tag: Text,
        value: Value,
        expand: Expand,
    ) -> Result<Timestamp, EditError> {
        let len = self.node()?.len();
        if range.is_empty() {
            return Err(EditError::EmptyRange { start: range.start, end: range.end });
        }
        if range.end > len {
            return Err(EditError::OutOfRange { position: range.end, len });
        }
        let before = matches!(expand, Expand::Before | Expand::Both);
        let after = matches!(expand, Expand::After | Expand::Both);
        let start = self.position(range.start, if before { Side::After } else { Side::Before })?;
        let end = self.position(range.end, if after { Side::Before } else { Side::After })?;
        self.put(start, end, stacking, &[tag.into()], &value)
    }

    fn position(&self, position: usize, side: Side) -> Result<RelativePosition, EditError> {
        let found = RelativePosition::at(&self.model.doc, self.text, position, side);
        found.ok_or_else(|| EditError::OutOfRange { position, len: self.len() })
    }

    fn put(
        &mut self,
        start: RelativePosition,
        end: RelativePosition,
        stacking: Stacking,
        steps: &[BlockStep],
        data: &Value,
    ) -> Result<Timestamp, EditError> {
        if self.model.doc.node(self.slices).is_none() {
            return Err(EditError::Removed(self.slices));
        }
        let slices = self.slices;
        self.model.write(|patch| {
            let slice = Slice::write(patch, (start, end), stacking, steps, data);
            patch.ins_arr(slices, slices, &[slice]);
            slice
        })
    }

    /// All slices, in the order of their ids: of two that contradict each other the later one holds.
    pub fn slices(&self) -> Vec<Slice> {
        self.read().slices()
    }

    /// The text in pieces under the same marks.
    ///
    /// # Errors
    /// [`EditError::Removed`]
    pub fn spans(&self) -> Result<Vec<Span>, EditError> {
        self.read().spans()
    }

    /// The text in blocks.
    ///
    /// # Errors
    /// [`EditError::Removed`]
    pub fn blocks(&self) -> Result<Vec<Block>, EditError> {
        self.read().blocks()
    }
}
