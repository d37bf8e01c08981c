//! A patch in its envelope: what stores keep and channels carry.

use std::{
    cmp::Reverse,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use bytes::Bytes;
use crdt_core::{Patch, PatchRef, SessionId, StateVector, Timespan, Timestamp, codec::Malformed, id::MAX_ID};
use smallvec::SmallVec;

use crate::dag::{LINKS_MAX, Link};

/// A patch in its envelope. Clones share it, so that the session, the store and the channels hold one; who changes one
/// that is shared gets a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchRecord(Arc<Envelope>);

/// A patch with what a receiver must know to apply it neither too early nor twice.
///
/// json-joy's patches carry no list of their causes, and the times of a session have gaps by nature, so that a hole
/// can't be seen from times alone. The envelope closes both: `prev` says where the session's previous patch ended, and
/// `needs` names what the patch refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The id of the patch: its session, and the time of its first operation.
    pub id: Timestamp,
    /// How many ticks it takes.
    pub span: u64,
    /// The last time of the session's previous patch; 0 for its first.
    pub prev: u64,
    /// The last id of each other session that the patch names, reserved ones included. They are read from the patch and are
    /// not on the wire.
    pub needs: Needs,
    /// The patch in json-joy's binary encoding.
    pub patch: Bytes,
    /// Its author's signature; empty where patches are not signed. What it is, the `crypto` module says.
    pub proof: Bytes,
    /// The nodes that it follows, in their order, where a group synchronises by the [DAG](crate::dag); else empty.
    pub links: Box<[Link]>,
}

/// The ids that a patch names. Two are in the record itself: what people type names who made the text, and who wrote what
/// it follows.
pub type Needs = SmallVec<[Timestamp; 2]>;

/// A record that no replica can have made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// It takes no time at all.
    #[error("patch {id} spans no ticks")]
    Empty {
        /// Its id.
        id: Timestamp,
    },
    /// It starts before its session's previous patch ended.
    #[error("patch {id} starts at or before {prev}, where its session's previous patch ended")]
    Order {
        /// Its id.
        id: Timestamp,
        /// The end that it names.
        prev: u64,
    },
    /// Its last time is above the largest that there is.
    #[error("patch {id} of {span} ticks ends above {MAX_ID}")]
    Time {
        /// Its id.
        id: Timestamp,
        /// Its ticks.
        span: u64,
    },
    /// It names something that is not older than itself.
    #[error("patch {id} names {needed}, which is not older")]
    Cause {
        /// Its id.
        id: Timestamp,
        /// What it names.
        needed: Timestamp,
    },
    /// It is larger than patches from outside may be.
    #[error("patch of {len_bytes} bytes: at most {} are taken", PatchRecord::PATCH_BYTES_MAX)]
    TooLarge {
        /// Its length.
        len_bytes: usize,
    },
    /// Its proof is larger than any is.
    #[error("proof of {len_bytes} bytes: at most {} are taken", PatchRecord::PROOF_BYTES_MAX)]
    Proof {
        /// Its length.
        len_bytes: usize,
    },
    /// Its links are too many, out of order, or to something that is not older than itself.
    #[error(
        "patch {id} with {count} links: at most {LINKS_MAX} in rising order, to older patches, are taken"
    )]
    Links {
        /// Its id.
        id: Timestamp,
        /// How many links.
        count: usize,
    },
    /// Its bytes are no patch.
    #[error("not a patch: {0}")]
    Patch(#[source] Malformed),
}

impl From<Envelope> for PatchRecord {
    fn from(envelope: Envelope) -> Self {
        Self(Arc::new(envelope))
    }
}

impl Deref for PatchRecord {
    type Target = Envelope;

    fn deref(&self) -> &Envelope {
        &self.0
    }
}

impl DerefMut for PatchRecord {
    fn deref_mut(&mut self) -> &mut Envelope {
        Arc::make_mut(&mut self.0)
    }
}

impl PatchRecord {
    /// The largest patch that is taken from outside: 4 MiB.
    pub const PATCH_BYTES_MAX: usize = 4 << 20;
    /// The largest proof.
    pub const PROOF_BYTES_MAX: usize = 256;

    /// Puts a patch in its envelope. `prev` is the last time of the session's previous patch.
    pub fn new(prev: u64, patch: Bytes) -> Result<Self, InvalidRecord> {
        Self::build(patch, |_| Some(prev))
    }

    /// The same with its author's signature.
    pub fn with_proof(mut self, proof: Bytes) -> Result<Self, InvalidRecord> {
        if proof.len() > Self::PROOF_BYTES_MAX {
            return Err(InvalidRecord::Proof { len_bytes: proof.len() });
        }
        self.proof = proof;
        Ok(self)
    }

    /// The same as a node that follows others.
    pub fn with_links(mut self, links: Box<[Link]>) -> Result<Self, InvalidRecord> {
        self.links = links;
        self.check_links().map(|()| self)
    }

    /// Puts a patch in its envelope. `gap` is how far its first time is above the last of the session's previous patch.
    pub(crate) fn with_gap(gap: u64, patch: Bytes) -> Result<Self, InvalidRecord> {
        Self::build(patch, |time| time.checked_sub(gap))
    }

    fn build(patch: Bytes, prev: impl FnOnce(u64) -> Option<u64>) -> Result<Self, InvalidRecord> {
        if patch.len() > Self::PATCH_BYTES_MAX {
            return Err(InvalidRecord::TooLarge { len_bytes: patch.len() });
        }
        let not_a_patch = InvalidRecord::Patch;
        // A patch in an unusual spelling is kept in the usual one, so that equal patches are equal bytes everywhere.
        let ((id, span, needs), patch) = match facts(&patch) {
            Ok(facts) => (facts, patch),
            Err(Malformed::NotCanonical) => {
                let usual = Patch::decode(&patch).map_err(not_a_patch)?;
                (facts(usual.as_bytes()).map_err(not_a_patch)?, Bytes::copy_from_slice(usual.as_bytes()))
            }
            Err(error) => return Err(not_a_patch(error)),
        };
        let prev = prev(id.time).ok_or(InvalidRecord::Order { id, prev: 0 })?;
        check(id, span, prev, &needs)?;
        let (proof, links) = (Bytes::new(), Box::default());
        Ok(Self(Arc::new(Envelope { id, span, prev, needs, patch, proof, links })))
    }
}

/// What the envelope says of a patch: its id, how many ticks it takes, and what it names.
pub(crate) fn facts(patch: &[u8]) -> Result<(Timestamp, u64, Needs), Malformed> {
    let mut needs = Needs::new();
    let read = PatchRef::decode_naming(patch, |Timespan { start, span }| {
        let last = start.time + span - 1;
        // Patches name few sessions, mostly the same one again.
        match needs.last_mut().filter(|need| need.sid == start.sid) {
            Some(need) => need.time = need.time.max(last),
            None => needs.push(Timestamp::new(start.sid, last)),
        }
    })?;
    if needs.len() > 1 {
        needs.sort_unstable_by_key(|need| (need.sid, Reverse(need.time)));
        needs.dedup_by_key(|need| need.sid);
    }
    Ok((read.id(), read.span(), needs))
}

/// Whether every replica makes a session's contents itself, so that nobody sends them.
pub(crate) fn is_reserved(sid: SessionId) -> bool {
    sid < SessionId::RESERVED_END
}

fn check(id: Timestamp, span: u64, prev: u64, needs: &[Timestamp]) -> Result<(), InvalidRecord> {
    if span == 0 {
        return Err(InvalidRecord::Empty { id });
    }
    if id.time <= prev {
        return Err(InvalidRecord::Order { id, prev });
    }
    if span > MAX_ID || id.time > MAX_ID - (span - 1) {
        return Err(InvalidRecord::Time { id, span });
    }
    // Lamport's rule: a replica's next time is above all that it has seen. It makes (time, session) an order in
    // which causes come before effects, which paging relies on, and keeps two patches from waiting for each other.
    match needs.iter().find(|needed| !is_reserved(needed.sid) && needed.time >= id.time + span) {
        Some(&needed) => Err(InvalidRecord::Cause { id, needed }),
        None => Ok(()),
    }
}

impl Envelope {
    /// Checks what every record must be, whoever made it.
    pub fn check(&self) -> Result<(), InvalidRecord> {
        check(self.id, self.span, self.prev, &self.needs)?;
        self.check_links()
    }

    fn check_links(&self) -> Result<(), InvalidRecord> {
        let links = &self.links;
        if links.is_empty() {
            return Ok(());
        }
        let rising = links.windows(2).all(|pair| pair[0] < pair[1]);
        if links.len() <= LINKS_MAX && rising && links.last().is_none_or(|link| link.last < self.id.time) {
            return Ok(());
        }
        Err(InvalidRecord::Links { id: self.id, count: links.len() })
    }

    /// Who made it.
    pub fn session(&self) -> SessionId {
        self.id.sid
    }

    /// The last time that it takes.
    pub fn last(&self) -> u64 {
        self.id.time + self.span - 1
    }

    /// What has to come before it, apart from what its own session made: what it names of other sessions, and the nodes that
    /// it follows. Nothing of reserved sessions, which nobody sends.
    pub fn causes(&self) -> impl Iterator<Item = (SessionId, u64)> + '_ {
        let named = self.needs.iter().filter(|need| !is_reserved(need.sid)).map(|need| (need.sid, need.time));
        named.chain(self.links.iter().map(|link| (link.sid, link.last)))
    }

    /// Whether it goes on top of what a vector contains: that has all that comes before it, and not all of itself.
    pub fn follows(&self, vector: &StateVector<SessionId>) -> bool {
        let last = vector.get(&self.session());
        let next = self.prev <= last && last < self.last();
        next && self.causes().all(|(sid, time)| time <= vector.get(&sid))
    }

    /// What it names of reserved sessions, which is there from the start or never comes.
    pub(crate) fn named_of_reserved(&self) -> impl Iterator<Item = &Timestamp> {
        self.needs.iter().filter(|need| is_reserved(need.sid))
    }

    /// What it costs to hold or send, in bytes.
    pub fn len_bytes(&self) -> usize {
        // The fields beside the patch take at most four varints of 8 bytes on the wire.
        self.patch.len() + self.proof.len() + self.links.len() * size_of::<Link>() + 32
    }
}
