//! Writes that are repeated, refused, or change nothing.

use serde_json::{Value, json};

use crate::{create, support::Server};

/// Defect 13: a table of what was seen dropped the second delete of a document that was made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_can_be_deleted_and_made_anew_any_number_of_times() {
    let server = Server::start().await;
    let mut socket = server.client("a", json!({"documents": {"go": {}}, "collection": {}})).await;
    // Nothing there yet: its first state is that there is none.
    assert_eq!(socket.next_of("snapshot").await["state"], Value::Null);
    for _ in 0..3 {
        create(&server, "go").await;
        assert_eq!(server.request("DELETE", "/api/games/go", &[], b"").await.status, 204);
    }
    let mut seen = (Vec::new(), Vec::new());
    while seen.0.len() < 6 || seen.1.len() < 6 {
        let message = socket.next_of("events").await;
        let list = if message["collection"] == true { &mut seen.1 } else { &mut seen.0 };
        for event in message["events"].as_array().unwrap() {
            list.push((
                event["sequenceNum"].as_u64().unwrap(),
                event["operation"].as_str().unwrap().to_owned(),
            ));
        }
    }
    let expect: Vec<_> =
        (1..=6).map(|n| (n, if n % 2 == 1 { "create" } else { "delete" }.to_owned())).collect();
    assert_eq!(seen.0, expect);
    assert_eq!(seen.1, expect);
    let gone = server.get("/api/games/go").await;
    assert_eq!((gone.status, gone.problem().as_str()), (404, "unknown-document"));
    assert_eq!(server.get("/api/games/go?version=5").await.json()["state"], json!({"name": "go"}));
    assert_eq!(server.get("/api/games/go?version=6").await.json()["state"], Value::Null);
}

/// Defect 21: deleting what is not there was an error in one layer and none in the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_what_is_not_there_changes_nothing_anywhere() {
    let server = Server::start().await;
    assert_eq!(server.request("DELETE", "/api/games/go", &[], b"").await.status, 404);
    let mut socket = server.client("a", json!({})).await;
    socket.send(&json!({"type": "push", "documentId": "go", "clientSeq": 1, "op": "delete"})).await;
    let answer = socket.next().await;
    assert_eq!(
        (&answer["type"], &answer["changed"], &answer["version"]),
        (&json!("pushed"), &json!(false), &json!(0))
    );
    socket
        .send(&json!({"type": "push", "documentId": "go", "clientSeq": 2, "op": "create", "state": {"name": "x"}}))
        .await;
    assert_eq!(socket.next().await["version"], 1);
    assert_eq!(server.service.events().position().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_write_is_answered_again_and_changes_nothing() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut socket = server.client("a", json!({})).await;
    let push =
        json!({"type": "push", "documentId": "go", "clientSeq": 1, "op": "merge", "patch": {"gold": 1}});
    for repeated in [false, true] {
        socket.send(&push).await;
        let answer = socket.next().await;
        assert_eq!(answer["version"], 2);
        assert_eq!((&answer["repeated"], &answer["changed"]), (&json!(repeated), &json!(!repeated)));
    }
    // A refused write leaves its count free.
    let refused =
        json!({"type": "push", "documentId": "go", "clientSeq": 2, "op": "merge", "patch": {"name": 7}});
    socket.send(&refused).await;
    assert_eq!(socket.next().await["type"], "rejected");
    let instead =
        json!({"type": "push", "documentId": "go", "clientSeq": 2, "op": "merge", "patch": {"gold": 2}});
    socket.send(&instead).await;
    assert_eq!(socket.next().await["version"], 3);
    // The same by REST, with a count and with a key.
    let json_kind = ("Content-Type", "application/json");
    let counted = [json_kind, ("Weft-Client-Id", "a"), ("Weft-Client-Seq", "2")];
    let reply = server.request("PATCH", "/api/games/go", &counted, b"{\"gold\": 3}").await;
    assert_eq!((reply.status, reply.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(reply.json()["state"]["gold"], 2);
    let keyed = [json_kind, ("Idempotency-Key", "k-1")];
    let first = server.request("POST", "/api/games", &keyed, b"{\"name\": \"new\"}").await;
    let again = server.request("POST", "/api/games", &keyed, b"{\"name\": \"new\"}").await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json(), again.json());
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = server.request("POST", "/api/games", &keyed, b"{\"name\": \"other\"}").await;
    assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-key-reused"));
    assert_eq!(server.service.events().position().await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_is_refused_leaves_its_number_free() {
    let server = Server::start().await;
    create(&server, "go").await;
    let mut socket = server.client("a", json!({})).await;
    for (base, problem) in [(1, "already-exists"), (2, "already-exists"), (0, "already-exists")] {
        let push = json!({"type": "push", "documentId": "go", "clientSeq": 1, "baseVersion": base, "op": "create", "state": {"name": "x"}});
        socket.send(&push).await;
        let rejected = socket.next_of("rejected").await;
        assert_eq!(rejected["problem"]["type"], format!("urn:weft:problem:{problem}"), "{rejected}");
    }
    let push = json!({"type": "push", "documentId": "new", "clientSeq": 1, "baseVersion": 3, "op": "create", "state": {"name": "x"}});
    socket.send(&push).await;
    assert_eq!(socket.next_of("rejected").await["problem"]["type"], "urn:weft:problem:version-mismatch");
    for document in ["go", "new"] {
        let (op, fields) = if document == "go" { ("merge", "patch") } else { ("create", "state") };
        let push =
            json!({"type": "push", "documentId": document, "clientSeq": 1, "op": op, fields: {"name": "y"}});
        socket.send(&push).await;
        let pushed = socket.next().await;
        assert_eq!((&pushed["type"], &pushed["repeated"]), (&json!("pushed"), &json!(false)), "{pushed}");
    }
}
