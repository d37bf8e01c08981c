//! How missing patches are fetched: one page at a time, from one peer at a time. A snapshot comes as a
//! [transfer](super::transfer).

use std::time::Duration;

use crdt_core::{SessionId, StateVector};

use super::{
    Origin, Output, Session, SessionEvent, admission::Crowd, compare::Comparison, digest, parked::Readiness,
    reused::OwnCheck, transfer::Transfer,
};
use crate::{
    PatchRecord, PeerId, SyncMessage, Want,
    dag::{Heads, Link},
};

/// How long no snapshots are asked for after one could not be taken over.
pub(super) const NO_OFFERS: Duration = Duration::from_secs(60);

/// A request under way.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) peer: PeerId,
    id: u64,
    pub(super) stage: Stage,
    deadline: Duration,
}

#[derive(Debug)]
pub(super) enum Stage {
    Patches {
        want: Vec<Want>,
        /// Whether a snapshot of what all others have will do.
        offers: bool,
    },
    Walk {
        want: Vec<Link>,
        /// Whether the peer has said that it has some of it.
        claimed: bool,
    },
    /// Nodes that were here and are damaged.
    Repair,
    Compare(Box<Comparison>),
    /// A peer's patches of the own session, to compare.
    Own(OwnCheck),
    Snapshot(Box<Transfer>),
    /// The driver is putting the snapshot in place.
    Installing {
        /// Whether what was asked for was what all others have, and not all that the peer has.
        offers: bool,
    },
}

impl Pull {
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }
}

impl Session {
    /// Asks for the next page, if something is missing that a trusted peer has.
    pub(super) fn pull_next(&mut self, now: Duration) {
        if self.pull.is_some() || self.place_long(now) || self.storing.len() > self.options.storing_max / 2 {
            return;
        }
        if self.check_own_next(now) || self.repair_next(now) {
            return;
        }
        let ahead = self.ahead(now);
        if ahead.is_empty() {
            return self.walk_next(now);
        }
        let peer = ahead[self.jitter.below(ahead.len() as u64) as usize].clone();
        let mut want = self.wants(now, &peer);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.waits_for_room = false;
        }
        // Who lacks more than that is offered a snapshot, or the rest afterwards.
        want.truncate(self.options.unfolded_sessions_max);
        let offers = self.no_offers_until <= now;
        let id = self.request(now, peer.clone(), Stage::Patches { want: want.clone(), offers });
        let bytes_max = self.options.page_bytes_max as u64;
        self.send(peer, SyncMessage::Request { id, want, bytes_max, offers });
    }

    /// What a peer is to be asked for next.
    pub(super) fn wants(&self, now: Duration, peer: &PeerId) -> Vec<Want> {
        let Some(peer) = self.peers.get(peer) else { return Vec::new() };
        let mut wants = peer.wants(&self.accepted);
        if now < self.no_newcomers_until {
            wants.retain(|want| want.after > 0 && !peer.waits_for_room);
        }
        peer.order.narrowed(&wants)
    }

    pub(super) fn request(&mut self, now: Duration, peer: PeerId, stage: Stage) -> u64 {
        let (id, deadline) = self.next_request(now);
        self.pull = Some(Pull { peer, id, stage, deadline });
        id
    }

    /// The number of the next request, and by when it has to be answered.
    pub(super) fn next_request(&mut self, now: Duration) -> (u64, Duration) {
        self.requests += 1;
        self.counters.requests += 1;
        (self.requests, now + self.options.request_timeout)
    }

    /// Takes the pull if this is the answer that it waits for.
    pub(super) fn answered(&mut self, from: &PeerId, id: u64) -> Option<Pull> {
        self.pull.take_if(|pull| {
            pull.id == id && pull.peer == *from && !matches!(pull.stage, Stage::Installing { .. })
        })
    }

    pub(super) fn on_patches(&mut self, now: Duration, from: &PeerId, id: u64, records: Vec<PatchRecord>) {
        let Some(pull) = self.answered(from, id) else { return };
        let want = match pull.stage {
            Stage::Patches { want, .. } => want,
            Stage::Own(check) => return self.on_own_patches(now, check, records),
            Stage::Repair => return self.on_repaired(now, records),
            Stage::Walk { want, claimed } => return self.on_walked(now, from, &want, claimed, records),
            _ => return self.unhelpful(now, from, "sent patches for something else"),
        };
        let wanted = |record: &PatchRecord| {
            let place = want.binary_search_by_key(&record.session(), |want| want.sid);
            place.is_ok_and(|at| (want[at].after + 1..=want[at].upto).contains(&record.last()))
        };
        let (mut news, mut waits, mut no_room) = (false, None, false);
        for record in records {
            if wanted(&record) {
                self.counters.pulled += 1;
                if waits.is_none() {
                    waits = match self.readiness(&record) {
                        Readiness::Waits(on) => Some(on),
                        _ => None,
                    };
                }
                no_room |= self.has_no_room_for(now, &record);
                news |= self.take_in(now, record, Origin::Remote);
            }
        }
        if news {
            self.too_slow = 0;
            if let Some(peer) = self.peers.get_mut(from) {
                peer.order.goes_on();
            }
            self.pull_next(now);
            self.caught_up();
        } else if no_room {
            self.pull_next(now);
        } else if now < self.no_newcomers_until && waits.is_some_and(|on| self.accepted.get(&on) == 0) {
            if let Some(peer) = self.peers.get_mut(from) {
                peer.waits_for_room = true;
            }
            self.pull_next(now);
        } else if waits.is_some_and(|on| self.ask_for_cause(from, on)) {
            self.pull_next(now);
        } else if want.iter().any(|want| self.accepted.get(&want.sid) < want.upto) {
            self.unhelpful(now, from, "sent nothing of what it said it had");
        }
    }

    /// What a peer sent first waits for a session. Whether the peer has said that it has more of that; then it is asked for
    /// that alone, when it is its turn again.
    fn ask_for_cause(&mut self, from: &PeerId, on: SessionId) -> bool {
        let accepted = &self.accepted;
        self.peers.get_mut(from).is_some_and(|peer| {
            let wants = peer.wants(accepted);
            peer.order.waits(on, &wants)
        })
    }

    /// Says so if everything that peers are known to have is here.
    pub(super) fn caught_up(&mut self) {
        if self.pull.is_none() && self.parked.len() == 0 {
            self.outputs.push_back(Output::Event(SessionEvent::CaughtUp.into()));
        }
    }

    pub(super) fn installed(
        &mut self,
        now: Duration,
        vector: &StateVector<SessionId>,
        heads: Heads,
        content: Option<u64>,
    ) {
        self.counters.installed += 1;
        self.peers.none_is_parted();
        self.pull = None;
        self.too_slow = 0;
        for (record, origin) in &mut self.storing {
            if *origin != Origin::Local && record.last() <= vector.get(&record.session()) {
                *origin = Origin::Contained;
            }
        }
        self.remember_digest();
        self.content = content;
        if let Some(ends) = &mut self.ends {
            let local = self.storing.iter().filter(|(_, origin)| *origin == Origin::Local);
            ends.installed(heads, local.map(|(record, _)| record));
        }
        for (sid, before, last) in self.stored.missing_from(vector) {
            let change = digest::entry(*sid, last).wrapping_sub(digest::entry(*sid, before));
            self.digest = self.digest.wrapping_add(change);
            self.latest = self.latest.max(last);
        }
        self.stored.merge(vector);
        self.accepted.merge(vector);
        self.crowd = Crowd::new(vector.clone(), &self.accepted);
        self.no_newcomers_until = Duration::ZERO;
        for (sid, _) in vector.iter() {
            let mut released = Vec::new();
            self.release(*sid, &mut released);
            for (record, origin) in released {
                self.take_in(now, record, origin);
            }
        }
        self.pull_next(now);
    }

    pub(super) fn install_failed(&mut self, now: Duration) {
        self.no_offers_until = now + NO_OFFERS;
        if let Some(pull) = self.pull.take() {
            self.unhelpful(now, &pull.peer, "sent a broken snapshot");
        }
    }

    /// What a peer has put into its snapshot lacks what this replica has put into its own. If that is all that the peer has,
    /// and not what all others have too, they can't be put together by what the two have.
    pub(super) fn install_parted(&mut self, now: Duration) {
        self.no_offers_until = now + NO_OFFERS;
        let Some(pull) = self.pull.take() else { return };
        let all = matches!(pull.stage, Stage::Installing { offers: false });
        if all && self.peers.note_parted(&pull.peer, now) {
            self.counters.parted += 1;
            self.outputs.push_back(Output::Event(SessionEvent::Parted { peer: pull.peer.clone() }.into()));
        }
        self.unhelpful(now, &pull.peer, "has folded other patches than this replica");
    }

    pub(super) fn tick_pull(&mut self, now: Duration) {
        if let Some(pull) = self.pull.take_if(|pull| pull.deadline <= now) {
            if matches!(pull.stage, Stage::Installing { .. }) {
                // Our own store takes its time; nobody else is to blame.
                self.pull = Some(Pull { deadline: now + self.options.request_timeout, ..pull });
            } else {
                if matches!(pull.stage, Stage::Own(_)) {
                    self.own_check_failed(now, &pull.peer);
                }
                self.unhelpful(now, &pull.peer, "did not answer in time");
            }
        }
        self.tick_long(now);
        self.pull_next(now);
    }

    /// A peer failed us: leave it alone for a while, and ask another.
    pub(super) fn unhelpful(&mut self, now: Duration, id: &PeerId, why: &'static str) {
        self.counters.requests_failed += 1;
        let until = now + self.options.distrust;
        if let Some(peer) = self.peers.get_mut(id) {
            peer.distrust(until);
        }
        self.outputs.push_back(Output::Event(SessionEvent::Unhelpful { peer: id.clone(), why }.into()));
        self.pull_next(now);
    }
}
