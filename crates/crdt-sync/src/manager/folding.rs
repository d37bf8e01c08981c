//! What a store holds, read into a document and folded into snapshots: the part of it that needs no clock, channel or machine.
//!
//! The manager's driver says when, of what, and for whom; the simulator does so too, and folds by the same lines.

use bytes::Bytes;
use crdt_core::{SessionId, StateVector, Timestamp};

use super::{
    Readings, SyncError, owned,
    sealed::{self, Sealed},
};
use crate::{
    DocumentError, Fold, Guard, PatchRecord, PatchStore, PatchStoreError, SharedError, SignerId,
    SnapshotHead, SyncDocument, Want,
    causal::CausalOrder,
    dag::{Heads, snapshot},
    session,
    store::PatchPage,
};

/// How many bytes of patches are read at a time.
pub(super) const READ_PAGE_BYTES: usize = 1 << 20;
/// How often the patches to fold are looked through for those whose causes come behind them.
const PASSES_MAX: usize = 8;

/// What is read, and who makes a document of it.
#[derive(Clone, Copy)]
pub struct Folding<'a> {
    /// The patches, and the snapshot below them.
    pub store: &'a dyn PatchStore,
    /// The document of the replica.
    pub document: &'a dyn SyncDocument,
    /// Who knows whose the sessions are, in a group that signs.
    pub guard: Option<&'a dyn Guard>,
    /// Whether the group synchronises by the DAG.
    pub dag: bool,
}

/// What was read from a store.
#[derive(Debug)]
pub struct Loaded {
    /// Which patches those are.
    pub stored: StateVector<SessionId>,
    /// Which of them are in the snapshot.
    pub folded: StateVector<SessionId>,
    /// Their last nodes, in a group that uses the DAG.
    pub heads: Heads,
    /// Stands for all of them, if it is known.
    pub content: Option<u64>,
    /// Of the snapshot; 0 without one.
    pub snapshot_bytes: u64,
    /// Of the patches that are not in it.
    pub log_bytes: u64,
    /// How many ticks these go beyond it.
    pub log_ticks: u64,
    /// How many the document refused.
    pub not_applied: u64,
}

/// What came of folding what may be folded.
#[derive(Debug, Clone)]
pub struct Folded {
    /// What is in the store's snapshot.
    pub present: StateVector<SessionId>,
    /// A snapshot that is to take its place, with what is in it; `None` if there is nothing more to fold.
    pub snapshot: Option<(StateVector<SessionId>, Bytes)>,
}

/// A peer's snapshot that can take the place of what is stored, with what is stored beyond it on top.
pub struct Taken {
    /// The document that comes of it.
    pub document: Box<dyn Fold>,
    /// What stands beside the document: heads and content those of all of it.
    pub sealed: Sealed,
    /// Of the patches on top.
    pub log_bytes: u64,
    /// How many ticks these go beyond the snapshot.
    pub log_ticks: u64,
}

/// Why a peer's snapshot is not taken over. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotTaken {
    /// It is no snapshot of what its head says.
    #[error(transparent)]
    Broken(#[from] DocumentError),
    /// The guard refuses it.
    #[error("the snapshot is not allowed: {0}")]
    NotAllowed(SharedError),
    /// It has another patch in the place of this one.
    #[error("it has another patch than {0}")]
    Forked(Timestamp),
    /// What would have to go on top of it is only left in this replica's own snapshot.
    #[error("each side has folded what the other lacks")]
    Parted,
    /// What is here could not be read.
    #[error(transparent)]
    Unread(#[from] SyncError),
}

impl Folding<'_> {
    /// Brings the document to what the store has.
    ///
    /// # Errors
    /// If the store can't be read, or is folded by others each time that it is, or the document refuses its snapshot.
    pub async fn load(&self) -> Result<Loaded, SyncError> {
        let mut readings = Readings::default();
        loop {
            if let Some(loaded) = self.load_once(&mut readings).await? {
                return Ok(loaded);
            }
        }
    }

    /// `None` if another process put a snapshot in the place of patches that were not read yet: what is in the document by then
    /// goes when that snapshot is put into it.
    async fn load_once(&self, readings: &mut Readings) -> Result<Option<Loaded>, SyncError> {
        let mut stored = self.store.vector().await?;
        let (mut have, mut heads, mut content) = (StateVector::new(), Heads::new(), Some(0));
        let mut snapshot_bytes = 0;
        let snapshot = self.store.snapshot().await?;
        readings.begin(snapshot.as_ref().map_or(&StateVector::new(), |(vector, _)| vector))?;
        if let Some((vector, bytes)) = snapshot {
            snapshot_bytes = bytes.len() as u64;
            let opened = sealed::open(&bytes)?;
            self.document.install(&opened.document)?;
            self.guard.iter().for_each(|guard| guard.note_owners(&opened.owners));
            (have, heads, content) = (vector, opened.heads, opened.content);
        }
        // It may be a later one than the vector, by what another process has stored and folded between the two looks.
        stored.merge(&have);
        let folded = have.clone();
        let (mut log_bytes, mut log_ticks, mut not_applied) = (0, 0, 0);
        let whole = self.for_each_page(have, &stored, |records| {
            for record in records {
                if self.dag {
                    heads.add(record);
                }
                content = add_content(content, record);
                log_bytes += record.len_bytes() as u64;
                log_ticks += record.last() - record.prev;
                not_applied += u64::from(!skip_bad(self.document.apply(record, self.signer(record))));
                self.guard.iter().for_each(|guard| guard.note(record));
            }
        });
        if !whole.await? {
            return Ok(None);
        }
        let loaded =
            Loaded { stored, folded, heads, content, snapshot_bytes, log_bytes, log_ticks, not_applied };
        Ok(Some(loaded))
    }

    /// Reads everything after `have` up to `upto`, page by page, causes before effects. Stops and returns `false` if some of it
    /// is only left in the snapshot.
    async fn for_each_page(
        &self,
        mut have: StateVector<SessionId>,
        upto: &StateVector<SessionId>,
        mut each: impl FnMut(&[PatchRecord]),
    ) -> Result<bool, SyncError> {
        let mut order = CausalOrder::default();
        loop {
            let missing = Want::missing(&have, upto);
            if missing.is_empty() {
                return Ok(true);
            }
            let page = self.store.page(&order.narrowed(&missing), READ_PAGE_BYTES).await?;
            let PatchPage::Records(mut records) = page else { return Ok(false) };
            if records.is_empty() {
                return Err(corrupt("patches below the state vector are missing"));
            }
            order.keep_ready(&missing, &mut have, &mut records);
            each(&records);
            // A store in memory never waits, and a long log must not keep everybody else from their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Folds what is `stable`, apart from the last `keep_ticks`.
    ///
    /// # Errors
    /// If the store can't be read, or is folded by others each time that it is, or the document's snapshot is not what was
    /// put in.
    pub async fn fold_stable(
        &self,
        stable: &StateVector<SessionId>,
        keep_ticks: u64,
    ) -> Result<Folded, SyncError> {
        let present = self.contained().await?;
        let latest = stable.iter().map(|(_, last)| last).max().unwrap_or(0);
        // Causes have lower times than their effects, so a cut at one time takes none away.
        let cut = latest.saturating_sub(keep_ticks);
        let upto: StateVector<SessionId> = stable.iter().map(|(sid, last)| (*sid, last.min(cut))).collect();
        let upto = self.ends_of_patches(&present, &upto).await?;
        if present.contains(&upto) || !upto.contains(&present) {
            return Ok(Folded { present, snapshot: None });
        }
        let snapshot = Some(self.fold(&upto).await?).filter(|(contained, _)| *contained != present);
        Ok(Folded { present, snapshot })
    }

    /// What a snapshot for a peer is to contain: what is `stable` without it. (What only some have stays as patches.)
    /// Before that, what is in the store's snapshot, and so in any.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn offerable(
        &self,
        stable: &StateVector<SessionId>,
    ) -> Result<(StateVector<SessionId>, StateVector<SessionId>), SyncError> {
        let contained = self.contained().await?;
        let ends = self.ends_of_patches(&contained, stable).await?;
        Ok((contained, ends))
    }

    fn signer(&self, record: &PatchRecord) -> Option<SignerId> {
        self.guard.and_then(|guard| guard.signer(record))
    }

    /// What the store's snapshot contains.
    async fn contained(&self) -> Result<StateVector<SessionId>, SyncError> {
        Ok(self.store.snapshot().await?.map(|(vector, _)| vector).unwrap_or_default())
    }

    /// Makes a snapshot of what is stored, up to `upto`, out of patches. Returns what it contains, too: a patch that lacks a
    /// cause below `upto`, or that the document refuses, is not in it, nor is what follows that.
    ///
    /// # Errors
    /// If the store can't be read, or is folded by others each time that it is, or the document's snapshot is not what was
    /// put in.
    #[tracing::instrument(level = "debug", skip_all)]
    pub async fn fold(
        &self,
        upto: &StateVector<SessionId>,
    ) -> Result<(StateVector<SessionId>, Bytes), SyncError> {
        let mut readings = Readings::default();
        loop {
            if let Some(folded) = self.fold_once(upto, &mut readings).await? {
                return Ok(folded);
            }
        }
    }

    /// `None` if another process put a snapshot in the place of patches that were not read yet, as in
    /// [`load_once`](Self::load_once).
    async fn fold_once(
        &self,
        upto: &StateVector<SessionId>,
        readings: &mut Readings,
    ) -> Result<Option<(StateVector<SessionId>, Bytes)>, SyncError> {
        let (have, base) = match self.store.snapshot().await? {
            Some((vector, bytes)) => (vector, Some(sealed::open(&bytes)?)),
            None => (StateVector::new(), None),
        };
        readings.begin(&have)?;
        let mut fold = self.document.fold(base.as_ref().map(|base| &base.document[..]))?;
        let (mut heads, mut content) =
            base.map_or_else(|| (Heads::new(), Some(0)), |base| (base.heads, base.content));
        let mut contained = have.clone();
        let whole = self.for_each_page(have, upto, |records| {
            for record in records {
                if record.follows(&contained) && skip_bad(fold.apply(record, self.signer(record))) {
                    contained.advance(record.session(), record.last());
                    content = add_content(content, record);
                    if self.dag {
                        heads.add(record);
                    }
                }
            }
        });
        if !whole.await? {
            return Ok(None);
        }
        // What a snapshot is said to contain is never asked for again, and the store forgets its patches.
        if fold.vector() != contained {
            return Err(
                DocumentError::Snapshot("it contains other patches than were put in".to_owned()).into()
            );
        }
        let bytes = fold.finish()?;
        let bytes =
            if self.dag { snapshot::seal(&heads, &bytes) } else { sealed::with_content(content, bytes) };
        let bytes = self.with_owners(&contained, bytes);
        Ok(Some((contained, bytes)))
    }

    /// A snapshot with whose its sessions are: their proofs stand in the patches, which go.
    pub(super) fn with_owners(&self, contained: &StateVector<SessionId>, bytes: Bytes) -> Bytes {
        match self.guard {
            Some(guard) => owned::seal(&guard.owners(contained), bytes),
            None => bytes,
        }
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
                match self.store.page(&want, READ_PAGE_BYTES).await? {
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

    /// The first of a peer's patches of a session that is another one here, or is not here. `theirs` are all that it has within
    /// `want`. What is folded here can't be compared, and is passed over.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn first_different(
        &self,
        mut want: Want,
        theirs: &[PatchRecord],
    ) -> Result<Option<Timestamp>, SyncError> {
        let (mut theirs, mut readings) = (theirs.iter().peekable(), Readings::default());
        while let Some(next) = theirs.peek() {
            let ours = match self.store.page(&[want], READ_PAGE_BYTES).await? {
                PatchPage::Records(ours) if ours.is_empty() => return Ok(Some(next.id)),
                PatchPage::Records(ours) => ours,
                PatchPage::Compacted => {
                    let contained = self.contained().await?;
                    readings.begin(&contained)?;
                    let folded = contained.get(&want.sid);
                    if folded <= want.after {
                        return Err(corrupt("patches beyond the snapshot are said to be in it"));
                    }
                    want.after = folded;
                    while theirs.next_if(|theirs| theirs.last() <= folded).is_some() {}
                    continue;
                }
            };
            for ours in ours {
                let theirs = theirs.next().map(|theirs| (theirs.id, theirs.prev, &theirs.patch));
                if theirs != Some((ours.id, ours.prev, &ours.patch)) {
                    return Ok(Some(theirs.map_or(ours.id, |(id, ..)| id)));
                }
                want.after = ours.last();
            }
        }
        Ok(None)
    }

    /// Opens a peer's snapshot and puts on top of it what this replica has `stored` beyond it, of its own `session` too. Nothing
    /// is kept yet: the bytes must first prove to be a snapshot of what the head says, that our own patches go on top of.
    ///
    /// # Errors
    /// If it can't take the place of what is stored.
    pub async fn take(
        &self,
        head: &SnapshotHead,
        bytes: &Bytes,
        stored: &StateVector<SessionId>,
    ) -> Result<Taken, NotTaken> {
        if let Some(guard) = self.guard {
            guard.check_snapshot(head, bytes).map_err(NotTaken::NotAllowed)?;
        }
        let vector = &head.vector;
        let (mut sealed, mut document) = self.open(vector, bytes)?;
        if let Some(guard) = self.guard {
            guard.check_owners(vector, &sealed.owners).map_err(NotTaken::NotAllowed)?;
        }
        // Of our own session nobody has more than we do.
        let session = self.document.session();
        if vector.get(&session) > stored.get(&session) {
            return Err(NotTaken::Forked(Timestamp::new(session, vector.get(&session))));
        }
        let (mut log_bytes, mut log_ticks) = (0, 0);
        let (mut ends, mut forked) = (vector.clone(), None);
        let on_top = self.for_each_page(vector.clone(), stored, |records| {
            for record in records {
                if ends.get(&record.session()) != record.prev {
                    forked.get_or_insert(record.id);
                }
                ends.advance(record.session(), record.last());
                skip_bad(document.apply(record, self.signer(record)));
                log_bytes += record.len_bytes() as u64;
                log_ticks += record.last() - record.prev;
                if self.dag {
                    sealed.heads.add(record);
                }
                sealed.content = add_content(sealed.content, record);
            }
        });
        if !on_top.await? {
            return Err(NotTaken::Parted);
        }
        // If it ends within one of our patches it has another one in that place.
        match forked {
            Some(id) => Err(NotTaken::Forked(id)),
            None => Ok(Taken { document, sealed, log_bytes, log_ticks }),
        }
    }

    /// A peer's snapshot, if it contains what its head says.
    fn open(
        &self,
        vector: &StateVector<SessionId>,
        bytes: &Bytes,
    ) -> Result<(Sealed, Box<dyn Fold>), DocumentError> {
        let opened = sealed::open(bytes)?;
        let fold = self.document.open(&opened.document)?;
        if fold.vector() != *vector {
            return Err(DocumentError::Snapshot("it contains other patches than its head says".to_owned()));
        }
        if opened.heads.iter().any(|link| vector.get(&link.sid) < link.last) {
            return Err(DocumentError::Snapshot("it lacks nodes that it calls heads".to_owned()));
        }
        Ok((opened, fold))
    }
}

/// A patch that every replica has stored and whose document refuses it is passed over, here as everywhere: one bad patch
/// must not end the synchronisation. Returns whether it was applied.
pub(super) fn skip_bad(applied: Result<(), DocumentError>) -> bool {
    applied.inspect_err(|error| tracing::warn!(%error, "passed over a patch")).is_ok()
}

/// The number for patches with one more, if it is known.
fn add_content(sum: Option<u64>, record: &PatchRecord) -> Option<u64> {
    sum.map(|sum| sum.wrapping_add(session::content(record)))
}

pub(super) fn corrupt(reason: &str) -> SyncError {
    PatchStoreError::Corrupt { place: "the patches".to_owned(), reason: reason.to_owned() }.into()
}
