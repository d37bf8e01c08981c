//! One WebSocket connection as a machine without IO: messages in, messages out, questions to the service in between.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crdt_core::{ClientId, EncodingFormat};
use nodestorage::DocumentId;
use serde_json::Value;

use crate::{
    broker::Delivery,
    feed::{Feed, FeedInput, FeedOutput, Resume, Scope},
    protocol::{
        ClientMessage, CollectionResume, DocumentResume, FrameError, Limits, MESSAGE_BYTES_MAX, Problem,
        ProblemType, Push, ServerMessage, read,
    },
    service::{Refusal, Written},
};

/// How many documents one connection follows. At the bound a subscription is refused with `too-many`.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// How many pushes of one connection are under way. At the bound no more is read from the socket until one is answered.
pub const PUSHES_MAX: usize = 64;
/// How many questions of one connection are before the service at once; the others wait for their turn. It bounds the
/// pages that a connection holds in memory.
pub const QUESTIONS_MAX: usize = 4;
/// The largest presence in bytes of JSON; a larger one is refused with `too-large`.
pub const PRESENCE_BYTES_MAX: usize = 4096;
/// How long a connection may take to say hello; then it is closed with [`close::HELLO_TIMEOUT`].
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
    /// Our fault.
    pub const INTERNAL: u16 = 1011;
    /// The server goes down; come back.
    pub const RESTART: u16 = 1012;
    /// No hello in time.
    pub const HELLO_TIMEOUT: u16 = 4408;
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
    /// Something for this connection's mailbox.
    Delivery(Delivery),
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
    /// Show this to the others, and send the client what they show if it shows something for the first time.
    Show {
        /// Who.
        client: ClientId,
        /// On which document.
        document: DocumentId,
        /// What; `None` takes it back.
        data: Option<Value>,
    },
    /// Send the client what others show.
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

/// The machine. `now` is the time since it was made.
#[derive(Debug)]
pub struct Session {
    format: EncodingFormat,
    path: Option<DocumentId>,
    client: Option<ClientId>,
    feeds: BTreeMap<Scope, (u64, Feed)>,
    /// Which feed is meant by an answer; a feed that is gone is not in here.
    scopes: BTreeMap<u64, Scope>,
    feeds_made: u64,
    questions: VecDeque<(u64, FeedOutput)>,
    asked: usize,
    /// Pushes of each document in their order; the first of each is before the service.
    pushes: BTreeMap<DocumentId, VecDeque<Push>>,
    pushes_held: usize,
    shows: BTreeSet<DocumentId>,
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
            client: None,
            feeds: BTreeMap::new(),
            scopes: BTreeMap::new(),
            feeds_made: 0,
            questions: VecDeque::new(),
            asked: 0,
            pushes: BTreeMap::new(),
            pushes_held: 0,
            shows: BTreeSet::new(),
            ping_at: PING_EVERY,
            pings_missed: 0,
            draining: false,
            closed: false,
            outputs: VecDeque::new(),
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<SessionOutput> {
        self.outputs.pop_front()
    }

    /// When to come back with [`SessionInput::Time`] if nothing else happens.
    pub fn deadline(&self) -> Duration {
        if self.client.is_none() { HELLO_MAX } else { self.ping_at }
    }

    /// Whether more frames may be read.
    pub fn wants_frames(&self) -> bool {
        !self.closed && !self.draining && self.pushes_held < PUSHES_MAX
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
            SessionInput::Delivery(delivery) => self.delivery(delivery),
            SessionInput::Answer { feed, answer } => self.answer(feed, answer),
            SessionInput::Written { document, client_seq, result } => {
                self.written(document, client_seq, result);
            }
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
        match read(format, bytes, ProblemType::InvalidMessage) {
            Ok(message) => self.message(message, now, server_time),
            Err(error) => {
                let code = match error {
                    FrameError::Syntax(_) => close::NOT_READABLE,
                    FrameError::Shape(_) => close::POLICY,
                };
                self.fail(code, error.into_problem());
            }
        }
    }

    fn message(&mut self, message: ClientMessage, now: Duration, server_time: u64) {
        let client = match (&self.client, message) {
            (_, ClientMessage::Ping { id }) => return self.send(ServerMessage::Pong { id, server_time }),
            (None, ClientMessage::Hello { client_id, token: _, documents, collection }) => {
                return self.hello(client_id, documents, collection, now, server_time);
            }
            (None, _) => {
                let problem = Problem::new(ProblemType::InvalidMessage, "the first message must be hello");
                return self.fail(close::POLICY, problem);
            }
            (Some(_), ClientMessage::Hello { .. }) => {
                let problem = Problem::new(ProblemType::InvalidMessage, "hello was said already");
                return self.fail(close::POLICY, problem);
            }
            (Some(client), message) => (client.clone(), message),
        };
        match client {
            (_, ClientMessage::Subscribe { documents, collection }) => self.subscribe(documents, collection),
            (_, ClientMessage::Unsubscribe { documents, collection }) => {
                documents.into_iter().map(Scope::Document).for_each(|scope| self.unsubscribe(&scope));
                if collection {
                    self.unsubscribe(&Scope::Collection);
                }
            }
            (client, ClientMessage::Push(push)) => self.push(client, push),
            (client, ClientMessage::Presence { document_id, data }) => self.show(client, document_id, data),
            (client, ClientMessage::Ack { document_id, cursor }) => {
                self.ack(client, document_id, cursor);
            }
            (_, ClientMessage::Hello { .. } | ClientMessage::Ping { .. }) => {}
        }
    }

    fn hello(
        &mut self,
        client_id: ClientId,
        mut documents: BTreeMap<DocumentId, DocumentResume>,
        collection: Option<CollectionResume>,
        now: Duration,
        server_time: u64,
    ) {
        self.client = Some(client_id.clone());
        self.ping_at = now + PING_EVERY;
        self.send(ServerMessage::Welcome {
            client_id,
            server_time,
            ping_interval_ms: PING_EVERY.as_millis() as u64,
            limits: Limits { message_bytes: MESSAGE_BYTES_MAX, subscriptions: SUBSCRIPTIONS_MAX },
        });
        if let Some(path) = self.path.take() {
            documents.entry(path).or_default();
        }
        self.subscribe(documents, collection);
    }

    fn subscribe(
        &mut self,
        documents: BTreeMap<DocumentId, DocumentResume>,
        collection: Option<CollectionResume>,
    ) {
        for (document, resume) in documents {
            let scope = Scope::Document(document.clone());
            let followed = self.feeds.keys().filter(|scope| **scope != Scope::Collection).count();
            if followed >= SUBSCRIPTIONS_MAX && !self.feeds.contains_key(&scope) {
                let detail = format!("at most {SUBSCRIPTIONS_MAX} documents can be followed on a connection");
                let problem = Problem::new(ProblemType::TooMany, detail).with("limit", SUBSCRIPTIONS_MAX);
                self.send(ServerMessage::Error { problem, document_id: Some(document) });
                continue;
            }
            self.follow(scope, resume.into());
            self.outputs.push_back(SessionOutput::Greet(document));
        }
        if let Some(collection) = collection {
            self.follow(Scope::Collection, collection.cursor.map_or(Resume::Latest, Resume::After));
        }
    }

    /// Follows from anew, also what was followed before.
    fn follow(&mut self, scope: Scope, resume: Resume) {
        self.feeds_made += 1;
        let number = self.feeds_made;
        if let Some((old, _)) = self.feeds.insert(scope.clone(), (number, Feed::new(scope.clone(), resume))) {
            self.scopes.remove(&old);
        }
        self.scopes.insert(number, scope.clone());
        self.outputs.push_back(SessionOutput::Subscribe(scope.clone()));
        self.drive(&scope);
    }

    fn unsubscribe(&mut self, scope: &Scope) {
        if let Some((number, _)) = self.feeds.remove(scope) {
            self.scopes.remove(&number);
            self.outputs.push_back(SessionOutput::Unsubscribe(scope.clone()));
        }
        if let Scope::Document(document) = scope {
            self.shows.remove(document);
        }
    }

    fn push(&mut self, client: ClientId, push: Push) {
        self.pushes_held += 1;
        let of_document = self.pushes.entry(push.document_id.clone()).or_default();
        of_document.push_back(push.clone());
        if of_document.len() == 1 {
            self.outputs.push_back(SessionOutput::Write { client, push });
        }
    }

    fn written(&mut self, document: DocumentId, client_seq: Option<u64>, result: Result<Written, Refusal>) {
        let document_id = document.clone();
        self.send(match result {
            Ok(Written { version, repeated, changed, .. }) => {
                ServerMessage::Pushed { document_id, client_seq, version, repeated, changed }
            }
            Err(Refusal { problem, current }) => {
                ServerMessage::Rejected { document_id, client_seq, problem, current }
            }
        });
        self.pushes_held -= 1;
        let Some(of_document) = self.pushes.get_mut(&document) else { return };
        of_document.pop_front();
        match (of_document.front(), &self.client) {
            (Some(next), Some(client)) => {
                let (client, push) = (client.clone(), next.clone());
                self.outputs.push_back(SessionOutput::Write { client, push });
            }
            _ => {
                self.pushes.remove(&document);
            }
        }
    }

    fn show(&mut self, client: ClientId, document: DocumentId, data: Value) {
        let bytes = data.to_string().len();
        if bytes > PRESENCE_BYTES_MAX {
            let detail = format!("presence of {bytes} bytes, at most {PRESENCE_BYTES_MAX} are allowed");
            let problem = Problem::new(ProblemType::TooLarge, detail)
                .with("limit", PRESENCE_BYTES_MAX)
                .with("unit", "bytes");
            return self.send(ServerMessage::Error { problem, document_id: Some(document) });
        }
        if !self.feeds.contains_key(&Scope::Document(document.clone())) {
            let problem = Problem::new(ProblemType::InvalidMessage, "presence needs a subscription");
            return self.send(ServerMessage::Error { problem, document_id: Some(document) });
        }
        let data = if data.is_null() {
            self.shows.remove(&document);
            None
        } else {
            self.shows.insert(document.clone());
            Some(data)
        };
        self.outputs.push_back(SessionOutput::Show { client, document, data });
    }

    fn ack(&mut self, client: ClientId, document: DocumentId, cursor: u64) {
        let given = self.feeds.get(&Scope::Document(document.clone())).map(|(_, feed)| feed.cursor());
        match given {
            Some(given) if cursor <= given => {
                self.outputs.push_back(SessionOutput::Remember { client, document, cursor });
            }
            _ => {
                let detail = format!("ack of {cursor}: only {} was sent here", given.unwrap_or(0));
                let problem = Problem::new(ProblemType::InvalidMessage, detail);
                self.send(ServerMessage::Error { problem, document_id: Some(document) });
            }
        }
    }

    fn delivery(&mut self, delivery: Delivery) {
        let (scope, event) = match delivery {
            Delivery::Document(event) => (Scope::Document(event.document_id().clone()), event),
            Delivery::Collection(event) => (Scope::Collection, event),
            Delivery::Presence(presence) => return self.send(ServerMessage::Presence(presence)),
            Delivery::Lagged => {
                let scopes: Vec<Scope> = self.feeds.keys().cloned().collect();
                for scope in scopes {
                    self.tell(&scope, FeedInput::Lagged);
                }
                return;
            }
        };
        self.tell(&scope, FeedInput::Event(event));
    }

    fn answer(&mut self, feed: u64, answer: Result<FeedInput, Problem>) {
        self.asked -= 1;
        let Some(scope) = self.scopes.get(&feed).cloned() else { return };
        match answer {
            Ok(input) => self.tell(&scope, input),
            Err(problem) => {
                let document_id = match &scope {
                    Scope::Document(id) => Some(id.clone()),
                    Scope::Collection => None,
                };
                let ours = problem.status >= 500;
                self.send(ServerMessage::Error { problem, document_id });
                self.unsubscribe(&scope);
                if ours {
                    // The client comes back and resumes; staying would leave it without a feed it believes to have.
                    self.close(close::INTERNAL, "the store could not be read");
                }
            }
        }
    }

    fn tell(&mut self, scope: &Scope, input: FeedInput) {
        if let Some((_, feed)) = self.feeds.get_mut(scope) {
            feed.handle_input(input);
            self.drive(scope);
        }
    }

    /// Passes on what a feed wants.
    fn drive(&mut self, scope: &Scope) {
        let Some((number, feed)) = self.feeds.get_mut(scope) else { return };
        while let Some(output) = feed.poll_output() {
            match output {
                FeedOutput::Item(item) => {
                    let message = ServerMessage::Feed { scope: scope.clone(), item };
                    self.outputs.push_back(SessionOutput::Send(message));
                }
                question => self.questions.push_back((*number, question)),
            }
        }
    }

    /// Asks what may be asked now.
    fn ask(&mut self) {
        while self.asked < QUESTIONS_MAX && !self.closed {
            let Some((feed, question)) = self.questions.pop_front() else { return };
            if let Some(scope) = self.scopes.get(&feed).cloned() {
                self.asked += 1;
                self.outputs.push_back(SessionOutput::Ask { feed, scope, question });
            }
        }
    }

    fn time(&mut self, now: Duration) {
        if now < self.deadline() {
            return;
        }
        if self.client.is_none() {
            return self.close(close::HELLO_TIMEOUT, "no hello in time");
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
