//! From frames to commands. Whatever a peer sent, the worst that happens is a refusal.

use bytes::{Buf, Bytes};

use super::{
    BEFORE_MAX, Before, Command, ENDPOINT_LEN_MAX, ENDPOINTS_MAX, GOES_ON, Handover, Hello, NOT_TAKEN,
    NodeId, REFUSED_TO_HEAR, REFUSED_TO_PUBLISH, Refused, Resume, SEQUENCE_MAX, Status, code, u64_at,
};
use crate::{
    Topic, TopicPattern,
    cluster::zmtp::{Batch, Frame},
};

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
                if flags & GOES_ON != 0 {
                    return Ok(Self::GoesOn { topic: name(0)?, epoch, doubt: next });
                }
                if flags & NOT_TAKEN != 0 {
                    return Ok(Self::NotTaken { topic: name(0)?, epoch });
                }
                if flags & (REFUSED_TO_HEAR | REFUSED_TO_PUBLISH) != 0 {
                    return Ok(Self::Refusal {
                        topic: pattern(0)?,
                        publish: flags & REFUSED_TO_PUBLISH != 0,
                    });
                }
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
                if args.len() != 4 && args.len() != 6 {
                    return Err(wrong());
                }
                let messages = batch.bytes.slice(args[3].range());
                let more = |i: usize| args.get(i).map_or(&[][..], |frame| batch.body(frame));
                let handover = Handover::decode([body(1), body(2), more(4), more(5)], &messages)
                    .ok_or(field("handover"))?;
                Self::Handover { topic: name(0)?, handover }
            }
            _ => return Err(Refused::Unknown { code }),
        })
    }
}

impl Handover {
    fn decode(
        [mut publishers, mut subscribers, mut before, mut doubts]: [&[u8]; 4],
        messages: &Bytes,
    ) -> Option<Self> {
        let mut number = || publishers.try_get_u64_le().ok();
        let (epoch, from_epoch, first) = (number()?, number()?, number()?);
        if !publishers.len().is_multiple_of(32)
            || !subscribers.len().is_multiple_of(24)
            || !before.len().is_multiple_of(24)
            || before.len() > BEFORE_MAX * 24
            || !doubts.len().is_multiple_of(8)
            || doubts.len() > BEFORE_MAX * 8
            || first == 0
            || first > SEQUENCE_MAX
        {
            return None;
        }
        let mut handover = Self {
            epoch,
            from_epoch,
            first,
            publishers: Vec::new(),
            subscribers: Vec::new(),
            before: Vec::new(),
            doubts: Vec::new(),
            messages: Vec::new(),
        };
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
        while let Ok(node) = before.try_get_u128_le() {
            handover.before.push(Before { node: NodeId(node), epoch: before.try_get_u64_le().ok()? });
        }
        while let Ok(doubt) = doubts.try_get_u64_le() {
            handover.doubts.push(doubt);
        }
        if !handover.doubts.is_sorted() {
            return None;
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
