//! The shared core of Weft: the identifiers, clocks and encodings that all crates speak.
//!
//! ```
//! use crdt_core::{SessionId, StateVector};
//!
//! let (alice, bob) = (SessionId::new(70_001).unwrap(), SessionId::new(70_002).unwrap());
//! let mut here = StateVector::new();
//! here.advance(alice, 5);
//! let mut there = StateVector::new();
//! there.advance(bob, 2);
//!
//! // What `there` has that `here` lacks is what a peer has to send.
//! assert_eq!(here.missing_from(&there).collect::<Vec<_>>(), vec![(&bob, 0, 2)]);
//! here.merge(&there);
//! assert!(here.contains(&there));
//! ```
//!
//! This crate knows no IO, no wall clock, no randomness and no threads: each is a parameter.

pub mod clock;
pub mod encoding;
pub mod id;
pub mod text;
pub mod value;

pub mod patch;

pub mod codec;

pub mod document;

pub mod model;

pub use clock::StateVector;
pub use document::{Applied, ApplyError, Document};
pub use encoding::{DecodeError, EncodeError, EncodingFormat};
pub use id::{ClientId, InvalidId, SessionId, Timespan, Timestamp};
pub use model::Model;
pub use patch::{Patch, PatchBuilder, PatchRef};
pub use text::{Text, Wtf8};
pub use value::Value;
