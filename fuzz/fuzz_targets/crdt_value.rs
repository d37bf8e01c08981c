//! JSON, CBOR and MessagePack: whatever is read is written and read again as the same.
#![no_main]

use crdt_core::codec::{RawValue, cbor, json, msgpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = cbor::decode(bytes) {
        let written = cbor::encode(&value);
        assert_eq!(RawValue::new(&written).unwrap().to_value(), value);
    }
    if let Ok(value) = json::decode(bytes)
        && json::is_json(&value)
    {
        assert_eq!(json::decode(json::encode(&value).as_bytes()), Ok(value));
    }
    if let Ok(value) = msgpack::decode(bytes, 128)
        && msgpack::is_msgpack(&value)
    {
        assert_eq!(msgpack::decode(&msgpack::encode(&value), 128), Ok(value));
    }
});
