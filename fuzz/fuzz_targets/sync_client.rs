//! Frames of a client over its socket: each byte in front says how long the next one is. Whatever comes, the machine
//! answers it or closes, and asks the store for one thing at a time.
//!
//! What it does is with the ordinary tests, which replay its corpus.

#![no_main]

#[path = "../../crates/crdt-sync/tests/fuzzed/client.rs"]
mod client;

libfuzzer_sys::fuzz_target!(|data: &[u8]| client::look_at(data));
