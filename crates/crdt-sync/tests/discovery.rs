//! Peers find each other, and notice who is gone, whatever carries the news.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use crdt_sync::{
    DiscoveryError, PeerChange, PeerDiscovery, PeerId,
    discovery::{
        MemoryPeerDiscovery, MemoryPeers, PubSubPeerDiscovery, RedisPeerDiscovery, RedisPeerOptions,
    },
    presence::{PresenceOptions, PubSubPresence},
};
use spot::{
    MemoryPubSub, PubSub, RedisOptions, RedisPubSub, Spot, SpotOptions, Topic,
    cluster::SpotPubSub,
    conformance::{DEADLINE, RedisServer},
};

type Discovery = Arc<dyn PeerDiscovery>;

fn id(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Follows the changes until exactly these are there.
async fn until_peers(discovery: &Discovery, known: &mut BTreeSet<PeerId>, names: &[&str]) {
    let expected: BTreeSet<_> = names.iter().map(|name| id(name)).collect();
    let listed: Vec<_> = expected.iter().cloned().collect();
    let follow = async {
        // Both: what is known may be what is expected while a change that is on its way makes it something else.
        while *known != expected || discovery.peers().await.unwrap() != listed {
            match discovery.next().await.expect("open") {
                PeerChange::Up(peer) => assert!(known.insert(peer)),
                PeerChange::Down(peer) | PeerChange::Left(peer) => assert!(known.remove(&peer)),
            }
        }
    };
    soon(&format!("peers {names:?}, not {:?}", discovery.peers().await), follow).await;
}

/// The laws of discovery. `make` makes the discovery of a name.
async fn peers_find_each_other_and_notice_who_is_gone(make: impl Fn(&str) -> Discovery) {
    let [a, b, c] = ["a", "b", "c"].map(&make);
    let (mut at_a, mut at_b) = (BTreeSet::new(), BTreeSet::new());
    a.start().await.unwrap();
    a.start().await.unwrap();
    assert_eq!(a.peers().await.unwrap(), []);
    b.start().await.unwrap();
    until_peers(&a, &mut at_a, &["b"]).await;
    until_peers(&b, &mut at_b, &["a"]).await;
    c.start().await.unwrap();
    until_peers(&a, &mut at_a, &["b", "c"]).await;
    until_peers(&b, &mut at_b, &["a", "c"]).await;

    c.close().await;
    assert_eq!(soon("the end", c.next()).await, None);
    assert!(matches!(c.peers().await, Err(DiscoveryError::Closed)));
    assert!(matches!(c.start().await, Err(DiscoveryError::Closed)));
    until_peers(&a, &mut at_a, &["b"]).await;
    // Without a word: as if the process had been killed.
    drop(b);
    until_peers(&a, &mut at_a, &[]).await;
    let b = make("b");
    b.start().await.unwrap();
    until_peers(&a, &mut at_a, &["b"]).await;
    let mut at_b = BTreeSet::new();
    until_peers(&b, &mut at_b, &["a"]).await;
    a.close().await;
    until_peers(&b, &mut at_b, &[]).await;
}

fn quick() -> PresenceOptions {
    PresenceOptions {
        interval: Duration::from_millis(200),
        expiry: Duration::from_millis(700),
        pause_min: Duration::from_millis(5),
        greeting_max: Duration::from_millis(20),
        ..PresenceOptions::STANDARD
    }
}

fn quick_redis() -> RedisPeerOptions {
    RedisPeerOptions {
        interval: Duration::from_millis(100),
        expiry: Duration::from_millis(400),
        ..RedisPeerOptions::standard()
    }
}

fn topic() -> Topic {
    Topic::new("doc/presence").unwrap()
}

#[tokio::test]
async fn in_memory() {
    let list = MemoryPeers::new();
    peers_find_each_other_and_notice_who_is_gone(|name| Arc::new(MemoryPeerDiscovery::new(&list, id(name))))
        .await;
}

#[tokio::test]
async fn over_a_topic() {
    let hub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    peers_find_each_other_and_notice_who_is_gone(|name| {
        Arc::new(PubSubPeerDiscovery::new(Arc::clone(&hub), topic(), id(name), quick()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_topic_of_a_spot_cluster() {
    // A node of its own for each, which goes with it. Whoever comes knows the first one only.
    let mut nodes: BTreeMap<&str, Vec<Arc<dyn PubSub>>> = BTreeMap::new();
    let mut first: Option<String> = None;
    for name in ["a", "b", "b", "c"] {
        let spot = Spot::new(SpotOptions::standard());
        let own = spot.bind("tcp://127.0.0.1:*").await.unwrap();
        match &first {
            Some(first) => spot.cluster_add(first).await.unwrap(),
            None => first = Some(own),
        }
        nodes.entry(name).or_default().push(Arc::new(SpotPubSub::new(spot)));
    }
    let nodes = Mutex::new(nodes);
    peers_find_each_other_and_notice_who_is_gone(|name| {
        let node = nodes.lock().unwrap().get_mut(name).and_then(Vec::pop).expect("a node for each");
        Arc::new(PubSubPeerDiscovery::new(node, topic(), id(name), quick()))
    })
    .await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn over_a_topic_of_redis() {
    let server = RedisServer::start().await;
    let hub = RedisPubSub::connect(&server.url(), RedisOptions::standard()).await.unwrap();
    let hub: Arc<dyn PubSub> = Arc::new(hub);
    peers_find_each_other_and_notice_who_is_gone(|name| {
        Arc::new(PubSubPeerDiscovery::new(Arc::clone(&hub), topic(), id(name), quick()))
    })
    .await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn on_a_list_of_redis() {
    let server = RedisServer::start().await;
    let url = server.url();
    peers_find_each_other_and_notice_who_is_gone(|name| {
        Arc::new(RedisPeerDiscovery::new(&url, "doc", id(name), quick_redis()).unwrap())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_list_comes_back_after_the_server_was_killed() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    let make = |name| -> Discovery {
        Arc::new(RedisPeerDiscovery::new(&url, "doc", id(name), quick_redis()).unwrap())
    };
    let (a, b) = (make("a"), make("b"));
    a.start().await.unwrap();
    b.start().await.unwrap();
    let mut at_a = BTreeSet::new();
    until_peers(&a, &mut at_a, &["b"]).await;
    server.kill();
    let refused = make("c").start().await;
    assert!(matches!(refused, Err(DiscoveryError::Registry(_))), "{refused:?}");
    assert_eq!(a.peers().await.unwrap(), [id("b")]);
    server.restart().await;
    let c = make("c");
    c.start().await.unwrap();
    let mut at_c = c.peers().await.unwrap().into_iter().collect();
    // What `start` has read already comes as changes, too.
    for _ in 0..BTreeSet::len(&at_c) {
        soon("what is known", c.next()).await;
    }
    until_peers(&c, &mut at_c, &["a", "b"]).await;
    until_peers(&a, &mut at_a, &["b", "c"]).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn the_later_one_of_two_with_one_name_wins_and_the_earlier_is_told() {
    let server = RedisServer::start().await;
    let make = || RedisPeerDiscovery::new(&server.url(), "doc", id("a"), quick_redis()).unwrap();
    let (first, second) = (make(), make());
    first.start().await.unwrap();
    second.start().await.unwrap();
    let told = async {
        while !matches!(first.peers().await, Err(DiscoveryError::NameTaken(_))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the earlier one is told", told).await;
    // It goes on seeing who comes and goes, and is back when the other has gone.
    let other = RedisPeerDiscovery::new(&server.url(), "doc", id("b"), quick_redis()).unwrap();
    other.start().await.unwrap();
    assert_eq!(soon("b comes", first.next()).await, Some(PeerChange::Up(id("b"))));
    other.close().await;
    assert_eq!(soon("b goes", first.next()).await, Some(PeerChange::Left(id("b"))));
    second.close().await;
    let back = async {
        while first.peers().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the earlier one is back", back).await;
    let second = make();
    second.start().await.unwrap();
    // Going, it leaves the other's registration alone.
    first.close().await;
    let third = RedisPeerDiscovery::new(&server.url(), "doc", id("b"), quick_redis()).unwrap();
    third.start().await.unwrap();
    assert_eq!(third.peers().await.unwrap(), [id("a")]);
}

#[tokio::test]
async fn presence_shows_the_latest_to_everybody() {
    let hub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let join = async |name| PubSubPresence::join(Arc::clone(&hub), topic(), id(name), quick()).await.unwrap();
    let (ann, bob) = (join("ann").await, join("bob").await);
    for cursor in 0..100 {
        ann.show(format!("cursor {cursor}")).unwrap();
    }
    let mut changes = bob.changes();
    let shown = async {
        while bob.others().get(&id("ann")).is_none_or(|shown| shown != "cursor 99") {
            changes.changed().await.unwrap();
        }
    };
    soon("the last cursor", shown).await;
    assert!(ann.counters().0.sent < 50);
    hub.publish(&topic(), "nonsense".into()).await.unwrap();
    ann.leave().await;
    let gone = async {
        while !bob.others().is_empty() {
            changes.changed().await.unwrap();
        }
    };
    soon("ann is gone", gone).await;
    assert_eq!(bob.counters().1, 1);
    let refused = bob.show(vec![0; 5000]).unwrap_err();
    assert_eq!(refused.to_string(), "presence of 5000 bytes: at most 4096 can be shown");

    let impostor = join("bob").await;
    soon("the name is taken", bob.name_taken().wait_for(|taken| *taken)).await.unwrap();
    assert!(!*impostor.name_taken().borrow());
}
