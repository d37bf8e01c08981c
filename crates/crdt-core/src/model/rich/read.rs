//! What a rich text shows: its slices put together.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{Block, Marks, QuillOp, Slice, Span, Stacking, quill::EMBED_TAG};
use crate::{
    Document, Text, Timestamp, Value,
    document::{Content, Kind, NodeRef},
    model::{EditError, Extension},
};

/// A rich text that is read.
#[derive(Debug)]
pub(in crate::model) struct Reading<'d> {
    pub(in crate::model) doc: &'d Document,
    pub(in crate::model) text: Timestamp,
    pub(in crate::model) slices: Timestamp,
}

impl<'d> Reading<'d> {
    /// The rich text that a node is; `None` if it is none.
    pub(in crate::model) fn of(doc: &'d Document, node: NodeRef<'_>) -> Option<Self> {
        let (Extension::Peritext | Extension::QuillDelta, data) = node.extension()? else { return None };
        let (text, slices) = (data.at(0)?, data.at(1)?);
        let is_rich = text.kind() == Kind::Str && slices.kind() == Kind::Arr;
        is_rich.then(|| Self { doc, text: text.id(), slices: slices.id() })
    }

    pub(in crate::model) fn node(&self) -> Result<NodeRef<'d>, EditError> {
        self.doc.node(self.text).ok_or(EditError::Removed(self.text))
    }

    pub(super) fn text(&self) -> Text {
        match self.node().map(|node| self.doc.view_of(node.number())) {
            Ok(Value::Text(text)) => text,
            _ => Text::new(),
        }
    }

    /// All slices, in the order of their ids: of two that contradict each other the later one holds.
    pub(super) fn slices(&self) -> Vec<Slice> {
        let mut slices: Vec<Slice> = self.slots().into_iter().map(|(_, slice)| slice).collect();
        slices.sort_by_key(|slice| slice.id);
        slices
    }

    /// All slices with the slots that they are in, as they stand in their array.
    pub(in crate::model) fn slots(&self) -> Vec<(Timestamp, Slice)> {
        let doc = self.doc;
        let Some(Content::Arr(chunks)) = doc.node(self.slices).map(|node| node.content()) else {
            return Vec::new();
        };
        let mut slices = Vec::new();
        for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
            let nodes = (0..).zip(chunk.children()).filter_map(|(tick, child)| Some((tick, child.node()?)));
            slices.extend(nodes.filter_map(|(tick, node)| {
                Some((chunk.id().tick(tick), Slice::read(doc, node, self.text)?))
            }));
        }
        slices
    }

    /// The text in pieces under the same marks.
    ///
    /// # Errors
    /// [`EditError::Removed`]
    pub(super) fn spans(&self) -> Result<Vec<Span>, EditError> {
        let units: Vec<u16> = self.text().as_wtf8().utf16().collect();
        Ok(joined(&units, self.marked(&self.slices())?))
    }

    /// The text in blocks.
    ///
    /// # Errors
    /// [`EditError::Removed`]
    pub(super) fn blocks(&self) -> Result<Vec<Block>, EditError> {
        let slices = self.slices();
        let units: Vec<u16> = self.text().as_wtf8().utf16().collect();
        // Of two markers at one character the younger one holds. One whose character was deleted is none any more.
        let markers: BTreeMap<usize, &Slice> = slices
            .iter()
            .filter(|slice| slice.stacking == Stacking::Marker)
            .filter_map(|slice| {
                let at = slice.start.resolve(self.doc).filter(|at| !at.deleted)?;
                Some((at.position, slice))
            })
            .collect();
        let mut starts = vec![(0, None)];
        starts.extend(markers.iter().map(|(&at, &marker)| (at, Some(marker))));
        let marked = self.marked(&slices)?;
        let mut blocks = Vec::new();
        for (index, &(at, marker)) in starts.iter().enumerate() {
            let end = starts.get(index + 1).map_or(units.len(), |&(next, _)| next);
            let start = if marker.is_some() { (at + 1).min(end) } else { at };
            if marker.is_none() && end == 0 && starts.len() > 1 {
                // Nothing stands before the first marker.
                continue;
            }
            let first = marked.partition_point(|(range, _)| range.end <= start);
            let within = marked[first..].iter().take_while(|(range, _)| range.start < end);
            let within =
                within.map(|(range, marks)| (range.start.max(start)..range.end.min(end), marks.clone()));
            let spans = joined(&units, within);
            blocks.push(Block {
                tag: marker.map(|marker| marker.tag.clone()),
                steps: marker.map(|marker| marker.all_steps()).unwrap_or_default(),
                data: marker.map_or(Value::Undefined, |marker| marker.data.clone()),
                range: start..end,
                spans,
            });
        }
        Ok(blocks)
    }

    /// Ranges of positions with the marks that hold there. Together they are the whole text.
    fn marked(&self, slices: &[Slice]) -> Result<Vec<(Range<usize>, Marks)>, EditError> {
        let len = self.node()?.len();
        // By position: which slices begin (true) or end there.
        let mut borders: BTreeMap<usize, Vec<(usize, bool)>> = BTreeMap::new();
        for (at, range) in self.ranges(slices) {
            borders.entry(range.start).or_default().push((at, true));
            borders.entry(range.end).or_default().push((at, false));
        }
        let mut active: BTreeMap<&Text, BTreeSet<usize>> = BTreeMap::new();
        let (mut ranges, mut from) = (Vec::new(), 0);
        for (position, changes) in borders {
            if position > from {
                ranges.push((from..position, marks(slices, &active)));
                from = position;
            }
            for (at, begins) in changes {
                let tag = active.entry(&slices[at].tag).or_default();
                if begins {
                    tag.insert(at);
                } else {
                    tag.remove(&at);
                }
            }
        }
        if from < len {
            ranges.push((from..len, marks(slices, &active)));
        }
        Ok(ranges)
    }

    /// The marks that hold at a unit.
    pub(super) fn marks_at(&self, slices: &[Slice], position: usize) -> Marks {
        let mut active: BTreeMap<&Text, BTreeSet<usize>> = BTreeMap::new();
        for (at, _) in self.ranges(slices).filter(|(_, range)| range.contains(&position)) {
            active.entry(&slices[at].tag).or_default().insert(at);
        }
        marks(slices, &active)
    }

    /// The slices that format something, by their place, with what they stand on now.
    fn ranges(&self, slices: &[Slice]) -> impl Iterator<Item = (usize, Range<usize>)> {
        let formats = |slice: &Slice| !matches!(slice.stacking, Stacking::Marker | Stacking::Cursor);
        slices.iter().enumerate().filter(move |(_, slice)| formats(slice)).filter_map(|(at, slice)| {
            let (start, end) = (slice.start.resolve(self.doc)?, slice.end.resolve(self.doc)?);
            (start.position < end.position).then_some((at, start.position..end.position))
        })
    }

    /// The text as a Quill delta of inserts. A block's tag is an attribute of its own line feed.
    ///
    /// # Errors
    /// [`EditError::Removed`]
    pub(super) fn to_quill(&self) -> Result<Vec<QuillOp>, EditError> {
        self.quill_of(&self.slices())
    }

    /// The same as json-joy shows it: with the marks of which the youngest one holds, and no others.
    ///
    /// # Errors
    /// [`EditError::Removed`]
    pub(in crate::model) fn inline_quill(&self) -> Result<Vec<QuillOp>, EditError> {
        let mut slices = self.slices();
        slices.retain(|slice| matches!(slice.stacking, Stacking::One | Stacking::Erase));
        self.quill_of(&slices)
    }

    fn quill_of(&self, slices: &[Slice]) -> Result<Vec<QuillOp>, EditError> {
        let units: Vec<u16> = self.text().as_wtf8().utf16().collect();
        let doc = self.doc;
        let mut markers: std::collections::BTreeMap<usize, Vec<(Text, Value)>> = Default::default();
        for slice in slices.iter().filter(|slice| slice.stacking == Stacking::Marker) {
            if let Some(at) = slice.start.resolve(doc).filter(|at| !at.deleted) {
                markers.insert(at.position, vec![(slice.tag.clone(), slice.value())]);
            }
        }
        let mut ops: Vec<QuillOp> = Vec::new();
        let mut push = |range: std::ops::Range<usize>, marks: Vec<(Text, Value)>| {
            if range.is_empty() {
                return;
            }
            let is_embed = |tag: &Text| tag.as_str() == Some(EMBED_TAG);
            if let Some((_, embed)) = marks.iter().find(|(tag, _)| is_embed(tag)) {
                let rest: Vec<_> = marks.iter().filter(|(tag, _)| !is_embed(tag)).cloned().collect();
                ops.extend(range.map(|_| QuillOp::Embed(embed.clone(), rest.clone())));
                return;
            }
            let text = Text::from_utf16(units[range].iter().copied());
            match ops.last_mut() {
                Some(QuillOp::Insert(last, attributes)) if *attributes == marks => last.push(text.as_wtf8()),
                _ => ops.push(QuillOp::Insert(text, marks)),
            }
        };
        for (range, marks) in self.marked(slices)? {
            let mut from = range.start;
            for (&at, marker) in markers.range(range.clone()) {
                push(from..at, marks.clone());
                push(at..at + 1, marks.iter().chain(marker).cloned().collect());
                from = at + 1;
            }
            push(from..range.end, marks);
        }
        Ok(ops)
    }
}

/// Ranges of a text as spans: those side by side that look the same are one, and what is empty is none.
fn joined(units: &[u16], ranges: impl IntoIterator<Item = (Range<usize>, Marks)>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (range, marks) in ranges.into_iter().filter(|(range, _)| !range.is_empty()) {
        let text = Text::from_utf16(units[range].iter().copied());
        match spans.last_mut() {
            Some(last) if last.marks == marks => last.text.push(text.as_wtf8()),
            _ => spans.push(Span { text, marks }),
        }
    }
    spans
}

/// What holds where some slices are active: those with greater numbers are younger.
fn marks(slices: &[Slice], active: &BTreeMap<&Text, BTreeSet<usize>>) -> Marks {
    let mut marks = Vec::new();
    for (&tag, active) in active {
        let mut many = Vec::new();
        let mut one = None;
        for &at in active.iter().rev() {
            match slices[at].stacking {
                Stacking::Erase => break,
                Stacking::One => {
                    one = Some(slices[at].value());
                    break;
                }
                _ => many.push(slices[at].value()),
            }
        }
        many.reverse();
        match one {
            Some(value) if many.is_empty() => marks.push((tag.clone(), value)),
            one if one.is_some() || !many.is_empty() => {
                marks.push((tag.clone(), one.into_iter().chain(many).collect()));
            }
            _ => {}
        }
    }
    marks
}
