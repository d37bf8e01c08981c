//! Peers that are heard on a topic: in process, over Redis, or through the SPOT cluster.

use std::sync::Arc;

use async_trait::async_trait;
use spot::{PubSub, Topic};
use tokio::{sync::Mutex, task::JoinHandle};

use super::{DiscoveryError, PeerChange, PeerDiscovery, PeerSet};
use crate::{
    Guard, PeerId,
    presence::{PresenceOptions, PubSubPresence},
};

/// Finds peers by their [presence](crate::presence) on a topic of its own. It needs no registry beside the transport
/// that carries the patches. A dead node is forgotten after [`PresenceOptions::expiry`].
pub struct PubSubPeerDiscovery {
    pubsub: Arc<dyn PubSub>,
    topic: Topic,
    own: PeerId,
    options: PresenceOptions,
    guard: Option<Arc<dyn Guard>>,
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
        let (set, running) = (Arc::new(PeerSet::new()), Mutex::default());
        Self { pubsub, topic, own, options, guard: None, set, running }
    }

    /// The same in a group that signs, with the guard of the manager: says goodbye with a signature, and believes nobody who says it
    /// without one in the name of a replica for which a key [speaks](Guard::has_voice). Who is only cut off is waited for then,
    /// whatever others say.
    #[must_use]
    pub fn with_guard(mut self, guard: Arc<dyn Guard>) -> Self {
        self.guard = Some(guard);
        self
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
        let guard = self.guard.clone();
        let presence =
            PubSubPresence::join_guarded(pubsub, topic, self.own.clone(), self.options, guard).await;
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
