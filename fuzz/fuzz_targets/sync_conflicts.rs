//! Patches of strangers, looked at for conflicts: each byte in front says how long the next one is. Whatever they claim to
//! have seen and to write, nothing panics, and no more is remembered than the bounds say.
//!
//! What it does is with the ordinary tests, which replay its corpus.

#![no_main]

#[path = "../../crates/crdt-sync/tests/fuzzed/conflicts.rs"]
mod conflicts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| conflicts::look_at(data));
