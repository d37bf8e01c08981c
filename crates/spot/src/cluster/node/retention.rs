//! What a topic keeps, for whom, and who loses its place.

use super::{Cursor, Event, Node, Output, Policy, TopicId};

impl Node {
    /// Finds out again what has arrived everywhere, and lets go of it.
    pub(super) fn acked_changed(&mut self, id: TopicId) {
        let Some(local) = self.topics.get_mut(id).and_then(|topic| topic.local.as_mut()) else { return };
        let Some(flow) = local.flow.get_mut() else { return };
        let next = flow.log.next();
        let acked = flow.cursors.iter().map(|cursor| cursor.acked).chain(flow.absent.iter().map(|a| a.acked));
        flow.acked = acked.min().unwrap_or(next - 1).min(next - 1);
        let wanted = flow.cursors.iter().map(|cursor| cursor.next).min().unwrap_or(next);
        let mut floor = match local.options.policy {
            Policy::Block { .. } => flow.acked + 1,
            Policy::DropOldest => wanted.max(next.saturating_sub(self.options.retained_messages_max as u64)),
            Policy::Conflate => wanted.max(next - 1),
            Policy::DropNewest | Policy::Disconnect => next,
        };
        floor = floor.min(next.saturating_sub(local.options.replay as u64));
        flow.log.trim_to(floor);
        if !matches!(local.options.policy, Policy::Block { .. }) {
            while flow.log.bytes() > self.options.retained_bytes_max && flow.log.len() > 1 {
                flow.log.trim_to(flow.log.first() + 1);
            }
        }
        if flow.backlog.is_empty() {
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
        let flow = &mut *local.flow;
        flow.absent.clear();
        let Some(slowest) = flow.cursors.iter().map(|cursor| cursor.acked).min() else {
            return self.acked_changed(id);
        };
        let patience = match local.options.policy {
            Policy::Block { timeout } => timeout,
            _ => std::time::Duration::ZERO,
        };
        let now = self.now;
        let last = flow.log.next() - 1;
        let floor = last + 1 - (last - slowest) / 2;
        let stuck =
            |cursor: &Cursor| cursor.acked + 1 < floor && now.saturating_sub(cursor.moved_at) >= patience;
        let some_are_stuck = flow.cursors.iter().any(stuck);
        for cursor in &mut flow.cursors {
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
}
