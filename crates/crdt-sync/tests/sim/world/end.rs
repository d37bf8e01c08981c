//! How a world ends, and what must hold then.

use std::collections::BTreeMap;

use crdt_core::{SessionId, StateVector, Timestamp};

use super::World;
use crate::replica::Replica;

impl World {
    /// Runs to the end. Returns a number that stands for all that happened if it is traced, and how often what did.
    pub(crate) fn run(mut self) -> Result<(Option<u64>, BTreeMap<&'static str, u64>), String> {
        self.run_to_end()?;
        self.check_end()?;
        let mut counts = BTreeMap::new();
        for (name, count) in self.replicas.iter().flat_map(|replica| replica.machine.counters().named()) {
            *counts.entry(name).or_insert(0) += count;
        }
        for name in ["store failures", "stopped", "found"] {
            counts.insert(name, self.counts.get(name).copied().unwrap_or(0));
        }
        for replica in &self.replicas {
            *counts.entry("folded").or_insert(0) += replica.folded;
            *counts.entry("folded while cut off").or_insert(0) += replica.folded_parted;
        }
        let failures = self.replicas.iter().map(|replica| replica.disk.failures).sum::<u64>();
        *counts.entry("store failures").or_insert(0) += failures;
        Ok((self.trace, counts))
    }

    /// Runs to the end a world in which a store was put back. Returns whether replicas differ: then those whose vectors say that
    /// they have the same know that they do not, and the one that was put back takes no edits.
    pub(crate) fn run_with_backup(mut self) -> Result<bool, String> {
        self.run_to_end()?;
        let kept: Vec<_> = self.replicas.iter().map(|one| (one.kept_vector(), one.kept_content())).collect();
        let differ = kept.iter().any(|one| *one != kept[0]);
        for (at, (vector, content)) in kept.iter().enumerate() {
            let unlike = kept.iter().any(|(other, theirs)| vector == other && content != theirs);
            if unlike && !self.replicas[at].noticed {
                return Err(format!(
                    "{} has other patches than one with the same times",
                    self.replicas[at].id
                ));
            }
        }
        // Whose peers have folded all that they have of its session can't be shown a patch that differs.
        let own = self.replicas[0].session;
        let mut others = self.replicas[1..].iter().flat_map(Replica::beyond_snapshot);
        if differ && !self.replicas[0].is_stopped() && others.any(|record| record.session() == own) {
            return Err("the one that was put back has not noticed it".to_owned());
        }
        Ok(differ)
    }

    pub(super) fn check_end(&self) -> Result<(), String> {
        let Some(first) = self.staying().next() else { return Ok(()) };
        for replica in self.staying() {
            // What only one without a key has of who has gone for good nobody can vouch for.
            let counts = |sid: &SessionId| !self.is_reader(replica) || !self.is_of_gone(*sid);
            let [vector, expected] = [replica, first].map(|replica| {
                let kept = replica.kept_vector();
                kept.iter().filter(|(sid, _)| counts(sid)).map(|(sid, last)| (*sid, last)).collect()
            });
            let (vector, expected): (StateVector<SessionId>, StateVector<SessionId>) = (vector, expected);
            if vector != expected {
                let lacks: Vec<_> = vector.missing_from(&expected).collect();
                let more: Vec<_> = expected.missing_from(&vector).collect();
                let status = replica.machine.status();
                return Err(format!(
                    "{} lacks {lacks:?} and has {more:?} more than {}; {status:?}",
                    replica.id, first.id
                ));
            }
            let [shows, document] = [replica, first].map(|replica| replica.doc.lock().clone());
            let shown = |(id, _): &(&Timestamp, &u64)| counts(&id.sid);
            if !shows.ids.iter().filter(shown).eq(document.ids.iter().filter(shown)) {
                return Err(format!("{} has another document than {}", replica.id, first.id));
            }
            let lost = |id: &&Timestamp| !shows.ids.contains_key(id) && !self.is_of_gone(id.sid);
            if let Some(lost) = self.acknowledged.iter().find(lost) {
                return Err(format!("{} was acknowledged and is not at {}", lost, replica.id));
            }
            // Of who has gone for good, what followed something that nobody got waits for it as long as there is room.
            let waits =
                self.acknowledged.iter().any(|id| self.is_of_gone(id.sid) && !shows.ids.contains_key(id));
            let status = replica.machine.status();
            if (status.parked > 0 && !waits) || status.storing > 0 {
                return Err(format!("{} is not at rest: {status:?}", replica.id));
            }
        }
        Ok(())
    }

    /// Whether it is a session of one who was taken from the list: what nobody had by then may be lost.
    fn is_of_gone(&self, sid: SessionId) -> bool {
        self.gone.as_ref().is_some_and(|(_, sessions)| sessions.contains(&sid))
    }

    /// Whether it has no key.
    fn is_reader(&self, replica: &Replica) -> bool {
        #[cfg(feature = "crypto")]
        return self.signed.writers > 0 && replica.number >= self.signed.writers;
        #[cfg(not(feature = "crypto"))]
        return replica.number >= self.replicas.len();
    }

    pub(super) fn staying(&self) -> impl Iterator<Item = &Replica> {
        let staying = self.replicas.iter().enumerate().filter(|(index, _)| !self.has_gone(*index));
        staying.map(|(_, replica)| replica)
    }
}
