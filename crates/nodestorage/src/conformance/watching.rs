//! Watching: history and live as one sequence.

use super::*;
use crate::{WatchFilter, WatchFrom};

fn all() -> WatchFilter {
    WatchFilter::default()
}

/// From 0: everything, in order.
pub async fn a_watch_from_the_beginning_sees_every_change_once(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    let mut watch = games.watch(all(), WatchFrom::After(0)).await.unwrap();
    for _ in 0..600 {
        increment(&games, "a").await;
    }
    for position in 1..=601 {
        let change = next_change(&mut watch).await;
        assert_eq!((change.position, change.version), (position, position));
    }
    let mut rest = games.watch(all(), WatchFrom::After(599)).await.unwrap();
    assert_eq!(next_change(&mut rest).await.position, 600);
}

/// From now: the next one.
pub async fn a_watch_from_now_sees_only_what_follows(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    let mut watch = games.watch(all(), WatchFrom::Now).await.unwrap();
    increment(&games, "a").await;
    assert_eq!(next_change(&mut watch).await.version, 2);
}

/// Filters.
pub async fn a_watch_shows_only_its_collection_and_documents(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let notes = store.collection("notes", StorageOptions::default()).await.unwrap();
    let only_b = WatchFilter { documents: Some(vec![id("b")]) };
    let mut one = games.watch(only_b, WatchFrom::After(0)).await.unwrap();
    let mut every = games.watch(all(), WatchFrom::After(0)).await.unwrap();
    create(&games, "a", json!({})).await;
    create(&notes, "b", json!({})).await;
    create(&games, "b", json!({})).await;
    assert_eq!(next_change(&mut one).await.position, 3);
    assert_eq!(next_change(&mut every).await.position, 1);
    assert_eq!(next_change(&mut every).await.position, 3);
}

/// Watchers that come and go while writers write.
pub async fn a_watch_goes_from_history_to_live_without_a_gap_under_writers(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 40;
    let games = collection(&store).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let games = games.clone();
            tokio::spawn(async move {
                let name = format!("d{}", n % 3);
                games.find_one_and_upsert(&id(&name), Body::new(), plain()).await.unwrap();
                for _ in 0..EACH {
                    increment(&games, &name).await;
                }
            })
        })
        .collect();
    let total = 3 + WRITERS * EACH;
    let watchers: Vec<_> = (0..4)
        .map(|_| {
            let games = games.clone();
            tokio::spawn(async move {
                let mut after = 0;
                while after < total {
                    // Each stay ends after some changes, as a connection does.
                    let mut watch = games.watch(all(), WatchFrom::After(after)).await.unwrap();
                    for _ in 0..(total - after).min(37) {
                        let change = next_change(&mut watch).await;
                        assert_eq!(change.position, after + 1);
                        after = change.position;
                    }
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain(watchers) {
        task.await.unwrap();
    }
    assert_eq!(games.position().await.unwrap(), total);
}

/// A watcher that does not read costs the writers nothing and gets everything in the end.
pub async fn a_slow_watcher_misses_nothing(store: Arc<dyn Store>) {
    const CHANGES: u64 = 3_000;
    let games = collection(&store).await;
    create(&games, "d0", json!({})).await;
    let mut slow = games.watch(all(), WatchFrom::After(0)).await.unwrap();
    assert_eq!(next_change(&mut slow).await.position, 1);
    let writers = (1..=30u64).map(|writer| {
        let games = games.clone();
        async move {
            let name = format!("d{writer}");
            create(&games, &name, json!({})).await;
            for _ in 1..CHANGES / 30 {
                increment(&games, &name).await;
            }
        }
    });
    futures_util::future::join_all(writers).await;
    for position in 2..=CHANGES + 1 {
        assert_eq!(next_change(&mut slow).await.position, position);
    }
}

/// Who reads up to a position of the store comes there, whoever wrote what is there.
pub async fn a_watch_tells_how_far_it_has_come(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let chat = store.collection("chat", StorageOptions::default()).await.unwrap();
    create(&games, "a", json!({})).await;
    for name in ["a", "b", "c"] {
        create(&chat, name, json!({})).await;
    }
    let mut watch = games.watch(all(), WatchFrom::After(0)).await.unwrap();
    assert_eq!(next_change(&mut watch).await.position, 1);
    let head = games.position().await.unwrap();
    assert_eq!(head, 4);
    let mut reached = 1;
    while reached < head {
        let WatchEvent::Reached { position } = next(&mut watch).await else {
            panic!("nothing else is to come")
        };
        assert!(reached < position && position <= head);
        reached = position;
    }
    create(&games, "b", json!({})).await;
    assert_eq!(next_change(&mut watch).await.position, 5);
}

/// Compaction under a reader.
pub async fn a_watch_behind_removed_changes_is_told(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    create(&games, "b", json!({})).await;
    for _ in 0..3 {
        increment(&games, "a").await;
    }
    games.remove_changes(&id("a"), 3).await.unwrap(); // positions 1, 3 and 4
    let mut watch = games.watch(all(), WatchFrom::After(0)).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::Missed { resume_after: 1 });
    assert_eq!(next_change(&mut watch).await.position, 2);
    assert_eq!(next(&mut watch).await, WatchEvent::Missed { resume_after: 4 });
    assert_eq!(next_change(&mut watch).await.position, 5);
    // Whoever asks for another document only is not bothered by those still in the log.
    let only_b = WatchFilter { documents: Some(vec![id("b")]) };
    let mut watch = games.watch(only_b, WatchFrom::After(1)).await.unwrap();
    assert_eq!(next_change(&mut watch).await.position, 2);
    increment(&games, "b").await;
    assert_eq!(next_change(&mut watch).await.position, 6);
}

/// A cursor that this store never gave.
pub async fn a_watch_from_another_life_of_the_store_is_told(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    let mut watch = games.watch(all(), WatchFrom::After(50)).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::Missed { resume_after: 1 });
    increment(&games, "a").await;
    assert_eq!(next_change(&mut watch).await.position, 2);
}

/// The end of a watch.
pub async fn a_watch_ends_when_its_storage_is_closed(store: Arc<dyn Store>) {
    let (one, other) = (collection(&store).await, collection(&store).await);
    let mut first = one.watch(all(), WatchFrom::Now).await.unwrap();
    let mut second = other.watch(all(), WatchFrom::Now).await.unwrap();
    let waiting = tokio::spawn(async move { first.next().await });
    one.close().await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().is_none());
    create(&other, "a", json!({})).await;
    assert_eq!(next_change(&mut second).await.position, 1);
    store.close().await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, second.next()).await.unwrap().is_none());
}
