//! Catching up in single requests: state vectors, pages of events, snapshots.

use std::time::Duration;

use axum::{extract::State, http::StatusCode, response::Response};
use crdt_core::ClientId;
use nodestorage::Body;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    App,
    caller::Caller,
    input::{Id, Params, Payload, Place, Version},
    output::{Answer, json, json_bytes, write_json},
};
use crate::{
    access::Right,
    broker::Delivery,
    feed::{Located, ResyncReason, Scope},
    protocol::{Problem, ProblemType},
    service::SyncRequest,
    store::{EventPage, PageLimit},
};

/// How long a request may wait for events; a longer wait is shortened to this.
const WAIT_SECONDS_MAX: u64 = 60;
/// Snapshots on one list, and clients on one page.
const LIST_MAX: usize = 1000;
/// A page of clients ends with the one that takes it beyond this: each has a vector with an entry for everybody who has
/// ever written the document. The rest is on the next page.
const CLIENTS_BYTES_MAX: usize = 4 << 20;
/// So many clients are read at once.
const CLIENTS_STEP: usize = 16;

pub(super) async fn sync(State(app): State<App>, caller: Caller, Id(id): Id, payload: Payload) -> Answer {
    caller.require(Right::Read, Some(&id))?;
    // An object, not the array that would be read as one by position.
    let fields: Body = payload.json(&["application/json"])?;
    let request = SyncRequest::deserialize(Value::Object(fields))
        .map_err(|e| Problem::new(ProblemType::InvalidRequest, e.to_string()))?;
    if let Some(client) = &request.client_id {
        caller.require_client(client)?;
    }
    Ok(json(StatusCode::OK, &app.service.sync(&id, &request).await?))
}

#[derive(Deserialize)]
pub(super) struct EventParams {
    after: Option<Place>,
    limit: Option<usize>,
    #[serde(default)]
    wait: u64,
}

impl EventParams {
    fn after(&self) -> u64 {
        self.after.map_or(0, |place| place.number)
    }
}

pub(super) async fn events(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<EventParams>,
) -> Answer {
    caller.require(Right::Read, Some(&id))?;
    // Who says where it stands may wait for a document to be made, as on a WebSocket.
    if params.after.is_none() && app.service.events().latest(&id).await? == 0 {
        return Err(Problem::unknown_document(&id).into());
    }
    let scope = Scope::Document(id.clone());
    let elsewhere = is_elsewhere(&app, &scope, &params).await?;
    let page = page(&app, &caller, &scope, &params, elsewhere).await?;
    if page.gap {
        let detail = match params.after() {
            after if after > page.cursor => {
                format!("document {id} has no event {after}: its history ends at {}", page.cursor)
            }
            after if elsewhere => format!("event {after} of document {id} is not the one that is named"),
            after => format!("events after {after} of document {id} are compacted away"),
        };
        let latest = app.service.snapshots().list(&id, u64::MAX, 1).await?;
        let oldest = app.service.oldest_event(&id, params.after()).await?;
        let problem = Problem::new(ProblemType::HistoryCompacted, detail).with("documentId", id.as_str());
        let problem = problem.with("snapshot", latest.first().map_or(0, |snapshot| snapshot.version));
        return Err(problem.with("oldest", oldest).into());
    }
    let mut body = json!({"documentId": id, "events": page.events, "cursor": page.cursor});
    note_next(&mut body, &page);
    Ok(json(StatusCode::OK, &body))
}

pub(super) async fn collection_events(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<EventParams>,
) -> Answer {
    caller.require(Right::Read, None)?;
    let elsewhere = is_elsewhere(&app, &Scope::Collection, &params).await?;
    let page = page(&app, &caller, &Scope::Collection, &params, elsewhere).await?;
    if page.gap {
        let detail = match params.after() {
            after if after > page.cursor => {
                format!("there is no position {after}: the last one is {}", page.cursor)
            }
            after if elsewhere => format!("the event at position {after} is not the one that is named"),
            after => format!("events after position {after} are compacted away"),
        };
        return Err(Problem::new(ProblemType::HistoryCompacted, detail).with("position", page.cursor).into());
    }
    let mut body = json!({"events": page.events, "position": page.cursor});
    note_next(&mut body, &page);
    Ok(json(StatusCode::OK, &body))
}

fn note_next(body: &mut Value, page: &EventPage) {
    if page.more {
        body["next"] = page.cursor.into();
    }
}

/// Whether the reader names an event that is not of this history, though there may be one of its number.
async fn is_elsewhere(app: &App, scope: &Scope, params: &EventParams) -> Result<bool, Problem> {
    let Some(place) = params.after.filter(|place| place.timestamp.is_some()) else { return Ok(false) };
    let unknown = ResyncReason::CursorUnknown;
    Ok(match app.service.locate(scope, &place.resume()).await? {
        Located::Latest(reason) => reason == Some(unknown),
        Located::Moved { reason, .. } => reason == unknown,
        Located::After { .. } => false,
    })
}

/// A page, or if there is nothing on it yet, the next one that has something. For a reader of another history it is a gap,
/// at the end that there is.
async fn page(
    app: &App,
    caller: &Caller,
    scope: &Scope,
    params: &EventParams,
    elsewhere: bool,
) -> Result<EventPage, Problem> {
    if elsewhere {
        let cursor = end_of(app, scope).await?;
        return Ok(EventPage { events: Vec::new(), cursor, more: false, gap: true });
    }
    let limit = params.limit.map_or(PageLimit::STANDARD, PageLimit::at_most);
    if params.wait == 0 {
        return page_now(app, scope, params.after(), limit).await;
    }
    let _room = caller.room(app)?;
    let mut mailbox = app.service.broker().mailbox_of(1);
    match scope {
        Scope::Document(id) => mailbox.subscribe(id),
        Scope::Collection => mailbox.subscribe_collection(),
    }
    let wait = tokio::time::sleep(Duration::from_secs(params.wait.min(WAIT_SECONDS_MAX)));
    tokio::pin!(wait);
    loop {
        let page = page_now(app, scope, params.after(), limit).await?;
        if !page.events.is_empty() || page.gap {
            return Ok(page);
        }
        loop {
            tokio::select! {
                delivery = mailbox.recv() => match delivery {
                    Delivery::Presence(_) => {}
                    _ => break,
                },
                () = &mut wait => return Ok(page),
                () = app.service.draining().cancelled() => return Ok(page),
            }
        }
    }
}

/// A page as it is. A place behind the end is of another history, as when the store was put back to an older state: whoever
/// waited there would be given the events behind it one day and never those before. So it is a gap, at the end that there is.
async fn page_now(app: &App, scope: &Scope, after: u64, limit: PageLimit) -> Result<EventPage, Problem> {
    let page = app.service.page(scope, after, limit).await?;
    if after == 0 || page.gap || !page.events.is_empty() {
        return Ok(page);
    }
    let end = end_of(app, scope).await?;
    Ok(if after > end { EventPage { cursor: end, gap: true, ..page } } else { page })
}

async fn end_of(app: &App, scope: &Scope) -> Result<u64, Problem> {
    Ok(match scope {
        Scope::Document(id) => app.service.events().latest(id).await?,
        Scope::Collection => app.service.events().position().await?,
    })
}

pub(super) async fn snapshots(State(app): State<App>, caller: Caller, Id(id): Id) -> Answer {
    caller.require(Right::Read, Some(&id))?;
    let items = app.service.snapshots().list(&id, u64::MAX, LIST_MAX).await?;
    if items.is_empty() && app.service.events().latest(&id).await? == 0 {
        return Err(Problem::unknown_document(&id).into());
    }
    Ok(json(StatusCode::OK, &json!({"items": items})))
}

pub(super) async fn make_snapshot(State(app): State<App>, caller: Caller, Id(id): Id) -> Answer {
    caller.require(Right::Admin, Some(&id))?;
    let (snapshot, new) = app.service.snapshot(&id).await?;
    Ok(json(if new { StatusCode::CREATED } else { StatusCode::OK }, &snapshot))
}

pub(super) async fn snapshot(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Version(version): Version,
) -> Answer {
    caller.require(Right::Read, Some(&id))?;
    let found = app.service.snapshots().at_or_before(&id, version).await?;
    let found = found.filter(|snapshot| snapshot.version == version).ok_or_else(|| {
        let detail = format!("no snapshot of document {id} at version {version}");
        Problem::new(ProblemType::UnknownVersion, detail)
            .with("documentId", id.as_str())
            .with("version", version)
    })?;
    Ok(json(StatusCode::OK, &found))
}

#[derive(Deserialize)]
pub(super) struct VectorParams {
    limit: Option<usize>,
    after: Option<String>,
}

pub(super) async fn state_vectors(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<VectorParams>,
) -> Answer {
    caller.require(Right::Read, Some(&id))?;
    let limit = params.limit.unwrap_or(LIST_MAX).clamp(1, LIST_MAX);
    let client =
        |name: String| ClientId::new(name).map_err(|e| Problem::new(ProblemType::InvalidId, e.to_string()));
    let mut after = params.after.map(client).transpose()?;
    let clock = app.service.latest_clock(&id).await?;
    if clock.version == 0 {
        return Err(Problem::unknown_document(&id).into());
    }
    let mut clients = Vec::new();
    let mut count = 0;
    let more = 'page: loop {
        // One more, which tells that there is more.
        let wanted = CLIENTS_STEP.min(limit - count) + 1;
        let found = app.service.vectors().clients_after(&id, after.as_ref(), wanted).await?;
        let is_end = found.len() < wanted;
        for client in found {
            if count == limit || clients.len() > CLIENTS_BYTES_MAX {
                break 'page true;
            }
            if count > 0 {
                clients.push(b',');
            }
            write_json(&mut clients, &client);
            after = Some(client.client_id);
            count += 1;
        }
        if is_end {
            break false;
        }
    };
    let mut body = br#"{"documentId":"#.to_vec();
    write_json(&mut body, &id);
    body.extend_from_slice(br#","version":"#);
    write_json(&mut body, &clock.version);
    body.extend_from_slice(br#","stateVector":"#);
    write_json(&mut body, &clock.vector);
    body.extend_from_slice(br#","clients":["#);
    body.extend_from_slice(&clients);
    body.push(b']');
    if let (true, Some(next)) = (more, after) {
        body.extend_from_slice(br#","next":"#);
        write_json(&mut body, &next);
    }
    body.push(b'}');
    Ok(json_bytes(StatusCode::OK, body))
}

pub(super) async fn ready(State(app): State<App>) -> Response {
    match app.service.ready() {
        Ok(()) => json(StatusCode::OK, &json!({"status": "ok"})),
        Err(reason) => {
            super::output::problem(&Problem::new(ProblemType::Unavailable, reason).with("retryAfterMs", 1000))
        }
    }
}
