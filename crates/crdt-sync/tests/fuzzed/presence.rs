//! Presence messages and signed goodbyes, from anyone: read or refused, and what is read is written back to the same bytes.

use bytes::Bytes;
use crdt_sync::presence::{Farewell, PresenceMessage};

/// Looks at any bytes. Panics where something is wrong with us.
pub(crate) fn look_at(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    if let Ok(message) = PresenceMessage::decode(&input) {
        assert_eq!(message.encode(), input);
    }
    if let Ok(farewell) = Farewell::decode(&input) {
        assert_eq!(farewell.encode(), input);
        // What is signed stands for all of it but the proof.
        assert_eq!([&farewell.signed()[..], &farewell.proof].concat(), input);
        assert!(!farewell.goodbye.here && farewell.goodbye.shown.is_empty());
    }
}
