//! The embedded store does what the reference in memory does, whatever is asked of it, also across reopening.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crdt_core::ClientId;
use futures_util::StreamExt;
use nodestorage::{
    Body, DocumentId, Durability, EditOptions, EmbeddedOptions, EmbeddedStorage, EmbeddedStore, MemoryStore,
    Storage, StorageExt, StorageOptions, WatchFilter, WatchFrom,
};
use proptest::prelude::*;
use serde_json::json;

/// What may be asked. Documents, clients and values are few, so that they meet.
#[derive(Debug, Clone)]
enum Operation {
    Upsert { id: u8, value: u8, options: Options },
    Set { id: u8, field: u8, value: u8, options: Options },
    Refuse { id: u8, options: Options },
    Delete { id: u8, options: Options },
    RemoveChanges { id: u8, up_to: u64 },
    Reopen,
}

#[derive(Debug, Clone)]
struct Options {
    client: u8,
    sequence: Option<u64>,
    expected_version: Option<u64>,
}

fn options() -> impl Strategy<Value = Options> {
    let sequence = prop_oneof![3 => Just(None), 2 => (0u64..6).prop_map(Some)];
    let expected = prop_oneof![5 => Just(None), 1 => (0u64..8).prop_map(Some)];
    (0u8..3, sequence, expected).prop_map(|(client, sequence, expected_version)| Options {
        client,
        sequence,
        expected_version,
    })
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (0u8..3, 0u8..3, options()).prop_map(|(id, value, options)| Operation::Upsert { id, value, options }),
        8 => (0u8..3, 0u8..3, 0u8..3, options())
            .prop_map(|(id, field, value, options)| Operation::Set { id, field, value, options }),
        1 => (0u8..3, options()).prop_map(|(id, options)| Operation::Refuse { id, options }),
        2 => (0u8..3, options()).prop_map(|(id, options)| Operation::Delete { id, options }),
        1 => (0u8..3, 0u64..8).prop_map(|(id, up_to)| Operation::RemoveChanges { id, up_to }),
        1 => Just(Operation::Reopen),
    ]
}

fn name(id: u8) -> DocumentId {
    DocumentId::new(["a", "ab", "b"][id as usize]).unwrap()
}

fn edit_options(options: &Options) -> EditOptions {
    let mut edit = EditOptions::by(ClientId::new(["p", "p.", "q"][options.client as usize]).unwrap());
    edit.producer.sequence = options.sequence;
    edit.expected_version = options.expected_version;
    edit
}

/// Carries out an operation and shows what came of it.
async fn apply(storage: &dyn Storage, operation: &Operation) -> String {
    match operation {
        Operation::Upsert { id, value, options } => {
            let body = Body::from_iter([("f0".to_owned(), json!(value))]);
            format!("{:?}", storage.find_one_and_upsert(&name(*id), body, edit_options(options)).await)
        }
        Operation::Set { id, field, value, options } => {
            let set = |body: &mut Body| {
                let list = body.entry("list").or_insert_with(|| json!([])).as_array_mut().expect("a list");
                if *value == 2 {
                    list.truncate(list.len() / 2);
                } else {
                    list.insert(list.len() / 2, json!(value));
                }
                body.insert(format!("f{field}"), json!(value));
                Ok::<_, std::fmt::Error>(())
            };
            format!("{:?}", storage.edit(&name(*id), set, edit_options(options)).await)
        }
        Operation::Refuse { id, options } => {
            format!("{:?}", storage.edit(&name(*id), |_| Err("no"), edit_options(options)).await)
        }
        Operation::Delete { id, options } => {
            format!("{:?}", storage.delete_one(&name(*id), edit_options(options)).await)
        }
        Operation::RemoveChanges { id, up_to } => {
            format!("{:?}", storage.remove_changes(&name(*id), *up_to).await)
        }
        Operation::Reopen => String::new(),
    }
}

/// Everything that a collection shows.
async fn show(storage: &dyn Storage) -> String {
    let mut shown = format!("{:?}\n{:?}\n", storage.position().await, storage.list(None, 100).await);
    for id in (0..3).map(name) {
        let changes = storage.changes(&id, 0, 100).await;
        let page = storage.changes(&id, 2, 2).await;
        let (version, producers) = (storage.last_version(&id).await, storage.producers(&id).await);
        shown += &format!("{id}: {version:?} {producers:?} {changes:?} {page:?}\n");
    }
    let mut watch = storage.watch(WatchFilter::default(), WatchFrom::After(0)).await.unwrap();
    let last = storage.position().await.unwrap();
    let mut at = 0;
    while at < last {
        let event = watch.next().await.unwrap().unwrap();
        shown += &format!("{event:?}\n");
        at = match event {
            nodestorage::WatchEvent::Change(change) => change.position,
            nodestorage::WatchEvent::Missed { resume_after } => resume_after,
            other => panic!("{other:?}"),
        };
    }
    shown
}

async fn compare(operations: Vec<Operation>) {
    // Both see the same time, which goes back now and then.
    let clock = || {
        let ticks = AtomicU64::new(0);
        Arc::new(move || 1_000 + ticks.fetch_add(1, Ordering::Relaxed) * 7 % 11)
    };
    let options = StorageOptions::default();
    let model = MemoryStore::new(clock()).collection("games", options.clone()).unwrap();
    let folder = common::folder();
    let embedded = EmbeddedOptions { durability: Durability::Buffered, clock: clock() };
    let open = async || -> (EmbeddedStore, EmbeddedStorage) {
        let store = EmbeddedStore::open(folder.path(), embedded.clone()).unwrap();
        let games = store.collection("games", options.clone()).await.unwrap();
        (store, games)
    };
    let (mut store, mut real) = open().await;
    for (nth, operation) in operations.iter().enumerate() {
        if matches!(operation, Operation::Reopen) {
            assert_eq!(show(&real).await, show(&model).await, "before reopening at {nth}");
            drop((store, real));
            (store, real) = open().await;
        }
        let (expected, actual) = (apply(&model, operation).await, apply(&real, operation).await);
        assert_eq!(actual, expected, "operation {nth}: {operation:?}");
    }
    assert_eq!(show(&real).await, show(&model).await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_does_what_the_reference_does(
        operations in prop::collection::vec(operations(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(compare(operations));
    }
}
