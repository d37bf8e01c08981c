//! From the first byte to READY.

use std::{fmt, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Command, Decoder, DecoderLimits, Encoder, Properties, ZmtpError,
    command::{self, take},
    curve::{CurveClient, CurveKeys, CurvePublic, CurveServer, MessageOpener, MessageSealer},
    frame::{COMMAND, Header},
    greeting::{GREETING_LEN, Greeting},
};

/// The longest frame of a handshake. A stranger cannot make us hold more than this.
pub const HANDSHAKE_FRAME_LEN_MAX: u64 = 4096;
/// Random bytes that a handshake may use.
pub const ENTROPY_LEN: usize = 96;

/// Which of ZeroMQ's sockets we are, seen from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketType {
    /// Bound; serves many.
    Router,
    /// Connected to one.
    Dealer,
}

impl SocketType {
    fn name(self) -> &'static str {
        match self {
            Self::Router => "ROUTER",
            Self::Dealer => "DEALER",
        }
    }

    fn goes_with(self, peer: &[u8]) -> bool {
        match self {
            Self::Router => matches!(peer, b"DEALER" | b"ROUTER" | b"REQ"),
            Self::Dealer => matches!(peer, b"ROUTER" | b"DEALER" | b"REP"),
        }
    }
}

/// What a peer showed to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials<'a> {
    /// Nothing.
    Null,
    /// A name and a password.
    Plain {
        /// As sent.
        username: &'a str,
        /// As sent.
        password: &'a str,
    },
    /// A public key, whose secret it proved to have.
    Curve(CurvePublic),
}

/// Decides who is let in: the name that the peer is known by from then on, or the reason why not.
pub type Authenticate = Arc<dyn Fn(Credentials<'_>) -> Result<String, String> + Send + Sync>;

/// The security mechanism, and our part in it.
#[derive(Clone)]
pub enum Security {
    /// None.
    Null,
    /// A password, in the clear.
    PlainClient {
        /// At most 255 bytes.
        username: String,
        /// At most 255 bytes.
        password: String,
    },
    /// Asks for a password.
    PlainServer(Authenticate),
    /// Knows the server's key.
    CurveClient {
        /// Ours.
        keys: CurveKeys,
        /// The only server that we talk to.
        server: CurvePublic,
    },
    /// Has a key that clients know, and decides by theirs.
    CurveServer {
        /// Ours.
        keys: CurveKeys,
        /// Who is let in.
        authenticate: Authenticate,
    },
}

impl Security {
    /// The mechanism's name on the wire.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::PlainClient { .. } | Self::PlainServer(_) => "PLAIN",
            Self::CurveClient { .. } | Self::CurveServer { .. } => "CURVE",
        }
    }

    fn as_server(&self) -> bool {
        matches!(self, Self::PlainServer(_) | Self::CurveServer { .. })
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.mechanism(), if self.as_server() { " server" } else { "" })
    }
}

/// How to open a connection.
#[derive(Debug, Clone)]
pub struct HandshakeOptions {
    /// What we are to the peer.
    pub socket_type: SocketType,
    /// How we prove each other.
    pub security: Security,
    /// What we tell besides the socket type.
    pub properties: Properties,
    /// What applies afterwards.
    pub limits: DecoderLimits,
}

/// A connection that can be used.
#[derive(Debug)]
pub struct Established {
    /// What the peer told about itself.
    pub properties: Properties,
    /// Its ZMTP version: 3.0 peers know no PING.
    pub version: (u8, u8),
    /// The name that [`Authenticate`] gave it; for a client of CURVE the server's key in Z85; otherwise empty.
    pub principal: String,
    /// Inwards.
    pub decoder: Decoder,
    /// Outwards.
    pub encoder: Encoder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Greeting,
    /// NULL, either side; or a client that waits for the last word.
    Ready,
    Welcome,
    Hello,
    Initiate,
    Over,
}

enum Mechanism {
    Plain,
    Client(Box<CurveClient>),
    Server(Box<CurveServer>),
}

/// A connection on its way to READY: feed it with [`handle_input`](Self::handle_input), send what
/// [`poll_output`](Self::poll_output) gives.
pub struct Handshake {
    options: HandshakeOptions,
    mechanism: Mechanism,
    step: Step,
    version: (u8, u8),
    principal: String,
    output: BytesMut,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("options", &self.options)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl Handshake {
    /// Begins; `entropy` must be random and used once.
    pub fn new(options: HandshakeOptions, entropy: &[u8; ENTROPY_LEN]) -> Self {
        let mechanism = match &options.security {
            Security::CurveClient { keys, server } => {
                let mut own = [0; 64];
                own.copy_from_slice(&entropy[..64]);
                Mechanism::Client(Box::new(CurveClient::new(keys.clone(), *server, &own)))
            }
            Security::CurveServer { keys, .. } => {
                Mechanism::Server(Box::new(CurveServer::new(keys.clone(), entropy)))
            }
            _ => Mechanism::Plain,
        };
        let greeting = Greeting::new(options.security.mechanism(), options.security.as_server()).encode();
        let output = BytesMut::from(&greeting[..]);
        Self { options, mechanism, step: Step::Greeting, version: (3, 0), principal: String::new(), output }
    }

    /// What is to be sent.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        (!self.output.is_empty()).then(|| self.output.split().freeze())
    }

    /// Takes what it can off the buffer. On an error, send what [`poll_output`](Self::poll_output) still gives (the peer
    /// is told why) and close.
    pub fn handle_input(&mut self, buffer: &mut BytesMut) -> Result<Option<Established>, ZmtpError> {
        if self.step == Step::Greeting {
            let Some(theirs) = Greeting::decode(buffer)? else { return Ok(None) };
            buffer.advance(GREETING_LEN);
            self.greeted(theirs)?;
        }
        while self.step != Step::Over {
            let Some(header) = Header::read(buffer)? else { return Ok(None) };
            if header.body_len > HANDSHAKE_FRAME_LEN_MAX {
                let (len, max) = (header.body_len, HANDSHAKE_FRAME_LEN_MAX);
                return Err(ZmtpError::TooLarge { what: "handshake frame", len, max });
            }
            let len = header.header_len + header.body_len as usize;
            if buffer.len() < len {
                return Ok(None);
            }
            if header.flags != COMMAND {
                return Err(ZmtpError::Malformed { what: "handshake", expected: "a command frame" });
            }
            let frame = buffer.split_to(len).freeze();
            let command = Command::decode(&frame[header.header_len..])?;
            if command.name == b"ERROR" {
                return Err(ZmtpError::Refused { reason: command.error_reason() });
            }
            let done = self.command(command).inspect_err(|error| {
                if let ZmtpError::Denied { reason } = error {
                    command::put_error(&mut self.output, reason);
                }
            })?;
            if let Some((properties, traffic)) = done {
                return self.established(properties, traffic).map(Some);
            }
        }
        Ok(None)
    }

    fn greeted(&mut self, theirs: Greeting) -> Result<(), ZmtpError> {
        let ours = self.options.security.mechanism();
        if theirs.mechanism != Greeting::new(ours, false).mechanism {
            return Err(ZmtpError::Mechanism { ours, theirs: theirs.mechanism_name() });
        }
        self.version = theirs.version;
        self.step = match (&self.options.security, &self.mechanism) {
            (Security::Null, _) => {
                let own = self.own_properties();
                command::put_ready(&mut self.output, &own);
                Step::Ready
            }
            (Security::PlainClient { username, password }, _) => {
                let mut data = Vec::new();
                for (what, word) in [("user name", username), ("password", password)] {
                    let len = u8::try_from(word.len()).map_err(|_| ZmtpError::TooLarge {
                        what,
                        len: word.len() as u64,
                        max: u8::MAX.into(),
                    })?;
                    data.push(len);
                    data.extend(word.as_bytes());
                }
                Command { name: b"HELLO", data: &data }.put(&mut self.output);
                Step::Welcome
            }
            (_, Mechanism::Client(client)) => {
                Command { name: b"HELLO", data: &client.hello()? }.put(&mut self.output);
                Step::Welcome
            }
            _ => Step::Hello,
        };
        Ok(())
    }

    #[expect(
        clippy::type_complexity,
        reason = "the pair is the traffic of an encrypted connection, used only here"
    )]
    fn command(
        &mut self,
        command: Command<'_>,
    ) -> Result<Option<(Properties, Option<(MessageSealer, MessageOpener)>)>, ZmtpError> {
        match (self.step, command.name) {
            (Step::Ready, b"READY") => match &mut self.mechanism {
                Mechanism::Client(client) => {
                    let (properties, sealer, opener) = client.ready(command.data)?;
                    if let Security::CurveClient { server, .. } = &self.options.security {
                        self.principal = server.to_z85();
                    }
                    return Ok(Some((properties, Some((sealer, opener)))));
                }
                _ => return Ok(Some((Properties::decode(command.data)?, None))),
            },
            (Step::Welcome, b"WELCOME") => {
                let properties = self.own_properties();
                let mut data = BytesMut::new();
                match &mut self.mechanism {
                    Mechanism::Client(client) => {
                        data.extend(client.initiate(command.data, &properties)?);
                    }
                    _ => properties.encode(&mut data),
                }
                Command { name: b"INITIATE", data: &data }.put(&mut self.output);
                self.step = Step::Ready;
            }
            (Step::Hello, b"HELLO") => {
                let data = match &self.mechanism {
                    Mechanism::Server(server) => server.welcome(command.data)?,
                    _ => {
                        self.principal = self.check_password(command.data)?;
                        Vec::new()
                    }
                };
                Command { name: b"WELCOME", data: &data }.put(&mut self.output);
                self.step = Step::Initiate;
            }
            (Step::Initiate, b"INITIATE") => {
                let own = self.own_properties();
                let Mechanism::Server(server) = &self.mechanism else {
                    let theirs = Properties::decode(command.data)?;
                    command::put_ready(&mut self.output, &own);
                    return Ok(Some((theirs, None)));
                };
                let mut initiated = server.initiated(command.data)?;
                if let Security::CurveServer { authenticate, .. } = &self.options.security {
                    self.principal = authenticate(Credentials::Curve(initiated.client))
                        .map_err(|reason| ZmtpError::Denied { reason })?;
                }
                let theirs = std::mem::take(&mut initiated.properties);
                let (data, sealer, opener) = server.ready(initiated, &own);
                Command { name: b"READY", data: &data }.put(&mut self.output);
                return Ok(Some((theirs, Some((sealer, opener)))));
            }
            _ => {
                let expected = match self.step {
                    Step::Hello => "HELLO",
                    Step::Welcome => "WELCOME",
                    Step::Initiate => "INITIATE",
                    _ => "READY",
                };
                return Err(ZmtpError::Malformed { what: "handshake", expected });
            }
        }
        Ok(None)
    }

    fn check_password(&self, mut data: &[u8]) -> Result<String, ZmtpError> {
        const BAD: ZmtpError = ZmtpError::Malformed { what: "HELLO", expected: "user name and password" };
        let mut word = || {
            let bytes = take(&mut data, 1).and_then(|n| take(&mut data, n[0].into())).ok_or(BAD)?;
            std::str::from_utf8(bytes).map_err(|_| BAD)
        };
        let (username, password) = (word()?, word()?);
        match &self.options.security {
            Security::PlainServer(authenticate) => authenticate(Credentials::Plain { username, password })
                .map_err(|reason| ZmtpError::Denied { reason }),
            _ => Err(BAD),
        }
    }

    fn own_properties(&self) -> Properties {
        let socket_type = self.options.socket_type.name();
        let mut all = vec![
            ("Socket-Type".to_owned(), Bytes::from_static(socket_type.as_bytes())),
            ("Identity".to_owned(), Bytes::new()),
        ];
        all.extend(self.options.properties.0.iter().cloned());
        Properties(all)
    }

    fn established(
        &mut self,
        properties: Properties,
        traffic: Option<(MessageSealer, MessageOpener)>,
    ) -> Result<Established, ZmtpError> {
        let theirs = properties.get("Socket-Type").cloned().unwrap_or_default();
        if !self.options.socket_type.goes_with(&theirs) {
            let theirs = theirs.escape_ascii().to_string();
            return Err(ZmtpError::SocketType { ours: self.options.socket_type.name(), theirs });
        }
        self.step = Step::Over;
        let (sealer, opener) = traffic.unzip();
        Ok(Established {
            properties,
            version: self.version,
            principal: std::mem::take(&mut self.principal),
            decoder: Decoder::new(self.options.limits, opener),
            encoder: Encoder::new(sealer),
        })
    }
}
