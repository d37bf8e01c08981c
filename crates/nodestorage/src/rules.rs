//! What may be written: the rules that all backends share. They read nothing and write nothing.

use std::io;

use serde_json::Value;

use crate::{Body, DocumentId, EditOptions, StorageError, StorageOptions, document::DEPTH_MAX};

/// Where a producer's write stands among those it has made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is new and takes this sequence.
    Next(u64),
    /// It has been here before; look up what was answered to this sequence.
    Repeated(u64),
}

/// `last` is the producer's last sequence on this document, 0 for none.
pub(crate) fn turn(sequence: Option<u64>, last: u64) -> Result<Turn, StorageError> {
    match sequence {
        None => Ok(Turn::Next(last + 1)),
        Some(actual) if actual == last + 1 => Ok(Turn::Next(actual)),
        Some(actual) if (1..=last).contains(&actual) => Ok(Turn::Repeated(actual)),
        Some(actual) => Err(StorageError::SequenceGap { last, actual }),
    }
}

/// `actual` is the document's version, 0 for absent.
pub(crate) fn expect_version(
    id: &DocumentId,
    options: &EditOptions,
    actual: u64,
) -> Result<(), StorageError> {
    match options.expected_version {
        Some(expected) if expected != actual => {
            Err(StorageError::VersionMismatch { id: id.clone(), section: None, expected, actual })
        }
        _ => Ok(()),
    }
}

/// Whether a body can be stored: not too deep to be read back, not too large, and without a version of its own.
pub(crate) fn check_body(id: &DocumentId, body: &Body, options: &StorageOptions) -> Result<(), StorageError> {
    if body.contains_key(&options.version_field) {
        let reason = format!("the field {} is where the storage keeps the version", options.version_field);
        return Err(StorageError::InvalidDocument { id: id.clone(), reason });
    }
    check_size(id, body, options.document_bytes_max)
}

/// Whether metadata can be stored.
pub(crate) fn check_metadata(
    id: &DocumentId,
    metadata: &Body,
    options: &StorageOptions,
) -> Result<(), StorageError> {
    check_size(id, metadata, options.document_bytes_max)
}

/// Whether a body takes at most so many bytes as JSON.
#[cfg(feature = "mongodb")]
pub(crate) fn is_within(body: &Body, bytes_max: usize) -> bool {
    serde_json::to_writer(&mut Room { left: bytes_max }, body).is_ok()
}

/// How many bytes a value takes as JSON.
pub(crate) fn json_bytes(value: &impl serde::Serialize) -> usize {
    let mut room = Room { left: usize::MAX };
    serde_json::to_writer(&mut room, value).map_or(usize::MAX, |()| usize::MAX - room.left)
}

fn check_size(id: &DocumentId, body: &Body, bytes_max: usize) -> Result<(), StorageError> {
    let invalid = |reason| Err(StorageError::InvalidDocument { id: id.clone(), reason });
    if !body.values().all(|value| shallower_than(value, DEPTH_MAX)) {
        return invalid(format!("nested deeper than {DEPTH_MAX} levels"));
    }
    let mut room = Room { left: bytes_max };
    match serde_json::to_writer(&mut room, body) {
        Ok(()) => Ok(()),
        Err(_) => invalid(format!("larger than {bytes_max} bytes of JSON")),
    }
}

fn shallower_than(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(elements) => {
            depth > 1 && elements.iter().all(|element| shallower_than(element, depth - 1))
        }
        Value::Object(members) => {
            depth > 1 && members.values().all(|member| shallower_than(member, depth - 1))
        }
        _ => true,
    }
}

/// Counts what is written, up to its limit.
struct Room {
    left: usize,
}

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len()) {
            Some(left) => {
                self.left = left;
                Ok(bytes.len())
            }
            None => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_producer_counts_without_a_gap() {
        assert_eq!(turn(Some(1), 0).unwrap(), Turn::Next(1));
        assert_eq!(turn(Some(3), 3).unwrap(), Turn::Repeated(3));
        assert_eq!(turn(Some(1), 3).unwrap(), Turn::Repeated(1));
        assert_eq!(turn(None, 3).unwrap(), Turn::Next(4));
        for (actual, last) in [(5, 3), (0, 0), (0, 3), (u64::MAX, 3)] {
            assert!(matches!(turn(Some(actual), last), Err(StorageError::SequenceGap { .. })));
        }
    }

    #[test]
    fn a_body_at_the_limit_is_stored_and_one_beyond_is_not() {
        let id = DocumentId::new("d").unwrap();
        let Value::Object(body) = json!({"a": "é"}) else { unreachable!() };
        let up_to = |document_bytes_max| StorageOptions { document_bytes_max, ..StorageOptions::default() };
        assert!(check_body(&id, &body, &up_to(10)).is_ok());
        let error = check_body(&id, &body, &up_to(9)).unwrap_err();
        assert_eq!(error.to_string(), "invalid document d: larger than 9 bytes of JSON");
    }

    #[test]
    fn a_body_too_deep_to_read_back_is_refused() {
        let id = DocumentId::new("d").unwrap();
        let nest = |depth: usize| {
            let value = (1..depth).fold(json!([]), |inner, _| Value::Array(vec![inner]));
            check_body(&id, &Body::from_iter([("a".to_owned(), value)]), &StorageOptions::default())
        };
        assert!(nest(DEPTH_MAX - 1).is_ok());
        assert!(nest(DEPTH_MAX).is_err());
        assert!(nest(2_000).is_err());
    }
}
