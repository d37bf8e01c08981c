//! A store that fails for a while, under the rule by which the manager tries again: until then nothing is taken in.

use std::{collections::VecDeque, ops::Range, time::Duration};

use crdt_sync::{PatchStoreError, SharedError, StoreRetry, manager::StoreTries, session::Input};

/// Short, so that a store that fails for some seconds outlasts it.
const RETRY: StoreRetry =
    StoreRetry { tries_max: 6, pause_min: Duration::from_millis(50), pause_max: Duration::from_secs(1) };
/// How much waits in the channels meanwhile; what comes on top is lost, and the channels say so.
const WAITING_MAX: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// When it fails.
    pub(crate) fails: Vec<Range<Duration>>,
    /// How many writes have failed.
    pub(crate) failures: u64,
    /// A write that has failed, and when it is tried again.
    trying: Option<(StoreTries, Duration)>,
    waiting: VecDeque<Input>,
    lost: bool,
}

impl Disk {
    pub(crate) fn fails_at(&self, at: Duration) -> bool {
        self.fails.iter().any(|fails| fails.contains(&at))
    }

    /// When it is well again that fails now.
    pub(crate) fn well_from(&self, at: Duration) -> Duration {
        let failing = self.fails.iter().filter(|fails| fails.contains(&at));
        failing.map(|fails| fails.end).max().unwrap_or(at)
    }

    /// Whether the manager waits for it.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.trying.is_some()
    }

    /// Whether a write is not to be tried yet.
    pub(crate) fn pauses(&self, at: Duration) -> bool {
        self.trying.as_ref().is_some_and(|(_, again)| at < *again)
    }

    /// A write has failed: after which pause it is tried again, if it is.
    pub(crate) fn failed(&mut self, at: Duration) -> Option<Duration> {
        self.failures += 1;
        let mut tries = self.trying.take().map_or_else(|| RETRY.tries(), |(tries, _)| tries);
        let pause = tries.failed(&PatchStoreError::Backend(SharedError::new("out of order")), false)?;
        self.trying = Some((tries, at + pause));
        Some(pause)
    }

    /// Writes once, whatever else is under way, as often as it takes. Whether that was within the bound.
    pub(crate) fn outlasts(&mut self, mut at: Duration) -> bool {
        while self.fails_at(at) {
            match self.failed(at) {
                Some(pause) => at += pause,
                None => return false,
            }
        }
        self.trying = None;
        true
    }

    /// Keeps what comes while the store is waited for.
    pub(crate) fn hold(&mut self, input: Input) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(input);
        } else {
            self.lost = true;
        }
    }

    /// It has written: what has come meanwhile.
    pub(crate) fn written(&mut self) -> Vec<Input> {
        self.trying = None;
        let gap = std::mem::take(&mut self.lost).then_some(Input::Gap);
        self.waiting.drain(..).chain(gap).collect()
    }

    /// Nobody waits for it any more.
    pub(crate) fn forget(&mut self) {
        (self.trying, self.lost) = (None, false);
        self.waiting.clear();
    }
}
