//! The numbers and ids that all binary forms are made of (`vu57`, `b1vu56`, relative ids) and a bounded reader of them.

mod burst;
mod rows;

use super::Malformed;
use crate::{SessionId, Timestamp, id::MAX_ID, text::Wtf8};

pub(crate) use burst::{Burst, Bursts, brief, burst};
pub(crate) use rows::Alike;

/// A position in bytes from outside. Every read is checked; nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether all that was read so far was spelled as json-joy's encoder spells it.
    pub(crate) canonical: bool,
    /// The ids of other sessions than the patch's own that were read.
    pub(crate) foreign: Foreign,
}

/// Which ids of other sessions a patch names, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// None.
    None,
    /// Those of one session, none of them later than this one; and ids of the system.
    UpTo(Timestamp),
    /// Any.
    Any,
}

impl Foreign {
    /// Takes one more.
    #[inline]
    pub(crate) fn add(&mut self, id: Timestamp) {
        *self = match *self {
            Self::None | Self::UpTo(Timestamp::ORIGIN) => Self::UpTo(id),
            Self::UpTo(last) if last.sid == id.sid => Self::UpTo(last.max(id)),
            // Who has no session is known to all.
            same if id.sid == SessionId::SYSTEM => same,
            _ => Self::Any,
        };
    }
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, canonical: true, foreign: Foreign::None }
    }

    /// A reader of the same bytes elsewhere; beyond the end it finds nothing.
    pub(crate) const fn at_offset(self, at: usize) -> Self {
        Self { at, ..self }
    }

    /// The offset of the next byte.
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub const fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The bytes from `start` up to here.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// The bytes that are left.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Goes on where only `rest`, a later [`rest`](Self::rest), is left.
    #[inline]
    pub(crate) const fn skip_to(&mut self, rest: &[u8]) {
        self.at = self.bytes.len() - rest.len();
    }

    /// Goes on behind so many bytes, which are there.
    #[inline]
    pub(crate) const fn skip(&mut self, len: usize) {
        self.at += len;
    }

    /// Asks that nothing is left.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.left() {
            0 => Ok(()),
            left => Err(Malformed::LeftOver { at: self.at, left }),
        }
    }

    #[cold]
    pub(crate) fn truncated(&self, what: &'static str) -> Malformed {
        Malformed::Truncated { at: self.bytes.len(), what }
    }

    #[cold]
    pub(crate) fn unexpected(&self, found: u8, expected: &'static str) -> Malformed {
        Malformed::Unexpected { at: self.at.saturating_sub(1), found, expected }
    }

    #[cold]
    fn too_large(&self, what: &'static str, value: u64, max: u64) -> Malformed {
        Malformed::TooLarge { at: self.at, what, value, max }
    }

    /// The next byte, unread.
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        match self.bytes.get(self.at) {
            Some(&byte) => {
                self.at += 1;
                Ok(byte)
            }
            None => Err(self.truncated(what)),
        }
    }

    /// So many bytes.
    #[inline]
    pub fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(self.truncated(what)),
        }
    }

    /// So many bytes of text.
    #[inline]
    pub fn text(&mut self, len_bytes: u64) -> Result<Wtf8<'a>, Malformed> {
        let start = self.at;
        let bytes = self.take(len_bytes, "text")?;
        if bytes.is_ascii() {
            return Ok(Wtf8::trusted(bytes));
        }
        Wtf8::new(bytes).map_err(|at| Malformed::Text { at: start + at })
    }

    /// A big-endian number of 1 to 8 bytes.
    #[inline]
    pub fn big_endian(&mut self, len: u64, what: &'static str) -> Result<u64, Malformed> {
        Ok(self.take(len, what)?.iter().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    /// Seven bits per byte from the low end, the high bit says "more"; the eighth byte has eight.
    #[inline(always)]
    pub fn vu57(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let first = self.u8(what)?;
        if first < 0x80 {
            return Ok(first.into());
        }
        self.varint_tail((first & 0x7f).into(), 7).ok_or_else(|| self.truncated(what))
    }

    /// A flag and a number: the first byte holds the flag, "more" and six bits.
    #[inline(always)]
    pub fn b1vu56(&mut self, what: &'static str) -> Result<(bool, u64), Malformed> {
        let first = self.u8(what)?;
        let low = u64::from(first & 0x3f);
        if first & 0x40 == 0 {
            return Ok((first & 0x80 != 0, low));
        }
        let number = self.varint_tail(low, 6).ok_or_else(|| self.truncated(what))?;
        Ok((first & 0x80 != 0, number))
    }

    /// The bytes behind the first one, which brought `shift` bits. `None` at the end of the input: an error would not
    /// fit into registers, and this is what reading spends its time on.
    #[inline]
    fn varint_tail(&mut self, low: u64, shift: u32) -> Option<u64> {
        // Up to six bytes at once: the first byte without a high bit is the last one; seven bits of each stay.
        if let Some(&last) = self.bytes.last_chunk() {
            // The next eight bytes, or those that are left and zeros, which the check of the length notices.
            let left = self.left().min(8) as u32;
            let word = match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
                Some(&next) => u64::from_le_bytes(next),
                None => u64::from_le_bytes(last).checked_shr(64 - 8 * left).unwrap_or(0),
            };
            if let Some((number, len)) = at_once(word)
                && len <= left
            {
                self.at += len as usize;
                self.canonical &= number >> (7 * (len - 1)) != 0;
                return Some(low | number << shift);
            }
        }
        self.varint_slow(low, shift)
    }

    #[cold]
    fn varint_slow(&mut self, low: u64, shift: u32) -> Option<u64> {
        let mut number = low;
        for index in 0..7 {
            let &byte = self.bytes.get(self.at)?;
            self.at += 1;
            let last = index == 6 || byte < 0x80;
            let bits = if index == 6 { byte } else { byte & 0x7f };
            number |= u64::from(bits) << (shift + 7 * index);
            if last {
                self.canonical &= byte != 0;
                break;
            }
        }
        Some(number)
    }

    /// A number that must not exceed `max`.
    #[inline]
    pub fn vu57_up_to(&mut self, max: u64, what: &'static str) -> Result<u64, Malformed> {
        let number = self.vu57(what)?;
        if number <= max { Ok(number) } else { Err(self.too_large(what, number, max)) }
    }

    /// A session id.
    #[inline]
    pub fn session(&mut self) -> Result<SessionId, Malformed> {
        let id = self.vu57("a session id")?;
        SessionId::new(id).map_err(|_| self.too_large("session id", id, MAX_ID))
    }

    /// A logical time.
    #[inline]
    pub fn time(&mut self) -> Result<u64, Malformed> {
        self.vu57_up_to(MAX_ID, "time")
    }

    /// A timestamp within a patch of `own`: another session's has a flag and the session behind it.
    #[inline]
    pub fn patch_id(&mut self, own: SessionId) -> Result<Timestamp, Malformed> {
        let (other, time) = self.b1vu56("a timestamp")?;
        if time > MAX_ID {
            return Err(self.too_large("time", time, MAX_ID));
        }
        if !other {
            return Ok(Timestamp::new(own, time));
        }
        let sid = self.session()?;
        self.canonical &= sid != own;
        self.foreign.add(Timestamp::new(sid, time));
        Ok(Timestamp::new(sid, time))
    }

    /// Notes that not only the first of so many ids was named.
    pub(crate) fn reach(&mut self, own: SessionId, start: Timestamp, span: u64) {
        if start.sid != own && span > 1 {
            self.foreign.add(Timestamp::new(start.sid, start.time + span - 1));
        }
    }

    /// A pair of numbers, in one byte when they are small: an index into a clock table and a time.
    #[inline(always)]
    pub fn pair(&mut self) -> Result<(u64, u64), Malformed> {
        match self.peek() {
            Some(byte) if byte < 0x80 => {
                self.at += 1;
                Ok((u64::from(byte >> 4), u64::from(byte & 15)))
            }
            _ => Ok((self.b1vu56("an id")?.1, self.vu57("an id")?)),
        }
    }
}

/// A number of at most six bytes with seven bits each, which begins at the low end of a word; and how many bytes it takes.
/// `None` if it is longer.
#[inline(always)]
pub(crate) const fn at_once(word: u64) -> Option<(u64, u32)> {
    let len = (!word & 0x8080_8080_8080_8080).trailing_zeros() / 8 + 1;
    if len > 6 {
        return None;
    }
    Some((join(word & (u64::MAX >> (64 - 8 * len))), len))
}

/// The low seven bits of the low seven bytes, side by side.
#[inline(always)]
pub(crate) const fn join(word: u64) -> u64 {
    let word = word & 0x007f_7f7f_7f7f_7f7f;
    let word = word & 0x00ff_00ff_00ff_00ff | (word & 0xff00_ff00_ff00_ff00) >> 1;
    let word = word & 0x0000_ffff_0000_ffff | (word & 0xffff_0000_ffff_0000) >> 2;
    word & 0x0000_0000_ffff_ffff | (word & 0xffff_ffff_0000_0000) >> 4
}

/// Writes a [`Reader::vu57`].
#[inline]
pub fn put_vu57(out: &mut Vec<u8>, number: u64) {
    if number < 0x80 {
        out.push(number as u8);
    } else {
        put_tail(out, number & 0x7f | 0x80, number >> 7);
    }
}

/// Writes a [`Reader::b1vu56`].
#[inline]
pub fn put_b1vu56(out: &mut Vec<u8>, flag: bool, number: u64) {
    let head = u64::from(flag) << 7 | number & 0x3f;
    if number < 0x40 {
        out.push(head as u8);
    } else {
        put_tail(out, head | 0x40, number >> 6);
    }
}

/// Writes a first byte and the bytes behind it: gathered in one word, so that the vector grows once.
fn put_tail(out: &mut Vec<u8>, head: u64, mut rest: u64) {
    let mut word = head;
    let mut len = 1;
    while rest >= 0x80 && len < 7 {
        word |= (rest & 0x7f | 0x80) << (8 * len);
        rest >>= 7;
        len += 1;
    }
    word |= (rest & 0xff) << (8 * len);
    out.extend_from_slice(&word.to_le_bytes()[..=len]);
}

/// Writes a timestamp into a patch of `own`.
#[inline]
pub fn put_patch_id(out: &mut Vec<u8>, own: SessionId, id: Timestamp) {
    put_b1vu56(out, id.sid != own, id.time);
    if id.sid != own {
        put_vu57(out, id.sid.get());
    }
}

/// Writes a [`Reader::pair`].
#[inline]
pub fn put_pair(out: &mut Vec<u8>, x: u64, y: u64) {
    if x <= 7 && y <= 15 {
        out.push((x << 4 | y) as u8);
    } else {
        put_b1vu56(out, true, x);
        put_vu57(out, y);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_read_as_written(n in 0..1u64 << 56, x in 0..0x90u64, shift in 0u32..56, flag: bool) {
            let n = n >> shift;
            let mut out = Vec::new();
            put_vu57(&mut out, n);
            put_b1vu56(&mut out, flag, n);
            put_pair(&mut out, n >> 1, n);
            put_pair(&mut out, x, n);
            let mut same = Vec::new();
            burst(&mut same, |burst| {
                burst.vu57(n);
                burst.b1vu56(flag, n);
                burst.pair(n >> 1, n);
                burst.pair(x, n);
            });
            prop_assert_eq!(&same, &out);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.vu57("n").unwrap(), n);
            prop_assert_eq!(reader.b1vu56("n").unwrap(), (flag, n));
            prop_assert_eq!(reader.pair().unwrap(), (n >> 1, n));
            prop_assert_eq!(reader.pair().unwrap(), (x, n));
            prop_assert!(reader.canonical && reader.end().is_ok());
        }

        #[test]
        fn what_reads_as_canonical_is_written_the_same(bytes: [u8; 8]) {
            let mut reader = Reader::new(&bytes);
            let n = reader.vu57("n").unwrap();
            let mut out = Vec::new();
            put_vu57(&mut out, n);
            prop_assert_eq!(reader.canonical, out == reader.since(0));
        }
    }

    #[test]
    fn the_end_of_input_is_an_error() {
        assert!(Reader::new(&[0x80]).vu57("n").is_err());
        assert!(Reader::new(&[0xff; 7]).vu57("n").is_err());
        assert!(Reader::new(&[]).u8("n").is_err());
        assert!(Reader::new(&[1, 2]).take(u64::MAX, "bytes").is_err());
    }
}
