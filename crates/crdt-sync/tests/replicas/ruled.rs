//! Managers whose documents have rules for concurrent writes.

use crdt_sync::conflict::{Rules, Strategy};

use super::*;

fn number(number: u64) -> SessionId {
    SessionId::new(SessionId::USER_MIN.get() + number).unwrap()
}

/// The first replica decides the price; of votes all are shown.
fn rules() -> Rules {
    Rules::new().with("/price", Strategy::authority([number(1)])).with("/votes", Strategy::MultiValue)
}

async fn join(group: &Group, number_: u64, store: Arc<dyn PatchStore>) -> Replica {
    let document = Arc::new(SharedModel::new(number(number_)).with_conflicts(rules()));
    group.join_document(number_, EncodingFormat::Binary, document, store, |manager| manager).await
}

async fn resolves(replica: &Replica, expect: &Value) {
    let mut changes = replica.document.changes();
    let seen = async {
        while replica.document.resolved() != *expect {
            changes.changed().await.expect("the document is here");
        }
    };
    if tokio::time::timeout(PATIENCE, seen).await.is_err() {
        assert_eq!(replica.document.resolved(), *expect);
    }
}

/// A server that is started again has another session, and decides all the same, also where only its word about others' patches is
/// left: in a snapshot.
#[cfg(feature = "crypto")]
#[tokio::test(start_paused = true)]
async fn a_key_decides_over_restarts_and_compactions() {
    use super::guarded::{ALICE, BOB, access};
    use crdt_sync::crypto::Signer;

    for group in [Group::new(), Group::with_dag()] {
        let server = Signer::from_secret(&ALICE).author().to_bytes();
        let join = async |session: u64, secret: [u8; 32], store: &Arc<dyn PatchStore>| {
            let rules = Rules::new().with("/price", Strategy::signed([server]));
            let document = Arc::new(SharedModel::new(number(session)).with_conflicts(rules));
            let with = |manager: SyncManager| manager.with_guard(access(secret));
            group.join_document(session, EncodingFormat::Binary, document, Arc::clone(store), with).await
        };
        let [alices, bobs, carols] =
            [(); 3].map(|()| Arc::new(MemoryPatchStore::new()) as Arc<dyn PatchStore>);
        let (alice, bob) = (join(1, ALICE, &alices).await, join(2, BOB, &bobs).await);
        bob.edit(|model| model.api().root(json(json!({"price": 0})))).await;
        alice.sees(&json(json!({"price": 0}))).await;
        let writes = async |replica: &Replica, price: i64| {
            replica.edit(|model| model.api().obj("")?.set([("price", price)])).await;
        };
        writes(&alice, 10).await;
        bob.sees(&json(json!({"price": 10}))).await;
        writes(&bob, 11).await;
        alice.sees(&json(json!({"price": 11}))).await;
        for replica in [&alice, &bob] {
            assert_eq!(replica.document.resolved(), json(json!({"price": 10})));
        }
        // The server goes, what it decided is folded, and it comes back as another session over an empty store.
        alice.manager.stop().await;
        let whole = bob.manager.status().await.unwrap().stored;
        bob.folds(&whole).await;
        let alice = join(3, ALICE, &carols).await;
        resolves(&alice, &json(json!({"price": 10}))).await;
        writes(&alice, 20).await;
        bob.sees(&json(json!({"price": 20}))).await;
        writes(&bob, 21).await;
        alice.sees(&json(json!({"price": 21}))).await;
        for replica in [&alice, &bob] {
            assert_eq!(replica.document.resolved(), json(json!({"price": 20})));
        }
        bob.manager.stop().await;
        let bob = join(4, BOB, &bobs).await;
        assert_eq!(bob.document.resolved(), json(json!({"price": 20})));
    }
}

/// Whoever has the patches, starts again, or comes late and gets a snapshot: all resolve alike.
#[tokio::test(start_paused = true)]
async fn rules_hold_over_compactions_restarts_and_for_who_comes_late() {
    for group in [Group::new(), Group::with_dag()] {
        let stores = [(); 2].map(|()| Arc::new(MemoryPatchStore::new()) as Arc<dyn PatchStore>);
        let first = join(&group, 1, Arc::clone(&stores[0])).await;
        let second = join(&group, 2, Arc::clone(&stores[1])).await;
        first.edit(|model| model.api().root(json(json!({"price": 0, "votes": 0})))).await;
        second.sees(&json(json!({"price": 0, "votes": 0}))).await;
        first.edit(|model| model.api().obj("")?.set([("price", 1)])).await;
        second.sees(&json(json!({"price": 1, "votes": 0}))).await;
        // Later, and in the knowledge of what was decided.
        second.edit(|model| model.api().obj("")?.set([("price", 2)])).await;
        first.sees(&json(json!({"price": 2, "votes": 0}))).await;
        let votes = [(&first, 1), (&second, 2)].map(|(replica, vote)| {
            let edited = replica.document.edit(|model| model.api().obj("")?.set([("votes", vote)]));
            edited.unwrap().unwrap()
        });
        for (replica, patch) in [&first, &second].into_iter().zip(&votes) {
            replica.manager.apply_patch(patch).await.unwrap();
        }
        let expect = json(json!({"price": 1, "votes": [1, 2]}));
        resolves(&first, &expect).await;
        resolves(&second, &expect).await;

        let whole = first.manager.status().await.unwrap().stored;
        for replica in [&first, &second] {
            replica.folds(&whole).await;
            assert_eq!(replica.document.resolved(), expect);
        }
        let third = join(&group, 3, Arc::new(MemoryPatchStore::new())).await;
        resolves(&third, &expect).await;
        assert_eq!(third.manager.status().await.unwrap().counters.installed, 1);
        assert_eq!(third.document.open_conflicts().len(), 1);
        second.manager.stop().await;
        let second = join(&group, 2, Arc::clone(&stores[1])).await;
        assert_eq!(second.document.resolved(), expect);
        // What settles it settles it everywhere.
        third.edit(|model| model.api().obj("")?.set([("votes", 7)])).await;
        for replica in [&first, &second, &third] {
            resolves(replica, &json(json!({"price": 1, "votes": [7]}))).await;
        }
    }
}
