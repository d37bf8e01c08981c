//! Writing many numbers with few requests for room: words of eight bytes are stored into it, and what is too much is cut off.

use crate::{SessionId, Timestamp};

/// A few numbers that are written together at the end of a vector, which is asked for room once.
pub(crate) struct Burst<'a> {
    room: &'a mut [u8; Burst::ROOM],
    len: usize,
}

/// Appends what `write` writes: at most an operation of a patch.
#[inline(always)]
pub(crate) fn burst(out: &mut Vec<u8>, write: impl FnOnce(&mut Burst<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; Burst::ROOM]);
    let mut burst = Burst { room: out.last_chunk_mut().expect("it was just appended"), len: 0 };
    write(&mut burst);
    let end = start + burst.len;
    out.truncate(end);
}

/// Bursts that are gathered before they are appended: no vector is asked for room for each.
pub(crate) struct Bursts {
    room: [u8; Self::GATHERED + Burst::ROOM],
    len: usize,
}

impl Bursts {
    const GATHERED: usize = 4096;

    pub(crate) const fn new() -> Self {
        Self { room: [0; Self::GATHERED + Burst::ROOM], len: 0 }
    }

    /// Gathers what `write` writes, [in front of](Self::flush) which all that went before is appended to `out` now and
    /// then.
    #[inline(always)]
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Burst<'_>)) {
        if self.len > Self::GATHERED {
            self.flush(out);
        }
        let room = self.room[self.len..].first_chunk_mut().expect("the last burst left room for one");
        let mut burst = Burst { room, len: 0 };
        write(&mut burst);
        self.len += burst.len;
    }

    /// Appends what was gathered.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.room[..self.len]);
        self.len = 0;
    }
}

/// What `write` writes, at most sixteen bytes, and how many it is.
pub(crate) fn brief(write: impl FnOnce(&mut Burst<'_>)) -> ([u8; 16], usize) {
    let mut burst = Burst { room: &mut [0; Burst::ROOM], len: 0 };
    write(&mut burst);
    let block = *burst.room.first_chunk().expect("the room is larger");
    (block, burst.len)
}

impl Burst<'_> {
    /// Words are written whole: an operation with the head of its patch takes at most 50 bytes, a word that ends there eight
    /// more.
    const ROOM: usize = 64;
    /// The most bytes that [`some`](Self::some) takes: what is left behind the head of a patch.
    pub(crate) const SOME_MAX: usize = 32;

    /// Appends the low `len` bytes of a word.
    #[inline(always)]
    fn word(&mut self, word: u64, len: usize) {
        self.room[self.len..self.len + 8].copy_from_slice(&word.to_le_bytes());
        self.len += len;
    }

    #[inline(always)]
    pub(crate) fn u8(&mut self, byte: u8) {
        self.room[self.len] = byte;
        self.len += 1;
    }

    /// Appends the first `len` of two bytes.
    #[inline(always)]
    pub(crate) fn pair_of_bytes(&mut self, bytes: [u8; 2], len: u8) {
        self.room[self.len..self.len + 2].copy_from_slice(&bytes);
        self.len += usize::from(len);
    }

    /// Appends the first `len` bytes of a block.
    #[inline(always)]
    pub(crate) fn block<const N: usize>(&mut self, block: &[u8; N], len: usize) {
        self.room[self.len..self.len + N].copy_from_slice(block);
        self.len += len;
    }

    /// Appends at most [`SOME_MAX`](Self::SOME_MAX) bytes, by copies of fixed sizes that overlap.
    #[inline(always)]
    pub(crate) fn some(&mut self, bytes: &[u8]) {
        let (start, end) = (self.len, self.len + bytes.len());
        if let (Some(first), Some(last)) = (bytes.first_chunk::<16>(), bytes.last_chunk::<16>()) {
            self.room[start..start + 16].copy_from_slice(first);
            self.room[end - 16..end].copy_from_slice(last);
            self.len = end;
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            self.room[start..start + 8].copy_from_slice(first);
            self.room[end - 8..end].copy_from_slice(last);
            self.len = end;
        } else {
            self.few(bytes);
        }
    }

    /// Appends at most eight bytes.
    #[inline(always)]
    pub(crate) fn few(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.u8(byte);
        }
    }

    /// Writes a [`Reader::vu57`].
    #[inline(always)]
    pub(crate) fn vu57(&mut self, number: u64) {
        if number < 0x80 {
            return self.u8(number as u8);
        }
        if number < 1 << 21 {
            return self.near(number as u32);
        }
        let (word, len) = spread(number);
        self.word(word, len);
    }

    /// Writes a number below 2^21, as most times in a document are.
    #[inline(always)]
    fn near(&mut self, number: u32) {
        if number < 0x80 {
            return self.u8(number as u8);
        }
        let (low, middle) = (number & 0x7f | 0x80, number >> 7 & 0x7f);
        let (word, len) = match number >> 14 {
            0 => (low | middle << 8, 2),
            high => (low | (middle | 0x80) << 8 | high << 16, 3),
        };
        self.room[self.len..self.len + 4].copy_from_slice(&word.to_le_bytes());
        self.len += len;
    }

    /// Writes a [`Reader::b1vu56`].
    #[inline(always)]
    pub(crate) fn b1vu56(&mut self, flag: bool, number: u64) {
        let head = u8::from(flag) << 7 | number as u8 & 0x3f;
        if number < 0x40 {
            return self.u8(head);
        }
        self.u8(head | 0x40);
        let rest = number >> 6;
        if rest < 1 << 21 {
            self.near(rest as u32);
        } else if rest < 1 << 49 {
            let (word, len) = spread(rest);
            self.word(word, len);
        } else {
            // The seventh byte behind the head has eight bits.
            let (word, _) = spread(rest & ((1 << 42) - 1) | 1 << 42);
            self.word(word & 0x0000_ffff_ffff_ffff | (rest >> 42) << 48, 7);
        }
    }

    /// Writes a timestamp into a patch of `own`.
    #[inline(always)]
    pub(crate) fn patch_id(&mut self, own: SessionId, id: Timestamp) {
        self.b1vu56(id.sid != own, id.time);
        if id.sid != own {
            self.vu57(id.sid.get());
        }
    }

    /// Writes a [`Reader::pair`].
    #[inline(always)]
    pub(crate) fn pair(&mut self, x: u64, y: u64) {
        if x < 0x40 && y.wrapping_sub(1 << 14) < (1 << 21) - (1 << 14) {
            // As most are in a long document: three bytes behind the first.
            let y = y as u32;
            let word = 0x0080_8080 | x as u32 | (y & 0x7f) << 8 | (y & 0x3f80) << 9 | (y & 0x001f_c000) << 10;
            self.room[self.len..self.len + 4].copy_from_slice(&word.to_le_bytes());
            self.len += 4;
        } else if x <= 7 && y <= 15 {
            self.u8((x << 4 | y) as u8);
        } else {
            self.b1vu56(true, x);
            self.vu57(y);
        }
    }

    /// Writes a head of CBOR with its argument in so many bytes behind the first; 0 for within that.
    #[inline(always)]
    pub(crate) fn head(&mut self, major: u8, width: u32, argument: u32) {
        // 24, 25, 26 for one, two, four bytes, the high ones first.
        const CODES: [u8; 5] = [0, 24, 25, 0, 26];
        let behind = u64::from(argument.swap_bytes()) >> (32 - 8 * width);
        let low = if width == 0 { argument as u8 } else { CODES[width as usize] };
        self.word(behind << 8 | u64::from(major | low), 1 + width as usize);
    }
}

/// Seven bits to each of eight bytes, the eighth with what is left; all but the last with the high bit. And how many.
#[inline(always)]
const fn spread(number: u64) -> (u64, usize) {
    let bits = 64 - number.leading_zeros() as usize;
    let len = if bits > 49 {
        8
    } else if bits == 0 {
        1
    } else {
        bits.div_ceil(7)
    };
    let low = number & 0x0001_ffff_ffff_ffff;
    let word = low & 0x0fff_ffff | (low & 0x0001_ffff_f000_0000) << 4;
    let word = word & 0x0000_3fff_0000_3fff | (word & 0x0fff_c000_0fff_c000) << 2;
    let word = word & 0x007f_007f_007f_007f | (word & 0x3f80_3f80_3f80_3f80) << 1;
    let more = 0x0080_8080_8080_8080 & !(u64::MAX << (8 * (len - 1)));
    (word | more | (number >> 49) << 56, len)
}
