//! Which topics there are, who owns them, and who here listens.

use super::{
    Amount, LinkId, Local, Node, Output, Owner, PeerId, SubId, TopicId, TopicOptions, TopicState, Upstream,
};
use crate::{
    Topic, TopicPattern,
    cluster::{
        command::{Command, Resume},
        node::{Event, Protocol},
        ring::Fit,
    },
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

/// Stands for a position at an owner that does not number its messages.
const UNNUMBERED: u64 = u64::MAX;

impl TopicState {
    /// Whether another node owns it, or is said to.
    fn is_elsewhere(&self) -> bool {
        !self.owners.is_empty() || self.route.is_some()
    }
}

impl Node {
    pub(super) fn topic_id(&mut self, name: &str, open: bool) -> Result<TopicId, TopicError> {
        let names = if open { &self.open_names } else { &self.names };
        if let Some(&id) = names.get(name) {
            return Ok(id);
        }
        let name = Topic::new(name)?;
        if self.topics.len() >= self.options.topics_max {
            return Err(TopicError::TooMany { max: self.options.topics_max });
        }
        self.generations += 1;
        let id = self.topics.insert(TopicState {
            name: name.clone(),
            open,
            remembered: false,
            generation: self.generations,
            route: None,
            local: None,
            owners: Vec::new(),
            subs: Vec::new(),
            upstream: Upstream::default(),
            uplink: None,
        });
        let names = if open { &mut self.open_names } else { &mut self.names };
        names.insert(name, id);
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

    /// Forgets a topic that nobody owns, hears or sends to.
    pub(super) fn topic_gc(&mut self, id: TopicId) {
        let Some(topic) = self.topics.get(id) else { return };
        let wanted = topic.subs.iter().any(|&sub| {
            self.subs.get(sub).is_some_and(|sub| {
                sub.patterns.iter().any(|p| matches!(p, TopicPattern::Exact(t) if *t == topic.name))
            })
        });
        // A place to resume from: what is missed meanwhile has to be told.
        let wanted = wanted || !topic.subs.is_empty() && topic.upstream.epoch != 0;
        let sending = topic.uplink.as_ref().is_some_and(|uplink| !uplink.log.is_empty());
        let owned = topic.local.is_some() || !topic.owners.is_empty() || topic.route.is_some();
        if owned || wanted || sending || topic.open {
            return;
        }
        self.topic_forget(id);
    }

    pub(super) fn topic_forget(&mut self, id: TopicId) {
        let Some(topic) = self.topics.try_remove(id) else { return };
        let names = if topic.open { &mut self.open_names } else { &mut self.names };
        names.remove(&topic.name);
        for sub in topic.subs {
            if let Some(sub) = self.subs.get_mut(sub) {
                sub.topics.remove(&id);
                sub.starved.remove(&id);
                sub.ring.promise(topic.upstream.granted, Amount::default());
            }
        }
        for cursor in topic.local.iter().flat_map(|local| &local.cursors) {
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
        let epoch_min = self.options.incarnation;
        let topic = &mut self.topics[id];
        if topic.local.is_some() || topic.route.is_some() {
            return Err(TopicError::Exists(topic.name.clone()));
        }
        // Later than any owner that we know of, so that the same name created twice in a row does not flap.
        let later = topic.owners.last().map_or(0, |owner| owner.epoch + 1).max(epoch_min);
        let epoch = epoch.unwrap_or(later);
        topic.local = Some(Local::new(epoch, options));
        let name = topic.name.clone();
        self.announce(&Command::Announce { topic: name.as_str(), epoch });
        self.owner_changed(name.as_str(), Some(self.options.id), Some(epoch));
        self.reroute(id);
        self.room();
        self.changed = true;
        Ok(())
    }

    /// Removes a topic that this node owns, and tells all peers.
    pub fn topic_destroy(&mut self, name: &str) -> Result<(), TopicError> {
        let id = *self.names.get(name).ok_or_else(|| TopicError::NotFound(name.to_owned()))?;
        let topic = &mut self.topics[id];
        let Some(local) = topic.local.take() else {
            return Err(match topic.owners.is_empty() {
                true => TopicError::NotFound(name.to_owned()),
                false => TopicError::Remote(topic.name.clone()),
            });
        };
        let name = topic.name.clone();
        for cursor in &local.cursors {
            if let Some(link) = self.links.get_mut(cursor.link) {
                link.cursors.remove(&id);
                link.lagging.remove(&id);
            }
        }
        self.announce(&Command::Remove { topic: name.as_str(), epoch: local.epoch });
        self.owner_changed(name.as_str(), Some(self.options.id), None);
        self.blocked.remove(&id);
        self.release(id);
        self.reroute(id);
        self.topic_gc(id);
        self.changed = true;
        Ok(())
    }

    /// Sends what is published to a topic to the node at an endpoint, and subscribes there, whoever is known to own it. For
    /// peers that do not tell their topics.
    pub fn topic_route(&mut self, name: &str, endpoint: &str) -> Result<(), TopicError> {
        if !self.membership.targets.contains_key(endpoint) {
            return Err(TopicError::NotAdded(endpoint.to_owned()));
        }
        let id = self.topic_id(name, false)?;
        let topic = &mut self.topics[id];
        if topic.local.is_some() {
            return Err(TopicError::Exists(topic.name.clone()));
        }
        topic.route = Some(endpoint.to_owned());
        self.routed.insert(id);
        self.reroute(id);
        self.room();
        self.changed = true;
        Ok(())
    }

    /// Ends a route; the topic is where it is announced again. False if there was none.
    pub fn topic_unroute(&mut self, name: &str) -> bool {
        let Some(id) = self.names.get(name).copied().filter(|id| self.routed.remove(id)) else {
            return false;
        };
        self.topics[id].route = None;
        self.reroute(id);
        self.topic_gc(id);
        self.changed = true;
        true
    }

    /// A connection has come or gone that routes may lead over.
    pub(super) fn reroute_routed(&mut self) {
        for id in self.routed.clone() {
            self.reroute(id);
        }
    }

    /// An endpoint is not in the cluster any more.
    pub(super) fn routes_end(&mut self, endpoint: &str) {
        let over = |id: &&TopicId| self.topics[**id].route.as_deref() == Some(endpoint);
        for id in self.routed.iter().filter(over).copied().collect::<Vec<_>>() {
            let name = self.topics[id].name.clone();
            self.topic_unroute(name.as_str());
        }
    }

    pub(super) fn announce(&mut self, command: &Command<'_>) {
        let peers: Vec<LinkId> =
            self.peers.iter().filter_map(|(_, peer)| peer.links.first().copied()).collect();
        for link in peers {
            if self.links[link].protocol >= Protocol::Notifying {
                self.send(link, command);
            }
        }
    }

    /// All topics that have an owner, in no particular order.
    pub fn list_topics(&self) -> Vec<TopicInfo> {
        let owned = self.topics.iter().filter(|(_, t)| !t.open && (t.local.is_some() || t.is_elsewhere()));
        owned
            .map(|(_, topic)| TopicInfo {
                topic: topic.name.clone(),
                origin: if topic.local.is_some() { TopicOrigin::Local } else { TopicOrigin::Remote },
                epoch: topic
                    .local
                    .as_ref()
                    .map(|l| l.epoch)
                    .or(topic.owners.last().map(|o| o.epoch))
                    .unwrap_or(0),
                nodes: topic.local.as_ref().map_or(0, |local| local.cursors.len()),
                subscriptions: topic.subs.len(),
            })
            .collect()
    }

    /// Where a topic was created, if it is known.
    pub fn topic_origin(&self, name: &str) -> Option<TopicOrigin> {
        let topic = &self.topics[*self.names.get(name)?];
        match (&topic.local, topic.is_elsewhere()) {
            (Some(_), _) => Some(TopicOrigin::Local),
            (None, true) => Some(TopicOrigin::Remote),
            (None, false) => None,
        }
    }

    /// The node that owns a topic in our view, if it says who it is.
    pub fn topic_owner(&self, name: &str) -> Option<(u64, Option<super::NodeId>)> {
        let id = *self.names.get(name)?;
        match self.remote_owner(id) {
            Some(peer) => {
                self.topics[id].owners.iter().rev().find(|o| o.peer == peer).map(|o| (o.epoch, o.node))
            }
            None => self.topics[id].local.as_ref().map(|local| (local.epoch, Some(self.options.id))),
        }
    }

    /// Subscribes to a topic or pattern. Again is no error. A topic that nobody owns yet is waited for, if there is
    /// anybody who could own it.
    pub fn subscribe(&mut self, sub: SubId, pattern: TopicPattern) -> Result<(), TopicError> {
        let open = self.subs[sub].open;
        if self.subs[sub].patterns.contains(&pattern) {
            return Ok(());
        }
        match &pattern {
            TopicPattern::Exact(topic) if !open => {
                let alone = self.links.is_empty() && self.membership.targets.is_empty();
                if alone && self.topic_origin(topic.as_str()).is_none() {
                    return Err(TopicError::NotFound(topic.to_string()));
                }
                let id = self.topic_id(topic.as_str(), false)?;
                self.attach(id, sub);
            }
            _ => {
                let matching: Vec<TopicId> = self
                    .topics
                    .iter()
                    .filter(|(_, t)| t.open == open && pattern.matches(&t.name))
                    .map(|(id, _)| id)
                    .collect();
                for id in matching {
                    self.attach(id, sub);
                }
            }
        }
        if open {
            let known = self.subs.iter().any(|(_, other)| other.open && other.patterns.contains(&pattern));
            if !known {
                self.send_open_interest(&pattern, true);
            }
        }
        self.subs[sub].patterns.insert(pattern);
        self.changed = true;
        Ok(())
    }

    /// Ends interest in a topic or pattern. True if there was any.
    pub fn unsubscribe(&mut self, sub: SubId, pattern: &TopicPattern) -> bool {
        let Some(state) = self.subs.get_mut(sub) else { return false };
        if !state.patterns.remove(pattern) {
            return false;
        }
        let (open, topics) = (state.open, state.topics.clone());
        for id in topics {
            let still = self.subs[sub].patterns.iter().any(|p| p.matches(&self.topics[id].name));
            if !still {
                self.detach(id, sub);
            }
        }
        if open && !self.subs.iter().any(|(_, other)| other.open && other.patterns.contains(pattern)) {
            self.send_open_interest(pattern, false);
        }
        self.changed = true;
        true
    }

    /// Ends a subscription.
    pub fn sub_close(&mut self, sub: SubId) {
        let Some(state) = self.subs.get(sub) else { return };
        for pattern in state.patterns.clone() {
            self.unsubscribe(sub, &pattern);
        }
        self.subs.remove(sub);
        self.room();
    }

    fn attach(&mut self, id: TopicId, sub: SubId) {
        let topic = &mut self.topics[id];
        if topic.subs.contains(&sub) {
            return;
        }
        topic.subs.push(sub);
        self.subs[sub].topics.insert(id);
        // What the owner may send already comes here too.
        self.subs[sub].ring.promise(Amount::default(), topic.upstream.granted);
        self.replay_locally(id, sub);
        self.reroute(id);
    }

    fn replay_locally(&mut self, id: TopicId, sub: SubId) {
        let topic = &self.topics[id];
        let Some(local) = topic.local.as_ref().filter(|local| !local.ceded && local.options.replay > 0)
        else {
            return;
        };
        let first = local.log.next().saturating_sub(local.options.replay as u64).max(local.log.first());
        let mut wake = false;
        for sequence in first..local.log.next() {
            if let Some(payload) = local.log.get(sequence) {
                wake |= self.subs[sub].ring.push(&topic.name, &payload.to_bytes(), Fit::Lossy);
            }
        }
        if wake {
            self.outputs.push_back(Output::Readable(sub));
        }
    }

    fn detach(&mut self, id: TopicId, sub: SubId) {
        self.topics[id].subs.retain(|s| *s != sub);
        let granted = self.topics[id].upstream.granted;
        self.subs[sub].topics.remove(&id);
        self.subs[sub].starved.remove(&id);
        self.subs[sub].ring.promise(granted, Amount::default());
        self.reroute(id);
        self.topic_gc(id);
    }

    fn send_open_interest(&mut self, pattern: &TopicPattern, begins: bool) {
        let text = pattern.to_string();
        let links: Vec<LinkId> = self
            .peers
            .iter()
            .filter(|(_, p)| p.node.is_some())
            .filter_map(|(_, p)| p.links.first().copied())
            .collect();
        for link in links {
            let resume = Resume { open: true, ..Resume::default() };
            self.send(
                link,
                &match begins {
                    true => Command::Subscribe { topic: &text, resume: Some(resume) },
                    false => Command::Unsubscribe { topic: &text, open: true },
                },
            );
        }
    }

    /// Sends all open interest to a peer that has just come up.
    pub(super) fn send_open_interests(&mut self, link: LinkId) {
        let all: std::collections::BTreeSet<String> = self
            .subs
            .iter()
            .filter(|(_, sub)| sub.open)
            .flat_map(|(_, sub)| sub.patterns.iter().map(TopicPattern::to_string))
            .collect();
        for text in all {
            let resume = Resume { open: true, ..Resume::default() };
            self.send(link, &Command::Subscribe { topic: &text, resume: Some(resume) });
        }
    }

    /// The peer that owns the topic in our view; none if it is us or nobody.
    pub(super) fn remote_owner(&self, id: TopicId) -> Option<PeerId> {
        let topic = &self.topics[id];
        if let Some(endpoint) = &topic.route {
            return self.links.get(self.membership.targets.get(endpoint)?.link?)?.peer;
        }
        let best = topic.owners.last()?;
        match &topic.local {
            Some(local) if (local.epoch, Some(self.options.id)) >= (best.epoch, best.node) => None,
            _ => Some(best.peer),
        }
    }

    /// Makes interest and publishes go to where the owner is now.
    pub(super) fn reroute(&mut self, id: TopicId) {
        let Some(topic) = self.topics.get(id) else { return };
        if topic.open {
            return;
        }
        let owner = self.remote_owner(id).and_then(|peer| self.peers[peer].links.first().copied());
        let moving = self.is_moving(id);
        let topic = &mut self.topics[id];
        let ceded = owner.is_some();
        if let Some(local) = &mut topic.local {
            if ceded && !local.ceded {
                if !moving {
                    let epoch = topic.owners.last().map_or(0, |owner| owner.epoch);
                    let topic = topic.name.clone();
                    self.outputs.push_back(Output::Event(Event::OwnerLost { topic, epoch }));
                }
                // Who listens here has had all that was published here.
                topic.upstream.owner = Some(self.options.id);
                (topic.upstream.epoch, topic.upstream.have) = (local.epoch, local.log.next() - 1);
                self.blocked.remove(&id);
            }
            local.ceded = ceded;
        }
        if ceded {
            self.release(id);
        }
        let topic = &mut self.topics[id];
        let wanted = if topic.subs.is_empty() { None } else { owner };
        let name = topic.name.clone();
        if topic.upstream.link != wanted {
            let old = std::mem::replace(&mut topic.upstream.link, wanted);
            topic.upstream.live = false;
            topic.upstream.len_max = 0;
            let (epoch, have) = (topic.upstream.epoch, topic.upstream.have);
            self.grant_ends(id);
            if let Some(old) = old.filter(|old| self.links.get(*old).is_some_and(|link| !link.closing)) {
                self.send(old, &Command::Unsubscribe { topic: name.as_str(), open: false });
            }
            if let Some(link) = wanted {
                let extended = self.links[link].protocol == Protocol::Extended;
                let window = if extended { self.grant(id) } else { Default::default() };
                let owner = self.topics[id].upstream.owner.unwrap_or_default();
                let resume = extended.then_some(Resume {
                    open: false,
                    owner,
                    epoch,
                    have,
                    window: window.messages,
                    window_bytes: window.bytes,
                });
                self.send(link, &Command::Subscribe { topic: name.as_str(), resume });
                if let (false, Some(peer)) = (extended, self.links[link].peer) {
                    self.topics[id].upstream.barrier = self.barrier(peer);
                    if have == UNNUMBERED {
                        self.deliver_gap(id, 0, None);
                    }
                    let upstream = &mut self.topics[id].upstream;
                    (upstream.epoch, upstream.have) = (0, UNNUMBERED);
                }
            }
            self.changed = true;
        }
        self.uplink_reroute(id, owner);
        if owner.is_some() {
            self.room();
        }
    }

    /// Takes in that a peer owns a topic.
    pub(super) fn owner_add(&mut self, peer: PeerId, name: &str, epoch: u64) -> Result<(), TopicError> {
        let id = self.topic_id(name, false)?;
        let node = self.peers[peer].node;
        self.peers[peer].topics.insert(id, epoch);
        let owners = &mut self.topics[id].owners;
        if owners.iter().any(|owner| owner.peer == peer && owner.epoch == epoch) {
            return Ok(());
        }
        owners.retain(|owner| owner.peer != peer);
        let at = owners.partition_point(|owner| (owner.epoch, owner.node) < (epoch, node));
        owners.insert(at, Owner { epoch, node, peer });
        self.owner_changed(name, node, Some(epoch));
        self.reroute(id);
        self.changed = true;
        Ok(())
    }

    /// Takes in that a peer owns a topic no more.
    pub(super) fn owner_remove(&mut self, peer: PeerId, id: TopicId, destroyed: bool) {
        self.peers[peer].topics.remove(&id);
        let node = self.peers[peer].node;
        let topic = &mut self.topics[id];
        topic.owners.retain(|owner| owner.peer != peer);
        let name = topic.name.clone();
        self.owner_changed(name.as_str(), node, None);
        let topic = &mut self.topics[id];
        if destroyed && topic.owners.is_empty() {
            // There is nothing to resume.
            (topic.upstream.epoch, topic.upstream.have) = (0, 0);
        }
        self.reroute(id);
        self.topic_gc(id);
        self.changed = true;
    }

    /// Whether every subscription of `sub` is live where its topics are owned: nothing published from now on is missed.
    /// A topic without an owner is not live.
    pub fn is_live(&self, sub: SubId, pattern: &TopicPattern) -> bool {
        let Some(state) = self.subs.get(sub) else { return false };
        if state.open {
            return true;
        }
        let live = |id: &TopicId| {
            let topic = &self.topics[*id];
            match self.remote_owner(*id) {
                Some(peer) if self.peers[peer].node.is_none() => {
                    self.peers[peer].answers >= topic.upstream.barrier
                }
                Some(_) => topic.upstream.live,
                None => topic.local.is_some(),
            }
        };
        match pattern {
            TopicPattern::Exact(topic) => self.names.get(topic).is_some_and(live),
            TopicPattern::Prefix(_) => {
                state.topics.iter().filter(|id| pattern.matches(&self.topics[**id].name)).all(live)
            }
        }
    }
}
