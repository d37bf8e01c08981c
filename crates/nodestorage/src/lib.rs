//! Documents with versions, changed by compare-and-swap, each change recorded with its diff in the same commit.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use crdt_core::ClientId;
//! use nodestorage::{DocumentId, EditOptions, Edited, MemoryStore, StorageExt, StorageOptions, Store};
//! use serde_json::json;
//! use std::sync::Arc;
//!
//! // `EmbeddedStore` does the same in a folder, durable before it answers.
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
//! let games = store.collection("games", StorageOptions::default()).await?;
//! let (chess, alice) = (DocumentId::new("chess")?, EditOptions::by(ClientId::new("alice")?));
//! let before = json!({"turn": "white"}).as_object().unwrap().clone();
//! games.find_one_and_upsert(&chess, before.clone(), alice.clone()).await?;
//!
//! let turn = |game: &mut nodestorage::Body| {
//!     game.insert("turn".to_owned(), json!("black"));
//!     Ok::<_, std::convert::Infallible>(())
//! };
//! let Edited::Changed { document, change } = games.edit(&chess, turn, alice).await? else { panic!() };
//!
//! // The document and the record of its change became durable together.
//! assert_eq!((document.version, change.version), (2, 2));
//! assert_eq!(change.diff.apply(Some(before))?, Some((*document.body).clone()));
//! # Ok(())
//! # }
//! ```
//!
//! A [`Store`] holds collections; a [`Storage`] is one of them, with [`Document`]s by [`DocumentId`]. Each change makes
//! the document's next version and is recorded as a [`Change`] with its [`Diff`]; all recorded changes of a store have
//! one order, their positions. [`MemoryStore`] is the reference, `EmbeddedStore` (feature `embedded`) keeps a
//! folder. [`TypedStorage`] reads and edits documents as types of the application. A [`Query`] asks for many documents, an [`Update`]
//! changes one by operators, both written as for MongoDB. [`CachedStorage`] puts a cache in front of any storage, a [`StorageLayer`] anything
//! else.
//!
//! This crate knows no clients and no transports.
//!
//! `serde_json`'s feature `arbitrary_precision` must be off in the whole program; with it this crate does not compile.

pub mod document;
pub mod edit;
pub mod diff;
pub mod change;
pub mod error;
pub mod storage;
pub mod transaction;
pub mod options;
pub mod store;
mod rules;
mod verbs;
pub mod query;
pub mod index;
pub mod update;
mod retry;
pub mod typed;
pub mod clock;
mod watch;
pub mod memory;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod layer;
pub mod cache;
#[cfg(feature = "mongodb")]
pub mod mongo;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

// Numbers would be texts: stored as maps that programs without the feature can't read, and some without a float.
const _: () = assert!(
    !std::mem::needs_drop::<serde_json::Number>(),
    "nodestorage needs `serde_json` without its feature `arbitrary_precision`"
);

pub use cache::{Cache, CacheStats, CachedStorage, CachedStore, MemoryCache};
#[cfg(feature = "redis")]
pub use cache::{RedisCache, RedisCacheOptions};
pub use change::{Change, ChangePage, Operation, Producer, Watch, WatchEvent, WatchFilter, WatchFrom};
pub use clock::Clock;
pub use diff::{Diff, DiffError, MongoUpdate};
pub use document::{Body, Document, DocumentId};
pub use edit::{Deleted, EditFn, EditOptions, Edited, Upserted};
#[cfg(feature = "embedded")]
pub use embedded::{Durability, EmbeddedOptions, EmbeddedStorage, EmbeddedStore};
pub use error::StorageError;
pub use index::{Explained, Index, IndexStatus, Plan};
pub use layer::StorageLayer;
pub use memory::{MemoryStorage, MemoryStore};
#[cfg(feature = "mongodb")]
pub use mongo::{MongoOptions, MongoStorage, MongoStore};
pub use options::StorageOptions;
pub use query::{Filter, Query};
pub use storage::{Storage, StorageExt};
pub use store::Store;
pub use transaction::{Staged, Transaction, TransactionFn};
pub use typed::{Typed, TypedStorage, Updated};
pub use update::Update;
