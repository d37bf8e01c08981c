//! Forged, replayed, cut and moved messages are refused with a reason, counted, and change nothing.
#![cfg(feature = "crypto")]

use std::sync::Arc;

use bytes::Bytes;
use crdt_core::{PatchBuilder, SessionId, Value};
use crdt_sync::{
    Envelope, Guard, PatchRecord, SnapshotHead,
    crypto::{
        Access, AccessError, AuthorKey, KEYS_MAX, Keyring, Opener, Role, SEAL_BYTES, SENDERS_MAX, SealError,
        SealedPubSub, Sealer, SealingKey, Signer, WINDOW,
    },
};
use proptest::prelude::*;
use spot::{MemoryPubSub, PubSub, Received, SubscriptionOptions, Topic};

fn record(session: u64, text: &str) -> PatchRecord {
    let session = SessionId::new(SessionId::USER_MIN.get() + session).unwrap();
    let mut builder = PatchBuilder::new(session, 5);
    builder.json(&Value::from(text));
    let patch = builder.finish().unwrap();
    PatchRecord::new(0, Bytes::copy_from_slice(patch.as_bytes())).unwrap()
}

/// Alice and Bob may write, Carol may read; each has the whole list.
struct Group {
    alice: Access,
    bob: Access,
    carol: Access,
}

fn group() -> Group {
    let secrets = [[1; 32], [2; 32], [3; 32]];
    let member = |me: usize| {
        let access = Access::new("notes", Some(Signer::from_secret(&secrets[me])));
        for (secret, role) in secrets.iter().zip([Role::Write, Role::Write, Role::Read]) {
            access.allow(Signer::from_secret(secret).author(), role).unwrap();
        }
        access
    };
    Group { alice: member(0), bob: member(1), carol: member(2) }
}

#[test]
fn a_signed_patch_is_taken_by_all() {
    let Group { alice, bob, carol } = group();
    let signed = alice.prove(record(1, "hello")).unwrap();
    assert_eq!(bob.check(&signed), Ok(()));
    assert_eq!(carol.check(&signed), Ok(()));
}

fn changed(record: &PatchRecord, change: impl FnOnce(&mut Envelope)) -> PatchRecord {
    let mut record = record.clone();
    change(&mut record);
    record
}

#[test]
fn what_is_not_signed_by_a_writer_is_refused() {
    let Group { alice, bob, carol } = group();
    let refused =
        |record: &PatchRecord, reason: &str| assert_eq!(bob.check(record).unwrap_err().to_string(), reason);
    let signed = alice.prove(record(1, "hello")).unwrap();

    refused(&record(1, "hello"), "patch 65537.5 is not signed");
    refused(
        &changed(&signed, |record| record.proof = record.proof.slice(..71)),
        "proof of 71 bytes: 72 are expected",
    );
    refused(
        &changed(&record(1, "hellp"), |record| record.proof = signed.proof.clone()),
        "the signature of patch 65537.5 is wrong",
    );
    // Moved in its session's order.
    refused(&changed(&signed, |record| record.prev = 3), "the signature of patch 65537.5 is wrong");
    // Signed for another document.
    let elsewhere = Access::new("secrets", Some(Signer::from_secret(&[1; 32])));
    elsewhere.allow(Signer::from_secret(&[1; 32]).author(), Role::Write).unwrap();
    refused(&elsewhere.prove(record(1, "hello")).unwrap(), "the signature of patch 65537.5 is wrong");
    // A stranger.
    let stranger = Access::new("notes", Some(Signer::from_secret(&[9; 32])));
    stranger.allow(Signer::from_secret(&[9; 32]).author(), Role::Write).unwrap();
    refused(&stranger.prove(record(1, "hello")).unwrap(), "the key of patch 65537.5 is not on the list");
    // A reader can't even sign.
    let refused = carol.prove(record(1, "hello")).unwrap_err();
    assert!(matches!(refused.downcast_ref(), Some(AccessError::ReadOnly { .. })), "{refused}");
    assert_eq!(refused.to_string(), "the author of patch 65537.5 may not write");
}

#[test]
fn a_session_belongs_to_its_first_author() {
    let Group { alice, bob, carol } = group();
    carol.note(&alice.prove(record(1, "mine")).unwrap());
    let taken = bob.prove(record(1, "mine too")).unwrap();
    let refused = carol.check(&taken).unwrap_err();
    assert!(matches!(refused.downcast_ref(), Some(AccessError::OtherAuthor(_))), "{refused}");
}

/// Rules ask by it who decides: a proof that nobody could check names nobody.
#[test]
fn who_signed_is_told_of_known_keys_only() {
    let Group { alice, bob, carol } = group();
    let signed = alice.prove(record(1, "a")).unwrap();
    let key = Signer::from_secret(&[1; 32]).author();
    let id = key.to_bytes().first_chunk().copied();
    assert_eq!([&alice, &bob, &carol].map(|access| access.signer(&signed)), [id; 3]);
    assert_eq!(bob.signer(&record(1, "a")), None, "nobody signed it");
    let stranger = Access::new("notes", Some(Signer::from_secret(&[9; 32])));
    stranger.allow(Signer::from_secret(&[9; 32]).author(), Role::Write).unwrap();
    assert_eq!(bob.signer(&stranger.prove(record(2, "b")).unwrap()), None);
    // What she wrote before she was taken from the list is still hers.
    bob.revoke(key);
    assert_eq!(bob.signer(&signed), id);
}

#[test]
fn a_revoked_author_is_refused_from_then_on() {
    let Group { alice, bob, .. } = group();
    let signed = alice.prove(record(1, "hello")).unwrap();
    bob.revoke(Signer::from_secret(&[1; 32]).author());
    assert!(bob.check(&signed).is_err());
}

#[test]
fn a_snapshot_is_taken_only_as_it_was_signed() {
    let Group { alice, bob, carol } = group();
    let vector = [(SessionId::USER_MIN, 7)].into_iter().collect();
    let head = alice.prove_snapshot(SnapshotHead::new(vector, b"state"), b"state").unwrap();
    assert_eq!(bob.check_snapshot(&head, b"state"), Ok(()));
    assert!(bob.check_snapshot(&head, b"stale").is_err());
    let more = [(SessionId::USER_MIN, 8)].into_iter().collect();
    assert!(bob.check_snapshot(&SnapshotHead { vector: more, ..head.clone() }, b"state").is_err());
    let by_reader = carol.prove_snapshot(SnapshotHead { proof: Bytes::new(), ..head }, b"state").unwrap();
    assert!(bob.check_snapshot(&by_reader, b"state").is_err());
}

#[test]
fn a_weak_key_is_no_key() {
    // The neutral element of the group, for which any signature could be made.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    assert!(AuthorKey::from_bytes(&neutral).is_err());
}

fn ring(id: u32) -> Keyring {
    Keyring::new(SealingKey::new(id, &[id as u8; 32]))
}

#[test]
fn a_sealed_message_is_opened_once_and_where_it_belongs() {
    let (mut sealer, mut opener) = (Sealer::new([7; 16]), Opener::new());
    let sealed = sealer.seal(&ring(1), "a", b"hello").unwrap();
    assert_eq!(sealed.len(), 5 + SEAL_BYTES);
    assert_eq!(opener.open(&ring(1), "b", &sealed), Err(SealError::Broken));
    assert_eq!(opener.open(&ring(2), "a", &sealed), Err(SealError::UnknownKey(1)));
    assert_eq!(opener.open(&ring(1), "a", &sealed), Ok(b"hello".to_vec()));
    assert_eq!(opener.open(&ring(1), "a", &sealed), Err(SealError::Replayed { counter: 1, latest: 1 }));
}

#[test]
fn disorder_within_the_window_is_fine_and_beyond_it_is_refused() {
    let (mut sealer, mut opener, ring) = (Sealer::new([7; 16]), Opener::new(), ring(1));
    let sealed: Vec<Vec<u8>> = (0..WINDOW + 2).map(|_| sealer.seal(&ring, "a", b"hello").unwrap()).collect();
    let last = sealed.len() - 1;
    assert!(opener.open(&ring, "a", &sealed[last]).is_ok());
    for late in sealed[2..last].iter().rev() {
        assert!(opener.open(&ring, "a", late).is_ok());
        assert!(matches!(opener.open(&ring, "a", late), Err(SealError::Replayed { .. })));
    }
    for too_late in &sealed[..2] {
        assert!(matches!(opener.open(&ring, "a", too_late), Err(SealError::Replayed { .. })));
    }
}

fn key(id: u32) -> SealingKey {
    SealingKey::new(id, &[id as u8; 32])
}

#[test]
fn keys_rotate_without_a_pause() {
    // Each seals and opens; nothing is lost at any step, whoever takes it first.
    let mut peers = [ring(1), ring(1)];
    let mut sealers = [Sealer::new([7; 16]), Sealer::new([8; 16])];
    let mut openers = [Opener::new(), Opener::new()];
    let mut talk = |peers: &[Keyring; 2]| {
        for (from, to) in [(0, 1), (1, 0)] {
            let sealed = sealers[from].seal(&peers[from], "a", b"hello").unwrap();
            assert_eq!(openers[to].open(&peers[to], "a", &sealed).unwrap(), b"hello");
        }
    };
    talk(&peers);
    let steps: [fn(&mut Keyring); 3] = [
        |ring| assert_eq!(ring.add_to_open(key(2)), None),
        |ring| assert!(ring.seal_with(2)),
        |ring| ring.remove(1),
    ];
    for step in steps {
        for peer in 0..2 {
            step(&mut peers[peer]);
            talk(&peers);
        }
    }
    assert!(!peers[0].seal_with(1), "it is not on the ring any more");
    talk(&peers);
    assert_eq!(
        Opener::new().open(&ring(1), "a", &Sealer::new([9; 16]).seal(&peers[0], "a", b"x").unwrap()),
        Err(SealError::UnknownKey(2))
    );
}

#[test]
fn a_full_ring_drops_its_oldest_key_but_the_one_that_seals() {
    let mut ring = ring(1);
    let gone: Vec<u32> = (2..=KEYS_MAX as u32 + 1).filter_map(|id| ring.add_to_open(key(id))).collect();
    assert_eq!(gone, [2]);
    assert_eq!(ring.add(key(99)), Some(1), "it seals no more");
    let sealed = Sealer::new([7; 16]).seal(&ring, "a", b"x").unwrap();
    assert_eq!(Opener::new().open(&Keyring::new(key(99)), "a", &sealed).unwrap(), b"x");
    ring.remove(99);
    assert_eq!(Sealer::new([7; 16]).seal(&ring, "a", b"x"), Err(SealError::NoKey));
}

/// Who is late with a key asks for what was sealed with it meanwhile, as for anything that was lost.
#[tokio::test]
async fn who_gets_a_key_late_is_told_what_he_missed() {
    let plain: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let topic = Topic::new("notes").unwrap();
    let sealed = |sender: u8| SealedPubSub::new(Arc::clone(&plain), ring(1), [sender; 16]);
    let (early, late) = (sealed(1), sealed(2));
    let mut inbox = late.subscribe(topic.clone().into(), SubscriptionOptions::STANDARD).await.unwrap();
    early.with_ring(|ring| ring.add(key(2)));
    for text in ["not yet", "readable"] {
        early.publish(&topic, Bytes::from_static(text.as_bytes())).await.unwrap();
    }
    assert!(inbox.try_recv().is_none());
    late.with_ring(|ring| ring.add_to_open(key(2)));
    assert!(matches!(inbox.recv().await, Some(Received::Gap { .. })));
    early.publish(&topic, Bytes::from_static(b"now")).await.unwrap();
    let Some(Received::Message(heard)) = inbox.recv().await else { panic!("one gap is enough") };
    assert_eq!(heard.payload, "now");
}

#[test]
fn the_opener_remembers_a_bounded_number_of_senders() {
    let (mut opener, ring) = (Opener::new(), ring(1));
    let seal = |sender: usize| {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&(sender as u64).to_be_bytes());
        Sealer::new(name).seal(&ring, "a", b"x").unwrap()
    };
    for sender in 0..=SENDERS_MAX {
        opener.open(&ring, "a", &seal(sender)).unwrap();
    }
    // The first has been forgotten, so its message is news again; the second has not.
    assert!(opener.open(&ring, "a", &seal(2)).is_err());
    assert!(opener.open(&ring, "a", &seal(0)).is_ok());
}

proptest! {
    #[test]
    fn a_changed_or_cut_message_is_refused(message: Vec<u8>, at: prop::sample::Index, flip in 1u8.., cut: bool) {
        let ring = ring(1);
        let mut sealed = Sealer::new([7; 16]).seal(&ring, "a", &message).unwrap();
        let at = at.index(sealed.len());
        if cut {
            sealed.truncate(at);
        } else {
            sealed[at] ^= flip;
        }
        prop_assert!(Opener::new().open(&ring, "a", &sealed).is_err());
    }

    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>) {
        prop_assert!(Opener::new().open(&ring(1), "a", &[vec![0x10], bytes].concat()).is_err());
    }
}

#[tokio::test]
async fn a_sealed_channel_carries_only_what_was_sealed() {
    let plain: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let topic = Topic::new("notes").unwrap();
    let sealed = |sender: u8, id| SealedPubSub::new(Arc::clone(&plain), ring(id), [sender; 16]);
    let (alice, bob, mallory) = (sealed(1, 1), sealed(2, 1), sealed(3, 9));
    let mut relay = plain.subscribe(topic.clone().into(), SubscriptionOptions::STANDARD).await.unwrap();
    let mut inbox = bob.subscribe(topic.clone().into(), SubscriptionOptions::STANDARD).await.unwrap();

    plain.publish(&topic, Bytes::from_static(b"in the clear")).await.unwrap();
    mallory.publish(&topic, Bytes::from_static(b"with another key")).await.unwrap();
    alice.publish(&topic, Bytes::from_static(b"hello")).await.unwrap();
    let Some(Received::Message(heard)) = inbox.recv().await else { panic!("nothing came") };
    assert_eq!(heard.payload, "hello");

    // The relay sees no word of it, and what it sends again is thrown away.
    let mut last = None;
    while let Some(Received::Message(seen)) = relay.try_recv() {
        assert!(!seen.payload.windows(5).any(|window| window == b"hello"));
        last = Some(seen.payload);
    }
    plain.publish(&topic, last.unwrap()).await.unwrap();
    alice.publish(&topic, Bytes::from_static(b"again")).await.unwrap();
    let Some(Received::Message(heard)) = inbox.recv().await else { panic!("nothing came") };
    assert_eq!(heard.payload, "again");
    assert_eq!(bob.counters().refused, 3);
    assert_eq!(bob.counters().opened, 2);
}
