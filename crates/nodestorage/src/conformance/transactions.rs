//! Several documents changed as one.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;

use super::*;
use crate::{
    Operation, Staged, StorageError, Transaction, TransactionFn, WatchFilter, WatchFrom, edit::EditError,
};

fn transaction<'a, F>(run: F) -> TransactionFn<'a>
where
    F: for<'t> FnMut(&'t mut (dyn Transaction + 'a)) -> BoxFuture<'t, Result<(), EditError>> + Send + 'a,
{
    Box::new(run)
}

fn gold(change: i64) -> Update {
    Update::parse(&json!({"$inc": {"gold": change}})).unwrap()
}

async fn purse(storage: &Arc<dyn Storage>, name: &str) -> i64 {
    storage.find_one(&id(name)).await.unwrap().unwrap().body["gold"].as_i64().unwrap()
}

/// All verbs; what one does the next one sees; each makes a change of its own, all in one go.
pub async fn a_transaction_changes_several_documents_as_one(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "ann", json!({"gold": 10, "bag": {"axe": 1}})).await;
    create(&games, "old", json!({})).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    let trade = transaction(|of| {
        Box::pin(async move {
            assert_eq!(of.find_one(&id("bob")).await?, None);
            let staged = of.find_one_and_upsert(&id("bob"), body(json!({"gold": 0})), plain()).await?;
            assert_eq!(staged.document().unwrap().version, 1);
            let again = of.find_one_and_upsert(&id("bob"), Body::new(), plain()).await?;
            assert!(matches!(again, Staged::Unchanged(Some(_))), "{again:?}");
            of.update_one(&id("ann"), &gold(-4), plain()).await?;
            of.update_one(&id("bob"), &gold(4), plain()).await?;
            let section = FieldPath::new("bag.axe").unwrap();
            let two = |axe: &mut Value| {
                *axe = json!(2);
                Ok(())
            };
            of.update_section(&id("ann"), &section, Box::new(two), plain()).await?;
            assert_eq!(of.find_one(&id("ann")).await?.unwrap().version, 3);
            let deleted = of.delete_one(&id("old"), plain()).await?;
            assert!(matches!(deleted, Staged::Changed(None)), "{deleted:?}");
            assert_eq!(of.find_one(&id("old")).await?, None);
            let absent = of.delete_one(&id("nobody"), plain()).await?;
            assert!(matches!(absent, Staged::Unchanged(None)), "{absent:?}");
            Ok(())
        })
    });
    let changes = games.with_transaction(trade).await.unwrap();
    let shown: Vec<_> = changes.iter().map(|c| (c.document_id.as_str(), c.version, c.operation)).collect();
    assert_eq!(
        shown,
        [
            ("bob", 1, Operation::Create),
            ("ann", 2, Operation::Update),
            ("bob", 2, Operation::Update),
            ("ann", 3, Operation::UpdateSection),
            ("old", 2, Operation::Delete),
        ]
    );
    for change in &changes {
        assert_eq!(next_change(&mut watch).await, *change);
        let recorded = games.changes(&change.document_id, change.version - 1, 1).await.unwrap();
        assert_eq!(recorded.changes, [(**change).clone()]);
    }
    assert!(changes.windows(2).all(|pair| pair[1].position == pair[0].position + 1));
    assert_eq!((purse(&games, "ann").await, purse(&games, "bob").await), (6, 4));
    assert_eq!(games.find_one(&id("ann")).await.unwrap().unwrap().body["bag"], json!({"axe": 2}));
    assert_eq!(games.find_one(&id("old")).await.unwrap(), None);
}

/// An error of the function, or of one of its verbs, comes back as it is.
pub async fn a_transaction_that_ends_in_an_error_writes_nothing(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let ann = create(&games, "ann", json!({"gold": 1})).await;
    let position = games.position().await.unwrap();
    let runs = AtomicUsize::new(0);
    let refuse = transaction(|of| {
        runs.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            of.update_one(&id("ann"), &gold(-1), plain()).await?;
            of.find_one_and_upsert(&id("bob"), Body::new(), counted("p", 1)).await?;
            Err("not enough".into())
        })
    });
    let refused = games.with_transaction(refuse).await.unwrap_err();
    assert_eq!(refused.to_string(), "edit refused: not enough");
    assert_eq!(runs.into_inner(), 1);
    let missing = transaction(|of| {
        Box::pin(async move {
            of.update_one(&id("ann"), &gold(-1), plain()).await?;
            of.update_one(&id("carl"), &gold(1), plain()).await?;
            Ok(())
        })
    });
    let refused = games.with_transaction(missing).await.unwrap_err();
    assert!(matches!(refused, StorageError::NotFound { .. }), "{refused:?}");
    let stale = transaction(|of| {
        Box::pin(async move {
            let expecting = EditOptions { expected_version: Some(7), ..plain() };
            of.update_one(&id("ann"), &gold(1), expecting).await?;
            Ok(())
        })
    });
    let refused = games.with_transaction(stale).await.unwrap_err();
    assert!(matches!(refused, StorageError::VersionMismatch { actual: 1, .. }), "{refused:?}");
    assert_eq!(games.find_one(&id("ann")).await.unwrap(), Some(ann));
    assert_eq!(games.find_one(&id("bob")).await.unwrap(), None);
    assert_eq!(games.position().await.unwrap(), position);
    // The sequence is still free.
    games.find_one_and_upsert(&id("bob"), Body::new(), counted("p", 1)).await.unwrap();
}

/// Who repeats a transaction, not knowing whether it was committed, changes nothing.
pub async fn a_repeated_transaction_has_no_effect(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    for name in ["ann", "bob"] {
        create(&games, name, json!({"gold": 10})).await;
    }
    for nth in 0..2 {
        let pay = transaction(|of| {
            Box::pin(async move {
                let given = of.update_one(&id("ann"), &gold(-1), counted("p", 1)).await?;
                let taken = of.update_one(&id("bob"), &gold(1), counted("p", 1)).await?;
                of.update_one(&id("bob"), &gold(0), counted("p", 2)).await?;
                for staged in [given, taken] {
                    let repeated = matches!(staged, Staged::Repeated { version: 2, .. });
                    assert_eq!(repeated, nth > 0, "{staged:?}");
                }
                // The transaction's own writes are known to it.
                let own = of.update_one(&id("ann"), &gold(-1), counted("p", 1)).await?;
                assert!(matches!(own, Staged::Repeated { version: 2, .. }), "{own:?}");
                Ok(())
            })
        });
        let changes = games.with_transaction(pay).await.unwrap();
        assert_eq!(changes.len(), if nth == 0 { 2 } else { 0 });
    }
    assert_eq!((purse(&games, "ann").await, purse(&games, "bob").await), (9, 11));
    let producers = games.producers(&id("bob")).await.unwrap();
    assert_eq!(producers.get(&client("p")), 2);
}

/// Transfers between purses from many tasks at once: nothing is lost, and whoever reads inside a transaction sees the
/// sum.
pub async fn concurrent_transactions_are_as_if_one_after_the_other(store: Arc<dyn Store>) {
    const PURSES: usize = 4;
    const TASKS: usize = 8;
    const EACH: usize = 12;
    let options = StorageOptions {
        retries_max: 10_000,
        retry_delay: Duration::from_micros(200),
        retry_delay_max: Duration::from_millis(20),
        ..StorageOptions::default()
    };
    let games = store.collection("games", options).await.unwrap();
    for purse in 0..PURSES {
        create(&games, &format!("purse {purse}"), json!({"gold": 100})).await;
    }
    let tasks = (0..TASKS).map(|task| {
        let games = Arc::clone(&games);
        tokio::spawn(async move {
            for nth in 0..EACH {
                let (from, to) = ((task + nth) % PURSES, (task + nth + 1 + nth % 3) % PURSES);
                let transfer = transaction(|of| {
                    Box::pin(async move {
                        let mut sum = 0;
                        for purse in 0..PURSES {
                            let purse = of.find_one(&id(&format!("purse {purse}"))).await?.unwrap();
                            sum += purse.body["gold"].as_i64().unwrap();
                        }
                        if sum != 100 * PURSES as i64 {
                            return Err(format!("the purses hold {sum}").into());
                        }
                        of.update_one(&id(&format!("purse {from}")), &gold(-7), plain()).await?;
                        of.update_one(&id(&format!("purse {to}")), &gold(7), plain()).await?;
                        Ok(())
                    })
                });
                games.with_transaction(transfer).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut sum = 0;
    for name in (0..PURSES).map(|purse| format!("purse {purse}")) {
        sum += purse(&games, &name).await;
        let document = games.find_one(&id(&name)).await.unwrap().unwrap();
        let changes = games.changes(&id(&name), 0, 1_000).await.unwrap().changes;
        let versions: Vec<_> = changes.iter().map(|change| change.version).collect();
        assert_eq!(versions, (1..=document.version).collect::<Vec<_>>());
    }
    assert_eq!(sum, 100 * PURSES as i64);
    let total = games.position().await.unwrap();
    assert_eq!(total, (PURSES + 2 * TASKS * EACH) as u64);
}

/// Somebody else's write between reading and committing.
pub async fn a_transaction_that_always_loses_says_so(store: Arc<dyn Store>) {
    let options = StorageOptions {
        retries_max: 3,
        retry_delay: Duration::from_micros(10),
        ..StorageOptions::default()
    };
    let games = store.collection("games", options).await.unwrap();
    create(&games, "ann", json!({"gold": 0})).await;
    let other = Arc::clone(&games);
    let runs = Arc::new(AtomicUsize::new(0));
    let ran = Arc::clone(&runs);
    let lose = transaction(move |of| {
        let (other, ran) = (Arc::clone(&other), Arc::clone(&ran));
        Box::pin(async move {
            ran.fetch_add(1, Ordering::Relaxed);
            of.find_one(&id("ann")).await?;
            increment(&other, "ann").await;
            of.find_one_and_upsert(&id("bob"), Body::new(), plain()).await?;
            Ok(())
        })
    });
    let failed = games.with_transaction(lose).await.unwrap_err();
    assert!(matches!(failed, StorageError::TransactionFailed { attempts: 4, .. }), "{failed:?}");
    assert!(failed.is_retryable());
    assert_eq!(runs.load(Ordering::Relaxed), 4);
    assert_eq!(games.find_one(&id("bob")).await.unwrap(), None);
    assert_eq!(games.find_one(&id("ann")).await.unwrap().unwrap().version, 5);
}

/// The bound of a transaction.
pub async fn a_transaction_has_room_for_so_many_changes(store: Arc<dyn Store>) {
    let options = StorageOptions { transaction_changes_max: 3, ..StorageOptions::default() };
    let games = store.collection("games", options).await.unwrap();
    for (changes, fits) in [(3, true), (4, false)] {
        let fill = transaction(move |of| {
            Box::pin(async move {
                for n in 0..changes {
                    of.find_one_and_upsert(&id(&format!("{changes} {n}")), Body::new(), plain()).await?;
                }
                Ok(())
            })
        });
        let filled = games.with_transaction(fill).await;
        assert_eq!(filled.is_ok(), fits);
        if let Err(error) = filled {
            assert!(matches!(error, StorageError::Busy { limit: 3, .. }), "{error:?}");
        }
    }
    assert_eq!(games.list(None, 10).await.unwrap().len(), 3);
}

/// A function that never ends.
pub async fn a_transaction_has_so_much_time(store: Arc<dyn Store>) {
    let transaction_timeout = Duration::from_millis(50);
    let options = StorageOptions { transaction_timeout, ..StorageOptions::default() };
    let games = store.collection("games", options).await.unwrap();
    let hang = transaction(|of| {
        Box::pin(async move {
            of.find_one_and_upsert(&id("a"), Body::new(), plain()).await?;
            std::future::pending().await
        })
    });
    let late = games.with_transaction(hang).await.unwrap_err();
    assert!(matches!(late, StorageError::Timeout(after) if after == transaction_timeout), "{late:?}");
    assert_eq!(games.find_one(&id("a")).await.unwrap(), None);
    // It holds up nobody.
    create(&games, "a", json!({})).await;
}
