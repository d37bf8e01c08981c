//! Snapshots.

use std::sync::Arc;

use nodestorage::Body;
use serde_json::json;

use super::{Stores, id, vector};
use crate::snapshot::{ShelfSnapshotStore, Snapshot, SnapshotStore};

fn snapshot(document: &str, version: u64) -> Snapshot {
    let state = (version % 2 == 1).then(|| Arc::new(Body::from_iter([("é.$".to_owned(), json!(version))])));
    Snapshot {
        document_id: id(document),
        version,
        state,
        state_vector: vector(&[("p.1", version)]),
        created_at: version,
        timestamp: Some(version),
    }
}

async fn versions(store: &ShelfSnapshotStore, document: &str, before: u64, limit: usize) -> Vec<u64> {
    let found = store.list(&id(document), before, limit).await.unwrap();
    found.iter().map(|snapshot| snapshot.version).collect()
}

/// Names that begin alike, and numbers of several bytes.
pub async fn the_nearest_snapshot_of_the_right_document_is_found(stores: Stores) {
    let store = ShelfSnapshotStore::new(stores.shelf);
    let other = ShelfSnapshotStore::new(stores.other);
    for (document, version) in [("a", 1), ("a", 255), ("a", 256), ("a b", 300), ("b", 7)] {
        store.save(&snapshot(document, version)).await.unwrap();
    }
    for (document, version, expect) in [
        ("a", 0, None),
        ("a", 254, Some(1)),
        ("a", 255, Some(255)),
        ("a", u64::MAX, Some(256)),
        ("b", u64::MAX, Some(7)),
        ("c", u64::MAX, None),
    ] {
        let found = other.at_or_before(&id(document), version).await.unwrap();
        assert_eq!(found, expect.map(|version| snapshot(document, version)), "{document} at {version}");
    }
}

/// Lists go from the newest to the oldest.
pub async fn a_snapshot_is_kept_once_and_listed_newest_first(stores: Stores) {
    let store = ShelfSnapshotStore::new(stores.shelf);
    for version in [3, 1, 2, 2, 300] {
        store.save(&snapshot("a", version)).await.unwrap();
    }
    store.save(&snapshot("b", 9)).await.unwrap();
    assert_eq!(versions(&store, "a", u64::MAX, 9).await, [300, 3, 2, 1]);
    assert_eq!(versions(&store, "a", 300, 2).await, [3, 2]);
    assert_eq!(versions(&store, "a", 1, 9).await, [0; 0]);
    assert_eq!(versions(&store, "a", u64::MAX, 0).await, [0; 0]);
}

/// Never all of them, and never the one that events behind it need.
pub async fn pruning_keeps_the_newest_and_what_the_events_start_from(stores: Stores) {
    let store = ShelfSnapshotStore::new(stores.shelf);
    for (document, keep, floor, gone, left) in [
        ("a", 2, 0, 3, vec![12, 9]),
        ("b", 0, 0, 4, vec![12]),
        ("c", 1, 8, 3, vec![12, 7]),
        ("d", 1, 12, 4, vec![12]),
        ("e", 1, 1, 4, vec![12]),
        ("f", 9, 5, 0, vec![12, 9, 7, 5, 2]),
    ] {
        for version in [2, 5, 7, 9, 12] {
            store.save(&snapshot(document, version)).await.unwrap();
        }
        assert_eq!(store.prune(&id(document), keep, floor).await.unwrap(), gone, "{document}");
        assert_eq!(versions(&store, document, u64::MAX, 9).await, left, "{document}");
    }
}
