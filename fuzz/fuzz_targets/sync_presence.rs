//! Presence messages and signed goodbyes, from anyone: read or refused, and what is read is written back to the same bytes.
//!
//! What it does is with the ordinary tests, which replay its corpus.

#![no_main]

#[path = "../../crates/crdt-sync/tests/fuzzed/presence.rs"]
mod presence;

libfuzzer_sys::fuzz_target!(|data: &[u8]| presence::look_at(data));
