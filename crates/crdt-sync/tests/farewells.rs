//! In a group that signs, only a peer itself says that it has left: who can write to the topic can't say it of one that is cut off.
#![cfg(feature = "crypto")]

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use crdt_core::{EncodingFormat, StateVector};
use crdt_sync::{
    Guard, PeerChange, PeerDiscovery, PeerId, SyncMessage,
    crypto::{Access, Role, Signer},
    discovery::PubSubPeerDiscovery,
    presence::{Farewell, PresenceMessage, PresenceOptions},
    wire,
};
use spot::{MemoryPubSub, PubSub, Received, Subscription, SubscriptionOptions, Topic};

const ANN: [u8; 32] = [1; 32];
const BOB: [u8; 32] = [2; 32];
const STRANGER: [u8; 32] = [9; 32];

fn id(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

fn topic() -> Topic {
    Topic::new("doc/peers").unwrap()
}

/// A list with Ann and Bob on it, and their names if these are bound.
fn access(secret: Option<&[u8; 32]>, binds: bool) -> Arc<Access> {
    let access = Access::new("notes", secret.map(Signer::from_secret));
    for (name, secret) in [("ann", ANN), ("bob", BOB)] {
        access.allow(Signer::from_secret(&secret).author(), Role::Write).unwrap();
        if binds {
            access.bind(id(name), Signer::from_secret(&secret).author()).unwrap();
        }
    }
    Arc::new(access)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

async fn discovery(hub: &Arc<dyn PubSub>, name: &str, guard: Option<Arc<Access>>) -> PubSubPeerDiscovery {
    let options = PresenceOptions { greeting_max: Duration::from_millis(1), ..PresenceOptions::STANDARD };
    let discovery = PubSubPeerDiscovery::new(Arc::clone(hub), topic(), id(name), options);
    let discovery = match guard {
        Some(guard) => discovery.with_guard(guard),
        None => discovery,
    };
    discovery.start().await.unwrap();
    discovery
}

/// The next change that is not somebody's coming.
async fn next_loss(discovery: &PubSubPeerDiscovery) -> PeerChange {
    loop {
        match soon(discovery.next()).await.expect("open") {
            PeerChange::Up(_) => {}
            other => return other,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "discovery reads the clock, and compares")]
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// A goodbye in Ann's name, later than all that she has said.
fn goodbye() -> PresenceMessage {
    PresenceMessage {
        peer: id("ann"),
        run: u64::MAX,
        count: 1,
        here: false,
        hello: false,
        shown: Bytes::new(),
    }
}

fn signed(by: &Access, said_at_ms: u64) -> Bytes {
    let farewell = Farewell { said_at_ms, goodbye: goodbye(), proof: Bytes::new() };
    let proof = by.prove_word(&farewell.signed()).unwrap();
    Farewell { proof, ..farewell }.encode()
}

async fn next_goodbye(heard: &mut Subscription) -> Bytes {
    loop {
        let Some(Received::Message(message)) = soon(heard.recv()).await else { panic!("not a message") };
        let is_heartbeat = PresenceMessage::decode(&message.payload).is_ok_and(|message| message.here);
        if !is_heartbeat {
            return message.payload;
        }
    }
}

#[tokio::test]
async fn a_goodbye_that_the_peer_did_not_say_is_not_believed() {
    let hub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let bobs = access(Some(&BOB), true);
    let bob = discovery(&hub, "bob", Some(bobs.clone())).await;
    let ann = discovery(&hub, "ann", Some(access(Some(&ANN), true))).await;
    assert_eq!(soon(bob.next()).await, Some(PeerChange::Up(id("ann"))));
    let stranger = Access::new("notes", Some(Signer::from_secret(&STRANGER)));
    let hers = access(Some(&ANN), true);
    let elsewhere = Access::new("elsewhere", Some(Signer::from_secret(&ANN)));
    let cut = signed(&hers, now_ms());
    let mut changed = Farewell::decode(&signed(&hers, now_ms() - 3_600_000)).unwrap();
    changed.said_at_ms = now_ms();
    let forged = [
        goodbye().encode(),
        signed(&stranger, now_ms()),
        signed(&bobs, now_ms()),
        signed(&elsewhere, now_ms()),
        // What she said an hour ago, or will say when her clock is right.
        signed(&hers, now_ms() - 3_600_000),
        signed(&hers, now_ms() + 3_600_000),
        changed.encode(),
        cut.slice(..cut.len() - 1),
    ];
    for forged in forged {
        hub.publish(&topic(), forged).await.unwrap();
    }
    // They are all heard when this one is, which has no key: nobody waits for it longer than it says.
    let reader = discovery(&hub, "reader", None).await;
    reader.close().await;
    assert_eq!(next_loss(&bob).await, PeerChange::Left(id("reader")));
    assert_eq!(bob.peers().await.unwrap(), [id("ann")]);
    // Her own word is believed, by who has no list too.
    let plain = discovery(&hub, "plain", None).await;
    while soon(plain.next()).await.expect("open") != PeerChange::Up(id("ann")) {}
    let mut heard = hub.subscribe(topic().into(), SubscriptionOptions::STANDARD).await.unwrap();
    ann.close().await;
    assert_eq!(next_loss(&bob).await, PeerChange::Left(id("ann")));
    assert_eq!(next_loss(&plain).await, PeerChange::Left(id("ann")));
    // Behind it comes the form that earlier releases read.
    let (first, second) = (next_goodbye(&mut heard).await, next_goodbye(&mut heard).await);
    assert_eq!(Farewell::decode(&first).unwrap().goodbye, PresenceMessage::decode(&second).unwrap());
    // Said once more, when she is back, it is an old word.
    let again = discovery(&hub, "ann", Some(access(Some(&ANN), true))).await;
    while bob.peers().await.unwrap() != [id("ann"), id("plain")] {
        soon(bob.next()).await.unwrap();
    }
    hub.publish(&topic(), first).await.unwrap();
    plain.close().await;
    assert_eq!(next_loss(&bob).await, PeerChange::Left(id("plain")));
    assert_eq!(bob.peers().await.unwrap(), [id("ann")]);
    again.close().await;
}

/// A name that is bound to no key is the first one's that signs under it.
#[tokio::test]
async fn who_has_signed_under_a_free_name_is_not_said_to_have_left_by_others() {
    let hub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let bobs = access(Some(&BOB), false);
    let bob = discovery(&hub, "bob", Some(bobs.clone())).await;
    assert!(!bobs.has_voice(&id("ann")));
    hub.publish(&topic(), goodbye().encode()).await.unwrap();
    assert_eq!(soon(bob.next()).await, Some(PeerChange::Left(id("ann"))), "nobody has it yet");
    let word = SyncMessage::State { vector: StateVector::new(), reply: false };
    let word = wire::encode_sync(EncodingFormat::Binary, &id("ann"), &word).unwrap();
    let proof = access(Some(&ANN), false).prove_word(&word).unwrap();
    assert!(bobs.check_word(&id("ann"), &word, &proof).unwrap().is_some());
    assert!(bobs.has_voice(&id("ann")));
    let later = PresenceMessage { count: 2, ..goodbye() };
    hub.publish(&topic(), later.encode()).await.unwrap();
    let reader = discovery(&hub, "reader", None).await;
    reader.close().await;
    assert_eq!(next_loss(&bob).await, PeerChange::Left(id("reader")));
}
