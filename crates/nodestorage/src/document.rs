//! What is stored.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::StorageError;

/// The fields of a document: a JSON object. The version is not one of them; the storage keeps it beside.
pub type Body = Map<String, Value>;

/// How deep a body may be nested, itself included. Less than what [`crdt_core::EncodingFormat`] reads back, as a
/// change carries parts of a body some levels further down.
pub const DEPTH_MAX: usize = 100;

/// The name of a document, unique in its collection: 1 to [`Self::LEN_BYTES_MAX`] bytes of text without control
/// characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DocumentId(Arc<str>);

impl DocumentId {
    /// The longest id.
    pub const LEN_BYTES_MAX: usize = 255;

    /// Takes an id from outside.
    pub fn new(id: impl AsRef<str>) -> Result<Self, InvalidDocumentId> {
        let id = id.as_ref();
        if id.is_empty() || id.len() > Self::LEN_BYTES_MAX {
            return Err(InvalidDocumentId::Length { len: id.len() });
        }
        match id.chars().find(|c| c.is_control()) {
            Some(control) => Err(InvalidDocumentId::Control(control)),
            None => Ok(Self(id.into())),
        }
    }

    /// What is before every id, and none itself.
    pub(crate) fn least() -> Self {
        Self("".into())
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A document id that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDocumentId {
    /// Empty or too long.
    #[error("document id of {len} bytes: 1 to {} are allowed", DocumentId::LEN_BYTES_MAX)]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// With a control character.
    #[error("document id with the control character {0:?}")]
    Control(char),
}

impl TryFrom<String> for DocumentId {
    type Error = InvalidDocumentId;
    fn try_from(id: String) -> Result<Self, InvalidDocumentId> {
        Self::new(id)
    }
}

impl From<DocumentId> for String {
    fn from(id: DocumentId) -> Self {
        (*id.0).to_owned()
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A document as it stood at a version. Shared and immutable: whoever wants to change it edits a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its name.
    pub id: DocumentId,
    /// How many changes made it: 1 after its creation. A delete is a change too, and so is creating it anew.
    pub version: u64,
    /// Its fields.
    pub body: Arc<Body>,
}

impl Document {
    /// Reads the body as a type of the application.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, StorageError> {
        T::deserialize(Value::Object((*self.body).clone()))
            .map_err(|e| StorageError::InvalidDocument { id: self.id.clone(), reason: e.to_string() })
    }
}
