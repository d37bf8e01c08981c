//! Values of the patch store in a folder: each byte string is read or refused.

#![no_main]

use crdt_sync::store::embedded::look_at;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| look_at(&input.0, &input.1));
