//! What goes into a session's machine, and what comes out.

use bytes::Bytes;
use crdt_core::{SessionId, StateVector, Timestamp};

#[cfg(doc)]
use super::Session;
use super::SessionEvent;
use crate::{
    PatchRecord, PeerId, SnapshotHead, SyncMessage, Want,
    dag::{Heads, Link},
};

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The application edited the document; the patch is in the document already. What [`Session::local_refusal`]
    /// refuses is refused here too.
    Local(PatchRecord),
    /// A client of this node, which is no peer, made a patch: it is broadcast from here. What
    /// [`Session::client_refusal`] refuses is refused here too.
    Relayed(PatchRecord),
    /// A patch was heard on the patch channel.
    Heard(PatchRecord),
    /// A message came from a peer.
    Message {
        /// Who sent it.
        from: PeerId,
        /// What.
        message: SyncMessage,
    },
    /// The same of what a peer has, with a proof that it is said by one of the group; see
    /// [`proves_words`](super::SessionOptions::proves_words).
    Proven {
        /// Who sent it.
        from: PeerId,
        /// Stands for who signed it. If it is another one than before, what that one had proven is forgotten.
        voice: u64,
        /// What.
        message: SyncMessage,
    },
    /// The oldest [`Output::Store`] that has not been confirmed is durable.
    Stored,
    /// The store has read what an [`Output::Read`] asked for.
    Page {
        /// Who asked.
        peer: PeerId,
        /// As which of its requests.
        id: u64,
        /// What there is.
        page: Page,
    },
    /// The snapshot of an [`Output::Install`] is in the store and in the document.
    Installed {
        /// What it contains.
        vector: StateVector<SessionId>,
        /// The heads of all that is durable now; none where the group does not use the DAG.
        heads: Heads,
        /// The sum of the [`content`](super::content) of all patches that are durable now; `None` where it is not known.
        content: Option<u64>,
    },
    /// What an [`Output::Compare`] named was compared.
    Compared {
        /// Up to which time.
        upto: u64,
        /// The first that is not the same here.
        differs: Option<Timestamp>,
    },
    /// A snapshot of the store's own took the place of patches: this is in it now.
    Folded(StateVector<SessionId>),
    /// The snapshot of an [`Output::Install`] was no snapshot.
    InstallFailed,
    /// The snapshot of an [`Output::Install`] lacks something that is only left in the one here.
    InstallParted,
    /// These nodes of the DAG are damaged or missing in the store: have them brought again.
    Repair(Vec<Link>),
    /// The transport lost messages, or may have.
    Gap,
    /// Discovery found a peer.
    PeerUp(PeerId),
    /// Discovery lost a peer. It may be cut off, and come back.
    PeerDown(PeerId),
    /// A peer said goodbye, or somebody knows that it does not come back.
    PeerLeft(PeerId),
    /// Nothing but time has passed; see [`Session::wakes_at`].
    Tick,
}

/// What the store found for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// Patches, causes before effects.
    Records(Vec<PatchRecord>),
    /// Some of them are only left in a snapshot, or it is cheaper: one of all that is durable here.
    Snapshot(SnapshotHead),
    /// A part of a snapshot; empty when it is not there any more.
    Part {
        /// Which snapshot.
        hash: u64,
        /// From which byte.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
}

/// What the driver has to do, in this order. What comes with each patch is small; the rest is behind a pointer, so that
/// the queue of a replica takes few lines of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make it durable, then say [`Input::Stored`].
    Store(PatchRecord),
    /// Apply it to the document: its causes are in there.
    Apply(PatchRecord),
    /// Send it to all, on the patch channel.
    Broadcast(PatchRecord),
    /// Send a message to a peer, or to all.
    Send {
        /// To whom; `None` is all.
        to: Option<PeerId>,
        /// What.
        message: Box<SyncMessage>,
    },
    /// Read a page from the store, then say [`Input::Page`].
    Read {
        /// Who asks.
        peer: PeerId,
        /// As which of its requests.
        id: u64,
        /// For what.
        what: Box<ReadWhat>,
    },
    /// Put a peer's snapshot into the store and load it into the document, then apply all that is stored and not in
    /// it; then say [`Input::Installed`] or [`Input::InstallFailed`].
    Install {
        /// What it is, by its sender's word.
        head: Box<SnapshotHead>,
        /// The snapshot.
        bytes: Bytes,
    },
    /// Compare a peer's patches of the own session with those in the store, then say [`Input::Compared`].
    Compare {
        /// Which are to be compared.
        want: Want,
        /// All that the peer has of them.
        records: Vec<PatchRecord>,
    },
    /// A peer that has folded its patches of the own session says that its last one ends at this time. If none of those in the
    /// store does, say [`session_is_forked`](super::Session::session_is_forked); it is not proven.
    EndsAt(u64),
    /// Put it in the place of what is damaged or missing in the store. It is the right one.
    Mend(PatchRecord),
    /// Nothing that an [`Input::Repair`] named is being fetched any more.
    RepairEnds {
        /// What no peer has brought.
        left: Vec<Link>,
    },
    /// A patch that waited has its causes now: look at it again, and say [`Input::Heard`] if it may still be taken in.
    /// Only with [`rechecks_parked`](super::SessionOptions::rechecks_parked).
    Released {
        /// It.
        record: PatchRecord,
        /// Whether a client brought it, so that it goes back as [`Input::Relayed`] and not as [`Input::Heard`].
        relayed: bool,
    },
    /// Tell whoever watches.
    Event(Box<SessionEvent>),
}

/// What a peer counts for in what may be folded, where words are [proven](super::SessionOptions::proves_words).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// What it has proven to have; nothing as long as it has proven nothing.
    Counts,
    /// What was proven in its name counts no more: another one speaks for it now.
    Lapsed,
    /// Nobody waits for it: it takes over what others have folded when it lacks some of that.
    Guest,
}

/// What to read from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadWhat {
    /// Patches.
    Patches {
        /// Which.
        want: Vec<Want>,
        /// How many bytes at the most.
        bytes_max: usize,
        /// Whether a snapshot is welcome where it is cheaper.
        offers: bool,
    },
    /// Nodes of the DAG and what they follow, by a [`Walk`](crate::dag::Walk) of [`WALK_PAGE_NODES_MAX`] nodes.
    Walk {
        /// Where it begins.
        want: Vec<Link>,
        /// Where it need not go.
        have: StateVector<SessionId>,
        /// How many bytes at the most.
        bytes_max: usize,
    },
    /// A part of the snapshot.
    Part {
        /// Which snapshot.
        hash: u64,
        /// From which byte.
        offset: u64,
        /// How many bytes at the most.
        bytes_max: usize,
    },
}

/// How many nodes a page of a walk has at the most: each is a read.
pub const WALK_PAGE_NODES_MAX: usize = 256;

/// How a replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// How many sessions have ever written the document; see [`sessions_max`](super::SessionOptions::sessions_max).
    pub sessions: usize,
    /// How many of them have patches that are not folded; see
    /// [`unfolded_sessions_max`](super::SessionOptions::unfolded_sessions_max).
    pub unfolded_sessions: usize,
    /// How many peers are known.
    pub peers: usize,
    /// How many of them are gone without a goodbye, and have patches kept for them.
    pub absent: usize,
    /// With how many of them this replica is parted for good: each of the two has folded what the other lacks.
    pub parted: usize,
    /// How many entries of state vectors are remembered of them.
    pub peer_entries: usize,
    /// How many patches wait for their causes.
    pub parked: usize,
    /// How many bytes they take.
    pub parked_bytes: usize,
    /// How many patches wait for the store.
    pub storing: usize,
    /// How many heads the DAG has; 0 where there is none.
    pub heads: usize,
    /// How many ticks of all sessions the peers are known to have that are missing here.
    pub lag_ticks: u64,
    /// Whether missing patches are being fetched.
    pub pulling: bool,
}
