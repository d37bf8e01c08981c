//! ZMTP traffic, from anyone.
#![no_main]

#[path = "../../crates/spot/tests/support/hostile.rs"]
#[expect(dead_code, reason = "each target is one of its functions")]
mod hostile;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::decoder(bytes));
