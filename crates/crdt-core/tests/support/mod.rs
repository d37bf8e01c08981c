//! What the tests share: the recorded vectors of json-joy, and small helpers to walk them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this module")]

pub mod edits;
pub mod list;
pub mod mirror;
pub mod node;
pub mod random;
pub mod seeded;

use std::{io::Read, sync::OnceLock};

use crdt_core::{Patch, PatchBuilder, Text, Value, codec::json};

/// The vectors, with `$undefined`, `$bin`, `$bigint`, `$float` and `$utf16` put into what they stand for.
pub fn vectors() -> &'static Value {
    static VECTORS: OnceLock<Value> = OnceLock::new();
    VECTORS.get_or_init(|| {
        let packed: &[u8] = include_bytes!("../data/json-joy-vectors.json.gz");
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut text).unwrap();
        revive(json::decode(&text).unwrap())
    })
}

/// A patch as the general writer spells it.
pub fn spelled_out(patch: &Patch) -> Vec<u8> {
    let mut builder = PatchBuilder::new(patch.id().sid, patch.id().time);
    for (_, op) in patch.ops() {
        builder.push(&op);
    }
    builder.finish().unwrap().as_bytes().to_vec()
}

fn revive(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(revive).collect()),
        Value::Map(entries) => match entries.as_slice() {
            [(key, inner)] => match (key.as_str().unwrap_or(""), inner) {
                ("$undefined", _) => Value::Undefined,
                ("$bin", hex) => Value::Bytes(unhex(text(hex))),
                ("$bigint", digits) => match text(digits).parse::<i128>().unwrap() {
                    n @ 0.. => Value::from(u64::try_from(n).unwrap()),
                    n => Value::Int(n.try_into().unwrap()),
                },
                ("$float", name) => Value::from(text(name).parse::<f64>().unwrap()),
                ("$utf16", units) => {
                    Value::Text(Text::from_utf16(items(units).iter().map(|u| number(u) as u16)))
                }
                _ => Value::Map(entries.into_iter().map(|(k, v)| (k, revive(v))).collect()),
            },
            _ => Value::Map(entries.into_iter().map(|(k, v)| (k, revive(v))).collect()),
        },
        other => other,
    }
}

/// A list of texts as the driver takes it.
pub fn list_of(texts: &Value) -> String {
    let list: Vec<String> = items(texts).iter().map(|one| format!("\"{}\"", text(one))).collect();
    format!("[{}]", list.join(","))
}

pub fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is not text"))
}

#[track_caller]
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value:?} is not a number"))
}

#[track_caller]
pub fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        other => panic!("{other:?} is not an array"),
    }
}

#[track_caller]
pub fn get<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or_else(|| panic!("no {key:?} in {value:?}"))
}

/// A named vector, scenario or edge case.
#[track_caller]
pub fn named(list: &str, name: &str) -> &'static Value {
    let named =
        items(get(vectors(), list)).iter().find(|v| v.get("name").and_then(Value::as_str) == Some(name));
    named.unwrap_or_else(|| panic!("no {name:?} in {list}"))
}

/// A value without keys that have no value, and with its maps' keys sorted: views are compared so.
pub fn plain(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries
                .iter()
                .filter(|(_, value)| !value.is_undefined())
                .map(|(key, value)| (key.clone(), plain(value)))
                .collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Map(entries)
        }
        other => other.clone(),
    }
}
