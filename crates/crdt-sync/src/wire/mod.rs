//! Messages as bytes, in any of the encodings. `docs/formats/sync-wire.md` is the layout.
//!
//! A channel writes in one encoding and reads all: the first byte tells which it is, so that the replicas of a group
//! need not agree.

mod binary;
mod tree;

use bytes::Bytes;
use crdt_core::{EncodingFormat, codec::Malformed};

use crate::{InvalidPeerId, InvalidRecord, PatchRecord, PeerId, SyncMessage};

/// The first byte of a binary patch.
const TAG_PATCH: u8 = 1;
/// The first byte of a binary patch with a proof.
const TAG_PROVEN_PATCH: u8 = 3;
/// The first byte of a binary patch with links, and perhaps a proof.
const TAG_NODE: u8 = 4;
/// The first byte of a binary message of the state synchronisation protocol.
const TAG_SYNC: u8 = 2;

/// A link to the time at which nothing ends: the walk from there has no time before it to read after.
const NO_TIME: WireError = WireError::Field { field: "links", expected: "last times from 1 on" };

/// Something that can't be written in an encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The record holds no patch, which none has that was made by a [`PatchRecord`] itself.
    #[error("the record holds no patch: {0}")]
    Patch(#[from] Malformed),
    /// The encoding is not one of trees of values.
    #[error("{0} is not an encoding of trees")]
    NoTree(EncodingFormat),
}

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The encoding itself is broken.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// No encoding begins so.
    #[error("a message can't begin with byte {0:#04x}")]
    Tag(u8),
    /// There is nothing.
    #[error("an empty message")]
    Empty,
    /// A field is missing or of a wrong kind.
    #[error("{field}: expected {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// A message of another kind than the channel carries, or of none that is known.
    #[error("unknown kind of message: {0}")]
    Kind(String),
    /// A patch that is none.
    #[error(transparent)]
    Record(#[from] InvalidRecord),
    /// A name that is none.
    #[error(transparent)]
    Peer(#[from] InvalidPeerId),
}

/// Writes a patch.
pub fn encode_patch(format: EncodingFormat, record: &PatchRecord) -> Result<Bytes, EncodeError> {
    match format {
        EncodingFormat::Binary => Ok(binary::patch(record)),
        _ => tree::encode(format, &tree::patch_message(format, record)?),
    }
}

/// Reads a patch in any encoding.
pub fn decode_patch(bytes: &Bytes) -> Result<PatchRecord, WireError> {
    match first(bytes)? {
        TAG_PATCH | TAG_PROVEN_PATCH | TAG_NODE => binary::read_patch(bytes),
        _ => tree::read_patch_message(&tree::decode(bytes)?),
    }
}

/// Writes a message of the state synchronisation protocol.
pub fn encode_sync(
    format: EncodingFormat,
    from: &PeerId,
    message: &SyncMessage,
) -> Result<Bytes, EncodeError> {
    match format {
        EncodingFormat::Binary => Ok(binary::sync(from, message)),
        _ => tree::encode(format, &tree::sync_message(format, from, message)?),
    }
}

/// Reads a message of the state synchronisation protocol in any encoding, and who sent it.
pub fn decode_sync(bytes: &Bytes) -> Result<(PeerId, SyncMessage), WireError> {
    match first(bytes)? {
        TAG_SYNC => binary::read_sync(bytes),
        _ => tree::read_sync_message(&tree::decode(bytes)?),
    }
}

fn first(bytes: &Bytes) -> Result<u8, WireError> {
    bytes.first().copied().ok_or(WireError::Empty)
}
