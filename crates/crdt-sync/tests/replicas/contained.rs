//! What a snapshot is said to contain, it contains: whatever others say of what they have, and whatever was written.

use super::*;

impl Group {
    /// Somebody on the sync channel who has no document.
    async fn outsider(&self, name: &str) -> PubSubSyncer {
        let (topic, id) = (Topic::new("example-doc-sync").unwrap(), PeerId::new(name).unwrap());
        PubSubSyncer::new(Arc::clone(&self.pubsub), topic, id, EncodingFormat::Binary).await.unwrap()
    }

    async fn publish(&self, record: &PatchRecord) {
        let topic = Topic::new("example-doc-patches").unwrap();
        let bytes = crdt_sync::wire::encode_patch(EncodingFormat::Binary, record).unwrap();
        self.pubsub.publish(&topic, bytes).await.unwrap();
    }
}

fn record(prev: u64, patch: &Patch) -> PatchRecord {
    PatchRecord::new(prev, Bytes::copy_from_slice(patch.as_bytes())).unwrap()
}

fn sid(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

/// Waits until a replica knows so many peers.
async fn knows(replica: &Replica, peers: usize) {
    let known = async {
        while replica.manager.status().await.unwrap().now.peers < peers {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, known).await.expect("it is heard");
}

/// One that says it has an answer and not the question: what it says is no cause for a fold to lack what it builds on.
#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_out_causes_makes_nobody_throw_away_their_effects() {
    let group = Group::new();
    let mut first = Model::new(sid(1));
    first.api().root(json(json!({"text": ""}))).unwrap();
    let root = first.flush().unwrap();
    let mut alone = PatchBuilder::new(sid(3), 1);
    alone.new_str();
    let alone = alone.finish().unwrap();

    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    store.append(&[record(0, &root)]).await.unwrap();
    let second = group.join_with(2, EncodingFormat::Binary, Arc::clone(&store)).await;
    group.publish(&record(0, &alone)).await;
    let typed = second.edit(|model| model.api().str("/text")?.ins(0, "typed")).await;
    let come = async {
        while second.manager.status().await.unwrap().stored.len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, come).await.expect("it comes");

    let liar = group.outsider("liar").await;
    let (last, apart) = (typed.next_time() - 1, alone.next_time() - 1);
    let vector = [(sid(2), last), (sid(3), apart)].into_iter().collect();
    liar.send(None, &SyncMessage::State { vector, reply: false }).await.unwrap();
    knows(&second, 1).await;
    // What lacks nothing is folded all the same.
    let folded: StateVector<SessionId> = [(sid(3), apart)].into_iter().collect();
    assert_eq!(second.manager.compact().await.unwrap(), folded);
    let whole = second.document.view();
    second.manager.stop().await;

    let again = group.join_with(4, EncodingFormat::Binary, Arc::clone(&store)).await;
    assert_eq!(again.document.view(), whole);
    let late = group.join(5, EncodingFormat::Binary).await;
    late.sees(&whole).await;
}

/// A patch that names what was never made, and one of a session that all replicas make themselves.
fn of_reserved() -> [PatchRecord; 2] {
    let mut names = PatchBuilder::new(sid(9), 1);
    let text = Timestamp::new(SessionId::GLOBAL, 99);
    names.ins_str(text, text, "x");
    let mut is = PatchBuilder::new(SessionId::GLOBAL, 1);
    is.new_str();
    [record(0, &names.finish().unwrap()), record(0, &is.finish().unwrap())]
}

#[tokio::test(start_paused = true)]
async fn a_patch_of_or_about_reserved_sessions_is_refused_unless_all_start_from_it() {
    for group in [Group::new(), Group::with_dag()] {
        let first = group.join(1, EncodingFormat::Binary).await;
        first.edit(|model| model.api().root("all")).await;
        let mut events = first.manager.events();
        for bad in of_reserved() {
            group.publish(&bad).await;
            let refused = async {
                loop {
                    if let SessionEvent::Refused(refusal) = events.recv().await.unwrap() {
                        return refusal;
                    }
                }
            };
            let refusal = tokio::time::timeout(PATIENCE, refused).await.expect("a refusal");
            let why = if bad.session() == SessionId::GLOBAL { "is of a reserved" } else { "not in what" };
            assert!(refusal.to_string().contains(why), "{refusal}");
        }
        let status = first.manager.status().await.unwrap();
        assert_eq!((status.not_applied, status.stored.len()), (0, 1));
        // Snapshots go on, and whoever comes late joins.
        first.manager.compact().await.unwrap();
        let late = group.join(2, EncodingFormat::Binary).await;
        late.sees(&Value::from("all")).await;
        assert_eq!(late.manager.status().await.unwrap().counters.installed, 1);
    }
}

/// A store of an earlier version may hold such patches. They are in no snapshot, and keep nobody from joining.
#[tokio::test(start_paused = true)]
async fn a_stored_patch_that_no_document_takes_spoils_no_snapshot() {
    let group = Group::new();
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let [bad, _] = of_reserved();
    store.append(std::slice::from_ref(&bad)).await.unwrap();
    let first = group.join_with(1, EncodingFormat::Binary, Arc::clone(&store)).await;
    assert_eq!(first.manager.status().await.unwrap().not_applied, 1);
    first.edit(|model| model.api().root("all")).await;
    let contained = first.manager.compact().await.unwrap();
    assert_eq!((contained.get(&bad.session()), contained.len()), (0, 1));
    let late = group.join(2, EncodingFormat::Binary).await;
    late.sees(&Value::from("all")).await;
    assert_eq!(late.manager.status().await.unwrap().counters.installed, 1);
}

/// What a replica tells all that it has, with the number for the patches themselves.
async fn told(replica: &Replica, ear: &PubSubSyncer) -> SyncMessage {
    replica.manager.sync().await.unwrap();
    let next = async {
        loop {
            if let Some(Heard::Message((_, told @ SyncMessage::Digest { .. }))) = ear.next().await {
                return told;
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("it is told")
}

/// The number goes with the snapshot, and tells others whether the patches are the same: each is counted once in it.
#[tokio::test(start_paused = true)]
async fn a_replica_that_has_folded_and_is_started_again_says_the_same_of_its_patches() {
    let group = Group::new();
    let store: Arc<dyn PatchStore> = Arc::new(MemoryPatchStore::new());
    let first = group.join_with(1, EncodingFormat::Binary, Arc::clone(&store)).await;
    for count in 0..3 {
        first.edit(|model| model.api().root(count)).await;
    }
    let ear = group.outsider("ear").await;
    let before = told(&first, &ear).await;
    first.manager.compact().await.unwrap();
    first.manager.stop().await;
    let again = group.join_with(1, EncodingFormat::Binary, store).await;
    assert_eq!(told(&again, &ear).await, before);
}
