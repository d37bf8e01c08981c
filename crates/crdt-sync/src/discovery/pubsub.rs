//! Peers that are heard on a topic: in process, over Redis, or through the SPOT cluster.

use std::sync::Arc;

use async_trait::async_trait;
use spot::{PubSub, Topic};
use tokio::{sync::Mutex, task::JoinHandle};

use super::{DiscoveryError, PeerChange, PeerDiscovery, PeerSet};
use crate::{
    PeerId,
    presence::{PresenceOptions, PubSubPresence},
};

/// Finds peers by their [presence](crate::presence) on a topic of its own. It needs no registry beside the transport
/// that carries the patches. A dead node is forgotten after [`PresenceOptions::expiry`].
pub struct PubSubPeerDiscovery {
    pubsub: Arc<dyn PubSub>,
    topic: Topic,
    own: PeerId,
    options: PresenceOptions,
    set: Arc<PeerSet>,
    // Held across coming and going, so that each happens once.
    running: Mutex<Option<Running>>,
}

struct Running {
    presence: Arc<PubSubPresence>,
    watcher: JoinHandle<()>,
}

impl PubSubPeerDiscovery {
    /// Stands for `own` on a topic, from [`start`](PeerDiscovery::start) on.
    pub fn new(pubsub: Arc<dyn PubSub>, topic: Topic, own: PeerId, options: PresenceOptions) -> Self {
        Self { pubsub, topic, own, options, set: Arc::new(PeerSet::new()), running: Mutex::default() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

#[async_trait]
impl PeerDiscovery for PubSubPeerDiscovery {
    #[tracing::instrument(name = "register", level = "debug", skip_all, fields(own = %self.own))]
    async fn start(&self) -> Result<(), DiscoveryError> {
        self.set.get().ok_or(DiscoveryError::Closed)?;
        let mut running = self.running.lock().await;
        // It may have been closed while this waited.
        self.set.get().ok_or(DiscoveryError::Closed)?;
        if running.is_some() {
            return Ok(());
        }
        let (pubsub, topic) = (Arc::clone(&self.pubsub), self.topic.clone());
        let presence = PubSubPresence::join(pubsub, topic, self.own.clone(), self.options).await;
        let presence = Arc::new(presence.map_err(|error| DiscoveryError::Registry(error.to_string()))?);
        let mut changes = presence.changes();
        let watcher = tokio::spawn({
            let (presence, set) = (Arc::clone(&presence), Arc::clone(&self.set));
            async move {
                loop {
                    changes.mark_unchanged();
                    // Who has left is noted before it is taken from the others, so in this order nobody goes unnoticed.
                    let others = presence.others();
                    let left = presence.take_left();
                    left.iter().for_each(|peer| set.leave(peer));
                    set.set(others.into_keys().filter(|peer| !left.contains(peer)).collect());
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            }
        });
        *running = Some(Running { presence, watcher });
        Ok(())
    }

    async fn peers(&self) -> Result<Vec<PeerId>, DiscoveryError> {
        self.set.get().ok_or(DiscoveryError::Closed)
    }

    async fn next(&self) -> Option<PeerChange> {
        self.set.next().await
    }

    async fn close(&self) {
        self.set.close();
        if let Some(running) = self.running.lock().await.take() {
            running.presence.leave().await;
        }
    }
}
