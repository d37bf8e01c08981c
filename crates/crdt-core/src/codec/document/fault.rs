//! What can be wrong with a document from outside, and where.

use std::fmt;

use super::{LoadError, Malformed};
use crate::Timestamp;

/// Bytes that are not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// They are no such form.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// They are, but what they say cannot be.
    #[error("{source}, {place}")]
    Impossible {
        /// Where they say it, or just before.
        place: Place,
        /// What cannot be.
        source: LoadError,
    },
    /// One of the parts of a form that has several is wrong; places count within it.
    #[error("{part}: {source}")]
    Part {
        /// Which.
        part: String,
        /// What is wrong with it.
        source: Box<DocumentError>,
    },
}

/// A place in what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Bytes up to this one had been read.
    Byte(usize),
    /// A value, by the way to it, such as `$[1][2]`.
    Path(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(at) => write!(f, "at byte {at}"),
            Self::Path(path) => write!(f, "at {path}"),
        }
    }
}

impl DocumentError {
    /// The byte where it is, or behind which, in its part if the form has several; `None` where the way to a value is told.
    pub fn offset(&self) -> Option<usize> {
        match self {
            Self::Malformed(malformed) => malformed.offset(),
            Self::Impossible { place: Place::Byte(at), .. } => Some(*at),
            Self::Impossible { place: Place::Path(_), .. } => None,
            Self::Part { source, .. } => source.offset(),
        }
    }

    /// Says in which part it is wrong.
    pub(super) fn of(self, part: impl Into<String>) -> Self {
        Self::Part { part: part.into(), source: self.into() }
    }
}

/// What is wrong, while its place is not known yet: a reader of bytes tells where it stood, one of values adds the steps of
/// the way as the error travels up.
#[derive(Debug)]
pub(super) enum Fault {
    Malformed(Malformed),
    Impossible { path: String, source: LoadError },
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<LoadError> for Fault {
    fn from(source: LoadError) -> Self {
        Self::Impossible { path: String::new(), source }
    }
}

impl Fault {
    /// The id that stands twice, if that is what is wrong. It is mostly noticed when all has been read.
    const fn duplicate(&self) -> Option<Timestamp> {
        match self {
            Self::Impossible { source: LoadError::Duplicate(id), .. } => Some(*id),
            _ => None,
        }
    }

    /// Puts a step in front of the way.
    pub(super) fn within(self, step: impl fmt::Display) -> Self {
        match self {
            Self::Malformed(malformed) => Self::Malformed(malformed.within(step)),
            Self::Impossible { mut path, source } => {
                path.insert_str(0, &step.to_string());
                Self::Impossible { path, source }
            }
        }
    }

    /// The error, if all steps of the way are there.
    pub(super) fn by_path(self) -> DocumentError {
        match self {
            Self::Malformed(malformed) => malformed.into(),
            Self::Impossible { path, source } => {
                DocumentError::Impossible { place: Place::Path(path), source }
            }
        }
    }

    /// The error, if it was found when bytes up to this one had been read.
    pub(super) fn at_byte(self, at: usize) -> DocumentError {
        match self {
            Self::Malformed(malformed) => malformed.into(),
            Self::Impossible { source, .. } => DocumentError::Impossible { place: Place::Byte(at), source },
        }
    }
}

/// Reads once, and if an id stands twice, again in search of the second place.
pub(super) fn or_find_double<T, E: HasFault>(
    mut read: impl FnMut(Option<Timestamp>) -> Result<T, E>,
) -> Result<T, E> {
    read(None).map_err(|found| match found.fault().duplicate() {
        Some(id) => read(Some(id)).err().unwrap_or(found),
        None => found,
    })
}

/// A fault, by itself or with the byte up to which was read.
pub(super) trait HasFault {
    fn fault(&self) -> &Fault;
}

impl HasFault for Fault {
    fn fault(&self) -> &Fault {
        self
    }
}

impl HasFault for (Fault, usize) {
    fn fault(&self) -> &Fault {
        &self.0
    }
}
