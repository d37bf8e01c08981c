//! Under which keys an index holds a document.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Index, key};
use crate::{Body, DocumentId, StorageError, query::FieldPath};

/// How many entries one document may have in one index; arrays make one for each element. A document with more is
/// [`StorageError::InvalidDocument`].
pub const INDEX_ENTRIES_MAX: usize = 1_000;

/// The longest key of an entry in bytes. A document with a longer one is [`StorageError::InvalidDocument`].
pub const INDEX_KEY_BYTES_MAX: usize = 4_096;

/// What an index holds of a document.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// Without the id that follows each.
    pub(crate) keys: BTreeSet<Vec<u8>>,
    /// Whether a field has several values here. An index where that is so can't narrow a field from two sides, as two
    /// values may each keep to one of them.
    pub(crate) several: bool,
}

impl Entries {
    /// Those of a document; none of one that is absent.
    pub(crate) fn of(index: &Index, id: &DocumentId, body: Option<&Body>) -> Result<Self, StorageError> {
        let Some(body) = body else { return Ok(Self::default()) };
        let invalid = |reason: String| {
            let reason = format!("index {index} {reason}");
            Err(StorageError::InvalidDocument { id: id.clone(), reason })
        };
        let mut several = false;
        let mut keys = BTreeSet::from([Vec::new()]);
        for (path, direction) in index.fields() {
            let values = values(path, body);
            several |= values.len() > 1;
            if keys.len().saturating_mul(values.len()) > INDEX_ENTRIES_MAX {
                return invalid(format!("has room for {INDEX_ENTRIES_MAX} combinations of its values"));
            }
            keys = keys
                .iter()
                .flat_map(|key| {
                    values.iter().map(|value| {
                        let mut key = key.clone();
                        key::encode_in(*direction, value, &mut key);
                        key
                    })
                })
                .collect();
        }
        match keys.iter().map(Vec::len).max() {
            Some(len) if len > INDEX_KEY_BYTES_MAX => {
                invalid(format!("has room for {INDEX_KEY_BYTES_MAX} bytes, its fields take {len}"))
            }
            _ => Ok(Self { keys, several }),
        }
    }
}

/// All values that a filter may compare: what is at the place, and if that is an array, its elements too; `null` for what is
/// missing.
fn values<'b>(path: &FieldPath, body: &'b Body) -> Vec<&'b Value> {
    let mut values = Vec::new();
    for value in path.values(body).with_nulls() {
        values.push(value);
        if let Value::Array(elements) = value {
            values.extend(elements);
        }
    }
    values
}
