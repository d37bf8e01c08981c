//! A document that holds exactly what is durable, for snapshots that clients read.

use std::sync::Arc;

use bytes::Bytes;
use crdt_core::{Applied, Document, Patch, SessionId, StateVector};

use crate::{
    DocumentError, PatchStore, SyncError, Want,
    causal::CausalOrder,
    fold::{from_snapshot, patch_of},
    manager::{Readings, sealed},
    store::PatchPage,
};

/// How many bytes of patches are read at a time.
const PAGE_BYTES: usize = 1 << 20;

/// The document as the store has it, brought up to date when somebody asks. The one that people edit may be ahead.
pub(super) struct Follower {
    store: Arc<dyn PatchStore>,
    base: Option<Patch>,
    document: Document,
    contained: StateVector<SessionId>,
    /// The last one made, for the next who asks before anything changes.
    made: Option<(StateVector<SessionId>, Bytes)>,
}

impl Follower {
    pub(super) fn new(store: Arc<dyn PatchStore>, base: Option<Patch>) -> Result<Self, DocumentError> {
        let document = from_snapshot(base.as_ref(), None)?;
        Ok(Self { store, base, document, contained: StateVector::new(), made: None })
    }

    /// All that is durable, in json-joy's binary form.
    ///
    /// That form leaves out what the root does not reach. A patch that attaches such a thing later (hazard H6) would
    /// find it missing at a client; json-joy's own editing never makes one.
    pub(super) async fn snapshot(&mut self) -> Result<(StateVector<SessionId>, Bytes), SyncError> {
        self.catch_up().await?;
        match &self.made {
            Some((vector, bytes)) if *vector == self.contained => Ok((vector.clone(), bytes.clone())),
            _ => {
                let made = (self.contained.clone(), Bytes::from(self.document.to_binary()));
                self.made = Some(made.clone());
                Ok(made)
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), SyncError> {
        let upto = self.store.vector().await?;
        let (mut order, mut readings) = (CausalOrder::default(), Readings::default());
        loop {
            let missing = Want::missing(&self.contained, &upto);
            if missing.is_empty() {
                return Ok(());
            }
            match self.store.page(&order.narrowed(&missing), PAGE_BYTES).await? {
                PatchPage::Records(records) if records.is_empty() => return Ok(()),
                PatchPage::Records(mut records) => {
                    order.keep_ready(&missing, &mut self.contained, &mut records);
                    for record in &records {
                        match self.document.apply_ref(patch_of(record)?) {
                            Ok(Applied::Parked { missing }) => {
                                tracing::warn!(%missing, id = %record.id, "passed over a patch");
                            }
                            Ok(_) => {}
                            // It is passed over on every replica.
                            Err(error) => tracing::warn!(%error, "passed over a patch"),
                        }
                    }
                }
                PatchPage::Compacted => {
                    let Some((vector, bytes)) = self.store.snapshot().await? else { return Ok(()) };
                    readings.begin(&vector)?;
                    let document = sealed::open(&bytes)?.document;
                    self.document = from_snapshot(self.base.as_ref(), Some(&document))?;
                    self.contained = vector;
                }
            }
        }
    }
}
