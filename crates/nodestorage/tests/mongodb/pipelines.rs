//! Updates by a pipeline: computed by the server, and changes like all others.

use std::sync::Arc;

use nodestorage::{
    CachedStore, Edited, MemoryCache, Storage, StorageError, StorageOptions, Store,
    mongo::driver::{Collection, bson::Document as Bsons},
};
use serde_json::{Value, json};

use super::{body, by, counted, games, id, store};

fn stages(pipeline: Value) -> Vec<Value> {
    pipeline.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn a_pipeline_is_one_change_with_its_diff() {
    let (store, _server) = store().await;
    let games = games(&store).await;
    let a = id("a");
    let before = body(json!({"name": "Go", "scores": [3, 4], "old": true, "a.b": 1}));
    games.find_one_and_upsert(&a, before.clone(), by("s")).await.unwrap();
    let sum = stages(json!([{"$set": {"total": {"$sum": "$scores"}}}, {"$unset": "old"}]));
    let edited = games.update_one_with_pipeline(&a, &sum, counted("c", 1)).await.unwrap();
    let Edited::Changed { document, change } = edited else { panic!("{edited:?}") };
    let after = body(json!({"name": "Go", "scores": [3, 4], "total": 7, "a.b": 1}));
    assert_eq!((document.version, &*document.body), (2, &after));
    assert_eq!(change.diff.apply(Some(before)).unwrap().as_ref(), Some(&after));
    assert_eq!(games.find_one(&a).await.unwrap(), Some(document));
    let recorded = games.changes(&a, 1, 10).await.unwrap().changes;
    assert_eq!((recorded.len(), &recorded[0].diff), (1, &change.diff));

    // The same again: repeated under its number, unchanged without.
    let again = games.update_one_with_pipeline(&a, &sum, counted("c", 1)).await.unwrap();
    assert!(matches!(again, Edited::Repeated { version: 2, .. }), "{again:?}");
    let again = games.update_one_with_pipeline(&a, &sum, by("s")).await.unwrap();
    assert!(matches!(again, Edited::Unchanged { .. }), "{again:?}");
    // What belongs to the store can be neither read nor replaced.
    let all = stages(
        json!([{"$replaceWith": {"_id": "b", "_weft": 1, "_version": 9, "seen": {"$type": "$_weft"}}}]),
    );
    let edited = games.update_one_with_pipeline(&a, &all, by("s")).await.unwrap();
    let Edited::Changed { document, .. } = edited else { panic!("{edited:?}") };
    assert_eq!((document.version, &*document.body), (3, &body(json!({"seen": "missing"}))));

    let refused = games.update_one_with_pipeline(&a, &stages(json!([{"$out": "x"}])), by("s")).await;
    assert!(matches!(refused, Err(StorageError::Unsupported { .. })), "{refused:?}");
    let wrong = stages(json!([{"$set": {"x": {"$divide": [1, "text"]}}}]));
    let refused = games.update_one_with_pipeline(&a, &wrong, by("s")).await;
    assert!(matches!(refused, Err(StorageError::Edit(_))), "{refused:?}");
    let absent = games.update_one_with_pipeline(&id("b"), &sum, by("s")).await;
    assert!(matches!(absent, Err(StorageError::NotFound { .. })), "{absent:?}");
    assert_eq!(games.last_version(&a).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn pipelines_of_several_processes_lose_nothing() {
    let (store, server) = store().await;
    let other = super::open(&server).await;
    let (here, there) = (games(&store).await, games(&other).await);
    here.find_one_and_upsert(&id("a"), body(json!({"n": 0})), by("s")).await.unwrap();
    let add = stages(json!([{"$set": {"n": {"$add": ["$n", 1]}}}]));
    let writers = (0..16).map(|n| {
        let (games, add) = (if n % 2 == 0 { here.clone() } else { there.clone() }, add.clone());
        tokio::spawn(async move {
            for _ in 0..5 {
                games.update_one_with_pipeline(&id("a"), &add, by("s")).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let found = here.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!((found.version, &found.body["n"]), (81, &json!(80)));
}

/// The collection and the pipelines are reached through whatever stands in front.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn what_only_mongodb_has_is_there_behind_a_cache() {
    let (store, _server) = store().await;
    let cached = CachedStore::new(Arc::new(store), |_| Arc::new(MemoryCache::default()));
    let games: Arc<dyn Storage> = cached.collection("games", StorageOptions::default()).await.unwrap();
    games.find_one_and_upsert(&id("a"), body(json!({"n": 1})), by("s")).await.unwrap();
    assert_eq!(games.find_one(&id("a")).await.unwrap().unwrap().body["n"], 1);
    let double = stages(json!([{"$set": {"n": {"$multiply": ["$n", 2]}}}]));
    let edited = games.update_one_with_pipeline(&id("a"), &double, by("s")).await.unwrap();
    assert!(matches!(edited, Edited::Changed { .. }), "{edited:?}");
    assert_eq!(games.find_one(&id("a")).await.unwrap().unwrap().body["n"], 2, "the cache has the old one");
    let native = games.native().and_then(|native| native.downcast_ref::<Collection<Bsons>>());
    assert_eq!(native.expect("it is the driver's").name(), "games");
}
