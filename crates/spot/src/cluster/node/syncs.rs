//! Questions for topics, and their answers.

use std::collections::BTreeMap;

use super::{Node, PeerId, TopicId};
use crate::{Topic, cluster::command::Command};

/// What a sync brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// Peers that told their topics.
    pub answered: Vec<SyncAnswer>,
    /// Peers that did not, in time.
    pub timed_out: Vec<String>,
}

/// What a sync brought from one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncAnswer {
    /// Its endpoint, or its address if it connected to us.
    pub peer: String,
    /// How many topics it owns.
    pub topics: usize,
    /// Those of them that were not known to be its own when it was asked, by name.
    pub added: Vec<Topic>,
    /// Those that it owned then and does not any more.
    pub removed: Vec<Topic>,
}

/// A peer that was asked.
#[derive(Debug)]
pub(super) struct Awaited {
    /// Which of its answers counts.
    answer: u64,
    /// Topics that it owns since it was asked (true), or has owned until then. What comes and goes again is not in it.
    changed: BTreeMap<Topic, bool>,
}

impl Node {
    pub(super) fn query(&mut self, peer: PeerId) -> u64 {
        // Where there are rights, some of its topics may count on one connection only, and some on another.
        let asked = if self.options.rights.is_some() { usize::MAX } else { 1 };
        for link in self.peers[peer].links.iter().copied().take(asked).collect::<Vec<_>>() {
            self.peers[peer].queries += 1;
            self.links[link].unanswered += 1;
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

    /// Asks all peers for their topics; see [`sync_report`](Self::sync_report).
    pub fn sync_begin(&mut self) -> u64 {
        let peers: Vec<PeerId> =
            self.peers.iter().filter(|(_, p)| !p.links.is_empty()).map(|(id, _)| id).collect();
        let mut awaited = BTreeMap::new();
        for peer in peers {
            awaited.insert(peer, Awaited { answer: self.query(peer), changed: BTreeMap::new() });
        }
        self.syncs_begun += 1;
        self.syncs.insert(self.syncs_begun, awaited);
        self.syncs_begun
    }

    /// Whether every peer has answered that was asked and is still there.
    pub fn is_synced(&self, sync: u64) -> bool {
        let answered = |(peer, awaited): (&PeerId, &Awaited)| {
            self.peers.get(*peer).is_none_or(|state| state.answers >= awaited.answer)
        };
        self.syncs.get(&sync).into_iter().flatten().all(answered)
    }

    /// What the peers have answered until now, and which have not.
    pub fn sync_report(&self, sync: u64) -> SyncReport {
        let mut report = SyncReport::default();
        for (&peer, awaited) in self.syncs.get(&sync).into_iter().flatten() {
            let Some(state) = self.peers.get(peer) else { continue };
            let name =
                state.links.first().map(|link| self.links[*link].info.name.clone()).unwrap_or_default();
            if state.answers < awaited.answer {
                report.timed_out.push(name);
                continue;
            }
            let changed = |to: bool| {
                let which = awaited.changed.iter().filter(move |(_, owned)| **owned == to);
                which.map(|(topic, _)| topic.clone()).collect()
            };
            let topics = state.topics.len();
            report.answered.push(SyncAnswer {
                peer: name,
                topics,
                added: changed(true),
                removed: changed(false),
            });
        }
        report
    }

    /// A peer is gone.
    pub(super) fn sync_lost(&mut self, peer: PeerId) {
        for peers in self.syncs.values_mut() {
            peers.remove(&peer);
        }
    }

    /// A peer owns a topic now, or no more: those want to know who wait for its answer.
    pub(super) fn sync_saw(&mut self, peer: PeerId, id: TopicId, owned: bool) {
        for awaited in self.syncs.values_mut().filter_map(|peers| peers.get_mut(&peer)) {
            let name = &self.topics[id].name;
            if awaited.changed.remove(name).is_none() {
                awaited.changed.insert(name.clone(), owned);
            }
        }
    }

    /// Forgets a sync.
    pub fn sync_end(&mut self, sync: u64) {
        self.syncs.remove(&sync);
    }
}
