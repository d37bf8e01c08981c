//! Peers from a list.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{DiscoveryError, PeerChange, PeerDiscovery, PeerSet};
use crate::PeerId;

/// Peers that the configuration names; they are always thought to be there.
pub struct StaticPeerDiscovery {
    set: PeerSet,
}

impl StaticPeerDiscovery {
    /// The peers of a list, without this replica's own name.
    pub fn new(peers: impl IntoIterator<Item = PeerId>, own: &PeerId) -> Self {
        let set = PeerSet::new();
        set.set(peers.into_iter().filter(|peer| peer != own).collect::<BTreeSet<_>>());
        Self { set }
    }
}

#[async_trait]
impl PeerDiscovery for StaticPeerDiscovery {
    async fn start(&self) -> Result<(), DiscoveryError> {
        self.set.get().map(drop).ok_or(DiscoveryError::Closed)
    }

    async fn peers(&self) -> Result<Vec<PeerId>, DiscoveryError> {
        self.set.get().ok_or(DiscoveryError::Closed)
    }

    async fn next(&self) -> Option<PeerChange> {
        self.set.next().await
    }

    async fn close(&self) {
        self.set.close();
    }
}
