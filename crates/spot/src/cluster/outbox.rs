//! What waits to be sent to one peer: frames in one growing buffer, large payloads by reference.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    command::{Command, code},
    log::Payload,
    zmtp::frame::{LONG, MORE},
};

/// A batch is closed when it has this many bytes, so that a receiver need not wait long for its end.
const BATCH_LEN_MAX: usize = 64 << 10;
/// Payloads of this length and more travel by reference.
const LARGE_LEN_MIN: usize = 4 << 10;
/// Room that a fresh buffer has: as much as was needed last, within these bounds. What is idle holds no buffer. A batch goes
/// on until it is full, so the last of its messages has to fit behind its bound: a buffer that grew for it would be copied.
const TAIL_CAPACITY_MIN: usize = 512;
const TAIL_CAPACITY_MAX: usize = BATCH_LEN_MAX + 2 * LARGE_LEN_MIN;
/// Before a batch's records: the command frame, and a long frame header.
const BATCH_HEADER_LEN: usize = 3 + 9;

/// The queue of one peer. It is bounded by those who put, with [`has_room`](Self::has_room).
#[derive(Debug, Default)]
pub struct Outbox {
    segments: Vec<Bytes>,
    tail: BytesMut,
    /// Where the header of the open batch is in `tail`.
    batch: Option<usize>,
    queued_bytes: usize,
    queued_messages: usize,
    in_flight_bytes: usize,
    in_flight_messages: usize,
    /// Bytes that were taken last.
    usual: usize,
    /// Of the bytes, those of commands.
    queued_command_bytes: usize,
    in_flight_command_bytes: usize,
    scheduled: bool,
    /// Whether every segment must hold whole frames, because they are sealed one by one.
    pub contiguous: bool,
}

impl Outbox {
    /// Whether a message of `len` bytes may be put, with so many bytes and messages at most waiting. Into an empty queue
    /// a message of any length may go.
    #[inline]
    pub fn has_room(&self, len: usize, bytes_max: usize, messages_max: usize) -> bool {
        let bytes = self.bytes();
        (bytes + len <= bytes_max || bytes == 0)
            && self.queued_messages + self.in_flight_messages < messages_max
    }

    /// Bytes waiting or being written.
    pub fn bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes
    }

    /// Those of them that are commands, not messages.
    pub fn command_bytes(&self) -> usize {
        self.queued_command_bytes + self.in_flight_command_bytes
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.queued_bytes == 0
    }

    /// Puts a command other than a batch.
    pub fn put_command(&mut self, command: &Command<'_>, delimited: bool) {
        self.seal();
        let before = self.tail.len();
        command.put(&mut self.tail, delimited);
        self.queued_bytes += self.tail.len() - before;
        self.queued_command_bytes += self.tail.len() - before;
        self.queued_messages += 1;
    }

    /// Puts `head` with a payload behind it, outside of a batch: the frames of a plain message.
    pub fn put_plain(&mut self, head: &[u8], payload: Payload<'_>) {
        self.seal();
        self.put_payload(head, payload);
        self.queued_messages += 1;
    }

    /// Puts a record that is no message into the open batch.
    pub fn put_record(&mut self, record: &[u8]) {
        self.open();
        self.tail.extend_from_slice(record);
        self.queued_bytes += record.len();
    }

    /// Puts a message into the open batch: the record's head, and the payload.
    #[inline]
    pub fn put_message(&mut self, head: &[u8], payload: Payload<'_>) {
        self.queued_messages += 1;
        if payload.len() >= LARGE_LEN_MIN && !self.contiguous {
            // On its own, because a batch's length must be known before its bytes leave the buffer.
            self.seal();
            self.put_batch_header(head.len() + payload.len());
            self.queued_bytes += BATCH_HEADER_LEN;
            return self.put_payload(head, payload);
        }
        self.open();
        self.tail.reserve(head.len() + payload.len());
        self.tail.extend_from_slice(head);
        self.tail.extend_from_slice(&payload);
        self.queued_bytes += head.len() + payload.len();
    }

    fn put_payload(&mut self, head: &[u8], payload: Payload<'_>) {
        self.tail.extend_from_slice(head);
        if payload.len() >= LARGE_LEN_MIN && !self.contiguous {
            self.segments.push(self.tail.split().freeze());
            self.segments.push(payload.to_bytes());
        } else {
            self.tail.extend_from_slice(&payload);
        }
        self.queued_bytes += head.len() + payload.len();
    }

    fn put_batch_header(&mut self, len: usize) {
        self.tail.reserve(BATCH_HEADER_LEN);
        self.tail.put_slice(&[MORE, 1, code::BATCH, LONG]);
        self.tail.put_u64(len as u64);
    }

    #[inline]
    fn open(&mut self) {
        if let Some(start) = self.batch {
            if self.tail.len() - start < BATCH_LEN_MAX {
                return;
            }
            self.seal();
        }
        if self.tail.len() >= BATCH_LEN_MAX && !self.contiguous {
            self.segments.push(self.tail.split().freeze());
        }
        let wanted = self.usual.clamp(TAIL_CAPACITY_MIN, TAIL_CAPACITY_MAX);
        if self.tail.is_empty() && self.tail.capacity() < wanted {
            // Not what is left of the last one's room: it would be full before the batch is, and copied.
            self.tail = BytesMut::with_capacity(wanted);
        } else if self.tail.capacity() - self.tail.len() < BATCH_HEADER_LEN + 256 {
            self.tail.reserve(wanted);
        }
        self.batch = Some(self.tail.len());
        self.put_batch_header(0);
        self.queued_bytes += BATCH_HEADER_LEN;
    }

    fn seal(&mut self) {
        if let Some(start) = self.batch.take() {
            let len = (self.tail.len() - start - BATCH_HEADER_LEN) as u64;
            self.tail[start + 4..start + BATCH_HEADER_LEN].copy_from_slice(&len.to_be_bytes());
        }
    }

    /// Whether a writer has to be woken: true once, until [`take`](Self::take) finds nothing.
    pub fn schedule(&mut self) -> bool {
        !self.is_empty() && !std::mem::replace(&mut self.scheduled, true)
    }

    /// Takes all that waits. What was taken before counts as sent now. False if there is nothing.
    pub fn take(&mut self, into: &mut Vec<Bytes>) -> bool {
        self.seal();
        self.in_flight_bytes = std::mem::take(&mut self.queued_bytes);
        self.in_flight_messages = std::mem::take(&mut self.queued_messages);
        self.in_flight_command_bytes = std::mem::take(&mut self.queued_command_bytes);
        into.append(&mut self.segments);
        // With what is left of its room: that would keep the whole buffer for as long as nothing is sent.
        let tail = std::mem::take(&mut self.tail);
        if !tail.is_empty() {
            into.push(tail.freeze());
            self.usual = self.in_flight_bytes;
        }
        self.scheduled = self.in_flight_bytes > 0;
        self.scheduled
    }
}
