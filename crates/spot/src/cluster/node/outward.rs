//! From publishers to outboxes and rings.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Amount, Cursor, Event, LinkId, Links, Local, Log, Node, Output, Policy, Protocol, TopicId, Uplink,
    credit::UPLINK_WINDOW, inward::UNBOUNDED,
};
use crate::cluster::{
    command::{Command, code},
    log::Payload,
    record::{DataHeader, Kind, put_define},
    ring::Fit,
    zmtp::frame::{MORE, put_frame, put_header},
};

/// Streams without an owner at most; the oldest is forgotten, and numbered anew if it comes back.
const OPEN_TOPICS_MAX: usize = 1 << 16;

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

/// The bytes before a payload, made once for all peers that want the same.
#[derive(Debug, Default)]
pub(super) struct Heads {
    record: Option<DataHeader>,
    plain: [BytesMut; 4],
}

impl Heads {
    /// For another message.
    fn clear(&mut self) {
        self.record = None;
        self.plain.iter_mut().for_each(BytesMut::clear);
    }
}

/// What a cursor is fed with.
struct Feed<'a> {
    alias: u32,
    kind: Kind,
    epoch: u64,
    name: &'a str,
    bytes_max: usize,
    messages_max: usize,
}

pub(super) fn alias_of(id: TopicId, up: bool) -> u32 {
    (id as u32) * 2 + 2 + u32::from(up)
}

/// Puts one message into a peer's outbox.
#[inline]
fn emit(
    links: &mut Links,
    cursor: &mut Cursor,
    feed: &Feed<'_>,
    heads: &mut Heads,
    sequence: u64,
    payload: Payload<'_>,
) -> bool {
    let link = &mut links[cursor.link];
    if link.protocol == Protocol::Extended {
        if let Some((first, last)) = cursor.lost.take() {
            link.outbox.put_command(&Command::Gap { topic: feed.name, first, last }, link.delimited);
        }
        if !cursor.defined {
            let mut define = BytesMut::new();
            put_define(&mut define, feed.alias, feed.kind, feed.epoch, sequence, feed.name);
            link.outbox.put_record(&define);
            cursor.defined = true;
        }
        let head = heads.record.get_or_insert_with(|| DataHeader::new(feed.alias, payload.len()));
        link.outbox.put_message(head.as_bytes(), payload);
    } else {
        cursor.lost = None;
        let code = if link.protocol == Protocol::Notifying { code::MESSAGE } else { code::PUBLISH };
        let which = usize::from(link.delimited) * 2 + usize::from(code == code::MESSAGE);
        put_plain(&mut link.outbox, &mut heads.plain[which], link.delimited, code, feed.name, payload);
        cursor.acked = sequence;
    }
    cursor.next = sequence + 1;
    cursor.sent_bytes += payload.len() as u64;
    cursor.stalled = false;
    link.outbox.schedule()
}

fn put_plain(
    outbox: &mut super::Outbox,
    head: &mut BytesMut,
    delimited: bool,
    code: u8,
    name: &str,
    payload: Payload<'_>,
) {
    if head.is_empty() {
        if delimited {
            put_frame(head, MORE, b"");
        }
        head.put_slice(&[MORE, 1, code]);
        put_frame(head, MORE, name.as_bytes());
        put_header(head, 0, payload.len());
    }
    outbox.put_plain(head, payload);
}

impl Node {
    /// Publishes to a topic: to its subscribers if it is ours, to its owner if not. With `force`, who is in the way of a
    /// lossless topic loses its place.
    pub fn publish(&mut self, name: &str, payload: &Bytes, force: bool) -> Result<Publish, PublishError> {
        self.check_len(payload)?;
        let id = self.names.get(name).copied();
        let published = match id.map(|id| (id, self.remote_owner(id))) {
            Some((id, Some(_))) => self.publish_remote(id, payload),
            Some((id, None)) if self.topics[id].local.is_some() => {
                self.publish_local(id, Payload::Shared(payload), force)
            }
            _ if self.awaits_owner(name) || id.is_some_and(|id| self.topics[id].route.is_some()) => {
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
        let id = match self.open_names.get(name) {
            Some(&id) => id,
            None => self.topic_id(name, true)?,
        };
        if self.topics[id].local.is_none() {
            self.open_create(id);
        }
        let published = self.publish_local(id, Payload::Shared(payload), false);
        self.counters.published += 1;
        Ok(published)
    }

    /// How long a publisher of a topic of ours waits for slow subscribers; none if the topic is not ours or never waits.
    pub fn block_timeout(&self, name: &str) -> Option<std::time::Duration> {
        let id = *self.names.get(name)?;
        match self.topics[id].local.as_ref().filter(|local| !local.ceded)?.options.policy {
            Policy::Block { timeout } => Some(timeout),
            _ => None,
        }
    }

    fn check_len(&self, payload: &Bytes) -> Result<(), PublishError> {
        let (len, max) = (payload.len(), self.options.payload_len_max);
        if len > max { Err(PublishError::TooLarge { len, max }) } else { Ok(()) }
    }

    /// Counts a stream without an owner among those that are bounded.
    pub(super) fn open_remember(&mut self, id: TopicId) {
        if std::mem::replace(&mut self.topics[id].remembered, true) {
            return;
        }
        if self.open_order.len() >= OPEN_TOPICS_MAX
            && let Some(oldest) = self.open_order.pop_front()
        {
            match self.topics.get(oldest).is_some_and(|topic| topic.open && topic.subs.is_empty()) {
                true => self.topic_forget(oldest),
                false => self.open_order.push_back(oldest),
            }
        }
        self.open_order.push_back(id);
    }

    fn open_create(&mut self, id: TopicId) {
        self.open_remember(id);
        self.generations += 1;
        let epoch = self.options.incarnation.wrapping_add(self.generations);
        let options = super::TopicOptions { policy: Policy::DropNewest, replay: 0 };
        self.topics[id].local = Some(Local::new(epoch, options));
        let name = self.topics[id].name.clone();
        for link in self.links.iter().map(|(link, _)| link).collect::<Vec<_>>() {
            if self.has_interest(link, &name) {
                self.cursor_add(id, link, 1, UNBOUNDED);
            }
        }
    }

    pub(super) fn cursor_add(&mut self, id: TopicId, link: LinkId, next: u64, window: Amount) {
        let Some(local) = self.topics[id].local.as_mut() else { return };
        let cursor = Cursor {
            link,
            next,
            acked: next - 1,
            limit: (next - 1).saturating_add(window.messages),
            sent_bytes: 0,
            limit_bytes: window.bytes,
            defined: false,
            lost: None,
            stalled: false,
            moved_at: self.now,
        };
        match local.cursors.iter_mut().find(|cursor| cursor.link == link) {
            Some(old) => *old = cursor,
            None => local.cursors.push(cursor),
        }
        self.links[link].cursors.insert(id);
        self.acked_changed(id);
        self.pump(id, link);
    }

    /// Publishes to the subscribers of a topic that is ours.
    pub(super) fn publish_local(&mut self, id: TopicId, payload: Payload<'_>, force: bool) -> Publish {
        if force {
            self.evict(id);
        }
        let topic = &mut self.topics[id];
        let Some(local) = topic.local.as_mut() else { return Publish::Done(Report::default()) };
        if local.moving && !local.ceded {
            return Publish::Full;
        }
        let lossless = matches!(local.options.policy, Policy::Block { .. });
        if lossless && !force {
            let full = local.log.next() - 1 - local.acked >= self.options.retained_messages_max as u64
                || local.unacked_bytes() >= self.options.retained_bytes_max
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
        for &id in &topic.subs {
            let ring = &mut self.subs[id].ring;
            if self.in_batch && !ring.is_fresh() {
                self.fresh.push(id);
            }
            if ring.push_within(&topic.name, body, range.clone(), fit, self.in_batch) {
                self.outputs.push_back(Output::Readable(id));
            }
            report.delivered += 1;
        }
        self.counters.delivered += report.delivered as u64;

        let sequence = local.log.next();
        local.log.push(payload);
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
        for cursor in &mut local.cursors {
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
        wake |= local.cursors.iter().any(|cursor| cursor.acked == sequence) || local.cursors.is_empty();
        for link in disconnect {
            self.close(link, "it was too slow for a topic that disconnects slow nodes");
        }
        if wake || !lossless {
            self.acked_changed(id);
        }
        Publish::Done(report)
    }

    /// Finds out again what has arrived everywhere, and lets go of it.
    pub(super) fn acked_changed(&mut self, id: TopicId) {
        let Some(local) = self.topics.get_mut(id).and_then(|topic| topic.local.as_mut()) else { return };
        let next = local.log.next();
        let acked =
            local.cursors.iter().map(|cursor| cursor.acked).chain(local.absent.iter().map(|a| a.acked));
        local.acked = acked.min().unwrap_or(next - 1).min(next - 1);
        let wanted = local.cursors.iter().map(|cursor| cursor.next).min().unwrap_or(next);
        let mut floor = match local.options.policy {
            Policy::Block { .. } => local.acked + 1,
            Policy::DropOldest => wanted.max(next.saturating_sub(self.options.retained_messages_max as u64)),
            Policy::Conflate => wanted.max(next - 1),
            Policy::DropNewest | Policy::Disconnect => next,
        };
        floor = floor.min(next.saturating_sub(local.options.replay as u64));
        local.log.trim_to(floor);
        if !matches!(local.options.policy, Policy::Block { .. }) {
            while local.log.bytes() > self.options.retained_bytes_max && local.log.len() > 1 {
                local.log.trim_to(local.log.first() + 1);
            }
        }
        if local.backlog.is_empty() {
            if self.wants_room {
                self.room();
            }
        } else {
            self.drain_backlog(id);
        }
    }

    /// Takes their place from those that are in the way of a lossless topic; they are told the gap. Those are all that lag
    /// far behind and have shown no progress for as long as publishers wait; if everybody moves on, only the slowest.
    pub(super) fn evict(&mut self, id: TopicId) {
        let Some(topic) = self.topics.get_mut(id) else { return };
        let Some(local) = topic.local.as_mut() else { return };
        local.absent.clear();
        let Some(slowest) = local.cursors.iter().map(|cursor| cursor.acked).min() else {
            return self.acked_changed(id);
        };
        let patience = match local.options.policy {
            Policy::Block { timeout } => timeout,
            _ => std::time::Duration::ZERO,
        };
        let now = self.now;
        let last = local.log.next() - 1;
        let floor = last + 1 - (last - slowest) / 2;
        let stuck =
            |cursor: &Cursor| cursor.acked + 1 < floor && now.saturating_sub(cursor.moved_at) >= patience;
        let some_are_stuck = local.cursors.iter().any(stuck);
        for cursor in &mut local.cursors {
            let in_the_way = match some_are_stuck {
                true => stuck(cursor),
                false => cursor.acked + 1 < floor && cursor.acked == slowest,
            };
            if !in_the_way {
                continue;
            }
            // What is in its outbox already goes out; what is not, is lost.
            let first = cursor.next;
            cursor.acked = last;
            cursor.stalled = true;
            if first > last {
                continue;
            }
            cursor.lost = Some((cursor.lost.map_or(first, |(first, _)| first), last));
            cursor.next = last + 1;
            let link = &mut self.links[cursor.link];
            let messages = last - first + 1;
            link.dropped += messages;
            link.lagging.insert(id);
            self.counters.dropped += messages;
            let (topic, peer) = (topic.name.clone(), link.info.name.clone());
            self.outputs.push_back(Output::Event(Event::Dropped { topic, peer, messages }));
        }
        self.acked_changed(id);
    }

    /// Feeds a peer what it lags behind.
    pub(super) fn pump(&mut self, id: TopicId, link: LinkId) {
        if self
            .topics
            .get(id)
            .is_some_and(|topic| topic.uplink.as_ref().is_some_and(|u| u.link == Some(link)))
        {
            self.pump_uplink(id);
        }
        let Some(topic) = self.topics.get_mut(id) else { return };
        let Some(local) = topic.local.as_mut() else { return };
        let Some(cursor) = local.cursors.iter_mut().find(|cursor| cursor.link == link) else { return };
        let feed = Feed {
            alias: alias_of(id, false),
            kind: if topic.open { Kind::Open } else { Kind::Message },
            epoch: local.epoch,
            name: topic.name.as_str(),
            bytes_max: self.options.send_bytes_max,
            messages_max: self.options.send_messages_max,
        };
        let mut write = false;
        let mut behind = false;
        while cursor.next < local.log.next() || cursor.lost.is_some() {
            let outbox = &mut self.links[link].outbox;
            let len = local.log.get(cursor.next).map_or(0, |payload| payload.len());
            if !outbox.has_room(len, feed.bytes_max, feed.messages_max) {
                behind = true;
                break;
            }
            if cursor.next < local.log.first() {
                let first = cursor.lost.map_or(cursor.next, |(first, _)| first);
                let (last, missed) = (local.log.first() - 1, local.log.first() - cursor.next);
                cursor.lost = Some((first, last));
                cursor.next = local.log.first();
                self.links[link].dropped += missed;
                self.counters.dropped += missed;
                continue;
            }
            let sequence = cursor.next;
            let Some(payload) = local.log.get(sequence).filter(|_| cursor.may_send(len)) else {
                if let Some((first, last)) = cursor.lost.take() {
                    let link = &mut self.links[link];
                    if link.protocol == Protocol::Extended {
                        link.outbox
                            .put_command(&Command::Gap { topic: feed.name, first, last }, link.delimited);
                        write |= link.outbox.schedule();
                    }
                    continue;
                }
                // The credit brings us back.
                break;
            };
            self.heads.clear();
            write |= emit(&mut self.links, cursor, &feed, &mut self.heads, sequence, payload);
        }
        if !behind {
            self.links[link].lagging.remove(&id);
        } else {
            self.links[link].lagging.insert(id);
        }
        if write {
            self.outputs.push_back(Output::Write(link));
        }
        if self.links[link].protocol != Protocol::Extended {
            self.acked_changed(id);
        }
    }

    fn pump_link(&mut self, link: LinkId) {
        let lagging: Vec<TopicId> = self.links[link].lagging.iter().copied().collect();
        for id in lagging {
            match self.topics.contains(id) {
                true => self.pump(id, link),
                false => {
                    self.links[link].lagging.remove(&id);
                }
            }
        }
    }

    /// Takes what is to be written to a link; what was taken before counts as written. False if there is nothing.
    pub fn take_outbox(&mut self, id: LinkId, into: &mut Vec<Bytes>) -> bool {
        let Some(link) = self.links.get_mut(id) else { return false };
        let some = link.outbox.take(into);
        if !link.lagging.is_empty() {
            self.pump_link(id);
        }
        if self.wants_room {
            self.room();
        }
        some
    }

    pub(super) fn publish_remote(&mut self, id: TopicId, payload: &Bytes) -> Publish {
        let Some(peer) = self.remote_owner(id) else { return Publish::Full };
        let Some(&link) = self.peers[peer].links.first() else { return Publish::Full };
        let report = Report { queued: 1, ..Report::default() };
        if self.links[link].protocol != Protocol::Extended {
            let link_state = &mut self.links[link];
            let (bytes_max, messages_max) = (self.options.send_bytes_max, self.options.send_messages_max);
            if !link_state.outbox.has_room(payload.len(), bytes_max, messages_max) {
                return Publish::Full;
            }
            self.heads.clear();
            put_plain(
                &mut link_state.outbox,
                &mut self.heads.plain[0],
                link_state.delimited,
                code::PUBLISH,
                self.topics[id].name.as_str(),
                Payload::Shared(payload),
            );
            if link_state.outbox.schedule() {
                self.outputs.push_back(Output::Write(link));
            }
            return Publish::Done(report);
        }
        let uplink = self.topics[id].uplink.get_or_insert_with(|| Uplink {
            link: Some(link),
            log: Log::new(1),
            next: 1,
            defined: false,
            limit: UPLINK_WINDOW.messages,
            sent_bytes: 0,
            limit_bytes: UPLINK_WINDOW.bytes,
        });
        if uplink.log.len() >= self.options.retained_messages_max
            || uplink.log.bytes() >= self.options.retained_bytes_max
        {
            return Publish::Full;
        }
        uplink.log.push(Payload::Shared(payload));
        if uplink.link.is_none() {
            uplink.link = Some(link);
        }
        self.pump_uplink(id);
        Publish::Done(report)
    }

    pub(super) fn pump_uplink(&mut self, id: TopicId) {
        let (bytes_max, messages_max) = (self.options.send_bytes_max, self.options.send_messages_max);
        let incarnation = self.options.incarnation;
        let topic = &mut self.topics[id];
        let Some(uplink) = topic.uplink.as_mut() else { return };
        let Some(link_id) = uplink.link else { return };
        let Some(link) = self.links.get_mut(link_id) else { return };
        let alias = alias_of(id, true);
        while let Some(payload) = uplink.log.get(uplink.next) {
            if !uplink.may_send(payload.len()) {
                break;
            }
            if !link.outbox.has_room(payload.len(), bytes_max, messages_max) {
                link.lagging.insert(id);
                break;
            }
            if !uplink.defined {
                let mut define = BytesMut::new();
                // Numbers begin anew when a topic was forgotten, so its life here is part of the epoch.
                let epoch = incarnation.wrapping_add(topic.generation);
                put_define(&mut define, alias, Kind::Publish, epoch, uplink.next, topic.name.as_str());
                link.outbox.put_record(&define);
                uplink.defined = true;
            }
            link.outbox.put_message(DataHeader::new(alias, payload.len()).as_bytes(), payload);
            uplink.sent_bytes += payload.len() as u64;
            uplink.next += 1;
        }
        if link.outbox.schedule() {
            self.outputs.push_back(Output::Write(link_id));
        }
    }

    /// Sends what is not acknowledged to where the owner is now.
    pub(super) fn uplink_reroute(&mut self, id: TopicId, owner: Option<LinkId>) {
        let Some(uplink) = self.topics[id].uplink.as_mut() else { return };
        let owner = owner.filter(|link| self.links[*link].protocol == Protocol::Extended);
        if uplink.link != owner {
            uplink.link = owner;
            uplink.begin();
            self.pump_uplink(id);
        }
    }
}

impl Local {
    pub(super) fn new(epoch: u64, options: super::TopicOptions) -> Self {
        Self {
            epoch,
            options,
            log: Log::new(1),
            cursors: Vec::new(),
            absent: Vec::new(),
            acked: 0,
            backlog: Default::default(),
            backlog_bytes: 0,
            blocked_since: None,
            publishers: Default::default(),
            ceded: false,
            moving: false,
            inherited: None,
        }
    }

    /// Payload bytes that have not arrived everywhere. What is kept for replay does not count.
    fn unacked_bytes(&self) -> usize {
        if self.acked + 1 > self.log.first() && self.acked + 1 == self.log.next() {
            0
        } else {
            self.log.bytes()
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
        let topic = node.names["t"];
        let info = LinkInfo {
            role: Role::Accepted,
            name: "peer".into(),
            extended: true,
            pings: true,
            sealed: false,
            principal: String::new(),
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
            local.cursors.iter().map(|cursor| cursor.stalled).collect::<Vec<_>>()
        };
        node.evict(topic);
        assert_eq!(stalled(&node), [true, false]);
        // Alone in the way, and still moving: it is the slowest now.
        node.evict(topic);
        assert_eq!(stalled(&node), [true, true]);
    }
}
