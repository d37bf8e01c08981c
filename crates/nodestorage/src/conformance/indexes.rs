//! Indexes: a query answers the same with one, and reads less.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{
    Index, IndexStatus, Plan, StorageError,
    query::{Direction, Filter, Found, Projection, Query, SortBy},
};

fn path(name: &str) -> FieldPath {
    FieldPath::new(name).unwrap()
}

fn sort(fields: &[(&str, Direction)]) -> Vec<(SortBy, Direction)> {
    fields.iter().map(|(name, direction)| (SortBy::Field(path(name)), *direction)).collect()
}

/// All pages of a query, put together.
async fn all(storage: &Arc<dyn Storage>, mut query: Query) -> Vec<Found> {
    let mut found = Vec::new();
    loop {
        let page = storage.find_many(query.clone()).await.unwrap();
        found.extend(page.found);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return found,
        }
    }
}

fn game(n: u64) -> Value {
    let tags = ["new", "old", "hard", "easy"];
    let mut game = json!({
        "n": n,
        "rank": n % 7,
        "name": format!("{}{n}", ["ann", "bob", "anna"][n as usize % 3]),
        "tags": [tags[n as usize % 4], tags[n as usize / 4 % 4], n % 5],
        "at": {"level": n % 11},
    });
    match n % 9 {
        0 => drop(game.as_object_mut().unwrap().remove("rank")),
        1 => game["rank"] = json!(null),
        2 => game["rank"] = json!((n % 7) as f64 + 0.5),
        3 => game["rank"] = json!("none"),
        _ => {}
    }
    game
}

/// With an index and without, over equality, ranges, beginnings of texts, arrays and every order.
pub async fn a_query_answers_the_same_with_an_index(store: Arc<dyn Store>) {
    use Direction::{Ascending, Descending};
    const GAMES: u64 = 120;
    let fields = |fields: &[(&str, Direction)]| {
        Index::new(fields.iter().map(|(name, direction)| (path(name), *direction)).collect()).unwrap()
    };
    let indexes = vec![
        fields(&[("rank", Ascending), ("n", Descending)]),
        fields(&[("name", Ascending)]),
        fields(&[("tags", Ascending)]),
        fields(&[("at.level", Descending), ("name", Ascending)]),
    ];
    let options = StorageOptions { indexes, ..StorageOptions::default() };
    let indexed = store.collection("indexed", options).await.unwrap();
    let plain = store.collection("plain", StorageOptions::default()).await.unwrap();
    for storage in [&indexed, &plain] {
        for n in 0..GAMES {
            create(storage, &format!("d{n:03}"), game(n)).await;
        }
        for n in (0..GAMES).step_by(10) {
            set(storage, &format!("d{n:03}"), ("rank", json!(n % 3)), self::plain()).await;
            set(storage, &format!("d{n:03}"), ("tags", json!(["moved", n])), self::plain()).await;
        }
        for n in (5..GAMES).step_by(12) {
            storage.delete_one(&id(&format!("d{n:03}")), self::plain()).await.unwrap();
        }
    }
    // A filter, an order, and whether an index narrows it down or has its order.
    let queries = [
        (json!({"rank": 3}), vec![], true),
        (json!({"rank": 3}), sort(&[("n", Descending)]), true),
        (json!({"rank": 3}), sort(&[("n", Ascending)]), true),
        (json!({"rank": {"$gte": 2, "$lt": 4}}), sort(&[("rank", Ascending)]), true),
        (json!({"rank": {"$gt": 2}}), sort(&[("rank", Descending), ("n", Ascending)]), true),
        (json!({"rank": {"$gt": 2}}), sort(&[("name", Ascending)]), true),
        (json!({"rank": null}), vec![], true),
        (json!({"rank": {"$in": [1, "none", null]}}), sort(&[("n", Ascending)]), true),
        (json!({}), sort(&[("rank", Ascending), ("n", Descending)]), true),
        (json!({}), sort(&[("rank", Descending)]), true),
        (json!({"name": {"$regex": "^ann"}}), vec![], true),
        (json!({"name": {"$regex": "^anna1"}}), sort(&[("name", Descending)]), true),
        (json!({"tags": "new"}), vec![], true),
        (json!({"tags": {"$gt": 1, "$lt": 3}}), vec![], true),
        (json!({"tags": {"$all": ["new", "hard"]}}), sort(&[("tags", Ascending)]), true),
        (json!({"tags": {"$elemMatch": {"$gt": 1, "$lt": 3}}}), vec![], true),
        (json!({"tags": ["moved", 10]}), vec![], true),
        (json!({}), sort(&[("tags", Ascending)]), true),
        (json!({}), sort(&[("tags", Descending)]), true),
        (json!({"at.level": 4, "name": {"$gte": "b"}}), sort(&[("name", Ascending)]), true),
        (json!({"at.level": {"$lte": 4}, "n": {"$gt": 20}}), sort(&[("at.level", Descending)]), true),
        (json!({"$and": [{"rank": {"$gte": 1}}, {"rank": {"$lte": 1}}]}), vec![], true),
        (json!({"rank": {"$gt": 5, "$lt": 1}}), vec![], true),
        (json!({"$or": [{"rank": 1}, {"rank": 2}]}), vec![], false),
        (json!({"rank": {"$ne": 1}}), vec![], false),
        (json!({"n": {"$gt": 50}}), sort(&[("n", Ascending)]), false),
    ];
    let limits = [1, 7, 1_000];
    for (nth, (filter, sort, helped)) in queries.into_iter().enumerate() {
        let filter = Filter::parse(&filter).unwrap();
        let query = |limit| Query { filter: filter.clone(), sort: sort.clone(), limit, ..Query::default() };
        // Without an index it is the same whatever the page; each size has its turn.
        let without = all(&plain, query(limits[nth % limits.len()])).await;
        for limit in limits {
            let query = query(limit);
            assert_eq!(
                all(&indexed, query.clone()).await,
                without,
                "{filter:?} by {sort:?}, {limit} at a time",
                filter = query.filter
            );
            let explained = indexed.explain(query.clone()).await.unwrap();
            let uses = matches!(explained.plan, Plan::Index { .. });
            // A database server has its own planner, and can read an index only as a whole forwards or backwards. But
            // where a filter names the first field, there is nothing better than the index.
            let certain = indexed.backend() != "MongoDB" || helped && query.filter != Filter::all();
            assert!(!certain || uses == helped, "{:?} by {sort:?}: {explained:?}", query.filter);
            assert!(matches!(plain.explain(query).await.unwrap().plan, Plan::Scan));
        }
    }
}

/// What an index is for.
pub async fn an_index_reads_only_what_is_found(store: Arc<dyn Store>) {
    let index = Index::of(path("rank"));
    let options = StorageOptions { indexes: vec![index.clone()], ..StorageOptions::default() };
    let games = store.collection("games", options).await.unwrap();
    for n in 0..100u64 {
        create(&games, &format!("d{n}"), json!({"rank": n})).await;
    }
    let filter = Filter::parse(&json!({"rank": {"$gte": 40, "$lt": 45}})).unwrap();
    let ranks = Query { filter, ..Query::default() };
    let explained = games.explain(ranks).await.unwrap();
    assert!(matches!(&explained.plan, Plan::Index { name, .. } if *name == index.name()), "{explained:?}");
    assert_eq!((explained.examined, explained.returned), (5, 5));
    let least = sort(&[("rank", Direction::Ascending)]);
    let explained = games.explain(Query { sort: least, limit: 3, ..Query::default() }).await.unwrap();
    assert!(explained.returned == 3 && explained.examined <= 4, "{explained:?}");
    // Those that are alike come in the order of their ids, which an index of a database server has only forwards.
    let best = sort(&[("rank", Direction::Descending)]);
    let explained = games.explain(Query { sort: best, limit: 3, ..Query::default() }).await.unwrap();
    assert_eq!(explained.returned, 3);
    assert!(games.backend() == "MongoDB" || explained.examined <= 4, "{explained:?}");
}

/// An order that an index has against a filter that finds little: whichever reads less, by far.
pub async fn the_plan_is_the_one_that_reads_less(store: Arc<dyn Store>) {
    const GAMES: u64 = 400;
    let indexes = ["state", "rank", "owner"].map(|name| Index::of(path(name))).into();
    let options = StorageOptions { indexes, ..StorageOptions::default() };
    let games = store.collection("games", options).await.unwrap();
    for n in 0..GAMES {
        let state = if n % 100 == 7 { "won" } else { "open" };
        let game = json!({"state": state, "rank": n * 37 % GAMES, "owner": n % 50});
        create(&games, &format!("d{n:03}"), game).await;
    }
    let by_rank = sort(&[("rank", Direction::Ascending)]);
    for (filter, sort, limit, index, examined_max, returned) in [
        // The order is the better way, as nearly all are found,
        (json!({"state": "open"}), by_rank.clone(), 10, "rank_1", 20, 10),
        // the filter is, as few are,
        (json!({"state": "won"}), by_rank.clone(), 10, "state_1", 8, 4),
        (json!({"state": "won"}), by_rank.clone(), 2, "state_1", 8, 2),
        // and of two filters the one that finds less.
        (json!({"state": "open", "owner": 3}), vec![], 100, "owner_1", 8, 8),
        (json!({"state": "won", "owner": 7}), vec![], 100, "state_1", 4, 4),
        (json!({"state": "won", "owner": 7}), by_rank, 100, "state_1", 8, 4),
    ] {
        let filter = Filter::parse(&filter).unwrap();
        let query = Query { filter, sort, limit, ..Query::default() };
        let explained = games.explain(query.clone()).await.unwrap();
        assert_eq!(explained.returned, returned, "{query:?}: {explained:?}");
        // Which index a database server takes is its own planner's choice.
        if games.backend() != "MongoDB" {
            assert!(explained.examined <= examined_max, "{query:?}: {explained:?}");
            assert!(matches!(&explained.plan, Plan::Index { name, .. } if name == index), "{explained:?}");
        }
    }
}

/// Of ids that are named, or between two, no other document is read.
pub async fn a_filter_of_ids_reads_only_those(store: Arc<dyn Store>) {
    const GAMES: u64 = 300;
    let index = Index::of(path("rank"));
    for (name, indexes) in [("plain", vec![]), ("indexed", vec![index])] {
        let options = StorageOptions { indexes, ..StorageOptions::default() };
        let games = store.collection(name, options).await.unwrap();
        for n in 0..GAMES {
            create(&games, &format!("d{n:03}"), json!({"rank": n % 3, "n": n})).await;
        }
        games.delete_one(&id("d101"), plain()).await.unwrap();
        let numbers = |range: std::ops::Range<u64>| range.filter(|n| *n != 101).collect::<Vec<_>>();
        let best = sort(&[("n", Direction::Descending)]);
        for (filter, sort, expected, examined_max) in [
            (json!({"_id": "d007"}), vec![], vec![7], 1),
            (json!({"_id": "d007", "rank": 0}), vec![], vec![], 1),
            (json!({"_id": "d007", "rank": 1}), best.clone(), vec![7], 1),
            (json!({"_id": {"$in": ["d200", "d005", "d101", "other"]}}), vec![], vec![5, 200], 2),
            (json!({"_id": {"$in": ["d200", "d005"]}}), best.clone(), vec![200, 5], 2),
            (json!({"_id": {"$gte": "d100", "$lt": "d104"}}), vec![], numbers(100..104), 17),
            (json!({"_id": {"$gt": "d099", "$lte": "d103"}}), vec![], numbers(100..104), 17),
            (json!({"_id": {"$gte": "d298"}}), vec![], numbers(298..300), 2),
            (json!({"_id": {"$lt": "d003"}}), vec![], numbers(0..3), 16),
            (json!({"_id": {"$regex": "^d29"}}), vec![], numbers(290..300), 17),
            (json!({"_id": {"$gt": "d1", "$lt": "d0"}}), vec![], vec![], 16),
            (json!({"_id": 7}), vec![], vec![], 0),
        ] {
            for limit in [1, 3, 1_000] {
                let filter = Filter::parse(&filter).unwrap();
                let query = Query { filter, sort: sort.clone(), limit, ..Query::default() };
                let found = all(&games, query.clone()).await;
                let found: Vec<_> = found.iter().map(|found| found.fields["n"].as_u64().unwrap()).collect();
                assert_eq!(found, expected, "{query:?}");
                let explained = games.explain(query.clone()).await.unwrap();
                if games.backend() != "MongoDB" {
                    assert_eq!(explained.plan, Plan::Ids, "{query:?}");
                    assert!(explained.examined <= examined_max, "{query:?}: {explained:?}");
                }
            }
        }
    }
}

/// Made, made again, listed, dropped.
pub async fn an_index_is_made_once_and_dropped(store: Arc<dyn Store>) {
    let games = collection(&store).await;
    for n in 0..20u64 {
        create(&games, &format!("d{n}"), json!({"rank": n % 4})).await;
    }
    let index = Index::of(path("rank"));
    let query = Query { filter: Filter::parse(&json!({"rank": 1})).unwrap(), ..Query::default() };
    assert!(matches!(games.explain(query.clone()).await.unwrap().plan, Plan::Scan));
    assert_eq!(games.indexes().await.unwrap(), []);
    for _ in 0..2 {
        games.create_index(&index).await.unwrap();
        assert_eq!(games.indexes().await.unwrap(), [IndexStatus { index: index.clone(), ready: true }]);
    }
    assert!(matches!(games.explain(query.clone()).await.unwrap().plan, Plan::Index { .. }));
    // It is the collection's, not the handle's.
    let again = collection(&store).await;
    assert!(matches!(again.explain(query.clone()).await.unwrap().plan, Plan::Index { .. }));
    assert_eq!(all(&again, query.clone()).await.len(), 5);
    assert!(games.drop_index(&index).await.unwrap());
    assert!(!games.drop_index(&index).await.unwrap());
    assert_eq!(games.indexes().await.unwrap(), []);
    assert!(matches!(again.explain(query.clone()).await.unwrap().plan, Plan::Scan));
    assert_eq!(all(&games, query.clone()).await.len(), 5);
    set(&games, "d1", ("rank", json!(9)), plain()).await;
    games.create_index(&index).await.unwrap();
    assert_eq!(all(&games, query).await.len(), 4);
}

/// An index that is made while documents come, change and go holds each as it is in the end.
pub async fn an_index_is_made_while_others_write(store: Arc<dyn Store>) {
    const WRITERS: u64 = 4;
    let games = collection(&store).await;
    for n in 0..600u64 {
        create(&games, &format!("d{n:03}"), json!({"rank": n % 10})).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..WRITERS).map(|writer| {
        let (games, stop) = (Arc::clone(&games), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut n = writer;
            while !stop.load(Ordering::Relaxed) {
                let name = format!("d{:03}", n * 7 % 700);
                match n % 5 {
                    0 => drop(games.delete_one(&id(&name), plain()).await.unwrap()),
                    1 => {
                        let rank = body(json!({"rank": 3}));
                        games.find_one_and_upsert(&id(&name), rank, plain()).await.unwrap();
                    }
                    _ => {
                        let update = Update::parse(&json!({"$set": {"rank": n % 10}})).unwrap();
                        match games.update_one(&id(&name), &update, plain()).await {
                            Ok(_) | Err(StorageError::NotFound { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
                n += WRITERS;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    games.create_index(&Index::of(path("rank"))).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let mut by_rank = vec![Vec::new(); 10];
    for document in games.list(None, 10_000).await.unwrap() {
        by_rank[document.body["rank"].as_u64().unwrap() as usize].push(document.id);
    }
    for (rank, expected) in by_rank.into_iter().enumerate() {
        let filter = Filter::parse(&json!({ "rank": rank })).unwrap();
        let query = Query { filter, limit: 1_000, ..Query::default() };
        assert!(matches!(games.explain(query.clone()).await.unwrap().plan, Plan::Index { .. }));
        let found: Vec<_> = all(&games, query).await.into_iter().map(|found| found.id).collect();
        assert_eq!(found, expected, "rank {rank}");
    }
}

/// Whoever pages while others write sees each document that stayed where it was, once.
pub async fn pages_neither_repeat_nor_hide_what_did_not_move(store: Arc<dyn Store>) {
    let index = Index::of(path("rank"));
    for (name, indexes) in [("plain", vec![]), ("indexed", vec![index])] {
        let options = StorageOptions { indexes, ..StorageOptions::default() };
        let games = store.collection(name, options).await.unwrap();
        for n in 0..90u64 {
            create(&games, &format!("d{n:02}"), json!({"rank": n / 9, "still": n % 3 != 0})).await;
        }
        for direction in [Direction::Ascending, Direction::Descending] {
            let only = vec![path("still")];
            let by_rank = sort(&[("rank", direction)]);
            let mut query =
                Query { sort: by_rank, limit: 4, projection: Projection::Only(only), ..Query::default() };
            let (mut seen, mut turn) = (Vec::new(), 0u64);
            loop {
                let page = games.find_many(query.clone()).await.unwrap();
                let still =
                    page.found.into_iter().filter(|found| found.fields.get("still") == Some(&json!(true)));
                seen.extend(still.map(|found| found.id));
                // Others move, go and come, before and behind.
                for step in [3, 33, 63] {
                    let other = format!("d{:02}", (turn * 3 + step) / 3 * 3 % 90);
                    if turn % 2 == 0 {
                        games.delete_one(&id(&other), plain()).await.unwrap();
                    } else {
                        let moved = body(json!({"rank": (turn * 7 + step) % 10, "still": false}));
                        games.find_one_and_upsert(&id(&other), moved, plain()).await.unwrap();
                    }
                }
                turn += 1;
                match page.next {
                    // A cursor goes through a text and back, as when a client keeps it.
                    Some(next) => query.after = Some(next.to_string().parse().unwrap()),
                    None => break,
                }
            }
            let expected: BTreeSet<_> =
                (0..90).filter(|n| n % 3 != 0).map(|n| id(&format!("d{n:02}"))).collect();
            assert_eq!(seen.len(), expected.len(), "{name}: some came twice or not at all");
            assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
}
