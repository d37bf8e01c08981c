//! The seam: what every storage can do.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::{
    Body, Change, ChangePage, Deleted, Document, DocumentId, EditFn, EditOptions, Edited, Explained, Index,
    IndexStatus, StorageError, Transaction, TransactionFn, Upserted, Watch, WatchFilter, WatchFrom,
    edit::{EditError, SectionFn},
    query::{FieldPath, Page, Query},
    update::Update,
};

/// One collection of documents.
///
/// Laws that every implementation keeps (the conformance suite tests them):
/// - a change is answered only after it is durable, and then {document, [`Change`], the producer's last
///   sequence} are all there after any crash; before that, all or none are;
/// - the changes of a document are numbered by the versions they produced, without a gap;
/// - positions order all changes of the store, without a gap on stores that are one process;
/// - `changes` and `watch` show exactly the committed changes, in order, none twice.
///
/// A wrapper passes on every method, also those that have a body here: theirs are for backends that have nothing better.
#[async_trait]
pub trait Storage: Send + Sync {
    /// What this storage calls itself in errors.
    fn backend(&self) -> &'static str {
        "this storage"
    }

    /// The name under which filters and sorts find a document's version: the storage's
    /// [`version_field`](crate::StorageOptions::version_field).
    fn version_field(&self) -> &str {
        "_version"
    }

    /// The backend's own collection, for what this trait does not offer: to be downcast to the type that the backend
    /// names. Who writes with it goes behind this storage's back.
    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }

    /// Reads a document.
    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError>;

    /// Reads documents in the order of their ids, those after `after`, at most `limit`. A page may be short, as large
    /// documents are not all held at once; only an empty one is the end.
    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError>;

    /// The ids of documents that are deleted and of which changes are left, in their order, those after `after`, at most
    /// `limit`. A page may be short; only an empty one is the end. For those who let go of old changes: nobody else can name them.
    async fn list_deleted(
        &self,
        after: Option<&DocumentId>,
        limit: usize,
    ) -> Result<Vec<DocumentId>, StorageError>;

    /// Answers a [`Query`]: filter, order, fields, a page at a time.
    ///
    /// Without an index of its own a backend reads all documents of the collection, a few at a time, and holds one page.
    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        query.scan(self).await
    }

    /// Tells how a query is answered, and what its page takes. It reads the page.
    async fn explain(&self, query: Query) -> Result<Explained, StorageError> {
        query.explain_scan(self).await
    }

    /// Creates an index, unless there is one already, and waits until queries use it. Others read and write meanwhile.
    /// Who is interrupted calls it again: it goes on where it was.
    async fn create_index(&self, index: &Index) -> Result<(), StorageError> {
        Err(self.unsupported(format!("the index {index}")))
    }

    /// Drops an index. Returns whether there was one.
    async fn drop_index(&self, index: &Index) -> Result<bool, StorageError> {
        let _ = index;
        Ok(false)
    }

    /// The indexes.
    async fn indexes(&self) -> Result<Vec<IndexStatus>, StorageError> {
        Ok(Vec::new())
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

    /// Changes a document by an aggregation pipeline, as one change, compared and recorded as any other. Only MongoDB has
    /// them.
    async fn update_one_with_pipeline(
        &self,
        id: &DocumentId,
        pipeline: &[Value],
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let _ = (id, pipeline, options);
        Err(self.unsupported("an update by a pipeline".to_owned()))
    }

    /// Changes several documents as one: all of the changes are there after any crash, or none. Runs the function again
    /// when others changed what it has read, as often as
    /// [`retries_max`](crate::StorageOptions::retries_max) says; an error of its own is returned at once. Returns the
    /// changes in their order, whose positions follow each other.
    ///
    /// # Errors
    /// [`StorageError::TransactionFailed`] when others came between every time.
    async fn with_transaction(
        &self,
        transaction: TransactionFn<'_>,
    ) -> Result<Vec<Arc<Change>>, StorageError> {
        drop(transaction);
        Err(self.unsupported("a transaction".to_owned()))
    }

    /// The error of a verb that this backend does not have.
    #[doc(hidden)]
    fn unsupported(&self, what: String) -> StorageError {
        StorageError::Unsupported { what, backend: self.backend() }
    }

    /// Edits what is at one place of a document; the rest stays as it is, whoever changes it meanwhile. Recorded as
    /// [`Operation::UpdateSection`](crate::Operation::UpdateSection) by the storages of this crate.
    ///
    /// With the option [`section_version_field`](crate::StorageOptions::section_version_field) the section counts its own
    /// changes, and an expected version is that of the section. This method's own body does not read that option.
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
        E: Into<EditError>,
    {
        self.find_one_and_update(id, Box::new(move |body| edit(body).map_err(Into::into)), options).await
    }

    /// [`Storage::with_transaction`] with a closure; [`TransactionFn`] shows one.
    async fn transact<'a, F>(&self, transaction: F) -> Result<Vec<Arc<Change>>, StorageError>
    where
        F: for<'t> FnMut(&'t mut (dyn Transaction + 'a)) -> BoxFuture<'t, Result<(), EditError>> + Send + 'a,
    {
        self.with_transaction(Box::new(transaction)).await
    }
}

impl<S: Storage + ?Sized> StorageExt for S {}
