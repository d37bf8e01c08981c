//! `/openapi.json` and `/metrics` say what is so.

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::Server;

/// Everything in a value that refers to a schema.
fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(elements) => elements.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// Whether a value is what a schema says; as much of JSON Schema as the description uses.
fn check(schema: &Value, value: &Value, all: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = all.pointer(&name[1..]).unwrap_or_else(|| panic!("no {name}"));
        return check(schema, value, all, place);
    }
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{place}: {value} is none of {values:?}");
    }
    let kinds: Vec<_> = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(kinds.contains(&kind), "{place}: {value} is {kind}, not {kinds:?}");
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(name).is_some(), "{place}: no {name} in {value}");
    }
    if let (Some(properties), Some(members)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, value) in members {
            let Some(schema) = properties.get(name) else { panic!("{place}: {name} is not described") };
            check(schema, value, all, &format!("{place}.{name}"));
        }
    }
    for element in value.as_array().into_iter().flatten() {
        check(&schema["items"], element, all, place);
    }
}

#[tokio::test]
async fn every_path_that_is_described_is_there_and_answers_as_described() {
    let server = Server::start().await;
    let game = json!({"name": "Go"});
    for id in ["go", "chess"] {
        assert_eq!(server.json("PUT", &format!("/api/games/{id}"), &game).await.status, 201);
    }
    assert_eq!(server.get("/api/snapshots/go/1").await.status, 404);
    assert_eq!(server.request("POST", "/api/snapshots/go", &[], b"").await.status, 201);
    let all = server.get("/openapi.json").await.json();
    assert_eq!(all["openapi"], "3.1.0");
    let mut schemas = BTreeSet::new();
    references(&all, &mut schemas);
    for name in schemas {
        assert!(all.pointer(&name[1..]).is_some(), "{name} is not there");
    }
    let mut requests = Vec::new();
    for (path, item) in all["paths"].as_object().unwrap() {
        requests
            .extend(item.as_object().unwrap().iter().map(|(method, operation)| (path, method, operation)));
    }
    // What makes and changes comes before what looks, and what deletes last.
    requests.sort_by_key(|(_, method, _)| {
        ["post", "put", "patch", "get", "delete"].iter().position(|m| m == method)
    });
    for (path, method, operation) in requests {
        let real = path.replace("{id}", "go").replace("{version}", "1");
        if real.starts_with("/sync") || real.starts_with("/events") {
            // Streams and sockets have tests of their own; that they are there is enough.
            assert_ne!(server.request("OPTIONS", &real, &[], b"").await.status, 404, "{path}");
            continue;
        }
        let (body, kind) = match (method.as_str(), real.as_str()) {
            ("post", "/api/push/go") => (
                json!({"clientId": "a", "clientSeq": 1, "op": "merge", "patch": {"n": 1}}),
                "application/json",
            ),
            ("post", "/api/sync/go") => (json!({"clientId": "a"}), "application/json"),
            ("post" | "put", _) => (game.clone(), "application/json"),
            ("patch", _) => (json!({"n": 2}), "application/merge-patch+json"),
            _ => (Value::Null, "application/json"),
        };
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        let headers = [("Content-Type", kind)];
        let reply = server.request(&method.to_uppercase(), &real, &headers, &body).await;
        let described = &operation["responses"][reply.status.to_string()];
        assert!((200..300).contains(&reply.status), "{method} {path}: {}", reply.status);
        assert!(described.is_object(), "{method} {path}: {} is not described", reply.status);
        match described.pointer("/content/application~1json/schema") {
            Some(schema) => check(schema, &reply.json(), &all, &format!("{method} {path}")),
            None => assert_eq!(reply.body, b"", "{method} {path}"),
        }
    }
    let problem = server.get("/api/games/none").await;
    let described = &all["paths"]["/api/games/{id}"]["get"]["responses"]["404"];
    let schema = described.pointer("/content/application~1problem+json/schema").unwrap();
    assert_eq!(problem.status, 404);
    let urn = problem.json()["type"].as_str().unwrap().to_owned();
    assert!(described["description"].as_str().unwrap().contains(&urn), "{urn}");
    assert!(
        all.pointer(&schema["$ref"].as_str().unwrap()[1..]).unwrap()["properties"]["type"]["enum"]
            .as_array()
            .unwrap()
            .contains(&json!(urn))
    );
}

#[tokio::test]
async fn every_path_that_people_read_of_is_described() {
    let described = Server::start().await.get("/openapi.json").await.json();
    let page = include_str!("../../../docs/formats/eventsync-wire.md");
    let mut count = 0;
    for request in page.split('`').filter(|code| code.contains(" /")) {
        let (method, path) = request.split_once(' ').unwrap();
        if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method) {
            continue;
        }
        let path = path.split(['?', ' ']).next().unwrap().replace("{documentId}", "{id}");
        if path == "/metrics" {
            // It is the application's, which adds to it.
            continue;
        }
        let found = &described["paths"][&path][method.to_lowercase()];
        assert!(found.is_object(), "{method} {path} is in the page only");
        count += 1;
    }
    assert!(count >= 20, "only {count} paths are in the page");
}

#[tokio::test]
async fn metrics_tell_of_the_service_and_of_what_the_application_adds() {
    let server = Server::start().await;
    let router = eventsync::http::metrics(server.service.clone(), None, |page| {
        page.of("own_total", "counter", "Of the application.");
        page.each("kind", &[("a", 1), ("b", 2)]);
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = Server { address: listener.local_addr().unwrap(), service: server.service.clone() };
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    server.json("PUT", "/api/games/go", &json!({"name": "Go"})).await;
    let _socket = server.client("a", json!({})).await;
    let page = metrics.get("/metrics").await;
    assert_eq!(page.status, 200);
    let page = String::from_utf8(page.body).unwrap();
    for line in [
        "# TYPE weft_position gauge",
        "weft_position 1",
        "weft_connections 1",
        "# TYPE weft_refused_total counter",
        "weft_refused_total{reason=\"connections\"} 0",
        "weft_ready 1",
        "own_total{kind=\"a\"} 1",
        "own_total{kind=\"b\"} 2",
    ] {
        assert!(page.lines().any(|other| other == line), "{line:?} is not in {page}");
    }
}
