//! Runs the machine over a topic.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use spot::{PubSub, Received, Subscription, SubscriptionOptions, Topic};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::Instrument as _;

use super::{Presence, PresenceCounters, PresenceInput, PresenceOptions, PresenceOutput, farewell};
use crate::{ChannelError, Guard, PeerId};

/// How long a message may take to be sent: meanwhile nothing is heard, and nobody found to be gone.
const SEND_MAX: Duration = Duration::from_secs(1);

/// The presence of this replica, and of the others, over a topic.
///
/// Dropping it is going without a word: the others notice after [`PresenceOptions::expiry`].
pub struct PubSubPresence {
    shared: Arc<Shared>,
    options: PresenceOptions,
    /// `None` once it was told to go.
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the task and the application share.
struct Shared {
    /// What the application shows and the task has not seen yet; the last one wins, so there is no queue.
    show: Mutex<Option<Bytes>>,
    leave: Mutex<bool>,
    /// Tells the task of either.
    wanted: Notify,
    others: Mutex<BTreeMap<PeerId, Bytes>>,
    /// Who said goodbye since [`take_left`](PubSubPresence::take_left), [`LEFT_MAX`] at the most.
    left: Mutex<BTreeSet<PeerId>>,
    counters: Mutex<PresenceCounters>,
    malformed: AtomicU64,
    doubted: AtomicU64,
    /// Counts changes of `others`.
    version: watch::Sender<u64>,
    name_taken: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder makes one short change; none can leave it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many that said goodbye are remembered for discovery; above it some count as if they had gone without a word.
const LEFT_MAX: usize = 4096;

/// More than may be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("presence of {len} bytes: at most {max} can be shown")]
pub struct ShownTooLarge {
    /// How many bytes were to be shown.
    pub len: usize,
    /// The bound.
    pub max: usize,
}

impl PubSubPresence {
    /// Comes to the others on a topic, which must be another one than those of patches and synchronisation.
    pub async fn join(
        pubsub: Arc<dyn PubSub>,
        topic: Topic,
        own: PeerId,
        options: PresenceOptions,
    ) -> Result<Self, ChannelError> {
        Self::join_guarded(pubsub, topic, own, options, None).await
    }

    /// The same in a group that signs, if there is a guard: says goodbye with a signature, and believes none in the name of a
    /// [voice](Guard::has_voice) without it.
    pub(crate) async fn join_guarded(
        pubsub: Arc<dyn PubSub>,
        topic: Topic,
        own: PeerId,
        options: PresenceOptions,
        guard: Option<Arc<dyn Guard>>,
    ) -> Result<Self, ChannelError> {
        let subscription = pubsub.subscribe(topic.clone().into(), SubscriptionOptions::STANDARD).await?;
        // A later start must have a greater number.
        let run = since_epoch().as_nanos() as u64;
        let shared = Arc::new(Shared {
            show: Mutex::default(),
            leave: Mutex::default(),
            wanted: Notify::new(),
            others: Mutex::default(),
            left: Mutex::default(),
            counters: Mutex::default(),
            malformed: AtomicU64::new(0),
            doubted: AtomicU64::new(0),
            version: watch::Sender::new(0),
            name_taken: watch::Sender::new(false),
        });
        let span = tracing::debug_span!("presence", %topic, %own);
        let machine = Presence::new(options, own, run, Duration::ZERO, run);
        let task = run_machine(machine, pubsub, topic, subscription, guard, Arc::clone(&shared));
        let task = tokio::spawn(task.instrument(span));
        Ok(Self { shared, options, task: Mutex::new(Some(task)) })
    }

    /// Shows something else to the others: soon, and with whatever else is set until then.
    pub fn show(&self, shown: impl Into<Bytes>) -> Result<(), ShownTooLarge> {
        let (shown, max) = (shown.into(), self.options.shown_bytes_max);
        if shown.len() > max {
            return Err(ShownTooLarge { len: shown.len(), max });
        }
        *lock(&self.shared.show) = Some(shown);
        self.shared.wanted.notify_one();
        Ok(())
    }

    /// Who else is here, and what each shows.
    pub fn others(&self) -> BTreeMap<PeerId, Bytes> {
        lock(&self.shared.others).clone()
    }

    /// Who said goodbye since this was asked the last time.
    pub(crate) fn take_left(&self) -> BTreeSet<PeerId> {
        std::mem::take(&mut *lock(&self.shared.left))
    }

    /// Counts the changes of [`others`](Self::others), to wait for the next one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Becomes true when another replica uses this one's name and came later. The others see that one only.
    pub fn name_taken(&self) -> watch::Receiver<bool> {
        self.shared.name_taken.subscribe()
    }

    /// What was counted, and how many messages were none.
    pub fn counters(&self) -> (PresenceCounters, u64) {
        let doubted = self.shared.doubted.load(Relaxed);
        let counters = PresenceCounters { doubted, ..*lock(&self.shared.counters) };
        (counters, self.shared.malformed.load(Relaxed))
    }

    /// Says goodbye, so that the others see it at once. Afterwards nothing is shown or heard any more.
    pub async fn leave(&self) {
        *lock(&self.shared.leave) = true;
        self.shared.wanted.notify_one();
        let task = lock(&self.task).take();
        if let Some(task) = task {
            let _ = task.await; // If it panicked, that was reported there.
        }
    }
}

impl Drop for PubSubPresence {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a driver: by it starts are told apart, and old goodbyes from new ones"
)]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn now_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// Sends one message. A lost one is made up for by the next.
async fn send(pubsub: &dyn PubSub, topic: &Topic, message: Bytes) {
    match tokio::time::timeout(SEND_MAX, pubsub.publish(topic, message)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%topic, %error, "presence was not sent"),
        Err(_) => tracing::debug!(%topic, "presence was not sent within {SEND_MAX:?}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock for its machine")]
async fn run_machine(
    mut machine: Presence,
    pubsub: Arc<dyn PubSub>,
    topic: Topic,
    mut subscription: Subscription,
    guard: Option<Arc<dyn Guard>>,
    shared: Arc<Shared>,
) {
    let start = Instant::now();
    let mut input = PresenceInput::Tick;
    loop {
        let leave = input == PresenceInput::Leave;
        machine.handle_input(start.elapsed(), input);
        let mut changed = false;
        while let Some(output) = machine.poll_output() {
            match output {
                PresenceOutput::Send(message) => {
                    // The signed form first: who reads it has heard the other one then, and releases that read only that know no
                    // more than they did.
                    let guard = guard.as_deref().filter(|_| !message.here);
                    if let Some(signed) = guard.and_then(|guard| farewell::say(&message, guard, now_ms())) {
                        send(&*pubsub, &topic, signed).await;
                    }
                    send(&*pubsub, &topic, message.encode()).await;
                }
                PresenceOutput::Shows { peer, shown } => {
                    lock(&shared.left).remove(&peer);
                    lock(&shared.others).insert(peer, shown);
                    changed = true;
                }
                PresenceOutput::Left(peer) => {
                    let mut left = lock(&shared.left);
                    if left.len() < LEFT_MAX {
                        left.insert(peer.clone());
                    }
                    drop(left);
                    lock(&shared.others).remove(&peer);
                    changed = true;
                }
                PresenceOutput::Gone(peer) => {
                    lock(&shared.others).remove(&peer);
                    changed = true;
                }
                PresenceOutput::NameTaken => {
                    tracing::warn!(%topic, "another replica uses this one's name");
                    shared.name_taken.send_replace(true);
                }
            }
        }
        *lock(&shared.counters) = machine.counters();
        if changed {
            shared.version.send_modify(|version| *version += 1);
        }
        if leave {
            return;
        }
        input = tokio::select! {
            () = tokio::time::sleep_until(start + machine.wakes_at()) => PresenceInput::Tick,
            () = shared.wanted.notified() => {
                if *lock(&shared.leave) {
                    PresenceInput::Leave
                } else {
                    lock(&shared.show).take().map_or(PresenceInput::Tick, PresenceInput::Show)
                }
            }
            received = subscription.recv() => match received {
                None => {
                    // Nobody can be heard any more, so nobody is known to be here.
                    lock(&shared.others).clear();
                    shared.version.send_modify(|version| *version += 1);
                    return;
                }
                Some(Received::Message(message)) => match farewell::hear(&message.payload, guard.as_deref(), now_ms()) {
                    Ok(Some(message)) => PresenceInput::Heard(message),
                    Ok(None) => {
                        tracing::debug!(%topic, "a goodbye in somebody's name without their signature");
                        shared.doubted.fetch_add(1, Relaxed);
                        PresenceInput::Tick
                    }
                    Err(error) => {
                        tracing::debug!(%topic, %error, "not a presence message");
                        shared.malformed.fetch_add(1, Relaxed);
                        PresenceInput::Tick
                    }
                },
                // The next heartbeats make up for what this reader was too slow for.
                Some(Received::Lagged { .. }) => PresenceInput::Tick,
                Some(_) => PresenceInput::Gap,
            },
        };
    }
}
