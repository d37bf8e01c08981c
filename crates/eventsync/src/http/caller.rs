//! Who asks.

use std::net::IpAddr;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use crdt_core::ClientId;
use nodestorage::DocumentId;

use super::{
    App, HttpOptions,
    origin::{Origin, Room},
    output::Failure,
};
use crate::{
    access::{Authorizer, NotAuthenticated, Principal, Right, authenticate},
    protocol::{Problem, ProblemType},
    service::now_ms,
};

/// Who asks, by the bearer token of the request. Nothing else of it is read before.
pub(super) struct Caller {
    principal: Principal,
    origin: Origin,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        check_host(&app.options, &parts.headers)?;
        let Ok(origin) = Origin::from_request_parts(parts, app).await;
        let principal = principal_of(app.options.authorizer.as_deref(), &parts.headers).await?;
        app.limits.admit_principal(&principal)?;
        Ok(Self { principal, origin })
    }
}

impl Caller {
    /// Refuses unless the caller has a right on a document, or on all.
    pub(super) fn require(&self, right: Right, document: Option<&DocumentId>) -> Result<(), Problem> {
        self.principal.require(right, document)
    }

    /// Refuses unless the caller may write and be remembered under this client id.
    pub(super) fn require_client(&self, client: &ClientId) -> Result<(), Problem> {
        self.principal.require_client(client)
    }

    /// The id of a client that has not said another.
    pub(super) fn client(&self) -> ClientId {
        self.principal.client("http")
    }

    /// Room for a connection that stays.
    pub(super) fn room(&self, app: &App) -> Result<Room, Problem> {
        Room::take(app, self.origin, Some(&self.principal))
    }

    pub(super) const fn principal(&self) -> &Principal {
        &self.principal
    }
}

/// Who asks, by the bearer token of a request.
pub(super) async fn principal_of(
    authorizer: Option<&dyn Authorizer>,
    headers: &HeaderMap,
) -> Result<Principal, Problem> {
    Ok(authenticate(authorizer, bearer(headers)?, now_ms()).await?)
}

/// Refuses a request that names this server by a public domain where nobody has to say who they are.
pub(super) fn check_host(options: &HttpOptions, headers: &HeaderMap) -> Result<(), Problem> {
    if options.any_host || options.authorizer.is_some() {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_near(host) {
        return Ok(());
    }
    let detail = format!("this server is not {host:?}: use an IP address, localhost or a name without dots");
    Err(Problem::new(ProblemType::Misdirected, detail))
}

/// Whether a host is named as only somebody near names it.
fn is_near(host: &str) -> bool {
    // Of `name:port` the name, of `[::1]:port` the address.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_local_name = !name.is_empty() && (!name.contains('.') || name.ends_with(".localhost"));
    address.parse::<IpAddr>().is_ok() || is_local_name
}

/// The token of `Authorization: Bearer …` (RFC 6750 section 2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, NotAuthenticated> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let wrong = || NotAuthenticated::Invalid("expected Authorization: Bearer and the token".to_owned());
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer.then(|| Some(token.trim())).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_name_that_points_here_is_not_this_server() {
        for near in
            ["127.0.0.1:8080", "[::1]:8080", "[::1]", "192.0.2.7", "localhost:8080", "a.localhost", "desk:80"]
        {
            assert!(is_near(near), "{near}");
        }
        for far in
            ["", ":80", "evil.example:8080", "evil.example", "127.0.0.1.evil.example:80", "desk.lan", "a.b:c"]
        {
            assert!(!is_near(far), "{far:?}");
        }
    }
}
