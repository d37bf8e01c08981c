//! The patch of an insertion into an array: constants, then the operation that puts all of them in, in their order. That is
//! what `ins_con` makes, one number at a time or thousands at once.
//!
//! As with a [keystroke](super::keystroke), a patch that is unusual in any way is left to the general reader.

use super::{keystroke::Start, op::code};
use crate::{
    Timestamp,
    codec::{RawValue, cbor, wire::Reader},
    id::MAX_ID,
};

/// A patch that makes constants and puts them into an array.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elements<'a> {
    /// The first constant's id. The others' follow, then those of the slots.
    pub(crate) id: Timestamp,
    pub(crate) obj: Timestamp,
    /// The slot to insert after, or the array itself.
    pub(crate) after: Timestamp,
    pub(crate) values: Constants<'a>,
}

/// The values of operations that each make a constant, in their bytes, which were checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Constants<'a> {
    bytes: &'a [u8],
    len: u32,
}

impl<'a> Constants<'a> {
    /// Takes the bytes of so many operations.
    pub(super) const fn trusted(bytes: &'a [u8], len: u32) -> Self {
        Self { bytes, len }
    }

    /// The operations, to be read by [`brief_constant`] and [`any_constant`].
    pub(crate) const fn ops(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many there are, which is how many ticks they take.
    pub(crate) const fn span(&self) -> u32 {
        self.len
    }
}

impl<'a> Iterator for Constants<'a> {
    type Item = RawValue<'a>;

    #[inline]
    fn next(&mut self) -> Option<RawValue<'a>> {
        self.len = self.len.checked_sub(1)?;
        let AnyConstant { value, behind, .. } = any_constant(self.bytes)?;
        self.bytes = behind;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len as usize, Some(self.len as usize))
    }
}

impl ExactSizeIterator for Constants<'_> {}

/// Reads what stands behind a start, if that inserts constants into an array, in its canonical spelling.
#[inline]
pub(crate) fn read(start: Start<'_>) -> Option<Elements<'_>> {
    let Start { words: mut r, id, .. } = start;
    let bytes = r.bytes;
    if r.u8()? != 0xf7 {
        return None;
    }
    let len = u32::try_from(r.vu57()?).ok()?.checked_sub(1).filter(|&len| len > 0)?;
    let (start, mut rest) = (r.at, bytes.get(r.at..)?);
    let mut left = len as usize;
    while left > 0 {
        let few = left.min(ROW);
        left -= few;
        if few == ROW
            && let Some((_, behind)) = row_of_numbers(rest)
        {
            rest = behind;
            continue;
        }
        for _ in 0..few {
            rest = match brief_constant(rest) {
                Some((_, behind)) => behind,
                None => any_constant(rest).filter(|any| any.is_canonical)?.behind,
            };
        }
    }
    r.at = bytes.len() - rest.len();
    let values = Constants::trusted(&bytes[start..r.at], len);
    let octet = r.u8()?;
    let puts_all = octet >> 3 == code::INS_ARR
        && match octet & 7 {
            0 => len > 7 && r.vu57()? == u64::from(len),
            bits => u32::from(bits) == len,
        };
    let (obj, after) = (r.id(id.sid, &mut false)?, r.id(id.sid, &mut false)?);
    if !puts_all {
        return None;
    }
    match len {
        1 => {
            let mut foreign = false;
            let value = r.id(id.sid, &mut foreign)?;
            if value.time != id.time || foreign {
                return None;
            }
        }
        _ => r.times(id.time..id.time + u64::from(len))?,
    }
    let end = id.time + 2 * u64::from(len);
    (r.at == bytes.len() && end <= MAX_ID).then_some(Elements { id, obj, after, values })
}

/// So many constants are looked at at once: 64 bytes of numbers.
pub(crate) const ROW: usize = 16;

/// [`brief_constant`] for many operations at once, if each makes a number with two bytes behind its head, as most numbers of a
/// long list do. There is no step in it that hangs on the one before.
#[inline(always)]
pub(crate) fn row_of_numbers(ops: &[u8]) -> Option<(&[[u8; 4]; ROW], &[u8])> {
    const HEAD: u32 = (0x19 << 8) | (code::NEW_CON << 3) as u32;
    let row: &[[u8; 4]; ROW] = ops.as_chunks().0.first_chunk()?;
    let mut differs = 0;
    for op in row {
        let word = u32::from_le_bytes(*op);
        // The sign may be either. A first byte of 0, which is not needed, borrows from the highest bit.
        differs |= ((word & 0xdfff) ^ HEAD) | (word & 0x00ff_0000).wrapping_sub(0x0001_0000);
    }
    let is_row = differs & 0x8000_ffff == 0;
    is_row.then(|| (row, &ops[4 * ROW..]))
}

/// What an operation of such a row makes: how many bytes, which is three, and these.
#[inline(always)]
pub(crate) const fn number_in(op: [u8; 4]) -> [u8; 4] {
    (u32::from_le_bytes(op) | 3).to_le_bytes()
}

/// An operation that makes a constant of at most three bytes in canonical spelling, at the start of some bytes: how many, and
/// these. And the bytes behind it. `None` for any other, and near the end of the bytes.
#[inline(always)]
pub(crate) fn brief_constant(ops: &[u8]) -> Option<([u8; 4], &[u8])> {
    let word = u32::from_le_bytes(*ops.first_chunk()?);
    let (octet, head, second) = (word as u8, (word >> 8) as u8, (word >> 16) as u8);
    // Where the octet stands goes the length. A branch for each, which is mostly that of the value before: so where the next
    // one starts is known early.
    let (value, number) = (word & !0xff, head & !0x20);
    if octet != code::NEW_CON << 3 {
        None
    } else if number == 0x19 && second > 0 {
        Some(((value | 3).to_le_bytes(), &ops[4..]))
    } else if number < 0x18 || matches!(head, 0xf4..=0xf7) {
        Some(((value & 0xffff | 1).to_le_bytes(), &ops[2..]))
    } else if number == 0x18 && second >= 24 {
        Some(((value & 0x00ff_ffff | 2).to_le_bytes(), &ops[3..]))
    } else {
        None
    }
}

/// An operation that makes a constant.
pub(crate) struct AnyConstant<'a> {
    pub(crate) value: RawValue<'a>,
    is_canonical: bool,
    /// The bytes behind it.
    pub(crate) behind: &'a [u8],
}

/// The operation that makes a constant, of any length, at the start of some bytes.
#[inline(never)]
pub(crate) fn any_constant(ops: &[u8]) -> Option<AnyConstant<'_>> {
    let mut reader = Reader::new(ops.strip_prefix(&[code::NEW_CON << 3])?);
    let value = cbor::scan(&mut reader).ok()?;
    Some(AnyConstant { value, is_canonical: reader.canonical, behind: reader.rest() })
}

impl Elements<'_> {
    /// The id of the first slot.
    pub(crate) const fn slot(&self) -> Timestamp {
        self.id.tick(self.values.len as u64)
    }

    /// The last time that it takes.
    pub(crate) const fn last(&self) -> u64 {
        self.id.time + 2 * self.values.len as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Patch, PatchBuilder, PatchRef, SessionId, Value,
        codec::wire::{put_patch_id, put_vu57},
        patch::{
            Con, Op,
            drawn::{id, nearly, number},
        },
    };

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            (0..70_000u64).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            "[a한🙂]{0,12}".prop_map(|text| Value::from(&*text)),
            Just(Value::from_iter([1, 2])),
        ]
    }

    /// Some of any kind, or many of which most can be read in rows.
    fn values() -> impl Strategy<Value = Vec<Value>> {
        let two_bytes = (0x100..0x1_0000i64, any::<bool>());
        let number = two_bytes.prop_map(|(n, is_negative)| Value::from(if is_negative { !n } else { n }));
        prop_oneof![
            prop::collection::vec(value(), 1..12),
            prop::collection::vec(prop_oneof![60 => number, 1 => value()], 12..90),
        ]
    }

    /// A patch as `ins_con` makes it, or one that another value or another order makes unusual.
    fn patch() -> impl Strategy<Value = Patch> {
        let values = values().boxed();
        let odd = prop::option::of(any::<prop::sample::Index>());
        number().prop_flat_map(move |sid| {
            (Just(sid), 0..MAX_ID / 2, id(sid), id(sid), values.clone(), odd.clone()).prop_map(
                |(sid, time, obj, after, values, odd)| {
                    let mut patch = PatchBuilder::new(SessionId::new(sid).unwrap(), time);
                    let mut ids: Vec<_> = values.iter().map(|value| patch.new_con(value)).collect();
                    if let Some(odd) = odd {
                        let at = odd.index(ids.len());
                        ids[at] = obj;
                    }
                    patch.ins_arr(obj, after, &ids);
                    patch.finish().unwrap()
                },
            )
        })
    }

    /// What was read at once says the same as what the general reader finds.
    fn check(bytes: &[u8]) -> bool {
        let Some(elements) = Start::of(bytes).and_then(read) else { return false };
        let patch = PatchRef::decode(bytes).unwrap();
        let ops: Vec<_> = patch.ops().collect();
        let ((slot, last), made) = ops.split_last().unwrap();
        let ids: Vec<Timestamp> = made.iter().map(|(id, _)| *id).collect();
        assert_eq!((patch.id(), patch.next_time()), (elements.id, elements.last() + 1));
        assert_eq!((*slot, made.len()), (elements.slot(), elements.values.span() as usize));
        for ((_, op), value) in made.iter().zip(elements.values) {
            assert!(matches!(op, Op::NewCon(Con::Value(same)) if *same == value));
        }
        let Op::InsArr { obj, after, values } = *last else { panic!("{last:?}") };
        assert_eq!((obj, after, values.collect::<Vec<_>>()), (elements.obj, elements.after, ids));
        true
    }

    #[test]
    fn numbers_put_in_are_read_at_once() {
        for len in [1, 7, 8, 300] {
            let mut patch = PatchBuilder::new(SessionId::new(70_001).unwrap(), 5);
            let obj = Timestamp::new(SessionId::new(70_000).unwrap(), 3);
            let ids: Vec<_> = (0..len).map(|n| patch.new_con(&Value::from(n * 1000))).collect();
            patch.ins_arr(obj, obj, &ids);
            assert!(check(patch.finish().unwrap().as_bytes()), "{len}");
        }
    }

    /// A patch of so many numbers, from its session's time on.
    fn numbers(time: u64, len: u64) -> Vec<u8> {
        let own = SessionId::new(70_001).unwrap();
        let mut bytes = Vec::new();
        put_vu57(&mut bytes, own.get());
        put_vu57(&mut bytes, time);
        bytes.push(0xf7);
        put_vu57(&mut bytes, len + 1);
        (0..len).for_each(|n| bytes.extend_from_slice(&[code::NEW_CON << 3, 0x19, 1, n as u8]));
        bytes.push(code::INS_ARR << 3);
        put_vu57(&mut bytes, len);
        let obj = Timestamp::new(SessionId::new(70_000).unwrap(), 3);
        let made = (0..len).map(|ticks| Timestamp::new(own, time + ticks));
        [obj, obj].into_iter().chain(made).for_each(|id| put_patch_id(&mut bytes, own, id));
        bytes
    }

    #[test]
    fn the_last_times_there_are_can_be_used_and_no_later_ones() {
        for time in MAX_ID - 130..MAX_ID {
            let bytes = numbers(time, 64);
            assert_eq!(check(&bytes), time + 128 <= MAX_ID, "{time}");
            assert_eq!(PatchRef::decode(&bytes).is_ok(), time + 128 <= MAX_ID, "{time}");
        }
    }

    #[test]
    fn no_byte_of_a_row_may_be_missing_or_another_one() {
        let bytes = numbers(5000, 40);
        assert!(check(&bytes));
        for at in 0..bytes.len() {
            assert!(!check(&bytes[..at]), "{at}");
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                check(&other);
            }
        }
    }

    #[test]
    fn a_number_in_a_row_that_needs_fewer_bytes_is_left_to_others() {
        let bytes = numbers(5, 40);
        let start = bytes.windows(3).position(|op| op == [0x19, 1, 0]).unwrap();
        for at in 0..40 {
            let mut other = bytes.clone();
            other[start + 4 * at + 1] = 0;
            assert!(!check(&other), "{at}");
            assert!(PatchRef::decode_any(&other).is_ok_and(|(_, canonical)| !canonical), "{at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_at_once_is_what_any_reader_finds(patch in patch()) {
            check(patch.as_bytes());
        }

        #[test]
        fn what_is_not_quite_it_is_left_alone(bytes in nearly(patch())) {
            check(&bytes);
        }
    }
}
