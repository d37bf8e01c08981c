//! Who else is there.

mod fixed;
mod memory;
mod pubsub;
#[cfg(feature = "redis")]
mod redis;
mod set;

use async_trait::async_trait;

pub use fixed::StaticPeerDiscovery;
pub use memory::{MemoryPeerDiscovery, MemoryPeers};
pub use pubsub::PubSubPeerDiscovery;
#[cfg(feature = "redis")]
pub use redis::{RedisPeerDiscovery, RedisPeerOptions};
pub use set::PeerSet;

use crate::PeerId;

/// Finds the peers of a document.
///
/// It is a help, not a truth: a peer that is found late, or never, is still heard on the channels.
#[async_trait]
pub trait PeerDiscovery: Send + Sync {
    /// Makes this replica known to the others, and begins to look for them. If what it needs for that can't be reached now, it
    /// goes on trying.
    async fn start(&self) -> Result<(), DiscoveryError>;

    /// Who is there now, without this replica, in the order of their names.
    async fn peers(&self) -> Result<Vec<PeerId>, DiscoveryError>;

    /// Waits until someone comes or goes; those who are there at the start come first. `None` after
    /// [`close`](Self::close). Cancel-safe.
    async fn next(&self) -> Option<PeerChange>;

    /// Takes this replica from the list.
    async fn close(&self);
}

/// Someone came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// Came.
    Up(PeerId),
    /// Has not been heard for as long as the discovery allows. It may have stopped, or be cut off and go on.
    Down(PeerId),
    /// Said goodbye: it has stopped. One that never came here may have been there before, and be remembered.
    Left(PeerId),
}

/// Why discovery failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The registry can't be reached.
    #[error("peer registry failed: {0}")]
    Registry(String),
    /// Another replica uses the name of this one, and came later: the others see that one only, as long as it is there.
    #[error("another replica registered as {0}")]
    NameTaken(PeerId),
    /// It has been closed.
    #[error("peer discovery is closed")]
    Closed,
}
