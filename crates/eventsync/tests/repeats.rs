//! Requests that come twice because their answer was lost: the same answer, whatever happened in between.

mod support;

use std::sync::Arc;

use eventsync::http::HttpOptions;
use nodestorage::{MemoryStorage, Storage};
use serde_json::json;
use support::{Reply, Server};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn replayed(reply: &Reply) -> bool {
    reply.header("idempotent-replayed") == Some("true")
}

/// It was answered 404, which said that its number was free, and the next write under that number was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counted_delete_of_an_absent_document_is_done_and_says_so() {
    let server = Server::start().await;
    let counted = |n: &'static str| [JSON, ("Weft-Client-Id", "a"), ("Weft-Client-Seq", n)];
    let first = server.request("DELETE", "/api/games/go", &counted("1"), b"").await;
    assert_eq!((first.status, replayed(&first)), (204, false));
    let again = server.request("DELETE", "/api/games/go", &counted("1"), b"").await;
    assert_eq!((again.status, replayed(&again)), (204, true));
    let made = server.request("PUT", "/api/games/go", &counted("2"), br#"{"name": "go"}"#).await;
    assert_eq!((made.status, replayed(&made)), (201, false));
    assert_eq!(server.get("/api/games/go").await.json()["state"], json!({"name": "go"}));
    // The same for one with a name; one with neither can't come twice.
    let named = [("Idempotency-Key", "delete-it")];
    for again in [false, true] {
        let reply = server.request("DELETE", "/api/games/chess", &named, b"").await;
        assert_eq!((reply.status, replayed(&reply)), (204, again));
    }
    assert_eq!(server.request("DELETE", "/api/games/chess", &[], b"").await.status, 404);
}

/// The condition was looked up before the name, and the document that the first request deleted was missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_is_known_before_its_condition_is_looked_at() {
    let server = Server::start().await;
    let counted = [JSON, ("Weft-Client-Id", "a"), ("Weft-Client-Seq", "1"), ("If-Match", "*")];
    let named = [JSON, ("Idempotency-Key", "k"), ("If-Match", "*")];
    for headers in [&counted[..], &named[..]] {
        // Who names nothing that is there is told, and may try again under the same name.
        let absent = server.request("DELETE", "/api/games/go", headers, b"").await;
        assert_eq!((absent.status, absent.problem().as_str()), (412, "version-mismatch"));
        let absent = server.request("PUT", "/api/games/go", headers, br#"{"name": "new"}"#).await;
        assert_eq!((absent.status, absent.problem().as_str()), (412, "version-mismatch"));
        let absent = server.request("PATCH", "/api/games/go", headers, b"{}").await;
        assert_eq!((absent.status, absent.problem().as_str()), (412, "version-mismatch"));
        server.json("PUT", "/api/games/go", &json!({"name": "go"})).await;
        for again in [false, true] {
            let reply = server.request("DELETE", "/api/games/go", headers, b"").await;
            assert_eq!((reply.status, replayed(&reply)), (204, again), "{headers:?}");
        }
    }
}

/// The document is there all the time; that others write it is no reason to say it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_whatever_is_there_is_never_refused_for_its_version() {
    const WRITES: u64 = 60;
    let server = Arc::new(Server::start().await);
    server.json("PUT", "/api/games/go", &json!({"name": "go"})).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let server = Arc::clone(&server);
        writers.spawn(async move {
            for n in 1..=WRITES {
                let key = format!("{writer}-{n}");
                let named = [JSON, ("If-Match", "*"), ("Idempotency-Key", key.as_str())];
                let headers = if writer == 0 { &named[..] } else { &named[..2] };
                let body = json!({ format!("w{writer}"): n }).to_string();
                let reply = server.request("PATCH", "/api/games/go", headers, body.as_bytes()).await;
                assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let state = &server.get("/api/games/go").await.json()["state"];
    assert_eq!(state, &json!({"name": "go", "w0": WRITES, "w1": WRITES, "w2": WRITES}));
}

/// The id was taken from the document, and drawn anew where that was gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_create_names_its_document_though_that_was_deleted() {
    let storage = Arc::new(MemoryStorage::default());
    let server = Server::start_over(storage.clone(), HttpOptions::new("games")).await;
    let named = [JSON, ("Idempotency-Key", "make-one")];
    let first = server.request("POST", "/api/games", &named, br#"{"name": "go"}"#).await;
    let id = first.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.request("DELETE", &format!("/api/games/{id}"), &[], b"").await.status, 204);
    let again = server.request("POST", "/api/games", &named, br#"{"name": "go"}"#).await;
    assert_eq!((again.status, replayed(&again)), (201, true));
    assert_eq!(again.json(), json!({"id": id, "version": 1, "state": null}));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(storage.position().await.unwrap(), 2);
}
