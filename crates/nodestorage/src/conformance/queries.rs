//! Questions about many documents, and changes by operators.

use super::*;
use crate::{
    StorageError,
    query::{Direction, Filter, Projection, Query, SortBy},
};

/// Filter, order and page, while others write.
pub async fn find_many_pages_in_order(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    for n in 0..30u64 {
        create(&games, &format!("d{n:02}"), json!({"n": n, "rank": n % 3, "name": format!("g{n}")})).await;
    }
    games.delete_one(&id("d03"), plain()).await.unwrap();
    let rank = SortBy::Field(FieldPath::new("rank").unwrap());
    let number = SortBy::Field(FieldPath::new("n").unwrap());
    let mut query = Query {
        filter: Filter::parse(&json!({"n": {"$lt": 20}})).unwrap(),
        sort: vec![(rank, Direction::Descending), (number, Direction::Ascending)],
        projection: Projection::Only(vec![FieldPath::new("n").unwrap()]),
        limit: 4,
        after: None,
    };
    let mut seen = Vec::new();
    loop {
        let page = games.find_many(query.clone()).await.unwrap();
        assert!(page.found.len() <= 4);
        for found in &page.found {
            assert_eq!(found.fields.len(), 1, "only n was asked for");
            seen.push(found.fields["n"].as_u64().unwrap());
        }
        // A document that is created behind the cursor's back moves none of the others.
        create(&games, &format!("e{}", seen.len()), json!({"n": 100})).await;
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    let mut expected: Vec<_> = (0..20).filter(|n| *n != 3).collect();
    expected.sort_by_key(|n| (2 - n % 3, *n));
    assert_eq!(seen, expected);

    let every = games.find_many(Query::default()).await.unwrap();
    assert!(every.found.is_sorted_by_key(|found| found.id.clone()) && every.found.len() > 29);
    for limit in [0, crate::query::PAGE_MAX + 1] {
        let refused = games.find_many(Query { limit, ..Query::default() }).await.unwrap_err();
        assert!(matches!(refused, StorageError::Unsupported { .. }), "{refused:?}");
    }
}

/// `_id` within an element is the element's own, and not the document's.
pub async fn elements_are_found_and_pulled_by_their_own_ids(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({"items": [{"_id": "x", "n": 1}, {"_id": "y"}]})).await;
    create(&games, "b", json!({"items": [{"_id": "z"}, {"n": 2}]})).await;
    for (test, expected) in [
        (json!("x"), vec!["a"]),
        (json!("a"), vec![]),
        (json!({"$in": ["y", "z"]}), vec!["a", "b"]),
        (json!(null), vec!["b"]),
        (json!({"$exists": false}), vec!["b"]),
    ] {
        let filter = json!({"items": {"$elemMatch": {"_id": test}}});
        let query = Query { filter: Filter::parse(&filter).unwrap(), ..Query::default() };
        let found = games.find_many(query).await.unwrap().found;
        let found: Vec<_> = found.iter().map(|found| found.id.as_str()).collect();
        assert_eq!(found, expected, "{filter}");
    }
    let pull = Update::parse(&json!({"$pull": {"items": {"_id": {"$ne": "x"}}}})).unwrap();
    let Edited::Changed { document, .. } = games.update_one(&id("a"), &pull, plain()).await.unwrap() else {
        panic!("unchanged");
    };
    assert_eq!(*document.body, body(json!({"items": [{"_id": "x", "n": 1}]})));
}

/// Operators make one change, and none if they change nothing or do not fit.
pub async fn update_one_applies_operators_as_one_change(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({"gold": 1, "items": ["axe"]})).await;
    let update = Update::parse(&json!({"$inc": {"gold": 50}, "$push": {"items": "bow"}})).unwrap();
    let Edited::Changed { document, change } = games.update_one(&id("a"), &update, plain()).await.unwrap()
    else {
        panic!("unchanged");
    };
    assert_eq!(*document.body, body(json!({"gold": 51, "items": ["axe", "bow"]})));
    assert_eq!((document.version, change.version), (2, 2));
    let same = Update::parse(&json!({"$set": {"gold": 51}})).unwrap();
    assert!(matches!(games.update_one(&id("a"), &same, plain()).await.unwrap(), Edited::Unchanged { .. }));
    let unfit = Update::parse(&json!({"$set": {"gold": 0}, "$inc": {"items": 1}})).unwrap();
    let refused = games.update_one(&id("a"), &unfit, plain()).await.unwrap_err();
    assert_eq!(refused.to_string(), "edit refused: $inc of items, which is an array");
    assert_eq!(games.find_one(&id("a")).await.unwrap(), Some(document));
}

/// Writers of different sections keep each other's changes, and a whole edit sees them.
pub async fn sections_of_one_document_are_edited_apart(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    create(&games, "a", json!({"players": [{"gold": 0}, {"gold": 0}], "name": "x"})).await;
    let writers = (0..40).map(|n| {
        let games = games.clone();
        tokio::spawn(async move {
            let section = FieldPath::new(&format!("players.{}", n % 2)).unwrap();
            let edit = |player: &mut Value| {
                player["gold"] = json!(player["gold"].as_u64().unwrap() + 1);
                Ok(())
            };
            games.update_section(&id("a"), &section, Box::new(edit), plain()).await.unwrap()
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        let Edited::Changed { change, .. } = writer.await.unwrap() else { panic!("unchanged") };
        assert_eq!(change.operation, crate::Operation::UpdateSection);
    }
    let document = games.find_one(&id("a")).await.unwrap().unwrap();
    assert_eq!(document.body["players"], json!([{"gold": 20}, {"gold": 20}]));
    assert_eq!(document.version, 41);
    for place in ["players.2", "name.first", "nothing"] {
        let section = FieldPath::new(place).unwrap();
        let edit = |_: &mut Value| panic!("there is nothing to edit");
        let refused = games.update_section(&id("a"), &section, Box::new(edit), plain()).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("document a has no section {place}"));
    }
}
