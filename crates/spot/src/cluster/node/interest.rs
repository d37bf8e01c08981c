//! Who here listens to what, and who elsewhere is told of it.

use super::{Amount, LinkId, Node, Output, SubId, TopicId, topics::TopicError};
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
