//! What replicas say to each other beside the patches that they broadcast.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use serde::{Deserialize, Serialize};

use crate::{PatchRecord, dag::Link, reconcile::Symbol, store::StoreId};

/// The name of a replica's node in its group: 1 to [`Self::LEN_BYTES_MAX`] bytes without control characters, and
/// without `*`, since it is part of a topic.
///
/// Unlike a [`SessionId`], which names the author of patches, it names where to send answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerId(Arc<str>);

impl PeerId {
    /// The longest name.
    pub const LEN_BYTES_MAX: usize = 64;

    /// Takes a name from outside.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidPeerId> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > Self::LEN_BYTES_MAX {
            return Err(InvalidPeerId::Length { len: name.len() });
        }
        match name.chars().find(|c| c.is_control() || *c == '*') {
            Some(character) => Err(InvalidPeerId::Character(character)),
            None => Ok(Self(name.into())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A peer id that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPeerId {
    /// Empty or too long.
    #[error("peer id of {len} bytes: 1 to {} are allowed", PeerId::LEN_BYTES_MAX)]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// With a character that it can't have.
    #[error("peer id with the character {0:?}")]
    Character(char),
}

impl TryFrom<String> for PeerId {
    type Error = InvalidPeerId;
    fn try_from(name: String) -> Result<Self, InvalidPeerId> {
        Self::new(name)
    }
}

impl From<PeerId> for String {
    fn from(id: PeerId) -> Self {
        (*id.0).to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session's patches that end after `after` and at or before `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Whose.
    pub sid: SessionId,
    /// The last time that the asker has.
    pub after: u64,
    /// The last time that it asks for.
    pub upto: u64,
}

impl Want {
    /// What is to be asked for to come from one vector to another.
    pub(crate) fn missing(from: &StateVector<SessionId>, to: &StateVector<SessionId>) -> Vec<Self> {
        from.missing_from(to).map(|(sid, after, upto)| Self { sid: *sid, after, upto }).collect()
    }
}

/// A message of the state synchronisation protocol.
///
/// The protocol is pull: whoever lacks something asks for one page at a time, and the answerer keeps no state about
/// the asker. So a replica that is years behind costs the others a page, and one that vanishes costs them nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMessage {
    /// "What I have hashes to this", to all: the idle heartbeat of anti-entropy.
    Digest {
        /// See [`digest`](crate::session::digest).
        digest: u64,
        /// Stands for the patches themselves, in which two replicas may differ that have the same times: the sum of their
        /// [`content`](crate::session::content). `None` where it is not known.
        content: Option<u64>,
    },
    /// "This is what I have", to one peer.
    State {
        /// What the sender has stored durably.
        vector: StateVector<SessionId>,
        /// Whether the receiver shall answer with its own.
        reply: bool,
    },
    /// "I have this beyond what you have", to one peer, after a comparison.
    Ahead {
        /// The sender's entries where it has more.
        vector: StateVector<SessionId>,
    },
    /// "Nothing follows these nodes here", to all or to one: the heartbeat of a group that synchronises by the DAG.
    Heads {
        /// The latest heads, at most [`LINKS_MAX`](crate::dag::LINKS_MAX).
        heads: Vec<Link>,
        /// Stands for all heads; see [`Heads::digest`](crate::dag::Heads::digest).
        digest: u64,
    },
    /// "Send me these nodes, and what they follow." The answer is a page of patches, or the offer of a snapshot.
    Walk {
        /// The asker's number for this request.
        id: u64,
        /// Where to begin.
        want: Vec<Link>,
        /// Some of what the asker has: the walk need not go there.
        have: StateVector<SessionId>,
        /// How large the page may be, in bytes.
        bytes_max: u64,
    },
    /// "Send me coded symbols of your state vector"; see [`reconcile`](crate::reconcile).
    Compare {
        /// The asker's number for this request.
        id: u64,
        /// The asker's salt for this comparison.
        salt: u64,
        /// The index of the first symbol.
        from: u64,
        /// How many.
        count: u64,
    },
    /// The answer.
    Sketch {
        /// The request's number.
        id: u64,
        /// Stands for the vector that they are of: symbols of different vectors do not go together.
        digest: u64,
        /// How many entries the vector has.
        entries: u64,
        /// The symbols.
        symbols: Vec<Symbol>,
    },
    /// "Send me a page of these."
    Request {
        /// The asker's number for this request; the answer carries it.
        id: u64,
        /// What is wanted.
        want: Vec<Want>,
        /// How large the page may be, in bytes; at least one patch comes however large it is.
        bytes_max: u64,
        /// Whether a snapshot is welcome where it is cheaper, and not only where nothing else is left.
        offers: bool,
    },
    /// The answer: patches in an order in which causes come before effects.
    Patches {
        /// The request's number.
        id: u64,
        /// The page.
        records: Vec<PatchRecord>,
    },
    /// The same with the word of a writer that these patches belong to the document: some of them are of authors who are
    /// not on its list any more, or may not write any more, and prove nothing to who lacks them.
    Vouched {
        /// The request's number.
        id: u64,
        /// The page.
        records: Vec<PatchRecord>,
        /// The writer's proof for all of the page.
        proof: Bytes,
    },
    /// What a peer says that it has, with its signature: a [`State`](Self::State), [`Digest`](Self::Digest) or
    /// [`Heads`](Self::Heads). Where patches are signed, only such a word decides about what is folded.
    Signed {
        /// That message in its binary encoding, the peer's name in it.
        message: Bytes,
        /// The proof of it.
        proof: Bytes,
    },
    /// The other answer: some of what was wanted is only left in a snapshot, or a snapshot is cheaper. It contains what
    /// all other replicas have, as far as the sender knows; if the asker said that snapshots are not welcome, all that
    /// the sender has, so that it can take the place of more of what the asker holds.
    Offer {
        /// The request's number.
        id: u64,
        /// Which snapshot.
        snapshot: SnapshotHead,
    },
    /// "Send me this part of the snapshot."
    Fetch {
        /// The asker's number for this request.
        id: u64,
        /// The snapshot's hash.
        hash: u64,
        /// From which byte.
        offset: u64,
    },
    /// The answer: a part of the snapshot; an empty one when there is no such snapshot any more.
    Part {
        /// The request's number.
        id: u64,
        /// The snapshot's hash.
        hash: u64,
        /// From which byte.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The first word of a node to a [client](crate::gateway) that has said what it has: "this is my store, and of what you
    /// have it lacks this".
    Welcome {
        /// Which store; `None` where that is not known.
        store: Option<StoreId>,
        /// Of how many sessions it holds something.
        sessions: u64,
        /// What the client said that it has, and the store has not: what it acknowledged once is gone, or it never was the
        /// client's store. The client sends it if it still has the patches; else nothing that it makes on top of them can
        /// ever be taken in here, and it begins anew.
        lacks: Vec<Want>,
        /// Whether that is taken back from the client. Where patches carry proofs or links, which clients do not keep, only
        /// the node's peers can bring it: the client gives them a while, and then begins anew.
        takes_back: bool,
    },
}

/// What a snapshot is, before its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHead {
    /// What it contains.
    pub vector: StateVector<SessionId>,
    /// Its length.
    pub len_bytes: u64,
    /// A hash of its bytes, to tell one from another. (Whether the bytes are whole, their own checksum says.)
    pub hash: u64,
    /// The signature of the peer that made it; empty where patches are not signed.
    pub proof: Bytes,
}

impl SnapshotHead {
    /// The head of a snapshot that contains `vector`.
    pub fn new(vector: StateVector<SessionId>, bytes: &[u8]) -> Self {
        // After FNV-1a, but by words: nobody but the sender makes it, and it is over all bytes of a document.
        let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        let (words, rest) = bytes.as_chunks();
        let hash =
            words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| step(hash, u64::from_le_bytes(*word)));
        let hash = rest.iter().fold(hash, |hash, byte| step(hash, u64::from(*byte)));
        Self { vector, len_bytes: bytes.len() as u64, hash, proof: Bytes::new() }
    }
}
