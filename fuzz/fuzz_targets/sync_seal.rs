//! Sealed messages from anyone: none is opened.

#![no_main]

use crdt_sync::crypto::{Keyring, Opener, SealingKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let ring = Keyring::new(SealingKey::new(1, &[1; 32]));
    assert!(Opener::new().open(&ring, "topic", input).is_err());
});
