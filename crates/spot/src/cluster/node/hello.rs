//! Who peers are, and of whom they tell.

use std::time::Duration;

use super::{
    LinkId, Node, PeerId,
    links::{LinkInfo, Role},
};
use crate::cluster::command::{Command, Hello};

/// Endpoints at most that we stay connected to; gossip adds none beyond.
const GOSSIP_TARGETS_MAX: usize = 1024;

impl Node {
    pub(super) fn send_hello(&mut self, link: LinkId) {
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
            heartbeat_ms: self.options.heartbeat.as_millis().try_into().unwrap_or(u32::MAX),
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
            let claim = known.map(|peer| (peer, self.claim(id, peer, hello.incarnation)));
            let peer = match claim {
                Some((_, Claim::False)) => {
                    self.counters.refused += 1;
                    return self.close(id, "its node is connected, and known by another name");
                }
                Some((peer, Claim::Same)) => peer,
                Some((old, Claim::Anew(reason))) => {
                    for link in self.peers[old].links.clone() {
                        self.close(link, reason);
                    }
                    self.by_node.remove(&hello.node);
                    self.peer_new(Some(hello.node), hello.incarnation)
                }
                None => self.peer_new(Some(hello.node), hello.incarnation),
            };
            self.peer_link(peer, id);
        }
        let Some(peer) = self.links[id].peer else { return };
        let own: Vec<String> =
            hello.endpoints.iter().filter(|(node, _)| *node == hello.node).map(|(_, e)| e.clone()).collect();
        let news = self.peers[peer].endpoints != own;
        self.peers[peer].heartbeat = Some(Duration::from_millis(hello.heartbeat_ms.into()));
        self.peers[peer].endpoints = own;
        if !self.options.gossip {
            return;
        }
        for (node, endpoint) in &hello.endpoints {
            if *node == self.options.id || self.by_node.contains_key(node) {
                continue;
            }
            if !self.may_dial(endpoint) || self.membership.targets.len() >= GOSSIP_TARGETS_MAX {
                self.counters.undialed += 1;
                continue;
            }
            self.membership.add(endpoint, true, self.now);
        }
        self.dial_due();
        if news {
            self.gossip_stale = true;
            self.gossip_on();
        }
    }

    /// Somebody here named an endpoint: to connect to, to listen at, or to be told to others. Gossip may lead to others of its
    /// kind.
    pub fn endpoint_named(&mut self, endpoint: &str) {
        if let Some(kind) = kind(endpoint).filter(|kind| !self.kinds.contains(*kind)) {
            self.kinds.insert(kind.to_owned());
        }
    }

    /// This node is reached at an endpoint from now on: all peers are told, and through them the others.
    pub fn advertise(&mut self, endpoint: String) {
        self.options.advertise.push(endpoint);
        self.gossip_stale = true;
        self.gossip_on();
    }

    /// Whether gossip may lead to an endpoint. Unless somebody here decides for each, only to one of a kind that was named here:
    /// who has only spoken of other machines does not expect that a peer makes him open a socket of this one.
    fn may_dial(&self, endpoint: &str) -> bool {
        let of_kind = |named: &String| kind(named) == kind(endpoint);
        match &self.options.gossip_allow {
            Some(allow) => allow(endpoint),
            None => kind(endpoint)
                .is_some_and(|kind| self.kinds.contains(kind) || self.options.advertise.iter().any(of_kind)),
        }
    }

    /// Tells all what was learned, at most once per heartbeat: a peer that changes its mind all the time costs no more.
    pub(super) fn gossip_on(&mut self) {
        if !self.gossip_stale || self.gossiped_at.is_some_and(|at| self.now < at + self.options.heartbeat) {
            return;
        }
        (self.gossip_stale, self.gossiped_at) = (false, Some(self.now));
        let all: Vec<LinkId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.node.is_some())
            .filter_map(|(_, peer)| peer.links.first().copied())
            .collect();
        for link in all {
            self.send_hello(link);
        }
    }

    /// What a connection can be that says it is of a node that is connected already: nobody speaks for another.
    fn claim(&self, id: LinkId, peer: PeerId, incarnation: u64) -> Claim {
        let new = &self.links[id].info;
        let lives_on = self.peers[peer].incarnation == incarnation;
        let mut others = self.peers[peer].links.iter().map(|link| &self.links[*link].info);
        let differs = others.clone().any(|o| o.named && new.named && o.principal != new.principal);
        if !new.principal.is_empty() && self.is_chosen(new) {
            // Whom we dial we have chosen, and it has shown its key: who has another name was not that node, and who
            // lives another life is not.
            return match (lives_on, differs) {
                (true, false) => Claim::Same,
                (true, true) => Claim::Anew("the node itself was dialed, and has another name"),
                (false, _) => Claim::Anew("the peer has restarted"),
            };
        }
        if lives_on {
            // It may have another key to be dialed with, or none; but two names are two nodes.
            let accepted = |info: &&LinkInfo| info.role == Role::Accepted;
            let agrees = match accepted(&new) {
                true => others.filter(accepted).all(|other| other.principal == new.principal),
                // Anybody may be where gossip leads. It has proved nothing, and we have nothing to lose there.
                false => self.is_chosen(new) || new.named || new.shown || !others.any(|other| other.named),
            };
            return if agrees && !differs { Claim::Same } else { Claim::False };
        }
        // A restart ends the connections of the earlier life.
        let agrees = match new.principal.is_empty() {
            true => others.all(|other| other.principal.is_empty()),
            false => others.any(|other| other.principal == new.principal),
        };
        if agrees { Claim::Anew("the peer has restarted") } else { Claim::False }
    }

    /// Whether we dialed an endpoint that somebody here named, not gossip.
    pub(super) fn is_chosen(&self, info: &LinkInfo) -> bool {
        match &info.role {
            Role::Dialed(endpoint) => {
                self.membership.targets.get(endpoint).is_some_and(|target| !target.gossiped)
            }
            Role::Accepted => false,
        }
    }
}

/// What stands before `://`.
fn kind(endpoint: &str) -> Option<&str> {
    endpoint.split_once("://").map(|(kind, _)| kind)
}

/// What a connection is that says it is of a node that is connected already.
enum Claim {
    /// Another connection of it.
    Same,
    /// The node, while what is connected is its earlier life, or was never it; why that ends.
    Anew(&'static str),
    /// Somebody else.
    False,
}
