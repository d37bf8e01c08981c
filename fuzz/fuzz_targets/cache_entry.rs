//! Entries of a cache: whatever the bytes are, they are the entry of a document or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nodestorage::{DocumentId, cache::frame};

fuzz_target!(|bytes: &[u8]| {
    let id = DocumentId::new("d").unwrap();
    if let Ok(entry) = frame::decode(&id, bytes) {
        assert_eq!(frame::decode(&id, &frame::encode(&id, &entry)).as_ref(), Ok(&entry));
    }
});
