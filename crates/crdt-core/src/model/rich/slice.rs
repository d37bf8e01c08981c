//! The parts of a rich text that say something about a range of it: how they lie in the document.

use crate::{
    Text, Timestamp, Value,
    document::{Content, Document, Kind, NodeRef},
    model::{RelativePosition, Side},
    patch::PatchBuilder,
};

/// What a slice does to others of the same tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stacking {
    /// Splits the text in blocks, at one place.
    Marker,
    /// Stands beside others: comments.
    Many,
    /// The youngest one holds: bold, a link.
    One,
    /// Takes away what is older.
    Erase,
    /// Someone's cursor, as json-joy keeps it in the document. It formats nothing.
    Cursor,
}

impl Stacking {
    const fn bits(self) -> i64 {
        match self {
            Self::Marker => 0,
            Self::Many => 1,
            Self::One => 2,
            Self::Erase => 3,
            Self::Cursor => 4,
        }
    }

    const fn of(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::Marker,
            1 => Self::Many,
            2 => Self::One,
            3 => Self::Erase,
            4 => Self::Cursor,
            _ => return None,
        })
    }
}

/// Something that is said about a range of a rich text.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Its id. Of two that contradict each other, the one with the greater id holds.
    pub id: Timestamp,
    /// Where it begins.
    pub start: RelativePosition,
    /// Where it ends.
    pub end: RelativePosition,
    /// What it does to others of the same tag.
    pub stacking: Stacking,
    /// What it is about: `bold`, `link`. Numbers of json-joy are told as text.
    pub tag: Text,
    /// What it says; `undefined` if its tag says all.
    pub data: Value,
}

impl Slice {
    /// Reads a slice; `None` if the node is none, or is one of a kind that is not known.
    pub(super) fn read(document: &Document, node: NodeRef<'_>, text: Timestamp) -> Option<Self> {
        if node.kind() != Kind::Vec {
            return None;
        }
        let header = match node.at(0)?.content() {
            Content::Con(header) => header.to_value().as_u64()?,
            _ => return None,
        };
        let stacking = Stacking::of(header >> 2)?;
        let side = |bit: u64| if header >> bit & 1 == 0 { Side::Before } else { Side::After };
        let Content::ConId(anchor) = node.at(1)?.content() else { return None };
        let start = RelativePosition { node: text, anchor, side: side(0) };
        let anchor = match node.at(2)?.content() {
            Content::ConId(anchor) => anchor,
            // The same element as the start's.
            Content::Con(_) => start.anchor,
            _ => return None,
        };
        let end = RelativePosition { node: text, anchor, side: side(1) };
        let view = |node: NodeRef<'_>| document.view_of(node.number());
        let tag = match view(node.at(3)?) {
            // A type of several steps: the innermost one is what the block is.
            Value::Array(steps) => tag_of(steps.last()?)?,
            tag => tag_of(&tag)?,
        };
        let data = node.at(4).map_or(Value::Undefined, view);
        Some(Self { id: node.id(), start, end, stacking, tag, data })
    }

    /// Writes a slice; the id is that of its node.
    pub(super) fn write(
        patch: &mut PatchBuilder,
        (start, end): (RelativePosition, RelativePosition),
        stacking: Stacking,
        tag: &Text,
        data: &Value,
    ) -> Timestamp {
        let bit = |side: Side, bit: u32| i64::from(side == Side::After) << bit;
        let header = stacking.bits() << 2 | bit(end.side, 1) | bit(start.side, 0);
        let slice = patch.new_vec();
        let mut places = vec![
            (0, patch.new_con(&Value::Int(header))),
            (1, patch.new_con_id(start.anchor)),
            (
                2,
                if end.anchor == start.anchor {
                    patch.new_con(&Value::Int(0))
                } else {
                    patch.new_con_id(end.anchor)
                },
            ),
            (3, patch.new_con(&Value::Text(tag.clone()))),
        ];
        if !data.is_undefined() {
            places.push((4, patch.new_con(data)));
        }
        patch.ins_vec(slice, places);
        slice
    }

    /// What the mark says: its data, or that it is there.
    pub(super) fn value(&self) -> Value {
        if self.data.is_undefined() { Value::Bool(true) } else { self.data.clone() }
    }
}

fn tag_of(value: &Value) -> Option<Text> {
    match value {
        Value::Text(tag) => Some(tag.clone()),
        Value::Int(number) => Some(number.to_string().into()),
        // A step with a discriminant.
        Value::Array(parts) => tag_of(parts.first()?),
        _ => None,
    }
}
