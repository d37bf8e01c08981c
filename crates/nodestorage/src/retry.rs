//! Trying again: how often, and with which pauses.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use crate::{StorageError, StorageOptions};

/// The pauses between the tries of one operation. It reads no clock and draws nothing: chance is a parameter.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    retries_max: u32,
    delay: Duration,
    delay_max: Duration,
    jitter_percent: u8,
    /// How many tries have failed.
    failed: u32,
}

impl Backoff {
    pub(crate) fn new(options: &StorageOptions) -> Self {
        Self {
            retries_max: options.retries_max,
            delay: options.retry_delay,
            delay_max: options.retry_delay_max,
            jitter_percent: options.retry_jitter_percent,
            failed: 0,
        }
    }

    /// How many tries have failed.
    pub(crate) fn attempts(&self) -> u32 {
        self.failed
    }

    /// Notes a failed try: how long to pause before the next, `None` if there is to be none. `chance` is any number.
    pub(crate) fn failed(&mut self, chance: u64) -> Option<Duration> {
        let doublings = self.failed.min(31);
        self.failed += 1;
        if self.failed > self.retries_max {
            return None;
        }
        let pause = self.delay.saturating_mul(1 << doublings).min(self.delay_max);
        let less = f64::from(self.jitter_percent) / 100.0 * (chance as f64 / u64::MAX as f64);
        Some(pause.mul_f64(1.0 - less))
    }

    /// Notes a failed try and waits for the next. `false` if there is to be none.
    pub(crate) async fn pause(&mut self) -> bool {
        match self.failed(RandomState::new().hash_one(self.failed)) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }
}

/// Gives an operation its time.
pub(crate) async fn within<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    tokio::time::timeout(limit, operation).await.unwrap_or(Err(StorageError::Timeout(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> StorageOptions {
        StorageOptions {
            retries_max: 6,
            retry_delay: Duration::from_millis(10),
            retry_delay_max: Duration::from_millis(100),
            retry_jitter_percent: 50,
            ..StorageOptions::default()
        }
    }

    fn pauses(options: &StorageOptions, chance: u64) -> Vec<u64> {
        let mut backoff = Backoff::new(options);
        let pauses = std::iter::from_fn(|| backoff.failed(chance));
        pauses.map(|pause| pause.as_millis() as u64).collect()
    }

    #[test]
    fn a_pause_doubles_up_to_its_limit_and_chance_makes_it_shorter() {
        assert_eq!(pauses(&options(), 0), [10, 20, 40, 80, 100, 100]);
        assert_eq!(pauses(&options(), u64::MAX), [5, 10, 20, 40, 50, 50]);
        let even = StorageOptions { retry_jitter_percent: 0, ..options() };
        assert_eq!(pauses(&even, u64::MAX), [10, 20, 40, 80, 100, 100]);
    }

    #[test]
    fn retries_have_an_end() {
        let none = StorageOptions { retries_max: 0, ..options() };
        assert_eq!(pauses(&none, 0), Vec::<u64>::new());
        let many = StorageOptions { retries_max: 100, ..options() };
        assert_eq!(pauses(&many, 0).len(), 100);
    }

    #[tokio::test]
    async fn what_takes_too_long_is_a_timeout() {
        let limit = Duration::from_millis(1);
        let late = within(limit, std::future::pending::<Result<(), _>>()).await;
        assert!(matches!(late, Err(StorageError::Timeout(after)) if after == limit));
        assert_eq!(within(limit, async { Ok(1) }).await.unwrap(), 1);
    }
}
