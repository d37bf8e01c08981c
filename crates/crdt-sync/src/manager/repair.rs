//! What the driver does to repair its store.

use tokio::sync::oneshot;

use super::{SyncError, driver::Driver};
use crate::{
    PatchRecord, PatchStoreError,
    dag::{Damage, Link},
    session::Input,
};

/// How many bytes are read at a time: one patch comes however large it is, and one is what is asked for.
const READ_BYTES: usize = 1;

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
    /// What was put back follows these. Nobody could see that while it was damaged.
    below: Vec<Link>,
    waiting: Vec<RepairDone>,
}

impl Driver {
    /// Begins to repair; a repair that is under way answers whoever asks meanwhile, too.
    #[tracing::instrument(level = "debug", skip_all)]
    pub(super) async fn repair(&mut self, done: RepairDone) {
        let under_way = !self.repairing.waiting.is_empty();
        self.repairing.waiting.push(done);
        if !under_way {
            let heads = self.machine.heads().map(|heads| heads.iter().collect());
            self.look_below(heads.unwrap_or_default()).await;
        }
    }

    /// Looks at nodes and at what they follow, and has brought what is damaged.
    async fn look_below(&mut self, links: Vec<Link>) {
        let mut damage = Damage::new(links);
        while let Some(want) = damage.next_read() {
            if let Err(error) = damage.read(self.parts.store.page(&[want], READ_BYTES).await) {
                return self.end_repair(Err(error));
            }
        }
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
    pub(super) async fn repair_ends(&mut self, left: Vec<Link>) {
        self.repairing.result.left.extend(left);
        let below = std::mem::take(&mut self.repairing.below);
        if !self.repairing.waiting.is_empty() && !self.machine.is_repairing() {
            self.look_below(below).await;
        }
    }

    fn end_repair(&mut self, result: Result<Repaired, PatchStoreError>) {
        (self.repairing.result, self.repairing.below) = Default::default();
        for done in std::mem::take(&mut self.repairing.waiting) {
            let told = match &result {
                Ok(repaired) => Ok(repaired.clone()),
                Err(error) => Err(SyncError::Repair(error.to_string())),
            };
            let _ = done.send(told); // Or the caller gave up waiting; it is done all the same.
        }
    }
}
