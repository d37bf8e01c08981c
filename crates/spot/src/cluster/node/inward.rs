//! From peers' bytes to what they mean.

use std::{collections::HashSet, ops::Range};

use bytes::Bytes;

use super::{Amount, LinkId, Node, Output, PeerId, Protocol, Publish, Right, Role, SubId, TopicId};
use crate::{
    Topic, TopicPattern,
    cluster::{
        command::{Command, Refused, Resume, code},
        log::Payload,
        record::Span,
        ring::Fit,
        zmtp::{Batch, Frame},
    },
};

/// Bytes of commands that may wait for a peer when it asks for more; then it is closed. The last answer may be larger: a list
/// of many topics has to fit.
const ANSWERS_LEN_MAX: usize = 8 << 20;
/// Patterns at most that a peer may be interested in; more are refused.
const INTEREST_MAX: usize = 1 << 14;

/// No window, for peers that acknowledge nothing and topics that wait for nobody.
pub(super) const UNBOUNDED: Amount = Amount { messages: u64::MAX >> 1, bytes: u64::MAX };

/// Why a well-formed command is not followed.
pub(super) struct NotFollowed;

impl From<super::TopicError> for NotFollowed {
    fn from(_: super::TopicError) -> Self {
        Self
    }
}

impl From<Refused> for NotFollowed {
    fn from(_: Refused) -> Self {
        Self
    }
}

impl Node {
    /// Something came from a peer, if only a PONG.
    pub fn heard(&mut self, id: LinkId) {
        let now = self.now;
        if let Some(link) = self.links.get_mut(id) {
            link.heard_at = now;
        }
    }

    /// Takes in what a peer sent. What makes no sense is counted, and nothing of it is done.
    pub fn handle_batch(&mut self, id: LinkId, batch: &Batch) {
        self.heard(id);
        self.in_batch = true;
        for frames in batch.messages() {
            if self.links.get(id).is_none_or(|link| link.closing) {
                break;
            }
            if self.handle_message(id, batch, frames).is_err() {
                self.refuse(id);
            }
        }
        self.in_batch = false;
        for sub in self.fresh.drain(..) {
            if let Some(sub) = self.subs.get_mut(sub) {
                sub.ring.settle(batch.pins);
            }
        }
        self.credit_touched();
        self.place_partitions();
    }

    pub(super) fn refuse(&mut self, id: LinkId) {
        self.counters.refused += 1;
        if let Some(link) = self.links.get_mut(id) {
            link.refused += 1;
        }
    }

    fn handle_message(&mut self, id: LinkId, batch: &Batch, frames: &[Frame]) -> Result<(), NotFollowed> {
        if let [command, body] = frames
            && batch.body(command) == [code::BATCH]
        {
            return self.handle_records(id, batch.bytes.slice(body.range()));
        }
        if let [command, topic, data] = frames
            && let &[code @ (code::PUBLISH | code::MESSAGE)] = batch.body(command)
        {
            // By far the most frequent that founding peers send.
            let topic = Topic::check_bytes(batch.body(topic)).map_err(|_| NotFollowed)?;
            return self.plain(
                id,
                code,
                topic,
                Payload::Part(&batch.bytes, data.range().start, data.range().end),
            );
        }
        let (delimited, command) = Command::decode(batch, frames)?;
        let link = &mut self.links[id];
        if delimited {
            link.delimited = true;
        }
        if let Command::Hello(hello) = command {
            if link.protocol != Protocol::Extended {
                return Err(NotFollowed);
            }
            self.handle_hello(id, hello);
            return Ok(());
        }
        let (Some(peer), protocol) = (link.peer, link.protocol) else { return Err(NotFollowed) };
        if protocol == Protocol::Founding
            && matches!(command, Command::Announce { .. } | Command::Remove { .. })
        {
            link.protocol = Protocol::Notifying;
        }
        if matches!(
            command,
            Command::Query
                | Command::Subscribe { .. }
                | Command::Ping(_)
                | Command::Status
                | Command::Handover { .. }
        ) {
            self.expect_reader(id)?;
        }
        match command {
            Command::Query => {
                self.answer(id);
                Ok(())
            }
            Command::QueryResp { topics, epochs } => {
                self.answered(id, peer, &topics, &epochs);
                Ok(())
            }
            Command::Subscribe { topic, resume } => self.subscribed(id, topic, resume),
            Command::Unsubscribe { topic, open } => self.unsubscribed(id, topic, open),
            Command::Publish { topic, data } => self.plain(id, code::PUBLISH, topic, Payload::Shared(&data)),
            Command::Message { topic, data } => self.plain(id, code::MESSAGE, topic, Payload::Shared(&data)),
            Command::Announce { topic, epoch } => {
                self.allowed(id, Right::Own, topic)?;
                if self.news_link(peer, topic) == Some(id) {
                    self.owner_add(peer, topic, epoch)?;
                }
                Ok(())
            }
            Command::Remove { topic, .. } => {
                self.allowed(id, Right::Own, topic)?;
                if self.news_link(peer, topic) == Some(id) {
                    let topic = self.named(topic).ok_or(NotFollowed)?;
                    self.owner_remove(peer, topic, true);
                }
                Ok(())
            }
            _ if protocol != Protocol::Extended => Err(NotFollowed),
            Command::SubAck { topic, epoch, next, lossless, continues } => {
                self.sub_acked(id, topic, epoch, next, lossless, continues)
            }
            Command::Refusal { topic, publish } => self.refused(id, topic, publish),
            Command::Ping(nonce) => {
                self.send(id, &Command::Pong(nonce));
                Ok(())
            }
            Command::Pong(_) => Ok(()),
            Command::Gap { topic, first, last } => self.gap(id, topic, first, last),
            Command::Credit { topic, up: false, acked, limit, limit_bytes } => {
                self.credited(id, topic, acked, limit, limit_bytes)
            }
            Command::Credit { topic, up: true, acked, limit, limit_bytes } => {
                self.uplink_credited(id, topic, acked, limit, limit_bytes)
            }
            Command::Status => {
                self.tell_status(id);
                Ok(())
            }
            Command::StatusResp(status) => self.status_told(peer, status),
            Command::GoesOn { topic, epoch, doubt } => self.goes_on(id, topic, epoch, doubt),
            Command::Handover { topic, handover } => self.offered(id, topic, handover),
            Command::NotTaken { topic, epoch } => self.not_taken(id, topic, epoch),
            Command::Hello(_) | Command::Batch(_) => Err(NotFollowed),
        }
    }

    /// Closes the connection to a peer that asks and does not read.
    pub(super) fn expect_reader(&mut self, id: LinkId) -> Result<(), NotFollowed> {
        if self.links[id].outbox.command_bytes() <= ANSWERS_LEN_MAX {
            return Ok(());
        }
        self.close(id, "it does not read: too many answers wait for it");
        Err(NotFollowed)
    }

    pub(super) fn allowed(&self, id: LinkId, right: Right, topic: &str) -> Result<(), NotFollowed> {
        let Some(rights) = &self.options.rights else { return Ok(()) };
        let link = &self.links[id];
        // Between two nodes there may be two connections, and only on one of them it showed who it is. Whom gossip made us
        // dial may be anybody, though, as long as it has proved nothing.
        let proved = link.info.role != Role::Accepted && !link.info.principal.is_empty();
        let chosen = proved || self.is_chosen(&link.info);
        let others = link.peer.filter(|_| chosen).map(|peer| &self.peers[peer].links);
        let mut names = others.into_iter().flatten().map(|link| self.links[*link].info.principal.as_str());
        match rights(&link.info.principal, right, topic) || names.any(|name| rights(name, right, topic)) {
            true => Ok(()),
            false => Err(NotFollowed),
        }
    }

    fn answer(&mut self, id: LinkId) {
        let mut owned: Vec<(Topic, u64)> = self
            .topics
            .iter()
            .filter(|(_, topic)| !topic.open)
            .filter_map(|(_, topic)| Some((topic.name.clone(), topic.local.as_ref()?.epoch)))
            .collect();
        if self.options.rights.is_some() {
            owned.retain(|(topic, _)| self.may_know(id, topic.as_str()));
        }
        let topics = owned.iter().map(|(topic, _)| topic.as_str()).collect();
        let epochs = match self.links[id].protocol {
            Protocol::Extended => owned.iter().map(|(_, epoch)| *epoch).collect(),
            _ => Vec::new(),
        };
        self.send(id, &Command::QueryResp { topics, epochs });
    }

    fn answered(&mut self, id: LinkId, peer: PeerId, topics: &[&str], epochs: &[u64]) {
        let mut before: Vec<TopicId> = self.peers[peer].topics.keys().copied().collect();
        let mut named =
            HashSet::with_capacity_and_hasher(topics.len(), foldhash::fast::RandomState::default());
        for (i, topic) in topics.iter().enumerate() {
            // Founding peers name epochs only when they announce.
            let announced = || self.peers[peer].topics.get(&self.named(topic)?).copied();
            let epoch = epochs.get(i).copied().or_else(announced).unwrap_or(0);
            if self.allowed(id, Right::Own, topic).is_err() {
                self.refuse(id);
            } else if self.news_link(peer, topic) == Some(id) {
                match self.owner_add(peer, topic, epoch) {
                    Ok(topic) => drop(named.insert(topic)),
                    Err(_) => self.refuse(id),
                }
            }
        }
        // What vanished at its owner vanishes here.
        before.retain(|topic| {
            !named.contains(topic) && self.news_link(peer, self.topics[*topic].name.as_str()) == Some(id)
        });
        before.sort_unstable();
        for id in before {
            self.owner_remove(peer, id, true);
        }
        let state = &mut self.peers[peer];
        let link = &mut self.links[id];
        // What nobody asked for is no answer.
        if link.unanswered > 0 {
            link.unanswered -= 1;
            state.answers += 1;
            link.unheard.retain(|_, answer| *answer > state.answers);
            if std::mem::take(&mut state.query_again) {
                self.query(peer);
            }
        }
        self.changed = true;
    }

    fn subscribed(&mut self, id: LinkId, text: &str, resume: Option<Resume>) -> Result<(), NotFollowed> {
        let extended = self.links[id].protocol == Protocol::Extended;
        if self.allowed(id, Right::Subscribe, text).is_err() {
            return self.tell_refusal(id, text, false);
        }
        match resume {
            Some(resume) if !extended || (!resume.open && text.ends_with('*')) => return Err(NotFollowed),
            Some(resume) if resume.open => {
                let pattern = TopicPattern::new(text).map_err(|_| NotFollowed)?;
                if self.links[id].interest.len() >= INTEREST_MAX {
                    return self.tell_refusal(id, text, false);
                }
                self.links[id].interest.insert(text.to_owned());
                let matching: Vec<(TopicId, u64)> = self
                    .open_names
                    .ids()
                    .filter(|id| pattern.matches(&self.topics[*id].name))
                    .filter_map(|id| Some((id, self.topics[id].local.as_ref()?.flow.log.next())))
                    .filter(|(topic, _)| !self.links[id].cursors.contains(topic))
                    .collect();
                for (topic, next) in matching {
                    self.cursor_add(topic, id, next, UNBOUNDED);
                }
                let answer =
                    Command::SubAck { topic: text, epoch: 0, next: 0, lossless: false, continues: false };
                self.send(id, &answer);
                return Ok(());
            }
            _ => {}
        }
        let topic = self.named(text).ok_or(NotFollowed)?;
        let node = self.links[id].peer.and_then(|peer| self.peers[peer].node);
        let local = self.topics[topic].local.as_mut().ok_or(NotFollowed)?;
        let unbounded = Resume { window: u64::MAX >> 1, window_bytes: u64::MAX, ..Resume::default() };
        let resume = resume.unwrap_or(unbounded);
        if let Some(node) = node {
            local.flow.absent.retain(|absent| absent.node != node);
        }
        let replayed = local.flow.log.next().saturating_sub(local.options.replay as u64);
        let continues = local.flow.before.iter().any(|o| (o.node, o.epoch) == (resume.owner, resume.epoch));
        let resumes = continues || (self.options.id, local.epoch) == (resume.owner, resume.epoch);
        let from = if resumes { resume.have.saturating_add(1) } else { replayed };
        let next = from.clamp(local.flow.log.first(), local.flow.log.next());
        let lossless = matches!(local.options.policy, super::Policy::Block { .. });
        let window = match lossless {
            true => Amount { messages: resume.window, bytes: resume.window_bytes },
            false => UNBOUNDED,
        };
        let epoch = local.epoch;
        if extended {
            // Whoever had this epoch was told. Who has found no place has missed what is before its first message anyway.
            let told = resumes && !continues;
            let untold = |doubt: &u64| !told && if continues { *doubt >= next } else { *doubt > next };
            let doubts: Vec<u64> = local.flow.doubts.iter().copied().filter(untold).collect();
            self.send(id, &Command::SubAck { topic: text, epoch, next, lossless, continues });
            for doubt in doubts {
                self.send(id, &Command::GoesOn { topic: text, epoch, doubt });
            }
        }
        self.cursor_add(topic, id, next, window);
        self.changed = true;
        Ok(())
    }

    /// Tells a node of our kind that it may not, or that there is no room; always an error, so that it is counted.
    pub(super) fn tell_refusal(&mut self, id: LinkId, topic: &str, publish: bool) -> Result<(), NotFollowed> {
        self.expect_reader(id)?;
        if self.links[id].protocol == Protocol::Extended {
            self.send(id, &Command::Refusal { topic, publish });
        }
        Err(NotFollowed)
    }

    fn unsubscribed(&mut self, id: LinkId, text: &str, open: bool) -> Result<(), NotFollowed> {
        let matching: Vec<TopicId> = if open {
            if !self.links[id].interest.remove(text) {
                return Err(NotFollowed);
            }
            let topics: Vec<TopicId> =
                self.links[id].cursors.iter().copied().filter(|t| self.topics[*t].open).collect();
            topics.into_iter().filter(|t| !self.has_interest(id, &self.topics[*t].name)).collect()
        } else {
            vec![self.named(text).ok_or(NotFollowed)?]
        };
        for topic in matching {
            self.links[id].cursors.remove(&topic);
            self.links[id].lagging.remove(&topic);
            if let Some(local) = self.topics[topic].local.as_mut() {
                local.flow.cursors.retain(|cursor| cursor.link != id);
            }
            self.acked_changed(topic);
        }
        Ok(())
    }

    /// A message in frames of its own.
    fn plain(&mut self, id: LinkId, code: u8, topic: &str, data: Payload<'_>) -> Result<(), NotFollowed> {
        let link = &mut self.links[id];
        if link.peer.is_none() {
            return Err(NotFollowed);
        }
        if code == code::PUBLISH {
            return self.published(id, topic, data);
        }
        if link.protocol == Protocol::Founding {
            link.protocol = Protocol::Notifying;
        }
        self.message(id, topic, data)
    }

    /// 0x01: to us as the owner, or in protocol 1 from the owner.
    fn published(&mut self, id: LinkId, name: &str, data: Payload<'_>) -> Result<(), NotFollowed> {
        let topic = self.named(name).ok_or(NotFollowed)?;
        let from_owner = self.topics[topic].upstream.link == Some(id);
        if self.topics[topic].local.is_none() || from_owner {
            return self.message(id, name, data);
        }
        if self.links[id].unheard.contains_key(name) {
            // All who heard it have had it. To pass it on would be to say it twice.
            return Err(NotFollowed);
        }
        self.allowed(id, Right::Publish, name)?;
        self.counters.received += 1;
        if self.remote_owner(topic).is_some() {
            // Who sent it does not know yet that the topic has another owner.
            return match self.publish_remote(topic, &data.to_bytes()) {
                Publish::Done(_) => Ok(()),
                Publish::Full => Err(NotFollowed),
            };
        }
        self.accept(id, topic, data)
    }

    /// From the owner, unnumbered.
    fn message(&mut self, id: LinkId, name: &str, data: Payload<'_>) -> Result<(), NotFollowed> {
        let topic = self.named(name).ok_or(NotFollowed)?;
        if self.topics[topic].upstream.link != Some(id) {
            return Err(NotFollowed);
        }
        self.counters.received += 1;
        match data {
            Payload::Part(body, start, end) => self.deliver(topic, body, start..end, Fit::Lossy),
            data => self.deliver(topic, &data.to_bytes(), 0..data.len(), Fit::Lossy),
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, id: TopicId, body: &Bytes, range: Range<usize>, fit: Fit) {
        self.deliver_run(id, body, &[Span::from(range)], fit);
    }

    /// Hands messages that came in one buffer to who subscribed here.
    pub(super) fn deliver_run(&mut self, id: TopicId, body: &Bytes, run: &[Span], fit: Fit) {
        let topic = &self.topics[id];
        for &sub in topic.subs.iter() {
            let ring = &mut self.subs[sub].ring;
            let dropped = ring.dropped;
            if self.in_batch && !ring.is_fresh() {
                self.fresh.push(sub);
            }
            if ring.push_run(&topic.name, body, run, fit, self.in_batch) {
                self.outputs.push_back(Output::Readable(sub));
            }
            self.counters.dropped += ring.dropped - dropped;
        }
        self.counters.delivered += (topic.subs.len() * run.len()) as u64;
    }

    pub(super) fn deliver_gap(&mut self, id: TopicId, first: u64, last: Option<u64>) {
        let topic = &self.topics[id];
        let pattern = TopicPattern::Exact(topic.name.clone());
        let woken: Vec<SubId> = topic
            .subs
            .iter()
            .copied()
            .filter(|sub| self.subs[*sub].ring.push_gap(&pattern, first, last))
            .collect();
        let missing = last.map_or(1, |last| last - first + 1);
        self.counters.gaps = self.counters.gaps.saturating_add(missing);
        self.outputs.extend(woken.into_iter().map(Output::Readable));
    }
}
