//! Partitions: who should have which.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Node, Peer, PeerId, Policy, TopicError, TopicId, TopicOptions, moves::Move};
use crate::{
    Topic,
    cluster::{
        command::NodeId,
        membership::PeerState,
        partition::{self, PARTITIONS_MAX},
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

/// What a node knows of topics in partitions.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    own: BTreeMap<String, Membership>,
    /// The members, as their topics tell, by topic and number of partitions.
    groups: BTreeMap<String, BTreeMap<u32, BTreeSet<NodeId>>>,
    /// Those of ours that are offered to other nodes.
    pub(super) moves: BTreeMap<TopicId, Move>,
    /// Those of ours that another node has, and since when.
    pub(super) ceded: BTreeMap<TopicId, Duration>,
    /// The latest epoch of all that were ours and are not any more.
    pub(super) epoch_past: u64,
    /// Something changed that may make partitions move.
    pub(super) stale: bool,
    /// Some could not be offered yet, or were not taken: with the next heartbeat they are offered again.
    pub(super) put_off: bool,
    /// Since when they can't be placed, as not all is known.
    unsettled_since: Option<Duration>,
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
        // Later than what others had before we came, and than what we had when we were a member before.
        let seen = |k| {
            let id = self.named(partition::partition_name(name, k).as_str());
            let topic = id.map(|id| &self.topics[id]);
            let owner = topic.and_then(|topic| topic.elsewhere.owners.last()).map(|owner| owner.epoch);
            let own = topic.and_then(|topic| topic.local.as_ref()).map(|local| local.epoch);
            owner.max(own).unwrap_or(0).max(self.partitions.epoch_past)
        };
        let epochs = (0..count).map(seen).collect();
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

    /// The epoch under which this node may claim a partition: later than all that were seen of it. None if the topic is no
    /// partition, or the node is no member.
    pub(super) fn partition_claim(&self, name: &str) -> Option<u64> {
        let (topic, k) = partition::parse_partition(name)?;
        let seen = self.partitions.own.get(topic)?.epochs.get(k as usize)?;
        Some(partition::next_epoch(*seen, self.options.id, self.options.incarnation))
    }

    /// The options of a partition, if it may be given to this node.
    pub(super) fn partition_wanted(&self, name: &str) -> Option<TopicOptions> {
        let (topic, k) = partition::parse_partition(name)?;
        let membership = self.partitions.own.get(topic)?;
        (!membership.leaving && k < membership.count).then_some(membership.options)
    }

    /// How long a peer is waited for that says nothing.
    pub(super) fn patience(&self) -> Duration {
        self.options.heartbeat * self.options.heartbeats_missed_max
    }

    /// Whether all is known that can be: who has just begun must not claim what others have. Who has been here for so long and
    /// has not said what it owns is not waited for.
    fn is_settled(&self) -> bool {
        let is_late = |peer: &Peer| self.now.saturating_sub(peer.since) >= self.patience();
        let known = |peer: &Peer| peer.node.is_none() || peer.answers > 0 || is_late(peer);
        // Or else who connects again and again, and says each time that it is somebody else or nobody, would keep all from being
        // placed.
        let since = self.partitions.unsettled_since;
        let has_waited = since.is_some_and(|since| self.now.saturating_sub(since) >= self.patience());
        let is_known = self.peers.iter().all(|(_, peer)| known(peer))
            && self.links.iter().all(|(_, link)| link.peer.is_some() || link.closing);
        (is_known || has_waited)
            && self
                .membership
                .targets
                .values()
                .all(|target| target.failures > 0 || target.state != PeerState::Connecting)
    }

    /// Claims, gives away and lets go of partitions, if anything has changed.
    pub(super) fn place_partitions(&mut self) {
        if !self.partitions.stale || self.partitions.own.is_empty() {
            return;
        }
        if !self.is_settled() {
            self.partitions.unsettled_since.get_or_insert(self.now);
            return;
        }
        (self.partitions.stale, self.partitions.unsettled_since) = (false, None);
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
            self.offer(id, to);
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
}
