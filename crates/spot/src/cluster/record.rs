//! What is in a BATCH: definitions of streams, and their messages (`docs/formats/spot.md`).

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::command::{Refused, SEQUENCE_MAX, code, u64_at};
use crate::Topic;

/// What a record of a BATCH is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the owner to a subscriber.
    Message,
    /// To the owner.
    Publish,
    /// From a publisher to whoever is interested, without an owner.
    Open,
}

/// A record of a BATCH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// From here on `alias` stands for this stream.
    Define {
        /// The number.
        alias: u32,
        /// What its messages are.
        kind: Kind,
        /// The sender's epoch.
        epoch: u64,
        /// The sequence number of its next message.
        next: u64,
        /// The topic.
        topic: &'a str,
    },
    /// The next message of a stream.
    Data {
        /// Which stream.
        alias: u32,
        /// Where the payload lies in the batch.
        start: usize,
        /// How long it is.
        len: usize,
    },
}

/// Where a payload lies in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub start: u32,
    /// How many.
    pub len: u32,
}

impl Span {
    /// As a range.
    #[inline]
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start as u32, len: range.len() as u32 }
    }
}

/// Writes the definition of an alias.
pub fn put_define(out: &mut BytesMut, alias: u32, kind: Kind, epoch: u64, next: u64, topic: &str) {
    out.put_u8(0);
    put_varint(out, alias);
    out.put_u8(kind as u8);
    out.put_u64_le(epoch);
    out.put_u64_le(next);
    out.put_u8(topic.len() as u8);
    out.put_slice(topic.as_bytes());
}

/// What stands before a payload: alias and length, two numbers of at most five bytes each.
#[derive(Debug, Clone, Copy)]
pub struct DataHeader {
    bytes: [u8; 10],
    len: usize,
}

impl DataHeader {
    /// Aliases are 1 and up.
    pub fn new(alias: u32, len: usize) -> Self {
        let mut header = Self { bytes: [0; 10], len: 0 };
        for mut n in [alias, len as u32] {
            while n >= 0x80 {
                header.put(n as u8 | 0x80);
                n >>= 7;
            }
            header.put(n as u8);
        }
        header
    }

    fn put(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// As it is written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn put_varint(out: &mut BytesMut, mut n: u32) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

#[inline]
fn varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let first = *bytes.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(u32::from(first));
    }
    let mut n = u64::from(first & 0x7f);
    for shift in [7, 14, 21, 28] {
        let byte = *bytes.get(*at)?;
        *at += 1;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(n).ok();
        }
    }
    None
}

/// Reads the next record of a BATCH at `at`; `None` at its end.
#[inline]
pub fn next_record<'a>(body: &'a [u8], at: &mut usize) -> Option<Result<Record<'a>, Refused>> {
    const BAD: Refused = Refused::Field { code: code::BATCH, field: "record" };
    if *at >= body.len() {
        return None;
    }
    let mut data = || {
        let alias = varint(body, at)?;
        if alias == 0 {
            return Some(None);
        }
        let len = varint(body, at)? as usize;
        let start = *at;
        *at = start.checked_add(len).filter(|end| *end <= body.len())?;
        Some(Some(Record::Data { alias, start, len }))
    };
    match data() {
        Some(Some(record)) => Some(Ok(record)),
        Some(None) => Some(define(body, at).ok_or(BAD)),
        None => Some(Err(BAD)),
    }
}

/// The payload of the next record of a BATCH, if that is one more message of this stream; otherwise nothing is read.
#[inline]
pub fn next_of(body: &[u8], at: &mut usize, alias: u32) -> Option<Span> {
    let mut ahead = *at;
    if varint(body, &mut ahead)? != alias {
        return None;
    }
    let len = varint(body, &mut ahead)? as usize;
    let end = ahead.checked_add(len).filter(|end| *end <= body.len())?;
    *at = end;
    Some(Span::from(ahead..end))
}

fn define<'a>(body: &'a [u8], at: &mut usize) -> Option<Record<'a>> {
    let alias = varint(body, at).filter(|alias| *alias != 0)?;
    let kind = match *body.get(*at)? {
        0 => Kind::Message,
        1 => Kind::Publish,
        2 => Kind::Open,
        _ => return None,
    };
    let epoch = u64_at(body, *at + 1)?;
    let next = u64_at(body, *at + 9).filter(|next| *next <= SEQUENCE_MAX)?;
    let len = usize::from(*body.get(*at + 17)?);
    let topic = Topic::check_bytes(body.get(*at + 18..*at + 18 + len)?).ok()?;
    *at += 18 + len;
    Some(Record::Define { alias, kind, epoch, next, topic })
}
