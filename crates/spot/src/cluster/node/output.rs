//! What a node tells its driver and its application.

use super::{LinkId, Right, SubId};
use crate::{Topic, cluster::membership::PeerState};

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
    /// A peer does not let us do something, or has no room for it.
    Refused {
        /// With which topic or pattern.
        topic: String,
        /// Which peer.
        peer: String,
        /// What: to publish, or to subscribe.
        right: Right,
    },
    /// A subscribed node was too slow and lost messages; told at most once per heartbeat for a topic and peer.
    Dropped {
        /// Of which topic.
        topic: Topic,
        /// For which peer.
        peer: String,
        /// How many.
        messages: u64,
    },
    /// What was published here to an owner elsewhere, which is gone without having taken it, is given up.
    Undelivered {
        /// To which topic.
        topic: Topic,
        /// How many messages.
        messages: u64,
    },
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Connect, and say [`Node::link_up`](super::Node::link_up) or [`Node::dial_failed`](super::Node::dial_failed).
    Dial(String),
    /// Close, and say [`Node::link_closed`](super::Node::link_closed).
    Close(LinkId, String),
    /// There is something in the link's outbox.
    Write(LinkId),
    /// Send a ZMTP PING.
    Ping(LinkId),
    /// There is something in the subscription's ring.
    Readable(SubId),
    /// A publisher that was told [`Publish::Full`](super::Publish::Full) may try again.
    Room,
    /// There is room for what the link publishes: see [`Node::is_held`](super::Node::is_held).
    Resume(LinkId),
    /// [`Node::poll_timeout`](super::Node::poll_timeout) may be earlier than it was.
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
    /// Endpoints that peers told of and that are not connected to: not allowed, of another kind than those named here, or too
    /// many. They count again each time a peer tells of them. Not told to other nodes.
    pub undialed: u64,
}
