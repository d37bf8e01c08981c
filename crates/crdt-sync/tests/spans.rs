//! What an operator sees of what a replica does: each part of it has a span of its own.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use crdt_core::{EncodingFormat, SessionId};
use crdt_sync::{
    ClientSocket, Gateway, PatchStore, PeerId, PubSubBroadcaster, PubSubSyncer, SharedModel, SyncManager,
    SyncMessage, Syncer as _,
    discovery::PubSubPeerDiscovery,
    presence::{PresenceOptions, PubSubPresence},
    store::EmbeddedPatchStores,
};
use spot::{MemoryPubSub, PubSub, Topic};
use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

/// Remembers the names of all spans.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<&'static str>>>);

impl Subscriber for Names {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.0.lock().unwrap().insert(span.metadata().name());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A client that goes at once.
struct Gone;

impl ClientSocket for Gone {
    async fn recv(&mut self) -> Option<Bytes> {
        None
    }

    async fn send(&mut self, _: Bytes) -> bool {
        false
    }
}

#[tokio::test]
async fn gateway_discovery_presence_and_store_have_spans() {
    let names = Names::default();
    let _here = tracing::subscriber::set_default(names.clone());
    let folder = tempfile::tempdir().unwrap();
    let stores = EmbeddedPatchStores::open(folder.path()).await.unwrap();
    let store: Arc<dyn PatchStore> = Arc::new(stores.document("note").await.unwrap());

    let pubsub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let (own, topic) = (PeerId::new("node").unwrap(), |name: &str| Topic::new(name).unwrap());
    let format = EncodingFormat::Binary;
    let broadcaster = PubSubBroadcaster::new(Arc::clone(&pubsub), topic("patches"), format).await.unwrap();
    let syncer = PubSubSyncer::new(Arc::clone(&pubsub), topic("sync"), own.clone(), format).await.unwrap();
    let peers = PresenceOptions::STANDARD;
    let discovery = PubSubPeerDiscovery::new(Arc::clone(&pubsub), topic("peers"), own.clone(), peers);
    let document = Arc::new(SharedModel::new(SessionId::new(70_001).unwrap()));
    let manager = Arc::new(SyncManager::new(
        Arc::<SharedModel>::clone(&document),
        Arc::new(broadcaster),
        Arc::new(syncer),
        Arc::new(discovery),
        Arc::clone(&store),
    ));
    manager.start(1).await.unwrap();
    let other = PubSubSyncer::new(Arc::clone(&pubsub), topic("sync"), PeerId::new("other").unwrap(), format);
    let patch = document.edit(|model| model.api().root("seen")).unwrap().unwrap();
    manager.apply_patch(&patch).await.unwrap();
    let vector = manager.status().await.unwrap().stored;
    other.await.unwrap().send(None, &SyncMessage::State { vector, reply: false }).await.unwrap();
    let known = async {
        while manager.status().await.unwrap().peers.iter().all(|peer| peer.behind_ticks != Some(0)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("it is believed");
    manager.compact().await.unwrap();

    let shown = (Arc::clone(&pubsub), topic("presence"), PresenceOptions::STANDARD);
    let gateway = Gateway::new(own.clone(), Arc::clone(&manager), &document, store, shown).unwrap();
    let _parting = gateway.serve(&mut Gone).await;
    let presence = PubSubPresence::join(pubsub, topic("presence"), own, PresenceOptions::STANDARD);
    presence.await.unwrap().leave().await;
    tokio::time::timeout(Duration::from_secs(20), manager.stop()).await.expect("it stops");

    let seen = names.0.lock().unwrap();
    let of_the_manager = ["turn", "take_in", "take_in_message", "broadcast", "fold", "compact"];
    let of_others = ["serve", "register", "presence", "store_append", "store_page", "store_install"];
    for name in of_the_manager.into_iter().chain(of_others) {
        assert!(seen.contains(name), "no span {name} among {seen:?}");
    }
}

#[cfg(feature = "crypto")]
mod ways {
    use crdt_core::{PatchBuilder, Value};
    use crdt_sync::{
        MemoryPatchStore, PatchRecord,
        conflict::{Rules, Strategy},
        crypto::{Access, Keyring, Role, SealedPubSub, SealingKey, Signer},
        discovery::{MemoryPeerDiscovery, MemoryPeers},
        session::{SessionOptions, SyncMode},
    };

    use super::*;

    /// A replica in a group that seals, signs and has rules, and in which everybody has to be compared with.
    async fn join(
        number: u8,
        sync: SyncMode,
        hub: &Arc<dyn PubSub>,
        peers: &MemoryPeers,
    ) -> (Arc<SharedModel>, SyncManager) {
        let (own, topic) =
            (PeerId::new(format!("node-{number}")).unwrap(), |name: &str| Topic::new(name).unwrap());
        let ring = Keyring::new(SealingKey::new(1, &[9; 32]));
        let pubsub: Arc<dyn PubSub> = Arc::new(SealedPubSub::new(Arc::clone(hub), ring, [number; 16]));
        let format = EncodingFormat::Binary;
        let broadcaster =
            PubSubBroadcaster::new(Arc::clone(&pubsub), topic("patches"), format).await.unwrap();
        let syncer = PubSubSyncer::new(pubsub, topic("sync"), own.clone(), format).await.unwrap();
        let session = SessionId::new(70_000 + u64::from(number)).unwrap();
        let rules = Rules::new().with("/a", Strategy::MultiValue);
        let document = Arc::new(SharedModel::new(session).with_conflicts(rules));
        let access = Access::new("doc", Some(Signer::from_secret(&[number; 32])));
        for writer in [1, 2] {
            access.allow(Signer::from_secret(&[writer; 32]).author(), Role::Write).unwrap();
        }
        // What all have begun with: whoever has nothing is told all, and nothing is compared.
        let mut begin = PatchBuilder::new(SessionId::new(70_000).unwrap(), 1);
        begin.nop(1);
        let begin = Bytes::copy_from_slice(begin.finish().unwrap().as_bytes());
        let store = MemoryPatchStore::new();
        if sync == SyncMode::Vectors {
            store.append(&[PatchRecord::new(0, begin).unwrap()]).await.unwrap();
        }
        let manager = SyncManager::new(
            Arc::<SharedModel>::clone(&document),
            Arc::new(broadcaster),
            Arc::new(syncer),
            Arc::new(MemoryPeerDiscovery::new(peers, own)),
            Arc::new(store),
        )
        .with_guard(Arc::new(access))
        .with_options(SessionOptions {
            sync,
            state_entries_max: 0,
            ..SessionOptions::standard(session)
        });
        manager.start(number.into()).await.unwrap();
        (document, manager)
    }

    #[tokio::test(start_paused = true)]
    async fn reconciling_walking_repairing_signing_sealing_and_conflicts_have_spans() {
        for (sync, names_of_it) in
            [(SyncMode::Vectors, &["reconcile", "sketch"][..]), (SyncMode::Dag, &["walk", "read", "repair"])]
        {
            let names = Names::default();
            let _here = tracing::subscriber::set_default(names.clone());
            let (hub, peers): (Arc<dyn PubSub>, _) = (Arc::new(MemoryPubSub::new()), MemoryPeers::new());
            let (document, first) = join(1, sync, &hub, &peers).await;
            let expect = Value::from(&serde_json::json!({"a": 1}));
            let patch = document.edit(|model| model.api().root(expect.clone())).unwrap().unwrap();
            first.apply_patch(&patch).await.unwrap();
            // It comes late, so that there is something to find out.
            let (document, late) = join(2, sync, &hub, &peers).await;
            let mut changes = document.changes();
            let seen = async {
                while document.view() != expect {
                    changes.changed().await.expect("the document is here");
                }
            };
            tokio::time::timeout(Duration::from_secs(20), seen).await.expect("it catches up");
            if sync == SyncMode::Dag {
                late.repair().await.unwrap();
            }
            first.stop().await;
            late.stop().await;

            let seen = names.0.lock().unwrap();
            for name in names_of_it.iter().chain(&["sign", "verify", "seal", "open", "observe"]) {
                assert!(seen.contains(name), "{sync:?}: no span {name} among {seen:?}");
            }
        }
    }
}
