//! A client that is no peer, on a node of two: what it sends reaches both, and what both do reaches it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use crdt_core::{EncodingFormat, Model, Patch, PatchBuilder, SessionId, StateVector, Value};
use crdt_sync::{
    ClientSocket, Gateway, MemoryPatchStore, PatchRecord, PatchStore, PeerId, PubSubBroadcaster,
    PubSubSyncer, SharedModel, SyncDocument as _, SyncManager, SyncMessage,
    discovery::{MemoryPeerDiscovery, MemoryPeers},
    gateway::{ClientOptions, Parting},
    presence::{PresenceMessage, PresenceOptions},
    wire,
};
use serde_json::json;
use spot::{MemoryPubSub, PubSub, Topic};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);
const FORMAT: EncodingFormat = EncodingFormat::Binary;

/// `{"text": ""}`, the same on every replica.
fn base() -> Patch {
    let mut builder = PatchBuilder::new(SessionId::GLOBAL, 1);
    let root = builder.json(&Value::from(&json!({"text": ""})));
    builder.ins_val(crdt_core::Timestamp::ORIGIN, root);
    builder.finish().unwrap()
}

fn sid(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

struct Node {
    document: Arc<SharedModel>,
    manager: Arc<SyncManager>,
    gateway: Arc<Gateway>,
}

async fn node(
    pubsub: &Arc<dyn PubSub>,
    peers: &MemoryPeers,
    number: u64,
    store: Arc<dyn PatchStore>,
) -> Node {
    let own = PeerId::new(format!("node-{number}")).unwrap();
    let topic = |name: &str| Topic::new(format!("doc/{name}")).unwrap();
    let document = Arc::new(SharedModel::with_base(sid(number), base()).unwrap());
    let broadcaster = PubSubBroadcaster::new(Arc::clone(pubsub), topic("patches"), FORMAT).await.unwrap();
    let syncer = PubSubSyncer::new(Arc::clone(pubsub), topic("sync"), own.clone(), FORMAT).await.unwrap();
    let discovery = Arc::new(MemoryPeerDiscovery::new(peers, own.clone()));
    let shared = Arc::<SharedModel>::clone(&document);
    let manager =
        SyncManager::new(shared, Arc::new(broadcaster), Arc::new(syncer), discovery, Arc::clone(&store));
    let manager = Arc::new(manager);
    manager.start(number).await.unwrap();
    let presence = (Arc::clone(pubsub), topic("presence"), PresenceOptions::STANDARD);
    let gateway = Gateway::new(own, Arc::clone(&manager), &document, store, presence).unwrap();
    Node { document, manager, gateway: Arc::new(gateway) }
}

struct Socket {
    incoming: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Bytes>,
}

impl ClientSocket for Socket {
    async fn recv(&mut self) -> Option<Bytes> {
        self.incoming.recv().await
    }

    async fn send(&mut self, message: Bytes) -> bool {
        self.outgoing.send(message).await.is_ok()
    }
}

/// A client as a browser has it: a replica, and what it knows to be durable.
struct Client {
    model: Model,
    has: StateVector<SessionId>,
    own_last: u64,
    acknowledged: u64,
    to: mpsc::Sender<Bytes>,
    from: mpsc::Receiver<Bytes>,
    served: tokio::task::JoinHandle<Parting>,
}

impl Client {
    async fn connect(gateway: &Arc<Gateway>, session: SessionId) -> Self {
        let (to, incoming) = mpsc::channel(16);
        let (outgoing, from) = mpsc::channel(16);
        let gateway = Arc::clone(gateway);
        let served = tokio::spawn(async move { gateway.serve(&mut Socket { incoming, outgoing }).await });
        let mut model = Model::new(session);
        let _ = model.apply(&base()).unwrap();
        let mut client =
            Self { model, has: StateVector::new(), own_last: 0, acknowledged: 0, to, from, served };
        client.say(&SyncMessage::State { vector: StateVector::new(), reply: true }).await;
        client
    }

    async fn say(&mut self, message: &SyncMessage) {
        let bytes = wire::encode_sync(FORMAT, &PeerId::new("window").unwrap(), message).unwrap();
        self.to.send(bytes).await.unwrap();
    }

    async fn types(&mut self, at: usize, text: &str) {
        self.model.api().str("/text").unwrap().ins(at, text).unwrap();
        let patch = self.model.flush().unwrap();
        let record = PatchRecord::new(self.own_last, Bytes::copy_from_slice(patch.as_bytes())).unwrap();
        self.own_last = record.last();
        self.to.send(wire::encode_patch(FORMAT, &record).unwrap()).await.unwrap();
    }

    async fn hear(&mut self) {
        let bytes = tokio::time::timeout(PATIENCE, self.from.recv()).await.unwrap().expect("served");
        if bytes[0] == 3 {
            return;
        }
        match wire::decode_sync(&bytes).unwrap().1 {
            SyncMessage::Patches { records, .. } => {
                for record in records {
                    let _ = self.model.apply(&Patch::decode(&record.patch).unwrap()).unwrap();
                    self.has.advance(record.session(), record.last());
                }
            }
            SyncMessage::Offer { snapshot, .. } => self.has.merge(&snapshot.vector),
            SyncMessage::Part { bytes, .. } => {
                let mut document = crdt_core::Document::from_binary(&bytes).unwrap();
                document.set_session(self.model.document().session());
                self.model = document.into();
            }
            SyncMessage::State { vector, .. } => {
                self.acknowledged = vector.get(&self.model.document().session());
            }
            SyncMessage::Digest { .. } | SyncMessage::Welcome { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn sees(document: &SharedModel, expect: &serde_json::Value) {
    let expect = Value::from(expect);
    let mut changes = document.changes();
    let seen = async {
        while document.view() != expect {
            changes.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(PATIENCE, seen).await.is_err() {
        assert_eq!(document.view(), expect);
    }
}

#[tokio::test]
async fn what_a_client_types_is_durable_before_it_is_acknowledged_and_reaches_all() {
    let (pubsub, peers): (Arc<dyn PubSub>, _) = (Arc::new(MemoryPubSub::new()), MemoryPeers::new());
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let near = node(&pubsub, &peers, 1, Arc::clone(&store)).await;
    let far = node(&pubsub, &peers, 2, Arc::new(MemoryPatchStore::new())).await;
    let mut client = Client::connect(&near.gateway, sid(100)).await;
    client.types(0, "warp").await;
    while client.acknowledged < client.own_last {
        client.hear().await;
    }
    // Before the answer came it was in the store, and on its way to the other node.
    assert_eq!(store.vector().await.unwrap().get(&sid(100)), client.own_last);
    sees(&near.document, &json!({"text": "warp"})).await;
    sees(&far.document, &json!({"text": "warp"})).await;

    // An edit of the other node reaches the client, and a second client begins with a snapshot.
    let patch = far.document.edit(|model| model.api().str("/text")?.ins(4, " and weft")).unwrap().unwrap();
    far.manager.apply_patch(&patch).await.unwrap();
    while client.has.get(&sid(2)) == 0 {
        client.hear().await;
    }
    let whole = Value::from(&json!({"text": "warp and weft"}));
    assert_eq!(client.model.view(), whole);
    let mut late = Client::connect(&near.gateway, sid(101)).await;
    while late.model.view() != whole {
        late.hear().await;
    }
    assert!(late.has.contains(&store.vector().await.unwrap()));
    assert_eq!(near.gateway.clients(), 2);

    // Whoever writes under the node's own session is refused, and loses its socket only.
    let mut forged = PatchBuilder::new(sid(1), 1000);
    forged.new_str();
    let record = PatchRecord::new(0, Bytes::copy_from_slice(forged.finish().unwrap().as_bytes())).unwrap();
    late.to.send(wire::encode_patch(FORMAT, &record).unwrap()).await.unwrap();
    let parting = tokio::time::timeout(PATIENCE, late.served).await.unwrap().unwrap();
    assert!(parting.to_string().contains("its session is used by two replicas"), "{parting}");
    client.types(0, "The ").await;
    sees(&far.document, &json!({"text": "The warp and weft"})).await;

    let goodbye = PresenceMessage {
        peer: PeerId::new("window").unwrap(),
        run: 0,
        count: 1,
        here: false,
        hello: false,
        shown: Bytes::new(),
    };
    client.to.send(goodbye.encode()).await.unwrap();
    let parting = tokio::time::timeout(PATIENCE, client.served).await.unwrap().unwrap();
    assert!(matches!(parting, Parting::Gone), "{parting}");
}

#[tokio::test]
async fn what_all_start_from_survives_compaction() {
    let (pubsub, peers): (Arc<dyn PubSub>, _) = (Arc::new(MemoryPubSub::new()), MemoryPeers::new());
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let first = node(&pubsub, &peers, 1, Arc::clone(&store)).await;
    let patch = first.document.edit(|model| model.api().str("/text")?.ins(0, "kept")).unwrap().unwrap();
    first.manager.apply_patch(&patch).await.unwrap();
    first.manager.compact().await.unwrap();
    first.manager.stop().await;
    assert!(store.snapshot().await.unwrap().is_some());
    let again = node(&pubsub, &peers, 3, store).await;
    assert_eq!(again.document.view(), Value::from(&json!({"text": "kept"})));
    // A client that comes after compaction begins with a snapshot, too.
    let mut client = Client::connect(&again.gateway, sid(100)).await;
    while client.model.view() != again.document.view() {
        client.hear().await;
    }
    let refused = SharedModel::with_base(sid(1), patch).unwrap_err().to_string();
    assert!(refused.contains("reserved session"), "{refused}");
    assert_eq!(again.document.session(), sid(3));
}

#[tokio::test]
async fn a_socket_that_never_says_who_it_is_loses_its_place() {
    let (pubsub, peers): (Arc<dyn PubSub>, _) = (Arc::new(MemoryPubSub::new()), MemoryPeers::new());
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let Node { document, manager, .. } = node(&pubsub, &peers, 1, Arc::clone(&store)).await;
    let presence = (pubsub, Topic::new("doc/presence").unwrap(), PresenceOptions::STANDARD);
    let own = PeerId::new("node-1").unwrap();
    let hello_max = Duration::from_millis(50);
    let gateway = Gateway::new(own, manager, &document, store, presence).unwrap();
    let gateway = gateway.with_options(ClientOptions { hello_max, ..ClientOptions::STANDARD });

    // Its end stays open, and nothing comes.
    let (_to, incoming) = mpsc::channel(1);
    let (outgoing, _from) = mpsc::channel(1);
    let mut socket = Socket { incoming, outgoing };
    let parting = tokio::time::timeout(PATIENCE, gateway.serve(&mut socket)).await.expect("it ends");
    assert!(matches!(parting, Parting::Silent(_)), "{parting}");
    assert_eq!((gateway.clients(), gateway.sent_away()), (0, 1));

    // One who has said it may be silent for as long as it likes.
    let gateway = Arc::new(gateway);
    let mut client = Client::connect(&gateway, sid(100)).await;
    client.types(0, "warp").await;
    while client.acknowledged < client.own_last {
        client.hear().await;
    }
    assert!(tokio::time::timeout(4 * hello_max, &mut client.served).await.is_err(), "it is still served");
}

/// Each window costs two entries for each session of the document, so that many windows of a long document are bounded together.
#[tokio::test]
async fn windows_together_hold_so_much_and_who_was_heard_longest_ago_goes() {
    let (pubsub, peers): (Arc<dyn PubSub>, _) = (Arc::new(MemoryPubSub::new()), MemoryPeers::new());
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    for number in 10..20 {
        let mut patch = PatchBuilder::new(sid(number), 100);
        patch.new_str();
        let patch = Bytes::copy_from_slice(patch.finish().unwrap().as_bytes());
        store.append(&[PatchRecord::new(0, patch).unwrap()]).await.unwrap();
    }
    let Node { document, manager, .. } = node(&pubsub, &peers, 1, Arc::clone(&store)).await;
    let presence = (pubsub, Topic::new("doc/presence").unwrap(), PresenceOptions::STANDARD);
    let own = PeerId::new("node-1").unwrap();
    let gateway = Gateway::new(own, Arc::clone(&manager), &document, store, presence).unwrap();
    let all_entries_max = 41;
    let gateway =
        Arc::new(gateway.with_options(ClientOptions { all_entries_max, ..ClientOptions::STANDARD }));
    let mut clients = Vec::new();
    for number in [100, 101] {
        let mut client = Client::connect(&gateway, sid(number)).await;
        while client.has.len() < 10 {
            client.hear().await;
        }
        clients.push(client);
    }
    let full = async |client: Client| {
        let parting = tokio::time::timeout(PATIENCE, client.served).await.unwrap().unwrap();
        assert!(matches!(parting, Parting::Crowded { entries_max: 41 }), "{parting}");
        assert!(!parting.is_refusal(), "it may come again");
    };
    assert_eq!(gateway.entries(), 40);
    full(Client::connect(&gateway, sid(102)).await).await;
    // The document grows by a session: nobody has said anything since they came, so the first one goes.
    let patch = document.edit(|model| model.api().str("/text")?.ins(0, "weft")).unwrap().unwrap();
    manager.apply_patch(&patch).await.unwrap();
    let mut second = clients.pop().unwrap();
    full(clients.pop().unwrap()).await;
    while second.model.view() != document.view() {
        second.hear().await;
    }
    assert_eq!((gateway.entries(), gateway.clients()), (22, 1));
    // And comes again when there is room.
    drop(second.to);
    let parting = tokio::time::timeout(PATIENCE, second.served).await.unwrap().unwrap();
    assert!(matches!(parting, Parting::Gone), "{parting}");
    let mut again = Client::connect(&gateway, sid(100)).await;
    while again.model.view() != document.view() {
        again.hear().await;
    }
}
