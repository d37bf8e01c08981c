//! The bounded queue between a transport and one subscription's reader.
//!
//! A full ring drops its oldest messages and counts them. The count stands in the sequence exactly where the messages
//! were: a reader adds one to the last message's number for each message, `missed` for each
//! [`Received::Lagged`], and is never wrong.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::atomic::AtomicUsize,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use tokio::task::coop;

use crate::{Message, Received, SubscriptionOptions};

/// One subscription's queue: many writers, one reader.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Held by writers for one push and by the reader for one pop, never across a wake-up.
    state: Mutex<State>,
    /// Where this ring stands in its list of the fan-out table; read and written only under that table's write lock.
    pub(crate) place: AtomicUsize,
}

#[derive(Debug)]
struct State {
    messages: VecDeque<Message>,
    /// Payload bytes in `messages`.
    bytes: usize,
    /// The number of the first of `messages`, counted from the ring's birth.
    head: u64,
    /// What else the reader has to be told, in ascending `before`. At most one per place, so never more than
    /// `messages_max + 1`.
    notices: VecDeque<Notice>,
    /// The reader, when it waits.
    reader: Option<Waker>,
    closed: bool,
    options: SubscriptionOptions,
}

/// What is missing in front of message number `before`.
#[derive(Debug)]
struct Notice {
    before: u64,
    missed: u64,
    gap: Option<String>,
}

/// What became of a pushed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is in the ring, and nothing was lost.
    Taken,
    /// It or older ones were dropped; the reader will be told.
    Dropped,
    /// Nobody reads this ring any more.
    Closed,
}

impl Ring {
    pub(crate) fn new(options: SubscriptionOptions) -> Self {
        Self {
            state: Mutex::new(State {
                messages: VecDeque::new(),
                bytes: 0,
                head: 0,
                notices: VecDeque::new(),
                reader: None,
                closed: false,
                options,
            }),
            place: AtomicUsize::new(0),
        }
    }

    /// Adds a message, at the cost of the oldest ones if the bounds ask for it. Never waits for the reader.
    pub(crate) fn push(&self, message: Message) -> Pushed {
        let mut state = self.state.lock();
        if state.closed {
            return Pushed::Closed;
        }
        let pushed = state.push(message);
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        pushed
    }

    /// Tells the reader that messages may be missing from here on.
    #[cfg(any(test, feature = "redis"))]
    pub(crate) fn push_gap(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let before = state.head + state.messages.len() as u64;
        state.notice_last(before).gap = Some(reason.to_owned());
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Takes nothing more; what is there can still be read.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Takes nothing more and frees what is there: the reader is gone.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.bytes = 0;
        state.reader = None;
        let (messages, notices) = (std::mem::take(&mut state.messages), std::mem::take(&mut state.notices));
        drop(state);
        drop((messages, notices)); // Freeing payloads may take its time; writers need not wait for it.
    }

    pub(crate) fn try_recv(&self) -> Option<Received> {
        self.state.lock().pop()
    }

    /// The next thing, or `None` when the ring is closed and empty. Nothing is taken unless it is returned.
    pub(crate) async fn recv(&self) -> Option<Received> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        // A reader with a full ring lets other tasks have their turn now and then.
        let coop = ready!(coop::poll_proceed(cx));
        let mut state = self.state.lock();
        match state.pop() {
            None if !state.closed => {
                // The waker is set under the lock that pushes take, so no push falls between the look and the wait.
                match &mut state.reader {
                    Some(reader) => reader.clone_from(cx.waker()),
                    empty => *empty = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            next => {
                coop.made_progress();
                Poll::Ready(next)
            }
        }
    }
}

fn wake(reader: Option<Waker>) {
    if let Some(reader) = reader {
        reader.wake();
    }
}

impl State {
    fn push(&mut self, message: Message) -> Pushed {
        let len = message.payload.len();
        if len > self.options.bytes_max || self.options.messages_max == 0 {
            // It would not fit into an empty ring, so dropping the others for it would be for nothing.
            let before = self.head + self.messages.len() as u64;
            self.notice_last(before).missed += 1;
            return Pushed::Dropped;
        }
        let mut pushed = Pushed::Taken;
        while self.messages.len() >= self.options.messages_max || self.bytes + len > self.options.bytes_max {
            self.drop_oldest();
            pushed = Pushed::Dropped;
        }
        self.bytes += len;
        self.messages.push_back(message);
        pushed
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.messages.pop_front() else { return };
        self.bytes -= oldest.payload.len();
        let dropped = self.head;
        self.head += 1;
        // The loss moves on to the next message, together with what was already missing in front of the dropped one.
        let mut lost = match self.notices.front() {
            Some(notice) if notice.before == dropped => self.notices.pop_front().expect("just seen"),
            _ => Notice { before: dropped, missed: 0, gap: None },
        };
        lost.before = self.head;
        lost.missed += 1;
        match self.notices.front_mut() {
            Some(next) if next.before == self.head => {
                next.missed += lost.missed;
                next.gap = next.gap.take().or(lost.gap);
            }
            _ => self.notices.push_front(lost),
        }
    }

    /// The notice behind the last message, which is in front of the message to come, number `before`.
    fn notice_last(&mut self, before: u64) -> &mut Notice {
        if self.notices.back().is_none_or(|last| last.before < before) {
            self.notices.push_back(Notice { before, missed: 0, gap: None });
        }
        self.notices.back_mut().expect("there is one now")
    }

    fn pop(&mut self) -> Option<Received> {
        if let Some(notice) = self.notices.front_mut()
            && notice.before == self.head
        {
            let gap = notice.gap.take().map(|reason| Received::Gap { reason });
            if gap.is_some() && notice.missed > 0 {
                return gap;
            }
            let missed = notice.missed;
            self.notices.pop_front();
            return Some(gap.unwrap_or(Received::Lagged { missed }));
        }
        let message = self.messages.pop_front()?;
        self.bytes -= message.payload.len();
        self.head += 1;
        Some(Received::Message(message))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::Topic;

    fn message(payload: impl Into<Bytes>) -> Message {
        Message { topic: Topic::new("t").unwrap(), payload: payload.into() }
    }

    fn ring(messages_max: usize, bytes_max: usize) -> Ring {
        Ring::new(SubscriptionOptions { messages_max, bytes_max })
    }

    fn drain(ring: &Ring) -> String {
        let mut seen = Vec::new();
        while let Some(next) = ring.try_recv() {
            seen.push(match next {
                Received::Message(message) => String::from_utf8(message.payload.to_vec()).unwrap(),
                Received::Lagged { missed } => format!("-{missed}"),
                Received::Gap { reason } => format!("?{reason}"),
            });
        }
        seen.join(" ")
    }

    #[test]
    fn the_oldest_are_dropped_and_counted_in_their_place() {
        let ring = ring(2, 100);
        for payload in ["a", "b", "c", "d", "e"] {
            ring.push(message(payload));
        }
        assert_eq!(drain(&ring), "-3 d e");
        assert_eq!(ring.push(message("f")), Pushed::Taken);
        assert_eq!(drain(&ring), "f");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let ring = ring(100, 5);
        assert_eq!(ring.push(message("aa")), Pushed::Taken);
        assert_eq!(ring.push(message("bb")), Pushed::Taken);
        assert_eq!(ring.push(message("cc")), Pushed::Dropped);
        assert_eq!(drain(&ring), "-1 bb cc");
    }

    #[test]
    fn a_message_that_never_fits_drops_only_itself() {
        let ring = ring(3, 5);
        ring.push(message("a"));
        assert_eq!(ring.push(message("too big")), Pushed::Dropped);
        ring.push(message("b"));
        assert_eq!(drain(&ring), "a -1 b");
        ring.push(message("too big"));
        assert_eq!(drain(&ring), "-1");
    }

    #[test]
    fn a_gap_outlives_the_messages_around_it() {
        let ring = ring(2, 100);
        ring.push(message("a"));
        ring.push_gap("redis went away");
        for payload in ["b", "c", "d"] {
            ring.push(message(payload));
        }
        assert_eq!(drain(&ring), "?redis went away -2 c d");
    }

    #[test]
    fn a_closed_ring_gives_what_it_has_and_takes_nothing() {
        let ring = ring(2, 100);
        ring.push(message("a"));
        ring.close();
        assert_eq!(ring.push(message("b")), Pushed::Closed);
        ring.push_gap("late");
        assert_eq!(drain(&ring), "a");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Gap,
        Pop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0usize..12).prop_map(Step::Push),
            1 => Just(Step::Gap),
            4 => Just(Step::Pop),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// The reader's own count (messages read plus messages missed) always equals the number that the next
        /// message carries; no gap is forgotten; the bounds hold after every step.
        #[test]
        fn accounts_are_exact(steps in steps(), messages_max in 0usize..6, bytes_max in 0usize..30) {
            let ring = ring(messages_max, bytes_max);
            let (mut pushed, mut accounted, mut gap_owed) = (0u32, 0u32, false);
            let mut read = |next: Received, gap_owed: &mut bool| {
                match next {
                    Received::Message(message) => {
                        assert_eq!(message.topic.as_str(), format!("n{accounted}"));
                        accounted += 1;
                    }
                    Received::Lagged { missed } => {
                        assert!(missed > 0);
                        accounted += u32::try_from(missed).unwrap();
                    }
                    Received::Gap { .. } => *gap_owed = false,
                }
                accounted
            };
            for step in steps {
                match step {
                    Step::Push(len) => {
                        let topic = Topic::new(format!("n{pushed}")).unwrap();
                        ring.push(Message { topic, payload: vec![0; len].into() });
                        pushed += 1;
                    }
                    Step::Gap => {
                        ring.push_gap("lost");
                        gap_owed = true;
                    }
                    Step::Pop => if let Some(next) = ring.try_recv() {
                        read(next, &mut gap_owed);
                    }
                }
                let state = ring.state.lock();
                prop_assert!(state.messages.len() <= messages_max);
                prop_assert!(state.bytes <= bytes_max);
                prop_assert_eq!(state.bytes, state.messages.iter().map(|m| m.payload.len()).sum::<usize>());
                prop_assert!(state.notices.len() <= messages_max + 1);
            }
            let mut total = 0;
            while let Some(next) = ring.try_recv() {
                total = read(next, &mut gap_owed);
            }
            prop_assert!(!gap_owed);
            if total > 0 {
                prop_assert_eq!(total, pushed);
            }
        }
    }
}
