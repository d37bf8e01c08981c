//! What the driver's errors mean here.

use mongodb::error::{Error, ErrorKind, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure};

use crate::StorageError;

/// Why one try of an operation failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// For the caller, at once.
    Storage(StorageError),
    /// The driver's. Whether the server has done what it was asked for is not known.
    Driver(Error),
    /// A write went with others, and what became of it is not known.
    Unanswered,
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Driver(error)
    }
}

impl From<Failure> for StorageError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Storage(error) => error,
            Failure::Driver(error) => of_driver(&error),
            Failure::Unanswered => {
                StorageError::OutcomeUnknown { reason: "the command was not answered".to_owned() }
            }
        }
    }
}

pub(super) fn of_driver(error: &Error) -> StorageError {
    match &*error.kind {
        ErrorKind::Shutdown => StorageError::Closed,
        _ => StorageError::Backend(error.to_string()),
    }
}

/// Server errors that pass: it steps down, starts or shuts down, or its connections were cut.
const PASSING: &[i32] = &[6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436];

/// Whether the same command may succeed when it is sent again in a moment.
pub fn is_passing(error: &Error) -> bool {
    error.contains_label("RetryableWriteError")
        || error.contains_label("NetworkTimeoutError")
        || match &*error.kind {
            ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. } => true,
            _ => code(error).is_some_and(|code| PASSING.contains(&code)),
        }
}

/// How often a server that fails inside is asked again.
pub const INSIDE_FAILURES_MAX: u32 = 3;

/// The server met an error of its own, `InternalError` or `UnknownError`: that says neither whether it has done what it
/// was asked for, nor whether it would fail again.
pub(super) fn has_failed_inside(error: &Error) -> bool {
    matches!(code(error), Some(1 | 8))
}

/// Whether a command is worth sending again: always after what passes, a few times to a server that fails inside.
#[derive(Debug, Default)]
pub(super) struct Tolerance {
    failed_inside: u32,
}

impl Tolerance {
    pub(super) fn bears(&mut self, error: &Error) -> bool {
        self.failed_inside += u32::from(has_failed_inside(error));
        is_passing(error) || has_failed_inside(error) && self.failed_inside <= INSIDE_FAILURES_MAX
    }
}

/// The server, or the driver before it sends anything, says that it has not done what it was asked for. A failure that passes is
/// none, and neither is one to keep what was done at other members of a replica set.
pub(super) fn is_refusal(error: &Error) -> bool {
    !is_passing(error)
        && match &*error.kind {
            ErrorKind::Command(_) => !error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT),
            ErrorKind::Write(WriteFailure::WriteError(_)) | ErrorKind::InvalidArgument { .. } => true,
            _ => false,
        }
}

/// The server's number for what went wrong.
pub(super) fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        ErrorKind::InsertMany(error) => {
            error.write_errors.as_ref().and_then(|errors| errors.first()).map(|error| error.code)
        }
        _ => None,
    }
}

/// A document with such an id, or such a value under a unique index, is there already.
pub(super) fn is_duplicate(error: &Error) -> bool {
    matches!(code(error), Some(11_000 | 11_001))
}

/// There is a collection of this name.
pub(super) fn is_there_already(error: &Error) -> bool {
    code(error) == Some(48)
}

/// There is an index of this name with other fields.
pub(super) fn is_other_index(error: &Error) -> bool {
    matches!(code(error), Some(85 | 86))
}

/// What was sent is larger than the server takes: a document of more than 16 MiB, or deeper than it reads.
pub(super) fn is_too_large(error: &Error) -> bool {
    matches!(code(error), Some(10_334 | 17_280 | 17_419 | 17_420 | 15))
        || matches!(&*error.kind, ErrorKind::InvalidArgument { message, .. } if message.contains("size"))
}

/// What a server says that is no longer able to write, or busy with the same document: nothing that is the document's.
const OF_THE_SERVER: &[i32] = &[50, 112, 14_031];

/// The server refuses this write to this document, and will again: its fields are not such as can be written to, or not
/// what the collection asks for.
pub(super) fn is_of_the_document(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(refused)) => {
            !is_passing(error) && !OF_THE_SERVER.contains(&refused.code)
        }
        _ => false,
    }
}

/// The change stream can't go on from where it was: its token is too old, or of another life of the server.
pub(super) fn is_history_lost(error: &Error) -> bool {
    matches!(code(error), Some(136 | 222 | 260 | 280 | 286 | 40_647))
        || error.contains_label("NonResumableChangeStreamError")
}

/// This server has no change streams: it is no member of a replica set.
pub(super) fn has_no_streams(error: &Error) -> bool {
    matches!(code(error), Some(40_573 | 59)) || matches!(code(error), Some(40_324))
}

/// The server does not have a command, or not for this user; or the driver has not sent it.
pub(super) fn lacks_command(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::IncompatibleServer { .. } | ErrorKind::InvalidArgument { .. } => true,
        ErrorKind::Command(error) => LACKING.contains(&error.code),
        _ => false,
    }
}

/// No right to it, no such command, none here, none in this version of the interface, none by this provider.
const LACKING: &[i32] = &[13, 59, 115, 323, 8_000];

/// This server has no transactions.
pub(super) fn has_no_transactions(error: &Error) -> bool {
    match &*error.kind {
        // The driver says so before it asks the server.
        ErrorKind::Transaction { message, .. } => message.contains("not supported"),
        ErrorKind::SessionsNotSupported => true,
        _ => code(error) == Some(20),
    }
}
