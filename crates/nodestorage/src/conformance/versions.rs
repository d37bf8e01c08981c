//! Documents and their versions.

use super::*;
use crate::{Deleted, StorageError};

/// Creation: version 1, once.
pub async fn a_document_is_created_once(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    assert_eq!(games.find_one(&id("a")).await.unwrap(), None);
    let created = create(&games, "a", json!({"gold": 1})).await;
    assert_eq!((created.version, &*created.body), (1, &body(json!({"gold": 1}))));
    assert_eq!(games.find_one(&id("a")).await.unwrap(), Some(created));
    assert_eq!(games.last_version(&id("a")).await.unwrap(), 1);
}

/// An upsert says which of the two happened, and leaves what is there.
pub async fn an_upsert_of_an_existing_document_is_no_create(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let created = create(&games, "a", json!({"gold": 1})).await;
    let again = games.find_one_and_upsert(&id("a"), body(json!({"gold": 2})), plain()).await.unwrap();
    assert_eq!(again, Upserted::Existing { document: created });
    assert_eq!(games.changes(&id("a"), 0, 10).await.unwrap().changes.len(), 1);
}

/// An edit: one version more, the body as edited.
pub async fn an_edit_makes_the_next_version(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({"gold": 1})).await;
    for version in 2..5 {
        let Edited::Changed { document, change } = set(&games, "a", ("gold", json!(version)), plain()).await
        else {
            panic!("nothing changed");
        };
        assert_eq!((document.version, change.version), (version, version));
        assert_eq!(games.find_one(&id("a")).await.unwrap(), Some(document));
    }
    let absent = games.edit(&id("b"), |_| Ok::<_, std::fmt::Error>(()), plain()).await;
    assert!(matches!(absent, Err(StorageError::NotFound { .. })), "{absent:?}");
}

/// No change, no write.
pub async fn an_edit_that_changes_nothing_writes_nothing(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let document = create(&games, "a", json!({"gold": 1})).await;
    let position = games.position().await.unwrap();
    let unchanged = set(&games, "a", ("gold", json!(1)), plain()).await;
    assert_eq!(unchanged, Edited::Unchanged { document });
    assert_eq!(games.position().await.unwrap(), position);
}

/// The edit's own error comes back as it is.
pub async fn an_error_of_the_edit_is_returned_and_nothing_is_written(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let document = create(&games, "a", json!({"gold": 1})).await;
    let refuse = |body: &mut Body| {
        body.clear();
        Err::<(), _>("not enough gold")
    };
    let refused = games.edit(&id("a"), refuse, plain()).await.unwrap_err();
    assert_eq!(refused.to_string(), "edit refused: not enough gold");
    assert_eq!(games.find_one(&id("a")).await.unwrap(), Some(document));
}

/// Compare-and-swap by the caller.
pub async fn an_expected_version_is_compared_at_once(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let expecting = |version| EditOptions { expected_version: Some(version), ..plain() };
    let mismatch = |expected, actual| {
        move |error: StorageError| match error {
            StorageError::VersionMismatch { expected: e, actual: a, .. } => {
                assert_eq!((e, a), (expected, actual));
            }
            other => panic!("{other:?}"),
        }
    };
    let game = || body(json!({"gold": 1}));
    mismatch(3, 0)(games.find_one_and_upsert(&id("a"), game(), expecting(3)).await.unwrap_err());
    mismatch(3, 0)(games.delete_one(&id("a"), expecting(3)).await.unwrap_err());
    games.find_one_and_upsert(&id("a"), game(), expecting(0)).await.unwrap();
    mismatch(0, 1)(games.find_one_and_upsert(&id("a"), game(), expecting(0)).await.unwrap_err());
    let edit =
        |_: &mut Body| -> Result<(), std::fmt::Error> { panic!("edited although the version differs") };
    mismatch(2, 1)(games.edit(&id("a"), edit, expecting(2)).await.unwrap_err());
    mismatch(2, 1)(games.delete_one(&id("a"), expecting(2)).await.unwrap_err());
    assert!(matches!(set(&games, "a", ("gold", json!(2)), expecting(1)).await, Edited::Changed { .. }));
    assert!(matches!(
        games.delete_one(&id("a"), expecting(2)).await.unwrap(),
        Deleted::Deleted { document, .. } if document.version == 2
    ));
}

/// Deleting what is not there is a result, not an error.
pub async fn a_delete_of_an_absent_document_says_so(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    assert_eq!(games.delete_one(&id("a"), plain()).await.unwrap(), Deleted::Absent);
    create(&games, "a", json!({})).await;
    assert!(matches!(games.delete_one(&id("a"), plain()).await.unwrap(), Deleted::Deleted { .. }));
    assert_eq!(games.delete_one(&id("a"), plain()).await.unwrap(), Deleted::Absent);
    assert_eq!(games.position().await.unwrap(), 2);
}

/// No version is ever used twice.
pub async fn a_document_created_anew_continues_its_versions(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    for version in [1, 3, 5] {
        assert_eq!(create(&games, "a", json!({"n": version})).await.version, version);
        let Deleted::Deleted { change, .. } = games.delete_one(&id("a"), plain()).await.unwrap() else {
            panic!("it was not there");
        };
        assert_eq!(change.version, version + 1);
        assert_eq!(games.find_one(&id("a")).await.unwrap(), None);
        assert_eq!(games.last_version(&id("a")).await.unwrap(), version + 1);
    }
    assert_eq!(games.list(None, 10).await.unwrap(), []);
}

/// Too deep and too large are refused before anything is written.
pub async fn a_body_that_can_not_be_kept_is_refused(store: Arc<dyn Store>) {
    let options = StorageOptions { document_bytes_max: 1000, ..StorageOptions::default() };
    let games = store.collection("games", options).await.unwrap();
    let deep = (0..500).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    for bad in [json!({ "deep": deep }), json!({"long": "x".repeat(1000)})] {
        let refused = games.find_one_and_upsert(&id("a"), body(bad.clone()), plain()).await.unwrap_err();
        assert!(matches!(refused, StorageError::InvalidDocument { .. }), "{refused:?}");
        let metadata = EditOptions { metadata: body(bad.clone()), ..plain() };
        let refused = games.find_one_and_upsert(&id("a"), Body::new(), metadata).await.unwrap_err();
        assert!(matches!(refused, StorageError::InvalidDocument { .. }), "{refused:?}");
    }
    create(&games, "a", json!({})).await;
    let grow = |body: &mut Body| {
        body.insert("long".to_owned(), json!("x".repeat(1000)));
        Ok::<_, std::fmt::Error>(())
    };
    let refused = games.edit(&id("a"), grow, plain()).await.unwrap_err();
    assert!(matches!(refused, StorageError::InvalidDocument { .. }), "{refused:?}");
    assert_eq!(games.last_version(&id("a")).await.unwrap(), 1);
}

/// Listing.
pub async fn list_pages_in_the_order_of_ids(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let names = ["b", "a", "a!", "c", "é", "ab"];
    for name in names {
        create(&games, name, json!({ "name": name })).await;
    }
    games.delete_one(&id("b"), plain()).await.unwrap();
    let mut listed = Vec::new();
    loop {
        let page = games.list(listed.last(), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|document| document.id));
    }
    assert_eq!(listed, ["a", "a!", "ab", "c", "é"].map(id));
    // Large ones may come on shorter pages, but none is left out.
    for name in ["d1", "d2", "d3", "d4", "d5"] {
        create(&games, name, json!({ "much": "x".repeat(600_000) })).await;
    }
    let mut listed = Vec::new();
    loop {
        let page = games.list(listed.last(), 100).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|document| document.id));
    }
    assert_eq!(listed, ["a", "a!", "ab", "c", "d1", "d2", "d3", "d4", "d5", "é"].map(id));
}

/// Who lets go of old changes finds the deleted ones too.
pub async fn deleted_documents_are_listed_while_changes_of_theirs_are_left(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    for name in ["b", "a", "a!", "c", "é", "ab"] {
        create(&games, name, json!({ "name": name })).await;
    }
    assert_eq!(games.list_deleted(None, 9).await.unwrap(), []);
    for name in ["é", "a", "ab", "b"] {
        games.delete_one(&id(name), plain()).await.unwrap();
    }
    // One is made anew; of another nothing is left; of a third the delete is.
    create(&games, "b", json!({})).await;
    assert_eq!(games.remove_changes(&id("ab"), 2).await.unwrap(), 2);
    assert_eq!(games.remove_changes(&id("a"), 1).await.unwrap(), 1);
    assert_eq!(games.list_deleted(None, 9).await.unwrap(), ["a", "é"].map(id));
    assert_eq!(games.list_deleted(None, 1).await.unwrap(), ["a"].map(id));
    assert_eq!(games.list_deleted(Some(&id("a")), 1).await.unwrap(), ["é"].map(id));
    assert_eq!(games.list_deleted(Some(&id("é")), 1).await.unwrap(), []);
    assert_eq!(games.list_deleted(None, 0).await.unwrap(), []);
}

/// 200 tasks count one counter up by compare-and-swap; none is lost.
pub async fn concurrent_edits_of_one_document_are_all_kept(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({})).await;
    let writers: Vec<_> = (0..200)
        .map(|_| {
            let games = games.clone();
            tokio::spawn(async move { increment(&games, "a").await })
        })
        .collect();
    for writer in writers {
        assert!(matches!(writer.await.unwrap(), Edited::Changed { .. }));
    }
    let counted = games.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!((counted.version, &counted.body["n"]), (201, &json!(200)));
}

/// Documents of two collections have nothing in common but the order of changes.
pub async fn collections_are_apart_but_share_positions(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    let notes = store.collection("notes", StorageOptions::default()).await.unwrap();
    create(&games, "a", json!({"in": "games"})).await;
    create(&notes, "a", json!({"in": "notes"})).await;
    set(&games, "a", ("gold", json!(1)), plain()).await;
    assert_eq!(notes.find_one(&id("a")).await.unwrap().unwrap().version, 1);
    assert_eq!(notes.position().await.unwrap(), 3);
    let positions = |page: crate::ChangePage| page.changes.iter().map(|c| c.position).collect::<Vec<_>>();
    assert_eq!(positions(games.changes(&id("a"), 0, 9).await.unwrap()), [1, 3]);
    assert_eq!(positions(notes.changes(&id("a"), 0, 9).await.unwrap()), [2]);
    let same = store.collection("games", StorageOptions::default()).await.unwrap();
    assert_eq!(same.find_one(&id("a")).await.unwrap().unwrap().version, 2);
    for bad in ["", "a\nb", &"x".repeat(200)] {
        let refused = store.collection(bad, StorageOptions::default()).await.err().unwrap();
        assert!(matches!(refused, StorageError::InvalidCollection { .. }), "{refused:?}");
    }
}

/// Closed is closed: one handle, and all.
pub async fn a_closed_handle_refuses_everything(store: Arc<dyn Store>) {
    let (one, other) = (collection(&store).await, collection(&store).await);
    create(&one, "a", json!({"gold": 1})).await;
    one.close().await.unwrap();
    one.close().await.unwrap();
    assert!(matches!(one.find_one(&id("a")).await, Err(StorageError::Closed)));
    assert!(matches!(one.delete_one(&id("a"), plain()).await, Err(StorageError::Closed)));
    assert!(matches!(set(&other, "a", ("gold", json!(2)), plain()).await, Edited::Changed { .. }));
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(other.find_one(&id("a")).await, Err(StorageError::Closed)));
    assert!(matches!(other.position().await, Err(StorageError::Closed)));
    assert!(matches!(
        other.find_one_and_upsert(&id("b"), Body::new(), plain()).await,
        Err(StorageError::Closed)
    ));
    assert!(store.collection("games", StorageOptions::default()).await.is_err());
}

/// Each of 200 tasks reads a counter, and writes it back one higher if nobody came between; else it tries again.
pub async fn two_hundred_tasks_that_compare_and_swap_lose_nothing(store: Arc<dyn Store>) {
    const TASKS: u64 = 200;
    /// All of them meet at the first try; of those that lost so many meet again at a time.
    const MEET: usize = 16;
    let again = Arc::new(tokio::sync::Semaphore::new(MEET));
    let first = Arc::new(tokio::sync::Barrier::new(TASKS as usize));
    let games = collection(&store).await;
    create(&games, "count", json!({"n": 0})).await;
    let tasks = (0..TASKS).map(|_| {
        let (games, again, first) = (Arc::clone(&games), Arc::clone(&again), Arc::clone(&first));
        tokio::spawn(async move {
            let mut read = games.find_one(&id("count")).await.unwrap().unwrap();
            // If one of them fails before, the others are not to wait for it.
            tokio::time::timeout(PATIENCE, first.wait()).await.expect("all have read");
            let mut turn = None;
            loop {
                let next = read.body["n"].as_u64().unwrap() + 1;
                let swap = |body: &mut Body| {
                    body.insert("n".to_owned(), json!(next));
                    Ok::<_, std::convert::Infallible>(())
                };
                let unless = EditOptions { expected_version: Some(read.version), ..plain() };
                match games.edit(&id("count"), swap, unless).await {
                    Ok(_) => return,
                    Err(StorageError::VersionMismatch { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                if turn.is_none() {
                    turn = Some(again.acquire().await.unwrap());
                }
                read = games.find_one(&id("count")).await.unwrap().unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let count = games.find_one(&id("count")).await.unwrap().unwrap();
    assert_eq!((count.version, &count.body["n"]), (TASKS + 1, &json!(TASKS)));
}
