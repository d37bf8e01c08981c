//! The commands between nodes, 0x01 to 0x12, as frames of a ZMTP message (`docs/formats/spot.md`).

mod decode;
mod encode;

use std::fmt;

use bytes::Bytes;

use crate::topic::InvalidTopic;

/// Endpoints at most in a HELLO; more are an error.
pub const ENDPOINTS_MAX: usize = 1024;

/// The greatest sequence number that a peer may name: so far away that counting on from it never ends.
pub const SEQUENCE_MAX: u64 = 1 << 62;
/// Flags of a SUB_ACK that is none.
const REFUSED_TO_HEAR: u8 = 4;
const REFUSED_TO_PUBLISH: u8 = 8;
const GOES_ON: u8 = 16;
const NOT_TAKEN: u8 = 32;

/// The longest endpoint.
pub const ENDPOINT_LEN_MAX: usize = 512;

pub(crate) mod code {
    pub(crate) const PUBLISH: u8 = 0x01;
    pub(crate) const SUBSCRIBE: u8 = 0x02;
    pub(crate) const UNSUBSCRIBE: u8 = 0x03;
    pub(crate) const QUERY: u8 = 0x04;
    pub(crate) const QUERY_RESP: u8 = 0x05;
    pub(crate) const TOPIC_ANNOUNCE: u8 = 0x06;
    pub(crate) const TOPIC_REMOVE: u8 = 0x07;
    pub(crate) const MESSAGE: u8 = 0x08;
    pub(crate) const HELLO: u8 = 0x09;
    pub(crate) const SUB_ACK: u8 = 0x0a;
    pub(crate) const PING: u8 = 0x0b;
    pub(crate) const PONG: u8 = 0x0c;
    pub(crate) const BATCH: u8 = 0x0d;
    pub(crate) const GAP: u8 = 0x0e;
    pub(crate) const CREDIT: u8 = 0x0f;
    pub(crate) const HANDOVER: u8 = 0x10;
    pub(crate) const STATUS: u8 = 0x11;
    pub(crate) const STATUS_RESP: u8 = 0x12;
}

/// Which node; chosen at random when it starts, and other after a restart unless configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// What a node says first to a node of its own kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Version of the extensions: 2.
    pub version: u8,
    /// Who.
    pub node: NodeId,
    /// Which life of it; later ones are greater.
    pub incarnation: u64,
    /// How often it asks whether we are there, in milliseconds. We ask in our own time, so nothing depends on it.
    pub heartbeat_ms: u32,
    /// Where it and the nodes that it knows can be reached.
    pub endpoints: Vec<(NodeId, String)>,
}

/// What a node counts, as it tells others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// See [`Counters`](super::node::Counters), in its order: published, sent, received, delivered, dropped, gaps,
    /// duplicates, refused; then topics that it owns, its connections, and bytes that wait for its peers.
    pub counts: [u64; 11],
}

/// All that the next owner of a partition needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The epoch under which the next owner announces it.
    pub epoch: u64,
    /// The epoch of the owner that gives it.
    pub from_epoch: u64,
    /// The sequence number of the first message.
    pub first: u64,
    /// What was taken from whom: node, epoch of its stream, last sequence number.
    pub publishers: Vec<(NodeId, u64, u64)>,
    /// Who is subscribed, and has acknowledged all up to here.
    pub subscribers: Vec<(NodeId, u64)>,
    /// The owners before the giver whose numbers go on, the latest last.
    pub before: Vec<Before>,
    /// Numbers before which somebody else may have given numbers to other messages, that are lost.
    pub doubts: Vec<u64>,
    /// Messages that are kept, one after the other.
    pub messages: Vec<Bytes>,
}

/// An owner whose numbers another one's go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Who.
    pub node: NodeId,
    /// Under which epoch.
    pub epoch: u64,
}

/// Owners before the last, and doubts, that are known of a topic; beyond, who comes from the earliest finds no place.
pub const BEFORE_MAX: usize = 16;

/// How a node subscribes at a node of its own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resume {
    /// Interest in whatever anybody publishes under the name, without an owner.
    pub open: bool,
    /// The owner that `have` belongs to: its node,
    pub owner: NodeId,
    /// and its epoch; 0 for none.
    pub epoch: u64,
    /// The last sequence number received.
    pub have: u64,
    /// How many messages may be sent before the next CREDIT, where the topic is lossless.
    pub window: u64,
    /// How many bytes of payload.
    pub window_bytes: u64,
}

/// A command, as received.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command<'a> {
    /// To the owner, or in protocol 1 from it.
    Publish {
        /// Where.
        topic: &'a str,
        /// What.
        data: Bytes,
    },
    /// Interest begins.
    Subscribe {
        /// In what; a pattern only between nodes of our kind.
        topic: &'a str,
        /// Only between nodes of our kind.
        resume: Option<Resume>,
    },
    /// Interest ends.
    Unsubscribe {
        /// In what.
        topic: &'a str,
        /// See [`Resume::open`].
        open: bool,
    },
    /// Asks for the topics.
    Query,
    /// The topics, with their epochs between nodes of our kind.
    QueryResp {
        /// Their names.
        topics: Vec<&'a str>,
        /// As many, or none.
        epochs: Vec<u64>,
    },
    /// There is a new topic.
    Announce {
        /// Its name.
        topic: &'a str,
        /// The sender's epoch as its owner.
        epoch: u64,
    },
    /// A topic is gone.
    Remove {
        /// Its name.
        topic: &'a str,
        /// The sender's epoch as its owner.
        epoch: u64,
    },
    /// From the owner.
    Message {
        /// Where.
        topic: &'a str,
        /// What.
        data: Bytes,
    },
    /// Between nodes of our kind.
    Hello(Hello),
    /// A subscription is live.
    SubAck {
        /// Which.
        topic: &'a str,
        /// The owner's epoch.
        epoch: u64,
        /// The sequence number of the next message.
        next: u64,
        /// Whether messages are kept until CREDIT acknowledges them.
        lossless: bool,
        /// Whether the numbers go on from the epoch that the subscriber named.
        continues: bool,
    },
    /// On the wire a SUB_ACK: what was asked for is not allowed, or there is no room for it.
    Refusal {
        /// Which topic or pattern.
        topic: &'a str,
        /// Whether publishing to it is meant, or hearing it.
        publish: bool,
    },
    /// On the wire a SUB_ACK: an owner goes on under another epoch, because somebody else may have gone on from the one before.
    GoesOn {
        /// Which topic.
        topic: &'a str,
        /// The epoch.
        epoch: u64,
        /// Before this message somebody else may have numbered others.
        doubt: u64,
    },
    /// On the wire a SUB_ACK: a partition that was handed over is not taken.
    NotTaken {
        /// Which.
        topic: &'a str,
        /// The epoch that was offered.
        epoch: u64,
    },
    /// Are you there?
    Ping(u64),
    /// Yes.
    Pong(u64),
    /// Many messages in one frame.
    Batch(Bytes),
    /// Messages that will not come.
    Gap {
        /// Of which topic.
        topic: &'a str,
        /// First one.
        first: u64,
        /// Last one.
        last: u64,
    },
    /// What has arrived, and how much more may be sent.
    Credit {
        /// Of which topic.
        topic: &'a str,
        /// Whether publishes to the owner are meant, or its messages.
        up: bool,
        /// All up to here have arrived.
        acked: u64,
        /// All up to here may be sent.
        limit: u64,
        /// So many bytes of payload may be sent, counted from the definition of the stream on this connection.
        limit_bytes: u64,
    },
    /// Asks what a node counts.
    Status,
    /// What it counts.
    StatusResp(Status),
    /// From the owner of a partition to the next.
    Handover {
        /// Which.
        topic: &'a str,
        /// What.
        handover: Handover,
    },
}

/// A message that is no command. It is counted; the connection lives on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The first frame is not one byte.
    #[error("command frame of {len} bytes: 1 is expected")]
    CommandLen {
        /// Its length.
        len: usize,
    },
    /// Nobody knows it.
    #[error("unknown command {code:#04x}")]
    Unknown {
        /// Which.
        code: u8,
    },
    /// Too few or too many frames.
    #[error("command {code:#04x} with {frames} frames after it")]
    Frames {
        /// Which.
        code: u8,
        /// How many.
        frames: usize,
    },
    /// A field of a wrong size or value.
    #[error("command {code:#04x}: malformed {field}")]
    Field {
        /// Which.
        code: u8,
        /// What in it.
        field: &'static str,
    },
    /// A name that is none.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
