//! Other processes over the same store hear of a write at once, instead of at their next look into the store.
//!
//! What goes over the topic is a hint and nothing else: which document has something new. Whoever hears it looks into the
//! log, which is the truth; so a lost hint costs the time until the next look, and a forged one costs a look.

use std::sync::Arc;

use bytes::Bytes;
use nodestorage::DocumentId;
use spot::{PubSub, PubSubError, Received, SubscriptionOptions, Topic};
use tokio::sync::mpsc;

use super::SyncService;
use crate::broker::EventBroker;

/// Hints that wait to be sent; above it one is left out.
const HINTS_WAITING_MAX: usize = 1024;
/// The number in front of a hint, by which a process knows its own.
const OWN_BYTES: usize = 8;

impl SyncService {
    /// Joins the processes over one store on a topic: each wakes the others' readers when it has written.
    ///
    /// Writes that go past the service, straight to the storage, are found by the store's own watch, as without this.
    /// Ends when the service closes, or when the transport does.
    ///
    /// # Errors
    /// If the topic can't be subscribed to. Joining twice is [`PubSubError::Refused`].
    pub async fn wake_others(&self, pubsub: Arc<dyn PubSub>, topic: Topic) -> Result<(), PubSubError> {
        let mut heard = pubsub.subscribe(topic.clone().into(), SubscriptionOptions::STANDARD).await?;
        let (hints, mut waiting) = mpsc::channel::<DocumentId>(HINTS_WAITING_MAX);
        if self.0.hints.set(hints).is_err() {
            return Err(PubSubError::Refused("this service wakes others already".to_owned()));
        }
        // Random, so that no two processes take each other's hints for their own.
        let own: [u8; OWN_BYTES] = uuid::Uuid::new_v4().as_u64_pair().0.to_be_bytes();
        let stopped = &self.0.stopped;
        self.0.tasks.spawn(stopped.clone().run_until_cancelled_owned(async move {
            while let Some(document) = waiting.recv().await {
                let hint = Bytes::from([&own[..], document.as_str().as_bytes()].concat());
                if let Err(error) = pubsub.publish(&topic, hint).await {
                    tracing::debug!(%error, %document, "others are not woken, and will look by themselves");
                }
            }
        }));
        let broker = Arc::clone(&self.0.broker);
        self.0.tasks.spawn(stopped.clone().run_until_cancelled_owned(async move {
            while let Some(received) = heard.recv().await {
                hear(&broker, own, received);
            }
        }));
        Ok(())
    }

    /// Wakes the others, if there are any.
    pub(super) fn hint(&self, document: &DocumentId) {
        if let Some(hints) = self.0.hints.get()
            && hints.try_send(document.clone()).is_err()
        {
            tracing::debug!(%document, "too many hints wait, one is left out");
        }
    }
}

fn hear(broker: &EventBroker, own: [u8; OWN_BYTES], received: Received) {
    let Received::Message(message) = received else {
        // Hints were lost: everybody looks.
        return broker.lag_all();
    };
    let Some((sender, name)) = message.payload.split_first_chunk::<OWN_BYTES>() else {
        return tracing::debug!("a hint of {} bytes is none", message.payload.len());
    };
    if *sender == own {
        return;
    }
    match std::str::from_utf8(name).ok().and_then(|name| DocumentId::new(name).ok()) {
        Some(document) => broker.lag(&document),
        None => tracing::debug!("a hint for what is no document"),
    }
}
