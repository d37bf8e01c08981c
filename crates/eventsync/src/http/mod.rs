//! The service over HTTP: REST, Server-Sent Events and WebSocket, as `docs/formats/eventsync-wire.md` says.

mod caller;
mod catch_up;
mod documents;
mod door;
mod input;
mod limits;
mod metrics;
mod openapi;
mod origin;
mod output;
mod socket;
mod sse;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, Uri},
    middleware,
    response::Response,
    routing::{get, post},
};

pub use self::{
    door::{Door, Guest, Peer, SILENCE_MAX},
    limits::{Allowance, GUESTS_MAX, PAUSE_MAX},
    metrics::{MetricsPage, metrics},
    origin::ClientAddress,
};
use crate::{
    access::Authorizer,
    protocol::{MESSAGE_BYTES_MAX, Problem, ProblemType},
    service::SyncService,
};

/// How the HTTP surface behaves.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// The documents' name in paths: `games` for `/api/games`.
    pub collection: String,
    /// Pages from other places that may open a WebSocket, such as `https://games.example`. The page that this server
    /// itself serves always may.
    pub origins: Vec<String>,
    /// Without an authorizer: whether requests may name this server by a public domain, as behind a proxy. Else they must name
    /// it by an address, `localhost` or a name without dots: who owns a domain can let it point here, and its page is then
    /// of this very place to a browser ("DNS rebinding").
    pub any_host: bool,
    /// Tells who asks, by the bearer token. Without one everybody may do everything: right on loopback, nowhere else.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// WebSockets, streams of Server-Sent Events and long polls at most; further ones are refused with `too-many`.
    pub connections_max: usize,
    /// What may come from one address; `None` for as much as it likes.
    pub per_address: Option<Allowance>,
    /// What one principal may do, from wherever it comes; `None` for as much as it likes.
    pub per_principal: Option<Allowance>,
    /// How it is known which address that is.
    pub client_address: ClientAddress,
    /// How long a body may take to come; a slower one is refused with `too-slow`, and its connection closed.
    pub body_wait: Duration,
    /// How long after a goodbye clients may come back; they spread themselves over twice that.
    pub reconnect_after: Duration,
}

impl HttpOptions {
    /// For documents of this name: everybody near, pages of this server only, 10 000 connections, [`Allowance::STANDARD`] for
    /// each address and principal, bodies within half a minute, back after half a second.
    pub fn new(collection: impl Into<String>) -> Self {
        Self {
            collection: collection.into(),
            origins: Vec::new(),
            any_host: false,
            authorizer: None,
            connections_max: 10_000,
            per_address: Some(Allowance::STANDARD),
            per_principal: Some(Allowance::STANDARD),
            client_address: ClientAddress::default(),
            body_wait: Duration::from_secs(30),
            reconnect_after: Duration::from_millis(500),
        }
    }
}

/// The largest body of a request in bytes; a larger one is refused with `too-large`.
pub const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

#[derive(Clone)]
struct App {
    service: SyncService,
    options: Arc<HttpOptions>,
    /// Permits for connections that stay.
    connections: Arc<tokio::sync::Semaphore>,
    limits: Arc<origin::Limits>,
}

/// The routes. Nest or merge them into an application's router, and serve that by
/// `into_make_service_with_connect_info::<Peer>()` from a [`Door`] (of `SocketAddr` from a listener of the runtime): it tells
/// who comes from where, without which nothing is counted by address.
pub fn router(service: SyncService, options: HttpOptions) -> Router {
    let documents = format!("/api/{}", options.collection);
    let document = format!("{documents}/{{id}}");
    let connections = Arc::new(tokio::sync::Semaphore::new(options.connections_max));
    let limits = Arc::new(origin::Limits::new(&service, &options));
    let app = App { service, options: Arc::new(options), connections, limits };
    Router::new()
        .route(&documents, get(documents::list).post(documents::create))
        .route(
            &document,
            get(documents::show).put(documents::replace).patch(documents::change).delete(documents::remove),
        )
        .route("/api/push/{id}", post(documents::push))
        .route("/api/sync/{id}", post(catch_up::sync))
        .route("/api/events", get(catch_up::collection_events))
        .route("/api/events/{id}", get(catch_up::events))
        .route("/api/snapshots/{id}", get(catch_up::snapshots).post(catch_up::make_snapshot))
        .route("/api/snapshots/{id}/{version}", get(catch_up::snapshot))
        .route("/api/state-vectors/{id}", get(catch_up::state_vectors))
        .route("/events", get(sse::collection))
        .route("/events/{id}", get(sse::document))
        .route("/sync", get(socket::without_document))
        .route("/sync/{id}", get(socket::of_document))
        .route("/openapi.json", get(openapi::show))
        .route_layer(middleware::from_fn_with_state(app.clone(), origin::count))
        // Whether it lives is asked however much was asked before.
        .route("/livez", get(output::alive))
        .route("/readyz", get(catch_up::ready))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

/// What an application answers to paths that nobody knows.
pub async fn not_found(uri: Uri) -> Response {
    output::problem(&Problem::new(ProblemType::NotFound, format!("nothing at {}", uri.path())))
}

async fn method_not_allowed() -> Response {
    let mut response = output::problem(&Problem::new(
        ProblemType::MethodNotAllowed,
        "the Allow header lists the methods of this path",
    ));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}
