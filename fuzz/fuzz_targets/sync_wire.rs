//! Messages between replicas, from anyone: read or refused, and what is read is written and read again the same.
//!
//! What it does is with the ordinary tests, which replay its corpus.

#![no_main]

#[path = "../../crates/crdt-sync/tests/fuzzed/wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::look_at(data));
