//! What a server does all day: bytes of anyone, own edits, undo, failed transactions and compaction, one after the other.
//! Who watches has the same document as who does not.
#![no_main]

#[path = "../../crates/crdt-core/tests/support/hostile.rs"]
#[expect(dead_code, reason = "each target is one of its functions")]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::model(bytes));
