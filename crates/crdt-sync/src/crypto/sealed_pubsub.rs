//! Any transport, sealed.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use spot::{
    Delivery, Message, PubSub, PubSubError, Published, Received, Subscription, SubscriptionOptions, Topic,
    TopicPattern,
};
use tokio::sync::watch;

use super::{Keyring, Opener, SealError, Sealer};

/// Seals what is published and opens what is received, so that only holders of a key can read or write.
///
/// A relay sees topics, sizes, times, and which key and sender a message names. It can drop messages, and hold them
/// back for a while; it can't read, change, forge or repeat them, or move them to another topic.
pub struct SealedPubSub {
    inner: Arc<dyn PubSub>,
    shared: Arc<Shared>,
}

struct Shared {
    // Neither is held across an await: each use is the work on one message.
    ring: RwLock<Keyring>,
    sealer: Mutex<Sealer>,
    counters: Counters,
    /// Told when the ring was changed.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Counters {
    opened: AtomicU64,
    refused: AtomicU64,
}

/// How many messages were opened and refused, over all subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealCounters {
    /// Opened and passed on.
    pub opened: u64,
    /// Thrown away: not sealed, sealed with an unknown key, changed, or repeated.
    pub refused: u64,
}

impl SealedPubSub {
    /// Seals a transport. `sender` is 16 random bytes, drawn anew at each start.
    pub fn new(inner: Arc<dyn PubSub>, ring: Keyring, sender: [u8; 16]) -> Self {
        let shared = Shared {
            ring: RwLock::new(ring),
            sealer: Mutex::new(Sealer::new(sender)),
            counters: Counters::default(),
            changed: watch::Sender::new(()),
        };
        Self { inner, shared: Arc::new(shared) }
    }

    /// Changes the keys; see [`Keyring`] for how to rotate. Subscribers that were sent what they had no key for are told of a gap.
    pub fn with_ring<T>(&self, change: impl FnOnce(&mut Keyring) -> T) -> T {
        let mut ring = self.shared.ring.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut ring);
        self.shared.changed.send_replace(());
        changed
    }

    /// What has been opened and refused so far.
    pub fn counters(&self) -> SealCounters {
        let Counters { opened, refused } = &self.shared.counters;
        SealCounters { opened: opened.load(Ordering::Relaxed), refused: refused.load(Ordering::Relaxed) }
    }
}

#[async_trait]
impl PubSub for SealedPubSub {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        let sealed = {
            let _span = tracing::trace_span!("seal", %topic).entered();
            let ring = self.shared.ring.read().unwrap_or_else(PoisonError::into_inner);
            let mut sealer = self.shared.sealer.lock().unwrap_or_else(PoisonError::into_inner);
            sealer.seal(&ring, topic.as_str(), &payload)
        };
        let sealed = sealed.map_err(|error| PubSubError::Disconnected(error.to_string()))?;
        self.inner.publish(topic, sealed.into()).await
    }

    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        let inner = self.inner.subscribe(pattern, options).await?;
        let (shared, changed) = (Arc::clone(&self.shared), self.shared.changed.subscribe());
        // Each subscription gets every message once, so each watches for repeats on its own.
        Ok(Subscription::new(SealedDelivery { inner, shared, opener: Opener::new(), changed, missed: false }))
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct SealedDelivery {
    inner: Subscription,
    shared: Arc<Shared>,
    opener: Opener,
    changed: watch::Receiver<()>,
    /// Whether something was thrown away for want of its key since the ring was changed.
    missed: bool,
}

impl SealedDelivery {
    /// `None` for a message that can't be opened: it is counted, and as good as lost.
    fn open(&mut self, received: Received) -> Option<Received> {
        let Received::Message(Message { topic, payload }) = received else { return Some(received) };
        let _span = tracing::trace_span!("open", %topic).entered();
        let ring = self.shared.ring.read().unwrap_or_else(PoisonError::into_inner);
        let counters = &self.shared.counters;
        match self.opener.open(&ring, topic.as_str(), &payload) {
            Ok(message) => {
                counters.opened.fetch_add(1, Ordering::Relaxed);
                Some(Received::Message(Message { topic, payload: message.into() }))
            }
            Err(reason) => {
                if matches!(reason, SealError::UnknownKey(_)) {
                    self.missed = true;
                    // While the ring is held, so that no change of it is overlooked.
                    self.changed.mark_unchanged();
                }
                counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%topic, %reason, "threw away a message");
                None
            }
        }
    }
}

/// What was missed may be asked for with the keys of now.
fn gap() -> Received {
    Received::Gap { reason: "sealed with a key that was not on the ring".to_owned() }
}

#[async_trait]
impl Delivery for SealedDelivery {
    async fn recv(&mut self) -> Option<Received> {
        loop {
            let received = tokio::select! {
                received = self.inner.recv() => received?,
                Ok(()) = self.changed.changed(), if self.missed => {
                    self.missed = false;
                    return Some(gap());
                }
            };
            if let Some(opened) = self.open(received) {
                return Some(opened);
            }
        }
    }

    fn try_recv(&mut self) -> Option<Received> {
        if self.missed && self.changed.has_changed().unwrap_or(false) {
            self.missed = false;
            return Some(gap());
        }
        loop {
            let received = self.inner.try_recv()?;
            if let Some(opened) = self.open(received) {
                return Some(opened);
            }
        }
    }
}
