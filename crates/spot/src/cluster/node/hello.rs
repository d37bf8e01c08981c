//! Who peers are, and of whom they tell.

use super::{LinkId, Node, links::Role};
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
}
