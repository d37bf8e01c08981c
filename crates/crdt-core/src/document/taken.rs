//! Which ids have been taken by the chunks of a sequence that is being loaded, so that it shows at once whether one stands
//! there twice.

use super::sessions::Sessions;

/// A bit for each time of each session that the clock knows.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Read and written eight at a time, from any one on: a short run then needs one step, wherever it starts.
    bytes: Vec<u8>,
    /// Where each session's bits start.
    starts: Vec<usize>,
    /// Bits that were set when they were to be set.
    twice: u64,
    /// Whether there were times above the clock.
    missed: bool,
}

impl Taken {
    /// Makes room for all times of the clock; `None` if that is more than eight bytes for each of so many chunks.
    pub(super) fn new(sessions: &Sessions, chunks: usize) -> Option<Self> {
        let seen = |at| if sessions.own == at { sessions.made } else { sessions.seen(at).unwrap_or(0) };
        Self::of((0..sessions.len() as u32).map(seen), chunks)
    }

    /// The same for sessions of which each has been seen up to a time.
    pub(super) fn of(seen: impl ExactSizeIterator<Item = u64>, chunks: usize) -> Option<Self> {
        let mut starts = Vec::with_capacity(seen.len().min(chunks));
        let mut words = 0;
        for seen in seen {
            starts.push(8 * words);
            // A run may reach into the eight bytes behind its own.
            words += usize::try_from(seen / 64).ok().filter(|&words| words <= chunks)? + 2;
            if words > chunks {
                return None;
            }
        }
        Some(Self { bytes: vec![0; 8 * words], starts, twice: 0, missed: false })
    }

    /// How many times there is room for.
    pub(super) const fn room(&self) -> u64 {
        8 * self.bytes.len() as u64
    }

    /// Takes the ids of a chunk, none of them above the clock.
    #[inline(always)]
    pub(super) fn take(&mut self, session: u32, time: u64, len: u32) {
        self.taking(|taking| taking.take(session, time, len));
    }

    /// Takes those of many chunks.
    #[inline(always)]
    pub(crate) fn taking<T>(&mut self, take: impl FnOnce(&mut Taking<'_>) -> T) -> T {
        let Self { bytes, starts, twice, missed } = self;
        let mut taking = Taking { bytes, starts, twice: 0, missed: false };
        let result = take(&mut taking);
        *twice |= taking.twice;
        *missed |= taking.missed;
        result
    }

    /// Whether all ids that were taken are known to be different.
    pub(super) const fn are_distinct(&self) -> bool {
        self.twice == 0 && !self.missed
    }
}

/// Takes the ids of one chunk after the other.
pub(crate) struct Taking<'t> {
    bytes: &'t mut [u8],
    starts: &'t [usize],
    twice: u64,
    missed: bool,
}

impl Taking<'_> {
    /// So many times fit into eight bytes, whichever bit of the first one they start at.
    const RUN_MAX: u32 = 57;

    /// Takes the ids of a chunk, none of them above the clock.
    #[inline(always)]
    pub(crate) fn take(&mut self, session: u32, time: u64, len: u32) {
        let Some(&start) = self.starts.get(session as usize) else { return self.missed = true };
        if len.wrapping_sub(1) < Self::RUN_MAX {
            self.take_run(start, time, len);
        } else {
            self.take_many(start, time, len);
        }
    }

    /// Takes at most [`RUN_MAX`](Self::RUN_MAX) ids, and at least one.
    #[inline(always)]
    fn take_run(&mut self, start: usize, time: u64, len: u32) {
        let at = start + (time / 8) as usize;
        let Some(word) = self.bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else {
            return self.missed = true;
        };
        let (bits, before) = (u64::MAX >> (64 - len) << (time % 8), u64::from_le_bytes(*word));
        self.twice |= before & bits;
        *word = (before | bits).to_le_bytes();
    }

    #[cold]
    fn take_many(&mut self, start: usize, time: u64, len: u32) {
        let (mut at, end) = (time, time + u64::from(len));
        while at < end {
            let len = (end - at).min(Self::RUN_MAX.into());
            self.take_run(start, at, len as u32);
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_are_distinct_only_if_none_was_taken_twice(
            runs in prop::collection::vec((0..3u32, 0..900u64, 1..200u32), 0..12),
            seen in 0..700u64,
        ) {
            let mut sessions = Sessions::default();
            for sid in 0..2 {
                let at = sessions.enter(70_000 + sid);
                sessions.observe(at, seen);
            }
            sessions.made = 900;
            let mut taken = Taken::new(&sessions, 100).unwrap();
            let mut all = HashSet::new();
            let mut distinct = true;
            for (session, time, len) in runs {
                taken.take(session, time, len);
                distinct &= (time..time + u64::from(len)).all(|time| all.insert((session, time)));
            }
            // Times above the clock may make it say less, never more.
            prop_assert!(!taken.are_distinct() || distinct);
            let all_seen = all.iter().all(|&(at, time)| at < 2 && time <= if at == 0 { 900 } else { seen });
            prop_assert!(taken.are_distinct() || !distinct || !all_seen);
        }
    }

    #[test]
    fn a_clock_too_far_ahead_gets_no_bits() {
        let mut sessions = Sessions::default();
        sessions.own = sessions.enter(70_000);
        sessions.made = crate::id::MAX_ID - 1;
        assert!(Taken::new(&sessions, 1000).is_none());
    }
}
