//! How a snapshot comes: in parts, one request after the other.
//!
//! It may be large and its sender's line slow, so it may take what it takes; but a peer that sends on purpose as slowly as it
//! may must not keep a replica from the others for hours. So a transfer has the only [pull](super::pull) for a turn. If it
//! has not ended by then, it goes on beside the pull, and everybody else is asked for what they have as ever. One transfer at
//! a time is such a long one. Another snapshot that is offered meanwhile is its rival: it has a turn too, and of the two the
//! one goes on that will be here sooner, if both go on as they did in that turn. The other is given up. A long one that has
//! stood its ground is left alone for twice as long each time, up to a bound, since its rivals take room on the same line.
//!
//! So who sends slowly holds nobody up for longer than a turn; among those that offer a snapshot the quickest is found in as
//! many turns as there are; and two snapshots at the most are held at the same time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    Output, Refusal, Session,
    peers::Peer,
    pull::{NO_OFFERS, Stage},
};
use crate::{PeerId, SnapshotHead, SyncMessage};

/// A snapshot may take a request's timeout for each such part of a page, and one more: with the standard options 21 KiB/s.
const SLOW_PAGE_PART: usize = 4;
/// Each that came too slowly doubles the time for the next, so often at the most: whose line is slow gets there, too, down
/// to 1.3 KiB/s. As soon as a page brings something, others can be asked, and nobody gets more time any more.
const TOO_SLOW_MAX: u32 = 4;
/// How many times a request's timeout a transfer may have the pull: half a minute with the standard options.
const TURN_TIMEOUTS: u32 = 10;
/// A long transfer that was quicker than a rival has none for two turns, and for twice as long after each further one, so
/// often at the most: with the standard options for eight minutes.
const RIVALS_LOST_MAX: u32 = 4;

/// The part of a snapshot that has come.
#[derive(Debug)]
pub(super) struct Transfer {
    head: SnapshotHead,
    got: Got,
    /// When the first part was asked for.
    since: Duration,
    /// Whether a snapshot of what all others have was asked for, or one of all that the peer has.
    offers: bool,
}

/// Most snapshots fit into one part, and that is kept as it came.
#[derive(Debug)]
enum Got {
    Whole(Bytes),
    Parts(BytesMut),
}

impl Got {
    fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Parts(bytes) => bytes.len(),
        }
    }

    fn add(&mut self, part: &Bytes, len_bytes: u64) {
        match self {
            Self::Parts(parts) if parts.is_empty() && part.len() as u64 == len_bytes => {
                *self = Self::Whole(part.clone());
            }
            Self::Parts(parts) => parts.extend_from_slice(part),
            // There is nothing to come behind it.
            Self::Whole(_) => {}
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Parts(parts) => parts.freeze(),
        }
    }
}

impl Transfer {
    fn left(&self) -> u64 {
        self.head.len_bytes.saturating_sub(self.got.len() as u64)
    }
}

/// A transfer that had its turn and goes on beside the pull.
#[derive(Debug)]
pub(super) struct Long {
    pub(super) peer: PeerId,
    transfer: Transfer,
    /// The request under way; none when all has come and waits for the pull, to be put in place.
    asked: Option<(u64, Duration)>,
    /// How much of it was here when its rival began.
    got_before: usize,
    /// How many rivals it was quicker than.
    rivals_lost: u32,
    /// No rival before that.
    rivals_from: Duration,
}

impl Long {
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.asked.map(|(_, deadline)| deadline)
    }
}

impl Session {
    pub(super) fn on_offer(&mut self, now: Duration, from: &PeerId, id: u64, head: SnapshotHead) {
        let Some(pull) = self.answered(from, id) else { return };
        if matches!(pull.stage, Stage::Repair | Stage::Own(_)) {
            // It has folded what is wanted, and can't bring it any more.
            if matches!(pull.stage, Stage::Own(_)) {
                self.on_own_folded(&head);
            }
            return self.pull_next(now);
        }
        let limit = self.options.snapshot_bytes_max;
        if head.len_bytes > limit as u64 {
            self.refuse(Refusal::SnapshotTooLarge { len_bytes: head.len_bytes, limit });
            self.no_offers_until = now + NO_OFFERS;
            self.unhelpful(now, from, "offered a snapshot that is too large");
        } else if self.accepted.contains(&head.vector) || head.len_bytes == 0 {
            self.unhelpful(now, from, "offered a snapshot with nothing new");
        } else if let Some(until) = self.no_rivals_until(now) {
            // Not its fault: what it said is remembered.
            if let Some(peer) = self.peers.get_mut(from) {
                peer.distrusted_until = until;
            }
            self.pull_next(now);
        } else {
            if let Some(long) = &mut self.long {
                long.got_before = long.transfer.got.len();
            }
            let offers = !matches!(pull.stage, Stage::Patches { offers: false, .. });
            let got = Got::Parts(BytesMut::new());
            self.fetch(now, from.clone(), Transfer { head, got, since: now, offers });
        }
    }

    fn no_rivals_until(&self, now: Duration) -> Option<Duration> {
        self.long.as_ref().map(|long| long.rivals_from).filter(|until| now < *until)
    }

    fn fetch(&mut self, now: Duration, from: PeerId, transfer: Transfer) {
        let (hash, offset) = (transfer.head.hash, transfer.got.len() as u64);
        let id = self.request(now, from.clone(), Stage::Snapshot(transfer.into()));
        self.send(from, SyncMessage::Fetch { id, hash, offset });
    }

    fn fetch_long(&mut self, now: Duration, mut long: Long) {
        let (hash, offset) = (long.transfer.head.hash, long.transfer.got.len() as u64);
        let (id, deadline) = self.next_request(now);
        self.send(long.peer.clone(), SyncMessage::Fetch { id, hash, offset });
        long.asked = Some((id, deadline));
        self.long = Some(long);
    }

    pub(super) fn on_part(
        &mut self,
        now: Duration,
        from: &PeerId,
        id: u64,
        place: (u64, u64),
        bytes: &Bytes,
    ) {
        let is_its = |long: &mut Long| long.peer == *from && long.asked.is_some_and(|(asked, _)| asked == id);
        if let Some(long) = self.long.take_if(is_its) {
            return self.on_long_part(now, long, place, bytes);
        }
        let Some(pull) = self.answered(from, id) else { return };
        let Stage::Snapshot(mut transfer) = pull.stage else {
            return self.unhelpful(now, from, "sent a part of a snapshot for something else");
        };
        if let Err(why) = self.take_part(now, &mut transfer, place, bytes) {
            self.unhelpful(now, from, why);
        } else if self.long.as_ref().is_some_and(|long| long.asked.is_none()) {
            // The long one is here and is put in place first; what it lacks is asked for again.
            self.pull_next(now);
        } else if transfer.left() == 0 {
            self.put_in_place(now, from.clone(), *transfer);
        } else if now >= transfer.since + self.turn() {
            self.go_beside(now, from.clone(), *transfer);
        } else {
            self.fetch(now, from.clone(), *transfer);
        }
    }

    fn on_long_part(&mut self, now: Duration, mut long: Long, place: (u64, u64), bytes: &Bytes) {
        if let Err(why) = self.take_part(now, &mut long.transfer, place, bytes) {
            self.unhelpful(now, &long.peer, why);
        } else if self.accepted.contains(&long.transfer.head.vector) {
            // Others have brought all of it meanwhile.
            self.pull_next(now);
        } else if long.transfer.left() == 0 {
            long.asked = None;
            self.long = Some(long);
            self.pull_next(now);
        } else {
            self.fetch_long(now, long);
        }
    }

    /// Adds a part to what has come of a snapshot, or says what is wrong with it.
    fn take_part(
        &mut self,
        now: Duration,
        transfer: &mut Transfer,
        (hash, offset): (u64, u64),
        bytes: &Bytes,
    ) -> Result<(), &'static str> {
        let is_asked = transfer.head.hash == hash && offset == transfer.got.len() as u64;
        if !is_asked || bytes.is_empty() || bytes.len() as u64 > transfer.left() {
            return Err("sent another part of a snapshot than it was asked for");
        }
        transfer.got.add(bytes, transfer.head.len_bytes);
        let got = transfer.got.len();
        if transfer.left() > 0 && now.saturating_sub(transfer.since) > self.patience(got) {
            // What would be too slow with the longest time, too, is no slow line.
            if got >= self.slow_part() >> TOO_SLOW_MAX {
                self.too_slow = (self.too_slow + 1).min(TOO_SLOW_MAX);
            }
            return Err("sends a snapshot too slowly");
        }
        Ok(())
    }

    /// How much of a snapshot has to come within each timeout.
    fn slow_part(&self) -> usize {
        (self.options.page_bytes_max / SLOW_PAGE_PART).max(1)
    }

    /// How long a snapshot may take of which so many bytes are here. Each part comes within a timeout, but a peer that sends
    /// a byte at a time would have us hold what came of it for as long as it likes.
    fn patience(&self, got_bytes: usize) -> Duration {
        let parts = got_bytes / self.slow_part();
        let timeouts = u32::try_from(parts).unwrap_or(u32::MAX).saturating_add(1);
        self.options.request_timeout.saturating_mul(timeouts).saturating_mul(1 << self.too_slow)
    }

    fn turn(&self) -> Duration {
        self.options.request_timeout.saturating_mul(TURN_TIMEOUTS)
    }

    /// The turn of a transfer is over: it goes on beside the pull, if no other one does that will be here sooner.
    fn go_beside(&mut self, now: Duration, peer: PeerId, transfer: Transfer) {
        let turn = self.turn();
        let Some(mut long) = self.long.take() else {
            self.begin_long(now, peer, transfer);
            return self.pull_next(now);
        };
        let (ours, its) = ((long.transfer.got.len() - long.got_before) as u128, transfer.got.len() as u128);
        // Both had the same time: what is left at the pace of that time, compared without a division.
        if u128::from(transfer.left()) * ours < u128::from(long.transfer.left()) * its {
            self.begin_long(now, peer, transfer);
            self.unhelpful(now, &long.peer, "sends a snapshot more slowly than another peer");
        } else {
            long.rivals_lost = (long.rivals_lost + 1).min(RIVALS_LOST_MAX);
            long.rivals_from = now + turn.saturating_mul(1 << long.rivals_lost);
            self.long = Some(long);
            self.unhelpful(now, &peer, "sends a snapshot more slowly than another peer");
        }
    }

    fn begin_long(&mut self, now: Duration, peer: PeerId, transfer: Transfer) {
        self.counters.long += 1;
        let long = Long { peer, transfer, asked: None, got_before: 0, rivals_lost: 0, rivals_from: now };
        self.fetch_long(now, long);
    }

    fn put_in_place(&mut self, now: Duration, from: PeerId, transfer: Transfer) {
        let Transfer { head, got, offers, .. } = transfer;
        self.request(now, from, Stage::Installing { offers });
        self.outputs.push_back(Output::Install { head: head.into(), bytes: got.finish() });
    }

    /// Puts a long one in place that is here as a whole. Whether there was one.
    pub(super) fn place_long(&mut self, now: Duration) -> bool {
        let Some(Long { peer, transfer, .. }) = self.long.take_if(|long| long.asked.is_none()) else {
            return false;
        };
        if self.accepted.contains(&transfer.head.vector) {
            return false;
        }
        self.put_in_place(now, peer, transfer);
        true
    }

    /// Gives a long transfer up whose sender does not answer in time.
    pub(super) fn tick_long(&mut self, now: Duration) {
        let is_late = |long: &mut Long| long.deadline().is_some_and(|deadline| deadline <= now);
        if let Some(long) = self.long.take_if(is_late) {
            self.unhelpful(now, &long.peer, "did not answer in time");
        }
    }

    /// Who can be asked: the trusted ones, apart from the one whose snapshot is coming beside the pull.
    pub(super) fn askable(&self, now: Duration) -> impl Iterator<Item = (&PeerId, &Peer)> {
        let busy = self.long.as_ref().map(|long| &long.peer);
        self.peers.trusted(now).filter(move |(id, _)| Some(*id) != busy)
    }

    /// Those of them that have something that is missing here.
    pub(super) fn ahead(&mut self, now: Duration) -> Vec<PeerId> {
        let busy = self.long.as_ref().map(|long| &long.peer);
        let mut ahead = self.peers.ahead_of(&self.accepted, now);
        ahead.retain(|id| Some(id) != busy);
        if now < self.no_newcomers_until {
            ahead.retain(|id| !self.wants(now, id).is_empty());
        }
        ahead
    }
}
