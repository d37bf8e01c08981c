//! Peers find each other, and notice who is gone, whatever carries the news.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use crdt_sync::{
    DiscoveryError, PeerChange, PeerDiscovery, PeerId,
    discovery::{
        MemoryPeerDiscovery, MemoryPeers, PubSubPeerDiscovery, RedisPeerDiscovery, RedisPeerOptions,
    },
    presence::{PresenceMessage, PresenceOptions, PubSubPresence},
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
                PeerChange::Down(peer) => assert!(known.remove(&peer)),
                // Of one that was there before, too.
                PeerChange::Left(peer) => drop(known.take(&peer)),
            }
        }
    };
    soon(&format!("peers {names:?}, not {:?}", discovery.peers().await), follow).await;
}

/// How much later than it should something may be noticed on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(3);

/// The laws of discovery. `make` makes the discovery of a name; who goes without a word is to be missed within `missed_after`.
async fn peers_find_each_other_and_notice_who_is_gone(
    missed_after: Duration,
    make: impl Fn(&str) -> Discovery,
) {
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
    let missed = tokio::time::timeout(missed_after + SLACK, until_peers(&a, &mut at_a, &[])).await;
    missed.unwrap_or_else(|_| panic!("a dead one is on the list for longer than {missed_after:?}"));
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
    let make = |name: &str| -> Discovery { Arc::new(MemoryPeerDiscovery::new(&list, id(name))) };
    peers_find_each_other_and_notice_who_is_gone(Duration::ZERO, make).await;
}

#[tokio::test]
async fn over_a_topic() {
    let hub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    peers_find_each_other_and_notice_who_is_gone(quick().expiry, |name| {
        Arc::new(PubSubPeerDiscovery::new(Arc::clone(&hub), topic(), id(name), quick()))
    })
    .await;
}

/// One that was started again knows others from before, who may go before they are seen again: it would wait for them for days.
#[tokio::test]
async fn the_goodbye_of_one_that_was_never_seen_is_told() {
    let hub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let discovery = PubSubPeerDiscovery::new(Arc::clone(&hub), topic(), id("started again"), quick());
    discovery.start().await.unwrap();
    let goodbye = PresenceMessage {
        peer: id("from before"),
        run: 1,
        count: 9,
        here: false,
        hello: false,
        shown: Bytes::new(),
    };
    hub.publish(&topic(), goodbye.encode()).await.unwrap();
    assert_eq!(soon("its goodbye", discovery.next()).await, Some(PeerChange::Left(id("from before"))));
    assert_eq!(discovery.peers().await.unwrap(), []);
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
    peers_find_each_other_and_notice_who_is_gone(quick().expiry, |name| {
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
    peers_find_each_other_and_notice_who_is_gone(quick().expiry, |name| {
        Arc::new(PubSubPeerDiscovery::new(Arc::clone(&hub), topic(), id(name), quick()))
    })
    .await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn on_a_list_of_redis() {
    let server = RedisServer::start().await;
    let url = server.url();
    let missed_after = quick_redis().expiry + quick_redis().interval;
    peers_find_each_other_and_notice_who_is_gone(missed_after, |name| {
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
    // It is a help, not a truth: who starts meanwhile goes on without it, and is on the list when there is one.
    let c = make("c");
    soon("a start without a server", c.start()).await.unwrap();
    assert_eq!(c.peers().await.unwrap(), []);
    assert_eq!(a.peers().await.unwrap(), [id("b")]);
    server.restart().await;
    let mut at_c = BTreeSet::new();
    until_peers(&c, &mut at_c, &["a", "b"]).await;
    until_peers(&a, &mut at_a, &["b", "c"]).await;
}

/// A server that was started again has lost the list: who renews first sees nobody, which is not to say that nobody is there.
#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_list_that_was_lost_takes_nobody_off_who_renews() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    // The one that renews seldom is the one that is missed.
    let make = |name: &str, interval| -> Discovery {
        let interval = Duration::from_millis(interval);
        let options = RedisPeerOptions { interval, expiry: Duration::from_secs(3), ..quick_redis() };
        Arc::new(RedisPeerDiscovery::new(&url, "doc", id(name), options).unwrap())
    };
    let (often, seldom) = (make("often", 50), make("seldom", 1500));
    often.start().await.unwrap();
    seldom.start().await.unwrap();
    let mut known = BTreeSet::new();
    until_peers(&often, &mut known, &["seldom"]).await;
    server.kill();
    server.restart().await;
    let mut client = redis_list(&url).await;
    let back = async {
        // By then the list had been without it for as many turns as it takes to notice.
        while !client.names().await.contains(&b"seldom".to_vec()) {
            assert_eq!(often.peers().await.unwrap(), [id("seldom")]);
            tokio::task::yield_now().await;
        }
    };
    soon("it registers again", back).await;
    assert_eq!(often.peers().await.unwrap(), [id("seldom")]);
}

/// The list itself, as it stands on the server.
struct List(redis::aio::MultiplexedConnection);

async fn redis_list(url: &str) -> List {
    List(redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap())
}

impl List {
    const KEY: &str = "weft:peers:{doc}:expiry";

    async fn names(&mut self) -> Vec<Vec<u8>> {
        redis::cmd("ZRANGE").arg(Self::KEY).arg(0).arg(-1).query_async(&mut self.0).await.unwrap()
    }
}

/// Somebody else's bytes on the list are passed over, and those who expire early take nobody along.
#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_others_write_on_the_list_harms_nobody() {
    let server = RedisServer::start().await;
    let url = server.url();
    let make = |name: &str, options: RedisPeerOptions| -> Discovery {
        Arc::new(RedisPeerDiscovery::new(&url, "doc", id(name), options).unwrap())
    };
    let slow = RedisPeerOptions {
        interval: Duration::from_secs(2),
        expiry: Duration::from_secs(60),
        ..RedisPeerOptions::standard()
    };
    let patient = make("patient", slow.clone());
    patient.start().await.unwrap();
    let mut list = redis_list(&url).await;
    let far = 1_u64 << 50;
    redis::cmd("ZADD")
        .arg(List::KEY)
        .arg(far)
        .arg(&b"\xff\xfe"[..])
        .query_async::<()>(&mut list.0)
        .await
        .unwrap();
    let quick = make("quick", quick_redis());
    quick.start().await.unwrap();
    let mut known = BTreeSet::new();
    until_peers(&quick, &mut known, &["patient"]).await;
    // The quick one goes without a word. Its short registration is no bound for the other's.
    drop(quick);
    let left: i64 = redis::cmd("PTTL").arg(List::KEY).query_async(&mut list.0).await.unwrap();
    assert!(left > 30_000, "the list expires in {left} ms, and with it who renews every two seconds");
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
