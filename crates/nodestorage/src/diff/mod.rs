//! What changed.

mod json_patch_form;
mod merge_patch_form;
mod mongo_form;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use self::mongo_form::MongoUpdate;
use crate::Body;

/// The difference between two states of a document. A state is the body as a JSON object, or `null` for "absent".
///
/// Laws: applying either form to *before* gives *after*; equal states give an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// The version that *after* has.
    pub version: u64,
    /// JSON Patch (RFC 6902).
    pub json_patch: json_patch::Patch,
    /// JSON Merge Patch (RFC 7396). `None` where a merge patch can't say it: *after* holds a `null` in a place that
    /// the patch has to name. `Some(Value::Null)` is the patch `null`, which deletes the document.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub merge_patch: Option<Value>,
}

/// A field that is there is `Some`, also when it is `null`.
fn present<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(field).map(Some)
}

/// A diff that does not fit the state it was applied to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// An operation names a place that is not there, or tests for something else.
    #[error("patch does not fit the document: {0}")]
    DoesNotFit(String),
    /// The patch made something else than an object.
    #[error("patch made {0} of the document, not an object")]
    NotAnObject(&'static str),
}

impl Diff {
    /// The difference from one state to another; `None` is an absent document. `version` is that of `after`.
    ///
    /// The JSON Patch follows how people edit: only what changed is named, and an element that was inserted into or
    /// removed from the middle of an array is one operation. Where the operations within an object or array would take more
    /// than it takes itself, or would shift its elements too often, it is replaced by one operation: a patch is never much
    /// longer than what it makes. It takes time in the order of the documents' size, and so does applying it.
    pub fn between(before: Option<&Body>, after: Option<&Body>, version: u64) -> Self {
        Self {
            version,
            json_patch: json_patch_form::between(before, after),
            merge_patch: merge_patch_form::between(before, after),
        }
    }

    /// The difference between two equal states.
    pub fn empty(version: u64) -> Self {
        Self {
            version,
            json_patch: json_patch::Patch::default(),
            merge_patch: Some(Value::Object(Body::new())),
        }
    }

    /// Whether anything changed.
    pub fn has_changes(&self) -> bool {
        !self.json_patch.0.is_empty()
    }

    /// Whether it says all of *after*, whatever was before.
    #[cfg(feature = "mongodb")]
    pub(crate) fn is_whole(&self) -> bool {
        use json_patch::PatchOperation::{Add, Replace};
        match self.json_patch.0.first() {
            Some(Add(put)) => put.path.is_root(),
            Some(Replace(put)) => put.path.is_root(),
            _ => false,
        }
    }

    /// The change as MongoDB's update operators, for the state that it was made from. `None` where there are none: for a
    /// creation, a deletion, and names of fields that MongoDB has no path for.
    pub fn mongo_update(&self, before: &Body) -> Result<Option<MongoUpdate>, DiffError> {
        let after = self.apply(Some(before.clone()))?;
        Ok(after.and_then(|after| MongoUpdate::between(before, &after)))
    }

    /// What *before* becomes. On an error nothing is half done: the state that was passed in is dropped.
    pub fn apply(&self, before: Option<Body>) -> Result<Option<Body>, DiffError> {
        apply_json_patch(before, &self.json_patch)
    }
}

/// Applies a JSON Patch (RFC 6902), all of it or nothing, to a state.
pub fn apply_json_patch(before: Option<Body>, patch: &json_patch::Patch) -> Result<Option<Body>, DiffError> {
    let mut state = before.map_or(Value::Null, Value::Object);
    json_patch::patch_unsafe(&mut state, patch).map_err(|e| DiffError::DoesNotFit(e.to_string()))?;
    as_state(state)
}

/// Applies a Merge Patch (RFC 7396) to a state.
pub fn apply_merge_patch(before: Option<Body>, patch: &Value) -> Result<Option<Body>, DiffError> {
    let mut state = before.map_or(Value::Null, Value::Object);
    json_patch::merge(&mut state, patch);
    as_state(state)
}

fn as_state(value: Value) -> Result<Option<Body>, DiffError> {
    match value {
        Value::Null => Ok(None),
        Value::Object(body) => Ok(Some(body)),
        Value::Bool(_) => Err(DiffError::NotAnObject("a boolean")),
        Value::Number(_) => Err(DiffError::NotAnObject("a number")),
        Value::String(_) => Err(DiffError::NotAnObject("a string")),
        Value::Array(_) => Err(DiffError::NotAnObject("an array")),
    }
}

#[cfg(test)]
pub(crate) mod tests;
