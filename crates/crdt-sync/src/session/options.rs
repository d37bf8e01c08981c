//! The bounds of a session.

use std::time::Duration;

use crdt_core::SessionId;

use super::TrickleOptions;

/// No wait of this crate is longer: a hundred years. An option that says more, as [`Duration::MAX`] does for *never*, means this.
pub const WAIT_MAX: Duration = Duration::from_hours(100 * 365 * 24);

/// How the replicas of a group notice what they lack. All replicas of a group use the same; where they do not, all
/// patches come everywhere too, with more words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// By state vectors: few bytes beside the patches; a comparison grows with the number of authors.
    #[default]
    Vectors,
    /// By the heads of a [Merkle DAG](crate::dag): 32 bytes and more beside each patch; two patches at one place of a
    /// session are noticed.
    Dag,
}

/// How a session behaves. Every bound says what happens when it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// The session whose patches are made here. Patches of it from elsewhere mean that the id is used twice.
    pub session: SessionId,
    /// Patches that wait for their causes. Above it the one furthest ahead is dropped, and asked for later.
    pub parked_max: usize,
    /// The same in bytes.
    pub parked_bytes_max: usize,
    /// Whether a patch that has waited is to be looked at again before it is taken in: what was not known of its session
    /// when it came, whose it is, may be known now. A manager with a guard turns it on.
    pub rechecks_parked: bool,
    /// Whether what peers say that they have counts for what may be folded only where it is [proven](super::Input::Proven). A
    /// manager turns it on whose guard proves words.
    pub proves_words: bool,
    /// Remote patches that wait for the store. Above it what comes is dropped, and asked for later.
    pub storing_max: usize,
    /// Sessions that a document may ever have: each start of a program that edits is one, and each page that is loaded and
    /// edits. Patches of a further one are refused. The last sixty-fourth of them are for sessions that begin elsewhere at the same
    /// time: a replica, or a client of it, that would begin one is refused before. [`Status::sessions`](super::Status) tells how
    /// many there are; a document that comes near is to be begun anew. A state vector of so many has to fit into a message.
    pub sessions_max: usize,
    /// Sessions with patches that are not folded into the store's snapshot; of a further one patches are refused in the same way,
    /// until some are. A manager folds long before; see
    /// [`unfolded_sessions_max`](crate::CompactionPolicy::unfolded_sessions_max). Patches of so many sessions are asked for at
    /// the same time.
    pub unfolded_sessions_max: usize,
    /// How far a patch's time may be above all known times; a further one would use up the clock, and is refused.
    pub ticks_ahead_max: u64,
    /// Peers that are remembered. Above it the one heard longest ago is forgotten, those whom discovery does not name first.
    pub peers_max: usize,
    /// How long what a peer is not known to have is kept as patches when discovery says that it is gone and it has not said
    /// goodbye, counted from its last word. It may be cut off and go on; if both sides folded alone what the other lacks,
    /// neither could take over the other's snapshot. Afterwards it is forgotten, and told by
    /// [`SessionEvent::Forgotten`](super::SessionEvent).
    pub absent_max: Duration,
    /// How replicas notice what they lack.
    pub sync: SyncMode,
    /// The longest state vector that is sent to compare; above it two replicas [`reconcile`](crate::reconcile).
    pub state_entries_max: usize,
    /// How many nodes walks through the DAG may bring before everything is here. Above it, when replicas have diverged
    /// for long, they compare, and what is missing comes in pages from the oldest.
    pub walk_nodes_max: usize,
    /// A page of patches, in bytes. At least one patch is in a page, however large it is.
    pub page_bytes_max: usize,
    /// Pages that are read for others at the same time. Requests above it are dropped; the asker repeats them.
    pub reads_max: usize,
    /// A snapshot taken from a peer, in bytes. A larger offer is refused. Two may be coming at the same time, if one takes long.
    pub snapshot_bytes_max: usize,
    /// After how long an unanswered request is given up, and another peer asked.
    pub request_timeout: Duration,
    /// How long to wait for patches that are on their way before asking for them.
    pub settle: Duration,
    /// How long a peer that did not deliver is left alone.
    pub distrust: Duration,
    /// When to tell the others what one has.
    pub trickle: TrickleOptions,
}

impl SessionOptions {
    /// Fits documents that people edit, on a local or a wide-area network.
    pub const fn standard(session: SessionId) -> Self {
        Self {
            session,
            parked_max: 4096,
            parked_bytes_max: 16 << 20,
            rechecks_parked: false,
            proves_words: false,
            storing_max: 8192,
            sessions_max: 262_144,
            unfolded_sessions_max: 65_536,
            ticks_ahead_max: 1 << 40,
            peers_max: 1024,
            absent_max: Duration::from_hours(7 * 24),
            sync: SyncMode::Vectors,
            state_entries_max: 256,
            walk_nodes_max: 1024,
            page_bytes_max: 256 << 10,
            reads_max: 8,
            snapshot_bytes_max: 256 << 20,
            request_timeout: Duration::from_secs(3),
            settle: Duration::from_millis(200),
            distrust: Duration::from_secs(10),
            trickle: TrickleOptions::STANDARD,
        }
    }

    /// The same with waits that can be added to a time.
    pub(super) fn bounded(self) -> Self {
        let TrickleOptions { interval_min, interval_max, redundancy } = self.trickle;
        Self {
            request_timeout: self.request_timeout.min(WAIT_MAX),
            settle: self.settle.min(WAIT_MAX),
            distrust: self.distrust.min(WAIT_MAX),
            trickle: TrickleOptions {
                interval_min: interval_min.min(WAIT_MAX),
                interval_max: interval_max.min(WAIT_MAX),
                redundancy,
            },
            ..self
        }
    }
}
