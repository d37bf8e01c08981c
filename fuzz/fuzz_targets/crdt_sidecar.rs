//! The sidecar and the indexed form, cut out of the input at the places that its first bytes tell.
#![no_main]

#[path = "../../crates/crdt-core/tests/support/hostile.rs"]
#[expect(dead_code, reason = "each target is one of its functions")]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::sidecar(bytes));
