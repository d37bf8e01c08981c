//! The WebSocket: the driver of one session.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, header},
};
use bytes::Bytes;
use crdt_core::{ClientId, EncodingFormat};
use futures_util::SinkExt;
use nodestorage::{DocumentId, Producer};
use tokio::{task::JoinSet, time::Instant};

use super::{
    App,
    caller::{bearer, check_host},
    input::{Id, text},
    limits::Place,
    origin::{Origin, Room},
    output::Answer,
};
use crate::{
    access::{NotAuthenticated, Principal, authenticate},
    broker::Mailbox,
    feed::Scope,
    protocol::{MESSAGE_BYTES_MAX, Problem, ProblemType, SUBPROTOCOL_JSON, SUBPROTOCOL_MESSAGE_PACK},
    service::{WriteOptions, now_ms},
    session::{Session, SessionInput, SessionOutput},
    store::PageLimit,
};

/// The library would take 128 KiB for each; 10 000 idle connections are to fit into little memory.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// What is gathered before it is written to the socket.
const WRITE_BUFFER_BYTES: usize = 16 << 10;
/// The largest message to a client: a page and its last event, or a document. An event takes a few times its document, which
/// the storage bounds ([`StorageOptions::document_bytes_max`](nodestorage::StorageOptions)); our own clients take
/// so much. A connection that holds more is closed.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 20;
/// How much of one connection is before the service at once: its pushes, its questions, and what it says that it has. At the
/// bound no more is read from the socket until something is answered.
const UNDER_WAY_MAX: usize = 128;
/// How long the client may not take what is sent; then the connection is given up.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long a goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

pub(super) async fn of_document(
    State(app): State<App>,
    Id(id): Id,
    origin: Origin,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Answer {
    open(app, Some(id), origin, &headers, upgrade)
}

pub(super) async fn without_document(
    State(app): State<App>,
    origin: Origin,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Answer {
    open(app, None, origin, &headers, upgrade)
}

fn open(
    app: App,
    document: Option<DocumentId>,
    origin: Origin,
    headers: &HeaderMap,
    upgrade: Upgrade,
) -> Answer {
    let upgrade = upgrade.map_err(|e| Problem::new(ProblemType::InvalidRequest, e.to_string()))?;
    check_host(&app.options, headers)?;
    check_origin(&app, headers)?;
    let wanted: Vec<&str> =
        upgrade.requested_protocols().filter_map(|protocol| protocol.to_str().ok()).collect();
    let format = match () {
        () if wanted.is_empty() || wanted.contains(&SUBPROTOCOL_JSON) => EncodingFormat::Json,
        () if wanted.contains(&SUBPROTOCOL_MESSAGE_PACK) => EncodingFormat::MessagePack,
        () => {
            let known = [SUBPROTOCOL_JSON, SUBPROTOCOL_MESSAGE_PACK];
            let detail = format!("subprotocol {}, expected {}", wanted.join(", "), known.join(" or "));
            return Err(Problem::new(ProblemType::InvalidRequest, detail)
                .with("expected", known.to_vec())
                .into());
        }
    };
    let token = bearer(headers)?.map(str::to_owned);
    let room = Room::take(&app, origin, None)?;
    let connection = app.service.connections().token();
    let upgrade = upgrade
        .protocols([SUBPROTOCOL_JSON, SUBPROTOCOL_MESSAGE_PACK])
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _held = (room, connection);
        Connection::new(app, socket, format, document, origin, token).run().await;
    }))
}

/// A page of another place must not open a socket with the rights of its visitor. Programs send no origin.
fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = text(headers, "origin")? else { return Ok(()) };
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_own = origin.split_once("://").map(|(_, host)| host) == own && own.is_some();
    if is_own || app.options.origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    Err(Problem::new(ProblemType::Forbidden, format!("origin {origin} is not allowed here")))
}

/// What comes back from the service.
enum Done {
    Answer {
        feed: u64,
        answer: Result<crate::feed::FeedInput, Problem>,
    },
    Written {
        document: DocumentId,
        client_seq: Option<u64>,
        result: Result<crate::service::Written, crate::service::Refusal>,
    },
    Authorized(Result<Principal, NotAuthenticated>),
    Remembered(DocumentId),
}

struct Connection {
    app: App,
    socket: WebSocket,
    format: EncodingFormat,
    session: Session,
    mailbox: Mailbox,
    origin: Origin,
    /// Who is connected, and its place among its connections; nobody until it has shown a token.
    principal: Option<(Principal, Option<Place<Arc<str>>>)>,
    /// Nothing is read before: more has come than may.
    resume_at: Option<Instant>,
    /// The token of the request that became this connection, for a hello without one.
    token: Option<String>,
    /// Each on a task of its own: one that holds a document's gate, or is the next to get it, goes on also while this connection
    /// waits for a client that takes nothing. Dropping the set ends them.
    under_way: JoinSet<Done>,
    /// Of which documents it is being written down what the client has, and what it has said since: the last of that counts.
    /// Only what is followed is in here, and what was until its task is done: no more than [`UNDER_WAY_MAX`].
    remembering: BTreeMap<DocumentId, Option<(ClientId, u64)>>,
    started: Instant,
}

impl Connection {
    #[expect(clippy::disallowed_methods, reason = "the driver reads the clock for its session")]
    fn new(
        app: App,
        socket: WebSocket,
        format: EncodingFormat,
        document: Option<DocumentId>,
        origin: Origin,
        token: Option<String>,
    ) -> Self {
        let mailbox = app.service.broker().mailbox();
        let session = Session::new(format, document);
        let session = if app.options.authorizer.is_some() { session.guarded() } else { session };
        Self {
            app,
            socket,
            format,
            session,
            mailbox,
            origin,
            principal: None,
            resume_at: None,
            token,
            under_way: JoinSet::new(),
            remembering: BTreeMap::new(),
            started: Instant::now(),
        }
    }

    async fn run(mut self) {
        let draining = self.app.service.draining().clone();
        loop {
            match self.act().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::debug!(%error, "connection lost"),
            }
            let deadline = self.started + self.session.deadline();
            let resume_at = self.resume_at;
            let wants_frames = self.session.wants_frames() && self.under_way.len() < UNDER_WAY_MAX;
            tokio::select! {
                () = draining.cancelled(), if !self.session.is_draining() => {
                    let reconnect_after = self.app.options.reconnect_after;
                    self.tell(SessionInput::Drain { reconnect_after });
                }
                Some(done) = self.under_way.join_next() => match done {
                    Ok(Done::Answer { feed, answer }) => self.tell(SessionInput::Answer { feed, answer }),
                    Ok(Done::Written { document, client_seq, result }) => {
                        self.tell(SessionInput::Written { document, client_seq, result });
                    }
                    Ok(Done::Authorized(result)) => self.authorized(result),
                    Ok(Done::Remembered(document)) => self.remembered(document),
                    // The client comes back; staying would leave it without an answer.
                    Err(error) => return tracing::error!(%error, "a request of a connection broke off"),
                },
                delivery = self.mailbox.recv() => self.tell(SessionInput::Delivery(delivery)),
                frame = self.socket.recv(), if wants_frames && resume_at.is_none() => match frame {
                    Some(Ok(Message::Text(text))) => {
                        self.count();
                        self.tell(SessionInput::Text(text.as_str()));
                    }
                    Some(Ok(Message::Binary(bytes))) => {
                        self.count();
                        self.tell(SessionInput::Binary(&bytes));
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                        self.count();
                        self.tell(SessionInput::Alive);
                    }
                    Some(Ok(Message::Close(_))) | None => return,
                    Some(Err(error)) => return self.refuse(&error.to_string()).await,
                },
                () = tokio::time::sleep_until(resume_at.unwrap_or(deadline)), if resume_at.is_some() => {
                    self.resume_at = None;
                }
                () = tokio::time::sleep_until(deadline) => self.tell(SessionInput::Time),
            }
        }
    }

    /// Takes a message of the allowances, and reads no more for a while if it was too much.
    fn count(&mut self) {
        let principal = self.principal.as_ref().map(|(principal, _)| principal);
        match self.app.limits.charge(self.origin, principal) {
            Ok(wait) => self.pause(wait),
            Err(problem) => self.tell(SessionInput::TooMany(problem)),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the driver reads the clock for its session")]
    fn pause(&mut self, wait: Duration) {
        if !wait.is_zero() {
            self.resume_at = self.resume_at.max(Some(Instant::now() + wait));
        }
    }

    /// Somebody has found out who is connected: it takes one of the places of that principal, and pays for the hello, of
    /// which it was not known yet whose it was.
    fn authorized(&mut self, result: Result<Principal, NotAuthenticated>) {
        if let (Ok(principal), None) = (&result, &self.principal) {
            let limits = &self.app.limits;
            let charged = limits.charge(Origin::default(), Some(principal));
            match charged.and_then(|wait| Ok((wait, limits.connect(principal)?))) {
                Ok((wait, place)) => {
                    self.principal = Some((principal.clone(), place));
                    self.pause(wait);
                }
                Err(problem) => return self.tell(SessionInput::TooMany(problem)),
            }
        }
        self.tell(SessionInput::Authorized(result));
    }

    #[expect(clippy::disallowed_methods, reason = "the driver reads the clock for its session")]
    fn tell(&mut self, input: SessionInput<'_>) {
        let now = Instant::now() - self.started;
        self.session.handle_input(input, now, now_ms());
    }

    /// Does all that the session wants. `false` when it is over.
    async fn act(&mut self) -> Result<bool, String> {
        let mut sent = false;
        while let Some(output) = self.session.poll_output() {
            match output {
                SessionOutput::Send(message) => {
                    let frame = frame(self.format, message.encode(self.format))?;
                    self.feed(frame).await?;
                    sent = true;
                }
                SessionOutput::Ping => {
                    self.feed(Message::Ping(Bytes::new())).await?;
                    sent = true;
                }
                SessionOutput::Close { code, reason } => {
                    let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
                    self.say_goodbye(close).await;
                    return Ok(false);
                }
                SessionOutput::Greet(document) => {
                    let shown = self.mailbox.shown(&document);
                    self.tell(SessionInput::Shown { document, shown });
                }
                other => self.ask_service(other),
            }
        }
        if sent {
            let flushed = tokio::time::timeout(STALL_MAX, self.socket.flush()).await;
            flushed.map_err(|_| "the client takes nothing".to_owned())?.map_err(|e| e.to_string())?;
        }
        Ok(true)
    }

    fn ask_service(&mut self, output: SessionOutput) {
        let service = self.app.service.clone();
        match output {
            SessionOutput::Authorize { token } => {
                let (authorizer, token) = (self.app.options.authorizer.clone(), token.or(self.token.take()));
                self.spawn(async move {
                    Done::Authorized(authenticate(authorizer.as_deref(), token.as_deref(), now_ms()).await)
                });
            }
            SessionOutput::Subscribe(Scope::Document(id)) => self.mailbox.subscribe(&id),
            SessionOutput::Subscribe(Scope::Collection) => self.mailbox.subscribe_collection(),
            SessionOutput::Unsubscribe(Scope::Document(id)) => self.mailbox.unsubscribe(&id),
            SessionOutput::Unsubscribe(Scope::Collection) => self.mailbox.unsubscribe_collection(),
            SessionOutput::Show { client, document, data } => {
                if !self.mailbox.show(&document, data.map(|data| (client, data))) {
                    self.tell(SessionInput::NotShown(document));
                }
            }
            SessionOutput::Ask { feed, scope, question } => self.spawn(async move {
                let answer = service.answer(&scope, question, PageLimit::STANDARD).await;
                Done::Answer { feed, answer }
            }),
            SessionOutput::Write { client, push } => self.spawn(async move {
                let options = WriteOptions {
                    producer: Producer { client_id: client.clone(), sequence: push.client_seq },
                    base_version: push.base_version,
                    ..WriteOptions::by(client)
                };
                let result = service.write(&push.document_id, &push.op, options).await;
                Done::Written { document: push.document_id, client_seq: push.client_seq, result }
            }),
            SessionOutput::Remember { client, document, cursor } => match self.remembering.get_mut(&document)
            {
                Some(next) => *next = Some((client, cursor)),
                None => self.remember(client, document, cursor),
            },
            SessionOutput::Send(_)
            | SessionOutput::Ping
            | SessionOutput::Greet(_)
            | SessionOutput::Close { .. } => unreachable!("done by the caller"),
        }
    }

    fn remember(&mut self, client: ClientId, document: DocumentId, cursor: u64) {
        let service = self.app.service.clone();
        self.remembering.insert(document.clone(), None);
        self.spawn(async move {
            if let Err(problem) = service.remember(&client, &document, cursor).await {
                tracing::debug!(%problem, "what a client has was not remembered");
            }
            Done::Remembered(document)
        });
    }

    fn remembered(&mut self, document: DocumentId) {
        if let Some(Some((client, cursor))) = self.remembering.remove(&document) {
            self.remember(client, document, cursor);
        }
    }

    fn spawn(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        // Who closes the service waits for it as for the connection.
        let connection = self.app.service.connections().token();
        self.under_way.spawn(async move {
            let _held = connection;
            work.await
        });
    }

    async fn feed(&mut self, message: Message) -> Result<(), String> {
        match tokio::time::timeout(STALL_MAX, self.socket.feed(message)).await {
            Ok(fed) => fed.map_err(|e| e.to_string()),
            Err(_) => Err("the client takes nothing".into()),
        }
    }

    /// What the library refuses by itself: frames that are too large, not UTF-8, or no frames at all.
    async fn refuse(&mut self, error: &str) {
        let (code, reason) = match error.to_ascii_lowercase() {
            e if e.contains("too long") || e.contains("too big") || e.contains("space limit") => {
                (1009, format!("at most {MESSAGE_BYTES_MAX} bytes per message"))
            }
            e if e.contains("utf-8") || e.contains("utf8") => (1007, "text that is not UTF-8".to_owned()),
            e if e.contains("protocol") => (1002, "not a WebSocket frame".to_owned()),
            _ => return tracing::debug!(error, "connection lost"),
        };
        self.say_goodbye(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
    }

    /// Sends a close frame and waits a moment for the client's, so that it is not lost with the connection.
    async fn say_goodbye(&mut self, close: Message) {
        let goodbye = async {
            if self.socket.send(close).await.is_ok() {
                while let Some(Ok(message)) = self.socket.recv().await {
                    if matches!(message, Message::Close(_)) {
                        break;
                    }
                }
            }
        };
        let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
    }
}

fn frame(format: EncodingFormat, bytes: Bytes) -> Result<Message, String> {
    Ok(match format {
        EncodingFormat::Json => Message::Text(Utf8Bytes::try_from(bytes).map_err(|e| e.to_string())?),
        _ => Message::Binary(bytes),
    })
}
