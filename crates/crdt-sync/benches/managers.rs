//! Managers end to end, as an application has them: documents, stores in memory, topics in one process.
//!
//! How many patches a second reach all replicas, how many bytes that is on the wire, how long a replica takes that comes
//! late, and what a document costs that nobody touches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{EncodingFormat, SessionId};
use crdt_sync::{
    MemoryPatchStore, PeerId, PubSubBroadcaster, PubSubSyncer, SharedModel, SyncManager,
    discovery::{MemoryPeerDiscovery, MemoryPeers},
    session::{SessionOptions, TrickleOptions},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use spot::{
    MemoryPubSub, PubSub, PubSubError, Published, Subscription, SubscriptionOptions, Topic, TopicPattern,
};
use tokio::runtime::{Builder, Runtime};

/// How many edits are under way at the same time.
const BURST: usize = 128;
/// How many edits a replica that comes late has missed, in words at places all over the text.
const HISTORY: usize = 100_000;
const WORD: usize = 8;
/// How many bytes an edit may take on the patch channel: a character with its place, its author and its cause.
const EDIT_BYTES_MAX: usize = 40;
/// How many idle documents are measured, and what each may take.
const IDLE: usize = 2000;
const IDLE_BYTES_MAX: usize = 64 << 10;

/// Topics in memory that count what goes over the one that patches take.
struct Counting {
    hub: MemoryPubSub,
    patch_bytes: AtomicUsize,
}

#[async_trait]
impl PubSub for Counting {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        if topic.as_str() == "patches" {
            self.patch_bytes.fetch_add(payload.len(), Relaxed);
        }
        self.hub.publish(topic, payload).await
    }

    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        self.hub.subscribe(pattern, options).await
    }

    async fn close(&self) {
        self.hub.close().await;
    }
}

struct Group {
    wire: Arc<Counting>,
    peers: MemoryPeers,
}

struct Replica {
    document: Arc<SharedModel>,
    manager: SyncManager,
}

impl Group {
    fn new() -> Self {
        let wire = Arc::new(Counting { hub: MemoryPubSub::new(), patch_bytes: AtomicUsize::new(0) });
        Self { wire, peers: MemoryPeers::new() }
    }

    /// Ids as they are drawn: large.
    async fn join(&self, number: usize) -> Replica {
        let session = SessionId::new(0x0012_3456_789a_bc00 + number as u64).unwrap();
        let (own, format) = (PeerId::new(format!("node-{number}")).unwrap(), EncodingFormat::Binary);
        let document = Arc::new(SharedModel::new(session));
        let pubsub: Arc<dyn PubSub> = Arc::<Counting>::clone(&self.wire);
        let topic = |name| Topic::new(name).unwrap();
        let broadcaster =
            PubSubBroadcaster::new(Arc::clone(&pubsub), topic("patches"), format).await.unwrap();
        let syncer = PubSubSyncer::new(pubsub, topic("sync"), own.clone(), format).await.unwrap();
        let manager = SyncManager::new(
            Arc::<SharedModel>::clone(&document) as _,
            Arc::new(broadcaster),
            Arc::new(syncer),
            Arc::new(MemoryPeerDiscovery::new(&self.peers, own)),
            Arc::new(MemoryPatchStore::new()),
        )
        .with_options(SessionOptions {
            settle: Duration::from_millis(5),
            trickle: TrickleOptions {
                interval_min: Duration::from_millis(100),
                interval_max: Duration::from_secs(1),
                ..TrickleOptions::STANDARD
            },
            ..SessionOptions::standard(session)
        });
        manager.start(number as u64).await.unwrap();
        Replica { document, manager }
    }
}

impl Replica {
    fn text_len(&self) -> usize {
        self.document.view().as_str().map_or(0, str::len)
    }

    /// Types characters, each a patch of its own.
    async fn type_on(&self, count: usize) {
        let start = self.text_len();
        let edit = |index: usize| {
            let typed =
                self.document.edit(|model| model.api().str("").and_then(|mut s| s.ins(start + index, "x")));
            typed.unwrap().unwrap()
        };
        let patches: Vec<_> = (0..count).map(edit).collect();
        for done in join_all(patches.iter().map(|patch| self.manager.apply_patch(patch))).await {
            done.unwrap();
        }
    }

    /// Types words at places all over the text, each character a patch of its own.
    async fn type_words(&self, count: usize, random: &mut u64) {
        let mut place = 0;
        let edit = |index: usize| {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let len = self.text_len_now();
            place = if index.is_multiple_of(WORD) { (*random >> 33) as usize % (len + 1) } else { place + 1 };
            let typed =
                self.document.edit(|model| model.api().str("").and_then(|mut text| text.ins(place, "x")));
            typed.unwrap().unwrap()
        };
        let patches: Vec<_> = (0..count).map(edit).collect();
        for done in join_all(patches.iter().map(|patch| self.manager.apply_patch(patch))).await {
            done.unwrap();
        }
    }

    /// How long the text is, without making it.
    fn text_len_now(&self) -> usize {
        self.document.with(|document| document.root().map_or(0, |root| root.child().unwrap_or(root).len()))
    }

    /// Waits until everything of a session up to a time is here.
    async fn has(&self, sid: SessionId, time: u64) {
        let mut changes = self.document.changes();
        while self.document.with(|document| document.state_vector().get(&sid)) < time {
            changes.changed().await.unwrap();
        }
    }
}

/// What the first replica has made so far.
fn written(replica: &Replica) -> (SessionId, u64) {
    replica.document.with(|document| (document.session(), document.state_vector().get(&document.session())))
}

async fn all_have(replicas: &[Replica]) {
    let (sid, time) = written(&replicas[0]);
    join_all(replicas.iter().map(|replica| replica.has(sid, time))).await;
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn begun(group: &Group, count: usize) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for number in 0..count {
        replicas.push(group.join(number).await);
    }
    let root = replicas[0].document.edit(|model| model.api().root("")).unwrap().unwrap();
    replicas[0].manager.apply_patch(&root).await.unwrap();
    all_have(&replicas).await;
    replicas
}

/// From the edit to the text of every other replica.
fn live(criterion: &mut Criterion) {
    let mut measured = criterion.benchmark_group("live");
    for count in [2, 8, 64] {
        let runtime = runtime();
        let group = Group::new();
        let replicas = runtime.block_on(begun(&group, count));
        let (before, mut edits) = (group.wire.patch_bytes.load(Relaxed), 0);
        measured.throughput(Throughput::Elements((BURST * (count - 1)) as u64));
        measured.bench_function(format!("{count} replicas, {BURST} edits"), |bencher| {
            bencher.iter(|| {
                edits += BURST;
                runtime.block_on(async {
                    replicas[0].type_on(BURST).await;
                    all_have(&replicas).await;
                });
            });
        });
        let bytes = (group.wire.patch_bytes.load(Relaxed) - before) / edits;
        println!("live/{count} replicas: {bytes} bytes per edit on the wire");
        assert!(bytes <= EDIT_BYTES_MAX);
        assert!(replicas.iter().all(|replica| replica.text_len() == edits));
    }
}

/// From the start of a replica with nothing to the text with 100 000 edits.
fn catch_up(criterion: &mut Criterion) {
    let runtime = runtime();
    let group = Group::new();
    let source = runtime.block_on(async {
        let mut replicas = begun(&group, 1).await;
        let mut random = 1;
        for _ in 0..HISTORY / 1000 {
            replicas[0].type_words(1000, &mut random).await;
        }
        replicas.remove(0)
    });
    let (sid, time) = written(&source);
    let mut measured = criterion.benchmark_group("catch-up");
    measured.sample_size(10).throughput(Throughput::Elements(HISTORY as u64));
    let mut number = 1;
    println!("catch-up/{HISTORY} patches: of one author, words of {WORD} characters at random places");
    measured.bench_function(format!("{HISTORY} patches"), |bencher| {
        bencher.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    number += 1;
                    #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
                    let start = Instant::now();
                    let late = group.join(number).await;
                    late.has(sid, time).await;
                    took += start.elapsed();
                    assert_eq!(late.text_len(), HISTORY);
                    late.manager.stop().await;
                }
                took
            })
        });
    });
}

/// Bytes of memory that the process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this bench reads /proc, on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line about it");
    line.trim().trim_end_matches("kB").trim().parse::<usize>().expect("a number") << 10
}

/// Documents that are open and synchronised, and that nobody edits: each with a group of its own.
fn idle(criterion: &mut Criterion) {
    let runtime = runtime();
    let open = || {
        runtime.block_on(async {
            let group = Group::new();
            let replica = begun(&group, 1).await.remove(0);
            (group, replica)
        })
    };
    let warm: Vec<_> = (0..16).map(|_| open()).collect();
    let before = resident();
    let documents: Vec<_> = (0..IDLE).map(|_| open()).collect();
    let each = resident().saturating_sub(before) / IDLE;
    println!("idle: {each} bytes of memory per document");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes per document");
    assert!(documents.iter().chain(&warm).all(|(_, replica)| replica.text_len() == 0));
    drop((documents, warm));
    criterion.bench_function("open and close an empty document", |bencher| {
        bencher.iter(|| {
            let (_group, replica) = open();
            runtime.block_on(replica.manager.stop());
        });
    });
}

criterion_group!(benches, idle, live, catch_up);
criterion_main!(benches);
