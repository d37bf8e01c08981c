//! The encodings that are trees of values: JSON, compact JSON and MessagePack.

use bytes::Bytes;
use crdt_core::{
    EncodingFormat, SessionId, StateVector, Text, Value,
    codec::{base64, json, msgpack},
    id::MAX_ID,
    patch::Patch,
};

use super::WireError;
use crate::{PatchRecord, PeerId, SnapshotHead, SyncMessage, Want};

/// The deepest nesting that is followed.
const DEPTH_MAX: usize = 128;
/// MessagePack maps of up to 15 entries begin with these bytes.
const MSGPACK_MAPS: std::ops::RangeInclusive<u8> = 0x80..=0x8f;

pub(super) fn encode(format: EncodingFormat, value: &Value) -> Result<Bytes, String> {
    match format {
        EncodingFormat::Json | EncodingFormat::Compact => Ok(json::encode(value).into()),
        EncodingFormat::MessagePack => Ok(msgpack::encode(value).into()),
        other => Err(format!("{other} is not an encoding of trees")),
    }
}

pub(super) fn decode(bytes: &Bytes) -> Result<Value, WireError> {
    match bytes.first() {
        Some(b'{') => Ok(json::decode(bytes)?),
        Some(first) if MSGPACK_MAPS.contains(first) => Ok(msgpack::decode(bytes, DEPTH_MAX)?),
        Some(first) => Err(WireError::Tag(*first)),
        None => Err(WireError::Empty),
    }
}

pub(super) fn patch_message(format: EncodingFormat, record: &PatchRecord) -> Result<Value, String> {
    Ok(map([("type", "patch".into())].into_iter().chain(record_fields(format, record)?)))
}

pub(super) fn read_patch_message(value: &Value) -> Result<PatchRecord, WireError> {
    let message = Fields::of(value)?;
    match message.text("type")? {
        "patch" => message.record(),
        other => Err(WireError::Kind(other.to_owned())),
    }
}

pub(super) fn sync_message(
    format: EncodingFormat,
    from: &PeerId,
    message: &SyncMessage,
) -> Result<Value, String> {
    let mut fields: Vec<(&str, Value)> = Vec::with_capacity(6);
    let kind = match message {
        SyncMessage::Digest { digest } => {
            fields.push(("digest", hash(*digest)));
            "digest"
        }
        SyncMessage::State { vector: have, reply } => {
            fields.extend([("vector", vector(have)), ("reply", Value::Bool(*reply))]);
            "state"
        }
        SyncMessage::Request { id, want, bytes_max } => {
            let triple = |w: &Want| Value::Array([w.sid.get(), w.after, w.upto].map(Value::from).into());
            let want = Value::Array(want.iter().map(triple).collect());
            fields.extend([("id", Value::from(*id)), ("want", want), ("bytesMax", Value::from(*bytes_max))]);
            "request"
        }
        SyncMessage::Patches { id, records } => {
            let records: Result<Vec<Value>, String> =
                records.iter().map(|record| record_fields(format, record).map(map)).collect();
            fields.extend([("id", Value::from(*id)), ("patches", Value::Array(records?))]);
            "patches"
        }
        SyncMessage::Offer { id, snapshot } => {
            fields.extend([
                ("id", Value::from(*id)),
                ("vector", vector(&snapshot.vector)),
                ("lenBytes", Value::from(snapshot.len_bytes)),
                ("hash", hash(snapshot.hash)),
            ]);
            if !snapshot.proof.is_empty() {
                fields.push(("proof", blob(format, &snapshot.proof)));
            }
            "offer"
        }
        SyncMessage::Fetch { id, hash: of, offset } => {
            fields.extend([("id", Value::from(*id)), ("hash", hash(*of)), ("offset", Value::from(*offset))]);
            "fetch"
        }
        SyncMessage::Part { id, hash: of, offset, bytes } => {
            fields.extend([("id", Value::from(*id)), ("hash", hash(*of)), ("offset", Value::from(*offset))]);
            fields.push(("bytes", blob(format, bytes)));
            "part"
        }
    };
    let head = [("type", kind.into()), ("from", from.as_str().into())];
    Ok(map(head.into_iter().chain(fields)))
}

pub(super) fn read_sync_message(value: &Value) -> Result<(PeerId, SyncMessage), WireError> {
    let fields = Fields::of(value)?;
    let from = PeerId::new(fields.text("from")?)?;
    let message = match fields.text("type")? {
        "digest" => SyncMessage::Digest { digest: fields.hash("digest")? },
        "state" => SyncMessage::State { vector: fields.vector()?, reply: fields.bool("reply")? },
        "request" => {
            let want = fields.array("want")?.iter().map(want).collect::<Result<_, _>>()?;
            SyncMessage::Request { id: fields.number("id")?, want, bytes_max: fields.number("bytesMax")? }
        }
        "patches" => {
            let records = fields.array("patches")?.iter().map(|record| Fields::of(record)?.record());
            SyncMessage::Patches { id: fields.number("id")?, records: records.collect::<Result<_, _>>()? }
        }
        "offer" => {
            let (len_bytes, hash) = (fields.number("lenBytes")?, fields.hash("hash")?);
            let snapshot = SnapshotHead { vector: fields.vector()?, len_bytes, hash, proof: fields.proof()? };
            SyncMessage::Offer { id: fields.number("id")?, snapshot }
        }
        "fetch" => SyncMessage::Fetch {
            id: fields.number("id")?,
            hash: fields.hash("hash")?,
            offset: fields.number("offset")?,
        },
        "part" => SyncMessage::Part {
            id: fields.number("id")?,
            hash: fields.hash("hash")?,
            offset: fields.number("offset")?,
            bytes: read_blob(fields.get("bytes", "bytes")?, "bytes")?,
        },
        other => return Err(WireError::Kind(other.to_owned())),
    };
    Ok((from, message))
}

fn map<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (Text::from(name), value)).collect())
}

/// A hash takes all 64 bits, which not every reader's numbers have.
fn hash(hash: u64) -> Value {
    format!("{hash:016x}").into()
}

fn vector(vector: &StateVector<SessionId>) -> Value {
    Value::Array(
        vector
            .iter()
            .map(|(sid, time)| Value::Array(vec![Value::from(sid.get()), Value::from(time)]))
            .collect(),
    )
}

fn blob(format: EncodingFormat, bytes: &Bytes) -> Value {
    match format {
        EncodingFormat::MessagePack => Value::Bytes(bytes.to_vec()),
        _ => base64::encode(bytes).into(),
    }
}

fn read_blob(value: &Value, field: &'static str) -> Result<Bytes, WireError> {
    let wrong = WireError::Field { field, expected: "bytes, or text in base64" };
    match value {
        Value::Bytes(bytes) => Ok(bytes.clone().into()),
        Value::Text(text) => base64::decode(text.as_bytes()).map(Bytes::from).ok_or(wrong),
        _ => Err(wrong),
    }
}

fn record_fields(format: EncodingFormat, record: &PatchRecord) -> Result<Vec<(&'static str, Value)>, String> {
    let mut fields = vec![("prev", record.prev.into()), ("patch", patch(format, record)?)];
    if !record.proof.is_empty() {
        fields.push(("proof", blob(format, &record.proof)));
    }
    Ok(fields)
}

/// The patch in the form that the encoding calls for.
fn patch(format: EncodingFormat, record: &PatchRecord) -> Result<Value, String> {
    let decoded = || Patch::decode(&record.patch).map_err(|error| error.to_string());
    Ok(match format {
        EncodingFormat::Json => decoded()?.to_verbose(),
        EncodingFormat::Compact => decoded()?.to_compact(),
        _ => Value::Bytes(record.patch.to_vec()),
    })
}

fn read_patch(value: &Value) -> Result<Bytes, WireError> {
    match value {
        Value::Map(_) => Ok(Bytes::copy_from_slice(Patch::from_verbose(value)?.as_bytes())),
        Value::Array(_) => Ok(Bytes::copy_from_slice(Patch::from_compact(value)?.as_bytes())),
        other => read_blob(other, "patch"),
    }
}

fn want(value: &Value) -> Result<Want, WireError> {
    let wrong = WireError::Field { field: "want", expected: "[session, after, upto]" };
    let Value::Array(parts) = value else { return Err(wrong) };
    let [sid, after, upto] = &parts[..] else { return Err(wrong) };
    let (sid, after, upto) = (unsigned(sid, "want")?, unsigned(after, "want")?, unsigned(upto, "want")?);
    Ok(Want { sid: SessionId::new(sid).map_err(|_| wrong)?, after, upto })
}

/// The largest number that each reader holds exactly.
fn unsigned(value: &Value, field: &'static str) -> Result<u64, WireError> {
    let number = value.as_u64().filter(|number| *number <= MAX_ID);
    number.ok_or(WireError::Field { field, expected: "a whole number from 0 to 2^53 - 1" })
}

struct Fields<'a>(&'a [(Text, Value)]);

impl<'a> Fields<'a> {
    fn of(value: &'a Value) -> Result<Self, WireError> {
        match value {
            Value::Map(fields) => Ok(Self(fields)),
            _ => Err(WireError::Field { field: "message", expected: "a map" }),
        }
    }

    fn get(&self, field: &'static str, expected: &'static str) -> Result<&'a Value, WireError> {
        let found = self.0.iter().find(|(name, _)| name.as_bytes() == field.as_bytes());
        found.map(|(_, value)| value).ok_or(WireError::Field { field, expected })
    }

    fn text(&self, field: &'static str) -> Result<&'a str, WireError> {
        let wrong = WireError::Field { field, expected: "text" };
        match self.get(field, "text")? {
            Value::Text(text) => std::str::from_utf8(text.as_bytes()).map_err(|_| wrong),
            _ => Err(wrong),
        }
    }

    fn number(&self, field: &'static str) -> Result<u64, WireError> {
        unsigned(self.get(field, "a number")?, field)
    }

    fn bool(&self, field: &'static str) -> Result<bool, WireError> {
        match self.get(field, "true or false")? {
            Value::Bool(value) => Ok(*value),
            _ => Err(WireError::Field { field, expected: "true or false" }),
        }
    }

    fn hash(&self, field: &'static str) -> Result<u64, WireError> {
        let wrong = WireError::Field { field, expected: "16 hexadecimal digits" };
        match self.text(field)? {
            digits if digits.len() == 16 => u64::from_str_radix(digits, 16).map_err(|_| wrong),
            _ => Err(wrong),
        }
    }

    fn array(&self, field: &'static str) -> Result<&'a [Value], WireError> {
        match self.get(field, "an array")? {
            Value::Array(items) => Ok(items),
            _ => Err(WireError::Field { field, expected: "an array" }),
        }
    }

    fn vector(&self) -> Result<StateVector<SessionId>, WireError> {
        let wrong = || WireError::Field { field: "vector", expected: "an array of [session, time]" };
        let entry = |entry: &Value| {
            let Value::Array(parts) = entry else { return Err(wrong()) };
            let [sid, time] = &parts[..] else { return Err(wrong()) };
            let sid = SessionId::new(unsigned(sid, "vector")?).map_err(|_| wrong())?;
            Ok((sid, unsigned(time, "vector")?))
        };
        self.array("vector")?.iter().map(entry).collect()
    }

    fn record(&self) -> Result<PatchRecord, WireError> {
        let patch = read_patch(self.get("patch", "a patch")?)?;
        Ok(PatchRecord::new(self.number("prev")?, patch)?.with_proof(self.proof()?)?)
    }

    fn proof(&self) -> Result<Bytes, WireError> {
        let found = self.0.iter().find(|(name, _)| name.as_bytes() == b"proof");
        found.map_or(Ok(Bytes::new()), |(_, proof)| read_blob(proof, "proof"))
    }
}
