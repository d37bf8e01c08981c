//! Writing values.

use super::float_bytes;
use crate::{
    text::{Wtf8, units},
    value::Value,
};

/// Writes a value. Parts that are nested deeper than [`Value::DEPTH_MAX`] become `null`: nobody could read them.
pub fn encode(value: &Value) -> Vec<u8> {
    encode_within(value, Value::DEPTH_MAX)
}

/// Writes a value of any depth: the text forms of patches and documents, which are deeper than a constant may be.
pub fn encode_deep(value: &Value) -> Vec<u8> {
    encode_within(value, usize::MAX)
}

/// Writes a value that may be nested `depth_max` deep.
pub(crate) fn encode_within(value: &Value, depth_max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write_within(&mut out, value, depth_max);
    out
}

/// Appends a value.
pub(crate) fn write(out: &mut Vec<u8>, value: &Value) {
    write_within(out, value, Value::DEPTH_MAX);
}

fn write_within(out: &mut Vec<u8>, value: &Value, depth: usize) {
    let Some(deeper) = depth.checked_sub(1) else {
        if !matches!(value, Value::Array(_) | Value::Map(_) | Value::Tag(..)) {
            return write_within(out, value, 1);
        }
        return out.push(0xf6);
    };
    match value {
        Value::Undefined => out.push(0xf7),
        Value::Null => out.push(0xf6),
        Value::Bool(truth) => out.push(0xf4 | u8::from(*truth)),
        Value::Int(n) => match u64::try_from(*n) {
            Ok(n) => put_head(out, 0, n),
            Err(_) => put_head(out, 1, !*n as u64),
        },
        Value::Uint(n) => put_head(out, 0, *n),
        Value::Nint(n) => put_head(out, 1, *n),
        Value::Float(n) => match float_bytes(*n) {
            None => write_within(out, &Value::Int(*n as i64), depth),
            Some((26, bits)) => {
                out.push(0xfa);
                out.extend_from_slice(&(bits as u32).to_be_bytes());
            }
            Some((_, bits)) => {
                out.push(0xfb);
                out.extend_from_slice(&bits.to_be_bytes());
            }
        },
        Value::Text(text) => put_text(out, text.as_wtf8()),
        Value::Bytes(bytes) => put_bytes(out, bytes),
        Value::Array(items) => {
            put_head(out, 4, items.len() as u64);
            for item in items {
                write_within(out, item, deeper);
            }
        }
        Value::Map(entries) => {
            put_head(out, 5, entries.len() as u64);
            for (key, value) in entries {
                put_text(out, key.as_wtf8());
                write_within(out, value, deeper);
            }
        }
        Value::Tag(tag, inner) => {
            put_head(out, 6, *tag);
            write_within(out, inner, deeper);
        }
        Value::Simple(value @ 0..24) => out.push(0xe0 | value),
        Value::Simple(value) => out.extend_from_slice(&[0xf8, *value]),
    }
}

/// Writes a major type and its argument in the shortest form.
#[inline]
pub(crate) fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match argument {
        0..24 => out.push(major | argument as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, argument as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

/// How wide the header of a text of so many UTF-16 units is: 23 stands for "within the first byte".
pub(super) const fn text_width(units: usize) -> u8 {
    match 4 * units {
        0..=23 => 23,
        24..=0xff => 24,
        0x100..=0xffff => 25,
        _ => 26,
    }
}

/// Writes text.
#[inline]
pub(crate) fn put_text(out: &mut Vec<u8>, text: Wtf8<'_>) {
    let bytes = text.as_bytes();
    put_text_head(out, bytes.len(), units(bytes));
    out.extend_from_slice(bytes);
}

/// Writes the header of a text that follows in pieces.
#[inline]
pub(crate) fn put_text_head(out: &mut Vec<u8>, len_bytes: usize, units: usize) {
    match text_width(units) {
        23 => out.push(0x60 | len_bytes as u8),
        24 => out.extend_from_slice(&[0x78, len_bytes as u8]),
        25 => {
            out.push(0x79);
            out.extend_from_slice(&(len_bytes as u16).to_be_bytes());
        }
        // A text beyond 4 GiB has no form in the profile; general CBOR has one, and every reader knows it.
        _ => match u32::try_from(len_bytes) {
            Ok(len) => {
                out.push(0x7a);
                out.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => put_head(out, 3, len_bytes as u64),
        },
    }
}

/// Writes bytes.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_head(out, 2, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
