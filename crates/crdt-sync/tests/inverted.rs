//! A writer who does not keep to Lamport's rule: names the first tick of a long patch in patches that end before it. Who had
//! the long one took them in; in the order of their times they come before it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use crdt_core::{EncodingFormat, PatchBuilder, SessionId, StateVector, Timestamp, Value};
use crdt_sync::{
    MemoryPatchStore, PatchRecord, PatchStore, PeerId, PubSubBroadcaster, PubSubSyncer, SharedModel,
    SyncDocument as _, SyncManager, SyncMessage,
    dag::Heads,
    discovery::{MemoryPeerDiscovery, MemoryPeers},
    session::{Input, Output, Session, SessionEvent, SessionOptions},
    store::PatchPage,
};
use spot::{MemoryPubSub, Topic};

fn sid(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

fn record(prev: u64, patch: PatchBuilder) -> PatchRecord {
    PatchRecord::new(prev, Bytes::copy_from_slice(patch.finish().unwrap().as_bytes())).unwrap()
}

const LONG: u64 = 10_000;

/// A text by the first session, and what the others write into it, each into what the one after it writes: `depth` of them,
/// and `count` patches more by the last one. In an order in which causes come first.
fn inverted(depth: u64, count: u64) -> Vec<PatchRecord> {
    let mut patch = PatchBuilder::new(sid(1), 1);
    let text = patch.new_str();
    patch.ins_val(Timestamp::ORIGIN, text);
    let mut records = vec![record(0, patch)];
    let mut behind = text;
    for number in 0..depth {
        let (sid, time) = (sid(100 - number), 10 + 2 * number);
        let mut patch = PatchBuilder::new(sid, time);
        patch.ins_str(text, behind, "x");
        patch.nop(LONG - 100 * number);
        behind = Timestamp::new(sid, time);
        records.push(record(0, patch));
    }
    let (sid, mut prev) = (sid(2), 0);
    for number in 0..count {
        let time = 10 + 2 * depth + number;
        let mut patch = PatchBuilder::new(sid, time);
        patch.ins_str(text, behind, "y");
        behind = Timestamp::new(sid, time);
        let written = record(prev, patch);
        prev = written.last();
        records.push(written);
    }
    records
}

fn expected(depth: u64, count: u64) -> Value {
    Value::from(format!("{}{}", "x".repeat(depth as usize), "y".repeat(count as usize)))
}

async fn store(records: &[PatchRecord]) -> Arc<MemoryPatchStore> {
    let store = Arc::new(MemoryPatchStore::new());
    store.append(records).await.unwrap();
    store
}

/// Answers a newcomer's questions from a store until it asks nothing more. Returns what it stored.
async fn catch_up(store: &MemoryPatchStore, options: SessionOptions) -> StateVector<SessionId> {
    let peer = PeerId::new("peer").unwrap();
    let mut machine = Session::new(options, StateVector::new(), Heads::new(), Duration::ZERO, 7);
    let state = SyncMessage::State { vector: store.vector().await.unwrap(), reply: false };
    let mut inputs = vec![Input::Message { from: peer.clone(), message: state }];
    let mut pages = 0;
    while let Some(input) = inputs.pop() {
        machine.handle_input(Duration::ZERO, input);
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Store(_) => machine.handle_input(Duration::ZERO, Input::Stored),
                Output::Send { message, .. } => {
                    if let SyncMessage::Request { id, want, bytes_max, .. } = *message {
                        pages += 1;
                        assert!(pages < 2000, "it goes on for ever");
                        let page = store.page(&want, bytes_max as usize).await.unwrap();
                        let PatchPage::Records(records) = page else { panic!("nothing is folded") };
                        let message = SyncMessage::Patches { id, records };
                        inputs.push(Input::Message { from: peer.clone(), message });
                    }
                }
                Output::Event(event) => {
                    assert!(!matches!(*event, SessionEvent::Unhelpful { .. }), "{event:?}");
                }
                _ => {}
            }
        }
    }
    machine.stored().clone()
}

/// The pages that come first hold nothing that can be taken in, and more than can be parked.
#[tokio::test]
async fn a_newcomer_catches_up_whatever_order_the_times_say() {
    for (depth, count) in [(1, 200), (5, 200), (40, 10)] {
        let store = store(&inverted(depth, count)).await;
        for parked_max in [4, 4096] {
            let standard = SessionOptions::standard(sid(9));
            let options = SessionOptions { page_bytes_max: 300, parked_max, ..standard };
            let stored = catch_up(&store, options).await;
            assert_eq!(stored, store.vector().await.unwrap(), "{depth} deep, {parked_max} parked");
        }
    }
}

struct Started {
    document: Arc<SharedModel>,
    manager: SyncManager,
}

async fn start(store: Arc<dyn PatchStore>) -> Started {
    let (pubsub, id) = (Arc::new(MemoryPubSub::new()), PeerId::new("alone").unwrap());
    let document = Arc::new(SharedModel::new(sid(9)));
    let (patches, sync) = (Topic::new("patches").unwrap(), Topic::new("sync").unwrap());
    let format = EncodingFormat::Binary;
    let broadcaster = PubSubBroadcaster::new(pubsub.clone(), patches, format).await.unwrap();
    let syncer = PubSubSyncer::new(pubsub, sync, id.clone(), format).await.unwrap();
    let discovery = MemoryPeerDiscovery::new(&MemoryPeers::new(), id);
    let (broadcaster, syncer) = (Arc::new(broadcaster), Arc::new(syncer));
    let manager = SyncManager::new(document.clone(), broadcaster, syncer, Arc::new(discovery), store);
    manager.start(1).await.unwrap();
    Started { document, manager }
}

/// The document is made of what is stored, in whatever order that is read, at the start and when it is folded.
#[tokio::test]
async fn what_was_taken_in_is_in_the_document_after_a_restart_and_in_a_snapshot() {
    for (depth, count) in [(1, 20), (6, 20)] {
        let records = inverted(depth, count);
        let running = SharedModel::new(sid(8));
        records.iter().for_each(|record| running.apply(record, None).unwrap());
        assert_eq!(running.view(), expected(depth, count));

        let store = store(&records).await;
        let started = start(store.clone()).await;
        assert_eq!(started.document.view(), expected(depth, count));
        assert_eq!(started.manager.status().await.unwrap().not_applied, 0);
        let folded = started.manager.compact().await.unwrap();
        assert_eq!(folded, store.vector().await.unwrap());
        started.manager.stop().await;
        let again = start(store).await;
        assert_eq!(again.document.view(), expected(depth, count));
        again.manager.stop().await;
    }
}

/// Something else in the folder is damaged. Salvage keeps what has its causes, whatever order the times say.
#[cfg(feature = "embedded")]
#[tokio::test]
async fn salvage_keeps_what_was_taken_in() {
    use crdt_sync::store::EmbeddedPatchStores;

    let all = |vector: &StateVector<SessionId>| -> Vec<crdt_sync::Want> {
        vector.iter().map(|(sid, upto)| crdt_sync::Want { sid: *sid, after: 0, upto }).collect()
    };
    for (depth, count) in [(1, 5), (6, 20)] {
        let (folder, records) = (tempfile::tempdir().unwrap(), inverted(depth, count));
        let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
        let store = stores.document("doc").await.unwrap();
        store.append(&records).await.unwrap();
        // Two patches of one more session, of which the first is going to be damaged.
        let mut lost = Vec::new();
        for time in [1, 2] {
            let mut patch = PatchBuilder::new(sid(200), time);
            patch.nop(1);
            lost.push(record(time - 1, patch));
        }
        store.append(&lost).await.unwrap();
        drop((store, stores));
        let database = fjall::Database::builder(folder.path()).open().unwrap();
        let table = database.keyspace("patches", fjall::KeyspaceCreateOptions::default).unwrap();
        let (key, value) = table.iter().nth(records.len()).unwrap().into_inner().unwrap();
        table.insert(key, [&value, &b"x"[..]].concat()).unwrap();
        database.persist(fjall::PersistMode::SyncAll).unwrap();
        drop((table, database));

        let salvaged = EmbeddedPatchStores::salvage(folder.path()).await.unwrap();
        let document = &salvaged.documents[0];
        assert_eq!((document.kept, document.set_aside), (records.len() as u64, 2), "{depth} deep");
        let store = EmbeddedPatchStores::open(folder.path()).await.unwrap().document("doc").await.unwrap();
        let vector = store.vector().await.unwrap();
        assert_eq!(vector.get(&sid(200)), 0);
        let PatchPage::Records(kept) = store.page(&all(&vector), usize::MAX).await.unwrap() else { panic!() };
        assert_eq!(kept.len(), records.len());
        let started = start(Arc::new(store)).await;
        assert_eq!(started.document.view(), expected(depth, count));
        started.manager.stop().await;
    }
}
