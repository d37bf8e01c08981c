//! Reads the text forms, which are shapes of [`Value`]s: each answer is the part asked for, or an error with its place.

use super::{Malformed, base64};
use crate::{SessionId, Timestamp, id::MAX_ID, value::Value};

/// How an id is written bare, as a number without a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bare(pub(crate) SessionId);

/// An error within item `index`.
pub(crate) fn at(index: usize) -> impl Fn(Malformed) -> Malformed {
    move |error| error.within(format_args!("[{index}]"))
}

/// An error within key `key`.
pub(crate) fn of(key: &'static str) -> impl Fn(Malformed) -> Malformed {
    move |error| error.within(format_args!(".{key}"))
}

/// A step to a key that came from outside, as in JavaScript.
pub(crate) struct Key<'k>(pub(crate) &'k crate::Text);

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut key = String::new();
        super::json::write_text(&mut key, self.0.as_wtf8());
        write!(f, "[{key}]")
    }
}

pub(crate) fn found(expected: &'static str, value: &Value) -> Malformed {
    Malformed::shape(expected, value.kind())
}

pub(crate) fn items<'v>(value: &'v Value, expected: &'static str) -> Result<&'v [Value], Malformed> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(found(expected, other)),
    }
}

/// The item at an index; `undefined` where the array ends.
pub(crate) fn item(items: &[Value], index: usize) -> &Value {
    items.get(index).unwrap_or(&Value::Undefined)
}

/// The value at a key; `undefined` where the map has none.
pub(crate) fn field<'v>(value: &'v Value, key: &str) -> &'v Value {
    value.get(key).unwrap_or(&Value::Undefined)
}

pub(crate) fn number(value: &Value, max: u64, expected: &'static str) -> Result<u64, Malformed> {
    match value.as_u64() {
        Some(n) if n <= max => Ok(n),
        Some(n) => Err(Malformed::shape(expected, n.to_string())),
        None => Err(found(expected, value)),
    }
}

/// A number that a byte holds.
pub(crate) fn byte(value: &Value, expected: &'static str) -> Result<u8, Malformed> {
    number(value, u8::MAX.into(), expected)
        .and_then(|number| u8::try_from(number).map_err(|_| found(expected, value)))
}

pub(crate) fn time(value: &Value) -> Result<u64, Malformed> {
    number(value, MAX_ID, "a time up to 2^53 - 1")
}

pub(crate) fn session(value: &Value) -> Result<SessionId, Malformed> {
    let id = number(value, MAX_ID, "a session id up to 2^53 - 1")?;
    SessionId::new(id).map_err(|error| Malformed::shape("a session id", error.to_string()))
}

/// `[sid, time]`, or a time alone.
pub(crate) fn id(value: &Value, bare: Bare) -> Result<Timestamp, Malformed> {
    match value {
        Value::Array(parts) if parts.len() == 2 => {
            Ok(Timestamp::new(session(&parts[0]).map_err(at(0))?, time(&parts[1]).map_err(at(1))?))
        }
        Value::Int(_) => Ok(Timestamp::new(bare.0, time(value)?)),
        other => Err(found("an id: [session, time] or a time", other)),
    }
}

pub(crate) fn text(value: &Value) -> Result<crate::Wtf8<'_>, Malformed> {
    match value {
        Value::Text(text) => Ok(text.as_wtf8()),
        other => Err(found("text", other)),
    }
}

/// Bytes, or base64 of them.
pub(crate) fn bytes(value: &Value) -> Result<Vec<u8>, Malformed> {
    match value {
        Value::Bytes(bytes) => Ok(bytes.clone()),
        Value::Text(text) => {
            base64::decode(text.as_bytes()).ok_or_else(|| Malformed::shape("base64", format!("{text:?}")))
        }
        other => Err(found("base64", other)),
    }
}

/// What JavaScript takes for false.
pub(crate) fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Undefined | Value::Null | Value::Bool(false) | Value::Int(0) | Value::Float(0.0) => true,
        Value::Text(text) => text.as_bytes().is_empty(),
        _ => false,
    }
}
