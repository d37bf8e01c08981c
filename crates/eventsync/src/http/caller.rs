//! Who asks.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use crdt_core::ClientId;
use nodestorage::DocumentId;

use super::{App, output::Failure};
use crate::{
    access::{Authorizer, NotAuthenticated, Principal, Right, authenticate},
    protocol::Problem,
    service::now_ms,
};

/// Who asks, by the bearer token of the request. Nothing else of it is read before.
pub(super) struct Caller(Principal);

impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        Ok(Self::of(app.options.authorizer.as_deref(), &parts.headers).await?)
    }
}

impl Caller {
    pub(super) async fn of(
        authorizer: Option<&dyn Authorizer>,
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        Ok(Self(authenticate(authorizer, bearer(headers)?, now_ms()).await?))
    }

    /// Refuses unless the caller has a right on a document, or on all.
    pub(super) fn require(&self, right: Right, document: Option<&DocumentId>) -> Result<(), Problem> {
        self.0.require(right, document)
    }

    /// Refuses unless the caller may write and be remembered under this client id.
    pub(super) fn require_client(&self, client: &ClientId) -> Result<(), Problem> {
        self.0.require_client(client)
    }

    /// The id of a client that has not said another.
    pub(super) fn client(&self) -> ClientId {
        self.0.client("http")
    }

    pub(super) const fn principal(&self) -> &Principal {
        &self.0
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750 section 2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, NotAuthenticated> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let wrong = || NotAuthenticated::Invalid("expected Authorization: Bearer and the token".to_owned());
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer.then(|| Some(token.trim())).ok_or_else(wrong)
}
