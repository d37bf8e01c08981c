//! Every client gets every change of a document once and in order, live or after days offline.

pub mod broker;
pub mod clock;
pub mod compaction;
pub mod event;
pub mod feed;
#[cfg(feature = "http")]
pub mod http;
pub mod protocol;
pub mod service;
pub mod session;
pub mod shelf;
pub mod snapshot;
pub mod storage;
pub mod store;
pub mod vectors;

pub use broker::EventBroker;
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
