//! Messages between replicas, from anyone: read or refused, and what is read is written and read again the same.

use bytes::Bytes;
use crdt_core::EncodingFormat;
use crdt_sync::wire::{decode_patch, decode_sync, encode_patch, encode_sync};

/// Looks at any bytes. Panics where something is wrong with us.
pub(crate) fn look_at(data: &[u8]) {
    let input = Bytes::copy_from_slice(data);
    if let Ok(record) = decode_patch(&input) {
        for format in EncodingFormat::ALL {
            let again = encode_patch(format, &record).expect("what was read can be written");
            assert_eq!(decode_patch(&again).as_ref(), Ok(&record), "{format}");
        }
    }
    if let Ok((from, message)) = decode_sync(&input) {
        for format in EncodingFormat::ALL {
            let again = encode_sync(format, &from, &message).expect("what was read can be written");
            assert_eq!(decode_sync(&again).as_ref(), Ok(&(from.clone(), message.clone())), "{format}");
        }
    }
}
