//! The four forms of a patch. The binary one is what a [`Patch`] is; the others are made from it and read into it.

mod compact;
pub(crate) mod verbose;

use super::{
    Malformed, cbor, json,
    shape::{self, Bare, at, item, items},
};
use crate::{
    Text, Timespan, Timestamp,
    id::MAX_ID,
    patch::{Con, Op, Patch},
    value::Value,
};

/// A form in which a patch travels or is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PatchFormat {
    /// Bytes, the smallest: for the network and for storage.
    Binary,
    /// The compact form in CBOR.
    CompactBinary,
    /// JSON arrays with numbers for names.
    Compact,
    /// JSON with names, for people.
    Verbose,
}

/// A constant stands four levels deep in the text forms.
const DEPTH_MAX: usize = Value::DEPTH_MAX + 4;

/// A patch holds what JSON cannot say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a patch with {what} at {at} has no form in JSON: take a binary form")]
pub struct NoJsonForm {
    /// The operation that has it, or the first one if it is said of the whole patch.
    pub at: Timestamp,
    /// What JSON lacks.
    pub what: &'static str,
}

impl PatchFormat {
    /// All forms.
    pub const ALL: [Self; 4] = [Self::Binary, Self::CompactBinary, Self::Compact, Self::Verbose];

    /// Writes a patch. Only the JSON forms can fail: a constant may hold bytes, `undefined` within a value, or a number
    /// that JSON cannot say.
    pub fn encode(self, patch: &Patch) -> Result<Vec<u8>, NoJsonForm> {
        match self {
            Self::Binary => Ok(patch.as_bytes().to_vec()),
            Self::CompactBinary => Ok(cbor::encode_within(&compact::to_value(patch.as_ref()), DEPTH_MAX)),
            Self::Compact => {
                patch.check_json_form().map(|()| json::encode(&compact::to_value(patch.as_ref())).into())
            }
            Self::Verbose => {
                patch.check_json_form().map(|()| json::encode(&verbose::to_value(patch.as_ref())).into())
            }
        }
    }

    /// Reads a patch from anyone.
    pub fn decode(self, bytes: &[u8]) -> Result<Patch, Malformed> {
        match self {
            Self::Binary => Patch::decode(bytes),
            Self::CompactBinary => compact::from_value(&cbor::decode_within(bytes, DEPTH_MAX)?),
            Self::Compact => compact::from_value(&json::decode_within(bytes, DEPTH_MAX)?),
            Self::Verbose => verbose::from_value(&json::decode_within(bytes, DEPTH_MAX)?),
        }
    }
}

impl Patch {
    /// Whether [`to_compact`](Self::to_compact) and [`to_verbose`](Self::to_verbose) come back from JSON text as they were.
    ///
    /// # Errors
    /// What JSON cannot say: bytes, `undefined` within a value, a number that is none, or one beyond ±(2^53 − 1).
    pub fn check_json_form(&self) -> Result<(), NoJsonForm> {
        if self.meta().is_some_and(|meta| !json::is_json(&meta.to_value())) {
            return Err(NoJsonForm { at: self.id(), what: "a meta that holds more than JSON" });
        }
        let lost = self.ops().find(|(_, op)| match op {
            Op::NewCon(Con::Value(value)) => !value.is_undefined() && !json::is_json(&value.to_value()),
            _ => false,
        });
        lost.map_or(Ok(()), |(at, _)| Err(NoJsonForm { at, what: "a constant that holds more than JSON" }))
    }

    /// The patch as a compact value: what [`PatchFormat::Compact`] writes as JSON and `CompactBinary` as CBOR.
    pub fn to_compact(&self) -> Value {
        compact::to_value(self.as_ref())
    }

    /// Reads [`to_compact`](Self::to_compact).
    pub fn from_compact(value: &Value) -> Result<Self, Malformed> {
        compact::from_value(value)
    }

    /// The patch as a value with names: what [`PatchFormat::Verbose`] writes as JSON.
    pub fn to_verbose(&self) -> Value {
        verbose::to_value(self.as_ref())
    }

    /// Reads [`to_verbose`](Self::to_verbose).
    pub fn from_verbose(value: &Value) -> Result<Self, Malformed> {
        verbose::from_value(value)
    }
}

/// Reads each item of a list.
fn each<T>(list: &[Value], read: impl Fn(&Value) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
    list.iter().enumerate().map(|(index, value)| read(value).map_err(at(index))).collect()
}

/// `[[first, id], …]`
fn pairs<T>(
    list: &[Value],
    bare: Bare,
    first: fn(&Value) -> Result<T, Malformed>,
) -> Result<Vec<(T, Timestamp)>, Malformed> {
    each(list, |value| {
        let pair = items(value, "a pair")?;
        Ok((first(item(pair, 0)).map_err(at(0))?, shape::id(item(pair, 1), bare).map_err(at(1))?))
    })
}

/// A key of a map, which JavaScript takes from a number too.
fn key(value: &Value) -> Result<Text, Malformed> {
    match value {
        Value::Int(n) => Ok(n.to_string().into()),
        Value::Float(0.0) => Ok("0".into()),
        value => shape::text(value).map(|key| key.to_text()),
    }
}

/// An index into a tuple.
fn index(value: &Value) -> Result<u8, Malformed> {
    shape::byte(value, "an index from 0 to 255")
}

fn ids(list: &[Value], bare: Bare) -> Result<Vec<Timestamp>, Malformed> {
    each(list, |value| shape::id(value, bare))
}

/// `[[time, span] or [session, time, span], …]`
fn spans(list: &[Value], bare: Bare) -> Result<Vec<Timespan>, Malformed> {
    each(list, |value| {
        let parts = items(value, "a span: an array")?;
        let (sid, rest) = match parts {
            [sid, rest @ ..] if rest.len() == 2 => (shape::session(sid).map_err(at(0))?, rest),
            rest if rest.len() == 2 => (bare.0, rest),
            _ => return Err(shape::found("[time, span] or [session, time, span]", value)),
        };
        let start = Timestamp::new(sid, shape::time(&rest[0])?);
        let span = shape::number(&rest[1], MAX_ID - start.time + 1, "a span that ends before 2^53")?;
        Ok(Timespan { start, span })
    })
}
