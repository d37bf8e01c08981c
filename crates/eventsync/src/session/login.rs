//! Who a connection is: hello, tokens, and the end of what a token says.

use std::{collections::BTreeMap, time::Duration};

use crdt_core::ClientId;
use nodestorage::DocumentId;

use super::{HELLO_BYTES_MAX, PING_EVERY, SUBSCRIPTIONS_MAX, Session, SessionOutput, close};
use crate::{
    access::{NotAuthenticated, Principal, Right},
    feed::Scope,
    protocol::{
        CollectionResume, DocumentResume, Limits, MESSAGE_BYTES_MAX, Problem, ProblemType, ServerMessage,
    },
};

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Login {
    /// Nothing was said yet.
    Silent,
    /// It said hello, and somebody finds out who it is.
    Asked(Hello),
    /// It is known.
    Known(Known),
}

/// What the first message wants.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) client: ClientId,
    pub(super) documents: BTreeMap<DocumentId, DocumentResume>,
    pub(super) collection: Option<CollectionResume>,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) client: ClientId,
    principal: Principal,
    /// When what the token says ends.
    ends_at: Option<Duration>,
    /// A new token is being looked at.
    renewing: bool,
}

impl Known {
    fn new(client: ClientId, principal: Principal, now: Duration, server_time: u64) -> Self {
        let left =
            principal.expires_at_ms().map(|end| Duration::from_millis(end.saturating_sub(server_time)));
        Self { client, principal, ends_at: left.map(|left| now + left), renewing: false }
    }

    /// When what the token says ends.
    pub(super) const fn ends_at(&self) -> Option<Duration> {
        self.ends_at
    }
}

impl Session {
    /// Whether the first message is longer than that of somebody unknown may be.
    pub(super) fn is_too_long_for_unknown(&self, bytes: usize) -> bool {
        self.is_guarded && !matches!(self.login, Login::Known(_)) && bytes > HELLO_BYTES_MAX
    }

    /// The first message.
    pub(super) fn hello(&mut self, hello: Hello, token: Option<String>, now: Duration, server_time: u64) {
        if self.is_guarded {
            self.login = Login::Asked(hello);
            self.outputs.push_back(SessionOutput::Authorize { token });
        } else {
            self.welcome(hello, Principal::anyone(), now, server_time);
        }
    }

    /// A new token for who is known already.
    pub(super) fn renew(&mut self, token: String) {
        let Login::Known(known) = &mut self.login else { return };
        if known.renewing {
            let problem = Problem::new(ProblemType::InvalidMessage, "the token before is still looked at");
            return self.fail(close::POLICY, problem);
        }
        if self.is_guarded {
            known.renewing = true;
            self.outputs.push_back(SessionOutput::Authorize { token: Some(token) });
        } else {
            self.send(ServerMessage::Authenticated { expires_at: None });
        }
    }

    /// Somebody has found out who it is.
    pub(super) fn authorized(
        &mut self,
        result: Result<Principal, NotAuthenticated>,
        now: Duration,
        server_time: u64,
    ) {
        let principal = match result {
            Ok(principal) => principal,
            Err(error) => {
                let code = match error {
                    NotAuthenticated::Unavailable(_) => close::TRY_LATER,
                    _ => close::NOT_AUTHENTICATED,
                };
                return self.fail(code, error.into());
            }
        };
        match std::mem::replace(&mut self.login, Login::Silent) {
            Login::Asked(hello) => self.welcome(hello, principal, now, server_time),
            Login::Known(known) => self.renewed(known, principal, now, server_time),
            Login::Silent => {}
        }
    }

    fn welcome(&mut self, hello: Hello, principal: Principal, now: Duration, server_time: u64) {
        let Hello { client, mut documents, collection } = hello;
        if let Err(problem) = principal.require_client(&client) {
            return self.fail(close::FORBIDDEN, problem);
        }
        self.ping_at = now + PING_EVERY;
        self.send(ServerMessage::Welcome {
            client_id: client.clone(),
            server_time,
            ping_interval_ms: PING_EVERY.as_millis() as u64,
            limits: Limits { message_bytes: MESSAGE_BYTES_MAX, subscriptions: SUBSCRIPTIONS_MAX },
            expires_at: principal.expires_at_ms(),
        });
        self.login = Login::Known(Known::new(client, principal, now, server_time));
        if let Some(path) = self.path.take() {
            documents.entry(path).or_default();
        }
        self.subscribe(documents, collection);
    }

    /// Goes on under the new token: it shows no more where that does not let it, and follows no more what may not be read.
    fn renewed(&mut self, known: Known, principal: Principal, now: Duration, server_time: u64) {
        if known.principal.name() != principal.name() {
            let detail = "the new token is somebody else's: open another connection";
            return self.fail(close::FORBIDDEN, Problem::new(ProblemType::Forbidden, detail));
        }
        self.send(ServerMessage::Authenticated { expires_at: principal.expires_at_ms() });
        let client = known.client.clone();
        self.login = Login::Known(Known::new(known.client, principal, now, server_time));
        let shown: Vec<DocumentId> = self.shows.iter().cloned().collect();
        for document in shown {
            if self.require(Right::Presence, Some(&document)).is_err() {
                self.shows.remove(&document);
                self.outputs.push_back(SessionOutput::Show { client: client.clone(), document, data: None });
            }
        }
        let followed: Vec<Scope> = self.feeds.keys().cloned().collect();
        for scope in followed {
            let document = match &scope {
                Scope::Document(id) => Some(id.clone()),
                Scope::Collection => None,
            };
            if let Err(problem) = self.require(Right::Read, document.as_ref()) {
                self.unsubscribe(&scope);
                self.send(ServerMessage::Error { problem, document_id: document });
            }
        }
    }

    /// A problem unless who is connected has a right on a document, or on all.
    pub(super) fn require(&self, right: Right, document: Option<&DocumentId>) -> Result<(), Problem> {
        match &self.login {
            Login::Known(known) => known.principal.require(right, document),
            _ => Err(NotAuthenticated::Missing.into()),
        }
    }
}
