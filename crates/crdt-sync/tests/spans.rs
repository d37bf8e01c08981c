//! What an operator sees of gateway, discovery, presence and store: each has a span of its own.

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
