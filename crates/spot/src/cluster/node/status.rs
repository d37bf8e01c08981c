//! What nodes count, and tell each other.

use std::time::Duration;

use super::{Counters, LinkId, Node, NodeId, PeerId, Protocol, inward::NotFollowed};
use crate::cluster::command::{Command, Status};

/// What another node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// How we are connected to it.
    pub name: String,
    /// How often it looks after its peers, as it said when it connected: how soon it notices that we are silent depends on
    /// its heartbeat, not on ours.
    pub heartbeat: Duration,
    /// What it counted since it began.
    pub counters: Counters,
    /// Topics that it owns.
    pub topics: u64,
    /// Its connections.
    pub links: u64,
    /// Bytes that wait for its peers.
    pub queued_bytes: u64,
}

impl Node {
    pub(super) fn tell_status(&mut self, id: LinkId) {
        let Counters {
            published,
            sent,
            received,
            delivered,
            dropped,
            gaps,
            duplicates,
            refused,
            undialed: _,
        } = self.counters;
        let topics = self.topics.iter().filter(|(_, topic)| !topic.open && topic.local.is_some()).count();
        let queued: usize = self.links.iter().map(|(_, link)| link.outbox.bytes()).sum();
        let own = [topics as u64, self.links.len() as u64, queued as u64];
        let counts = [published, sent, received, delivered, dropped, gaps, duplicates, refused];
        let mut status = Status::default();
        for (into, from) in status.counts.iter_mut().zip(counts.into_iter().chain(own)) {
            *into = from;
        }
        self.send(id, &Command::StatusResp(status));
    }

    pub(super) fn status_told(&mut self, peer: PeerId, status: Status) -> Result<(), NotFollowed> {
        let state = &mut self.peers[peer];
        if state.told >= state.asked {
            return Err(NotFollowed);
        }
        state.told += 1;
        state.status = status;
        self.changed = true;
        Ok(())
    }

    /// Asks all nodes of our kind what they count; see [`peers_told`](Self::peers_told).
    pub fn peers_ask(&mut self) -> Vec<(PeerId, u64)> {
        let peers: Vec<(PeerId, LinkId)> =
            self.peers.iter().filter_map(|(id, peer)| Some((id, *peer.links.first()?))).collect();
        let mut asked = Vec::new();
        for (peer, link) in peers {
            if self.links[link].protocol == Protocol::Extended {
                self.peers[peer].asked += 1;
                asked.push((peer, self.peers[peer].asked));
                self.send(link, &Command::Status);
            }
        }
        asked
    }

    /// What those have answered that were asked; `None` if all should have and some have not.
    pub fn peers_told(&self, asked: &[(PeerId, u64)], all: bool) -> Option<Vec<PeerStatus>> {
        let mut told = Vec::new();
        for (peer, wanted) in asked {
            // Who is gone answers no more.
            let Some(state) = self.peers.get(*peer) else { continue };
            let (Some(node), true) = (state.node, state.told >= *wanted) else {
                if all {
                    return None;
                }
                continue;
            };
            let name =
                state.links.first().map(|link| self.links[*link].info.name.clone()).unwrap_or_default();
            let [
                published,
                sent,
                received,
                delivered,
                dropped,
                gaps,
                duplicates,
                refused,
                topics,
                links,
                queued,
            ] = state.status.counts;
            let counters = Counters {
                published,
                sent,
                received,
                delivered,
                dropped,
                gaps,
                duplicates,
                refused,
                undialed: 0,
            };
            let heartbeat = state.heartbeat.unwrap_or_default();
            told.push(PeerStatus { node, name, heartbeat, counters, topics, links, queued_bytes: queued });
        }
        Some(told)
    }
}
