//! Messages between replicas, from anyone: read or refused, and what is read is written and read again the same.

#![no_main]

use bytes::Bytes;
use crdt_core::EncodingFormat;
use crdt_sync::wire::{decode_patch, decode_sync, encode_patch, encode_sync};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let input = Bytes::copy_from_slice(input);
    if let Ok(record) = decode_patch(&input) {
        let again = encode_patch(EncodingFormat::Binary, &record).expect("what was read can be written");
        assert_eq!(decode_patch(&again).as_ref(), Ok(&record));
    }
    if let Ok((from, message)) = decode_sync(&input) {
        let again =
            encode_sync(EncodingFormat::Binary, &from, &message).expect("what was read can be written");
        assert_eq!(decode_sync(&again), Ok((from, message)));
    }
});
