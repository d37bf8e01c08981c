//! A manager starts over a store that another process folds at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use bytes::Bytes;
use crdt_core::{EncodingFormat, SessionId, StateVector, Value};
use crdt_sync::{
    MemoryPatchStore, PatchRecord, PatchStore, PatchStoreError, PeerId, PubSubBroadcaster, PubSubSyncer,
    SharedModel, SyncError, SyncManager, Want,
    discovery::{MemoryPeerDiscovery, MemoryPeers},
    store::PatchPage,
};
use serde_json::json;
use spot::{MemoryPubSub, PubSub, Topic};

/// A store that somebody else folds, so often, just before a page is read.
struct FoldedMeanwhile {
    kept: MemoryPatchStore,
    /// What the other process installs, one by one.
    folds: Vec<(StateVector<SessionId>, Bytes)>,
    folded: AtomicU32,
    /// Whether pages are refused without a reason.
    lies: bool,
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
        if self.lies {
            return Ok(PatchPage::Compacted);
        }
        if let Some((vector, bytes)) = self.folds.get(self.folded.fetch_add(1, SeqCst) as usize) {
            self.kept.install(vector, bytes.clone()).await?;
        }
        self.kept.page(want, bytes_max).await
    }

    async fn install(&self, vector: &StateVector<SessionId>, snapshot: Bytes) -> Result<(), PatchStoreError> {
        self.kept.install(vector, snapshot).await
    }

    async fn mend(&self, record: &PatchRecord) -> Result<(), PatchStoreError> {
        self.kept.mend(record).await
    }

    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
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
async fn history(count: u64, at: &[u64]) -> (Vec<PatchRecord>, Vec<(StateVector<SessionId>, Bytes)>, Value) {
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let (mut records, mut folds) = (Vec::new(), Vec::new());
    let (document, at_first) = manager(1, Arc::clone(&store)).await;
    at_first.start(1).await.unwrap();
    for number in 1..=count {
        let edit = |model: &mut crdt_core::Model| match number {
            1 => model.api().root(Value::from(&json!({}))).map(drop),
            _ => model.api().obj("")?.set([(format!("k{number}").as_str(), number as i64)]),
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
    let kept = MemoryPatchStore::new();
    kept.append(&records).await.unwrap();
    let store = FoldedMeanwhile { kept, folds, folded: AtomicU32::new(0), lies: false };
    let (document, late) = manager(2, Arc::new(store)).await;
    late.start(2).await.expect("it begins again");
    assert_eq!(document.view(), whole);
    assert_eq!(late.status().await.unwrap().stored.get(&sid(1)), records.last().unwrap().last());
    late.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_back_on_its_word_is_told_of() {
    let (records, _, _) = history(3, &[]).await;
    let kept = MemoryPatchStore::new();
    kept.append(&records).await.unwrap();
    let store = FoldedMeanwhile { kept, folds: Vec::new(), folded: AtomicU32::new(0), lies: true };
    let (_, late) = manager(2, Arc::new(store)).await;
    let refused = late.start(2).await.unwrap_err();
    assert!(matches!(refused, SyncError::Store(PatchStoreError::Corrupt { .. })), "{refused}");
}
