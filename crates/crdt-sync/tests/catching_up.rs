//! A replica that is years behind catches up without anybody holding all of it: counted, not estimated.

mod counted;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use crdt_core::{EncodingFormat, PatchBuilder, SessionId, StateVector, Value};
use crdt_sync::{
    DocumentError, Fold, PatchRecord, PatchStore, PatchStoreError, PeerId, PubSubBroadcaster, PubSubSyncer,
    SignerId, SyncDocument, SyncManager, Want, discovery::StaticPeerDiscovery, store::PatchPage,
};
use spot::{MemoryPubSub, PubSub, Topic};

const PATCHES: u64 = 512;
const PATCH_BYTES: usize = 64 << 10;
/// A page of 256 KiB, a few times over: read, written into a message, read from it, and taken apart. Together the patches are
/// 32 MiB.
const BOUND_BYTES: isize = 4 << 20;

fn author() -> SessionId {
    SessionId::new(70_000).unwrap()
}

/// A store that makes its patches up when they are read, and forgets what is written: what is held is held by others.
struct Bottomless {
    last: Mutex<u64>,
}

impl Bottomless {
    fn with(last: u64) -> Arc<Self> {
        Arc::new(Self { last: Mutex::new(last) })
    }

    fn record(number: u64) -> PatchRecord {
        let mut patch = PatchBuilder::new(author(), number);
        patch.new_con(&Value::Bytes(vec![number as u8; PATCH_BYTES]));
        let patch = Bytes::copy_from_slice(patch.finish().unwrap().as_bytes());
        PatchRecord::new(number - 1, patch).unwrap()
    }
}

#[async_trait]
impl PatchStore for Bottomless {
    async fn append(&self, records: &[PatchRecord]) -> Result<(), PatchStoreError> {
        let mut last = self.last.lock().unwrap();
        for record in records {
            assert_eq!((record.session(), record.prev), (author(), *last));
            *last = record.last();
        }
        Ok(())
    }

    async fn vector(&self) -> Result<StateVector<SessionId>, PatchStoreError> {
        let last = *self.last.lock().unwrap();
        Ok((last > 0).then_some((author(), last)).into_iter().collect())
    }

    async fn page(&self, want: &[Want], bytes_max: usize) -> Result<PatchPage, PatchStoreError> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for number in want.iter().flat_map(|want| want.after + 1..=want.upto) {
            let record = Self::record(number);
            bytes += record.len_bytes();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(record);
        }
        Ok(PatchPage::Records(records))
    }

    async fn install(&self, _: &StateVector<SessionId>, _: Bytes) -> Result<(), PatchStoreError> {
        panic!("nobody folds")
    }

    async fn mend(&self, _: &PatchRecord) -> Result<(), PatchStoreError> {
        Ok(())
    }

    async fn snapshot(&self) -> Result<Option<(StateVector<SessionId>, Bytes)>, PatchStoreError> {
        Ok(None)
    }

    async fn keep_note(&self, _: Bytes) -> Result<(), PatchStoreError> {
        Ok(())
    }

    async fn note(&self) -> Result<Bytes, PatchStoreError> {
        Ok(Bytes::new())
    }

    async fn close(&self) -> Result<(), PatchStoreError> {
        Ok(())
    }
}

/// A document that keeps nothing.
struct Nothing(SessionId);

impl SyncDocument for Nothing {
    fn session(&self) -> SessionId {
        self.0
    }

    fn apply(&self, _: &PatchRecord, _: Option<SignerId>) -> Result<(), DocumentError> {
        Ok(())
    }

    fn install(&self, _: &[u8]) -> Result<(), DocumentError> {
        Err(DocumentError::Snapshot("nobody folds".to_owned()))
    }

    fn fold(&self, _: Option<&[u8]>) -> Result<Box<dyn Fold>, DocumentError> {
        Err(DocumentError::Snapshot("nobody folds".to_owned()))
    }
}

async fn start(pubsub: &Arc<dyn PubSub>, number: u64, store: Arc<Bottomless>) -> SyncManager {
    let topic = |name| Topic::new(name).unwrap();
    let id = |number| PeerId::new(format!("node-{number}")).unwrap();
    let format = EncodingFormat::Binary;
    let broadcaster = PubSubBroadcaster::new(Arc::clone(pubsub), topic("patches"), format).await.unwrap();
    let syncer = PubSubSyncer::new(Arc::clone(pubsub), topic("sync"), id(number), format).await.unwrap();
    let manager = SyncManager::new(
        Arc::new(Nothing(SessionId::new(80_000 + number).unwrap())),
        Arc::new(broadcaster),
        Arc::new(syncer),
        Arc::new(StaticPeerDiscovery::new([id(3 - number)], &id(number))),
        store,
    );
    manager.start(number).await.unwrap();
    manager
}

/// All other tests of this file would be counted too, so there is none.
#[tokio::test(start_paused = true)]
async fn nobody_holds_all_that_a_replica_lacks_which_is_far_behind() {
    let pubsub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let before = counted::begin();
    let first = start(&pubsub, 1, Bottomless::with(PATCHES)).await;
    let started = counted::most() - before;
    assert!(started < BOUND_BYTES, "{started} bytes to start over {PATCHES} patches");

    let (before, store) = (counted::begin(), Bottomless::with(0));
    let late = start(&pubsub, 2, Arc::clone(&store)).await;
    let mut stored = late.stored();
    let caught_up = async {
        while *store.last.lock().unwrap() < PATCHES {
            stored.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_mins(1), caught_up).await.expect("it catches up");
    let most = counted::most() - before;
    assert!(
        most < BOUND_BYTES,
        "{most} bytes to catch up with {} MiB",
        (PATCHES as usize * PATCH_BYTES) >> 20
    );
    let status = late.status().await.unwrap();
    assert_eq!((status.counters.pulled, status.counters.installed), (PATCHES, 0));
    first.stop().await;
    late.stop().await;
}
