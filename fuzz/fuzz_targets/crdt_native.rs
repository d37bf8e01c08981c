//! Native snapshots: whatever is read holds together and comes back from its own bytes.
#![no_main]

use crdt_core::{
    Document, SessionId,
    codec::{Log, Packing},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // A fuzzer does not find checksums: it gets the right one.
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 10 {
        let mut check = crc32fast::Hasher::new();
        check.update(&bytes[4..6]);
        check.update(&bytes[10..]);
        bytes[6..10].copy_from_slice(&check.finalize().to_le_bytes());
    }
    let view = Document::view_native(&bytes);
    if let Ok(document) = Document::from_native(&bytes, SessionId::LOCAL) {
        document.check().unwrap();
        assert_eq!(view.unwrap(), document.view());
        let again = document.to_native(Packing::Plain);
        let back = Document::from_native(&again, SessionId::LOCAL).unwrap();
        assert_eq!(back.to_native(Packing::Plain), again);
    }
    if let Ok(log) = Log::from_native(&bytes, SessionId::LOCAL) {
        log.start().check().unwrap();
        let back = Log::from_native(&log.to_native(Packing::Plain), SessionId::LOCAL).unwrap();
        assert!(back.patches().eq(log.patches()));
    }
});
