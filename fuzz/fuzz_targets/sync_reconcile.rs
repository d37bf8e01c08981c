//! Coded symbols of a peer: its difference comes out, or they are refused.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/crdt-sync/tests/fuzzed/reconcile.rs"]
mod reconcile;

fuzz_target!(|input: &[u8]| reconcile::look_at(input));
