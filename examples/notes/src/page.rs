//! The page: files that are part of the program, and the socket that it speaks over.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, RawQuery, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};
use serde_json::json;

use crate::{replica::Replica, socket, token::Token};

#[derive(RustEmbed)]
#[folder = "web"]
struct Web;

/// Nothing on this page comes from elsewhere and nothing is inline, so nothing else may run, load or frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; \
                      worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) replica: Arc<Replica>,
    /// The name of the text.
    pub(crate) doc: Arc<str>,
    /// What whoever wants the text must know.
    pub(crate) token: Token,
}

/// `/`, `/sw.js`, `/web/…`, `/api/note` and `/socket`.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/", get(index))
        // At the root, because a service worker may only serve what is below it.
        .route("/sw.js", get(|| async { file(Web::get("sw.js"), "sw.js") }))
        .route("/web/{*path}", get(|Path(path): Path<String>| async move { file(Web::get(&path), &path) }))
        .route("/api/note", get(note))
        .route("/socket", get(open_socket))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page") })
        .with_state(app)
}

async fn index(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let handed_over = app.token.hand_over(query.as_deref().unwrap_or_default());
    handed_over.unwrap_or_else(|| file(Web::get("index.html"), "index.html"))
}

/// Which text this is, in which store, and the text, for the page and for programs.
async fn note(State(app): State<App>, headers: HeaderMap) -> Response {
    if let Some(refusal) = refusal(&app, &headers) {
        return refusal;
    }
    let store = app.replica.store.map(|store| store.to_string());
    let (title, text) = (app.replica.title(), app.replica.text());
    let note = json!({ "doc": &*app.doc, "store": store, "title": title, "text": text });
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(note)).into_response()
}

async fn open_socket(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if !is_own_page(&headers) {
        return (StatusCode::FORBIDDEN, "a page of another place may not open a socket here").into_response();
    }
    if let Some(refusal) = refusal(&app, &headers) {
        return refusal;
    }
    match upgrade {
        Ok(upgrade) => socket::serve(upgrade, app.replica),
        Err(rejection) => rejection.into_response(),
    }
}

/// The answer to a request that may not have the text.
fn refusal(app: &App, headers: &HeaderMap) -> Option<Response> {
    if !app.token.admits(headers) {
        return Some(Token::refusal());
    }
    let admitted = app.token.is_asked_for() || is_near(headers);
    (!admitted).then(|| {
        let why =
            "without --token the page is served at an IP address, localhost or a name without dots only";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    })
}

/// Whether a request names this place as only somebody near does: by an address, or by a name of no public domain. Whoever
/// owns a domain can let it point here, and then a page of that domain is of the same place as this one to a browser
/// ("DNS rebinding"): the check of the origin does not see it.
fn is_near(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    // Of `name:port` the name, of `[::1]:port` the address.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok() || !name.contains('.') || name.ends_with(".localhost")
}

/// A page of another place must not reach this one with the rights of its visitor. Programs send no origin.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(HeaderValue::as_bytes);
    match text(header::ORIGIN) {
        None => true,
        Some(origin) => {
            let host = origin.windows(3).position(|part| part == b"://").map(|at| &origin[at + 3..]);
            host.is_some() && host == text(header::HOST)
        }
    }
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
        Some("txt" | "md") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_name_that_points_here_is_not_this_place() {
        let near = |host: &'static str| {
            is_near(&[(header::HOST, HeaderValue::from_static(host))].into_iter().collect())
        };
        for host in [
            "127.0.0.1:8090",
            "[::1]:8090",
            "[::1]",
            "192.168.1.7",
            "localhost:8090",
            "a.localhost",
            "desk:80",
        ] {
            assert!(near(host), "{host}");
        }
        for host in ["evil.example:8090", "evil.example", "127.0.0.1.evil.example:8090", "desk.lan", "a.b:c"]
        {
            assert!(!near(host), "{host}");
        }
        assert!(!is_near(&HeaderMap::new()));
    }

    #[test]
    fn only_the_own_page_may_open_a_socket() {
        let check = |origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8090"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            is_own_page(&headers)
        };
        assert!(check(None) && check(Some("http://127.0.0.1:8090")));
        for other in
            ["http://evil.example", "http://127.0.0.1:80", "null", "http://evil.example/127.0.0.1:8090"]
        {
            assert!(!check(Some(other)), "{other}");
        }
    }
}
