//! A WebSocket to a window of the page, as the gateway sees it.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{
        WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket},
    },
    response::Response,
};
use bytes::Bytes;
use crdt_sync::{ClientSocket, PatchRecord, gateway::Parting};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::replica::Replica;

/// The largest message from a window: the largest patch, and room for its envelope.
const MESSAGE_BYTES_MAX: usize = PatchRecord::PATCH_BYTES_MAX + (64 << 10);
/// How often a window is asked whether it lives. Browsers answer by themselves, also for a page in the background.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// After how long a silence it counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How long a goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// The close codes that the page knows: come again soon, or do not.
const TRY_AGAIN: u16 = 1013;
const REFUSED: u16 = 1008;

/// Serves one window until it goes.
pub(crate) fn serve(upgrade: WebSocketUpgrade, replica: Arc<Replica>) -> Response {
    upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX).on_upgrade(
        move |socket| async move {
            let mut ping = interval(PING_INTERVAL);
            ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut socket = Socket { socket, ping, heard: now(), broken: None };
            let parting = replica.gateway.serve(&mut socket).await;
            // Who sends what can't be taken would send it again, and again.
            let code = match &parting {
                Parting::Trouble(_) | Parting::Sync(_) => REFUSED,
                _ if socket.broken.is_some() => REFUSED,
                _ => TRY_AGAIN,
            };
            let mut reason = socket.broken.take().unwrap_or_else(|| parting.to_string());
            tracing::info!(reason, "a window is not served any more");
            // A control frame holds 125 bytes, two of them the code.
            reason.truncate(reason.floor_char_boundary(120));
            let goodbye = CloseFrame { code, reason: reason.into() };
            let _ = timeout(GOODBYE_MAX, socket.socket.send(Message::Close(Some(goodbye)))).await;
        },
    )
}

#[expect(clippy::disallowed_methods, reason = "a driver notices silence")]
fn now() -> Instant {
    Instant::now()
}

struct Socket {
    socket: WebSocket,
    ping: Interval,
    heard: Instant,
    /// What was wrong with what came, where that ended it.
    broken: Option<String>,
}

impl ClientSocket for Socket {
    async fn recv(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                message = self.socket.recv() => {
                    let message = message?.map_err(|error| self.broken = Some(error.to_string())).ok()?;
                    self.heard = now();
                    match message {
                        Message::Binary(bytes) => return Some(bytes),
                        Message::Text(text) => return Some(text.into()),
                        Message::Close(_) => return None,
                        Message::Ping(_) | Message::Pong(_) => {}
                    }
                }
                _ = self.ping.tick() => {
                    if self.heard.elapsed() > SILENCE_MAX {
                        return None;
                    }
                    self.socket.send(Message::Ping(Bytes::new())).await.ok()?;
                }
            }
        }
    }

    async fn send(&mut self, message: Bytes) -> bool {
        self.socket.send(Message::Binary(message)).await.is_ok()
    }
}
