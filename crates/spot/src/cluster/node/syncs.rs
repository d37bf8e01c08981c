//! Questions for topics, and their answers.

use std::collections::BTreeMap;

use super::{Node, PeerId};
use crate::cluster::command::Command;

impl Node {
    pub(super) fn query(&mut self, peer: PeerId) -> u64 {
        if let Some(&link) = self.peers[peer].links.first() {
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
}
