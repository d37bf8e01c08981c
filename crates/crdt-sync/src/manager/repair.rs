//! What the driver does to repair its store.

use tokio::sync::oneshot;

use super::{SyncError, driver::Driver};
use crate::{
    PatchRecord, PatchStoreError, SharedError,
    dag::{Damage, Link},
    session::Input,
};

/// How many bytes are read at a time: one patch comes however large it is, and one is what is asked for.
const READ_BYTES: usize = 1;
/// How many nodes are read before what has come meanwhile is served: a long log must not keep a replica from its peers.
pub(super) const READS_AT_ONCE: usize = 64;

/// What a [`repair`](crate::SyncManager::repair) found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Repaired {
    /// How many stored nodes were looked at.
    pub seen: u64,
    /// How many were damaged or missing, and are as they should be again.
    pub mended: u64,
    /// Those that no peer could bring: all of them are away, or have folded them into a snapshot. Try again when there are
    /// others, or take over a snapshot with an empty store.
    pub left: Vec<Link>,
}

/// Who waits for a repair.
pub(super) type RepairDone = oneshot::Sender<Result<Repaired, SyncError>>;

/// A repair under way.
#[derive(Default)]
pub(super) struct Repairing {
    result: Repaired,
    /// The look at the stored nodes, while it lasts.
    damage: Option<Damage>,
    /// What was put back follows these. Nobody could see that while it was damaged.
    below: Vec<Link>,
    waiting: Vec<RepairDone>,
}

impl Driver {
    /// Begins to repair; a repair that is under way answers whoever asks meanwhile, too.
    #[tracing::instrument(level = "debug", skip_all)]
    pub(super) fn repair(&mut self, done: RepairDone) {
        let under_way = !self.repairing.waiting.is_empty();
        self.repairing.waiting.push(done);
        if !under_way {
            let heads: Option<Vec<Link>> = self.machine.heads().map(|heads| heads.iter().collect());
            self.repairing.damage = Some(Damage::new(heads.unwrap_or_default()));
        }
    }

    /// Whether there are nodes to look at at once.
    pub(super) const fn is_looking(&self) -> bool {
        self.repairing.damage.is_some()
    }

    /// Looks at a few more nodes, if a repair is under way; at the end it has brought what is damaged.
    pub(super) async fn look_on(&mut self) {
        let Some(mut damage) = self.repairing.damage.take() else { return };
        for _ in 0..READS_AT_ONCE {
            let Some(want) = damage.next_read() else { return self.looked(damage) };
            if let Err(error) = damage.read(self.parts.store.page(&[want], READ_BYTES).await) {
                return self.end_repair(Err(error));
            }
        }
        self.repairing.damage = Some(damage);
        // A store in memory never waits, and others are on this thread, too.
        tokio::task::yield_now().await;
    }

    fn looked(&mut self, damage: Damage) {
        self.repairing.result.seen = self.repairing.result.seen.max(damage.seen());
        let found = damage.finish();
        if found.is_empty() {
            let mut result = std::mem::take(&mut self.repairing.result);
            result.left.sort_unstable();
            result.left.dedup();
            self.end_repair(Ok(result));
        } else {
            tracing::warn!(nodes = found.len(), "stored nodes are damaged or missing");
            self.input(Input::Repair(found));
        }
    }

    /// Puts back a node.
    pub(super) async fn mend(&mut self, record: &PatchRecord) {
        match self.parts.store.mend(record).await {
            Ok(()) => {
                self.repairing.result.mended += 1;
                self.repairing.below.extend(&record.links);
            }
            Err(error) => self.end_repair(Err(error)),
        }
    }

    /// All that was found has been brought, or nobody has it.
    pub(super) fn repair_ends(&mut self, left: Vec<Link>) {
        self.repairing.result.left.extend(left);
        let below = std::mem::take(&mut self.repairing.below);
        if !self.repairing.waiting.is_empty() && !self.machine.is_repairing() {
            self.repairing.damage = Some(Damage::new(below));
        }
    }

    fn end_repair(&mut self, result: Result<Repaired, PatchStoreError>) {
        let result = result.map_err(SharedError::new);
        for done in std::mem::take(&mut self.repairing).waiting {
            let told = result.clone().map_err(SyncError::Repair);
            let _ = done.send(told); // Or the caller gave up waiting; it is done all the same.
        }
    }
}
