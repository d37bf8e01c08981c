use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use crdt_core::ClientId;
use serde_json::{Value, json};

use super::{record::State, *};
use crate::{
    Body, Deleted, DocumentId, EditOptions, Edited, Filter, Index, Query, StorageExt, Update, Upserted,
    query::{Direction, FieldPath},
};

#[path = "../../tests/common/mod.rs"]
mod common;

async fn store() -> (EmbeddedStore, tempfile::TempDir) {
    let folder = common::folder();
    (open(folder.path()).unwrap(), folder)
}

mod conformance {
    use super::store;

    crate::conformance_tests!(store);
}

fn open(folder: &Path) -> Result<EmbeddedStore, StorageError> {
    EmbeddedStore::open(folder, EmbeddedOptions::default())
}

async fn games(store: &EmbeddedStore) -> EmbeddedStorage {
    store.collection("games", StorageOptions::default()).await.unwrap()
}

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn by(name: &str, sequence: Option<u64>) -> EditOptions {
    let mut options = EditOptions::by(ClientId::new(name).unwrap());
    options.producer.sequence = sequence;
    options
}

fn body(value: Value) -> Body {
    match value {
        Value::Object(body) => body,
        other => panic!("{other} is not an object"),
    }
}

/// What is read at a time is not only counted.
#[tokio::test]
async fn a_list_holds_few_large_documents() {
    let (store, _folder) = store().await;
    let games = games(&store).await;
    for n in 0..10 {
        let large = body(json!({ "much": "x".repeat(400_000) }));
        games.find_one_and_upsert(&id(&format!("d{n}")), large, by("s", None)).await.unwrap();
    }
    let page = games.list(None, 100).await.unwrap();
    assert_eq!(page.len(), 3, "the third reaches 1 MiB");
    let found = games.find_many(Query::default()).await.unwrap();
    assert_eq!(found.found.len(), 10, "a scan goes on behind a short page");
}

fn operators(update: Value) -> Update {
    Update::parse(&update).unwrap()
}

async fn set(games: &EmbeddedStorage, name: &str, value: Value, options: EditOptions) -> Edited {
    let edit = |body: &mut Body| {
        body.insert("v".to_owned(), value.clone());
        Ok::<_, Infallible>(())
    };
    games.edit(&id(name), edit, options).await.unwrap()
}

/// Everything that a collection shows.
async fn contents(games: &EmbeddedStorage) -> Result<BTreeMap<String, Value>, StorageError> {
    let mut all = BTreeMap::new();
    for document in games.list(None, usize::MAX).await? {
        let changes = games.changes(&document.id, 0, usize::MAX).await?;
        let producers = games.producers(&document.id).await?;
        let shown = json!([document.version, *document.body, changes.changes, changes.more, producers]);
        all.insert(document.id.to_string(), shown);
    }
    all.insert("position".to_owned(), json!(games.position().await?));
    Ok(all)
}

/// Some documents with some history.
async fn fill(games: &EmbeddedStorage) {
    let documents = (0..5).map(|n| async move {
        let name = format!("d{n}");
        games.find_one_and_upsert(&id(&name), body(json!({"n": n})), by("p", Some(1))).await.unwrap();
        for v in 0..20u64 {
            set(games, &name, json!({"v": v, "s": "x".repeat(20)}), by("p", Some(v + 2))).await;
        }
    });
    futures_util::future::join_all(documents).await;
    games.delete_one(&id("d4"), by("p", None)).await.unwrap();
    games.remove_changes(&id("d0"), 7).await.unwrap();
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let (store, folder) = store().await;
    let before = games(&store).await;
    fill(&before).await;
    let shown = contents(&before).await.unwrap();
    store.close().await.unwrap();
    // Closing frees the folder, although handles are still around.
    let store = open(folder.path()).unwrap();
    let after = games(&store).await;
    assert_eq!(contents(&after).await.unwrap(), shown);
    // Numbers go on where they were.
    let Upserted::Created { document, change } =
        after.find_one_and_upsert(&id("d4"), Body::new(), by("q", None)).await.unwrap()
    else {
        panic!("it was deleted");
    };
    assert_eq!((document.version, change.position), (23, 107));
}

#[tokio::test]
async fn a_store_that_is_dropped_frees_its_folder() {
    let (store, folder) = store().await;
    fill(&games(&store).await).await;
    drop(store);
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn a_second_handle_is_refused_while_the_first_is_open() {
    let (_store, folder) = store().await;
    let refused = open(folder.path()).err().unwrap();
    assert!(matches!(&refused, StorageError::Locked { .. }), "{refused:?}");
    assert!(refused.to_string().contains(&*folder.path().to_string_lossy()));
}

#[tokio::test]
async fn a_folder_that_can_not_be_used_is_a_clear_error() {
    let folder = common::folder();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let refused = open(&file).err().unwrap();
    assert!(refused.to_string().contains(&*file.to_string_lossy()), "{refused}");
}

#[tokio::test]
async fn a_repeat_after_reopening_gets_the_first_answer() {
    let (store, folder) = store().await;
    fill(&games(&store).await).await;
    drop(store);
    let store = open(folder.path()).unwrap();
    let games = games(&store).await;
    let position = games.position().await.unwrap();
    for v in [0u64, 7, 19] {
        let repeated = set(&games, "d1", json!("other"), by("p", Some(v + 2))).await;
        assert!(matches!(repeated, Edited::Repeated { version, .. } if version == v + 2), "{repeated:?}");
    }
    let repeated = games.delete_one(&id("d4"), by("p", Some(22))).await.unwrap();
    assert_eq!(repeated, Deleted::Repeated { version: 22 });
    assert_eq!(games.position().await.unwrap(), position);
}

#[tokio::test]
async fn time_never_goes_back_even_if_the_clock_does() {
    let folder = common::folder();
    let now = Arc::new(AtomicU64::new(1_000));
    let clock = || {
        let now = now.clone();
        EmbeddedOptions { clock: Arc::new(move || now.load(Ordering::Relaxed)), ..Default::default() }
    };
    let mut times = Vec::new();
    for hour in [1_000, 5_000, 2_000] {
        now.store(hour, Ordering::Relaxed);
        let store = EmbeddedStore::open(folder.path(), clock()).unwrap();
        let games = games(&store).await;
        games.find_one_and_upsert(&id("a"), Body::new(), by("p", None)).await.unwrap();
        let Edited::Changed { change, .. } = set(&games, "a", json!(hour), by("p", None)).await else {
            panic!("unchanged");
        };
        times.push(change.timestamp_ms);
    }
    assert_eq!(times, [1_000, 5_000, 5_000]);
}

#[tokio::test]
async fn collections_keep_their_documents_apart_after_reopening() {
    let (store, folder) = store().await;
    for name in ["games", "notes"] {
        let storage = store.collection(name, StorageOptions::default()).await.unwrap();
        let in_it = body(json!({ "in": name }));
        storage.find_one_and_upsert(&id("a"), in_it, by("p", None)).await.unwrap();
    }
    drop(store);
    let store = open(folder.path()).unwrap();
    for name in ["notes", "games"] {
        let storage = store.collection(name, StorageOptions::default()).await.unwrap();
        assert_eq!(storage.find_one(&id("a")).await.unwrap().unwrap().body["in"], name);
    }
}

#[tokio::test]
async fn a_collection_that_an_earlier_release_did_not_record_is_refused() {
    let (store, folder) = store().await;
    let aux = CollectionRecord { number: 7, recorded: false };
    let write = Write::put(Space::Meta, CollectionRecord::key("aux"), aux.encode());
    store.shared.write(vec![write]).await.unwrap();
    drop(store);
    let store = open(folder.path()).unwrap();
    let refused = store.collection("aux", StorageOptions::default()).await.err().unwrap();
    let StorageError::InvalidCollection { name, reason } = refused else { panic!("{refused:?}") };
    assert!(name == "aux" && reason.contains("without a record"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_writers_wait_and_loses_nothing() {
    let (store, _folder) = store().await;
    let games = games(&store).await;
    // Each write takes a quarter of the queue, and there are twelve.
    let large = |n: u32| body(json!({"n": n, "text": "x".repeat(QUEUE_BYTES_MAX / 8)}));
    let writes = (0..12).map(|n| {
        let games = games.clone();
        tokio::spawn(async move {
            games.find_one_and_upsert(&id(&format!("d{n}")), large(n), by("p", Some(1))).await.unwrap()
        })
    });
    let writes: Vec<_> = writes.collect();
    for write in writes {
        assert!(matches!(write.await.unwrap(), Upserted::Created { .. }));
    }
    assert_eq!(games.position().await.unwrap(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_answers_what_is_under_way() {
    let (store, folder) = store().await;
    let games = games(&store).await;
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let games = games.clone();
            tokio::spawn(async move {
                games.find_one_and_upsert(&id(&format!("d{n}")), Body::new(), by("p", None)).await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    let mut kept = 0;
    for writer in writers {
        match writer.await.unwrap() {
            Ok(_) => kept += 1,
            Err(StorageError::Closed) => {}
            Err(other) => panic!("{other}"),
        }
    }
    let store = open(folder.path()).unwrap();
    assert_eq!(self::games(&store).await.position().await.unwrap(), kept);
}

/// Until a transaction is durable, a repeat is told by what the queue holds; in it the producer's last number is that of a
/// change, and an earlier one was of a write that changed nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_of_a_transaction_that_is_not_durable_yet_changes_nothing() {
    let (store, _folder) = store().await;
    let games = games(&store).await;
    games.find_one_and_upsert(&id("a"), body(json!({"gold": 1})), by("s", None)).await.unwrap();
    let (holds, held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let commits = games.shared.commits.clone();
    let disk = std::thread::spawn(move || {
        let _committer = commits.committer.lock();
        holds.send(()).unwrap();
        released.recv()
    });
    held.recv().unwrap();

    let transaction = tokio::spawn({
        let games = games.clone();
        async move {
            let both = games.transact(|of| {
                Box::pin(async move {
                    of.update_one(&id("a"), &operators(json!({"$max": {"gold": 0}})), by("p", Some(1)))
                        .await?;
                    of.update_one(&id("a"), &operators(json!({"$inc": {"gold": 1}})), by("p", Some(2)))
                        .await?;
                    Ok(())
                })
            });
            both.await
        }
    });
    let key = games.key(&id("a"));
    while games.shared.queue.pending(&key).is_none_or(|pending| pending.version < 2) {
        tokio::task::yield_now().await;
    }
    drop(games.shared.gate(&key).lock().await);
    let count_up = operators(json!({"$inc": {"gold": 1}}));
    let to = id("a");
    let mut repeat = Box::pin(games.update_one(&to, &count_up, by("p", Some(2))));
    let early = futures_util::future::poll_immediate(&mut repeat).await;
    release.send(()).unwrap();
    assert!(early.is_none(), "{early:?}");
    let repeated = repeat.await.unwrap();
    assert!(matches!(repeated, Edited::Repeated { version: 2, .. }), "{repeated:?}");
    assert_eq!(transaction.await.unwrap().unwrap().len(), 1);
    assert_eq!(games.find_one(&id("a")).await.unwrap().unwrap().body["gold"], 2);
    drop(disk.join());
}

/// A writer that waits behind another one's slow edit waits no longer than it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_has_so_much_time() {
    let (store, _folder) = store().await;
    let operation_timeout = Duration::from_millis(50);
    let options = StorageOptions { operation_timeout, ..StorageOptions::default() };
    let games = store.collection("games", options).await.unwrap();
    games.find_one_and_upsert(&id("a"), Body::new(), by("p", None)).await.unwrap();
    let (entered, enter) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let slow = tokio::spawn({
        let games = games.clone();
        async move {
            let wait = move |_: &mut Body| {
                entered.send(()).unwrap();
                released.recv().map_err(Into::<crate::edit::EditError>::into)
            };
            games.edit(&id("a"), wait, by("slow", None)).await
        }
    });
    tokio::task::spawn_blocking(move || enter.recv()).await.unwrap().unwrap();
    let nothing = |_: &mut Body| Ok::<_, Infallible>(());
    let late = games.edit(&id("a"), nothing, by("p", None)).await.unwrap_err();
    assert!(matches!(late, StorageError::Timeout(after) if after == operation_timeout), "{late:?}");
    assert!(late.is_retryable());
    release.send(()).unwrap();
    // The slow one holds up nobody any more, whatever became of it.
    drop(slow.await.unwrap());
    let Edited::Changed { .. } = set(&games, "a", json!(1), by("p", None)).await else { panic!("unchanged") };
}

/// Whatever the changes weigh, a reader of the log on the disk takes up little at a time.
#[tokio::test]
async fn a_reader_of_the_log_takes_so_many_bytes_at_a_time() {
    let (store, folder) = store().await;
    let before = games(&store).await;
    for (name, kilobytes) in [("a", 700), ("b", 700), ("c", 1), ("d", 3_000), ("e", 1)] {
        let text = "x".repeat(kilobytes << 10);
        before.find_one_and_upsert(&id(name), body(json!({"text": text})), by("p", None)).await.unwrap();
    }
    store.close().await.unwrap();
    let engine = Engine::open(&folder.path().join("engine")).unwrap();
    let mut pages = Vec::new();
    while pages.iter().sum::<usize>() < 5 {
        let after = pages.iter().sum::<usize>() as u64;
        let page = super::storage::read_log(&engine, after, 256).unwrap();
        assert!(page.entries.iter().map(|entry| entry.position).eq((after + 1..).take(page.entries.len())));
        pages.push(page.entries.len());
    }
    assert_eq!(pages, [2, 2, 1]);
}

/// An index is used from the moment on in which all of it can be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_query_finds_all_while_an_index_comes_and_goes() {
    let folder = common::folder();
    let options = EmbeddedOptions { durability: Durability::Buffered, ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(folder.path(), options).unwrap();
    let games = games(&store).await;
    for n in 0..50 {
        games.find_one_and_upsert(&id(&format!("d{n}")), body(json!({"n": n})), by("p", None)).await.unwrap();
    }
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers = (0..3).map(|_| {
        let (games, done) = (games.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let filter = Filter::parse(&json!({"n": {"$gte": 0}})).unwrap();
            while !done.load(Ordering::Relaxed) {
                let page =
                    games.find_many(Query { filter: filter.clone(), ..Query::default() }).await.unwrap();
                assert_eq!(page.found.len(), 50);
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    let by_n = Index::new(vec![(FieldPath::new("n").unwrap(), Direction::Ascending)]).unwrap();
    for _ in 0..150 {
        games.create_index(&by_n).await.unwrap();
        games.drop_index(&by_n).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}

/// A full compaction leaves nothing of the log behind, in memory and after reopening.
#[tokio::test]
async fn a_compacted_log_shrinks_to_nothing() {
    let (store, folder) = store().await;
    let before = games(&store).await;
    fill(&before).await;
    for n in 0..5 {
        before.remove_changes(&id(&format!("d{n}")), u64::MAX).await.unwrap();
    }
    drop(before);
    store.close().await.unwrap();
    let engine = Engine::open(&folder.path().join("engine")).unwrap();
    let view = engine.view();
    let of = |space| view.scan(space, &[], std::ops::Bound::Unbounded, |_, _| Ok(())).count();
    assert_eq!((of(Space::Log), of(Space::Changes), of(Space::Documents)), (0, 0, 5));
    assert_eq!(of(Space::Answers), 5);
    drop(view);
    drop(engine);
    let store = open(folder.path()).unwrap();
    assert_eq!(games(&store).await.position().await.unwrap(), 106);
}

mod damage;
