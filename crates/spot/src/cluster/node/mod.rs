//! A node of the cluster, without IO: topics, owners, interest and peers, and the bytes that wait for each.
//!
//! A driver tells it the time ([`Node::advance`]), gives it what peers sent ([`Node::handle_batch`]), and does what
//! [`Node::poll_output`] says. The simulator is such a driver too.

mod credit;
mod inward;
mod links;
mod outward;
mod partitions;
mod status;
mod topics;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use slab::Slab;

pub use links::{LinkInfo, LinkStatus, Role};
pub use outward::{Publish, PublishError, Report};
pub use status::PeerStatus;
pub use topics::{TopicError, TopicInfo, TopicOrigin};

use super::{
    command::{NodeId, Status},
    log::Log,
    membership::{Membership, PeerState},
    outbox::Outbox,
    record::Kind,
    ring::{Amount, Ring, Taken},
};
use crate::{SubscriptionOptions, Topic, TopicPattern};

/// A connection. A number is used again only after the driver has said that the connection is closed.
pub type LinkId = usize;
/// A subscription.
pub type SubId = usize;
pub(crate) type TopicId = usize;
pub(crate) type PeerId = usize;

/// What a topic does when a subscribed node cannot keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// Keep every message until it has arrived; publishers wait. Whoever is in the way for longer than the timeout loses
    /// its place and is told the exact gap.
    Block {
        /// How long publishers wait at most.
        timeout: Duration,
    },
    /// Drop the message for this node.
    DropNewest,
    /// Keep the latest messages for it, as many as [`NodeOptions::retained_messages_max`].
    DropOldest,
    /// Keep only the latest message for it.
    Conflate,
    /// Close the connection to it.
    Disconnect,
}

/// How a topic behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicOptions {
    /// When a subscriber is slow.
    pub policy: Policy,
    /// How many of the latest messages a new subscriber gets first.
    pub replay: usize,
}

impl TopicOptions {
    /// Lossless with a second of patience, no replay.
    pub const STANDARD: Self = Self { policy: Policy::Block { timeout: Duration::from_secs(1) }, replay: 0 };
}

/// What a peer may want to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Send messages.
    Publish,
    /// Receive messages.
    Subscribe,
}

/// Decides what a peer, by the name that its authentication gave it, may do with a topic or pattern.
pub type Rights = Arc<dyn Fn(&str, Right, &str) -> bool + Send + Sync>;

/// Decides by endpoint.
pub type Allow = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How a node behaves.
#[derive(Clone)]
pub struct NodeOptions {
    /// Who it is.
    pub id: NodeId,
    /// Which life of it: later ones are greater. Also the first epoch of the topics that it creates.
    pub incarnation: u64,
    /// Where others reach it; told to all peers, who may dial it.
    pub advertise: Vec<String>,
    /// How long a silence may last; then it is broken by a PING.
    pub heartbeat: Duration,
    /// After so many heartbeats without a byte a peer is down.
    pub heartbeats_missed_max: u32,
    /// The first pause before a reconnect.
    pub reconnect_min: Duration,
    /// The longest.
    pub reconnect_max: Duration,
    /// Bytes that may wait for one peer; then the policies of the topics decide.
    pub send_bytes_max: usize,
    /// Messages that may wait for one peer.
    pub send_messages_max: usize,
    /// Messages that a topic keeps for slow or absent subscribers, and a publisher for an absent owner.
    pub retained_messages_max: usize,
    /// Payload bytes that it keeps so.
    pub retained_bytes_max: usize,
    /// How long a subscribed node may be away and still find its place in a lossless topic.
    pub resume_grace: Duration,
    /// The largest payload.
    pub payload_len_max: usize,
    /// Topics that a node may know; more are refused and counted.
    pub topics_max: usize,
    /// Whether to connect to nodes that others tell of.
    pub gossip: bool,
    /// Which endpoints gossip may make us connect to; none means any.
    pub gossip_allow: Option<Allow>,
    /// Who may do what; none means all may do all.
    pub rights: Option<Rights>,
    /// For jitter only.
    pub seed: u64,
}

impl NodeOptions {
    /// Suits a data center: heartbeat 1 s, down after 3, 4 MiB per peer.
    pub fn standard(id: NodeId, incarnation: u64) -> Self {
        Self {
            id,
            incarnation,
            advertise: Vec::new(),
            heartbeat: Duration::from_secs(1),
            heartbeats_missed_max: 3,
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            send_bytes_max: 4 << 20,
            send_messages_max: 1 << 16,
            retained_messages_max: 1 << 16,
            retained_bytes_max: 16 << 20,
            resume_grace: Duration::from_secs(30),
            payload_len_max: 32 << 20,
            topics_max: 1 << 20,
            gossip: true,
            gossip_allow: None,
            rights: None,
            seed: id.0 as u64 ^ incarnation,
        }
    }
}

/// Something that the application may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It stands differently with a peer.
    Peer {
        /// Its endpoint, or where it came from.
        endpoint: String,
        /// How it stands.
        state: PeerState,
    },
    /// A topic that we created is owned by another node with a higher epoch.
    OwnerLost {
        /// Which.
        topic: Topic,
        /// Its epoch.
        epoch: u64,
    },
    /// A subscribed node was too slow and lost messages.
    Dropped {
        /// Of which topic.
        topic: Topic,
        /// For which peer.
        peer: String,
        /// How many.
        messages: u64,
    },
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Connect, and say [`Node::link_up`] or [`Node::dial_failed`].
    Dial(String),
    /// Close, and say [`Node::link_closed`].
    Close(LinkId, String),
    /// There is something in the link's outbox.
    Write(LinkId),
    /// Send a ZMTP PING.
    Ping(LinkId),
    /// There is something in the subscription's ring.
    Readable(SubId),
    /// A publisher that was told [`Publish::Full`] may try again.
    Room,
    /// There is room for what the link publishes: see [`Node::is_held`].
    Resume(LinkId),
    /// [`Node::poll_timeout`] may be earlier than it was.
    Timer,
    /// Something that a call may wait for has changed: a peer, a topic, a subscription, a sync.
    Changed,
    /// For the application.
    Event(Event),
}

/// Counts since the node began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages published here.
    pub published: u64,
    /// Messages put into the outbox of a subscribed node.
    pub sent: u64,
    /// Messages that came from peers.
    pub received: u64,
    /// Messages handed to local subscriptions.
    pub delivered: u64,
    /// Messages dropped because a peer or a local subscription was slow.
    pub dropped: u64,
    /// Messages that were reported as missing to local subscriptions.
    pub gaps: u64,
    /// Messages that came again and were not delivered again.
    pub duplicates: u64,
    /// Commands that were malformed, unknown, not allowed or made no sense.
    pub refused: u64,
}

#[derive(Debug)]
struct Owner {
    epoch: u64,
    node: Option<NodeId>,
    peer: PeerId,
}

/// A node that receives a topic that we own.
#[derive(Debug)]
struct Cursor {
    link: LinkId,
    /// The next message to be put into its outbox.
    next: u64,
    /// All up to here have arrived there; for peers that do not acknowledge, all that was put.
    acked: u64,
    /// All up to here may be put.
    limit: u64,
    /// Bytes of payload that were put, since the stream began on this link.
    sent_bytes: u64,
    /// So many may be put.
    limit_bytes: u64,
    /// Whether the link knows the alias.
    defined: bool,
    /// Messages that were dropped for it and that it has not been told of.
    lost: Option<(u64, u64)>,
    /// It lost its place in a lossless topic; until it moves again it is not waited for.
    stalled: bool,
    /// When it last acknowledged something new.
    moved_at: Duration,
}

/// A node that was subscribed to a lossless topic and is away.
#[derive(Debug)]
struct Absent {
    node: NodeId,
    acked: u64,
    since: Duration,
}

/// A node that publishes to a topic that we own.
#[derive(Debug, Default)]
struct Publisher {
    /// Which life of its stream.
    epoch: u64,
    /// The sequence number of the last message taken from it.
    taken: u64,
    /// How much of it is in the backlog.
    waiting: Amount,
    /// Where its stream comes from. Between two nodes there may be two connections, and each may prefer another.
    link: LinkId,
    /// Bytes of payload that came since its stream began on this connection.
    received_bytes: u64,
    /// When it was last heard of.
    heard_at: Duration,
}

/// A topic as its owner sees it.
#[derive(Debug)]
struct Local {
    epoch: u64,
    options: TopicOptions,
    log: Log,
    cursors: Vec<Cursor>,
    absent: Vec<Absent>,
    /// All up to here have arrived everywhere.
    acked: u64,
    /// What came from other nodes and waits for room: who, its sequence number (0 if it has none), payload.
    backlog: VecDeque<(Option<NodeId>, u64, bytes::Bytes)>,
    /// Bytes of those without a number.
    backlog_bytes: usize,
    /// Since when the backlog waits.
    blocked_since: Option<Duration>,
    publishers: HashMap<NodeId, Publisher>,
    /// Another node has a higher epoch.
    ceded: bool,
    /// It is given to another node; nothing is taken any more.
    moving: bool,
    /// The owner that gave it to us, and its epoch: our numbers go on from there.
    inherited: Option<(NodeId, u64)>,
}

/// A topic as a subscribed node sees it.
#[derive(Debug, Default)]
struct Upstream {
    link: Option<LinkId>,
    live: bool,
    /// Peers that acknowledge nothing answer a QUERY after the SUBSCRIBE: then it is live.
    barrier: u64,
    lossless: bool,
    /// What to resume from: the node that owned it,
    owner: Option<NodeId>,
    /// its epoch,
    epoch: u64,
    /// and the last sequence number that came.
    have: u64,
    /// What the owner may still send.
    granted: Amount,
    /// What it was given with the last grant.
    window: Amount,
    /// Bytes of payload that came since the stream began on this connection.
    received_bytes: u64,
    /// Those of them that are not acknowledged.
    unacked_bytes: u64,
    len_max: u64,
    touched: bool,
}

/// A topic as a publishing node that does not own it sees it.
#[derive(Debug)]
struct Uplink {
    link: Option<LinkId>,
    log: Log,
    next: u64,
    defined: bool,
    /// All up to here may be sent.
    limit: u64,
    /// Bytes of payload that were sent, since the stream began on this link.
    sent_bytes: u64,
    /// So many may be sent.
    limit_bytes: u64,
}

#[derive(Debug)]
struct TopicState {
    name: Topic,
    /// Without an owner: each publisher sends to whoever is interested.
    open: bool,
    /// Whether it is in the order in which streams without an owner are forgotten.
    remembered: bool,
    generation: u64,
    /// Where its owner is, whatever is announced.
    route: Option<String>,
    local: Option<Local>,
    /// Best last.
    owners: Vec<Owner>,
    subs: Vec<SubId>,
    upstream: Upstream,
    uplink: Option<Uplink>,
}

#[derive(Debug)]
struct Sub {
    patterns: BTreeSet<TopicPattern>,
    open: bool,
    ring: Ring,
    /// Those that it hears, of its patterns too.
    topics: BTreeSet<TopicId>,
    /// Lossless topics whose owners were given less than they might have.
    starved: BTreeSet<TopicId>,
}

/// One subscription of a peer to streams without an owner, or a pattern.
type OpenInterest = BTreeSet<String>;

#[derive(Debug)]
struct Inbound {
    topic: TopicId,
    generation: u64,
    kind: Kind,
    epoch: u64,
    next: u64,
    /// Bytes of payload that came.
    received_bytes: u64,
    /// Something of it was not taken: the rest makes no sense until it begins anew.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    /// 0x01 to 0x05.
    Founding,
    /// 0x01 to 0x08.
    Notifying,
    /// Everything.
    Extended,
}

type Links = Slab<Link>;
/// Looked at for each message that is published. Seeded, because names come from peers.
type Names = HashMap<Topic, TopicId, foldhash::fast::RandomState>;

struct Link {
    info: LinkInfo,
    protocol: Protocol,
    delimited: bool,
    peer: Option<PeerId>,
    outbox: Outbox,
    heard_at: Duration,
    pinged_at: Duration,
    suspect: bool,
    closing: bool,
    /// By alias.
    inbound: HashMap<u32, Inbound>,
    interest: OpenInterest,
    /// Topics with messages that wait for room in the outbox.
    lagging: BTreeSet<TopicId>,
    /// Topics that this link is subscribed to.
    cursors: BTreeSet<TopicId>,
    /// Topics that have no room for what it published.
    held_by: BTreeSet<TopicId>,
    dropped: u64,
    refused: u64,
}

#[derive(Debug)]
struct Peer {
    node: Option<NodeId>,
    incarnation: u64,
    links: Vec<LinkId>,
    topics: HashMap<TopicId, u64>,
    endpoints: Vec<String>,
    /// Answers to QUERY that have come.
    answers: u64,
    /// QUERYs that were sent.
    queries: u64,
    /// Another QUERY is wanted after the one that is under way.
    query_again: bool,
    /// How often it was asked what it counts, how often it has answered, and its last answer.
    asked: u64,
    told: u64,
    status: Status,
}

/// The node. See the [module](self).
pub struct Node {
    options: NodeOptions,
    now: Duration,
    chance: u64,
    topics: Slab<TopicState>,
    names: Names,
    open_names: Names,
    open_order: VecDeque<TopicId>,
    generations: u64,
    subs: Slab<Sub>,
    links: Slab<Link>,
    peers: Slab<Peer>,
    by_node: HashMap<NodeId, PeerId>,
    membership: Membership,
    outputs: VecDeque<Output>,
    wants_room: bool,
    counters: Counters,
    /// Why operations may wait: so that many changes are one output.
    changed: bool,
    heads: outward::Heads,
    /// Topics with messages since the last CREDIT.
    touched: Vec<TopicId>,
    /// Subscriptions that got something from the batch at hand.
    fresh: Vec<SubId>,
    /// Whether a batch is at hand.
    in_batch: bool,
    /// Topics of ours with a backlog.
    blocked: BTreeSet<TopicId>,
    /// Links that are not to be read from.
    held_links: usize,
    partitions: partitions::Partitions,
    /// Topics with a route.
    routed: BTreeSet<TopicId>,
    /// When the next CREDITs are due that nobody hurried.
    credit_at: Option<Duration>,
    syncs: BTreeMap<u64, BTreeMap<PeerId, u64>>,
    syncs_begun: u64,
    /// Peers that were lost and not replaced by another connection since.
    open_lost: u32,
    swept_at: Duration,
}

/// Acknowledgements that nobody hurries are sent after this time.
const CREDIT_DELAY: Duration = Duration::from_millis(50);

impl Node {
    /// A node that knows nobody.
    pub fn new(options: NodeOptions) -> Self {
        Self {
            now: Duration::ZERO,
            chance: options.seed,
            topics: Slab::new(),
            names: Names::default(),
            open_names: Names::default(),
            open_order: VecDeque::new(),
            generations: 0,
            subs: Slab::new(),
            links: Slab::new(),
            peers: Slab::new(),
            by_node: HashMap::new(),
            membership: Membership::default(),
            outputs: VecDeque::new(),
            wants_room: false,
            counters: Counters::default(),
            changed: false,
            heads: outward::Heads::default(),
            touched: Vec::new(),
            fresh: Vec::new(),
            in_batch: false,
            blocked: BTreeSet::new(),
            held_links: 0,
            partitions: partitions::Partitions::default(),
            routed: BTreeSet::new(),
            credit_at: None,
            syncs: BTreeMap::new(),
            syncs_begun: 0,
            open_lost: 0,
            swept_at: Duration::ZERO,
            options,
        }
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.options.id
    }

    /// How it behaves.
    pub fn options(&self) -> &NodeOptions {
        &self.options
    }

    /// How it behaves, to be changed: bounds apply from the next message on.
    pub fn options_mut(&mut self) -> &mut NodeOptions {
        &mut self.options
    }

    /// Counts since it began.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Tells the time without doing what is due.
    pub fn set_now(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// What the driver has to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front().or_else(|| std::mem::take(&mut self.changed).then_some(Output::Changed))
    }

    /// A number that nobody outside can foresee well enough to matter: splitmix64.
    fn chance(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.chance ^ self.chance >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Begins a subscription; it hears nothing until it has patterns.
    pub fn sub_open(&mut self, bounds: SubscriptionOptions, open: bool) -> SubId {
        let (patterns, topics, starved) = Default::default();
        self.subs.insert(Sub { patterns, open, ring: Ring::new(bounds), topics, starved })
    }

    /// Other bounds for a subscription from now on.
    pub fn set_bounds(&mut self, sub: SubId, bounds: SubscriptionOptions) {
        if let Some(sub) = self.subs.get_mut(sub) {
            sub.ring.set_bounds(bounds);
        }
    }

    /// Takes what a subscription holds, up to `max` arrivals.
    pub fn take(&mut self, sub: SubId, max: usize, into: &mut Taken) -> usize {
        let Some(state) = self.subs.get_mut(sub) else { return 0 };
        let was_half_empty = state.ring.is_half_empty();
        let n = state.ring.take(max, into);
        if n > 0 && state.ring.is_half_empty() {
            if !was_half_empty || self.wants_room {
                self.room();
            }
            self.credit_after_take(sub);
        }
        n
    }

    fn room(&mut self) {
        if std::mem::take(&mut self.wants_room) {
            self.outputs.push_back(Output::Room);
        }
    }
}
