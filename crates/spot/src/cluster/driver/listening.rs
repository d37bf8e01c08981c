//! A subscription of its own, beside the node's.

use std::{sync::Arc, time::Duration};

use futures_util::stream::{BoxStream, StreamExt};
use tokio::sync::Notify;

use super::{Spot, SpotError, spot::TAKE_MAX};
use crate::{
    TopicPattern,
    cluster::{
        node::SubId,
        ring::{Arrival, Taken},
    },
};

/// A subscription with its own queue. Dropping it unsubscribes.
pub struct Listening {
    spot: Spot,
    sub: SubId,
    notify: Arc<Notify>,
    buffer: Taken,
}

impl Listening {
    pub(super) fn new(spot: Spot, sub: SubId, notify: Arc<Notify>) -> Self {
        Self { spot, sub, notify, buffer: Taken::default() }
    }

    /// Adds a topic or pattern.
    pub fn add(&self, pattern: &str) -> Result<(), SpotError> {
        let pattern = TopicPattern::new(pattern)?;
        Ok(self.spot.shared().with_open(|node| node.subscribe(self.sub, pattern))??)
    }

    pub(crate) fn add_pattern(&self, pattern: TopicPattern) -> Result<(), SpotError> {
        Ok(self.spot.shared().with_open(|node| node.subscribe(self.sub, pattern))??)
    }

    /// Waits until a topic or pattern is live: nothing published from then on is missed silently.
    pub async fn wait_live(&self, pattern: &str, timeout: Duration) -> Result<(), SpotError> {
        let pattern = TopicPattern::new(pattern)?;
        self.wait_pattern_live(&pattern, timeout).await
    }

    pub(crate) async fn wait_pattern_live(
        &self,
        pattern: &TopicPattern,
        timeout: Duration,
    ) -> Result<(), SpotError> {
        self.spot.shared().wait_live(self.sub, pattern, timeout).await
    }

    /// The next arrival; `None` when the node is closed and all is read. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Arrival> {
        loop {
            if let Some(arrival) = self.try_recv() {
                return Some(arrival);
            }
            if self.spot.shared().is_closed() {
                return None;
            }
            self.notify.notified().await;
        }
    }

    /// The next arrival if it is there already.
    pub fn try_recv(&mut self) -> Option<Arrival> {
        if self.buffer.is_empty() {
            self.refill(TAKE_MAX);
        }
        self.buffer.next()
    }

    /// Waits for arrivals and takes all that are there, up to `max`; 0 when the node is closed. Cancel-safe.
    pub async fn recv_many(&mut self, max: usize, into: &mut Vec<Arrival>) -> usize {
        loop {
            if self.buffer.is_empty() && self.refill(max) == 0 {
                if self.spot.shared().is_closed() {
                    return 0;
                }
                self.notify.notified().await;
                continue;
            }
            let before = into.len();
            into.extend(self.buffer.by_ref().take(max));
            return into.len() - before;
        }
    }

    /// As a stream, which ends when the node is closed and all is read.
    pub fn into_stream(self) -> BoxStream<'static, Arrival> {
        let next = async |mut listening: Self| listening.recv().await.map(|arrival| (arrival, listening));
        futures_util::stream::unfold(self, next).boxed()
    }

    fn refill(&mut self, max: usize) -> usize {
        self.spot.shared().with(|node| node.take(self.sub, max, &mut self.buffer))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let shared = self.spot.shared();
        shared.inner.lock().subs.remove(&self.sub);
        shared.with(|node| node.sub_close(self.sub));
    }
}
