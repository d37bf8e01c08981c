//! Every client gets every change of a document once and in order, live or after days offline.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use crdt_core::ClientId;
//! use eventsync::{EventSyncStorage, FeedItem, PageLimit, Resume, Scope, SnapshotPolicy};
//! use eventsync::{SyncService, SyncServiceOptions, shelf::MemoryShelf};
//! use nodestorage::{DocumentId, EditOptions, MemoryStorage, Storage};
//! use serde_json::json;
//! use std::sync::Arc;
//!
//! let storage = Arc::new(EventSyncStorage::new(Arc::new(MemoryStorage::default())));
//! let (shelf, snapshots) = (Arc::new(MemoryShelf::default()), SnapshotPolicy::STANDARD);
//! let options = SyncServiceOptions { storage, shelf, snapshots, compaction: None, rules: None };
//! let service = SyncService::start(options).await?;
//!
//! // Whatever is written to the storage, a reader gets it once and in order, from wherever it was.
//! let chess = DocumentId::new("chess")?;
//! let body = json!({"turn": "white"}).as_object().unwrap().clone();
//! service.storage().find_one_and_upsert(&chess, body, EditOptions::by(ClientId::new("alice")?)).await?;
//!
//! let mut reader = service.follow(Scope::Document(chess), Resume::After(0), PageLimit::STANDARD);
//! let FeedItem::Events(events) = reader.next().await? else { panic!() };
//! assert_eq!(events[0].sequence_num(), 1);
//! # Ok(())
//! # }
//! ```

pub mod event;
pub mod storage;
pub mod store;
pub mod clock;
pub mod vectors;
pub mod snapshot;
pub mod compaction;
pub mod shelf;
pub mod broker;
pub mod feed;
pub mod service;
pub mod protocol;
pub mod access;
pub mod session;
#[cfg(feature = "http")]
pub mod http;
pub mod client;
#[cfg(feature = "conformance")]
pub mod conformance;

pub use broker::EventBroker;
pub use client::{ConflictResolver, StateManager};
pub use clock::{DefaultVectorClockManager, DocumentClock, PersistentVectorClockManager, VectorClockManager};
pub use compaction::EventCompactor;
pub use event::{ClientVector, Event};
pub use feed::{Feed, FeedItem, Resume, Scope};
pub use protocol::{Problem, ProblemType};
pub use service::{SyncService, SyncServiceOptions};
pub use snapshot::{Snapshot, SnapshotPolicy, SnapshotStore};
pub use storage::EventSyncStorage;
pub use store::{EventPage, EventStore, PageLimit, StorageEventStore};
pub use vectors::StateVectorManager;

#[cfg(feature = "embedded")]
pub use clock::EmbeddedVectorClockManager;
#[cfg(feature = "mongodb")]
pub use clock::MongoVectorClockManager;
