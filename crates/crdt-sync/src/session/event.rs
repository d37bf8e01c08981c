//! What a session reports and counts.

use crdt_core::Timestamp;

use crate::{InvalidRecord, PeerId, SharedError};

/// Something that the application or the operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A patch was refused and changed nothing.
    Refused(Refusal),
    /// Everything that the peers are known to have is here.
    CaughtUp,
    /// The synchronisation has ended by itself: the store failed, and what it has can't be told any more, or the channels to
    /// the others were closed. Nothing is stored, sent or taken in any more; it takes another manager.
    Stopped {
        /// Why.
        error: String,
    },
    /// A peer has patches under the same times that are not those here: a session is used by two replicas, or by one whose
    /// store went back to an earlier state and that wrote as much as it had lost. No patch that comes can mend that. Each
    /// replica looks whether it is its own session, and if so, refuses further edits with [`Refusal::SessionUsedTwice`].
    Diverged {
        /// Which peer.
        peer: PeerId,
    },
    /// A peer was gone without a goodbye for [`absent_max`](super::SessionOptions::absent_max): nothing is kept for it any
    /// more. If it comes back with edits, and has not folded what is not here, it still gets everything and so do the others.
    Forgotten {
        /// Which peer.
        peer: PeerId,
    },
    /// A peer and this replica have each folded what the other lacks: what each has folded alone does not reach the other, and
    /// no message can mend that. It takes an operator; `docs/operations.md` says how. Said once a minute for each peer.
    Parted {
        /// Which peer.
        peer: PeerId,
    },
    /// A peer did not answer in time, or did not deliver what it said it had; it is left alone for a while.
    Unhelpful {
        /// Which peer.
        peer: PeerId,
        /// What it did.
        why: &'static str,
    },
}

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No replica can have made it.
    #[error(transparent)]
    Invalid(#[from] InvalidRecord),
    /// Two replicas use one session id: each must take a new one. (Or there is one, and its store went back to an earlier
    /// state, from a backup, say.) A replica to which a patch proves this of its own session takes no edits any more until it is
    /// started under a new one; it can then take in what it had written under the old one, too.
    #[error("patch {0} is not the one known here: its session is used by two replicas")]
    SessionUsedTwice(Timestamp),
    /// It is of a reserved session: every replica makes what those contain itself, and nobody sends it.
    #[error("patch {0} is of a reserved session, of which nobody sends anything")]
    ReservedSession(Timestamp),
    /// It names something of a reserved session that this replica did not start from: another version of the application may
    /// have.
    #[error("patch {id} names {named}, which is not in what this replica started from")]
    NotInBase {
        /// Its id.
        id: Timestamp,
        /// What it names.
        named: Timestamp,
    },
    /// Its author may not write it, or did not.
    #[error("patch {id} is not allowed: {reason}")]
    NotAllowed {
        /// Its id.
        id: Timestamp,
        /// Why not: the guard's own error.
        #[source]
        reason: SharedError,
    },
    /// Somebody signed in the name of a peer for which it does not speak. What it said counts as a word without a signature.
    #[error("the word of {peer} is not allowed: {reason}")]
    WordNotAllowed {
        /// In whose name.
        peer: PeerId,
        /// Why not: the guard's own error.
        #[source]
        reason: SharedError,
    },
    /// The application's own patch is not the next one of its session.
    #[error("local patch {0} is not the next one of its session")]
    OutOfOrder(Timestamp),
    /// Its time would use up the clock.
    #[error("patch {id} is more than {limit} ticks above {latest}, the latest known time")]
    TooFarAhead {
        /// Its id.
        id: Timestamp,
        /// The latest time known.
        latest: u64,
        /// The bound.
        limit: u64,
    },
    /// The document has as many sessions as it may ever have.
    #[error("the document has {limit} sessions, its limit")]
    TooManySessions {
        /// The bound.
        limit: usize,
    },
    /// As many sessions as may have patches that are not folded.
    #[error("{limit} sessions have patches that are not folded, the limit")]
    TooManyUnfoldedSessions {
        /// The bound.
        limit: usize,
    },
    /// A peer's snapshot is not by one who may offer it.
    #[error("snapshot is not allowed: {reason}")]
    SnapshotNotAllowed {
        /// Why not: the guard's own error.
        #[source]
        reason: SharedError,
    },
    /// A peer's snapshot is larger than allowed.
    #[error("snapshot of {len_bytes} bytes: at most {limit} are taken")]
    SnapshotTooLarge {
        /// Its length.
        len_bytes: u64,
        /// The bound.
        limit: usize,
    },
}

/// How often what happened, since the start. Each only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Own patches sent to all.
    pub broadcast: u64,
    /// Patches heard on the patch channel.
    pub heard: u64,
    /// Patches taken from pages.
    pub pulled: u64,
    /// Remote patches given to the document.
    pub applied: u64,
    /// Patches that were known already.
    pub known: u64,
    /// Patches that came before their causes.
    pub parked: u64,
    /// Of those, dropped because of the bounds.
    pub parked_dropped: u64,
    /// Patches dropped because the store had too much to do.
    pub shed: u64,
    /// Patches refused.
    pub refused: u64,
    /// Pages asked for.
    pub requests: u64,
    /// Pages that did not come in time, or did not hold what was said.
    pub requests_failed: u64,
    /// Pages sent.
    pub pages: u64,
    /// Requests of others that were dropped because of the bounds.
    pub requests_dropped: u64,
    /// Snapshots taken over from peers.
    pub installed: u64,
    /// Transfers of snapshots that took longer than a turn, and went on beside other requests.
    pub long: u64,
    /// Nodes taken from walks through the DAG.
    pub walked: u64,
    /// Comparisons by coded symbols begun.
    pub compared: u64,
    /// How often a peer turned out to have other patches under the same times.
    pub diverged: u64,
    /// Damaged or missing nodes of the DAG that peers brought again.
    pub repaired: u64,
    /// Peers for which nothing is kept any more, because they were gone for too long.
    pub forgotten: u64,
    /// How often a peer's snapshot could not be taken over because each of the two lacks what the other has folded.
    pub parted: u64,
}

impl Counters {
    /// Each count with its name, for metrics.
    pub fn named(&self) -> [(&'static str, u64); 21] {
        [
            ("broadcast", self.broadcast),
            ("heard", self.heard),
            ("pulled", self.pulled),
            ("applied", self.applied),
            ("known", self.known),
            ("parked", self.parked),
            ("parked_dropped", self.parked_dropped),
            ("shed", self.shed),
            ("refused", self.refused),
            ("requests", self.requests),
            ("requests_failed", self.requests_failed),
            ("pages", self.pages),
            ("requests_dropped", self.requests_dropped),
            ("installed", self.installed),
            ("long", self.long),
            ("walked", self.walked),
            ("compared", self.compared),
            ("diverged", self.diverged),
            ("repaired", self.repaired),
            ("forgotten", self.forgotten),
            ("parted", self.parted),
        ]
    }
}
