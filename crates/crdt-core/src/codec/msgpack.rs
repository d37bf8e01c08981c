//! MessagePack: reads any, writes the profile of json-joy's encoder, for the compact-binary document.
//!
//! The profile: no 8-bit integers, every number outside the 32-bit integers as float64, and text headers as wide as four
//! bytes per UTF-16 unit would need. `undefined` is the otherwise unused byte `c1`.

use super::{Malformed, ROOM_MAX, room, wire::Reader};
use crate::{text::Text, value::Value};

/// Reads bytes that are exactly one value, nested at most `depth_max` deep.
pub fn decode(bytes: &[u8], depth_max: usize) -> Result<Value, Malformed> {
    let mut reader = Reader::new(bytes);
    let value = read(&mut reader, depth_max, depth_max)?;
    reader.end()?;
    Ok(value)
}

fn read(r: &mut Reader<'_>, depth: usize, max: usize) -> Result<Value, Malformed> {
    let at = r.offset();
    let head = r.u8("a value")?;
    Ok(match head {
        0..0x80 => Value::Int(head.into()),
        0x80..0x90 => return map(r, (head & 15).into(), depth, max),
        0x90..0xa0 => return array(r, (head & 15).into(), depth, max),
        0xa0..0xc0 => r.text((head & 31).into())?.into(),
        0xc0 => Value::Null,
        0xc1 => Value::Undefined,
        0xc2 | 0xc3 => Value::Bool(head == 0xc3),
        0xc4..=0xc6 => {
            let len = r.big_endian(1 << (head - 0xc4), "a length")?;
            r.take(len, "bytes")?.to_vec().into()
        }
        0xca => f64::from(f32::from_bits(r.big_endian(4, "a float")? as u32)).into(),
        0xcb => f64::from_bits(r.big_endian(8, "a float")?).into(),
        0xcc..=0xcf => r.big_endian(1 << (head - 0xcc), "a number")?.into(),
        0xd0..=0xd3 => {
            let width = 1u64 << (head - 0xd0);
            let shift = 64 - 8 * width as u32;
            // Shifted up and down again, so that the sign fills the upper bits.
            Value::Int(((r.big_endian(width, "a number")? << shift) as i64) >> shift)
        }
        0xd9..=0xdb => {
            let len = r.big_endian(1 << (head - 0xd9), "a length")?;
            r.text(len)?.into()
        }
        0xdc | 0xdd => {
            let len = r.big_endian(2 << (head - 0xdc), "a length")?;
            return array(r, len, depth, max);
        }
        0xde | 0xdf => {
            let len = r.big_endian(2 << (head - 0xde), "a length")?;
            return map(r, len, depth, max);
        }
        0xe0.. => Value::Int((head as i8).into()),
        _ => {
            return Err(Malformed::Unexpected {
                at,
                found: head,
                expected: "a value other than an extension",
            });
        }
    })
}

fn deeper(r: &Reader<'_>, depth: usize, max: usize) -> Result<usize, Malformed> {
    depth.checked_sub(1).ok_or_else(|| Malformed::TooDeep { at: r.offset(), max })
}

fn array(r: &mut Reader<'_>, len: u64, depth: usize, max: usize) -> Result<Value, Malformed> {
    let depth = deeper(r, depth, max)?;
    let mut items = Vec::with_capacity(room(len, ROOM_MAX.min(r.left())));
    for _ in 0..len {
        items.push(read(r, depth, max)?);
    }
    Ok(Value::Array(items))
}

fn map(r: &mut Reader<'_>, len: u64, depth: usize, max: usize) -> Result<Value, Malformed> {
    let depth = deeper(r, depth, max)?;
    let mut entries = Vec::with_capacity(room(len, ROOM_MAX.min(r.left() / 2)));
    for _ in 0..len {
        let at = r.offset();
        let key = match read(r, 0, max)? {
            Value::Text(key) => key,
            Value::Int(n) => Text::from(n.to_string()),
            Value::Float(0.0) => Text::from("0"),
            _ => return Err(Malformed::Contradiction { at, what: "a map key that is not text" }),
        };
        entries.push((key, read(r, depth, max)?));
    }
    Ok(Value::from_entries(entries))
}

/// Writes a value.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value);
    out
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Undefined | Value::Simple(_) => out.push(0xc1),
        Value::Null => out.push(0xc0),
        Value::Bool(truth) => out.push(0xc2 | u8::from(*truth)),
        Value::Int(n) => match *n {
            -32..0x80 => out.push(*n as u8),
            0x80..0x1_0000 => put(out, 0xcd, (*n as u16).to_be_bytes()),
            0x1_0000..0x1_0000_0000 => put(out, 0xce, (*n as u32).to_be_bytes()),
            -0x8000..-32 => put(out, 0xd1, (*n as i16).to_be_bytes()),
            -0x8000_0000..-0x8000 => put(out, 0xd2, (*n as i32).to_be_bytes()),
            _ => put(out, 0xcb, (*n as f64).to_be_bytes()),
        },
        Value::Uint(n) => put(out, 0xcb, (*n as f64).to_be_bytes()),
        Value::Nint(n) => put(out, 0xcb, (-1.0 - *n as f64).to_be_bytes()),
        // The reference takes it for an integer, whatever its sign.
        Value::Float(0.0) => out.push(0),
        Value::Float(n) => put(out, 0xcb, n.to_be_bytes()),
        Value::Text(text) => put_text(out, text),
        Value::Bytes(bytes) => {
            match bytes.len() {
                len @ 0..0x100 => out.extend_from_slice(&[0xc4, len as u8]),
                len @ 0x100..0x1_0000 => put(out, 0xc5, (len as u16).to_be_bytes()),
                len => put(out, 0xc6, (len as u32).to_be_bytes()),
            }
            out.extend_from_slice(bytes);
        }
        Value::Array(items) => {
            put_len(out, 0x90, 0xdc, items.len());
            for item in items {
                write(out, item);
            }
        }
        Value::Map(entries) => {
            put_len(out, 0x80, 0xde, entries.len());
            for (key, value) in entries {
                put_text(out, key);
                write(out, value);
            }
        }
        Value::Tag(_, inner) => write(out, inner),
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, head: u8, bytes: [u8; N]) {
    out.push(head);
    out.extend_from_slice(&bytes);
}

fn put_len(out: &mut Vec<u8>, fix: u8, wide: u8, len: usize) {
    match len {
        0..16 => out.push(fix | len as u8),
        16..0x1_0000 => put(out, wide, (len as u16).to_be_bytes()),
        _ => put(out, wide + 1, (len as u32).to_be_bytes()),
    }
}

fn put_text(out: &mut Vec<u8>, text: &Text) {
    let len = text.as_bytes().len();
    match 4 * text.as_wtf8().units() {
        0..32 => out.push(0xa0 | len as u8),
        32..0x100 => out.extend_from_slice(&[0xd9, len as u8]),
        0x100..0x1_0000 => put(out, 0xda, (len as u16).to_be_bytes()),
        _ => put(out, 0xdb, (len as u32).to_be_bytes()),
    }
    out.extend_from_slice(text.as_bytes());
}

/// Whether a value comes back as it was. What is longer than 32 bits can count has no form.
pub fn is_msgpack(value: &Value) -> bool {
    match value {
        Value::Uint(_) | Value::Nint(_) | Value::Tag(..) | Value::Simple(_) => false,
        Value::Int(n) => n.unsigned_abs() < 1 << 53,
        Value::Text(text) => is_len(text.as_bytes().len()),
        Value::Bytes(bytes) => is_len(bytes.len()),
        Value::Array(items) => is_len(items.len()) && items.iter().all(is_msgpack),
        Value::Map(entries) => {
            is_len(entries.len())
                && entries.iter().all(|(key, value)| is_len(key.as_bytes().len()) && is_msgpack(value))
        }
        _ => true,
    }
}

fn is_len(len: usize) -> bool {
    u32::try_from(len).is_ok()
}
