//! When to tell the others what one has: Trickle (RFC 6206).

use std::time::Duration;

use super::digest::Jitter;

/// How often a replica tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrickleOptions {
    /// The shortest interval, used while replicas differ. RFC 6206 calls it Imin.
    pub interval_min: Duration,
    /// The longest interval, reached by doubling while all agree. RFC 6206 calls it Imax.
    pub interval_max: Duration,
    /// Silence in an interval in which so many others have said the same. RFC 6206 calls it k.
    pub redundancy: u32,
}

impl TrickleOptions {
    /// Differences are noticed within a second or two; a quiet group of any size says a few words in half a minute.
    pub const STANDARD: Self =
        Self { interval_min: Duration::from_secs(1), interval_max: Duration::from_secs(30), redundancy: 2 };
}

/// The timer of RFC 6206, section 4.2.
#[derive(Debug)]
pub(super) struct Trickle {
    options: TrickleOptions,
    interval: Duration,
    /// When to speak in this interval; `None` when that is past.
    speak_at: Option<Duration>,
    ends_at: Duration,
    heard: u32,
}

impl Trickle {
    pub(super) fn new(options: TrickleOptions, now: Duration, jitter: &mut Jitter) -> Self {
        let mut trickle =
            Self { options, interval: options.interval_min, speak_at: None, ends_at: now, heard: 0 };
        trickle.begin(now, jitter);
        trickle
    }

    /// Somebody said the same as we would.
    pub(super) fn consistent(&mut self) {
        self.heard += 1;
    }

    /// Somebody is different: the interval becomes short again.
    pub(super) fn inconsistent(&mut self, now: Duration, jitter: &mut Jitter) {
        if self.interval > self.options.interval_min {
            self.interval = self.options.interval_min;
            self.begin(now, jitter);
        }
    }

    pub(super) fn wakes_at(&self) -> Duration {
        self.speak_at.unwrap_or(self.ends_at)
    }

    /// Whether to speak now.
    pub(super) fn tick(&mut self, now: Duration, jitter: &mut Jitter) -> bool {
        let speak = match self.speak_at {
            Some(at) if at <= now => {
                self.speak_at = None;
                self.heard < self.options.redundancy
            }
            _ => false,
        };
        if self.ends_at <= now {
            self.interval = (self.interval * 2).min(self.options.interval_max);
            self.begin(now, jitter);
        }
        speak
    }

    fn begin(&mut self, now: Duration, jitter: &mut Jitter) {
        let half = self.interval / 2;
        let random = Duration::from_nanos(jitter.below(half.as_nanos() as u64));
        self.heard = 0;
        self.speak_at = Some(now + half + random);
        self.ends_at = now + self.interval;
    }
}
