//! Text as JavaScript has it: any sequence of UTF-16 code units, held as WTF-8.
//!
//! Positions in a collaborative text count UTF-16 code units, so an edit can cut a character outside the basic plane in
//! half. WTF-8 is UTF-8 that also admits such a lone surrogate, as three bytes. A high and a low surrogate that come to
//! stand side by side are one character again and are written as its four bytes; so equal text is equal bytes.

mod place;

pub use place::TextUnit;

use std::{borrow::Cow, fmt};

/// Borrowed text. Its bytes are WTF-8, which [`Wtf8::new`] checks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wtf8<'a>(&'a [u8]);

impl<'a> Wtf8<'a> {
    /// Takes bytes as text, or says at which byte they stop being WTF-8.
    pub fn new(bytes: &'a [u8]) -> Result<Self, usize> {
        let mut from = 0;
        let mut after_high = false;
        loop {
            let rest = match std::str::from_utf8(&bytes[from..]) {
                Ok(_) => return Ok(Self(bytes)),
                Err(error) => {
                    if error.valid_up_to() > 0 {
                        after_high = false;
                    }
                    from += error.valid_up_to();
                    &bytes[from..]
                }
            };
            match *rest {
                [0xed, 0xa0..=0xaf, 0x80..=0xbf, ..] => after_high = true,
                // A pair in two halves would be a second spelling of one character.
                [0xed, 0xb0..=0xbf, 0x80..=0xbf, ..] if !after_high => {}
                _ => return Err(from),
            }
            from += 3;
        }
    }

    /// Text out of bytes that were checked before, in a patch or a document.
    pub(crate) const fn trusted(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The text as a string, unless it has a lone surrogate.
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }

    /// The text as a string, with U+FFFD for each lone surrogate.
    pub fn to_str_lossy(self) -> Cow<'a, str> {
        match self.as_str() {
            Some(text) => Cow::Borrowed(text),
            None => Cow::Owned(char::decode_utf16(self.utf16()).map(|c| c.unwrap_or('\u{fffd}')).collect()),
        }
    }

    /// Its length in UTF-16 code units.
    pub fn units(self) -> usize {
        units(self.0)
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Its code points; a lone surrogate is one.
    pub fn code_points(self) -> impl Iterator<Item = u32> + 'a {
        CodePoints(self.0)
    }

    /// Its UTF-16 code units.
    pub fn utf16(self) -> impl Iterator<Item = u16> + 'a {
        self.code_points().flat_map(|point| {
            let (first, second) = match point.checked_sub(0x1_0000) {
                None => (point as u16, None),
                Some(over) => (0xd800 | (over >> 10) as u16, Some(0xdc00 | (over & 0x3ff) as u16)),
            };
            std::iter::once(first).chain(second)
        })
    }

    /// Compares by UTF-16 code units, as JavaScript sorts strings.
    pub fn cmp_utf16(self, other: Wtf8<'_>) -> std::cmp::Ordering {
        self.utf16().cmp(other.utf16())
    }

    /// An owned copy.
    pub fn to_text(self) -> Text {
        Text(self.0.to_vec())
    }
}

impl<'a> From<&'a str> for Wtf8<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl fmt::Debug for Wtf8<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for unit in char::decode_utf16(self.utf16()) {
            match unit {
                Ok(c) => write!(f, "{}", c.escape_debug())?,
                Err(lone) => write!(f, "\\u{{{:x}}}", lone.unpaired_surrogate())?,
            }
        }
        f.write_str("\"")
    }
}

impl fmt::Display for Wtf8<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_str_lossy())
    }
}

/// The UTF-16 length of WTF-8 bytes: one for each sequence, one more for each of four bytes.
pub(crate) fn units(bytes: &[u8]) -> usize {
    if bytes.is_ascii() {
        return bytes.len();
    }
    bytes.iter().map(|&b| usize::from(b & 0xc0 != 0x80) + usize::from(b >= 0xf0)).sum()
}

struct CodePoints<'a>(&'a [u8]);

impl Iterator for CodePoints<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let low = |b: u8| u32::from(b & 0x3f);
        let (point, rest) = match *self.0 {
            [] => return None,
            [a @ 0xf0..=0xff, b, c, d, ref rest @ ..] => {
                (u32::from(a & 7) << 18 | low(b) << 12 | low(c) << 6 | low(d), rest)
            }
            [a @ 0xe0..=0xff, b, c, ref rest @ ..] => (u32::from(a & 15) << 12 | low(b) << 6 | low(c), rest),
            [a @ 0xc0..=0xff, b, ref rest @ ..] => (u32::from(a & 31) << 6 | low(b), rest),
            [a, ref rest @ ..] => (u32::from(a), rest),
        };
        self.0 = rest;
        Some(point)
    }
}

/// Owned text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text(Vec<u8>);

impl Text {
    /// Empty text.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Empty text with room for so many bytes.
    pub fn with_capacity(len_bytes: usize) -> Self {
        Self(Vec::with_capacity(len_bytes))
    }

    /// Text out of bytes that are known to be WTF-8.
    pub(crate) const fn trusted(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The text, borrowed.
    pub fn as_wtf8(&self) -> Wtf8<'_> {
        Wtf8(&self.0)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text as a string, unless it has a lone surrogate.
    pub fn as_str(&self) -> Option<&str> {
        self.as_wtf8().as_str()
    }

    /// Appends; a surrogate pair that meets at the seam becomes one character.
    pub fn push(&mut self, more: Wtf8<'_>) {
        push_fused(&mut self.0, more.0);
    }

    /// Appends one code point up to U+10FFFF, which may be a surrogate.
    pub(crate) fn push_code_point(&mut self, point: u32) {
        let mut buffer = [0; 4];
        if let Some(c) = char::from_u32(point) {
            self.0.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        } else {
            let tail = |shift: u32| 0x80 | (point >> shift & 0x3f) as u8;
            push_fused(&mut self.0, &[0xe0 | (point >> 12 & 0xf) as u8, tail(6), tail(0)]);
        }
    }

    /// Text out of UTF-16 code units, whatever they are.
    pub fn from_utf16(units: impl IntoIterator<Item = u16>) -> Self {
        let mut text = Self::new();
        for unit in char::decode_utf16(units) {
            text.push_code_point(match unit {
                Ok(c) => c.into(),
                Err(lone) => lone.unpaired_surrogate().into(),
            });
        }
        text
    }
}

/// Appends WTF-8 to WTF-8, keeping the one spelling that WTF-8 allows.
pub(crate) fn push_fused(text: &mut Vec<u8>, more: &[u8]) {
    if let ([.., 0xed, h1 @ 0xa0..=0xaf, h2], [0xed, l1 @ 0xb0..=0xbf, l2, rest @ ..]) =
        (text.as_slice(), more)
    {
        let half = |a: u8, b: u8| u32::from(a & 0xf) << 6 | u32::from(b & 0x3f);
        let point = 0x1_0000 + (half(*h1, *h2) << 10 | half(*l1, *l2) & 0x3ff);
        text.truncate(text.len() - 3);
        let c = char::from_u32(point).unwrap_or('\u{fffd}');
        text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        text.extend_from_slice(rest);
    } else {
        text.extend_from_slice(more);
    }
}

/// What can be the key of a map: text of any kind, which is read and not copied.
pub trait Key {
    /// The key.
    fn as_key(&self) -> Wtf8<'_>;
}

impl Key for str {
    fn as_key(&self) -> Wtf8<'_> {
        self.into()
    }
}

impl Key for String {
    fn as_key(&self) -> Wtf8<'_> {
        self.as_str().into()
    }
}

impl Key for Text {
    fn as_key(&self) -> Wtf8<'_> {
        self.as_wtf8()
    }
}

impl Key for Wtf8<'_> {
    fn as_key(&self) -> Wtf8<'_> {
        *self
    }
}

impl<K: Key + ?Sized> Key for &K {
    fn as_key(&self) -> Wtf8<'_> {
        (**self).as_key()
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_wtf8().fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_wtf8(), f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn utf16_goes_in_and_comes_out(units: Vec<u16>) {
            let text = Text::from_utf16(units.iter().copied());
            prop_assert_eq!(Wtf8::new(text.as_bytes()), Ok(text.as_wtf8()));
            prop_assert_eq!(text.as_wtf8().units(), units.len());
            prop_assert_eq!(text.as_wtf8().utf16().collect::<Vec<_>>(), units);
        }

        #[test]
        fn text_cut_anywhere_joins_to_the_same_bytes(
            units in prop::collection::vec(prop_oneof![0xd800u16..0xe000, 0u16..0x100], 0..20),
            at in 0usize..20,
        ) {
            let at = at.min(units.len());
            let mut joined = Text::from_utf16(units[..at].iter().copied());
            joined.push(Text::from_utf16(units[at..].iter().copied()).as_wtf8());
            prop_assert_eq!(joined, Text::from_utf16(units));
        }

        #[test]
        fn any_bytes_are_refused_or_text(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..0xf5, Just(0xed)], 0..12)) {
            match Wtf8::new(&bytes) {
                Ok(text) => prop_assert_eq!(Text::from_utf16(text.utf16()), text.to_text()),
                Err(at) => prop_assert!(Wtf8::new(&bytes[..at]).is_ok()),
            }
        }
    }

    #[test]
    fn a_pair_in_two_halves_is_refused() {
        assert_eq!(Wtf8::new(b"\xed\xa0\xbd\xed\xb9\x82"), Err(3));
        assert!(Wtf8::new(b"\xed\xb9\x82\xed\xa0\xbd").is_ok());
        assert!(Wtf8::new(b"\xed\xa0\xbd-\xed\xb9\x82").is_ok());
    }
}
