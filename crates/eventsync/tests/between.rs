//! What others do between two steps of a request: compaction under a reader, a write that lands after it was given up.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use async_trait::async_trait;
use crdt_core::ClientId;
use eventsync::{
    EventCompactor, EventSyncStorage, FeedItem, PageLimit, ProblemType, Resume, Scope, Snapshot,
    SnapshotPolicy, SnapshotStore, SyncService, SyncServiceOptions,
    feed::{Located, ResyncReason},
    protocol::PushOp,
    service::{IdempotencyKey, SyncRequest, WriteOptions},
    shelf::{MemoryShelf, Shelf},
    snapshot::ShelfSnapshotStore,
};
use futures_util::future::BoxFuture;
use nodestorage::{
    Body, ChangePage, DocumentId, EditFn, EditOptions, Edited, MemoryStorage, MemoryStore, Storage,
    StorageError, StorageLayer, StorageOptions,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

fn id(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

fn by() -> WriteOptions {
    WriteOptions::by(ClientId::new("ann").unwrap())
}

fn fields(value: Value) -> Body {
    value.as_object().unwrap().clone()
}

async fn service(
    storage: Arc<dyn Storage>,
    shelf: Arc<dyn Shelf>,
    compaction: Option<EventCompactor>,
) -> SyncService {
    let storage = Arc::new(EventSyncStorage::new(storage));
    let options =
        SyncServiceOptions { storage, shelf, snapshots: SnapshotPolicy::STANDARD, compaction, rules: None };
    SyncService::start(options).await.unwrap()
}

/// Sets a field of its own for each version.
async fn write(service: &SyncService, name: &str, versions: std::ops::RangeInclusive<u64>) {
    for n in versions {
        let op = match n {
            1 => PushOp::Create { state: fields(json!({"f1": 1})) },
            n => PushOp::Merge { patch: fields(json!({ format!("f{n}"): n })) },
        };
        assert_eq!(service.write(&id(name), &op, by()).await.unwrap().version, n);
    }
}

fn written(versions: u64) -> Value {
    Value::Object((1..=versions).map(|n| (format!("f{n}"), n.into())).collect())
}

type Hook = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Lets something happen before the next page of a history is read, after so many others, or before the next end of one.
#[derive(Default)]
struct Before {
    inner: MemoryStorage,
    pages: AtomicUsize,
    page: Mutex<Option<Hook>>,
    end: Mutex<Option<Hook>>,
}

async fn let_happen(hook: &Mutex<Option<Hook>>) {
    let hook = hook.lock().take();
    if let Some(hook) = hook {
        hook().await;
    }
}

#[async_trait]
impl StorageLayer for Before {
    fn inner(&self) -> &dyn Storage {
        &self.inner
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        if self.pages.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            let_happen(&self.page).await;
        }
        Storage::changes(&self.inner, id, after, limit).await
    }

    async fn last_version(&self, id: &DocumentId) -> Result<u64, StorageError> {
        let_happen(&self.end).await;
        Storage::last_version(&self.inner, id).await
    }
}

#[tokio::test]
async fn a_past_state_is_right_though_its_events_are_compacted_meanwhile() {
    let (inner, shelf) = (MemoryStorage::default(), Arc::new(MemoryShelf::new()));
    let other = service(Arc::new(inner.clone()), shelf.clone(), None).await;
    let before = Arc::new(Before { inner, ..Before::default() });
    let reader = service(before.clone(), shelf, None).await;
    write(&other, "a", 1..=20).await;
    // With a snapshot to start from, and with none.
    for (version, keep) in [(4, 18), (15, 6), (18, 3)] {
        let compacting = other.clone();
        *before.page.lock() = Some(Box::new(move || {
            Box::pin(async move {
                let gone = EventCompactor::keeping(keep).compact(&compacting, &id("a")).await.unwrap();
                assert!(gone > 0);
            })
        }));
        let state = reader.state_at(&id("a"), version).await.unwrap();
        assert_eq!((state.version, state.value()), (version, written(version)));
        let vector = state.state_vector.get(&ClientId::new("ann").unwrap());
        assert_eq!(vector, version, "the vector is of the same version");
    }
    for service in [other, reader] {
        service.close().await.unwrap();
    }
}

/// Who waits for a document from before its first event is told of a new history only if there is one.
#[tokio::test]
async fn who_waits_at_nothing_gets_what_is_written_between_two_looks() {
    let (inner, shelf) = (MemoryStorage::default(), Arc::new(MemoryShelf::new()));
    let other = service(Arc::new(inner.clone()), shelf.clone(), None).await;
    let before = Arc::new(Before { inner, ..Before::default() });
    let reader = service(before.clone(), shelf, None).await;
    let writing = other.clone();
    *before.end.lock() = Some(Box::new(move || Box::pin(async move { write(&writing, "a", 1..=2).await })));
    let mut following = reader.follow(Scope::Document(id("a")), Resume::After(0), PageLimit::STANDARD);
    let FeedItem::Events(events) = following.next().await.unwrap() else { panic!("not the events") };
    assert_eq!(events.iter().map(|event| event.sequence_num()).collect::<Vec<_>>(), [1, 2]);
    // What is behind the end of the log is of another history still.
    let located = reader.locate(&Scope::Document(id("a")), &Resume::After(4)).await.unwrap();
    assert_eq!(located, Located::Latest(Some(ResyncReason::CursorUnknown)));
    for service in [other, reader] {
        service.close().await.unwrap();
    }
}

/// A snapshot may have been made of events that were lost when the store was put back. One of the same number proves that, also
/// when it is written between two looks.
#[tokio::test]
async fn a_snapshot_of_a_lost_history_is_known_by_an_event_that_comes_between_two_looks() {
    let (inner, shelf) = (MemoryStorage::default(), Arc::new(MemoryShelf::new()));
    let other = service(Arc::new(inner.clone()), shelf.clone(), None).await;
    write(&other, "a", 1..=2).await;
    let lost = Snapshot {
        document_id: id("a"),
        version: 3,
        state: None,
        state_vector: [(ClientId::new("lost").unwrap(), 7)].into_iter().collect(),
        created_at: 1,
        timestamp: Some(1),
    };
    ShelfSnapshotStore::new(shelf.clone()).save(&lost).await.unwrap();
    let before = Arc::new(Before { inner, ..Before::default() });
    let reader = service(before.clone(), shelf, None).await;
    let writing = other.clone();
    *before.end.lock() = Some(Box::new(move || Box::pin(async move { write(&writing, "a", 3..=3).await })));
    let latest = reader.latest(&id("a")).await.unwrap();
    assert_eq!((latest.version, latest.value()), (3, written(3)));
    assert_eq!(latest.state_vector, other.latest(&id("a")).await.unwrap().state_vector);
    for service in [other, reader] {
        service.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_written_between_two_looks_is_told_as_it_is() {
    let inner = MemoryStorage::default();
    let other = service(Arc::new(inner.clone()), Arc::new(MemoryShelf::new()), None).await;
    let before = Arc::new(Before { inner, ..Before::default() });
    let reader = service(before.clone(), Arc::new(MemoryShelf::new()), None).await;
    let write_next = |versions: std::ops::RangeInclusive<u64>| {
        let writing = other.clone();
        *before.end.lock() =
            Some(Box::new(move || Box::pin(async move { write(&writing, "a", versions).await })));
    };
    // A document that is there is not called absent as of its version.
    write_next(1..=1);
    let current = reader.current(&id("a")).await.unwrap();
    assert_eq!((current.version, current.state.as_deref()), (1, written(1).as_object()));
    // Nor is an event that is there called compacted away.
    write_next(2..=4);
    assert_eq!(reader.oldest_event(&id("a"), 1).await.unwrap(), 2);
    for service in [other, reader] {
        service.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_latest_state_is_there_though_the_one_before_is_compacted_away_meanwhile() {
    let (inner, shelf) = (MemoryStorage::default(), Arc::new(MemoryShelf::new()));
    let other = service(Arc::new(inner.clone()), shelf.clone(), None).await;
    write(&other, "a", 1..=4).await;
    let before = Arc::new(Before { inner, ..Before::default() });
    // It does not know the document yet, and so reads its events.
    let reader = service(before.clone(), shelf, None).await;
    let compacting = other.clone();
    *before.page.lock() = Some(Box::new(move || {
        Box::pin(async move {
            write(&compacting, "a", 5..=9).await;
            let gone = EventCompactor::keeping(2).compact(&compacting, &id("a")).await.unwrap();
            assert_eq!(gone, 7);
        })
    }));
    let latest = reader.latest(&id("a")).await.unwrap();
    assert_eq!((latest.version, latest.value()), (9, written(9)));
    for service in [other, reader] {
        service.close().await.unwrap();
    }
}

/// At whichever of its reads the compaction comes: by then the events that the client is about to get, or those that lead to
/// the vector beside them, are gone.
#[tokio::test]
async fn a_client_catches_up_though_what_it_was_found_to_lack_is_compacted_away_meanwhile() {
    let (inner, shelf) = (MemoryStorage::default(), Arc::new(MemoryShelf::new()));
    let other = service(Arc::new(inner.clone()), shelf.clone(), None).await;
    let before = Arc::new(Before { inner, ..Before::default() });
    let ann = ClientId::new("ann").unwrap();
    let asked = SyncRequest { cursor: Some(3), limit: Some(2), ..SyncRequest::default() };
    let by_name = SyncRequest { client_id: Some(ClientId::new("bob").unwrap()), ..asked.clone() };
    let (mut happened, mut readers) = (Vec::new(), Vec::new());
    for (which, request) in [Some(asked), Some(by_name), None].into_iter().enumerate() {
        for pages in 0.. {
            let name = format!("{which}-{pages}");
            write(&other, &name, 1..=9).await;
            // Each time one that does not know the document yet, and so reads its events.
            let reader = service(before.clone(), shelf.clone(), None).await;
            let (compacting, document) = (other.clone(), name.clone());
            before.pages.store(pages, Relaxed);
            *before.page.lock() = Some(Box::new(move || {
                Box::pin(async move {
                    write(&compacting, &document, 10..=12).await;
                    let gone = EventCompactor::keeping(1).compact(&compacting, &id(&document)).await.unwrap();
                    assert_eq!(gone, 11);
                })
            }));
            if let Some(request) = &request {
                let answer = reader.sync(&id(&name), request).await.unwrap();
                assert_eq!(answer.state_vector.get(&ann), answer.cursor, "of {name}");
                match answer.snapshot {
                    Some(snapshot) => assert_eq!(snapshot.value(), written(answer.cursor), "of {name}"),
                    None => {
                        let numbers = answer.events.iter().map(|event| event.sequence_num());
                        assert_eq!(
                            (numbers.collect::<Vec<_>>(), answer.cursor),
                            (vec![4, 5], 5),
                            "of {name}"
                        );
                    }
                }
            } else {
                let clock = reader.latest_clock(&id(&name)).await.unwrap();
                assert_eq!(clock.vector.get(&ann), clock.version, "of {name}");
            }
            readers.push(reader);
            if before.page.lock().take().is_some() {
                happened.push(pages);
                break;
            }
        }
    }
    assert!(happened.iter().all(|pages| (1..20).contains(pages)), "{happened:?}");
    for service in readers.into_iter().chain([other]) {
        service.close().await.unwrap();
    }
}

/// Gives up the first write, which lands when it is told to.
#[derive(Default)]
struct Stalled {
    inner: MemoryStorage,
    late: Mutex<Option<(DocumentId, Body, EditOptions)>>,
}

#[async_trait]
impl StorageLayer for Stalled {
    fn inner(&self) -> &dyn Storage {
        &self.inner
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        if self.late.lock().is_some() {
            return Storage::find_one_and_update(&self.inner, id, edit, options).await;
        }
        let document = Storage::find_one(&self.inner, id).await?.expect("it was made");
        let mut body = (*document.body).clone();
        let mut edit = edit;
        edit(&mut body).map_err(StorageError::Edit)?;
        *self.late.lock() = Some((id.clone(), body, options));
        Err(StorageError::Timeout(std::time::Duration::from_secs(30)))
    }
}

#[tokio::test]
async fn a_named_write_that_took_too_long_is_not_done_again_by_its_repeat() {
    let storage = Arc::new(Stalled::default());
    let service = service(storage.clone(), Arc::new(MemoryShelf::new()), None).await;
    write(&service, "a", 1..=1).await;
    let key = IdempotencyKey::new("a-name", &[b"body"]).unwrap();
    let merge = PushOp::Merge { patch: fields(json!({"n": 1})) };
    let refused = service.write_once(&key, &id("a"), &merge, by()).await.unwrap_err();
    assert!(refused.problem.is(ProblemType::Unavailable), "{refused:?}");
    // The disk goes on, and the write is there after all.
    let (name, body, options) = storage.late.lock().clone().unwrap();
    let land = |old: &mut Body| {
        old.clone_from(&body);
        Ok(())
    };
    Storage::find_one_and_update(&storage.inner, &name, Box::new(land), options).await.unwrap();
    let (_, again) = service.write_once(&key, &id("a"), &merge, by()).await.unwrap();
    assert!(again.repeated && again.version == 2, "{again:?}");
    assert_eq!(Storage::last_version(&storage.inner, &name).await.unwrap(), 2);
    service.close().await.unwrap();
}

/// One document's history can't be read.
struct Broken {
    inner: MemoryStorage,
    document: DocumentId,
}

#[async_trait]
impl StorageLayer for Broken {
    fn inner(&self) -> &dyn Storage {
        &self.inner
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        if *id == self.document {
            return Err(StorageError::Backend("a bad block".into()));
        }
        Storage::changes(&self.inner, id, after, limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_history_that_cannot_be_read_does_not_keep_those_of_others() {
    let storage = Arc::new(Broken { inner: MemoryStorage::default(), document: id("b") });
    let compactor = Some(EventCompactor::keeping(2));
    let service = service(storage, Arc::new(MemoryShelf::new()), compactor).await;
    for name in ["a", "b", "c"] {
        write(&service, name, 1..=5).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(3601)).await;
    for name in ["a", "c"] {
        assert_eq!(service.oldest_event(&id(name), 0).await.unwrap(), 4, "of {name}");
    }
    service.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_page_of_a_collection_ends_though_another_collection_wrote_last() {
    let store = MemoryStore::default();
    let games = store.collection("games", StorageOptions::default()).unwrap();
    let chat = store.collection("chat", StorageOptions::default()).unwrap();
    let service = service(Arc::new(games), Arc::new(MemoryShelf::new()), None).await;
    write(&service, "a", 1..=8).await;
    let edit = EditOptions { expected_version: Some(0), ..EditOptions::by(ClientId::new("bob").unwrap()) };
    for name in ["x", "y"] {
        chat.find_one_and_upsert(&id(name), Body::new(), edit.clone()).await.unwrap();
    }
    let reading = service.events().collection_after(5, PageLimit::STANDARD);
    let page =
        tokio::time::timeout(std::time::Duration::from_secs(60), reading).await.expect("it ends").unwrap();
    let positions: Vec<u64> = page.events.iter().map(|event| event.position()).collect();
    assert_eq!((positions, page.cursor, page.more), (vec![6, 7, 8], 10, false));
    let page = service.events().collection_after(page.cursor, PageLimit::STANDARD).await.unwrap();
    assert_eq!((page.events.len(), page.cursor), (0, 10));
    service.close().await.unwrap();
}
