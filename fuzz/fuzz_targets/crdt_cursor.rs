//! Relative positions and what sessions show: refused, or the same again from their own bytes.
#![no_main]

#[path = "../../crates/crdt-core/tests/support/hostile.rs"]
#[expect(dead_code, reason = "each target is one of its functions")]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::cursor(bytes));
