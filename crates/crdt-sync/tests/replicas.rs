//! Whole replicas in one process: managers, channels, discovery, stores and real documents.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use crdt_core::{
    EncodingFormat, Model, Patch, PatchBuilder, SessionId, StateVector, Timestamp, Value,
    codec::Packing,
    model::{EditError, UndoOptions},
};
use crdt_sync::{
    CompactionPolicy, DiscoveryError, Heard, MemoryPatchStore, PatchRecord, PatchStore, PatchStoreError,
    PeerChange, PeerDiscovery, PeerId, PubSubBroadcaster, PubSubSyncer, SharedError, SharedModel,
    SnapshotHead, StoreRetry, SyncDocument as _, SyncError, SyncManager, SyncMessage, SyncStatus, Syncer,
    Want,
    dag::Link,
    discovery::{MemoryPeerDiscovery, MemoryPeers, StaticPeerDiscovery},
    session::{Refusal, SessionEvent, SessionOptions, SyncMode, TrickleOptions},
    store::PatchPage,
};
use serde_json::{Value as Json, json};
use spot::{MemoryPubSub, PubSub, Topic};

/// How long a test waits for what must come.
///
/// Most tests run under tokio's paused clock, which goes on only while everybody waits: no slow machine makes it pass.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a test looks whether something has come about of which nothing tells.
const LOOK: Duration = Duration::from_millis(5);

/// What the replicas of one document share.
#[derive(Clone)]
struct Group {
    pubsub: Arc<dyn PubSub>,
    peers: MemoryPeers,
    sync: SyncMode,
}

impl Group {
    fn new() -> Self {
        Self { pubsub: Arc::new(MemoryPubSub::new()), peers: MemoryPeers::new(), sync: SyncMode::Vectors }
    }

    /// One that synchronises by the DAG.
    fn with_dag() -> Self {
        Self { sync: SyncMode::Dag, ..Self::new() }
    }

    async fn join(&self, number: u64, format: EncodingFormat) -> Replica {
        self.join_with(number, format, Arc::new(MemoryPatchStore::new())).await
    }

    async fn join_with(&self, number: u64, format: EncodingFormat, store: Arc<dyn PatchStore>) -> Replica {
        self.join_policy(number, format, store, CompactionPolicy::STANDARD).await
    }

    async fn join_policy(
        &self,
        number: u64,
        format: EncodingFormat,
        store: Arc<dyn PatchStore>,
        policy: CompactionPolicy,
    ) -> Replica {
        let session = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        let document = Arc::new(SharedModel::new(session));
        self.join_document(number, format, document, store, |manager| manager.with_compaction(policy)).await
    }

    async fn join_document(
        &self,
        number: u64,
        format: EncodingFormat,
        document: Arc<SharedModel>,
        store: Arc<dyn PatchStore>,
        with: impl FnOnce(SyncManager) -> SyncManager,
    ) -> Replica {
        let id = PeerId::new(format!("node-{number}")).unwrap();
        let discovery = MemoryPeerDiscovery::new(&self.peers, id);
        self.join_found(number, format, document, store, discovery, with).await
    }

    async fn join_found(
        &self,
        number: u64,
        format: EncodingFormat,
        document: Arc<SharedModel>,
        store: Arc<dyn PatchStore>,
        discovery: impl PeerDiscovery + 'static,
        with: impl FnOnce(SyncManager) -> SyncManager,
    ) -> Replica {
        let syncer = self.syncer(number, format).await;
        self.join_over(number, format, document, store, (discovery, Arc::new(syncer)), with).await
    }

    async fn syncer(&self, number: u64, format: EncodingFormat) -> PubSubSyncer {
        let id = PeerId::new(format!("node-{number}")).unwrap();
        let topic = Topic::new("example-doc-sync").unwrap();
        PubSubSyncer::new(Arc::clone(&self.pubsub), topic, id, format).await.unwrap()
    }

    async fn join_over(
        &self,
        number: u64,
        format: EncodingFormat,
        document: Arc<SharedModel>,
        store: Arc<dyn PatchStore>,
        (discovery, syncer): (impl PeerDiscovery + 'static, Arc<dyn Syncer>),
        with: impl FnOnce(SyncManager) -> SyncManager,
    ) -> Replica {
        self.join_whole(number, format, document, store, (discovery, syncer), with, |options| options).await
    }

    /// The same with other bounds of its session.
    async fn join_bounded(
        &self,
        number: u64,
        document: Arc<SharedModel>,
        store: Arc<dyn PatchStore>,
        with: impl FnOnce(SyncManager) -> SyncManager,
        bounds: impl FnOnce(SessionOptions) -> SessionOptions,
    ) -> Replica {
        let format = EncodingFormat::Binary;
        let syncer = Arc::new(self.syncer(number, format).await);
        let discovery = MemoryPeerDiscovery::new(&self.peers, PeerId::new(format!("node-{number}")).unwrap());
        self.join_whole(number, format, document, store, (discovery, syncer), with, bounds).await
    }

    #[expect(clippy::too_many_arguments, reason = "every part of a replica may be another one")]
    async fn join_whole(
        &self,
        number: u64,
        format: EncodingFormat,
        document: Arc<SharedModel>,
        store: Arc<dyn PatchStore>,
        (discovery, syncer): (impl PeerDiscovery + 'static, Arc<dyn Syncer>),
        with: impl FnOnce(SyncManager) -> SyncManager,
        bounds: impl FnOnce(SessionOptions) -> SessionOptions,
    ) -> Replica {
        let session = document.session();
        let topic = Topic::new("example-doc-patches").unwrap();
        let broadcaster = PubSubBroadcaster::new(Arc::clone(&self.pubsub), topic, format).await.unwrap();
        let manager = SyncManager::new(
            Arc::<SharedModel>::clone(&document) as _,
            Arc::new(broadcaster),
            syncer,
            Arc::new(discovery),
            store,
        );
        let manager = with(manager).with_options(bounds(SessionOptions {
            sync: self.sync,
            settle: Duration::from_millis(20),
            request_timeout: Duration::from_millis(500),
            distrust: Duration::from_millis(1000),
            trickle: TrickleOptions { interval_min: Duration::from_millis(100), ..TrickleOptions::STANDARD },
            ..SessionOptions::standard(session)
        }));
        manager.start(number).await.unwrap();
        Replica { document, manager }
    }
}

struct Replica {
    document: Arc<SharedModel>,
    manager: SyncManager,
}

impl Replica {
    async fn edit<T>(&self, edit: impl FnOnce(&mut Model) -> Result<T, EditError>) -> Patch {
        let patch = self.document.edit(edit).unwrap().expect("an edit");
        self.manager.apply_patch(&patch).await.unwrap();
        patch
    }

    /// Waits until the replica stands so.
    async fn stands(&self, what: &str, holds: impl Fn(&SyncStatus) -> bool) {
        let mut last = None;
        let stands = async {
            loop {
                let status = self.manager.status().await.unwrap();
                if holds(&status) {
                    return;
                }
                last = Some(status);
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, stands).await.is_err() {
            panic!("{what}: {last:?}");
        }
    }

    /// Folds until `all` is folded: others have to say first that they have it.
    async fn folds(&self, all: &StateVector<SessionId>) {
        self.folds_within(PATIENCE, all).await;
    }

    async fn folds_within(&self, patience: Duration, all: &StateVector<SessionId>) {
        let folded = async {
            while self.manager.compact().await.unwrap() != *all {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(patience, folded).await.expect("all have all");
    }

    /// Waits until the document looks so.
    async fn sees(&self, expect: &Value) {
        self.sees_within(PATIENCE, expect).await;
    }

    async fn sees_within(&self, patience: Duration, expect: &Value) {
        let mut changes = self.document.changes();
        let seen = async {
            while self.document.view() != *expect {
                changes.changed().await.expect("the document is here");
            }
        };
        if tokio::time::timeout(patience, seen).await.is_err() {
            assert_eq!(self.document.view(), *expect);
        }
    }
}

fn json(value: serde_json::Value) -> Value {
    Value::from(&value)
}

#[tokio::test(start_paused = true)]
async fn replicas_with_different_encodings_agree() {
    let group = Group::new();
    let mut replicas = Vec::new();
    for (number, format) in EncodingFormat::ALL.into_iter().enumerate() {
        replicas.push(group.join(number as u64, format).await);
    }
    let start = json(json!({"title": "Example Document", "authors": []}));
    replicas[0].edit(|model| model.api().root(start.clone())).await;
    for replica in &replicas {
        replica.sees(&start).await;
    }
    for (number, replica) in replicas.iter().enumerate() {
        let name = format!("user{number}");
        replica.edit(|model| model.api().obj("").unwrap().set([(name, number as i64)])).await;
    }
    let all = json(
        json!({"title": "Example Document", "authors": [], "user0": 0, "user1": 1, "user2": 2, "user3": 3}),
    );
    for replica in &replicas {
        replica.sees(&all).await;
        replica.manager.stop().await;
    }
}

async fn a_late_replica_catches_up_page_by_page_in(group: Group) {
    let first = group.join(1, EncodingFormat::Binary).await;
    first.edit(|model| model.api().root("")).await;
    let mut text = String::new();
    for index in 0..500 {
        let word = format!("word{index} ");
        first.edit(|model| model.api().str("").unwrap().ins(text.len(), word.as_str())).await;
        text.push_str(&word);
    }
    let late = group.join(2, EncodingFormat::Binary).await;
    late.sees(&Value::from(text.as_str())).await;
    let status = late.manager.status().await.unwrap();
    assert_eq!(status.counters.applied, 501);
    assert_eq!(status.now.parked, 0);
}

#[tokio::test(start_paused = true)]
async fn a_late_replica_catches_up_page_by_page() {
    a_late_replica_catches_up_page_by_page_in(Group::new()).await;
    a_late_replica_catches_up_page_by_page_in(Group::with_dag()).await;
}

async fn a_replica_starts_again_where_its_store_is_in(alone: Group) {
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let first = alone.join_with(1, EncodingFormat::Binary, Arc::clone(&store)).await;
    first.edit(|model| model.api().root(json(json!({"a": 1})))).await;
    first.manager.stop().await;
    first.document.edit(|model| model.api().obj("").unwrap().set([("lost", 1)])).unwrap();

    let again = alone.join_with(2, EncodingFormat::Binary, Arc::clone(&store)).await;
    assert_eq!(again.document.view(), json(json!({"a": 1})), "what was handed over, and no more");
    again.edit(|model| model.api().obj("").unwrap().set([("b", 2)])).await;
    again.manager.compact().await.unwrap();
    again.manager.stop().await;

    let third = alone.join_with(3, EncodingFormat::Binary, store).await;
    assert_eq!(third.document.view(), json(json!({"a": 1, "b": 2})));
}

#[tokio::test(start_paused = true)]
async fn a_replica_starts_again_where_its_store_is() {
    a_replica_starts_again_where_its_store_is_in(Group::new()).await;
    a_replica_starts_again_where_its_store_is_in(Group::with_dag()).await;
}

#[tokio::test(start_paused = true)]
async fn handing_over_again_changes_nothing_and_handing_over_anothers_is_refused() {
    let group = Group::new();
    let (first, second) =
        (group.join(1, EncodingFormat::Binary).await, group.join(2, EncodingFormat::Binary).await);
    let patch = first.edit(|model| model.api().root(1)).await;
    first.manager.apply_patch(&patch).await.unwrap();
    assert_eq!(first.manager.status().await.unwrap().counters.broadcast, 1);
    let error = second.manager.apply_patch(&patch).await.unwrap_err();
    assert!(matches!(error, SyncError::NotOwn { .. }), "{error}");
    first.manager.stop().await;
    assert!(matches!(first.manager.apply_patch(&patch).await, Err(SyncError::Stopped)));
}

/// Two tasks edit one after the other, and hand their patches over the other way round.
#[tokio::test(start_paused = true)]
async fn patches_handed_over_in_the_wrong_order_reach_all() {
    for group in [Group::new(), Group::with_dag()] {
        let (first, second) =
            (group.join(1, EncodingFormat::Binary).await, group.join(2, EncodingFormat::Binary).await);
        first.edit(|model| model.api().root(Value::Map(Vec::new()))).await;
        let set = |name: &str, value| {
            first.document.edit(|model| model.api().obj("")?.set([(name, value)])).unwrap()
        };
        let (one, two) = (set("one", 1).unwrap(), set("two", 2).unwrap());
        first.manager.apply_patch(&two).await.unwrap();
        first.manager.apply_patch(&one).await.unwrap();
        second.sees(&json(json!({"one": 1, "two": 2}))).await;
        assert_eq!(first.manager.status().await.unwrap().counters.broadcast, 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn edits_of_many_tasks_are_all_stored_and_reach_all() {
    const TASKS: u64 = 8;
    const EDITS: u64 = 50;
    let group = Group::new();
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let first = Arc::new(group.join_with(1, EncodingFormat::Binary, Arc::clone(&store)).await);
    let second = group.join(2, EncodingFormat::Binary).await;
    first.edit(|model| model.api().root(Value::Map(Vec::new()))).await;
    let tasks = (0..TASKS).map(|task| {
        let first = Arc::clone(&first);
        tokio::spawn(async move {
            for index in 0..EDITS {
                let name = format!("{task}-{index}");
                first.edit(|model| model.api().obj("")?.set([(name.as_str(), 1)])).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut view = first.document.view();
    let Value::Map(fields) = &mut view else { panic!("a map") };
    assert_eq!(fields.len() as u64, TASKS * EDITS);
    second.sees(&view).await;
    // And what was acknowledged is durable: another document, from that store alone.
    first.manager.stop().await;
    let alone = Group::new().join_with(3, EncodingFormat::Binary, store).await;
    assert_eq!(alone.document.view(), view);
}

/// A patch that no document remembers can't be stored behind a later one; that is said, not passed over.
#[tokio::test(start_paused = true)]
async fn a_patch_below_what_was_handed_over_and_not_of_it_is_refused() {
    let first = Group::new().join(1, EncodingFormat::Binary).await;
    let patch_at = |time| {
        let mut builder = PatchBuilder::new(first.document.session(), time);
        let text = builder.new_str();
        builder.ins_val(Timestamp::ORIGIN, text);
        builder.finish().unwrap()
    };
    first.manager.apply_patch(&patch_at(10)).await.unwrap();
    first.manager.apply_patch(&patch_at(10)).await.unwrap();
    // Another one in the same place is not the same one, however long it is.
    let mut other = PatchBuilder::new(first.document.session(), 10);
    let map = other.new_obj();
    other.ins_val(Timestamp::ORIGIN, map);
    let refused = first.manager.apply_patch(&other.finish().unwrap()).await;
    assert!(matches!(refused, Err(SyncError::Refused(Refusal::OutOfOrder(_)))), "{refused:?}");
    for late in [1, 9, 11] {
        let error = first.manager.apply_patch(&patch_at(late)).await.unwrap_err();
        assert_eq!(error.to_string(), format!("local patch 65537.{late} is not the next one of its session"));
    }
    assert_eq!(first.manager.status().await.unwrap().counters.broadcast, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_used_twice_is_noticed() {
    let group = Group::new();
    let (first, twin) = (group.join(1, EncodingFormat::Binary).await, {
        let elsewhere = Group { peers: MemoryPeers::new(), ..group.clone() };
        elsewhere.join(1, EncodingFormat::Binary).await
    });
    let mut events = first.manager.events();
    twin.edit(|model| model.api().root(1)).await;
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event").unwrap();
    let SessionEvent::Refused(refusal) = event else { panic!("{event:?}") };
    assert_eq!(
        refusal.to_string(),
        "patch 65537.1 is not the one known here: its session is used by two replicas"
    );
    assert_eq!(first.document.session(), twin.document.session());
}

/// Two replicas write the same place of one session, apart. Each takes the other's for its own, unless it sees the hash.
#[tokio::test(start_paused = true)]
async fn two_patches_at_one_place_are_noticed_by_their_hashes() {
    let group = Group::with_dag();
    let first = group.join(1, EncodingFormat::Binary).await;
    let elsewhere = Group { pubsub: Arc::new(MemoryPubSub::new()), ..group.clone() };
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let twin = elsewhere.join_with(1, EncodingFormat::Binary, Arc::clone(&store)).await;
    first.edit(|model| model.api().root(1)).await;
    twin.edit(|model| model.api().root(2)).await;
    twin.manager.stop().await;

    let mut events = first.manager.events();
    let third = group.join_with(3, EncodingFormat::Binary, store).await;
    third.edit(|model| model.api().root(3)).await;
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event").unwrap();
    let SessionEvent::Refused(refusal) = event else { panic!("{event:?}") };
    assert!(refusal.to_string().contains("its session is used by two replicas"), "{refusal}");
}

/// More authors than a state vector is sent for: the late one reconciles.
#[tokio::test(start_paused = true)]
async fn replicas_with_many_authors_reconcile() {
    for group in [Group::new(), Group::with_dag()] {
        let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
        let mut expect = Vec::new();
        for author in 10..310 {
            let alone =
                Group { pubsub: Arc::new(MemoryPubSub::new()), peers: MemoryPeers::new(), ..group.clone() };
            let replica = alone.join_with(author, EncodingFormat::Binary, Arc::clone(&store)).await;
            if author == 10 {
                replica.edit(|model| model.api().root(Value::Map(Vec::new()))).await;
            }
            let name = format!("author{author}");
            replica.edit(|model| model.api().obj("").unwrap().set([(name.as_str(), 1)])).await;
            expect.push(name);
            replica.manager.stop().await;
        }
        // One that has all, and one that lacks the last author.
        let copy: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
        let vector = store.vector().await.unwrap();
        let want: Vec<_> =
            vector.iter().map(|(sid, upto)| crdt_sync::Want { sid: *sid, after: 0, upto }).collect();
        let crdt_sync::store::PatchPage::Records(mut records) = store.page(&want, usize::MAX).await.unwrap()
        else {
            panic!("nothing was compacted")
        };
        records.pop();
        copy.append(&records).await.unwrap();
        let behind = group.join_with(1000, EncodingFormat::Binary, copy).await;
        let whole = group.join_with(1001, EncodingFormat::Binary, store).await;
        behind.sees(&whole.document.view()).await;
        let Value::Map(fields) = behind.document.view() else { panic!("a map") };
        assert_eq!(fields.len(), expect.len());
        if group.sync == SyncMode::Vectors {
            assert!(behind.manager.status().await.unwrap().counters.compared > 0);
        }
    }
}

/// Peers from a list, and nobody who says that they come or go.
#[tokio::test(start_paused = true)]
async fn replicas_with_a_list_of_peers_agree() {
    let group = Group::new();
    let peers: Vec<PeerId> = [1, 2, 3].map(|number| PeerId::new(format!("node-{number}")).unwrap()).into();
    let mut replicas = Vec::new();
    for number in 1..=3 {
        let session = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        let discovery = StaticPeerDiscovery::new(peers.clone(), &peers[number as usize - 1]);
        let store = Arc::new(MemoryPatchStore::new());
        let document = Arc::new(SharedModel::new(session));
        replicas.push(
            group
                .join_found(number, EncodingFormat::Binary, document, store, discovery, |manager| manager)
                .await,
        );
        if number == 1 {
            // Before the others are there: they find out by asking whom the list names.
            replicas[0].edit(|model| model.api().root(json(json!({"by": 1})))).await;
        }
    }
    for replica in &replicas {
        replica.sees(&json(json!({"by": 1}))).await;
    }
    replicas[2].edit(|model| model.api().obj("").unwrap().set([("by", 3)])).await;
    for replica in &replicas {
        replica.sees(&json(json!({"by": 3}))).await;
        replica.manager.stop().await;
    }
}

#[cfg(feature = "crypto")]
#[path = "replicas/guarded.rs"]
mod guarded;

#[cfg(feature = "crypto")]
#[path = "replicas/words.rs"]
mod words;

#[path = "replicas/failing.rs"]
mod failing;

#[path = "replicas/snapshots.rs"]
mod snapshots;

#[path = "replicas/parted.rs"]
mod parted;

#[path = "replicas/ruled.rs"]
mod ruled;

#[path = "replicas/restored.rs"]
mod restored;

#[path = "replicas/contained.rs"]
mod contained;

#[path = "replicas/lines.rs"]
mod lines;
#[path = "replicas/crowded.rs"]
mod crowded;
