//! Publish and subscribe within one process.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Message, PubSub, PubSubError, Published, Subscription, SubscriptionOptions, Topic, TopicPattern,
    fanout::Fanout,
};

/// A hub in this process. Clones are the same hub; when the last one goes, it closes.
///
/// ```
/// use spot::{MemoryPubSub, PubSub, Received, SubscriptionOptions, Topic, TopicPattern};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = MemoryPubSub::new();
/// let mut games = hub.subscribe(TopicPattern::new("game:*")?, SubscriptionOptions::STANDARD).await?;
/// hub.publish(&Topic::new("game:score")?, "3:2".into()).await?;
///
/// let Some(Received::Message(message)) = games.recv().await else { panic!("nothing is lost here") };
/// assert_eq!(&message.payload[..], b"3:2");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryPubSub {
    handle: Arc<Handle>,
}

/// What the clones share. Subscriptions hold the fan-out but not this, so that they end when the clones are gone.
#[derive(Debug)]
struct Handle {
    fanout: Arc<Fanout>,
    payload_max: usize,
}

impl MemoryPubSub {
    /// The largest payload of a hub made by [`new`](Self::new): 64 MiB.
    pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

    /// A hub without subscriptions.
    pub fn new() -> Self {
        Self::with_payload_max(Self::PAYLOAD_BYTES_MAX)
    }

    /// A hub that refuses payloads of more than `payload_max` bytes.
    pub fn with_payload_max(payload_max: usize) -> Self {
        Self { handle: Arc::new(Handle { fanout: Arc::default(), payload_max }) }
    }

    /// [`publish`](PubSub::publish) for callers that are not async. Never waits for a reader.
    pub fn publish_now(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        let (len, max) = (payload.len(), self.handle.payload_max);
        if len > max {
            return Err(PubSubError::TooLarge { len, max });
        }
        self.handle.fanout.publish(&Message { topic: topic.clone(), payload })
    }

    /// [`subscribe`](PubSub::subscribe) for callers that are not async.
    pub fn subscribe_now(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        let (feed, _first) = self.handle.fanout.subscribe(pattern, options)?;
        Ok(Subscription::new(feed))
    }
}

impl Default for MemoryPubSub {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.fanout.close();
    }
}

#[async_trait]
impl PubSub for MemoryPubSub {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        self.publish_now(topic, payload)
    }

    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        self.subscribe_now(pattern, options)
    }

    async fn close(&self) {
        self.handle.fanout.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Received;

    fn hub_and_reader(messages_max: usize) -> (MemoryPubSub, Topic, Subscription) {
        let (hub, topic) = (MemoryPubSub::new(), Topic::new("t").unwrap());
        let options = SubscriptionOptions { messages_max, bytes_max: 1 << 20 };
        let reader = hub.subscribe_now(topic.clone().into(), options).unwrap();
        (hub, topic, reader)
    }

    #[test]
    fn publish_says_who_got_it_and_who_lost_something() {
        let (hub, topic, _slow) = hub_and_reader(1);
        let _fast = hub.subscribe_now(topic.clone().into(), SubscriptionOptions::STANDARD).unwrap();
        assert_eq!(hub.publish_now(&topic, "a".into()).unwrap(), Published { delivered: 2, dropped: 0 });
        assert_eq!(hub.publish_now(&topic, "b".into()).unwrap(), Published { delivered: 2, dropped: 1 });
    }

    #[tokio::test]
    async fn subscriptions_end_with_the_last_handle() {
        let (hub, topic, mut reader) = hub_and_reader(8);
        let clone = hub.clone();
        drop(hub);
        clone.publish_now(&topic, "last words".into()).unwrap();
        drop(clone);
        assert!(matches!(reader.recv().await, Some(Received::Message(_))));
        assert_eq!(reader.recv().await, None);
    }

    #[tokio::test]
    async fn a_payload_is_shared_and_not_copied() {
        let (hub, topic, mut reader) = hub_and_reader(8);
        let payload = Bytes::from(vec![7; 1000]);
        hub.publish_now(&topic, payload.clone()).unwrap();
        let Some(Received::Message(message)) = reader.recv().await else { panic!("no message") };
        assert!(std::ptr::eq(message.payload.as_ptr(), payload.as_ptr()));
    }
}
