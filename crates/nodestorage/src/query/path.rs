//! Places in a document: field names joined by dots, where a number is also the index of an array element.

use std::collections::HashSet;

use serde_json::Value;

use crate::Body;

/// How many names a path has at most: no body is deeper.
const NAMES_MAX: usize = crate::document::DEPTH_MAX;

/// A place in a document, such as `items.0.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<String>);

/// A path that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path:?} is not a path: field names joined by dots, up to {NAMES_MAX}, none empty, none starting with $"
)]
pub struct InvalidPath {
    /// What was given.
    pub path: String,
}

impl FieldPath {
    /// The name that stands for a document's id in filters and sorts.
    pub const ID: &'static str = "_id";

    /// Reads a path.
    pub fn new(path: &str) -> Result<Self, InvalidPath> {
        let names: Vec<_> = path.split('.').map(str::to_owned).collect();
        let good =
            names.len() <= NAMES_MAX && names.iter().all(|name| !name.is_empty() && !name.starts_with('$'));
        if good { Ok(Self(names)) } else { Err(InvalidPath { path: path.to_owned() }) }
    }

    /// Its names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether one of the two places lies within the other, or they are the same.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one == other)
    }

    /// The one value at exactly this place, where a number is an index if there is an array.
    pub(crate) fn find<'b>(&self, body: &'b mut Body) -> Option<&'b mut Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(body.get_mut(first)?, |value, name| match value {
            Value::Object(members) => members.get_mut(name),
            Value::Array(elements) => elements.get_mut(index(name)?),
            _ => None,
        })
    }

    /// What is at the place. An array on the way stands for each of its elements that is an object, so there may be
    /// several, or none at all.
    pub(crate) fn values<'b>(&self, body: &'b Body) -> Values<'b> {
        let mut found = Values::default();
        let (first, rest) = self.0.split_first().expect("a path has a name");
        match body.get(first) {
            Some(value) => walk(value, rest, &mut found),
            None => found.missing = true,
        }
        found
    }
}

impl std::fmt::Display for FieldPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// What is at a place.
#[derive(Debug, Default)]
pub(crate) struct Values<'b> {
    pub(crate) there: Vec<&'b Value>,
    /// Whether something on the way has nothing at the place, which counts as `null`.
    pub(crate) missing: bool,
    /// Arrays that were looked into for an index or name, with how many names are left from there on. In arrays within arrays
    /// there are two ways to each next one, and a body of some kilobytes would be walked for ever.
    seen: HashSet<(*const Value, usize)>,
}

impl<'b> Values<'b> {
    /// As an index has them and a sort sees them: what is missing is `null`, and so is an array without objects.
    pub(crate) fn with_nulls(self) -> Vec<&'b Value> {
        let mut values = self.there;
        if self.missing || values.is_empty() {
            values.push(&Value::Null);
        }
        values
    }
}

/// The index that a name is: digits, and none too many. `01` and `+1` are names like any other.
pub(crate) fn index(name: &str) -> Option<usize> {
    let is_index = name.bytes().all(|c| c.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if is_index { name.parse().ok() } else { None }
}

fn walk<'b>(value: &'b Value, names: &[String], found: &mut Values<'b>) {
    let Some((name, rest)) = names.split_first() else {
        found.there.push(value);
        return;
    };
    match value {
        Value::Object(members) => match members.get(name) {
            Some(member) => walk(member, rest, found),
            None => found.missing = true,
        },
        Value::Array(elements) => {
            if let Some(element) = index(name).and_then(|index| elements.get(index)) {
                if !found.seen.insert((elements.as_ptr(), names.len())) {
                    return;
                }
                walk(element, rest, found);
            }
            for element in elements.iter().filter(|element| element.is_object()) {
                walk(element, names, found);
            }
        }
        _ => found.missing = true,
    }
}
