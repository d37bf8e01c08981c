//! Who owns a topic, and the way to it.

use super::{LinkId, Node, Output, Owner, PeerId, Right, TopicId, topics::TopicError};
use crate::cluster::{
    command::{Command, Resume},
    node::{Event, Protocol},
};

/// Stands for a position at an owner that does not number its messages.
const UNNUMBERED: u64 = u64::MAX;

impl Node {
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
        topic.elsewhere.route = Some(endpoint.to_owned());
        self.routed.insert(id);
        self.reroute(id);
        self.room();
        self.changed = true;
        Ok(())
    }

    /// Ends a route; the topic is where it is announced again. False if there was none.
    pub fn topic_unroute(&mut self, name: &str) -> bool {
        let Some(id) = self.named(name).filter(|id| self.routed.remove(id)) else {
            return false;
        };
        self.topics[id].elsewhere.route = None;
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
        let over = |id: &&TopicId| self.topics[**id].elsewhere.route.as_deref() == Some(endpoint);
        for id in self.routed.iter().filter(over).copied().collect::<Vec<_>>() {
            let name = self.topics[id].name.clone();
            self.topic_unroute(name.as_str());
        }
    }

    /// The node that owns a topic in our view, if it says who it is.
    pub fn topic_owner(&self, name: &str) -> Option<(u64, Option<super::NodeId>)> {
        let id = self.named(name)?;
        match self.remote_owner(id) {
            Some(peer) => self.topics[id]
                .elsewhere
                .owners
                .iter()
                .rev()
                .find(|o| o.peer == peer)
                .map(|o| (o.epoch, o.node)),
            None => self.topics[id].local.as_ref().map(|local| (local.epoch, Some(self.options.id))),
        }
    }

    /// The peer that owns the topic in our view; none if it is us or nobody.
    pub(super) fn remote_owner(&self, id: TopicId) -> Option<PeerId> {
        let topic = &self.topics[id];
        if let Some(endpoint) = &topic.elsewhere.route {
            return self.links.get(self.membership.targets.get(endpoint)?.link?)?.peer;
        }
        let best = topic.elsewhere.owners.last()?;
        match &topic.local {
            Some(local) if (local.epoch, Some(self.options.id)) >= (best.epoch, best.node) => None,
            _ => Some(best.peer),
        }
    }

    /// The connection to a topic's owner: the first on which the peer may say that it owns the topic. Between two nodes there
    /// may be two, and where one shows no name, anybody may claim to be the other end.
    pub(super) fn owner_link(&self, id: TopicId) -> Option<LinkId> {
        let peer = &self.peers[self.remote_owner(id)?];
        let topic = &self.topics[id];
        let may_own = |link: &&LinkId| self.allowed(**link, Right::Own, topic.name.as_str()).is_ok();
        match self.options.rights.is_none() || peer.node.is_none() || topic.elsewhere.route.is_some() {
            true => peer.links.first().copied(),
            false => peer.links.iter().find(may_own).copied(),
        }
    }

    /// Makes interest and publishes go to where the owner is now.
    pub(super) fn reroute(&mut self, id: TopicId) {
        let Some(topic) = self.topics.get(id) else { return };
        if topic.open {
            return;
        }
        let owner = self.owner_link(id);
        let moving = self.is_moving(id);
        let topic = &mut self.topics[id];
        let ceded = owner.is_some();
        if let Some(local) = &mut topic.local {
            if ceded && !local.ceded {
                if !moving {
                    let epoch = topic.elsewhere.owners.last().map_or(0, |owner| owner.epoch);
                    let topic = topic.name.clone();
                    self.outputs.push_back(Output::Event(Event::OwnerLost { topic, epoch }));
                }
                // Who listens here has had all that was published here.
                topic.upstream.owner = Some(self.options.id);
                (topic.upstream.epoch, topic.upstream.have) = (local.epoch, local.flow.log.next() - 1);
                self.blocked.remove(&id);
            }
            local.ceded = ceded;
            if !ceded && (topic.upstream.epoch != 0 || topic.upstream.have == UNNUMBERED) {
                // Who listens here heard the owner before us, and may not have had all that it published.
                let first = topic.upstream.have.saturating_add(1);
                (topic.upstream.epoch, topic.upstream.have) = (0, 0);
                if !topic.subs.is_empty() {
                    self.deliver_gap(id, first, None);
                }
            }
        }
        if ceded {
            self.release(id);
        }
        let topic = &mut self.topics[id];
        let wanted = if topic.subs.is_empty() { None } else { owner };
        let name = topic.name.clone();
        if topic.upstream.link != wanted {
            let old = std::mem::replace(&mut topic.upstream.link, wanted);
            (topic.upstream.live, topic.upstream.refused) = (false, false);
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
    pub(super) fn owner_add(&mut self, peer: PeerId, name: &str, epoch: u64) -> Result<TopicId, TopicError> {
        let id = self.topic_id_for_peer(name)?;
        let node = self.peers[peer].node;
        if self.peers[peer].topics.insert(id, epoch).is_none() {
            self.sync_saw(peer, id, true);
        }
        let owners = &mut self.topics[id].elsewhere.owners;
        if owners.iter().any(|owner| owner.peer == peer && owner.epoch == epoch) {
            return Ok(id);
        }
        owners.retain(|owner| owner.peer != peer);
        let at = owners.partition_point(|owner| (owner.epoch, owner.node) < (epoch, node));
        owners.insert(at, Owner { epoch, node, peer });
        self.owner_changed(name, node, Some(epoch));
        self.reroute(id);
        self.changed = true;
        Ok(id)
    }

    /// Takes in that a peer owns a topic no more.
    pub(super) fn owner_remove(&mut self, peer: PeerId, id: TopicId, destroyed: bool) {
        if self.peers[peer].topics.remove(&id).is_some() {
            self.sync_saw(peer, id, false);
        }
        let node = self.peers[peer].node;
        let topic = &mut self.topics[id];
        topic.elsewhere.owners.retain(|owner| owner.peer != peer);
        let name = topic.name.clone();
        self.owner_changed(name.as_str(), node, None);
        let topic = &mut self.topics[id];
        if destroyed
            && topic.elsewhere.owners.is_empty()
            && let Some(upstream) = topic.upstream.get_mut()
        {
            // There is nothing to resume.
            (upstream.epoch, upstream.have) = (0, 0);
        }
        self.reroute(id);
        self.topic_gc(id);
        self.changed = true;
    }
}
