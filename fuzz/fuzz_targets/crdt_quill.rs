//! A Quill delta: refused, or done, and the text tells a delta that makes the same text.
#![no_main]

#[path = "../../crates/crdt-core/tests/support/hostile.rs"]
#[expect(dead_code, reason = "each target is one of its functions")]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::quill(bytes));
