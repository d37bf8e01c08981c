//! Every replica of a CRDT document gets every patch, whatever the network does.
//!
//! ```
//! use crdt_core::{EncodingFormat, SessionId};
//! use crdt_sync::{MemoryPatchStore, PeerId, PubSubBroadcaster, PubSubSyncer, SharedModel, SyncManager};
//! use crdt_sync::discovery::{MemoryPeerDiscovery, MemoryPeers};
//! use spot::{MemoryPubSub, PubSub, Topic};
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (pubsub, peers): (Arc<dyn PubSub>, _) = (Arc::new(MemoryPubSub::new()), MemoryPeers::new());
//! let mut replicas = Vec::new();
//! for (node, session) in [("alice", 70_001), ("bob", 70_002)] {
//!     let (id, format) = (PeerId::new(node)?, EncodingFormat::Binary);
//!     let document = Arc::new(SharedModel::new(SessionId::new(session)?));
//!     let (patches, sync) = (Topic::new("notes-patches")?, Topic::new("notes-sync")?);
//!     let broadcaster = Arc::new(PubSubBroadcaster::new(pubsub.clone(), patches, format).await?);
//!     let syncer = Arc::new(PubSubSyncer::new(pubsub.clone(), sync, id.clone(), format).await?);
//!     let discovery = Arc::new(MemoryPeerDiscovery::new(&peers, id));
//!     let store = Arc::new(MemoryPatchStore::new());
//!     let manager = SyncManager::new(document.clone(), broadcaster, syncer, discovery, store);
//!     manager.start(session).await?;
//!     replicas.push((document, manager));
//! }
//! let [(alice, manager), (bob, _)] = &replicas[..] else { unreachable!() };
//!
//! // Alice edits; when `apply_patch` returns, the edit is durable, and it is on its way to all.
//! let mut arrived = bob.changes();
//! let patch = alice.edit(|model| model.api().root("warp and weft"))?.unwrap();
//! manager.apply_patch(&patch).await?;
//! arrived.changed().await?;
//! assert_eq!(bob.view(), alice.view());
//! # Ok(()) }
//! ```
//!
//! Where "the later write wins" is not enough, [`conflict`] shows what was written at the same time, and lets the
//! application or a named authority decide.
//!
//! This crate knows no HTTP and no event documents.

pub mod record;
pub mod message;
pub mod session;
pub mod dag;
pub mod reconcile;
pub mod wire;
pub mod store;
pub mod channel;
pub mod broadcaster;
pub mod syncer;
pub mod discovery;
pub mod error;
pub mod document;
mod causal;
mod fold;
mod split;
pub mod shared;
pub mod guard;
pub mod manager;
pub mod conflict;
pub mod presence;
pub mod gateway;
#[cfg(feature = "crypto")]
pub mod crypto;

pub use broadcaster::{Broadcaster, PubSubBroadcaster};
pub use channel::{ChannelError, Heard};
pub use discovery::{DiscoveryError, PeerChange, PeerDiscovery};
pub use document::{DocumentError, Fold, SyncDocument};
pub use error::SharedError;
pub use gateway::{ClientSocket, Gateway};
pub use guard::{Gate, Guard, SignerId};
pub use manager::{CompactionPolicy, Repaired, StoreRetry, SyncError, SyncManager, SyncStatus};
pub use message::{InvalidPeerId, PeerId, SnapshotHead, SyncMessage, Want};
pub use record::{Envelope, InvalidRecord, Needs, PatchRecord};
pub use shared::{SharedEditError, SharedModel};
pub use store::{MemoryPatchStore, PatchStore, PatchStoreError, StoreId};
pub use syncer::{PubSubSyncer, Syncer};
