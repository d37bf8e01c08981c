//! Managers over a store that fails: for a while, for good, or that has lost what it held.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::*;

/// A store that can't be read, or written, when a test says so.
#[derive(Default)]
struct Failing {
    kept: MemoryPatchStore,
    pages_fail: AtomicBool,
    note_fails: AtomicBool,
    appends_fail: AtomicBool,
    /// So many of the next appends fail, after they have been kept or without.
    fail_next: AtomicU32,
    kept_all_the_same: AtomicBool,
    /// How many appends have failed for good.
    failed: AtomicU32,
    /// The patch that ends here is gone.
    gone: AtomicU64,
    /// How many pages have been read.
    pages: AtomicU64,
}

/// Tries often and soon.
const SOON: StoreRetry =
    StoreRetry { tries_max: 5, pause_min: Duration::from_millis(1), pause_max: Duration::from_millis(2) };

impl Group {
    async fn join_failing(&self, number: u64, store: &Arc<Failing>, retry: StoreRetry) -> Replica {
        let session = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        let document = Arc::new(SharedModel::new(session));
        let store = Arc::clone(store);
        let with = |manager: SyncManager| manager.with_store_retry(retry);
        self.join_document(number, EncodingFormat::Binary, document, store, with).await
    }
}

impl Failing {
    fn fails_seen(&self) -> u32 {
        self.failed.load(Ordering::SeqCst)
    }

    fn fails(flag: &AtomicBool) -> Result<(), PatchStoreError> {
        match flag.load(Ordering::SeqCst) {
            true => Err(PatchStoreError::Backend(SharedError::new("as the test wants it"))),
            false => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl PatchStore for Failing {
    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError> {
        Self::fails(&self.appends_fail).inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::SeqCst);
        })?;
        let one_less = |left: u32| left.checked_sub(1);
        if self.fail_next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            if self.kept_all_the_same.load(Ordering::SeqCst) {
                self.kept.append(records).await?;
            }
            return Err(PatchStoreError::Backend(SharedError::new("the answer got lost")));
        }
        self.kept.append(records).await
    }

    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError> {
        self.kept.vector().await
    }

    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        Self::fails(&self.pages_fail)?;
        self.pages.fetch_add(1, Ordering::SeqCst);
        Ok(match self.kept.page(want, bytes_max).await? {
            PatchPage::Records(mut records) => {
                records.retain(|record| record.last() != self.gone.load(Ordering::SeqCst));
                PatchPage::Records(records)
            }
            PatchPage::Compacted => PatchPage::Compacted,
        })
    }

    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        let _ = self.gone.compare_exchange(record.last(), 0, Ordering::SeqCst, Ordering::SeqCst);
        self.kept.mend(record).await
    }

    async fn keep_note(&self, note: Bytes) -> Result<(), PatchStoreError> {
        self.kept.keep_note(note).await
    }

    async fn note(&self) -> Result<Bytes, PatchStoreError> {
        Self::fails(&self.note_fails)?;
        self.kept.note().await
    }

    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        self.kept.install(vector, snapshot).await
    }

    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        self.kept.snapshot().await
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        self.kept.close().await
    }
}

/// It would fold alone what those lack whom it does not know of, and write down that there is nobody.
#[tokio::test]
async fn a_replica_that_can_not_read_whom_it_knew_does_not_start() {
    let (group, store) = (Group::new(), Arc::new(Failing::default()));
    let (session, format) = (SessionId::new(SessionId::USER_MIN.get() + 1).unwrap(), EncodingFormat::Binary);
    let topic = Topic::new("example-doc-patches").unwrap();
    let broadcaster = PubSubBroadcaster::new(Arc::clone(&group.pubsub), topic, format).await.unwrap();
    let manager = SyncManager::new(
        Arc::new(SharedModel::new(session)),
        Arc::new(broadcaster),
        Arc::new(group.syncer(1, format).await),
        Arc::new(MemoryPeerDiscovery::new(&group.peers, PeerId::new("node-1").unwrap())),
        Arc::<Failing>::clone(&store) as _,
    );
    store.note_fails.store(true, Ordering::SeqCst);
    let error = manager.start(1).await.unwrap_err();
    assert!(matches!(error, SyncError::Store(PatchStoreError::Backend(_))), "{error:?}");
    store.note_fails.store(false, Ordering::SeqCst);
    store.kept.keep_note(Bytes::from_static(&[200, 1])).await.unwrap();
    let error = manager.start(1).await.unwrap_err();
    assert!(error.to_string().contains("a later version"), "{error}");
    store.kept.keep_note(Bytes::new()).await.unwrap();
    manager.start(1).await.unwrap();
}

/// What can be asked for again costs a page; what can't be kept ends the synchronisation, and that is told.
#[tokio::test]
async fn a_failed_read_costs_a_page_and_a_failed_append_is_told() {
    let group = Group::new();
    let store = Arc::new(Failing::default());
    let first = group.join_failing(1, &store, SOON).await;
    first.edit(|model| model.api().root(json(json!({"a": 1})))).await;
    store.pages_fail.store(true, Ordering::SeqCst);
    let late = group.join(2, EncodingFormat::Binary).await;
    tokio::time::timeout(PATIENCE, async {
        while first.manager.status().await.expect("it goes on").read_failures == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the late one asks");
    first.edit(|model| model.api().obj("").unwrap().set([("b", 2)])).await;
    store.pages_fail.store(false, Ordering::SeqCst);
    late.sees(&json(json!({"a": 1, "b": 2}))).await;

    let mut events = first.manager.events();
    store.appends_fail.store(true, Ordering::SeqCst);
    let patch = first.document.edit(|model| model.api().root("not kept")).unwrap().unwrap();
    let error = first.manager.apply_patch(&patch).await.unwrap_err();
    assert!(matches!(error, SyncError::Stopped), "{error}");
    let told = async {
        loop {
            if let SessionEvent::Stopped { error } = events.recv().await.unwrap() {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    assert_eq!(error, "patch store failed: as the test wants it");
    let watcher = MemoryPeerDiscovery::new(&group.peers, PeerId::new("watcher").unwrap());
    watcher.start().await.unwrap();
    let only_late = async {
        while watcher.peers().await.unwrap().len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, only_late).await.expect("who has stopped is no peer any more");
}

#[tokio::test]
async fn a_transport_that_is_closed_underneath_is_told() {
    let group = Group::new();
    let first = group.join(1, EncodingFormat::Binary).await;
    let mut events = first.manager.events();
    group.pubsub.close().await;
    let told = async {
        loop {
            if let SessionEvent::Stopped { error } = events.recv().await.unwrap() {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    assert_eq!(error, "the channel to the other replicas is closed");
    assert!(matches!(first.manager.sync().await, Err(SyncError::Stopped)));
    first.manager.stop().await;
}

/// A registry that does not answer when this replica takes its leave.
struct NeverCloses(MemoryPeerDiscovery);

#[async_trait::async_trait]
impl PeerDiscovery for NeverCloses {
    async fn start(&self) -> Result<(), DiscoveryError> {
        self.0.start().await
    }

    async fn peers(&self) -> Result<Vec<PeerId>, DiscoveryError> {
        self.0.peers().await
    }

    async fn next(&self) -> Option<PeerChange> {
        self.0.next().await
    }

    async fn close(&self) {
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn an_end_is_told_before_discovery_is_left() {
    let group = Group::new();
    let store = Arc::new(Failing::default());
    let document = Arc::new(SharedModel::new(SessionId::new(SessionId::USER_MIN.get() + 1).unwrap()));
    let discovery = NeverCloses(MemoryPeerDiscovery::new(&group.peers, PeerId::new("node-1").unwrap()));
    let with = |manager: SyncManager| manager.with_store_retry(SOON);
    let kept = Arc::clone(&store);
    let first = group.join_found(1, EncodingFormat::Binary, document, kept, discovery, with).await;
    let mut events = first.manager.events();
    store.appends_fail.store(true, Ordering::SeqCst);
    let patch = first.document.edit(|model| model.api().root("not kept")).unwrap().unwrap();
    let acknowledged = tokio::time::timeout(PATIENCE, first.manager.apply_patch(&patch)).await;
    assert!(matches!(acknowledged.expect("it is answered").unwrap_err(), SyncError::Stopped));
    assert!(matches!(events.try_recv(), Ok(SessionEvent::Stopped { .. })), "it was told before that");
}

/// A store that was put back from a backup knows less of the session than the others do.
#[tokio::test]
async fn a_replica_whose_store_went_back_is_told_and_acknowledges_nothing_more() {
    let group = Group::new();
    let store = Arc::new(MemoryPatchStore::new());
    let first = group.join_with(1, EncodingFormat::Binary, Arc::clone(&store) as _).await;
    let other = group.join(2, EncodingFormat::Binary).await;
    first.edit(|model| model.api().root(json(json!({"a": 1})))).await;
    let backup = kept_of(&*store, first.document.session()).await;
    first.edit(|model| model.api().obj("").unwrap().set([("b", 2)])).await;
    other.sees(&json(json!({"a": 1, "b": 2}))).await;
    first.manager.stop().await;

    let store = Arc::new(MemoryPatchStore::new());
    store.append(&backup).await.unwrap();
    let again = group.join_with(1, EncodingFormat::Binary, Arc::clone(&store) as _).await;
    let used_twice = async {
        while again.manager.status().await.unwrap().counters.refused == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, used_twice).await.expect("it learns what it wrote");
    let patch = again.document.edit(|model| model.api().obj("").unwrap().set([("c", 3)])).unwrap().unwrap();
    let error = again.manager.apply_patch(&patch).await.unwrap_err();
    assert!(matches!(error, SyncError::Refused(Refusal::SessionUsedTwice(_))), "{error}");
    assert_eq!(kept_of(&*store, again.document.session()).await, backup, "nothing was stored");
    again.manager.stop().await;

    // Under a new session all of it is there, and it goes on.
    let anew = group.join_with(3, EncodingFormat::Binary, store).await;
    anew.sees(&json(json!({"a": 1, "b": 2}))).await;
    anew.edit(|model| model.api().obj("").unwrap().set([("c", 3)])).await;
    other.sees(&json(json!({"a": 1, "b": 2, "c": 3}))).await;
}

/// A database that fails over: what is edited meanwhile is acknowledged when it is back, once, and reaches the others.
#[tokio::test]
async fn a_passing_failure_of_the_store_costs_time_and_nothing_else() {
    for kept_all_the_same in [false, true] {
        let group = Group::new();
        let store = Arc::new(Failing::default());
        store.kept_all_the_same.store(kept_all_the_same, Ordering::SeqCst);
        let first = group.join_failing(1, &store, SOON).await;
        let other = group.join(2, EncodingFormat::Binary).await;
        first.edit(|model| model.api().root(json(json!({"a": 1})))).await;

        store.fail_next.store(SOON.tries_max - 1, Ordering::SeqCst);
        first.edit(|model| model.api().obj("").unwrap().set([("b", 2)])).await;
        other.sees(&json(json!({"a": 1, "b": 2}))).await;
        // The others' patches are kept through it, too.
        store.fail_next.store(SOON.tries_max - 1, Ordering::SeqCst);
        other.edit(|model| model.api().obj("").unwrap().set([("c", 3)])).await;
        first.sees(&json(json!({"a": 1, "b": 2, "c": 3}))).await;

        let status = first.manager.status().await.unwrap();
        assert_eq!(status.write_failures, u64::from(SOON.tries_max - 1) * 2);
        let vector = store.kept.vector().await.unwrap();
        assert_eq!(vector, other.manager.status().await.unwrap().stored);
        let all: Vec<Want> = vector.iter().map(|(sid, upto)| Want { sid: *sid, after: 0, upto }).collect();
        let PatchPage::Records(records) = store.kept.page(&all, usize::MAX).await.unwrap() else {
            panic!("nothing was folded");
        };
        assert_eq!(records.len(), 3, "each is kept once");
    }
}

#[tokio::test]
async fn an_edit_above_the_largest_patch_reaches_all_and_those_after_it_too() {
    let group = Group::new();
    let first = group.join(1, EncodingFormat::Binary).await;
    let other = group.join(2, EncodingFormat::Binary).await;
    let long = "weft ".repeat(PatchRecord::PATCH_BYTES_MAX / 2);
    first.edit(|model| model.api().root(json(json!({"text": long, "n": 0})))).await;
    first.edit(|model| model.api().obj("").unwrap().set([("n", 1)])).await;
    other.sees(&json(json!({"text": long, "n": 1}))).await;
    assert!(first.manager.status().await.unwrap().counters.broadcast > 10, "it went in parts");
    other.edit(|model| model.api().str("/text").unwrap().ins(0, ">")).await;
    first.sees(&json(json!({"text": format!(">{long}"), "n": 1}))).await;
}

/// As text the patch would take some 10 MiB, more than a subscription holds: with three there is no snapshot to offer
/// either, since two lack it.
#[tokio::test]
async fn many_small_values_at_once_reach_three_replicas_that_write_json() {
    let group = Group::new();
    let mut replicas = Vec::new();
    for number in 1..4 {
        replicas.push(group.join(number, EncodingFormat::Json).await);
    }
    let many = Value::from_iter((0..250_000_i64).map(|n| Value::from(n % 100)));
    let patch = replicas[0].edit(|model| model.api().root(many.clone())).await;
    assert!((1 << 20..4 << 20).contains(&patch.as_bytes().len()), "{}", patch.as_bytes().len());
    for replica in &replicas {
        replica.sees(&many).await;
    }
}

/// Everything of a session that a store has.
async fn kept_of(store: &dyn PatchStore, sid: SessionId) -> Vec<PatchRecord> {
    let upto = store.vector().await.unwrap().get(&sid);
    match store.page(&[Want { sid, after: 0, upto }], usize::MAX).await.unwrap() {
        PatchPage::Records(records) => records,
        PatchPage::Compacted => panic!("nothing was folded"),
    }
}

/// Content of nodes that is damaged or gone is found by the hashes and fetched anew, from whoever has it.
#[tokio::test]
async fn repair_of_the_dag_brings_back_damaged_and_missing_nodes() {
    let group = Group::with_dag();
    let (store, sound) = (Arc::new(Failing::default()), Arc::new(MemoryPatchStore::new()));
    let first = group.join_failing(1, &store, SOON).await;
    let other = group.join_with(2, EncodingFormat::Binary, Arc::clone(&sound) as _).await;
    first.edit(|model| model.api().root(json(json!({})))).await;
    for n in 10..30 {
        first.edit(|model| model.api().obj("").unwrap().set([(format!("k{n}").as_str(), n)])).await;
    }
    let all = json(Json::Object((10..30).map(|n| (format!("k{n}"), json!(n))).collect()));
    other.sees(&all).await;
    let sid = first.document.session();
    let whole = kept_of(&*sound, sid).await;
    assert_eq!(kept_of(&*store, sid).await, whole);
    let repaired = first.manager.repair().await.unwrap();
    assert_eq!((repaired.seen, repaired.mended), (21, 0), "nothing is wrong yet");

    // One in the middle says something else, one further down is gone: it is seen only when the first is back.
    let mut changed = whole[14].clone();
    changed.patch = whole[13].patch.clone();
    store.kept.mend(&changed).await.unwrap();
    store.gone.store(whole[6].last(), Ordering::SeqCst);
    assert_ne!(kept_of(&*store, sid).await, whole);
    let repaired = tokio::time::timeout(PATIENCE, first.manager.repair()).await.expect("it ends").unwrap();
    assert_eq!((repaired.mended, repaired.left.len()), (2, 0), "{repaired:?}");
    assert_eq!(kept_of(&*store, sid).await, whole);
    assert_eq!(first.manager.status().await.unwrap().counters.repaired, 2);

    // Nobody else is there: what can't be brought is named.
    other.manager.stop().await;
    store.kept.mend(&changed).await.unwrap();
    let repaired = tokio::time::timeout(PATIENCE, first.manager.repair()).await.expect("it ends").unwrap();
    assert_eq!((repaired.mended, &repaired.left[..]), (0, &[Link::to(&whole[14])][..]));
    first.edit(|model| model.api().obj("").unwrap().set([("more", 1)])).await;
}

/// A look at every stored node takes long, and nobody waits for its end.
#[tokio::test]
async fn a_repair_of_a_long_log_lets_others_go_on() {
    let group = Group::with_dag();
    let store = Arc::new(Failing::default());
    let first = group.join_failing(1, &store, SOON).await;
    for n in 0..500 {
        first.edit(|model| model.api().root(n)).await;
    }
    let before = store.pages.load(Ordering::SeqCst);
    let read = || store.pages.load(Ordering::SeqCst) - before;
    let (repaired, ()) = tokio::join!(first.manager.repair(), async {
        while read() == 0 {
            tokio::task::yield_now().await;
        }
        first.manager.status().await.unwrap();
        assert!((1..=200).contains(&read()), "{} of 500 nodes were read before the answer", read());
        first.edit(|model| model.api().root("meanwhile")).await;
        assert!(read() < 500, "{}", read());
    });
    assert_eq!((repaired.unwrap().seen, read()), (500, 500));
}

#[tokio::test]
async fn stop_is_not_kept_waiting_by_a_store_that_fails() {
    let group = Group::new();
    let store = Arc::new(Failing::default());
    let first = group.join_failing(1, &store, StoreRetry { tries_max: u32::MAX, ..SOON }).await;
    store.appends_fail.store(true, Ordering::SeqCst);
    let patch = first.document.edit(|model| model.api().root("not kept")).unwrap().unwrap();
    let (acknowledged, ()) = tokio::join!(first.manager.apply_patch(&patch), async {
        while store.fails_seen() < 3 {
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(PATIENCE, first.manager.stop()).await.expect("it stops");
    });
    assert!(matches!(acknowledged.unwrap_err(), SyncError::Stopped));
}
