//! JSON Patch (RFC 6902) on a model, with the operations that json-joy makes of it.

use super::{ArrCursor, EditError, Model, ObjCursor, find_node, past_registers};
use crate::{
    PatchBuilder, Text, Timestamp, Value,
    codec::{
        Malformed, json,
        shape::{self, at, field, items, of},
    },
    document::{Kind, NodeRef},
};

/// One operation. Paths are JSON pointers (RFC 6901).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum JsonPatchOp {
    /// Sets a key or inserts an element; `-` is the end of an array.
    Add {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// Deletes a key or element.
    Remove {
        /// Where.
        path: String,
    },
    /// Removes, then adds.
    Replace {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// Removes from one place and adds at another.
    Move {
        /// From where.
        from: String,
        /// To where.
        path: String,
    },
    /// Adds what is at another place.
    Copy {
        /// From where.
        from: String,
        /// To where.
        path: String,
    },
    /// Fails unless the value is equal.
    Test {
        /// Where.
        path: String,
        /// What should be there.
        value: Value,
    },
    /// Inserts text into a text (json-joy's extension). A position behind the end is the end.
    StrIns {
        /// Which text.
        path: String,
        /// Where in it, in UTF-16 units.
        pos: usize,
        /// What.
        str: Text,
    },
    /// Deletes from a text (json-joy's extension).
    StrDel {
        /// Which text.
        path: String,
        /// Where in it, in UTF-16 units.
        pos: usize,
        /// How much.
        len: usize,
    },
}

/// An operation that could not be done. Those before it have been: see [`Model::transaction`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("operation {index}: {fault}")]
pub struct JsonPatchError {
    /// Which operation, from 0.
    pub index: usize,
    /// Why.
    pub fault: JsonPatchFault,
}

/// Why an operation of a JSON Patch could not be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonPatchFault {
    /// Nothing is there.
    #[error("there is nothing at {path:?}")]
    NotFound {
        /// Where.
        path: String,
    },
    /// Nothing can be added there.
    #[error("there is no map or array that could hold {path:?}")]
    NoContainer {
        /// Where.
        path: String,
    },
    /// The test failed.
    #[error("the value at {path:?} is not the one that is asked for")]
    Differs {
        /// Where.
        path: String,
    },
    /// A value cannot move into itself.
    #[error("{from:?} cannot move to {path:?}, into itself")]
    IntoItself {
        /// From where.
        from: String,
        /// To where.
        path: String,
    },
    /// The edit was refused.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// Reads a JSON Patch document.
///
/// # Errors
/// [`Malformed`]
pub fn decode(text: &[u8]) -> Result<Vec<JsonPatchOp>, Malformed> {
    from_value(&json::decode(text)?)
}

/// Reads a JSON Patch document that was parsed.
///
/// # Errors
/// [`Malformed`]
pub fn from_value(value: &Value) -> Result<Vec<JsonPatchOp>, Malformed> {
    let read = || -> Result<Vec<_>, Malformed> {
        let ops = items(value, "a JSON Patch: an array")?;
        ops.iter().enumerate().map(|(index, op)| read_op(op).map_err(at(index))).collect()
    };
    read().map_err(|error| error.within("$"))
}

fn read_op(op: &Value) -> Result<JsonPatchOp, Malformed> {
    let pointer = |key: &'static str| {
        let text = shape::text(field(op, key)).map_err(of(key))?;
        let pointer = text.as_str().filter(|text| text.is_empty() || text.starts_with('/'));
        let wrong = || of(key)(Malformed::shape("a JSON pointer", format!("{text:?}")));
        pointer.map(str::to_owned).ok_or_else(wrong)
    };
    let number = |key: &'static str| {
        let number = shape::number(field(op, key), u32::MAX.into(), "a position").map_err(of(key))?;
        // One that this machine cannot count to is behind every end.
        Ok::<_, Malformed>(usize::try_from(number).unwrap_or(usize::MAX))
    };
    let value = || match field(op, "value") {
        Value::Undefined => Err(of("value")(Malformed::shape("a value", "none"))),
        value => Ok(value.clone()),
    };
    let path = pointer("path")?;
    Ok(match field(op, "op").as_str().unwrap_or_default() {
        "add" => JsonPatchOp::Add { path, value: value()? },
        "remove" => JsonPatchOp::Remove { path },
        "replace" => JsonPatchOp::Replace { path, value: value()? },
        "move" => JsonPatchOp::Move { from: pointer("from")?, path },
        "copy" => JsonPatchOp::Copy { from: pointer("from")?, path },
        "test" => JsonPatchOp::Test { path, value: value()? },
        "str_ins" => {
            let str = shape::text(field(op, "str")).map_err(of("str"))?.to_text();
            JsonPatchOp::StrIns { path, pos: number("pos")?, str }
        }
        "str_del" => {
            let len = match field(op, "str") {
                Value::Text(text) => text.as_wtf8().units(),
                _ => number("len")?,
            };
            JsonPatchOp::StrDel { path, pos: number("pos")?, len }
        }
        other => return Err(of("op")(Malformed::shape("the name of an operation", format!("{other:?}")))),
    })
}

/// More than the operations take that remove a value and put one in its place, beside the key.
const PLACE_BYTES: usize = 256;

/// What a pointer's last step leads into.
enum Place {
    Root,
    Key { obj: u32, key: String },
    Index { arr: u32, index: usize },
}

impl Model {
    /// Does the operations of a JSON Patch, one after the other.
    ///
    /// ```
    /// use crdt_core::{Model, SessionId, Value, model::json_patch};
    /// use serde_json::json;
    ///
    /// let mut model = Model::new(SessionId::new(70_001).unwrap());
    /// model.api().root(&json!({"title": "warp", "tags": []}))?;
    /// let ops = json_patch::decode(
    ///     br#"[{"op": "test", "path": "/title", "value": "warp"}, {"op": "add", "path": "/tags/-", "value": "loom"}]"#,
    /// )?;
    /// model.transaction(|model| model.apply_json_patch(&ops))?;
    /// assert_eq!(model.view(), Value::from(&json!({"title": "warp", "tags": ["loom"]})));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`JsonPatchError`]; the operations before the one it names have been done, and that one has changed nothing that
    /// is seen. For all or nothing, do it within a
    /// [`transaction`](Self::transaction).
    pub fn apply_json_patch(&mut self, ops: &[JsonPatchOp]) -> Result<(), JsonPatchError> {
        for (index, op) in ops.iter().enumerate() {
            self.json_patch_op(op).map_err(|fault| JsonPatchError { index, fault })?;
        }
        Ok(())
    }

    fn json_patch_op(&mut self, op: &JsonPatchOp) -> Result<(), JsonPatchFault> {
        match op {
            JsonPatchOp::Add { path, value } => self.json_add(path, value),
            JsonPatchOp::Remove { path } => self.json_remove(path),
            JsonPatchOp::Replace { path, value } => {
                self.json_room(value)?;
                self.json_remove(path)?;
                self.json_add(path, value)
            }
            JsonPatchOp::Move { from, path } => {
                if path.strip_prefix(from.as_str()).is_some_and(|rest| rest.starts_with('/')) {
                    return Err(JsonPatchFault::IntoItself { from: from.clone(), path: path.clone() });
                }
                let value = self.json_read(from)?;
                check_pointer(path)?;
                self.json_room(&value)?;
                self.json_remove(from)?;
                // Where the pointer leads shows only now. If nowhere, nothing may be lost by that.
                self.json_add(path, &value).or_else(|fault| self.json_add(from, &value).and(Err(fault)))
            }
            JsonPatchOp::Copy { from, path } => {
                let value = self.json_read(from)?;
                self.json_add(path, &value)
            }
            JsonPatchOp::Test { path, value } => {
                let differs = || JsonPatchFault::Differs { path: path.clone() };
                check_pointer(path)?;
                let found = self.json_read(path).map_err(|_| differs())?;
                if found.in_key_order() == value.in_key_order() { Ok(()) } else { Err(differs()) }
            }
            JsonPatchOp::StrIns { path, pos, str } => {
                let mut text = self.api().str(path.as_str())?;
                let pos = text.len().min(*pos);
                Ok(text.ins(pos, str.as_wtf8())?)
            }
            JsonPatchOp::StrDel { path, pos, len } => {
                let mut text = self.api().str(path.as_str())?;
                let pos = text.len().min(*pos);
                let len = (text.len() - pos).min(*len);
                if len > 0 {
                    text.del(pos, len)?;
                }
                Ok(())
            }
        }
    }

    /// Whether there will be room for a value when something has been removed for it.
    fn json_room(&self, value: &Value) -> Result<(), EditError> {
        let mut patch = PatchBuilder::new(self.doc.session(), self.doc.time());
        let start = patch.mark();
        patch.json(value);
        super::cursor::uncut(&mut patch)?;
        self.room(patch.len_since(start) + PLACE_BYTES)
    }

    /// Where a pointer leads; the last step need not exist yet.
    fn json_place(&self, path: &str) -> Result<Place, JsonPatchFault> {
        check_pointer(path)?;
        let Some((parent, last)) = path.rsplit_once('/') else { return Ok(Place::Root) };
        let no_container = || JsonPatchFault::NoContainer { path: path.to_owned() };
        let container: Option<NodeRef<'_>> = find_node(&self.doc, &parent)?.and_then(past_registers);
        let container = container.ok_or_else(no_container)?;
        let node = container.number();
        match container.kind() {
            Kind::Obj => Ok(Place::Key { obj: node, key: last.replace("~1", "/").replace("~0", "~") }),
            Kind::Arr => {
                let index = if last == "-" { Some(container.len()) } else { index_of(last) };
                Ok(Place::Index { arr: node, index: index.ok_or_else(no_container)? })
            }
            _ => Err(no_container()),
        }
    }

    /// The value at a pointer, which may lead into a constant.
    fn json_read(&self, path: &str) -> Result<Value, JsonPatchFault> {
        check_pointer(path)?;
        let not_found = || JsonPatchFault::NotFound { path: path.to_owned() };
        let mut node = self.doc.root().ok_or_else(not_found)?;
        let mut steps = path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"));
        loop {
            let here = past_registers(node).ok_or_else(not_found)?;
            if here.kind() == Kind::Con {
                // The rest of the way is within the constant.
                let held = self.doc.view_of(here.number());
                let value = steps.try_fold(held, |value, step| part(value, &step));
                return value.filter(|value| !value.is_undefined()).ok_or_else(not_found);
            }
            let Some(step) = steps.next() else { return Ok(self.doc.view_of(here.number())) };
            let inner = here.get(&step).or_else(|| here.at(index_of(&step)?));
            node = inner.ok_or_else(not_found)?;
        }
    }

    fn json_add(&mut self, path: &str, value: &Value) -> Result<(), JsonPatchFault> {
        match self.json_place(path)? {
            Place::Root => self.write(|patch| {
                let node = patch.json(value);
                patch.ins_val(Timestamp::ORIGIN, node);
            })?,
            Place::Key { obj, key } => {
                let obj = self.doc.node_at(obj).id();
                self.write(|patch| {
                    let node = patch.json(value);
                    patch.ins_obj(obj, [(key.as_str(), node)]);
                })?;
            }
            Place::Index { arr, index } => ArrCursor::new(self, arr).ins(index, [value.clone()])?,
        }
        Ok(())
    }

    fn json_remove(&mut self, path: &str) -> Result<(), JsonPatchFault> {
        let not_found = || JsonPatchFault::NotFound { path: path.to_owned() };
        match self.json_place(path)? {
            Place::Root => self.write(|patch| {
                let node = patch.json(&Value::Null);
                patch.ins_val(Timestamp::ORIGIN, node);
            })?,
            Place::Key { obj, key } => {
                let mut obj = ObjCursor::new(self, obj);
                if !obj.has(&key) {
                    return Err(not_found());
                }
                obj.del([key])?;
            }
            Place::Index { arr, index } => {
                let mut arr = ArrCursor::new(self, arr);
                if index >= arr.len() {
                    return Err(not_found());
                }
                arr.del(index, 1)?;
            }
        }
        Ok(())
    }
}

/// Refuses what is no JSON pointer: operations that were not read from JSON can have any path, and one without a slash would
/// be taken for the root.
fn check_pointer(path: &str) -> Result<(), EditError> {
    let is_pointer = path.is_empty() || path.starts_with('/');
    if is_pointer { Ok(()) } else { Err(EditError::Path(path.to_owned())) }
}

/// The index that a step spells: digits without a sign or leading zeros.
fn index_of(step: &str) -> Option<usize> {
    let plain = step == "0" || !step.starts_with(['0', '+']);
    step.parse().ok().filter(|_| plain)
}

/// A part of a value.
fn part(value: Value, step: &str) -> Option<Value> {
    value.get(step).or_else(|| value.at(index_of(step)?)).cloned()
}
