//! Partitions: who should have which, and how one moves without losing its place.
//!
//! A move is a hand-over. The owner stops taking messages, gives the winner its log, what it took from whom and how far
//! its subscribers are, and goes on sending what it has to who asks. The winner announces the partition with a later epoch;
//! subscribers and publishers come over, as for any topic whose owner changes, and find the numbers going on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Absent, LinkId, Local, Log, Node, Peer, PeerId, Policy, Protocol, Publish, Publisher, Right, TopicError,
    TopicId, TopicOptions, inward::NotFollowed,
};
use crate::{
    Topic,
    cluster::{
        command::{Command, Handover, NodeId},
        log::Payload,
        membership::PeerState,
        partition::{self, PARTITIONS_MAX},
        ring::Fit,
    },
};

/// A topic in partitions that this node is a member of.
#[derive(Debug)]
struct Membership {
    count: u32,
    options: TopicOptions,
    /// The last epoch seen of each partition.
    epochs: Vec<u64>,
    /// It gives away what it has, and then is none any more.
    leaving: bool,
    /// Answers to QUERY that have to come before anything is claimed: by then all know of each other.
    awaits: BTreeMap<PeerId, u64>,
    /// Since when.
    since: Duration,
}

/// A partition that is given away.
#[derive(Debug)]
struct Move {
    to: NodeId,
    since: Duration,
}

/// What a node knows of topics in partitions.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    own: BTreeMap<String, Membership>,
    /// The members, as their topics tell, by topic and number of partitions.
    groups: BTreeMap<String, BTreeMap<u32, BTreeSet<NodeId>>>,
    moves: BTreeMap<TopicId, Move>,
    /// Something changed that may make partitions move.
    stale: bool,
}

impl Node {
    /// Becomes a member of a topic in partitions. They are owned by its members, and move when members come and go.
    pub fn topic_create_partitioned(
        &mut self,
        name: &str,
        count: u32,
        options: TopicOptions,
    ) -> Result<(), TopicError> {
        if !(1..=PARTITIONS_MAX).contains(&count) {
            return Err(TopicError::Partitions { count, max: PARTITIONS_MAX });
        }
        if let Some(&known) = self.partitions.groups.get(name).and_then(|group| group.keys().next())
            && known != count
        {
            return Err(TopicError::PartitionCount { count, known });
        }
        // Both names have to fit before anything is done.
        Topic::check(&partition::partition_name(name, count))?;
        let member = partition::member_name(name, count, self.options.id);
        self.topic_create(&member, TopicOptions { policy: Policy::DropNewest, replay: 0 })?;
        let epochs = vec![0; count as usize];
        // Founding peers know nothing of partitions.
        let nodes = self.peers.iter().filter(|(_, peer)| peer.node.is_some());
        let peers: Vec<PeerId> = nodes.map(|(peer, _)| peer).collect();
        let awaits = peers.into_iter().map(|peer| (peer, self.barrier(peer))).collect();
        let membership = Membership { count, options, epochs, leaving: false, awaits, since: self.now };
        self.partitions.own.insert(name.to_owned(), membership);
        self.partitions.stale = true;
        self.place_partitions();
        Ok(())
    }

    /// Is a member no more. What it owns goes to the others first; if there are none, it ends.
    pub fn topic_destroy_partitioned(&mut self, name: &str) -> Result<(), TopicError> {
        let Some(membership) = self.partitions.own.get_mut(name) else {
            return Err(TopicError::NotFound(name.to_owned()));
        };
        membership.leaving = true;
        let member = partition::member_name(name, membership.count, self.options.id);
        self.topic_destroy(&member)?;
        self.partitions.stale = true;
        self.place_partitions();
        Ok(())
    }

    /// Whether this node is a member of a topic, or has something of it left to give away.
    pub fn is_member(&self, name: &str) -> bool {
        self.partitions.own.contains_key(name)
    }

    /// In how many partitions a topic is, if it is known to be in any.
    pub fn partition_count(&self, name: &str) -> Option<u32> {
        self.partitions.groups.get(name)?.keys().next().copied()
    }

    /// Whether a topic is a partition that is only waiting for its owner.
    pub(super) fn awaits_owner(&self, name: &str) -> bool {
        partition::parse_partition(name)
            .is_some_and(|(topic, k)| self.partition_count(topic).is_some_and(|count| k < count))
    }

    /// A topic has got an owner, or lost one.
    pub(super) fn owner_changed(&mut self, name: &str, node: Option<NodeId>, epoch: Option<u64>) {
        if let Some((topic, count, member)) = partition::parse_member(name) {
            // Nobody speaks for another.
            if node == Some(member) {
                let counts = self.partitions.groups.entry(topic.to_owned()).or_default();
                let members = counts.entry(count).or_default();
                match epoch {
                    Some(_) => members.insert(member),
                    None => members.remove(&member),
                };
                counts.retain(|_, members| !members.is_empty());
                if counts.is_empty() {
                    self.partitions.groups.remove(topic);
                }
                self.partitions.stale = true;
            }
        } else if let Some((topic, k)) = partition::parse_partition(name)
            && let Some(membership) = self.partitions.own.get_mut(topic)
        {
            if let (Some(epoch), Some(seen)) = (epoch, membership.epochs.get_mut(k as usize)) {
                *seen = epoch.max(*seen);
            }
            self.partitions.stale = true;
        }
    }

    /// How long a peer is waited for that says nothing.
    fn patience(&self) -> Duration {
        self.options.heartbeat * self.options.heartbeats_missed_max
    }

    /// Whether all is known that can be: who has just begun must not claim what others have. Who has been here for so long and
    /// has not said what it owns is not waited for.
    fn is_settled(&self) -> bool {
        let is_late = |peer: &Peer| self.now.saturating_sub(peer.since) >= self.patience();
        let known = |peer: &Peer| peer.node.is_none() || peer.answers > 0 || is_late(peer);
        self.peers.iter().all(|(_, peer)| known(peer))
            && self.links.iter().all(|(_, link)| link.peer.is_some() || link.closing)
            && self
                .membership
                .targets
                .values()
                .all(|target| target.failures > 0 || target.state != PeerState::Connecting)
    }

    /// Claims, gives away and lets go of partitions, if anything has changed.
    pub(super) fn place_partitions(&mut self) {
        if !self.partitions.stale || self.partitions.own.is_empty() || !self.is_settled() {
            return;
        }
        self.partitions.stale = false;
        let patience = self.patience();
        for membership in self.partitions.own.values_mut() {
            let answers = |peer: PeerId| self.peers.get(peer).map_or(u64::MAX, |peer| peer.answers);
            let is_late = self.now.saturating_sub(membership.since) >= patience;
            membership.awaits.retain(|peer, awaited| !is_late && answers(*peer) < *awaited);
            self.partitions.stale |= !membership.awaits.is_empty();
        }
        let mut claims = Vec::new();
        let mut gifts = Vec::new();
        let mut over = Vec::new();
        let mut left = Vec::new();
        for (name, membership) in &self.partitions.own {
            let members = self.partitions.groups.get(name).and_then(|group| group.get(&membership.count));
            let mut owned = 0;
            for k in 0..membership.count {
                let winner = partition::winner(name, k, members.into_iter().flatten().copied());
                let partition = partition::partition_name(name, k);
                let id = self.named(partition.as_str());
                let local = id.and_then(|id| self.topics[id].local.as_ref());
                owned += u32::from(local.is_some());
                match (winner, local) {
                    (Some(node), None) if node == self.options.id => {
                        let vacant = id.is_none_or(|id| self.topics[id].elsewhere.owners.is_empty());
                        if vacant && membership.awaits.is_empty() {
                            claims.push((partition, membership.epochs[k as usize], membership.options));
                        }
                    }
                    (Some(node), Some(local)) if local.ceded => gifts.extend(id.map(|id| (id, node))),
                    (Some(node), Some(_)) if node != self.options.id => gifts.extend(id.map(|id| (id, node))),
                    (None, Some(_)) => over.push(partition),
                    _ => {}
                }
            }
            if membership.leaving && owned == 0 {
                left.push(name.clone());
            }
        }
        for (partition, epoch, options) in claims {
            let epoch = partition::next_epoch(epoch, self.options.id, self.options.incarnation);
            // Beyond the bound of topics there is nothing to be done; the next change brings us here again.
            let _ = self.topic_create_at(&partition, options, Some(epoch));
        }
        for (id, to) in gifts {
            self.hand_over(id, to);
        }
        for name in over {
            let _ = self.topic_destroy(&name);
            self.partitions.stale = true;
        }
        for name in left {
            self.partitions.own.remove(&name);
            self.changed = true;
        }
    }

    /// The connection over which a partition can be given to a node: one on which it may own it.
    fn link_to_give(&self, to: NodeId, name: &str) -> Option<LinkId> {
        let links = &self.peers[*self.by_node.get(&to)?].links;
        links.iter().copied().find(|link| self.allowed(*link, Right::Own, name).is_ok())
    }

    fn hand_over(&mut self, id: TopicId, to: NodeId) {
        if self.partitions.moves.contains_key(&id) {
            return;
        }
        let since = self.now;
        let Some(local) = self.topics[id].local.as_mut() else { return };
        if local.ceded {
            // Somebody has it already; what is left is to let go.
            self.partitions.moves.insert(id, Move { to, since });
            return;
        }
        let Some(link) = self.link_to_give(to, self.topics[id].name.as_str()) else { return };
        if self.links[link].protocol != Protocol::Extended {
            return;
        }
        let topic = &mut self.topics[id];
        let listens = !topic.subs.is_empty();
        let Some(local) = topic.local.as_mut() else { return };
        local.moving = true;
        // What waits for room and has a number will be sent again, to the next owner; the rest we pass on.
        let backlog = std::mem::take(&mut local.flow.backlog);
        local.flow.backlog_bytes = 0;
        local.flow.blocked_since = None;
        for publisher in local.flow.publishers.values_mut() {
            publisher.taken = publisher.taken.saturating_sub(publisher.waiting.messages);
            publisher.waiting = Default::default();
        }
        let first = (local.flow.acked + 1).max(local.flow.log.first()).min(local.flow.log.next());
        let keep = (local.flow.log.next() - first).max(local.options.replay as u64);
        let first = (local.flow.log.next() - keep.min(local.flow.log.next() - 1)).max(local.flow.log.first());
        let messages =
            (first..local.flow.log.next()).filter_map(|n| Some(local.flow.log.get(n)?.to_bytes())).collect();
        let mut publishers: Vec<_> =
            local.flow.publishers.iter().map(|(node, p)| (*node, p.epoch, p.taken)).collect();
        publishers.sort_unstable();
        let of_link = |link: LinkId| self.links.get(link)?.peer.and_then(|peer| self.peers[peer].node);
        let mut subscribers: Vec<_> = local
            .flow
            .cursors
            .iter()
            .filter_map(|cursor| Some((of_link(cursor.link)?, cursor.acked)))
            .chain(local.flow.absent.iter().map(|absent| (absent.node, absent.acked)))
            .filter(|(node, _)| *node != to)
            .collect();
        if listens {
            subscribers.push((self.options.id, local.flow.log.next() - 1));
        }
        let handover = Handover {
            epoch: partition::next_epoch(local.epoch, to, self.options.incarnation),
            from_epoch: local.epoch,
            first,
            publishers,
            subscribers,
            messages,
        };
        let name = self.topics[id].name.clone();
        self.blocked.remove(&id);
        self.partitions.moves.insert(id, Move { to, since });
        self.send(link, &Command::Handover { topic: name.as_str(), handover });
        for (_, _, data) in backlog.into_iter().filter(|(node, ..)| node.is_none()) {
            self.send(link, &Command::Publish { topic: name.as_str(), data });
        }
    }

    /// Passes an unnumbered message on to the node that the partition moves to. False if it does not move.
    pub(super) fn pass_on(&mut self, id: TopicId, data: Payload<'_>) -> bool {
        let Some(to) = self.partitions.moves.get(&id).map(|gift| gift.to) else { return false };
        let Some(&link) = self.by_node.get(&to).and_then(|peer| self.peers[*peer].links.first()) else {
            return false;
        };
        let name = self.topics[id].name.clone();
        self.send(link, &Command::Publish { topic: name.as_str(), data: data.to_bytes() });
        true
    }

    /// A partition is given to us.
    pub(super) fn handed_over(
        &mut self,
        id: LinkId,
        name: &str,
        handover: Handover,
    ) -> Result<(), NotFollowed> {
        self.allowed(id, Right::Own, name)?;
        let peer = self.links[id].peer.ok_or(NotFollowed)?;
        let topic = self.named(name).ok_or(NotFollowed)?;
        let state = &self.topics[topic];
        let (parent, k) = partition::parse_partition(name).ok_or(NotFollowed)?;
        let membership = self.partitions.own.get(parent).filter(|m| !m.leaving).ok_or(NotFollowed)?;
        // Only from its owner, and only once.
        let owner =
            state.elsewhere.owners.last().filter(|o| o.peer == peer && o.epoch == handover.from_epoch);
        if owner.is_none()
            || handover.epoch <= handover.from_epoch
            || state.local.is_some()
            || k >= membership.count
        {
            return Err(NotFollowed);
        }
        let options = membership.options;
        let shared = self.shared_options(options);
        let state = &self.topics[topic];
        let mut local = Local::new(handover.epoch, shared);
        local.flow.inherited = self.peers[peer].node.map(|node| (node, handover.from_epoch));
        local.flow.log = Log::new(handover.first);
        for message in &handover.messages {
            // What stays must not keep the rest of the command alive.
            local.flow.log.push(Payload::Shared(&Bytes::copy_from_slice(message)));
        }
        let next = local.flow.log.next();
        let (own, since) = (self.options.id, self.now);
        let mut taken_of_own = 0;
        for (node, epoch, taken) in handover.publishers {
            if node == own {
                let stream = self.options.incarnation.wrapping_add(state.generation);
                taken_of_own = if epoch == stream { taken } else { 0 };
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
        // What has not come here before the hand-over comes out of it.
        let upstream = &state.upstream;
        let mut missing = None;
        let from_peer = upstream.link.is_some_and(|link| self.peers[peer].links.contains(&link));
        if from_peer && upstream.epoch == handover.from_epoch && upstream.live {
            let have = upstream.have;
            if have.saturating_add(1) < handover.first {
                missing = Some((have + 1, handover.first - 1));
            }
            let fit = if upstream.lossless { Fit::Lossless } else { Fit::Lossy };
            let from = have.saturating_add(1).max(handover.first);
            let rest: Vec<Bytes> =
                (from..next).filter_map(|n| Some(local.flow.log.get(n)?.to_bytes())).collect();
            if let Some((first, last)) = missing {
                self.deliver_gap(topic, first, Some(last));
            }
            for payload in rest {
                self.deliver(topic, &payload, 0..payload.len(), fit);
            }
        }
        self.topics[topic].upstream.epoch = 0;
        self.topics[topic].upstream.have = 0;
        self.topics[topic].local = Some(local);
        let uplink = self.topics[topic].uplink.take();
        self.announce(&Command::Announce { topic: name, epoch: handover.epoch });
        self.reroute(topic);
        self.acked_changed(topic);
        // What we sent to the old owner and it did not take is for us to publish now.
        if let Some(uplink) = uplink {
            for n in uplink.log.first().max(taken_of_own + 1)..uplink.log.next() {
                let Some(payload) = uplink.log.get(n).map(Payload::to_bytes) else { break };
                let waits =
                    self.topics[topic].local.as_ref().is_some_and(|local| !local.flow.backlog.is_empty());
                if (waits || self.publish_local(topic, Payload::Shared(&payload), false) == Publish::Full)
                    && let Some(local) = &mut self.topics[topic].local
                {
                    local.flow.blocked_since.get_or_insert(since);
                    local.flow.backlog_bytes += payload.len();
                    local.flow.backlog.push_back((None, 0, payload.clone()));
                    self.blocked.insert(topic);
                }
            }
        }
        let seen = self.partitions.own.get_mut(parent).and_then(|m| m.epochs.get_mut(k as usize));
        if let Some(seen) = seen {
            *seen = handover.epoch.max(*seen);
        }
        self.changed = true;
        Ok(())
    }

    /// Whether a topic is being given away, so that another owner is no surprise.
    pub(super) fn is_moving(&self, id: TopicId) -> bool {
        self.partitions.moves.contains_key(&id)
    }

    /// A node is gone: what was on its way to it stays here.
    pub(super) fn moves_end(&mut self, node: NodeId) {
        let back: Vec<TopicId> =
            self.partitions.moves.iter().filter(|(_, gift)| gift.to == node).map(|(id, _)| *id).collect();
        for id in back {
            self.move_back(id);
        }
    }

    fn move_back(&mut self, id: TopicId) {
        self.partitions.moves.remove(&id);
        self.partitions.stale = true;
        if let Some(local) = self.topics.get_mut(id).and_then(|topic| topic.local.as_mut()) {
            local.moving = false;
            self.room();
        }
    }

    /// Lets go of what has been given away for long enough that everybody knows, and takes back what was not taken.
    pub(super) fn sweep_moves(&mut self) {
        let patience = self.options.heartbeat * self.options.heartbeats_missed_max;
        let due: Vec<TopicId> = self
            .partitions
            .moves
            .iter()
            .filter(|(_, gift)| self.now.saturating_sub(gift.since) >= patience)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(topic) = self.topics.get(id) else {
                self.partitions.moves.remove(&id);
                continue;
            };
            match &topic.local {
                Some(local) if local.ceded => {
                    self.partitions.moves.remove(&id);
                    let name = topic.name.clone();
                    let _ = self.topic_destroy(name.as_str());
                    self.partitions.stale = true;
                }
                _ => self.move_back(id),
            }
        }
        self.place_partitions();
    }
}
