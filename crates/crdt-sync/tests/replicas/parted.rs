//! Managers that are cut off from each other for longer than discovery remembers anybody, and write on both sides.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use crdt_sync::discovery::PeerSet;
use spot::{PubSubError, Published, Subscription, SubscriptionOptions, TopicPattern};

use super::*;

/// A transport that can be cut.
#[derive(Default)]
struct Line {
    inner: MemoryPubSub,
    cut: AtomicBool,
}

#[async_trait]
impl PubSub for Line {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<Published, PubSubError> {
        if self.cut.load(Relaxed) {
            Ok(Published::default())
        } else {
            self.inner.publish(topic, payload).await
        }
    }

    async fn subscribe(
        &self,
        pattern: TopicPattern,
        options: SubscriptionOptions,
    ) -> Result<Subscription, PubSubError> {
        self.inner.subscribe(pattern, options).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Finds whom the test says.
#[derive(Clone, Default)]
struct Told(Arc<PeerSet>);

#[async_trait]
impl PeerDiscovery for Told {
    async fn start(&self) -> Result<(), DiscoveryError> {
        Ok(())
    }

    async fn peers(&self) -> Result<Vec<PeerId>, DiscoveryError> {
        self.0.get().ok_or(DiscoveryError::Closed)
    }

    async fn next(&self) -> Option<PeerChange> {
        self.0.next().await
    }

    async fn close(&self) {}
}

/// Two replicas over a line that can be cut, with a policy that folds early.
struct Two {
    group: Group,
    line: Arc<Line>,
    told: [Told; 2],
    stores: [Arc<dyn PatchStore>; 2],
    replicas: Vec<Replica>,
}

const FOLDS_EARLY: CompactionPolicy = CompactionPolicy {
    log_bytes_max: 20_000,
    log_per_snapshot: 2,
    unfolded_sessions_max: usize::MAX,
    keep_ticks: 100,
    pause: Duration::from_millis(1),
    offer_bytes_min: 2_000,
    offer_idle_max: Duration::from_millis(100),
};

/// How many edits each side makes while it is cut off: several times what the policy keeps.
const EDITS: i64 = 1000;

impl Two {
    async fn new(sync: SyncMode) -> Self {
        let line = Arc::new(Line::default());
        let pubsub = Arc::clone(&line) as Arc<dyn PubSub>;
        let group = Group { pubsub, sync, ..Group::new() };
        let stores = [(); 2].map(|()| Arc::new(MemoryPatchStore::new()) as Arc<dyn PatchStore>);
        let mut two = Self { group, line, told: Default::default(), stores, replicas: Vec::new() };
        two.start(false, FOLDS_EARLY).await;
        two.replicas[0].edit(|model| model.api().root(json(json!({"a": 0, "b": 0})))).await;
        two.both_see(0, 0).await;
        for replica in &two.replicas {
            replica
                .stands("cut off or joined again", |status| {
                    status.peers.iter().all(|peer| peer.behind_ticks == Some(0))
                })
                .await;
        }
        two
    }

    async fn start(&mut self, cut: bool, second: CompactionPolicy) {
        let run = self.replicas.len() as u64;
        self.told = Default::default();
        self.replicas.clear();
        self.line.cut.store(cut, Relaxed);
        for (at, policy) in [FOLDS_EARLY, second].into_iter().enumerate() {
            let number = at as u64 + 1;
            // A new session at each start, as the documentation says.
            let session = SessionId::new(SessionId::USER_MIN.get() + 10 * run + number).unwrap();
            let (document, store) = (Arc::new(SharedModel::new(session)), Arc::clone(&self.stores[at]));
            let with = |manager: SyncManager| manager.with_compaction(policy);
            let told = self.told[at].clone();
            let format = EncodingFormat::Binary;
            self.replicas.push(self.group.join_found(number, format, document, store, told, with).await);
        }
        if !cut {
            self.find();
        }
    }

    fn find(&self) {
        for (told, other) in self.told.iter().zip(["node-2", "node-1"]) {
            told.0.set([PeerId::new(other).unwrap()].into());
        }
    }

    /// Cuts the line, for longer than discovery remembers anybody.
    async fn part(&self) {
        self.line.cut.store(true, Relaxed);
        for (told, replica) in self.told.iter().zip(&self.replicas) {
            told.0.set(Default::default());
            replica.stands("cut off or joined again", |status| status.now.absent == 1).await;
        }
    }

    fn join_again(&self) {
        self.line.cut.store(false, Relaxed);
        self.find();
    }

    async fn both_see(&self, a: i64, b: i64) {
        for replica in &self.replicas {
            replica.sees(&json(json!({"a": a, "b": b}))).await;
        }
    }

    async fn write_on_both_sides(&self, upto: i64) {
        for count in upto - EDITS + 1..=upto {
            for (replica, key) in self.replicas.iter().zip(["a", "b"]) {
                replica.edit(|model| model.api().obj("").unwrap().set([(key, count)])).await;
            }
        }
    }
}

/// Discovery forgets whoever is cut off within seconds, and a partition may last for days.
#[tokio::test(start_paused = true)]
async fn two_sides_that_are_cut_off_from_each_other_do_not_fold_apart() {
    for sync in [SyncMode::Vectors, SyncMode::Dag] {
        let two = Two::new(sync).await;
        two.part().await;
        two.write_on_both_sides(EDITS).await;
        for replica in &two.replicas {
            let status = replica.manager.status().await.unwrap();
            let peer = &status.peers[0];
            assert!(peer.absent.is_some_and(|left| left > Duration::from_hours(24)), "{peer:?}");
            assert!(peer.holds_ticks >= EDITS as u64, "{peer:?}");
            assert!(status.log_bytes > FOLDS_EARLY.log_bytes_max, "{status:?}");
        }
        two.join_again();
        two.both_see(EDITS, EDITS).await;
        for replica in &two.replicas {
            // Whoever is quicker folds; the other one may take that over before it does.
            let has_folded = |status: &SyncStatus| status.folded > 0 || status.counters.installed > 0;
            replica
                .stands("cut off or joined again", |status| has_folded(status) && status.now.absent == 0)
                .await;
            assert_eq!(replica.manager.status().await.unwrap().counters.parted, 0);
        }
    }
}

/// Whom a replica knew it knows after a restart, also if nobody is found then.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_started_while_it_is_cut_off_does_not_fold_what_others_lack() {
    let mut two = Two::new(SyncMode::Vectors).await;
    for replica in &two.replicas {
        replica.manager.stop().await;
    }
    two.start(true, FOLDS_EARLY).await;
    two.write_on_both_sides(EDITS).await;
    for replica in &two.replicas {
        let status = replica.manager.status().await.unwrap();
        assert_eq!((status.folded, status.now.absent), (0, 1), "{status:?}");
    }
    two.join_again();
    two.both_see(EDITS, EDITS).await;
}

/// An operator says of each that it does not come back, and it does: of what only one has folded nothing is lost, and what both
/// have is not passed over in silence.
#[tokio::test(start_paused = true)]
async fn who_was_forgotten_gets_all_or_both_are_told_that_they_are_parted() {
    let mut two = Two::new(SyncMode::Vectors).await;
    for replica in &two.replicas {
        replica.manager.stop().await;
    }
    two.start(true, CompactionPolicy::MANUAL).await;
    let names = ["node-2", "node-1"].map(|name| PeerId::new(name).unwrap());
    let stranger = PeerId::new("never seen").unwrap();
    assert!(!two.replicas[0].manager.forget_peer(&stranger).await.unwrap());
    for (replica, other) in two.replicas.iter().zip(&names) {
        assert!(replica.manager.forget_peer(other).await.unwrap());
        assert!(!replica.manager.forget_peer(other).await.unwrap());
    }
    two.write_on_both_sides(EDITS).await;
    two.replicas[0].stands("it has folded", |status| status.folded > 0).await;
    assert_eq!(two.replicas[1].manager.status().await.unwrap().folded, 0);
    two.join_again();
    two.both_see(EDITS, EDITS).await;

    // Now both fold.
    two.part().await;
    for (replica, other) in two.replicas.iter().zip(&names) {
        assert!(replica.manager.forget_peer(other).await.unwrap());
    }
    two.write_on_both_sides(2 * EDITS).await;
    for replica in &two.replicas {
        replica.manager.compact().await.unwrap();
    }
    two.join_again();
    let mut events = two.replicas[0].manager.events();
    for replica in &two.replicas {
        replica
            .stands("cut off or joined again", |status| {
                status.now.parted == 1 && status.counters.parted > 0 && status.peers[0].parted
            })
            .await;
    }
    let told = |event: SessionEvent| matches!(event, SessionEvent::Parted { peer } if peer == names[0]);
    assert!(std::iter::from_fn(|| events.try_recv().ok()).any(told));
    // Each goes on with what it has.
    two.replicas[0].edit(|model| model.api().obj("").unwrap().set([("a", -1)])).await;
    two.replicas[0].sees(&json(json!({"a": -1, "b": EDITS}))).await;
    two.replicas[1].sees(&json(json!({"a": EDITS, "b": 2 * EDITS}))).await;
}

/// How long it is kept counts from its last word on, not from when discovery last named it.
#[tokio::test(start_paused = true)]
async fn an_absent_peer_that_is_heard_is_kept_for_as_long_after_a_restart() {
    let (group, store) = (Group::new(), Arc::new(MemoryPatchStore::new()));
    let (session, format) = (SessionId::new(SessionId::USER_MIN.get() + 1).unwrap(), EncodingFormat::Binary);
    // Since the twelfth day of 1970.
    let note = |gone_since: u64| [&[1], &gone_since.to_be_bytes()[..], &[6], b"node-2"].concat();
    store.keep_note(note(1_000_000).into()).await.unwrap();
    let topic = Topic::new("example-doc-patches").unwrap();
    let broadcaster = PubSubBroadcaster::new(Arc::clone(&group.pubsub), topic, format).await.unwrap();
    let years = |years: u64| Duration::from_hours(24 * 365 * years);
    let options = SessionOptions { absent_max: years(200), ..SessionOptions::standard(session) };
    let manager = SyncManager::new(
        Arc::new(SharedModel::new(session)),
        Arc::new(broadcaster),
        Arc::new(group.syncer(1, format).await),
        Arc::new(Told::default()),
        Arc::<MemoryPatchStore>::clone(&store) as _,
    )
    .with_options(options);
    manager.start(1).await.unwrap();
    // Who is there is noted, and nothing changes but that it is heard.
    manager.compact().await.unwrap();
    let noted = async || {
        let kept = store.note().await.unwrap();
        let gone_since = kept[1..9].try_into().map(u64::from_be_bytes).unwrap();
        assert_eq!(kept, note(gone_since));
        gone_since
    };
    let before = noted().await;
    assert!(before < 1_001_000, "{before}");
    let other = group.syncer(2, format).await;
    other.send(None, &SyncMessage::Digest { digest: 7, content: None }).await.unwrap();
    let first = Replica { document: Arc::new(SharedModel::new(session)), manager };
    let heard = |status: &SyncStatus| status.peers[0].absent.is_some_and(|left| left > years(199));
    first.stands("it is heard, and still absent", heard).await;
    first.manager.stop().await;
    let after = noted().await;
    assert!(after > 1_700_000_000, "{after}");
}
