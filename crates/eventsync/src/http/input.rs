//! Requests: everything that comes from outside is checked here, and what is wrong becomes a problem.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
    http::{HeaderMap, header, request::Parts},
};
use crdt_core::{ClientId, EncodingFormat, id::MAX_ID};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use nodestorage::{DocumentId, Producer};
use serde::{Deserialize, de::DeserializeOwned};

use super::{App, BODY_BYTES_MAX, caller::Caller, output::Failure};
use crate::{
    feed::Resume,
    protocol::{Problem, ProblemType, read},
};

/// The document of the path.
pub(super) struct Id(pub(super) DocumentId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(ProblemType::InvalidId, "the path's id is not UTF-8"))?;
        let id = params.iter().find(|(name, _)| *name == "id").map_or("", |(_, value)| value);
        Ok(Self(document_id(id)?))
    }
}

pub(super) fn document_id(id: &str) -> Result<DocumentId, Problem> {
    DocumentId::new(id).map_err(|e| Problem::new(ProblemType::InvalidId, e.to_string()))
}

/// The `version` of the path.
pub(super) struct Version(pub(super) u64);

impl<S: Send + Sync> FromRequestParts<S> for Version {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(ProblemType::InvalidRequest, "the path is not UTF-8"))?;
        let version = params.iter().find(|(name, _)| *name == "version").map_or("", |(_, value)| value);
        let number = version.parse().ok().filter(|number| *number <= MAX_ID);
        let wrong = || {
            Problem::new(ProblemType::InvalidRequest, format!("version {version:?} is not a whole number"))
        };
        Ok(Self(number.ok_or_else(wrong)?))
    }
}

/// The query string.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let Query(params) = Query::try_from_uri(&parts.uri)
            .map_err(|e| Problem::new(ProblemType::InvalidRequest, e.to_string()))?;
        Ok(Self(params))
    }
}

/// A body within its limit, with its type.
pub(super) struct Payload {
    bytes: Bytes,
    kind: String,
}

impl FromRequest<App> for Payload {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        let wait = app.options.body_wait;
        let reading = read_body(request.headers().clone(), request.into_body());
        let bytes = tokio::time::timeout(wait, reading).await.map_err(|_| {
            let detail = format!("the body was not here within {} ms", wait.as_millis());
            Problem::new(ProblemType::TooSlow, detail)
                .with("limit", wait.as_millis() as u64)
                .with("unit", "ms")
        })??;
        Ok(Self { bytes, kind })
    }
}

async fn read_body(headers: HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(ProblemType::TooLarge, format!("at most {BODY_BYTES_MAX} bytes of body are allowed"))
            .with("limit", BODY_BYTES_MAX)
            .with("unit", "bytes")
    };
    // Refused before it is sent, if the client says how long it is.
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Problem::new(ProblemType::InvalidRequest, format!("body not received: {error}"))),
    }
}

impl Payload {
    /// Reads JSON of one of these content types, and tells which.
    pub(super) fn json<T: DeserializeOwned>(&self, kinds: &'static [&'static str]) -> Result<T, Problem> {
        self.kind_of(kinds)?;
        read(EncodingFormat::Json, &self.bytes, ProblemType::InvalidRequest)
            .map_err(crate::protocol::FrameError::into_problem)
    }

    /// Which of these content types it has.
    pub(super) fn kind_of(&self, kinds: &'static [&'static str]) -> Result<&'static str, Problem> {
        kinds.iter().find(|kind| **kind == self.kind).copied().ok_or_else(|| {
            let detail = format!("content type {:?}, expected {}", self.kind, kinds.join(" or "));
            Problem::new(ProblemType::UnsupportedMediaType, detail).with("expected", kinds)
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A header's text; an error if it is not text.
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let wrong = |_| Problem::new(ProblemType::InvalidRequest, format!("header {name} is not plain text"));
    value.to_str().map(|text| Some(text.trim())).map_err(wrong)
}

/// Who writes, and as which of its writes.
pub(super) fn producer(caller: &Caller, headers: &HeaderMap) -> Result<Producer, Problem> {
    let client_id = match text(headers, "weft-client-id")? {
        Some(name) => ClientId::new(name).map_err(|e| Problem::new(ProblemType::InvalidId, e.to_string()))?,
        None => caller.client(),
    };
    caller.require_client(&client_id)?;
    let sequence = match text(headers, "weft-client-seq")? {
        Some(count) => Some(whole_number("weft-client-seq", count)?),
        None => None,
    };
    Ok(Producer { client_id, sequence })
}

/// A condition on the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// None.
    Any,
    /// Only at this version.
    At(u64),
    /// Only if there is a document.
    Exists,
    /// Only if there is none.
    Absent,
}

pub(super) fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    let at = text(headers, "if-match")?;
    let not = text(headers, "if-none-match")?;
    match (at, not) {
        (None, None) => Ok(Condition::Any),
        (Some("*"), None) => Ok(Condition::Exists),
        (Some(tag), None) => {
            let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let wrong =
                || Problem::new(ProblemType::InvalidRequest, format!("If-Match {tag}: expected \"version\""));
            Ok(Condition::At(whole_number("if-match", number.ok_or_else(wrong)?)?))
        }
        (None, Some("*")) => Ok(Condition::Absent),
        _ => {
            let detail = "a write takes either If-Match: \"version\" or If-None-Match: *";
            Err(Problem::new(ProblemType::InvalidRequest, detail))
        }
    }
}

/// Where a reader is, in an address or a header: a number, and behind an `@` when the event of that number was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) timestamp: Option<u64>,
}

impl Place {
    pub(super) fn read(name: &str, text: &str) -> Result<Self, Problem> {
        let (number, timestamp) = match text.split_once('@') {
            Some((number, timestamp)) => (number, Some(whole_number(name, timestamp)?)),
            None => (text, None),
        };
        Ok(Self { number: whole_number(name, number)?, timestamp })
    }

    pub(super) fn resume(self) -> Resume {
        Resume::after(self.number, self.timestamp)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.number)?;
        self.timestamp.map_or(Ok(()), |timestamp| write!(f, "@{timestamp}"))
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read("after", &text).map_err(|problem| serde::de::Error::custom(problem.detail))
    }
}

pub(super) fn whole_number(name: &str, text: &str) -> Result<u64, Problem> {
    text.parse().ok().filter(|number| *number <= MAX_ID).ok_or_else(|| {
        let detail = format!("{name}: {text:?} is not a whole number up to {MAX_ID}");
        Problem::new(ProblemType::InvalidRequest, detail)
    })
}
