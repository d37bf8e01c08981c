//! The JSON value of a document.

use std::collections::HashSet;

use super::{
    Document,
    content::TextOut,
    node::{Form, NIL},
    store::Store,
};
use crate::{
    text::{Text, Wtf8},
    value::Value,
};

/// How much a view shows again of nodes that are referred to from more than one place, beyond as much as it has shown once.
/// A node counts one, an element of a sequence and a byte of a constant one each. Honest editors never make such nodes;
/// without a bound a small document could have a view of any size.
const ALIASES_MAX: usize = 1 << 16;

impl Document {
    /// The deepest node that a view shows; below it stands `null`.
    pub const VIEW_DEPTH_MAX: usize = 256;

    /// The document as a JSON value; `undefined` if its root was never set.
    pub fn view(&self) -> Value {
        if let Some(view) = self.store.view_unread() {
            return view;
        }
        self.root_node().map_or(Value::Undefined, |root| self.view_of(root))
    }

    pub(crate) fn view_of(&self, node: u32) -> Value {
        view_of(&self.store, node)
    }

    /// The view with some tuples as something else.
    pub(crate) fn view_with(&self, tuples: &dyn Fn(u32) -> Option<Shown>) -> Value {
        self.root_node().map_or(Value::Undefined, |root| self.view_of_with(root, tuples))
    }

    /// The value of a node with some tuples as something else.
    pub(crate) fn view_of_with(&self, node: u32, tuples: &dyn Fn(u32) -> Option<Shown>) -> Value {
        View::new(&self.store, tuples).value(node, Self::VIEW_DEPTH_MAX)
    }
}

/// The JSON value of a node and all that it holds.
pub(super) fn view_of(store: &Store, node: u32) -> Value {
    View::new(store, &|_| None).value(node, Document::VIEW_DEPTH_MAX)
}

/// What a tuple is shown as.
pub(crate) enum Shown {
    Value(Value),
    /// Another node, in its place.
    Node(u32),
}

struct View<'d> {
    store: &'d Store,
    tuples: &'d dyn Fn(u32) -> Option<Shown>,
    /// The nodes with several references that were met.
    met: HashSet<u32>,
    /// How many nodes that were met before stand around what is shown now.
    again: usize,
    /// How much may be shown again.
    left: usize,
}

impl<'d> View<'d> {
    fn new(store: &'d Store, tuples: &'d dyn Fn(u32) -> Option<Shown>) -> Self {
        Self { store, tuples, met: HashSet::new(), again: 0, left: ALIASES_MAX }
    }

    fn value(&mut self, node: u32, depth: usize) -> Value {
        let of = self.store.node(node);
        if of.is_dead() {
            return Value::Undefined;
        }
        if of.refs() > 1 && !self.met.insert(node) {
            self.again += 1;
            let value = self.shown(node, depth);
            self.again -= 1;
            return value;
        }
        self.shown(node, depth)
    }

    /// Whether something of this size may be shown.
    fn may_show(&mut self, len: usize) -> bool {
        if self.again == 0 {
            self.left = self.left.saturating_add(1 + len);
            return true;
        }
        let left = self.left.checked_sub(1 + len);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    fn shown(&mut self, node: u32, depth: usize) -> Value {
        let store = self.store;
        let len = match store.form(node) {
            Form::Con | Form::ConShort => store.con(node).map_or(0, |raw| raw.as_bytes().len()),
            Form::Str | Form::Bin => store.sequence(node).len() as usize,
            _ => 0,
        };
        if !self.may_show(len) {
            return Value::Undefined;
        }
        let Some(deeper) = depth.checked_sub(1) else { return Value::Null };
        match store.form(node) {
            Form::Con | Form::ConShort => store.con(node).map_or(Value::Undefined, |raw| raw.to_value()),
            Form::ConId => {
                // As the reference shows a timestamp: a pair of session and time.
                let id = store.con_id(node).unwrap_or(crate::Timestamp::ORIGIN);
                Value::Array(vec![Value::Int(id.sid.get() as i64), Value::Int(id.time as i64)])
            }
            Form::Val => match store.node(node).payload() {
                NIL => Value::Undefined,
                child => self.value(child, deeper),
            },
            Form::Obj => {
                let entries = store.obj(node).entries.iter();
                let shown = entries.filter_map(|entry| {
                    let value = self.value(entry.node, deeper);
                    (!value.is_undefined())
                        .then(|| (Wtf8::trusted(store.keys.get(entry.key)).to_text(), value))
                });
                Value::Map(shown.collect())
            }
            Form::Vec => {
                match (self.tuples)(node) {
                    Some(Shown::Value(value)) => return value,
                    Some(Shown::Node(other)) => return self.value(other, deeper),
                    None => {}
                }
                let places = store.vec(node).iter();
                Value::Array(
                    places
                        .map(|&child| if child == NIL { Value::Undefined } else { self.value(child, deeper) })
                        .collect(),
                )
            }
            Form::Str => Value::Text(text_of(store, node)),
            Form::Bin => {
                let sequence = store.sequence(node);
                let mut bytes = Vec::with_capacity(sequence.len() as usize);
                for chunk in sequence.chunks().filter(|chunk| !chunk.span.is_dead()) {
                    bytes.extend_from_slice(store.contents.narrow.get(chunk.offset, chunk.span.len()));
                }
                Value::Bytes(bytes)
            }
            Form::Arr => {
                let sequence = store.sequence(node);
                let mut items = Vec::with_capacity(sequence.len() as usize);
                for chunk in sequence.chunks().filter(|chunk| !chunk.span.is_dead()) {
                    let slots = store.slots(chunk.offset, chunk.span.len());
                    let present = slots.iter().filter(|&&slot| !store.node(slot).is_dead());
                    items.extend(present.map(|&slot| self.value(slot, deeper)));
                }
                Value::Array(items)
            }
            Form::Free => Value::Undefined,
        }
    }
}

/// The text of a text node.
pub(super) fn text_of(store: &Store, node: u32) -> Text {
    let sequence = store.sequence(node);
    let mut bytes = Vec::with_capacity(sequence.len() as usize);
    let mut text = TextOut::new(&mut bytes);
    store.contents.read_texts(sequence.chunks().filter(|chunk| !chunk.span.is_dead()), &mut text);
    drop(text);
    Text::trusted(bytes)
}
