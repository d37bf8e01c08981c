//! Commands that are sent again when their connection was cut, for so long and no longer.

use std::time::Duration;

use nodestorage::mongo::{
    driver::error::{Error, ErrorKind, WriteFailure},
    is_passing,
};

use super::PatchStoreError;
use crate::SharedError;

/// How long a command may take, with all that it is sent again because its connection was cut; then the call that it belongs
/// to fails, and it is the caller's to try again: a manager does ([`StoreRetry`](crate::StoreRetry)), and asks in between
/// whether it is to stop. So a call that meets an outage ends within this, however long the outage is.
const COMMAND_MAX: Duration = Duration::from_secs(5);
/// The pause before a command is sent again.
const TRY_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn backend(error: Error) -> PatchStoreError {
    Failed::from(error).into()
}

/// Why a command failed.
pub(super) enum Failed {
    /// The row at this place of the command is there already.
    Duplicate(usize),
    /// Nobody answered in time.
    Late(Option<Error>),
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        duplicate(&error).map_or(Self::Other(error), Self::Duplicate)
    }
}

impl From<Failed> for PatchStoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Other(error) if matches!(*error.kind, ErrorKind::Shutdown) => Self::Closed,
            Failed::Other(error) => Self::Backend(SharedError::new(error)),
            Failed::Duplicate(_) => Self::Backend(SharedError::new("a row is there already")),
            Failed::Late(None) => {
                Self::Backend(SharedError::new(format!("no answer within {COMMAND_MAX:?}")))
            }
            Failed::Late(Some(error)) => {
                Self::Backend(SharedError::new(format!("no answer within {COMMAND_MAX:?}: {error}")))
            }
        }
    }
}

pub(super) fn duplicate(error: &Error) -> Option<usize> {
    match &*error.kind {
        ErrorKind::InsertMany(error) => {
            error.write_errors.as_ref()?.first().filter(|error| error.code == 11_000).map(|error| error.index)
        }
        ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == 11_000 => Some(0),
        ErrorKind::Command(error) if error.code == 11_000 => Some(0),
        _ => None,
    }
}

/// Waits for an answer, and no longer than for a command.
pub(super) async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
    match tokio::time::timeout(COMMAND_MAX, answer).await {
        Ok(answer) => answer.map_err(Failed::from),
        Err(_) => Err(Failed::Late(None)),
    }
}

/// Sends a command again whose connection was cut: each here may be applied twice.
pub(super) async fn again<T, F>(command: impl Fn() -> F) -> Result<T, Failed>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut failed = None;
    let tries = async {
        loop {
            match command().await {
                Err(error) if is_passing(&error) => {
                    failed = Some(error);
                    tokio::time::sleep(TRY_PAUSE).await;
                }
                done => return done.map_err(Failed::from),
            }
        }
    };
    match tokio::time::timeout(COMMAND_MAX, tries).await {
        Ok(done) => done,
        Err(_) => Err(Failed::Late(failed)),
    }
}
