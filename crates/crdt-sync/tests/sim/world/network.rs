//! The network between replicas, and what they want of it.

use std::time::Duration;

use crdt_sync::session::Input;

use super::{What, World};
use crate::{outsider, replica::Wish};

/// How bad the network is, in per cent.
pub(super) struct Trouble {
    pub(super) loss: u64,
    pub(super) repeat: u64,
    pub(super) delay_max_ms: u64,
}

impl World {
    pub(super) fn fulfil(&mut self, from: usize, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::TryAgain(pause) => self.plan(self.now + pause, What::Sync(from)),
                Wish::Stopped => {
                    *self.counts.entry("stopped").or_insert(0) += 1;
                    let pause = self.random.ms(3000);
                    self.plan(self.now + pause, What::Restart(from));
                }
                Wish::SyncSoon => {
                    let pause = self.random.ms(30);
                    self.plan(self.now + pause, What::Sync(from));
                }
                Wish::Broadcast(record) => {
                    self.acknowledged.insert(record.id);
                    #[cfg(feature = "crypto")]
                    self.signed.made.push(record.clone());
                    if self.lies(from) {
                        self.forge(from, &record);
                    }
                    for to in 0..self.replicas.len() {
                        self.deliver(from, to, Input::Heard(record.clone()));
                    }
                }
                Wish::Send(to, message) => {
                    let answer = to.as_ref().and_then(|to| outsider::answers(&mut self.random, to, &message));
                    if let Some((name, message, pause)) = answer {
                        let input = Input::Message { from: name, message }.into();
                        self.plan(self.now + pause, What::Deliver { to: from, input });
                    }
                    let message = self.maybe_lie(from, message);
                    #[cfg(feature = "crypto")]
                    let message = self.maybe_go_on(from, message);
                    for to_index in 0..self.replicas.len() {
                        if to.as_ref().is_none_or(|to| *to == self.replicas[to_index].id) {
                            let from_id = self.replicas[from].id.clone();
                            let input = Input::Message { from: from_id, message: message.clone() };
                            self.deliver(from, to_index, input);
                        }
                    }
                }
            }
        }
        self.tell_windows(from);
        let at = self.replicas[from].machine.wakes_at().max(self.now + Duration::from_millis(1));
        if self.wakes[from] <= self.now || at < self.wakes[from] {
            self.wakes[from] = at;
            self.plan(at, What::Wake(from));
        }
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize, input: Input) {
        if from == to || self.side[from] != self.side[to] || self.random.percent(self.trouble.loss) {
            return;
        }
        let copies = if self.random.percent(self.trouble.repeat) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = self.slow.filter(|(index, _)| [from, to].contains(index));
            let times = slow.map_or(1, |(_, times)| times);
            let delay = self.random.ms(self.trouble.delay_max_ms * times);
            self.plan(self.now + delay, What::Deliver { to, input: Box::new(input.clone()) });
        }
    }
}
