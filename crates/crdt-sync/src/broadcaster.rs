//! The channel that patches go over, to all replicas.

use std::sync::Arc;

use async_trait::async_trait;
use crdt_core::EncodingFormat;
use spot::{PubSub, Received, Subscription, SubscriptionOptions, Topic};
use tokio::sync::Mutex;

use crate::{ChannelError, Heard, PatchRecord, wire};

/// Brings patches to all other replicas, as well as it can: loss, repeats and disorder are the others' to notice.
#[async_trait]
pub trait Broadcaster: Send + Sync {
    /// Sends a patch to all. It is stored already.
    async fn broadcast(&self, record: &PatchRecord) -> Result<(), ChannelError>;

    /// Waits for the next patch of any replica; own ones may come back. `None` when the channel is closed.
    /// Cancel-safe.
    async fn next(&self) -> Option<Heard<PatchRecord>>;
}

/// A [`Broadcaster`] over a topic.
pub struct PubSubBroadcaster {
    pubsub: Arc<dyn PubSub>,
    topic: Topic,
    format: EncodingFormat,
    // Held across the wait for the next message: there is one reader, the manager's task.
    subscription: Mutex<Subscription>,
}

impl PubSubBroadcaster {
    /// Subscribes to the topic. Patches are written in `format` and read in any.
    pub async fn new(
        pubsub: Arc<dyn PubSub>,
        topic: Topic,
        format: EncodingFormat,
    ) -> Result<Self, ChannelError> {
        let subscription = pubsub.subscribe(topic.clone().into(), SubscriptionOptions::STANDARD).await?;
        Ok(Self { pubsub, topic, format, subscription: Mutex::new(subscription) })
    }
}

#[async_trait]
impl Broadcaster for PubSubBroadcaster {
    async fn broadcast(&self, record: &PatchRecord) -> Result<(), ChannelError> {
        let bytes = wire::encode_patch(self.format, record)?;
        self.pubsub.publish(&self.topic, bytes).await?;
        Ok(())
    }

    async fn next(&self) -> Option<Heard<PatchRecord>> {
        let received = self.subscription.lock().await.recv().await?;
        Some(heard(received, |bytes| wire::decode_patch(bytes).map(Some))?)
    }
}

/// Turns what a subscription yields into what a channel yields.
pub(crate) fn heard<T>(
    received: Received,
    decode: impl FnOnce(&bytes::Bytes) -> Result<Option<T>, wire::WireError>,
) -> Option<Heard<T>> {
    match received {
        Received::Message(message) => match decode(&message.payload) {
            Ok(Some(message)) => Some(Heard::Message(message)),
            Ok(None) => None,
            Err(error) => Some(Heard::Malformed { reason: error.to_string() }),
        },
        Received::Lagged { missed } => {
            Some(Heard::Gap { reason: format!("{missed} messages did not fit the queue") })
        }
        Received::Gap { reason } => Some(Heard::Gap { reason }),
        // A report of a kind that is newer than this crate: to be safe, as if something were lost.
        _ => Some(Heard::Gap { reason: "unknown report of the transport".to_owned() }),
    }
}
