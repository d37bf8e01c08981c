//! The cluster as a [`PubSub`]: every node publishes to whoever is interested, and no topic needs an owner.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Arrival, Listening, Spot, SpotError};
use crate::{
    Delivery, Message, PubSub, PubSubError, Published, Received, Subscription, SubscriptionOptions, Topic,
    TopicPattern,
};

/// How long [`SpotPubSub::subscribe`](PubSub::subscribe) waits for the connected nodes to know of it. One that does not
/// answer in time is about to be given up, and its return is told as a gap.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes and subscribes through a node of a SPOT cluster.
#[derive(Clone)]
pub struct SpotPubSub {
    spot: Spot,
}

impl SpotPubSub {
    /// Uses a node, whose cluster is the group.
    pub fn new(spot: Spot) -> Self {
        Self { spot }
    }

    /// The node.
    pub fn spot(&self) -> &Spot {
        &self.spot
    }
}

#[async_trait]
impl PubSub for SpotPubSub {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        let report = self.spot.publish_open(topic.as_str(), &payload).map_err(|error| match error {
            SpotError::Publish(super::PublishError::TooLarge { len, max }) => {
                PubSubError::TooLarge { len, max }
            }
            other => from_spot(other),
        })?;
        Ok(Published { delivered: report.delivered + report.queued, dropped: report.dropped })
    }

    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        if self.spot.is_closed() {
            return Err(PubSubError::Closed);
        }
        let listening = self.spot.listening(options, true);
        listening.add_pattern(pattern.clone()).map_err(from_spot)?;
        match listening.wait_pattern_live(&pattern, SUBSCRIBE_TIMEOUT).await {
            Ok(_) | Err(SpotError::Timeout(_)) => Ok(Subscription::new(SpotDelivery { listening })),
            Err(error) => Err(from_spot(error)),
        }
    }

    async fn close(&self) {
        self.spot.close();
    }
}

fn from_spot(error: SpotError) -> PubSubError {
    match error {
        SpotError::Closed => PubSubError::Closed,
        SpotError::Timeout(after) => PubSubError::Timeout(after),
        SpotError::Refused { .. } => PubSubError::Refused(error.to_string()),
        other => PubSubError::Disconnected(other.to_string()),
    }
}

struct SpotDelivery {
    listening: Listening,
}

#[async_trait]
impl Delivery for SpotDelivery {
    async fn recv(&mut self) -> Option<Received> {
        self.listening.recv().await.map(received)
    }

    fn try_recv(&mut self) -> Option<Received> {
        self.listening.try_recv().map(received)
    }
}

fn received(arrival: Arrival) -> Received {
    match arrival {
        Arrival::Message { topic, payload } => Received::Message(Message { topic, payload }),
        Arrival::Lagged { missed } => Received::Lagged { missed },
        Arrival::Gap { topic, first, last: Some(last) } => Received::Gap {
            reason: format!("{} messages of `{topic}` were dropped on their way", last - first + 1),
        },
        Arrival::Gap { topic, .. } => Received::Gap {
            reason: format!("a connection was lost and is back: `{topic}` may have been missed"),
        },
    }
}
