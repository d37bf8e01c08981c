//! Bytes and JSON, in and out. Every reader here takes bytes from anyone: it neither panics nor loops, and takes no more
//! memory than a small multiple of the input.
//!
//! Three containers (JSON, CBOR, MessagePack) read and write a [`Value`](crate::Value); the text forms of patches and
//! documents are shapes of such values. The binary forms are made of the primitives in [`wire`].

pub mod base64;
pub mod cbor;
pub mod document;
mod error;
pub mod json;
pub mod log;
pub mod msgpack;
pub mod native;
pub mod patch;
pub(crate) mod shape;
pub mod wire;

pub use cbor::RawValue;
pub use document::{DocumentEncodeError, DocumentError, DocumentFormat, Place};
pub use error::Malformed;
pub use log::{Log, LogError, LogFormat};
pub use native::{NativeError, Packing};
pub use patch::{NoJsonForm, PatchFormat};

/// For so many items at most is room made on the word of a length from outside; more room comes with the items. A list
/// can hold lists that each say they are long, and a value in memory is many times as large as in bytes.
const ROOM_MAX: usize = 64;

/// How many items to make room for on the word of `announced`: not more than `most`, which the bytes that are left can hold.
pub(crate) fn room(announced: u64, most: usize) -> usize {
    usize::try_from(announced).map_or(most, |announced| announced.min(most))
}

/// A number in digits 0 to 9 and a to z.
pub(crate) fn base36(mut n: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(n % 36) as usize]);
        n /= 36;
        if n == 0 {
            return digits.into_iter().rev().map(char::from).collect();
        }
    }
}
