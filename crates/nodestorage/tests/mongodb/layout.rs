//! What is in the database, as docs/formats/mongodb.md says it.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use nodestorage::{
    Index, Storage, StorageOptions, Store,
    mongo::{driver::IndexModel, testing::TestServer},
    query::FieldPath,
};
use serde_json::json;

use super::{body, by, id, open};

/// The rows of the table that name collections of this crate: which indexes they have besides that of ids.
fn documented(collection: &str) -> BTreeSet<String> {
    let page = include_str!("../../../../docs/formats/mongodb.md");
    let row = page.lines().find(|line| {
        line.starts_with("| ") && line.split('|').nth(1).unwrap().contains(&format!("`{collection}`"))
    });
    let cell = row.unwrap_or_else(|| panic!("no row of {collection}")).split('|').nth(3).unwrap();
    let indexes = cell.split(';').filter(|index| index.contains('`'));
    let indexes = indexes.map(|index| {
        let unique = if index.trim().starts_with("unique") { "unique " } else { "" };
        let keys = index.rsplit('`').nth(1).unwrap();
        format!("{unique}{keys}")
    });
    indexes.collect()
}

fn told(model: &IndexModel) -> String {
    let unique = model.options.as_ref().and_then(|options| options.unique) == Some(true);
    let keys: Vec<&str> = model.keys.keys().map(String::as_str).collect();
    format!("{}{}", if unique { "unique " } else { "" }, keys.join(", "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn the_indexes_are_those_that_the_page_names() {
    let server = TestServer::start();
    let with_index = || StorageOptions {
        indexes: vec![Index::of(FieldPath::new("rank").unwrap())],
        ..StorageOptions::default()
    };
    // The second time all of it is there already.
    for _ in 0..2 {
        let store = open(&server).await;
        let games = store.collection("games", with_index()).await.unwrap();
        games.find_one_and_upsert(&id("a"), body(json!({"rank": 1})), by("s")).await.unwrap();
        games.position().await.unwrap();
        for (collection, own) in [
            ("games", Some("rank, _id")),
            ("events", None),
            ("_weft.tombstones", None),
            ("_weft.listeners", None),
        ] {
            let mut wanted = documented(collection);
            wanted.extend(own.map(str::to_owned));
            // "those that the application asks for", by their first word.
            wanted.retain(|index| !index.starts_with("weft "));
            let found = store.database().collection::<nodestorage::mongo::driver::bson::Document>(collection);
            let found: BTreeSet<String> = match found.list_indexes().await {
                Ok(found) => found.map_ok(|model| told(&model)).try_collect().await.unwrap(),
                // None was needed so far.
                Err(_) => BTreeSet::from(["_id".to_owned()]),
            };
            wanted.insert("_id".to_owned());
            assert_eq!(found, wanted, "{collection}");
        }
        store.close().await.unwrap();
    }
}
