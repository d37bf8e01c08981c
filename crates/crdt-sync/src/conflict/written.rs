//! The writes in a patch, with the values that they write.

use std::{collections::HashMap, sync::Arc};

use crdt_core::{
    Document, PatchRef, Text, Timestamp, Value,
    patch::{Con, Op},
};

use super::{Place, Write, seen_by};

/// The writes of a patch in the places that `wanted` says.
pub(super) fn writes(patch: PatchRef<'_>, wanted: impl Fn(&Place) -> bool) -> Vec<(Timestamp, Place, Write)> {
    let mut found: Vec<(Timestamp, Timestamp, Place, Timestamp)> = Vec::new();
    for (id, op) in patch.ops() {
        let mut note = |obj: Timestamp, place: Place, node: Timestamp| {
            if wanted(&place) {
                found.push((id, obj, place, node));
            }
        };
        match op {
            Op::InsVal { obj, value } => note(obj, Place::Register, value),
            Op::InsObj { obj, entries } => {
                entries.for_each(|(key, node)| note(obj, Place::Key(key.to_text()), node));
            }
            Op::InsVec { obj, slots } => {
                slots.for_each(|(index, node)| note(obj, Place::Index(index), node));
            }
            Op::UpdArr { obj, slot, value } => note(obj, Place::Slot(slot), value),
            _ => {}
        }
    }
    if found.is_empty() {
        return Vec::new();
    }
    let mut clock = seen_by(patch);
    clock.advance(patch.id().sid, patch.id().time.saturating_sub(1));
    let (clock, mut made) = (Arc::new(clock), Made::of(patch));
    let write = |(id, obj, place, node)| {
        let value = made.value(node, Document::VIEW_DEPTH_MAX);
        (obj, place, Write { node, id, clock: Arc::clone(&clock), value })
    };
    found.into_iter().map(write).collect()
}

/// What a patch makes, as it is when the patch ends.
struct Made {
    nodes: HashMap<Timestamp, Node>,
    /// How many bytes of values may still be made.
    left: usize,
}

/// How many bytes of values a patch's writes have, for each of its own. A value within a value counts for both, so this
/// is also how deep rules may be nested with certainty. The values beyond it are `undefined`: a patch that puts one node
/// into many places does not make much out of little.
const VALUE_BYTES_MAX: usize = 32;

#[derive(Clone)]
enum Node {
    /// A constant, text or bytes, with its length.
    Whole(Value, usize),
    Register(Option<Timestamp>),
    Map(Vec<(Text, Timestamp)>),
    Tuple(Vec<Option<Timestamp>>),
    Array(Vec<Timestamp>),
}

impl Made {
    fn of(patch: PatchRef<'_>) -> Self {
        let mut made: HashMap<Timestamp, Node> = HashMap::new();
        for (id, op) in patch.ops() {
            let new = match op {
                Op::NewCon(Con::Value(value)) => Node::Whole(value.to_value(), value.as_bytes().len()),
                // As views show it.
                Op::NewCon(Con::Id(named)) => {
                    Node::Whole([named.sid.get(), named.time].into_iter().collect(), 2)
                }
                Op::NewVal => Node::Register(None),
                Op::NewObj => Node::Map(Vec::new()),
                Op::NewVec => Node::Tuple(Vec::new()),
                Op::NewStr => Node::Whole(Value::from(""), 0),
                Op::NewBin => Node::Whole(Value::Bytes(Vec::new()), 0),
                Op::NewArr => Node::Array(Vec::new()),
                op => {
                    if let Some(node) = op.target().and_then(|obj| made.get_mut(&obj)) {
                        node.fill(op);
                    }
                    continue;
                }
            };
            made.insert(id, new);
        }
        Self { nodes: made, left: VALUE_BYTES_MAX * patch.as_bytes().len() }
    }

    /// The value of a node; `undefined` if the patch did not make it, or makes more of its values than it may.
    fn value(&mut self, node: Timestamp, depth: usize) -> Value {
        let Some(deeper) = depth.checked_sub(1) else { return Value::Null };
        let Some(made) = self.nodes.get(&node) else { return Value::Undefined };
        let Some(left) = self.left.checked_sub(made.len_bytes()) else { return Value::Undefined };
        self.left = left;
        match made.clone() {
            Node::Whole(value, _) => value,
            Node::Register(held) => held.map_or(Value::Undefined, |held| self.value(held, deeper)),
            Node::Map(entries) => {
                let entries = entries.into_iter().map(|(key, node)| (key, self.value(node, deeper)));
                Value::Map(entries.filter(|(_, value)| !value.is_undefined()).collect())
            }
            Node::Tuple(places) => {
                let value = |place: Option<Timestamp>| {
                    place.map_or(Value::Undefined, |node| self.value(node, deeper))
                };
                Value::Array(places.into_iter().map(value).collect())
            }
            Node::Array(items) => {
                Value::Array(items.into_iter().map(|node| self.value(node, deeper)).collect())
            }
        }
    }
}

impl Node {
    /// About what its value costs by itself.
    fn len_bytes(&self) -> usize {
        1 + match self {
            Self::Whole(_, len_bytes) => *len_bytes,
            Self::Register(_) => 0,
            Self::Map(entries) => entries.iter().map(|(key, _)| 1 + key.as_bytes().len()).sum(),
            Self::Tuple(places) => places.len(),
            Self::Array(items) => items.len(),
        }
    }

    /// Fills a new node. Contents are taken in the order in which they are written, which is that of what makes a value
    /// as a whole; what is deleted again in the same patch is not looked at.
    fn fill(&mut self, op: Op<'_>) {
        match (self, op) {
            (Self::Register(held), Op::InsVal { value, .. }) => *held = Some(value),
            (Self::Map(held), Op::InsObj { entries, .. }) => {
                held.extend(entries.map(|(key, node)| (key.to_text(), node)));
            }
            (Self::Tuple(held), Op::InsVec { slots, .. }) => {
                for (index, node) in slots {
                    let index = usize::from(index);
                    held.resize(held.len().max(index + 1), None);
                    held[index] = Some(node);
                }
            }
            (Self::Array(held), Op::InsArr { values, .. }) => held.extend(values),
            (Self::Whole(Value::Text(held), len_bytes), Op::InsStr { text, .. }) => {
                held.push(text);
                *len_bytes += text.as_bytes().len();
            }
            (Self::Whole(Value::Bytes(held), len_bytes), Op::InsBin { bytes, .. }) => {
                held.extend_from_slice(bytes);
                *len_bytes += bytes.len();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crdt_core::{PatchBuilder, SessionId, Wtf8};

    use super::*;

    #[test]
    fn a_patch_that_puts_one_value_into_many_places_makes_little_of_it() {
        let mut patch = PatchBuilder::new(SessionId::USER_MIN, 1);
        let map = patch.new_obj();
        let large = patch.new_con(&Value::from("x".repeat(10_000)));
        let keys: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
        patch.ins_obj(map, keys.iter().map(|key| (Wtf8::from(key.as_str()), large)).collect::<Vec<_>>());
        let patch = patch.finish().unwrap();
        let writes = writes(patch.as_ref(), |_| true);
        assert_eq!(writes.len(), keys.len());
        let made: usize = writes.iter().map(|(.., write)| write.value.as_str().map_or(0, str::len)).sum();
        assert!(made > 0 && made <= VALUE_BYTES_MAX * patch.as_bytes().len());
    }
}
