//! What is in the database: documents with their outbox, and events. The layout is docs/formats/mongodb.md.

use std::{collections::BTreeMap, sync::Arc};

use crdt_core::ClientId;
use mongodb::bson::{Binary, Bson, DateTime, Document as Bsons, doc, oid::ObjectId, spec::BinarySubtype};

use super::value::{self, OWN, body_of, count, escape, unescape};
use crate::{
    Body, Change, Diff, Document, DocumentId, Operation, Producer, StorageError, query::order::ByName,
};

/// One write, whatever becomes of its attempts: it is the id of the event that the write leaves.
pub(super) type WriteId = ObjectId;

/// Where a producer stands with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The last of its writes.
    pub(super) sequence: u64,
    /// The version that this write was answered with.
    pub(super) version: u64,
}

/// A document of the server, read.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) id: DocumentId,
    /// The last recorded version, that of the delete if it is deleted.
    pub(super) version: u64,
    /// The fields; `None` when there is no document, or only its tombstone.
    pub(super) body: Option<Arc<Body>>,
    pub(super) producers: BTreeMap<ClientId, Mark>,
    /// Whether marks of other producers are in the collection of marks.
    pub(super) spilled: bool,
    /// The latest time that was recorded.
    pub(super) time_ms: u64,
    /// The write that made `version`.
    pub(super) write: Option<WriteId>,
    /// What the history says that the body is.
    pub(super) digest: Option<i64>,
    /// Events that may not be in the log yet, in the order of their versions.
    pub(super) outbox: Vec<Bsons>,
    /// The document as the server has it; `None` when there is none, not even a tombstone.
    pub(super) raw: Option<Bsons>,
    /// Whether this is what the last write of this process has left, and was not read.
    pub(super) remembered: bool,
    /// Of what is remembered: the last entries of the outbox with their versions, those behind the first without a gap. All
    /// before them that are not in the log yet are in the outbox as well.
    pub(super) waiting: Vec<(u64, Bson)>,
}

impl Stored {
    /// A document that is not there at all, and whose changes, if there ever were any, end at `version`.
    pub(super) fn absent(id: DocumentId, version: u64, producers: BTreeMap<ClientId, Mark>) -> Self {
        Self {
            id,
            version,
            body: None,
            producers,
            spilled: false,
            time_ms: 0,
            write: None,
            digest: None,
            outbox: Vec::new(),
            raw: None,
            remembered: false,
            waiting: Vec::new(),
        }
    }

    /// Reads a document of the server. One that another program has written has no version yet: 0.
    pub(super) fn decode(raw: Bsons, version_field: &str) -> Result<Self, StorageError> {
        let id = id_of(raw.get("_id"))?;
        let own = raw.get_document(OWN).ok();
        let corrupt = |reason: String| StorageError::Corrupt { place: format!("document {id}"), reason };
        let own_count = |field: &str| own.and_then(|own| own.get(field)).and_then(whole).unwrap_or(0);
        let mut producers = BTreeMap::new();
        for (client, mark) in own.and_then(|own| own.get_document("producers").ok()).into_iter().flatten() {
            let mark = mark.as_document().ok_or_else(|| corrupt(format!("producer {client} has no mark")))?;
            producers.insert(client_of(&unescape(client)).map_err(corrupt)?, mark_of(mark).map_err(corrupt)?);
        }
        let entries = own.and_then(|own| own.get_array("outbox").ok()).into_iter().flatten();
        let outbox = entries.map(|entry| unpacked(entry).map_err(corrupt)).collect::<Result<_, _>>()?;
        let body = living(&raw, version_field);
        Ok(Self {
            version: own_count("version"),
            body,
            producers,
            spilled: own.is_some_and(|own| own.get_bool("spilled").unwrap_or(false)),
            time_ms: own_count("time"),
            // Without a count of its own it is no write of this store.
            write: own
                .filter(|own| own.get("version").and_then(whole).is_some())
                .and_then(|own| own.get_object_id("write").ok()),
            digest: own.and_then(|own| own.get_i64("digest").ok()),
            outbox,
            raw: Some(raw),
            remembered: false,
            waiting: Vec::new(),
            id,
        })
    }

    /// The document for the users of a storage.
    pub(super) fn document(&self) -> Option<Document> {
        let body = self.body.clone()?;
        Some(Document { id: self.id.clone(), version: self.version, body })
    }

    /// Whether the body is what the history says. If not, another program has written to the document.
    pub(super) fn is_recorded(&self, version_field: &str) -> bool {
        let Some(raw) = &self.raw else { return true };
        self.write.is_some()
            && raw.get(version_field).and_then(whole) == Some(self.version)
            && self.body.as_ref().map(|body| digest(body)) == self.digest
    }
}

/// The fields of a document, unless it is a tombstone.
fn living(raw: &Bsons, version_field: &str) -> Option<Arc<Body>> {
    let deleted = raw.get_document(OWN).is_ok_and(|own| own.contains_key("deleted"))
        && !raw.keys().any(|name| value::is_field(name, version_field));
    (!deleted).then(|| Arc::new(body_of(raw, version_field)))
}

/// The document for the users of a storage, whatever another program has made of what is the store's own.
pub(super) fn shown(raw: &Bsons, version_field: &str) -> Result<Option<Document>, StorageError> {
    let version = raw.get_document(OWN).ok().and_then(|own| own.get("version")).and_then(whole).unwrap_or(0);
    let id = id_of(raw.get("_id"))?;
    Ok(living(raw, version_field).map(|body| Document { id, version, body }))
}

/// What the history says about a body, short. FNV-1a of its JSON text with all names in order, because it is the same in every
/// release, and whatever order the application's maps have.
pub(super) fn digest(body: &Body) -> i64 {
    struct Fnv(u64);
    impl std::io::Write for Fnv {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    serde_json::to_writer(&mut hash, &ByName(body)).expect("hashing does not fail");
    hash.0 as i64
}

/// An event as it lies in an outbox: its bytes. With each write of the document a server goes through all of its outbox, and
/// takes these for one value each, where it would take events apart field by field.
pub(super) fn packed(event: &Bsons) -> Bson {
    let bytes = event.to_vec().expect("short names, texts, whole numbers and a time");
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })
}

/// The event of an entry of an outbox. One that is a document was left by a store that did not pack them.
fn unpacked(entry: &Bson) -> Result<Bsons, String> {
    match entry {
        Bson::Document(event) => Ok(event.clone()),
        Bson::Binary(packed) => Bsons::from_reader(packed.bytes.as_slice())
            .map_err(|error| format!("an event in its outbox can't be read: {error}")),
        other => Err(format!("an event in its outbox is neither bytes nor a document, but {other}")),
    }
}

/// An event as it lies in the log, but for its place and whose it is.
pub(super) fn encode_event(write: WriteId, change: &Change) -> Bsons {
    let mut event = doc! {
        "_id": write,
        "sequenceNum": count(change.version),
        "operation": operation_name(change.operation),
        "timestamp": DateTime::from_millis(count(change.timestamp_ms)),
        "clientId": change.producer.client_id.as_str(),
    };
    if let Some(sequence) = change.producer.sequence {
        event.insert("clientSeq", count(sequence));
    }
    let json = |value: serde_json::Result<String>| value.expect("strings, numbers and JSON");
    event.insert("diff", json(serde_json::to_string(&change.diff)));
    if !change.metadata.is_empty() {
        event.insert("metadata", json(serde_json::to_string(&change.metadata)));
    }
    event
}

/// How large an event may be. Less than the server takes, because the log adds its place and whose it is.
const EVENT_BYTES_MAX: usize = (16 << 20) - (16 << 10);

/// How large an event is, but for names and numbers.
pub(super) fn event_bytes(event: &Bsons) -> usize {
    ["diff", "metadata"].iter().filter_map(|field| event.get_str(field).ok()).map(str::len).sum()
}

/// An event that the log would refuse would stay in its outbox for good, and all behind it too.
pub(super) fn check_event(id: &DocumentId, event: &Bsons) -> Result<(), StorageError> {
    let bytes = event_bytes(event);
    if bytes <= EVENT_BYTES_MAX {
        return Ok(());
    }
    let reason = format!("its event of {bytes} bytes is more than the server takes, {EVENT_BYTES_MAX} bytes");
    Err(StorageError::InvalidDocument { id: id.clone(), reason })
}

/// The version that an event made.
pub(super) fn event_version(event: &Bsons) -> u64 {
    event.get("sequenceNum").and_then(whole).unwrap_or(0)
}

/// An event of the log.
pub(super) fn decode_event(event: &Bsons) -> Result<Change, StorageError> {
    let version = event_version(event);
    let name = event.get_str("documentId").unwrap_or_default();
    let corrupt = |reason: &str| StorageError::Corrupt {
        place: format!("event {name}@{version}"),
        reason: reason.into(),
    };
    let text = |field: &str| event.get_str(field).map_err(|_| corrupt(&format!("no {field}")));
    let diff: Diff = serde_json::from_str(text("diff")?).map_err(|e| corrupt(&format!("diff: {e}")))?;
    let metadata = match event.get_str("metadata") {
        Ok(metadata) => serde_json::from_str(metadata).map_err(|e| corrupt(&format!("metadata: {e}")))?,
        Err(_) => Body::new(),
    };
    Ok(Change {
        document_id: id_of(event.get("documentId"))?,
        version,
        position: event.get("position").and_then(whole).unwrap_or(0),
        operation: operation_of(text("operation")?).ok_or_else(|| corrupt("unknown operation"))?,
        diff,
        timestamp_ms: event
            .get_datetime("timestamp")
            .map_or(0, |time| u64::try_from(time.timestamp_millis()).unwrap_or(0)),
        producer: Producer {
            client_id: client_of(text("clientId")?).map_err(|e| corrupt(&e))?,
            sequence: event.get("clientSeq").and_then(whole),
        },
        metadata,
    })
}

const OPERATIONS: [(Operation, &str); 4] = [
    (Operation::Create, "create"),
    (Operation::Update, "update"),
    (Operation::UpdateSection, "update_section"),
    (Operation::Delete, "delete"),
];

fn operation_name(operation: Operation) -> &'static str {
    OPERATIONS.iter().find(|(other, _)| *other == operation).expect("all of them are there").1
}

pub(super) fn operation_of(name: &str) -> Option<Operation> {
    OPERATIONS.iter().find(|(_, other)| *other == name).map(|(operation, _)| *operation)
}

pub(super) fn encode_mark(mark: Mark) -> Bsons {
    doc! {"s": count(mark.sequence), "v": count(mark.version)}
}

pub(super) fn mark_of(mark: &Bsons) -> Result<Mark, String> {
    match (mark.get("s").and_then(whole), mark.get("v").and_then(whole)) {
        (Some(sequence), Some(version)) => Ok(Mark { sequence, version }),
        _ => Err("a producer's mark is not two counts".to_owned()),
    }
}

pub(super) fn encode_marks(marks: &BTreeMap<ClientId, Mark>) -> Bsons {
    marks
        .iter()
        .map(|(client, mark)| (escape(client.as_str()).into_owned(), encode_mark(*mark).into()))
        .collect()
}

pub(super) fn client_of(name: &str) -> Result<ClientId, String> {
    ClientId::new(name).map_err(|e| e.to_string())
}

/// The highest count that is taken: there are others behind it, and each is a double as well.
const COUNT_MAX: u64 = 1 << 53;

/// A count, however a program has written it.
pub(super) fn whole(value: &Bson) -> Option<u64> {
    let count = match value {
        Bson::Int64(whole) => u64::try_from(*whole).ok(),
        Bson::Int32(whole) => u64::try_from(*whole).ok(),
        Bson::Double(float) if *float >= 0.0 && float.fract() == 0.0 => Some(*float as u64),
        _ => None,
    };
    count.filter(|count| *count <= COUNT_MAX)
}

/// The id of a document. Those that are no text are of other programs, and none of ours.
pub(super) fn id_of(id: Option<&Bson>) -> Result<DocumentId, StorageError> {
    let foreign = |reason: String| StorageError::Corrupt { place: format!("document {id:?}"), reason };
    let name = id.and_then(Bson::as_str).ok_or_else(|| foreign("its id is no text".to_owned()))?;
    DocumentId::new(name).map_err(|e| foreign(e.to_string()))
}

/// Whether a document can be one of a storage. Other programs may give theirs ids that are no names here.
pub(super) fn is_ours(raw: &Bsons) -> bool {
    match id_of(raw.get("_id")) {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "a document that is none of ours");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_count_is_whole_and_has_another_behind_it() {
        for (value, count) in [
            (Bson::Int32(7), Some(7)),
            (Bson::Int64(1 << 53), Some(1 << 53)),
            (Bson::Double(12.0), Some(12)),
            (Bson::Double(1e30), None),
            (Bson::Double(0.5), None),
            (Bson::Int64(i64::MAX), None),
            (Bson::Int64(-1), None),
            (Bson::Double(f64::NAN), None),
        ] {
            assert_eq!(whole(&value), count, "{value}");
        }
    }

    fn change() -> Change {
        let after = json!({"gold": 2, "a.b": {"$c": 18_446_744_073_709_551_615_u64}});
        let producer = Producer { client_id: ClientId::new("a.b").unwrap(), sequence: Some(4) };
        Change {
            document_id: DocumentId::new("chess").unwrap(),
            version: 7,
            position: 9,
            operation: Operation::UpdateSection,
            diff: Diff::between(None, after.as_object(), 7),
            timestamp_ms: 1_767_225_600_000,
            producer,
            metadata: json!({"why": "quest"}).as_object().unwrap().clone(),
        }
    }

    #[test]
    fn an_event_comes_back_from_the_log() {
        let mut event = encode_event(WriteId::new(), &change());
        event.extend(doc! {"collection": "games", "documentId": "chess", "position": 9_i64});
        assert_eq!(decode_event(&event).unwrap(), change());
        for field in ["operation", "clientId", "diff"] {
            let mut damaged = event.clone();
            damaged.insert(field, "{");
            let error = decode_event(&damaged);
            assert!(field == "clientId" || matches!(error, Err(StorageError::Corrupt { .. })), "{field}");
            damaged.remove(field);
            assert!(matches!(decode_event(&damaged), Err(StorageError::Corrupt { .. })), "{field}");
        }
    }

    #[test]
    fn an_outbox_holds_events_as_bytes() {
        let write = WriteId::parse_str("0123456789abcdef01234567").unwrap();
        let producer = Producer { client_id: ClientId::new("p").unwrap(), sequence: None };
        let mut change = Change { producer, version: 1, metadata: Body::new(), ..change() };
        change.diff = Diff::between(None, Some(&Body::new()), 1);
        let event = encode_event(write, &change);
        let Bson::Binary(packed) = packed(&event) else { panic!("not bytes") };
        let hex: String = packed.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN_EVENT);
        let read = |entry: Bson| {
            let raw = doc! {"_id": "a", "_version": 1_i64, OWN: {"version": 1_i64, "outbox": [entry]}};
            Stored::decode(raw, "_version").map(|stored| stored.outbox)
        };
        assert_eq!(read(Bson::Binary(packed.clone())).unwrap(), std::slice::from_ref(&event));
        assert_eq!(read(event.clone().into()).unwrap(), [event], "as they were before they were packed");
        let cut = Binary { bytes: packed.bytes[..20].to_vec(), ..packed };
        for damaged in [Bson::Binary(cut), Bson::Null] {
            assert!(matches!(read(damaged), Err(StorageError::Corrupt { .. })));
        }
    }

    const GOLDEN_EVENT: &str = "c8000000075f6964000123456789abcdef01234567\
        1273657175656e63654e756d000100000000000000026f7065726174696f6e000f0000007570646174655f73656374696f6e00\
        0974696d657374616d700000a8da769b01000002636c69656e74496400020000007000\
        026469666600520000007b2276657273696f6e223a312c226a736f6e5061746368223a5b7b226f70223a227265706c616365222c\
        2270617468223a22222c2276616c7565223a7b7d7d5d2c226d657267655061746368223a7b7d7d0000";

    #[test]
    fn a_document_of_another_program_is_read_and_known_as_such() {
        let raw = doc! {"_id": "a", "name": "Go", "gold": 7_i32};
        let stored = Stored::decode(raw, "version").unwrap();
        assert_eq!((stored.version, stored.is_recorded("version")), (0, false));
        assert_eq!(*stored.body.unwrap(), *json!({"name": "Go", "gold": 7}).as_object().unwrap());
        assert!(Stored::decode(doc! {"_id": ObjectId::new()}, "version").is_err());
    }

    #[test]
    fn the_digest_is_the_same_in_every_release() {
        let body = json!({"a": [1, 2.5, null], "b": "é"});
        assert_eq!(digest(body.as_object().unwrap()), GOLDEN_DIGEST);
    }

    const GOLDEN_DIGEST: i64 = -1_809_740_388_302_745_669;
}
