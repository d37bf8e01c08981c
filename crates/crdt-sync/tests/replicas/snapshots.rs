//! Managers that take over snapshots, refuse wrong ones, and fold what they have.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::sync::Semaphore;

use super::*;

async fn a_late_replica_takes_over_a_snapshot_and_keeps_its_own_edits_in(group: Group) {
    let first = group.join(1, EncodingFormat::MessagePack).await;
    first.edit(|model| model.api().root(json(json!({"count": 0})))).await;
    for count in 1..100 {
        first.edit(|model| model.api().obj("").unwrap().set([("count", count)])).await;
    }
    let contained = first.manager.compact().await.unwrap();
    assert_eq!(contained, first.document.with(crdt_core::Document::state_vector));

    let late = group.join(2, EncodingFormat::Json).await;
    let mut events = late.manager.events();
    late.sees(&json(json!({"count": 99}))).await;
    assert_eq!(late.manager.status().await.unwrap().counters.installed, 1);
    late.edit(|model| model.api().obj("").unwrap().set([("late", true)])).await;
    let both = json(json!({"count": 99, "late": true}));
    first.sees(&both).await;
    late.sees(&both).await;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, SessionEvent::Refused(_)), "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_replica_takes_over_a_snapshot_and_keeps_its_own_edits() {
    a_late_replica_takes_over_a_snapshot_and_keeps_its_own_edits_in(Group::new()).await;
    a_late_replica_takes_over_a_snapshot_and_keeps_its_own_edits_in(Group::with_dag()).await;
}

/// Offers the second replica a snapshot under this head. Returns what it says of the one that does so.
async fn offered(
    group: &Group,
    victim: &Replica,
    vector: StateVector<SessionId>,
    bytes: Bytes,
) -> &'static str {
    let mut events = victim.manager.events();
    let topic = Topic::new("example-doc-sync").unwrap();
    let id = PeerId::new("liar").unwrap();
    let liar = PubSubSyncer::new(Arc::clone(&group.pubsub), topic, id, EncodingFormat::Binary).await.unwrap();
    let to = PeerId::new("node-2").unwrap();
    let head = SnapshotHead::new(vector.clone(), &bytes);
    let state = SyncMessage::State { vector, reply: false };
    liar.send(Some(&to), &state).await.unwrap();
    let lies = async {
        loop {
            let Some(Heard::Message((_, message))) = liar.next().await else { continue };
            let answer = match message {
                SyncMessage::Request { id, .. } => SyncMessage::Offer { id, snapshot: head.clone() },
                SyncMessage::Fetch { id, hash, offset } => {
                    SyncMessage::Part { id, hash, offset, bytes: bytes.clone() }
                }
                _ => continue,
            };
            liar.send(Some(&to), &answer).await.unwrap();
        }
    };
    let noticed = async {
        loop {
            if let SessionEvent::Unhelpful { why, .. } = events.recv().await.unwrap() {
                return why;
            }
        }
    };
    let why = tokio::time::timeout(PATIENCE, async {
        tokio::select! { why = noticed => why, () = lies => unreachable!() }
    });
    why.await.expect("the lie is noticed")
}

/// A peer that offers a snapshot under a false head. If its word were taken, what the snapshot lacks would never be asked
/// for again.
async fn a_snapshot_that_lacks_what_its_head_says_is_refused_by(claim: impl Fn(u64) -> u64) {
    let group = Group::new();
    let author = SessionId::new(SessionId::USER_MIN.get() + 1).unwrap();
    let mut model = Model::new(author);
    model.api().root(json(json!({"a": 1}))).unwrap();
    let first = model.flush().unwrap();
    let bytes = Bytes::from(model.document().to_native(Packing::Plain));
    model.api().obj("").unwrap().set([("b", 2)]).unwrap();
    let second = model.flush().unwrap();

    let victim = group.join(2, EncodingFormat::Binary).await;
    let vector: StateVector<SessionId> = [(author, claim(second.next_time() - 1))].into_iter().collect();
    assert_eq!(offered(&group, &victim, vector, bytes).await, "sent a broken snapshot");
    assert_eq!(victim.document.view(), Value::Undefined, "nothing is taken over");
    assert_eq!(victim.manager.status().await.unwrap().counters.installed, 0);

    // And all of it comes from one who has it.
    let store = MemoryPatchStore::new();
    let record =
        |prev, patch: &Patch| PatchRecord::new(prev, Bytes::copy_from_slice(patch.as_bytes())).unwrap();
    store.append(&[record(0, &first), record(first.next_time() - 1, &second)]).await.unwrap();
    let _honest = group.join_with(3, EncodingFormat::Binary, Arc::new(store)).await;
    victim.sees(&json(json!({"a": 1, "b": 2}))).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_lacks_what_its_head_says_is_refused() {
    a_snapshot_that_lacks_what_its_head_says_is_refused_by(|last| last).await;
    a_snapshot_that_lacks_what_its_head_says_is_refused_by(|last| last + 1_000_000).await;
}

/// A head may say what it likes; only the bytes say what a snapshot holds.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_proves_nothing_does_not_stop_the_edits_of_a_replica() {
    for group in [Group::new(), Group::with_dag()] {
        let victim = group.join(2, EncodingFormat::Binary).await;
        victim.edit(|model| model.api().root(json(json!({"a": 1})))).await;
        let vector: StateVector<SessionId> = [(victim.document.session(), 1000)].into_iter().collect();
        let bytes = Bytes::from(victim.document.with(|document| document.to_native(Packing::Plain)));
        assert_eq!(offered(&group, &victim, vector, bytes).await, "sent a broken snapshot");
        assert_eq!(victim.manager.status().await.unwrap().counters.refused, 0);
        victim.edit(|model| model.api().obj("").unwrap().set([("b", 2)])).await;
    }
}

/// The application's view of the document goes on over the snapshot: it is told, and can undo what it did before.
#[tokio::test(start_paused = true)]
async fn watching_and_undo_survive_a_snapshot_that_is_taken_over() {
    let group = Group::new();
    let first = group.join(1, EncodingFormat::Binary).await;
    first.edit(|model| model.api().root(json(json!({"count": 0})))).await;
    for count in 1..100 {
        first.edit(|model| model.api().obj("").unwrap().set([("count", count)])).await;
    }
    first.manager.compact().await.unwrap();

    let apart = Group { pubsub: Arc::new(MemoryPubSub::new()), peers: MemoryPeers::new(), ..group.clone() };
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let late = apart.join_with(2, EncodingFormat::Binary, Arc::clone(&store)).await;
    late.document
        .edit(|model| {
            model.watch();
            model.enable_undo(UndoOptions::STANDARD);
            model.keep_history().unwrap();
            Ok::<_, EditError>(())
        })
        .unwrap();
    late.edit(|model| model.api().root(json(json!({"mine": true})))).await;
    let polled = late.document.edit(|model| {
        while model.poll_changes().is_some() {}
        Ok::<_, EditError>(())
    });
    assert_eq!(polled.unwrap(), None);
    // An edit that fails half way: what it did is not lost on the way, and not kept from the others either.
    let failed = late.document.edit(|model| {
        model.api().obj("")?.set([("half", 1)])?;
        model.api().str("/nowhere")?.ins(0, "done")
    });
    failed.unwrap_err();
    late.manager.stop().await;

    // The same document, now with the others.
    let late = group.join_document(2, EncodingFormat::Binary, late.document, store, |manager| manager).await;
    let mut changes = late.document.changes();
    tokio::time::timeout(PATIENCE, async {
        while late.manager.status().await.unwrap().counters.installed == 0 {
            changes.changed().await.unwrap();
        }
    })
    .await
    .expect("the snapshot is taken over");
    let patch = late
        .document
        .edit(|model| {
            let told = model.poll_changes().expect("a watcher is told");
            assert!(told.missed);
            assert!(model.can_undo(), "what was done before can be undone");
            assert!(model.history().is_some());
            model.api().root(1)
        })
        .unwrap()
        .unwrap();
    late.manager.apply_patch(&patch).await.unwrap();
    first.sees(&late.document.view()).await;
    let session = late.document.session();
    assert_eq!(
        first.document.with(|document| document.state_vector().get(&session)),
        late.document.with(|document| document.state_vector().get(&session)),
        "what the failed edit did has reached the others"
    );
}

/// Folds as the policy says, keeps what is recent, and gives a late replica the snapshot, which is cheaper.
#[tokio::test]
async fn the_log_is_folded_by_policy_and_a_late_replica_gets_what_is_cheaper() {
    for group in [Group::new(), Group::with_dag()] {
        let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
        let policy = CompactionPolicy {
            log_bytes_max: 20_000,
            log_per_snapshot: 2,
            unfolded_sessions_max: usize::MAX,
            keep_ticks: 100,
            pause: Duration::from_millis(1),
            offer_bytes_min: 2_000,
            offer_idle_max: Duration::from_millis(100),
        };
        let first = group.join_policy(1, EncodingFormat::Binary, Arc::clone(&store), policy).await;
        first.edit(|model| model.api().root(json(json!({"count": 0})))).await;
        for count in 1..1500 {
            first.edit(|model| model.api().obj("").unwrap().set([("count", count)])).await;
        }
        let status = first.manager.status().await.unwrap();
        assert!(status.folded > 0, "{status:?}");
        assert!(status.log_bytes < 40_000, "{status:?}");
        let (contained, _) = store.snapshot().await.unwrap().expect("a snapshot");
        let session = first.document.session();
        assert!(status.stored.get(&session) - contained.get(&session) >= 100, "recent patches stay");

        let late =
            group.join_policy(2, EncodingFormat::Binary, Arc::new(MemoryPatchStore::new()), policy).await;
        late.sees(&json(json!({"count": 1499}))).await;
        let status = late.manager.status().await.unwrap();
        assert_eq!(status.counters.installed, 1);
        assert_eq!(status.peers.len(), 1);
        assert_eq!(status.peers[0].ahead_ticks, 0);

        // The snapshot was held for its parts, and is let go when nobody asks for one any more.
        tokio::time::timeout(PATIENCE, async {
            while first.manager.status().await.unwrap().offered_bytes > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the offer ends");
    }
}

/// Lets something happen at the moment at which a part of a snapshot comes in.
struct AtPart {
    inner: PubSubSyncer,
    /// Nothing comes in before the test is ready.
    open: Semaphore,
    then: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[async_trait]
impl Syncer for AtPart {
    fn peer_id(&self) -> &PeerId {
        self.inner.peer_id()
    }

    async fn send(&self, to: Option<&PeerId>, message: &SyncMessage) -> Result<(), crdt_sync::ChannelError> {
        self.inner.send(to, message).await
    }

    async fn next(&self) -> Option<Heard<(PeerId, SyncMessage)>> {
        let _open = self.open.acquire().await.unwrap();
        let heard = self.inner.next().await;
        if let (Some(Heard::Message((_, SyncMessage::Part { .. }))), Some(then)) = (&heard, self.then.get()) {
            then();
        }
        heard
    }
}

/// The edit waits for the manager when the snapshot is whole, and both are taken in together.
#[tokio::test(start_paused = true)]
async fn an_edit_made_while_a_snapshot_comes_in_stays_in_the_document() {
    for group in [Group::new(), Group::with_dag()] {
        let format = EncodingFormat::Binary;
        let first = group.join(1, format).await;
        let root = first.edit(|model| model.api().root(json(json!({"count": 0})))).await;
        for count in 1..100 {
            first.edit(|model| model.api().obj("").unwrap().set([("count", count)])).await;
        }
        first.manager.compact().await.unwrap();

        let store = MemoryPatchStore::new();
        let record = PatchRecord::new(0, Bytes::copy_from_slice(root.as_bytes())).unwrap();
        store.append(&[record]).await.unwrap();
        let document = Arc::new(SharedModel::new(SessionId::new(SessionId::USER_MIN.get() + 2).unwrap()));
        let syncer = Arc::new(AtPart {
            inner: group.syncer(2, format).await,
            open: Semaphore::new(0),
            then: OnceLock::new(),
        });
        let discovery = MemoryPeerDiscovery::new(&group.peers, PeerId::new("node-2").unwrap());
        let parts = (discovery, Arc::clone(&syncer) as Arc<dyn Syncer>);
        let late =
            Arc::new(group.join_over(2, format, document, Arc::new(store), parts, |manager| manager).await);
        let editing = Arc::clone(&late);
        let hook = move || {
            let edit = |model: &mut Model| model.api().obj("").unwrap().set([("late", true)]);
            let patch = editing.document.edit(edit).unwrap().expect("an edit");
            // It is on its way to the manager, and is answered to nobody.
            assert!(editing.manager.apply_patch(&patch).now_or_never().is_none());
        };
        assert!(syncer.then.set(Box::new(hook)).is_ok());
        syncer.open.add_permits(1);

        let both = json(json!({"count": 99, "late": true}));
        first.sees(&both).await;
        late.sees(&both).await;
        assert_eq!(late.manager.status().await.unwrap().counters.installed, 1);
        late.edit(|model| model.api().obj("").unwrap().set([("more", 1)])).await;
        first.sees(&json(json!({"count": 99, "late": true, "more": 1}))).await;
    }
}

/// What a peer says that it has need not end where a patch ends; a snapshot does.
#[tokio::test(start_paused = true)]
async fn a_time_within_a_patch_stops_no_compaction() {
    let group = Group::new();
    let first = group.join(1, EncodingFormat::Binary).await;
    first.edit(|model| model.api().root(json(json!({"text": ""})))).await;
    let whole = first.manager.status().await.unwrap().stored;
    first.edit(|model| model.api().str("/text")?.ins(0, "a patch of many ticks")).await;
    let session = first.document.session();
    let within = whole.get(&session) + 3;

    let topic = Topic::new("example-doc-sync").unwrap();
    let odd = PubSubSyncer::new(
        Arc::clone(&group.pubsub),
        topic,
        PeerId::new("odd").unwrap(),
        EncodingFormat::Binary,
    )
    .await
    .unwrap();
    let vector: StateVector<SessionId> = [(session, within)].into_iter().collect();
    odd.send(Some(&PeerId::new("node-1").unwrap()), &SyncMessage::State { vector, reply: false })
        .await
        .unwrap();
    let known = async {
        while first.manager.status().await.unwrap().peers.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, known).await.expect("it is heard");
    assert_eq!(first.manager.compact().await.unwrap(), whole);
    // And who comes late gets what is folded as a snapshot and the rest as patches.
    let late = group.join(2, EncodingFormat::Binary).await;
    late.sees(&json(json!({"text": "a patch of many ticks"}))).await;
}

/// Reads slowly, and counts who reads the snapshot to make another one of it.
#[derive(Default)]
struct Slow {
    inner: MemoryPatchStore,
    reads: AtomicUsize,
}

#[async_trait]
impl PatchStore for Slow {
    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError> {
        self.inner.append(records).await
    }

    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError> {
        self.inner.vector().await
    }

    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.inner.page(want, bytes_max).await
    }

    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        self.inner.install(vector, snapshot).await
    }

    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        self.inner.mend(record).await
    }

    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        self.reads.fetch_add(1, Relaxed);
        self.inner.snapshot().await
    }

    async fn keep_note(&self, note: Bytes) -> Result<(), PatchStoreError> {
        self.inner.keep_note(note).await
    }

    async fn note(&self) -> Result<Bytes, PatchStoreError> {
        self.inner.note().await
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        self.inner.close().await
    }
}

/// Fifty bytes are a question, and the answer takes a pass over all that is stored.
#[tokio::test(start_paused = true)]
async fn strangers_can_not_have_snapshots_made_all_the_time() {
    let (group, store) = (Group::new(), Arc::new(Slow::default()));
    let first = group.join_with(1, EncodingFormat::Binary, Arc::<Slow>::clone(&store) as _).await;
    first.edit(|model| model.api().root(json(json!({"count": 0})))).await;
    first.manager.compact().await.unwrap();
    let reads = store.reads.load(Relaxed);
    let (topic, to) = (Topic::new("example-doc-sync").unwrap(), PeerId::new("node-1").unwrap());
    let pages = first.manager.status().await.unwrap().counters.pages;
    for number in 0..100_u64 {
        let id = PeerId::new(format!("stranger-{number}")).unwrap();
        let stranger =
            PubSubSyncer::new(Arc::clone(&group.pubsub), topic.clone(), id, EncodingFormat::Binary)
                .await
                .unwrap();
        let want = vec![Want { sid: first.document.session(), after: 0, upto: 1 }];
        let ask = SyncMessage::Request { id: 1, want, bytes_max: 1 << 20, offers: number % 2 == 0 };
        stranger.send(Some(&to), &ask).await.unwrap();
        // Each time something is new, so that the last snapshot is not the same.
        first.edit(|model| model.api().obj("").unwrap().set([("count", number as i64 + 1)])).await;
    }
    let all = async {
        while first.manager.status().await.unwrap().counters.pages < pages + 90 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("all are answered");
    // How many are made follows the time that the edits take; by the rule itself, see `manager::snapshots`. For each one the
    // store is read once or twice.
    let read = store.reads.load(Relaxed) - reads;
    assert!((1..90).contains(&read), "{read}");
    // And who comes for good gets all of it.
    let late = group.join(2, EncodingFormat::Binary).await;
    late.sees(&json(json!({"count": 100}))).await;
}

/// What was made to answer one question is not the answer to another, while none is made.
#[tokio::test(start_paused = true)]
async fn who_needs_all_does_not_get_what_all_have_and_the_other_way_round() {
    let (group, store) = (Group::new(), Arc::new(Slow::default()));
    let first = group.join_with(1, EncodingFormat::Binary, store).await;
    first.edit(|model| model.api().root(json(json!({"count": 0})))).await;
    first.manager.compact().await.unwrap();
    let folded = first.manager.status().await.unwrap().stored;
    first.edit(|model| model.api().obj("").unwrap().set([("count", 1)])).await;
    let stored = first.manager.status().await.unwrap().stored;
    let (topic, to) = (Topic::new("example-doc-sync").unwrap(), PeerId::new("node-1").unwrap());
    let speaker = async |name: &str| {
        let id = PeerId::new(name).unwrap();
        let pubsub = Arc::clone(&group.pubsub);
        PubSubSyncer::new(pubsub, topic.clone(), id, EncodingFormat::Binary).await.unwrap()
    };
    // Somebody is there that has only what is folded.
    let behind = speaker("behind").await;
    let state = SyncMessage::State { vector: folded.clone(), reply: false };
    behind.send(Some(&to), &state).await.unwrap();
    first.stands("it is heard", |status| !status.peers.is_empty()).await;

    let asker = speaker("asker").await;
    let asks = async |id: u64, offers: bool| {
        let want = vec![Want { sid: first.document.session(), after: 0, upto: 1 }];
        let ask = SyncMessage::Request { id, want, bytes_max: 1 << 20, offers };
        asker.send(Some(&to), &ask).await.unwrap();
        loop {
            match asker.next().await.unwrap() {
                Heard::Message((_, SyncMessage::Offer { id: of, snapshot })) if of == id => {
                    return Some(snapshot.vector);
                }
                Heard::Message((_, SyncMessage::Patches { id: of, .. })) if of == id => return None,
                _ => {}
            }
        }
    };
    assert_eq!(asks(1, true).await.as_ref(), Some(&folded));
    assert_eq!(asks(2, true).await.as_ref(), Some(&folded), "the same once more");
    assert_eq!(asks(3, false).await, None, "no other one is made yet");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(asks(4, false).await, Some(stored));
    assert_eq!(asks(5, true).await, None, "what only some have stays out of it");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(asks(6, true).await, Some(folded));
}
