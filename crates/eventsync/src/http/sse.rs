//! Server-Sent Events: one history as a stream of text that browsers resume by themselves.

use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use crdt_core::EncodingFormat;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    App,
    caller::Caller,
    input::{Id, Params, Place, text},
    origin::Room,
    output::Answer,
};
use crate::{
    access::{NotAuthenticated, Right},
    event::Event,
    feed::{FeedItem, Resume, Scope},
    protocol::Problem,
    service::{FeedReader, SyncService, now_ms},
    store::PageLimit,
};

/// A comment is sent when nothing else was for so long, so that proxies and clients know that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Pages are small here: a browser gets every event by itself anyway.
const PAGE: PageLimit = PageLimit { events_max: 64, bytes_max: 256 << 10 };

#[derive(Deserialize)]
pub(super) struct StreamParams {
    after: Option<Place>,
}

pub(super) async fn document(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(params): Params<StreamParams>,
    headers: HeaderMap,
) -> Answer {
    caller.require(Right::Read, Some(&id))?;
    // Who says where it stands may wait for a document to be made, as on a WebSocket.
    let waits = params.after.is_some() || headers.contains_key("last-event-id");
    if !waits && app.service.events().latest(&id).await? == 0 {
        return Err(Problem::unknown_document(&id).into());
    }
    stream(app, &caller, Scope::Document(id), &params, &headers)
}

pub(super) async fn collection(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<StreamParams>,
    headers: HeaderMap,
) -> Answer {
    caller.require(Right::Read, None)?;
    stream(app, &caller, Scope::Collection, &params, &headers)
}

struct Streaming {
    service: SyncService,
    reader: FeedReader,
    scope: Scope,
    /// The last place that the client knows of, if it knows of one.
    place: Option<Place>,
    reconnect_after: Duration,
    /// When what the caller's token says ends.
    ends_at: Option<Instant>,
    _room: Room,
    _connection: tokio_util::task::task_tracker::TaskTrackerToken,
}

fn stream(app: App, caller: &Caller, scope: Scope, params: &StreamParams, headers: &HeaderMap) -> Answer {
    let place = match text(headers, "last-event-id")? {
        Some(id) if !id.is_empty() => Some(Place::read("last-event-id", id)?),
        _ => params.after,
    };
    let resume = place.map_or(Resume::Latest, Place::resume);
    let room = caller.room(&app)?;
    // Spread over two seconds, so that the clients of a server that went down do not all come back at once.
    let retry_ms = 1000 + u64::from(uuid::Uuid::new_v4().as_fields().1) % 2000;
    let state = Streaming {
        reader: app.service.follow(scope.clone(), resume, PAGE),
        _connection: app.service.connections().token(),
        reconnect_after: app.options.reconnect_after,
        ends_at: ends_at(caller),
        service: app.service,
        scope,
        place,
        _room: room,
    };
    let first =
        stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(format!("retry: {retry_ms}\n\n")))]);
    let rest = stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        let (text, goes_on) = state.next().await;
        Some((Ok(text), goes_on.then_some(state)))
    });
    let mut response = Response::new(Body::from_stream(futures_util::StreamExt::chain(first, rest)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Streaming {
    /// The next piece of the stream, and whether there is one after it.
    async fn next(&mut self) -> (Bytes, bool) {
        let draining = self.service.draining().clone();
        let ends_at = self.ends_at;
        let expired = async {
            match ends_at {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = draining.cancelled() => {
                let after_ms = self.reconnect_after.as_millis() as u64;
                (message("drain", None, &json!({"reconnectAfterMs": after_ms})), false)
            }
            () = expired => {
                let problem = Problem::from(NotAuthenticated::Expired);
                (message("error", None, &json!({"problem": problem})), false)
            }
            item = tokio::time::timeout(HEARTBEAT, self.reader.next()) => match item {
                Err(_) => (Bytes::from_static(b": still here\n\n"), true),
                Ok(Ok(item)) => {
                    self.place = place(&self.scope, &item, self.place);
                    (item_text(&self.scope, item, self.place), true)
                }
                Ok(Err(problem)) => (message("error", None, &json!({"problem": problem})), false),
            },
        }
    }
}

/// When the caller must show another token.
#[expect(clippy::disallowed_methods, reason = "the driver reads the clock for its stream")]
fn ends_at(caller: &Caller) -> Option<Instant> {
    let left = caller.principal().expires_at_ms()?.saturating_sub(now_ms());
    Instant::now().checked_add(Duration::from_millis(left))
}

/// Where the client is after an item.
fn place(scope: &Scope, item: &FeedItem, before: Option<Place>) -> Option<Place> {
    match item {
        FeedItem::Events(events) => events.last().map(|event| place_of(scope, event)),
        FeedItem::Snapshot(snapshot) => {
            Some(Place { number: snapshot.version, timestamp: snapshot.timestamp })
        }
        // A reader that was at no place is at this one; of any other the time is known as well.
        FeedItem::Live { cursor: number } => before
            .filter(|before| before.number == *number)
            .or(Some(Place { number: *number, timestamp: None })),
        FeedItem::Resync { cursor: number, .. } => match scope {
            Scope::Document(_) => None,
            Scope::Collection => Some(Place { number: *number, timestamp: None }),
        },
    }
}

/// An item, after which the client is at a place. A browser comes back with the last `id:` that it was given, so there is one as
/// soon as there is a place, not with the first event only.
fn item_text(scope: &Scope, item: FeedItem, place: Option<Place>) -> Bytes {
    match (item, scope) {
        (FeedItem::Events(events), scope) => {
            let mut out = Vec::new();
            for event in &events {
                write_event(&mut out, scope, event);
            }
            out.into()
        }
        (FeedItem::Snapshot(snapshot), _) => message("snapshot", place, &json!(*snapshot)),
        (FeedItem::Live { cursor }, Scope::Document(id)) => {
            message("live", place, &json!({"documentId": id, "version": cursor}))
        }
        (FeedItem::Live { cursor }, Scope::Collection) => {
            message("live", place, &json!({"collection": true, "position": cursor}))
        }
        (FeedItem::Resync { reason, .. }, Scope::Document(id)) => {
            message("resync", place, &json!({"documentId": id, "reason": reason}))
        }
        (FeedItem::Resync { reason, cursor }, Scope::Collection) => {
            message("resync", place, &json!({"reason": reason, "position": cursor}))
        }
    }
}

fn place_of(scope: &Scope, event: &Event) -> Place {
    let number = match scope {
        Scope::Document(_) => event.sequence_num(),
        Scope::Collection => event.position(),
    };
    Place { number, timestamp: Some(event.timestamp()) }
}

fn write_event(out: &mut Vec<u8>, scope: &Scope, event: &Event) {
    let id = place_of(scope, event);
    out.extend_from_slice(format!("id: {id}\nevent: event\ndata: ").as_bytes());
    // JSON has no line breaks outside of strings, and escapes them inside.
    out.extend_from_slice(event.encoded(EncodingFormat::Json));
    out.extend_from_slice(b"\n\n");
}

fn message(name: &str, id: Option<Place>, data: &Value) -> Bytes {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    format!("{id}event: {name}\ndata: {data}\n\n").into()
}
