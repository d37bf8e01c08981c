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
            let code = if socket.broken.is_some() { REFUSED } else { code(&parting) };
            let mut reason = socket.broken.take().unwrap_or_else(|| parting.to_string());
            tracing::info!(reason, "a window is not served any more");
            // A control frame holds 125 bytes, two of them the code.
            reason.truncate(reason.floor_char_boundary(120));
            let goodbye = CloseFrame { code, reason: reason.into() };
            let _ = timeout(GOODBYE_MAX, socket.socket.send(Message::Close(Some(goodbye)))).await;
        },
    )
}

/// Who sends what can't be taken would send it again, and again. Whatever else is wrong here is no reason for a window to
/// keep to itself what is typed in it.
fn code(parting: &Parting) -> u16 {
    if parting.is_refusal() { REFUSED } else { TRY_AGAIN }
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

#[cfg(test)]
mod tests {
    use crdt_core::{SessionId, Timestamp};
    use crdt_sync::{
        ChannelError, PatchStoreError, SharedError, SyncError, gateway::ClientTrouble, session::Refusal,
    };

    use super::*;

    #[test]
    fn a_window_is_told_not_to_come_again_only_for_what_it_said() {
        let failed = || PatchStoreError::Backend(SharedError::new("the disk is full"));
        let again = [
            Parting::Gone,
            Parting::Full,
            Parting::Crowded { entries_max: 9 },
            Parting::Slow,
            Parting::Silent(GOODBYE_MAX),
            Parting::Trouble(ClientTrouble::Hole),
            Parting::Sync(SyncError::Stopped),
            Parting::Sync(SyncError::Refused(Refusal::TooManyUnfoldedSessions { limit: 9 })),
            Parting::Sync(SyncError::ChannelClosed),
            Parting::Sync(SyncError::Store(failed())),
            Parting::Sync(SyncError::Store(PatchStoreError::Closed)),
            Parting::Presence(ChannelError::PubSub(spot::PubSubError::Closed)),
        ];
        for parting in &again {
            assert_eq!(code(parting), TRY_AGAIN, "{parting}");
        }
        let id = Timestamp::new(SessionId::USER_MIN, 9);
        let refused = [
            Parting::Trouble(ClientTrouble::Unexpected("a riddle")),
            Parting::Trouble(ClientTrouble::Reserved(SessionId::GLOBAL)),
            Parting::Sync(SyncError::Refused(Refusal::ReservedSession(id))),
            Parting::Sync(SyncError::Refused(Refusal::TooManySessions { limit: 9 })),
        ];
        for parting in &refused {
            assert_eq!(code(parting), REFUSED, "{parting}");
        }
    }
}
