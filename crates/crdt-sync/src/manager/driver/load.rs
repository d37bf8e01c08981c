//! How the driver brings a document to what its store has.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crdt_core::{SessionId, StateVector};
use tokio::sync::{broadcast, watch};

use super::{Driver, LOAD_PAGE_BYTES, Traffic};
use crate::{
    DocumentError, Gate, PatchRecord, PatchStoreError, Want,
    causal::CausalOrder,
    dag::Heads,
    manager::{Parts, SyncError, members, policy::Log, repair::Repairing, sealed},
    session::{self, Session, SessionEvent, SessionOptions, SyncMode},
    store::PatchPage,
};

impl Driver {
    /// Brings the document to what the store has.
    pub(in crate::manager) async fn load(
        parts: Parts,
        (events, told): (broadcast::Sender<SessionEvent>, watch::Sender<u64>),
        seed: u64,
    ) -> Result<Self, SyncError> {
        let mut began_with = None;
        let Loaded { stored, heads, content, log, not_applied } = loop {
            match load_once(&parts, &mut began_with).await? {
                Some(loaded) => break loaded,
                None => tracing::debug!("the store was folded while it was read; beginning again"),
            }
        };
        let options = SessionOptions {
            rechecks_parked: parts.guard.is_some(),
            proves_words: parts.guard.as_ref().is_some_and(|guard| guard.proves_words()),
            ..parts.options
        };
        let known = match parts.store.note().await {
            Ok(note) => members::known_before(&note, options.absent_max),
            // It is no reason to keep the document from those who need it.
            Err(error) => {
                tracing::warn!(%error, "could not read who was there");
                Vec::new()
            }
        };
        let own = parts.syncer.peer_id();
        let machine = Session::new(options, stored.clone(), heads, Duration::ZERO, seed)
            .with_base(parts.document.reserved())
            .with_content(content)
            .with_absent(Duration::ZERO, known.into_iter().filter(|(id, _)| id != own));
        let own_last = stored.get(&parts.options.session);
        #[expect(clippy::disallowed_methods, reason = "the driver is where the clock is read")]
        let started = Instant::now();
        let traffic = Traffic { not_applied, ..Traffic::default() };
        let (waiting, repeated, offered) = (VecDeque::new(), Vec::new(), None);
        Ok(Self {
            gate: Gate::new(parts.guard.clone()),
            parts,
            machine,
            started,
            events,
            stored: told,
            waiting,
            repeated,
            handed: VecDeque::new(),
            own_last,
            offered,
            folds_from: Duration::ZERO,
            log,
            folded: 0,
            repairing: Repairing::default(),
            // From when on those are gone who were there is counted from now on.
            members_changed: true,
            traffic,
            commands: None,
            batch: Vec::new(),
        })
    }
}

/// What was read from a store.
struct Loaded {
    stored: StateVector<SessionId>,
    heads: Heads,
    content: Option<u64>,
    log: Log,
    not_applied: u64,
}

/// Brings the document to what the store has. `None` if another process put a snapshot in the place of patches that were not
/// read yet: what is in the document by then goes when that snapshot is put into it. Each time there is another snapshot than
/// the time before, so this ends.
async fn load_once(
    parts: &Parts,
    began_with: &mut Option<StateVector<SessionId>>,
) -> Result<Option<Loaded>, SyncError> {
    let stored = parts.store.vector().await?;
    let snapshot = parts.store.snapshot().await?;
    let (mut have, mut heads, mut content) = (StateVector::new(), Heads::new(), Some(0));
    let mut log = Log::default();
    if let Some((vector, bytes)) = snapshot {
        log.snapshot_bytes = bytes.len() as u64;
        let opened = sealed::open(&bytes)?;
        parts.document.install(&opened.document)?;
        parts.guard.iter().for_each(|guard| guard.note_owners(&opened.owners));
        (have, heads, content) = (vector, opened.heads, opened.content);
    }
    let before = began_with.replace(have.clone());
    let mut not_applied = 0;
    let dag = parts.options.sync == SyncMode::Dag;
    let whole = for_each_page(parts, have, &stored, |records| {
        for record in records {
            if dag {
                heads.add(record);
            }
            content = add_content(content, record);
            log.bytes += record.len_bytes() as u64;
            log.ticks += record.last() - record.prev;
            not_applied += u64::from(!skip_bad(parts.document.apply(record)));
            parts.guard.iter().for_each(|guard| guard.note(record));
        }
    });
    let whole = whole.await?;
    if !whole && before == *began_with {
        expect_whole(whole)?;
    }
    Ok(whole.then_some(Loaded { stored, heads, content, log, not_applied }))
}

/// A patch that every replica has stored and whose document refuses it is passed over, here as everywhere: one bad patch
/// must not end the synchronisation. Returns whether it was applied.
pub(in crate::manager) fn skip_bad(applied: Result<(), DocumentError>) -> bool {
    applied.inspect_err(|error| tracing::warn!(%error, "passed over a patch")).is_ok()
}

/// The number for patches with one more, if it is known.
pub(in crate::manager) fn add_content(sum: Option<u64>, record: &PatchRecord) -> Option<u64> {
    sum.map(|sum| sum.wrapping_add(session::content(record)))
}

/// Reads everything after `have` up to `upto`, page by page, causes before effects. Stops and returns `false` if some of it
/// is only left in the snapshot.
pub(in crate::manager) async fn for_each_page(
    parts: &Parts,
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
        let page = parts.store.page(&order.narrowed(&missing), LOAD_PAGE_BYTES).await?;
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

pub(in crate::manager) fn expect_whole(whole: bool) -> Result<(), SyncError> {
    if whole { Ok(()) } else { Err(corrupt("a patch beyond the snapshot is said to be in it")) }
}

fn corrupt(reason: &str) -> SyncError {
    PatchStoreError::Corrupt { place: "the patches".to_owned(), reason: reason.to_owned() }.into()
}
