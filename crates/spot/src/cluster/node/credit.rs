//! Who may send how much: windows of lossless topics, from owners to subscribers and from publishers to owners.
//!
//! A window counts messages and bytes of payload. Its limits are absolute: a sequence number, and bytes since the stream
//! began on this connection, so that nothing has to be answered and nothing is counted twice. A message that is larger than
//! what is left goes when all before it has arrived.

use std::ops::Bound;

use super::{Amount, LinkId, Node, TopicId, inward::NotFollowed};
use crate::cluster::{command::Command, record::Span};

/// Publishes to one owner at most that it has not published.
pub(super) const UPLINK_WINDOW: Amount = Amount { messages: 8192, bytes: 4 << 20 };
/// With each take so many topics at most are looked at whose owners may send something, but might be given more.
const LOOKS_MAX: usize = 64;
/// This many bytes are acknowledged at once, so that the owner can let go of them.
const CREDIT_BYTES: u64 = 256 << 10;

impl super::Cursor {
    /// Whether the subscriber wants the next message now, if it has this length.
    #[inline]
    pub(super) fn may_send(&self, len: usize) -> bool {
        self.next <= self.limit
            && (self.sent_bytes + len as u64 <= self.limit_bytes || self.acked + 1 == self.next)
    }
}

impl super::state::Upstream {
    /// How many of the messages that have come its owner was told that it may send.
    pub(super) fn promised(&self, run: &[Span]) -> usize {
        let (mut left, mut unacked) = (self.granted, self.unacked_bytes);
        let promised = |span: &&Span| {
            let len = u64::from(span.len);
            // The first after all was acknowledged may be of any length.
            let promised = left.messages > 0 && (len <= left.bytes || unacked == 0);
            left.messages = left.messages.saturating_sub(1);
            left.bytes = left.bytes.saturating_sub(len);
            unacked += len;
            promised
        };
        run.iter().take_while(promised).count()
    }
}

impl super::Uplink {
    /// Whether the owner wants the next message now, if it has this length.
    pub(super) fn may_send(&self, len: usize) -> bool {
        self.next <= self.limit
            && (self.sent_bytes + len as u64 <= self.limit_bytes || self.log.first() == self.next)
    }

    /// The stream begins on a connection.
    pub(super) fn begin(&mut self) {
        (self.defined, self.refused_at) = (false, None);
        self.next = self.log.first();
        self.limit = self.next - 1 + UPLINK_WINDOW.messages;
        (self.sent_bytes, self.acked_bytes, self.limit_bytes) = (0, 0, UPLINK_WINDOW.bytes);
    }
}

impl Node {
    pub(super) fn credited(
        &mut self,
        id: LinkId,
        name: &str,
        acked: u64,
        limit: u64,
        limit_bytes: u64,
    ) -> Result<(), NotFollowed> {
        let topic = self.named(name).ok_or(NotFollowed)?;
        let local = self.topics[topic].local.as_mut().ok_or(NotFollowed)?;
        let cursor = local.flow.cursors.iter_mut().find(|cursor| cursor.link == id).ok_or(NotFollowed)?;
        if acked >= cursor.next {
            return Err(NotFollowed);
        }
        cursor.stalled = false;
        if acked > cursor.acked {
            cursor.moved_at = self.now;
        }
        cursor.acked = cursor.acked.max(acked);
        cursor.limit = cursor.limit.max(limit);
        cursor.limit_bytes = cursor.limit_bytes.max(limit_bytes);
        self.acked_changed(topic);
        self.pump(topic, id);
        Ok(())
    }

    pub(super) fn uplink_credited(
        &mut self,
        id: LinkId,
        name: &str,
        acked: u64,
        limit: u64,
        limit_bytes: u64,
    ) -> Result<(), NotFollowed> {
        let topic = self.named(name).ok_or(NotFollowed)?;
        let uplink = self.topics[topic].uplink.as_mut().ok_or(NotFollowed)?;
        if uplink.link != Some(id) || acked >= uplink.next {
            return Err(NotFollowed);
        }
        for n in uplink.log.first()..=acked {
            uplink.acked_bytes += uplink.log.get(n).map_or(0, |payload| payload.len() as u64);
        }
        uplink.log.trim_to(acked + 1);
        uplink.limit = uplink.limit.max(limit);
        // Of the stream that this one took the place of on the same connection there may be credit on its way still, and its
        // bytes are counted from another beginning.
        let most = uplink.acked_bytes + UPLINK_WINDOW.bytes;
        uplink.limit_bytes = uplink.limit_bytes.max(limit_bytes.min(most));
        self.pump_uplink(topic);
        self.room();
        Ok(())
    }

    /// What the owner of a topic may be given: as much as all rings have room for that its messages go to.
    pub(super) fn window(&self, id: TopicId) -> Amount {
        let topic = &self.topics[id];
        let mut window = Amount { messages: u64::MAX >> 1, bytes: u64::MAX >> 1 };
        for &sub in topic.subs.iter() {
            let sub = &self.subs[sub];
            let share = sub.ring.share(sub.topics.len(), topic.upstream.granted);
            window.messages = window.messages.min(share.messages);
            window.bytes = window.bytes.min(share.bytes);
        }
        window
    }

    /// Gives the owner of a topic a new window, at least what is left of the last; what it is now.
    pub(super) fn grant(&mut self, id: TopicId) -> Amount {
        let window = self.window(id);
        let topic = &mut self.topics[id];
        let before = topic.upstream.granted;
        // A promise cannot be taken back.
        let after =
            Amount { messages: window.messages.max(before.messages), bytes: window.bytes.max(before.bytes) };
        for &sub in topic.subs.iter() {
            let sub = &mut self.subs[sub];
            sub.ring.promise(before, after);
            let full = sub.ring.share_max(sub.topics.len());
            match after.messages < full.messages || after.bytes < full.bytes {
                true => sub.starved.insert(id),
                false => sub.starved.remove(&id),
            };
        }
        (topic.upstream.granted, topic.upstream.window) = (after, after);
        topic.upstream.unacked_bytes = 0;
        topic.upstream.touched = false;
        if after.messages == 0 {
            self.hungers(id);
        }
        after
    }

    /// The owner cannot make use of what it was given any more.
    pub(super) fn grant_ends(&mut self, id: TopicId) {
        let topic = &mut self.topics[id];
        let before = std::mem::take(&mut topic.upstream.granted);
        for &sub in topic.subs.iter() {
            let sub = &mut self.subs[sub];
            sub.ring.promise(before, Amount::default());
            sub.starved.remove(&id);
            sub.hungry.remove(&id);
        }
        topic.upstream.window = Amount::default();
        (topic.upstream.received_bytes, topic.upstream.unacked_bytes) = (0, 0);
    }

    /// So much of what the owner was given is used.
    #[inline]
    pub(super) fn grant_used(&mut self, id: TopicId, used: Amount) {
        let topic = &mut self.topics[id];
        let before = topic.upstream.granted;
        let after = Amount {
            messages: before.messages.saturating_sub(used.messages),
            bytes: before.bytes.saturating_sub(used.bytes),
        };
        topic.upstream.granted = after;
        for &sub in topic.subs.iter() {
            self.subs[sub].ring.promise(before, after);
        }
    }

    /// Messages have come and are to be acknowledged when the batch is done.
    pub(super) fn credit_later(&mut self, id: TopicId, run: &[Span]) {
        let (mut bytes, mut len_max) = (0, 0);
        for span in run {
            bytes += u64::from(span.len);
            len_max = len_max.max(u64::from(span.len));
        }
        self.grant_used(id, Amount { messages: run.len() as u64, bytes });
        let upstream = &mut self.topics[id].upstream;
        upstream.received_bytes += bytes;
        upstream.unacked_bytes += bytes;
        upstream.len_max = upstream.len_max.max(len_max);
        if !std::mem::replace(&mut upstream.touched, true) {
            self.touched.push(id);
        }
    }

    /// Acknowledges what needs it now; the rest soon.
    pub(super) fn credit_touched(&mut self) {
        let mut later = Vec::new();
        for id in std::mem::take(&mut self.touched) {
            let Some(topic) = self.topics.get(id) else { continue };
            let (upstream, left) = (&topic.upstream, topic.upstream.granted);
            let low = left.messages <= upstream.window.messages / 2
                || left.bytes <= (upstream.window.bytes / 2).max(upstream.len_max);
            if low || upstream.unacked_bytes >= CREDIT_BYTES {
                self.send_credit(id);
            } else {
                later.push(id);
            }
        }
        if !later.is_empty() {
            self.touched = later;
            self.credit_soon();
        }
    }

    pub(super) fn send_credit(&mut self, id: TopicId) {
        let Some(topic) = self.topics.get_mut(id) else { return };
        topic.upstream.touched = false;
        let upstream = &topic.upstream;
        let Some(link) = upstream.link.filter(|_| upstream.live && upstream.lossless) else { return };
        let granted = self.grant(id);
        let topic = &self.topics[id];
        let (name, upstream) = (topic.name.clone(), &topic.upstream);
        let limit = upstream.have.saturating_add(granted.messages);
        let limit_bytes = upstream.received_bytes.saturating_add(granted.bytes);
        let acked = upstream.have;
        self.send(link, &Command::Credit { topic: name.as_str(), up: false, acked, limit, limit_bytes });
    }

    /// A ring has room again: owners that had to stop may go on. Gives how many topics were looked at.
    pub(super) fn credit_after_take(&mut self, sub: super::SubId) -> usize {
        let hungry = std::mem::take(&mut self.subs[sub].hungry);
        let mut looks = hungry.len();
        // They can't send what would bring them here again, so none may be left out. Each is there because it used up what it
        // had, or waits for another subscription from now on.
        for id in hungry {
            self.credit_starved(id);
        }
        // The others can: of them some, in turn, as long as there is something to give.
        let state = &self.subs[sub];
        let behind = (Bound::Excluded(state.looked_at), Bound::Unbounded);
        let in_turn = state.starved.range(behind).chain(state.starved.range(..=state.looked_at));
        for id in in_turn.copied().take(LOOKS_MAX).collect::<Vec<_>>() {
            if self.subs[sub].ring.is_all_promised() {
                break;
            }
            looks += 1;
            self.subs[sub].looked_at = id;
            self.credit_starved(id);
        }
        for id in self.blocked.iter().copied().collect::<Vec<_>>() {
            self.drain_backlog(id);
        }
        looks
    }

    /// Gives the owner of a topic more, if there is much more than it has left. One that has nothing left and gets nothing
    /// waits for those subscriptions that have no room.
    pub(super) fn credit_starved(&mut self, id: TopicId) {
        let Some(topic) = self.topics.get(id) else { return };
        let (left, window) = (topic.upstream.granted, self.window(id));
        let more = |window: u64, left: u64| window > 0 && window >= left.saturating_mul(2);
        if more(window.messages, left.messages) || more(window.bytes, left.bytes) {
            self.send_credit(id);
        } else if left.messages == 0 {
            self.hungers(id);
        }
    }

    /// The owner of a topic may send nothing.
    fn hungers(&mut self, id: TopicId) {
        let topic = &self.topics[id];
        for &sub in topic.subs.iter() {
            let sub = &mut self.subs[sub];
            if sub.ring.share(sub.topics.len(), topic.upstream.granted).messages == 0 {
                sub.hungry.insert(id);
            }
        }
    }
}
