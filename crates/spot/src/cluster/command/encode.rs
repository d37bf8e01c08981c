//! From commands to frames.

use bytes::BytesMut;

use super::{
    Command, ENDPOINTS_MAX, GOES_ON, Handover, Hello, NOT_TAKEN, REFUSED_TO_HEAR, REFUSED_TO_PUBLISH, code,
};
use crate::cluster::zmtp::decoder::put_message;

impl Command<'_> {
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
            Self::Refusal { topic, publish } => {
                // Epoch 0 and no position: earlier versions see an acknowledgement that means nothing.
                let mut body = vec![0; 16];
                body.push(if *publish { REFUSED_TO_PUBLISH } else { REFUSED_TO_HEAR });
                put(code::SUB_ACK, &[topic.as_bytes(), &body]);
            }
            Self::GoesOn { topic, epoch, doubt } => {
                let mut body = epoch.to_le_bytes().to_vec();
                body.extend(doubt.to_le_bytes());
                body.push(GOES_ON);
                put(code::SUB_ACK, &[topic.as_bytes(), &body]);
            }
            Self::NotTaken { topic, epoch } => {
                let mut body = epoch.to_le_bytes().to_vec();
                body.extend([0; 8]);
                body.push(NOT_TAKEN);
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
                let [publishers, subscribers, messages, before, doubts] = handover.encode();
                let topic = topic.as_bytes();
                let args: [&[u8]; 6] = [topic, &publishers, &subscribers, &messages, &before, &doubts];
                // Most have neither, and earlier versions know neither.
                let more = handover.before.len() + handover.doubts.len() > 0;
                put(code::HANDOVER, if more { &args } else { &args[..4] });
            }
        }
    }
}

impl Handover {
    /// Five frames: publishers, with the epochs and the first number before them; subscribers; messages; owners before; doubts.
    fn encode(&self) -> [Vec<u8>; 5] {
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
        let mut before = Vec::new();
        for owner in &self.before {
            before.extend(owner.node.0.to_le_bytes());
            before.extend(owner.epoch.to_le_bytes());
        }
        let doubts = self.doubts.iter().flat_map(|doubt| doubt.to_le_bytes()).collect();
        [publishers, subscribers, messages, before, doubts]
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
}
