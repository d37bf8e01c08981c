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
pub mod patch;
pub(crate) mod shape;
pub mod wire;

pub use cbor::RawValue;
pub use document::{DocumentEncodeError, DocumentError, DocumentFormat};
pub use error::Malformed;
pub use log::{Log, LogError, LogFormat};
pub use patch::{NoJsonForm, PatchFormat};
