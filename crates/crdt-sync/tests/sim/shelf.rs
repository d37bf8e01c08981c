//! What a simulated replica keeps, reads for others, and folds: by production's [`Folding`], over a store in memory.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use crdt_sync::{
    PatchRecord, PatchStore as _, PatchStoreError, PeerId, SnapshotHead, SyncDocument as _, Want,
    dag::Walk,
    manager::{
        folding::{Folding, NotTaken, Taken},
        sealed,
    },
    session::{Input, Page, ReadWhat, SyncMode, WALK_PAGE_NODES_MAX, content},
    store::PatchPage,
};

use crate::{
    document::Applied,
    replica::{Replica, Wish},
};

/// As if patches for more ticks than that were larger than a snapshot.
const OFFER_TICKS: u64 = 400;

impl Replica {
    pub(crate) fn folding(&self) -> Folding<'_> {
        let dag = self.options.sync == SyncMode::Dag;
        Folding { store: &self.durable, document: &self.doc, guard: self.guard.as_deref(), dag }
    }

    /// All patches that are durable; `None` if a snapshot came in their place.
    pub(crate) fn kept(&self) -> Option<Vec<PatchRecord>> {
        let want: Vec<Want> =
            self.kept_vector().iter().map(|(sid, upto)| Want { sid: *sid, after: 0, upto }).collect();
        match now(self.durable.page(&want, usize::MAX)).unwrap() {
            PatchPage::Records(records) => Some(records),
            PatchPage::Compacted => None,
        }
    }

    /// All patches that are durable and not in a snapshot.
    pub(crate) fn beyond_snapshot(&self) -> Vec<PatchRecord> {
        let have = now(self.durable.snapshot()).unwrap().map(|(vector, _)| vector).unwrap_or_default();
        let all = self.kept_vector();
        let want = have.missing_from(&all).map(|(sid, after, upto)| Want { sid: *sid, after, upto });
        let page = now(self.durable.page(&want.collect::<Vec<_>>(), usize::MAX)).unwrap();
        let PatchPage::Records(records) = page else { unreachable!("it is beyond the snapshot") };
        records
    }

    /// Stands for the patches that are durable.
    pub(crate) fn kept_content(&self) -> u64 {
        let folded = now(self.durable.snapshot()).unwrap().map_or(0, |(_, bytes)| {
            let document = sealed::open(&bytes).unwrap().document;
            Applied::load(&document).unwrap().content()
        });
        self.beyond_snapshot().iter().fold(folded, |sum, record| sum.wrapping_add(content(record)))
    }

    pub(crate) fn kept_vector(&self) -> StateVector<SessionId> {
        now(self.durable.vector()).unwrap()
    }

    /// Folds what all that it knows are known to have, also while some are cut off, or not found. Whoever has never met anybody
    /// does not here: two who fold before they first meet are parted, and nobody can tell them beforehand.
    pub(crate) fn compact(&mut self, at: Duration, wishes: &mut Vec<Wish>) -> Result<(), String> {
        if self.noted.is_empty() {
            return Ok(());
        }
        let stable = self.gate.stable(&self.machine, &self.id, None);
        let folded = now(self.folding().fold_stable(&stable, 0)).map_err(|error| error.to_string())?;
        let Some((vector, bytes)) = folded.snapshot else { return Ok(()) };
        self.folded += 1;
        self.folded_parted += u64::from(self.machine.status().absent > 0);
        match now(self.durable.install(&vector, bytes)) {
            Ok(()) => self.input(at, Input::Folded(vector), wishes),
            // A snapshot from elsewhere is ahead of what we know of the others.
            Err(PatchStoreError::Diverged { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn read(&mut self, at: Duration, peer: &PeerId, what: ReadWhat) -> Result<Page, String> {
        match what {
            ReadWhat::Patches { .. } | ReadWhat::Walk { .. } if self.disk.fails_at(at) => {
                Ok(Page::Records(Vec::new()))
            }
            ReadWhat::Patches { want, bytes_max, offers } => {
                let ticks: u64 = want.iter().map(|want| want.upto.saturating_sub(want.after)).sum();
                let stable = self.gate.stable(&self.machine, &self.id, Some(peer));
                let whole = self.guard.is_none() && stable == self.kept_vector();
                let page = match offers && whole && ticks > OFFER_TICKS {
                    true => PatchPage::Compacted,
                    false => now(self.durable.page(&want, bytes_max)).unwrap(),
                };
                self.page_or_offer(peer, page, offers)
            }
            ReadWhat::Walk { want, have, bytes_max } => {
                let mut walk = Walk::new(&want, have, bytes_max, WALK_PAGE_NODES_MAX);
                while let Some(want) = walk.next_read() {
                    walk.read(now(self.durable.page(&[want], bytes_max)).unwrap());
                }
                self.page_or_offer(peer, walk.finish(), true)
            }
            ReadWhat::Part { hash, offset, bytes_max } => {
                let offered = self.offered.as_ref().filter(|(offered, _)| *offered == hash);
                let bytes = offered.map_or_else(Bytes::new, |(_, bytes)| {
                    let from = (offset as usize).min(bytes.len());
                    bytes.slice(from..(from + bytes_max).min(bytes.len()))
                });
                Ok(Page::Part { hash, offset, bytes })
            }
        }
    }

    pub(crate) fn compare(&self, want: Want, theirs: &[PatchRecord]) -> Input {
        let differs = now(self.folding().first_different(want, theirs)).unwrap();
        Input::Compared { upto: want.upto, differs }
    }

    fn page_or_offer(&mut self, peer: &PeerId, page: PatchPage, offers: bool) -> Result<Page, String> {
        if let PatchPage::Records(records) = page {
            return Ok(Page::Records(records));
        }
        let folding = self.folding();
        let vector = match offers {
            true => {
                let stable = self.gate.stable(&self.machine, &self.id, Some(peer));
                now(folding.offerable(&stable)).map_err(|error| error.to_string())?.1
            }
            false => self.machine.stored().clone(),
        };
        let (vector, bytes) = now(folding.fold(&vector)).map_err(|error| error.to_string())?;
        let head = SnapshotHead::new(vector, &bytes);
        let head = match &self.guard {
            Some(guard) => guard.prove_snapshot(head, &bytes),
            None => Some(head),
        };
        let Some(head) = head else { return Ok(Page::Records(Vec::new())) };
        self.offered = Some((head.hash, bytes));
        Ok(Page::Snapshot(head))
    }

    pub(crate) fn install(&mut self, at: Duration, head: &SnapshotHead, bytes: Bytes) -> Input {
        let stored = self.machine.stored().clone();
        let Taken { document, sealed, .. } = match now(self.folding().take(head, &bytes, &stored)) {
            Ok(taken) => taken,
            Err(NotTaken::Parted) => return Input::InstallParted,
            Err(not) => {
                if let NotTaken::Forked(id) = not {
                    self.machine.session_is_forked(id, self.guard.is_none());
                }
                return Input::InstallFailed;
            }
        };
        if !self.disk.outlasts(at) {
            self.gives_up = true;
            return Input::InstallFailed;
        }
        let vector = head.vector.clone();
        if now(self.durable.install(&vector, bytes)).is_err() {
            return Input::InstallParted;
        }
        self.doc.take_over(document).expect("it was written here");
        self.guard.iter().for_each(|guard| guard.note_owners(&sealed.owners));
        Input::Installed { vector, heads: sealed.heads, content: sealed.content }
    }
}

/// A store in memory never waits: whoever reads it gives others their turn at the most.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}
