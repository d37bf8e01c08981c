//! Records of the embedded store: whatever the bytes are, they are read or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nodestorage::embedded::record::{Space, check, seal};

fuzz_target!(|input: (u8, Vec<u8>, Vec<u8>)| {
    let (space, key, mut record) = input;
    let space = Space::ALL[space as usize % Space::ALL.len()];
    let _ = check(space, &key, &record);
    // A good checksum leads the fuzzer to what is behind it.
    seal(space, &key, &mut record);
    let _ = check(space, &key, &record);
});
