//! Somebody who can speak on the channels and has no document: makes up peers, speaks in the names of those who are there,
//! and sends a snapshot that is none as slowly as it may.

use std::time::Duration;

use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use crdt_sync::{
    PeerId, SnapshotHead, SyncMessage,
    dag::{Link, NodeHash},
};

use crate::random::Random;

/// What the slow one offers would take an hour and more.
const SNAPSHOT_BYTES: u64 = 1 << 20;
/// Just enough for a quarter of a page in each timeout.
const PART_BYTES: usize = 80;
const PART_PAUSE: Duration = Duration::from_millis(350);
/// How many names are made up.
const GHOSTS: u64 = 40;

/// The name under which the slow snapshot is sent.
fn slow() -> PeerId {
    PeerId::new("slow").unwrap()
}

/// What nobody has.
fn ghostly(random: &mut Random) -> StateVector<SessionId> {
    let sid = SessionId::new(SessionId::USER_MIN.get() + 2_000_000).unwrap();
    [(sid, 1 + random.below(1000))].into_iter().collect()
}

/// A vector in which some entries are left out, and some are lower, even within a patch: effects without their causes.
pub(crate) fn lowered(random: &mut Random, vector: &StateVector<SessionId>) -> StateVector<SessionId> {
    let lower = |(sid, last): (&SessionId, u64)| match random.below(4) {
        0 => None,
        1 => Some((*sid, 1 + random.below(last))),
        _ => Some((*sid, last)),
    };
    vector.iter().filter_map(lower).collect()
}

/// What it says to all of its own accord, and in whose name. `seen` is what one of the replicas has.
pub(crate) fn says(
    random: &mut Random,
    members: &[PeerId],
    seen: &StateVector<SessionId>,
) -> (PeerId, SyncMessage) {
    let member = members[random.below(members.len() as u64) as usize].clone();
    match random.below(7) {
        6 => (member, SyncMessage::State { vector: lowered(random, seen), reply: false }),
        0 => {
            let ghost = PeerId::new(format!("ghost-{}", random.below(GHOSTS))).unwrap();
            (ghost, SyncMessage::State { vector: ghostly(random), reply: false })
        }
        1 => {
            let all = seen.iter().map(|(sid, last)| (*sid, last + 1 + random.below(9)));
            let mut vector: StateVector<SessionId> = all.collect();
            vector.merge(&ghostly(random));
            let heads = vector.iter().map(|(sid, last)| Link { last, sid: *sid, hash: NodeHash([9; 32]) });
            let mut heads: Vec<Link> = heads.take(8).collect();
            heads.sort_unstable();
            let told = match random.below(2) {
                0 => SyncMessage::State { vector, reply: false },
                _ => SyncMessage::Heads { heads, digest: random.next() },
            };
            (slow(), told)
        }
        2 => {
            let at = random.below(seen.len().max(1) as u64) as usize;
            let whose = seen.iter().nth(at).map(|(sid, last)| (*sid, last));
            let hash = NodeHash([random.below(256) as u8; 32]);
            let heads = whose.map(|(sid, last)| Link { last, sid, hash }).into_iter().collect();
            (member, SyncMessage::Heads { heads, digest: random.next() })
        }
        3 => (member, SyncMessage::Patches { id: random.below(50), records: Vec::new() }),
        4 => {
            let snapshot =
                SnapshotHead { vector: ghostly(random), len_bytes: 100, hash: 5, proof: Bytes::new() };
            (member, SyncMessage::Offer { id: random.below(50), snapshot })
        }
        _ => {
            let (id, hash, bytes) = (random.below(50), 5, Bytes::from(vec![0; 50]));
            (member, SyncMessage::Part { id, hash, offset: 0, bytes })
        }
    }
}

/// What it answers to who asks one of its names, and after how long. Made-up peers answer nothing.
pub(crate) fn answers(
    random: &mut Random,
    to: &PeerId,
    message: &SyncMessage,
) -> Option<(PeerId, SyncMessage, Duration)> {
    if *to != slow() {
        return None;
    }
    match *message {
        SyncMessage::Request { id, .. } | SyncMessage::Walk { id, .. } => {
            let (vector, len_bytes) = (ghostly(random), SNAPSHOT_BYTES);
            let snapshot = SnapshotHead { vector, len_bytes, hash: 7, proof: Bytes::new() };
            Some((slow(), SyncMessage::Offer { id, snapshot }, Duration::from_millis(5)))
        }
        SyncMessage::Fetch { id, hash, offset } => {
            let bytes = Bytes::from(vec![0; PART_BYTES]);
            Some((slow(), SyncMessage::Part { id, hash, offset, bytes }, PART_PAUSE))
        }
        _ => None,
    }
}
