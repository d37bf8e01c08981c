//! What changed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// JSON Merge Patch (RFC 7396). `None` where a merge patch can't say it: *after* holds a `null` that *before* does not.
    pub merge_patch: Option<Value>,
}

impl Diff {
    /// Whether anything changed.
    pub fn has_changes(&self) -> bool {
        !self.json_patch.0.is_empty()
    }
}
