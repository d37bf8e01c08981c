//! One connection of a client: a WebSocket that speaks JSON, and what the server says on it.

use std::time::Duration;

use crdt_core::EncodingFormat;
use futures_util::{SinkExt, StreamExt};
use nodestorage::DocumentId;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::{WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{
    event::Event,
    protocol::{Current, Problem, SUBPROTOCOL_JSON},
    snapshot::Snapshot,
};

/// How long the server may take to answer a connection, and to take one message.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest message from the server; a larger one ends the connection.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Why a connection ended; there will be another one.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) reason: String,
    /// Whether the other end closed it over a message of ours that was too big for it.
    pub(super) too_big: bool,
}

impl<T: std::fmt::Display> From<T> for Lost {
    fn from(reason: T) -> Self {
        Self { reason: reason.to_string(), too_big: false }
    }
}

/// What a server says, as far as this client listens.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Said {
    Welcome {
        /// In milliseconds since 1970 UTC.
        #[serde(default)]
        server_time: Option<u64>,
        #[serde(default)]
        limits: SaidLimits,
    },
    Events {
        #[serde(default)]
        document_id: Option<DocumentId>,
        events: Vec<Event>,
    },
    Snapshot(Snapshot),
    Live {
        #[serde(default)]
        document_id: Option<DocumentId>,
    },
    Pushed {
        document_id: DocumentId,
        #[serde(default)]
        client_seq: Option<u64>,
        version: u64,
        #[serde(default)]
        repeated: bool,
    },
    Rejected {
        document_id: DocumentId,
        #[serde(default)]
        client_seq: Option<u64>,
        problem: Problem,
        #[serde(default)]
        current: Option<Current>,
    },
    Drain {
        reconnect_after_ms: u64,
    },
    Error {
        problem: Problem,
    },
    /// Presence, pongs, what a newer server may say: nothing that this client needs.
    #[serde(other)]
    Other,
}

/// What a server says of what it takes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SaidLimits {
    #[serde(default)]
    pub(super) message_bytes: Option<usize>,
}

/// See the [module](self).
pub(super) struct Connection<S = MaybeTlsStream<TcpStream>> {
    stream: WebSocketStream<S>,
}

impl Connection {
    /// Connects to `ws://…/sync`.
    pub(super) async fn open(url: &str) -> Result<Self, Lost> {
        let mut request = url.into_client_request()?;
        let protocol = HeaderValue::from_static(SUBPROTOCOL_JSON);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        // What people write is small and must not wait for more.
        let connecting = connect_async_with_config(request, Some(config), true);
        let (stream, _) = timeout(PATIENCE, connecting).await.map_err(|_| "no answer in time")??;
        Ok(Self { stream })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection that is there already.
    #[cfg(test)]
    pub(super) fn over(stream: WebSocketStream<S>) -> Self {
        Self { stream }
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, text: String) -> Result<(), Lost> {
        let sending = self.stream.send(Message::text(text));
        Ok(timeout(PATIENCE, sending).await.map_err(|_| "the server does not read")??)
    }

    /// Waits for the next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Said, Lost> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    // As deep as the decoder goes: a document may be as deep as a message of ours, and is within others here.
                    let value = EncodingFormat::Json.decode::<Value>(text.as_bytes())?;
                    return Ok(Said::deserialize(value).map_err(|error| format!("not a message: {error}"))?);
                }
                Some(Ok(Message::Close(frame))) => {
                    let too_big = frame.as_ref().is_some_and(|frame| frame.code == CloseCode::Size);
                    let why = frame.map(|frame| format!(": {} {}", frame.code, frame.reason));
                    let reason = format!("the server closed the connection{}", why.unwrap_or_default());
                    return Err(Lost { reason, too_big });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err("the connection broke".into()),
            }
        }
    }

    /// Says goodbye, if it is still possible.
    pub(super) async fn close(mut self) {
        let _ = timeout(PATIENCE, self.stream.close(None)).await;
    }
}
