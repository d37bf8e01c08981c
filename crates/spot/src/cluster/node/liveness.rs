//! Time: what is due, who is silent, and who has been away for too long.

use std::time::Duration;

use super::{CREDIT_DELAY, Event, Node, Output, Protocol, links::GOSSIP_FAILURES_MAX};
use crate::cluster::{
    command::Command,
    membership::{PeerState, backoff},
    node::Policy,
};

impl Node {
    /// Tells the time. Everything that is due happens.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.dial_due();
        if self.credit_at.is_some_and(|at| at <= self.now) {
            self.credit_at = None;
            for topic in std::mem::take(&mut self.touched) {
                self.send_credit(topic);
            }
        }
        let heartbeat = self.options.heartbeat;
        let silence_max = heartbeat * self.options.heartbeats_missed_max;
        // Who was stopped, or had no turn, has heard nobody meanwhile: what peers said waits to be read.
        let late = self.now.saturating_sub(self.swept_at + heartbeat);
        if late > heartbeat {
            for (_, link) in &mut self.links {
                link.heard_at = (link.heard_at + late).min(self.now);
            }
        }
        for id in self.links.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            let link = &mut self.links[id];
            if !link.held_by.is_empty() {
                // It is we who do not listen.
                link.heard_at = self.now;
            }
            let silence = self.now.saturating_sub(link.heard_at);
            let suspect = silence > heartbeat * 2;
            if std::mem::replace(&mut link.suspect, suspect) != suspect {
                let state = if suspect { PeerState::Suspect } else { PeerState::Up };
                self.outputs
                    .push_back(Output::Event(Event::Peer { endpoint: link.info.name.clone(), state }));
            }
            if link.peer.is_none() && self.now.saturating_sub(link.since) > silence_max {
                // Its engine answers, and nobody knows what it owns.
                self.close(id, "it announced our kind and said no HELLO");
            } else if silence > silence_max {
                self.close(id, &format!("nothing heard for {:.1} s", silence.as_secs_f64()));
            } else if self.now.saturating_sub(link.pinged_at) >= heartbeat {
                link.pinged_at = self.now;
                let (pings, extended) = (link.info.pings, link.protocol == Protocol::Extended);
                match (pings, extended, link.peer) {
                    (true, ..) => self.outputs.push_back(Output::Ping(id)),
                    (_, true, _) => self.send(id, &Command::Ping(0)),
                    // The only thing that every peer answers.
                    (_, _, Some(peer)) => {
                        self.query(peer);
                    }
                    _ => {}
                }
            }
        }
        if self.now >= self.swept_at + heartbeat {
            self.swept_at = self.now;
            self.sweep();
        }
    }

    /// What need not be done in time: absent nodes that stay away, and publishers that are blocked for too long.
    fn sweep(&mut self) {
        let grace = self.options.resume_grace;
        let mut changed = Vec::new();
        let mut blocked = Vec::new();
        let mut away = Vec::new();
        for (id, topic) in &mut self.topics {
            if topic.stays_away(self.now, grace) {
                away.push(id);
            }
            let Some(local) = &mut topic.local else { continue };
            let Some(flow) = local.flow.get_mut() else { continue };
            let before = flow.absent.len();
            flow.absent.retain(|absent| self.now.saturating_sub(absent.since) < grace);
            if flow.absent.len() != before {
                changed.push(id);
            }
            flow.forget_publishers(self.now, |node| self.by_node.contains_key(node));
            if let (Some(since), Policy::Block { timeout }) = (flow.blocked_since, local.options.policy)
                && self.now.saturating_sub(since) >= timeout
                && !local.moving
            {
                blocked.push(id);
            }
        }
        for id in changed {
            self.acked_changed(id);
        }
        for id in away {
            self.give_up(id);
        }
        for id in blocked {
            self.evict(id);
            self.drain_backlog(id);
            // Whatever is still in the way: nobody is kept waiting for longer.
            self.release(id);
        }
        if self.held_links > 0 {
            // A topic may have moved on without its backlog.
            let held = self.links.iter().flat_map(|(_, link)| link.held_by.iter().copied());
            for id in held.filter(|id| !self.blocked.contains(id)).collect::<Vec<_>>() {
                self.release(id);
            }
        }
        self.sweep_moves();
        self.gossip_on();
        self.tell_drops();
    }

    /// When [`advance`](Self::advance) has something to do at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let heartbeat = self.options.heartbeat;
        let tick = (!self.links.is_empty() || !self.topics.is_empty()).then(|| {
            // Who is being closed is not asked any more.
            let open = self.links.iter().filter(|(_, link)| !link.closing);
            let ping = open.map(|(_, link)| link.pinged_at + heartbeat).min();
            ping.map_or(self.swept_at + heartbeat, |ping| ping.min(self.swept_at + heartbeat))
        });
        [tick, self.membership.next_due(), self.credit_at].into_iter().flatten().min()
    }

    pub(super) fn dial_due(&mut self) {
        for endpoint in self.membership.due(self.now) {
            self.outputs.push_back(Output::Dial(endpoint));
        }
    }

    /// Acknowledge soon, but not for every message.
    pub(super) fn credit_soon(&mut self) {
        if self.credit_at.is_none() {
            self.credit_at = Some(self.now + CREDIT_DELAY);
            self.outputs.push_back(Output::Timer);
        }
    }

    /// A dial came to nothing; it will be repeated.
    pub fn dial_failed(&mut self, endpoint: &str, reason: &str) {
        let target = self.membership.targets.get(endpoint);
        if target.is_some_and(|target| target.link.is_none()) {
            self.target_down(endpoint, reason);
        }
    }

    pub(super) fn target_down(&mut self, endpoint: &str, reason: &str) {
        let chance = self.chance();
        let (min, max) = (self.options.reconnect_min, self.options.reconnect_max);
        let Some(target) = self.membership.targets.get_mut(endpoint) else { return };
        target.link = None;
        target.retry_at = Some(self.now + backoff(min, max, target.failures, chance));
        target.failures = target.failures.saturating_add(1);
        target.state = PeerState::Down { reason: reason.to_owned() };
        let state = target.state.clone();
        if target.gossiped && target.failures > GOSSIP_FAILURES_MAX {
            self.membership.targets.remove(endpoint);
        }
        self.outputs.push_back(Output::Event(Event::Peer { endpoint: endpoint.to_owned(), state }));
        self.outputs.push_back(Output::Timer);
        self.changed = true;
    }
}
