//! What the driver reads for peers, and the snapshots that it makes, offers and takes over.

use std::time::Duration;

use bytes::Bytes;
use crdt_core::{SessionId, StateVector};

use super::{
    SyncError,
    driver::{Driver, is_stopping},
    folding::{Folded, NotTaken, Taken},
    policy::Log,
    sealed,
};
use crate::{
    PatchStoreError, PeerId, SnapshotHead, Want,
    dag::{Walk, snapshot},
    session::{Input, Page, ReadWhat, Refusal, WALK_PAGE_NODES_MAX, ticks},
    store::PatchPage,
};

/// The last snapshot that was made for a peer, so that its parts are parts of one thing.
pub(super) struct Offered {
    head: SnapshotHead,
    bytes: Bytes,
    used_at: Duration,
    /// Whether it was made of all that is stored, for who can't take less over.
    all: bool,
    /// What was in the store's own snapshot then: of the rest only what all others have may be in one for most peers.
    contained: StateVector<SessionId>,
}

impl Offered {
    pub(super) const fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// After a snapshot was made for a peer, none is for so many times as long: whoever asks gets the last one, if it is an answer
/// to that question, or nothing. A question takes a few bytes under any name, and while one is answered nothing else is done.
const FOLD_PAUSES: u32 = 8;

/// When the next snapshot may be made for a peer.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct FoldPause {
    until: Duration,
}

impl FoldPause {
    fn is_over(self, now: Duration) -> bool {
        now >= self.until
    }

    /// Begins when one has been made.
    fn begin(&mut self, began: Duration, now: Duration) {
        self.until = now.saturating_add(now.saturating_sub(began).saturating_mul(FOLD_PAUSES));
    }
}

/// A snapshot is offered again while the patches that came after it take no more than this part of its bytes.
const OFFERED_PER_NEWS: u64 = 16;

impl Driver {
    /// Reads what a peer asked for; nothing if the store can't be read now. That costs the peer another question, to
    /// somebody else: one bad page is no reason to stop taking in what all others send.
    pub(super) async fn read_or_nothing(&mut self, peer: &PeerId, what: ReadWhat) -> Page {
        let nothing = match &what {
            ReadWhat::Part { hash, offset, .. } => {
                Page::Part { hash: *hash, offset: *offset, bytes: Bytes::new() }
            }
            _ => Page::Records(Vec::new()),
        };
        match self.read(peer, what).await {
            Ok(page) => page,
            Err(error) => {
                self.read_failed(&error);
                nothing
            }
        }
    }

    /// Reads what a peer asked for.
    #[tracing::instrument(level = "debug", skip_all, fields(%peer))]
    async fn read(&mut self, peer: &PeerId, what: ReadWhat) -> Result<Page, SyncError> {
        match what {
            ReadWhat::Patches { want, bytes_max, offers } => {
                if offers
                    && self.is_snapshot_cheaper(&want)
                    && let Some(head) = self.offer_live(peer)
                    && self.wanted_bytes(&want) > head.len_bytes
                {
                    return Ok(Page::Snapshot(head));
                }
                let page = self.parts.store.page(&want, bytes_max).await?;
                self.page_or_offer(peer, page, offers).await
            }
            ReadWhat::Walk { want, have, bytes_max } => {
                // Who has nothing would walk to the very beginning.
                if have.is_empty()
                    && self.log.bytes > self.parts.compaction.offer_bytes_min
                    && let Some(head) = self.offer_live(peer)
                {
                    return Ok(Page::Snapshot(head));
                }
                let mut walk = Walk::new(&want, have, bytes_max, WALK_PAGE_NODES_MAX);
                while let Some(want) = walk.next_read() {
                    walk.read(self.parts.store.page(&[want], bytes_max).await?);
                }
                self.page_or_offer(peer, walk.finish(), true).await
            }
            ReadWhat::Part { hash, offset, bytes_max } => {
                let now = self.now();
                let offered = self.offered.as_mut().filter(|offered| offered.head.hash == hash);
                let bytes = offered.map_or_else(Bytes::new, |Offered { bytes, used_at, .. }| {
                    *used_at = now;
                    let from = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
                    bytes.slice(from..from.saturating_add(bytes_max).min(bytes.len()))
                });
                Ok(Page::Part { hash, offset, bytes })
            }
        }
    }

    async fn page_or_offer(
        &mut self,
        peer: &PeerId,
        page: PatchPage,
        offers: bool,
    ) -> Result<Page, SyncError> {
        if let PatchPage::Records(records) = page {
            return Ok(Page::Records(records));
        }
        let begins = self.now();
        if !self.fold_pause.is_over(begins) {
            let offered = self.offered_meanwhile(peer, offers);
            return Ok(offered.map_or_else(|| Page::Records(Vec::new()), Page::Snapshot));
        }
        let made = self.make_offer(peer, offers).await;
        self.fold_pause.begin(begins, self.now());
        // Whoever may not offer a snapshot has nothing to give: the asker turns to another peer.
        Ok(made?.map_or_else(|| Page::Records(Vec::new()), Page::Snapshot))
    }

    /// A snapshot for a peer that lacks what is not among the patches any more.
    async fn make_offer(&mut self, peer: &PeerId, offers: bool) -> Result<Option<SnapshotHead>, SyncError> {
        let (contained, vector) = match offers {
            true => self.parts.folding().offerable(&self.stable(Some(peer))).await?,
            // An asker that could not take such a snapshot over needs more.
            false => (StateVector::new(), self.machine.stored().clone()),
        };
        if let Some(head) = self.offered_again(&vector) {
            return Ok(Some(head));
        }
        let (vector, bytes) = self.parts.folding().fold(&vector).await?;
        let head = self.offer(vector, bytes);
        if let Some(offered) = &mut self.offered {
            (offered.all, offered.contained) = (!offers, contained);
        }
        Ok(head)
    }

    /// The snapshot offered last, where no other one is made yet, if it is what this peer asks for. Who could not take over
    /// what all have is not to get just that again; and what only some have goes into no other one's snapshot.
    fn offered_meanwhile(&mut self, peer: &PeerId, offers: bool) -> Option<SnapshotHead> {
        let (now, stable) = (self.now(), self.stable(Some(peer)));
        let stored = self.machine.stored();
        let offered = self.offered.as_mut()?;
        let vector = &offered.head.vector;
        let fits = match offers {
            true => vector.iter().all(|(sid, last)| last <= stable.get(sid).max(offered.contained.get(sid))),
            false => offered.all || vector == stored,
        };
        fits.then(|| {
            offered.used_at = now;
            offered.head.clone()
        })
    }

    /// Whether the patches wanted are likely to take more than a snapshot; one that has not been made yet may be small.
    fn is_snapshot_cheaper(&self, want: &[Want]) -> bool {
        let patches = self.wanted_bytes(want);
        patches > self.parts.compaction.offer_bytes_min && patches > self.log.snapshot_bytes
    }

    fn wanted_bytes(&self, want: &[Want]) -> u64 {
        let ticks =
            want.iter().fold(0, |sum: u64, want| sum.saturating_add(want.upto - want.after.min(want.upto)));
        self.log.estimate(ticks)
    }

    /// A snapshot of the document that people edit, if all others have what is in it, and it is just what is stored.
    fn offer_live(&mut self, peer: &PeerId) -> Option<SnapshotHead> {
        let stored = self.machine.stored().clone();
        if self.stable(Some(peer)) != stored {
            return None;
        }
        if let Some(head) = self.offered_nearly(&stored) {
            return Some(head);
        }
        let document = self.parts.document.snapshot(&stored)?;
        let bytes = match self.machine.heads() {
            Some(heads) => snapshot::seal(heads, &document),
            None => sealed::with_content(self.machine.content(), document),
        };
        let bytes = self.parts.folding().with_owners(&stored, bytes);
        self.offer(stored, bytes)
    }

    /// The snapshot offered last, if it contains this.
    fn offered_again(&mut self, vector: &StateVector<SessionId>) -> Option<SnapshotHead> {
        let now = self.now();
        let offered = self.offered.as_mut().filter(|offered| offered.head.vector == *vector)?;
        offered.used_at = now;
        Some(offered.head.clone())
    }

    /// The snapshot offered last, if little has come since: a few patches on top of it are less work for both than another
    /// snapshot, and many that come late one after the other get the same.
    fn offered_nearly(&mut self, stored: &StateVector<SessionId>) -> Option<SnapshotHead> {
        let now = self.now();
        let since = self.offered.as_ref().map(|offered| ticks(&offered.head.vector, stored))?;
        let little = self.log.estimate(since);
        let offered = self.offered.as_mut()?;
        if little.saturating_mul(OFFERED_PER_NEWS) > offered.head.len_bytes {
            return None;
        }
        offered.used_at = now;
        Some(offered.head.clone())
    }

    /// When the snapshot offered last goes, if nobody asks for it before.
    pub(super) fn offer_ends_at(&self) -> Option<Duration> {
        self.offered.as_ref().map(|offered| offered.used_at + self.parts.compaction.offer_idle_max)
    }

    /// Lets go of the snapshot offered last when nobody asks for it any more.
    pub(super) fn drop_idle_offer(&mut self) {
        if self.offer_ends_at().is_some_and(|at| at <= self.now()) {
            self.offered = None;
        }
    }

    /// What may be in a snapshot, or in one for a peer.
    fn stable(&self, without: Option<&PeerId>) -> StateVector<SessionId> {
        self.gate.stable(&self.machine, self.parts.syncer.peer_id(), without)
    }

    fn offer(&mut self, vector: StateVector<SessionId>, bytes: Bytes) -> Option<SnapshotHead> {
        self.log.snapshot_bytes = bytes.len() as u64;
        let head = SnapshotHead::new(vector, &bytes);
        let head = match &self.parts.guard {
            Some(guard) => guard.prove_snapshot(head, &bytes),
            None => Some(head),
        };
        let used_at = self.now();
        let (all, contained) = (false, StateVector::new());
        self.offered = head.clone().map(|head| Offered { head, bytes, used_at, all, contained });
        head
    }

    /// Folds what all have, if the log has grown out of proportion. If that fails, it is tried again after a pause: until
    /// then the log is longer than it should be.
    pub(super) async fn fold_when_due(&mut self) {
        let (now, policy) = (self.now(), self.parts.compaction);
        if self.log.is_due(&policy, now, self.machine.unfolded_sessions()) {
            self.log.next_look = now + policy.pause;
            match self.compact(policy.keep_ticks).await {
                Ok(contained) => {
                    let sessions = contained.len();
                    tracing::debug!(sessions, bytes_left = self.log.bytes, "folded patches");
                }
                Err(error) => self.read_failed(&error),
            }
        }
    }

    /// Folds what all known peers have into a snapshot, apart from the last `keep_ticks`.
    #[tracing::instrument(level = "debug", skip_all)]
    pub(super) async fn compact(&mut self, keep_ticks: u64) -> Result<StateVector<SessionId>, SyncError> {
        // For whom nothing is folded now nothing may be after a restart.
        self.note_members().await?;
        let stable = self.stable(None);
        let Folded { present, snapshot } = self.parts.folding().fold_stable(&stable, keep_ticks).await?;
        let Some((contained, bytes)) = snapshot else { return Ok(present) };
        let (folded_ticks, snapshot_bytes) = (ticks(&present, &contained), bytes.len() as u64);
        let folded_bytes = self.log.estimate(folded_ticks);
        self.parts.store.install(&contained, bytes).await?;
        self.log.bytes = self.log.bytes.saturating_sub(folded_bytes);
        self.log.ticks = self.log.ticks.saturating_sub(folded_ticks);
        self.log.snapshot_bytes = snapshot_bytes;
        self.folded += 1;
        self.input(Input::Folded(contained.clone()));
        Ok(contained)
    }

    /// Takes over a peer's snapshot.
    #[tracing::instrument(level = "debug", skip_all, fields(len_bytes = head.len_bytes))]
    pub(super) async fn install(&mut self, head: SnapshotHead, bytes: Bytes) -> Result<Input, SyncError> {
        let stored = self.machine.stored().clone();
        let taken = match self.parts.folding().take(&head, &bytes, &stored).await {
            Ok(taken) => taken,
            Err(NotTaken::Parted) => return Ok(Input::InstallParted),
            Err(not) => {
                match not {
                    NotTaken::NotAllowed(reason) => self.not_allowed(Refusal::SnapshotNotAllowed { reason }),
                    // With a guard it takes our signature to prove it, and a snapshot has that of the one who made it.
                    NotTaken::Forked(id) => self.machine.session_is_forked(id, self.parts.guard.is_none()),
                    NotTaken::Unread(error) => self.read_failed(&error),
                    broken => tracing::warn!(error = %broken, "a peer sent a broken snapshot"),
                }
                return Ok(Input::InstallFailed);
            }
        };
        let (vector, Taken { document, sealed, log_bytes, log_ticks }) = (head.vector, taken);
        let store = &*self.parts.store;
        let keep = || store.install(&vector, bytes.clone());
        let stopping = is_stopping(self.commands.as_ref());
        match self.parts.retry.run(stopping, &mut self.traffic.write_failures, keep).await {
            Ok(()) => {}
            Err(PatchStoreError::Diverged { .. }) => return Ok(Input::InstallParted),
            Err(error) => return Err(error.into()),
        }
        self.told.tell_all();
        self.parts.document.take_over(document)?;
        self.parts.guard.iter().for_each(|guard| guard.note_owners(&sealed.owners));
        self.log = Log { bytes: log_bytes, ticks: log_ticks, snapshot_bytes: head.len_bytes, ..self.log };
        Ok(Input::Installed { vector, heads: sealed.heads, content: sealed.content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ninth_of_the_time_goes_into_snapshots_for_who_asks_all_the_time() {
        let (took, mut pause, mut now, mut made) =
            (Duration::from_millis(40), FoldPause::default(), Duration::ZERO, 0);
        while now < Duration::from_secs(36) {
            if pause.is_over(now) {
                made += 1;
                pause.begin(now, now + took);
            }
            now += Duration::from_millis(10);
        }
        assert_eq!(made, 100);
        // What takes no time is made whenever it is asked for.
        pause.begin(now, now);
        assert!(pause.is_over(now));
    }
}
