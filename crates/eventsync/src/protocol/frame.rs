//! Bytes from outside: is it the agreed form, and how deep does it go?

use crdt_core::EncodingFormat;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{DEPTH_MAX, Problem, ProblemType};

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameError {
    /// They are not of the agreed form at all.
    Syntax(Problem),
    /// They are of the form, but no message that is known.
    Shape(Problem),
}

impl FrameError {
    /// The problem to answer with.
    pub fn into_problem(self) -> Problem {
        match self {
            Self::Syntax(problem) | Self::Shape(problem) => problem,
        }
    }
}

/// Reads a message or body. `kind` is the problem of a wrong shape: [`ProblemType::InvalidMessage`] or
/// [`ProblemType::InvalidRequest`].
pub fn read<T: DeserializeOwned>(
    format: EncodingFormat,
    bytes: &[u8],
    kind: ProblemType,
) -> Result<T, FrameError> {
    // In two steps, so that the answer can tell broken syntax from a wrong shape, and limit the depth of both formats
    // alike before anything follows it.
    let value: Value = format
        .decode(bytes)
        .map_err(|e| FrameError::Syntax(Problem::new(ProblemType::InvalidJson, e.to_string())))?;
    let depth = depth(&value);
    if depth > DEPTH_MAX {
        let detail = format!("nested {depth} levels deep, at most {DEPTH_MAX} are allowed");
        return Err(FrameError::Shape(
            Problem::new(kind, detail).with("limit", DEPTH_MAX).with("actual", depth),
        ));
    }
    T::deserialize(value).map_err(|e| FrameError::Shape(Problem::new(kind, e.to_string())))
}

/// How deep objects and arrays are nested; 0 for a plain value. The decoders bound it, so this may recurse.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
