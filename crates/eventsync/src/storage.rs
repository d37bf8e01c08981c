//! A storage whose every change is an event.

use std::sync::Arc;

use async_trait::async_trait;
use crdt_core::ClientId;
use nodestorage::{
    Body, Change, Deleted, DocumentId, EditFn, EditOptions, Edited, Storage, StorageError, StorageLayer,
    TransactionFn, Update, Upserted, edit::SectionFn, query::FieldPath,
};
use serde_json::Value;

use crate::{
    clock::{DefaultVectorClockManager, VectorClockManager},
    event::Event,
    store::{EventStore, StorageEventStore},
};

/// Put this where a [`Storage`] is expected, and its changes are events that clients can follow.
///
/// The event is not stored afterwards, it *is* the change that the inner storage commits together with the document.
/// So there is nothing that could fail in between, nothing to configure about such a failure, and a second wrapper or
/// listener on the same storage makes no second event. What this adds is a name for the writes of this process and
/// the vector clocks of the documents.
pub struct EventSyncStorage {
    inner: Arc<dyn Storage>,
    events: Arc<dyn EventStore>,
    clocks: Arc<dyn VectorClockManager>,
    client_id: ClientId,
}

impl EventSyncStorage {
    /// The name that this process writes under if no other is given.
    pub const CLIENT_ID: &str = "server";

    /// Wraps a storage.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        let client_id = ClientId::new(Self::CLIENT_ID).expect("a short name");
        let events = Arc::new(StorageEventStore::new(Arc::clone(&inner)));
        Self { inner, events, clocks: Arc::new(DefaultVectorClockManager::new()), client_id }
    }

    /// Names the writes of this process.
    #[must_use]
    pub fn with_client_id(mut self, client_id: ClientId) -> Self {
        self.client_id = client_id;
        self
    }

    /// Remembers vector clocks elsewhere than in memory.
    #[must_use]
    pub fn with_vector_clock_manager(mut self, clocks: Arc<dyn VectorClockManager>) -> Self {
        self.clocks = clocks;
        self
    }

    /// The options of a write by this process.
    pub fn edit_options(&self) -> EditOptions {
        EditOptions::by(self.client_id.clone())
    }

    /// The events.
    pub fn events(&self) -> &Arc<dyn EventStore> {
        &self.events
    }

    /// The vector clocks.
    pub fn clocks(&self) -> &Arc<dyn VectorClockManager> {
        &self.clocks
    }

    /// The storage inside.
    pub fn inner(&self) -> &Arc<dyn Storage> {
        &self.inner
    }

    async fn noted(&self, edited: Edited) -> Result<Edited, StorageError> {
        if let Edited::Changed { change, .. } = &edited {
            self.note(change).await;
        }
        Ok(edited)
    }

    async fn note(&self, change: &Arc<Change>) {
        let event = Event::new(Arc::clone(change));
        // The change is durable and counts whatever happens here; a clock that lags is caught up from the log.
        if let Err(error) = self.clocks.update_vector_clock(&event).await {
            tracing::warn!(document = %event.document_id(), %error, "vector clock not updated");
        }
    }
}

#[async_trait]
impl StorageLayer for EventSyncStorage {
    fn inner(&self) -> &dyn Storage {
        &*self.inner
    }

    async fn update_one(
        &self,
        id: &DocumentId,
        update: &Update,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.noted(self.inner.update_one(id, update, options).await?).await
    }

    async fn update_one_with_pipeline(
        &self,
        id: &DocumentId,
        pipeline: &[Value],
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.noted(self.inner.update_one_with_pipeline(id, pipeline, options).await?).await
    }

    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.noted(self.inner.update_section(id, section, edit, options).await?).await
    }

    async fn with_transaction(
        &self,
        transaction: TransactionFn<'_>,
    ) -> Result<Vec<Arc<Change>>, StorageError> {
        let changes = self.inner.with_transaction(transaction).await?;
        for change in &changes {
            self.note(change).await;
        }
        Ok(changes)
    }

    async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Upserted, StorageError> {
        let upserted = self.inner.find_one_and_upsert(id, body, options).await?;
        if let Upserted::Created { change, .. } = &upserted {
            self.note(change).await;
        }
        Ok(upserted)
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.noted(self.inner.find_one_and_update(id, edit, options).await?).await
    }

    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError> {
        let deleted = self.inner.delete_one(id, options).await?;
        if let Deleted::Deleted { change, .. } = &deleted {
            self.note(change).await;
        }
        Ok(deleted)
    }
}
