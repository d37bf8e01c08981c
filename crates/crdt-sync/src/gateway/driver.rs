//! Runs the clients of one document.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use spot::{PubSub, Topic};
use tokio::sync::{Mutex, Semaphore};

use super::{
    client::{ClientInput, ClientOptions, ClientOutput, ClientSession, ClientTrouble},
    follower::Follower,
    growth::Growths,
    shares::Shares,
};
use crate::{
    ChannelError, DocumentError, PatchStore, PeerId, SharedModel, SyncError, SyncManager,
    presence::{PresenceOptions, PubSubPresence},
    session::Refusal,
};

/// How long a client may take to read one message; then it is let go, and can come back.
const SEND_MAX: Duration = Duration::from_secs(30);
/// Clients that are served at the same time; a further one is told to come back later.
const CLIENTS_MAX: usize = 1024;

/// A socket to a client, message by message.
pub trait ClientSocket: Send {
    /// Waits for the next message; `None` when the client has gone. Cancel-safe.
    fn recv(&mut self) -> impl Future<Output = Option<Bytes>> + Send;

    /// Writes a message. Returns whether the client is still there.
    fn send(&mut self, message: Bytes) -> impl Future<Output = bool> + Send;
}

/// Why a client is no longer served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Parting {
    /// It went.
    #[error("the client went")]
    Gone,
    /// It took too long to read.
    #[error("the client did not read a message within {SEND_MAX:?}")]
    Slow,
    /// It did not say who it is.
    #[error("the client did not say who it is within {0:?}")]
    Silent(Duration),
    /// There is no room for it now.
    #[error("{CLIENTS_MAX} clients are served already")]
    Full,
    /// There is no room for the state vectors that it takes; see [`ClientOptions::all_entries_max`].
    #[error("the clients hold {entries_max} entries of state vectors together, the most that they may")]
    Crowded {
        /// How many all may hold together.
        entries_max: usize,
    },
    /// It said something wrong.
    #[error(transparent)]
    Trouble(#[from] ClientTrouble),
    /// Its patch was refused, or the node stopped, or its store failed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// Presence could not be reached.
    #[error(transparent)]
    Presence(#[from] ChannelError),
}

impl Parting {
    /// Whether it is what the client said that ended it, so that it would be refused again. All else is a state of the node
    /// or of the line between them: the client is welcome to come again and bring the same.
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Trouble(ClientTrouble::Hole) => false,
            // Until some are folded.
            Self::Sync(SyncError::Refused(Refusal::TooManyUnfoldedSessions { .. })) => false,
            Self::Trouble(_) | Self::Sync(SyncError::Refused(_)) => true,
            Self::Gone | Self::Slow | Self::Silent(_) | Self::Full | Self::Crowded { .. } => false,
            Self::Sync(_) | Self::Presence(_) => false,
        }
    }
}

/// Serves the clients of one document on a node.
pub struct Gateway {
    node: PeerId,
    manager: Arc<SyncManager>,
    store: Arc<dyn PatchStore>,
    presence: (Arc<dyn PubSub>, Topic, PresenceOptions),
    options: ClientOptions,
    // Held while a snapshot is made: the next who asks gets the same one.
    follower: Mutex<Follower>,
    stored: Growths,
    places: Semaphore,
    shares: Shares,
    sent_away: AtomicU64,
}

impl Gateway {
    /// Serves clients of what `manager` keeps in step and `store` holds. `presence` is the topic on which all show
    /// themselves.
    ///
    /// # Errors
    /// If what every replica starts from does not apply.
    pub fn new(
        node: PeerId,
        manager: Arc<SyncManager>,
        document: &SharedModel,
        store: Arc<dyn PatchStore>,
        presence: (Arc<dyn PubSub>, Topic, PresenceOptions),
    ) -> Result<Self, DocumentError> {
        let follower = Mutex::new(Follower::new(Arc::clone(&store), document.base().cloned())?);
        let (options, places) = (ClientOptions::STANDARD, Semaphore::new(CLIENTS_MAX));
        let (stored, shares, sent_away) = (Growths::default(), Shares::default(), AtomicU64::new(0));
        Ok(Self { node, manager, store, presence, options, follower, stored, places, shares, sent_away })
    }

    /// The same with other bounds.
    #[must_use]
    pub fn with_options(mut self, options: ClientOptions) -> Self {
        self.options = options;
        self
    }

    /// How many clients are served now.
    pub fn clients(&self) -> usize {
        CLIENTS_MAX - self.places.available_permits()
    }

    /// How many entries of state vectors they hold together; see [`ClientOptions::all_entries_max`].
    pub fn entries(&self) -> usize {
        self.shares.entries()
    }

    /// How many clients were sent away since the start, rather than went: there was no room, they were silent or too slow, or
    /// what they said or brought was refused.
    pub fn sent_away(&self) -> u64 {
        self.sent_away.load(Ordering::Relaxed)
    }

    /// Serves one client until it goes, or until it says something wrong.
    #[tracing::instrument(level = "debug", skip_all, fields(node = %self.node))]
    pub async fn serve(&self, socket: &mut impl ClientSocket) -> Parting {
        let parting = self.serve_if_there_is_room(socket).await;
        if !matches!(parting, Parting::Gone) {
            tracing::debug!(reason = %parting, "sent a client away");
            self.sent_away.fetch_add(1, Ordering::Relaxed);
        }
        parting
    }

    async fn serve_if_there_is_room(&self, socket: &mut impl ClientSocket) -> Parting {
        let Ok(_place) = self.places.try_acquire() else { return Parting::Full };
        let mut presence = None;
        let parting = match self.run(socket, &mut presence).await {
            Ok(()) => Parting::Gone,
            Err(parting) => parting,
        };
        if let Some(presence) = presence {
            // At once, instead of when it has been silent for too long.
            presence.leave().await;
        }
        parting
    }

    async fn run(
        &self,
        socket: &mut impl ClientSocket,
        presence: &mut Option<PubSubPresence>,
    ) -> Result<(), Parting> {
        let mut machine = ClientSession::new(self.node.clone(), self.options).with_store(self.store.id());
        if !self.manager.takes_patches_bare() {
            machine = machine.without_what_was_lost();
        }
        let mut stored = self.manager.stored();
        let told = |since| self.manager.grown_since(since);
        let count = *stored.borrow_and_update();
        let mut seen = {
            let (vector, next) = self.stored.at(count, told, || self.store.vector()).await?;
            machine.handle_input(ClientInput::Stored(vector));
            next
        };
        let entries_max = self.options.all_entries_max;
        let crowded = || Parting::Crowded { entries_max };
        let mut share = self.shares.enter(machine.entries(), entries_max).ok_or_else(crowded)?;
        let mut others = None;
        // A socket that says nothing holds a place that others wait for.
        let mut hello = pin!(tokio::time::sleep(self.options.hello_max));
        loop {
            while let Some(output) = machine.poll_output() {
                match output {
                    ClientOutput::Send(bytes) => {
                        let sent = tokio::select! {
                            sent = tokio::time::timeout(SEND_MAX, socket.send(bytes)) => sent,
                            () = share.let_go() => return Err(crowded()),
                        };
                        match sent {
                            Ok(true) => {}
                            Ok(false) => return Err(Parting::Gone),
                            Err(_) => return Err(Parting::Slow),
                        }
                    }
                    ClientOutput::Relay(record) => self.manager.relay(record).await?,
                    ClientOutput::Read { want, bytes_max } => {
                        let page = self.store.page(&want, bytes_max).await.map_err(SyncError::from)?;
                        machine.handle_input(ClientInput::Page(page));
                    }
                    ClientOutput::ReadSnapshot => {
                        let (vector, bytes) = self.follower.lock().await.snapshot().await?;
                        machine.handle_input(ClientInput::Snapshot { vector, bytes });
                    }
                    ClientOutput::Join(peer) => {
                        let (pubsub, topic, options) = &self.presence;
                        let joined =
                            PubSubPresence::join(Arc::clone(pubsub), topic.clone(), peer, *options).await?;
                        others = Some(joined.changes());
                        *presence = Some(joined);
                    }
                    ClientOutput::Show(shown) => {
                        if let Some(Err(error)) = presence.as_ref().map(|presence| presence.show(shown)) {
                            tracing::debug!(%error, "a client shows too much");
                        }
                    }
                    ClientOutput::Close(None) => return Ok(()),
                    ClientOutput::Close(Some(trouble)) => return Err(trouble.into()),
                }
            }
            let news = async {
                match &mut others {
                    Some(others) => drop(others.changed().await),
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                frame = socket.recv() => match frame {
                    Some(frame) => ClientInput::Frame(frame),
                    None => return Ok(()),
                },
                changed = stored.changed() => match changed {
                    Ok(()) => {
                        let count = *stored.borrow_and_update();
                        self.stored.since(count, told, || self.store.vector(), &mut seen).await?
                    }
                    Err(_) => return Ok(()),
                },
                () = share.let_go() => return Err(crowded()),
                () = &mut hello, if !machine.has_joined() => {
                    return Err(Parting::Silent(self.options.hello_max));
                }
                () = news => {
                    ClientInput::Others(presence.as_ref().map_or_else(BTreeMap::new, PubSubPresence::others))
                }
            };
            let is_word = matches!(input, ClientInput::Frame(_));
            machine.handle_input(input);
            if !is_word {
                share.follows(machine.entries());
            } else if !share.said(machine.entries()) {
                return Err(crowded());
            }
        }
    }
}
