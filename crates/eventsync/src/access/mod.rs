//! Who may do what: principals with their grants, and the seam through which a server learns who somebody is.
//!
//! Without an [`Authorizer`] everybody is [`Principal::anyone`], which is right on loopback and nowhere else. With one,
//! each request and each socket shows a token, and may do what the token's grants say. A grant names a document, the
//! documents that begin with a prefix, or all; what concerns all documents at once (the list, the collection's events, the
//! numbers of the server) needs a grant on all.
//!
//! Writers are counted by client id, and a repeated count is answered without being applied. So nobody may write under
//! the client id of another: an authenticated client's ids begin with its name and a slash, see
//! [`Principal::owns`].

#[cfg(feature = "jwt")]
mod jwt;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use crdt_core::ClientId;
use nodestorage::DocumentId;
use serde::{Deserialize, Serialize};

#[cfg(feature = "jwt")]
pub use jwt::{JwtAuthorizer, JwtError, JwtKeys, SECRET_BYTES_MIN, sign};

use crate::protocol::{Problem, ProblemType};

/// The longest token in bytes; a longer one is refused unread.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How many grants a principal has. A token with more is refused.
pub const GRANTS_MAX: usize = 256;

/// One thing that may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// See documents, their events, snapshots and state vectors, and what others show on them.
    Read,
    /// Create, change and delete documents.
    Write,
    /// Show oneself to others.
    Presence,
    /// Make snapshots; on all documents: see the numbers of the server.
    Admin,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Presence => "presence",
            Self::Admin => "admin",
        })
    }
}

/// Rights on some documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `*` for all documents, `club:*` for those that begin with `club:`, else the id of one.
    pub documents: String,
    /// What may be done to them. None implies another.
    pub rights: Vec<Right>,
}

impl Grant {
    /// Every right on all documents.
    pub fn everything() -> Self {
        let rights = vec![Right::Read, Right::Write, Right::Presence, Right::Admin];
        Self { documents: "*".to_owned(), rights }
    }

    fn covers(&self, document: &DocumentId) -> bool {
        match self.documents.strip_suffix('*') {
            Some(prefix) => document.as_str().starts_with(prefix),
            None => self.documents == document.as_str(),
        }
    }
}

/// Somebody, with what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `None` for [`anyone`](Self::anyone).
    name: Option<Arc<str>>,
    grants: Arc<[Grant]>,
    expires_at_ms: Option<u64>,
}

impl Principal {
    /// Everybody, where nobody has to say who they are: may do everything, for ever, under any client id.
    pub fn anyone() -> Self {
        Self { name: None, grants: Arc::new([Grant::everything()]), expires_at_ms: None }
    }

    /// Somebody known by name. `expires_at_ms`: milliseconds since 1970 UTC until which that holds.
    ///
    /// # Errors
    /// A name that can't begin a client id (empty, too long, control characters), or more than [`GRANTS_MAX`] grants.
    pub fn new(name: &str, grants: Vec<Grant>, expires_at_ms: Option<u64>) -> Result<Self, NotAuthenticated> {
        // Room for a slash and what tells the clients of one principal apart.
        if name.is_empty() || ClientId::new(format!("{name}/{}", "x".repeat(16))).is_err() {
            let detail = format!("the name {name:?} of {} bytes can't begin a client id", name.len());
            return Err(NotAuthenticated::Invalid(detail));
        }
        if grants.len() > GRANTS_MAX {
            let detail = format!("{} grants, at most {GRANTS_MAX} are allowed", grants.len());
            return Err(NotAuthenticated::Invalid(detail));
        }
        Ok(Self { name: Some(name.into()), grants: grants.into(), expires_at_ms })
    }

    /// The name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The name, to be kept without a copy.
    #[cfg(feature = "http")]
    pub(crate) const fn shared_name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    /// Until when this is known, in milliseconds since 1970 UTC.
    pub const fn expires_at_ms(&self) -> Option<u64> {
        self.expires_at_ms
    }

    /// Whether a client of this id is this principal's: its name, a slash, and something without a slash. So no two
    /// principals have one in common, whatever slashes are in their names.
    pub fn owns(&self, client: &ClientId) -> bool {
        let Some(name) = &self.name else { return true };
        let tail = client.as_str().strip_prefix(&**name).and_then(|tail| tail.strip_prefix('/'));
        tail.is_some_and(|tail| !tail.is_empty() && !tail.contains('/'))
    }

    /// The id of a client that has not said another: `http` for anyone, else that under the name.
    pub fn client(&self, short: &'static str) -> ClientId {
        let id = self.name.as_ref().map_or_else(|| short.to_owned(), |name| format!("{name}/{short}"));
        ClientId::new(id).expect("a name leaves room for a short tail")
    }

    /// Whether it has a right on a document; without one: on all documents.
    pub fn has(&self, right: Right, document: Option<&DocumentId>) -> bool {
        self.grants.iter().any(|grant| {
            let covers = document.map_or(grant.documents == "*", |document| grant.covers(document));
            covers && grant.rights.contains(&right)
        })
    }

    /// A problem unless it [has](Self::has) the right. It is the same whether the document exists or not.
    pub fn require(&self, right: Right, document: Option<&DocumentId>) -> Result<(), Problem> {
        if self.has(right, document) {
            return Ok(());
        }
        let on = document.map_or_else(|| "all documents".to_owned(), |id| format!("document {id}"));
        let who = self.name().unwrap_or("anyone");
        let problem = Problem::new(ProblemType::Forbidden, format!("{who} has no right to {right} on {on}"))
            .with("right", right.to_string());
        Err(match document {
            Some(id) => problem.with("documentId", id.as_str()),
            None => problem,
        })
    }

    /// A problem unless it [owns](Self::owns) the client id.
    pub fn require_client(&self, client: &ClientId) -> Result<(), Problem> {
        if self.owns(client) {
            return Ok(());
        }
        let who = self.name().unwrap_or("anyone");
        let detail =
            format!("client id {client} is not {who}'s: expected {who}/ and something without a slash");
        Err(Problem::new(ProblemType::Forbidden, detail))
    }
}

/// Why somebody is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAuthenticated {
    /// No token was shown.
    #[error("a bearer token is needed")]
    Missing,
    /// It was good once.
    #[error("the token expired")]
    Expired,
    /// It is not good.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// It could not be looked at.
    #[error("who you are could not be found out: {0}")]
    Unavailable(String),
}

impl From<NotAuthenticated> for Problem {
    fn from(error: NotAuthenticated) -> Self {
        match &error {
            NotAuthenticated::Unavailable(reason) => {
                tracing::error!(reason, "the authorizer failed");
                let detail = "who you are can't be found out now; the server's log says why";
                Self::new(ProblemType::Unavailable, detail).with("retryAfterMs", 1000)
            }
            known => Self::new(ProblemType::NotAuthenticated, known.to_string()),
        }
    }
}

/// Tells who somebody is by the token they show.
///
/// An implementation decides alone: no one is let in whom it does not name. It is asked once per request, and once per
/// socket and renewal; it should answer within a few seconds, and bounds what it keeps.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// Who shows this token, `None` for none. `now_ms`: milliseconds since 1970 UTC.
    async fn authorize(&self, token: Option<&str>, now_ms: u64) -> Result<Principal, NotAuthenticated>;
}

/// Who shows a token: as the authorizer says, or anyone where there is none. Tokens over [`TOKEN_BYTES_MAX`] are
/// refused before anybody reads them, and principals that have expired after.
pub async fn authenticate(
    authorizer: Option<&dyn Authorizer>,
    token: Option<&str>,
    now_ms: u64,
) -> Result<Principal, NotAuthenticated> {
    let Some(authorizer) = authorizer else { return Ok(Principal::anyone()) };
    if let Some(token) = token.filter(|token| token.len() > TOKEN_BYTES_MAX) {
        let detail = format!("{} bytes, at most {TOKEN_BYTES_MAX} are allowed", token.len());
        return Err(NotAuthenticated::Invalid(detail));
    }
    let principal = authorizer.authorize(token, now_ms).await?;
    match principal.expires_at_ms {
        Some(end) if end <= now_ms => Err(NotAuthenticated::Expired),
        _ => Ok(principal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(documents: &str, rights: &[Right]) -> Grant {
        Grant { documents: documents.to_owned(), rights: rights.to_vec() }
    }

    fn alice(grants: Vec<Grant>) -> Principal {
        Principal::new("alice", grants, None).unwrap()
    }

    #[test]
    fn a_grant_covers_one_document_a_prefix_or_all() {
        let who = alice(vec![grant("go", &[Right::Read]), grant("club:*", &[Right::Read, Right::Write])]);
        let has = |right, id: &str| who.has(right, Some(&DocumentId::new(id).unwrap()));
        assert!(has(Right::Read, "go") && !has(Right::Write, "go") && !has(Right::Read, "gone"));
        assert!(has(Right::Write, "club:1") && has(Right::Write, "club:") && !has(Right::Write, "club"));
        assert!(!who.has(Right::Read, None), "a prefix is not all");
        let all = alice(vec![grant("*", &[Right::Read])]);
        assert!(all.has(Right::Read, None) && !all.has(Right::Admin, None));
    }

    #[test]
    fn no_client_id_belongs_to_two_names() {
        let named = |name| Principal::new(name, vec![], None).unwrap();
        let owns = |name, id: &str| named(name).owns(&ClientId::new(id).unwrap());
        assert!(owns("alice", "alice/phone"));
        for other in ["alice", "alice/", "alice/bob/phone", "alicia/phone", "bob/alice/phone", "phone"] {
            assert!(!owns("alice", other), "{other}");
        }
        assert!(owns("alice/bob", "alice/bob/phone") && !owns("alice/bob", "alice/bob"));
        assert!(Principal::anyone().owns(&ClientId::new("whoever").unwrap()));
    }

    #[test]
    fn a_name_that_can_begin_no_client_id_is_refused() {
        let long = "x".repeat(ClientId::LEN_BYTES_MAX - 16);
        for bad in ["", "a\nb", &long] {
            assert!(
                matches!(Principal::new(bad, vec![], None), Err(NotAuthenticated::Invalid(_))),
                "{bad:?}"
            );
        }
        assert_eq!(alice(vec![]).client("http").as_str(), "alice/http");
        let many = vec![Grant::everything(); GRANTS_MAX + 1];
        assert!(matches!(Principal::new("a", many, None), Err(NotAuthenticated::Invalid(_))));
    }

    #[test]
    fn a_refusal_is_the_same_whether_the_document_is_there() {
        let problem = alice(vec![]).require(Right::Read, Some(&DocumentId::new("go").unwrap())).unwrap_err();
        assert!(problem.is(ProblemType::Forbidden) && problem.detail.contains("alice has no right to read"));
    }
}
