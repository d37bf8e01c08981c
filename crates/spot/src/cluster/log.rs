//! The latest messages of a topic, by their sequence number.

use std::collections::VecDeque;

use bytes::Bytes;

/// A run of messages without a gap. It is bounded by those who push.
#[derive(Debug, Clone, Default)]
pub struct Log {
    first: u64,
    messages: VecDeque<Bytes>,
    bytes: usize,
}

impl Log {
    /// An empty log whose first message will be `first`.
    pub fn new(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    /// The sequence number of the oldest message, or of the next if there is none.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The sequence number of the next message.
    pub fn next(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Payload bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the next.
    pub fn push(&mut self, payload: Bytes) {
        self.bytes += payload.len();
        self.messages.push_back(payload);
    }

    /// A message.
    pub fn get(&self, sequence: u64) -> Option<&Bytes> {
        self.messages.get(usize::try_from(sequence.checked_sub(self.first)?).ok()?)
    }

    /// Lets go of all before `sequence`.
    pub fn trim_to(&mut self, sequence: u64) {
        while self.first < sequence {
            match self.messages.pop_front() {
                Some(payload) => self.bytes -= payload.len(),
                None => return self.first = sequence,
            }
            self.first += 1;
        }
    }
}
