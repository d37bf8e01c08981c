//! Peers within one process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use super::{DiscoveryError, PeerChange, PeerDiscovery, PeerSet};
use crate::PeerId;

/// The list that the replicas of one process share, one for each document.
#[derive(Debug, Clone, Default)]
pub struct MemoryPeers {
    // Never held across an await: each call is one short change and its announcement.
    members: Arc<Mutex<BTreeMap<PeerId, Arc<PeerSet>>>>,
}

impl MemoryPeers {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<PeerId, Arc<PeerSet>>)) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut members);
        for (own, set) in &*members {
            set.set(members.keys().filter(|peer| *peer != own).cloned().collect());
        }
    }
}

/// One replica's view of a [`MemoryPeers`] list.
#[derive(Debug)]
pub struct MemoryPeerDiscovery {
    own: PeerId,
    list: MemoryPeers,
    set: Arc<PeerSet>,
}

impl MemoryPeerDiscovery {
    /// Stands for `own` on the list, from [`start`](PeerDiscovery::start) on.
    pub fn new(list: &MemoryPeers, own: PeerId) -> Self {
        Self { own, list: list.clone(), set: Arc::new(PeerSet::new()) }
    }
}

#[async_trait]
impl PeerDiscovery for MemoryPeerDiscovery {
    #[tracing::instrument(name = "register", level = "debug", skip_all)]
    async fn start(&self) -> Result<(), DiscoveryError> {
        let mut open = true;
        self.list.change(|members| {
            // Under the list's lock, as `close` takes it from the list: what is closed does not come on it behind that.
            open = self.set.get().is_some();
            if open {
                members.insert(self.own.clone(), Arc::clone(&self.set));
            }
        });
        if open { Ok(()) } else { Err(DiscoveryError::Closed) }
    }

    async fn peers(&self) -> Result<Vec<PeerId>, DiscoveryError> {
        self.set.get().ok_or(DiscoveryError::Closed)
    }

    async fn next(&self) -> Option<PeerChange> {
        self.set.next().await
    }

    async fn close(&self) {
        // In this order: of two that go at once, at least one still knows that the other was there.
        self.set.close();
        self.leave(true);
    }
}

impl MemoryPeerDiscovery {
    /// A later one under the same name stays: the replica has been started again.
    fn leave(&self, says_goodbye: bool) {
        self.list.change(|members| {
            if members.get(&self.own).is_some_and(|set| Arc::ptr_eq(set, &self.set)) {
                members.remove(&self.own);
                if says_goodbye {
                    members.values().for_each(|set| set.leave(&self.own));
                }
            }
        });
    }
}

impl Drop for MemoryPeerDiscovery {
    fn drop(&mut self) {
        self.leave(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peers_see_each_other_come_and_go() {
        let list = MemoryPeers::new();
        let [a, b] = ["a", "b"].map(|name| PeerId::new(name).unwrap());
        let at_a = MemoryPeerDiscovery::new(&list, a.clone());
        at_a.start().await.unwrap();
        {
            let at_b = MemoryPeerDiscovery::new(&list, b.clone());
            at_b.start().await.unwrap();
            assert_eq!(at_a.next().await, Some(PeerChange::Up(b.clone())));
            assert_eq!(at_b.peers().await.unwrap(), vec![a]);
        }
        assert_eq!(at_a.next().await, Some(PeerChange::Down(b.clone())));
        let at_b = MemoryPeerDiscovery::new(&list, b.clone());
        at_b.start().await.unwrap();
        assert_eq!(at_a.next().await, Some(PeerChange::Up(b.clone())));
        at_b.close().await;
        assert_eq!(at_a.next().await, Some(PeerChange::Left(b)));
        at_a.close().await;
        assert_eq!(at_a.next().await, None);
    }

    #[tokio::test]
    async fn who_goes_late_does_not_take_its_successor_along() {
        let list = MemoryPeers::new();
        let [a, b] = ["a", "b"].map(|name| PeerId::new(name).unwrap());
        let at_a = MemoryPeerDiscovery::new(&list, a);
        at_a.start().await.unwrap();
        let before = MemoryPeerDiscovery::new(&list, b.clone());
        before.start().await.unwrap();
        let after = MemoryPeerDiscovery::new(&list, b.clone());
        after.start().await.unwrap();
        before.close().await;
        assert_eq!(at_a.peers().await.unwrap(), vec![b]);
        after.close().await;
        assert_eq!(at_a.peers().await.unwrap(), vec![]);
    }
}
