//! The server answers filters as the memory store does.

use nodestorage::{
    Body, Filter, MemoryStorage, MongoStorage, Query, Storage, Upserted,
    mongo::testing::TestServer,
    query::{Direction, FieldPath, Projection, SortBy},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{by, games, id, open};

fn value(rng: &mut StdRng, depth: u32) -> Value {
    match rng.random_range(0..if depth == 0 { 6 } else { 9 }) {
        0 => json!(null),
        1 => json!(rng.random_range(-2..3)),
        2 => json!(f64::from(rng.random_range(-4..5)) / 2.0),
        3 => json!(["", "a", "b", "ab"][rng.random_range(0..4)]),
        4 => json!(rng.random_bool(0.5)),
        5 => json!(u64::MAX - rng.random_range(0..2)),
        6 | 7 => (0..rng.random_range(0..3)).map(|_| element(rng, depth - 1)).collect(),
        _ => Value::Object(fields(rng, depth - 1)),
    }
}

/// No array: what a path finds in an array of arrays, the two see differently.
fn element(rng: &mut StdRng, depth: u32) -> Value {
    loop {
        let value = value(rng, depth);
        if !value.is_array() {
            return value;
        }
    }
}

fn fields(rng: &mut StdRng, depth: u32) -> Body {
    let names = ["a", "b", "c.d", "$e"];
    (0..rng.random_range(0..3))
        .map(|_| (names[rng.random_range(0..4)].to_owned(), value(rng, depth)))
        .collect()
}

fn path(rng: &mut StdRng) -> &'static str {
    ["a", "b", "a.b", "a.0", "b.a", "a.b.0"][rng.random_range(0..6)]
}

/// Plain values compare the same everywhere; what whole arrays and objects are greater than is left out.
fn scalar(rng: &mut StdRng) -> Value {
    operand(rng, 0)
}

/// Not `null`: whether something is missing behind an array without objects, the two see differently.
fn operand(rng: &mut StdRng, depth: u32) -> Value {
    loop {
        let value = value(rng, depth);
        if !value.is_null() {
            return value;
        }
    }
}

fn test(rng: &mut StdRng, depth: u32) -> Value {
    match rng.random_range(0..if depth == 0 { 9 } else { 12 }) {
        0 => json!({"$eq": operand(rng, 1)}),
        1 => json!({"$ne": operand(rng, 1)}),
        2 => json!({"$gt": scalar(rng)}),
        3 => json!({"$lte": scalar(rng)}),
        4 => json!({"$gte": scalar(rng), "$lt": scalar(rng)}),
        5 => json!({"$in": [scalar(rng), scalar(rng)]}),
        6 => json!({"$nin": [scalar(rng), scalar(rng)]}),
        7 => json!({"$exists": rng.random_bool(0.5)}),
        8 => json!({"$size": rng.random_range(0..3)}),
        9 => json!({"$not": test(rng, 0)}),
        10 => json!({"$elemMatch": {"$gte": scalar(rng), "$ne": scalar(rng)}}),
        _ => json!({"$elemMatch": filter(rng, 0)}),
    }
}

fn filter(rng: &mut StdRng, depth: u32) -> Value {
    match rng.random_range(0..if depth == 0 { 3 } else { 6 }) {
        0..=2 => {
            let (first, second) = (path(rng), path(rng));
            json!({first: test(rng, depth), second: test(rng, depth)})
        }
        3 => json!({"$and": [filter(rng, depth - 1), filter(rng, depth - 1)]}),
        4 => json!({"$or": [filter(rng, depth - 1), filter(rng, depth - 1)]}),
        _ => json!({"$nor": [filter(rng, depth - 1), filter(rng, depth - 1)]}),
    }
}

async fn pages(storage: &dyn Storage, mut query: Query) -> Vec<(String, Body)> {
    let mut all = Vec::new();
    loop {
        let page = storage.find_many(query.clone()).await.unwrap();
        all.extend(page.found.into_iter().map(|found| (found.id.to_string(), found.fields)));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return all,
        }
    }
}

async fn both(memory: &MemoryStorage, games: &MongoStorage, name: &str, body: Body) {
    for storage in [memory as &dyn Storage, games] {
        let made = storage.find_one_and_upsert(&id(name), body.clone(), by("s")).await.unwrap();
        assert!(matches!(made, Upserted::Created { .. }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs secantusd"]
async fn the_server_and_the_memory_store_find_the_same() {
    let seed = std::env::var("WEFT_SEED").map_or(1, |seed| seed.parse().expect("WEFT_SEED is a number"));
    println!("WEFT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let server = TestServer::start();
    let store = open(&server).await;
    let (memory, games) = (MemoryStorage::default(), games(&store).await);
    for n in 0..60 {
        both(&memory, &games, &format!("d{n:02}"), fields(&mut rng, 3)).await;
    }
    memory.delete_one(&id("d07"), by("s")).await.unwrap();
    games.delete_one(&id("d07"), by("s")).await.unwrap();
    let mut differ = Vec::new();
    for _ in 0..400 {
        let written = filter(&mut rng, 2);
        let query = Query { filter: Filter::parse(&written).unwrap(), limit: 25, ..Query::default() };
        let (here, there) = (pages(&memory, query.clone()).await, pages(&games, query).await);
        if here != there {
            let here: Vec<_> = here.into_iter().filter(|found| !there.contains(found)).collect();
            differ.push(format!("{written} only in memory: {here:?}, all there: {}", there.len()));
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ[..differ.len().min(8)].join("\n"));
    for direction in [Direction::Ascending, Direction::Descending] {
        let sort = SortBy::Field(FieldPath::new(path(&mut rng)).unwrap());
        let projection = Projection::Only(vec![FieldPath::new("a").unwrap()]);
        let query = Query { sort: vec![(sort, direction)], limit: 7, projection, ..Query::default() };
        assert_eq!(pages(&memory, query.clone()).await, pages(&games, query.clone()).await, "{query:?}");
    }
}
