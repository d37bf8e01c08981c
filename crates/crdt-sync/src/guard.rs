//! Who may write: the seam. [`crypto::Access`](crate::crypto) is the implementation with signatures.

use bytes::Bytes;
use crdt_core::{SessionId, StateVector};

use crate::{PatchRecord, SharedError, SnapshotHead};

/// Decides whether patches and snapshots are what they claim to be, and makes the claim for this replica's own.
///
/// Without a guard everyone who reaches the channels may write. What it answers is its own error, and comes to whoever
/// watches in the [`Refusal`](crate::session::Refusal).
pub trait Guard: Send + Sync {
    /// Adds the proof to a patch of this replica, or says why it may not write.
    fn prove(&self, record: PatchRecord) -> Result<PatchRecord, SharedError>;

    /// Checks a patch of another replica.
    fn check(&self, record: &PatchRecord) -> Result<(), SharedError>;

    /// As [`check`](Self::check), of a patch in a session whose first patch has just come and was right, but has not been
    /// noted yet.
    fn check_after(&self, first: &PatchRecord, record: &PatchRecord) -> Result<(), SharedError> {
        let _ = first;
        self.check(record)
    }

    /// Decides about a patch that a client of this node made, which has no key: refused like any without a proof, unless the
    /// guard answers for the node's clients and adds the node's own proof.
    fn vouch(&self, record: PatchRecord) -> Result<PatchRecord, SharedError> {
        self.check(&record).map(|()| record)
    }

    /// Is told of every patch that is taken in, and of those that the store has at the start.
    fn note(&self, record: &PatchRecord);

    /// Adds the proof to a snapshot that is offered to a peer; `None` if this replica may not offer any.
    fn prove_snapshot(&self, head: SnapshotHead, bytes: &[u8]) -> Option<SnapshotHead>;

    /// Checks a snapshot of a peer.
    fn check_snapshot(&self, head: &SnapshotHead, bytes: &[u8]) -> Result<(), SharedError>;

    /// What has to be remembered of the sessions of a snapshot when their patches, and so their proofs, are gone: it is
    /// kept and sent within the snapshot.
    fn owners(&self, contained: &StateVector<SessionId>) -> Bytes;

    /// Checks what a peer's snapshot says of its sessions against what is known here.
    fn check_owners(&self, contained: &StateVector<SessionId>, owners: &[u8]) -> Result<(), SharedError>;

    /// Is told what a snapshot says of its sessions: of one that is taken over, and of the one that the store has at the
    /// start.
    fn note_owners(&self, owners: &[u8]);
}
