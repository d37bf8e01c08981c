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

/// One step of what a block is: a list item in a list is of two.
///
/// ```
/// use crdt_core::{Value, model::BlockStep};
///
/// let item = BlockStep::from("li");
/// let list = BlockStep { tag: "ol".into(), number: 2, data: Value::Undefined };
/// let steps = [list, item];
/// # assert_eq!(steps[1].number, 0);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BlockStep {
    /// What it is: `quote`, `ul`, `li`. Numbers of json-joy are told as text.
    pub tag: Text,
    /// Tells two of the same tag apart that stand next to each other. Blocks in a row are in the same outer one as far as their
    /// steps have the same tags and numbers.
    pub number: u64,
    /// What it says beside; `undefined` if its tag says all.
    pub data: Value,
}

impl BlockStep {
    /// Reads a step: a tag, or a tag with its number and with what it says.
    fn read(value: &Value) -> Option<Self> {
        let Value::Array(parts) = value else { return Some(tag_of(value)?.into()) };
        let number = parts.get(1).and_then(Value::as_u64).unwrap_or(0);
        let data = parts.get(2).cloned().unwrap_or(Value::Undefined);
        Some(Self { tag: tag_of(parts.first()?)?, number, data })
    }

    fn write(&self, patch: &mut PatchBuilder) -> Timestamp {
        let tag = Value::Text(self.tag.clone());
        if self.number == 0 && self.data.is_undefined() {
            return patch.new_con(&tag);
        }
        let step = patch.new_vec();
        let mut places = vec![(0, patch.new_con(&tag)), (1, patch.new_con(&self.number.into()))];
        if !self.data.is_undefined() {
            places.push((2, patch.const_or_json(&self.data)));
        }
        patch.ins_vec(step, places);
        step
    }
}

impl<T: Into<Text>> From<T> for BlockStep {
    fn from(tag: T) -> Self {
        Self { tag: tag.into(), number: 0, data: Value::Undefined }
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
    /// If that is of several steps, all of them, the innermost last; its tag is this one's. Otherwise empty.
    pub steps: Vec<BlockStep>,
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
        let (tag, steps) = match view(node.at(3)?) {
            // A type of several steps: the innermost one is what the block is.
            Value::Array(steps) => {
                let steps = steps.iter().map(BlockStep::read).collect::<Option<Vec<_>>>()?;
                (steps.last()?.tag.clone(), steps)
            }
            tag => (tag_of(&tag)?, Vec::new()),
        };
        let data = node.at(4).map_or(Value::Undefined, view);
        Some(Self { id: node.id(), start, end, stacking, tag, steps, data })
    }

    /// Writes a slice; the id is that of its node.
    pub(super) fn write(
        patch: &mut PatchBuilder,
        (start, end): (RelativePosition, RelativePosition),
        stacking: Stacking,
        steps: &[BlockStep],
        data: &Value,
    ) -> Timestamp {
        let bit = |side: Side, bit: u32| i64::from(side == Side::After) << bit;
        let header = stacking.bits() << 2 | bit(end.side, 1) | bit(start.side, 0);
        let slice = patch.new_vec();
        let tag = match steps {
            [step] if step.number == 0 && step.data.is_undefined() => step.write(patch),
            steps => {
                let arr = patch.new_arr();
                let nodes: Vec<_> = steps.iter().map(|step| step.write(patch)).collect();
                patch.ins_arr(arr, arr, &nodes);
                arr
            }
        };
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
            (3, tag),
        ];
        if !data.is_undefined() {
            places.push((4, patch.new_con(data)));
        }
        patch.ins_vec(slice, places);
        slice
    }

    /// The steps of its tag, be they one or several.
    pub(super) fn all_steps(&self) -> Vec<BlockStep> {
        if self.steps.is_empty() { vec![self.tag.clone().into()] } else { self.steps.clone() }
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
