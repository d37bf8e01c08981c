//! Server-Sent Events of readers whose connection ends early, and of stores that take their time.

mod support;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use crdt_core::ClientId;
use eventsync::{
    FeedItem, PageLimit, Resume, Scope, protocol::PushOp, service::WriteOptions, shelf::MemoryShelf,
};
use nodestorage::{ChangePage, DocumentId, MemoryStorage, Storage, StorageError, StorageLayer};
use serde_json::json;
use support::Server;

/// A browser comes back with the last id that it was given. It was given none before the first event, came back without
/// one, and what was written in between was lost to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ended_before_its_first_event_is_resumed_where_it_began() {
    let server = Server::start().await;
    server.json("PUT", "/api/games/go", &json!({"name": "go"})).await;
    let mut stream = server.stream("/events", &[]).await;
    let (name, id, _) = stream.next().await;
    assert_eq!((name.as_str(), id), ("live", Some(1)));
    drop(stream);
    server.json("PUT", "/api/games/chess", &json!({"name": "chess"})).await;
    let mut back = server.stream("/events", &[("Last-Event-ID", "1")]).await;
    let (name, id, event) = back.next().await;
    assert_eq!((name.as_str(), id, &event["documentId"]), ("event", Some(2), &json!("chess")));
}

/// What a stream is told of its place does not take back what it knew: the time of its last event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_live_at_once_keeps_the_time_of_its_event() {
    let server = Server::start().await;
    server.json("PUT", "/api/games/go", &json!({"name": "go"})).await;
    let event = &server.get("/api/events?after=0").await.json()["events"][0];
    let place = format!("1@{}", event["timestamp"]);
    for path in ["/events", "/events/go"] {
        let mut stream = server.stream(path, &[("Last-Event-ID", &place)]).await;
        let live = stream.until("\n\n").await + &stream.until("\n\n").await;
        assert!(live.contains(&format!("id: {place}\nevent: live\n")), "{live}");
        let mut stream = server.stream(path, &[("Last-Event-ID", "0")]).await;
        let event = stream.until("\n\n").await + &stream.until("\n\n").await;
        assert!(event.contains(&format!("id: {place}\nevent: event\n")), "{event}");
        assert!(stream.until("\n\n").await.contains(&format!("id: {place}\nevent: live\n")));
    }
}

/// A store that takes longer than the stream's heartbeat.
#[derive(Default)]
struct Slow(MemoryStorage);

const READ_TAKES: Duration = Duration::from_secs(40);

#[async_trait]
impl StorageLayer for Slow {
    fn inner(&self) -> &dyn Storage {
        &self.0
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        tokio::time::sleep(READ_TAKES).await;
        Storage::changes(&self.0, id, after, limit).await
    }
}

/// Each heartbeat dropped the read that was under way, and it never came to its end.
#[tokio::test(start_paused = true)]
async fn a_read_that_takes_longer_than_a_heartbeat_comes_to_its_end() {
    let service = support::service(Arc::new(Slow::default()), Arc::new(MemoryShelf::new()), 10).await;
    let id = DocumentId::new("go").unwrap();
    let state = json!({"name": "go"}).as_object().unwrap().clone();
    let by = WriteOptions::by(ClientId::new("p").unwrap());
    service.write(&id, &PushOp::Create { state }, by).await.unwrap();
    let mut reader = service.follow(Scope::Document(id), Resume::After(0), PageLimit::STANDARD);
    for _ in 0..50 {
        if let Ok(item) = tokio::time::timeout(Duration::from_secs(15), reader.next()).await {
            assert!(matches!(item.unwrap(), FeedItem::Events(events) if events.len() == 1));
            return service.close().await.unwrap();
        }
    }
    panic!("no event in 750 seconds of reads that take 40");
}
