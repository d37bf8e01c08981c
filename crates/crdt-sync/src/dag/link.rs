//! Names of nodes by their content.

use std::fmt;

use crdt_core::SessionId;
use sha2::{Digest as _, Sha256};

use crate::PatchRecord;

/// What is hashed begins so, so that no other bytes can be taken for a node.
const NODE_CONTEXT: &[u8] = b"weft node v1";

/// The SHA-256 of a node: its patch, its envelope and the hashes of its parents, and through them of all that came
/// before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeHash(pub [u8; NodeHash::LEN_BYTES]);

impl NodeHash {
    /// Its length.
    pub const LEN_BYTES: usize = 32;

    /// The hash of a patch as a node.
    pub fn of(record: &PatchRecord) -> Self {
        let mut hash = Sha256::new();
        hash.update(NODE_CONTEXT);
        for number in [record.id.sid.get(), record.id.time, record.span, record.prev] {
            hash.update(number.to_be_bytes());
        }
        hash.update((record.links.len() as u64).to_be_bytes());
        for link in &record.links {
            hash.update(link.sid.get().to_be_bytes());
            hash.update(link.last.to_be_bytes());
            hash.update(link.hash.0);
        }
        hash.update((record.proof.len() as u64).to_be_bytes());
        hash.update(&record.proof);
        hash.update(&record.patch);
        Self(hash.finalize().into())
    }

    /// The first 8 bytes, where a few bits are enough.
    pub(crate) fn short(&self) -> u64 {
        self.0.iter().take(8).fold(0, |short, byte| short << 8 | u64::from(*byte))
    }
}

impl fmt::Debug for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}…", self.short())
    }
}

/// Points at a node: by its hash, and by its place among the patches of its session.
///
/// The hash alone would do. The place says without a look-up whether the node has been taken in, also when it is only
/// left in a snapshot, and where a store finds it; the hash makes sure that it is that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// The last time that its patch takes. (First in the order, so that causes come before effects.)
    pub last: u64,
    /// Its session.
    pub sid: SessionId,
    /// Its hash.
    pub hash: NodeHash,
}

impl Link {
    /// Points at a node.
    pub fn to(record: &PatchRecord) -> Self {
        Self { last: record.last(), sid: record.session(), hash: NodeHash::of(record) }
    }
}
