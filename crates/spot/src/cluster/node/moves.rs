//! How a partition moves to another node without losing its place.
//!
//! A move is a hand-over. The owner offers the winner its log, what it took from whom and how far its subscribers are. From then
//! on it gives no number to anything: what comes waits. The winner answers. If it takes the partition it announces it with a
//! later epoch; subscribers and publishers come over, as for any topic whose owner changes, and find the numbers going on. What
//! waited is sent again by whoever numbered it, and the rest is passed on. If it does not take it, it says so, and the owner goes
//! on as before. If the connection ends before the answer nobody knows, and the owner goes on under an epoch that is later than
//! the offered one: should the winner have taken the partition, it loses it, and subscribers of both are told a gap. Publishers
//! begin anew with that epoch, so what waited with a number comes again, unless the winner had taken it.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Absent, LinkId, Local, Log, Node, Policy, Protocol, Publish, Publisher, Right, TopicId,
    inward::NotFollowed,
};
use crate::cluster::{
    command::{BEFORE_MAX, Before, Command, Handover, NodeId},
    log::Payload,
    partition,
    ring::Fit,
};

/// A partition that is offered to another node, which has not answered.
#[derive(Debug)]
pub(super) struct Move {
    link: LinkId,
    /// The epoch under which that node would have it.
    offered: u64,
    since: Duration,
    /// The fewest bytes that have waited for that node since.
    left: usize,
}

/// A node to which more than this is on its way is offered no further partition yet: all that a joiner wins, at once, would be
/// more than may wait for a peer.
const OFFERED_BYTES_MAX: usize = 4 << 20;
/// A node that has answered neither way after so many times the longest silence, and has not even read on, is disconnected.
const ANSWER_SILENCES_MAX: u32 = 4;

impl super::Flow {
    /// Its numbers go on from those of another owner.
    pub(super) fn follows(&mut self, owner: Before) {
        if self.before.len() >= BEFORE_MAX {
            self.before.remove(0);
        }
        self.before.push(owner);
    }

    /// Somebody else may have given numbers to other messages before this one.
    pub(super) fn doubts(&mut self, number: u64) {
        if self.doubts.len() >= BEFORE_MAX {
            // Who comes from before must not be told of some and not of others.
            (self.before, self.doubts) = Default::default();
        }
        if let Err(at) = self.doubts.binary_search(&number) {
            self.doubts.insert(at, number);
        }
    }

    /// What would have had these numbers, in order, has been dropped: what is doubted behind it comes as much earlier. Returns the
    /// doubts that did.
    pub(super) fn doubt_earlier(&mut self, dropped: &[u64]) -> Vec<u64> {
        let earlier = |doubt: u64| doubt - dropped.partition_point(|number| *number < doubt) as u64;
        let mut moved = Vec::new();
        for doubt in &mut self.doubts {
            let before = std::mem::replace(doubt, earlier(*doubt));
            if before != *doubt {
                moved.push(*doubt);
            }
        }
        self.doubts.dedup();
        self.untold = self.untold.map(earlier);
        moved
    }

    /// The first message that the next owner has to have, and the first that it is given; none if that is more than an offer holds.
    fn first_offered(&self, replay: usize, bytes_max: usize) -> Option<u64> {
        let next = self.log.next();
        let wanted = (self.acked + 1).max(self.log.first()).min(next);
        let kept = wanted.min(next.saturating_sub(replay as u64)).max(self.log.first());
        let (mut first, mut bytes) = (next, 0);
        while first > kept {
            bytes += self.log.get(first - 1).map_or(0, |payload| payload.len());
            if bytes > bytes_max {
                break;
            }
            first -= 1;
        }
        (first <= wanted).then_some(first)
    }
}

impl Node {
    /// The connection over which a partition can be given to a node: one on which it may own it.
    fn link_to_give(&self, to: NodeId, name: &str) -> Option<LinkId> {
        let links = &self.peers[*self.by_node.get(&to)?].links;
        let may_own = |link: &LinkId| self.allowed(*link, Right::Own, name).is_ok();
        let link = links.iter().copied().find(may_own)?;
        Some(link)
            .filter(|link| self.links[*link].protocol == Protocol::Extended && !self.links[*link].closing)
    }

    /// Offers a partition to the node that should have it, or lets go of it if some node has it already.
    pub(super) fn offer(&mut self, id: TopicId, to: NodeId) {
        let since = self.now;
        let Some(local) = self.topics[id].local.as_ref() else { return };
        if local.ceded {
            self.partitions.ceded.entry(id).or_insert(since);
            return;
        }
        if local.moving {
            return;
        }
        let Some(link) = self.link_to_give(to, self.topics[id].name.as_str()) else { return };
        let first = local.flow.first_offered(local.options.replay, self.options.offer_bytes_max);
        let Some(first) = first.filter(|_| self.links[link].outbox.bytes() <= OFFERED_BYTES_MAX) else {
            self.partitions.put_off = true;
            return;
        };
        let flow = &*local.flow;
        let next = flow.log.next();
        let messages = (first..next).filter_map(|n| Some(flow.log.get(n)?.to_bytes())).collect();
        // What waits for room it will be sent by whoever numbered it.
        let publishers = flow.publishers.iter().map(|(node, p)| (*node, p.epoch, p.numbered())).collect();
        let of_link = |link: LinkId| self.links.get(link)?.peer.and_then(|peer| self.peers[peer].node);
        let mut subscribers: Vec<_> = flow
            .cursors
            .iter()
            .filter_map(|cursor| Some((of_link(cursor.link)?, cursor.acked)))
            .chain(flow.absent.iter().map(|absent| (absent.node, absent.acked)))
            .filter(|(node, _)| *node != to)
            .collect();
        if !self.topics[id].subs.is_empty() {
            subscribers.push((self.options.id, next - 1));
        }
        let (from_epoch, before, doubts) = (local.epoch, flow.before.clone(), flow.doubts.clone());
        let offered = partition::next_epoch(from_epoch, to, self.options.incarnation);
        let handover =
            Handover { epoch: offered, from_epoch, first, publishers, subscribers, before, doubts, messages };
        let name = self.topics[id].name.clone();
        self.send(link, &Command::Handover { topic: name.as_str(), handover });
        let left = self.links[link].outbox.bytes();
        if let Some(local) = self.topics[id].local.as_mut() {
            (local.moving, local.wary, local.flow.blocked_since) = (true, true, None);
        }
        self.partitions.moves.insert(id, Move { link, offered, since, left });
    }

    /// A partition is offered to us: the answer is its announcement, or that we do not take it.
    pub(super) fn offered(&mut self, id: LinkId, name: &str, handover: Handover) -> Result<(), NotFollowed> {
        let epoch = handover.epoch;
        let taken = self.take_over(id, name, handover);
        if taken.is_err() {
            self.send(id, &Command::NotTaken { topic: name, epoch });
        }
        taken
    }

    fn take_over(&mut self, id: LinkId, name: &str, handover: Handover) -> Result<(), NotFollowed> {
        self.allowed(id, Right::Own, name)?;
        let peer = self.links[id].peer.ok_or(NotFollowed)?;
        let topic = self.named(name).ok_or(NotFollowed)?;
        let state = &self.topics[topic];
        let options = self.partition_wanted(name).ok_or(NotFollowed)?;
        // Only from its owner, and only once.
        let owner =
            state.elsewhere.owners.last().filter(|o| o.peer == peer && o.epoch == handover.from_epoch);
        if owner.is_none() || handover.epoch <= handover.from_epoch || state.local.is_some() {
            return Err(NotFollowed);
        }
        let giver = self.peers[peer].node.ok_or(NotFollowed)?;
        let mut local = Local::new(handover.epoch, self.shared_options(options));
        (local.flow.before, local.flow.doubts) = (handover.before, handover.doubts);
        local.flow.follows(Before { node: giver, epoch: handover.from_epoch });
        local.flow.log = Log::new(handover.first);
        for message in &handover.messages {
            // What stays must not keep the rest of the command alive.
            local.flow.log.push(Payload::Shared(&Bytes::copy_from_slice(message)));
        }
        let next = local.flow.log.next();
        let (own, since) = (self.options.id, self.now);
        let stream = self.topics[topic].uplink.as_ref().map(|uplink| uplink.epoch);
        let mut taken_of_own = 0;
        for (node, epoch, taken) in handover.publishers {
            if node == own {
                taken_of_own = if stream == Some(epoch) { taken } else { 0 };
            } else {
                let publisher = Publisher { epoch, taken, heard_at: since, ..Publisher::default() };
                local.flow.publishers.insert(node, publisher);
            }
        }
        if matches!(options.policy, Policy::Block { .. }) {
            let away = handover.subscribers.into_iter().filter(|(node, _)| *node != own);
            local.flow.absent =
                away.map(|(node, acked)| Absent { node, acked: acked.min(next - 1), since }).collect();
        }
        self.hear_rest(topic, &local);
        let uplink = self.topics[topic].uplink.take();
        self.topics[topic].local = Some(local);
        self.announce(&Command::Announce { topic: name, epoch: handover.epoch });
        self.owner_changed(name, Some(own), Some(handover.epoch));
        self.reroute(topic);
        self.acked_changed(topic);
        // What we sent to the old owner and it did not take is for us to publish now.
        if let Some(uplink) = uplink {
            self.publish_rest(topic, &uplink.log, taken_of_own);
        }
        self.changed = true;
        Ok(())
    }

    /// What has not come here of the owners before comes out of what the last one gave us.
    fn hear_rest(&mut self, id: TopicId, local: &Local) {
        let upstream = &mut self.topics[id].upstream;
        let place = (upstream.owner, upstream.epoch);
        let (missed, lossless) = (upstream.have.saturating_add(1), upstream.lossless);
        let mut doubts = std::mem::take(&mut upstream.doubts);
        upstream.forget();
        if place.1 == 0 || self.topics[id].subs.is_empty() {
            return;
        }
        let log = &local.flow.log;
        if !local.flow.before.iter().any(|o| (Some(o.node), o.epoch) == place) {
            return self.deliver_gap(id, missed, None);
        }
        if missed < log.first() {
            self.deliver_gap(id, missed, Some(log.first() - 1));
        }
        if local.flow.before.last().is_none_or(|o| (Some(o.node), o.epoch) != place) {
            // Of those of the last owner we were told.
            doubts.extend(&local.flow.doubts);
            doubts.sort_unstable();
            doubts.dedup();
        }
        let mut doubts = doubts.into_iter().filter(|doubt| *doubt >= missed).peekable();
        let fit = if lossless { Fit::Lossless } else { Fit::Lossy };
        for n in missed.max(log.first())..=log.next() {
            while doubts.next_if(|doubt| *doubt <= n).is_some() {
                self.deliver_gap(id, n, None);
            }
            let Some(payload) = log.get(n).map(Payload::to_bytes) else { break };
            self.deliver(id, &payload, 0..payload.len(), fit);
        }
    }

    /// Somebody else has given numbers of its own to what a publisher leaves out: that is told in front of the next that waits.
    pub(super) fn doubt_waiting(&mut self, id: TopicId) {
        let topic = &mut self.topics[id];
        let listens = !topic.subs.is_empty();
        let Some(local) = topic.local.as_mut() else { return };
        local.wary = true;
        let flow = &mut *local.flow;
        let doubt = flow.log.next() + flow.backlog.len() as u64;
        flow.doubts(doubt);
        if listens && flow.untold.replace(doubt).is_some_and(|untold| untold < doubt) {
            // One may wait. The other is told early, and once more in its place.
            self.deliver_gap(id, doubt, None);
        }
        self.send_doubt(id, doubt);
    }

    /// Tells who listens elsewhere of a doubt. One that has been told of it by a later number is told a gap there as well.
    pub(super) fn send_doubt(&mut self, id: TopicId, doubt: u64) {
        let topic = &self.topics[id];
        let Some(local) = topic.local.as_ref() else { return };
        let (name, epoch) = (topic.name.clone(), local.epoch);
        let links: Vec<LinkId> = local.flow.cursors.iter().map(|cursor| cursor.link).collect();
        for link in links {
            if self.links[link].protocol == Protocol::Extended {
                self.send(link, &Command::GoesOn { topic: name.as_str(), epoch, doubt });
            }
        }
    }

    /// Who listens here is told of a doubt once it has heard all that comes before. Whether the topic may go on.
    #[cold]
    pub(super) fn tell_untold(&mut self, id: TopicId) -> bool {
        let Some(local) = self.topics[id].local.as_mut().filter(|local| !local.moving) else { return false };
        let Some(flow) = local.flow.get_mut() else {
            local.wary = false;
            return true;
        };
        let next = flow.log.next();
        let told = flow.untold.take_if(|untold| *untold <= next).is_some();
        local.wary = flow.untold.is_some();
        if told {
            self.deliver_gap(id, next, None);
        }
        true
    }

    /// What was published here to an owner elsewhere, that did not take it, is for us to publish now.
    pub(super) fn publish_rest(&mut self, id: TopicId, rest: &Log, taken: u64) {
        for n in rest.first().max(taken.saturating_add(1))..rest.next() {
            let Some(payload) = rest.get(n).map(Payload::to_bytes) else { break };
            let waits = self.topics[id].local.as_ref().is_some_and(|local| !local.flow.backlog.is_empty());
            if (waits || self.publish_local(id, Payload::Shared(&payload), false) == Publish::Full)
                && let Some(local) = &mut self.topics[id].local
            {
                local.flow.blocked_since.get_or_insert(self.now);
                local.flow.wait_unnumbered(payload);
                self.blocked.insert(id);
            }
        }
    }

    /// Another node has a topic of ours. Whether that is no surprise: it was offered.
    pub(super) fn move_done(&mut self, id: TopicId) -> bool {
        let moved = self.partitions.moves.remove(&id).is_some();
        if let Some(local) = self.topics[id].local.as_mut() {
            local.moving = false;
            if moved {
                self.partitions.ceded.insert(id, self.now);
            }
        }
        moved
    }

    /// A node does not take what it was offered.
    pub(super) fn not_taken(&mut self, id: LinkId, name: &str, epoch: u64) -> Result<(), NotFollowed> {
        let topic = self.named(name).ok_or(NotFollowed)?;
        let moved = self.partitions.moves.get(&topic).ok_or(NotFollowed)?;
        if (moved.link, moved.offered) != (id, epoch) {
            return Err(NotFollowed);
        }
        self.take_back(topic);
        // Not at once: it may have to let go of it first.
        self.partitions.put_off = true;
        Ok(())
    }

    /// A connection is closed. What was offered over it may have been taken, and published under, by a node that nobody hears
    /// any more.
    pub(super) fn moves_end(&mut self, link: LinkId) {
        let over: Vec<(TopicId, u64)> = self
            .partitions
            .moves
            .iter()
            .filter(|(_, moved)| moved.link == link)
            .map(|(id, moved)| (*id, moved.offered))
            .collect();
        for (id, offered) in over {
            // What waits may have been sent there as well: with the new epoch it comes again, unless it was taken there. Then it
            // is among what is told to be lost, and not behind that.
            if let Some(flow) = self.topics[id].local.as_mut().and_then(|local| local.flow.get_mut()) {
                flow.forget_numbered();
            }
            let epoch = partition::next_epoch(offered, self.options.id, self.options.incarnation);
            self.go_on(id, epoch);
            let topic = &self.topics[id];
            if let Some(local) = topic.local.as_ref().filter(|_| !topic.subs.is_empty()) {
                let first = local.flow.log.next();
                self.deliver_gap(id, first, None);
            }
            self.take_back(id);
        }
    }

    /// A partition stays here, and what waited goes on.
    fn take_back(&mut self, id: TopicId) {
        self.partitions.moves.remove(&id);
        let Some(local) = self.topics[id].local.as_mut() else { return };
        local.moving = false;
        if !local.flow.backlog.is_empty() {
            local.flow.blocked_since = Some(self.now);
            self.drain_backlog(id);
        }
        self.release(id);
        self.room();
        self.changed = true;
    }

    /// Lets go of what another node has had for so long that everybody knows. Who does not answer to what it is offered is
    /// disconnected.
    pub(super) fn sweep_moves(&mut self) {
        let (now, patience) = (self.now, self.patience());
        self.partitions.stale |= std::mem::take(&mut self.partitions.put_off);
        let mut silent = Vec::new();
        for moved in self.partitions.moves.values_mut() {
            // Much takes its time; as long as it becomes less it is on its way.
            let left = self.links[moved.link].outbox.bytes();
            if left < moved.left {
                (moved.left, moved.since) = (left, now);
            }
            if now.saturating_sub(moved.since) >= patience * ANSWER_SILENCES_MAX {
                silent.push(moved.link);
            }
        }
        for link in silent {
            self.close(link, "it does not say whether it takes a partition");
        }
        let is_known = |since: &Duration| now.saturating_sub(*since) >= patience;
        let known: Vec<TopicId> =
            self.partitions.ceded.iter().filter(|(_, since)| is_known(since)).map(|(id, _)| *id).collect();
        for id in known {
            let name = self.topics[id].name.clone();
            let _ = self.topic_destroy(name.as_str());
        }
        self.place_partitions();
    }
}
