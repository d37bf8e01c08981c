//! The node as an application uses it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, broadcast, watch},
    time::Instant,
};

use super::{Endpoint, Inner, Listening, Shared, SpotError, SpotOptions, stream::Listener};
use crate::{
    SubscriptionOptions, TopicPattern,
    cluster::{
        command::NodeId,
        node::{
            Counters, Event, LinkStatus, Node, PeerStatus, Publish, PublishError, Report, SubId, SyncReport,
            TopicError, TopicInfo, TopicOptions, TopicOrigin,
        },
        partition::{partition_name, partition_of},
        ring::{Arrival, Taken},
        zmtp::Security,
    },
};

/// A node of a cluster. Clones are the same node; it ends when the last one is dropped, or with [`close`](Self::close).
#[derive(Clone)]
pub struct Spot {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    inbox: Mutex<Taken>,
    inbox_sub: SubId,
    inbox_notify: Arc<Notify>,
    bound: Mutex<Option<Endpoint>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        for notify in inner.subs.values() {
            notify.notify_one();
        }
        drop(inner);
        self.closing.send_replace(true);
        self.room.notify_waiters();
        self.changed.send_modify(|n| *n += 1);
    }

    fn sub_open(&self, bounds: SubscriptionOptions, open: bool) -> (SubId, Arc<Notify>) {
        let mut inner = self.inner.lock();
        let sub = inner.node.sub_open(bounds, open);
        let notify = Arc::new(Notify::new());
        inner.subs.insert(sub, notify.clone());
        (sub, notify)
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closing.borrow()
    }

    /// Waits until `check` gives something; it is asked again after each change.
    pub(super) async fn wait<R>(
        &self,
        timeout: Duration,
        mut check: impl FnMut(&mut Node) -> Option<R>,
    ) -> Option<R> {
        let mut changed = self.changed.subscribe();
        #[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
        let deadline = Instant::now() + timeout;
        loop {
            changed.mark_unchanged();
            if let Some(result) = self.with(&mut check) {
                return Some(result);
            }
            if self.is_closed() || tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return self.with(&mut check);
            }
        }
    }
}

impl Shared {
    /// Waits until a subscription is live, or a peer says that it will not be.
    pub(super) async fn wait_live(
        &self,
        sub: SubId,
        pattern: &TopicPattern,
        timeout: Duration,
    ) -> Result<(), SpotError> {
        let live = |node: &mut Node| match node.refused_by(sub, pattern) {
            Some(peer) => Some(Err(SpotError::Refused { what: pattern.to_string(), peer })),
            None => node.is_live(sub, pattern).then_some(Ok(())),
        };
        self.wait(timeout, live).await.unwrap_or(Err(SpotError::Timeout(timeout)))
    }
}

impl Spot {
    /// A node that knows nobody. Must be called in a tokio runtime.
    pub fn new(options: SpotOptions) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
        let began = Instant::now();
        let (links, subs) = Default::default();
        let inner = Inner { node: Node::new(options.node.clone()), links, subs, closed: false };
        let shared = Arc::new(Shared {
            began,
            inner: Mutex::new(inner),
            room: Notify::new(),
            timer: Notify::new(),
            changed: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS_MAX),
            handshakes: Arc::new(Semaphore::new(options.handshakes_max)),
            securities: Mutex::default(),
            unfinished: AtomicUsize::new(0),
            unbroken: AtomicUsize::new(0),
            dials: Mutex::default(),
            buffers: Default::default(),
            closing: watch::Sender::new(false),
            options,
        });
        let (inbox_sub, inbox_notify) = shared.sub_open(shared.options.inbox, false);
        tokio::spawn(shared.clone().tend());
        let (inbox, bound) = Default::default();
        Self { handle: Arc::new(Handle { shared, inbox, inbox_sub, inbox_notify, bound }) }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Listens; gives the endpoint, with the port that was chosen for port 0.
    pub async fn bind(&self, endpoint: &str) -> Result<String, SpotError> {
        let parsed: Endpoint = endpoint.parse()?;
        let shared = self.shared();
        if let Endpoint::Tcp(host, _) = &parsed {
            let open = matches!(shared.options.server, Security::Null) && !shared.options.public;
            let loopback =
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
            if open && !loopback {
                return Err(SpotError::Unsafe(endpoint.to_owned()));
            }
        }
        let already =
            |bound: &Option<Endpoint>| bound.as_ref().map(|e| SpotError::AlreadyBound(e.to_string()));
        if let Some(error) = already(&self.handle.bound.lock()) {
            return Err(error);
        }
        let bound = Listener::bind(&parsed).await;
        let (listener, bound) =
            bound.map_err(|source| SpotError::Io { endpoint: endpoint.to_owned(), source })?;
        let mut slot = self.handle.bound.lock();
        if let Some(error) = already(&slot) {
            return Err(error);
        }
        let text = bound.to_string();
        *slot = Some(bound);
        if !slot.as_ref().is_some_and(Endpoint::is_everywhere) {
            let told = text.clone();
            shared.with(|node| {
                if node.options().advertise.is_empty() {
                    node.options_mut().advertise.push(told);
                }
            });
        }
        tokio::spawn(self.handle.shared.clone().listen(listener));
        Ok(text)
    }

    /// Connects to a node and stays connected. Returns when the node's topics are known.
    pub async fn cluster_add(&self, endpoint: &str) -> Result<(), SpotError> {
        self.add(endpoint, None).await
    }

    async fn add(&self, endpoint: &str, security: Option<Security>) -> Result<(), SpotError> {
        let _: Endpoint = endpoint.parse()?;
        let shared = self.shared();
        let now = shared.now();
        let added = shared.with(|node| {
            node.set_now(now);
            let added = node.target_add(endpoint);
            // Before it is dialed, which is when this call has returned.
            if let Some(security) = security.filter(|_| added) {
                shared.securities.lock().insert(endpoint.to_owned(), security);
            }
            added
        });
        if !added {
            return Err(SpotError::AlreadyAdded(endpoint.to_owned()));
        }
        let timeout = shared.options.connect_timeout;
        let mut reason = "no answer".to_owned();
        let up = shared
            .wait(timeout, |node| {
                let Some((_, state, synced)) = node.targets().find(|(e, ..)| *e == endpoint) else {
                    return Some(Err(SpotError::NotAdded(endpoint.to_owned())));
                };
                if let crate::cluster::membership::PeerState::Down { reason: why } = state {
                    reason.clone_from(why);
                }
                synced.then_some(Ok(()))
            })
            .await;
        up.unwrap_or_else(|| {
            Err(SpotError::HostUnreachable { endpoint: endpoint.to_owned(), timeout, reason })
        })
    }

    /// As [`cluster_add`](Self::cluster_add), but a node that is not reached in time is not tried any more. A node that
    /// [`cluster_add`](Self::cluster_add) keeps trying is given up with [`cluster_remove`](Self::cluster_remove).
    pub async fn cluster_try(&self, endpoint: &str) -> Result<(), SpotError> {
        let reached = self.cluster_add(endpoint).await;
        if let Err(SpotError::HostUnreachable { .. }) = reached {
            // Somebody else may have given it up meanwhile.
            let _ = self.cluster_remove(endpoint);
        }
        reached
    }

    /// As [`cluster_add`](Self::cluster_add), with its own security: the CURVE key of this server, for example.
    pub async fn cluster_add_secured(&self, endpoint: &str, security: Security) -> Result<(), SpotError> {
        self.add(endpoint, Some(security)).await
    }

    /// Ends the connection to a node. Its topics go with it.
    pub fn cluster_remove(&self, endpoint: &str) -> Result<(), SpotError> {
        let shared = self.shared();
        let removed = shared.with(|node| {
            shared.securities.lock().remove(endpoint);
            node.target_remove(endpoint)
        });
        match removed {
            true => Ok(()),
            false => Err(SpotError::NotAdded(endpoint.to_owned())),
        }
    }

    /// Waits until the topics of all nodes are known that are in the cluster, those too that gossip told of, or until it is
    /// known that they cannot be reached. False if the time was not enough.
    pub async fn cluster_settled(&self, timeout: Duration) -> bool {
        self.shared().wait(timeout, |node| node.is_settled_with_all().then_some(())).await.is_some()
    }

    /// Asks every connected node for its topics. An error only if there are nodes and none answered in time. With a
    /// timeout of zero, only what has already come counts.
    pub async fn cluster_sync(&self, timeout: Duration) -> Result<SyncReport, SpotError> {
        let shared = self.shared();
        let syncing = Syncing { shared, sync: shared.with(Node::sync_begin) };
        let sync = syncing.sync;
        shared.wait(timeout, |node| node.is_synced(sync).then_some(())).await;
        let report = shared.with(|node| node.sync_report(sync));
        drop(syncing);
        if report.answered.is_empty() && !report.timed_out.is_empty() && !timeout.is_zero() {
            return Err(SpotError::Timeout(timeout));
        }
        Ok(report)
    }

    /// Creates a topic that this node owns: lossless, no replay.
    pub fn topic_create(&self, id: &str) -> Result<(), SpotError> {
        self.topic_create_with(id, TopicOptions::STANDARD)
    }

    /// Creates a topic that this node owns.
    pub fn topic_create_with(&self, id: &str, options: TopicOptions) -> Result<(), SpotError> {
        Ok(self.shared().with(|node| node.topic_create(id, options))?)
    }

    /// Removes a topic that this node owns.
    pub fn topic_destroy(&self, id: &str) -> Result<(), SpotError> {
        Ok(self.shared().with(|node| node.topic_destroy(id))?)
    }

    /// Becomes a member of a topic in `count` partitions: topics `id#0`, `id#1` and so on, spread over its members, that
    /// move when members come and go. All members name the same count.
    pub fn topic_create_partitioned(&self, id: &str, count: u32) -> Result<(), SpotError> {
        self.topic_create_partitioned_with(id, count, TopicOptions::STANDARD)
    }

    /// As [`topic_create_partitioned`](Self::topic_create_partitioned); the options are those of each partition.
    pub fn topic_create_partitioned_with(
        &self,
        id: &str,
        count: u32,
        options: TopicOptions,
    ) -> Result<(), SpotError> {
        Ok(self.shared().with(|node| node.topic_create_partitioned(id, count, options))?)
    }

    /// Is a member no more. Returns when all that this node owned of the topic has moved, or ended with its last member.
    pub async fn topic_destroy_partitioned(&self, id: &str, timeout: Duration) -> Result<(), SpotError> {
        let shared = self.shared();
        shared.with(|node| node.topic_destroy_partitioned(id))?;
        let left = shared.wait(timeout, |node| (!node.is_member(id)).then_some(())).await;
        left.ok_or(SpotError::Timeout(timeout))
    }

    /// The partition that a key belongs to: all messages of a key come in order.
    pub fn partition_of(&self, id: &str, key: &[u8]) -> Result<String, SpotError> {
        let count = self.shared().with(|node| node.partition_count(id));
        let count = count.ok_or_else(|| PublishError::NotFound(id.to_owned()))?;
        Ok(partition_name(id, partition_of(key, count)))
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

    /// Subscribes to all partitions of a topic.
    pub fn subscribe_partitioned(&self, id: &str) -> Result<(), SpotError> {
        self.subscribe(&format!("{id}#*"))
    }

    /// Sends what is published to a topic to the node at an endpoint of the cluster, and subscribes there, whoever is known
    /// to own it: for peers that do not tell their topics.
    pub fn topic_route(&self, id: &str, endpoint: &str) -> Result<(), SpotError> {
        self.shared().with(|node| node.topic_route(id, endpoint)).map_err(|error| match error {
            TopicError::NotAdded(endpoint) => SpotError::NotAdded(endpoint),
            other => other.into(),
        })
    }

    /// Ends a route. False if there was none.
    pub fn topic_unroute(&self, id: &str) -> bool {
        self.shared().with(|node| node.topic_unroute(id))
    }

    /// All topics, by name.
    pub fn list_topics(&self) -> Vec<TopicInfo> {
        let mut all = self.shared().with(|node| node.list_topics());
        all.sort_by(|a, b| a.topic.cmp(&b.topic));
        all
    }

    /// Whether anybody known owns the topic.
    pub fn topic_exists(&self, id: &str) -> bool {
        self.shared().with(|node| node.topic_origin(id)).is_some()
    }

    /// Whether this node created the topic.
    pub fn topic_is_local(&self, id: &str) -> bool {
        self.shared().with(|node| node.topic_origin(id)) == Some(TopicOrigin::Local)
    }

    /// Subscribes; messages come with [`recv`](Self::recv). Returns at once, see [`wait_live`](Self::wait_live).
    pub fn subscribe(&self, id: &str) -> Result<(), SpotError> {
        let pattern = TopicPattern::new(id)?;
        Ok(self.shared().with(|node| node.subscribe(self.handle.inbox_sub, pattern))?)
    }

    /// Subscribes to all topics with a prefix, present and future: `game:*`.
    pub fn subscribe_pattern(&self, pattern: &str) -> Result<(), SpotError> {
        self.subscribe(pattern)
    }

    /// Subscribes to many; at the first error those before it are subscribed.
    pub fn subscribe_many<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Result<(), SpotError> {
        ids.into_iter().try_for_each(|id| self.subscribe(id))
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
        match shared.with(|node| node.publish(id, &data, false))? {
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
        #[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
        let deadline = Instant::now() + timeout;
        let mut force = false;
        loop {
            let room = shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let now = shared.now();
            let published = shared.with(|node| {
                node.set_now(now);
                node.publish(id, &data, force)
            });
            if let Publish::Done(report) = published? {
                return Ok(report);
            }
            if shared.is_closed() {
                return Err(SpotError::Closed);
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
        match self.shared().with(|node| node.publish(id, &data.into(), false))? {
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

    pub(crate) fn publish_open(&self, topic: &str, data: &Bytes) -> Result<Report, SpotError> {
        if self.shared().is_closed() {
            return Err(SpotError::Closed);
        }
        match self.shared().with(|node| node.publish_open(topic, data))? {
            Publish::Done(report) => Ok(report),
            Publish::Full => Err(SpotError::WouldBlock),
        }
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

    /// How it stands with each connection.
    pub fn status(&self) -> Vec<LinkStatus> {
        let now = self.shared().now();
        self.shared().with(|node| {
            node.set_now(now);
            node.links()
        })
    }

    /// What the nodes of our kind that are connected count, each as it says itself. Who does not answer in time is left out.
    pub async fn peers(&self, timeout: Duration) -> Vec<PeerStatus> {
        let shared = self.shared();
        let asked = shared.with(Node::peers_ask);
        let all = shared.wait(timeout, |node| node.peers_told(&asked, true)).await;
        all.or_else(|| shared.with(|node| node.peers_told(&asked, false))).unwrap_or_default()
    }

    /// Counts since the node began.
    pub fn counters(&self) -> Counters {
        self.shared().with(|node| node.counters())
    }

    /// What happens from now on: peers, lost ownership, drops. Slow readers miss the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared().events.subscribe()
    }

    /// Whether the node has been closed.
    pub fn is_closed(&self) -> bool {
        self.shared().is_closed()
    }

    /// Where the node is bound.
    pub fn endpoint(&self) -> Option<String> {
        self.handle.bound.lock().as_ref().map(ToString::to_string)
    }

    /// Who the node is.
    pub fn id(&self) -> NodeId {
        self.shared().options.node.id
    }

    /// Ends all connections. What has been received can still be read.
    pub fn close(&self) {
        self.shared().close();
    }
}

/// A sync that is under way; whoever stops waiting for it ends it.
struct Syncing<'a> {
    shared: &'a Shared,
    sync: u64,
}

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.shared.with(|node| node.sync_end(self.sync));
    }
}

/// After so many bytes a publisher lets other tasks run, though it need not wait for anything: the one that writes to the
/// peers may be behind it on the same thread, and what is written soon is in the caches still.
const UNBROKEN_MAX: usize = 256 << 10;
/// What a message counts for beside its bytes.
const MESSAGE_COST: usize = 16;
/// Events that wait for a slow reader.
const EVENTS_MAX: usize = 1024;
/// Arrivals that a reader takes at once; so much may be held beyond the bounds of its queue.
pub(super) const TAKE_MAX: usize = 256;

/// Whether a future is ready without waiting.
fn futures_now(future: impl Future<Output = ()>) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).as_mut().poll(&mut context).is_ready()
}
