//! Every replica of a CRDT document gets every patch, whatever the network does.
//!
//! This crate knows no HTTP and no event documents.

pub mod message;
pub mod record;
pub mod session;
pub mod store;

pub use message::{InvalidPeerId, PeerId, SnapshotHead, SyncMessage, Want};
pub use record::{InvalidRecord, PatchRecord};
