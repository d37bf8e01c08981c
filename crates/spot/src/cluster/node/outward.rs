//! From publishers to outboxes and rings.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Flow, Lazy, Local, Node, Output, Policy, TopicId, TopicOptions,
    feed::{Feed, alias_of, emit},
    inward::UNBOUNDED,
};
use crate::cluster::{log::Payload, record::Kind, ring::Fit};

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Local subscriptions that it was handed to.
    pub delivered: usize,
    /// Subscribed nodes that it is on its way to, or the owner.
    pub queued: usize,
    /// Subscribed nodes that do not get it.
    pub dropped: usize,
}

/// Whether a message was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a message that was not taken has to be published again"]
pub enum Publish {
    /// It was.
    Done(Report),
    /// A bound is reached: try again after [`Output::Room`].
    Full,
}

/// Why a message cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// ENOENT.
    #[error("topic `{0}` is not known")]
    NotFound(String),
    /// EACCES.
    #[error("its owner does not let this node publish to topic `{0}`")]
    NotAllowed(String),
    /// EMSGSIZE.
    #[error("payload of {len} bytes: at most {max} are allowed")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// EINVAL.
    #[error(transparent)]
    Invalid(#[from] super::TopicError),
}

impl Node {
    /// Publishes to a topic: to its subscribers if it is ours, to its owner if not. With `force`, who is in the way of a
    /// lossless topic loses its place.
    pub fn publish(&mut self, name: &str, payload: &Bytes, force: bool) -> Result<Publish, PublishError> {
        self.check_len(payload)?;
        let id = self.named(name);
        let published = match id.map(|id| (id, self.remote_owner(id))) {
            Some((id, Some(_))) if self.is_publish_refused(id) => {
                return Err(PublishError::NotAllowed(name.to_owned()));
            }
            Some((id, Some(_))) => self.publish_remote(id, payload),
            // What was published here before and waits comes first.
            Some((id, None))
                if !force
                    && self.topics[id].local.as_ref().is_some_and(|local| local.flow.unnumbered > 0) =>
            {
                Publish::Full
            }
            Some((id, None)) if self.topics[id].local.is_some() => {
                self.publish_local(id, Payload::Shared(payload), force)
            }
            _ if self.awaits_owner(name)
                || id.is_some_and(|id| self.topics[id].elsewhere.route.is_some()) =>
            {
                Publish::Full
            }
            _ => return Err(PublishError::NotFound(name.to_owned())),
        };
        match published {
            Publish::Done(_) => self.counters.published += 1,
            Publish::Full => self.wants_room = true,
        }
        Ok(published)
    }

    /// Publishes to whoever is interested in the name, without an owner.
    pub fn publish_open(&mut self, name: &str, payload: &Bytes) -> Result<Publish, PublishError> {
        self.check_len(payload)?;
        let id = self.open_topic_id(name)?;
        if self.topics[id].local.is_none() {
            self.open_create(id);
        }
        let published = self.publish_local(id, Payload::Shared(payload), false);
        self.counters.published += 1;
        Ok(published)
    }

    /// How long a publisher of a topic of ours waits for slow subscribers; none if the topic is not ours or never waits.
    pub fn block_timeout(&self, name: &str) -> Option<std::time::Duration> {
        let id = self.named(name)?;
        match self.topics[id].local.as_ref().filter(|local| !local.ceded)?.options.policy {
            Policy::Block { timeout } => Some(timeout),
            _ => None,
        }
    }

    /// Whether the owner has said no, not long ago: rights may change.
    fn is_publish_refused(&self, id: TopicId) -> bool {
        let refused_at = self.topics[id].uplink.as_ref().and_then(|uplink| uplink.refused_at);
        refused_at.is_some_and(|at| self.now.saturating_sub(at) < self.options.heartbeat)
    }

    fn check_len(&self, payload: &Bytes) -> Result<(), PublishError> {
        let (len, max) = (payload.len(), self.options.payload_len_max);
        if len > max { Err(PublishError::TooLarge { len, max }) } else { Ok(()) }
    }

    /// The options, held once by all topics that have them, if they are created one after the other.
    pub(super) fn shared_options(&mut self, options: TopicOptions) -> Arc<TopicOptions> {
        if *self.usual_options != options {
            self.usual_options = Arc::new(options);
        }
        self.usual_options.clone()
    }

    fn open_create(&mut self, id: TopicId) {
        self.generations += 1;
        let epoch = self.options.incarnation.wrapping_add(self.generations);
        let options = self.shared_options(TopicOptions { policy: Policy::DropNewest, replay: 0 });
        self.topics[id].local = Some(Local::new(epoch, options));
        let name = self.topics[id].name.clone();
        for link in self.links.iter().map(|(link, _)| link).collect::<Vec<_>>() {
            if self.has_interest(link, &name) {
                self.cursor_add(id, link, 1, UNBOUNDED);
            }
        }
    }

    /// Publishes to the subscribers of a topic that is ours.
    pub(super) fn publish_local(&mut self, id: TopicId, payload: Payload<'_>, force: bool) -> Publish {
        let Some(local) = self.topics[id].local.as_ref() else { return Publish::Done(Report::default()) };
        if local.wary && !self.tell_untold(id) {
            return Publish::Full;
        }
        if force {
            self.evict(id);
        }
        let topic = &mut self.topics[id];
        let Some(local) = topic.local.as_mut() else { return Publish::Done(Report::default()) };
        let lossless = matches!(local.options.policy, Policy::Block { .. });
        if lossless {
            local.trim_replay(self.options.retained_bytes_max);
        }
        if lossless && !force {
            let full = local.flow.log.next() - 1 - local.flow.acked
                >= self.options.retained_messages_max as u64
                || local.flow.log.bytes() >= self.options.retained_bytes_max
                || topic.subs.iter().any(|sub| !self.subs[*sub].ring.has_room(payload.len()));
            if full {
                return Publish::Full;
            }
        }
        let mut report = Report::default();
        let mut wake = false;
        let fit = match (lossless, force) {
            (true, false) => Fit::Lossless,
            (true, true) => Fit::Forced,
            (false, _) => Fit::Lossy,
        };
        // What is held in a chunk is published from a log; it is its own buffer then.
        let copied;
        let (body, range) = match payload {
            Payload::Shared(bytes) => (bytes, 0..bytes.len()),
            Payload::Part(body, start, end) => (body, start..end),
            Payload::Copied(bytes) => {
                copied = Bytes::copy_from_slice(bytes);
                (&copied, 0..bytes.len())
            }
        };
        for &id in topic.subs.iter() {
            let ring = &mut self.subs[id].ring;
            let dropped = ring.dropped;
            if self.in_batch && !ring.is_fresh() {
                self.fresh.push(id);
            }
            if ring.push_within(&topic.name, body, range.clone(), fit, self.in_batch) {
                self.outputs.push_back(Output::Readable(id));
            }
            self.counters.dropped += ring.dropped - dropped;
            report.delivered += 1;
        }
        self.counters.delivered += report.delivered as u64;
        let flow = &mut *local.flow;
        if flow.log.is_empty()
            && flow.cursors.is_empty()
            && flow.absent.is_empty()
            && local.options.replay == 0
        {
            // It has a number, but nobody elsewhere will ask for it.
            flow.log.skip();
            self.acked_changed(id);
            return Publish::Done(report);
        }
        let sequence = flow.log.next();
        flow.log.push(payload);
        let feed = Feed {
            alias: alias_of(id, false),
            kind: if topic.open { Kind::Open } else { Kind::Message },
            epoch: local.epoch,
            name: topic.name.as_str(),
            bytes_max: self.options.send_bytes_max,
            messages_max: self.options.send_messages_max,
        };
        self.heads.clear();
        let mut disconnect = Vec::new();
        for cursor in &mut flow.cursors {
            let outbox = &self.links[cursor.link].outbox;
            let room = outbox.has_room(payload.len(), feed.bytes_max, feed.messages_max);
            if cursor.next == sequence && cursor.may_send(payload.len()) && room {
                if emit(&mut self.links, cursor, &feed, &mut self.heads, sequence, payload) {
                    self.outputs.push_back(Output::Write(cursor.link));
                }
                report.queued += 1;
                continue;
            }
            let link = &mut self.links[cursor.link];
            match local.options.policy {
                Policy::Block { .. } if !cursor.stalled => report.queued += 1,
                Policy::DropOldest | Policy::Conflate => report.queued += 1,
                Policy::Block { .. } | Policy::DropNewest | Policy::Disconnect => {
                    let first = cursor.lost.map_or(sequence, |(first, _)| first);
                    cursor.lost = Some((first, sequence));
                    cursor.next = sequence + 1;
                    cursor.acked = sequence;
                    cursor.dropped += 1;
                    self.dropping.insert(id);
                    report.dropped += 1;
                    link.dropped += 1;
                    if local.options.policy == Policy::Disconnect {
                        disconnect.push(cursor.link);
                    }
                }
            }
            link.lagging.insert(id);
        }
        self.counters.sent += report.queued as u64;
        self.counters.dropped += report.dropped as u64;
        wake |= flow.cursors.iter().any(|cursor| cursor.acked == sequence) || flow.cursors.is_empty();
        for link in disconnect {
            self.close(link, "it was too slow for a topic that disconnects slow nodes");
        }
        if wake || !lossless {
            self.acked_changed(id);
        }
        Publish::Done(report)
    }
}

impl Local {
    pub(super) fn new(epoch: u64, options: Arc<TopicOptions>) -> Self {
        Self { epoch, options, flow: Lazy::new(), ceded: false, moving: false, wary: false }
    }

    /// What is kept only for replay gives way to what has not arrived everywhere.
    fn trim_replay(&mut self, bytes_max: usize) {
        let Some(Flow { log, acked, .. }) = self.flow.get_mut() else { return };
        while log.bytes() >= bytes_max && log.first() <= *acked && !log.is_empty() {
            log.trim_to(log.first() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::*, *};

    #[test]
    fn who_moves_on_keeps_its_place_when_another_is_stuck() {
        let mut node = Node::new(NodeOptions::standard(NodeId(0), 1));
        let policy = Policy::Block { timeout: Duration::from_secs(1) };
        node.topic_create("t", TopicOptions { policy, replay: 0 }).expect("a good name");
        let topic = node.named("t").expect("it is known");
        let info = LinkInfo {
            role: Role::Accepted,
            name: "peer".into(),
            extended: true,
            pings: true,
            sealed: false,
            principal: String::new(),
            named: false,
            shown: false,
        };
        let [stuck, slow] = [(); 2].map(|()| node.link_up(info.clone()));
        for link in [stuck, slow] {
            node.cursor_add(topic, link, 1, UNBOUNDED);
        }
        for _ in 0..100 {
            let done = node.publish("t", &Bytes::from_static(b"x"), false);
            assert!(matches!(done, Ok(Publish::Done(report)) if report.queued == 2));
        }
        node.set_now(Duration::from_millis(1500));
        assert!(node.credited(slow, "t", 10, u64::MAX, u64::MAX).is_ok());
        node.set_now(Duration::from_millis(2000));
        let stalled = |node: &Node| {
            let local = node.topics[topic].local.as_ref().expect("it is ours");
            local.flow.cursors.iter().map(|cursor| cursor.stalled).collect::<Vec<_>>()
        };
        node.evict(topic);
        assert_eq!(stalled(&node), [true, false]);
        // Alone in the way, and still moving: it is the slowest now.
        node.evict(topic);
        assert_eq!(stalled(&node), [true, true]);
    }
}
