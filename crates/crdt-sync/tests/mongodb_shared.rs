//! Several processes over one MongoDB database: patch stores and managers that share it, and a server that goes away.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use crdt_core::{EncodingFormat, PatchBuilder, SessionId, StateVector};
use crdt_sync::{
    CompactionPolicy, PatchRecord, PatchStoreError, PeerId, PubSubBroadcaster, PubSubSyncer, SharedModel,
    SyncManager, Want,
    discovery::{MemoryPeerDiscovery, MemoryPeers},
    store::{MongoPatchStore, PatchPage, PatchStore},
};
use nodestorage::{MongoOptions, MongoStore, mongo::testing::TestServer};
use spot::{MemoryPubSub, PubSub, Topic};

const PATIENCE: Duration = Duration::from_secs(60);

/// A handle as a process of its own has it: over connections of its own, which live as long as the store beside it.
async fn open(server: &TestServer) -> (MongoStore, Arc<dyn PatchStore>) {
    let options = MongoOptions { database: Some(server.database().to_owned()), ..MongoOptions::default() };
    let store = MongoStore::connect(server.uri(), options).await.unwrap();
    let patches = MongoPatchStore::open(&store, "doc").await.unwrap();
    (store, Arc::new(patches))
}

fn sid(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

fn history(number: u64, count: u64) -> Vec<PatchRecord> {
    let patch = |time| {
        let mut builder = PatchBuilder::new(sid(number), time);
        builder.nop(1);
        let patch = Bytes::copy_from_slice(builder.finish().unwrap().as_bytes());
        PatchRecord::new(time - 1, patch).unwrap()
    };
    (1..=count).map(patch).collect()
}

/// A manager over a store, under a session of its own.
async fn manager(
    pubsub: &Arc<dyn PubSub>,
    peers: &MemoryPeers,
    number: u64,
    store: Arc<dyn PatchStore>,
) -> (Arc<SharedModel>, SyncManager) {
    let own = PeerId::new(format!("node-{number}")).unwrap();
    let (patches, sync) = (Topic::new("doc/patches").unwrap(), Topic::new("doc/sync").unwrap());
    let format = EncodingFormat::Binary;
    let broadcaster = PubSubBroadcaster::new(Arc::clone(pubsub), patches, format).await.unwrap();
    let syncer = PubSubSyncer::new(Arc::clone(pubsub), sync, own.clone(), format).await.unwrap();
    let document = Arc::new(SharedModel::new(sid(number)));
    let discovery = Arc::new(MemoryPeerDiscovery::new(peers, own));
    let shared = Arc::<SharedModel>::clone(&document);
    let manager = SyncManager::new(shared, Arc::new(broadcaster), Arc::new(syncer), discovery, store)
        .with_compaction(CompactionPolicy { log_bytes_max: u64::MAX, ..CompactionPolicy::STANDARD });
    manager.start(number).await.unwrap();
    (document, manager)
}

/// Two processes over one database: each appends to the same sessions, one folds, both read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn two_handles_of_one_document_keep_one_chain_of_each_session() {
    const COUNT: u64 = 30;
    let server = TestServer::start();
    let (_its_connections, first) = open(&server).await;
    let (_connections, second) = open(&server).await;
    assert_eq!(first.id(), second.id(), "it is one store");
    let handles: [Arc<dyn PatchStore>; 2] = [first, second];
    let mut tasks = Vec::new();
    for handle in &handles {
        // Each patch comes over both, as when a broadcast reaches two processes.
        for session in 1..=3 {
            let handle = Arc::clone(handle);
            tasks.push(tokio::spawn(async move {
                for record in history(session, COUNT) {
                    handle.append(std::slice::from_ref(&record)).await.unwrap();
                    assert!(handle.vector().await.unwrap().get(&sid(session)) >= record.last());
                }
            }));
        }
        let handle = Arc::clone(handle);
        tasks.push(tokio::spawn(async move {
            for _ in 0..5 {
                let vector = handle.vector().await.unwrap();
                match handle.install(&vector, Bytes::from(format!("{vector:?}"))).await {
                    // The other one was quicker, with something else.
                    Ok(()) | Err(PatchStoreError::Diverged { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                let want: Vec<_> =
                    (1..=3).map(|number| Want { sid: sid(number), after: 0, upto: COUNT }).collect();
                if let PatchPage::Records(page) = handle.page(&want, usize::MAX).await.unwrap() {
                    let mut next = BTreeMap::new();
                    for record in page {
                        let before = next.insert(record.session(), record.last()).unwrap_or(0);
                        assert_eq!(record.prev, before);
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let whole: StateVector<_> = (1..=3).map(|number| (sid(number), COUNT)).collect();
    for handle in &handles {
        assert_eq!(handle.vector().await.unwrap(), whole);
        let (contained, bytes) = handle.snapshot().await.unwrap().expect("somebody has folded");
        assert_eq!(bytes, format!("{contained:?}"), "a snapshot is of what it is said to be of");
        let behind = handle.vector().await.unwrap();
        let want: Vec<_> =
            behind.iter().map(|(sid, upto)| Want { sid: *sid, after: contained.get(sid), upto }).collect();
        let PatchPage::Records(page) = handle.page(&want, usize::MAX).await.unwrap() else {
            panic!("folded")
        };
        let left: u64 = want.iter().map(|want| want.upto - want.after).sum();
        assert_eq!(page.len() as u64, left);
    }
}

/// A process starts over what two others keep, while one of them folds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn managers_of_two_processes_share_one_database() {
    let server = TestServer::start();
    let (_its_connections, first) = open(&server).await;
    let (_connections, second) = open(&server).await;
    let (pubsub, peers): (Arc<dyn PubSub>, _) = (Arc::new(MemoryPubSub::new()), MemoryPeers::new());
    let (ann, at_ann) = manager(&pubsub, &peers, 1, first).await;
    let (bo, at_bo) = manager(&pubsub, &peers, 2, Arc::clone(&second)).await;
    let edit = async |document: &SharedModel, manager: &SyncManager, key: &str| {
        let patch = document.edit(|model| model.api().obj("")?.set([(key, 1)])).unwrap().unwrap();
        manager.apply_patch(&patch).await.unwrap();
    };
    let patch = ann.edit(|model| model.api().root(crdt_core::Value::Map(vec![]))).unwrap().unwrap();
    at_ann.apply_patch(&patch).await.unwrap();
    let mut changes = bo.changes();
    tokio::time::timeout(PATIENCE, async {
        while !bo.view().is_same_json(&ann.view()) {
            changes.changed().await.unwrap();
        }
    })
    .await
    .expect("the root reaches the other");
    for number in 0..10 {
        edit(&ann, &at_ann, &format!("a{number}")).await;
        edit(&bo, &at_bo, &format!("b{number}")).await;
    }
    at_ann.compact().await.unwrap();
    edit(&bo, &at_bo, "behind the snapshot").await;
    let all = 22;
    let count = |document: &SharedModel| match document.view() {
        crdt_core::Value::Map(fields) => fields.len(),
        other => panic!("{other:?}"),
    };
    for document in [&ann, &bo] {
        let mut changes = document.changes();
        let seen = async {
            while count(document) < all - 1 {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("everything reaches both");
    }
    at_ann.stop().await;
    at_bo.stop().await;
    let (late, at_late) = manager(&pubsub, &peers, 3, second).await;
    let (late, bo) = (late.view(), bo.view());
    assert!(late.is_same_json(&bo), "{late:?}, {bo:?}");
    at_late.stop().await;
}

/// The server is gone in the middle: what is asked of the manager fails or waits for so long as is said, and it can be
/// stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn an_outage_ends_calls_and_keeps_nobody_from_stopping() {
    let server = TestServer::own();
    let (connections, store) = open(&server).await;
    let (pubsub, peers): (Arc<dyn PubSub>, _) = (Arc::new(MemoryPubSub::new()), MemoryPeers::new());
    let (document, at) = manager(&pubsub, &peers, 1, Arc::clone(&store)).await;
    let at = Arc::new(at);
    let patch = document.edit(|model| model.api().root(1)).unwrap().unwrap();
    at.apply_patch(&patch).await.unwrap();
    drop(server);

    let refused = tokio::time::timeout(PATIENCE / 4, store.append(&history(7, 1))).await.expect("it ends");
    assert!(matches!(&refused, Err(error) if error.may_pass()), "{refused:?}");
    let want = [Want { sid: sid(1), after: 0, upto: 9 }];
    let refused = tokio::time::timeout(PATIENCE / 4, store.page(&want, 1000)).await.expect("it ends");
    assert!(refused.is_err());
    let first = StateVector::from_iter([(sid(1), 1)]);
    let installed = store.install(&first, "snapshot".into());
    assert!(tokio::time::timeout(PATIENCE / 4, installed).await.expect("it ends").is_err());

    let patch = document.edit(|model| model.api().root(2)).unwrap().unwrap();
    let applying = tokio::spawn({
        let at = Arc::clone(&at);
        async move { at.apply_patch(&patch).await }
    });
    // It is under way when the manager is stopped.
    tokio::task::yield_now().await;
    tokio::time::timeout(PATIENCE / 2, at.stop()).await.expect("it stops");
    let applied = tokio::time::timeout(PATIENCE / 4, applying).await.expect("it ends").unwrap();
    assert!(applied.is_err(), "nothing is acknowledged that is not durable");
    drop(connections);
}
