//! The encodings that are trees of values: JSON, compact JSON and MessagePack.

use bytes::Bytes;
use crdt_core::{
    EncodingFormat, SessionId, StateVector, Text, Value,
    codec::{base64, json, msgpack},
    id::MAX_ID,
    patch::Patch,
};

use super::{EncodeError, NO_TIME, WireError};
use crate::{
    PatchRecord, PeerId, SnapshotHead, SyncMessage, Want,
    dag::{Link, NodeHash},
    reconcile::Symbol,
    store::StoreId,
};

/// The deepest nesting that is followed: a constant stands seven levels deep in a page of patches.
const DEPTH_MAX: usize = Value::DEPTH_MAX + 8;
/// MessagePack maps of up to 15 entries begin with these bytes.
const MSGPACK_MAPS: std::ops::RangeInclusive<u8> = 0x80..=0x8f;

pub(super) fn encode(format: EncodingFormat, value: &Value) -> Result<Bytes, EncodeError> {
    match format {
        EncodingFormat::Json | EncodingFormat::Compact => Ok(json::encode(value).into()),
        EncodingFormat::MessagePack => Ok(msgpack::encode(value).into()),
        other => Err(EncodeError::NoTree(other)),
    }
}

pub(super) fn decode(bytes: &Bytes) -> Result<Value, WireError> {
    match bytes.first() {
        Some(b'{') => Ok(json::decode_within(bytes, DEPTH_MAX)?),
        Some(first) if MSGPACK_MAPS.contains(first) => Ok(msgpack::decode(bytes, DEPTH_MAX)?),
        Some(first) => Err(WireError::Tag(*first)),
        None => Err(WireError::Empty),
    }
}

pub(super) fn patch_message(format: EncodingFormat, record: &PatchRecord) -> Result<Value, EncodeError> {
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
) -> Result<Value, EncodeError> {
    let mut fields: Vec<(&str, Value)> = Vec::with_capacity(6);
    let kind = match message {
        SyncMessage::Digest { digest, content } => {
            fields.push(("digest", hash(*digest)));
            fields.extend(content.map(|content| ("content", hash(content))));
            "digest"
        }
        SyncMessage::State { vector: have, reply } => {
            fields.extend([("vector", vector(have)), ("reply", Value::Bool(*reply))]);
            "state"
        }
        SyncMessage::Request { id, want, bytes_max, offers } => {
            fields.extend([("id", Value::from(*id)), ("want", wants(want))]);
            fields.push(("bytesMax", Value::from(*bytes_max)));
            fields.push(("offers", Value::Bool(*offers)));
            "request"
        }
        SyncMessage::Patches { id, records } => {
            fields.extend([("id", Value::from(*id)), ("patches", page(format, records)?)]);
            "patches"
        }
        SyncMessage::Vouched { id, records, proof } => {
            fields.extend([("id", Value::from(*id)), ("patches", page(format, records)?)]);
            fields.push(("proof", blob(format, proof)));
            "vouched"
        }
        SyncMessage::Signed { message, proof } => {
            fields.extend([("message", blob(format, message)), ("proof", blob(format, proof))]);
            "signed"
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
        SyncMessage::Ahead { vector: more } => {
            fields.push(("vector", vector(more)));
            "ahead"
        }
        SyncMessage::Welcome { store, sessions, lacks, takes_back } => {
            fields.extend(store.map(|store| ("store", hash(store.get()))));
            fields.extend([("sessions", Value::from(*sessions)), ("lacks", wants(lacks))]);
            if !takes_back {
                fields.push(("takesBack", (*takes_back).into()));
            }
            "welcome"
        }
        SyncMessage::Heads { heads, digest } => {
            fields.extend([("heads", links(heads)), ("digest", hash(*digest))]);
            "heads"
        }
        SyncMessage::Walk { id, want, have, bytes_max } => {
            fields.extend([("id", Value::from(*id)), ("want", links(want)), ("vector", vector(have))]);
            fields.push(("bytesMax", Value::from(*bytes_max)));
            "walk"
        }
        SyncMessage::Compare { id, salt, from, count } => {
            fields.extend([("id", Value::from(*id)), ("salt", hash(*salt))]);
            fields.extend([("first", Value::from(*from)), ("count", Value::from(*count))]);
            "compare"
        }
        SyncMessage::Sketch { id, digest, entries, symbols } => {
            fields.extend([("id", Value::from(*id)), ("digest", hash(*digest))]);
            let symbols = symbols.iter().map(symbol).collect();
            fields.extend([("entries", Value::from(*entries)), ("symbols", Value::Array(symbols))]);
            "sketch"
        }
    };
    let head = [("type", kind.into()), ("from", from.as_str().into())];
    Ok(map(head.into_iter().chain(fields)))
}

pub(super) fn read_sync_message(value: &Value) -> Result<(PeerId, SyncMessage), WireError> {
    let fields = Fields::of(value)?;
    let from = PeerId::new(fields.text("from")?)?;
    let message = match fields.text("type")? {
        "digest" => SyncMessage::Digest {
            digest: fields.hash("digest")?,
            content: fields.has("content").then(|| fields.hash("content")).transpose()?,
        },
        "state" => SyncMessage::State { vector: fields.vector()?, reply: fields.bool("reply")? },
        "ahead" => SyncMessage::Ahead { vector: fields.vector()? },
        "welcome" => SyncMessage::Welcome {
            store: if fields.has("store") { StoreId::new(fields.hash("store")?) } else { None },
            sessions: fields.number("sessions")?,
            lacks: fields.wants("lacks")?,
            takes_back: !fields.has("takesBack") || fields.bool("takesBack")?,
        },
        "heads" => SyncMessage::Heads { heads: fields.links("heads")?, digest: fields.hash("digest")? },
        "walk" => SyncMessage::Walk {
            id: fields.number("id")?,
            want: fields.links("want")?,
            have: fields.vector()?,
            bytes_max: fields.number("bytesMax")?,
        },
        "compare" => SyncMessage::Compare {
            id: fields.number("id")?,
            salt: fields.hash("salt")?,
            from: fields.number("first")?,
            count: fields.number("count")?,
        },
        "sketch" => SyncMessage::Sketch {
            id: fields.number("id")?,
            digest: fields.hash("digest")?,
            entries: fields.number("entries")?,
            symbols: fields.array("symbols")?.iter().map(read_symbol).collect::<Result<_, _>>()?,
        },
        "request" => {
            let want = fields.wants("want")?;
            let (id, bytes_max) = (fields.number("id")?, fields.number("bytesMax")?);
            SyncMessage::Request { id, want, bytes_max, offers: fields.bool("offers")? }
        }
        kind @ ("patches" | "vouched") => {
            let records = fields.array("patches")?.iter().map(|record| Fields::of(record)?.record());
            let (id, records) = (fields.number("id")?, records.collect::<Result<_, _>>()?);
            match kind {
                "patches" => SyncMessage::Patches { id, records },
                _ => SyncMessage::Vouched { id, records, proof: fields.proof()? },
            }
        }
        "signed" => {
            let message = read_blob(fields.get("message", "bytes")?, "message")?;
            SyncMessage::Signed { message, proof: fields.proof()? }
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

fn page(format: EncodingFormat, records: &[PatchRecord]) -> Result<Value, EncodeError> {
    let records = records.iter().map(|record| record_fields(format, record).map(map));
    Ok(Value::Array(records.collect::<Result<_, _>>()?))
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

/// A node's hash is all of its bytes.
fn links(links: &[Link]) -> Value {
    let link = |link: &Link| {
        let digits: String = link.hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        Value::Array(vec![Value::from(link.sid.get()), Value::from(link.last), digits.into()])
    };
    Value::Array(links.iter().map(link).collect())
}

fn read_link(value: &Value) -> Result<Link, WireError> {
    let wrong = || WireError::Field { field: "links", expected: "[session, time, 64 hexadecimal digits]" };
    let Value::Array(parts) = value else { return Err(wrong()) };
    let [sid, last, Value::Text(digits)] = &parts[..] else { return Err(wrong()) };
    let sid = SessionId::new(unsigned(sid, "links")?).map_err(|_| wrong())?;
    let digits = digits.as_bytes();
    if digits.len() != 2 * NodeHash::LEN_BYTES {
        return Err(wrong());
    }
    let mut hash = [0; NodeHash::LEN_BYTES];
    for (byte, digits) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'));
        *byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(wrong)?;
    }
    match unsigned(last, "links")? {
        0 => Err(NO_TIME),
        last => Ok(Link { last, sid, hash: NodeHash(hash) }),
    }
}

fn symbol(symbol: &Symbol) -> Value {
    let count = symbol.count.unsigned_abs();
    Value::Array(vec![symbol.sid.into(), symbol.last.into(), count.into(), hash(symbol.check)])
}

fn read_symbol(value: &Value) -> Result<Symbol, WireError> {
    let wrong = || WireError::Field { field: "symbols", expected: "[sessions, times, count, check]" };
    let Value::Array(parts) = value else { return Err(wrong()) };
    let [sid, last, count, check] = &parts[..] else { return Err(wrong()) };
    let number = |value| unsigned(value, "symbols");
    let check = read_hash(check).ok_or_else(wrong)?;
    Ok(Symbol { sid: number(sid)?, last: number(last)?, count: number(count)? as i64, check })
}

fn read_hash(value: &Value) -> Option<u64> {
    let Value::Text(digits) = value else { return None };
    let digits = std::str::from_utf8(digits.as_bytes()).ok()?;
    let whole = digits.len() == 16 && !digits.starts_with('+');
    if whole { u64::from_str_radix(digits, 16).ok() } else { None }
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

fn record_fields(
    format: EncodingFormat,
    record: &PatchRecord,
) -> Result<Vec<(&'static str, Value)>, EncodeError> {
    let mut fields = vec![("prev", record.prev.into()), ("patch", patch(format, record)?)];
    if !record.proof.is_empty() {
        fields.push(("proof", blob(format, &record.proof)));
    }
    if !record.links.is_empty() {
        fields.push(("links", links(&record.links)));
    }
    Ok(fields)
}

/// The largest patch that is written as text, in bytes of its binary form; a larger one goes as those. Text takes up to 22
/// times as many bytes, so that this is the most of which all fits a [standard](spot::SubscriptionOptions::STANDARD)
/// subscription, alone or as a page. What never fits would never come, however often it is asked for.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// The patch in the form that the encoding calls for. One that holds what JSON cannot say (bytes, as in the head of every
/// counter or rich text, or a number that is none) goes as its bytes: rounded, it would be another patch to who reads it.
/// So does one that is long.
fn patch(format: EncodingFormat, record: &PatchRecord) -> Result<Value, EncodeError> {
    let verbose = match format {
        EncodingFormat::Json => true,
        EncodingFormat::Compact => false,
        _ => return Ok(Value::Bytes(record.patch.to_vec())),
    };
    if record.patch.len() > TEXT_BYTES_MAX {
        return Ok(blob(format, &record.patch));
    }
    let patch = Patch::decode(&record.patch)?;
    let to_value = || if verbose { patch.to_verbose() } else { patch.to_compact() };
    let from_value =
        |form: &Value| if verbose { Patch::from_verbose(form) } else { Patch::from_compact(form) };
    let form = patch.check_json_form().is_ok().then(to_value);
    // An operation that does nothing can be spelled in more than one way, and the text forms know only one of them.
    let same = |form: &Value| from_value(form).is_ok_and(|again| again.as_bytes() == &*record.patch);
    Ok(form.filter(same).unwrap_or_else(|| blob(format, &record.patch)))
}

fn read_patch(value: &Value) -> Result<Bytes, WireError> {
    match value {
        Value::Map(_) => Ok(Bytes::copy_from_slice(Patch::from_verbose(value)?.as_bytes())),
        Value::Array(_) => Ok(Bytes::copy_from_slice(Patch::from_compact(value)?.as_bytes())),
        other => read_blob(other, "patch"),
    }
}

fn wants(wants: &[Want]) -> Value {
    let triple = |w: &Want| Value::Array([w.sid.get(), w.after, w.upto].map(Value::from).into());
    Value::Array(wants.iter().map(triple).collect())
}

fn want(value: &Value, field: &'static str) -> Result<Want, WireError> {
    let wrong = WireError::Field { field, expected: "[session, after, upto]" };
    let Value::Array(parts) = value else { return Err(wrong) };
    let [sid, after, upto] = &parts[..] else { return Err(wrong) };
    let (sid, after, upto) = (unsigned(sid, field)?, unsigned(after, field)?, unsigned(upto, field)?);
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

    fn has(&self, field: &str) -> bool {
        self.0.iter().any(|(name, _)| name.as_bytes() == field.as_bytes())
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
        let value = self.get(field, "text")?;
        let expected = if matches!(value, Value::Text(_)) { "16 hexadecimal digits" } else { "text" };
        read_hash(value).ok_or(WireError::Field { field, expected })
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

    fn wants(&self, field: &'static str) -> Result<Vec<Want>, WireError> {
        self.array(field)?.iter().map(|value| want(value, field)).collect()
    }

    fn record(&self) -> Result<PatchRecord, WireError> {
        let patch = read_patch(self.get("patch", "a patch")?)?;
        let record = PatchRecord::new(self.number("prev")?, patch)?.with_proof(self.proof()?)?;
        match self.has("links") {
            true => Ok(record.with_links(self.links("links")?.into())?),
            false => Ok(record),
        }
    }

    fn links(&self, field: &'static str) -> Result<Vec<Link>, WireError> {
        self.array(field)?.iter().map(read_link).collect()
    }

    fn proof(&self) -> Result<Bytes, WireError> {
        let found = self.0.iter().find(|(name, _)| name.as_bytes() == b"proof");
        found.map_or(Ok(Bytes::new()), |(_, proof)| read_blob(proof, "proof"))
    }
}
