//! The description of the surface for programs: OpenAPI 3.1, made for the application's documents.
//!
//! `docs/formats/eventsync-wire.md` says it for people, with what OpenAPI has no words for: sockets and streams.

use axum::{extract::State, http::StatusCode, response::Response};
use crdt_core::ClientId;
use nodestorage::DocumentId;
use serde_json::{Map, Value, json};

use super::{App, output::json as answer};
use crate::{protocol::ProblemType, service::IdempotencyKey};

pub(super) async fn show(State(app): State<App>) -> Response {
    answer(StatusCode::OK, &description(&app.options.collection, app.options.authorizer.is_some()))
}

/// One thing that can be asked for.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// Parameters of the query and headers, by the names that they have below.
    takes: &'static [&'static str],
    /// The media types of the body and its schema; none without a body.
    body: &'static [(&'static str, &'static str)],
    /// The statuses of success, each with the schema of its JSON; none without a body.
    answers: &'static [(u16, &'static str)],
    /// What may go wrong besides what may always.
    problems: &'static [ProblemType],
}

const JSON: &str = "application/json";
const WRITE: &[&str] = &["Weft-Client-Id", "Weft-Client-Seq", "Idempotency-Key", "If-Match", "If-None-Match"];

use ProblemType::{
    AlreadyExists, HistoryCompacted, IdempotencyInProgress, IdempotencyKeyReused, InvalidDocument,
    InvalidJson, InvalidPatch, SequenceGap, TooLarge, TooMany, UnknownDocument, UnknownVersion,
    UnsupportedMediaType, VersionMismatch,
};

const WRITE_PROBLEMS: &[ProblemType] = &[
    UnknownDocument,
    InvalidJson,
    InvalidDocument,
    VersionMismatch,
    SequenceGap,
    TooLarge,
    UnsupportedMediaType,
    IdempotencyInProgress,
    IdempotencyKeyReused,
];

macro_rules! operations {
    ($($method:ident $path:literal $summary:literal {
        $(takes: $takes:expr,)? $(body: $body:expr,)? answers: $answers:expr $(, problems: $problems:expr)? $(,)?
    })*) => {
        &[$(Operation {
            method: stringify!($method),
            path: $path,
            summary: $summary,
            takes: operations!(@or $($takes)?),
            body: operations!(@or $($body)?),
            answers: $answers,
            problems: operations!(@or $($problems)?),
        },)*]
    };
    (@or $value:expr) => { $value };
    (@or) => { &[] };
}

const OPERATIONS: &[Operation] = operations! {
    get "/api/{collection}" "List the documents in the order of their ids" {
        takes: &["limit", "after (id)"], answers: &[(200, "DocumentPage")],
    }
    post "/api/{collection}" "Create a document" {
        takes: &["id", "Weft-Client-Id", "Weft-Client-Seq", "Idempotency-Key", "If-Match", "If-None-Match"],
        body: &[(JSON, "State")], answers: &[(201, "Document")],
        problems: &[AlreadyExists, InvalidJson, InvalidDocument, VersionMismatch, SequenceGap, TooLarge,
            UnsupportedMediaType, IdempotencyInProgress, IdempotencyKeyReused],
    }
    get "/api/{collection}/{id}" "Read a document, as it is or as it was" {
        takes: &["version", "If-None-Match (tag)"], answers: &[(200, "Document"), (304, "")],
        problems: &[UnknownDocument, UnknownVersion, HistoryCompacted],
    }
    put "/api/{collection}/{id}" "Replace a document, or create it" {
        takes: WRITE, body: &[(JSON, "State")], answers: &[(200, "Document"), (201, "Document")],
        problems: WRITE_PROBLEMS,
    }
    patch "/api/{collection}/{id}" "Change a document" {
        takes: WRITE,
        body: &[("application/json-patch+json", "JsonPatch"), ("application/merge-patch+json", "State"),
            (JSON, "State")],
        answers: &[(200, "Document")],
        problems: &[UnknownDocument, InvalidPatch, InvalidJson, InvalidDocument, VersionMismatch, SequenceGap,
            TooLarge, UnsupportedMediaType, IdempotencyInProgress, IdempotencyKeyReused],
    }
    delete "/api/{collection}/{id}" "Delete a document. An absent one is no problem of a write that is counted or named" {
        takes: WRITE, answers: &[(204, "")],
        problems: &[UnknownDocument, VersionMismatch, SequenceGap, IdempotencyInProgress, IdempotencyKeyReused],
    }
    post "/api/push/{id}" "Write without a socket" {
        body: &[(JSON, "Push")], answers: &[(200, "Pushed")],
        problems: &[UnknownDocument, AlreadyExists, InvalidPatch, InvalidJson, InvalidDocument, VersionMismatch,
            SequenceGap, TooLarge, UnsupportedMediaType],
    }
    post "/api/sync/{id}" "Catch up: a snapshot where it is needed, and what has happened since. Where there is more, `next` is the next cursor, and the vector is sent again" {
        body: &[(JSON, "SyncRequest")], answers: &[(200, "SyncAnswer")],
        problems: &[UnknownDocument, InvalidJson, TooLarge, UnsupportedMediaType],
    }
    get "/api/events" "Read the events of all documents" {
        takes: &["after", "limit", "wait"], answers: &[(200, "EventPage")], problems: &[HistoryCompacted],
    }
    get "/api/events/{id}" "Read the events of a document" {
        takes: &["after", "limit", "wait"], answers: &[(200, "EventPage")],
        problems: &[UnknownDocument, HistoryCompacted],
    }
    get "/api/snapshots/{id}" "List the snapshots of a document, newest first" {
        answers: &[(200, "SnapshotList")], problems: &[UnknownDocument],
    }
    post "/api/snapshots/{id}" "Make a snapshot of a document" {
        answers: &[(200, "Snapshot"), (201, "Snapshot")], problems: &[UnknownDocument],
    }
    get "/api/snapshots/{id}/{version}" "Read a snapshot" {
        answers: &[(200, "Snapshot")], problems: &[UnknownVersion],
    }
    get "/api/state-vectors/{id}" "Which writes of which clients a document holds, and what its clients have" {
        takes: &["limit", "after (id)"], answers: &[(200, "StateVectors")], problems: &[UnknownDocument],
    }
    get "/events" "Follow all documents by Server-Sent Events. `live` has an id too" {
        takes: &["after", "Last-Event-ID"], answers: &[(200, "text/event-stream")], problems: &[TooMany],
    }
    get "/events/{id}" "Follow a document by Server-Sent Events" {
        takes: &["after", "Last-Event-ID"], answers: &[(200, "text/event-stream")],
        problems: &[UnknownDocument, TooMany],
    }
    get "/sync" "Open a WebSocket: eventsync.v1.json or eventsync.v1.msgpack" {
        answers: &[(101, "")], problems: &[ProblemType::Forbidden, TooMany],
    }
    get "/sync/{id}" "Open a WebSocket of a document" {
        answers: &[(101, "")], problems: &[ProblemType::Forbidden, TooMany],
    }
    get "/openapi.json" "This description" { answers: &[(200, "State")] }
    get "/livez" "Whether the process runs" { answers: &[(200, "Status")] }
    get "/readyz" "Whether new clients are welcome" { answers: &[(200, "Status")] }
};

/// Who asks for these need not say who they are.
const OPEN: &[&str] = &["/openapi.json", "/livez", "/readyz"];

/// What may be asked as often as one likes.
const UNCOUNTED: &[&str] = &["/livez", "/readyz"];

/// `is_guarded`: callers have to say who they are.
fn description(collection: &str, is_guarded: bool) -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = operation.path.replace("{collection}", collection);
        let item = paths.entry(path.clone()).or_insert_with(|| json!({}));
        item[operation.method] = operation.describe(&path, is_guarded);
    }
    let types: Vec<_> = ProblemType::ALL.iter().map(|kind| kind.urn()).collect();
    let mut described = json!({
        "openapi": "3.1.0",
        "info": {
            "title": format!("eventsync: {collection}"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every client gets every change of a document once and in order.",
        },
        "paths": paths,
        "components": {"schemas": schemas(&types)},
    });
    if is_guarded {
        described["components"]["securitySchemes"] = json!({"token": {"type": "http", "scheme": "bearer"}});
        described["security"] = json!([{"token": []}]);
    }
    described
}

impl Operation {
    fn describe(&self, path: &str, is_guarded: bool) -> Value {
        let is_open = OPEN.contains(&path);
        let of_path = ["id", "version"].iter().filter(|name| path.contains(&format!("{{{name}}}")));
        let of_path = of_path.map(|name| {
            let kind = if *name == "id" { "string" } else { "integer" };
            json!({"name": name, "in": "path", "required": true, "schema": {"type": kind}})
        });
        let parameters: Vec<_> = of_path.chain(self.takes.iter().map(|name| parameter(name))).collect();
        let mut responses = Map::new();
        for (status, schema) in self.answers {
            responses.insert(status.to_string(), success(schema));
        }
        let mut problems: Vec<_> = self.problems.to_vec();
        problems.extend([ProblemType::InvalidRequest, ProblemType::Internal, ProblemType::Unavailable]);
        if !self.body.is_empty() {
            problems.push(ProblemType::TooSlow);
        }
        if path.contains("{id}") || self.takes.iter().any(|name| name.to_lowercase().contains("id")) {
            problems.push(ProblemType::InvalidId);
        }
        if is_guarded && !is_open {
            problems.extend([ProblemType::NotAuthenticated, ProblemType::Forbidden]);
        }
        if !UNCOUNTED.contains(&path) {
            problems.push(TooMany);
        }
        problems.sort_by_key(|kind| (kind.status(), kind.urn()));
        problems.dedup();
        for same in problems.chunk_by(|one, other| one.status() == other.status()) {
            let names: Vec<_> = same.iter().map(|kind| kind.urn()).collect();
            let content = json!({"application/problem+json": {"schema": reference("Problem")}});
            let mut problem = json!({"description": names.join(", "), "content": content});
            if same.iter().any(|kind| [TooMany, ProblemType::Unavailable].contains(kind)) {
                let seconds = json!({"type": "integer", "minimum": 1});
                problem["headers"] = json!({"Retry-After": {"description": "in how many seconds to come back", "schema": seconds}});
            }
            responses.insert(same[0].status().to_string(), problem);
        }
        let mut described =
            json!({"summary": self.summary, "parameters": parameters, "responses": responses});
        if is_guarded && is_open {
            described["security"] = json!([]);
        }
        if !self.body.is_empty() {
            let content = self.body.iter();
            let content =
                content.map(|(kind, schema)| ((*kind).to_owned(), json!({"schema": reference(schema)})));
            described["requestBody"] = json!({"required": true, "content": content.collect::<Map<_, _>>()});
        }
        described
    }
}

fn parameter(name: &str) -> Value {
    let whole = json!({"type": "integer", "minimum": 0});
    let text = |most: usize, example: &str| json!({"type": "string", "minLength": 1, "maxLength": most, "examples": [example]});
    let of_form = |pattern: &str, examples: &[&str]| json!({"type": "string", "pattern": pattern, "examples": examples});
    // A number, and behind an `@` when the event of that number was made.
    let places = ["12", "12@1767225600000"];
    let (name, place, schema) = match name {
        "after (id)" => ("after", "query", text(DocumentId::LEN_BYTES_MAX, "chess")),
        "id" => (name, "query", text(DocumentId::LEN_BYTES_MAX, "chess")),
        "after" => (name, "query", of_form("^[0-9]+(@[0-9]+)?$", &places)),
        "limit" | "wait" | "version" => (name, "query", whole),
        "Last-Event-ID" => (name, "header", of_form("^([0-9]+(@[0-9]+)?)?$", &places)),
        "Weft-Client-Id" => (name, "header", text(ClientId::LEN_BYTES_MAX, "phone-1")),
        "Weft-Client-Seq" => (name, "header", json!({"type": "integer", "minimum": 1})),
        "Idempotency-Key" => {
            let mut key = text(IdempotencyKey::LEN_BYTES_MAX, "order-66");
            key["pattern"] = "^[!-~]+$".into();
            (name, "header", key)
        }
        "If-Match" => (name, "header", of_form(r#"^("[0-9]+"|\*)$"#, &[r#""3""#, "*"])),
        "If-None-Match" => (name, "header", of_form(r"^\*$", &["*"])),
        "If-None-Match (tag)" => ("If-None-Match", "header", of_form(r#"^"[0-9]+"$"#, &[r#""3""#])),
        other => unreachable!("{other} is a parameter of nothing"),
    };
    json!({"name": name, "in": place, "schema": schema})
}

fn success(schema: &str) -> Value {
    match schema {
        "" => json!({"description": "done"}),
        "text/event-stream" => json!({"description": "a stream", "content": {"text/event-stream": {}}}),
        schema => json!({"description": "done", "content": {JSON: {"schema": reference(schema)}}}),
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// An object of these fields; those that may be missing end in `?`.
fn object(fields: &[(&str, Value)]) -> Value {
    let required: Vec<_> = fields.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('?')).collect();
    let fields = fields.iter().map(|(name, kind)| (name.trim_end_matches('?').to_owned(), kind.clone()));
    json!({"type": "object", "required": required, "properties": fields.collect::<Map<_, _>>()})
}

fn schemas(problem_types: &[&str]) -> Value {
    let text = || json!({"type": "string"});
    let whole = || json!({"type": "integer", "minimum": 0});
    let yes = || json!({"type": "boolean"});
    let list = |of: Value| json!({"type": "array", "items": of});
    let state = || json!({"type": ["object", "null"]});
    let vector = || json!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}});
    let operation = json!({"enum": ["create", "update", "update_section", "delete"]});
    let op = json!({"enum": ["create", "replace", "merge", "patch", "delete"]});
    let snapshot =
        [("documentId", text()), ("version", whole()), ("stateVector", vector()), ("createdAt", whole())];
    let with_state = [&snapshot[..], &[("state", state()), ("timestamp?", whole())]].concat();
    let client = object(&[
        ("clientId", text()),
        ("documentId", text()),
        ("vectorClock", vector()),
        ("cursor", whole()),
        ("lastUpdated", whole()),
    ]);
    json!({
        "State": {"type": "object"},
        "JsonPatch": list(json!({"type": "object", "required": ["op", "path"]})),
        "Status": object(&[("status", text())]),
        "Document": object(&[("id", text()), ("version", whole()), ("state", state())]),
        "DocumentPage": object(&[
            ("items", list(reference("Document"))), ("position", whole()), ("next?", text()),
        ]),
        "Event": object(&[
            ("id", text()), ("documentId", text()), ("timestamp", whole()), ("sequenceNum", whole()),
            ("position", whole()), ("operation", operation), ("diff", json!({"type": "object"})),
            ("vectorClock", vector()), ("clientId", text()), ("clientSeq?", whole()),
            ("metadata?", json!({"type": "object"})),
        ]),
        "EventPage": object(&[
            ("documentId?", text()), ("events", list(reference("Event"))), ("cursor?", whole()),
            ("position?", whole()), ("next?", whole()),
        ]),
        "Snapshot": object(&with_state),
        "SnapshotList": object(&[("items", list(object(&snapshot)))]),
        "Push": object(&[
            ("clientId", text()), ("documentId?", text()), ("clientSeq?", whole()), ("baseVersion?", whole()),
            ("op", op), ("state?", state()), ("patch?", json!({"type": ["object", "array"]})),
        ]),
        "Pushed": object(&[
            ("documentId", text()), ("clientSeq?", whole()), ("version", whole()), ("repeated", yes()),
            ("changed", yes()),
        ]),
        "SyncRequest": object(&[
            ("clientId?", text()), ("vectorClock?", vector()), ("cursor?", whole()), ("timestamp?", whole()),
            ("limit?", whole()),
        ]),
        "SyncAnswer": object(&[
            ("documentId", text()), ("snapshot?", reference("Snapshot")), ("events", list(reference("Event"))),
            ("stateVector", vector()), ("cursor", whole()), ("next?", whole()),
        ]),
        "StateVectors": object(&[
            ("documentId", text()), ("version", whole()), ("stateVector", vector()), ("clients", list(client)),
            ("next?", text()),
        ]),
        "Problem": object(&[
            ("type", json!({"enum": problem_types})), ("title", text()), ("status", whole()), ("detail?", text()),
        ]),
    })
}
