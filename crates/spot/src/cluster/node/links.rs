//! Connections and peers: who is there, since when, and for how long nothing was heard.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use super::{Absent, Event, Link, LinkId, Node, Output, Peer, PeerId, Protocol, TopicId};
use crate::{
    TopicPattern,
    cluster::{command::Command, membership::PeerState, node::Policy, outbox::Outbox},
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
    /// The name that authentication gave the peer; empty if it showed nothing.
    pub principal: String,
    /// Whether that is a name, by which the peer may come to us as well. What we dialed and would not let in has none, only
    /// its key.
    pub named: bool,
    /// Whether we showed the peer who we are: it is there that it lets us do what we may.
    pub shown: bool,
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

impl Peer {
    /// Whether what it owns is known.
    pub(super) fn is_known(&self) -> bool {
        self.answers >= self.known_with
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("info", &self.info).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Node {
    /// Keeps a connection to an endpoint from now on. False if it does already.
    pub fn target_add(&mut self, endpoint: &str) -> bool {
        self.endpoint_named(endpoint);
        let added = self.membership.add(endpoint, false, self.now);
        self.dial_due();
        added
    }

    /// Makes the connection to an endpoint anew, if there is one: what it is to show there is different now.
    pub fn target_redial(&mut self, endpoint: &str) {
        if let Some(link) = self.membership.targets.get(endpoint).and_then(|target| target.link) {
            self.close(link, "it is dialed again with other security");
        }
    }

    /// Ends the connection to an endpoint; the peer's topics go with it. False if there was none.
    pub fn target_remove(&mut self, endpoint: &str) -> bool {
        let Some(target) = self.membership.remove(endpoint) else { return false };
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
            let link = target.link.and_then(|link| self.links.get(link)).filter(|link| !link.closing);
            let peer = link.and_then(|link| link.peer);
            (endpoint.as_str(), &target.state, peer.is_some_and(|peer| self.peers[peer].is_known()))
        })
    }

    /// Whether of each endpoint it is known what it owns, or that it cannot be reached.
    pub fn is_settled_with_all(&self) -> bool {
        let down = |state: &PeerState| matches!(state, PeerState::Down { .. });
        let failed = |endpoint: &str| self.membership.targets.get(endpoint).is_some_and(|t| t.failures > 0);
        self.targets().all(|(endpoint, state, known)| known || down(state) || failed(endpoint))
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

    /// A connection has finished its handshake.
    pub fn link_up(&mut self, info: LinkInfo) -> LinkId {
        let mut outbox = Outbox::default();
        outbox.contiguous = info.sealed;
        let extended = info.extended;
        self.outputs.push_back(Output::Timer);
        let role = info.role.clone();
        let full = role == Role::Accepted && self.accepted >= self.options.links_max;
        self.accepted += usize::from(role == Role::Accepted);
        let id = self.links.insert(Link {
            info,
            protocol: Protocol::Founding,
            delimited: false,
            peer: None,
            outbox,
            since: self.now,
            heard_at: self.now,
            pinged_at: self.now,
            suspect: false,
            closing: false,
            inbound: HashMap::new(),
            inbound_of: HashMap::new(),
            unheard: BTreeMap::new(),
            interest: BTreeSet::new(),
            told: BTreeMap::new(),
            unanswered: 0,
            lagging: BTreeSet::new(),
            cursors: BTreeSet::new(),
            held_by: BTreeSet::new(),
            dropped: 0,
            refused: 0,
        });
        if let Role::Dialed(endpoint) = role {
            match self.membership.targets.get_mut(&endpoint) {
                // Two dials were under way: it was removed and added again meanwhile.
                Some(target)
                    if target
                        .link
                        .and_then(|link| self.links.get(link))
                        .is_some_and(|link| !link.closing) =>
                {
                    self.close(id, "there is another connection to it");
                    return id;
                }
                Some(target) => (target.link, target.retry_at) = (Some(id), None),
                // Removed in the meantime.
                None => {
                    self.close(id, "removed from the cluster");
                    return id;
                }
            }
        }
        if full {
            self.counters.refused += 1;
            self.close(id, "too many connections");
            return id;
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

    pub(super) fn peer_new(&mut self, node: Option<super::NodeId>, incarnation: u64) -> PeerId {
        let (links, topics, endpoints, refused) = Default::default();
        let peer = self.peers.insert(Peer {
            node,
            incarnation,
            since: self.now,
            heartbeat: None,
            links,
            topics,
            endpoints,
            answers: 0,
            queries: 0,
            known_with: 1,
            refused,
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

    pub(super) fn peer_link(&mut self, peer: PeerId, id: LinkId) {
        self.links[id].peer = Some(peer);
        // What we ask goes over the first: where the peer knows who we are, if there is such a one, or else where we know
        // who the peer is.
        let (links, state) = (&self.links, &mut self.peers[peer]);
        let rank = |link: LinkId| {
            let info = &links[link].info;
            if info.shown { 0 } else { 1 + u8::from(!info.named) }
        };
        let at = state.links.iter().take_while(|link| rank(**link) <= rank(id)).count();
        state.links.insert(at, id);
        if at == 0 {
            if self.links[id].protocol == Protocol::Extended {
                let returns = self.open_lost && self.peers[peer].links.len() == 1;
                self.send_open_interests(peer, returns);
            }
            let mut topics: Vec<TopicId> = self.peers[peer].topics.keys().copied().collect();
            topics.sort_unstable();
            for topic in topics {
                self.reroute(topic);
            }
        }
        if at == 0 || self.options.rights.is_some() {
            self.peers[peer].known_with = self.query(peer);
        }
        let LinkInfo { role, name, .. } = self.links[id].info.clone();
        let dialed = match role {
            Role::Dialed(endpoint) => Some(endpoint),
            Role::Accepted => None,
        };
        if let Some(target) = dialed.as_ref().and_then(|endpoint| self.membership.targets.get_mut(endpoint)) {
            target.failures = 0;
            target.state = PeerState::Up;
        }
        let is_dialed = dialed.is_some();
        let (endpoint, state) = (dialed.unwrap_or(name), PeerState::Up);
        self.outputs.push_back(Output::Event(Event::Peer { endpoint, state }));
        if is_dialed {
            self.reroute_routed();
        }
        self.changed = true;
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
        // Before it is forgotten for whom it was.
        self.tell_drops();
        let Some(link) = self.links.try_remove(id) else { return };
        self.held_links -= usize::from(!link.held_by.is_empty());
        self.accepted -= usize::from(link.info.role == Role::Accepted);
        let peer = link.peer;
        let node = peer.and_then(|peer| self.peers[peer].node);
        // First, because what follows makes room, and with it answers to peers.
        if let Some(peer) = peer {
            self.peers[peer].links.retain(|l| *l != id);
            // Nobody has to wait for an answer that was to come on it.
            self.peers[peer].answers += link.unanswered;
        }
        for topic in link.cursors.iter().copied() {
            self.cursor_remove(topic, id, node);
        }
        if let Some(peer) = peer {
            let gone = self.peers[peer].links.is_empty();
            let mut affected: Vec<TopicId> = self.peers[peer].topics.keys().copied().collect();
            affected.sort_unstable();
            if gone {
                // Nobody waits for its answer any more, nor for that of the next peer of this number.
                self.sync_lost(peer);
            }
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
                    self.open_lost = true;
                }
                self.peers.remove(peer);
            } else if self.links[self.peers[peer].links[0]].protocol == Protocol::Extended {
                self.send_open_interests(peer, true);
                self.query(peer);
            }
        }
        match &link.info.role {
            Role::Dialed(endpoint) => {
                // Not of one too many, nor of one from before it was removed and added again.
                let target = self.membership.targets.get(endpoint);
                if target.is_some_and(|target| target.link == Some(id)) {
                    self.target_down(endpoint, reason);
                }
            }
            Role::Accepted if link.peer.is_some() => {
                let state = PeerState::Down { reason: reason.to_owned() };
                self.outputs
                    .push_back(Output::Event(Event::Peer { endpoint: link.info.name.clone(), state }));
            }
            Role::Accepted => {}
        }
        self.moves_end(id);
        self.reroute_routed();
        self.room();
        self.place_partitions();
        self.changed = true;
    }

    fn cursor_remove(&mut self, id: TopicId, link: LinkId, node: Option<super::NodeId>) {
        let now = self.now;
        let Some(local) = self.topics.get_mut(id).and_then(|topic| topic.local.as_mut()) else { return };
        let Some(at) = local.flow.cursors.iter().position(|cursor| cursor.link == link) else { return };
        let cursor = local.flow.cursors.remove(at);
        // Between two nodes there may be two connections; it may have moved to the other one before.
        let of_node = |link: &Link| link.peer.and_then(|peer| self.peers[peer].node) == node;
        let moved = local.flow.cursors.iter().any(|cursor| self.links.get(cursor.link).is_some_and(of_node));
        if let (Some(node), Policy::Block { .. }) = (node.filter(|_| !moved), local.options.policy) {
            local.flow.absent.retain(|absent| absent.node != node);
            local.flow.absent.push(Absent { node, acked: cursor.acked, since: now });
        }
        self.acked_changed(id);
    }

    /// Tells the application what was dropped for whom since it was told last.
    pub(super) fn tell_drops(&mut self) {
        for id in std::mem::take(&mut self.dropping) {
            let Some(topic) = self.topics.get_mut(id) else { continue };
            for cursor in topic.local.iter_mut().flat_map(|local| &mut local.flow.cursors) {
                let messages = std::mem::take(&mut cursor.dropped);
                if messages > 0 {
                    let (topic, peer) = (topic.name.clone(), self.links[cursor.link].info.name.clone());
                    self.outputs.push_back(Output::Event(Event::Dropped { topic, peer, messages }));
                }
            }
        }
    }

    /// Whether a peer has open interest in a topic.
    pub(super) fn has_interest(&self, link: LinkId, topic: &crate::Topic) -> bool {
        self.links[link].interest.iter().any(|text| TopicPattern::new(text).is_ok_and(|p| p.matches(topic)))
    }
}

/// After so many failures an endpoint that gossip brought is forgotten.
pub(super) const GOSSIP_FAILURES_MAX: u32 = 8;

/// Bytes of commands that may wait beyond the bound for messages; a list of many topics has to fit.
const CONTROL_BYTES_MAX: usize = 64 << 20;
