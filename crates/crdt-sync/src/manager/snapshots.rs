//! What the driver reads for peers, and the snapshots that it makes, offers and takes over.

use std::time::Duration;

use bytes::Bytes;
use crdt_core::{SessionId, StateVector, Timestamp};

use super::{
    SyncError,
    driver::{Driver, LOAD_PAGE_BYTES, add_content, expect_whole, for_each_page, is_stopping, skip_bad},
    owned,
    policy::Log,
    sealed::{self, Sealed},
};
use crate::{
    DocumentError, Fold, PatchStoreError, PeerId, SnapshotHead, Want,
    dag::{Heads, Walk, snapshot},
    session::{Input, Page, ReadWhat, Refusal, WALK_PAGE_NODES_MAX},
    store::PatchPage,
};

/// The last snapshot that was made for a peer, so that its parts are parts of one thing.
pub(super) struct Offered {
    head: SnapshotHead,
    bytes: Bytes,
    used_at: Duration,
}

impl Offered {
    pub(super) const fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// After a snapshot was made for a peer, none is for so many times as long: whoever asks gets the last one, or nothing. A
/// question takes a few bytes under any name, and while one is answered nothing else is done.
const FOLD_PAUSES: u32 = 8;
/// A snapshot is offered again while the patches that came after it take no more than this part of its bytes.
const OFFERED_PER_NEWS: u64 = 16;
/// How often the patches to fold are looked through for those whose causes come behind them.
const PASSES_MAX: usize = 8;

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
        if begins < self.folds_from {
            let offered = self.offered.as_mut().map(|offered| {
                offered.used_at = begins;
                offered.head.clone()
            });
            return Ok(offered.map_or_else(|| Page::Records(Vec::new()), Page::Snapshot));
        }
        let made = self.make_offer(peer, offers).await;
        let now = self.now();
        self.folds_from = now + now.saturating_sub(begins) * FOLD_PAUSES;
        // Whoever may not offer a snapshot has nothing to give: the asker turns to another peer.
        Ok(made?.map_or_else(|| Page::Records(Vec::new()), Page::Snapshot))
    }

    /// A snapshot for a peer that lacks what is not among the patches any more.
    async fn make_offer(&mut self, peer: &PeerId, offers: bool) -> Result<Option<SnapshotHead>, SyncError> {
        let mut vector = self.machine.stored().clone();
        if offers {
            // What only some have stays as patches. (An asker that could not take such a snapshot over needs more.)
            let contained = self.parts.store.snapshot().await?.map(|(vector, _)| vector).unwrap_or_default();
            let stable = self.stable(Some(peer));
            vector = self.ends_of_patches(&contained, &stable).await?;
        }
        if let Some(head) = self.offered_again(&vector) {
            return Ok(Some(head));
        }
        let (vector, bytes) = self.fold(&vector).await?;
        Ok(self.offer(vector, bytes))
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
        let bytes = self.with_owners(&stored, bytes);
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
        self.offered = head.clone().map(|head| Offered { head, bytes, used_at });
        head
    }

    /// Makes a snapshot of what is stored, up to `upto`, out of patches. Returns what it contains, too: a patch that lacks a
    /// cause below `upto`, or that the document refuses, is not in it, nor is what follows that.
    #[tracing::instrument(level = "debug", skip_all)]
    async fn fold(
        &self,
        upto: &StateVector<SessionId>,
    ) -> Result<(StateVector<SessionId>, Bytes), SyncError> {
        let (have, base) = match self.parts.store.snapshot().await? {
            Some((vector, bytes)) => (vector, Some(sealed::open(&bytes)?)),
            None => (StateVector::new(), None),
        };
        let mut fold = self.parts.document.fold(base.as_ref().map(|base| &base.document[..]))?;
        let (mut heads, mut content) =
            base.map_or_else(|| (Heads::new(), Some(0)), |base| (base.heads, base.content));
        let mut contained = have.clone();
        let dag = self.machine.heads().is_some();
        let whole = for_each_page(&self.parts, have, upto, |records| {
            for record in records {
                if record.follows(&contained) && skip_bad(fold.apply(record)) {
                    contained.advance(record.session(), record.last());
                    content = add_content(content, record);
                    if dag {
                        heads.add(record);
                    }
                }
            }
        });
        expect_whole(whole.await?)?;
        // What a snapshot is said to contain is never asked for again, and the store forgets its patches.
        if fold.vector() != contained {
            return Err(
                DocumentError::Snapshot("it contains other patches than were put in".to_owned()).into()
            );
        }
        let bytes = fold.finish()?;
        let bytes = if dag { snapshot::seal(&heads, &bytes) } else { sealed::with_content(content, bytes) };
        let bytes = self.with_owners(&contained, bytes);
        Ok((contained, bytes))
    }

    /// A snapshot with whose its sessions are: their proofs stand in the patches, which go.
    fn with_owners(&self, contained: &StateVector<SessionId>, bytes: Bytes) -> Bytes {
        match &self.parts.guard {
            Some(guard) => owned::seal(&guard.owners(contained), bytes),
            None => bytes,
        }
    }

    /// Folds what all have, if the log has grown out of proportion. If that fails, it is tried again after a pause: until
    /// then the log is longer than it should be.
    pub(super) async fn fold_when_due(&mut self) {
        let (now, policy) = (self.now(), self.parts.compaction);
        if self.log.is_due(&policy, now) {
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
        let present = self.parts.store.snapshot().await?.map(|(vector, _)| vector).unwrap_or_default();
        let stable = self.stable(None);
        let latest = stable.iter().map(|(_, last)| last).max().unwrap_or(0);
        // Causes have lower times than their effects, so a cut at one time takes none away.
        let cut = latest.saturating_sub(keep_ticks);
        let upto: StateVector<SessionId> = stable.iter().map(|(sid, last)| (*sid, last.min(cut))).collect();
        let upto = self.ends_of_patches(&present, &upto).await?;
        if present.contains(&upto) || !upto.contains(&present) {
            return Ok(present);
        }
        let (contained, bytes) = self.fold(&upto).await?;
        if contained == present {
            return Ok(present);
        }
        let (folded_bytes, snapshot_bytes) =
            (self.log.estimate(ticks(&present, &contained)), bytes.len() as u64);
        let folded_ticks = ticks(&present, &contained);
        self.parts.store.install(&contained, bytes).await?;
        self.log.bytes = self.log.bytes.saturating_sub(folded_bytes);
        self.log.ticks = self.log.ticks.saturating_sub(folded_ticks);
        self.log.snapshot_bytes = snapshot_bytes;
        self.folded += 1;
        Ok(contained)
    }

    /// The last patches that end at or before `upto` and lack no cause there: a snapshot contains whole patches with all that
    /// they build on, and what peers say that they have need not be so. Anybody may say anything; if a fold lacked a cause,
    /// its effects would be in no snapshot, and no longer among the patches.
    async fn ends_of_patches(
        &self,
        have: &StateVector<SessionId>,
        upto: &StateVector<SessionId>,
    ) -> Result<StateVector<SessionId>, SyncError> {
        let mut ends = have.clone();
        // A patch may come after one that it is a cause of; see [`causal`](crate::causal). What is found in no pass is folded
        // another time.
        for _ in 0..PASSES_MAX {
            let (mut read, mut left_out) = (ends.clone(), false);
            let before = ends.clone();
            loop {
                let want = Want::missing(&read, upto);
                match self.parts.store.page(&want, LOAD_PAGE_BYTES).await? {
                    PatchPage::Records(records) if !records.is_empty() => {
                        for record in records {
                            read.advance(record.session(), record.last());
                            if record.follows(&ends) {
                                ends.advance(record.session(), record.last());
                            } else {
                                left_out = true;
                            }
                        }
                    }
                    _ => break,
                }
            }
            if !left_out || ends == before {
                break;
            }
        }
        Ok(ends)
    }

    /// Takes over a peer's snapshot.
    #[tracing::instrument(level = "debug", skip_all, fields(len_bytes = head.len_bytes))]
    pub(super) async fn install(&mut self, head: SnapshotHead, bytes: Bytes) -> Result<Input, SyncError> {
        if let Some(guard) = &self.parts.guard
            && let Err(reason) = guard.check_snapshot(&head, &bytes)
        {
            self.not_allowed(Refusal::SnapshotNotAllowed { reason });
            return Ok(Input::InstallFailed);
        }
        let vector = head.vector;
        // Before anything is kept, the bytes must prove to be a snapshot of what the head says, that our own patches go on
        // top of.
        let (session, stored) = (self.parts.options.session, self.machine.stored().clone());
        let (mut opened, mut fold) = match self.open(&vector, &bytes) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, "a peer sent a broken snapshot");
                return Ok(Input::InstallFailed);
            }
        };
        if let Some(guard) = &self.parts.guard
            && let Err(reason) = guard.check_owners(&vector, &opened.owners)
        {
            self.not_allowed(Refusal::SnapshotNotAllowed { reason });
            return Ok(Input::InstallFailed);
        }
        // Of our own session nobody has more than we do. With a guard it takes our signature to prove otherwise, and a
        // snapshot has that of the one who made it.
        if vector.get(&session) > stored.get(&session) {
            let id = Timestamp::new(session, vector.get(&session));
            self.machine.session_is_forked(id, self.parts.guard.is_none());
            return Ok(Input::InstallFailed);
        }
        let (mut log, dag) =
            (Log { snapshot_bytes: head.len_bytes, ..self.log }, self.machine.heads().is_some());
        (log.bytes, log.ticks) = (0, 0);
        let (mut ends, mut forked) = (vector.clone(), None);
        let on_top = for_each_page(&self.parts, vector.clone(), &stored, |records| {
            for record in records {
                if ends.get(&record.session()) != record.prev {
                    forked.get_or_insert(record.id);
                }
                ends.advance(record.session(), record.last());
                skip_bad(fold.apply(record));
                log.bytes += record.len_bytes() as u64;
                log.ticks += record.last() - record.prev;
                if dag {
                    opened.heads.add(record);
                }
                opened.content = add_content(opened.content, record);
            }
        });
        match on_top.await {
            Ok(true) => {}
            Ok(false) => return Ok(Input::InstallParted),
            Err(error) => {
                // Nothing was changed yet, and it can be asked for again.
                self.read_failed(&error);
                return Ok(Input::InstallFailed);
            }
        }
        if let Some(id) = forked {
            // It ends within one of our patches, so that it has another one in that place.
            self.machine.session_is_forked(id, self.parts.guard.is_none());
            return Ok(Input::InstallFailed);
        }
        let store = &*self.parts.store;
        let keep = || store.install(&vector, bytes.clone());
        let stopping = is_stopping(self.commands.as_ref());
        match self.parts.retry.run(stopping, &mut self.traffic.write_failures, keep).await {
            Ok(()) => {}
            Err(PatchStoreError::Diverged { .. }) => return Ok(Input::InstallParted),
            Err(error) => return Err(error.into()),
        }
        self.stored.send_modify(|count| *count += 1);
        self.parts.document.take_over(fold)?;
        self.parts.guard.iter().for_each(|guard| guard.note_owners(&opened.owners));
        self.log = log;
        Ok(Input::Installed { vector, heads: opened.heads, content: opened.content })
    }

    /// A peer's snapshot, if it contains what its head says.
    fn open(
        &self,
        vector: &StateVector<SessionId>,
        bytes: &Bytes,
    ) -> Result<(Sealed, Box<dyn Fold>), DocumentError> {
        let opened = sealed::open(bytes)?;
        let fold = self.parts.document.fold(Some(&opened.document))?;
        if fold.vector() != *vector {
            return Err(DocumentError::Snapshot("it contains other patches than its head says".to_owned()));
        }
        if opened.heads.iter().any(|link| vector.get(&link.sid) < link.last) {
            return Err(DocumentError::Snapshot("it lacks nodes that it calls heads".to_owned()));
        }
        Ok((opened, fold))
    }
}

/// How many ticks `to` has that `from` lacks.
fn ticks(from: &StateVector<SessionId>, to: &StateVector<SessionId>) -> u64 {
    from.missing_from(to).fold(0, |sum: u64, (_, here, there)| sum.saturating_add(there - here))
}
