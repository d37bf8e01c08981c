//! How peers stand.

use std::time::Duration;

use crdt_core::{SessionId, StateVector};

use super::{Attendance, Peer, Peers};
use crate::PeerId;

/// How a peer stands, by its last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub id: PeerId,
    /// How many ticks it has that are missing here.
    pub ahead_ticks: u64,
    /// How many ticks that are durable here it lacks; `None` if it has not said.
    pub behind_ticks: Option<u64>,
    /// How many ticks that are durable here it is not known to have, so that they are kept as patches for it.
    pub holds_ticks: u64,
    /// Discovery has said that it is gone, and it has not said goodbye: for how much longer patches are kept for it; see
    /// [`absent_max`](crate::session::SessionOptions::absent_max).
    pub absent: Option<Duration>,
    /// Each of the two has folded alone what the other lacks: neither can take over what the other has. An operator has to
    /// start one of them with an empty store; `docs/operations.md` says how.
    pub parted: bool,
    /// How long ago it was heard.
    pub silent: Duration,
    /// Whether it is left alone for a while, because it did not deliver.
    pub distrusted: bool,
}

impl Peers {
    pub(in crate::session) fn lag_ticks(&self, accepted: &StateVector<SessionId>) -> u64 {
        let mut all = accepted.clone();
        self.known
            .values()
            .flat_map(|peer| peer.vector.as_deref().into_iter().chain([&peer.ahead]))
            .for_each(|vector| all.merge(vector));
        ticks(accepted, &all)
    }

    pub(in crate::session) fn statuses(
        &self,
        accepted: &StateVector<SessionId>,
        stored: &StateVector<SessionId>,
        now: Duration,
    ) -> Vec<PeerStatus> {
        let nothing = StateVector::new();
        let status = |(id, peer): (&PeerId, &Peer)| PeerStatus {
            id: id.clone(),
            ahead_ticks: peer
                .wants(accepted)
                .iter()
                .fold(0, |sum: u64, want| sum.saturating_add(want.upto - want.after)),
            behind_ticks: peer.vector.as_deref().map(|vector| ticks(vector, stored)),
            holds_ticks: ticks(peer.word(self.proves_words).unwrap_or(&nothing), stored),
            absent: match peer.attendance {
                Attendance::Absent { until, .. } => Some(until.saturating_sub(now)),
                _ => None,
            },
            parted: peer.parted.is_some(),
            silent: now.saturating_sub(peer.heard_at),
            distrusted: peer.distrusted_until > now,
        };
        self.known.iter().map(status).collect()
    }
}

/// How many ticks `to` has that `from` lacks. Anybody may say anything, so that it may be more than can be counted.
pub(crate) fn ticks(from: &StateVector<SessionId>, to: &StateVector<SessionId>) -> u64 {
    from.missing_from(to).fold(0, |sum: u64, (_, here, there)| sum.saturating_add(there - here))
}
