//! What rules have tracked, in front of a peer's snapshot: refused or taken, and what was taken is written and read again
//! the same.
//!
//! What it does is with the ordinary tests, which replay its corpus.

#![no_main]

#[path = "../../crates/crdt-sync/tests/fuzzed/section.rs"]
mod section;

libfuzzer_sys::fuzz_target!(|data: &[u8]| section::look_at(data));
