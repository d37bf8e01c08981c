//! Presence messages, from anyone: read or refused, and what is read is written back to the same bytes.

#![no_main]

use bytes::Bytes;
use crdt_sync::presence::PresenceMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let input = Bytes::copy_from_slice(input);
    if let Ok(message) = PresenceMessage::decode(&input) {
        assert_eq!(message.encode(), input);
    }
});
