//! ZMTP handshakes of all mechanisms and sides, with anybody's bytes.
#![no_main]

#[path = "../../crates/spot/tests/support/hostile.rs"]
#[expect(dead_code, reason = "each target is one of its functions")]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::handshake(bytes));
