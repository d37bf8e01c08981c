//! Snapshots of peers, with whose the sessions are and the heads of the nodes in front.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/crdt-sync/tests/fuzzed/owners.rs"]
mod owners;
#[path = "../../crates/crdt-sync/tests/fuzzed/snapshot.rs"]
mod snapshot;

fuzz_target!(|input: &[u8]| owners::look_at(&snapshot::look_at(input)));
