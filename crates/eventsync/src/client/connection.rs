//! One connection of a client: a WebSocket that speaks JSON, and what the server says on it.

use std::time::Duration;

use crdt_core::EncodingFormat;
use futures_util::{SinkExt, StreamExt};
use nodestorage::DocumentId;
use serde::Deserialize;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

use crate::{
    event::Event,
    protocol::{ClientMessage, Current, Problem, SUBPROTOCOL_JSON},
    snapshot::Snapshot,
};

/// How long the server may take to answer a connection, and to take one message.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest message from the server; a larger one ends the connection.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Why a connection ended; there will be another one.
pub(super) type Lost = String;

/// What a server says, as far as this client listens.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Said {
    Welcome {},
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

/// See the [module](self).
pub(super) struct Connection {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Connection {
    /// Connects to `ws://…/sync`.
    pub(super) async fn open(url: &str) -> Result<Self, Lost> {
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        let protocol = HeaderValue::from_static(SUBPROTOCOL_JSON);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        // What people write is small and must not wait for more.
        let connecting = connect_async_with_config(request, Some(config), true);
        let (stream, _) = timeout(PATIENCE, connecting)
            .await
            .map_err(|_| "no answer in time")?
            .map_err(|e| e.to_string())?;
        Ok(Self { stream })
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &ClientMessage) -> Result<(), Lost> {
        let text = serde_json::to_string(message).map_err(|error| error.to_string())?;
        let sending = self.stream.send(Message::text(text));
        timeout(PATIENCE, sending).await.map_err(|_| "the server does not read")?.map_err(|e| e.to_string())
    }

    /// Waits for the next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Said, Lost> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    // As deep as the decoder goes: a document may be as deep as a message of ours, and is within others here.
                    let value = EncodingFormat::Json.decode::<Value>(text.as_bytes());
                    let value = value.map_err(|error| error.to_string())?;
                    return Said::deserialize(value).map_err(|error| format!("not a message: {error}"));
                }
                Some(Ok(Message::Close(frame))) => {
                    let reason = frame.map(|frame| format!(": {} {}", frame.code, frame.reason));
                    return Err(format!("the server closed the connection{}", reason.unwrap_or_default()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the connection broke".to_owned()),
            }
        }
    }

    /// Says goodbye, if it is still possible.
    pub(super) async fn close(mut self) {
        let _ = timeout(PATIENCE, self.stream.close(None)).await;
    }
}
