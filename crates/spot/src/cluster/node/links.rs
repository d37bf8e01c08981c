//! Connections and peers: who is there, since when, and for how long nothing was heard.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use super::{Absent, CREDIT_DELAY, Event, Link, LinkId, Node, Output, Peer, PeerId, Protocol, TopicId};
use crate::{
    TopicPattern,
    cluster::{
        command::{Command, Hello},
        membership::{PeerState, backoff},
        node::Policy,
        outbox::Outbox,
    },
};

/// Which side made a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// We, to this endpoint.
    Dialed(String),
    /// The peer.
    Accepted,
}

/// What is known of a connection when it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Which side made it.
    pub role: Role,
    /// For people: the endpoint, or the peer's address.
    pub name: String,
    /// Whether the peer announced our extensions.
    pub extended: bool,
    /// Whether the peer's engine answers PING.
    pub pings: bool,
    /// Whether each segment must hold whole frames.
    pub sealed: bool,
    /// The name that authentication gave the peer.
    pub principal: String,
}

/// How it stands with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// See [`LinkInfo::name`].
    pub name: String,
    /// Which side made it.
    pub role: Role,
    /// Who is there, if it says so.
    pub node: Option<super::NodeId>,
    /// How it stands.
    pub state: PeerState,
    /// Topics of ours that it is subscribed to.
    pub subscriptions: usize,
    /// Topics that it owns.
    pub topics: usize,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// Messages dropped for it.
    pub dropped: u64,
    /// Its commands that were refused.
    pub refused: u64,
    /// How long nothing was heard of it.
    pub silence: Duration,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("info", &self.info).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Node {
    /// Keeps a connection to an endpoint from now on. False if it does already.
    pub fn target_add(&mut self, endpoint: &str) -> bool {
        let added = self.membership.add(endpoint, false, self.now);
        self.dial_due();
        added
    }

    /// Ends the connection to an endpoint; the peer's topics go with it. False if there was none.
    pub fn target_remove(&mut self, endpoint: &str) -> bool {
        let Some(target) = self.membership.targets.remove(endpoint) else { return false };
        self.routes_end(endpoint);
        if let Some(link) = target.link {
            self.close(link, "removed from the cluster");
        }
        self.changed = true;
        true
    }

    /// How it stands with each endpoint, and whether its topics are known.
    pub fn targets(&self) -> impl Iterator<Item = (&str, &PeerState, bool)> {
        self.membership.targets.iter().map(|(endpoint, target)| {
            let peer = target.link.and_then(|link| self.links.get(link)?.peer);
            (endpoint.as_str(), &target.state, peer.is_some_and(|peer| self.peers[peer].answers > 0))
        })
    }

    /// How it stands with each connection.
    pub fn links(&self) -> Vec<LinkStatus> {
        let status = |(id, link): (LinkId, &Link)| LinkStatus {
            name: link.info.name.clone(),
            role: link.info.role.clone(),
            node: link.peer.and_then(|peer| self.peers[peer].node),
            state: match (link.suspect, link.peer) {
                (true, _) => PeerState::Suspect,
                (_, None) => PeerState::Connecting,
                _ => PeerState::Up,
            },
            subscriptions: link.cursors.len(),
            topics: link
                .peer
                .filter(|peer| self.peers[*peer].links.first() == Some(&id))
                .map_or(0, |peer| self.peers[peer].topics.len()),
            queued_bytes: link.outbox.bytes(),
            dropped: link.dropped,
            refused: link.refused,
            silence: self.now.saturating_sub(link.heard_at),
        };
        self.links.iter().map(status).collect()
    }

    /// A dial came to nothing; it will be repeated.
    pub fn dial_failed(&mut self, endpoint: &str, reason: &str) {
        self.target_down(endpoint, reason);
    }

    fn target_down(&mut self, endpoint: &str, reason: &str) {
        let chance = self.chance();
        let (min, max) = (self.options.reconnect_min, self.options.reconnect_max);
        let Some(target) = self.membership.targets.get_mut(endpoint) else { return };
        target.link = None;
        target.retry_at = Some(self.now + backoff(min, max, target.failures, chance));
        target.failures = target.failures.saturating_add(1);
        target.state = PeerState::Down { reason: reason.to_owned() };
        let state = target.state.clone();
        if target.gossiped && target.failures > GOSSIP_FAILURES_MAX {
            self.membership.targets.remove(endpoint);
        }
        self.outputs.push_back(Output::Event(Event::Peer { endpoint: endpoint.to_owned(), state }));
        self.outputs.push_back(Output::Timer);
        self.changed = true;
    }

    /// A connection has finished its handshake.
    pub fn link_up(&mut self, info: LinkInfo) -> LinkId {
        let mut outbox = Outbox::default();
        outbox.contiguous = info.sealed;
        let extended = info.extended;
        self.outputs.push_back(Output::Timer);
        let role = info.role.clone();
        let id = self.links.insert(Link {
            info,
            protocol: Protocol::Founding,
            delimited: false,
            peer: None,
            outbox,
            heard_at: self.now,
            pinged_at: self.now,
            suspect: false,
            closing: false,
            inbound: HashMap::new(),
            interest: BTreeSet::new(),
            lagging: BTreeSet::new(),
            cursors: BTreeSet::new(),
            held_by: BTreeSet::new(),
            dropped: 0,
            refused: 0,
        });
        if let Role::Dialed(endpoint) = role {
            match self.membership.targets.get_mut(&endpoint) {
                Some(target) => target.link = Some(id),
                // Removed in the meantime.
                None => {
                    self.close(id, "removed from the cluster");
                    return id;
                }
            }
        }
        if extended {
            self.links[id].protocol = Protocol::Extended;
            self.send_hello(id);
        } else {
            let peer = self.peer_new(None, 0);
            self.peer_link(peer, id);
        }
        id
    }

    fn peer_new(&mut self, node: Option<super::NodeId>, incarnation: u64) -> PeerId {
        let (links, topics, endpoints) = Default::default();
        let peer = self.peers.insert(Peer {
            node,
            incarnation,
            links,
            topics,
            endpoints,
            answers: 0,
            queries: 0,
            query_again: false,
            asked: 0,
            told: 0,
            status: Default::default(),
        });
        if let Some(node) = node {
            self.by_node.insert(node, peer);
        }
        peer
    }

    fn peer_link(&mut self, peer: PeerId, id: LinkId) {
        self.links[id].peer = Some(peer);
        self.peers[peer].links.push(id);
        let first = self.peers[peer].links.len() == 1;
        if first {
            if self.links[id].protocol == Protocol::Extended {
                self.open_gaps();
                self.send_open_interests(id);
            }
            self.query(peer);
        }
        if let Role::Dialed(endpoint) = self.links[id].info.role.clone() {
            if let Some(target) = self.membership.targets.get_mut(&endpoint) {
                target.failures = 0;
                target.state = PeerState::Up;
            }
            self.outputs.push_back(Output::Event(Event::Peer { endpoint, state: PeerState::Up }));
            self.reroute_routed();
        }
        self.changed = true;
    }

    /// Tells subscriptions without owners that a publisher was away and may have been missed.
    fn open_gaps(&mut self) {
        if self.open_lost == 0 {
            return;
        }
        self.open_lost -= 1;
        let mut wake = Vec::new();
        for (id, sub) in self.subs.iter_mut().filter(|(_, sub)| sub.open) {
            for pattern in &sub.patterns {
                if sub.ring.push_gap(pattern, 0, None) {
                    wake.push(id);
                }
            }
        }
        self.outputs.extend(wake.into_iter().map(Output::Readable));
    }

    pub(super) fn query(&mut self, peer: PeerId) -> u64 {
        if let Some(&link) = self.peers[peer].links.first() {
            self.peers[peer].queries += 1;
            self.send(link, &Command::Query);
        }
        self.peers[peer].queries
    }

    /// The number of an answer that will come after all that was sent until now.
    pub(super) fn barrier(&mut self, peer: PeerId) -> u64 {
        let state = &mut self.peers[peer];
        if state.answers >= state.queries {
            return self.query(peer);
        }
        // One QUERY serves all that wait while another is under way.
        state.query_again = true;
        state.queries + 1
    }

    fn send_hello(&mut self, link: LinkId) {
        let mut endpoints: Vec<_> =
            self.options.advertise.iter().map(|endpoint| (self.options.id, endpoint.clone())).collect();
        if self.options.gossip {
            for (_, peer) in &self.peers {
                let node = peer.node;
                endpoints
                    .extend(peer.endpoints.iter().filter_map(|endpoint| Some((node?, endpoint.clone()))));
            }
        }
        let hello = Hello {
            version: 2,
            node: self.options.id,
            incarnation: self.options.incarnation,
            heartbeat_ms: self.options.heartbeat.as_millis() as u32,
            endpoints,
        };
        self.send(link, &Command::Hello(hello));
    }

    pub(super) fn handle_hello(&mut self, id: LinkId, hello: Hello) {
        if hello.node == self.options.id {
            if let Role::Dialed(endpoint) = self.links[id].info.role.clone() {
                self.membership.targets.remove(&endpoint);
            }
            return self.close(id, "the peer is this node itself");
        }
        if self.links[id].peer.is_none() {
            let known = self.by_node.get(&hello.node).copied();
            let peer = match known {
                Some(peer) if self.peers[peer].incarnation == hello.incarnation => peer,
                known => {
                    if let Some(old) = known {
                        // An earlier life of it, whose end we have not noticed.
                        for link in self.peers[old].links.clone() {
                            self.close(link, "the peer has restarted");
                        }
                        self.by_node.remove(&hello.node);
                    }
                    self.peer_new(Some(hello.node), hello.incarnation)
                }
            };
            self.peer_link(peer, id);
        }
        let Some(peer) = self.links[id].peer else { return };
        let own: Vec<String> =
            hello.endpoints.iter().filter(|(node, _)| *node == hello.node).map(|(_, e)| e.clone()).collect();
        let news = self.peers[peer].endpoints != own;
        self.peers[peer].endpoints = own;
        if !self.options.gossip {
            return;
        }
        for (node, endpoint) in &hello.endpoints {
            let known = *node == self.options.id || self.by_node.contains_key(node);
            let allowed = self.options.gossip_allow.as_ref().is_none_or(|allow| allow(endpoint));
            if !known && allowed && self.membership.targets.len() < GOSSIP_TARGETS_MAX {
                self.membership.add(endpoint, true, self.now);
            }
        }
        self.dial_due();
        if news {
            let others: Vec<LinkId> = self
                .peers
                .iter()
                .filter(|(p, other)| *p != peer && other.node.is_some())
                .filter_map(|(_, p)| p.links.first().copied())
                .collect();
            for link in others {
                self.send_hello(link);
            }
        }
    }

    /// Puts a command into a link's outbox.
    pub(super) fn send(&mut self, id: LinkId, command: &Command<'_>) {
        let Some(link) = self.links.get_mut(id).filter(|link| !link.closing) else { return };
        link.outbox.put_command(command, link.delimited);
        if link.outbox.bytes() > self.options.send_bytes_max * 2 + CONTROL_BYTES_MAX {
            return self.close(id, "it does not read: too many commands wait for it");
        }
        if self.links[id].outbox.schedule() {
            self.outputs.push_back(Output::Write(id));
        }
    }

    pub(super) fn close(&mut self, id: LinkId, reason: &str) {
        if !std::mem::replace(&mut self.links[id].closing, true) {
            self.outputs.push_back(Output::Close(id, reason.to_owned()));
        }
    }

    /// A connection is closed, for whatever reason. The number may be given to another one from now on.
    pub fn link_closed(&mut self, id: LinkId, reason: &str) {
        let Some(link) = self.links.try_remove(id) else { return };
        self.held_links -= usize::from(!link.held_by.is_empty());
        let peer = link.peer;
        let node = peer.and_then(|peer| self.peers[peer].node);
        // First, because what follows makes room, and with it answers to peers.
        if let Some(peer) = peer {
            self.peers[peer].links.retain(|l| *l != id);
        }
        for topic in link.cursors.iter().copied() {
            self.cursor_remove(topic, id, node);
        }
        if let Some(peer) = peer {
            let gone = self.peers[peer].links.is_empty();
            let mut affected: Vec<TopicId> = self.peers[peer].topics.keys().copied().collect();
            affected.sort_unstable();
            for topic in &affected {
                match gone {
                    true => self.owner_remove(peer, *topic, false),
                    false => self.reroute(*topic),
                }
            }
            if gone {
                if let Some(node) = node {
                    if self.by_node.get(&node) == Some(&peer) {
                        self.by_node.remove(&node);
                    }
                    self.open_lost += 1;
                    self.moves_end(node);
                }
                self.peers.remove(peer);
            } else if self.links[self.peers[peer].links[0]].protocol == Protocol::Extended {
                let link = self.peers[peer].links[0];
                self.open_lost += 1;
                self.open_gaps();
                self.send_open_interests(link);
                self.query(peer);
            }
        }
        if let Role::Dialed(endpoint) = &link.info.role {
            self.target_down(endpoint, reason);
            self.reroute_routed();
        }
        self.room();
        self.place_partitions();
        self.changed = true;
    }

    fn cursor_remove(&mut self, id: TopicId, link: LinkId, node: Option<super::NodeId>) {
        let now = self.now;
        let Some(local) = self.topics.get_mut(id).and_then(|topic| topic.local.as_mut()) else { return };
        let Some(at) = local.cursors.iter().position(|cursor| cursor.link == link) else { return };
        let cursor = local.cursors.remove(at);
        // Between two nodes there may be two connections; it may have moved to the other one before.
        let of_node = |link: &Link| link.peer.and_then(|peer| self.peers[peer].node) == node;
        let moved = local.cursors.iter().any(|cursor| self.links.get(cursor.link).is_some_and(of_node));
        if let (Some(node), Policy::Block { .. }) = (node.filter(|_| !moved), local.options.policy) {
            local.absent.retain(|absent| absent.node != node);
            local.absent.push(Absent { node, acked: cursor.acked, since: now });
        }
        self.acked_changed(id);
    }

    /// Tells the time. Everything that is due happens.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.dial_due();
        if self.credit_at.is_some_and(|at| at <= self.now) {
            self.credit_at = None;
            for topic in std::mem::take(&mut self.touched) {
                self.send_credit(topic);
            }
        }
        let heartbeat = self.options.heartbeat;
        let silence_max = heartbeat * self.options.heartbeats_missed_max;
        for id in self.links.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            let link = &mut self.links[id];
            if !link.held_by.is_empty() {
                // It is we who do not listen.
                link.heard_at = self.now;
            }
            let silence = self.now.saturating_sub(link.heard_at);
            let suspect = silence > heartbeat * 2;
            if std::mem::replace(&mut link.suspect, suspect) != suspect {
                let state = if suspect { PeerState::Suspect } else { PeerState::Up };
                self.outputs
                    .push_back(Output::Event(Event::Peer { endpoint: link.info.name.clone(), state }));
            }
            if silence > silence_max {
                self.close(id, &format!("nothing heard for {silence:?}"));
            } else if self.now.saturating_sub(link.pinged_at) >= heartbeat {
                link.pinged_at = self.now;
                let (pings, extended) = (link.info.pings, link.protocol == Protocol::Extended);
                match (pings, extended, link.peer) {
                    (true, ..) => self.outputs.push_back(Output::Ping(id)),
                    (_, true, _) => self.send(id, &Command::Ping(0)),
                    // The only thing that every peer answers.
                    (_, _, Some(peer)) => {
                        self.query(peer);
                    }
                    _ => {}
                }
            }
        }
        if self.now >= self.swept_at + heartbeat {
            self.swept_at = self.now;
            self.sweep();
        }
    }

    /// What need not be done in time: absent nodes that stay away, and publishers that are blocked for too long.
    fn sweep(&mut self) {
        let grace = self.options.resume_grace;
        let mut changed = Vec::new();
        let mut blocked = Vec::new();
        for (id, topic) in &mut self.topics {
            let Some(local) = &mut topic.local else { continue };
            let before = local.absent.len();
            local.absent.retain(|absent| self.now.saturating_sub(absent.since) < grace);
            if local.absent.len() != before {
                changed.push(id);
            }
            local.forget_publishers(|node| self.by_node.contains_key(&node));
            if let (Some(since), Policy::Block { timeout }) = (local.blocked_since, local.options.policy)
                && self.now.saturating_sub(since) >= timeout
            {
                blocked.push(id);
            }
        }
        for id in changed {
            self.acked_changed(id);
        }
        for id in blocked {
            self.evict(id);
            self.drain_backlog(id);
            // Whatever is still in the way: nobody is kept waiting for longer.
            self.release(id);
        }
        if self.held_links > 0 {
            // A topic may have moved on without its backlog.
            let held = self.links.iter().flat_map(|(_, link)| link.held_by.iter().copied());
            for id in held.filter(|id| !self.blocked.contains(id)).collect::<Vec<_>>() {
                self.release(id);
            }
        }
        self.sweep_moves();
    }

    /// When [`advance`](Self::advance) has something to do at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let heartbeat = self.options.heartbeat;
        let tick = (!self.links.is_empty() || !self.topics.is_empty()).then(|| {
            let ping = self.links.iter().map(|(_, link)| link.pinged_at + heartbeat).min();
            ping.map_or(self.swept_at + heartbeat, |ping| ping.min(self.swept_at + heartbeat))
        });
        [tick, self.membership.next_due(), self.credit_at].into_iter().flatten().min()
    }

    fn dial_due(&mut self) {
        for endpoint in self.membership.due(self.now) {
            self.outputs.push_back(Output::Dial(endpoint));
        }
    }

    /// Acknowledge soon, but not for every message.
    pub(super) fn credit_soon(&mut self) {
        if self.credit_at.is_none() {
            self.credit_at = Some(self.now + CREDIT_DELAY);
            self.outputs.push_back(Output::Timer);
        }
    }

    /// Asks all peers for their topics; see [`sync_status`](Self::sync_status).
    pub fn sync_begin(&mut self) -> u64 {
        let peers: Vec<PeerId> =
            self.peers.iter().filter(|(_, p)| !p.links.is_empty()).map(|(id, _)| id).collect();
        let awaited: BTreeMap<PeerId, u64> = peers.into_iter().map(|peer| (peer, self.query(peer))).collect();
        self.syncs_begun += 1;
        self.syncs.insert(self.syncs_begun, awaited);
        self.syncs_begun
    }

    /// Which peers have answered, and which have not.
    pub fn sync_status(&self, sync: u64) -> (Vec<String>, Vec<String>) {
        let (mut answered, mut pending) = (Vec::new(), Vec::new());
        for (&peer, &wanted) in self.syncs.get(&sync).into_iter().flatten() {
            let Some(state) = self.peers.get(peer) else { continue };
            let name =
                state.links.first().map(|link| self.links[*link].info.name.clone()).unwrap_or_default();
            if state.answers >= wanted { answered.push(name) } else { pending.push(name) }
        }
        (answered, pending)
    }

    /// Forgets a sync.
    pub fn sync_end(&mut self, sync: u64) {
        self.syncs.remove(&sync);
    }

    /// Whether a peer has open interest in a topic.
    pub(super) fn has_interest(&self, link: LinkId, topic: &crate::Topic) -> bool {
        self.links[link].interest.iter().any(|text| TopicPattern::new(text).is_ok_and(|p| p.matches(topic)))
    }
}

/// Endpoints at most that we stay connected to; gossip adds none beyond.
const GOSSIP_TARGETS_MAX: usize = 1024;
/// After so many failures an endpoint that gossip brought is forgotten.
const GOSSIP_FAILURES_MAX: u32 = 8;
/// Bytes of commands that may wait beyond the bound for messages; a list of many topics has to fit.
const CONTROL_BYTES_MAX: usize = 64 << 20;
