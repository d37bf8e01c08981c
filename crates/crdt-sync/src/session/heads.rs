//! What a session does differently when the group synchronises by the Merkle DAG: what it tells, and what it asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crdt_core::{SessionId, StateVector, Timestamp};

use super::{Origin, Refusal, Session, pull::Stage, repair::Repair};
use crate::{
    PatchRecord, PeerId, SyncMessage,
    dag::{Heads, LINKS_MAX, Link, NodeHash},
};

/// How many forked sessions are reported; a group with more is told enough.
const FORKS_MAX: usize = 64;

/// The ends of this replica's DAG.
#[derive(Debug)]
pub(super) struct Ends {
    /// Of what is in the document: the next local patch follows these.
    applied: Heads,
    /// The last local node.
    own: Option<Link>,
    /// Of what is durable: these are told to peers.
    stored: Heads,
    /// How many nodes walks have brought since everything was here the last time.
    walked: usize,
    /// Sessions known to be used by two replicas, each reported once.
    forked: BTreeSet<SessionId>,
    pub(super) repair: Repair,
}

impl Ends {
    pub(super) fn new(stored: Heads) -> Self {
        Self {
            applied: stored.clone(),
            own: None,
            stored,
            walked: 0,
            forked: BTreeSet::new(),
            repair: Repair::default(),
        }
    }

    pub(super) fn stored(&self) -> &Heads {
        &self.stored
    }

    pub(super) fn note_stored(&mut self, record: &PatchRecord) {
        self.stored.add(record);
    }

    /// A snapshot is in place: `heads` are those of all that is durable now, `local` is what is not durable yet.
    pub(super) fn installed<'a>(&mut self, heads: Heads, local: impl Iterator<Item = &'a PatchRecord>) {
        self.applied = heads.clone();
        self.stored = heads;
        for record in local {
            self.applied.add(record);
        }
    }
}

impl Session {
    /// The heads of what is durable here; `None` where the group does not use the DAG.
    pub fn heads(&self) -> Option<&Heads> {
        self.ends.as_ref().map(Ends::stored)
    }

    /// What a local patch that begins at `time` follows: nothing where the group does not use the DAG.
    pub fn links(&self, time: u64) -> Box<[Link]> {
        let Some(ends) = &self.ends else { return Box::default() };
        let mut links = ends.applied.latest(self.options.session).into_vec();
        let all = links.len();
        // What came between the edit and its hand-over is no cause of it.
        links.retain(|link| link.last < time);
        if links.len() < all {
            links.extend(ends.own.filter(|own| !links.contains(own)));
            links.sort_unstable();
        }
        links.into()
    }

    /// Puts a node on top of the DAG: a local one when it is handed over, another one when it is applied.
    pub(super) fn grow(&mut self, record: &PatchRecord) {
        let Some(ends) = &mut self.ends else { return };
        let forked = ends.applied.add(record);
        if record.session() == self.options.session {
            ends.own = ends.applied.get(record.session());
        }
        if let Some(link) = forked {
            self.report_fork(link);
        }
    }

    /// Tells that a session seems to be used twice. A hash is easily made up, so it is told and nothing else: what proves it
    /// of the own session is a patch.
    fn report_fork(&mut self, link: Link) {
        let Some(ends) = &mut self.ends else { return };
        if ends.forked.len() < FORKS_MAX && ends.forked.insert(link.sid) {
            self.refuse(Refusal::SessionUsedTwice(Timestamp::new(link.sid, link.last)));
        }
    }

    /// Tells what is here, to all or to one.
    pub(super) fn announce(&mut self, to: Option<PeerId>) {
        let message = match &self.ends {
            None => SyncMessage::Digest { digest: self.digest, content: self.content },
            Some(ends) => {
                let heads = ends.stored.latest(self.options.session).into();
                SyncMessage::Heads { heads, digest: ends.stored.digest() }
            }
        };
        self.send(to, message);
    }

    pub(super) fn on_heads(&mut self, now: Duration, from: &PeerId, heads: Vec<Link>, digest: u64) {
        if heads.len() > LINKS_MAX {
            self.counters.requests_dropped += 1;
            return;
        }
        if let Some(ends) = &self.ends {
            let ours = |link: &Link| ends.applied.get(link.sid).filter(|ours| ours.last == link.last);
            let forked = heads.iter().find(|link| ours(link).is_some_and(|ours| ours.hash != link.hash));
            if let Some(forked) = forked.copied() {
                self.report_fork(forked);
                if forked.sid == self.options.session {
                    self.on_own_time(now, from, forked.last);
                }
            }
        }
        self.differs(now, from, digest);
        if digest != self.own_digest()
            && let Some(peer) = self.peers.get_mut(from)
        {
            peer.heads = heads;
        }
    }

    /// A peer's difference has had time to go away, and did not.
    pub(super) fn look_into(&mut self, now: Duration, id: PeerId) {
        let unknown = self.ends.is_some() && !self.unknown_heads(&id).is_empty();
        // All its heads are here, so it is behind, and asks when it hears of ours. Or else the rest of its heads did
        // not fit its message: that comes out in a comparison.
        let behind = self.ends.is_some() && !unknown && self.jitter.below(4) > 0;
        if unknown {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.walk = true;
            }
            self.pull_next(now);
        } else if behind {
            self.announce(Some(id));
        } else {
            self.compare(now, id);
        }
    }

    fn unknown_heads(&self, id: &PeerId) -> Vec<Link> {
        let heads = self.peers.get(id).map(|peer| &peer.heads[..]).unwrap_or_default();
        heads.iter().filter(|link| self.accepted.get(&link.sid) < link.last).copied().collect()
    }

    /// Walks from the heads of a peer that is due, and from what parked nodes follow.
    pub(super) fn walk_next(&mut self, now: Duration) {
        if self.ends.is_none() {
            return;
        }
        let due: Vec<PeerId> =
            self.askable(now).filter(|(_, peer)| peer.walk).map(|(id, _)| id.clone()).collect();
        if !due.is_empty() {
            let one = self.jitter.below(due.len() as u64) as usize;
            self.walk(now, due[one].clone());
        }
    }

    /// Asks a peer for its unknown heads and for what parked nodes follow, or, when that has led too deep, what it has.
    pub(super) fn walk(&mut self, now: Duration, id: PeerId) {
        // For a while after a newcomer has found no room none are asked for, nor what follows them.
        let may_be_taken = |link: &Link| now >= self.no_newcomers_until || self.accepted.get(&link.sid) > 0;
        let mut heads = self.unknown_heads(&id);
        heads.retain(may_be_taken);
        let claimed = !heads.is_empty();
        let mut want = self.parked.missing_links(&self.accepted);
        want.retain(may_be_taken);
        want.extend(heads.into_iter().filter(|link| !self.parked.contains(link.sid, link.last)));
        want.sort_unstable();
        want.dedup();
        // The oldest first: what comes of them can be taken in soonest.
        want.truncate(LINKS_MAX);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.walk = false;
        }
        let Some(ends) = &mut self.ends else { return };
        // A walk may be answered by a snapshot; who could not take one over lately asks for patches, by vectors.
        let no_offers = now < self.no_offers_until;
        if want.is_empty() || no_offers || ends.walked >= self.options.walk_nodes_max {
            ends.walked = 0;
            return self.compare(now, id);
        }
        let mut have: StateVector<SessionId> =
            ends.applied.latest(self.options.session).iter().map(|link| (link.sid, link.last)).collect();
        for link in &want {
            have.advance(link.sid, self.accepted.get(&link.sid));
        }
        let bytes_max = self.options.page_bytes_max as u64;
        let id_number = self.request(now, id.clone(), Stage::Walk { want: want.clone(), claimed });
        self.send(id, SyncMessage::Walk { id: id_number, want, have, bytes_max });
    }

    #[tracing::instrument(name = "walk", level = "debug", skip_all, fields(%from, nodes = records.len()))]
    pub(super) fn on_walked(
        &mut self,
        now: Duration,
        from: &PeerId,
        want: &[Link],
        claimed: bool,
        records: Vec<PatchRecord>,
    ) {
        let nodes = self.verified(want, records);
        if let Some(ends) = &mut self.ends {
            ends.walked += nodes.len();
        }
        let (mut fresh, mut news) = (false, false);
        for record in nodes {
            self.counters.walked += 1;
            let (sid, last) = (record.session(), record.last());
            let is_fresh = self.accepted.get(&sid) < last && !self.parked.contains(sid, last);
            let refused = self.counters.refused;
            self.has_no_room_for(now, &record);
            self.take_in(now, record, Origin::Remote);
            fresh |= is_fresh;
            // What is refused is wanted still by all that follow it, and the next walk would bring just that again.
            news |= is_fresh && self.counters.refused == refused;
        }
        if fresh {
            self.too_slow = 0;
        }
        if !fresh && claimed {
            return self.unhelpful(now, from, "sent nothing of the heads that it said it had");
        }
        if self.parked.len() == 0 {
            if let Some(ends) = &mut self.ends {
                ends.walked = 0;
            }
            self.caught_up();
        } else if news && let Some(peer) = self.peers.get_mut(from) {
            peer.walk = true;
        }
        self.pull_next(now);
    }

    /// The nodes that are wanted, and those that they lead to: what a peer sends beside them is ignored. Causes before
    /// effects, as they came.
    fn verified(&mut self, want: &[Link], records: Vec<PatchRecord>) -> Vec<PatchRecord> {
        let mut expected: BTreeMap<(SessionId, u64), Option<NodeHash>> =
            want.iter().map(|link| ((link.sid, link.last), Some(link.hash))).collect();
        let mut verified = Vec::new();
        for record in records.into_iter().rev() {
            let link = Link::to(&record);
            match expected.get(&(link.sid, link.last)) {
                None => continue,
                Some(Some(hash)) if *hash != link.hash => {
                    self.report_fork(link);
                    continue;
                }
                Some(_) => {}
            }
            expected.extend(record.links.iter().map(|link| ((link.sid, link.last), Some(link.hash))));
            if record.links.is_empty() {
                // Written before the group took to the DAG: it follows its session's previous one, whose hash is not
                // known from it.
                expected.entry((link.sid, record.prev)).or_insert(None);
            }
            verified.push(record);
        }
        verified.reverse();
        verified
    }
}
