//! The bytes of an entry in a cache outside of this process. `docs/formats/cache-entry.md` draws them.
//!
//! One MessagePack array of four. The first two, name of the format and version, have a fixed length, so that the cache
//! server can compare versions without reading the rest.

use std::sync::Arc;

use crdt_core::EncodingFormat;

use super::Cached;
use crate::{Body, DocumentId};

/// What every entry begins with: an array of four, the first of which is the name of the format.
pub const MAGIC: [u8; 14] = *b"\x94\xacweft-cache-1";
/// Where the version's eight bytes start, big-endian, behind their tag.
pub const VERSION_AT: usize = MAGIC.len() + 1;
const CHECKSUM_AT: usize = VERSION_AT + 8;
const CONTENTS_AT: usize = CHECKSUM_AT + 5;

const TAG_U64: u8 = 0xcf;
const TAG_U32: u8 = 0xce;
const ABSENT: u8 = 0xc0;
const CHANGED: u8 = 0xc2;

/// Bytes that are no entry of a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a cache entry of {id}: {reason}")]
pub struct InvalidEntry {
    /// The document.
    pub id: DocumentId,
    /// What is wrong.
    pub reason: String,
}

/// Writes an entry.
pub fn encode(id: &DocumentId, entry: &Cached) -> Vec<u8> {
    let contents = match entry {
        Cached::Document { body, .. } => {
            EncodingFormat::MessagePack.encode(&**body).expect("JSON values have a MessagePack form")
        }
        Cached::Absent { .. } => vec![ABSENT],
        Cached::Changed { .. } => vec![CHANGED],
    };
    let version = entry.version();
    let mut bytes = Vec::with_capacity(CONTENTS_AT + contents.len());
    bytes.extend(MAGIC);
    bytes.push(TAG_U64);
    bytes.extend(version.to_be_bytes());
    bytes.push(TAG_U32);
    bytes.extend(checksum(id, version, &contents).to_be_bytes());
    bytes.extend(contents);
    bytes
}

/// Reads an entry. Whatever the bytes are, they are the entry of this document or refused.
pub fn decode(id: &DocumentId, bytes: &[u8]) -> Result<Cached, InvalidEntry> {
    let invalid = |reason: &str| InvalidEntry { id: id.clone(), reason: reason.to_owned() };
    let (Some(head), Some(contents)) = (bytes.get(..CONTENTS_AT), bytes.get(CONTENTS_AT..)) else {
        return Err(invalid(&format!("{} bytes are too few", bytes.len())));
    };
    if head[..MAGIC.len()] != MAGIC || head[VERSION_AT - 1] != TAG_U64 || head[CHECKSUM_AT] != TAG_U32 {
        return Err(invalid("it has another format"));
    }
    let (version, rest) = head[VERSION_AT..].split_first_chunk().expect("the head has its length");
    let version = u64::from_be_bytes(*version);
    if rest[1..] != checksum(id, version, contents).to_be_bytes() {
        return Err(invalid("its checksum does not match"));
    }
    match contents {
        [ABSENT] => Ok(Cached::Absent { version }),
        [CHANGED] => Ok(Cached::Changed { version }),
        contents => match EncodingFormat::MessagePack.decode::<Body>(contents) {
            Ok(body) => Ok(Cached::Document { version, body: Arc::new(body) }),
            Err(error) => Err(invalid(&error.to_string())),
        },
    }
}

fn checksum(id: &DocumentId, version: u64, contents: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(id.as_str().len() as u32).to_be_bytes());
    crc.update(id.as_str().as_bytes());
    crc.update(&version.to_be_bytes());
    crc.update(contents);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn id() -> DocumentId {
        DocumentId::new("d").unwrap()
    }

    fn document(value: Value) -> Cached {
        let Value::Object(body) = value else { panic!("{value} is not an object") };
        Cached::Document { version: 7, body: Arc::new(body) }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn entries_have_the_bytes_that_the_format_says() {
        let head = "94ac776566742d63616368652d31cf0000000000000007ce";
        assert_eq!(
            hex(&encode(&id(), &document(json!({"gold": 2})))),
            format!("{head}252f9baa81a4676f6c6402")
        );
        assert_eq!(hex(&encode(&id(), &Cached::Absent { version: 7 })), format!("{head}1c1c567ac0"));
        assert_eq!(hex(&encode(&id(), &Cached::Changed { version: 7 })), format!("{head}f2123756c2"));
    }

    #[test]
    fn an_entry_is_one_array_of_messagepack() {
        let bytes = encode(&id(), &document(json!({"gold": 2})));
        let array: Value = EncodingFormat::MessagePack.decode(&bytes).unwrap();
        assert_eq!(
            (&array[0], &array[1], &array[3]),
            (&json!("weft-cache-1"), &json!(7), &json!({"gold": 2}))
        );
    }

    #[test]
    fn an_entry_of_another_document_is_refused() {
        let bytes = encode(&id(), &document(json!({"gold": 2})));
        let other = DocumentId::new("e").unwrap();
        assert_eq!(
            decode(&other, &bytes).unwrap_err().to_string(),
            "not a cache entry of e: its checksum does not match"
        );
        assert_eq!(decode(&id(), &bytes).unwrap(), document(json!({"gold": 2})));
    }

    fn entries() -> impl Strategy<Value = Cached> {
        let body = prop::collection::btree_map("[abc]", crate::diff::tests::values(), 0..4);
        prop_oneof![
            4 => (any::<u64>(), body).prop_map(|(version, body)| Cached::Document {
                version,
                body: Arc::new(body.into_iter().collect()),
            }),
            1 => any::<u64>().prop_map(|version| Cached::Absent { version }),
            1 => any::<u64>().prop_map(|version| Cached::Changed { version }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entry in entries()) {
            prop_assert_eq!(decode(&id(), &encode(&id(), &entry)).unwrap(), entry);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes: Vec<u8>) {
            let _ = decode(&id(), &bytes);
        }

        #[test]
        fn a_changed_byte_is_noticed(entry in entries(), place: prop::sample::Index, other in 1u8..) {
            let mut bytes = encode(&id(), &entry);
            let place = place.index(bytes.len());
            bytes[place] ^= other;
            prop_assert!(decode(&id(), &bytes).is_err());
        }
    }
}
