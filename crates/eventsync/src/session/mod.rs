//! One WebSocket connection as a machine without IO: messages in, messages out, questions to the service in between.

mod following;
mod login;
mod writing;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crdt_core::{ClientId, EncodingFormat};
use nodestorage::DocumentId;
use serde_json::Value;

use self::login::{Hello, Login};
use crate::{
    access::{NotAuthenticated, Principal},
    broker::{Delivery, Presence},
    feed::{Feed, FeedInput, FeedOutput, Scope},
    protocol::{ClientMessage, FrameError, Problem, ProblemType, Push, ServerMessage, read},
    service::{Refusal, Written},
};

/// How many documents one connection follows. At the bound a subscription is refused with `too-many`.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// How many pushes of one connection are under way. At the bound no more is read from the socket until one is answered.
pub const PUSHES_MAX: usize = 64;
/// How many bytes of one connection are held for what is under way: of messages with pushes, and of the state vectors of
/// readers that are not live yet. At the bound no more is read from the socket until something is answered.
pub const HELD_BYTES_MAX: usize = 4 << 20;
/// How many questions of one connection are before the service at once; the others wait for their turn. It bounds the
/// pages that a connection holds in memory.
pub const QUESTIONS_MAX: usize = 4;
/// The largest presence in bytes of JSON; a larger one is refused with `too-large`.
pub const PRESENCE_BYTES_MAX: usize = 4096;
/// The longest first message in bytes where one has to say who one is; a longer one closes the connection unread.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
/// How long a connection may take to be known; then it is closed with [`close::HELLO_TIMEOUT`].
pub const HELLO_MAX: Duration = Duration::from_secs(10);
/// How often the server asks whether the client is still there.
pub const PING_EVERY: Duration = Duration::from_secs(25);
/// How many such questions may stay without an answer; with the next one due the connection is closed.
pub const PINGS_MISSED_MAX: u32 = 2;

/// Close codes.
pub mod close {
    /// The client is gone, or does not answer.
    pub const AWAY: u16 = 1001;
    /// A text frame where binary was agreed on, or the other way round.
    pub const FRAME_KIND: u16 = 1003;
    /// Not JSON, not MessagePack.
    pub const NOT_READABLE: u16 = 1007;
    /// The protocol was broken.
    pub const POLICY: u16 = 1008;
    /// A message over its limit.
    pub const TOO_BIG: u16 = 1009;
    /// Our fault.
    pub const INTERNAL: u16 = 1011;
    /// The server goes down; come back.
    pub const RESTART: u16 = 1012;
    /// Not now.
    pub const TRY_LATER: u16 = 1013;
    /// No token, or one that is not or no more good.
    pub const NOT_AUTHENTICATED: u16 = 4401;
    /// A client id or token of somebody else.
    pub const FORBIDDEN: u16 = 4403;
    /// No hello in time.
    pub const HELLO_TIMEOUT: u16 = 4408;
    /// More messages or connections than one may have.
    pub const TOO_MANY: u16 = 4429;
}

/// What a session is told.
#[derive(Debug)]
pub enum SessionInput<'a> {
    /// A text frame.
    Text(&'a str),
    /// A binary frame.
    Binary(&'a [u8]),
    /// A ping or pong of the WebSocket itself.
    Alive,
    /// The answer to [`SessionOutput::Authorize`].
    Authorized(Result<Principal, NotAuthenticated>),
    /// Something for this connection's mailbox.
    Delivery(Delivery),
    /// What others show on a document now: the answer to [`SessionOutput::Greet`].
    Shown {
        /// On which document.
        document: DocumentId,
        /// Who, and what.
        shown: Vec<Arc<Presence>>,
    },
    /// The service's answer to [`SessionOutput::Ask`].
    Answer {
        /// Which feed asked.
        feed: u64,
        /// The answer.
        answer: Result<FeedInput, Problem>,
    },
    /// What became of [`SessionOutput::Write`].
    Written {
        /// To which document.
        document: DocumentId,
        /// As which of the client's writes.
        client_seq: Option<u64>,
        /// What became of it.
        result: Result<Written, Refusal>,
    },
    /// Too many show themselves on this document: the answer to [`SessionOutput::Show`] where there was no room.
    NotShown(DocumentId),
    /// This is one connection too many, or too much has come on it.
    TooMany(Problem),
    /// Time went by.
    Time,
    /// The server goes down.
    Drain {
        /// When the client may try again.
        reconnect_after: Duration,
    },
}

/// What a session wants done, in order.
#[derive(Debug, PartialEq)]
pub enum SessionOutput {
    /// Find out who shows this token, and answer with [`SessionInput::Authorized`]. There is one such question at a time.
    Authorize {
        /// The token, if there was one.
        token: Option<String>,
    },
    /// Let the mailbox hear of this. Comes before the feed's first question.
    Subscribe(Scope),
    /// Let it hear no more of this.
    Unsubscribe(Scope),
    /// Ask the service, and answer with [`SessionInput::Answer`].
    Ask {
        /// Which feed asks.
        feed: u64,
        /// About what.
        scope: Scope,
        /// What.
        question: FeedOutput,
    },
    /// Write, and answer with [`SessionInput::Written`].
    Write {
        /// Who.
        client: ClientId,
        /// What.
        push: Push,
    },
    /// Remember what the client has.
    Remember {
        /// Who.
        client: ClientId,
        /// Of which document.
        document: DocumentId,
        /// Everything up to here.
        cursor: u64,
    },
    /// Show this to the others.
    Show {
        /// Who.
        client: ClientId,
        /// On which document.
        document: DocumentId,
        /// What; `None` takes it back.
        data: Option<Value>,
    },
    /// Find out what others show on this document, and answer with [`SessionInput::Shown`].
    Greet(DocumentId),
    /// Send a message.
    Send(ServerMessage),
    /// Send a ping of the WebSocket itself.
    Ping,
    /// Close, and be done.
    Close {
        /// Why, as a number.
        code: u16,
        /// Why, in at most 123 bytes.
        reason: String,
    },
}

/// The pushes to one document: one is before the service, the others wait in their order.
#[derive(Debug, Default)]
struct Pushes {
    /// Of the message with the one before the service, which itself is held there.
    under_way_bytes: usize,
    waiting: VecDeque<(Push, usize)>,
}

/// The machine. `now` is the time since it was made.
#[derive(Debug)]
pub struct Session {
    format: EncodingFormat,
    path: Option<DocumentId>,
    /// Whether who connects has to say who it is.
    is_guarded: bool,
    login: Login,
    feeds: BTreeMap<Scope, (u64, Feed)>,
    /// Which feed is meant by an answer; a feed that is gone is not in here.
    scopes: BTreeMap<u64, Scope>,
    feeds_made: u64,
    questions: VecDeque<(u64, FeedOutput)>,
    asked: usize,
    /// Of each document to which a push is before the service.
    pushes: BTreeMap<DocumentId, Pushes>,
    pushes_held: usize,
    /// Of the messages with these pushes.
    pushes_bytes: usize,
    /// How many bytes of state vectors each feed was given that is not live yet.
    vectors: BTreeMap<u64, usize>,
    shows: BTreeSet<DocumentId>,
    /// What the client was told that others show; shared with the broker. No more than is shown on the documents that are
    /// followed.
    told: BTreeMap<DocumentId, BTreeMap<ClientId, Arc<Presence>>>,
    ping_at: Duration,
    pings_missed: u32,
    /// The server goes down: what is under way is answered, nothing new is taken.
    draining: bool,
    closed: bool,
    outputs: VecDeque<SessionOutput>,
}

impl Session {
    /// A new connection, for the document of its path if it has one.
    pub fn new(format: EncodingFormat, path: Option<DocumentId>) -> Self {
        Self {
            format,
            path,
            is_guarded: false,
            login: Login::Silent,
            feeds: BTreeMap::new(),
            scopes: BTreeMap::new(),
            feeds_made: 0,
            questions: VecDeque::new(),
            asked: 0,
            pushes: BTreeMap::new(),
            pushes_held: 0,
            pushes_bytes: 0,
            vectors: BTreeMap::new(),
            shows: BTreeSet::new(),
            told: BTreeMap::new(),
            ping_at: PING_EVERY,
            pings_missed: 0,
            draining: false,
            closed: false,
            outputs: VecDeque::new(),
        }
    }

    /// Asks who connects before anything is done for it.
    #[must_use]
    pub fn guarded(self) -> Self {
        Self { is_guarded: true, ..self }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<SessionOutput> {
        self.outputs.pop_front()
    }

    /// When to come back with [`SessionInput::Time`] if nothing else happens.
    pub fn deadline(&self) -> Duration {
        match &self.login {
            Login::Known(known) => known.ends_at().map_or(self.ping_at, |end| end.min(self.ping_at)),
            Login::Silent | Login::Asked(_) => HELLO_MAX,
        }
    }

    /// Whether more frames may be read.
    pub fn wants_frames(&self) -> bool {
        let is_asked = matches!(self.login, Login::Asked(_));
        let held_bytes = self.pushes_bytes + self.vectors.values().sum::<usize>();
        let has_room = self.pushes_held < PUSHES_MAX && held_bytes < HELD_BYTES_MAX;
        !self.closed && !self.draining && !is_asked && has_room
    }

    /// Whether it has been told that the server goes down.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes something in. `server_time` goes into messages and decides nothing.
    pub fn handle_input(&mut self, input: SessionInput<'_>, now: Duration, server_time: u64) {
        if self.closed {
            return;
        }
        match input {
            SessionInput::Text(text) => self.frame(EncodingFormat::Json, text.as_bytes(), now, server_time),
            SessionInput::Binary(bytes) => {
                self.frame(EncodingFormat::MessagePack, bytes, now, server_time);
            }
            SessionInput::Alive => self.pings_missed = 0,
            SessionInput::Authorized(result) => self.authorized(result, now, server_time),
            SessionInput::Delivery(delivery) => self.delivery(delivery),
            SessionInput::Shown { document, shown } => self.shown(&document, shown),
            SessionInput::Answer { feed, answer } => self.answer(feed, answer),
            SessionInput::Written { document, client_seq, result } => {
                self.written(document, client_seq, result);
            }
            SessionInput::NotShown(document) => self.not_shown(document),
            SessionInput::TooMany(problem) => self.fail(close::TOO_MANY, problem),
            SessionInput::Time => self.time(now),
            SessionInput::Drain { reconnect_after } => {
                let reconnect_after_ms = u64::try_from(reconnect_after.as_millis()).unwrap_or(u64::MAX);
                self.send(ServerMessage::Drain { reconnect_after_ms });
                self.draining = true;
            }
        }
        if self.draining && self.pushes_held == 0 && !self.closed {
            self.close(close::RESTART, "the server goes down");
        }
        self.ask();
    }

    fn frame(&mut self, format: EncodingFormat, bytes: &[u8], now: Duration, server_time: u64) {
        self.pings_missed = 0;
        if format != self.format {
            let agreed = self.format;
            return self.close(close::FRAME_KIND, format!("this connection speaks {agreed}"));
        }
        if self.is_too_long_for_unknown(bytes.len()) {
            let detail = format!("{} bytes of hello, at most {HELLO_BYTES_MAX} are allowed", bytes.len());
            let problem = Problem::new(ProblemType::TooLarge, detail).with("limit", HELLO_BYTES_MAX);
            return self.fail(close::TOO_BIG, problem.with("unit", "bytes"));
        }
        match read(format, bytes, ProblemType::InvalidMessage) {
            Ok(message) => self.message(message, bytes.len(), now, server_time),
            Err(error) => {
                let code = match error {
                    FrameError::Syntax(_) => close::NOT_READABLE,
                    FrameError::Shape(_) => close::POLICY,
                };
                self.fail(code, error.into_problem());
            }
        }
    }

    fn message(&mut self, message: ClientMessage, bytes: usize, now: Duration, server_time: u64) {
        let client = match (&self.login, message) {
            (_, ClientMessage::Ping { id }) => return self.send(ServerMessage::Pong { id, server_time }),
            (Login::Silent, ClientMessage::Hello { client_id, token, documents, collection }) => {
                let hello = Hello { client: client_id, documents, collection };
                return self.hello(hello, token, now, server_time);
            }
            (Login::Known(known), message) => (known.client.clone(), message),
            (Login::Silent | Login::Asked(_), _) => {
                let problem = Problem::new(ProblemType::InvalidMessage, "the first message must be hello");
                return self.fail(close::POLICY, problem);
            }
        };
        match client {
            (_, ClientMessage::Hello { .. }) => {
                let problem = Problem::new(ProblemType::InvalidMessage, "hello was said already");
                self.fail(close::POLICY, problem);
            }
            (_, ClientMessage::Authenticate { token }) => self.renew(token),
            (_, ClientMessage::Subscribe { documents, collection }) => self.subscribe(documents, collection),
            (_, ClientMessage::Unsubscribe { documents, collection }) => {
                documents.into_iter().map(Scope::Document).for_each(|scope| self.unsubscribe(&scope));
                if collection {
                    self.unsubscribe(&Scope::Collection);
                }
            }
            (client, ClientMessage::Push(push)) => self.push(client, push, bytes),
            (client, ClientMessage::Presence { document_id, data }) => self.show(client, document_id, data),
            (client, ClientMessage::Ack { document_id, cursor }) => {
                self.ack(client, document_id, cursor);
            }
            (_, ClientMessage::Ping { .. }) => {}
        }
    }

    fn time(&mut self, now: Duration) {
        if now < self.deadline() {
            return;
        }
        let Login::Known(known) = &self.login else {
            return self.close(close::HELLO_TIMEOUT, "no hello in time");
        };
        if known.ends_at().is_some_and(|end| end <= now) {
            return self.fail(close::NOT_AUTHENTICATED, NotAuthenticated::Expired.into());
        }
        if self.pings_missed >= PINGS_MISSED_MAX {
            return self.close(close::AWAY, "no answer to pings");
        }
        self.pings_missed += 1;
        self.ping_at = now + PING_EVERY;
        self.outputs.push_back(SessionOutput::Ping);
    }

    fn send(&mut self, message: ServerMessage) {
        self.outputs.push_back(SessionOutput::Send(message));
    }

    fn fail(&mut self, code: u16, problem: Problem) {
        let reason = problem.to_string();
        self.send(ServerMessage::Error { problem, document_id: None });
        self.close(code, reason);
    }

    fn close(&mut self, code: u16, reason: impl Into<String>) {
        let mut reason = reason.into();
        // A control frame holds 125 bytes, two of them the code.
        reason.truncate(reason.floor_char_boundary(123));
        self.outputs.push_back(SessionOutput::Close { code, reason });
        self.closed = true;
    }
}
