//! What is published, and what comes.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::time::Instant;

use super::{Listening, Spot, SpotError, after};
use crate::{
    SubscriptionOptions, TopicPattern,
    cluster::{
        node::{Publish, Report},
        ring::Arrival,
    },
};

/// After so many bytes a publisher lets other tasks run, though it need not wait for anything: the one that writes to the
/// peers may be behind it on the same thread, and what is written soon is in the caches still.
const UNBROKEN_MAX: usize = 256 << 10;
/// What a message counts for beside its bytes.
const MESSAGE_COST: usize = 16;
/// Arrivals that a reader takes at once; so much may be held beyond the bounds of its queue.
pub(in crate::cluster::driver) const TAKE_MAX: usize = 256;

impl Spot {
    /// Subscribes; messages come with [`recv`](Self::recv). Returns at once, see [`wait_live`](Self::wait_live).
    pub fn subscribe(&self, id: &str) -> Result<(), SpotError> {
        let pattern = TopicPattern::new(id)?;
        Ok(self.shared().with_open(|node| node.subscribe(self.handle.inbox_sub, pattern))??)
    }

    /// Subscribes to all topics with a prefix, present and future: `game:*`.
    pub fn subscribe_pattern(&self, pattern: &str) -> Result<(), SpotError> {
        self.subscribe(pattern)
    }

    /// Subscribes to many; at the first error those before it are subscribed.
    pub fn subscribe_many<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Result<(), SpotError> {
        ids.into_iter().try_for_each(|id| self.subscribe(id))
    }

    /// Subscribes to all partitions of a topic.
    pub fn subscribe_partitioned(&self, id: &str) -> Result<(), SpotError> {
        self.subscribe(&format!("{id}#*"))
    }

    /// Ends a subscription. True if there was one.
    pub fn unsubscribe(&self, id: &str) -> Result<bool, SpotError> {
        let pattern = TopicPattern::new(id)?;
        Ok(self.shared().with(|node| node.unsubscribe(self.handle.inbox_sub, &pattern)))
    }

    /// Waits until a subscription is live: nothing published from then on is missed silently.
    pub async fn wait_live(&self, id: &str, timeout: Duration) -> Result<(), SpotError> {
        let pattern = TopicPattern::new(id)?;
        self.shared().wait_live(self.handle.inbox_sub, &pattern, timeout).await
    }

    /// Publishes, waiting for room as long as the topic's policy says. Cancelled, the message may or may not be taken.
    pub async fn publish(&self, id: &str, data: impl Into<Bytes>) -> Result<Report, SpotError> {
        let data = data.into();
        let shared = self.shared();
        match shared.with_open(|node| node.publish(id, &data, false))?? {
            Publish::Done(report) => {
                // Not counted exactly: two at the same time may count as one.
                let unbroken = shared.unbroken.load(Ordering::Relaxed) + data.len() + MESSAGE_COST;
                let pauses = unbroken >= UNBROKEN_MAX;
                shared.unbroken.store(if pauses { 0 } else { unbroken }, Ordering::Relaxed);
                if pauses {
                    tokio::task::yield_now().await;
                }
                Ok(report)
            }
            Publish::Full => self.publish_waiting(id, data).await,
        }
    }

    async fn publish_waiting(&self, id: &str, data: Bytes) -> Result<Report, SpotError> {
        let shared = self.shared();
        let own = shared.with(|node| node.block_timeout(id));
        let timeout = own.unwrap_or(shared.options.publish_timeout);
        let deadline = after(timeout);
        let mut force = false;
        loop {
            let room = shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let now = shared.now();
            let published = shared.with_open(|node| {
                node.set_now(now);
                node.publish(id, &data, force)
            })?;
            if let Publish::Done(report) = published? {
                return Ok(report);
            }
            if force {
                return Err(SpotError::Timeout(timeout));
            }
            force = tokio::time::timeout_at(deadline, room).await.is_err() && own.is_some();
            #[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
            if own.is_none() && Instant::now() >= deadline {
                return Err(SpotError::Timeout(timeout));
            }
        }
    }

    /// Publishes now or not at all.
    pub fn try_publish(&self, id: &str, data: impl Into<Bytes>) -> Result<Report, SpotError> {
        match self.shared().with_open(|node| node.publish(id, &data.into(), false))?? {
            Publish::Done(report) => Ok(report),
            Publish::Full => Err(SpotError::WouldBlock),
        }
    }

    /// Publishes to the partition that a key belongs to, as [`publish`](Self::publish); waits while it has no owner.
    pub async fn publish_keyed(
        &self,
        id: &str,
        key: &[u8],
        data: impl Into<Bytes>,
    ) -> Result<Report, SpotError> {
        self.publish(&self.partition_of(id, key)?, data).await
    }

    pub(crate) fn publish_open(&self, topic: &str, data: &Bytes) -> Result<Report, SpotError> {
        match self.shared().with_open(|node| node.publish_open(topic, data))?? {
            Publish::Done(report) => Ok(report),
            Publish::Full => Err(SpotError::WouldBlock),
        }
    }

    /// The next arrival of the node's own subscriptions; `None` when the node is closed. Cancel-safe.
    pub async fn recv(&self) -> Option<Arrival> {
        loop {
            if let Some(arrival) = self.try_recv() {
                return Some(arrival);
            }
            if self.shared().is_closed() {
                return None;
            }
            self.handle.inbox_notify.notified().await;
            // Others may wait too, and there may be more than one arrival.
            self.handle.inbox_notify.notify_one();
            if let Some(arrival) = self.try_recv() {
                return Some(arrival);
            }
            // Nothing: take the permit back, or we would spin.
            let _ = futures_now(self.handle.inbox_notify.notified());
        }
    }

    /// As [`recv`](Self::recv), for a limited time.
    pub async fn recv_timeout(&self, timeout: Duration) -> Result<Arrival, SpotError> {
        match tokio::time::timeout(timeout, self.recv()).await {
            Ok(Some(arrival)) => Ok(arrival),
            Ok(None) => Err(SpotError::Closed),
            Err(_) => Err(SpotError::Timeout(timeout)),
        }
    }

    /// The next arrival if it is there already.
    pub fn try_recv(&self) -> Option<Arrival> {
        let mut inbox = self.handle.inbox.lock();
        if inbox.is_empty() {
            self.shared().with(|node| node.take(self.handle.inbox_sub, TAKE_MAX, &mut inbox));
        }
        inbox.next()
    }

    /// What [`recv`](Self::recv) gives, as a stream; it ends when the node is closed. It holds no arrival back: what it has
    /// not yielded, the next call of [`recv`](Self::recv) or another stream does.
    pub fn stream(&self) -> BoxStream<'static, Arrival> {
        let next = async |spot: Self| spot.recv().await.map(|arrival| (arrival, spot));
        futures_util::stream::unfold(self.clone(), next).boxed()
    }

    /// A subscription of its own for some topics and patterns, with its own bounds.
    pub fn listen<'a>(
        &self,
        patterns: impl IntoIterator<Item = &'a str>,
        bounds: SubscriptionOptions,
    ) -> Result<Listening, SpotError> {
        let listening = self.listening(bounds, false);
        for pattern in patterns {
            listening.add(pattern)?;
        }
        Ok(listening)
    }

    pub(crate) fn listening(&self, bounds: SubscriptionOptions, open: bool) -> Listening {
        let (sub, notify) = self.shared().sub_open(bounds, open);
        Listening::new(self.clone(), sub, notify)
    }

    /// Bounds from now on: of what waits for each peer, and of what [`recv`](Self::recv) may hold. What owners were promised
    /// before may still come.
    pub fn set_hwm(&self, send: SubscriptionOptions, receive: SubscriptionOptions) {
        self.shared().with(|node| {
            let options = node.options_mut();
            (options.send_messages_max, options.send_bytes_max) = (send.messages_max, send.bytes_max);
            node.set_bounds(self.handle.inbox_sub, receive);
        });
    }
}

/// Whether a future is ready without waiting.
fn futures_now(future: impl Future<Output = ()>) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).as_mut().poll(&mut context).is_ready()
}
