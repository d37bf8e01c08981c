//! A server in this process, and clients that say exactly what a test wants said.

#![allow(dead_code, unreachable_pub, reason = "each test file uses another part of this")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use eventsync::{
    EventSyncStorage, SnapshotPolicy, SyncService, SyncServiceOptions,
    http::{self, Door, HttpOptions, Peer},
    shelf::{MemoryShelf, Shelf},
};
use futures_util::{SinkExt, StreamExt};
use nodestorage::{DocumentId, MemoryStorage, Storage};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// Nothing here takes so long, except when it is broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A server on a port of its own.
pub struct Server {
    pub address: SocketAddr,
    pub service: SyncService,
}

pub fn rules(body: &nodestorage::Body) -> Result<(), String> {
    match body.get("name") {
        Some(Value::String(name)) if !name.is_empty() => Ok(()),
        _ => Err("a game needs a name".into()),
    }
}

pub async fn service(storage: Arc<dyn Storage>, shelf: Arc<dyn Shelf>, every: u64) -> SyncService {
    SyncService::start(SyncServiceOptions {
        storage: Arc::new(EventSyncStorage::new(storage)),
        shelf,
        snapshots: SnapshotPolicy { every: Some(every), age: None, keep: 4 },
        compaction: None,
        rules: Some(Arc::new(rules)),
    })
    .await
    .unwrap()
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(HttpOptions::new("games")).await
    }

    pub async fn start_with(options: HttpOptions) -> Self {
        Self::start_over(Arc::new(MemoryStorage::default()), options).await
    }

    pub async fn start_over(storage: Arc<dyn Storage>, options: HttpOptions) -> Self {
        Self::start_beside(storage, Arc::new(MemoryShelf::new()), options).await
    }

    /// With snapshots and state vectors on this shelf.
    pub async fn start_beside(
        storage: Arc<dyn Storage>,
        shelf: Arc<dyn Shelf>,
        options: HttpOptions,
    ) -> Self {
        let service = service(storage, shelf, 10).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = http::router(service.clone(), options).fallback(http::not_found);
        let draining = service.draining().clone();
        tokio::spawn(async move {
            let service = router.into_make_service_with_connect_info::<Peer>();
            let serving = axum::serve(Door::new(listener), service);
            serving.with_graceful_shutdown(draining.cancelled_owned()).await.unwrap();
        });
        Self { address, service }
    }

    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n", body.len());
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes).await
    }

    pub async fn json(&self, method: &str, path: &str, body: &Value) -> Reply {
        let body = serde_json::to_vec(body).unwrap();
        self.request(method, path, &[("Content-Type", "application/json")], &body).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"").await
    }

    /// Sends bytes and reads the answer to its end.
    pub async fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the server answers");
        Reply::parse(&answer)
    }

    /// Opens a stream of Server-Sent Events.
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> EventStream {
        let (status, stream) = self.begin(path, headers).await;
        assert_eq!(status, 200);
        stream
    }

    /// Asks for a stream of Server-Sent Events: the status of the answer, and what follows its head.
    pub async fn begin(&self, path: &str, headers: &[(&str, &str)]) -> (u16, EventStream) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
        let mut stream = EventStream { stream, read: Vec::new() };
        let head = stream.until("\r\n\r\n").await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(status != 200 || head.to_lowercase().contains("x-accel-buffering: no"), "{head}");
        (status, stream)
    }

    pub async fn socket(&self, path: &str, protocol: Option<&str>) -> Socket {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (stream, _) = timeout(DEADLINE, connect_async(request)).await.unwrap().unwrap();
        Socket { stream }
    }

    /// A socket that has said hello.
    pub async fn client(&self, name: &str, hello: Value) -> Socket {
        let mut socket = self.socket("/sync", Some("eventsync.v1.json")).await;
        let mut message = json!({"type": "hello", "clientId": name});
        for (field, value) in hello.as_object().unwrap() {
            message[field] = value.clone();
        }
        socket.send(&message).await;
        assert_eq!(socket.next().await["type"], "welcome");
        socket
    }

    /// Everything that a request could have changed.
    pub async fn fingerprint(&self) -> (u64, Vec<(DocumentId, u64, Value)>) {
        let storage = self.service.storage();
        let documents = storage.list(None, 1000).await.unwrap();
        let documents = documents.into_iter().map(|d| (d.id, d.version, Value::Object((*d.body).clone())));
        (storage.position().await.unwrap(), documents.collect())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    fn parse(answer: &[u8]) -> Self {
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no HTTP answer: {:?}", String::from_utf8_lossy(answer));
        });
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Self { status, headers, body: answer[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The problem's type without its prefix.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        problem["type"].as_str().unwrap().strip_prefix("urn:weft:problem:").unwrap().to_owned()
    }
}

pub struct EventStream {
    stream: TcpStream,
    read: Vec<u8>,
}

impl EventStream {
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end.as_bytes()) {
                let piece = self.read.drain(..at + end.len()).collect();
                return String::from_utf8(piece).unwrap();
            }
            let mut more = vec![0; 64 << 10];
            let count = timeout(DEADLINE, self.stream.read(&mut more)).await.expect("an event").unwrap();
            assert!(count > 0, "the stream ended");
            self.read.extend_from_slice(&more[..count]);
        }
    }

    /// The next message: its name, its id and its data.
    pub async fn next(&mut self) -> (String, Option<u64>, Value) {
        loop {
            let piece = self.until("\n\n").await;
            let field = |name: &str| {
                let line = piece.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::to_owned)
            };
            if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                // Behind an `@` stands when the event was made.
                let number = |id: &str| id.split('@').next().unwrap().parse().unwrap();
                let id = field("id: ").map(|id| number(&id));
                return (name, id, serde_json::from_str(&data).unwrap());
            }
        }
    }
}

pub struct Socket {
    pub stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub async fn send(&mut self, message: &Value) {
        self.raw(Message::text(message.to_string())).await;
    }

    pub async fn raw(&mut self, message: Message) {
        timeout(DEADLINE, self.stream.send(message)).await.unwrap().unwrap();
    }

    async fn frame(&mut self) -> Option<Message> {
        loop {
            match timeout(DEADLINE, self.stream.next()).await.expect("a frame in time") {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(frame)) => return Some(frame),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The next message.
    pub async fn next(&mut self) -> Value {
        match self.frame().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            Some(Message::Binary(bytes)) => rmp_serde::from_slice(&bytes).unwrap(),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// The next message of a type; others are passed over.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// What comes up to the end, and the close code.
    pub async fn until_closed(&mut self) -> (Vec<Value>, Option<u16>) {
        let mut messages = Vec::new();
        loop {
            match self.frame().await {
                Some(Message::Text(text)) => messages.push(serde_json::from_str(&text).unwrap()),
                Some(Message::Close(frame)) => return (messages, frame.map(|frame| frame.code.into())),
                Some(_) => {}
                None => return (messages, None),
            }
        }
    }
}
