//! What is said in a group with signatures, in whose name, and what is folded on it: words that are forged, missing, or nobody's.

use crdt_sync::{
    Gate, Guard,
    crypto::{Access, Role, Signer},
    dag::Heads,
    session::{Input, Session},
};

use super::{
    guarded::{ALICE, BOB, MALLORY, access, memory},
    *,
};

/// A word counts for those who are not on the list. For a writer nobody gives a word, and one who may not write has none.
#[test]
fn nobody_gives_a_word_for_a_writer() {
    let mut model = Model::new(SessionId::new(SessionId::USER_MIN.get() + 1).unwrap());
    model.api().root("made up").unwrap();
    let patch = Bytes::copy_from_slice(model.flush().unwrap().as_bytes());
    let record = PatchRecord::new(0, patch).unwrap();
    let (alice, bob) = (access(ALICE), access(BOB));
    let signed = |secret| {
        let own = Access::new("another", Some(Signer::from_secret(&secret)));
        own.allow(Signer::from_secret(&secret).author(), Role::Write).unwrap();
        own.prove(record.clone()).unwrap()
    };
    // Not signed for this document: by Alice, who is on the list, and by Mallory, who is not.
    let (as_alice, as_mallory) = (signed(ALICE), signed(MALLORY));
    let page = vec![as_alice.clone(), as_mallory.clone()];
    let proof = bob.vouch_page(&page).unwrap();
    alice.check_page(&page, &proof).unwrap();
    let error = alice.check_vouched(None, &as_alice).unwrap_err().to_string();
    assert!(error.contains("is wrong"), "{error}");
    alice.check_vouched(None, &as_mallory).unwrap();
    // Once her key was known, her signature has to be hers.
    let knew = access(ALICE);
    knew.allow(Signer::from_secret(&MALLORY).author(), Role::Write).unwrap();
    knew.revoke(Signer::from_secret(&MALLORY).author());
    let error = knew.check_vouched(None, &as_mallory).unwrap_err().to_string();
    assert!(error.contains("is wrong"), "{error}");

    assert!(alice.check_page(&page[..1], &proof).is_err(), "of another page");
    assert!(access(MALLORY).vouch_page(&page).is_none(), "she may not write");
    assert!(alice.vouch_page(&[bob.prove(record).unwrap()]).is_none(), "it proves itself");
}

/// Somebody says in Alice's name that she has all that Bob has, or all but what comes first, and Bob folds it. What he has
/// signed reaches her all the same, and hers him. (Keys stand in another order in a document that came as a snapshot.)
#[tokio::test]
async fn a_forged_state_leaves_nothing_out_in_a_group_with_signatures() {
    let sorted = |replica: &Replica| Json::from(&replica.document.view());
    let sees = async |replica: &Replica, expected: &Json| {
        let mut changes = replica.document.changes();
        let seen = async {
            while sorted(replica) != *expected {
                changes.changed().await.unwrap();
            }
        };
        let timely = tokio::time::timeout(PATIENCE, seen).await;
        assert!(timely.is_ok(), "{} instead of {expected}", sorted(replica));
    };
    for group in [Group::new(), Group::with_dag()] {
        for lowered in [false, true] {
            let group =
                Group { pubsub: Arc::new(MemoryPubSub::new()), peers: MemoryPeers::new(), ..group.clone() };
            let bob = group.join_as(2, BOB, memory()).await;
            bob.edit(|model| model.api().root(json(json!({"b": 1})))).await;
            let first = bob.manager.status().await.unwrap().stored;
            bob.edit(|model| model.api().obj("").unwrap().set([("c", 2)])).await;

            let forger = group.syncer(1, EncodingFormat::Binary).await;
            let mut vector = bob.manager.status().await.unwrap().stored;
            if lowered {
                // Within the first patch.
                let cut = first.iter().map(|(sid, last)| (*sid, last - 1));
                vector = cut.collect();
            }
            let to = PeerId::new("node-2").unwrap();
            forger.send(Some(&to), &SyncMessage::State { vector, reply: false }).await.unwrap();
            while bob.manager.status().await.unwrap().peers.is_empty() {
                tokio::task::yield_now().await;
            }
            bob.manager.compact().await.unwrap();

            let alice = group.join_as(1, ALICE, memory()).await;
            sees(&alice, &json!({"b": 1, "c": 2})).await;
            alice.edit(|model| model.api().obj("").unwrap().set([("a", 0)])).await;
            let all = json!({"a": 0, "b": 1, "c": 2});
            sees(&bob, &all).await;
            sees(&alice, &all).await;
            let stored = async |replica: &Replica| replica.manager.status().await.unwrap().stored;
            assert_eq!(stored(&alice).await, stored(&bob).await);
        }
    }
}

/// Alice and Bob are apart, each with somebody who says in the other's name that it has all that there is. Neither folds what
/// the other lacks: two snapshots that each lack something of the other could not be put together.
#[tokio::test]
async fn a_forged_state_makes_nobody_fold_what_others_lack() {
    for group in [Group::new(), Group::with_dag()] {
        let stores = [memory(), memory()];
        let all = [(1, ALICE, "a"), (2, BOB, "b")];
        let start = async |group: &Group, who: usize| {
            let (number, secret, _) = all[who];
            group.join_as(number, secret, Arc::clone(&stores[who])).await
        };
        let (alice, bob) = (start(&group, 0).await, start(&group, 1).await);
        alice.edit(|model| model.api().root(json(json!({})))).await;
        bob.sees(&json(json!({}))).await;
        alice.manager.stop().await;
        bob.manager.stop().await;

        for who in [0, 1] {
            let apart =
                Group { pubsub: Arc::new(MemoryPubSub::new()), peers: MemoryPeers::new(), ..group.clone() };
            let alone = start(&apart, who).await;
            let key = all[who].2;
            alone.edit(|model| model.api().obj("").unwrap().set([(key, 1)])).await;
            let vector = alone.manager.status().await.unwrap().stored;
            let forger = apart.syncer(all[1 - who].0, EncodingFormat::Binary).await;
            let to = PeerId::new(format!("node-{}", all[who].0)).unwrap();
            forger.send(Some(&to), &SyncMessage::State { vector, reply: false }).await.unwrap();
            let believed = async |replica: &Replica| {
                let peers = replica.manager.status().await.unwrap().peers;
                peers.iter().any(|peer| peer.behind_ticks == Some(0))
            };
            while !believed(&alone).await {
                tokio::task::yield_now().await;
            }
            alone.manager.compact().await.unwrap();
            alone.manager.stop().await;
        }

        let (alice, bob) = (start(&group, 0).await, start(&group, 1).await);
        let both = json!({"a": 1, "b": 1});
        for replica in [&alice, &bob] {
            let mut changes = replica.document.changes();
            let seen = async {
                while Json::from(&replica.document.view()) != both {
                    changes.changed().await.unwrap();
                }
            };
            let timely = tokio::time::timeout(PATIENCE, seen).await;
            assert!(timely.is_ok(), "{} of {both}", Json::from(&replica.document.view()));
        }
        // Their own words are enough to fold.
        let folds = async {
            loop {
                let folded = alice.manager.compact().await.unwrap();
                if folded == alice.manager.status().await.unwrap().stored {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, folds).await.expect("each says with its signature what it has");
    }
}

#[test]
fn a_word_is_proven_by_who_says_it_under_its_own_name() {
    let name = |name| PeerId::new(name).unwrap();
    let machine = Session::new(
        SessionOptions::standard(SessionId::USER_MIN),
        StateVector::new(),
        Heads::new(),
        Duration::ZERO,
        1,
    );
    let says = |secret, from| {
        let state = SyncMessage::State { vector: StateVector::new(), reply: true };
        Gate::new(Some(access(secret))).send(&name(from), state)
    };
    let hears = |from, message| Gate::new(Some(access(ALICE))).receive(&machine, name(from), message).0;
    let is_plain = |input: &Input| {
        matches!(input, Input::Message { message: SyncMessage::State { reply: true, .. }, .. })
    };
    let bobs = says(BOB, "bob");
    assert!(matches!(bobs, SyncMessage::Signed { .. }));
    assert!(matches!(hears("bob", bobs.clone()), Input::Proven { .. }));
    // Repeated by somebody else it says nothing, and from one who is on no list what anybody can say.
    let repeated = hears("carol", bobs);
    assert!(matches!(repeated, Input::Message { message: SyncMessage::Signed { .. }, .. }), "{repeated:?}");
    let mallorys = hears("mallory", says(MALLORY, "mallory"));
    assert!(is_plain(&mallorys), "{mallorys:?}");
    // Where nobody signs, it is read all the same.
    let open = Gate::new(None).receive(&machine, name("bob"), says(BOB, "bob")).0;
    assert!(is_plain(&open), "{open:?}");
}

/// Carol may read, so that her key is on the list, and signs in Alice's name. It counts as what anybody says.
#[test]
fn a_word_signed_in_the_name_of_another_counts_for_nothing() {
    const CAROL: [u8; 32] = [4; 32];
    const ALICE_LATER: [u8; 32] = [5; 32];
    let key = |secret: [u8; 32]| Signer::from_secret(&secret).author();
    let name = |name| PeerId::new(name).unwrap();
    let lists = |secret| {
        let access = access(secret);
        access.allow(key(CAROL), Role::Read).unwrap();
        access.allow(key(ALICE_LATER), Role::Write).unwrap();
        access
    };
    let sid = SessionId::new(SessionId::USER_MIN.get() + 9).unwrap();
    let upto = |last| -> StateVector<SessionId> { [(sid, last)].into_iter().collect() };
    let says = |secret, last| {
        let state = SyncMessage::State { vector: upto(last), reply: false };
        Gate::new(Some(lists(secret))).send(&name("alice"), state)
    };
    let start = || {
        let options = SessionOptions { proves_words: true, ..SessionOptions::standard(SessionId::USER_MIN) };
        let mut machine = Session::new(options, upto(9), Heads::new(), Duration::ZERO, 1);
        machine.handle_input(Duration::ZERO, Input::PeerUp(name("alice")));
        machine
    };
    let hears = |gate: &mut Gate, machine: &mut Session, message| {
        let (input, refused) = gate.receive(machine, name("alice"), message);
        machine.handle_input(Duration::ZERO, input);
        (gate.stable(machine, &name("bob"), None).get(&sid), refused.first().map(ToString::to_string))
    };

    let (bobs, mut machine) = (lists(BOB), start());
    let mut gate = Gate::new(Some(Arc::clone(&bobs) as _));
    assert_eq!(hears(&mut gate, &mut machine, says(ALICE, 5)), (5, None));
    let (stable, refused) = hears(&mut gate, &mut machine, says(CAROL, 9));
    assert_eq!(stable, 5);
    assert!(refused.unwrap().contains("does not speak for alice"));

    // Alice gets another key: what the old one has proven goes with it.
    bobs.revoke(key(ALICE));
    assert_eq!(gate.stable(&machine, &name("bob"), None).get(&sid), 0);
    assert_eq!(hears(&mut gate, &mut machine, says(ALICE_LATER, 6)), (6, None));

    // Started again Bob knows who Alice is if his list says so, even if Carol comes first.
    let (bobs, mut machine) = (lists(BOB), start());
    bobs.bind(name("alice"), key(ALICE_LATER)).unwrap();
    let mut gate = Gate::new(Some(Arc::clone(&bobs) as _));
    let (stable, refused) = hears(&mut gate, &mut machine, says(CAROL, 9));
    assert_eq!((stable, refused.is_some()), (0, true));
    assert_eq!(hears(&mut gate, &mut machine, says(ALICE_LATER, 7)), (7, None));
    assert!(bobs.bind(name("eve"), key(MALLORY)).is_err(), "her key is not on the list");
}

/// Carol reads and has no key, so that nobody can know what she has. Where it is known whom to wait for, nobody waits for her:
/// she takes over what was folded while she was away. In her own store she folds what all those have who are waited for.
#[tokio::test]
async fn a_reader_without_a_key_keeps_nothing_from_being_folded() {
    let name = |number: u64| PeerId::new(format!("node-{number}")).unwrap();
    for group in [Group::new(), Group::with_dag()] {
        let list = |secret: Option<[u8; 32]>| {
            let access = Access::new("doc", secret.map(|secret| Signer::from_secret(&secret)));
            for (number, writer) in [(1, ALICE), (2, BOB)] {
                let key = Signer::from_secret(&writer).author();
                access.allow(key, Role::Write).unwrap();
                access.bind(name(number), key).unwrap();
            }
            Arc::new(access.waiting_for_bound_names())
        };
        let join = async |number: u64, secret, store| {
            let session = SessionId::new(SessionId::USER_MIN.get() + number).unwrap();
            let document = Arc::new(SharedModel::new(session));
            let with = |manager: SyncManager| manager.with_guard(list(secret));
            group.join_document(number, EncodingFormat::Binary, document, store, with).await
        };
        let folds_all = async |replica: &Replica| {
            let folding = async {
                while replica.manager.compact().await.unwrap()
                    != replica.manager.status().await.unwrap().stored
                {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, folding).await.expect("it folds all");
        };
        let carols = memory();
        let (alice, bob) = (join(1, Some(ALICE), memory()).await, join(2, Some(BOB), memory()).await);
        let carol = join(3, None, Arc::clone(&carols)).await;
        alice.edit(|model| model.api().root(json(json!({"by": "alice"})))).await;
        let first = json(json!({"by": "alice"}));
        bob.sees(&first).await;
        carol.sees(&first).await;
        folds_all(&alice).await;
        folds_all(&carol).await;

        // She is away, and comes late.
        carol.manager.stop().await;
        bob.edit(|model| model.api().obj("").unwrap().set([("too", "bob")])).await;
        let both = json(json!({"by": "alice", "too": "bob"}));
        alice.sees(&both).await;
        folds_all(&alice).await;
        folds_all(&bob).await;
        let carol = join(3, None, carols).await;
        carol.sees(&both).await;
        assert_eq!(carol.manager.status().await.unwrap().counters.installed, 1);

        // Who is bound is waited for by her also when he is not there.
        bob.manager.stop().await;
        alice.edit(|model| model.api().obj("").unwrap().set([("more", 1)])).await;
        // (Keys stand in another order in a document that came as a snapshot.)
        let all = json!({"by": "alice", "too": "bob", "more": 1});
        let mut changes = carol.document.changes();
        let sees = async {
            while Json::from(&carol.document.view()) != all {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, sees).await.expect("she sees it");
        // And by her who is bound herself: a goodbye has no signature, anybody could have said it.
        for waits in [&carol, &alice] {
            let gone = |status: &SyncStatus| status.peers.iter().all(|peer| peer.id != name(2));
            waits.stands("Bob is gone", gone).await;
            let stored = waits.manager.status().await.unwrap().stored;
            assert_ne!(waits.manager.compact().await.unwrap(), stored);
        }
    }
}
