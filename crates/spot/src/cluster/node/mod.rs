//! A node of the cluster, without IO: topics, owners, interest and peers, and the bytes that wait for each.
//!
//! A driver tells it the time ([`Node::advance`]), gives it what peers sent ([`Node::handle_batch`]), and does what
//! [`Node::poll_output`] says. The simulator is such a driver too.

mod credit;
mod feed;
mod hello;
mod interest;
mod intake;
mod inward;
mod lazy;
mod links;
mod liveness;
mod moves;
mod names;
mod options;
mod output;
mod outward;
mod owners;
mod partitions;
mod records;
mod retention;
mod state;
mod status;
mod syncs;
#[cfg(test)]
mod tests;
mod topics;
mod uplink;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use slab::Slab;

use super::{
    command::NodeId,
    log::Log,
    membership::Membership,
    outbox::Outbox,
    ring::{Amount, Ring, Taken},
};
use crate::SubscriptionOptions;

pub use links::{LinkInfo, LinkStatus, Role};
pub use options::{Allow, NodeOptions, Policy, Right, Rights, TopicOptions};
pub use output::{Counters, Event, Output};
pub use outward::{Publish, PublishError, Report};
pub use status::PeerStatus;
pub use syncs::{SyncAnswer, SyncReport};
pub use topics::{TopicError, TopicInfo, TopicOrigin};

use lazy::Lazy;
use names::Names;
use state::{
    Absent, Cursor, Flow, Inbound, Link, Links, Local, Owner, Peer, Protocol, Publisher, Sub, Told,
    TopicState, Uplink,
};

/// A connection. A number is used again only after the driver has said that the connection is closed.
pub type LinkId = usize;

/// A subscription.
pub type SubId = usize;

pub(crate) type TopicId = usize;

pub(crate) type PeerId = usize;

/// The node. See the [module](self).
pub struct Node {
    options: NodeOptions,
    now: Duration,
    chance: u64,
    topics: Slab<TopicState>,
    names: Names,
    open_names: Names,
    /// Those without an owner, the oldest first.
    open_order: VecDeque<TopicId>,
    generations: u64,
    /// The next topic of ours is no older than this, and later than all that we had and let go of: its log is another one, in
    /// which nobody may resume.
    epoch_min: u64,
    /// Those of the topic that was created last, shared with all that have the same.
    usual_options: Arc<TopicOptions>,
    subs: Slab<Sub>,
    links: Slab<Link>,
    /// Those of them that peers made.
    accepted: usize,
    peers: Slab<Peer>,
    by_node: HashMap<NodeId, PeerId>,
    membership: Membership,
    /// Kinds of endpoints that were named here.
    kinds: BTreeSet<String>,
    outputs: VecDeque<Output>,
    wants_room: bool,
    counters: Counters,
    /// Why operations may wait: so that many changes are one output.
    changed: bool,
    heads: feed::Heads,
    /// Topics with messages since the last CREDIT.
    touched: Vec<TopicId>,
    /// Subscriptions that got something from the batch at hand.
    fresh: Vec<SubId>,
    /// Whether a batch is at hand.
    in_batch: bool,
    /// Topics of ours with drops that the application has not been told of.
    dropping: BTreeSet<TopicId>,
    /// Topics of ours with a backlog.
    blocked: BTreeSet<TopicId>,
    /// Links that are not to be read from.
    held_links: usize,
    partitions: partitions::Partitions,
    /// Topics with a route.
    routed: BTreeSet<TopicId>,
    /// When the next CREDITs are due that nobody hurried.
    credit_at: Option<Duration>,
    syncs: BTreeMap<u64, BTreeMap<PeerId, syncs::Awaited>>,
    syncs_begun: u64,
    /// Whether a peer was ever lost: whoever comes may be its next life.
    open_lost: bool,
    swept_at: Duration,
    /// Something was learned that was not told to all yet, and when all were told last.
    gossip_stale: bool,
    gossiped_at: Option<Duration>,
}

/// Acknowledgements that nobody hurries are sent after this time.
pub(super) const CREDIT_DELAY: Duration = Duration::from_millis(50);

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
            epoch_min: options.incarnation,
            usual_options: Arc::new(TopicOptions::STANDARD),
            subs: Slab::new(),
            links: Slab::new(),
            accepted: 0,
            peers: Slab::new(),
            by_node: HashMap::new(),
            membership: Membership::default(),
            kinds: BTreeSet::new(),
            outputs: VecDeque::new(),
            wants_room: false,
            counters: Counters::default(),
            changed: false,
            heads: feed::Heads::default(),
            touched: Vec::new(),
            fresh: Vec::new(),
            in_batch: false,
            dropping: BTreeSet::new(),
            blocked: BTreeSet::new(),
            held_links: 0,
            partitions: partitions::Partitions::default(),
            routed: BTreeSet::new(),
            credit_at: None,
            syncs: BTreeMap::new(),
            syncs_begun: 0,
            open_lost: false,
            swept_at: Duration::ZERO,
            gossip_stale: false,
            gossiped_at: None,
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

    /// Whether the driver has anything to do.
    #[inline]
    pub fn has_outputs(&self) -> bool {
        self.changed || !self.outputs.is_empty()
    }

    /// A number that nobody outside can foresee well enough to matter: splitmix64.
    pub(super) fn chance(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.chance ^ self.chance >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Begins a subscription; it hears nothing until it has patterns.
    pub fn sub_open(&mut self, bounds: SubscriptionOptions, open: bool) -> SubId {
        let (patterns, topics, starved, hungry, looked_at) = Default::default();
        self.subs.insert(Sub { patterns, open, ring: Ring::new(bounds), topics, starved, hungry, looked_at })
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

    pub(super) fn room(&mut self) {
        if std::mem::take(&mut self.wants_room) {
            self.outputs.push_back(Output::Room);
        }
    }
}
