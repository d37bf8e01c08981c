//! Who here listens to what, and who elsewhere is told of it.

use super::{
    Amount, Event, LinkId, Node, Output, PeerId, Right, SubId, Told, TopicId, inward::NotFollowed,
    topics::TopicError,
};
use crate::{
    TopicPattern,
    cluster::{
        command::{Command, Resume},
        ring::Fit,
    },
};

impl Node {
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
        let first =
            local.flow.log.next().saturating_sub(local.options.replay as u64).max(local.flow.log.first());
        let mut wake = false;
        for sequence in first..local.flow.log.next() {
            if let Some(payload) = local.flow.log.get(sequence) {
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
        self.subs[sub].hungry.remove(&id);
        self.subs[sub].ring.promise(granted, Amount::default());
        self.reroute(id);
        // It may have been what the others waited for.
        if self.topics.get(id).is_some_and(|topic| !topic.subs.is_empty()) {
            self.credit_starved(id);
        }
        self.topic_gc(id);
    }

    fn send_open_interest(&mut self, pattern: &TopicPattern, begins: bool) {
        let text = pattern.to_string();
        let peers: Vec<PeerId> =
            self.peers.iter().filter(|(_, p)| p.node.is_some()).map(|(peer, _)| peer).collect();
        for peer in peers {
            match begins {
                true => self.tell_open_interest(peer, &text, false),
                false => {
                    self.peers[peer].refused.remove(&text);
                    for link in self.peers[peer].links.clone() {
                        if self.links[link].told.remove(&text).is_some() {
                            self.send(link, &Command::Unsubscribe { topic: &text, open: true });
                        }
                    }
                }
            }
        }
    }

    /// Tells a peer of an open interest, on one connection only: it would send everything twice.
    fn tell_open_interest(&mut self, peer: PeerId, text: &str, missed: bool) {
        let state = &mut self.peers[peer];
        let Some(&link) = state.links.first() else { return };
        if state.links.iter().any(|link| self.links[*link].told.contains_key(text)) {
            return;
        }
        state.refused.remove(text);
        self.links[link].told.insert(text.to_owned(), Told::Asked { missed });
        let resume = Resume { open: true, ..Resume::default() };
        self.send(link, &Command::Subscribe { topic: text, resume: Some(resume) });
    }

    /// Sends all open interest to a peer that has just come up, or that knows us better now. If something may have been
    /// `missed` until it knows, that is told when it does: earlier, what it says meanwhile would be missed in silence.
    pub(super) fn send_open_interests(&mut self, peer: PeerId, missed: bool) {
        let all: std::collections::BTreeSet<String> = self
            .subs
            .iter()
            .filter(|(_, sub)| sub.open)
            .flat_map(|(_, sub)| sub.patterns.iter().map(TopicPattern::to_string))
            .collect();
        for text in all {
            self.tell_open_interest(peer, &text, missed);
        }
    }

    /// A peer has taken in an open interest.
    pub(super) fn open_interest_acked(&mut self, id: LinkId, text: &str) {
        self.changed = true;
        let Some(told) = self.links[id].told.get_mut(text) else { return };
        if std::mem::replace(told, Told::Acked) != (Told::Asked { missed: true }) {
            return;
        }
        for (id, sub) in self.subs.iter_mut().filter(|(_, sub)| sub.open) {
            for pattern in sub.patterns.iter().filter(|pattern| pattern.to_string() == text) {
                if sub.ring.push_gap(pattern, 0, None) {
                    self.outputs.push_back(Output::Readable(id));
                }
            }
        }
    }

    /// A peer does not let us do what we asked for on this connection. If it knows us by another name on another one, we ask
    /// there.
    pub(super) fn refused(&mut self, id: LinkId, text: &str, publish: bool) -> Result<(), NotFollowed> {
        let peer = self.links[id].peer.ok_or(NotFollowed)?;
        let better = self.peers[peer].links.first().is_some_and(|first| *first != id);
        let asked = if publish { None } else { self.links[id].told.remove(text) };
        let told = asked.is_some();
        if let Some(asked) = asked {
            match better {
                true => self.tell_open_interest(peer, text, asked == Told::Asked { missed: true }),
                false => drop(self.peers[peer].refused.insert(text.to_owned())),
            }
        }
        let topic = self.named(text);
        let better = match topic {
            Some(topic) => self.owner_link(topic).is_some_and(|link| link != id),
            None => better,
        };
        let now = self.now;
        let known = topic.and_then(|topic| {
            let state = &mut self.topics[topic];
            match (publish, &mut state.uplink) {
                (false, _) if state.upstream.link == Some(id) => {
                    state.upstream.refused = true;
                    Some(topic)
                }
                (true, Some(uplink)) if uplink.link == Some(id) => {
                    if !better {
                        // It will never be taken.
                        self.counters.dropped += uplink.log.len() as u64;
                        uplink.log.trim_to(uplink.log.next());
                        uplink.begin();
                        uplink.refused_at = Some(now);
                    }
                    Some(topic)
                }
                _ => None,
            }
        });
        let open = self.open_named(text).filter(|_| publish);
        let open = open.filter(|topic| self.links[id].cursors.contains(topic));
        if let Some(topic) = open {
            self.links[id].cursors.remove(&topic);
            self.links[id].lagging.remove(&topic);
            if let Some(local) = &mut self.topics[topic].local {
                local.flow.cursors.retain(|cursor| cursor.link != id);
            }
        }
        if !told && known.is_none() && open.is_none() {
            return Err(NotFollowed);
        }
        if let Some(topic) = known.filter(|topic| !self.topics[*topic].upstream.left.is_empty()) {
            let name = self.topics[topic].name.clone();
            self.unsubscribe_left(topic, &name);
        }
        match known.filter(|_| better) {
            Some(topic) => self.reroute(topic),
            None if told && better => {}
            None => {
                let right = if publish { Right::Publish } else { Right::Subscribe };
                let (topic, peer) = (text.to_owned(), self.links[id].info.name.clone());
                self.outputs.push_back(Output::Event(Event::Refused { topic, peer, right }));
            }
        }
        self.room();
        self.changed = true;
        Ok(())
    }

    /// The peer that does not let a subscription hear something of a pattern, if there is one.
    pub fn refused_by(&self, sub: SubId, pattern: &TopicPattern) -> Option<String> {
        let state = self.subs.get(sub)?;
        let peer = if state.open {
            let text = pattern.to_string();
            self.peers.iter().find(|(_, peer)| peer.refused.contains(&text)).map(|(peer, _)| peer)
        } else {
            let refused = |id: &&TopicId| {
                let topic = &self.topics[**id];
                topic.upstream.refused && pattern.matches(&topic.name)
            };
            state.topics.iter().find(refused).and_then(|id| self.remote_owner(*id))
        };
        let link = *self.peers.get(peer?)?.links.first()?;
        Some(self.links[link].info.name.clone())
    }

    /// Whether every subscription of `sub` is live where its topics are owned: nothing published from now on is missed.
    /// A topic without an owner is not live. Of a pattern those count that have one.
    pub fn is_live(&self, sub: SubId, pattern: &TopicPattern) -> bool {
        let Some(state) = self.subs.get(sub) else { return false };
        if state.open {
            let text = pattern.to_string();
            let acked = |link: &LinkId| self.links[*link].told.get(&text) == Some(&Told::Acked);
            return state.patterns.contains(pattern)
                && self.peers.iter().all(|(_, peer)| peer.node.is_none() || peer.links.iter().any(acked));
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
            TopicPattern::Exact(topic) => self.named(topic.as_str()).is_some_and(|id| live(&id)),
            TopicPattern::Prefix(_) => {
                let owned = |topic: &super::TopicState| topic.local.is_some() || topic.is_elsewhere();
                let matches = |topic: &super::TopicState| pattern.matches(&topic.name);
                let mut topics = state.topics.iter().filter(|id| owned(&self.topics[**id]));
                topics.all(|id| !matches(&self.topics[*id]) || live(id))
            }
        }
    }
}
