//! How nodes of the DAG come back whose content is damaged or gone here: the repair of go-ds-crdt.
//!
//! The driver looks for them in its store, from the heads down ([`Damage`](crate::dag::Damage)), and names them by their
//! links. They are asked for, a page at a time, one peer after the other; what comes is taken if it has the hash that the
//! link names, so that nobody can bring anything else.

use std::{collections::BTreeSet, time::Duration};

use crdt_core::{SessionId, StateVector};

use super::{Output, Session, pull::Stage};
use crate::{
    PatchRecord, PeerId, SyncMessage,
    dag::{LINKS_MAX, Link},
};

/// What is to be repaired.
#[derive(Debug, Default)]
pub(super) struct Repair {
    wanted: BTreeSet<Link>,
    /// Who has been asked since something was brought the last time.
    asked: BTreeSet<PeerId>,
}

impl Session {
    /// Whether nodes are being fetched anew.
    pub fn is_repairing(&self) -> bool {
        self.ends.as_ref().is_some_and(|ends| !ends.repair.wanted.is_empty())
    }

    pub(super) fn repair(&mut self, now: Duration, links: Vec<Link>) {
        let Some(ends) = &mut self.ends else {
            return self.outputs.push_back(Output::RepairEnds { left: links });
        };
        ends.repair.wanted.extend(links);
        ends.repair.asked.clear();
        self.pull_next(now);
    }

    /// Asks the next peer for what is to be repaired. Returns whether there is anything to repair; if nobody is left to ask,
    /// that is told, and it is given up.
    pub(super) fn repair_next(&mut self, now: Duration) -> bool {
        if !self.is_repairing() {
            return false;
        }
        let trusted: Vec<PeerId> = self.askable(now).map(|(id, _)| id.clone()).collect();
        let Some(ends) = &mut self.ends else { return false };
        let Repair { wanted, asked } = &mut ends.repair;
        let Some(peer) = trusted.into_iter().find(|peer| !asked.contains(peer)) else {
            let left = std::mem::take(wanted).into_iter().collect();
            asked.clear();
            self.outputs.push_back(Output::RepairEnds { left });
            return false;
        };
        asked.insert(peer.clone());
        let want: Vec<Link> = wanted.iter().take(LINKS_MAX).copied().collect();
        // What they follow is here, or will be asked for by its own link.
        let have: StateVector<SessionId> = want
            .iter()
            .flat_map(|link| [link.sid, self.options.session])
            .map(|sid| (sid, self.accepted.get(&sid)))
            .collect();
        let id = self.request(now, peer.clone(), Stage::Repair);
        let bytes_max = self.options.page_bytes_max as u64;
        self.send(peer, SyncMessage::Walk { id, want, have, bytes_max });
        true
    }

    pub(super) fn on_repaired(&mut self, now: Duration, records: Vec<PatchRecord>) {
        let mut news = false;
        for record in records {
            let link = Link::to(&record);
            if let Some(ends) = &mut self.ends
                && ends.repair.wanted.remove(&link)
            {
                news = true;
                self.counters.repaired += 1;
                self.outputs.push_back(Output::Mend(record));
            }
        }
        if news && let Some(ends) = &mut self.ends {
            ends.repair.asked.clear();
            if ends.repair.wanted.is_empty() {
                self.outputs.push_back(Output::RepairEnds { left: Vec::new() });
            }
        }
        self.pull_next(now);
    }
}
