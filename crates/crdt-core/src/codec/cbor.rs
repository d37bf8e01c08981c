//! CBOR (RFC 8949): reads any, writes the profile of json-joy's encoder, so that equal values are equal bytes.
//!
//! The profile: definite lengths; integers in the shortest form, also when they came as floats; other numbers as
//! float32 where that loses nothing, else float64; and the header of a text as wide as four bytes per UTF-16 unit would
//! need, whatever the text really takes.

mod write;

use smallvec::SmallVec;
use write::text_width;
pub use write::{encode, encode_deep};
pub(crate) use write::{encode_within, put_head, put_text, put_text_head, write};

use super::{Malformed, ROOM_MAX, wire::Reader};
use crate::{
    text::{Text, Wtf8, push_fused},
    value::{FEW_KEYS, SAFE_INT_MAX, Value, has_duplicates},
};

/// The CBOR bytes of one value, checked and in the canonical spelling: equal values are equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RawValue<'a>(&'a [u8]);

impl<'a> RawValue<'a> {
    /// `undefined`
    pub const UNDEFINED: RawValue<'static> = RawValue(&[0xf7]);
    /// `null`
    pub const NULL: RawValue<'static> = RawValue(&[0xf6]);

    /// Takes the bytes of one value. Other spellings than the canonical one are refused: read and write the value.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let value = scan(&mut reader)?;
        reader.end()?;
        if reader.canonical { Ok(value) } else { Err(Malformed::NotCanonical) }
    }

    /// Bytes that were checked before, in a patch or a document.
    pub(crate) const fn trusted(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether it is `undefined`, which deletes a key.
    pub fn is_undefined(self) -> bool {
        self.0 == [0xf7]
    }

    /// The value, read.
    pub fn to_value(self) -> Value {
        // The bytes were checked when this was made.
        read(&mut Reader::new(self.0)).unwrap_or_default()
    }
}

/// One piece of CBOR: a value without parts, or the head of one with parts. `None` is an unknown length.
enum Item<'a> {
    Int(u64),
    NegativeInt(u64),
    Bytes(Option<&'a [u8]>),
    Text(Option<Wtf8<'a>>),
    Array(Option<u64>),
    Map(Option<u64>),
    Tag(u64),
    Simple(u8),
    Float(f64),
    Break,
}

fn item<'a>(r: &mut Reader<'a>) -> Result<Item<'a>, Malformed> {
    let head = r.u8("a value")?;
    let (major, info) = (head >> 5, head & 31);
    if major == 7 {
        return simple(r, info);
    }
    let argument = match info {
        0..24 => Some(u64::from(info)),
        24..28 => {
            let width = 1u64 << (info - 24);
            let n = r.big_endian(width, "a number")?;
            // Text is judged below, by a rule of its own.
            r.canonical &= major == 3 || n >= [24, 1 << 8, 1 << 16, 1 << 32][usize::from(info - 24)];
            Some(n)
        }
        31 if (2..=5).contains(&major) => {
            r.canonical = false;
            None
        }
        _ => return Err(r.unexpected(head, "the head of a value")),
    };
    Ok(match (major, argument) {
        (0, Some(n)) => Item::Int(n),
        (1, Some(n)) => Item::NegativeInt(n),
        (2, None) => Item::Bytes(None),
        (2, Some(len)) => Item::Bytes(Some(r.take(len, "bytes")?)),
        (3, None) => Item::Text(None),
        (3, Some(len)) => {
            let text = r.text(len)?;
            r.canonical &= text_width(text.units()) == info.max(23);
            Item::Text(Some(text))
        }
        (4, len) => Item::Array(len),
        (5, len) => Item::Map(len),
        (_, tag) => Item::Tag(tag.unwrap_or_default()),
    })
}

/// Major type 7: floats and simple values.
fn simple<'a>(r: &mut Reader<'a>, info: u8) -> Result<Item<'a>, Malformed> {
    Ok(match info {
        0..24 => Item::Simple(info),
        24 => match r.u8("a simple value")? {
            value @ 32.. => Item::Simple(value),
            low => return Err(r.unexpected(low, "a simple value of at least 32")),
        },
        25..28 => {
            let bits = r.big_endian(1 << (info - 24), "a float")?;
            let n = match info {
                25 => half(bits as u16),
                26 => f32::from_bits(bits as u32).into(),
                _ => f64::from_bits(bits),
            };
            r.canonical &= float_bytes(n) == Some((info, bits));
            Item::Float(n)
        }
        31 => Item::Break,
        _ => return Err(r.unexpected(0xe0 | info, "a value")),
    })
}

/// A float of 16 bits.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// How the profile writes a float: head and bits; `None` if as an integer.
fn float_bytes(n: f64) -> Option<(u8, u64)> {
    if n.trunc() == n && n.abs() <= SAFE_INT_MAX {
        None
    } else if n.is_nan() {
        Some((27, 0x7ff8 << 48))
    } else if f64::from(n as f32) == n {
        Some((26, (n as f32).to_bits().into()))
    } else {
        Some((27, n.to_bits()))
    }
}

/// Checks one value and skips it.
#[inline]
pub(crate) fn scan<'a>(r: &mut Reader<'a>) -> Result<RawValue<'a>, Malformed> {
    let rest = r.rest();
    let len = match *rest {
        [0..0x18 | 0x20..0x38 | 0xf4..=0xf7, ..] => 1,
        [0x18 | 0x38, 24..=0xff, ..] => 2,
        [0x19 | 0x39, 1..=0xff, _, ..] => 3,
        _ => return scan_any(r),
    };
    let (value, rest) = rest.split_at(len);
    r.skip_to(rest);
    Ok(RawValue(value))
}

/// [`scan`] of a value that has to be in canonical spelling.
#[inline]
pub(crate) fn canonical<'a>(r: &mut Reader<'a>) -> Result<RawValue<'a>, Malformed> {
    let value = scan(r)?;
    if r.canonical { Ok(value) } else { Err(Malformed::NotCanonical) }
}

/// A value of at most three bytes in canonical spelling at the start of some bytes: how many, and these. And the bytes
/// behind it. `None` for any other, and near the end of the bytes.
#[inline(always)]
pub(crate) fn brief(bytes: &[u8]) -> Option<([u8; 4], &[u8])> {
    let (&[head, second, third], _) = bytes.split_first_chunk()?;
    // A branch for each length, which is mostly that of the value before: so where the next one starts is known early.
    let number = head & !0x20;
    if number == 0x19 && second > 0 {
        Some(([3, head, second, third], &bytes[3..]))
    } else if number < 0x18 || matches!(head, 0xf4..=0xf7) {
        Some(([1, head, 0, 0], &bytes[1..]))
    } else if number == 0x18 && second >= 24 {
        Some(([2, head, second, 0], &bytes[2..]))
    } else {
        None
    }
}

fn scan_any<'a>(r: &mut Reader<'a>) -> Result<RawValue<'a>, Malformed> {
    let start = r.offset();
    scan_within(r, Value::DEPTH_MAX)?;
    Ok(RawValue(r.since(start)))
}

/// Scans a list each of whose items may be nested as deep as a value may be by itself.
pub(crate) fn scan_list<'a>(r: &mut Reader<'a>) -> Result<RawValue<'a>, Malformed> {
    let start = r.offset();
    scan_within(r, Value::DEPTH_MAX + 1)?;
    Ok(RawValue(r.since(start)))
}

fn scan_within(r: &mut Reader<'_>, depth: usize) -> Result<(), Malformed> {
    match item(r)? {
        Item::Array(Some(len)) => {
            let depth = deeper(r, depth)?;
            for _ in 0..len {
                scan_within(r, depth)?;
            }
        }
        Item::Map(Some(len)) => scan_map(r, len, deeper(r, depth)?)?,
        Item::Tag(_) => scan_within(r, deeper(r, depth)?)?,
        Item::Break => return Err(r.unexpected(0xff, "a value")),
        Item::Array(None) => drop(array(r, None, deeper(r, depth)?)?),
        Item::Map(None) => drop(map(r, None, deeper(r, depth)?)?),
        Item::Bytes(None) => drop(chunks(r, 2)?),
        Item::Text(None) => drop(chunks(r, 3)?),
        _ => {}
    }
    Ok(())
}

/// Scans the entries of a map. Its keys are kept on the way: to look for them again behind their values would take a pass
/// over all that is nested in it, at each level.
fn scan_map(r: &mut Reader<'_>, len: u64, depth: usize) -> Result<(), Malformed> {
    let start = *r;
    let mut keys = SmallVec::<[&[u8]; FEW_KEYS]>::new();
    for _ in 0..len {
        match item(r)? {
            Item::Text(Some(key)) => {
                keys.push(key.as_bytes());
                scan_within(r, depth)?;
            }
            // Rare, and to be respelled anyhow.
            _ => {
                *r = start;
                r.canonical = false;
                return map(r, Some(len), depth).map(drop);
            }
        }
    }
    r.canonical = r.canonical && !has_duplicates(keys.iter().copied(), keys.len());
    Ok(())
}

fn deeper(r: &Reader<'_>, depth: usize) -> Result<usize, Malformed> {
    depth.checked_sub(1).ok_or_else(|| Malformed::TooDeep { at: r.offset(), max: Value::DEPTH_MAX })
}

/// Reads one value in whatever spelling.
pub(crate) fn read(r: &mut Reader<'_>) -> Result<Value, Malformed> {
    read_within(r, Value::DEPTH_MAX)
}

pub(crate) fn read_within(r: &mut Reader<'_>, depth: usize) -> Result<Value, Malformed> {
    let item = item(r)?;
    value_of(r, item, depth)
}

fn value_of(r: &mut Reader<'_>, item: Item<'_>, depth: usize) -> Result<Value, Malformed> {
    Ok(match item {
        Item::Int(n) => n.into(),
        Item::NegativeInt(n) => i64::try_from(n).map_or(Value::Nint(n), |n| Value::Int(-1 - n)),
        Item::Bytes(Some(bytes)) => Value::Bytes(bytes.to_vec()),
        Item::Bytes(None) => Value::Bytes(chunks(r, 2)?),
        Item::Text(Some(text)) => text.into(),
        Item::Text(None) => text_of(r)?.into(),
        Item::Array(len) => Value::Array(array(r, len, deeper(r, depth)?)?),
        Item::Map(len) => Value::from_entries(map(r, len, deeper(r, depth)?)?),
        Item::Tag(tag) => Value::Tag(tag, read_within(r, deeper(r, depth)?)?.into()),
        Item::Simple(20) => Value::Bool(false),
        Item::Simple(21) => Value::Bool(true),
        Item::Simple(22) => Value::Null,
        Item::Simple(23) => Value::Undefined,
        Item::Simple(other) => Value::Simple(other),
        Item::Float(n) => n.into(),
        Item::Break => return Err(r.unexpected(0xff, "a value")),
    })
}

/// Memory for so many items, but no more than the bytes that are left can hold.
fn room(r: &Reader<'_>, len: Option<u64>, item_len_min: usize) -> usize {
    len.map_or(0, |len| super::room(len, ROOM_MAX.min(r.left() / item_len_min)))
}

fn array(r: &mut Reader<'_>, len: Option<u64>, depth: usize) -> Result<Vec<Value>, Malformed> {
    let mut items = Vec::with_capacity(room(r, len, 1));
    while len.is_none_or(|len| (items.len() as u64) < len) {
        match item(r)? {
            Item::Break if len.is_none() => break,
            item => items.push(value_of(r, item, depth)?),
        }
    }
    Ok(items)
}

fn map(r: &mut Reader<'_>, len: Option<u64>, depth: usize) -> Result<Vec<(Text, Value)>, Malformed> {
    let mut entries = Vec::with_capacity(room(r, len, 2));
    while len.is_none_or(|len| (entries.len() as u64) < len) {
        let (at, head) = (r.offset(), r.peek());
        let key = match item(r)? {
            Item::Break if len.is_none() => break,
            Item::Text(Some(key)) => key.to_text(),
            Item::Text(None) => text_of(r)?,
            // JavaScript's keys are strings; a number becomes its digits.
            Item::Int(n) => n.to_string().into(),
            Item::NegativeInt(n) => (-1 - i128::from(n)).to_string().into(),
            _ => return Err(not_here(at, head, "a text key")),
        };
        entries.push((key, read_within(r, depth)?));
    }
    Ok(entries)
}

fn text_of(r: &mut Reader<'_>) -> Result<Text, Malformed> {
    let at = r.offset();
    let bytes = chunks(r, 3)?;
    Wtf8::new(&bytes).map(Wtf8::to_text).map_err(|_| Malformed::Text { at })
}

/// The pieces of bytes or text whose length was not known at the start.
fn chunks(r: &mut Reader<'_>, major: u8) -> Result<Vec<u8>, Malformed> {
    let mut all = Vec::new();
    loop {
        let (at, head) = (r.offset(), r.peek());
        match (item(r)?, major) {
            (Item::Break, _) => return Ok(all),
            (Item::Bytes(Some(bytes)), 2) => all.extend_from_slice(bytes),
            (Item::Text(Some(text)), 3) => push_fused(&mut all, text.as_bytes()),
            _ => return Err(not_here(at, head, "a piece of the string, or its end")),
        }
    }
}

/// An item that a place does not allow, by its head.
fn not_here(at: usize, head: Option<u8>, expected: &'static str) -> Malformed {
    Malformed::Unexpected { at, found: head.unwrap_or_default(), expected }
}

/// Reads bytes that are exactly one value.
pub fn decode(bytes: &[u8]) -> Result<Value, Malformed> {
    decode_within(bytes, Value::DEPTH_MAX)
}

/// Reads bytes that are exactly one value, nested at most `depth_max` deep.
pub(crate) fn decode_within(bytes: &[u8], depth_max: usize) -> Result<Value, Malformed> {
    let mut reader = Reader::new(bytes);
    let value = read_within(&mut reader, depth_max)?;
    reader.end()?;
    Ok(value)
}

/// Reads a key: text of a known length.
#[inline]
pub(crate) fn key<'a>(r: &mut Reader<'a>) -> Result<Wtf8<'a>, Malformed> {
    // Most are short and ASCII. Their header is as wide as for four bytes a unit.
    let rest = r.rest();
    let short = match *rest {
        [head @ 0x60..0x66, ..] => rest[1..].split_at_checked(usize::from(head - 0x60)),
        [0x78, len @ 6..64, ..] => rest[2..].split_at_checked(usize::from(len)),
        _ => None,
    };
    if let Some((key, rest)) = short
        && key.is_ascii()
    {
        r.skip_to(rest);
        return Ok(Wtf8::trusted(key));
    }
    key_any(r)
}

fn key_any<'a>(r: &mut Reader<'a>) -> Result<Wtf8<'a>, Malformed> {
    match item(r)? {
        Item::Text(Some(key)) => Ok(key),
        _ => Err(r.unexpected(r.peek().unwrap_or(0), "a text key")),
    }
}

/// Steps behind the head of an array.
pub(crate) fn skip_head(r: &mut Reader<'_>) -> Result<(), Malformed> {
    item(r).map(drop)
}

/// Reads an integer that is not negative.
pub(crate) fn unsigned(r: &mut Reader<'_>) -> Result<u64, Malformed> {
    match item(r)? {
        Item::Int(n) => Ok(n),
        _ => Err(r.unexpected(r.peek().unwrap_or(0), "an integer")),
    }
}
