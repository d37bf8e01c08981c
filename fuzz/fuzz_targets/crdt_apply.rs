//! Patches one after the other, each with its length before it, into one document: it stays sound, and its snapshot is
//! read and written again.
#![no_main]

#[path = "../../crates/crdt-core/tests/support/hostile.rs"]
#[expect(dead_code, reason = "each target is one of its functions")]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::apply(bytes));
