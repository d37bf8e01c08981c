//! Which topics there are, who owns them, and who here listens.

use std::time::Duration;

use super::{
    Amount, Lazy, LinkId, Local, Node, Right, SubId, TopicId, TopicOptions, TopicState,
    intake::PUBLISHER_GRACE,
};
use crate::{
    Topic, TopicPattern,
    cluster::{command::Command, node::Protocol, partition},
    topic::InvalidTopic,
};

/// Where a topic was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopicOrigin {
    /// Here.
    Local,
    /// At a peer.
    Remote,
}

/// What [`Node::list_topics`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub topic: Topic,
    /// Where it was created.
    pub origin: TopicOrigin,
    /// The node that owns it, if it says who it is.
    pub owner: Option<super::NodeId>,
    /// The epoch of its owner; 0 if the owner has none.
    pub epoch: u64,
    /// Nodes subscribed to it, where it is local.
    pub nodes: usize,
    /// Local subscriptions.
    pub subscriptions: usize,
}

/// Why an operation on a topic or subscription failed; the founding error number in the doc.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// EEXIST.
    #[error("topic `{0}` exists already")]
    Exists(Topic),
    /// ENOENT.
    #[error("topic `{0}` is not known")]
    NotFound(String),
    /// EINVAL: only its owner can do that.
    #[error("topic `{0}` is owned by another node")]
    Remote(Topic),
    /// EINVAL.
    #[error(transparent)]
    Invalid(#[from] InvalidTopic),
    /// ENOENT: a route leads to a node of the cluster.
    #[error("{0} is not in the cluster")]
    NotAdded(String),
    /// EINVAL.
    #[error("{count} partitions: 1 to {max} are allowed")]
    Partitions {
        /// How many were asked for.
        count: u32,
        /// The bound.
        max: u32,
    },
    /// EEXIST.
    #[error("{count} partitions: the other members have {known}")]
    PartitionCount {
        /// How many were asked for.
        count: u32,
        /// How many there are.
        known: u32,
    },
    /// ENOMEM: the node's bound is reached.
    #[error("{max} topics are known, and no more are allowed")]
    TooMany {
        /// The bound.
        max: usize,
    },
}

/// Streams without an owner that a node knows at most, its own and those of its peers. The oldest is forgotten, and numbered
/// anew when something is published to it again; no message is lost by that.
pub(super) const OPEN_TOPICS_MAX: usize = 1 << 16;

impl TopicState {
    /// Whether another node owns it, or is said to.
    pub(super) fn is_elsewhere(&self) -> bool {
        !self.elsewhere.owners.is_empty() || self.elsewhere.route.is_some()
    }

    /// Whether something is kept here for an owner that has not been there for too long. What was published to it would come
    /// twice later, where it was taken and not acknowledged: by then the owner has forgotten of whom.
    pub(super) fn stays_away(&mut self, now: Duration, resume_grace: Duration) -> bool {
        let (vacant, ours) = (self.local.is_none() && !self.is_elsewhere(), self.local.is_some());
        let late = |is_away: bool, since: &mut Option<Duration>, grace: Duration| {
            *since = is_away.then(|| since.unwrap_or(now));
            since.is_some_and(|since| now.saturating_sub(since) >= grace)
        };
        let place = self.upstream.get_mut();
        let place =
            place.is_some_and(|place| late(vacant && place.epoch != 0, &mut place.away_since, resume_grace));
        let rest = self.uplink.as_mut();
        let rest = rest
            .is_some_and(|rest| late(!ours && rest.link.is_none(), &mut rest.away_since, PUBLISHER_GRACE));
        place || rest
    }
}

impl Node {
    pub(super) fn topic_id(&mut self, name: &str, open: bool) -> Result<TopicId, TopicError> {
        let known = if open { self.open_named(name) } else { self.named(name) };
        if let Some(id) = known {
            return Ok(id);
        }
        let name = Topic::new(name)?;
        let max = self.options.topics_max.saturating_mul(2);
        if self.topics.len() >= max {
            return Err(TopicError::TooMany { max });
        }
        self.generations += 1;
        let id = self.topics.insert(TopicState {
            name,
            open,
            generation: self.generations,
            local: None,
            elsewhere: Lazy::new(),
            subs: Lazy::new(),
            upstream: Lazy::new(),
            uplink: None,
        });
        let names = if open { &mut self.open_names } else { &mut self.names };
        names.insert(&self.topics, id);
        // Patterns follow announcements.
        let matching: Vec<SubId> = self
            .subs
            .iter()
            .filter(|(_, sub)| {
                sub.open == open && sub.patterns.iter().any(|p| p.matches(&self.topics[id].name))
            })
            .map(|(s, _)| s)
            .collect();
        for sub in matching {
            self.topics[id].subs.push(sub);
            self.subs[sub].topics.insert(id);
        }
        Ok(id)
    }

    /// As [`topic_id`](Self::topic_id), on behalf of a peer: half of the room is not for them.
    pub(super) fn topic_id_for_peer(&mut self, name: &str) -> Result<TopicId, TopicError> {
        let max = self.options.topics_max;
        if self.topics.len() >= max && self.named(name).is_none() {
            return Err(TopicError::TooMany { max });
        }
        self.topic_id(name, false)
    }

    /// The stream without an owner of this name, whoever publishes to it first: we or a peer.
    pub(super) fn open_topic_id(&mut self, name: &str) -> Result<TopicId, TopicError> {
        if let Some(id) = self.open_named(name) {
            return Ok(id);
        }
        let id = self.topic_id(name, true)?;
        self.open_order.push_back(id);
        if self.open_order.len() > OPEN_TOPICS_MAX
            && let Some(oldest) = self.open_order.pop_front()
        {
            self.topic_forget(oldest);
        }
        Ok(id)
    }

    /// Whether somebody here has named a topic to hear it, not only a pattern.
    fn is_asked_for(&self, id: TopicId) -> bool {
        let topic = &self.topics[id];
        topic.subs.iter().any(|&sub| {
            self.subs.get(sub).is_some_and(|sub| {
                sub.patterns.iter().any(|p| matches!(p, TopicPattern::Exact(t) if *t == topic.name))
            })
        })
    }

    /// An owner stays away. What was published to it is given up, and so is the place in what it said, unless somebody waits
    /// for just this topic: of those that only patterns matched there is no end.
    pub(super) fn give_up(&mut self, id: TopicId) {
        let now = self.now;
        let topic = &mut self.topics[id];
        let over =
            |since: &Option<Duration>, grace| since.is_some_and(|since| now.saturating_sub(since) >= grace);
        let place =
            topic.upstream.get_mut().is_some_and(|place| over(&place.away_since, self.options.resume_grace));
        if topic.uplink.as_ref().is_some_and(|rest| over(&rest.away_since, PUBLISHER_GRACE)) {
            self.uplink_ends(id);
        }
        if place && !self.is_asked_for(id) {
            let upstream = &mut self.topics[id].upstream;
            let first = upstream.have.saturating_add(1);
            let had = upstream.epoch != 0;
            upstream.forget();
            if had {
                self.deliver_gap(id, first, None);
            }
        }
        self.topic_gc(id);
    }

    /// Forgets a topic that nobody owns, hears or sends to.
    pub(super) fn topic_gc(&mut self, id: TopicId) {
        let Some(topic) = self.topics.get(id) else { return };
        let wanted = self.is_asked_for(id);
        // A place to resume from: what is missed meanwhile has to be told.
        let wanted = wanted || !topic.subs.is_empty() && topic.upstream.epoch != 0;
        let sending = topic.uplink.as_ref().is_some_and(|uplink| !uplink.log.is_empty());
        let owned =
            topic.local.is_some() || !topic.elsewhere.owners.is_empty() || topic.elsewhere.route.is_some();
        if owned || wanted || sending || topic.open {
            return;
        }
        self.topic_forget(id);
    }

    pub(super) fn topic_forget(&mut self, id: TopicId) {
        let Some(topic) = self.topics.try_remove(id) else { return };
        let names = if topic.open { &mut self.open_names } else { &mut self.names };
        names.remove(id, topic.name.as_str());
        for &sub in topic.subs.iter() {
            if let Some(sub) = self.subs.get_mut(sub) {
                sub.topics.remove(&id);
                sub.starved.remove(&id);
                sub.hungry.remove(&id);
                sub.ring.promise(topic.upstream.granted, Amount::default());
            }
        }
        for cursor in topic.local.iter().flat_map(|local| &local.flow.cursors) {
            if let Some(link) = self.links.get_mut(cursor.link) {
                link.cursors.remove(&id);
                link.lagging.remove(&id);
            }
        }
    }

    /// Creates a topic that this node owns, and tells all peers.
    pub fn topic_create(&mut self, name: &str, options: TopicOptions) -> Result<(), TopicError> {
        self.topic_create_at(name, options, None)
    }

    pub(super) fn topic_create_at(
        &mut self,
        name: &str,
        options: TopicOptions,
        epoch: Option<u64>,
    ) -> Result<(), TopicError> {
        let id = self.topic_id(name, false)?;
        let epoch_min = self.epoch_min;
        let topic = &mut self.topics[id];
        if topic.local.is_some() || topic.elsewhere.route.is_some() {
            return Err(TopicError::Exists(topic.name.clone()));
        }
        // Later than any owner that we know of, so that the same name created twice in a row does not flap.
        let later =
            topic.elsewhere.owners.last().map_or(0, |owner| owner.epoch.saturating_add(1)).max(epoch_min);
        let epoch = epoch.unwrap_or(later);
        let name = topic.name.clone();
        let options = self.shared_options(options);
        self.topics[id].local = Some(Local::new(epoch, options));
        self.announce(&Command::Announce { topic: name.as_str(), epoch });
        self.owner_changed(name.as_str(), Some(self.options.id), Some(epoch));
        self.reroute(id);
        self.room();
        self.changed = true;
        Ok(())
    }

    /// Removes a topic that this node owns, and tells all peers.
    pub fn topic_destroy(&mut self, name: &str) -> Result<(), TopicError> {
        let id = self.named(name).ok_or_else(|| TopicError::NotFound(name.to_owned()))?;
        let topic = &mut self.topics[id];
        if topic.local.is_none() {
            return Err(match topic.elsewhere.owners.is_empty() {
                true => TopicError::NotFound(name.to_owned()),
                false => TopicError::Remote(topic.name.clone()),
            });
        }
        self.let_go(id);
        self.reroute(id);
        self.topic_gc(id);
        Ok(())
    }

    /// A topic is ours no more, and all peers are told.
    pub(super) fn let_go(&mut self, id: TopicId) {
        let Some(local) = self.topics[id].local.take() else { return };
        let name = self.topics[id].name.clone();
        for cursor in &local.flow.cursors {
            if let Some(link) = self.links.get_mut(cursor.link) {
                link.cursors.remove(&id);
                link.lagging.remove(&id);
            }
        }
        match partition::parse_partition(name.as_str()) {
            Some(_) => self.partitions.epoch_past = self.partitions.epoch_past.max(local.epoch),
            None => self.epoch_min = self.epoch_min.max(local.epoch).saturating_add(1),
        }
        self.announce(&Command::Remove { topic: name.as_str(), epoch: local.epoch });
        self.owner_changed(name.as_str(), Some(self.options.id), None);
        self.move_done(id);
        self.partitions.ceded.remove(&id);
        self.blocked.remove(&id);
        self.release(id);
        self.changed = true;
    }

    /// Tells all peers that a topic is ours, or is not any more: on all their connections, because each asks on one of them, and
    /// in order with our answers it comes only there.
    pub(super) fn announce(&mut self, command: &Command<'_>) {
        let (Command::Announce { topic, .. } | Command::Remove { topic, .. }) = *command else { return };
        for link in self.peers.iter().flat_map(|(_, peer)| &peer.links).copied().collect::<Vec<_>>() {
            if self.links[link].protocol >= Protocol::Notifying && self.may_know(link, topic) {
                self.send(link, command);
            }
        }
    }

    /// Whether a peer may learn that there is a topic of ours: whether there is anything that it may do with it.
    pub(super) fn may_know(&self, link: LinkId, topic: &str) -> bool {
        let rights = [Right::Subscribe, Right::Publish, Right::Own];
        rights.into_iter().any(|right| self.allowed(link, right, topic).is_ok())
    }

    /// All topics that have an owner, in no particular order.
    pub fn list_topics(&self) -> Vec<TopicInfo> {
        let owned = self.topics.iter().filter(|(_, t)| !t.open && (t.local.is_some() || t.is_elsewhere()));
        owned
            .map(|(_, topic)| TopicInfo {
                topic: topic.name.clone(),
                origin: if topic.local.is_some() { TopicOrigin::Local } else { TopicOrigin::Remote },
                owner: match &topic.local {
                    Some(local) if !local.ceded => Some(self.options.id),
                    _ => topic.elsewhere.owners.last().and_then(|owner| owner.node),
                },
                epoch: topic
                    .local
                    .as_ref()
                    .map(|l| l.epoch)
                    .or(topic.elsewhere.owners.last().map(|o| o.epoch))
                    .unwrap_or(0),
                nodes: topic.local.as_ref().map_or(0, |local| local.flow.cursors.len()),
                subscriptions: topic.subs.len(),
            })
            .collect()
    }

    /// Where a topic was created, if it is known.
    pub fn topic_origin(&self, name: &str) -> Option<TopicOrigin> {
        let topic = &self.topics[self.named(name)?];
        match (&topic.local, topic.is_elsewhere()) {
            (Some(_), _) => Some(TopicOrigin::Local),
            (None, true) => Some(TopicOrigin::Remote),
            (None, false) => None,
        }
    }
}
