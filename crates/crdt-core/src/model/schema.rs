//! What a document begins with: its shape and its default contents.
//!
//! Two replicas that each create "the same" empty document create two, and when they meet one of them loses. A schema
//! makes the first patch the same on every replica, byte for byte: it is of the reserved session
//! [`SessionId::GLOBAL`] and begins at time 1, as json-joy's is. So it need not even be sent.
//!
//! ```
//! use crdt_core::{Model, SessionId, model::schema::{arr, con, obj, str}};
//!
//! let schema = obj([("title", str("Untitled")), ("tags", arr([])), ("done", con(false))]);
//! let mut alice = Model::with_schema(SessionId::new(70_001).unwrap(), &schema)?;
//! let mut bob = Model::with_schema(SessionId::new(70_002).unwrap(), &schema)?;
//!
//! alice.api().str("/title")?.ins(0, "Still ")?;
//! bob.apply(&alice.flush().unwrap())?;
//! assert_eq!(bob.view().get("title"), Some(&"Still Untitled".into()));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use super::{ArrCursor, EditError, Extension, Model, ObjCursor};
use crate::{
    Patch, PatchBuilder, SessionId, Text, Timestamp, Value,
    document::{Applied, ApplyError},
};

/// The kind of a node and what it begins with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Schema {
    /// A constant.
    Con(Value),
    /// A register.
    Val(Box<Schema>),
    /// A map, with its keys in order.
    Obj(Vec<(Text, Schema)>),
    /// A tuple; `None` is a place that is not set.
    Vec(Vec<Option<Schema>>),
    /// Text.
    Str(Text),
    /// Bytes.
    Bin(Vec<u8>),
    /// An array.
    Arr(Vec<Schema>),
    /// What the API makes of a JSON value.
    Json(Value),
    /// A counter at zero.
    Counter,
    /// A multi-value register.
    MultiValue(Value),
    /// Rich text.
    RichText(Text),
    /// Rich text as the Quill editor has it.
    Quill(Text),
}

/// A constant: it is replaced, not edited inside.
pub fn con(value: impl Into<Value>) -> Schema {
    Schema::Con(value.into())
}

/// A register.
pub fn val(inner: Schema) -> Schema {
    Schema::Val(Box::new(inner))
}

/// A map.
pub fn obj<K: Into<Text>>(entries: impl IntoIterator<Item = (K, Schema)>) -> Schema {
    Schema::Obj(entries.into_iter().map(|(key, schema)| (key.into(), schema)).collect())
}

/// A tuple of at most 256 places.
pub fn vec(places: impl IntoIterator<Item = Schema>) -> Schema {
    Schema::Vec(places.into_iter().map(Some).collect())
}

/// Text.
pub fn str(text: impl Into<Text>) -> Schema {
    Schema::Str(text.into())
}

/// Bytes.
pub fn bin(bytes: impl Into<Vec<u8>>) -> Schema {
    Schema::Bin(bytes.into())
}

/// An array.
pub fn arr(items: impl IntoIterator<Item = Schema>) -> Schema {
    Schema::Arr(items.into_iter().collect())
}

/// What the API makes of a JSON value.
pub fn json(value: impl Into<Value>) -> Schema {
    Schema::Json(value.into())
}

/// A counter at zero.
pub const fn counter() -> Schema {
    Schema::Counter
}

/// A multi-value register.
pub fn multi_value(value: impl Into<Value>) -> Schema {
    Schema::MultiValue(value.into())
}

/// Rich text.
pub fn rich_text(text: impl Into<Text>) -> Schema {
    Schema::RichText(text.into())
}

/// Rich text as the Quill editor has it.
pub fn quill(text: impl Into<Text>) -> Schema {
    Schema::Quill(text.into())
}

impl Schema {
    /// The most places of a tuple.
    pub const PLACES_MAX: usize = 256;

    /// Whether it can be written.
    ///
    /// # Errors
    /// [`ApplyError::TooLarge`] for a tuple of more than [`PLACES_MAX`](Self::PLACES_MAX) places.
    pub fn check(&self) -> Result<(), ApplyError> {
        match self {
            Self::Vec(places) if places.len() > Self::PLACES_MAX => {
                let (value, max) = (places.len() as u64, Self::PLACES_MAX as u64);
                Err(ApplyError::TooLarge { what: "places of a tuple in a schema", value, max })
            }
            Self::Vec(places) => places.iter().flatten().try_for_each(Self::check),
            Self::Arr(items) => items.iter().try_for_each(Self::check),
            Self::Obj(entries) => entries.iter().try_for_each(|(_, schema)| schema.check()),
            Self::Val(inner) => inner.check(),
            _ => Ok(()),
        }
    }

    /// Writes the operations that create it, in the order of json-joy's. Returns the id of its node. What is nested deeper
    /// than [`Value::DEPTH_MAX`] becomes a constant without value.
    ///
    /// # Panics
    /// If it [cannot be written](Self::check).
    pub fn write(&self, patch: &mut PatchBuilder) -> Timestamp {
        self.write_within(patch, Value::DEPTH_MAX)
    }

    fn write_within(&self, patch: &mut PatchBuilder, depth: usize) -> Timestamp {
        let Some(deeper) = depth.checked_sub(1) else { return patch.new_con(&Value::Undefined) };
        match self {
            Self::Con(value) => patch.new_con(value),
            Self::Val(inner) => {
                let node = patch.new_val();
                let inner = inner.write_within(patch, deeper);
                patch.ins_val(node, inner);
                node
            }
            Self::Obj(entries) => {
                let node = patch.new_obj();
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, schema)| (key.as_wtf8(), schema.write_within(patch, deeper)))
                    .collect();
                patch.ins_obj(node, entries);
                node
            }
            Self::Vec(places) => {
                let node = patch.new_vec();
                assert!(
                    places.len() <= Self::PLACES_MAX,
                    "a tuple of {} places: at most {} are allowed",
                    places.len(),
                    Self::PLACES_MAX
                );
                let places = (0..=u8::MAX).zip(places);
                let places: Vec<_> = places
                    .filter_map(|(at, place)| Some((at, place.as_ref()?.write_within(patch, deeper))))
                    .collect();
                patch.ins_vec(node, places);
                node
            }
            Self::Str(text) => {
                let node = patch.new_str();
                patch.ins_str(node, node, text.as_wtf8());
                node
            }
            Self::Bin(bytes) => {
                let node = patch.new_bin();
                patch.ins_bin(node, node, bytes);
                node
            }
            Self::Arr(items) => {
                let node = patch.new_arr();
                let items: Vec<_> = items.iter().map(|item| item.write_within(patch, deeper)).collect();
                patch.ins_arr(node, node, &items);
                node
            }
            Self::Json(value) => patch.const_or_json(value),
            Self::Counter => patch.new_extension(Extension::Counter, PatchBuilder::new_obj),
            Self::MultiValue(value) => {
                let values = Value::Array(vec![value.clone()]);
                patch.new_extension(Extension::MultiValue, |patch| patch.json(&values))
            }
            Self::RichText(text) => patch.new_rich_text(Extension::Peritext, text.as_wtf8()),
            Self::Quill(text) => patch.new_rich_text(Extension::QuillDelta, text.as_wtf8()),
        }
    }

    /// The first patch of a document with these contents, the same on every replica.
    ///
    /// # Panics
    /// If it [cannot be written](Self::check).
    pub fn patch(&self) -> Patch {
        let mut patch = PatchBuilder::new(SessionId::GLOBAL, 1);
        let root = self.write(&mut patch);
        patch.ins_val(Timestamp::ORIGIN, root);
        // It has at least the operation that sets the root.
        patch.finish().unwrap_or_else(|| unreachable!("a patch without operations"))
    }
}

impl Model {
    /// A document with default contents, edited by a session.
    ///
    /// # Errors
    /// [`ApplyError`] if the contents are too large for a document.
    pub fn with_schema(session: SessionId, schema: &Schema) -> Result<Self, ApplyError> {
        schema.check()?;
        let mut model = Self::new(session);
        let _ = model.apply(&schema.patch())?;
        Ok(model)
    }

    /// Gives an empty document its default contents; [`Applied::Known`] if it is not empty.
    ///
    /// # Errors
    /// [`ApplyError`] if the contents are too large for a document.
    pub fn set_defaults(&mut self, schema: &Schema) -> Result<Applied, ApplyError> {
        schema.check()?;
        if self.doc.time() > 1 { Ok(Applied::Known) } else { self.apply(&schema.patch()) }
    }
}

impl ObjCursor<'_> {
    /// Puts a new node of any kind at a key.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn set_node(&mut self, key: impl Into<Text>, schema: &Schema) -> Result<(), EditError> {
        schema.check()?;
        let (obj, key) = (self.node()?.id(), key.into());
        self.model().write(|patch| {
            let node = schema.write(patch);
            patch.ins_obj(obj, [(key.as_wtf8(), node)]);
        })
    }
}

impl ArrCursor<'_> {
    /// Inserts new nodes of any kind at an index.
    ///
    /// # Errors
    /// [`EditError`]
    pub fn ins_nodes<'s>(
        &mut self,
        index: usize,
        schemas: impl IntoIterator<Item = &'s Schema>,
    ) -> Result<(), EditError> {
        let schemas: Vec<&Schema> = schemas.into_iter().collect();
        schemas.iter().try_for_each(|schema| schema.check())?;
        self.ins_made(index, |patch| schemas.into_iter().map(|schema| schema.write(patch)).collect())
    }
}
