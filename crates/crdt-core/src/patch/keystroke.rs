//! The patch of a keystroke: one insertion of text, or one deletion of one run. Most patches are of this kind, so they are
//! read in one go, and what was read is kept for who applies them.
//!
//! A patch that is unusual in any way is left to the general reader, which finds what is wrong with it, if anything is.

use std::ops::Range;

use super::{Head, op::code};
use crate::{
    SessionId, Timespan, Timestamp,
    codec::wire::{Alike, Foreign, join},
    id::MAX_ID,
    text::Wtf8,
};

/// A patch of one operation. Plain fields without variants stay in registers when they are handed on; a copy through
/// memory costs more than all the reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keystroke<'a> {
    pub(crate) id: Timestamp,
    /// How many ticks it takes: the units of the text, or one.
    pub(crate) span: u64,
    pub(crate) obj: Timestamp,
    /// The unit to insert after, or the first one to delete.
    pub(crate) at: Timestamp,
    /// What to insert; nothing in a deletion.
    pub(crate) text: Wtf8<'a>,
    /// How many units to delete; 0 in an insertion.
    pub(crate) deleted: u64,
    /// Whether it names ids of other sessions.
    pub(super) foreign: bool,
    pub(super) ops_at: usize,
}

impl Keystroke<'_> {
    /// The ids of other sessions that it names, in their order.
    #[inline]
    pub(super) fn for_each_foreign(&self, mut each: impl FnMut(Timespan)) {
        let spans = [(self.obj, 1), (self.at, self.deleted.max(1))];
        for (start, span) in spans {
            if start.sid != self.id.sid && start.sid != SessionId::SYSTEM {
                each(Timespan { start, span });
            }
        }
    }

    #[inline]
    pub(super) fn head(&self) -> Head {
        let Self { id, span, foreign, ops_at, .. } = *self;
        let mut named = Foreign::None;
        if foreign {
            let last = Timestamp::new(self.at.sid, self.at.time + self.deleted.max(1) - 1);
            [self.obj, self.at, last]
                .into_iter()
                .filter(|named| named.sid != id.sid)
                .for_each(|id| named.add(id));
        }
        Head { id, span, op_count: 1, meta: None, ops_at, foreign: named }
    }
}

/// The start of a patch without a remark. It tells what kind of patch that may be, so that each is read in one way only.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    pub(super) words: Words<'a>,
    pub(super) id: Timestamp,
    /// The first byte of the number of operations.
    pub(super) count: u8,
    /// The byte behind it: where there is one operation or a few, the first of them.
    pub(super) octet: u8,
}

impl<'a> Start<'a> {
    /// Reads it. `None` if there is a remark, or something unusual.
    #[inline(always)]
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut words = Words::new(bytes)?;
        let id = words.patch_id()?;
        let &[0xf7, count, octet] = bytes.get(words.at..words.at + 3)? else { return None };
        Some(Self { words, id, count, octet })
    }

    /// Whether there is one operation.
    pub(crate) const fn is_one(&self) -> bool {
        self.count == 1
    }

    /// Whether the first operation is a constant, as far as can be seen.
    pub(crate) const fn makes_constant(&self) -> bool {
        self.octet == code::NEW_CON << 3 || self.count >= 0x80
    }

    /// Whether it may set one key: a constant or a text is made, and something is done with it.
    pub(crate) const fn may_set(&self) -> bool {
        matches!((self.count, self.octet >> 3), (2, code::NEW_CON) | (3, code::NEW_STR))
    }

    /// How many bytes the patch has.
    pub(crate) const fn len_bytes(&self) -> usize {
        self.words.bytes.len()
    }
}

/// Reads a patch, if it is a keystroke in its canonical spelling. There is one copy of this in the program: a replica reads
/// each patch when it comes and when it is applied, and the code for both is most of what its caches for instructions hold.
#[inline(never)]
pub(crate) fn read(bytes: &[u8]) -> Option<Keystroke<'_>> {
    Start::of(bytes).filter(Start::is_one).and_then(read_one)
}

/// Reads the operation behind a start, if it is the only one.
#[inline(always)]
fn read_one(start: Start<'_>) -> Option<Keystroke<'_>> {
    let Start { words: mut r, id: Timestamp { sid, time }, octet, .. } = start;
    let bytes = r.bytes;
    let ops_at = r.at + 2;
    r.at += 3;
    let (mut foreign, bits, is_text) = (false, octet & 7, octet >> 3 == code::INS_STR);
    if !is_text && octet != code::DEL << 3 | 1 {
        return None;
    }
    let len = if is_text && bits == 0 { r.vu57().filter(|&len| len > 7)? } else { bits.into() };
    let obj = r.id(sid, &mut foreign)?;
    let at = r.id(sid, &mut foreign)?;
    let deleted =
        if is_text { 0 } else { r.vu57().filter(|&span| span > 0 && span <= MAX_ID - at.time + 1)? };
    let text = bytes.get(r.at..)?;
    if text.len() as u64 != if is_text { len } else { 0 } {
        return None;
    }
    let (text, units) = match text {
        [letter] if *letter < 0x80 => (Wtf8::trusted(text), 1),
        text if text.is_ascii() => (Wtf8::trusted(text), text.len()),
        text => Wtf8::new(text).ok().map(|text| (text, text.units()))?,
    };
    let span = if is_text { units as u64 } else { 1 };
    if time + span > MAX_ID {
        return None;
    }
    Some(Keystroke { id: Timestamp::new(sid, time), span, obj, at, text, deleted, foreign, ops_at })
}

/// Reads numbers by words of eight bytes, in their canonical spelling only.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) bytes: &'a [u8],
    /// The last eight bytes.
    last: u64,
    pub(super) at: usize,
}

impl<'a> Words<'a> {
    /// Starts at the first byte. `None` if there are not eight.
    #[inline(always)]
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        Some(Self { bytes, last: u64::from_le_bytes(*bytes.last_chunk()?), at: 0 })
    }

    /// The next byte.
    #[inline(always)]
    pub(super) fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// The id of a patch.
    #[inline(always)]
    pub(super) fn patch_id(&mut self) -> Option<Timestamp> {
        let sid = self.session().filter(|&sid| sid != SessionId::SYSTEM)?;
        let time = self.vu57().filter(|&time| time <= MAX_ID)?;
        Some(Timestamp::new(sid, time))
    }

    /// The id of a session. One that was drawn has mostly eight bytes.
    #[inline(always)]
    fn session(&mut self) -> Option<SessionId> {
        const MORE: u64 = 0x0080_8080_8080_8080;
        let word = self.word();
        let number = if word & MORE == MORE {
            self.at += 8;
            if self.at > self.bytes.len() || word >> 56 == 0 {
                return None;
            }
            join(word & (u64::MAX >> 8)) | (word >> 56) << 49
        } else {
            self.vu57()?
        };
        SessionId::new(number).ok()
    }

    /// The next eight bytes; zeros stand for what is behind the end.
    #[inline(always)]
    fn word(&self) -> u64 {
        match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some(&next) => u64::from_le_bytes(next),
            None => {
                let left = self.bytes.len().saturating_sub(self.at) as u32;
                self.last.checked_shr(64 - 8 * left).unwrap_or(0)
            }
        }
    }

    /// Steps over `len` bytes, if they are there and the last one is needed.
    #[inline(always)]
    fn step(&mut self, len: usize, last_byte: u64) -> Option<()> {
        self.at += len;
        (self.at <= self.bytes.len() && (last_byte != 0 || len == 1)).then_some(())
    }

    #[inline(always)]
    pub(super) fn vu57(&mut self) -> Option<u64> {
        let word = self.word();
        if let Some((number, len, is_short)) = near(word) {
            self.at += len;
            return (is_short && self.at <= self.bytes.len()).then_some(number);
        }
        // The eighth byte is the last one, whatever its high bit.
        let stop = !word & 0x0080_8080_8080_8080;
        let len = if stop == 0 { 8 } else { stop.trailing_zeros() / 8 + 1 };
        let word = word & (u64::MAX >> (64 - 8 * len));
        self.step(len as usize, word >> (8 * (len - 1)))?;
        Some(join(word) | (word >> 56) << 49)
    }

    /// A timestamp: another session's has a flag and the session behind it.
    #[inline(always)]
    pub(super) fn id(&mut self, own: SessionId, foreign: &mut bool) -> Option<Timestamp> {
        let word = self.word();
        let (flag, low) = (word & 0x80 != 0, word & 0x3f);
        self.step(1, 0)?;
        let time = if word & 0x40 == 0 {
            low
        } else {
            // The byte of the flag is gone; of seven more, the last one has eight bits.
            let word = word >> 8;
            if let Some((number, len, is_short)) = near(word) {
                self.at += len;
                if !is_short || number == 0 || self.at > self.bytes.len() {
                    return None;
                }
                return self.named(own, flag, low | number << 6, foreign);
            }
            let stop = !word & 0x0000_8080_8080_8080;
            let len = if stop == 0 { 7 } else { stop.trailing_zeros() / 8 + 1 };
            let word = word & (u64::MAX >> (64 - 8 * len));
            self.at += len as usize;
            if self.at > self.bytes.len() || word >> (8 * (len - 1)) == 0 {
                return None;
            }
            low | (join(word & 0x0000_ffff_ffff_ffff) | (word >> 48) << 42) << 6
        };
        if time > MAX_ID {
            return None;
        }
        self.named(own, flag, time, foreign)
    }

    /// Steps over times that follow each other, as ids of the own session.
    pub(super) fn times(&mut self, times: Range<u64>) -> Option<()> {
        let mut times = times;
        while let Some(row) = Alike::first_of(&mut times) {
            let end = self.at + row.len_bytes();
            if !row.are(self.bytes.get(self.at..end)?) {
                return None;
            }
            self.at = end;
        }
        Some(())
    }

    /// A time and whose it is.
    #[inline(always)]
    fn named(&mut self, own: SessionId, flag: bool, time: u64, foreign: &mut bool) -> Option<Timestamp> {
        if !flag {
            return Some(Timestamp::new(own, time));
        }
        *foreign = true;
        let sid = self.session().filter(|&sid| sid != own)?;
        Some(Timestamp::new(sid, time))
    }
}

/// A number of at most three bytes, as most are, how many it took, and whether it takes no fewer.
#[inline(always)]
const fn near(word: u64) -> Option<(u64, usize, bool)> {
    let (low, middle, high) = (word & 0x7f, word & 0x7f00, word & 0x007f_0000);
    if word & 0x80 == 0 {
        Some((low, 1, true))
    } else if word & 0x8000 == 0 {
        Some((low | middle >> 1, 2, middle != 0))
    } else if word & 0x0080_0000 == 0 {
        Some((low | middle >> 1 | high >> 2, 3, high != 0))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Patch, PatchBuilder, PatchRef,
        patch::{
            Op,
            drawn::{id, nearly, number},
        },
    };

    fn patch() -> impl Strategy<Value = Patch> {
        let text = prop_oneof!["[a-z]{1,20}", "[aé한🙂]{1,9}"];
        number().prop_flat_map(move |sid| {
            (Just(sid), 0..MAX_ID / 2, id(sid), id(sid), text.clone(), number(), any::<bool>()).prop_map(
                |(sid, time, obj, at, text, span, delete)| {
                    let mut patch = PatchBuilder::new(SessionId::new(sid).unwrap(), time);
                    if delete {
                        patch.del(obj, &[Timespan { start: at, span: span.min(MAX_ID - at.time + 1) }]);
                    } else {
                        patch.ins_str(obj, at, &*text);
                    }
                    patch.finish().unwrap()
                },
            )
        })
    }

    /// What was read at once says the same as what the general reader finds.
    fn check(bytes: &[u8]) -> bool {
        let Some(keystroke) = read(bytes) else { return false };
        let (patch, canonical) = PatchRef::decode_any(bytes).unwrap();
        assert!(canonical);
        assert_eq!(keystroke.head(), patch.head);
        let ops: Vec<_> = patch.ops().collect();
        let (mut foreign, mut expected) = (Vec::new(), Vec::new());
        patch.for_each_foreign(|span| foreign.push(span));
        ops[0].1.for_each_dependency(|span| {
            if span.start.sid != patch.id().sid && span.start.sid != SessionId::SYSTEM {
                expected.push(span);
            }
        });
        assert_eq!(foreign, expected);
        let [(_, op)] = ops[..] else { panic!("{} operations", ops.len()) };
        let Keystroke { obj, at, text, deleted, span, .. } = keystroke;
        match op {
            Op::InsStr { obj: o, after, text: t, units } => {
                assert_eq!((obj, at, text, span, deleted), (o, after, t, units, 0));
            }
            Op::Del { obj: o, spans } => {
                let spans: Vec<_> = spans.collect();
                assert_eq!((obj, vec![Timespan { start: at, span: deleted }]), (o, spans));
                assert!(text.is_empty() && deleted > 0);
            }
            op => panic!("{keystroke:?} is {op:?}"),
        }
        true
    }

    proptest! {
        #[test]
        fn a_keystroke_is_read_as_any_patch_is(patch in patch()) {
            prop_assert!(check(patch.as_bytes()) || patch.as_bytes().len() < 8);
        }

        #[test]
        fn what_is_not_quite_a_keystroke_is_left_alone(bytes in nearly(patch())) {
            check(&bytes);
        }
    }
}
