//! Relative positions and what sessions show: refused, or the same again from their own bytes.
#![no_main]

use crdt_core::{Document, SessionId, model::RelativePosition, presence::Shown};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(position) = RelativePosition::decode(bytes) {
        assert_eq!(position.encode(), bytes_of(&position));
        assert!(position.resolve(&Document::new(SessionId::USER_MIN)).is_none());
    }
    if let Ok(shown) = Shown::decode(bytes) {
        assert!(Shown::decode(&shown.encode()).unwrap() == shown);
    }
});

fn bytes_of(position: &RelativePosition) -> Vec<u8> {
    RelativePosition::decode(&position.encode()).unwrap().encode()
}
