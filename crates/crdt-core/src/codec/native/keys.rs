//! The column of keys: sorted, and each told by what it does not share with the one before.

use super::{Col, Columns, NativeError, column, frame::RATIO_MAX};
use crate::{
    codec::{self, Malformed, wire::Reader},
    text::Wtf8,
};

/// The keys of a document, sorted.
pub(super) struct KeyList {
    pub(super) bytes: Vec<u8>,
    /// Where each key ends; it starts where the one before ends.
    pub(super) ends: Vec<u32>,
}

impl KeyList {
    pub(super) fn read(columns: &Columns<'_>) -> Result<Self, NativeError> {
        Self::unfold(columns.get(Col::Keys as usize)).map_err(column(Col::Keys))
    }

    pub(super) fn get(&self, number: u32) -> Wtf8<'_> {
        let at = number as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        Wtf8::trusted(&self.bytes[start..self.ends[at] as usize])
    }

    /// How many keys there are, and how many bytes, without unfolding them.
    pub(super) fn measure(columns: &Columns<'_>) -> Result<(usize, u64), NativeError> {
        let measure = || {
            let r = &mut Reader::new(columns.get(Col::Keys as usize));
            let count = r.vu57("a count of keys")?;
            let mut bytes = 0u64;
            let mut measured = 0;
            while r.left() > 0 && measured < count {
                let shared = r.vu57("length of what keys share")?;
                let rest_len = r.vu57("the length of a key")?;
                r.take(rest_len, "a key")?;
                bytes = bytes.saturating_add(shared).saturating_add(rest_len);
                measured += 1;
            }
            // Each has taken bytes of the column, so there are not too many to count.
            Ok((measured as usize, bytes))
        };
        measure().map_err(column(Col::Keys))
    }

    fn unfold(column: &[u8]) -> Result<Self, Malformed> {
        let r = &mut Reader::new(column);
        let count = r.vu57("a count of keys")?;
        // A key may share all but a byte with the one before; so bytes are bounded, not only counted. A writer shares less
        // where that is too good.
        let max = column.len().saturating_mul(RATIO_MAX).min(u32::MAX as usize);
        let room = codec::room(count, column.len() / 2);
        // Most keys share most with the one before; what is too much is given back.
        let mut keys = Self { bytes: Vec::with_capacity(3 * column.len()), ends: Vec::with_capacity(room) };
        let (mut left, mut is_ascii) = (count, true);
        while left > 0 {
            left -= keys.take_brief(r, left, max);
            if left > 0 {
                keys.take_any(r, max, &mut is_ascii)?;
                left -= 1;
            }
        }
        r.end()?;
        Ok(keys)
    }

    /// Where the last key starts, and where it ends.
    fn last(&self) -> (usize, usize) {
        let before_last = self.ends.len().checked_sub(2).and_then(|at| self.ends.get(at));
        (before_last.map_or(0, |&start| start as usize), self.bytes.len())
    }

    /// Takes one key, of whatever length.
    fn take_any(&mut self, r: &mut Reader<'_>, max: usize, is_ascii: &mut bool) -> Result<(), Malformed> {
        let (start, end) = self.last();
        let shared = r.vu57_up_to((end - start) as u64, "length of what keys share")? as usize;
        let rest_len = r.vu57("the length of a key")?;
        let rest = r.take(rest_len, "a key")?;
        let before = &self.bytes[start + shared..];
        if before >= rest && !self.ends.is_empty() {
            return Err(Malformed::Contradiction { at: r.offset(), what: "keys that are not sorted" });
        }
        let total = end + shared + rest.len();
        if total > max {
            let (at, what) = (r.offset(), "length of all keys");
            return Err(Malformed::TooLarge { at, what, value: total as u64, max: max as u64 });
        }
        self.bytes.extend_from_within(start..start + shared);
        self.bytes.extend_from_slice(rest);
        // What it shares with one that is ASCII is too.
        *is_ascii = *is_ascii && rest.is_ascii() || self.bytes[end..].is_ascii();
        if !*is_ascii {
            Wtf8::new(&self.bytes[end..]).map_err(|_| Malformed::Text { at: r.offset() - rest.len() })?;
        }
        self.ends.push(total as u32);
        Ok(())
    }

    /// Makes room for a block from `end` on, and for more where so many bytes were taken already.
    #[inline]
    fn make_room(&mut self, end: usize, taken: usize) {
        if self.bytes.len() < end + BLOCK {
            self.bytes.resize(end + BLOCKS_MIN * BLOCK + taken / 2, 0);
        }
    }

    /// Takes keys as long as each is [brief](Brief), at most so many. Tells how many it took.
    fn take_brief(&mut self, r: &mut Reader<'_>, count: u64, max: usize) -> u64 {
        let (start, before) = self.last();
        let mut end = before;
        let (mut last, mut rest, mut left) = (Brief::of(&self.bytes[start..]), r.rest(), count);
        while left > 0
            && let Some((key, after)) = last.next(rest)
            && end + key.len <= max
        {
            // Each is written as a whole block, of which the next one overwrites what is too much.
            self.make_room(end, end - before);
            self.bytes[end..end + BLOCK].copy_from_slice(&key.block.to_le_bytes());
            end += key.len;
            self.ends.push(end as u32);
            (last, rest, left) = (key, after, left - 1);
            // Keys that count up are the one before but for a larger last byte: nine of ten, where numbers are keys.
            let (step, mut byte) = (last.len, last.last_byte());
            let (triples, _) = rest.as_chunks();
            let most = codec::room(left, triples.len());
            if end + most * step > max {
                continue;
            }
            let counts_up = |&&[shared, len, next]: &&[u8; 3]| {
                let is_next = usize::from(shared) == step - 1 && len == 1 && byte < next && next < 0x80;
                byte = next;
                is_next
            };
            let len = triples.iter().take(most).take_while(counts_up).count();
            let Some(&[.., highest]) = len.checked_sub(1).and_then(|at| triples.get(at)) else { continue };
            self.make_room(end + len * step, end - before);
            let (block, room) = (last.block.to_le_bytes(), &mut self.bytes[end..]);
            for (at, &[.., next]) in triples[..len].iter().enumerate() {
                let room = &mut room[at * step..][..BLOCK];
                room.copy_from_slice(&block);
                room[step - 1] = next;
            }
            self.ends.extend((0..len).map(|at| (end + (at + 1) * step) as u32));
            end += len * step;
            last.set_last_byte(highest);
            (rest, left) = (&rest[3 * len..], left - len as u64);
        }
        self.bytes.truncate(end);
        r.skip_to(rest);
        count - left
    }
}

/// How long a key is that is put together at once.
const BLOCK: usize = 16;

/// For so many keys is room made at first.
const BLOCKS_MIN: usize = 8;

/// By how many: the low bytes of a block.
const LOW_BYTES: [u128; BLOCK + 1] = {
    let (mut masks, mut len) = ([0; BLOCK + 1], 0);
    while len < BLOCK {
        masks[len + 1] = masks[len] << 8 | 0xff;
        len += 1;
    }
    masks
};

/// A short key in a block, and zeros behind it.
struct Brief {
    block: u128,
    len: usize,
}

impl Brief {
    /// A key; none if it is long.
    fn of(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        let Some(room) = block.get_mut(..key.len()) else { return Self { block: 0, len: 0 } };
        room.copy_from_slice(key);
        Self { block: u128::from_le_bytes(block), len: key.len() }
    }

    /// The key that stands next in some bytes, and the bytes behind it. `None` if it is unusual in any way, or long; so
    /// it is neither empty nor follows one that is.
    #[inline(always)]
    fn next<'a>(&self, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let &[shared, rest_len, ref ahead @ ..] = bytes.first_chunk::<{ BLOCK + 2 }>()?;
        let (shared, rest_len) = (usize::from(shared), usize::from(rest_len));
        if self.len == 0 || shared > self.len || rest_len == 0 || shared + rest_len > BLOCK {
            return None;
        }
        let (kept, more) =
            (self.block & LOW_BYTES[shared], u128::from_le_bytes(*ahead) & LOW_BYTES[rest_len]);
        let is_ascii = (kept | more) & u128::from_le_bytes([0x80; BLOCK]) == 0;
        // Sorted: the first byte that differs is larger, or there was none.
        let in_order = self.block.to_le_bytes()[shared] < ahead[0] || shared == self.len;
        let key = Self { block: kept | more << (8 * shared), len: shared + rest_len };
        (is_ascii && in_order).then_some((key, bytes.get(2 + rest_len..)?))
    }

    const fn last_byte(&self) -> u8 {
        (self.block >> (8 * (self.len - 1))) as u8
    }

    const fn set_last_byte(&mut self, byte: u8) {
        let shift = 8 * (self.len - 1);
        self.block = self.block & !(0xff << shift) | (byte as u128) << shift;
    }
}
