//! The page: files that are part of the program.

use axum::{
    Router,
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "web"]
struct Web;

/// The JavaScript client of eventsync.
#[derive(RustEmbed)]
#[folder = "../../clients/js/src"]
struct Client;

/// Nothing on this page comes from elsewhere and nothing is inline, so nothing else may run, load or frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; \
                      worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// `/`, `/sw.js`, `/web/…` and `/client/…`.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/", get(|| async { file(Web::get("index.html"), "index.html") }))
        // At the root, because a service worker may only serve what is below it.
        .route("/sw.js", get(|| async { file(Web::get("sw.js"), "sw.js") }))
        .route("/web/{*path}", get(|Path(path): Path<String>| async move { file(Web::get(&path), &path) }))
        .route(
            "/client/{*path}",
            get(|Path(path): Path<String>| async move { file(Client::get(&path), &path) }),
        )
}

fn file(found: Option<EmbeddedFile>, path: &str) -> Response {
    let Some(file) = found else { return (StatusCode::NOT_FOUND, "no such file").into_response() };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type(path))),
        // The program is small and near; after an update the page must be the new one.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, file.data).into_response()
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        _ => "application/octet-stream",
    }
}
