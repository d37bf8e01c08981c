//! `/openapi.json` and `/metrics` say what is so.

mod support;

use std::collections::BTreeSet;

use eventsync::http::HttpOptions;
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

/// Everything that somewhere is a parameter, in the query or a header, with values that are none of it.
const PARAMETERS: &[(&str, &str, &[&str])] = &[
    ("query", "after", &["", "%00"]),
    ("query", "limit", &["x", "-1", "1.5", "1@1767225600000"]),
    ("query", "wait", &["x", "-1", "1.5", "1@1767225600000"]),
    ("query", "version", &["x", "-1", "1.5", "1@1767225600000"]),
    ("query", "id", &["", "%00"]),
    ("header", "Weft-Client-Id", &["", "\u{fc}"]),
    ("header", "Weft-Client-Seq", &["", "x", "-1", "1.5", "1@1767225600000"]),
    ("header", "Idempotency-Key", &["", "a b", "\u{fc}"]),
    ("header", "If-Match", &["1", "x", "\"x\"", "*, *"]),
    ("header", "If-None-Match", &["1", "\"1\"", "x"]),
    ("header", "Last-Event-ID", &["x", "-1", "1@", "1@x"]),
];

/// What a schema of a parameter takes: its least number, or its examples.
fn good(schema: &Value) -> Vec<String> {
    match (schema["type"].as_str(), schema["examples"].as_array()) {
        (Some("integer"), None) => vec![schema["minimum"].to_string()],
        (Some("string"), Some(examples)) => {
            examples.iter().map(|example| example.as_str().unwrap().to_owned()).collect()
        }
        _ => panic!("{schema} has neither a least number nor examples"),
    }
}

/// A request of each kind that changes nothing of what others ask for: its body, and the body's type.
fn body_of(method: &str, path: &str) -> (&'static str, &'static str) {
    match (method, path) {
        ("post", "/api/push/{id}") => {
            (r#"{"clientId":"a","op":"merge","patch":{"n":1}}"#, "application/json")
        }
        ("post", "/api/sync/{id}") => (r#"{"clientId":"a"}"#, "application/json"),
        ("post" | "put", _) => (r#"{"name":"Go"}"#, "application/json"),
        ("patch", _) => (r#"{"n":2}"#, "application/merge-patch+json"),
        _ => ("", ""),
    }
}

/// A server that is asked as often as a test likes, its description, and all that can be asked for.
async fn described() -> (Server, Value, Vec<(String, String)>) {
    let options = HttpOptions { per_address: None, per_principal: None, ..HttpOptions::new("games") };
    let server = Server::start_with(options).await;
    let all = server.get("/openapi.json").await.json();
    let mut operations = Vec::new();
    for (path, item) in all["paths"].as_object().unwrap() {
        // Sockets say no more than that they are there.
        let methods = item.as_object().unwrap().keys().filter(|_| !path.starts_with("/sync"));
        operations.extend(methods.map(|method| (path.clone(), method.clone())));
    }
    (server, all, operations)
}

/// Asks, and checks that the status of the answer is described, and of a problem its type. Streams are not read.
async fn ask(
    server: &Server,
    all: &Value,
    (path, method): &(String, String),
    (query, header): (&str, Option<(&str, &str)>),
    place: &str,
) -> u16 {
    // What an earlier request has deleted.
    if method != "post" {
        server.json("PUT", "/api/games/go", &json!({"name": "Go"})).await;
    }
    let (body, kind) = body_of(method, path);
    let real = path.replace("{id}", "go").replace("{version}", "1") + query;
    let mut headers: Vec<_> = header.into_iter().collect();
    headers.extend((!kind.is_empty()).then_some(("Content-Type", kind)));
    let status = if path.starts_with("/events") {
        let (reply, _) = server.begin(&real, &headers).await;
        reply
    } else {
        let reply = server.request(&method.to_uppercase(), &real, &headers, body.as_bytes()).await;
        let described = &all["paths"][path][method]["responses"][reply.status.to_string()];
        if reply.status >= 400 {
            let kind = reply.json()["type"].as_str().unwrap().to_owned();
            let known = described["description"].as_str().unwrap_or_default();
            assert!(known.split(", ").any(|known| known == kind), "{place}: {kind} is none of {known:?}");
        }
        reply.status
    };
    let responses = &all["paths"][path][method]["responses"];
    assert!(responses[status.to_string()].is_object(), "{place}: {status} is not described");
    status
}

/// `after` was described as a number; that it may name an event as well no program could know.
#[tokio::test]
async fn a_parameter_takes_what_is_described_and_what_is_not_described_is_none() {
    let (server, all, operations) = described().await;
    server.json("PUT", "/api/games/go", &json!({"name": "Go"})).await;
    assert_eq!(server.request("POST", "/api/snapshots/go", &[], b"").await.status, 201);
    for operation in &operations {
        let (path, method) = operation;
        let described: Vec<_> = all["paths"][path][method]["parameters"].as_array().unwrap().iter().collect();
        for parameter in &described {
            let name = parameter["name"].as_str().unwrap();
            let known =
                PARAMETERS.iter().any(|(place, known, _)| parameter["in"] == *place && name == *known);
            assert!(known || parameter["in"] == "path", "{method} {path}: {name} is not tried here");
        }
        for (place, name, bad) in PARAMETERS {
            let found =
                described.iter().find(|parameter| parameter["in"] == *place && parameter["name"] == *name);
            let given = |value: &str| match *place {
                "query" => (format!("?{name}={value}"), None),
                _ => (String::new(), Some((*name, value.to_owned()))),
            };
            for (value, is_good) in found
                .map(|parameter| good(&parameter["schema"]))
                .into_iter()
                .flatten()
                .map(|value| (value, true))
                .chain(bad.iter().map(|value| ((*value).to_owned(), false)))
            {
                let asked = format!("{method} {path} with {name} {value:?}");
                let (query, header) = given(&value.replace('@', "%40"));
                let header = header.map(|(name, _)| (name, value.as_str()));
                let status = ask(&server, &all, operation, (&query, header), &asked).await;
                // A read is answered in full where its tag is none.
                let is_refused =
                    found.is_some() && !is_good && !(method == "get" && *name == "If-None-Match");
                assert_eq!(status == 400, is_refused, "{asked}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_is_of_the_types_that_are_described() {
    let (server, all, operations) = described().await;
    let kinds =
        ["application/json", "application/json-patch+json", "application/merge-patch+json", "text/plain"];
    for (path, method) in &operations {
        let described = &all["paths"][path][method]["requestBody"]["content"];
        let Some(described) = described.as_object() else { continue };
        for kind in kinds {
            server.json("PUT", "/api/games/go", &json!({"name": "Go"})).await;
            let body = if kind.contains("json-patch") { "[]" } else { body_of(method, path).0 };
            let path = path.replace("{id}", "go");
            let headers = [("Content-Type", kind)];
            let status =
                server.request(&method.to_uppercase(), &path, &headers, body.as_bytes()).await.status;
            assert_eq!(status == 415, !described.contains_key(kind), "{method} {path} of {kind}: {status}");
        }
        // Of another type than it is said to be.
        let schema = described["application/json"]["schema"]["$ref"].as_str().unwrap();
        let Some(fields) = all.pointer(&schema[1..]).unwrap()["properties"].as_object() else { continue };
        for (name, schema) in fields {
            let mut body: Value = serde_json::from_str(body_of(method, path).0).unwrap();
            // An array is none of them, but for the patch of an operation that takes an object.
            body[name] = json!([[]]);
            let reply = server.json(&method.to_uppercase(), &path.replace("{id}", "go"), &body).await;
            // Fields of another operation are not looked at.
            let is_read = !["state"].contains(&name.as_str());
            assert_eq!(reply.status == 400, is_read, "{method} {path}: {name} of {schema}");
        }
    }
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
