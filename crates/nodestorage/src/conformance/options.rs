//! What the options of a collection do.

use super::*;
use crate::{
    Deleted, StorageError, WatchFilter, WatchFrom,
    query::{Direction, Filter, Query, SortBy},
};

async fn opened(store: &Arc<dyn Store>, options: StorageOptions) -> Arc<dyn Storage> {
    store.collection("games", options).await.unwrap()
}

/// Filters and sorts find the version under its name, and no body takes it.
pub async fn a_version_has_the_name_that_was_chosen(store: Arc<dyn Store>) {
    let options = StorageOptions { version_field: "revision".to_owned(), ..StorageOptions::default() };
    let games = opened(&store, options).await;
    for (name, version) in [("a", 3), ("b", 1), ("c", 2)] {
        create(&games, name, json!({"_version": 7})).await;
        for _ in 1..version {
            increment(&games, name).await;
        }
    }
    let revision = SortBy::Field(FieldPath::new("revision").unwrap());
    let query = Query {
        filter: Filter::parse(&json!({"revision": {"$gte": 2}})).unwrap(),
        sort: vec![(revision, Direction::Ascending)],
        ..Query::default()
    };
    let page = games.find_many(query).await.unwrap();
    let found: Vec<_> = page.found.iter().map(|found| (found.id.as_str(), found.version)).collect();
    assert_eq!(found, [("c", 2), ("a", 3)]);
    assert!(page.found.iter().all(|found| !found.fields.contains_key("revision")));
    let taken = body(json!({"revision": 9}));
    let refused = games.find_one_and_upsert(&id("d"), taken, plain()).await.unwrap_err();
    assert!(matches!(&refused, StorageError::InvalidDocument { .. }), "{refused:?}");
    assert!(refused.to_string().contains("revision"), "{refused}");
    assert_eq!(games.find_one(&id("d")).await.unwrap(), None);
}

/// Sections count their own changes when they are told to.
pub async fn a_section_with_a_version_refuses_only_its_own_writers(store: Arc<dyn Store>) {
    let options = StorageOptions { section_version_field: Some("v".to_owned()), ..StorageOptions::default() };
    let games = opened(&store, options).await;
    create(&games, "a", json!({"players": [{"gold": 0}, {"gold": 0}]})).await;
    let earn = async |nth: usize, expected: Option<u64>| {
        let section = FieldPath::new(&format!("players.{nth}")).unwrap();
        let edit = |player: &mut Value| {
            player["gold"] = json!(player["gold"].as_u64().unwrap() + 1);
            // The count is not the edit's to change.
            player["v"] = json!(99);
            Ok(())
        };
        let options = EditOptions { expected_version: expected, ..plain() };
        games.update_section(&id("a"), &section, Box::new(edit), options).await
    };
    earn(0, Some(0)).await.unwrap();
    earn(0, Some(1)).await.unwrap();
    earn(1, Some(0)).await.unwrap();
    let refused = earn(0, Some(1)).await.unwrap_err();
    assert_eq!(refused.to_string(), "section players.0 of document a is at version 2, expected 1");
    assert!(matches!(refused, StorageError::VersionMismatch { expected: 1, actual: 2, .. }));
    earn(1, None).await.unwrap();
    let document = games.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!(document.body["players"], json!([{"gold": 2, "v": 2}, {"gold": 2, "v": 2}]));
    assert_eq!(document.version, 5);
    // An edit without effect counts nothing.
    let section = FieldPath::new("players.0").unwrap();
    let nothing = |player: &mut Value| {
        player["v"] = json!(50);
        Ok(())
    };
    let kept = games.update_section(&id("a"), &section, Box::new(nothing), plain()).await.unwrap();
    assert!(matches!(kept, Edited::Unchanged { .. }), "{kept:?}");
}

/// Watching can be off.
pub async fn a_collection_that_is_not_watched_says_so(store: Arc<dyn Store>) {
    let games = opened(&store, StorageOptions { watch_enabled: false, ..StorageOptions::default() }).await;
    create(&games, "a", json!({})).await;
    let refused = games.watch(WatchFilter::default(), WatchFrom::Now).await.err().unwrap();
    assert!(matches!(refused, StorageError::Unsupported { .. }), "{refused:?}");
    // Changes are recorded all the same.
    assert_eq!(games.changes(&id("a"), 0, 10).await.unwrap().changes.len(), 1);
}

/// With the document, which may be ahead of the change but never behind it.
pub async fn a_watch_brings_the_document_if_told_to(store: Arc<dyn Store>) {
    let options = StorageOptions { watch_full_document: true, ..StorageOptions::default() };
    let games = opened(&store, options).await;
    let mut watch = games.watch(WatchFilter::default(), WatchFrom::Now).await.unwrap();
    create(&games, "a", json!({"n": 0})).await;
    for version in 1..=5u64 {
        let WatchEvent::Full { change, document: Some(document) } = next(&mut watch).await else {
            panic!("the document is missing");
        };
        assert_eq!(change.version, version);
        assert!(document.version >= version, "the document is at {}", document.version);
        increment(&games, "a").await;
    }
    let Deleted::Deleted { .. } = games.delete_one(&id("a"), plain()).await.unwrap() else {
        panic!("it was there");
    };
    let mut last = None;
    while last.as_ref().is_none_or(|(version, _)| *version < 7) {
        let WatchEvent::Full { change, document } = next(&mut watch).await else { panic!("a change") };
        last = Some((change.version, document));
    }
    assert_eq!(last, Some((7, None)));
}

/// A body up to the limit.
pub async fn a_body_beyond_the_limit_is_refused(store: Arc<dyn Store>) {
    let games = opened(&store, StorageOptions { document_bytes_max: 20, ..StorageOptions::default() }).await;
    create(&games, "a", json!({"text": "0123456"})).await;
    let long = body(json!({"text": "0123456789a"}));
    let refused = games.find_one_and_upsert(&id("b"), long, plain()).await.unwrap_err();
    assert_eq!(refused.to_string(), "invalid document b: larger than 20 bytes of JSON");
    assert_eq!(games.find_one(&id("b")).await.unwrap(), None);
}

/// Options that can't work are refused when the collection is opened, by name.
pub async fn options_that_make_no_sense_are_refused(store: Arc<dyn Store>) {
    let standard = StorageOptions::default;
    let cases = [
        ("version_field", StorageOptions { version_field: "a.b".to_owned(), ..standard() }),
        ("version_field", StorageOptions { version_field: String::new(), ..standard() }),
        (
            "section_version_field",
            StorageOptions { section_version_field: Some("$v".to_owned()), ..standard() },
        ),
        ("retry_jitter_percent", StorageOptions { retry_jitter_percent: 101, ..standard() }),
        ("operation_timeout", StorageOptions { operation_timeout: Duration::ZERO, ..standard() }),
    ];
    for (option, options) in cases {
        let refused = store.collection("games", options).await.err().unwrap();
        assert!(matches!(refused, StorageError::InvalidCollection { .. }), "{refused:?}");
        assert!(refused.to_string().contains(option), "{refused}");
    }
}
