//! What a passing failure of the store costs: time, up to a bound.

use std::time::Duration;

use crate::PatchStoreError;

/// How often a write to the store is tried again that failed and may succeed later: a database that is failing over, a disk
/// that answers late. Meanwhile nothing is taken in, acknowledged or sent; what comes waits in the channels, which are
/// bounded. When the tries are used up, synchronisation ends with
/// [`SessionEvent::Stopped`](crate::session::SessionEvent::Stopped).
///
/// A patch may be appended twice by that, which stores leave alone, so whatever became of the first try nothing is kept
/// twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreRetry {
    /// How often it is tried in all, at least once.
    pub tries_max: u32,
    /// How long the first pause is; each is twice the one before.
    pub pause_min: Duration,
    /// The longest pause. A [`stop`](crate::SyncManager::stop) waits for the pause and the try that are under way; how long
    /// a try takes is the store's: up to five seconds for each command over MongoDB.
    pub pause_max: Duration,
}

impl StoreRetry {
    /// Twelve tries with pauses of about 26 s in all: longer than a MongoDB replica set takes to elect another primary.
    pub const STANDARD: Self =
        Self { tries_max: 12, pause_min: Duration::from_millis(50), pause_max: Duration::from_secs(5) };

    /// The tries of one write: what [`SyncManager`](crate::SyncManager) goes by, without waiting and without a store.
    pub const fn tries(self) -> StoreTries {
        StoreTries { retry: self, made: 0 }
    }

    /// The pause after so many failures.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = self.pause_min.saturating_mul(1 << failures.saturating_sub(1).min(30));
        doubled.min(self.pause_max)
    }

    /// Runs `attempt` until it succeeds, fails for good, or has been tried often enough; not again once `stopping`. Counts
    /// the failures.
    pub(super) async fn run<T, F>(
        &self,
        stopping: impl Fn() -> bool,
        failures: &mut u64,
        attempt: impl Fn() -> F,
    ) -> Result<T, PatchStoreError>
    where
        F: Future<Output = Result<T, PatchStoreError>>,
    {
        let mut tries = self.tries();
        loop {
            let error = match attempt().await {
                Err(error) => error,
                done => return done,
            };
            *failures += u64::from(error.may_pass());
            let Some(pause) = tries.failed(&error, stopping()) else { return Err(error) };
            tracing::warn!(%error, ?pause, "the store failed; trying again");
            tokio::time::sleep(pause).await;
        }
    }
}

/// How often one write has been tried; see [`StoreRetry::tries`].
#[derive(Debug, Clone)]
pub struct StoreTries {
    retry: StoreRetry,
    made: u32,
}

impl StoreTries {
    /// A try has failed. Returns how long to wait before the next one, `None` if there is none: the failure does not pass, it was
    /// tried often enough, or nobody waits for it because all is `stopping`.
    pub fn failed(&mut self, error: &PatchStoreError, stopping: bool) -> Option<Duration> {
        self.made += 1;
        let goes_on = error.may_pass() && self.made < self.retry.tries_max && !stopping;
        goes_on.then(|| self.retry.pause(self.made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = StoreRetry::STANDARD;
        assert_eq!(retry.pause(1), retry.pause_min);
        assert_eq!(retry.pause(2), retry.pause_min * 2);
        assert_eq!((retry.pause(11), retry.pause(u32::MAX)), (retry.pause_max, retry.pause_max));
    }
}
