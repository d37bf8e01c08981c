//! State managers against the service: offline, online, conflicts; all agree in the end and each write counts once.

use std::{collections::VecDeque, sync::Arc};

use crdt_core::ClientId;
use eventsync::{
    ConflictResolver, EventSyncStorage, PageLimit, ProblemType, Resume, Scope, SnapshotPolicy, StateManager,
    SyncService, SyncServiceOptions,
    client::Applied,
    feed::FeedItem,
    protocol::{Push, PushOp},
    service::{FeedReader, WriteOptions},
    shelf::MemoryShelf,
};
use futures_util::FutureExt;
use nodestorage::{DocumentId, MemoryStorage, Producer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

struct Client {
    id: ClientId,
    manager: StateManager,
    reader: Option<FeedReader>,
    /// Sent, and not yet with the server.
    out: VecDeque<Push>,
    counter: u64,
}

fn go() -> DocumentId {
    DocumentId::new("go").unwrap()
}

impl Client {
    fn connect(&mut self, service: &SyncService) {
        let resume: Resume = self.manager.resume().into();
        self.reader = Some(service.follow(Scope::Document(go()), resume, PageLimit::at_most(3)));
    }

    fn disconnect(&mut self) {
        self.reader = None;
        self.out.clear();
        self.manager.on_disconnected();
    }

    fn listen(&mut self) -> bool {
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
            FeedItem::Live { .. } | FeedItem::Resync { .. } => {}
        }
        true
    }

    /// Sends what there is; with `lost` the answer does not arrive.
    async fn talk(&mut self, service: &SyncService, resolver: &ConflictResolver, lost: bool) -> bool {
        if self.reader.is_none() {
            return false;
        }
        self.out.extend(self.manager.poll_push());
        let Some(push) = self.out.pop_front() else { return false };
        let mut options = WriteOptions::by(self.id.clone());
        options.producer = Producer { client_id: self.id.clone(), sequence: push.client_seq };
        options.base_version = push.base_version;
        let answer = service.write(&go(), &push.op, options).await;
        if lost {
            self.disconnect();
            return true;
        }
        let sequence = push.client_seq.unwrap();
        match answer {
            Ok(written) => self.manager.on_pushed(sequence, written.version),
            Err(refusal) => {
                assert!(!refusal.problem.is(ProblemType::SequenceGap), "{:?}", refusal.problem);
                self.manager.on_rejected(sequence, &refusal.problem, refusal.current.as_ref(), resolver);
            }
        }
        true
    }
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let resolver = [
        ConflictResolver::ServerWins,
        ConflictResolver::ClientWins,
        ConflictResolver::ThreeWayMerge,
        ConflictResolver::LastWriterWins,
    ]
    .into_iter()
    .nth(seed as usize % 4)
    .unwrap();
    // Without guards nothing conflicts, and every single write must be there in the end.
    let guarded = seed.is_multiple_of(3);
    let service = SyncService::start(SyncServiceOptions {
        storage: Arc::new(EventSyncStorage::new(Arc::new(MemoryStorage::default()))),
        shelf: Arc::new(MemoryShelf::new()),
        snapshots: SnapshotPolicy::STANDARD,
        compaction: None,
        rules: None,
    })
    .await
    .unwrap();
    let state = json!({"name": "Go"}).as_object().unwrap().clone();
    service
        .write(&go(), &PushOp::Create { state }, WriteOptions::by(ClientId::new("server").unwrap()))
        .await
        .unwrap();
    let mut clients: Vec<Client> = (0..3)
        .map(|n| {
            let id = ClientId::new(format!("c.{n}")).unwrap();
            let manager = StateManager::new(go(), id.clone(), 0);
            Client { id, manager, reader: None, out: VecDeque::new(), counter: 0 }
        })
        .collect();
    for step in 0..150 {
        let client = rng.random_range(0..clients.len());
        let client = &mut clients[client];
        match rng.random_range(0..10) {
            0..3 => {
                client.counter += 1;
                let patch = json!({client.id.as_str(): client.counter, "last": client.id.as_str()});
                client.manager.write(
                    PushOp::Merge { patch: patch.as_object().unwrap().clone() },
                    guarded,
                    step,
                );
                assert_eq!(client.manager.view()["last"].as_str().is_some(), client.manager.version() > 0);
            }
            3..6 => {
                client.listen();
            }
            6..8 => {
                let lost = rng.random_bool(0.3);
                client.talk(&service, &resolver, lost).await;
            }
            8 => client.disconnect(),
            _ => {
                client.disconnect();
                client.connect(&service);
            }
        }
        tokio::task::yield_now().await;
    }
    for client in &mut clients {
        client.disconnect();
        client.connect(&service);
    }
    let mut quiet = 0;
    while quiet < 5 {
        let mut busy = false;
        for client in &mut clients {
            busy |= client.listen();
            busy |= client.talk(&service, &resolver, false).await;
        }
        quiet = if busy { 0 } else { quiet + 1 };
        tokio::task::yield_now().await;
    }
    let latest = service.latest(&go()).await.unwrap();
    for client in &clients {
        assert_eq!(client.manager.version(), latest.version);
        assert_eq!(client.manager.pending().count(), 0);
        assert_eq!(client.manager.view(), latest.value(), "the view is the store's");
        assert_eq!(*client.manager.state_vector(), latest.state_vector);
        if !guarded && client.counter > 0 {
            assert_eq!(latest.value()[client.id.as_str()], client.counter, "every write counts");
        }
    }
    service.close().await.unwrap();
}

#[test]
fn clients_agree_in_the_end_and_each_write_counts_once() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Ok(seed) = std::env::var("WEFT_SEED") {
        return runtime().block_on(run(seed.parse().expect("WEFT_SEED is a number")));
    }
    for seed in 0..120 {
        if let Err(panic) = std::panic::catch_unwind(|| runtime().block_on(run(seed))) {
            eprintln!("failed with WEFT_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
