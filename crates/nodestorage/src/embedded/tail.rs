//! The end of the log, kept in memory for the watchers that are up to date.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::record::State;
use crate::watch::{LogEntry, LogPage};

/// How many entries the tail holds. Watchers further behind read the log on disk.
pub const TAIL_ENTRIES_MAX: usize = 4096;
/// How many bytes of changes the tail holds, beyond the latest one.
pub const TAIL_BYTES_MAX: usize = 32 << 20;

pub(super) struct Tail {
    kept: Mutex<Kept>,
}

struct Kept {
    /// Without a gap, up to `last`; each with its size.
    entries: VecDeque<(LogEntry, usize)>,
    len_bytes: usize,
    last: u64,
    floor: u64,
}

impl Tail {
    pub(super) fn new(state: State) -> Self {
        let State { position: last, floor, .. } = state;
        Self { kept: Mutex::new(Kept { entries: VecDeque::new(), len_bytes: 0, last, floor }) }
    }

    /// Takes what has become durable. Removed positions keep their place, without their change.
    pub(super) fn extend(&self, entries: impl Iterator<Item = (LogEntry, usize)>, removed: &[u64]) {
        let mut kept = self.kept.lock();
        for (entry, len_bytes) in entries {
            kept.last = entry.position;
            kept.len_bytes += len_bytes;
            kept.entries.push_back((entry, len_bytes));
        }
        let first = kept.first();
        for position in removed.iter().filter(|&&position| position >= first) {
            if let Some((entry, _)) = kept.entries.get_mut((position - first) as usize) {
                entry.change = None;
            }
        }
        while kept.entries.len() > TAIL_ENTRIES_MAX
            || kept.len_bytes > TAIL_BYTES_MAX && kept.entries.len() > 1
        {
            let (_, len_bytes) = kept.entries.pop_front().expect("it is not empty");
            kept.len_bytes -= len_bytes;
        }
    }

    pub(super) fn raise_floor(&self, floor: u64) {
        self.kept.lock().floor = floor;
    }

    /// The entries after a position, if they are all here.
    pub(super) fn read(&self, after: u64, limit: usize) -> Option<LogPage> {
        let kept = self.kept.lock();
        let (first, floor, last) = (kept.first(), kept.floor, kept.last);
        let after = if after > last { last } else { after.max(floor) };
        let start = (after + 1).checked_sub(first)? as usize;
        let entries = kept.entries.range(start.min(kept.entries.len())..).take(limit);
        Some(LogPage { floor, last, entries: entries.map(|(entry, _)| entry.clone()).collect() })
    }

    pub(super) fn last(&self) -> u64 {
        self.kept.lock().last
    }
}

impl Kept {
    /// The position of the first entry, or of the one that will be.
    fn first(&self) -> u64 {
        self.last + 1 - self.entries.len() as u64
    }
}
