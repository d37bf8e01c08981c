//! Errors as clients see them: RFC 9457 problem details with stable types and the numbers that matter.

use nodestorage::{DocumentId, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::protocol::Current;

/// The problems of the wire, each with its name, status and title.
macro_rules! problem_types {
    ($($(#[doc = $doc:literal])* $variant:ident $slug:literal $status:literal $title:literal;)*) => {
        /// What kind of problem it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ProblemType {
            $($(#[doc = $doc])* #[serde(rename = $slug)] $variant,)*
        }

        impl ProblemType {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that clients match on.
            pub const fn urn(self) -> &'static str {
                match self { $(Self::$variant => concat!("urn:weft:problem:", $slug),)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// What it is in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

problem_types! {
    /// Bytes that are no JSON (or not of the form that was agreed on).
    InvalidJson "invalid-json" 400 "not valid JSON";
    /// JSON that is not what was expected.
    InvalidRequest "invalid-request" 400 "invalid request";
    /// A document or client id that breaks its rule.
    InvalidId "invalid-id" 400 "invalid id";
    /// A message with an unknown type or wrong fields.
    InvalidMessage "invalid-message" 400 "invalid message";
    /// Nobody knows who asks.
    NotAuthenticated "not-authenticated" 401 "not authenticated";
    /// Not from there, or not by them.
    Forbidden "forbidden" 403 "forbidden";
    /// A document that is not there.
    UnknownDocument "unknown-document" 404 "no such document";
    /// A version that is not there.
    UnknownVersion "unknown-version" 404 "no such version";
    /// A path that is not there.
    NotFound "not-found" 404 "no such resource";
    /// A path that can't do that.
    MethodNotAllowed "method-not-allowed" 405 "method not allowed";
    /// A body that did not come in time.
    TooSlow "too-slow" 408 "the request took too long";
    /// A document that is there already.
    AlreadyExists "already-exists" 409 "document exists already";
    /// A count that left one out.
    SequenceGap "sequence-gap" 409 "client sequence leaves a gap";
    /// The first request with this key is still under way.
    IdempotencyInProgress "idempotency-in-progress" 409 "the same request is under way";
    /// Events that are gone.
    HistoryCompacted "history-compacted" 410 "history has been compacted";
    /// Another version than expected.
    VersionMismatch "version-mismatch" 412 "document is at another version";
    /// A body or message over its limit.
    TooLarge "too-large" 413 "too large";
    /// A content type that is not understood here.
    UnsupportedMediaType "unsupported-media-type" 415 "unsupported media type";
    /// Meant for another server.
    Misdirected "misdirected" 421 "not this server";
    /// A patch that does not apply.
    InvalidPatch "invalid-patch" 422 "patch does not apply";
    /// A document that breaks the application's rules.
    InvalidDocument "invalid-document" 422 "invalid document";
    /// A key that was used for another request.
    IdempotencyKeyReused "idempotency-key-reused" 422 "idempotency key was used for another request";
    /// Over a limit of number or rate.
    TooMany "too-many" 429 "too many";
    /// Our fault.
    Internal "internal" 500 "internal error";
    /// Not now.
    Unavailable "unavailable" 503 "unavailable";
}

/// One error, as it goes to the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// [`ProblemType::urn`].
    #[serde(rename = "type")]
    pub urn: String,
    /// [`ProblemType::title`].
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong this time, where, and what was expected.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The numbers.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Problem {
    /// A problem of a type.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            urn: kind.urn().to_owned(),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            extra: Map::new(),
        }
    }

    /// Adds a number or name.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Adds what is there now.
    #[must_use]
    pub fn with_current(self, current: &Current) -> Self {
        let current = serde_json::to_value(current).unwrap_or_default();
        self.with("current", current)
    }

    /// Whether it is of a type.
    pub fn is(&self, kind: ProblemType) -> bool {
        self.urn == kind.urn()
    }

    /// One of its numbers.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.extra.get(name)?.as_u64()
    }

    /// Whether it decides nothing about a write: that may be done later, or have been done. The same write with the same
    /// number finds out. By the status, so that it holds for types of newer servers too.
    pub fn is_passing(&self) -> bool {
        matches!(self.status, 401 | 408 | 429 | 500..) || self.is(ProblemType::IdempotencyInProgress)
    }

    /// A document that is not there.
    pub fn unknown_document(id: &DocumentId) -> Self {
        Self::new(ProblemType::UnknownDocument, format!("document {id} not found"))
            .with("documentId", id.as_str())
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        use ProblemType as T;
        let detail = error.to_string();
        match error {
            StorageError::NotFound { id } => Self::unknown_document(&id),
            StorageError::VersionMismatch { id, expected, actual, .. } => {
                Self::new(T::VersionMismatch, detail)
                    .with("documentId", id.as_str())
                    .with("expected", expected)
                    .with("actual", actual)
            }
            StorageError::InvalidDocument { .. } => Self::new(T::InvalidDocument, detail),
            StorageError::Edit(refusal) => match refusal.downcast::<Self>() {
                Ok(problem) => *problem,
                Err(other) => Self::new(T::InvalidDocument, other.to_string()),
            },
            StorageError::SequenceGap { last, actual } => {
                Self::new(T::SequenceGap, detail).with("expected", last + 1).with("actual", actual)
            }
            StorageError::Busy { .. }
            | StorageError::RetriesExhausted { .. }
            | StorageError::TransactionFailed { .. }
            | StorageError::Timeout(_)
            | StorageError::OutcomeUnknown { .. }
            | StorageError::Closed => Self::new(T::Unavailable, detail).with("retryAfterMs", 1000),
            error => {
                // What a backend says of its files is for the operator, not for clients.
                tracing::error!(%error, "storage failed");
                Self::new(T::Internal, "the storage failed; the server's log says how")
            }
        }
    }
}

impl From<crate::shelf::ShelfError> for Problem {
    fn from(error: crate::shelf::ShelfError) -> Self {
        tracing::error!(%error, "side store failed");
        Self::new(ProblemType::Internal, "the side store failed; the server's log says how")
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.detail.is_empty() { self.title.fmt(f) } else { self.detail.fmt(f) }
    }
}

impl std::error::Error for Problem {}
