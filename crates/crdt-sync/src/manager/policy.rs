//! When patches are folded into a snapshot, and when a peer gets one instead of patches.

use std::time::Duration;

use crate::session::WAIT_MAX;

/// How much of the log a replica keeps.
///
/// Only what all known peers have is folded, so nobody whom discovery knows ever misses a patch for it; who comes later
/// and lacks something that was folded is offered the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// Folds when the stored patches take more bytes than this,
    pub log_bytes_max: u64,
    /// and more than so many times the last snapshot, so that folding stays a small part of all writing.
    pub log_per_snapshot: u64,
    /// Folds too when more sessions than this have patches that are not folded.
    pub unfolded_sessions_max: usize,
    /// Patches of the last so many ticks stay, for peers that come back after a short time.
    pub keep_ticks: u64,
    /// How long to wait before the next look, when a peer was behind and too little could be folded.
    pub pause: Duration,
    /// Offers a snapshot instead of patches when they would take more bytes than this, and more than the snapshot.
    pub offer_bytes_min: u64,
    /// A snapshot that was made for a peer is held for its parts until nobody has asked for one for so long.
    pub offer_idle_max: Duration,
}

impl CompactionPolicy {
    /// Folds from 4 MiB of patches on, four times the snapshot, or from 16 384 sessions on; keeps 10 000 ticks; offers from 512 KiB on, and holds an
    /// offer for a minute.
    pub const STANDARD: Self = Self {
        log_bytes_max: 4 << 20,
        log_per_snapshot: 4,
        unfolded_sessions_max: 16_384,
        keep_ticks: 10_000,
        pause: Duration::from_secs(10),
        offer_bytes_min: 512 << 10,
        offer_idle_max: Duration::from_secs(60),
    };

    /// Folds only when told to. Offers snapshots all the same.
    pub const MANUAL: Self =
        Self { log_bytes_max: u64::MAX, unfolded_sessions_max: usize::MAX, ..Self::STANDARD };

    /// The same with waits that can be added to a time.
    pub(super) fn bounded(self) -> Self {
        let (pause, offer_idle_max) = (self.pause.min(WAIT_MAX), self.offer_idle_max.min(WAIT_MAX));
        Self { pause, offer_idle_max, ..self }
    }
}

/// What is known of the sizes of what is stored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Log {
    /// Of the patches behind the snapshot.
    pub(super) bytes: u64,
    /// How many ticks they go beyond it.
    pub(super) ticks: u64,
    /// Of the last snapshot that was made or taken over, 0 if there was none.
    pub(super) snapshot_bytes: u64,
    /// When to look again whether to fold.
    pub(super) next_look: Duration,
}

impl Log {
    /// Whether to fold, when so many sessions have patches that are not folded.
    pub(super) fn is_due(&self, policy: &CompactionPolicy, now: Duration, unfolded_sessions: usize) -> bool {
        let many = self.snapshot_bytes.saturating_mul(policy.log_per_snapshot);
        let is_long = self.bytes > policy.log_bytes_max && self.bytes > many;
        (is_long || unfolded_sessions > policy.unfolded_sessions_max) && now >= self.next_look
    }

    /// About how many bytes patches of so many ticks take.
    pub(super) fn estimate(&self, ticks: u64) -> u64 {
        let ticks = ticks.min(self.ticks);
        (u128::from(self.bytes) * u128::from(ticks) / u128::from(self.ticks.max(1))) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_is_due_when_the_log_outgrows_its_snapshot() {
        let policy =
            CompactionPolicy { log_bytes_max: 100, log_per_snapshot: 4, ..CompactionPolicy::STANDARD };
        let log = Log { bytes: 101, ticks: 50, ..Log::default() };
        assert!(log.is_due(&policy, Duration::ZERO, 0));
        assert!(!Log { bytes: 100, ..log }.is_due(&policy, Duration::ZERO, 0));
        assert!(!Log { snapshot_bytes: 26, ..log }.is_due(&policy, Duration::ZERO, 0));
        assert!(!Log { next_look: Duration::from_secs(1), ..log }.is_due(&policy, Duration::ZERO, 0));
        assert!(Log { bytes: 1, ..log }.is_due(&policy, Duration::ZERO, 16_385));
        assert!(!log.is_due(&CompactionPolicy::MANUAL, Duration::ZERO, 100_000));
        assert_eq!((log.estimate(25), log.estimate(1000), Log::default().estimate(5)), (50, 101, 0));
    }
}
