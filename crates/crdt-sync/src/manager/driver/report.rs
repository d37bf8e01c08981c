//! What the driver counts, reports and tells of itself.

use super::Driver;
use crate::{
    Heard,
    manager::{SyncError, SyncStatus, snapshots::Offered},
    session::{Input, Refusal, SessionEvent},
};

/// What was counted since the start.
#[derive(Default)]
pub(in crate::manager) struct Traffic {
    pub(super) bytes_broadcast: u64,
    pub(super) bytes_paged: u64,
    pub(super) bytes_heard: u64,
    pub(super) bytes_pulled: u64,
    pub(super) not_applied: u64,
    pub(super) not_allowed: u64,
    pub(super) malformed: u64,
    pub(super) gaps: u64,
    pub(super) send_failures: u64,
    pub(super) read_failures: u64,
    pub(in crate::manager) write_failures: u64,
}

impl Driver {
    /// The store could not be read for something that can be asked for again.
    pub(in crate::manager) fn read_failed(&mut self, error: &SyncError) {
        tracing::warn!(%error, "could not read");
        self.traffic.read_failures += 1;
    }

    pub(in crate::manager) fn not_allowed(&mut self, refusal: Refusal) {
        self.traffic.not_allowed += 1;
        self.report(SessionEvent::Refused(refusal));
    }

    pub(super) fn heard_trouble<T>(&mut self, heard: Heard<T>) {
        match heard {
            Heard::Gap { reason } => {
                tracing::debug!(reason, "the transport lost something");
                self.traffic.gaps += 1;
                self.input(Input::Gap);
            }
            Heard::Malformed { reason } => {
                tracing::warn!(reason, "threw away bytes that are no message");
                self.traffic.malformed += 1;
            }
            Heard::Message(_) => {}
        }
    }

    pub(in crate::manager) fn report(&mut self, event: SessionEvent) {
        if let SessionEvent::Refused(refusal) = &event {
            tracing::warn!(%refusal, "refused");
        }
        match &event {
            SessionEvent::Forgotten { peer } => {
                self.members_changed = true;
                tracing::warn!(%peer, "gone without a goodbye for too long: nothing is kept for it any more");
            }
            SessionEvent::Parted { peer } => {
                tracing::error!(%peer, "has folded alone what is missing here, as this replica has what it lacks");
            }
            _ => {}
        }
        // Nobody watching is fine.
        let _ = self.events.send(event);
    }

    pub(super) fn status(&self) -> SyncStatus {
        let Traffic {
            bytes_broadcast,
            bytes_paged,
            bytes_heard,
            bytes_pulled,
            not_applied,
            not_allowed,
            malformed,
            gaps,
            send_failures,
            read_failures,
            write_failures,
        } = self.traffic;
        SyncStatus {
            now: self.machine.status(),
            counters: *self.machine.counters(),
            stored: self.machine.stored().clone(),
            bytes_broadcast,
            bytes_paged,
            bytes_heard,
            bytes_pulled,
            not_applied,
            not_allowed,
            malformed,
            gaps,
            send_failures,
            read_failures,
            write_failures,
            log_bytes: self.log.bytes,
            snapshot_bytes: self.log.snapshot_bytes,
            folded: self.folded,
            offered_bytes: self.offered.as_ref().map_or(0, Offered::len_bytes),
            peers: self.machine.peer_statuses(self.now()),
        }
    }
}
