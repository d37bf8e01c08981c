//! Every replica of a CRDT document gets every patch, whatever the network does.
//!
//! This crate knows no HTTP and no event documents.

pub mod broadcaster;
pub mod channel;
#[cfg(feature = "crypto")]
pub mod crypto;
pub mod discovery;
pub mod document;
pub mod guard;
pub mod manager;
pub mod message;
pub mod presence;
pub mod record;
pub mod session;
pub mod shared;
pub mod store;
pub mod syncer;
pub mod wire;

pub use broadcaster::{Broadcaster, PubSubBroadcaster};
pub use channel::{ChannelError, Heard};
pub use discovery::{DiscoveryError, PeerChange, PeerDiscovery};
pub use document::{DocumentError, Fold, SyncDocument};
pub use guard::Guard;
pub use manager::{SyncError, SyncManager, SyncStatus};
pub use message::{InvalidPeerId, PeerId, SnapshotHead, SyncMessage, Want};
pub use record::{InvalidRecord, PatchRecord};
pub use shared::SharedModel;
pub use store::{MemoryPatchStore, PatchStore, PatchStoreError};
pub use syncer::{PubSubSyncer, Syncer};
