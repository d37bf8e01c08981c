//! What waits for one subscriber, bounded.

use std::{collections::VecDeque, ops::Range};

use bytes::{Bytes, BytesMut};

use super::record::Span;
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

/// Messages and their bytes, counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// How many messages.
    pub messages: u64,
    /// How many bytes of payload.
    pub bytes: u64,
}

/// What goes when there is no room for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The oldest message, unless it is of a lossless topic: then the new one.
    Lossy,
    /// Nothing: room was promised, or looked for before.
    Lossless,
    /// The oldest message, whatever its topic: this reader was in the way of a lossless topic for too long.
    Forced,
}

#[derive(Debug)]
enum Held {
    /// Messages of one topic within one buffer: so many of the spans.
    Run {
        topic: Topic,
        body: Bytes,
        count: usize,
        lossless: bool,
        /// Not settled yet.
        fresh: bool,
    },
    Gap {
        topic: TopicPattern,
        first: u64,
        last: Option<u64>,
    },
    /// Where messages were left out.
    Lagged {
        missed: u64,
    },
}

/// What a reader has taken. It is made into arrivals one by one, by the reader: counting the references to a buffer costs
/// most when two threads do it at the same time.
#[derive(Debug, Default)]
pub struct Taken {
    missed: u64,
    queue: VecDeque<Held>,
    spans: VecDeque<Span>,
}

impl Taken {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.missed == 0 && self.queue.is_empty()
    }
}

impl Iterator for Taken {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        if self.missed > 0 {
            return Some(Arrival::Lagged { missed: std::mem::take(&mut self.missed) });
        }
        if let Held::Run { topic, body, count, .. } = self.queue.front_mut()?
            && *count > 1
        {
            *count -= 1;
            let payload = body.slice(self.spans.pop_front()?.range());
            return Some(Arrival::Message { topic: topic.clone(), payload });
        }
        Some(match self.queue.pop_front()? {
            Held::Run { topic, body, .. } => {
                Arrival::Message { topic, payload: body.slice(self.spans.pop_front()?.range()) }
            }
            Held::Gap { topic, first, last } => Arrival::Gap { topic, first, last },
            Held::Lagged { missed } => Arrival::Lagged { missed },
        })
    }
}

/// The queue of one subscription. When a bound is reached the oldest messages go, and are counted; those of lossless
/// topics do not, because room is promised to their owners before they are sent.
#[derive(Debug)]
pub struct Ring {
    queue: VecDeque<Held>,
    /// Those of all runs in the queue, in order.
    spans: VecDeque<Span>,
    /// How many arrivals are held.
    len: usize,
    bytes: usize,
    bounds: SubscriptionOptions,
    /// Promised to owners of lossless topics, and not come yet.
    owed: Amount,
    missed: u64,
    /// Messages that ever went for want of room.
    pub dropped: u64,
    /// What was pushed since [`settle`](Self::settle).
    fresh: Amount,
    /// Bytes that the queue keeps alive beyond its own, at most.
    slack: usize,
    woken: bool,
}

/// What a topic is promised at least of a ring that it shares with many, as long as there is room.
const SHARE_MIN: Amount = Amount { messages: 64, bytes: 64 << 10 };

impl Ring {
    /// An empty queue.
    pub fn new(bounds: SubscriptionOptions) -> Self {
        let (queue, spans, owed, fresh) = Default::default();
        let (len, bytes, missed, dropped, slack) = Default::default();
        Self { queue, spans, len, bytes, bounds, owed, missed, dropped, fresh, slack, woken: false }
    }

    /// Other bounds from now on. What is held stays.
    pub fn set_bounds(&mut self, bounds: SubscriptionOptions) {
        self.bounds = bounds;
    }

    /// Whether one more message of this length fits. What is promised to others is not looked at: who publishes here would
    /// otherwise wait for somebody who has nothing to say.
    pub fn has_room(&self, len: usize) -> bool {
        self.len < self.bounds.messages_max && (self.bytes + len <= self.bounds.bytes_max || self.len == 0)
    }

    /// Whether at most half of the bounds is used.
    pub fn is_half_empty(&self) -> bool {
        self.len <= self.bounds.messages_max / 2 && self.bytes <= self.bounds.bytes_max / 2
    }

    /// How much the owner of a lossless topic may send, if it was promised `own` until now and this ring serves so many
    /// topics: a fair share of what nobody else was promised. An owner may send a single message beyond the bytes, or
    /// large ones would never come.
    pub fn share(&self, topics: usize, own: Amount) -> Amount {
        let (messages_max, bytes_max) = (self.bounds.messages_max as u64, self.bounds.bytes_max as u64);
        let others = Amount {
            messages: self.owed.messages.saturating_sub(own.messages),
            bytes: self.owed.bytes.saturating_sub(own.bytes),
        };
        let messages = messages_max.saturating_sub(self.len as u64 + others.messages);
        let bytes = bytes_max.saturating_sub(self.bytes as u64 + others.bytes);
        if messages == 0 || bytes == 0 {
            // All is promised to owners that may have nothing to say: one message must do.
            return Amount { messages: u64::from(self.is_half_empty()), bytes: 0 };
        }
        let share = self.share_max(topics);
        Amount { messages: messages.min(share.messages), bytes: bytes.min(share.bytes) }
    }

    /// Whether nothing is left that nobody was promised.
    pub fn is_all_promised(&self) -> bool {
        self.len as u64 + self.owed.messages >= self.bounds.messages_max as u64
            || self.bytes as u64 + self.owed.bytes >= self.bounds.bytes_max as u64
    }

    /// What a topic gets of an empty ring that serves so many.
    pub fn share_max(&self, topics: usize) -> Amount {
        let topics = topics.max(1) as u64;
        let (messages_max, bytes_max) = (self.bounds.messages_max as u64, self.bounds.bytes_max as u64);
        Amount {
            messages: (messages_max / topics).max(SHARE_MIN.messages).min(messages_max),
            bytes: (bytes_max / topics).max(SHARE_MIN.bytes).min(bytes_max),
        }
    }

    /// What was promised changes.
    pub fn promise(&mut self, before: Amount, after: Amount) {
        self.owed.messages = (self.owed.messages + after.messages).saturating_sub(before.messages);
        self.owed.bytes = (self.owed.bytes + after.bytes).saturating_sub(before.bytes);
    }

    /// Puts a message. True if the reader has to be woken.
    pub fn push(&mut self, topic: &Topic, payload: &Bytes, fit: Fit) -> bool {
        self.push_within(topic, payload, 0..payload.len(), fit, false)
    }

    /// Puts messages that lie in one buffer; `fresh` if the buffer is one that [`settle`](Self::settle) has to look at. True
    /// if the reader has to be woken.
    pub fn push_run(&mut self, topic: &Topic, body: &Bytes, run: &[Span], fit: Fit, fresh: bool) -> bool {
        let bytes: usize = run.iter().map(|span| span.len as usize).sum();
        let fits =
            self.len + run.len() <= self.bounds.messages_max && self.bytes + bytes <= self.bounds.bytes_max;
        if fit != Fit::Lossless && !fits {
            let mut wakes = false;
            for span in run {
                wakes |= self.push_within(topic, body, span.range(), fit, fresh);
            }
            return wakes;
        }
        if run.is_empty() {
            return false;
        }
        self.spans.extend(run);
        self.pushed(topic, body, Amount { messages: run.len() as u64, bytes: bytes as u64 }, fit, fresh)
    }

    /// As [`push_run`](Self::push_run), of one message.
    #[inline]
    pub fn push_within(
        &mut self,
        topic: &Topic,
        body: &Bytes,
        range: Range<usize>,
        fit: Fit,
        fresh: bool,
    ) -> bool {
        if fit != Fit::Lossless && !self.has_room(range.len()) && !self.make_room(range.len(), fit) {
            self.dropped += 1;
            return self.push_lagged(1);
        }
        let amount = Amount { messages: 1, bytes: range.len() as u64 };
        self.spans.push_back(Span::from(range));
        self.pushed(topic, body, amount, fit, fresh)
    }

    /// So many spans were put at the end.
    #[inline]
    fn pushed(&mut self, topic: &Topic, body: &Bytes, amount: Amount, fit: Fit, fresh: bool) -> bool {
        let more = amount.messages as usize;
        self.len += more;
        self.bytes += amount.bytes as usize;
        if fresh {
            self.fresh.messages += amount.messages;
            self.fresh.bytes += amount.bytes;
        }
        let lossless = fit != Fit::Lossy;
        match self.queue.back_mut() {
            Some(Held::Run { topic: t, body: b, count, lossless: l, fresh: f })
                if t.is_same(topic)
                    && (b.as_ptr(), b.len(), *l, *f) == (body.as_ptr(), body.len(), lossless, fresh) =>
            {
                *count += more;
            }
            _ => self.queue.push_back(Held::Run {
                topic: topic.clone(),
                body: body.clone(),
                count: more,
                lossless,
                fresh,
            }),
        }
        !std::mem::replace(&mut self.woken, true)
    }

    /// Lets the oldest go until there is room; false if they may not go.
    #[cold]
    fn make_room(&mut self, len: usize, fit: Fit) -> bool {
        while !self.has_room(len) {
            match self.queue.front_mut() {
                Some(Held::Run { lossless: true, .. }) if fit == Fit::Lossy => return false,
                Some(Held::Run { count, .. }) => {
                    self.bytes -= self.spans.pop_front().map_or(0, |span| span.len as usize);
                    self.missed = self.missed.saturating_add(1);
                    self.dropped += 1;
                    *count -= 1;
                    if *count == 0 {
                        self.queue.pop_front();
                    }
                }
                // A gap is as good a reason as any to look at the topic again.
                Some(Held::Gap { .. }) => {
                    self.missed = self.missed.saturating_add(1);
                    self.queue.pop_front();
                }
                Some(Held::Lagged { missed }) => {
                    self.missed = self.missed.saturating_add(*missed);
                    self.queue.pop_front();
                }
                None => return true,
            }
            self.len -= 1;
        }
        true
    }

    /// Whether anything was pushed that has to be settled.
    pub fn is_fresh(&self) -> bool {
        self.fresh.messages > 0
    }

    /// Ends a round of pushes whose payloads are slices of a buffer of `pins` bytes. A reader that keeps up gets them as
    /// they are; when one does not, they are copied, so that a few bytes that nobody reads do not keep whole buffers.
    pub fn settle(&mut self, pins: usize) {
        let fresh = std::mem::take(&mut self.fresh);
        let slack = pins.saturating_sub(fresh.bytes as usize);
        let copies = self.slack + slack > SLACK_MAX;
        self.slack += if copies { 0 } else { slack };
        let mut end = self.spans.len();
        let mut left = fresh.messages as usize;
        for held in self.queue.iter_mut().rev() {
            let Held::Run { body, count, fresh, .. } = held else { continue };
            if left == 0 {
                break;
            }
            let spans = end - *count..end;
            end = spans.start;
            if !std::mem::take(fresh) {
                continue;
            }
            left = left.saturating_sub(*count);
            if copies {
                let mut copy = BytesMut::new();
                for span in self.spans.range_mut(spans) {
                    let start = copy.len() as u32;
                    copy.extend_from_slice(&body[span.start as usize..][..span.len as usize]);
                    span.start = start;
                }
                *body = copy.freeze();
            }
        }
    }

    /// Puts the notice of a gap. True if the reader has to be woken.
    pub fn push_gap(&mut self, topic: &TopicPattern, first: u64, last: Option<u64>) -> bool {
        if self.len >= self.bounds.messages_max {
            // The reader learns of a loss either way.
            return self.push_lagged(last.map_or(1, |last| last.saturating_sub(first) + 1));
        }
        self.len += 1;
        self.queue.push_back(Held::Gap { topic: topic.clone(), first, last });
        !std::mem::replace(&mut self.woken, true)
    }

    fn push_lagged(&mut self, more: u64) -> bool {
        match self.queue.back_mut() {
            Some(Held::Lagged { missed }) => *missed = missed.saturating_add(more),
            _ => {
                self.len += 1;
                self.queue.push_back(Held::Lagged { missed: more });
            }
        }
        !std::mem::replace(&mut self.woken, true)
    }

    /// Takes up to `max` arrivals. If there is none, the next push wakes the reader.
    pub fn take(&mut self, max: usize, into: &mut Taken) -> usize {
        let before = self.len;
        let missed = std::mem::take(&mut self.missed);
        into.missed = into.missed.saturating_add(missed);
        if self.len <= max && into.is_empty() {
            std::mem::swap(&mut self.queue, &mut into.queue);
            std::mem::swap(&mut self.spans, &mut into.spans);
            (self.len, self.bytes) = (0, 0);
        }
        let mut left = max.min(self.len);
        while left > 0 {
            let Some(front) = self.queue.front_mut() else { break };
            let n = match front {
                Held::Run { topic, body, count, lossless, .. } if *count > left => {
                    *count -= left;
                    let (topic, body) = (topic.clone(), body.clone());
                    let run = Held::Run { topic, body, count: left, lossless: *lossless, fresh: false };
                    into.queue.push_back(run);
                    self.take_spans(left, into);
                    left
                }
                Held::Run { count, .. } => {
                    let count = *count;
                    into.queue.extend(self.queue.pop_front());
                    self.take_spans(count, into);
                    count
                }
                Held::Gap { .. } | Held::Lagged { .. } => {
                    into.queue.extend(self.queue.pop_front());
                    1
                }
            };
            left -= n;
            self.len -= n;
        }
        let taken = before - self.len + usize::from(missed > 0);
        if taken == 0 {
            self.woken = false;
        }
        if self.len == 0 {
            self.slack = 0;
        }
        taken
    }

    fn take_spans(&mut self, count: usize, into: &mut Taken) {
        self.bytes -= self.spans.range(..count).map(|span| span.len as usize).sum::<usize>();
        into.spans.extend(self.spans.range(..count));
        self.spans.drain(..count);
    }
}

/// So much memory of receive buffers a queue may keep alive beyond the payloads that it holds.
const SLACK_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests;
