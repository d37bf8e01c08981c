//! Places in a text, counted in other units than those of UTF-16.

use super::Wtf8;

/// What the places of a text are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextUnit {
    /// UTF-16 code units, as JavaScript and every position in this crate counts.
    Utf16,
    /// Bytes of UTF-8, as Rust's strings count.
    Utf8,
    /// Characters: code points. Half of a surrogate pair that stands alone is one.
    Char,
}

impl Wtf8<'_> {
    /// A place in other units; `None` if it is behind the end or within a character.
    ///
    /// ```
    /// use crdt_core::{Wtf8, text::TextUnit::{Char, Utf16, Utf8}};
    ///
    /// let text = Wtf8::from("a🧵b");
    /// assert_eq!(text.place(2, Char, Utf16), Some(3));
    /// assert_eq!(text.place(5, Utf8, Utf16), Some(3));
    /// assert_eq!(text.place(2, Utf16, Char), None, "within the spool");
    /// ```
    pub fn place(self, at: usize, from: TextUnit, to: TextUnit) -> Option<usize> {
        if self.as_bytes().is_ascii() {
            return (at <= self.as_bytes().len()).then_some(at);
        }
        let (mut here, mut there) = (0, 0);
        for point in self.code_points() {
            if here >= at {
                break;
            }
            here += units(point, from);
            there += units(point, to);
        }
        (here == at).then_some(there)
    }
}

/// How many units a code point takes.
const fn units(point: u32, unit: TextUnit) -> usize {
    match (unit, point) {
        (TextUnit::Char, _) | (TextUnit::Utf8, 0..0x80) => 1,
        (TextUnit::Utf16, _) => 1 + (point > 0xffff) as usize,
        (TextUnit::Utf8, 0x80..0x800) => 2,
        (TextUnit::Utf8, 0x800..0x1_0000) => 3,
        (TextUnit::Utf8, _) => 4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Text;

    const UNITS: [TextUnit; 3] = [TextUnit::Utf16, TextUnit::Utf8, TextUnit::Char];

    proptest! {
        #[test]
        fn places_are_counted_as_by_hand(units: Vec<u16>, at in 0..20usize) {
            let text = Text::from_utf16(units);
            let text = text.as_wtf8();
            let points: Vec<u32> = text.code_points().collect();
            let head = Text::from_utf16(points.iter().take(at).flat_map(|&point| {
                let mut one = Text::new();
                one.push_code_point(point);
                one.as_wtf8().utf16().collect::<Vec<_>>()
            }));
            let counted = |unit| match unit {
                TextUnit::Utf16 => head.as_wtf8().units(),
                TextUnit::Utf8 => head.as_bytes().len(),
                TextUnit::Char => at,
            };
            for (from, to) in UNITS.into_iter().flat_map(|from| UNITS.map(|to| (from, to))) {
                let expect = (at <= points.len()).then(|| counted(to));
                if at <= points.len() || from == TextUnit::Char {
                    prop_assert_eq!(text.place(counted(from), from, to), expect, "{:?} to {:?}", from, to);
                }
            }
        }
    }

    #[test]
    fn a_place_within_a_character_or_behind_the_end_is_none() {
        let text = Wtf8::from("é🧵");
        for (at, unit) in [
            (1, TextUnit::Utf8),
            (3, TextUnit::Utf8),
            (2, TextUnit::Utf16),
            (7, TextUnit::Utf8),
            (3, TextUnit::Char),
        ] {
            assert_eq!(UNITS.map(|to| text.place(at, unit, to)), [None; 3], "{at} {unit:?}");
        }
        assert_eq!(UNITS.map(|to| text.place(6, TextUnit::Utf8, to)), [Some(3), Some(6), Some(2)]);
        assert_eq!(Wtf8::new(b"\xed\xa0\xbd-").unwrap().place(1, TextUnit::Utf16, TextUnit::Utf8), Some(3));
    }
}
