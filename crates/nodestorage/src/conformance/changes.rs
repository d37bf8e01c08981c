//! The record of changes.

use super::*;
use crate::{Deleted, Operation};

/// Change n made version n, and says what it did.
pub async fn version_and_change_agree(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({"gold": 1})).await;
    let noted = EditOptions { metadata: body(json!({"why": "quest"})), ..plain() };
    let Edited::Changed { change, .. } = set(&games, "a", ("gold", json!(2)), noted).await else {
        panic!("unchanged");
    };
    let Deleted::Deleted { change: deleted, document } = games.delete_one(&id("a"), plain()).await.unwrap()
    else {
        panic!("absent");
    };
    assert_eq!(document.version, 2);
    let page = games.changes(&id("a"), 0, 10).await.unwrap();
    assert!(!page.more);
    let operations: Vec<_> = page.changes.iter().map(|c| (c.version, c.operation)).collect();
    assert_eq!(operations, [(1, Operation::Create), (2, Operation::Update), (3, Operation::Delete)]);
    assert!(page.changes.iter().map(|change| change.position).eq(1..=3));
    assert_eq!(page.changes[1], placed(&games, &change, &page.changes[1]));
    assert_eq!(page.changes[1].metadata, body(json!({"why": "quest"})));
    assert_eq!(page.changes[1].diff.merge_patch, Some(json!({"gold": 2})));
    assert_eq!(page.changes[2], placed(&games, &deleted, &page.changes[2]));
}

/// A change as it was answered, with its position: over MongoDB it gets its place only after the answer, on all others it
/// has it.
fn placed(storage: &Arc<dyn Storage>, answered: &Change, recorded: &Change) -> Change {
    let later = storage.backend() == "MongoDB";
    assert_eq!(answered.position, if later { 0 } else { recorded.position });
    Change { position: recorded.position, ..answered.clone() }
}

/// A document, its change as it was answered and as it is read, and what the diffs make of the state before have the very
/// same numbers. These are some that a reader gets wrong who rounds twice.
pub async fn numbers_come_back_to_the_last_bit(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    let numbers = json!([188.089_999_999_999_97, 58.589_999_999_999_996, 0.383_329_595_708_656_43, 5e-324]);
    let noted = EditOptions { metadata: body(json!({"why": numbers})), ..plain() };
    let Edited::Changed { document, change } = set(&games, "a", ("n", numbers.clone()), noted).await else {
        panic!("unchanged");
    };
    let found = games.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!((&found.body["n"], &document.body["n"]), (&numbers, &numbers));
    let recorded = games.changes(&id("a"), 1, 1).await.unwrap().changes.remove(0);
    assert_eq!(recorded, placed(&games, &change, &recorded));
    assert_eq!(recorded.metadata["why"], numbers);
    assert_eq!(recorded.diff.apply(Some(Body::new())).unwrap().as_ref(), Some(&*found.body));
}

/// Who asks for many changes does not get more bytes at once than there is room for.
pub async fn a_page_of_changes_holds_so_many_bytes(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    let large = "x".repeat(300 << 10);
    for n in 0..8 {
        set(&games, "a", ("text", json!(format!("{large}{n}"))), plain()).await;
    }
    let (mut after, mut pages) = (0, 0);
    while after < 9 {
        let page = games.changes(&id("a"), after, 100).await.unwrap();
        assert!((1..=5).contains(&page.changes.len()), "{} changes", page.changes.len());
        for change in &page.changes {
            after += 1;
            assert_eq!(change.version, after);
        }
        assert_eq!(page.more, after < 9);
        pages += 1;
    }
    assert!(pages > 1, "all of it on one page");
}

/// Paging.
pub async fn changes_are_paged_without_a_gap(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    create(&games, "ab", json!({})).await;
    for _ in 0..20 {
        increment(&games, "a").await;
        increment(&games, "ab").await;
    }
    let mut seen = Vec::new();
    loop {
        let page = games.changes(&id("a"), seen.len() as u64, 6).await.unwrap();
        assert!(page.changes.iter().all(|change| change.document_id == id("a")));
        seen.extend(page.changes.iter().map(|change| change.version));
        assert_eq!(page.more, seen.len() < 21, "after {}", seen.len());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (1..=21).collect::<Vec<_>>());
    for (after, limit, more) in [(21, 5, false), (u64::MAX, 5, false), (0, 0, true)] {
        let page = games.changes(&id("a"), after, limit).await.unwrap();
        assert_eq!((page.changes.len(), page.more), (0, more));
    }
}

/// A reader goes forward only: a version that one read has told of has its change in the next.
pub async fn a_version_that_was_seen_has_its_change(store: Arc<dyn Store>) {
    const WRITERS: usize = 4;
    const WRITES: usize = 200;
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let games = Arc::clone(&games);
        writers.spawn(async move {
            for _ in 0..WRITES {
                increment(&games, "a").await;
            }
        });
    }
    let last = (1 + WRITERS * WRITES) as u64;
    loop {
        let version = games.last_version(&id("a")).await.unwrap();
        let read = games.find_one(&id("a")).await.unwrap().unwrap().version;
        assert!(read >= version, "the document is at {read}, behind {version}");
        for seen in [version, read] {
            let page = games.changes(&id("a"), seen - 1, 1).await.unwrap();
            assert_eq!(page.changes.first().map(|change| change.version), Some(seen));
        }
        if version == last {
            break;
        }
        tokio::task::yield_now().await;
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
}

/// The diffs are the whole truth.
pub async fn replaying_the_changes_gives_the_document(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({"list": [1, 2, 3], "f": 0.1, "null": null})).await;
    let edits: [(&str, Value); 6] = [
        ("list", json!([1, 9, 2, 3])),
        ("list", json!([2, 3, {"deep": [null, 1e300]}])),
        ("f", json!(5e-324)),
        ("i", json!(i64::MIN)),
        ("u", json!(u64::MAX)),
        ("s", json!("\u{0}\u{10ffff}\"\\")),
    ];
    for (field, value) in edits {
        set(&games, "a", (field, value), plain()).await;
    }
    games.delete_one(&id("a"), plain()).await.unwrap();
    create(&games, "a", json!({"again": true})).await;
    set(&games, "a", ("again", json!({"x": []})), plain()).await;
    let mut state = None;
    for change in games.changes(&id("a"), 0, 100).await.unwrap().changes {
        state = change.diff.apply(state).unwrap();
    }
    let document = games.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!(state.as_ref(), Some(&*document.body));
}

/// After compaction the first change is visibly later than asked for.
pub async fn removed_changes_are_told_not_hidden(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    for _ in 0..9 {
        increment(&games, "a").await;
    }
    assert_eq!(games.remove_changes(&id("a"), 4).await.unwrap(), 4);
    assert_eq!(games.remove_changes(&id("a"), 4).await.unwrap(), 0);
    let versions = |page: crate::ChangePage| page.changes.iter().map(|c| c.version).collect::<Vec<_>>();
    assert_eq!(versions(games.changes(&id("a"), 0, 3).await.unwrap()), [5, 6, 7]);
    assert_eq!(versions(games.changes(&id("a"), 8, 3).await.unwrap()), [9, 10]);
    // All of them, and then on.
    assert_eq!(games.remove_changes(&id("a"), u64::MAX).await.unwrap(), 6);
    assert_eq!(versions(games.changes(&id("a"), 0, 3).await.unwrap()), Vec::<u64>::new());
    assert_eq!(games.last_version(&id("a")).await.unwrap(), 10);
    increment(&games, "a").await;
    assert_eq!(versions(games.changes(&id("a"), 0, 3).await.unwrap()), [11]);
    assert_eq!(games.position().await.unwrap(), 11);
    assert_eq!(games.remove_changes(&id("absent"), 5).await.unwrap(), 0);
}

/// Time in the record.
pub async fn timestamps_never_go_back(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    for _ in 0..50 {
        increment(&games, "a").await;
    }
    let changes = games.changes(&id("a"), 0, 100).await.unwrap().changes;
    assert!(changes[0].timestamp_ms > 0);
    assert!(changes.is_sorted_by_key(|change| change.timestamp_ms));
}
