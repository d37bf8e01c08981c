//! Extension types: higher types that are made of the others, and that json-joy knows too.
//!
//! An extension is a tuple of two places: a constant of three bytes that says which extension it is (and repeats a part
//! of the tuple's id, so that ordinary data is not taken for one), and the node that holds its data. Who does not know it
//! sees a tuple.

use super::{Api, ArrCursor, EditError, Model, ObjCursor, Path, cursor::spans_at, rich::Reading};
use crate::{
    Document, PatchBuilder, SessionId, Text, Timestamp, Value,
    codec::base36,
    document::{Content, Kind, NodeRef, Shown, extension},
};

/// Which extension a tuple is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Extension {
    /// A register that keeps all values written at the same time.
    MultiValue,
    /// A number that everyone can add to at the same time.
    Counter,
    /// Text with marks.
    Peritext,
    /// Text as the Quill editor has it.
    QuillDelta,
    /// Any other, by its number.
    Other(u8),
}

impl Extension {
    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::MultiValue => 0,
            Self::Counter => 1,
            Self::Peritext => 2,
            Self::QuillDelta => 3,
            Self::Other(number) => number,
        }
    }

    const fn of(number: u8) -> Self {
        match number {
            0 => Self::MultiValue,
            1 => Self::Counter,
            2 => Self::Peritext,
            3 => Self::QuillDelta,
            other => Self::Other(other),
        }
    }

    fn header(self, tuple: Timestamp) -> Value {
        extension::header(self.number(), tuple)
    }
}

impl<'d> NodeRef<'d> {
    /// Which extension the node is, with the node that holds its data; `None` if it is none.
    pub fn extension(&self) -> Option<(Extension, NodeRef<'d>)> {
        if self.kind() != Kind::Vec || self.len() != 2 {
            return None;
        }
        let Content::Con(header) = self.at(0)?.content() else { return None };
        let number = extension::number(header, self.id())?;
        Some((Extension::of(number), self.at(1)?))
    }
}

impl Document {
    /// The document as a JSON value like [`view`](Self::view), but with extensions as what they stand for: a counter as its
    /// sum, a multi-value register as the array of its values, a rich text as its text, one of the Quill editor as a delta.
    /// Extensions that are not known here stay the tuples that they are. It is what
    /// [`json-joy`](https://www.npmjs.com/package/json-joy) shows once its extensions are registered; `view` is what it shows
    /// before, and shows every document without loss.
    ///
    /// Of rich text that is less than there is: of a [`Extension::Peritext`] no marks, of a [`Extension::QuillDelta`] neither
    /// blocks nor marks that stand beside others. [`RichTextCursor`](super::RichTextCursor) has all of it, as spans, as blocks
    /// and as a delta ([`to_quill`](super::RichTextCursor::to_quill)). A mark in a delta that says nothing says `true` here.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId, Value};
    /// use serde_json::json;
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.api().root(&json!({}))?;
    /// model.api().obj("")?.set_counter("likes", 2.0)?;
    /// model.api().counter("/likes")?.add(1.0)?;
    /// assert_eq!(model.document().view_extended(), Value::from(&json!({"likes": 3.0})));
    /// # Ok::<_, crdt_core::model::EditError>(())
    /// ```
    pub fn view_extended(&self) -> Value {
        self.view_with(&|node| self.extension_shown(node))
    }

    /// A part of [`view_extended`](Self::view_extended).
    pub(super) fn view_extended_of(&self, node: u32) -> Value {
        self.view_of_with(node, &|node| self.extension_shown(node))
    }

    fn extension_shown(&self, node: u32) -> Option<Shown> {
        let node = self.node_at(node);
        let (extension, data) = node.extension()?;
        match (extension, data.kind()) {
            (Extension::Counter, Kind::Obj) => Some(Shown::Value(sum(data).into())),
            (Extension::MultiValue, Kind::Arr) => Some(Shown::Node(data.number())),
            (Extension::Peritext, Kind::Vec) => {
                Some(Shown::Node(Reading::of(self, node)?.node().ok()?.number()))
            }
            (Extension::QuillDelta, Kind::Vec) => {
                let delta = Reading::of(self, node)?.inline_quill().ok()?;
                Some(Shown::Value(delta.iter().map(super::QuillOp::to_value).collect()))
            }
            _ => None,
        }
    }
}

/// What the sessions have added to a counter.
fn sum(parts: NodeRef<'_>) -> f64 {
    let Content::Obj(entries) = parts.content() else { return 0.0 };
    let mut parts: Vec<_> = entries.filter_map(|(key, child)| Some((key, part(child.node()?)?))).collect();
    // Keys stand in the order in which they came, and a sum of fractions depends on its order.
    parts.sort_unstable_by_key(|&(key, _)| key);
    parts.into_iter().map(|(_, part)| part).sum()
}

/// What one session has added.
fn part(node: NodeRef<'_>) -> Option<f64> {
    match super::past_registers(node)?.content() {
        Content::Con(value) => value.to_value().as_f64(),
        _ => None,
    }
}

impl PatchBuilder {
    /// Creates an extension; `data` creates the node that holds its data.
    pub fn new_extension(
        &mut self,
        extension: Extension,
        data: impl FnOnce(&mut Self) -> Timestamp,
    ) -> Timestamp {
        let tuple = self.new_vec();
        let header = self.new_con(&extension.header(tuple));
        let data = data(self);
        self.ins_vec(tuple, [(0, header), (1, data)]);
        tuple
    }
}

/// A counter: each session adds to a number of its own, and the sum is shown.
///
/// ```
/// use crdt_core::{Model, SessionId};
/// use serde_json::json;
///
/// let mut alice = Model::new(SessionId::new(70_001).unwrap());
/// alice.api().root(&json!({}))?;
/// alice.api().obj("")?.set_counter("likes", 1.0)?;
/// let mut bob = alice.fork(SessionId::new(70_002).unwrap());
///
/// // Both add at once, and nothing is lost.
/// alice.api().counter("/likes")?.add(1.0)?;
/// bob.api().counter("/likes")?.add(2.0)?;
/// alice.apply(&bob.flush().unwrap()).unwrap();
/// assert_eq!(alice.api().counter("/likes")?.value(), 4.0);
/// # Ok::<_, crdt_core::model::EditError>(())
/// ```
#[derive(Debug)]
pub struct CounterCursor<'m>(ObjCursor<'m>);

impl CounterCursor<'_> {
    /// The sum of what all sessions have added.
    pub fn value(&self) -> f64 {
        self.0.node().map_or(0.0, sum)
    }

    /// Adds a number, which may be negative.
    ///
    /// # Errors
    /// [`EditError::NotFinite`] if what this session has added would be no number that can be added to, and any other.
    pub fn add(&mut self, by: f64) -> Result<(), EditError> {
        let own = key_of(self.0.model().doc.session());
        let before = self.0.node()?.get(&own).and_then(part).filter(|part| part.is_finite());
        let sum = before.unwrap_or(0.0) + by;
        // It would be what all have added, for ever.
        if !sum.is_finite() {
            return Err(EditError::NotFinite);
        }
        self.0.set([(own, sum)])
    }
}

/// A register that keeps all values that were written at the same time.
///
/// ```
/// use crdt_core::{Model, SessionId};
/// use serde_json::json;
///
/// let mut alice = Model::new(SessionId::new(70_001).unwrap());
/// alice.api().root(&json!({}))?;
/// alice.api().obj("")?.set_multi_value("date", "Monday")?;
/// let mut bob = alice.fork(SessionId::new(70_002).unwrap());
///
/// alice.api().multi_value("/date")?.set("Tuesday")?;
/// bob.api().multi_value("/date")?.set("Friday")?;
/// alice.apply(&bob.flush().unwrap()).unwrap();
/// // Nobody's choice is hidden; the next one who writes has seen both.
/// assert_eq!(alice.api().multi_value("/date")?.values(), ["Tuesday".into(), "Friday".into()]);
/// alice.api().multi_value("/date")?.set("Sunday")?;
/// assert_eq!(alice.api().multi_value("/date")?.values(), ["Sunday".into()]);
/// # Ok::<_, crdt_core::model::EditError>(())
/// ```
#[derive(Debug)]
pub struct MultiValueCursor<'m>(ArrCursor<'m>);

impl MultiValueCursor<'_> {
    /// The values; more than one if they were written without knowing of each other.
    pub fn values(&self) -> Vec<Value> {
        match self.0.view() {
            Value::Array(values) => values,
            _ => Vec::new(),
        }
    }

    /// Writes a value in place of all that are seen.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set(&mut self, value: impl Into<Value>) -> Result<(), EditError> {
        let (arr, value) = (self.0.node()?.id(), value.into());
        let len = self.0.len() as u32;
        // All in one: if there is no room for the new value, the old ones stay.
        let seen = spans_at(&self.0.model().doc, arr, 0, len);
        self.0.model().write(|patch| {
            if !seen.is_empty() {
                patch.del(arr, &seen);
            }
            let node = patch.json(&value);
            patch.ins_arr(arr, arr, &[node]);
        })
    }
}

impl<'m> Api<'m> {
    /// The counter at a path.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn counter(self, path: impl Path) -> Result<CounterCursor<'m>, EditError> {
        let node = extension_at(self.model, &path, Extension::Counter, Kind::Obj)?;
        Ok(CounterCursor(ObjCursor::new(self.model, node)))
    }

    /// The multi-value register at a path.
    ///
    /// # Errors
    /// [`EditError`] if there is none.
    pub fn multi_value(self, path: impl Path) -> Result<MultiValueCursor<'m>, EditError> {
        let node = extension_at(self.model, &path, Extension::MultiValue, Kind::Arr)?;
        Ok(MultiValueCursor(ArrCursor::new(self.model, node)))
    }
}

impl ObjCursor<'_> {
    /// Puts a new counter at a key.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set_counter(&mut self, key: impl Into<Text>, start: f64) -> Result<(), EditError> {
        if !start.is_finite() {
            return Err(EditError::NotFinite);
        }
        let own = key_of(self.model().doc.session());
        self.set_extension(key, Extension::Counter, |patch| {
            let parts = patch.new_obj();
            if start != 0.0 {
                let part = patch.new_con(&start.into());
                patch.ins_obj(parts, [(own.as_str(), part)]);
            }
            parts
        })
    }

    /// Puts a new multi-value register at a key.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set_multi_value(
        &mut self,
        key: impl Into<Text>,
        value: impl Into<Value>,
    ) -> Result<(), EditError> {
        let value = value.into();
        self.set_extension(key, Extension::MultiValue, |patch| patch.json(&Value::Array(vec![value])))
    }

    /// Puts a new extension at a key; `data` creates the node that holds its data.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set_extension(
        &mut self,
        key: impl Into<Text>,
        extension: Extension,
        data: impl FnOnce(&mut PatchBuilder) -> Timestamp,
    ) -> Result<(), EditError> {
        let (obj, key) = (self.node()?.id(), key.into());
        self.model().write(|patch| {
            let tuple = patch.new_extension(extension, data);
            patch.ins_obj(obj, [(key.as_wtf8(), tuple)]);
        })
    }
}

/// The key of a session's part of a counter.
fn key_of(session: SessionId) -> String {
    base36(session.get())
}

/// The node that holds the data of an extension.
fn extension_at(model: &Model, path: &impl Path, which: Extension, data: Kind) -> Result<u32, EditError> {
    let not_found = || EditError::NotFound { path: path.pointer() };
    let node = super::find_node(&model.doc, path)?.and_then(super::past_registers).ok_or_else(not_found)?;
    match node.extension() {
        Some((extension, payload)) if extension == which && payload.kind() == data => Ok(payload.number()),
        _ => Err(not_found()),
    }
}
