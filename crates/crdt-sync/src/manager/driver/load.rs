//! How the driver brings a document to what its store has.

use std::{collections::VecDeque, time::Duration};

use crdt_core::StateVector;
use tokio::{sync::broadcast, time::Instant};

use super::{Driver, FoldPause, Traffic};
use crate::{
    Gate,
    manager::{Parts, SyncError, folding::Loaded, members, policy::Log, repair::Repairing, told::Told},
    session::{Session, SessionEvent, SessionOptions},
};

impl Driver {
    /// Brings the document to what the store has.
    pub(in crate::manager) async fn load(
        parts: Parts,
        (events, told): (broadcast::Sender<SessionEvent>, Told),
        seed: u64,
    ) -> Result<Self, SyncError> {
        let Loaded { stored, folded, heads, content, snapshot_bytes, log_bytes, log_ticks, not_applied } =
            parts.folding().load().await?;
        let log = Log { bytes: log_bytes, ticks: log_ticks, snapshot_bytes, ..Log::default() };
        let options = SessionOptions {
            rechecks_parked: parts.guard.is_some(),
            proves_words: parts.guard.as_ref().is_some_and(|guard| guard.proves_words()),
            ..parts.options
        };
        // Without it this replica would fold alone what those lack who are cut off, and write down that there is nobody.
        let known = members::known_before(&parts.store.note().await?, options.absent_max)?;
        let own = parts.syncer.peer_id();
        let machine = Session::new(options, stored.clone(), heads, Duration::ZERO, seed)
            .with_base(parts.document.reserved())
            .with_folded(folded)
            .with_content(content)
            .with_absent(Duration::ZERO, known.into_iter().filter(|(id, _)| id != own));
        // Whoever has followed the store since before may have missed something.
        told.tell_all();
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
            told,
            risen: StateVector::new(),
            waiting,
            repeated,
            handed: VecDeque::new(),
            own_last,
            offered,
            fold_pause: FoldPause::default(),
            log,
            folded: 0,
            repairing: Repairing::default(),
            // From when on those are gone who were there is counted from now on.
            members_changed: true,
            traffic,
            commands: None,
            batch: Vec::new(),
            later: VecDeque::new(),
        })
    }
}
