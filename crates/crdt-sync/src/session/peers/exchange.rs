//! Who comes and goes, and what peers say: states that are exchanged, differences that are looked into, requests.

use std::{sync::Arc, time::Duration};

use crdt_core::{SessionId, StateVector};

use super::Attendance;
use crate::{
    PeerId, SyncMessage,
    dag::LINKS_MAX,
    session::{Output, Page, ReadWhat, Session, SessionEvent, compare::ENTRIES_MAX},
};

impl Session {
    pub(in crate::session) fn peer_up(&mut self, now: Duration, id: PeerId) {
        // Who has nothing has nothing to wait for.
        let at = if self.stored.is_empty() { now } else { now + self.options.settle };
        let digest = self.own_digest().wrapping_add(1);
        let (peer, put_out) = self.peers.found(&id, now);
        let came_back = peer.attendance != Attendance::Found && peer.attendance != Attendance::Stranger;
        peer.attendance = Attendance::Found;
        if (peer.vector.is_none() || came_back) && peer.probe.is_none() {
            // Nothing is known of it yet, or of now, which is as good as a difference.
            self.peers.probe(&id, at, digest);
        }
        put_out.into_iter().for_each(|peer| self.forgotten(peer));
    }

    /// Nothing is kept any more for a peer that discovery had named, and that has not said goodbye.
    pub(in crate::session) fn forgotten(&mut self, peer: PeerId) {
        self.expect_nothing_of(&peer);
        self.counters.forgotten += 1;
        self.outputs.push_back(Output::Event(SessionEvent::Forgotten { peer }.into()));
    }

    /// A peer is gone without a word. It may be cut off and go on, so that what it is not known to have is kept for it: two
    /// sides that fold apart can't be put together again.
    pub(in crate::session) fn peer_down(&mut self, now: Duration, id: &PeerId) {
        self.expect_nothing_of(id);
        let until = now.saturating_add(self.peers.absent_max);
        if let Some(peer) = self.peers.known.get_mut(id).filter(|peer| peer.is_found()) {
            peer.attendance = Attendance::Absent { until, silent: true };
            (peer.probe, peer.walk) = (None, false);
            peer.heads.clear();
        }
    }

    /// A peer has said goodbye, or somebody knows that it does not come back.
    pub(in crate::session) fn peer_left(&mut self, id: &PeerId) {
        self.expect_nothing_of(id);
        self.peers.known.remove(id);
    }

    fn expect_nothing_of(&mut self, id: &PeerId) {
        self.long.take_if(|long| long.peer == *id);
        if self.pull.as_ref().is_some_and(|pull| pull.peer == *id) {
            self.pull = None;
        }
    }

    pub(in crate::session) fn gap(&mut self, now: Duration) {
        self.trickle.inconsistent(now, &mut self.jitter);
        self.ask(now);
    }

    /// A peer says what it has, and it is certain that it does.
    pub(in crate::session) fn proven(
        &mut self,
        now: Duration,
        from: PeerId,
        voice: u64,
        message: SyncMessage,
    ) {
        let has = match &message {
            SyncMessage::State { vector, .. } if vector.len() <= self.options.sessions_max => {
                Some(self.as_shared(vector.clone()))
            }
            SyncMessage::Digest { digest, .. } | SyncMessage::Heads { digest, .. } => {
                let same = *digest == self.own_digest() || *digest == self.digest;
                same.then(|| self.stored_shared())
            }
            _ => None,
        };
        let Some(peer) = self.peers.heard(&from, now) else { return self.no_room() };
        if peer.voice.replace(voice) != Some(voice) {
            peer.proven = None;
        }
        if let Some(has) = has {
            peer.prove(&has);
            self.peers.forget_above(ENTRIES_MAX);
        }
        self.message(now, from, message);
    }

    /// What is durable here, for those who have the same.
    fn stored_shared(&mut self) -> Arc<StateVector<SessionId>> {
        if *self.stored_lately != self.stored {
            self.stored_lately = Arc::new(self.stored.clone());
        }
        Arc::clone(&self.stored_lately)
    }

    /// What a peer has said, shared with all who have what is here.
    pub(in crate::session) fn as_shared(
        &mut self,
        vector: StateVector<SessionId>,
    ) -> Arc<StateVector<SessionId>> {
        if vector == self.stored { self.stored_shared() } else { Arc::new(vector) }
    }

    pub(in crate::session) fn message(&mut self, now: Duration, from: PeerId, message: SyncMessage) {
        if self.peers.heard(&from, now).is_none() {
            return self.no_room();
        }
        match message {
            // It is the driver's to open it; and what a node says to its clients is nothing among peers.
            SyncMessage::Signed { .. } | SyncMessage::Welcome { .. } => {}
            SyncMessage::Digest { digest, content } => {
                self.differs(now, &from, digest);
                self.on_content(now, &from, digest, content);
            }
            SyncMessage::State { vector, reply } => self.on_state(now, from, vector, reply),
            SyncMessage::Request { id, want, bytes_max, offers } => {
                let bytes_max = self.page_bytes(bytes_max);
                self.on_request(from, id, ReadWhat::Patches { want, bytes_max, offers });
            }
            SyncMessage::Fetch { id, hash, offset } => {
                let bytes_max = self.options.page_bytes_max;
                self.on_request(from, id, ReadWhat::Part { hash, offset, bytes_max });
            }
            SyncMessage::Ahead { vector } => self.on_ahead(now, &from, &vector),
            SyncMessage::Heads { heads, digest } => self.on_heads(now, &from, heads, digest),
            SyncMessage::Walk { id, want, have, bytes_max } => {
                let bytes_max = self.page_bytes(bytes_max);
                self.on_request(from, id, ReadWhat::Walk { want, have, bytes_max });
            }
            SyncMessage::Compare { id, salt, from: first, count } => {
                self.on_compare(now, from, id, salt, (first, count));
            }
            SyncMessage::Sketch { id, digest, entries, symbols } => {
                self.on_sketch(now, &from, id, (digest, entries), &symbols);
            }
            SyncMessage::Patches { id, records } | SyncMessage::Vouched { id, records, .. } => {
                self.on_patches(now, &from, id, records);
            }
            SyncMessage::Offer { id, snapshot } => self.on_offer(now, &from, id, snapshot),
            SyncMessage::Part { id, hash, offset, bytes } => {
                self.on_part(now, &from, id, (hash, offset), &bytes);
            }
        }
    }

    /// There are as many peers as may be, and discovery does not name who says this: it is heard when one of them has gone.
    const fn no_room(&mut self) {
        self.counters.requests_dropped += 1;
    }

    /// A peer said the digest of what it has: if it is another than ours, the difference gets some time to go away.
    pub(in crate::session) fn differs(&mut self, now: Duration, from: &PeerId, digest: u64) {
        let at = now + self.options.settle;
        let same = digest == self.own_digest() || digest == self.digest;
        let Some(peer) = self.peers.get_mut(from) else { return };
        if same {
            self.trickle.consistent();
            peer.parted = None;
            if peer.agreed.replace(digest) != Some(digest) || peer.vector.is_none() {
                peer.heads.clear();
                // What is here already, so that it is not ahead by that.
                let has = self.stored_shared();
                self.peers.has(from, has);
            }
        } else {
            let at = peer.probe.map_or(at, |(at, _)| at);
            self.peers.probe(from, at, digest);
        }
    }

    fn on_state(&mut self, now: Duration, from: PeerId, vector: StateVector<SessionId>, reply: bool) {
        if vector.len() > self.options.sessions_max {
            self.counters.requests_dropped += 1;
            return;
        }
        self.told(now, &from, vector);
        if reply {
            self.tell_state(now, from, false);
        }
        self.pull_next(now);
    }

    /// Sends a peer our state, at most twice per `settle`; to all whom discovery does not name, so much and no more.
    pub(in crate::session) fn tell_state(&mut self, now: Duration, to: PeerId, reply: bool) {
        let settle = self.options.settle;
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let again = peer.told_at.is_some_and(|at| now < at + settle / 2);
        // What this replica asks of its own accord is short, or somebody is waited for.
        let counts = !reply && !peer.is_found();
        if again || counts && !self.told.takes(now, settle, self.stored.len()) {
            self.counters.requests_dropped += 1;
            return;
        }
        peer.told_at = Some(now);
        let vector = self.stored.clone();
        self.send(to, SyncMessage::State { vector, reply });
    }

    /// Looks at the peers whose difference has had time to go away.
    pub(in crate::session) fn tick_peers(&mut self, now: Duration) {
        for id in self.peers.due(now) {
            let probe = self.peers.get_mut(&id).and_then(|peer| peer.probe.take());
            let Some((_, digest)) = probe else { continue };
            if digest == self.own_digest() || digest == self.digest {
                continue;
            }
            self.trickle.inconsistent(now, &mut self.jitter);
            if self.digests_lately.iter().any(|(then, _)| *then == digest) {
                // It is where we were: what it lacks is on its way, or else it will ask when it hears how far we are.
                self.announce(Some(id));
            } else {
                self.look_into(now, id);
            }
        }
    }

    /// Something is missing: ask for it when it has had time to come by itself.
    pub(in crate::session) fn ask_soon(&mut self, now: Duration) {
        self.ask_at.get_or_insert(now + self.options.settle);
    }

    /// Asks one peer what it has.
    pub(in crate::session) fn ask(&mut self, now: Duration) {
        self.ask_at = None;
        let waits = self.parked.first_wait().is_some();
        if self.pull.is_some() {
            // The page under way may bring it; look again when it is here, or given up.
            self.ask_at = waits.then_some(now + self.options.request_timeout);
            return;
        }
        let trusted: Vec<PeerId> = self.askable(now).map(|(id, _)| id.clone()).collect();
        if trusted.is_empty() {
            self.announce(None);
        } else {
            let one = self.jitter.below(trusted.len() as u64) as usize;
            match self.ends {
                Some(_) => self.walk(now, trusted[one].clone()),
                None => self.compare(now, trusted[one].clone()),
            }
        }
        // Until nothing waits any more: that peer may not have it, and words get lost.
        self.ask_at = waits.then_some(now + self.options.request_timeout);
    }

    /// How large a page may be for somebody who asks for so much.
    fn page_bytes(&self, asked: u64) -> usize {
        usize::try_from(asked)
            .map_or(self.options.page_bytes_max, |asked| asked.min(self.options.page_bytes_max))
    }

    fn on_request(&mut self, from: PeerId, id: u64, what: ReadWhat) {
        let too_many = match &what {
            ReadWhat::Patches { want, .. } => {
                // One session asked for again and again would be as many sessions to the store.
                want.len() > self.options.unfolded_sessions_max || !want.is_sorted_by(|a, b| a.sid < b.sid)
            }
            ReadWhat::Walk { want, have, .. } => want.len() > LINKS_MAX || have.len() > 2 * LINKS_MAX,
            ReadWhat::Part { .. } => false,
        };
        let full = self.reads >= self.options.reads_max;
        match self.peers.get_mut(&from) {
            Some(peer) if !peer.reading && !full && !too_many => {
                peer.reading = true;
                self.reads += 1;
                self.outputs.push_back(Output::Read { peer: from, id, what: what.into() });
            }
            _ => self.counters.requests_dropped += 1,
        }
    }

    pub(in crate::session) fn page(&mut self, to: PeerId, id: u64, page: Page) {
        self.reads = self.reads.saturating_sub(1);
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.reading = false;
        }
        self.counters.pages += 1;
        let message = match page {
            Page::Records(records) => SyncMessage::Patches { id, records },
            Page::Snapshot(snapshot) => SyncMessage::Offer { id, snapshot },
            Page::Part { hash, offset, bytes } => SyncMessage::Part { id, hash, offset, bytes },
        };
        self.send(to, message);
    }
}
