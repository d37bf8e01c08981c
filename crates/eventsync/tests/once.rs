//! Requests with a name that come to two services over one store at once, as they do to two processes.

use std::sync::Arc;

use crdt_core::ClientId;
use eventsync::{
    EventSyncStorage, SnapshotPolicy, SyncService, SyncServiceOptions,
    protocol::{ProblemType, PushOp},
    service::{IdempotencyKey, WriteOptions},
    shelf::MemoryShelf,
};
use nodestorage::{DocumentId, MemoryStorage, Storage};
use serde_json::json;

const ROUNDS: u64 = 200;

fn merge(n: u64) -> PushOp {
    PushOp::Merge { patch: json!({ "n": n }).as_object().unwrap().clone() }
}

fn options() -> WriteOptions {
    WriteOptions::by(ClientId::new("ann").unwrap())
}

async fn services() -> (Vec<SyncService>, MemoryStorage) {
    let (storage, shelf) = (MemoryStorage::default(), Arc::new(MemoryShelf::default()));
    let mut services = Vec::new();
    for _ in 0..2 {
        let storage = Arc::new(EventSyncStorage::new(Arc::new(storage.clone())));
        let (shelf, snapshots) = (shelf.clone(), SnapshotPolicy::STANDARD);
        let options = SyncServiceOptions { storage, shelf, snapshots, compaction: None, rules: None };
        services.push(SyncService::start(options).await.unwrap());
    }
    (services, storage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_request_is_done_once_by_two_services() {
    let (services, storage) = services().await;
    let id = DocumentId::new("go").unwrap();
    let create = PushOp::Create { state: json!({"n": 0}).as_object().unwrap().clone() };
    services[0].write(&id, &create, options()).await.unwrap();
    for n in 1..=ROUNDS {
        let key = IdempotencyKey::new(&format!("request {n}").replace(' ', "-"), &[b"body"]).unwrap();
        let tasks: Vec<_> = services
            .iter()
            .map(|service| {
                let (service, key, id) = (service.clone(), key.clone(), id.clone());
                tokio::spawn(async move { service.write_once(&key, &id, &merge(n), options()).await })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap().1.version, n + 1);
        }
        let (_, again) = services[n as usize % 2].write_once(&key, &id, &merge(n), options()).await.unwrap();
        assert!(again.repeated && again.version == n + 1, "{again:?}");
    }
    assert_eq!(storage.find_one(&id).await.unwrap().unwrap().version, ROUNDS + 1);
    for service in services {
        service.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_free_again_after_a_refusal_and_taken_after_a_write() {
    let (services, _) = services().await;
    let id = DocumentId::new("go").unwrap();
    let key = |body: &[u8]| IdempotencyKey::new("a-name", &[body]).unwrap();
    let refused = services[0].write_once(&key(b"1"), &id, &merge(1), options()).await.unwrap_err();
    assert!(refused.problem.is(ProblemType::UnknownDocument), "{refused:?}");
    let create = PushOp::Create { state: json!({"n": 0}).as_object().unwrap().clone() };
    services[1].write_once(&key(b"2"), &id, &create, options()).await.unwrap();
    let reused = services[0].write_once(&key(b"3"), &id, &merge(3), options()).await.unwrap_err();
    assert!(reused.problem.is(ProblemType::IdempotencyKeyReused), "{reused:?}");
    for service in services {
        service.close().await.unwrap();
    }
}
