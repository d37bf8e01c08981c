//! Secondary indexes: what lets a query read only what it finds.

mod entries;
pub(crate) mod key;
mod plan;
pub(crate) mod read;

use std::fmt;

use crate::{
    StorageError,
    query::{Direction, FieldPath, SortBy},
};

pub use self::entries::{INDEX_ENTRIES_MAX, INDEX_KEY_BYTES_MAX};
#[cfg(feature = "embedded")]
pub(crate) use self::key::behind;
pub(crate) use self::{entries::Entries, key::encode};

/// How many fields an index may have.
pub const INDEX_FIELDS_MAX: usize = 8;

/// An index of a collection: its documents in the order of one or more fields.
///
/// It answers a query whose filter compares its first fields (`$eq`, then a range) and one whose sort it has, in either
/// direction. An array is found by each of its elements; what is missing, by `null`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Index {
    fields: Vec<(FieldPath, Direction)>,
}

impl Index {
    /// An index of one field, ascending.
    pub fn of(field: FieldPath) -> Self {
        Self { fields: vec![(field, Direction::Ascending)] }
    }

    /// An index of several fields, those that come first counting first: 1 to [`INDEX_FIELDS_MAX`], none twice.
    pub fn new(fields: Vec<(FieldPath, Direction)>) -> Result<Self, StorageError> {
        let unsupported = |what: String| Err(StorageError::Unsupported { what, backend: "indexes" });
        if !(1..=INDEX_FIELDS_MAX).contains(&fields.len()) {
            return unsupported(format!("an index of {} fields (1 to {INDEX_FIELDS_MAX} are)", fields.len()));
        }
        for (nth, (field, _)) in fields.iter().enumerate() {
            if fields[..nth].iter().any(|(other, _)| other == field) {
                return unsupported(format!("an index of {field} twice"));
            }
            if field.names() == [FieldPath::ID] {
                return unsupported("an index of _id, whose order the collection has already".to_owned());
            }
        }
        Ok(Self { fields })
    }

    /// Its fields.
    pub fn fields(&self) -> &[(FieldPath, Direction)] {
        &self.fields
    }

    /// Its name, made of its fields as MongoDB does: `rank_1_name_-1`. Two indexes of one name are the same index.
    pub fn name(&self) -> String {
        let field = |(path, direction): &(FieldPath, Direction)| match direction {
            Direction::Ascending => format!("{path}_1"),
            Direction::Descending => format!("{path}_-1"),
        };
        self.fields.iter().map(field).collect::<Vec<_>>().join("_")
    }

    /// The sort that it has.
    pub fn sort(&self) -> Vec<(SortBy, Direction)> {
        self.fields.iter().map(|(path, direction)| (SortBy::Field(path.clone()), *direction)).collect()
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// An index and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexStatus {
    /// The index.
    pub index: Index,
    /// Whether queries use it. Until it is ready they read the documents.
    pub ready: bool,
}

/// How a query is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Plan {
    /// By reading the documents of the collection in the order of their ids.
    Scan,
    /// By reading the documents whose ids the filter names, or those between two ids.
    Ids,
    /// By reading an index.
    Index {
        /// Its [`name`](Index::name).
        name: String,
        /// How many of its fields the filter narrows down.
        narrowed: usize,
        /// Whether it has the order that was asked for, so that reading stops with the page.
        ordered: bool,
    },
}

/// A query's plan, and what one page of it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// How it is answered.
    pub plan: Plan,
    /// How many documents were read for the page.
    pub examined: u64,
    /// How many documents are on the page.
    pub returned: u64,
}
