//! Ids that follow each other, as an operation names all nodes that were just made. Up to 64 of them are spelled alike but for
//! their first byte, which counts up, so eight at a time are written, or compared, as words.

use std::{array::from_fn, ops::Range};

use super::brief;

/// So many ids take as many words as each of them has bytes.
const EIGHT: usize = 8;

/// Ids of the patch's own session that differ in their first byte alone.
pub(crate) struct Alike {
    /// How the first one is spelled.
    word: u64,
    /// How many bytes of that count.
    len: usize,
    /// How many ids there are.
    count: usize,
}

/// Does something for ids of any length, which it has to know while it is compiled.
macro_rules! for_any_len {
    ($len:expr, $does:ident($($with:expr),*)) => {
        match $len {
            1 => $does::<1>($($with),*),
            2 => $does::<2>($($with),*),
            3 => $does::<3>($($with),*),
            4 => $does::<4>($($with),*),
            5 => $does::<5>($($with),*),
            6 => $does::<6>($($with),*),
            7 => $does::<7>($($with),*),
            _ => $does::<8>($($with),*),
        }
    };
}

impl Alike {
    /// Takes the first ones of some times.
    #[inline]
    pub(crate) fn first_of(times: &mut Range<u64>) -> Option<Self> {
        let time = times.start;
        times.start = times.end.min((time | 0x3f) + 1);
        let count = times.start.checked_sub(time).filter(|&count| count > 0)? as usize;
        let (block, len) = brief(|id| id.b1vu56(false, time));
        let word = u64::from_le_bytes(*block.first_chunk().expect("a block has sixteen bytes"));
        Some(Self { word, len, count })
    }

    /// How many bytes all of them take.
    pub(crate) const fn len_bytes(&self) -> usize {
        self.count * self.len
    }

    /// Appends them.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for_any_len!(self.len, write(self, out));
    }

    /// Whether so many [bytes](Self::len_bytes) are these.
    pub(crate) fn are(&self, bytes: &[u8]) -> bool {
        for_any_len!(self.len, are(self, bytes))
    }

    /// The first eight, whether there are as many or not.
    #[inline(always)]
    fn eight<const LEN: usize>(&self) -> [u64; LEN] {
        side_by_side(from_fn(|at| self.word + at as u64))
    }
}

/// What eight ids have more than the eight before, in each word.
#[inline(always)]
fn next_eight<const LEN: usize>(words: &mut [u64; LEN]) {
    let more = const { side_by_side::<LEN>([EIGHT as u64; EIGHT]) };
    for (word, more) in words.iter_mut().zip(more) {
        *word += more;
    }
}

fn write<const LEN: usize>(ids: &Alike, out: &mut Vec<u8>) {
    let (start, mut words) = (out.len(), ids.eight::<LEN>());
    // Eight are written whole, and what is too much is cut off.
    out.resize(start + ids.count.next_multiple_of(EIGHT) * LEN, 0);
    let (places, _) = out[start..].as_chunks_mut::<8>();
    for eight in places.as_chunks_mut().0 {
        *eight = words.map(u64::to_le_bytes);
        next_eight::<LEN>(&mut words);
    }
    out.truncate(start + ids.len_bytes());
}

fn are<const LEN: usize>(ids: &Alike, bytes: &[u8]) -> bool {
    let (mut differs, mut words) = (0, ids.eight::<LEN>());
    let (places, _) = bytes.as_chunks::<8>();
    let (eights, _) = places.as_chunks::<LEN>();
    for eight in eights {
        for (place, word) in eight.iter().zip(words) {
            differs |= u64::from_le_bytes(*place) ^ word;
        }
        next_eight::<LEN>(&mut words);
    }
    let rest = &bytes[eights.len() * EIGHT * LEN..];
    differs == 0 && (rest.is_empty() || words.map(u64::to_le_bytes).as_flattened().starts_with(rest))
}

/// Numbers of `LEN` bytes side by side.
#[inline(always)]
const fn side_by_side<const LEN: usize>(numbers: [u64; EIGHT]) -> [u64; LEN] {
    let (mut words, mut at) = ([0; LEN], 0);
    while at < EIGHT {
        let (word, shift) = (at * LEN / 8, at * LEN % 8 * 8);
        words[word] |= numbers[at] << shift;
        if shift + 8 * LEN > 64 {
            words[word + 1] |= numbers[at] >> (64 - shift);
        }
        at += 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{codec::wire::burst, id::MAX_ID};

    proptest! {
        #[test]
        fn ids_in_a_row_are_those_that_are_written_one_by_one(
            time in (0..=MAX_ID, 0..54u32).prop_map(|(time, shift)| time >> shift),
            count in 0..300u64,
            odd in any::<(prop::sample::Index, u8)>(),
        ) {
            let (mut one_by_one, mut at_once) = (vec![7], vec![7]);
            let times = time..time + count;
            times.clone().for_each(|time| burst(&mut one_by_one, |id| id.b1vu56(false, time)));
            let mut rows = Vec::new();
            let mut left = times;
            while let Some(row) = Alike::first_of(&mut left) {
                let start = at_once.len();
                row.write(&mut at_once);
                prop_assert_eq!(at_once.len(), start + row.len_bytes());
                rows.push((start, row));
            }
            prop_assert_eq!(&at_once, &one_by_one);
            for (start, row) in rows {
                let bytes = &mut at_once[start..start + row.len_bytes()];
                prop_assert!(row.are(bytes));
                let (at, with) = odd;
                bytes[at.index(row.len_bytes())] ^= with;
                prop_assert_eq!(row.are(bytes), with == 0);
            }
        }
    }
}
