//! Storages that stand in front of another one.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};
use serde_json::Value;

use crate::{
    Body, Change, ChangePage, Deleted, Document, DocumentId, EditFn, EditOptions, Edited, Explained, Index,
    IndexStatus, Storage, StorageError, TransactionFn, Update, Upserted, Watch, WatchFilter, WatchFrom,
    edit::SectionFn,
    query::{FieldPath, Page, Query},
};

/// Makes [`StorageLayer`] and the [`Storage`] that every layer is out of one list of verbs: what is missing in the list is
/// missing in both, and a verb that a storage must have makes the compiler say so.
macro_rules! layer {
    ($(
        $(#[$doc:meta])*
        async fn $verb:ident(&$this:ident $(, $name:ident: $type:ty)* $(,)?) -> $answer:ty;
    )*) => {
        /// A storage in front of another: what it does not do itself, the one behind it does.
        ///
        /// Implement [`inner`](Self::inner) and the verbs that are to be different; the type is a [`Storage`] then. A
        /// verb that this crate adds is passed on by every layer at once, and none falls back to what a backend
        /// without anything better does.
        ///
        /// Import this where a layer is made and [`Storage`] where one is used: the verbs have the same names.
        #[async_trait]
        pub trait StorageLayer: Send + Sync {
            /// The storage behind this one.
            fn inner(&self) -> &dyn Storage;

            $(
                $(#[$doc])*
                async fn $verb(&$this $(, $name: $type)*) -> $answer {
                    $this.inner().$verb($($name),*).await
                }
            )*
        }

        #[async_trait]
        impl<L: StorageLayer> Storage for L {
            fn backend(&self) -> &'static str {
                self.inner().backend()
            }

            fn version_field(&self) -> &str {
                self.inner().version_field()
            }

            fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
                self.inner().native()
            }

            $(
                async fn $verb(&$this $(, $name: $type)*) -> $answer {
                    StorageLayer::$verb($this $(, $name)*).await
                }
            )*
        }
    };
}

layer! {
    /// [`Storage::find_one`].
    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError>;
    /// [`Storage::list`].
    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError>;
    /// [`Storage::list_deleted`].
    async fn list_deleted(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<DocumentId>, StorageError>;
    /// [`Storage::find_many`].
    async fn find_many(&self, query: Query) -> Result<Page, StorageError>;
    /// [`Storage::explain`].
    async fn explain(&self, query: Query) -> Result<Explained, StorageError>;
    /// [`Storage::create_index`].
    async fn create_index(&self, index: &Index) -> Result<(), StorageError>;
    /// [`Storage::drop_index`].
    async fn drop_index(&self, index: &Index) -> Result<bool, StorageError>;
    /// [`Storage::indexes`].
    async fn indexes(&self) -> Result<Vec<IndexStatus>, StorageError>;
    /// [`Storage::update_one`].
    async fn update_one(&self, id: &DocumentId, update: &Update, options: EditOptions) -> Result<Edited, StorageError>;
    /// [`Storage::update_one_with_pipeline`].
    async fn update_one_with_pipeline(
        &self,
        id: &DocumentId,
        pipeline: &[Value],
        options: EditOptions,
    ) -> Result<Edited, StorageError>;
    /// [`Storage::with_transaction`].
    async fn with_transaction(&self, transaction: TransactionFn<'_>) -> Result<Vec<Arc<Change>>, StorageError>;
    /// [`Storage::update_section`].
    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError>;
    /// [`Storage::find_one_and_upsert`].
    async fn find_one_and_upsert(&self, id: &DocumentId, body: Body, options: EditOptions) -> Result<Upserted, StorageError>;
    /// [`Storage::find_one_and_update`].
    async fn find_one_and_update(&self, id: &DocumentId, edit: EditFn<'_>, options: EditOptions) -> Result<Edited, StorageError>;
    /// [`Storage::delete_one`].
    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError>;
    /// [`Storage::changes`].
    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError>;
    /// [`Storage::last_version`].
    async fn last_version(&self, id: &DocumentId) -> Result<u64, StorageError>;
    /// [`Storage::remove_changes`].
    async fn remove_changes(&self, id: &DocumentId, up_to_version: u64) -> Result<u64, StorageError>;
    /// [`Storage::producers`].
    async fn producers(&self, id: &DocumentId) -> Result<StateVector<ClientId>, StorageError>;
    /// [`Storage::position`].
    async fn position(&self) -> Result<u64, StorageError>;
    /// [`Storage::watch`].
    async fn watch(&self, filter: WatchFilter, from: WatchFrom) -> Result<Watch, StorageError>;
    /// [`Storage::close`].
    async fn close(&self) -> Result<(), StorageError>;
}
