//! Why an edit cannot be made.

use crate::{
    Timestamp,
    document::{ApplyError, Kind},
};

/// An edit that cannot be made. The document is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// There is nothing at a path.
    #[error("there is nothing at {path:?}")]
    NotFound {
        /// The path, as a JSON pointer.
        path: String,
    },
    /// There is something else at a path.
    #[error("at {path:?} is a {found:?}: a {expected:?} is needed")]
    Kind {
        /// The path, as a JSON pointer.
        path: String,
        /// What is needed.
        expected: Kind,
        /// What is there.
        found: Kind,
    },
    /// A node that has been removed since the cursor was made.
    #[error("node {0} has been removed")]
    Removed(Timestamp),
    /// A position behind the end.
    #[error("position {position} is behind the end, {len}")]
    OutOfRange {
        /// The position, with the length of what it was about.
        position: usize,
        /// How long the text, byte string, array or tuple is (or can be).
        len: usize,
    },
    /// A range that has nothing in it, where something is to be marked.
    #[error("the range {start}..{end} has nothing in it to mark")]
    EmptyRange {
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// A path that is not a JSON pointer.
    #[error("{0:?} is no JSON pointer: one is empty or starts with '/'")]
    Path(String),
    /// There is no room.
    #[error(transparent)]
    Refused(#[from] ApplyError),
    /// Edits that were not flushed, where none may be.
    #[error("there are edits that were not flushed: flush them first")]
    Unflushed,
    /// A state of the past, where none are kept.
    #[error("the model keeps no history: call keep_history first")]
    NoHistory,
    /// A value that is nested deeper than can be kept.
    #[error("the value is nested deeper than {max}: put what is further inside elsewhere")]
    TooDeep {
        /// How deep what is edited inside can be; a constant within can be as deep once more.
        max: usize,
    },
    /// A number to be counted with that is none, or would be.
    #[error("the number is not finite")]
    NotFinite,
    /// A document that lacks what this one has.
    #[error(
        "the document lacks {missing}, which this one has: edits would be numbered as ones that were sent"
    )]
    Behind {
        /// The last time that this one has of a session.
        missing: Timestamp,
    },
    /// The times of the session are used up.
    #[error("the clock would run beyond {max}")]
    Clock {
        /// The last time there is.
        max: u64,
    },
}
