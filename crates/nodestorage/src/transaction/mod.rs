//! Several documents changed as one.

pub(crate) mod staging;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::{
    Body, Document, DocumentId, EditFn, EditOptions, StorageError,
    edit::{EditError, SectionFn},
    query::FieldPath,
    update::Update,
};

/// What a transaction does. It may run several times (once per try), so it must have no other effects. An error ends
/// it, and nothing of it is written. [`StorageExt::transact`](crate::StorageExt::transact) makes one of a closure:
///
/// ```
/// use nodestorage::{DocumentId, EditOptions, MemoryStorage, Storage, StorageExt, Update};
/// use serde_json::json;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (purses, bank) = (MemoryStorage::default(), EditOptions::by(crdt_core::ClientId::new("bank")?));
/// let (ann, bob) = (&DocumentId::new("ann")?, &DocumentId::new("bob")?);
/// for id in [ann, bob] {
///     let purse = json!({"gold": 10}).as_object().unwrap().clone();
///     purses.find_one_and_upsert(id, purse, bank.clone()).await?;
/// }
/// let give = &Update::parse(&json!({"$inc": {"gold": -3}}))?;
/// let take = &Update::parse(&json!({"$inc": {"gold": 3}}))?;
/// let by = &bank;
/// let changes = purses
///     .transact(|purses| {
///         Box::pin(async move {
///             purses.update_one(ann, give, by.clone()).await?;
///             purses.update_one(bob, take, by.clone()).await?;
///             Ok(())
///         })
///     })
///     .await?;
/// assert_eq!(changes.len(), 2);
/// assert_eq!(purses.find_one(bob).await?.unwrap().body["gold"], 13);
/// # Ok(())
/// # }
/// ```
pub type TransactionFn<'a> = Box<
    dyn for<'t> FnMut(&'t mut (dyn Transaction + 'a)) -> BoxFuture<'t, Result<(), EditError>> + Send + 'a,
>;

/// What a verb of a transaction did. It counts only if the transaction is committed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Staged {
    /// The document is to be like this; `None` after a delete.
    Changed(Option<Document>),
    /// Nothing is to be written: it was so already, was there already (an upsert), or was absent (a delete).
    Unchanged(Option<Document>),
    /// The same producer and sequence has been here before, in an earlier transaction or write.
    Repeated {
        /// The version that the first time produced.
        version: u64,
        /// The document as it is now; `None` when it has been deleted since.
        document: Option<Document>,
    },
}

impl Staged {
    /// The document as the transaction leaves it.
    pub fn document(&self) -> Option<&Document> {
        match self {
            Self::Changed(document) | Self::Unchanged(document) | Self::Repeated { document, .. } => {
                document.as_ref()
            }
        }
    }
}

/// The documents of a collection as a transaction sees them: with its own changes, and otherwise as if nobody else
/// wrote meanwhile. If somebody did, nothing is written and the transaction runs again.
///
/// Each verb is as that of [`Storage`](crate::Storage), and makes one change with a version of its own. All changes
/// become durable and visible together.
#[async_trait]
pub trait Transaction: Send {
    /// Reads a document.
    async fn find_one(&mut self, id: &DocumentId) -> Result<Option<Document>, StorageError>;

    /// Creates the document if it is absent.
    async fn find_one_and_upsert(
        &mut self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Staged, StorageError>;

    /// Edits the document.
    async fn find_one_and_update(
        &mut self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Staged, StorageError>;

    /// Changes the document by operators.
    async fn update_one(
        &mut self,
        id: &DocumentId,
        update: &Update,
        options: EditOptions,
    ) -> Result<Staged, StorageError> {
        let edit = |body: &mut Body| update.apply(body).map_err(Into::into);
        self.find_one_and_update(id, Box::new(edit), options).await
    }

    /// Edits one section of the document.
    async fn update_section(
        &mut self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        options: EditOptions,
    ) -> Result<Staged, StorageError>;

    /// Deletes the document.
    async fn delete_one(&mut self, id: &DocumentId, options: EditOptions) -> Result<Staged, StorageError>;
}
