//! A server that can stall, be restored from a backup, and answer before it has decided; and clients that lose answers,
//! connections and memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crdt_core::ClientId;
use eventsync::{
    ConflictResolver, EventSyncStorage, PageLimit, Problem, ProblemType, Resume, Scope, SnapshotPolicy,
    StateManager, SyncService, SyncServiceOptions,
    client::{Applied, Rejected},
    feed::FeedItem,
    protocol::{Push, PushOp},
    service::{FeedReader, Refusal, WriteOptions, Written},
    shelf::MemoryShelf,
};
use futures_util::FutureExt;
use nodestorage::{DocumentId, MemoryStorage, Producer, StorageOptions};
use serde_json::{Value, json};

pub(crate) fn go() -> DocumentId {
    DocumentId::new("go").unwrap()
}

fn push_of(op: PushOp) -> Push {
    Push { document_id: go(), client_seq: None, base_version: None, op }
}

pub(crate) struct Server {
    pub(crate) service: SyncService,
    /// What it took as new, and when, in order: its backup is the beginning of it.
    pub(crate) taken: Vec<(ClientId, Push, u64)>,
    /// The time of the next write. It goes on when the server goes back.
    time: u64,
    clock: Arc<AtomicU64>,
    /// Answered `unavailable`, while nobody knows whether they will be done.
    stalled: VecDeque<(ClientId, Push)>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let clock = Arc::default();
        let mut server = Self {
            service: service(Arc::clone(&clock)).await,
            taken: Vec::new(),
            time: 1_767_225_600_000,
            clock,
            stalled: VecDeque::new(),
        };
        let state = json!({"name": "Go", "log": []}).as_object().unwrap().clone();
        let create = push_of(PushOp::Create { state });
        server.write(&ClientId::new("server").unwrap(), create).await.unwrap();
        server
    }

    async fn write(&mut self, client: &ClientId, push: Push) -> Result<Written, Refusal> {
        self.time += 1;
        self.write_at(self.time, client, push).await
    }

    async fn write_at(&mut self, time: u64, client: &ClientId, push: Push) -> Result<Written, Refusal> {
        self.clock.store(time, Ordering::Relaxed);
        let mut options = WriteOptions::by(client.clone());
        options.producer = Producer { client_id: client.clone(), sequence: push.client_seq };
        options.base_version = push.base_version;
        let answer = self.service.write(&go(), &push.op, options).await;
        if answer.as_ref().is_ok_and(|written| !written.repeated) {
            self.taken.push((client.clone(), push, time));
        }
        answer
    }

    /// Looks whether the write has its turn; then says that it can't tell, and goes on to try.
    async fn stall(&mut self, client: &ClientId, push: Push) -> Result<Written, Refusal> {
        let last = self.taken.iter().rev().find(|(by, ..)| by == client);
        let last = last.and_then(|(_, push, _)| push.client_seq).unwrap_or(0);
        if push.client_seq != Some(last + 1) {
            return self.write(client, push).await;
        }
        self.stalled.push_back((client.clone(), push));
        Err(Problem::new(ProblemType::Unavailable, "timed out").with("retryAfterMs", 1000).into())
    }

    /// Does the oldest of what stalled; or forgets it, as one of the two became of it.
    pub(crate) async fn recover(&mut self, done: bool) {
        if let Some((client, push)) = self.stalled.pop_front()
            && done
        {
            let _ = self.write(&client, push).await;
        }
    }

    pub(crate) async fn recover_all(&mut self) {
        while !self.stalled.is_empty() {
            self.recover(true).await;
        }
    }

    /// Goes back to what it was after so many writes.
    pub(crate) async fn restore(&mut self, backup: usize) {
        self.service.close().await.unwrap();
        self.service = service(Arc::clone(&self.clock)).await;
        self.stalled.clear();
        for (client, push, time) in std::mem::take(&mut self.taken).drain(..backup) {
            self.write_at(time, &client, push).await.unwrap();
        }
    }
}

async fn service(clock: Arc<AtomicU64>) -> SyncService {
    let clock = Arc::new(move || clock.load(Ordering::Relaxed));
    let documents = MemoryStorage::new(StorageOptions::default(), clock);
    SyncService::start(SyncServiceOptions {
        storage: Arc::new(EventSyncStorage::new(Arc::new(documents))),
        shelf: Arc::new(MemoryShelf::new()),
        snapshots: SnapshotPolicy::STANDARD,
        compaction: None,
        rules: None,
    })
    .await
    .unwrap()
}

/// What becomes of a push on its way.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Luck {
    Answered,
    /// Done, and the answer is lost with the connection.
    Lost,
    /// Answered before it is done, if it is.
    Stalled,
    /// Too large for the way, that is answered there; an attempt by another way may have got through.
    TooLarge {
        /// And be done later.
        stalls: bool,
    },
}

pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) manager: StateManager,
    reader: Option<FeedReader>,
    /// Whether it has caught up on this connection: nothing is sent before.
    live: bool,
    /// Sent, and not yet with the server.
    out: VecDeque<Push>,
    /// How many writes it made.
    pub(crate) counter: u64,
    /// What its resolver was asked about.
    pub(crate) conflicts: usize,
}

impl Client {
    pub(crate) fn new(name: &str) -> Self {
        let id = ClientId::new(name).unwrap();
        let manager = StateManager::new(go(), id.clone());
        Self { id, manager, reader: None, live: false, out: VecDeque::new(), counter: 0, conflicts: 0 }
    }

    pub(crate) fn connect(&mut self, server: &Server) {
        self.live = false;
        let resume: Resume = self.manager.resume().into();
        self.reader = Some(server.service.follow(Scope::Document(go()), resume, PageLimit::at_most(3)));
    }

    pub(crate) fn disconnect(&mut self) {
        self.reader = None;
        self.out.clear();
        self.manager.on_disconnected();
    }

    /// Ends, and starts again with what it kept.
    pub(crate) fn restart(&mut self) {
        self.disconnect();
        let record = serde_json::to_vec(&self.manager.to_record()).unwrap();
        self.manager = StateManager::restore(self.id.clone(), serde_json::from_slice(&record).unwrap());
    }

    /// Ends, and starts again with nothing but its name.
    pub(crate) fn forget(&mut self) {
        self.disconnect();
        self.manager = StateManager::new(go(), self.id.clone());
    }

    /// Adds its next number to the log, by an operation that would add it twice if it were done twice.
    pub(crate) fn append(&mut self, guarded: bool, now: u64) -> String {
        self.counter += 1;
        let name = format!("{}:{}", self.id.as_str(), self.counter);
        let patch = json!([{"op": "add", "path": "/log/-", "value": name}]);
        self.manager.write(PushOp::Patch { patch: serde_json::from_value(patch).unwrap() }, guarded, now);
        name
    }

    pub(crate) fn merge(&mut self, patch: Value, guarded: bool, now: u64) {
        self.manager.write(PushOp::Merge { patch: patch.as_object().unwrap().clone() }, guarded, now);
    }

    /// The names in the log that are not known to be with the server.
    pub(crate) fn unsent(&self) -> BTreeSet<String> {
        self.manager.pending().flat_map(|pending| names(&pending.op)).collect()
    }

    pub(crate) fn listen(&mut self) -> bool {
        let Some(item) = self.reader.as_mut().and_then(|reader| reader.next().now_or_never()) else {
            return false;
        };
        match item.unwrap() {
            FeedItem::Events(events) => {
                for event in events {
                    assert_eq!(self.manager.on_event(&event).unwrap(), Applied::Merged);
                }
            }
            FeedItem::Snapshot(snapshot) => self.manager.on_snapshot(&snapshot),
            FeedItem::Live { .. } => self.live = true,
            FeedItem::Resync { .. } => {}
        }
        true
    }

    /// Takes in what there is.
    pub(crate) async fn catch_up(&mut self) {
        let mut quiet = 0;
        while quiet < 5 {
            quiet = if self.listen() { 0 } else { quiet + 1 };
            tokio::task::yield_now().await;
        }
    }

    /// Sends what there is.
    pub(crate) async fn talk(
        &mut self,
        server: &mut Server,
        resolver: &ConflictResolver,
        luck: Luck,
    ) -> bool {
        if self.reader.is_none() || !self.live {
            return false;
        }
        self.out.extend(self.manager.poll_push());
        let Some(push) = self.out.pop_front() else { return false };
        let sequence = push.client_seq.unwrap();
        let answer = match luck {
            // What changes nothing is small enough for any way.
            Luck::TooLarge { stalls } if !names(&push.op).is_empty() => {
                if stalls {
                    let _ = server.stall(&self.id, push).await;
                }
                Err(Problem::new(ProblemType::TooLarge, "this way is narrow").into())
            }
            Luck::Stalled => server.stall(&self.id, push).await,
            Luck::Answered | Luck::Lost | Luck::TooLarge { .. } => server.write(&self.id, push).await,
        };
        if luck == Luck::Lost {
            self.disconnect();
            return true;
        }
        match answer {
            Ok(Written { version, repeated, .. }) => self.manager.on_pushed(sequence, version, repeated),
            Err(Refusal { problem, current }) => {
                let became = self.manager.on_rejected(sequence, &problem, current.as_ref(), resolver);
                self.conflicts += usize::from(became == Rejected::Decided);
            }
        }
        true
    }
}

/// Says and hears until nobody has anything to say.
pub(crate) async fn come_to_rest(clients: &mut [Client], server: &mut Server, resolver: &ConflictResolver) {
    let mut quiet = 0;
    while quiet < 5 {
        let mut busy = false;
        for client in &mut *clients {
            busy |= client.listen();
            busy |= client.talk(server, resolver, Luck::Answered).await;
        }
        quiet = if busy { 0 } else { quiet + 1 };
        tokio::task::yield_now().await;
    }
}

/// The names that a write adds to the log.
pub(crate) fn names(op: &PushOp) -> Vec<String> {
    let PushOp::Patch { patch } = op else { return Vec::new() };
    let patch = serde_json::to_value(patch).unwrap();
    patch.as_array().unwrap().iter().map(|op| op["value"].as_str().unwrap().to_owned()).collect()
}

/// How often each name is in the log.
pub(crate) fn counted(state: &Value) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for name in state["log"].as_array().unwrap() {
        *counted.entry(name.as_str().unwrap().to_owned()).or_default() += 1;
    }
    counted
}
