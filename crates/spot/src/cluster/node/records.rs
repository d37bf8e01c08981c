//! Streams: the records of a BATCH, and what keeps their numbers right.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    Amount, Inbound, LinkId, Node, PeerId, Protocol, Right, TopicId, TopicState, inward::NotFollowed,
};
use crate::cluster::{
    command::BEFORE_MAX,
    log::Payload,
    record::{Kind, Record, Span, next_of, next_record},
    ring::Fit,
};

/// Messages of one stream that are looked at together.
const RUN_MAX: usize = 4096;
/// Streams at most that a peer may define; more are refused.
const INBOUND_MAX: usize = 1 << 17;

impl Node {
    pub(super) fn handle_records(&mut self, id: LinkId, body: Bytes) -> Result<(), NotFollowed> {
        let (Some(peer), Protocol::Extended) = (self.links[id].peer, self.links[id].protocol) else {
            return Err(NotFollowed);
        };
        let mut streams = std::mem::take(&mut self.links[id].inbound);
        let done = self.follow_records(id, peer, &body, &mut streams);
        if let Some(link) = self.links.get_mut(id) {
            link.inbound = streams;
        }
        done
    }

    fn follow_records(
        &mut self,
        id: LinkId,
        peer: PeerId,
        body: &Bytes,
        streams: &mut HashMap<u32, Inbound>,
    ) -> Result<(), NotFollowed> {
        let mut at = 0;
        let mut current: Option<(u32, &mut Inbound)> = None;
        let mut run: Vec<Span> = Vec::new();
        let mut publishes: Vec<TopicId> = Vec::new();
        let node = self.peers[peer].node;
        while let Some(record) = next_record(body, &mut at) {
            match record? {
                Record::Define { alias, kind, epoch, next, topic } => {
                    current = None;
                    match self.define(id, kind, epoch, next, topic) {
                        Ok(stream) if streams.len() < INBOUND_MAX || streams.contains_key(&alias) => {
                            let (topic, publishes) = (stream.topic, kind == Kind::Publish);
                            if let Some(old) = streams.insert(alias, stream) {
                                self.stream_ends(id, old.topic, alias);
                            }
                            if !publishes {
                                self.links[id].inbound_of.insert(topic, alias);
                            }
                        }
                        _ => {
                            // What follows under this alias is nothing to us.
                            if let Some(old) = streams.remove(&alias) {
                                self.stream_ends(id, old.topic, alias);
                            }
                            self.refuse(id);
                        }
                    }
                }
                Record::Data { alias, start, len } => {
                    if current.as_ref().is_none_or(|(a, _)| *a != alias) {
                        current = streams.get_mut(&alias).map(|stream| (alias, stream));
                    }
                    let Some((_, stream)) = &mut current else {
                        self.refuse(id);
                        continue;
                    };
                    run.clear();
                    run.push(Span::from(start..start + len));
                    while run.len() < RUN_MAX
                        && let Some(span) = next_of(body, &mut at, alias)
                    {
                        run.push(span);
                    }
                    let first = stream.next;
                    stream.next += run.len() as u64;
                    self.counters.received += run.len() as u64;
                    if self.topics.get(stream.topic).is_none_or(|topic| topic.generation != stream.generation)
                    {
                        // Many others came since, and it was forgotten: what nobody owns begins anew.
                        let Some(name) = &stream.open else { continue };
                        let Ok(topic) = self.open_topic_id(name.as_str()) else { continue };
                        self.stream_ends(id, stream.topic, alias);
                        self.links[id].inbound_of.insert(topic, alias);
                        (stream.topic, stream.generation) = (topic, self.topics[topic].generation);
                    }
                    match stream.kind {
                        Kind::Open => self.deliver_run(stream.topic, body, &run, Fit::Lossy),
                        Kind::Message => self.numbered(id, stream, first, body, &run),
                        Kind::Publish => {
                            let Some(node) = node else { continue };
                            if !publishes.contains(&stream.topic) {
                                publishes.push(stream.topic);
                            }
                            for (sequence, span) in (first..).zip(&run) {
                                stream.received_bytes += u64::from(span.len);
                                let data = Payload::Part(body, span.range().start, span.range().end);
                                self.publish_for(id, node, stream, sequence, data);
                            }
                        }
                    }
                }
            }
        }
        if let Some(node) = node {
            for topic in publishes {
                self.ack_publisher(topic, node);
            }
        }
        Ok(())
    }

    /// An alias does not stand for this topic any more.
    fn stream_ends(&mut self, id: LinkId, topic: TopicId, alias: u32) {
        let known = &mut self.links[id].inbound_of;
        if known.get(&topic) == Some(&alias) {
            known.remove(&topic);
        }
    }

    fn define(
        &mut self,
        id: LinkId,
        kind: Kind,
        epoch: u64,
        next: u64,
        name: &str,
    ) -> Result<Inbound, NotFollowed> {
        if kind != Kind::Message && self.allowed(id, Right::Publish, name).is_err() {
            self.tell_refusal(id, name, true)?;
        }
        let topic = match kind {
            Kind::Open => self.open_topic_id(name)?,
            _ => self.named(name).ok_or(NotFollowed)?,
        };
        if kind == Kind::Publish && self.topics[topic].local.is_none() {
            return Err(NotFollowed);
        }
        let TopicState { generation, name, open, .. } = &self.topics[topic];
        let (generation, open) = (*generation, open.then(|| name.clone()));
        Ok(Inbound {
            topic,
            generation,
            open,
            kind,
            epoch,
            next,
            began: next,
            received_bytes: 0,
            broken: None,
        })
    }

    /// Messages from the owner, with their numbers.
    fn numbered(&mut self, id: LinkId, stream: &Inbound, first: u64, body: &Bytes, run: &[Span]) {
        let upstream = &mut self.topics[stream.topic].upstream;
        if upstream.link != Some(id) || upstream.epoch != stream.epoch {
            return;
        }
        let known = upstream.have.saturating_add(1).saturating_sub(first).min(run.len() as u64);
        self.counters.duplicates += known;
        let (first, run) = (first + known, &run[known as usize..]);
        if run.is_empty() {
            return;
        }
        if let Some(&doubt) = upstream.doubts.first() {
            let until = doubt.saturating_sub(first).min(run.len() as u64) as usize;
            if until < run.len() {
                if until > 0 {
                    self.numbered(id, stream, first, body, &run[..until]);
                } else {
                    // A message of another number than the doubt's is the next: the doubt stands before it all the same.
                    upstream.doubts.remove(0);
                    self.deliver_gap(stream.topic, doubt, None);
                }
                return self.numbered(id, stream, first + until as u64, body, &run[until..]);
            }
        }
        let missing = (first > upstream.have + 1).then_some((upstream.have + 1, first - 1));
        upstream.have = first + (run.len() as u64 - 1);
        let (lossless, doubts) = (upstream.lossless, !upstream.doubts.is_empty());
        if let Some((first, last)) = missing {
            self.grant_used(stream.topic, Amount { messages: last - first + 1, bytes: 0 });
            self.deliver_gap(stream.topic, first, Some(last));
        }
        if !lossless {
            self.deliver_run(stream.topic, body, run, Fit::Lossy);
            if doubts {
                self.tell_doubts(stream.topic);
            }
            return;
        }
        // An owner that sends more than it was told to is no reason to hold more than was promised.
        let promised = self.topics[stream.topic].upstream.promised(run);
        self.credit_later(stream.topic, run);
        self.deliver_run(stream.topic, body, &run[..promised], Fit::Lossless);
        if promised < run.len() {
            self.deliver_run(stream.topic, body, &run[promised..], Fit::Lossy);
        }
        if doubts {
            self.tell_doubts(stream.topic);
        }
    }

    pub(super) fn sub_acked(
        &mut self,
        id: LinkId,
        text: &str,
        epoch: u64,
        next: u64,
        lossless: bool,
        continues: bool,
    ) -> Result<(), NotFollowed> {
        if epoch == 0 {
            self.open_interest_acked(id, text);
            return Ok(());
        }
        let topic = self.named(text).ok_or(NotFollowed)?;
        let upstream = &mut self.topics[topic].upstream;
        if upstream.link != Some(id) || next == 0 {
            return Err(NotFollowed);
        }
        let node = self.links[id].peer.and_then(|peer| self.peers[peer].node);
        let (old_epoch, have) = (upstream.epoch, upstream.have);
        // After an owner that numbered nothing there is no place to go on from.
        let same = ((upstream.owner, upstream.epoch) == (node, epoch) || continues) && have != u64::MAX;
        upstream.owner = node;
        upstream.live = true;
        upstream.lossless = lossless;
        (upstream.received_bytes, upstream.unacked_bytes) = (0, 0);
        if continues {
            upstream.epoch = epoch;
        }
        if !same {
            (upstream.epoch, upstream.have) = (epoch, next - 1);
            upstream.doubts.clear();
            if old_epoch != 0 || have == u64::MAX {
                self.deliver_gap(topic, have.saturating_add(1), None);
            }
        } else if next > have.saturating_add(1) {
            upstream.have = next - 1;
            self.deliver_gap(topic, have + 1, Some(next - 1));
            self.tell_doubts(topic);
        }
        match lossless {
            // The window may be small because a queue was full, and who emptied it since could not tell the owner.
            true => self.credit_starved(topic),
            false => self.grant_ends(topic),
        }
        if !self.topics[topic].upstream.left.is_empty() {
            let name = self.topics[topic].name.clone();
            self.unsubscribe_left(topic, &name);
        }
        self.changed = true;
        Ok(())
    }

    /// The owner goes on under another epoch. Before the message `doubt` others may be missing.
    pub(super) fn goes_on(
        &mut self,
        id: LinkId,
        text: &str,
        epoch: u64,
        doubt: u64,
    ) -> Result<(), NotFollowed> {
        let topic = self.named(text).ok_or(NotFollowed)?;
        let upstream = &mut self.topics[topic].upstream;
        if upstream.link != Some(id) || !upstream.live || epoch == 0 {
            return Err(NotFollowed);
        }
        upstream.epoch = epoch;
        if upstream.doubts.len() >= BEFORE_MAX {
            // Too early rather than not at all.
            self.deliver_gap(topic, doubt, None);
        } else if let Err(at) = upstream.doubts.binary_search(&doubt) {
            upstream.doubts.insert(at, doubt);
            self.tell_doubts(topic);
        }
        Ok(())
    }

    /// All before a doubt has come: something may be missing here.
    fn tell_doubts(&mut self, id: TopicId) {
        let upstream = &mut self.topics[id].upstream;
        if let Some(&doubt) =
            upstream.doubts.first().filter(|doubt| **doubt <= upstream.have.saturating_add(1))
        {
            upstream.doubts.remove(0);
            self.deliver_gap(id, doubt, None);
            self.tell_doubts(id);
        }
    }

    pub(super) fn gap(&mut self, id: LinkId, name: &str, first: u64, last: u64) -> Result<(), NotFollowed> {
        let topic = match (self.named(name), self.open_named(name)) {
            (Some(topic), _) if self.topics[topic].upstream.link == Some(id) => topic,
            (_, Some(topic)) => topic,
            _ => return Err(NotFollowed),
        };
        let state = &self.topics[topic];
        if !state.open && !state.upstream.live {
            // Before its SUB_ACK there is no position that it could be about.
            return Err(NotFollowed);
        }
        let link = &mut self.links[id];
        let stream = link.inbound_of.get(&topic).and_then(|alias| link.inbound.get_mut(alias));
        if let Some(stream) = stream.filter(|s| s.topic == topic && s.kind != Kind::Publish) {
            stream.next = last + 1;
        }
        let state = &mut self.topics[topic];
        let from = if state.open { first } else { first.max(state.upstream.have + 1) };
        if last >= from {
            let lossless = state.upstream.lossless;
            state.upstream.have = if state.open { 0 } else { last };
            if lossless && !std::mem::replace(&mut state.upstream.touched, true) {
                self.touched.push(topic);
            }
            self.grant_used(topic, Amount { messages: last - from + 1, bytes: 0 });
            self.deliver_gap(topic, from, Some(last));
            self.tell_doubts(topic);
        }
        Ok(())
    }
}
