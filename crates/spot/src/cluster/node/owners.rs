//! Who owns a topic, and the way to it.

use bytes::Bytes;

use super::{LinkId, Node, Output, Owner, PeerId, Right, TopicId, topics::TopicError};
use crate::{
    Topic,
    cluster::{
        command::{Before, Command, Resume},
        node::{Event, Protocol},
    },
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
        let peer = self.remote_owner(id)?;
        let topic = &self.topics[id];
        match topic.elsewhere.route {
            Some(_) => self.peers[peer].links.first().copied(),
            None => self.news_link(peer, topic.name.as_str()),
        }
    }

    /// The connection on which it counts what a peer says of a topic of its own: what comes on two is in no order.
    pub(super) fn news_link(&self, peer: PeerId, topic: &str) -> Option<LinkId> {
        let peer = &self.peers[peer];
        let may_own = |link: &&LinkId| self.allowed(**link, Right::Own, topic).is_ok();
        match self.options.rights.is_none() || peer.node.is_none() {
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
        let waited = match owner {
            Some(_) => self.cede(id),
            None => {
                self.stay(id);
                Vec::new()
            }
        };
        let topic = &mut self.topics[id];
        let wanted = if topic.subs.is_empty() { None } else { owner };
        let name = topic.name.clone();
        if topic.upstream.link != wanted {
            let old = std::mem::replace(&mut topic.upstream.link, wanted);
            (topic.upstream.live, topic.upstream.refused) = (false, false);
            topic.upstream.len_max = 0;
            let (epoch, have) = (topic.upstream.epoch, topic.upstream.have);
            self.grant_ends(id);
            let peer = |link: LinkId| self.links.get(link).and_then(|link| link.peer);
            let stays =
                |old: &LinkId| wanted.is_some_and(|new| peer(*old).is_some() && peer(*old) == peer(new));
            if let Some(old) = old {
                let moves = stays(&old);
                self.topics[id].upstream.left.push(old);
                if !moves {
                    self.unsubscribe_left(id, &name);
                }
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
                    self.links[link].unheard.remove(&name);
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
        self.pass_on(id, waited);
        if owner.is_some() {
            self.room();
        }
    }

    /// Gives up the places that we still have on other connections than the one that counts.
    pub(super) fn unsubscribe_left(&mut self, id: TopicId, name: &Topic) {
        let upstream = &mut self.topics[id].upstream;
        let link = upstream.link;
        for left in std::mem::take(&mut upstream.left) {
            if Some(left) != link {
                self.send(left, &Command::Unsubscribe { topic: name.as_str(), open: false });
                self.unhear(left, name);
            }
        }
    }

    /// A peer was told that we do not hear a topic of its own any more. A founding one acknowledges nothing, but it answers.
    fn unhear(&mut self, id: LinkId, name: &Topic) {
        let founding = self.links.get(id).filter(|link| link.protocol != Protocol::Extended);
        let Some(peer) = founding.and_then(|link| link.peer) else { return };
        let answer = self.barrier(peer);
        self.links[id].unheard.insert(name.clone(), answer);
    }

    /// A topic is another node's. If it was ours until now, what waited here without a number is for us to pass on.
    fn cede(&mut self, id: TopicId) -> Vec<Bytes> {
        let topic = &mut self.topics[id];
        let mut waited = Vec::new();
        if let Some(local) = topic.local.as_mut().filter(|local| !local.ceded) {
            local.ceded = true;
            // Who listens here has had all that was published here.
            topic.upstream.owner = Some(self.options.id);
            (topic.upstream.epoch, topic.upstream.have) = (local.epoch, local.flow.log.next() - 1);
            if let Some(flow) = local.flow.get_mut() {
                waited = flow.cede();
            }
            self.blocked.remove(&id);
            if !self.move_done(id) {
                let topic = &self.topics[id];
                let epoch = topic.elsewhere.owners.last().map_or(0, |owner| owner.epoch);
                let topic = topic.name.clone();
                self.outputs.push_back(Output::Event(Event::OwnerLost { topic, epoch }));
            }
        }
        self.release(id);
        waited
    }

    /// A topic is no other node's, as far as we know. It may be that it was until now.
    fn stay(&mut self, id: TopicId) {
        let topic = &mut self.topics[id];
        let Some(local) = &mut topic.local else { return };
        if std::mem::take(&mut local.ceded) {
            // Some have not heard that it was not ours, and others have heard more than we have.
            let (name, epoch) = (topic.name.clone(), local.epoch.saturating_add(1));
            let epoch = self.partition_claim(name.as_str()).unwrap_or(epoch);
            self.partitions.ceded.remove(&id);
            self.go_on(id, epoch);
        }
        let topic = &mut self.topics[id];
        if topic.upstream.epoch != 0 || topic.upstream.have == UNNUMBERED {
            // Who listens here heard the owner before us, and may not have had all that it published.
            let first = topic.upstream.have.saturating_add(1);
            topic.upstream.forget();
            if !topic.subs.is_empty() {
                self.deliver_gap(id, first, None);
            }
        }
        if let Some(uplink) = self.topics[id].uplink.take() {
            self.publish_rest(id, &uplink.log, 0);
        }
    }

    /// We go on as the owner of a topic under another epoch, because somebody else may have gone on from the one before. Who
    /// hears us is told that something may be missing, and who publishes to us begins anew.
    pub(super) fn go_on(&mut self, id: TopicId, epoch: u64) {
        let topic = &mut self.topics[id];
        let name = topic.name.clone();
        let Some(local) = topic.local.as_mut() else { return };
        let node = self.options.id;
        let old = std::mem::replace(&mut local.epoch, epoch);
        let mut told = Vec::new();
        if let Some(flow) = local.flow.get_mut() {
            let doubt = flow.log.next();
            flow.doubts(doubt);
            flow.follows(Before { node, epoch: old });
            for cursor in &mut flow.cursors {
                if self.links[cursor.link].protocol == Protocol::Extended {
                    cursor.defined = false;
                    told.push((cursor.link, doubt));
                }
            }
        }
        for (link, doubt) in told {
            self.send(link, &Command::GoesOn { topic: name.as_str(), epoch, doubt });
        }
        self.announce(&Command::Announce { topic: name.as_str(), epoch });
        self.owner_changed(name.as_str(), Some(node), Some(epoch));
        self.changed = true;
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
        // A node that has restarted may own it in its new life already.
        if !topic.elsewhere.owners.iter().any(|owner| node.is_some() && owner.node == node) {
            self.owner_changed(name.as_str(), node, None);
        }
        // A partition whose topic goes on will have another owner.
        let destroyed = destroyed && !self.awaits_owner(name.as_str());
        let topic = &mut self.topics[id];
        if destroyed
            && topic.elsewhere.owners.is_empty()
            && let Some(upstream) = topic.upstream.get_mut()
            && (node.is_none() || upstream.owner == node)
        {
            // There is nothing to resume.
            upstream.forget();
        }
        if destroyed && self.topics[id].local.is_none() && !self.topics[id].is_elsewhere() {
            // What it has not taken was not meant for the next topic of this name.
            self.uplink_ends(id);
        }
        self.reroute(id);
        self.topic_gc(id);
        self.changed = true;
    }
}
