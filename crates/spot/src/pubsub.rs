//! The seam: what every transport can do.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Topic, TopicPattern};

/// Publishes messages to topics and delivers them to subscribers.
///
/// Laws that every transport keeps (the conformance suite tests them):
/// - once [`subscribe`](Self::subscribe) has returned, every message published afterwards anywhere in the group comes
///   to the subscription, or its loss is reported there as [`Received::Lagged`] or [`Received::Gap`];
/// - the messages of one publisher to one topic come in the order of publishing, none twice;
/// - a slow subscriber costs its own queue, which is bounded, and never delays a publisher or another subscriber.
#[async_trait]
pub trait PubSub: Send + Sync {
    /// Sends a message to all present subscribers of a topic. Nobody there is no error.
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError>;

    /// Subscribes to a topic or to all topics with a prefix. The subscription is live when this returns.
    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError>;

    /// Ends all subscriptions; what they hold can still be received. Everything after is [`PubSubError::Closed`].
    async fn close(&self);
}

/// How much a subscription may hold for its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Messages at most.
    pub messages_max: usize,
    /// Payload bytes at most.
    pub bytes_max: usize,
}

impl SubscriptionOptions {
    /// Fits a reader that does not stop for long: 1 024 messages, 8 MiB.
    pub const STANDARD: Self = Self { messages_max: 1024, bytes_max: 8 << 20 };
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: Topic,
    /// What was published.
    pub payload: Bytes,
}

/// What happened to a published message, as far as the transport can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Local subscriptions, or remote nodes, that it was handed to.
    pub delivered: usize,
    /// Those of them whose queue was full: they lost this or an older message and will be told that they lagged.
    pub dropped: usize,
}

/// What a subscription yields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// The next message.
    Message(Message),
    /// This many messages were dropped here because the reader was too slow for its queue. The oldest go first.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// The connection was lost and is back; what was published in between may be missing.
    Gap {
        /// What is known of the reason.
        reason: String,
    },
}

/// What feeds a [`Subscription`]; implemented by transports.
#[async_trait]
pub trait Delivery: Send {
    /// Waits for the next thing; `None` when the transport is closed and all has been received. Cancel-safe.
    async fn recv(&mut self) -> Option<Received>;

    /// The next thing if it is there already.
    fn try_recv(&mut self) -> Option<Received>;
}

/// A subscription. Dropping it unsubscribes.
pub struct Subscription {
    delivery: Box<dyn Delivery>,
}

impl Subscription {
    /// Wraps what a transport made.
    pub fn new(delivery: impl Delivery + 'static) -> Self {
        Self { delivery: Box::new(delivery) }
    }

    /// Waits for the next thing; `None` when the transport is closed and all has been received. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Received> {
        self.delivery.recv().await
    }

    /// The next thing if it is there already.
    pub fn try_recv(&mut self) -> Option<Received> {
        self.delivery.try_recv()
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PubSubError {
    /// The transport has been closed.
    #[error("pub/sub is closed")]
    Closed,
    /// The payload is too large for the transport.
    #[error("payload of {len} bytes: at most {max} are allowed")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The other side is not there.
    #[error("not connected: {0}")]
    Disconnected(String),
    /// The other side answered with an error: a right that is missing, for instance.
    #[error("refused: {0}")]
    Refused(String),
    /// It took too long.
    #[error("timed out after {0:?}")]
    Timeout(Duration),
}
