//! The latest messages of a topic, by their sequence number.

use std::{collections::VecDeque, ops::Deref};

use bytes::Bytes;

/// Payloads up to this length are copied into the log: less work than to count references to them, which the publisher
/// and whoever takes in acknowledgements do on two cores.
pub const COPIED_LEN_MAX: usize = 256;
/// Copied payloads are together in chunks of about this length.
const CHUNK_LEN: usize = 16 << 10;

/// An empty log keeps room for so much at most.
const KEPT_LEN_MAX: usize = 1 << 10;

/// A payload where it is kept.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// With others, in a chunk.
    Copied(&'a [u8]),
    /// On its own.
    Shared(&'a Bytes),
    /// In a buffer that has not been copied from yet.
    Part(&'a Bytes, usize, usize),
}

impl Payload<'_> {
    /// To be kept elsewhere.
    pub fn to_bytes(self) -> Bytes {
        match self {
            Self::Copied(bytes) => Bytes::copy_from_slice(bytes),
            Self::Shared(bytes) => bytes.clone(),
            Self::Part(body, start, end) => body.slice(start..end),
        }
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Part(body, start, end) => &body[*start..*end],
        }
    }
}

#[derive(Debug, Clone)]
enum Entry {
    Copied { chunk: u64, start: u32, len: u32 },
    Shared(Bytes),
}

impl Entry {
    fn len(&self) -> usize {
        match self {
            Self::Copied { len, .. } => *len as usize,
            Self::Shared(bytes) => bytes.len(),
        }
    }
}

/// A run of messages without a gap. It is bounded by those who push.
#[derive(Debug, Clone)]
pub struct Log {
    first: u64,
    messages: VecDeque<Entry>,
    bytes: usize,
    /// Which chunk is the first.
    chunk_first: u64,
    chunks: VecDeque<Vec<u8>>,
}

impl Log {
    /// An empty log whose first message will be `first`.
    pub const fn new(first: u64) -> Self {
        Self { first, messages: VecDeque::new(), bytes: 0, chunk_first: 0, chunks: VecDeque::new() }
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
    pub fn push(&mut self, payload: Payload<'_>) {
        self.bytes += payload.len();
        if payload.len() > COPIED_LEN_MAX {
            return self.messages.push_back(Entry::Shared(payload.to_bytes()));
        }
        let full = self.chunks.back().is_none_or(|chunk| chunk.len() + payload.len() > CHUNK_LEN);
        if full {
            // A topic that says little keeps little.
            let capacity = if self.chunks.is_empty() { 0 } else { CHUNK_LEN };
            self.chunks.push_back(Vec::with_capacity(capacity));
        }
        let chunk = self.chunk_first + self.chunks.len() as u64 - 1;
        let Some(into) = self.chunks.back_mut() else { return };
        let (start, len) = (into.len() as u32, payload.len() as u32);
        into.extend_from_slice(&payload);
        self.messages.push_back(Entry::Copied { chunk, start, len });
    }

    /// Counts one that nobody will ask for; none may be held.
    pub fn skip(&mut self) {
        debug_assert!(self.is_empty(), "those before it have gone");
        self.first += 1;
    }

    /// A message.
    #[inline]
    pub fn get(&self, sequence: u64) -> Option<Payload<'_>> {
        match self.messages.get(usize::try_from(sequence.checked_sub(self.first)?).ok()?)? {
            Entry::Copied { chunk, start, len } => {
                let chunk = self.chunks.get((chunk - self.chunk_first) as usize)?;
                Some(Payload::Copied(chunk.get(*start as usize..(*start + *len) as usize)?))
            }
            Entry::Shared(bytes) => Some(Payload::Shared(bytes)),
        }
    }

    /// Lets go of all before `sequence`.
    pub fn trim_to(&mut self, sequence: u64) {
        let mut kept = None;
        while self.first < sequence {
            let Some(entry) = self.messages.pop_front() else {
                self.first = sequence;
                break;
            };
            self.bytes -= entry.len();
            self.first += 1;
            if let Entry::Copied { chunk, .. } = entry {
                kept = Some(chunk);
            }
        }
        // All chunks before that of the last one that went are done with.
        if let Some(kept) = kept {
            let gone = (kept - self.chunk_first) as usize;
            self.chunks.drain(..gone);
            self.chunk_first = kept;
            if self.messages.is_empty()
                && let Some(chunk) = self.chunks.front_mut()
            {
                // Used again at once by a topic that is keeping up, unless it would keep much for a topic that is done.
                if chunk.capacity() <= KEPT_LEN_MAX { chunk.clear() } else { *chunk = Vec::new() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever their lengths and whenever it is trimmed, a log holds what was pushed, and no chunk that nobody needs.
        #[test]
        fn a_log_is_a_queue_with_numbers(
            steps in proptest::collection::vec((0_usize..600, 0_u64..20), 0..400),
        ) {
            let mut log = Log::new(7);
            let mut all: Vec<Bytes> = Vec::new();
            let mut first = 7;
            for (len, trim) in steps {
                // Mostly small ones, so that chunks fill.
                let len = if len < 500 { len / 4 } else { len };
                let payload = Bytes::from(vec![all.len() as u8; len]);
                log.push(Payload::Shared(&payload));
                all.push(payload);
                if trim < 3 {
                    first = (first + trim * 60).min(log.next());
                    log.trim_to(first);
                }
                let held = &all[(first - 7) as usize..];
                prop_assert_eq!((log.first(), log.len()), (first, held.len()));
                prop_assert_eq!(log.bytes(), held.iter().map(Bytes::len).sum::<usize>());
                for (number, payload) in (first..).zip(held) {
                    prop_assert_eq!(&log.get(number).unwrap()[..], &payload[..]);
                }
                prop_assert!(log.get(log.next()).is_none() && log.get(first - 1).is_none());
                let small: usize = held.iter().map(Bytes::len).filter(|len| *len <= COPIED_LEN_MAX).sum();
                prop_assert!(log.chunks.len() <= small / (CHUNK_LEN - COPIED_LEN_MAX) + 2);
            }
        }
    }
}
