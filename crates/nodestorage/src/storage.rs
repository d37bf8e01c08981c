//! The seam: what every storage can do.

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};

use crate::{
    Body, ChangePage, Deleted, Document, DocumentId, EditFn, EditOptions, Edited, StorageError, Upserted,
    Watch, WatchFilter, WatchFrom,
    edit::SectionFn,
    query::{FieldPath, Page, Query},
    update::Update,
};

/// One collection of documents.
///
/// Laws that every implementation keeps (the conformance suite tests them):
/// - a change is answered only after it is durable, and then {document, [`Change`](crate::Change), the producer's last
///   sequence} are all there after any crash; before that, all or none are;
/// - the changes of a document are numbered by the versions they produced, without a gap;
/// - positions order all changes of the store, without a gap on stores that are one process;
/// - `changes` and `watch` show exactly the committed changes, in order, none twice.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Reads a document.
    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError>;

    /// Reads documents in the order of their ids, those after `after`, at most `limit`.
    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError>;

    /// Answers a [`Query`]: filter, order, fields, a page at a time.
    ///
    /// Without an index of its own a backend reads all documents of the collection, a few at a time, and holds one page.
    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        query.scan(self).await
    }

    /// Changes a document by operators, as one change: [`find_one_and_update`](Self::find_one_and_update) whose edit is
    /// data. An update that does not fit the document is [`StorageError::Edit`] with an
    /// [`UpdateError`](crate::update::UpdateError).
    async fn update_one(
        &self,
        id: &DocumentId,
        update: &Update,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let edit = |body: &mut Body| update.apply(body).map_err(Into::into);
        self.find_one_and_update(id, Box::new(edit), options).await
    }

    /// Edits what is at one place of a document; the rest stays as it is, whoever changes it meanwhile. Recorded as
    /// [`Operation::UpdateSection`](crate::Operation::UpdateSection) by the storages of this crate.
    ///
    /// # Errors
    /// [`StorageError::SectionNotFound`] when there is nothing at the place.
    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        mut edit: SectionFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let mut missing = false;
        let whole = |body: &mut Body| {
            let place = section.find(body);
            missing = place.is_none();
            edit(place.ok_or("the section is not there")?)
        };
        let edited = self.find_one_and_update(id, Box::new(whole), options).await;
        match edited {
            Err(StorageError::Edit(_)) if missing => Err(section_not_found(id, section)),
            edited => edited,
        }
    }

    /// Creates the document if it is absent, and tells which of the two it was.
    async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Upserted, StorageError>;

    /// Reads, edits and writes back by compare-and-swap, again from the start when another writer came between.
    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError>;

    /// Deletes the document.
    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError>;

    /// Reads the recorded changes of a document after a version, at most `limit`. If changes right after that version
    /// have been compacted away, the first one returned has a higher version than `after + 1`.
    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError>;

    /// The version of a document's last change, also when that was a delete; 0 if there never was one.
    ///
    /// Backends that keep the version of deleted documents answer this without reading the changes.
    async fn last_version(&self, id: &DocumentId) -> Result<u64, StorageError> {
        let mut version = match self.find_one(id).await? {
            Some(document) => return Ok(document.version),
            None => 0,
        };
        loop {
            let page = self.changes(id, version, 1024).await?;
            version = page.changes.last().map_or(version, |change| change.version);
            if !page.more {
                return Ok(version);
            }
        }
    }

    /// Forgets the recorded changes of a document up to a version, and the answers to its producers' writes up to
    /// there, except each producer's last. Returns how many changes were forgotten. The document, its version and the
    /// changes after it stay. Who reads or watches from before is told: see [`changes`](Self::changes) and
    /// [`WatchEvent::Missed`](crate::WatchEvent::Missed).
    async fn remove_changes(&self, id: &DocumentId, up_to_version: u64) -> Result<u64, StorageError>;

    /// The last sequence of each producer that has written to a document: which of their writes it contains.
    async fn producers(&self, id: &DocumentId) -> Result<StateVector<ClientId>, StorageError>;

    /// The last position committed; 0 for an empty store.
    async fn position(&self) -> Result<u64, StorageError>;

    /// Streams changes from a position on, and live ones after those, as one sequence.
    async fn watch(&self, filter: WatchFilter, from: WatchFrom) -> Result<Watch, StorageError>;

    /// Finishes what is under way, makes it durable, and refuses everything after.
    async fn close(&self) -> Result<(), StorageError>;
}

pub(crate) fn section_not_found(id: &DocumentId, section: &FieldPath) -> StorageError {
    StorageError::SectionNotFound { id: id.clone(), section: section.to_string() }
}

/// Conveniences that need generics.
#[async_trait]
pub trait StorageExt: Storage {
    /// [`Storage::find_one_and_update`] with a plain closure.
    async fn edit<F, E>(
        &self,
        id: &DocumentId,
        mut edit: F,
        options: EditOptions,
    ) -> Result<Edited, StorageError>
    where
        F: FnMut(&mut Body) -> Result<(), E> + Send,
        E: Into<crate::edit::EditError>,
    {
        self.find_one_and_update(id, Box::new(move |body| edit(body).map_err(Into::into)), options).await
    }
}

impl<S: Storage + ?Sized> StorageExt for S {}
