//! What waits in this process for its places in the log.

use std::collections::VecDeque;

use mongodb::bson::Document as Bsons;

use super::{Key, Moved};
use crate::mongo::record::event_bytes;

/// How many writes may wait for the relay of their own process, if [`MongoOptions`](crate::MongoOptions) does not say
/// otherwise.
pub const QUEUE_MAX: usize = 4_096;

/// How many bytes of events may wait for the relay of their own process, if [`MongoOptions`](crate::MongoOptions) does not
/// say otherwise: of their diffs and metadata, as JSON text.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

/// How many events are taken out at a time, and inserted by one command.
pub(super) const BATCH_MAX: usize = 512;

/// Events that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) moved: Moved,
    /// Since when, by the clock of the store. What has waited for long is looked for before it is placed.
    pub(super) since_ms: u64,
}

impl Waiting {
    fn len_bytes(&self) -> usize {
        self.moved.events.iter().map(event_bytes).sum()
    }
}

/// What was written by this process and has no place yet.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// How many writes were taken out to be placed, and come back if that fails, and their bytes. They wait as well.
    placing: (usize, usize),
    writes_max: usize,
    bytes_max: usize,
}

impl Queue {
    pub(super) fn new(writes_max: usize, bytes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), waiting_bytes: 0, placing: (0, 0), writes_max, bytes_max }
    }

    /// Whether there is no room for one more. A write that is let in may go over the bound of bytes by its own.
    pub(super) fn is_full(&self) -> bool {
        let (writes, bytes) = self.placing;
        self.waiting.len() + writes >= self.writes_max || self.waiting_bytes + bytes >= self.bytes_max
    }

    /// How many writes wait to be taken out.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, moved: Moved, since_ms: u64) {
        let waiting = Waiting { moved, since_ms };
        self.waiting_bytes += waiting.len_bytes();
        self.waiting.push_back(waiting);
    }

    /// Takes out what is to be placed next, at most so many writes.
    pub(super) fn take(&mut self, writes_max: usize) -> Vec<Waiting> {
        let (mut batch, mut events, mut bytes) = (Vec::new(), 0, 0);
        while events < BATCH_MAX
            && batch.len() < writes_max
            && let Some(waiting) = self.waiting.pop_front()
        {
            events += waiting.moved.events.len();
            bytes += waiting.len_bytes();
            batch.push(waiting);
        }
        self.waiting_bytes -= bytes;
        self.placing = (batch.len(), bytes);
        batch
    }

    /// What was taken out is placed, except for these, which wait again.
    pub(super) fn placed(&mut self, but: impl DoubleEndedIterator<Item = (Key, Bsons, u64)>) {
        self.placing = (0, 0);
        for (key, event, since_ms) in but.rev() {
            let waiting = Waiting { moved: Moved { key, events: vec![event] }, since_ms };
            self.waiting_bytes += waiting.len_bytes();
            self.waiting.push_front(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;
    use crate::DocumentId;

    fn key() -> Key {
        Key { collection: "games".into(), id: DocumentId::new("chess").unwrap() }
    }

    fn moved(version: i64, len: usize) -> Moved {
        Moved { key: key(), events: vec![doc! {"sequenceNum": version, "diff": "x".repeat(len)}] }
    }

    #[test]
    fn writes_are_counted_and_so_are_their_bytes() {
        let mut queue = Queue::new(3, 1_000);
        (1..=2).for_each(|version| queue.push(moved(version, 1), 0));
        assert!(!queue.is_full());
        queue.push(moved(3, 1), 0);
        assert!(queue.is_full(), "three writes");

        let mut queue = Queue::new(3, 1_000);
        queue.push(moved(1, 999), 0);
        assert!(!queue.is_full());
        queue.push(moved(2, 1), 0);
        assert!(queue.is_full(), "a thousand bytes");
    }

    #[test]
    fn what_is_being_placed_still_waits() {
        let mut queue = Queue::new(9, 1_000);
        queue.push(moved(1, 600), 7);
        queue.push(moved(2, 400), 8);
        let batch = queue.take(9);
        assert!(queue.is_full() && queue.len() == 0);
        // One of them comes back, with its age.
        let second = batch.into_iter().nth(1).unwrap();
        let event = second.moved.events.into_iter().next().unwrap();
        queue.placed([(key(), event, second.since_ms)].into_iter());
        assert!(!queue.is_full());
        queue.push(moved(3, 599), 9);
        assert!(!queue.is_full());
        queue.push(moved(4, 1), 9);
        assert!(queue.is_full());
        assert_eq!(queue.take(9).iter().map(|waiting| waiting.since_ms).collect::<Vec<_>>(), [8, 9, 9]);
        queue.placed(std::iter::empty());
        assert!(!queue.is_full());
    }

    #[test]
    fn what_comes_meanwhile_waits_for_the_next_insert() {
        let mut queue = Queue::new(QUEUE_MAX, QUEUE_BYTES_MAX);
        (1..=3).for_each(|version| queue.push(moved(version, 1), 0));
        let left = queue.len();
        (4..=5).for_each(|version| queue.push(moved(version, 1), 0));
        assert_eq!(queue.take(left).len(), 3);
        assert_eq!(queue.len(), 2);
    }
}
