//! What a node knows: of topics, of subscriptions, of connections, of peers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use slab::Slab;

use super::{
    LinkId, PeerId, SubId, TopicId, TopicOptions,
    lazy::{Blank, Lazy},
    links::LinkInfo,
};
use crate::{
    Topic, TopicPattern,
    cluster::{
        command::{Before, NodeId, Status},
        log::Log,
        outbox::Outbox,
        record::Kind,
        ring::{Amount, Ring},
    },
};

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) epoch: u64,
    pub(super) node: Option<NodeId>,
    pub(super) peer: PeerId,
}

/// A node that receives a topic that we own.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) link: LinkId,
    /// The next message to be put into its outbox.
    pub(super) next: u64,
    /// All up to here have arrived there; for peers that do not acknowledge, all that was put.
    pub(super) acked: u64,
    /// All up to here may be put.
    pub(super) limit: u64,
    /// Bytes of payload that were put, since the stream began on this link.
    pub(super) sent_bytes: u64,
    /// So many may be put.
    pub(super) limit_bytes: u64,
    /// Whether the link knows the alias.
    pub(super) defined: bool,
    /// Messages that were dropped for it and that it has not been told of.
    pub(super) lost: Option<(u64, u64)>,
    /// Messages that were dropped for it and that the application has not been told of.
    pub(super) dropped: u64,
    /// It lost its place in a lossless topic; until it moves again it is not waited for.
    pub(super) stalled: bool,
    /// When it last acknowledged something new.
    pub(super) moved_at: Duration,
}

/// A node that was subscribed to a lossless topic and is away.
#[derive(Debug)]
pub(super) struct Absent {
    pub(super) node: NodeId,
    pub(super) acked: u64,
    pub(super) since: Duration,
}

/// A node that publishes to a topic that we own.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// Which life of its stream.
    pub(super) epoch: u64,
    /// The sequence number of the last message taken from it.
    pub(super) taken: u64,
    /// How much of it is in the backlog.
    pub(super) waiting: Amount,
    /// While something is: all up to here has a number, or was taken by others. What waits may have holes.
    pub(super) before: u64,
    /// Where its stream comes from. Between two nodes there may be two connections, and each may prefer another.
    pub(super) link: LinkId,
    /// Bytes of payload that came since its stream began on this connection.
    pub(super) received_bytes: u64,
    /// When it last sent something, or was seen to be connected.
    pub(super) heard_at: Duration,
}

/// A topic as its owner sees it.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) epoch: u64,
    /// Most topics of a node have the same.
    pub(super) options: Arc<TopicOptions>,
    pub(super) flow: Lazy<Flow>,
    /// Another node has a higher epoch.
    pub(super) ceded: bool,
    /// It is offered to another node. What comes waits until that node has it, or not.
    pub(super) moving: bool,
    /// Whether it is moving or something in it is untold: to publish asks for no more than that.
    pub(super) wary: bool,
}

impl Publisher {
    /// All up to here has a number, or was taken by others.
    pub(super) fn numbered(&self) -> u64 {
        if self.waiting.messages == 0 { self.taken } else { self.before }
    }
}

/// What flows through a topic of ours, once another node listens or publishes, or something is kept.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) log: Log,
    pub(super) cursors: Vec<Cursor>,
    pub(super) absent: Vec<Absent>,
    /// All up to here have arrived everywhere.
    pub(super) acked: u64,
    /// What waits for room: which node sent it, its sequence number (0 if it has none), payload.
    pub(super) backlog: VecDeque<(Option<NodeId>, u64, bytes::Bytes)>,
    /// How much of it has no number.
    pub(super) unnumbered: usize,
    pub(super) unnumbered_bytes: usize,
    /// Since when the backlog waits.
    pub(super) blocked_since: Option<Duration>,
    pub(super) publishers: BTreeMap<NodeId, Publisher>,
    /// The owners before us whose numbers ours go on from, the latest last.
    pub(super) before: Vec<Before>,
    /// Numbers before which somebody else may have given numbers to other messages, in order: who comes from an owner before us
    /// is told a gap there.
    pub(super) doubts: Vec<u64>,
    /// The one of them that who listens here is told when it comes to it.
    pub(super) untold: Option<u64>,
}

impl Flow {
    const fn new() -> Self {
        Self {
            log: Log::new(1),
            cursors: Vec::new(),
            absent: Vec::new(),
            acked: 0,
            backlog: VecDeque::new(),
            unnumbered: 0,
            unnumbered_bytes: 0,
            blocked_since: None,
            publishers: BTreeMap::new(),
            before: Vec::new(),
            doubts: Vec::new(),
            untold: None,
        }
    }
}

impl Blank for Flow {
    const BLANK: &'static Self = {
        static BLANK: Flow = Flow::new();
        &BLANK
    };

    fn blank() -> Self {
        Self::new()
    }
}

/// A topic as a subscribed node sees it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) link: Option<LinkId>,
    /// Other connections to the same peer on which we still have a place: until it has answered on this one, what it keeps for
    /// us there must not go.
    pub(super) left: Vec<LinkId>,
    pub(super) live: bool,
    /// Peers that acknowledge nothing answer a QUERY after the SUBSCRIBE: then it is live.
    pub(super) barrier: u64,
    /// The owner does not let us hear it.
    pub(super) refused: bool,
    pub(super) lossless: bool,
    /// What to resume from: the node that owned it,
    pub(super) owner: Option<NodeId>,
    /// its epoch,
    pub(super) epoch: u64,
    /// and the last sequence number that came.
    pub(super) have: u64,
    /// Numbers, in order, before which others may be missing that somebody else gave. That is told when all before has come.
    pub(super) doubts: Vec<u64>,
    /// What the owner may still send.
    pub(super) granted: Amount,
    /// What it was given with the last grant.
    pub(super) window: Amount,
    /// Bytes of payload that came since the stream began on this connection.
    pub(super) received_bytes: u64,
    /// Those of them that are not acknowledged.
    pub(super) unacked_bytes: u64,
    pub(super) len_max: u64,
    pub(super) touched: bool,
    /// Since when nobody has owned it.
    pub(super) away_since: Option<Duration>,
}

impl Upstream {
    const fn new() -> Self {
        const NONE: Amount = Amount { messages: 0, bytes: 0 };
        Self {
            link: None,
            left: Vec::new(),
            live: false,
            barrier: 0,
            refused: false,
            lossless: false,
            owner: None,
            epoch: 0,
            have: 0,
            doubts: Vec::new(),
            granted: NONE,
            window: NONE,
            received_bytes: 0,
            unacked_bytes: 0,
            len_max: 0,
            touched: false,
            away_since: None,
        }
    }
}

impl Upstream {
    /// There is no place to resume from any more.
    pub(super) fn forget(&mut self) {
        (self.epoch, self.have) = (0, 0);
        self.doubts.clear();
    }
}

impl Blank for Upstream {
    const BLANK: &'static Self = {
        static BLANK: Upstream = Upstream::new();
        &BLANK
    };

    fn blank() -> Self {
        Self::new()
    }
}

/// A topic as a publishing node that does not own it sees it.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) link: Option<LinkId>,
    /// The epoch of the owner that it was begun for. An owner with another one may not have taken what the last one was sent.
    pub(super) owner: u64,
    /// Which life of the stream: its numbers begin anew when we were the owner meanwhile, or had forgotten the topic.
    pub(super) epoch: u64,
    pub(super) log: Log,
    pub(super) next: u64,
    pub(super) defined: bool,
    /// All up to here may be sent.
    pub(super) limit: u64,
    /// Bytes of payload that were sent, since the stream began on this link, and those of them that the owner has published.
    pub(super) sent_bytes: u64,
    pub(super) acked_bytes: u64,
    /// So many may be sent.
    pub(super) limit_bytes: u64,
    /// Since when it has led nowhere.
    pub(super) away_since: Option<Duration>,
    /// When the owner said that we may not publish.
    pub(super) refused_at: Option<Duration>,
}

/// Where a topic is, if not here.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Where its owner is, whatever is announced.
    pub(super) route: Option<String>,
    /// Best last.
    pub(super) owners: Vec<Owner>,
}

impl Blank for Elsewhere {
    const BLANK: &'static Self = {
        static BLANK: Elsewhere = Elsewhere { route: None, owners: Vec::new() };
        &BLANK
    };

    fn blank() -> Self {
        Self::default()
    }
}

/// Subscriptions here.
impl Blank for Vec<SubId> {
    const BLANK: &'static Self = {
        static BLANK: Vec<SubId> = Vec::new();
        &BLANK
    };

    fn blank() -> Self {
        Self::default()
    }
}

/// There may be a million of them, most of them quiet: what only some need is on the heap.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) name: Topic,
    /// Without an owner: each publisher sends to whoever is interested.
    pub(super) open: bool,
    pub(super) generation: u64,
    pub(super) local: Option<Local>,
    pub(super) elsewhere: Lazy<Elsewhere>,
    pub(super) subs: Lazy<Vec<SubId>>,
    pub(super) upstream: Lazy<Upstream>,
    pub(super) uplink: Option<Box<Uplink>>,
}

#[derive(Debug)]
pub(super) struct Sub {
    pub(super) patterns: BTreeSet<TopicPattern>,
    pub(super) open: bool,
    pub(super) ring: Ring,
    /// Those that it hears, of its patterns too.
    pub(super) topics: BTreeSet<TopicId>,
    /// Lossless topics whose owners were given less than they might have.
    pub(super) starved: BTreeSet<TopicId>,
    /// Those of them whose owners may send nothing, and that wait for this subscription.
    pub(super) hungry: BTreeSet<TopicId>,
    /// The last of the starved ones that was looked at.
    pub(super) looked_at: TopicId,
}

/// One subscription of a peer to streams without an owner, or a pattern.
pub(super) type OpenInterest = BTreeSet<String>;

/// What became of a pattern that a peer was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It has not said that it knows. Something may have been missed since it was away.
    Asked { missed: bool },
    /// It has.
    Acked,
}

#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) topic: TopicId,
    pub(super) generation: u64,
    /// Its name, where nobody owns it: it may be forgotten while it goes on.
    pub(super) open: Option<Topic>,
    pub(super) kind: Kind,
    pub(super) epoch: u64,
    pub(super) next: u64,
    /// Bytes of payload that came.
    pub(super) received_bytes: u64,
    /// The first sequence number since it was defined. What a publisher leaves out there others have taken; any other number
    /// follows the one before it.
    pub(super) began: u64,
    /// Since when something of it is missing that was not taken: the rest makes no sense until it begins anew.
    pub(super) broken: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    /// 0x01 to 0x05.
    Founding,
    /// 0x01 to 0x08.
    Notifying,
    /// Everything.
    Extended,
}

pub(super) type Links = Slab<Link>;

pub(super) struct Link {
    pub(super) info: LinkInfo,
    pub(super) protocol: Protocol,
    pub(super) delimited: bool,
    pub(super) peer: Option<PeerId>,
    pub(super) outbox: Outbox,
    pub(super) since: Duration,
    pub(super) heard_at: Duration,
    pub(super) pinged_at: Duration,
    pub(super) suspect: bool,
    pub(super) closing: bool,
    /// By alias.
    pub(super) inbound: HashMap<u32, Inbound>,
    /// Aliases of streams that come from owners and publishers without one, by topic.
    pub(super) inbound_of: HashMap<TopicId, u32>,
    /// Topics that we heard on it, if it is a founding peer's, and the answer with which it knows that we do not any more. What
    /// it says under their names until then, it says as the owner.
    pub(super) unheard: BTreeMap<Topic, u64>,
    pub(super) interest: OpenInterest,
    /// Patterns that we told it of.
    pub(super) told: BTreeMap<String, Told>,
    /// QUERYs that it has not answered.
    pub(super) unanswered: u64,
    /// Topics with messages that wait for room in the outbox.
    pub(super) lagging: BTreeSet<TopicId>,
    /// Topics that this link is subscribed to.
    pub(super) cursors: BTreeSet<TopicId>,
    /// Topics that have no room for what it published.
    pub(super) held_by: BTreeSet<TopicId>,
    pub(super) dropped: u64,
    pub(super) refused: u64,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: Option<NodeId>,
    pub(super) incarnation: u64,
    pub(super) since: Duration,
    /// How often it looks after its peers, as its HELLO says; none if it has sent no HELLO.
    pub(super) heartbeat: Option<Duration>,
    pub(super) links: Vec<LinkId>,
    pub(super) topics: HashMap<TopicId, u64, foldhash::fast::RandomState>,
    pub(super) endpoints: Vec<String>,
    /// Answers to QUERY that have come.
    pub(super) answers: u64,
    /// QUERYs that were sent.
    pub(super) queries: u64,
    /// With this answer what it owns is known.
    pub(super) known_with: u64,
    /// Patterns of ours that it does not let us hear.
    pub(super) refused: BTreeSet<String>,
    /// Another QUERY is wanted after the one that is under way.
    pub(super) query_again: bool,
    /// How often it was asked what it counts, how often it has answered, and its last answer.
    pub(super) asked: u64,
    pub(super) told: u64,
    pub(super) status: Status,
}
