//! Publish and subscribe over Redis.
//!
//! One connection per [`RedisPubSub`] carries everything, as RESP3. What Redis pushes goes from the connection straight
//! into the rings of the subscriptions, so there is no other queue. A driver task keeps the connection: it reconnects,
//! subscribes again, and has each subscription told that something may be missing.

mod channel;
mod driver;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ::redis::{ErrorKind, RedisError, aio::MultiplexedConnection};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    Delivery, PubSub, PubSubError, Published, Received, Subscription, SubscriptionOptions, Topic,
    TopicPattern,
    fanout::{Fanout, Feed},
};
use channel::Channels;

/// How a [`RedisPubSub`] behaves.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Stands in front of all channel names, so that several groups can share a server.
    pub key_prefix: String,
    /// The largest payload in bytes.
    pub payload_max: usize,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long an answer may take before the connection counts as dead.
    pub response_timeout: Duration,
    /// How often an idle connection is asked whether it lives. With `response_timeout`, the longest time in which a
    /// dead server goes unnoticed.
    pub ping_interval: Duration,
    /// How long [`subscribe`](PubSub::subscribe) waits for being live, reconnects included.
    pub subscribe_timeout: Duration,
    /// The pause before the second attempt to reconnect is at most this, and doubles with each further one…
    pub backoff_min: Duration,
    /// …up to this.
    pub backoff_max: Duration,
}

impl RedisOptions {
    /// Fits a server in the same network: prefix `weft:`, 64 MiB, dead after 4 s, reconnect within 2 s.
    pub fn standard() -> Self {
        Self {
            key_prefix: "weft:".to_owned(),
            payload_max: 64 << 20,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(2),
            subscribe_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// A member of a group that meets on a Redis server. Clones share its connection; when the last one goes, it closes.
///
/// While the server is away, [`publish`](PubSub::publish) fails with [`PubSubError::Disconnected`] and
/// [`subscribe`](PubSub::subscribe) waits. A publish that fails when the connection breaks may or may not have reached
/// the others; it is never repeated by itself, so nothing comes twice. Redis keeps no messages for those who are away:
/// after a reconnect every subscription gets a [`Received::Gap`], behind the last message of the old connection and
/// before the first one of the new.
#[derive(Clone)]
pub struct RedisPubSub {
    handle: Arc<Handle>,
}

/// What the clones share; subscriptions do not hold it, so that they end when the clones are gone.
struct Handle {
    shared: Arc<Shared>,
    /// Subscribers wait here when [`COMMANDS_MAX`] are ahead of them.
    commands: mpsc::Sender<Subscribe>,
}

/// What the handle, the driver, and the subscriptions share.
struct Shared {
    fanout: Arc<Fanout>,
    options: RedisOptions,
    channels: Channels,
    /// Written by the driver and by `close`; publishers read it.
    link: watch::Sender<Link>,
    /// Patterns that lost their last subscription, for the driver to look at. At most one entry per pattern.
    left: Mutex<HashSet<TopicPattern>>,
    left_some: Notify,
    refused: AtomicU64,
}

/// The state of the connection.
enum Link {
    Up(MultiplexedConnection),
    Down(String),
    Closed,
}

/// Asks the driver to make a pattern live, and to say when it is.
struct Subscribe {
    pattern: TopicPattern,
    live: oneshot::Sender<Result<(), PubSubError>>,
}

/// Subscribe calls that wait for the driver; more wait in front of the queue.
const COMMANDS_MAX: usize = 1024;

impl RedisPubSub {
    /// Connects to a server such as `redis://localhost:6379`. Fails if the server can't be reached now; when it goes
    /// away later, this keeps trying to come back.
    pub async fn connect(url: &str, options: RedisOptions) -> Result<Self, PubSubError> {
        let client = driver::client(url)?;
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared {
            fanout: Arc::default(),
            channels: Channels::new(&options.key_prefix),
            options,
            link: watch::Sender::new(Link::Down("not connected yet".to_owned())),
            left: Mutex::default(),
            left_some: Notify::new(),
            refused: AtomicU64::new(0),
        });
        let line = driver::connect(&client, &shared, HashSet::new(), String::new()).await?;
        let mut link = shared.link.subscribe();
        tokio::spawn(driver::run(client, line, Arc::clone(&shared), queue));
        // Nobody else holds the sender yet, so this ends; a server that goes away right now is waited for.
        let _ = link.wait_for(|link| matches!(link, Link::Up(_))).await;
        Ok(Self { handle: Arc::new(Handle { shared, commands }) })
    }

    /// How many messages came in whose channel is no [`Topic`], published by others under our prefix. They are dropped.
    pub fn refused(&self) -> u64 {
        self.handle.shared.refused.load(Relaxed)
    }

    /// Whether the server can be reached now, as far as known.
    pub fn is_connected(&self) -> bool {
        matches!(*self.handle.shared.link.borrow(), Link::Up(_))
    }
}

impl Shared {
    fn close(&self) {
        self.fanout.close();
        self.link.send_replace(Link::Closed);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[async_trait]
impl PubSub for RedisPubSub {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        let shared = &self.handle.shared;
        let (len, max) = (payload.len(), shared.options.payload_max);
        if len > max {
            return Err(PubSubError::TooLarge { len, max });
        }
        let mut connection = match &*shared.link.borrow() {
            Link::Up(connection) => connection.clone(),
            Link::Down(reason) => return Err(PubSubError::Disconnected(reason.clone())),
            Link::Closed => return Err(PubSubError::Closed),
        };
        let mut publish = ::redis::cmd("PUBLISH");
        publish.arg(shared.channels.channel(topic)).arg(&payload[..]);
        let delivered = publish.query_async(&mut connection).await;
        let delivered = delivered.map_err(|error| failure(&error, shared.options.response_timeout))?;
        Ok(Published { delivered, dropped: 0 })
    }

    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        let shared = &self.handle.shared;
        let (feed, _first) = shared.fanout.subscribe(pattern.clone(), options)?;
        // From here on an early return, or the caller giving up, unsubscribes.
        let feed = RedisFeed { feed, pattern: pattern.clone(), shared: Arc::clone(shared) };
        let live = async {
            let (live, is_live) = oneshot::channel();
            let command = Subscribe { pattern, live };
            self.handle.commands.send(command).await.map_err(|_| PubSubError::Closed)?;
            is_live.await.unwrap_or(Err(PubSubError::Closed))
        };
        let patience = shared.options.subscribe_timeout;
        tokio::time::timeout(patience, live).await.map_err(|_| PubSubError::Timeout(patience))??;
        Ok(Subscription::new(feed))
    }

    async fn close(&self) {
        self.handle.shared.close();
    }
}

/// The reader's end; on drop it has the driver unsubscribe if it was the last with its pattern.
struct RedisFeed {
    feed: Feed,
    pattern: TopicPattern,
    shared: Arc<Shared>,
}

impl Drop for RedisFeed {
    fn drop(&mut self) {
        if self.feed.leave() {
            self.shared.left.lock().insert(self.pattern.clone());
            self.shared.left_some.notify_one();
        }
    }
}

#[async_trait]
impl Delivery for RedisFeed {
    async fn recv(&mut self) -> Option<Received> {
        self.feed.recv().await
    }

    fn try_recv(&mut self) -> Option<Received> {
        self.feed.try_recv()
    }
}

fn failure(error: &RedisError, timeout: Duration) -> PubSubError {
    if error.is_timeout() {
        PubSubError::Timeout(timeout)
    } else if matches!(error.kind(), ErrorKind::Server(_)) || error.kind() == ErrorKind::InvalidClientConfig {
        PubSubError::Refused(error.to_string())
    } else {
        PubSubError::Disconnected(error.to_string())
    }
}
