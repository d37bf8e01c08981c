//! What other nodes publish to topics of ours: taken at once, put off until there is room, or refused.

use std::time::Duration;

use bytes::Bytes;

use super::{
    LinkId, Node, Output, Policy, Publish, Publisher, TopicId, credit::UPLINK_WINDOW, inward::NotFollowed,
};
use crate::cluster::{
    command::{Command, NodeId},
    log::{COPIED_LEN_MAX, Payload},
};

/// Payloads of peers below this length are copied before they are kept for long.
const SMALL_LEN_MAX: usize = 16 << 10;
/// After so long a publisher that is not connected is forgotten. If it comes back later and sends again what it was not told
/// has been taken, that comes twice.
pub(super) const PUBLISHER_GRACE: Duration = Duration::from_secs(600);
/// Publishers that are not connected and that a topic remembers all the same; beyond, who is away longest is forgotten.
pub(super) const PUBLISHERS_AWAY_MAX: usize = 1024;
/// A log that is longer than this keeps its messages for long: somebody is slow.
const LOG_LEN_QUICK: usize = 1024;

impl super::Local {
    /// Whether a payload of a peer has to be copied before it is kept: a slice of a receive buffer keeps all of it alive.
    /// The log copies the smallest anyway.
    fn copies(&self, len: usize) -> bool {
        let stays = self.options.replay > 0 || self.flow.log.len() > LOG_LEN_QUICK;
        stays && (COPIED_LEN_MAX + 1..SMALL_LEN_MAX).contains(&len)
    }
}

impl super::Flow {
    /// Lets go of publishers that stay away.
    pub(super) fn forget_publishers(&mut self, now: Duration, is_connected: impl Fn(&NodeId) -> bool) {
        let mut away = Vec::new();
        self.publishers.retain(|node, publisher| {
            if is_connected(node) {
                publisher.heard_at = now;
            } else if publisher.waiting.messages == 0 {
                away.push((publisher.heard_at, *node));
                return now.saturating_sub(publisher.heard_at) < PUBLISHER_GRACE;
            }
            true
        });
        if away.len() > PUBLISHERS_AWAY_MAX {
            away.sort_unstable();
            for (_, node) in &away[..away.len() - PUBLISHERS_AWAY_MAX] {
                self.publishers.remove(node);
            }
        }
    }

    /// A publisher begins a new stream while messages of its last one wait for room. It will not send them again, so they
    /// stay, as messages that nobody numbered, within the bounds of those. The numbers that those would have had for which there is
    /// no room.
    fn begin_anew(&mut self, node: NodeId, messages_max: usize, bytes_max: usize) -> Vec<u64> {
        let mut dropped = Vec::new();
        if self.publishers.get(&node).is_none_or(|publisher| publisher.waiting.messages == 0) {
            return dropped;
        }
        let (unnumbered, bytes, mut next) =
            (&mut self.unnumbered, &mut self.unnumbered_bytes, self.log.next());
        self.backlog.retain_mut(|(from, sequence, data)| {
            let number = next;
            next += 1;
            if *from != Some(node) {
                return true;
            }
            let fits = *unnumbered < messages_max && *bytes + data.len() <= bytes_max;
            if fits {
                (*from, *sequence) = (None, 0);
                *unnumbered += 1;
                *bytes += data.len();
            } else {
                dropped.push(number);
            }
            fits
        });
        dropped
    }

    /// A message that nobody numbered has to wait for room.
    pub(super) fn wait_unnumbered(&mut self, payload: Bytes) {
        self.unnumbered += 1;
        self.unnumbered_bytes += payload.len();
        self.backlog.push_back((None, 0, payload));
    }

    /// Forgets what waits and was numbered by who published it: it will be sent again, here or to another owner, with what that
    /// one has not taken.
    pub(super) fn forget_numbered(&mut self) {
        self.backlog.retain(|(node, ..)| node.is_none());
        for publisher in self.publishers.values_mut() {
            publisher.taken = publisher.numbered();
            publisher.waiting = Default::default();
        }
    }

    /// Another node has the topic. What publishers numbered they will send again, to that node; the rest is for us to pass on.
    pub(super) fn cede(&mut self) -> Vec<Bytes> {
        self.forget_numbered();
        (self.unnumbered, self.unnumbered_bytes, self.blocked_since) = (0, 0, None);
        std::mem::take(&mut self.backlog).into_iter().map(|(_, _, data)| data).collect()
    }
}

impl Node {
    /// A numbered message of another node, for a topic of ours.
    pub(super) fn publish_for(
        &mut self,
        link: LinkId,
        node: NodeId,
        stream: &mut super::Inbound,
        sequence: u64,
        data: Payload<'_>,
    ) {
        let now = self.now;
        let Some(local) = self.topics[stream.topic].local.as_mut() else { return };
        if local.ceded {
            // It will be sent again, to the next owner.
            return;
        }
        let (messages_max, bytes_max) = (self.options.retained_messages_max, self.options.retained_bytes_max);
        let mut publisher = local.flow.publishers.entry(node).or_default();
        let mut known = true;
        if publisher.epoch != stream.epoch {
            known = false;
            let dropped = local.flow.begin_anew(node, messages_max, bytes_max);
            self.counters.dropped += dropped.len() as u64;
            if !dropped.is_empty() {
                for doubt in local.flow.doubt_earlier(&dropped) {
                    self.send_doubt(stream.topic, doubt);
                }
            }
            let Some(local) = self.topics[stream.topic].local.as_mut() else { return };
            publisher = local.flow.publishers.entry(node).or_default();
            *publisher = Publisher { epoch: stream.epoch, ..Publisher::default() };
        }
        (publisher.link, publisher.received_bytes) = (link, stream.received_bytes);
        publisher.heard_at = now;
        if sequence <= publisher.taken {
            self.counters.duplicates += 1;
            return;
        }
        if sequence > publisher.taken.saturating_add(1) && sequence != stream.began {
            // Something came while another node had the topic. It comes again: who publishes begins anew when it hears who
            // has it now.
            let since = *stream.broken.get_or_insert(now);
            if now.saturating_sub(since) > self.options.heartbeat {
                self.close(link, "what was not taken before has to come again");
            }
            return;
        }
        let elsewhere = known && sequence > publisher.taken.saturating_add(1);
        let (waiting, len) = (publisher.waiting, data.len() as u64);
        let too_much = waiting.messages >= UPLINK_WINDOW.messages
            || waiting.messages > 0 && waiting.bytes + len > UPLINK_WINDOW.bytes;
        if too_much {
            return self.close(link, "it published more than it was told to");
        }
        let before = if elsewhere { publisher.taken } else { sequence.saturating_sub(1) };
        publisher.taken = sequence;
        if elsewhere {
            // Two of us were owners at the same time, and the other one is told of only now.
            self.doubt_waiting(stream.topic);
        }
        let Some(local) = self.topics[stream.topic].local.as_mut() else { return };
        if local.flow.backlog.is_empty()
            && let Publish::Done(_) = self.publish_owned(stream.topic, data)
        {
            return;
        }
        let Some(local) = self.topics[stream.topic].local.as_mut() else { return };
        if let Some(publisher) = local.flow.publishers.get_mut(&node) {
            if publisher.waiting.messages == 0 {
                publisher.before = before;
            }
            publisher.waiting.messages += 1;
            publisher.waiting.bytes += len;
        }
        local.flow.blocked_since.get_or_insert(now);
        local.flow.backlog.push_back((Some(node), sequence, Bytes::copy_from_slice(&data)));
        self.blocked.insert(stream.topic);
    }

    /// An unnumbered message of a founding peer, for a topic of ours. It cannot be told to wait, but it need not be read
    /// from, for as long as the topic's publishers wait; after that, what is beyond the bounds of the topic is dropped.
    pub(super) fn accept(&mut self, link: LinkId, id: TopicId, data: Payload<'_>) -> Result<(), NotFollowed> {
        let (messages_max, bytes_max) = (self.options.retained_messages_max, self.options.retained_bytes_max);
        let now = self.now;
        let local = self.topics[id].local.as_ref().ok_or(NotFollowed)?;
        if local.flow.backlog.is_empty()
            && let Publish::Done(_) = self.publish_owned(id, data)
        {
            return Ok(());
        }
        let local = self.topics[id].local.as_mut().ok_or(NotFollowed)?;
        if local.flow.backlog.len() >= messages_max || local.flow.unnumbered_bytes + data.len() > bytes_max {
            self.counters.dropped += 1;
            return Err(NotFollowed);
        }
        let since = *local.flow.blocked_since.get_or_insert(now);
        local.flow.wait_unnumbered(Bytes::copy_from_slice(&data));
        self.blocked.insert(id);
        let waits = match local.options.policy {
            Policy::Block { timeout } => now.saturating_sub(since) < timeout,
            _ => local.moving,
        };
        if waits && let Some(link) = self.links.get_mut(link) {
            self.held_links += usize::from(link.held_by.is_empty());
            link.held_by.insert(id);
        }
        Ok(())
    }

    /// Publishes what a peer sent, in a form that may be kept.
    fn publish_owned(&mut self, id: TopicId, data: Payload<'_>) -> Publish {
        let copies = self.topics[id].local.as_ref().is_some_and(|local| local.copies(data.len()));
        match copies {
            true => self.publish_local(id, Payload::Shared(&Bytes::copy_from_slice(&data)), false),
            false => self.publish_local(id, data, false),
        }
    }

    /// Whether nothing more is to be read from a link for now, because there is no room for what it publishes and it knows no
    /// other way to wait. [`Output::Resume`] ends it.
    pub fn is_held(&self, id: LinkId) -> bool {
        self.held_links > 0 && self.links.get(id).is_some_and(|link| !link.held_by.is_empty())
    }

    /// A topic is in nobody's way any more.
    pub(super) fn release(&mut self, id: TopicId) {
        if self.held_links == 0 {
            return;
        }
        for (link, state) in &mut self.links {
            if state.held_by.remove(&id) && state.held_by.is_empty() {
                self.held_links -= 1;
                self.outputs.push_back(Output::Resume(link));
            }
        }
    }

    pub(super) fn drain_backlog(&mut self, id: TopicId) {
        let mut nodes = Vec::new();
        while let Some(local) = self.topics.get_mut(id).and_then(|topic| topic.local.as_mut()) {
            let Some((node, sequence, data)) = local.flow.backlog.pop_front() else {
                local.flow.blocked_since = None;
                break;
            };
            // With an empty backlog in place, so that the room that this makes does not bring us here again.
            let rest = std::mem::take(&mut local.flow.backlog);
            let done = self.publish_local(id, Payload::Shared(&data), false);
            let Some(local) = self.topics[id].local.as_mut() else { break };
            local.flow.backlog = rest;
            if done == Publish::Full {
                local.flow.backlog.push_front((node, sequence, data));
                break;
            }
            local.flow.blocked_since = Some(self.now);
            let Some(node) = node else {
                local.flow.unnumbered -= 1;
                local.flow.unnumbered_bytes -= data.len();
                continue;
            };
            if let Some(publisher) = local.flow.publishers.get_mut(&node) {
                publisher.waiting.messages -= 1;
                publisher.waiting.bytes -= data.len() as u64;
                publisher.before = sequence;
            }
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        if self
            .topics
            .get(id)
            .and_then(|topic| topic.local.as_ref())
            .is_none_or(|l| l.flow.backlog.is_empty())
        {
            self.blocked.remove(&id);
            self.release(id);
            self.room();
        }
        for node in nodes {
            self.ack_publisher(id, node);
        }
    }

    /// Tells a publisher what has been published for it, and how much more it may send.
    pub(super) fn ack_publisher(&mut self, id: TopicId, node: NodeId) {
        let topic = &self.topics[id];
        let Some(publisher) = topic.local.as_ref().and_then(|local| local.flow.publishers.get(&node)) else {
            return;
        };
        let link = publisher.link;
        if self.by_node.get(&node).is_none_or(|peer| !self.peers[*peer].links.contains(&link)) {
            // It will send again what is not acknowledged, and be answered then.
            return;
        }
        let acked = publisher.numbered();
        let limit = acked + UPLINK_WINDOW.messages;
        let limit_bytes =
            publisher.received_bytes.saturating_sub(publisher.waiting.bytes) + UPLINK_WINDOW.bytes;
        let name = topic.name.clone();
        self.send(link, &Command::Credit { topic: name.as_str(), up: true, acked, limit, limit_bytes });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::*, *};

    #[test]
    fn publishers_that_are_away_are_forgotten_beyond_the_bound_and_those_here_are_not() {
        let mut node = Node::new(NodeOptions::standard(NodeId(0), 1));
        node.topic_create("t", TopicOptions::STANDARD).expect("a good name");
        let topic = node.named("t").expect("it is known");
        let local = node.topics[topic].local.as_mut().expect("it is ours");
        let count = PUBLISHERS_AWAY_MAX as u64 + 10;
        for n in 0..count {
            let heard_at = Duration::from_millis(n);
            local.flow.publishers.insert(NodeId(n.into()), Publisher { heard_at, ..Publisher::default() });
        }
        local.flow.forget_publishers(Duration::from_millis(count), |node| node.0 < 3);
        // Of those away, the ones heard of longest ago: 3 to 9.
        let mut left: Vec<u128> = local.flow.publishers.keys().map(|node| node.0).collect();
        left.sort_unstable();
        let expected: Vec<u128> = (0..3).chain(10..count.into()).collect();
        assert_eq!(left, expected);
    }
}
