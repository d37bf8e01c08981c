//! The bytes of the store: keys, records and their checksums. `docs/formats/embedded-store.md` draws them.
//!
//! A record ends in a checksum over its space, its key and its contents, so that a record that was damaged, or that
//! turned up under another key, is never taken for a good one.

mod index;
mod reader;

use crdt_core::{ClientId, EncodingFormat};
use serde_json::Value;

pub use self::index::{IndexEntry, IndexRecord, IndexStage};
use self::reader::Reader;
use crate::{Body, Change, Diff, DocumentId, Operation, Producer};

/// The version of the format that this code writes, and the newest that it reads. Version 1 had no indexes; a store of
/// it is read, and is of version 2 from the first write on.
pub const FORMAT_VERSION: u8 = 2;

/// The parts of a store. Each is a keyspace of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// The state of the store and the numbers of its collections.
    Meta = 0,
    /// Each document as it is now.
    Documents = 1,
    /// The recorded changes of each document, by version.
    Changes = 2,
    /// Which change stands at which position.
    Log = 3,
    /// What each producer's write was answered.
    Answers = 4,
    /// The entries of indexes.
    Indexes = 5,
}

impl Space {
    /// All spaces, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Meta, Self::Documents, Self::Changes, Self::Log, Self::Answers, Self::Indexes];

    /// The name of the keyspace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Documents => "documents",
            Self::Changes => "changes",
            Self::Log => "log",
            Self::Answers => "answers",
            Self::Indexes => "indexes",
        }
    }
}

/// A record that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It ends too early.
    #[error("{what} is cut off after {len} bytes")]
    CutOff {
        /// What was being read.
        what: &'static str,
        /// How many bytes there were.
        len: usize,
    },
    /// Its checksum does not match its contents.
    #[error("checksum is {actual:08x}, the record says {expected:08x}")]
    Checksum {
        /// What the record says.
        expected: u32,
        /// What its contents give.
        actual: u32,
    },
    /// A part of it has a value that is never written.
    #[error("{what} is invalid: {reason}")]
    Invalid {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It was written by a later version of this library.
    #[error("format version {0} is newer than {FORMAT_VERSION}, the newest that this version reads")]
    Newer(u8),
}

fn checksum(space: Space, key: &[u8], contents: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[space as u8]);
    crc.update(&(key.len() as u32).to_le_bytes());
    crc.update(key);
    crc.update(contents);
    crc.finalize()
}

/// Completes a record.
pub fn seal(space: Space, key: &[u8], record: &mut Vec<u8>) {
    let checksum = checksum(space, key, record);
    record.extend(checksum.to_le_bytes());
}

/// The contents of a record, if they are what was written under this key.
pub fn unseal<'r>(space: Space, key: &[u8], record: &'r [u8]) -> Result<&'r [u8], RecordError> {
    let Some((contents, expected)) = record.split_last_chunk::<4>() else {
        return Err(RecordError::CutOff { what: "record", len: record.len() });
    };
    let (expected, actual) = (u32::from_le_bytes(*expected), checksum(space, key, contents));
    if expected == actual { Ok(contents) } else { Err(RecordError::Checksum { expected, actual }) }
}

/// A document's name within the store; also the key of its record, and the start of the keys of all that belongs to
/// it. As an id has no control characters, the closing zero keeps the order of ids and keeps names apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey(Vec<u8>);

impl DocumentKey {
    /// The key of a document of a collection.
    pub fn new(collection: u32, id: &DocumentId) -> Self {
        let mut key = Vec::with_capacity(5 + id.as_str().len());
        key.extend(collection.to_be_bytes());
        key.extend(id.as_str().as_bytes());
        key.push(0);
        Self(key)
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key of the change that made a version.
    pub fn change(&self, version: u64) -> Vec<u8> {
        [&self.0[..], &version.to_be_bytes()].concat()
    }

    /// What the keys of a producer's answers start with.
    pub fn answers(&self, client: &ClientId) -> Vec<u8> {
        [&self.0[..], client.as_str().as_bytes(), &[0]].concat()
    }

    /// Takes a key apart: collection, id, and what follows.
    pub fn split(key: &[u8]) -> Result<(u32, DocumentId, &[u8]), RecordError> {
        let mut rest = Reader { what: "document key", bytes: key };
        let collection = u32::from_be_bytes(rest.array()?);
        let id = rest.until_zero()?;
        let id = DocumentId::new(id).map_err(|e| invalid("document id", e))?;
        Ok((collection, id, rest.bytes))
    }
}

/// The state of the store: one record, rewritten with every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// How many batches were written.
    pub batch: u64,
    /// The last position.
    pub position: u64,
    /// The positions up to here have been compacted away.
    pub floor: u64,
    /// The time of the latest change.
    pub timestamp_ms: u64,
}

impl State {
    /// Its key.
    pub const KEY: &'static [u8] = b"state";

    /// Its contents.
    pub fn encode(self) -> Vec<u8> {
        let mut record = vec![FORMAT_VERSION];
        for number in [self.batch, self.position, self.floor, self.timestamp_ms] {
            record.extend(number.to_le_bytes());
        }
        record
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(contents: &[u8]) -> Result<Self, RecordError> {
        let mut rest = Reader { what: "state", bytes: contents };
        match rest.byte()? {
            1..=FORMAT_VERSION => {}
            0 => return Err(invalid("format version", 0)),
            newer => return Err(RecordError::Newer(newer)),
        }
        let state = Self {
            batch: rest.number()?,
            position: rest.number()?,
            floor: rest.number()?,
            timestamp_ms: rest.number()?,
        };
        rest.end()?;
        Ok(state)
    }
}

/// A collection: its number, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectionRecord {
    /// The start of the keys of its documents.
    pub number: u32,
    /// Whether its changes are recorded: those of all but some collections of an earlier release.
    pub recorded: bool,
}

impl CollectionRecord {
    /// The key of a collection's record.
    pub fn key(name: &str) -> Vec<u8> {
        [Self::PREFIX, name.as_bytes()].concat()
    }

    /// What the keys start with.
    pub const PREFIX: &'static [u8] = b"collection/";

    /// Its contents.
    pub fn encode(self) -> Vec<u8> {
        let mut record = self.number.to_le_bytes().to_vec();
        record.push(self.recorded.into());
        record
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(contents: &[u8]) -> Result<Self, RecordError> {
        let mut rest = Reader { what: "collection", bytes: contents };
        let number = u32::from_le_bytes(rest.array()?);
        let recorded = rest.flag("collection's recording")?;
        rest.end()?;
        Ok(Self { number, recorded })
    }
}

/// A document as it is now, or what remains of a deleted one: its version.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The version of the last change.
    pub version: u64,
    /// `None` for a deleted document.
    pub body: Option<Body>,
}

impl Head {
    /// Its contents.
    pub fn encode(version: u64, body: Option<&Body>) -> Vec<u8> {
        let mut record = version.to_le_bytes().to_vec();
        if let Some(body) = body {
            record.extend(pack(body));
        }
        record
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(contents: &[u8]) -> Result<Self, RecordError> {
        let mut rest = Reader { what: "document", bytes: contents };
        let version = rest.number()?;
        let body = if rest.bytes.is_empty() { None } else { Some(rest.unpack()?) };
        Ok(Self { version, body })
    }

    /// The version alone, without reading the body.
    pub fn version(contents: &[u8]) -> Result<u64, RecordError> {
        Reader { what: "document", bytes: contents }.number()
    }

    /// Whether it is that of a deleted document, without reading the body.
    pub fn is_deleted(contents: &[u8]) -> Result<bool, RecordError> {
        let mut rest = Reader { what: "document", bytes: contents };
        rest.number()?;
        Ok(rest.bytes.is_empty())
    }
}

/// The contents of a change's record. The position and the time are not known before the change has its place in the
/// queue; [`place`](Self::place) writes them then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRecord(Vec<u8>);

impl ChangeRecord {
    /// Writes down a change. Of a creation only the body is kept and of a deletion nothing, as their diffs follow.
    pub fn encode(
        operation: Operation,
        producer: &Producer,
        diff: &Diff,
        after: Option<&Body>,
        metadata: &Body,
    ) -> Self {
        let mut record = vec![0; 16];
        record.push(match operation {
            Operation::Create => 0,
            Operation::Update => 1,
            Operation::UpdateSection => 2,
            Operation::Delete => 3,
        });
        record.extend(producer.sequence.unwrap_or(0).to_le_bytes());
        record.extend(producer.client_id.as_str().as_bytes());
        record.push(0);
        record.extend(match (operation, after) {
            (Operation::Create, Some(body)) => pack(&(body, metadata)),
            (Operation::Delete, _) => pack(metadata),
            // A list of none or one, as `null` is a patch.
            _ => pack(&(&diff.json_patch, Vec::from_iter(&diff.merge_patch), metadata)),
        });
        Self(record)
    }

    /// Gives the change its place.
    pub fn place(mut self, position: u64, timestamp_ms: u64) -> Vec<u8> {
        self.0[..8].copy_from_slice(&position.to_le_bytes());
        self.0[8..16].copy_from_slice(&timestamp_ms.to_le_bytes());
        self.0
    }

    /// The size of the record.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }

    /// The position alone.
    pub fn position(contents: &[u8]) -> Result<u64, RecordError> {
        Reader { what: "change", bytes: contents }.number()
    }

    /// Reads what [`encode`](Self::encode) and [`place`](Self::place) wrote.
    pub fn decode(document_id: DocumentId, version: u64, contents: &[u8]) -> Result<Change, RecordError> {
        let mut rest = Reader { what: "change", bytes: contents };
        let (position, timestamp_ms) = (rest.number()?, rest.number()?);
        let operation = match rest.byte()? {
            0 => Operation::Create,
            1 => Operation::Update,
            2 => Operation::UpdateSection,
            3 => Operation::Delete,
            other => return Err(invalid("operation", other)),
        };
        let sequence = Some(rest.number()?).filter(|&sequence| sequence > 0);
        let client_id = ClientId::new(rest.until_zero()?).map_err(|e| invalid("client id", e))?;
        let (diff, metadata) = match operation {
            Operation::Create => {
                let (body, metadata): (Body, Body) = rest.unpack()?;
                (Diff::between(None, Some(&body), version), metadata)
            }
            Operation::Delete => (Diff::between(Some(&Body::new()), None, version), rest.unpack()?),
            Operation::Update | Operation::UpdateSection => {
                let (json_patch, merge_patch, metadata): (_, Vec<Value>, _) = rest.unpack()?;
                (Diff { version, json_patch, merge_patch: merge_patch.into_iter().next() }, metadata)
            }
        };
        let producer = Producer { client_id, sequence };
        Ok(Change { document_id, version, position, operation, diff, timestamp_ms, producer, metadata })
    }
}

/// Which change stands at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The collection of its document.
    pub collection: u32,
    /// The document.
    pub id: DocumentId,
    /// The version that it made.
    pub version: u64,
    /// Whether the change has been compacted away.
    pub removed: bool,
}

impl LogRecord {
    /// Its contents.
    pub fn encode(&self) -> Vec<u8> {
        let mut record = vec![self.removed.into()];
        record.extend(self.version.to_le_bytes());
        record.extend(self.collection.to_be_bytes());
        record.extend(self.id.as_str().as_bytes());
        record
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(contents: &[u8]) -> Result<Self, RecordError> {
        let mut rest = Reader { what: "log entry", bytes: contents };
        let removed = rest.flag("removal")?;
        let version = rest.number()?;
        let collection = u32::from_be_bytes(rest.array()?);
        let id = text("document id", rest.bytes)?;
        let id = DocumentId::new(id).map_err(|e| invalid("document id", e))?;
        Ok(Self { collection, id, version, removed })
    }
}

/// Reads the number that a key ends with: a version, a position or a sequence.
pub fn trailing_number(key: &[u8]) -> Result<u64, RecordError> {
    match key.last_chunk() {
        Some(number) => Ok(u64::from_be_bytes(*number)),
        None => Err(RecordError::CutOff { what: "key", len: key.len() }),
    }
}

/// Reads what follows the document in the key of an answer: whose it is.
pub fn client_of_answer(rest: &[u8]) -> Result<ClientId, RecordError> {
    let client = Reader { what: "client id", bytes: rest }.until_zero()?;
    ClientId::new(client).map_err(|e| invalid("client id", e))
}

/// Reads the contents of an answer: the version.
pub fn answer(contents: &[u8]) -> Result<u64, RecordError> {
    let mut rest = Reader { what: "answer", bytes: contents };
    let version = rest.number()?;
    rest.end()?;
    Ok(version)
}

/// Reads a record as far as its space tells, whatever the bytes are. Used to look into a store, and by the fuzzer.
pub fn check(space: Space, key: &[u8], record: &[u8]) -> Result<(), RecordError> {
    let contents = unseal(space, key, record)?;
    match space {
        Space::Meta if key == State::KEY => State::decode(contents).map(drop),
        Space::Meta if key.starts_with(IndexRecord::PREFIX) => {
            IndexRecord::split(IndexRecord::PREFIX, key)?;
            IndexRecord::decode(contents).map(drop)
        }
        Space::Meta if key.starts_with(IndexRecord::SEVERAL) => {
            IndexRecord::split(IndexRecord::SEVERAL, key).map(drop)
        }
        Space::Meta => CollectionRecord::decode(contents).map(drop),
        Space::Documents => {
            DocumentKey::split(key)?;
            Head::decode(contents).map(drop)
        }
        Space::Changes => {
            let (_, id, _) = DocumentKey::split(key)?;
            ChangeRecord::decode(id, trailing_number(key)?, contents).map(drop)
        }
        Space::Log => LogRecord::decode(contents).map(drop),
        Space::Answers => answer(contents).map(drop),
        Space::Indexes => IndexEntry::decode(key, contents).map(drop),
    }
}

fn pack<T: serde::Serialize>(value: &T) -> Vec<u8> {
    EncodingFormat::MessagePack.encode(value).expect("JSON values have a MessagePack form")
}

fn invalid(what: &'static str, reason: impl ToString) -> RecordError {
    RecordError::Invalid { what, reason: reason.to_string() }
}

fn text<'b>(what: &'static str, bytes: &'b [u8]) -> Result<&'b str, RecordError> {
    str::from_utf8(bytes).map_err(|e| invalid(what, e))
}

#[cfg(test)]
mod tests;
