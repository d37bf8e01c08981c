//! Managers with a guard: only what allowed authors signed is taken in, also after a compaction and a restart.

use crdt_sync::{
    Guard,
    crypto::{Access, Role, Signer},
};

use super::*;

pub(super) const ALICE: [u8; 32] = [1; 32];
pub(super) const BOB: [u8; 32] = [2; 32];
pub(super) const MALLORY: [u8; 32] = [3; 32];

/// Alice and Bob may write; everybody has a key.
pub(super) fn access(secret: [u8; 32]) -> Arc<Access> {
    let access = Access::new("doc", Some(Signer::from_secret(&secret)));
    for writer in [ALICE, BOB] {
        access.allow(Signer::from_secret(&writer).author(), Role::Write).unwrap();
    }
    Arc::new(access)
}

impl Group {
    pub(super) async fn join_as(&self, number: u64, secret: [u8; 32], store: Arc<dyn PatchStore>) -> Replica {
        let session = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
        let document = Arc::new(SharedModel::new(session));
        let with = |manager: SyncManager| manager.with_guard(access(secret));
        self.join_document(number, EncodingFormat::Binary, document, store, with).await
    }
}

pub(super) fn memory() -> Arc<dyn PatchStore> {
    Arc::new(MemoryPatchStore::new())
}

/// Waits for a refusal, and returns its reason.
async fn refusal(events: &mut tokio::sync::broadcast::Receiver<SessionEvent>) -> String {
    let next = async {
        loop {
            if let SessionEvent::Refused(refusal) = events.recv().await.unwrap() {
                return refusal.to_string();
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("a refusal")
}

#[tokio::test]
async fn only_what_allowed_authors_sign_is_taken_in() {
    for group in [Group::new(), Group::with_dag()] {
        let alice = group.join_as(1, ALICE, memory()).await;
        let bob = group.join_as(2, BOB, memory()).await;
        let mut events = alice.manager.events();
        alice.edit(|model| model.api().root(json(json!({"by": "alice"})))).await;
        bob.sees(&json(json!({"by": "alice"}))).await;
        bob.edit(|model| model.api().obj("").unwrap().set([("too", "bob")])).await;
        let both = json(json!({"by": "alice", "too": "bob"}));
        alice.sees(&both).await;

        // Mallory has a key, which is not on the list: her own manager tells her so, and nothing is sent.
        let mallory = group.join_as(3, MALLORY, memory()).await;
        mallory.sees(&both).await;
        let patch = mallory.document.edit(|model| model.api().root("mine")).unwrap().unwrap();
        let error = mallory.manager.apply_patch(&patch).await.unwrap_err();
        assert!(error.to_string().contains("is not on the list"), "{error}");
        // An outsider without a guard sends all the same, and is refused where it comes in.
        let outsider = group.join(4, EncodingFormat::Binary).await;
        outsider.sees(&both).await;
        outsider.edit(|model| model.api().root("outside")).await;
        let reason = refusal(&mut events).await;
        assert!(reason.contains("is not signed"), "{reason}");
        assert_eq!(alice.document.view(), both);
        assert!(alice.manager.status().await.unwrap().not_allowed > 0);
    }
}

/// The first author of a session is the only one. That is known from its patches, and has to be known without them too:
/// after a compaction and a restart, and to who took a snapshot over.
#[tokio::test]
async fn a_session_stays_its_authors_when_its_patches_are_folded() {
    for group in [Group::new(), Group::with_dag()] {
        let store = memory();
        let alice = group.join_as(1, ALICE, Arc::clone(&store)).await;
        alice.edit(|model| model.api().root(json(json!({"by": "alice"})))).await;
        let last = alice.manager.compact().await.unwrap().get(&alice.document.session());
        assert_eq!(last, alice.manager.status().await.unwrap().stored.get(&alice.document.session()));
        alice.manager.stop().await;

        let again = group.join_as(5, ALICE, store).await;
        let late = group.join_as(6, ALICE, memory()).await;
        late.sees(&json(json!({"by": "alice"}))).await;
        assert_eq!(late.manager.status().await.unwrap().counters.installed, 1);
        let (mut again_events, mut late_events) = (again.manager.events(), late.manager.events());

        // Bob may write, but not in Alice's session.
        let mut builder = PatchBuilder::new(alice.document.session(), last + 1);
        let text = builder.new_str();
        builder.ins_val(Timestamp::ORIGIN, text);
        let patch = Bytes::copy_from_slice(builder.finish().unwrap().as_bytes());
        let record = access(BOB).prove(PatchRecord::new(last, patch).unwrap()).unwrap();
        let topic = Topic::new("example-doc-patches").unwrap();
        let bytes = crdt_sync::wire::encode_patch(EncodingFormat::Binary, &record).unwrap();
        group.pubsub.publish(&topic, bytes).await.unwrap();
        for events in [&mut again_events, &mut late_events] {
            let reason = refusal(events).await;
            assert!(reason.contains("belongs to another author"), "{reason}");
        }
        for replica in [&again, &late] {
            assert_eq!(replica.document.view(), json(json!({"by": "alice"})));
        }
    }
}

/// A snapshot by one who may not write is not taken over.
#[tokio::test]
async fn a_snapshot_of_one_who_may_not_write_is_refused() {
    let group = Group::new();
    let store = memory();
    let mallory = group.join_as(3, MALLORY, Arc::clone(&store)).await;
    let alice = group.join_as(1, ALICE, memory()).await;
    alice.edit(|model| model.api().root(json(json!({"by": "alice"})))).await;
    mallory.sees(&json(json!({"by": "alice"}))).await;
    alice.manager.stop().await;
    mallory.manager.compact().await.unwrap();

    let bob = group.join_as(2, BOB, memory()).await;
    let mut events = bob.manager.events();
    let reason = refusal(&mut events).await;
    assert!(reason.contains("snapshot is not allowed"), "{reason}");
    assert_eq!(bob.document.view(), Value::Undefined);
    assert!(bob.manager.status().await.unwrap().not_allowed > 0);
}

/// A snapshot is signed as a whole, by any writer: what it says of another's session is that writer's word alone.
#[tokio::test]
async fn a_writer_who_makes_up_patches_of_another_in_a_snapshot_does_not_stop_its_edits() {
    for group in [Group::new(), Group::with_dag()] {
        let alice = group.join_as(1, ALICE, memory()).await;
        let store = memory();
        let bob = group.join_as(2, BOB, Arc::clone(&store)).await;
        let first = alice.edit(|model| model.api().root(json(json!({"by": "alice"})))).await;
        bob.sees(&json(json!({"by": "alice"}))).await;
        bob.manager.stop().await;

        // Bob writes on in Alice's name, and folds it, so that nobody asks for her signature.
        let mut model = Model::new(alice.document.session());
        let _ = model.apply(&first).unwrap();
        model.api().obj("").unwrap().set([("by", "bob")]).unwrap();
        let forged = Bytes::copy_from_slice(model.flush().unwrap().as_bytes());
        store.append(&[PatchRecord::new(first.next_time() - 1, forged).unwrap()]).await.unwrap();
        let apart =
            Group { pubsub: Arc::new(MemoryPubSub::new()), peers: MemoryPeers::new(), ..group.clone() };
        let bob = apart.join_as(2, BOB, Arc::clone(&store)).await;
        // He would keep it for Alice, whom he knew.
        assert!(bob.manager.forget_peer(&PeerId::new("node-1").unwrap()).await.unwrap());
        bob.manager.compact().await.unwrap();
        bob.manager.stop().await;

        let mut events = alice.manager.events();
        let _bob = group.join_as(2, BOB, store).await;
        let reason = refusal(&mut events).await;
        assert!(reason.contains("is used by two replicas"), "{reason}");
        alice.edit(|model| model.api().obj("").unwrap().set([("still", "alice")])).await;
        assert_eq!(alice.document.view(), json(json!({"by": "alice", "still": "alice"})));
    }
}

/// Bob may write, and continues Alice's session before anybody knows whose it is: in the same moment as her first patch, or
/// ahead of it, so that his patch waits for hers.
#[tokio::test]
async fn a_session_is_not_continued_by_another_author_before_it_is_known_whose_it_is() {
    for group in [Group::new(), Group::with_dag()] {
        for bob_first in [false, true] {
            let group =
                Group { pubsub: Arc::new(MemoryPubSub::new()), peers: MemoryPeers::new(), ..group.clone() };
            let reader = group.join_as(3, MALLORY, memory()).await;
            let mut events = reader.manager.events();
            // So that it listens to its channels.
            reader.manager.status().await.unwrap();

            let session = SessionId::new(SessionId::USER_MIN.get() + 9).unwrap();
            let mut alice = Model::new(session);
            alice.api().root(json(json!({"by": "alice"}))).unwrap();
            let first = alice.flush().unwrap();
            let mut bob = Model::new(session);
            let _ = bob.apply(&first).unwrap();
            bob.api().obj("").unwrap().set([("by", "bob")]).unwrap();
            let forged = bob.flush().unwrap();
            alice.api().obj("").unwrap().set([("more", "by alice")]).unwrap();
            let second = alice.flush().unwrap();

            let publish = async |secret, prev, patch: &Patch| {
                let bytes = Bytes::copy_from_slice(patch.as_bytes());
                let record = access(secret).prove(PatchRecord::new(prev, bytes).unwrap()).unwrap();
                let topic = Topic::new("example-doc-patches").unwrap();
                let bytes = crdt_sync::wire::encode_patch(EncodingFormat::Binary, &record).unwrap();
                group.pubsub.publish(&topic, bytes).await.unwrap();
            };
            let last = first.next_time() - 1;
            if bob_first {
                publish(BOB, last, &forged).await;
            }
            publish(ALICE, 0, &first).await;
            if !bob_first {
                publish(BOB, last, &forged).await;
            }
            let reason = refusal(&mut events).await;
            assert!(reason.contains("belongs to another author"), "{reason}");
            publish(ALICE, last, &second).await;
            reader.sees(&json(json!({"by": "alice", "more": "by alice"}))).await;
        }
    }
}

/// A client of a node goes on in Alice's session in the very turn in which her first patch comes to the node: the node, which
/// would answer for the client, does not yet know whose the session is.
#[tokio::test]
async fn a_node_does_not_answer_for_a_client_in_a_session_whose_first_patch_has_just_come() {
    let session = SessionId::new(SessionId::USER_MIN.get() + 9).unwrap();
    let mut alice = Model::new(session);
    alice.api().root(json(json!({"by": "alice"}))).unwrap();
    let first = alice.flush().unwrap();
    let mut client = Model::new(session);
    let _ = client.apply(&first).unwrap();
    client.api().obj("").unwrap().set([("by", "client")]).unwrap();
    let forged = client.flush().unwrap();
    let record =
        |prev, patch: &Patch| PatchRecord::new(prev, Bytes::copy_from_slice(patch.as_bytes())).unwrap();
    let last = first.next_time() - 1;
    let first = access(ALICE).prove(record(0, &first)).unwrap();
    let bytes = crdt_sync::wire::encode_patch(EncodingFormat::Binary, &first).unwrap();

    // What of both is taken in first is drawn by lot.
    for _ in 0..20 {
        let group = Group::new();
        let node = Access::new("doc", Some(Signer::from_secret(&BOB)));
        for writer in [ALICE, BOB] {
            node.allow(Signer::from_secret(&writer).author(), Role::Write).unwrap();
        }
        let guard = Arc::new(node.vouching_for_clients());
        let document = Arc::new(SharedModel::new(SessionId::new(SessionId::USER_MIN.get() + 2).unwrap()));
        let with = |manager: SyncManager| manager.with_guard(guard);
        let node = group.join_document(2, EncodingFormat::Binary, document, memory(), with).await;
        // So that it waits for what comes.
        node.manager.status().await.unwrap();

        let topic = Topic::new("example-doc-patches").unwrap();
        group.pubsub.publish(&topic, bytes.clone()).await.unwrap();
        // It waits for the first one and is refused then, or is refused at once.
        let _ = node.manager.relay(record(last, &forged)).await;
        node.sees(&json(json!({"by": "alice"}))).await;
        let status = node.manager.status().await.unwrap();
        assert_eq!((status.stored.get(&session), status.now.parked), (last, 0));
    }
}

/// Carol may read. In a running group she follows and passes on what others signed; what she writes goes nowhere.
#[tokio::test]
async fn a_reader_follows_and_passes_on_and_writes_nothing() {
    const CAROL: [u8; 32] = [4; 32];
    for group in [Group::new(), Group::with_dag()] {
        let lists_carol = |secret| {
            let access = access(secret);
            access.allow(Signer::from_secret(&CAROL).author(), Role::Read).unwrap();
            access
        };
        let join = async |number: u64, secret| {
            let session = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
            let document = Arc::new(SharedModel::new(session));
            let with = |manager: SyncManager| manager.with_guard(lists_carol(secret));
            group.join_document(number, EncodingFormat::Binary, document, memory(), with).await
        };
        let (alice, carol) = (join(1, ALICE).await, join(3, CAROL).await);
        alice.edit(|model| model.api().root(json(json!({"by": "alice"})))).await;
        let all = json(json!({"by": "alice"}));
        carol.sees(&all).await;
        let mut events = alice.manager.events();

        // Her own manager refuses what she edits, and the others what she sends all the same.
        let session = carol.document.session();
        let mut model = Model::new(session);
        model.api().root("mine").unwrap();
        let patch = model.flush().unwrap();
        let refused = carol.manager.apply_patch(&patch).await.unwrap_err();
        assert!(refused.to_string().contains("may not write"), "{refused}");
        let writes = access(CAROL);
        writes.allow(Signer::from_secret(&CAROL).author(), Role::Write).unwrap();
        let bytes = Bytes::copy_from_slice(patch.as_bytes());
        let record = writes.prove(PatchRecord::new(0, bytes).unwrap()).unwrap();
        let topic = Topic::new("example-doc-patches").unwrap();
        let bytes = crdt_sync::wire::encode_patch(EncodingFormat::Binary, &record).unwrap();
        group.pubsub.publish(&topic, bytes).await.unwrap();
        let reason = refusal(&mut events).await;
        assert!(reason.contains("may not write"), "{reason}");
        assert_eq!(alice.document.view(), all);

        // Alice has gone; what she signed comes from Carol as well as from herself.
        alice.manager.stop().await;
        let bob = join(2, BOB).await;
        bob.sees(&all).await;
        bob.edit(|model| model.api().obj("").unwrap().set([("too", "bob")])).await;
        carol.sees(&json(json!({"by": "alice", "too": "bob"}))).await;
    }
}

/// Bob wrote, and is taken from the list. Who lacked what he wrote gets it all the same, with what was written on top, from a
/// writer who has it: one who was away, and one whose list never had him. What he writes from then on nobody takes.
#[tokio::test]
async fn what_was_written_before_its_author_was_revoked_reaches_those_who_lacked_it() {
    const DAVE: [u8; 32] = [5; 32];
    const EVE: [u8; 32] = [6; 32];
    let key = |secret: [u8; 32]| Signer::from_secret(&secret).author();
    for group in [Group::new(), Group::with_dag()] {
        let list = |secret, with_bob: bool| {
            let access = Access::new("doc", Some(Signer::from_secret(&secret)));
            [ALICE, DAVE, EVE].iter().for_each(|writer| access.allow(key(*writer), Role::Write).unwrap());
            if with_bob {
                access.allow(key(BOB), Role::Write).unwrap();
            }
            Arc::new(access)
        };
        let join = async |number: u64, access: &Arc<Access>| {
            let document =
                Arc::new(SharedModel::new(SessionId::new(SessionId::USER_MIN.get() + number).unwrap()));
            let with = |manager: SyncManager| manager.with_guard(Arc::clone(access) as _);
            group.join_document(number, EncodingFormat::Binary, document, memory(), with).await
        };
        let lists = [list(ALICE, true), list(BOB, true), list(DAVE, true), list(EVE, false)];
        let (alice, bob) = (join(1, &lists[0]).await, join(2, &lists[1]).await);
        bob.edit(|model| model.api().root(json(json!({"by": "bob"})))).await;
        alice.sees(&json(json!({"by": "bob"}))).await;
        alice.edit(|model| model.api().obj("").unwrap().set([("too", "alice")])).await;
        let both = json(json!({"by": "bob", "too": "alice"}));
        bob.sees(&both).await;
        lists.iter().for_each(|list| list.revoke(key(BOB)));
        bob.manager.stop().await;

        let dave = join(3, &lists[2]).await;
        let eve = join(4, &lists[3]).await;
        dave.sees(&both).await;
        eve.sees(&both).await;
        // Who got it that way passes it on that way.
        alice.manager.stop().await;
        let late = join(5, &list(ALICE, false)).await;
        late.sees(&both).await;
        let mut events = dave.manager.events();
        let more = Access::new("doc", Some(Signer::from_secret(&BOB)));
        more.allow(key(BOB), Role::Write).unwrap();
        let mut model = Model::new(SessionId::new(SessionId::USER_MIN.get() + 9).unwrap());
        model.api().root("bob again").unwrap();
        let bytes = Bytes::copy_from_slice(model.flush().unwrap().as_bytes());
        let record = more.prove(PatchRecord::new(0, bytes).unwrap()).unwrap();
        let topic = Topic::new("example-doc-patches").unwrap();
        let bytes = crdt_sync::wire::encode_patch(EncodingFormat::Binary, &record).unwrap();
        group.pubsub.publish(&topic, bytes).await.unwrap();
        let reason = refusal(&mut events).await;
        assert!(reason.contains("is not on the list"), "{reason}");
        assert_eq!(dave.document.view(), both);
    }
}
