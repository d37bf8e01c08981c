//! The node as an application uses it.

mod messages;
mod topics;

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, broadcast, watch},
    time::Instant,
};

pub(super) use messages::TAKE_MAX;

use super::{Endpoint, Inner, Listening, Shared, SpotError, SpotOptions, stream::Listener};
use crate::{
    SubscriptionOptions, TopicPattern,
    cluster::{
        command::NodeId,
        node::{Counters, Event, LinkStatus, Node, PeerStatus, SubId, SyncReport},
        ring::Taken,
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
        // First: who is woken and finds nothing asks whether it is closed, and waits for good if it is not.
        self.closing.send_replace(true);
        let mut inner = self.inner.lock();
        inner.closed = true;
        for notify in inner.subs.values() {
            notify.notify_one();
        }
        drop(inner);
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
        let deadline = after(timeout);
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
        let mut node = options.node.clone();
        if matches!(options.client, Security::PlainClient { .. }) {
            // The password would go to whatever endpoint any peer names.
            node.gossip_allow.get_or_insert_with(|| Arc::new(|_| false));
        }
        // Mostly the others are set up alike.
        node.offer_bytes_max = node.offer_bytes_max.min(options.message_len_max / 4 * 3);
        let inner = Inner { node: Node::new(node), links, subs, closed: false };
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
        shared.with(|node| node.endpoint_named(&text));
        if !slot.as_ref().is_some_and(Endpoint::is_everywhere) {
            let told = text.clone();
            let now = shared.now();
            shared.with(|node| {
                node.set_now(now);
                if node.options().advertise.is_empty() {
                    node.advertise(told);
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
                // Gossip may have brought the endpoint before, and with it a connection.
                node.target_redial(endpoint);
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

/// When so much time has passed. What is beyond the clock's end is never, or as good as.
#[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + NEVER)
}

/// A year, as the timers of the runtime have it.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

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

/// Events that wait for a slow reader.
const EVENTS_MAX: usize = 1024;
