//! How a node and its topics behave.

use std::{sync::Arc, time::Duration};

use crate::cluster::command::NodeId;

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
    /// How many of the latest messages a new subscriber gets first; fewer, if their payloads do not fit
    /// [`NodeOptions::retained_bytes_max`].
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
    /// Say that it owns the topic.
    Own,
}

/// Decides what a peer may do with a topic or pattern. The peer goes by the name that its authentication gave it; one that we
/// dialed with CURVE by the name that we would give its key, or the key in Z85 if we would not let it in; any other by the
/// empty name. A topic in partitions is asked for by the names of the topics that it is made of, `t#0` and `t@8/…`.
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
    /// Payload bytes of a partition that are handed over in one message, which has to fit into what the other node reads
    /// ([`SpotOptions::message_len_max`](crate::cluster::SpotOptions::message_len_max) there). What is kept only for replay is left out beyond; what has
    /// not arrived everywhere is waited for.
    pub offer_bytes_max: usize,
    /// Topics that peers may make a node know; more are refused and counted. As many again it may create and subscribe to
    /// itself, so that peers cannot use up its own room.
    pub topics_max: usize,
    /// Whether to connect to nodes that others tell of.
    pub gossip: bool,
    /// Which endpoints gossip may make us connect to. None means those of a kind (`tcp`, `ipc`, `inproc`) that this node listens
    /// at, advertises or was told to connect to; or, for a node that shows a password to those it connects to, none at all.
    pub gossip_allow: Option<Allow>,
    /// Who may do what; none means all may do all.
    pub rights: Option<Rights>,
    /// Connections that peers may have made to us at the same time; one more is closed at once, and counted as refused.
    pub links_max: usize,
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
            offer_bytes_max: 48 << 20,
            topics_max: 1 << 20,
            gossip: true,
            gossip_allow: None,
            rights: None,
            links_max: 4096,
            seed: id.0 as u64 ^ incarnation,
        }
    }
}
