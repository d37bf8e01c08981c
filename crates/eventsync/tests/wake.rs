//! Two services over one store, as two processes would be: one's write wakes the other's readers over a topic.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use crdt_core::ClientId;
use eventsync::{
    EventSyncStorage, FeedItem, PageLimit, Resume, Scope, SnapshotPolicy, SyncService, SyncServiceOptions,
    broker::Delivery, protocol::PushOp, service::WriteOptions, shelf::MemoryShelf,
};
use nodestorage::{DocumentId, MemoryStorage};
use serde_json::json;
use spot::{MemoryPubSub, PubSub, PubSubError, SubscriptionOptions, Topic};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn topic() -> Topic {
    Topic::new("games/wake").unwrap()
}

async fn service(storage: &MemoryStorage) -> SyncService {
    let storage = Arc::new(EventSyncStorage::new(Arc::new(storage.clone())));
    let (shelf, snapshots) = (Arc::new(MemoryShelf::default()), SnapshotPolicy::STANDARD);
    SyncService::start(SyncServiceOptions { storage, shelf, snapshots, compaction: None, rules: None })
        .await
        .unwrap()
}

async fn write(service: &SyncService, id: &DocumentId) {
    let op = PushOp::Replace { state: json!({"name": "Go"}).as_object().unwrap().clone() };
    service.write(id, &op, WriteOptions::by(ClientId::new("ann").unwrap())).await.unwrap();
}

/// The next thing in a mailbox that is no event: events come by the store's own watch, which is quick here.
async fn woken(mailbox: &mut eventsync::broker::Mailbox) {
    let waiting = async { while !matches!(mailbox.recv().await, Delivery::Lagged) {} };
    timeout(PATIENCE, waiting).await.expect("a hint in time");
}

#[tokio::test]
async fn a_write_wakes_the_readers_of_another_process_and_nobody_hears_anything_twice() {
    let (storage, pubsub) = (MemoryStorage::default(), MemoryPubSub::new());
    let pubsub: Arc<dyn PubSub> = Arc::new(pubsub);
    let (here, there) = (service(&storage).await, service(&storage).await);
    for service in [&here, &there] {
        service.wake_others(Arc::clone(&pubsub), topic()).await.unwrap();
    }
    let go = DocumentId::new("go").unwrap();
    let mut document = there.broker().mailbox();
    document.subscribe(&go);
    let mut collection = there.broker().mailbox();
    collection.subscribe_collection();
    let mut reader = there.follow(Scope::Document(go.clone()), Resume::After(0), PageLimit::STANDARD);
    write(&here, &go).await;
    woken(&mut document).await;
    woken(&mut collection).await;
    write(&here, &go).await; // Changes nothing, and wakes nobody.
    write(&here, &DocumentId::new("chess").unwrap()).await;
    let mut seen = 0;
    while seen == 0 {
        match timeout(PATIENCE, reader.next()).await.unwrap().unwrap() {
            FeedItem::Events(events) => seen += events.len(),
            FeedItem::Live { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, 1);
    assert!(matches!(here.wake_others(pubsub, topic()).await, Err(PubSubError::Refused(_))));
    for service in [here, there] {
        timeout(PATIENCE, service.close()).await.expect("closes in time").unwrap();
    }
}

#[tokio::test]
async fn hints_that_are_none_harm_nobody_and_lost_ones_make_everybody_look() {
    let storage = MemoryStorage::default();
    let pubsub: Arc<dyn PubSub> = Arc::new(MemoryPubSub::new());
    let service = service(&storage).await;
    service.wake_others(Arc::clone(&pubsub), topic()).await.unwrap();
    let mut mailbox = service.broker().mailbox();
    mailbox.subscribe(&DocumentId::new("go").unwrap());
    for bytes in [&b""[..], b"short", b"12345678", b"12345678\xff\xfe", b"12345678go\n"] {
        pubsub.publish(&topic(), Bytes::copy_from_slice(bytes)).await.unwrap();
    }
    pubsub.publish(&topic(), Bytes::from_static(b"12345678go")).await.unwrap();
    woken(&mut mailbox).await;
    // More than the subscription holds, at once: some are lost, and that is told as a lag.
    for _ in 0..4 * SubscriptionOptions::STANDARD.messages_max {
        pubsub.publish(&topic(), Bytes::from_static(b"12345678chess")).await.unwrap();
    }
    woken(&mut mailbox).await;
}
