//! Whatever the documents and the question, a query answers the same with an index as without one, in memory and on the
//! disk, and also after some documents have changed.

mod common;

use crdt_core::ClientId;
use nodestorage::{
    Body, DocumentId, Durability, EditOptions, EmbeddedOptions, EmbeddedStore, Index, MemoryStore, Query,
    Storage, StorageExt, StorageOptions,
    query::{Direction, FieldPath, Filter, Found, SortBy},
};
use proptest::prelude::*;
use serde_json::{Value, json};

const FIELDS: [&str; 3] = ["a", "b.c", "d"];

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        4 => (0i64..4).prop_map(Value::from),
        1 => Just(json!(1.5)),
        2 => "[ab]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            inner.prop_map(|value| json!({ "c": value })),
        ]
    })
}

fn bodies() -> impl Strategy<Value = Body> {
    let fields = ["a", "b", "d"].map(|name| prop::option::of(values()).prop_map(move |value| (name, value)));
    fields.prop_map(|fields| {
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    })
}

fn tests() -> impl Strategy<Value = Value> {
    let of = |operators: &'static [&'static str]| {
        (prop::sample::select(operators), values()).prop_map(|(operator, value)| json!({ operator: value }))
    };
    prop_oneof![
        3 => of(&["$eq"]),
        4 => of(&["$gt", "$gte", "$lt", "$lte"]),
        1 => of(&["$ne"]),
        1 => (values(), values()).prop_map(|(low, high)| json!({"$gte": low, "$lte": high})),
        1 => prop::collection::vec(values(), 0..3).prop_map(|values| json!({ "$in": values })),
        1 => prop::collection::vec(values(), 0..3).prop_map(|values| json!({ "$all": values })),
        1 => (values(), values()).prop_map(|(low, high)| json!({"$elemMatch": {"$gte": low, "$lt": high}})),
        1 => values().prop_map(|low| json!({"$elemMatch": {"$elemMatch": {"$gte": low}}})),
        1 => "[ab]{0,2}".prop_map(|beginning| json!({"$regex": format!("^{beginning}")})),
    ]
}

/// Tests of ids, most of which are there.
fn tests_of_ids() -> impl Strategy<Value = Value> {
    let ids = || prop_oneof![9 => "d[01][0-9]?".prop_map(Value::from), 1 => values()];
    prop_oneof![
        ids().prop_map(|id| json!({ "$eq": id })),
        prop::collection::vec(ids(), 0..6).prop_map(|ids| json!({ "$in": ids })),
        (ids(), ids()).prop_map(|(low, high)| json!({"$gte": low, "$lt": high})),
        (ids(), ids()).prop_map(|(low, high)| json!({"$gt": low, "$lte": high})),
        (ids(), prop::collection::vec(ids(), 0..6)).prop_map(|(low, ids)| json!({"$in": ids, "$gt": low})),
        ids().prop_map(|id| json!({ "$ne": id })),
        "d?[01]?".prop_map(|beginning| json!({"$regex": format!("^{beginning}")})),
    ]
}

fn filters() -> impl Strategy<Value = Value> {
    let fields = prop::collection::btree_map(prop::sample::select(&FIELDS[..]), tests(), 0..3);
    let ids = prop::option::weighted(0.25, tests_of_ids());
    (fields, ids).prop_map(|(tests, ids)| {
        let tests = tests.into_iter().chain(ids.map(|test| ("_id", test)));
        tests.map(|(name, test)| (name.to_owned(), test)).collect()
    })
}

fn orders() -> impl Strategy<Value = Vec<(FieldPath, Direction)>> {
    let direction = prop_oneof![Just(Direction::Ascending), Just(Direction::Descending)];
    prop::collection::btree_map(prop::sample::select(&FIELDS[..]), direction, 0..3).prop_map(|fields| {
        fields.into_iter().map(|(name, direction)| (FieldPath::new(name).unwrap(), direction)).collect()
    })
}

async fn all(storage: &dyn Storage, mut query: Query) -> Vec<Found> {
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

async fn fill(storage: &dyn Storage, bodies: &[Body]) {
    let by = EditOptions::by(ClientId::new("p").unwrap());
    let id = |n: usize| DocumentId::new(format!("d{n:02}")).unwrap();
    for (n, body) in bodies.iter().enumerate() {
        storage.find_one_and_upsert(&id(n), body.clone(), by.clone()).await.unwrap();
    }
    // Each third takes the next one's body, each fifth goes.
    for (n, pair) in bodies.windows(2).enumerate() {
        if n % 3 == 0 {
            let next = |body: &mut Body| {
                *body = pair[1].clone();
                Ok::<_, std::convert::Infallible>(())
            };
            storage.edit(&id(n), next, by.clone()).await.unwrap();
        }
        if n % 5 == 0 {
            storage.delete_one(&id(n), by.clone()).await.unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_index_changes_no_answer(
        bodies in prop::collection::vec(bodies(), 1..20),
        questions in prop::collection::vec((filters(), orders(), 1usize..6), 1..12),
        indexes in prop::collection::vec(orders(), 1..4),
    ) {
        let indexes: Vec<_> = indexes.into_iter().filter_map(|fields| Index::new(fields).ok()).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = common::folder();
            let options = EmbeddedOptions { durability: Durability::Buffered, ..EmbeddedOptions::default() };
            let embedded = EmbeddedStore::open(folder.path(), options).unwrap();
            let memory = MemoryStore::default();
            let with = StorageOptions { indexes, ..StorageOptions::default() };
            let plain = memory.collection("plain", StorageOptions::default()).unwrap();
            let indexed = memory.collection("indexed", with.clone()).unwrap();
            let embedded = embedded.collection("indexed", with).await.unwrap();
            for storage in [&plain as &dyn Storage, &indexed, &embedded] {
                fill(storage, &bodies).await;
            }
            for (filter, order, limit) in questions {
                let sort = order.into_iter().map(|(path, direction)| (SortBy::Field(path), direction)).collect();
                let query = Query { filter: Filter::parse(&filter).unwrap(), sort, limit, ..Query::default() };
                let expected = all(&plain, query.clone()).await;
                for storage in [&indexed as &dyn Storage, &embedded] {
                    let plan = storage.explain(query.clone()).await.unwrap().plan;
                    assert_eq!(all(storage, query.clone()).await, expected, "{filter} by {:?}: {plan:?}", query.sort);
                }
            }
        });
    }
}
