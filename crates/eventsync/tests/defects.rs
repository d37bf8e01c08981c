//! Defects of the prototype that must not come back, by their numbers in its list. Those that show on the wire are in
//! `live.rs`, those of the event itself beside its type, and the crash (1) in the application's `crash.rs`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};
use eventsync::{
    DefaultVectorClockManager, EventSyncStorage, FeedItem, PageLimit, PersistentVectorClockManager, Resume,
    Scope, SnapshotPolicy, StateVectorManager, SyncService, SyncServiceOptions, VectorClockManager,
    protocol::PushOp,
    service::WriteOptions,
    shelf::{MemoryShelf, Shelf},
};
use futures_util::StreamExt;
use nodestorage::{
    Body, DocumentId, EditOptions, MemoryStorage, Storage, StorageError, StorageExt, Upserted,
};
use serde_json::json;

fn id(id: &str) -> DocumentId {
    DocumentId::new(id).unwrap()
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).unwrap()
}

fn body(n: u64) -> Body {
    json!({"n": n}).as_object().unwrap().clone()
}

async fn service(storage: Arc<dyn Storage>) -> SyncService {
    SyncService::start(SyncServiceOptions {
        storage: Arc::new(EventSyncStorage::new(storage)),
        shelf: Arc::new(MemoryShelf::new()),
        snapshots: SnapshotPolicy { every: Some(10), age: None, keep: 4 },
        compaction: None,
        rules: None,
    })
    .await
    .unwrap()
}

async fn write(service: &SyncService, op: PushOp) -> u64 {
    service.write(&id("go"), &op, WriteOptions::by(client("server"))).await.unwrap().version
}

/// Defect 2: the number was read under a lock and used outside of it, so two writers got one number.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_writers_never_get_one_number() {
    let service = service(Arc::new(MemoryStorage::default())).await;
    write(&service, PushOp::Create { state: body(0) }).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let service = service.clone();
        writers.spawn(async move {
            let mut versions = Vec::new();
            for n in 0..50_u64 {
                let patch = json!({format!("w{writer}"): n}).as_object().unwrap().clone();
                versions.push(write(&service, PushOp::Merge { patch }).await);
            }
            versions
        });
    }
    let mut versions = Vec::new();
    while let Some(more) = writers.join_next().await {
        versions.extend(more.unwrap());
    }
    versions.sort_unstable();
    assert!(versions.into_iter().eq(2..=401));
}

/// Defect 12: a watch died of the first error of its stream, and live events with it.
#[tokio::test]
async fn a_watch_that_fails_is_opened_again_where_it_was() {
    let storage = Arc::new(flaky::Flaky::default());
    let service = service(storage.clone()).await;
    let mut reader = service.follow(Scope::Document(id("go")), Resume::After(0), PageLimit::STANDARD);
    assert_eq!(reader.next().await.unwrap(), FeedItem::Live { cursor: 0 });
    write(&service, PushOp::Create { state: body(0) }).await;
    for n in 1..10 {
        write(&service, PushOp::Replace { state: body(n) }).await;
    }
    let mut next = 1;
    while next <= 10 {
        let item = tokio::time::timeout(std::time::Duration::from_secs(20), reader.next()).await;
        if let FeedItem::Events(events) = item.expect("events go on").unwrap() {
            for event in events {
                assert_eq!(event.sequence_num(), next);
                next += 1;
            }
        }
    }
    assert!(storage.watches.load(Ordering::Relaxed) > 1, "it did fail");
    assert_eq!(service.ready(), Ok(()));
}

/// Defect 14: wrapper and listener together stored every change twice.
#[tokio::test]
async fn a_storage_that_is_wrapped_twice_makes_one_event_of_a_change() {
    let inner = Arc::new(EventSyncStorage::new(Arc::new(MemoryStorage::default())));
    let outer = EventSyncStorage::new(inner.clone()).with_client_id(client("game-server"));
    outer.find_one_and_upsert(&id("go"), body(0), outer.edit_options()).await.unwrap();
    let edit = |body: &mut Body| {
        body.insert("gold".into(), 50.into());
        Ok::<_, std::io::Error>(())
    };
    outer.edit(&id("go"), edit, outer.edit_options()).await.unwrap();
    let page = outer.events().events_after(&id("go"), 0, PageLimit::STANDARD).await.unwrap();
    let seen: Vec<_> = page.events.iter().map(|e| (e.client_id().as_str(), e.client_seq())).collect();
    assert_eq!(seen, [("game-server", Some(1)), ("game-server", Some(2))]);
    let clock = outer.clocks().get_vector_clock(&id("go")).await.unwrap();
    assert_eq!((clock.version, clock.vector.get(&client("game-server"))), (2, 2));
}

/// Defect 16: document and position were read one after the other, and a snapshot claimed what it did not contain.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_under_writers_is_exactly_what_its_events_make() {
    let service = service(Arc::new(MemoryStorage::default())).await;
    write(&service, PushOp::Create { state: body(0) }).await;
    let writer = {
        let service = service.clone();
        tokio::spawn(async move {
            for n in 1..400 {
                // Deleted and made anew now and then: those are changes like others.
                let op = if n % 50 == 0 { PushOp::Delete } else { PushOp::Replace { state: body(n) } };
                write(&service, op).await;
            }
        })
    };
    let mut looks = 0;
    while !writer.is_finished() || looks == 0 {
        let snapshot = service.latest(&id("go")).await.unwrap();
        let replayed = service.state_at(&id("go"), snapshot.version).await.unwrap();
        assert_eq!(snapshot.value(), replayed.value(), "at version {}", snapshot.version);
        assert_eq!(snapshot.state_vector.get(&client("server")), snapshot.version);
        looks += 1;
    }
    writer.await.unwrap();
}

/// Defect 19: an upsert of a document that was there made a "create".
#[tokio::test]
async fn an_upsert_of_what_is_there_is_no_event() {
    let storage = EventSyncStorage::new(Arc::new(MemoryStorage::default()));
    for n in 0..3 {
        let upserted = storage.find_one_and_upsert(&id("go"), body(n), storage.edit_options()).await.unwrap();
        assert_eq!(matches!(upserted, Upserted::Created { .. }), n == 0);
    }
    assert_eq!(storage.events().latest(&id("go")).await.unwrap(), 1);
}

/// Defect 20: updates of the persistent clock were lost, and a dot in a client's name broke its key.
#[tokio::test]
async fn clocks_and_vectors_of_any_client_survive_and_only_grow() {
    let shelf: Arc<dyn Shelf> = Arc::new(MemoryShelf::new());
    let storage = Arc::new(MemoryStorage::default());
    let names = ["a", "a.b", "a.b.c", "$set", "\u{e9} %2F/"];
    for _ in 0..2 {
        // The second time around is after a restart.
        let clocks = PersistentVectorClockManager::new(Arc::clone(&shelf));
        let service = SyncService::start(SyncServiceOptions {
            storage: Arc::new(
                EventSyncStorage::new(storage.clone()).with_vector_clock_manager(Arc::new(clocks)),
            ),
            shelf: Arc::clone(&shelf),
            snapshots: SnapshotPolicy { every: None, age: None, keep: 1 },
            compaction: None,
            rules: None,
        })
        .await
        .unwrap();
        for name in names {
            for n in 0..30 {
                let op = PushOp::Replace { state: json!({name: n}).as_object().unwrap().clone() };
                service.write(&id("a.b"), &op, WriteOptions::by(client(name))).await.unwrap();
            }
        }
        let latest = service.latest(&id("a.b")).await.unwrap();
        let expect: StateVector<ClientId> = storage.producers(&id("a.b")).await.unwrap();
        assert_eq!(latest.state_vector, expect);
        assert_eq!(latest.state_vector.len(), names.len());
        let vectors = StateVectorManager::new(Arc::clone(&shelf), Arc::clone(service.events()));
        let (go, tab) = (id("a.b"), client("tab.1"));
        vectors.update(&go, &tab, &latest.state_vector, latest.version, 5).await.unwrap();
        // What comes late and says less takes nothing away.
        let kept = vectors.register(&go, &tab, 4).await.unwrap();
        assert_eq!((&kept.vector_clock, kept.cursor, kept.last_updated), (&expect, latest.version, 5));
        assert_eq!(vectors.get(&go, &tab).await.unwrap(), Some(kept));
        let missing = vectors.missing_events(&go, &tab, PageLimit::STANDARD).await.unwrap();
        assert_eq!(missing.events, []);
        let all = vectors.missing_events(&go, &client("stranger"), PageLimit::STANDARD).await.unwrap();
        assert_eq!(all.events.len() as u64, latest.version);
        assert_eq!(vectors.clients(&go, 9).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_clock_manager_counts_only_the_next_event_and_has_a_bound() {
    let storage = EventSyncStorage::new(Arc::new(MemoryStorage::default()));
    for n in 0..4 {
        let op = EditOptions { expected_version: Some(n), ..storage.edit_options() };
        match n {
            0 => drop(storage.find_one_and_upsert(&id("go"), body(n), op).await.unwrap()),
            _ => drop(
                storage
                    .edit(
                        &id("go"),
                        |b: &mut Body| {
                            *b = body(n);
                            Ok::<_, std::io::Error>(())
                        },
                        op,
                    )
                    .await
                    .unwrap(),
            ),
        }
    }
    let events = storage.events().events_after(&id("go"), 0, PageLimit::STANDARD).await.unwrap().events;
    let clocks = DefaultVectorClockManager::new();
    for (event, version) in [(0, 1), (2, 1), (0, 1), (1, 2), (2, 3)] {
        clocks.update_vector_clock(&events[event]).await.unwrap();
        assert_eq!(clocks.get_vector_clock(&id("go")).await.unwrap().version, version);
    }
    let clock = clocks.get_vector_clock(&id("go")).await.unwrap();
    for number in 0..=DefaultVectorClockManager::DOCUMENTS_MAX {
        clocks.learn(&id(&format!("d{number}")), &clock).await.unwrap();
    }
    let mut known = 0;
    for number in 0..=DefaultVectorClockManager::DOCUMENTS_MAX {
        let clock = clocks.get_vector_clock(&id(&format!("d{number}"))).await.unwrap();
        known += usize::from(clock.version > 0);
    }
    assert!(known <= DefaultVectorClockManager::DOCUMENTS_MAX);
}

/// A storage that loses its feed.
mod flaky {
    use nodestorage::{StorageLayer, Watch, WatchFilter, WatchFrom};

    use super::*;

    /// Its watches end with an error after each third change.
    #[derive(Default)]
    pub(super) struct Flaky {
        inner: MemoryStorage,
        pub(super) watches: AtomicUsize,
    }

    #[async_trait]
    impl StorageLayer for Flaky {
        fn inner(&self) -> &dyn Storage {
            &self.inner
        }

        async fn watch(&self, filter: WatchFilter, from: WatchFrom) -> Result<Watch, StorageError> {
            self.watches.fetch_add(1, Ordering::Relaxed);
            let watch = self.inner.watch(filter, from).await?;
            let broken = futures_util::stream::iter([Err(StorageError::Backend("the stream broke".into()))]);
            Ok(Box::pin(watch.take(3).chain(broken)))
        }
    }
}
