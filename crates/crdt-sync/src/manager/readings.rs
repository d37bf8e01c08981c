//! How often what a store has is read from the beginning, while other processes fold it.

use crdt_core::{SessionId, StateVector};

use super::{SyncError, folding::corrupt};

/// How often what a store has is read from the beginning, because another process put a snapshot in the place of patches that
/// were not read yet. Who folds leaves little for the next one to fold, so that even twice on end is rare. At the bound the read ends
/// with [`SyncError::FoldedMeanwhile`]: a start fails and may be tried again, folding waits for its next turn, and a client
/// of a gateway comes again.
pub const READINGS_MAX: usize = 16;

/// The readings of one read, each above the snapshot that it began with.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    last_above: Option<StateVector<SessionId>>,
    made: usize,
}

impl Readings {
    /// Begins one above a snapshot that contains this, for the first time or because what was to be read is only left in a
    /// snapshot by now. Then it is another one than the time before.
    ///
    /// # Errors
    /// If it is the same snapshot again, or there were enough.
    pub(crate) fn begin(&mut self, above: &StateVector<SessionId>) -> Result<(), SyncError> {
        if self.last_above.as_ref() == Some(above) {
            return Err(corrupt("a patch beyond the snapshot is said to be in it"));
        }
        if self.made == READINGS_MAX {
            return Err(SyncError::FoldedMeanwhile { times: self.made });
        }
        if self.made > 0 {
            tracing::debug!(made = self.made, "the store was folded while it was read; beginning again");
        }
        self.made += 1;
        self.last_above = Some(above.clone());
        Ok(())
    }
}
