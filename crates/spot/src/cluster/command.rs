//! The commands between nodes, 0x01 to 0x12, as frames of a ZMTP message (`docs/formats/spot.md`).

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::zmtp::{Batch, Frame, decoder::put_message};
use crate::{Topic, TopicPattern, topic::InvalidTopic};

/// Endpoints at most in a HELLO; more are an error.
pub const ENDPOINTS_MAX: usize = 1024;
/// The greatest sequence number that a peer may name: so far away that counting on from it never ends.
pub const SEQUENCE_MAX: u64 = 1 << 62;
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
    /// How often it lets us hear something, in milliseconds.
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
    /// Messages that are kept, one after the other.
    pub messages: Vec<Bytes>,
}

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

impl<'a> Command<'a> {
    /// Reads a message. Also tells whether it began with an empty delimiter.
    pub fn decode(batch: &'a Batch, frames: &[Frame]) -> Result<(bool, Self), Refused> {
        let delimited = frames.len() > 1 && frames[0].range().is_empty();
        let frames = &frames[usize::from(delimited)..];
        let Some((first, args)) = frames.split_first() else { return Err(Refused::CommandLen { len: 0 }) };
        let &[code] = batch.body(first) else {
            return Err(Refused::CommandLen { len: first.range().len() });
        };
        Self::decode_args(batch, code, args).map(|command| (delimited, command))
    }

    fn decode_args(batch: &'a Batch, code: u8, args: &[Frame]) -> Result<Self, Refused> {
        let field = |field| Refused::Field { code, field };
        let wrong = || Refused::Frames { code, frames: args.len() };
        let count = |n: usize| if args.len() == n { Ok(()) } else { Err(wrong()) };
        let body = |i: usize| batch.body(&args[i]);
        let name = |i: usize| Topic::check_bytes(body(i));
        let pattern = |i: usize| {
            let text = std::str::from_utf8(body(i)).map_err(|_| field("pattern"))?;
            TopicPattern::new(text)?;
            Ok::<_, Refused>(text)
        };
        let number = |i: usize| match body(i) {
            bytes if bytes.len() == 8 => u64_at(bytes, 0).ok_or(field("number")),
            _ => Err(field("number")),
        };
        Ok(match code {
            code::PUBLISH | code::MESSAGE => {
                count(2)?;
                let (topic, data) = (name(0)?, batch.bytes.slice(args[1].range()));
                if code == code::PUBLISH {
                    Self::Publish { topic, data }
                } else {
                    Self::Message { topic, data }
                }
            }
            code::SUBSCRIBE => match args.len() {
                1 => Self::Subscribe { topic: name(0)?, resume: None },
                2 => {
                    let options = body(1);
                    let at = |at| u64_at(options, at);
                    let owner = || Some(u128::from(at(33)?) | u128::from(at(41)?) << 64);
                    let read = || Some((at(1)?, at(9)?, at(17)?, at(25)?, owner()?));
                    let (epoch, have, window, window_bytes, owner) =
                        read().filter(|_| options.len() == 49).ok_or(field("options"))?;
                    let owner = NodeId(owner);
                    let resume =
                        Resume { open: options[0] & 1 == 1, owner, epoch, have, window, window_bytes };
                    Self::Subscribe { topic: pattern(0)?, resume: Some(resume) }
                }
                _ => return Err(wrong()),
            },
            code::UNSUBSCRIBE => match args.len() {
                1 => Self::Unsubscribe { topic: pattern(0)?, open: false },
                2 => Self::Unsubscribe { topic: pattern(0)?, open: true },
                _ => return Err(wrong()),
            },
            code::QUERY => {
                count(0)?;
                Self::Query
            }
            code::QUERY_RESP => {
                if args.is_empty() {
                    return Err(wrong());
                }
                let n: [u8; 4] = body(0).try_into().map_err(|_| field("count"))?;
                let n = u32::from_le_bytes(n) as usize;
                if args.len() != n + 1 && args.len() != n + 2 {
                    return Err(field("count"));
                }
                let topics = (1..=n).map(name).collect::<Result<Vec<_>, _>>()?;
                let epochs = match args.get(n + 1) {
                    None => Vec::new(),
                    Some(frame) if frame.range().len() == n * 8 => {
                        batch.body(frame).as_chunks::<8>().0.iter().map(|&b| u64::from_le_bytes(b)).collect()
                    }
                    Some(_) => return Err(field("epochs")),
                };
                Self::QueryResp { topics, epochs }
            }
            code::TOPIC_ANNOUNCE | code::TOPIC_REMOVE => {
                count(2)?;
                let (topic, epoch) = (name(0)?, number(1)?);
                if code == code::TOPIC_ANNOUNCE {
                    Self::Announce { topic, epoch }
                } else {
                    Self::Remove { topic, epoch }
                }
            }
            code::HELLO => {
                count(1)?;
                Self::Hello(Hello::decode(body(0)).ok_or(field("hello"))?)
            }
            code::SUB_ACK => {
                count(2)?;
                let b = body(1);
                let read = || Some((u64_at(b, 0)?, u64_at(b, 8)?, *b.get(16)?));
                let (epoch, next, flags) = read()
                    .filter(|n| b.len() == 17 && n.1 <= SEQUENCE_MAX)
                    .ok_or(field("acknowledgement"))?;
                let (lossless, continues) = (flags & 1 == 1, flags & 2 == 2);
                Self::SubAck { topic: pattern(0)?, epoch, next, lossless, continues }
            }
            code::PING | code::PONG => {
                count(1)?;
                if code == code::PING { Self::Ping(number(0)?) } else { Self::Pong(number(0)?) }
            }
            code::BATCH => {
                count(1)?;
                Self::Batch(batch.bytes.slice(args[0].range()))
            }
            code::GAP => {
                count(3)?;
                let (first, last) = (number(1)?, number(2)?);
                if first > last || last > SEQUENCE_MAX {
                    return Err(field("range"));
                }
                Self::Gap { topic: name(0)?, first, last }
            }
            code::CREDIT => {
                count(2)?;
                let b = body(1);
                let read = || Some((*b.first()?, u64_at(b, 1)?, u64_at(b, 9)?, u64_at(b, 17)?));
                let (up, acked, limit, limit_bytes) =
                    read().filter(|_| b.len() == 25).ok_or(field("credit"))?;
                Self::Credit { topic: name(0)?, up: up & 1 == 1, acked, limit, limit_bytes }
            }
            code::STATUS => {
                count(0)?;
                Self::Status
            }
            code::STATUS_RESP => {
                count(1)?;
                // Later versions may count more; what we know comes first.
                let mut counts = [0; 11];
                for (i, n) in counts.iter_mut().enumerate() {
                    *n = u64_at(body(0), i * 8).ok_or(field("counts"))?;
                }
                Self::StatusResp(Status { counts })
            }
            code::HANDOVER => {
                count(4)?;
                let messages = batch.bytes.slice(args[3].range());
                let handover = Handover::decode(body(1), body(2), &messages).ok_or(field("handover"))?;
                Self::Handover { topic: name(0)?, handover }
            }
            _ => return Err(Refused::Unknown { code }),
        })
    }

    /// Writes it as a ZMTP message, behind an empty delimiter if the peer uses one.
    pub fn put(&self, out: &mut BytesMut, delimited: bool) {
        let mut put = |code: u8, args: &[&[u8]]| {
            let code = [code];
            let mut frames: Vec<&[u8]> = Vec::with_capacity(args.len() + 2);
            if delimited {
                frames.push(b"");
            }
            frames.push(&code);
            frames.extend_from_slice(args);
            put_message(out, &frames);
        };
        match self {
            Self::Publish { topic, data } => put(code::PUBLISH, &[topic.as_bytes(), data]),
            Self::Message { topic, data } => put(code::MESSAGE, &[topic.as_bytes(), data]),
            Self::Subscribe { topic, resume: None } => put(code::SUBSCRIBE, &[topic.as_bytes()]),
            Self::Subscribe { topic, resume: Some(resume) } => {
                let mut options = vec![u8::from(resume.open)];
                for n in [resume.epoch, resume.have, resume.window, resume.window_bytes] {
                    options.extend(n.to_le_bytes());
                }
                options.extend(resume.owner.0.to_le_bytes());
                put(code::SUBSCRIBE, &[topic.as_bytes(), &options]);
            }
            Self::Unsubscribe { topic, open: false } => put(code::UNSUBSCRIBE, &[topic.as_bytes()]),
            Self::Unsubscribe { topic, open: true } => put(code::UNSUBSCRIBE, &[topic.as_bytes(), &[1]]),
            Self::Query => put(code::QUERY, &[]),
            Self::QueryResp { topics, epochs } => {
                let count = (topics.len() as u32).to_le_bytes();
                let mut args: Vec<&[u8]> = vec![&count];
                args.extend(topics.iter().map(|topic| topic.as_bytes()));
                let packed: Vec<u8> = epochs.iter().flat_map(|epoch| epoch.to_le_bytes()).collect();
                if epochs.len() == topics.len() && !topics.is_empty() {
                    args.push(&packed);
                }
                put(code::QUERY_RESP, &args);
            }
            Self::Announce { topic, epoch } => {
                put(code::TOPIC_ANNOUNCE, &[topic.as_bytes(), &epoch.to_le_bytes()]);
            }
            Self::Remove { topic, epoch } => {
                put(code::TOPIC_REMOVE, &[topic.as_bytes(), &epoch.to_le_bytes()]);
            }
            Self::Hello(hello) => put(code::HELLO, &[&hello.encode()]),
            Self::SubAck { topic, epoch, next, lossless, continues } => {
                let mut body = epoch.to_le_bytes().to_vec();
                body.extend(next.to_le_bytes());
                body.push(u8::from(*lossless) | u8::from(*continues) << 1);
                put(code::SUB_ACK, &[topic.as_bytes(), &body]);
            }
            Self::Ping(nonce) => put(code::PING, &[&nonce.to_le_bytes()]),
            Self::Pong(nonce) => put(code::PONG, &[&nonce.to_le_bytes()]),
            Self::Batch(body) => put(code::BATCH, &[body]),
            Self::Gap { topic, first, last } => {
                put(code::GAP, &[topic.as_bytes(), &first.to_le_bytes(), &last.to_le_bytes()]);
            }
            Self::Credit { topic, up, acked, limit, limit_bytes } => {
                let mut body = vec![u8::from(*up)];
                for n in [acked, limit, limit_bytes] {
                    body.extend(n.to_le_bytes());
                }
                put(code::CREDIT, &[topic.as_bytes(), &body]);
            }
            Self::Status => put(code::STATUS, &[]),
            Self::StatusResp(status) => {
                let body: Vec<u8> = status.counts.iter().flat_map(|n| n.to_le_bytes()).collect();
                put(code::STATUS_RESP, &[&body]);
            }
            Self::Handover { topic, handover } => {
                let [publishers, subscribers, messages] = handover.encode();
                put(code::HANDOVER, &[topic.as_bytes(), &publishers, &subscribers, &messages]);
            }
        }
    }
}

impl Handover {
    /// Three frames: publishers, with the epochs and the first number before them; subscribers; messages.
    fn encode(&self) -> [Vec<u8>; 3] {
        let mut publishers = Vec::new();
        for n in [self.epoch, self.from_epoch, self.first] {
            publishers.extend(n.to_le_bytes());
        }
        for (node, epoch, taken) in &self.publishers {
            publishers.extend(node.0.to_le_bytes());
            publishers.extend(epoch.to_le_bytes());
            publishers.extend(taken.to_le_bytes());
        }
        let mut subscribers = Vec::new();
        for (node, acked) in &self.subscribers {
            subscribers.extend(node.0.to_le_bytes());
            subscribers.extend(acked.to_le_bytes());
        }
        let mut messages = Vec::with_capacity(self.messages.iter().map(|message| message.len() + 4).sum());
        for message in &self.messages {
            messages.extend((message.len() as u32).to_le_bytes());
            messages.extend(message);
        }
        [publishers, subscribers, messages]
    }

    fn decode(mut publishers: &[u8], mut subscribers: &[u8], messages: &Bytes) -> Option<Self> {
        let mut number = || publishers.try_get_u64_le().ok();
        let (epoch, from_epoch, first) = (number()?, number()?, number()?);
        if !publishers.len().is_multiple_of(32)
            || !subscribers.len().is_multiple_of(24)
            || first == 0
            || first > SEQUENCE_MAX
        {
            return None;
        }
        let mut handover =
            Self { epoch, from_epoch, first, publishers: vec![], subscribers: vec![], messages: vec![] };
        while let Ok(node) = publishers.try_get_u128_le() {
            let (epoch, taken) = (publishers.try_get_u64_le().ok()?, publishers.try_get_u64_le().ok()?);
            if taken > SEQUENCE_MAX {
                return None;
            }
            handover.publishers.push((NodeId(node), epoch, taken));
        }
        while let Ok(node) = subscribers.try_get_u128_le() {
            handover.subscribers.push((NodeId(node), subscribers.try_get_u64_le().ok()?));
        }
        let mut rest = messages.clone();
        while !rest.is_empty() {
            let len = rest.try_get_u32_le().ok()? as usize;
            if rest.len() < len {
                return None;
            }
            handover.messages.push(rest.split_to(len));
        }
        // Numbers up to the last message must be numbers.
        first.checked_add(handover.messages.len() as u64)?;
        Some(handover)
    }
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.version];
        out.extend(self.node.0.to_le_bytes());
        out.extend(self.incarnation.to_le_bytes());
        out.extend(self.heartbeat_ms.to_le_bytes());
        let endpoints = &self.endpoints[..self.endpoints.len().min(ENDPOINTS_MAX)];
        out.extend((endpoints.len() as u16).to_le_bytes());
        for (node, endpoint) in endpoints {
            out.extend(node.0.to_le_bytes());
            out.extend((endpoint.len() as u16).to_le_bytes());
            out.extend(endpoint.as_bytes());
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let version = bytes.try_get_u8().ok().filter(|version| *version >= 2)?;
        let node = NodeId(bytes.try_get_u128_le().ok()?);
        let incarnation = bytes.try_get_u64_le().ok()?;
        let heartbeat_ms = bytes.try_get_u32_le().ok()?;
        let count = usize::from(bytes.try_get_u16_le().ok()?);
        if count > ENDPOINTS_MAX {
            return None;
        }
        let mut endpoints = Vec::new();
        for _ in 0..count {
            let node = NodeId(bytes.try_get_u128_le().ok()?);
            let len = usize::from(bytes.try_get_u16_le().ok()?);
            let (endpoint, rest) = bytes.split_at_checked(len).filter(|_| len <= ENDPOINT_LEN_MAX)?;
            bytes = rest;
            endpoints.push((node, std::str::from_utf8(endpoint).ok()?.to_owned()));
        }
        // Later versions may say more; what we know comes first.
        Some(Self { version, node, incarnation, heartbeat_ms, endpoints })
    }
}
