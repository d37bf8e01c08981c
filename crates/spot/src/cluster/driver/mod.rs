//! A node with sockets, tasks and a clock around its machine.

mod buffers;
mod endpoint;
mod link;
mod listening;
mod options;
mod spot;
mod stream;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, Semaphore, broadcast, watch},
    time::Instant,
};

pub use endpoint::{Endpoint, InvalidEndpoint};
pub use listening::Listening;
pub use options::{SpotError, SpotOptions};
pub use spot::Spot;

use super::{
    node::{Event, LinkId, LinkInfo, Node, Output, Role, SubId},
    zmtp::{Encoder, Security},
};
use buffers::Buffers;
use link::LinkIo;
use stream::{Listener, Stream};

/// What the machine's outputs need, under the machine's lock, because they are about its numbers.
struct Inner {
    node: Node,
    links: HashMap<LinkId, Arc<LinkIo>>,
    subs: HashMap<SubId, Arc<Notify>>,
    closed: bool,
}

/// What all handles and tasks of a node share.
pub(crate) struct Shared {
    options: SpotOptions,
    began: Instant,
    /// Held shortly: for one call of the machine, never across an await.
    inner: Mutex<Inner>,
    /// Publishers that wait for room.
    room: Notify,
    /// Wakes the timer's task.
    timer: Notify,
    /// Counts changes that calls wait for.
    changed: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
    /// Strangers that may shake hands at the same time; others wait in the kernel's queue.
    handshakes: Arc<Semaphore>,
    /// How to talk to endpoints that differ from the rest.
    securities: Mutex<HashMap<String, Security>>,
    /// Bytes that connections hold of messages that are not whole yet.
    unfinished: AtomicUsize,
    /// Endpoints to be dialed.
    dials: Mutex<Vec<String>>,
    /// Of all connections.
    buffers: Buffers,
    /// Bytes published since a publisher last let the other tasks run.
    unbroken: AtomicUsize,
    /// Says that the node is closed.
    closing: watch::Sender<bool>,
}

impl Shared {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Calls the machine, and does what it says.
    #[inline]
    fn with<R>(&self, call: impl FnOnce(&mut Node) -> R) -> R {
        let mut inner = self.inner.lock();
        let result = call(&mut inner.node);
        if inner.node.has_outputs() {
            self.follow(inner);
        }
        result
    }

    /// As [`with`](Self::with), unless the node is closed: what is taken then goes nowhere.
    #[inline]
    fn with_open<R>(&self, call: impl FnOnce(&mut Node) -> R) -> Result<R, SpotError> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(SpotError::Closed);
        }
        let result = call(&mut inner.node);
        if inner.node.has_outputs() {
            self.follow(inner);
        }
        Ok(result)
    }

    /// Does what the machine says.
    fn follow(&self, mut inner: MutexGuard<'_, Inner>) {
        let mut writes: Vec<(LinkId, Arc<LinkIo>)> = Vec::new();
        let mut rest = Vec::new();
        {
            let inner = &mut *inner;
            while let Some(output) = inner.node.poll_output() {
                match output {
                    Output::Write(id) => writes.extend(inner.links.get(&id).map(|io| (id, io.clone()))),
                    Output::Readable(sub) => {
                        if let Some(notify) = inner.subs.get(&sub) {
                            notify.notify_one();
                        }
                    }
                    Output::Resume(id) => {
                        if let Some(io) = inner.links.get(&id) {
                            io.resume();
                        }
                    }
                    Output::Ping(id) => rest.extend(inner.links.get(&id).map(|io| Rest::Ping(io.clone()))),
                    Output::Close(id, reason) => {
                        rest.extend(inner.links.get(&id).map(|io| Rest::Close(io.clone(), reason)));
                    }
                    Output::Dial(endpoint) => rest.push(Rest::Dial(endpoint)),
                    Output::Room => self.room.notify_waiters(),
                    Output::Timer => self.timer.notify_one(),
                    Output::Changed => self.changed.send_modify(|n| *n += 1),
                    Output::Event(event) => {
                        // Nobody listening is fine.
                        let _ = self.events.send(event);
                    }
                }
            }
        }
        drop(inner);
        match &writes[..] {
            [(id, io)] => io.write_now(self, *id),
            // One call to the system for each would keep the caller from filling the next batch.
            many => many.iter().for_each(|(_, io)| io.wake()),
        }
        for output in rest {
            match output {
                Rest::Ping(io) => io.control(&Encoder::ping(self.ttl())),
                Rest::Close(io, reason) => io.close(reason),
                Rest::Dial(endpoint) => {
                    self.dials.lock().push(endpoint);
                    self.timer.notify_one();
                }
            }
        }
    }

    /// How long our silence may last, in tenths of a second, as it is told with each PING.
    fn ttl(&self) -> u16 {
        let node = &self.options.node;
        let ttl = node.heartbeat * node.heartbeats_missed_max;
        u16::try_from(ttl.as_millis() / 100).unwrap_or(u16::MAX)
    }

    fn link_up(&self, info: LinkInfo, io: &Arc<LinkIo>) -> Option<LinkId> {
        let id = {
            let mut inner = self.inner.lock();
            if inner.closed {
                return None;
            }
            let now = self.now();
            inner.node.set_now(now);
            let id = inner.node.link_up(info);
            inner.links.insert(id, io.clone());
            id
        };
        self.with(|_| {});
        Some(id)
    }

    fn link_closed(&self, id: LinkId, reason: &str) {
        let now = self.now();
        if let Some(io) = self.inner.lock().links.remove(&id) {
            io.go();
        }
        self.with(|node| {
            node.set_now(now);
            node.link_closed(id, reason);
        });
    }

    fn handshake_failed(&self, role: &Role, name: &str, reason: String) -> String {
        if let Role::Dialed(_) = role {
            let now = self.now();
            self.with(|node| {
                node.set_now(now);
                node.dial_failed(name, &reason);
            });
        }
        reason
    }

    /// Dials what is due and tells the machine the time, until the node is closed.
    async fn tend(self: Arc<Self>) {
        let mut closing = self.closing.subscribe();
        loop {
            let due = self.inner.lock().node.poll_timeout();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(self.began + due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.timer.notified() => {}
                _ = closing.wait_for(|closed| *closed) => return,
            }
            let now = self.now();
            if due.is_some_and(|due| due <= now) {
                self.with(|node| node.advance(now));
                self.buffers.clear();
            }
            let due = std::mem::take(&mut *self.dials.lock());
            for endpoint in due {
                tokio::spawn(self.clone().dial(endpoint));
            }
        }
    }

    async fn dial(self: Arc<Self>, endpoint: String) {
        let mut closing = self.closing.subscribe();
        let work = async {
            let role = Role::Dialed(endpoint.clone());
            let connecting = async {
                let parsed: Endpoint =
                    endpoint.parse().map_err(|error: InvalidEndpoint| error.to_string())?;
                Stream::connect(&parsed).await.map_err(|error| error.to_string())
            };
            let timeout = self.options.handshake_timeout;
            match tokio::time::timeout(timeout, connecting).await {
                Ok(Ok(stream)) => {
                    let security = self.securities.lock().get(&endpoint).cloned();
                    let security = security.unwrap_or_else(|| self.options.client.clone());
                    link::run(self.clone(), stream, role, endpoint.clone(), security, None).await;
                }
                Ok(Err(reason)) => drop(self.handshake_failed(&role, &endpoint, reason)),
                Err(_) => {
                    drop(self.handshake_failed(
                        &role,
                        &endpoint,
                        format!("no connection within {timeout:?}"),
                    ));
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = closing.wait_for(|closed| *closed) => {}
        }
    }

    async fn listen(self: Arc<Self>, mut listener: Listener) {
        let mut closing = self.closing.subscribe();
        loop {
            let next = async {
                let permit = self.handshakes.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                _ = closing.wait_for(|closed| *closed) => return,
            };
            match accepted {
                Ok((stream, name)) => {
                    let mut closing = self.closing.subscribe();
                    let security = self.options.server.clone();
                    let running =
                        link::run(self.clone(), stream, Role::Accepted, name, security, permit.ok());
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = running => {}
                            _ = closing.wait_for(|closed| *closed) => {}
                        }
                    });
                }
                // Out of file handles, for example: a breath, so that the others can go on.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

enum Rest {
    Ping(Arc<LinkIo>),
    Close(Arc<LinkIo>, String),
    Dial(String),
}
