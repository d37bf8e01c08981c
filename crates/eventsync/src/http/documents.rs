//! The application's documents: list, create, show, replace, change, delete.

use axum::{
    extract::{FromRequest, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use crdt_core::ClientId;
use nodestorage::{Body, Document, DocumentId, Producer, Storage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    App,
    caller::Caller,
    input::{Condition, Id, Params, Payload, condition, document_id, producer, text},
    output::{Answer, Failure, etag, json, json_bytes, write_json},
};
use crate::{
    access::Right,
    protocol::{Problem, ProblemType, Push, PushOp},
    service::{IdempotencyKey, Refusal, SyncService, WriteOptions, Written},
};

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Documents on one page of the list.
const LIST_MAX: usize = 1000;
/// Bytes after which a page of the list takes no further document, if it has one.
const LIST_BYTES_MAX: usize = 4 << 20;
/// How many documents are read for a page at first; each further time twice as many. Large ones are not read in vain then.
const LIST_STEP: usize = 8;

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        refusal.into_problem()
    }
}

#[derive(Deserialize)]
pub(super) struct ListParams {
    limit: Option<usize>,
    after: Option<String>,
}

pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer {
    caller.require(Right::Read, None)?;
    let limit = params.limit.unwrap_or(100).clamp(1, LIST_MAX);
    let after = params.after.as_deref().map(document_id).transpose()?;
    let storage = app.service.storage();
    // Before the documents, so that a client that goes on from here misses nothing.
    let position = storage.position().await?;
    let (mut last, mut count, mut step) = (after, 0, LIST_STEP);
    let mut body = br#"{"items":["#.to_vec();
    let more = 'page: loop {
        // One more, which tells that there is more.
        let wanted = step.min(limit - count) + 1;
        let found = storage.list(last.as_ref(), wanted).await?;
        // A page may be short where documents are large.
        let is_end = found.is_empty();
        for document in found {
            if count == limit || body.len() > LIST_BYTES_MAX {
                break 'page true;
            }
            if count > 0 {
                body.push(b',');
            }
            write_json(&mut body, &shown(&document));
            last = Some(document.id);
            count += 1;
        }
        if is_end {
            break false;
        }
        step *= 2;
    };
    body.extend_from_slice(br#"],"position":"#);
    write_json(&mut body, &position);
    if let (true, Some(next)) = (more, last) {
        body.extend_from_slice(br#","next":"#);
        write_json(&mut body, &next);
    }
    body.push(b'}');
    Ok(json_bytes(StatusCode::OK, body))
}

#[derive(Deserialize)]
pub(super) struct ShowParams {
    version: Option<u64>,
}

pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<ShowParams>,
    headers: HeaderMap,
) -> Answer {
    caller.require(Right::Read, Some(&id))?;
    if let Some(version) = params.version {
        let past = app.service.state_at(&id, version).await?;
        return Ok(json(StatusCode::OK, &json!({"id": id, "version": version, "state": past.state})));
    }
    let document =
        app.service.storage().find_one(&id).await?.ok_or_else(|| Problem::unknown_document(&id))?;
    let tag = etag(document.version);
    if headers.get(header::IF_NONE_MATCH) == Some(&tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(answer(StatusCode::OK, &document))
}

#[derive(Deserialize)]
pub(super) struct CreateParams {
    id: Option<String>,
}

pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<CreateParams>,
    request: Writing,
) -> Answer {
    let state = request.payload.json(&[JSON])?;
    let id = match &params.id {
        Some(id) => document_id(id)?,
        None => document_id(&uuid::Uuid::now_v7().to_string())?,
    };
    caller.require(Right::Write, Some(&id))?;
    let path = params.id.unwrap_or_default();
    // A repeated create keeps the id of the first time.
    let (id, written) = write(&app, &caller, &request, &path, &id, PushOp::Create { state }).await?;
    let mut response = answer_written(StatusCode::CREATED, &id, &written);
    let location = format!("/api/{}/{}", app.options.collection, percent_encoded(id.as_str()));
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

pub(super) async fn replace(State(app): State<App>, caller: Caller, Id(id): Id, request: Writing) -> Answer {
    caller.require(Right::Write, Some(&id))?;
    let op = PushOp::Replace { state: request.payload.json(&[JSON])? };
    let (_, written) = write(&app, &caller, &request, id.as_str(), &id, op).await?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer_written(status, &id, &written))
}

pub(super) async fn change(State(app): State<App>, caller: Caller, Id(id): Id, request: Writing) -> Answer {
    const KINDS: &[&str] = &[JSON_PATCH, MERGE_PATCH, JSON];
    caller.require(Right::Write, Some(&id))?;
    let op = match request.payload.kind_of(KINDS)? {
        JSON_PATCH => PushOp::Patch { patch: request.payload.json(KINDS)? },
        _ => PushOp::Merge { patch: request.payload.json(KINDS)? },
    };
    let (_, written) = write(&app, &caller, &request, id.as_str(), &id, op).await?;
    Ok(answer_written(StatusCode::OK, &id, &written))
}

pub(super) async fn remove(State(app): State<App>, caller: Caller, Id(id): Id, request: Writing) -> Answer {
    caller.require(Right::Write, Some(&id))?;
    let (_, written) = write(&app, &caller, &request, id.as_str(), &id, PushOp::Delete).await?;
    // One that can come again has been counted or noted, as done: a problem would say that its number is free, and its repeat
    // could not be answered alike.
    let has_name =
        ["weft-client-seq", "idempotency-key"].iter().any(|name| request.headers.contains_key(*name));
    if !written.changed && !has_name {
        return Err(Problem::unknown_document(&id).into());
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    mark_replayed(&mut response, &written);
    Ok(response)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PushBody {
    client_id: ClientId,
}

/// A push without a socket: the same message, the same answers.
pub(super) async fn push(State(app): State<App>, caller: Caller, Id(id): Id, payload: Payload) -> Answer {
    caller.require(Right::Write, Some(&id))?;
    let mut body: Value = payload.json(&[JSON])?;
    let wrong = |e: serde_json::Error| Problem::new(ProblemType::InvalidRequest, e.to_string());
    if let Value::Object(fields) = &mut body {
        // The path says it; a body that says it too must say the same.
        let named = fields.entry("documentId").or_insert_with(|| id.as_str().into());
        if named.as_str() != Some(id.as_str()) {
            let detail = format!("the path names document {id}, the body {named}");
            return Err(Problem::new(ProblemType::InvalidRequest, detail).into());
        }
    }
    let PushBody { client_id } = PushBody::deserialize(&body).map_err(wrong)?;
    caller.require_client(&client_id)?;
    let push = Push::deserialize(body).map_err(wrong)?;
    let options = WriteOptions {
        producer: Producer { client_id: client_id.clone(), sequence: push.client_seq },
        base_version: push.base_version,
        ..WriteOptions::by(client_id)
    };
    let written = app.service.write(&id, &push.op, options).await.map_err(Refusal::into_problem)?;
    let mut body = json!({
        "documentId": id, "version": written.version, "repeated": written.repeated, "changed": written.changed,
    });
    if let Some(count) = push.client_seq {
        body["clientSeq"] = count.into();
    }
    Ok(json(StatusCode::OK, &body))
}

/// A request to write: what of it says under which conditions, and tells it from others.
pub(super) struct Writing {
    method: Method,
    headers: HeaderMap,
    payload: Payload,
}

impl FromRequest<App> for Writing {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let (method, headers) = (request.method().clone(), request.headers().clone());
        Ok(Self { method, headers, payload: Payload::from_request(request, app).await? })
    }
}

/// Writes what a request asks for, under the conditions of its headers, and tells what it wrote. `path`: what of its path
/// tells it from others.
async fn write(
    app: &App,
    caller: &Caller,
    request: &Writing,
    path: &str,
    id: &DocumentId,
    op: PushOp,
) -> Result<(DocumentId, Written), Failure> {
    let Writing { method, headers, payload } = request;
    let mut options =
        WriteOptions { producer: producer(caller, headers)?, ..WriteOptions::by(caller.client()) };
    let condition = condition(headers)?;
    options.base_version = match condition {
        Condition::Any | Condition::Exists => None,
        Condition::At(version) => Some(version),
        Condition::Absent => Some(0),
    };
    options.only_existing = matches!(condition, Condition::Exists);
    let key = match text(headers, "idempotency-key")? {
        Some(_) if options.producer.sequence.is_some() => {
            let detail = "a write takes either Weft-Client-Seq or Idempotency-Key";
            return Err(Problem::new(ProblemType::InvalidRequest, detail).into());
        }
        Some(name) => {
            let parts = [method.as_str().as_bytes(), path.as_bytes(), payload.bytes()];
            Some(IdempotencyKey::new(name, &parts)?.of(caller.principal()))
        }
        None => None,
    };
    let Some(key) = key else {
        let written = app.service.write(id, &op, options).await.map_err(Refusal::into_problem)?;
        return Ok((id.clone(), written));
    };
    // On a task of its own: a client that hangs up must not leave the key free while the write is under way.
    let (service, id): (SyncService, DocumentId) = (app.service.clone(), id.clone());
    let under_way = tokio::spawn(async move { service.write_once(&key, &id, &op, options).await }).await;
    let gone = |_| Problem::new(ProblemType::Internal, "the write did not end");
    Ok(under_way.map_err(gone)?.map_err(Refusal::into_problem)?)
}

/// A document as it is shown, without a copy of it.
#[derive(Serialize)]
struct Shown<'d> {
    id: &'d DocumentId,
    version: u64,
    state: &'d Body,
}

fn shown(document: &Document) -> Shown<'_> {
    Shown { id: &document.id, version: document.version, state: &document.body }
}

fn answer(status: StatusCode, document: &Document) -> Response {
    let mut response = json(status, &shown(document));
    response.headers_mut().insert(header::ETAG, etag(document.version));
    response
}

fn answer_written(status: StatusCode, id: &DocumentId, written: &Written) -> Response {
    let mut response = match &written.document {
        Some(document) => answer(status, document),
        None => json(status, &json!({"id": id, "version": written.version, "state": null})),
    };
    mark_replayed(&mut response, written);
    response
}

fn mark_replayed(response: &mut Response, written: &Written) {
    if written.repeated {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

/// An id as a segment of a path.
fn percent_encoded(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
