//! What waits for one subscriber, bounded.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{SubscriptionOptions, Topic, TopicPattern};

/// What a subscription of a node yields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arrival {
    /// The next message.
    Message {
        /// Where it was published.
        topic: Topic,
        /// What was published.
        payload: Bytes,
    },
    /// So many messages were dropped here, oldest first, because the reader was too slow for its queue.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// Messages that were published and will not come.
    Gap {
        /// Where: a topic, or all that a pattern without owners means.
        topic: TopicPattern,
        /// The sequence number of the first of them, where the owner numbers its messages; 0 otherwise.
        first: u64,
        /// That of the last; `None` if nobody can know.
        last: Option<u64>,
    },
}

/// The queue of one subscription. When a bound is reached the oldest messages go, and are counted.
#[derive(Debug)]
pub struct Ring {
    queue: VecDeque<Arrival>,
    bytes: usize,
    bounds: SubscriptionOptions,
    missed: u64,
    /// Messages that ever went for want of room.
    pub dropped: u64,
    woken: bool,
}

impl Ring {
    /// An empty queue.
    pub fn new(bounds: SubscriptionOptions) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, bounds, missed: 0, dropped: 0, woken: false }
    }

    /// Whether one more message of this length fits.
    pub fn has_room(&self, len: usize) -> bool {
        self.queue.len() < self.bounds.messages_max
            && (self.bytes + len <= self.bounds.bytes_max || self.queue.is_empty())
    }

    /// How many messages of about this length fit.
    pub fn room(&self, len: usize) -> usize {
        let messages = self.bounds.messages_max.saturating_sub(self.queue.len());
        messages.min(self.bounds.bytes_max.saturating_sub(self.bytes) / len.max(1))
    }

    /// Whether at most half of the bounds is used.
    pub fn is_half_empty(&self) -> bool {
        self.queue.len() <= self.bounds.messages_max / 2 && self.bytes <= self.bounds.bytes_max / 2
    }

    /// Puts a message. True if the reader has to be woken.
    #[inline]
    pub fn push(&mut self, topic: &Topic, payload: &Bytes) -> bool {
        while !self.has_room(payload.len()) {
            match self.queue.pop_front() {
                Some(Arrival::Message { payload, .. }) => {
                    self.bytes -= payload.len();
                    self.missed += 1;
                    self.dropped += 1;
                }
                Some(Arrival::Lagged { missed }) => self.missed += missed,
                // A gap is as good a reason as any to look at the topic again.
                Some(Arrival::Gap { .. }) => self.missed += 1,
                None => break,
            }
        }
        self.bytes += payload.len();
        self.queue.push_back(Arrival::Message { topic: topic.clone(), payload: payload.clone() });
        !std::mem::replace(&mut self.woken, true)
    }

    /// Puts the notice of a gap. True if the reader has to be woken.
    pub fn push_gap(&mut self, topic: &TopicPattern, first: u64, last: Option<u64>) -> bool {
        if self.queue.len() >= self.bounds.messages_max {
            // The reader learns of a loss either way.
            self.missed += last.map_or(1, |last| last.saturating_sub(first) + 1);
        } else {
            self.queue.push_back(Arrival::Gap { topic: topic.clone(), first, last });
        }
        !std::mem::replace(&mut self.woken, true)
    }

    /// Takes up to `max` arrivals. If there is none, the next push wakes the reader.
    pub fn take(&mut self, max: usize, into: &mut VecDeque<Arrival>) -> usize {
        let before = into.len();
        let missed = std::mem::take(&mut self.missed);
        if missed > 0 {
            into.push_back(Arrival::Lagged { missed });
        }
        let n = self.queue.len().min(max);
        for arrival in self.queue.drain(..n) {
            if let Arrival::Message { payload, .. } = &arrival {
                self.bytes -= payload.len();
            }
            into.push_back(arrival);
        }
        if into.len() == before {
            self.woken = false;
        }
        into.len() - before
    }
}
