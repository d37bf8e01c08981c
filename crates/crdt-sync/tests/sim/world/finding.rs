//! Discovery: who is there as each replica is told, soon or late, rightly or wrongly. Nobody says goodbye.

use std::{collections::BTreeSet, time::Duration};

use crdt_sync::PeerId;

use super::{TROUBLE, What, World};

/// How often discovery looks who can be reached, and for how long somebody has to be cut off until it says that they are gone.
const LOOK: Duration = Duration::from_millis(500);
const EXPIRY: Duration = Duration::from_millis(1500);

impl World {
    /// Looks who can be reached by each replica that runs.
    pub(super) fn look(&mut self) -> Result<(), String> {
        for at in 0..self.replicas.len() {
            if !self.replicas[at].down {
                let found = self.peers_reached(at);
                self.tell(at, found)?;
            }
        }
        if !self.misled {
            self.plan(self.now + LOOK, What::Look);
        }
        Ok(())
    }

    /// Tells a replica who is there, which need not be so.
    pub(super) fn discover(&mut self, at: usize) -> Result<(), String> {
        if self.replicas[at].down {
            return Ok(());
        }
        let found = self.peers_found(at);
        self.tell(at, found)
    }

    fn tell(&mut self, at: usize, found: BTreeSet<PeerId>) -> Result<(), String> {
        let mut wishes = Vec::new();
        *self.counts.entry("found").or_insert(0) +=
            self.replicas[at].discover(self.now, found, &mut wishes)?;
        self.fulfil(at, wishes);
        Ok(())
    }

    /// Who can be reached, or could be until a short while ago.
    fn peers_reached(&mut self, at: usize) -> BTreeSet<PeerId> {
        let now = self.now;
        for (of, replica) in self.replicas.iter().enumerate() {
            if of != at && !replica.down && self.side[at] == self.side[of] {
                self.reached[at].insert(of, now);
            }
        }
        self.reached[at].retain(|_, last| now < *last + EXPIRY);
        self.reached[at].keys().map(|of| self.replicas[*of].id.clone()).collect()
    }

    /// Who is there as discovery tells a replica: others that are not, and names that nobody has, as long as there is trouble.
    fn peers_found(&mut self, index: usize) -> BTreeSet<PeerId> {
        let trouble = self.now < TROUBLE;
        let others = self.replicas.iter().enumerate().filter(|(other, _)| *other != index);
        let mut found: BTreeSet<PeerId> = others.map(|(_, replica)| replica.id.clone()).collect();
        if trouble {
            found.retain(|_| self.random.percent(70));
            if self.random.percent(30) {
                found.extend(PeerId::new(format!("ghost-{}", self.random.below(5))));
            }
        }
        found
    }
}
