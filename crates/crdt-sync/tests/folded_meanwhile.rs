//! A manager starts and folds over a store that another process folds at the same time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use crdt_core::{EncodingFormat, SessionId, StateVector, Value};
use crdt_sync::{
    ClientSocket, Gateway, MemoryPatchStore, PatchRecord, PatchStore, PatchStoreError, PeerId,
    PubSubBroadcaster, PubSubSyncer, SharedModel, SyncError, SyncManager, SyncMessage, Want,
    discovery::{MemoryPeerDiscovery, MemoryPeers},
    gateway::Parting,
    manager::READINGS_MAX,
    presence::PresenceOptions,
    store::PatchPage,
    wire,
};
use serde_json::json;
use spot::{MemoryPubSub, PubSub, Topic};

/// A snapshot that another process installs.
type Installed = (StateVector<SessionId>, Bytes);

/// A store that somebody else folds.
#[derive(Default)]
struct FoldedMeanwhile {
    kept: MemoryPatchStore,
    /// What the other process does before each page that is read.
    before_pages: Mutex<VecDeque<Option<Installed>>>,
    /// And before the snapshot is.
    before_snapshot: Mutex<Option<Installed>>,
    /// Whether pages are refused without a reason.
    lies: AtomicBool,
}

impl FoldedMeanwhile {
    async fn fold(&self, next: Option<Installed>) -> Result<(), PatchStoreError> {
        match next {
            Some((vector, bytes)) => self.kept.install(&vector, bytes).await,
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl PatchStore for FoldedMeanwhile {
    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError> {
        self.kept.append(records).await
    }

    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError> {
        self.kept.vector().await
    }

    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        if self.lies.load(Relaxed) {
            return Ok(PatchPage::Compacted);
        }
        let next = self.before_pages.lock().unwrap().pop_front().flatten();
        self.fold(next).await?;
        self.kept.page(want, bytes_max).await
    }

    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        self.kept.install(vector, snapshot).await
    }

    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        self.kept.mend(record).await
    }

    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        let next = self.before_snapshot.lock().unwrap().take();
        self.fold(next).await?;
        self.kept.snapshot().await
    }

    async fn keep_note(&self, note: Bytes) -> Result<(), PatchStoreError> {
        self.kept.keep_note(note).await
    }

    async fn note(&self) -> Result<Bytes, PatchStoreError> {
        self.kept.note().await
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        self.kept.close().await
    }
}

fn sid(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

async fn manager(number: u64, store: Arc<dyn PatchStore>) -> (Arc<SharedModel>, SyncManager) {
    let pubsub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let own = PeerId::new(format!("node-{number}")).unwrap();
    let (patches, sync) = (Topic::new("doc/patches").unwrap(), Topic::new("doc/sync").unwrap());
    let format = EncodingFormat::Binary;
    let broadcaster = PubSubBroadcaster::new(Arc::clone(&pubsub), patches, format).await.unwrap();
    let syncer = PubSubSyncer::new(pubsub, sync, own.clone(), format).await.unwrap();
    let document = Arc::new(SharedModel::new(sid(number)));
    let discovery = Arc::new(MemoryPeerDiscovery::new(&MemoryPeers::new(), own));
    let shared = Arc::<SharedModel>::clone(&document);
    (document, SyncManager::new(shared, Arc::new(broadcaster), Arc::new(syncer), discovery, store))
}

/// The patches of a document that was edited `count` times, and its snapshots after each of some of them.
async fn history(count: u64, at: &[u64]) -> (Vec<PatchRecord>, Vec<Installed>, Value) {
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let (mut records, mut folds) = (Vec::new(), Vec::new());
    let (document, at_first) = manager(1, Arc::clone(&store)).await;
    at_first.start(1).await.unwrap();
    for number in 1..=count {
        let edit = |model: &mut crdt_core::Model| match number {
            1 => model.api().root(Value::from(&json!({}))).map(drop),
            _ => model.api().obj("")?.set([(format!("k{number:02}").as_str(), number as i64)]),
        };
        let patch = document.edit(edit).unwrap().unwrap();
        at_first.apply_patch(&patch).await.unwrap();
        let contained = records.last().map_or(0, |record: &PatchRecord| record.last());
        let want = [Want { sid: sid(1), after: contained, upto: u64::MAX >> 11 }];
        let PatchPage::Records(new) = store.page(&want, usize::MAX).await.unwrap() else { panic!("folded") };
        records.extend(new);
        if at.contains(&number) {
            at_first.compact().await.unwrap();
            folds.extend(store.snapshot().await.unwrap());
        }
    }
    at_first.stop().await;
    (records, folds, document.view())
}

#[tokio::test(start_paused = true)]
async fn a_start_begins_again_as_often_as_somebody_folds_in_between() {
    let (records, folds, whole) = history(12, &[4, 8]).await;
    assert_eq!(folds.len(), 2);
    let store = FoldedMeanwhile {
        before_pages: Mutex::new(folds.into_iter().map(Some).collect()),
        ..FoldedMeanwhile::default()
    };
    store.append(&records).await.unwrap();
    let (document, late) = manager(2, Arc::new(store)).await;
    late.start(2).await.expect("it begins again");
    assert_eq!(document.view(), whole);
    assert_eq!(late.status().await.unwrap().stored.get(&sid(1)), records.last().unwrap().last());
    late.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_counts_what_is_stored_and_folded_between_its_looks() {
    let (records, mut folds, whole) = history(8, &[8]).await;
    let before_snapshot = Mutex::new(folds.pop());
    let store = FoldedMeanwhile { before_snapshot, ..FoldedMeanwhile::default() };
    store.append(&records[..4]).await.unwrap();
    let (document, late) = manager(2, Arc::new(store)).await;
    late.start(2).await.unwrap();
    assert_eq!(document.view(), whole);
    assert_eq!(late.status().await.unwrap().stored.get(&sid(1)), records.last().unwrap().last());
    late.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_folds_begins_again_if_somebody_else_was_faster() {
    let (records, mut folds, whole) = history(8, &[4]).await;
    let store = Arc::new(FoldedMeanwhile::default());
    store.append(&records).await.unwrap();
    let (document, late) = manager(2, store.clone()).await;
    late.start(2).await.unwrap();
    // Which patches are whole is looked for first, until nothing comes.
    *store.before_pages.lock().unwrap() = [None, None, folds.pop()].into();
    let contained = late.compact().await.expect("it begins again");
    assert!(store.before_pages.lock().unwrap().is_empty());
    assert_eq!(contained.get(&sid(1)), records.last().unwrap().last());
    assert_eq!(store.snapshot().await.unwrap().unwrap().0, contained);
    assert_eq!(document.view(), whole);
    late.stop().await;
}

/// At the bound nothing is lost: the same succeeds when the others are done.
#[tokio::test(start_paused = true)]
async fn what_somebody_else_folds_each_time_is_read_so_often_and_no_more() {
    let folded_each_time =
        |error: &SyncError| matches!(error, SyncError::FoldedMeanwhile { times: READINGS_MAX });
    let at: Vec<u64> = (1..=READINGS_MAX as u64).collect();
    let (records, folds, whole) = history(READINGS_MAX as u64 + 2, &at).await;
    let each_time = || folds.iter().cloned().map(Some).collect::<VecDeque<_>>();
    let store = Arc::new(FoldedMeanwhile::default());
    store.append(&records).await.unwrap();
    *store.before_pages.lock().unwrap() = each_time();
    let (document, late) = manager(2, store.clone()).await;
    let refused = late.start(2).await.unwrap_err();
    assert!(folded_each_time(&refused), "{refused}");
    late.start(3).await.expect("nobody folds any more");
    assert_eq!(document.view(), whole);
    late.stop().await;
    // Once less, and it is read. Nothing is folded here until all is looked for that is whole.
    for (less, looks) in [(1, 0), (0, 2), (1, 2)] {
        let store = Arc::new(FoldedMeanwhile::default());
        store.append(&records).await.unwrap();
        let (document, late) = manager(2, store.clone()).await;
        let meanwhile = each_time().into_iter().skip(less);
        let meanwhile = std::iter::repeat_n(None, looks).chain(meanwhile).collect();
        if looks == 0 {
            *store.before_pages.lock().unwrap() = meanwhile;
            late.start(2).await.unwrap();
        } else {
            late.start(2).await.unwrap();
            *store.before_pages.lock().unwrap() = meanwhile;
            let folded = late.compact().await;
            assert_eq!(folded.is_ok(), less == 1);
            assert!(folded.as_ref().err().is_none_or(folded_each_time), "{folded:?}");
            assert!(store.before_pages.lock().unwrap().is_empty());
            let contained = late.compact().await.expect("nobody folds any more");
            assert_eq!(contained.get(&sid(1)), records.last().unwrap().last());
        }
        assert_eq!(document.view(), whole);
        late.stop().await;
    }
}

/// A window that asks for all there is, and hears nothing.
struct Window(Option<Bytes>);

impl ClientSocket for Window {
    async fn recv(&mut self) -> Option<Bytes> {
        match self.0.take() {
            Some(hello) => Some(hello),
            None => std::future::pending().await,
        }
    }

    async fn send(&mut self, _: Bytes) -> bool {
        true
    }
}

/// What a window is given as a snapshot is read from the store too.
#[tokio::test(start_paused = true)]
async fn a_window_is_sent_away_where_the_store_can_not_be_read_for_it() {
    let at: Vec<u64> = (1..=READINGS_MAX as u64 + 2).collect();
    let (records, folds, _) = history(READINGS_MAX as u64 + 3, &at).await;
    for lies in [false, true] {
        let store = Arc::new(FoldedMeanwhile::default());
        store.append(&records).await.unwrap();
        let (document, manager) = manager(2, store.clone()).await;
        manager.start(2).await.unwrap();
        // Something is folded, or the window would be given patches.
        store.install(&folds[0].0, folds[0].1.clone()).await.unwrap();
        store.lies.store(lies, Relaxed);
        *store.before_pages.lock().unwrap() =
            std::iter::once(None).chain(folds[1..].iter().cloned().map(Some)).collect();
        let node = PeerId::new("node-2").unwrap();
        let presence: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
        let presence = (presence, Topic::new("doc/presence").unwrap(), PresenceOptions::STANDARD);
        let manager = Arc::new(manager);
        let gateway = Gateway::new(node, Arc::clone(&manager), &document, store, presence).unwrap();
        let hello = SyncMessage::State { vector: StateVector::new(), reply: true };
        let hello =
            wire::encode_sync(EncodingFormat::Binary, &PeerId::new("window").unwrap(), &hello).unwrap();
        let mut window = Window(Some(hello));
        let served = tokio::time::timeout(Duration::from_secs(5), gateway.serve(&mut window)).await;
        let Ok(Parting::Sync(error)) = served else { panic!("{served:?}") };
        match lies {
            true => assert!(matches!(error, SyncError::Store(PatchStoreError::Corrupt { .. })), "{error}"),
            false => assert!(matches!(error, SyncError::FoldedMeanwhile { times: READINGS_MAX }), "{error}"),
        }
        manager.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_back_on_its_word_is_told_of() {
    let (records, _, _) = history(3, &[]).await;
    let store = FoldedMeanwhile { lies: true.into(), ..FoldedMeanwhile::default() };
    store.append(&records).await.unwrap();
    let (_, late) = manager(2, Arc::new(store)).await;
    let refused = late.start(2).await.unwrap_err();
    assert!(matches!(refused, SyncError::Store(PatchStoreError::Corrupt { .. })), "{refused}");
}
