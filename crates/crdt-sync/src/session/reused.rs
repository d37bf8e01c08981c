//! What a replica does about a peer that has the same times with other patches.
//!
//! A store that was put back from a backup, and in which as much was written under the old session as it had lost, has the
//! same state vector as its peers. What tells is the sum over the patches themselves that goes with each digest. Whoever hears
//! of such a peer reports it, and looks whether it is the own session that was used twice: it asks for the peer's patches of
//! that session, the latest first, and has the driver compare them with those in the store. So the one that was put back
//! finds out by itself, and takes no edits from then on.
//!
//! If it has written more than it had lost, and its peers' last patch ends within one of its own, they refuse what it has and
//! never get as far. So a peer that says that it has less of the own session is asked for the last patch that it has of it.

use std::time::Duration;

use crdt_core::Timestamp;

use super::{Output, Refusal, Session, SessionEvent, pull::Stage};
use crate::{PatchRecord, PeerId, SnapshotHead, SyncMessage, Want};

/// How often it is reported of a peer at the most that it has other patches, and how often it is asked for those of the own
/// session.
const PAUSE: Duration = Duration::from_secs(60);
/// First the patch is compared in which the own session's last tick is,
const TICKS_FIRST: u64 = 1;
/// and if it is the same although something is not, those in so many times more ticks, until all are.
const TICKS_TIMES: u64 = 64;

/// After so long it is asked again if it says another time than before: it may have got the patch that differs only now.
const PAUSE_OTHER: Duration = Duration::from_secs(5);

/// The own session's patches are compared with a peer's.
#[derive(Debug)]
pub(super) struct OwnCheck {
    peer: PeerId,
    /// How many of the last ticks.
    ticks: u64,
    want: Want,
    /// Whether something is known to differ, so that it is worth to look at all of them.
    all: bool,
}

impl Session {
    /// A peer said a digest, and what stands for its patches themselves.
    pub(super) fn on_content(&mut self, now: Duration, from: &PeerId, digest: u64, theirs: Option<u64>) {
        let (Some(ours), Some(theirs)) = (self.content_at(digest), theirs) else { return };
        let Some(peer) = self.peers.get_mut(from) else { return };
        if ours == theirs {
            return;
        }
        let (report, check) = (now >= peer.diverged_until, now >= peer.own_check_from);
        if report {
            peer.diverged_until = now + PAUSE;
            self.counters.diverged += 1;
            self.outputs.push_back(Output::Event(SessionEvent::Diverged { peer: from.clone() }.into()));
            // So that it hears of it, too.
            self.announce(Some(from.clone()));
        }
        if check && let Some(peer) = self.peers.get_mut(from) {
            peer.own_check_from = now + PAUSE;
            let upto = self.stored.get(&self.options.session);
            self.check_own(now, from.clone(), (TICKS_FIRST, upto), true);
        }
    }

    /// A peer could not be asked for its patches of the own session, or has not answered: it is asked again soon when it says
    /// once more that it differs. Until then this replica takes edits that nobody else may ever take.
    pub(super) fn own_check_failed(&mut self, now: Duration, from: &PeerId) {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.own_check_from = now + PAUSE_OTHER;
            peer.own_asked = None;
        }
    }

    /// A peer has a patch of the own session that ends at `upto`, by its word: compares it with what is here.
    pub(super) fn on_own_time(&mut self, now: Duration, from: &PeerId, upto: u64) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        let pause = peer.own_asked.map(|(at, before)| at + if before == upto { PAUSE } else { PAUSE_OTHER });
        if pause.is_none_or(|until| now >= until) {
            peer.own_asked = Some((now, upto));
            self.check_own(now, from.clone(), (TICKS_FIRST, upto), false);
        }
    }

    /// The number for the patches themselves at the time when the vector had a digest, if that is not long ago.
    fn content_at(&self, digest: u64) -> Option<u64> {
        if self.ends.is_some() {
            return None;
        }
        if digest == self.digest {
            return self.content;
        }
        let then = self.digests_lately.iter().rev().find(|(then, _)| *then == digest);
        then.and_then(|(_, content)| *content)
    }

    fn check_own(&mut self, now: Duration, peer: PeerId, (ticks, upto): (u64, u64), all: bool) {
        if upto > 0 && self.used_twice.is_none() {
            let want = Want { sid: self.options.session, after: upto.saturating_sub(ticks), upto };
            let check = OwnCheck { peer, ticks, want, all };
            let peer = check.peer.clone();
            // One at a time: whoever was to be asked and was not yet is so when it speaks again.
            if let Some(before) = self.own_check.replace(check).filter(|before| before.peer != peer) {
                self.own_check_failed(now, &before.peer);
            }
            self.pull_next(now);
        }
    }

    /// Asks for the next of a peer's patches to compare, if there is something to compare. Whether it did.
    pub(super) fn check_own_next(&mut self, now: Duration) -> bool {
        let Some(check) = self.own_check.take() else { return false };
        let can_be_asked = self.askable(now).any(|(id, _)| *id == check.peer);
        if can_be_asked {
            let (peer, want) = (check.peer.clone(), vec![check.want]);
            let id = self.request(now, peer.clone(), Stage::Own(check));
            let bytes_max = self.options.page_bytes_max as u64;
            self.send(peer, SyncMessage::Request { id, want, bytes_max, offers: false });
        } else {
            self.own_check_failed(now, &check.peer);
        }
        can_be_asked
    }

    pub(super) fn on_own_patches(&mut self, now: Duration, check: OwnCheck, mut records: Vec<PatchRecord>) {
        let Want { sid, after, upto } = check.want;
        records.retain(|record| record.session() == sid && (after + 1..=upto).contains(&record.last()));
        match records.last() {
            Some(last) => {
                let want = Want { upto: last.last(), ..check.want };
                self.outputs.push_back(Output::Compare { want, records });
                self.own_compared = Some(check);
                self.pull_next(now);
            }
            None => self.check_own_before(now, check),
        }
    }

    /// A peer has no patches of the own session to show any more. Where they ended its snapshot still says, and if that is within
    /// one of those here, it was another one that ended there.
    pub(super) fn on_own_folded(&mut self, head: &SnapshotHead) {
        let own = self.options.session;
        let ends = head.vector.get(&own);
        if ends > 0 && ends < self.stored.get(&own) && self.used_twice.is_none() {
            self.outputs.push_back(Output::EndsAt(ends));
        }
    }

    /// The driver has compared a peer's patches of the own session, up to a time.
    pub(super) fn compared(&mut self, now: Duration, upto: u64, differs: Option<Timestamp>) {
        let Some(mut check) = self.own_compared.take() else { return };
        if let Some(id) = differs {
            self.used_twice.get_or_insert(id);
            self.refuse(Refusal::SessionUsedTwice(id));
        } else if upto < check.want.upto {
            check.want.after = upto;
            self.own_check = Some(check);
            self.pull_next(now);
        } else {
            self.check_own_before(now, check);
        }
    }

    /// The last ticks are the same on both: looks at more of them, if there are more.
    fn check_own_before(&mut self, now: Duration, check: OwnCheck) {
        if check.all && check.ticks < check.want.upto {
            let ticks = check.ticks.saturating_mul(TICKS_TIMES);
            self.check_own(now, check.peer, (ticks, check.want.upto), true);
        } else {
            self.pull_next(now);
        }
    }
}
