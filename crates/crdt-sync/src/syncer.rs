//! The channel that the state synchronisation protocol goes over, to all replicas or to one.

use std::sync::Arc;

use async_trait::async_trait;
use crdt_core::EncodingFormat;
use spot::{PubSub, Subscription, SubscriptionOptions, Topic};
use tokio::sync::Mutex;

use crate::{ChannelError, Heard, PeerId, SyncMessage, broadcaster::heard, wire};

/// Brings messages to one peer or to all, as well as it can.
#[async_trait]
pub trait Syncer: Send + Sync {
    /// The name under which this replica gets messages.
    fn peer_id(&self) -> &PeerId;

    /// Sends a message to a peer, or with `None` to all.
    async fn send(&self, to: Option<&PeerId>, message: &SyncMessage) -> Result<(), ChannelError>;

    /// Waits for the next message to this replica or to all, and who sent it. `None` when the channel is closed.
    /// Cancel-safe.
    async fn next(&self) -> Option<Heard<(PeerId, SyncMessage)>>;
}

/// A [`Syncer`] over a topic for all, and under it a topic for each peer.
pub struct PubSubSyncer {
    pubsub: Arc<dyn PubSub>,
    all: Topic,
    own: PeerId,
    format: EncodingFormat,
    // Held across the wait for the next message: there is one reader, the manager's task.
    inbox: Mutex<Inbox>,
}

struct Inbox {
    all: Subscription,
    own: Subscription,
}

impl PubSubSyncer {
    /// Subscribes to `topic` and to the inbox of `own` under it. Messages are written in `format` and read in any.
    pub async fn new(
        pubsub: Arc<dyn PubSub>,
        topic: Topic,
        own: PeerId,
        format: EncodingFormat,
    ) -> Result<Self, ChannelError> {
        let options = SubscriptionOptions::STANDARD;
        let all = pubsub.subscribe(topic.clone().into(), options).await?;
        let inbox = inbox_topic(&topic, &own)?;
        let inbox = Inbox { all, own: pubsub.subscribe(inbox.into(), options).await? };
        Ok(Self { pubsub, all: topic, own, format, inbox: Mutex::new(inbox) })
    }
}

fn inbox_topic(all: &Topic, peer: &PeerId) -> Result<Topic, spot::InvalidTopic> {
    Topic::new(format!("{all}/{peer}"))
}

#[async_trait]
impl Syncer for PubSubSyncer {
    fn peer_id(&self) -> &PeerId {
        &self.own
    }

    async fn send(&self, to: Option<&PeerId>, message: &SyncMessage) -> Result<(), ChannelError> {
        let bytes = wire::encode_sync(self.format, &self.own, message)?;
        match to {
            None => self.pubsub.publish(&self.all, bytes).await?,
            Some(peer) => self.pubsub.publish(&inbox_topic(&self.all, peer)?, bytes).await?,
        };
        Ok(())
    }

    async fn next(&self) -> Option<Heard<(PeerId, SyncMessage)>> {
        let mut inbox = self.inbox.lock().await;
        loop {
            let Inbox { all, own } = &mut *inbox;
            let received = tokio::select! {
                received = own.recv() => received?,
                received = all.recv() => received?,
            };
            let not_own = |(from, message)| (from != self.own).then_some((from, message));
            if let Some(heard) = heard(received, |bytes| wire::decode_sync(bytes).map(not_own)) {
                return Some(heard);
            }
        }
    }
}
