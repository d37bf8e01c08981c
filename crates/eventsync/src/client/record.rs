//! What a client keeps of a document over a restart.

use nodestorage::DocumentId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{HeldWrite, Pending};
use crate::event::ClientVector;

/// A document as one client has it, with its writes that are not answered. Keep it before a write is sent: else a crash
/// could give the number of a write that the server has to another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientRecord {
    /// Which document.
    pub document_id: DocumentId,
    /// What the server confirmed; `Null` for absent.
    pub state: Value,
    /// The last event that is contained.
    pub version: u64,
    /// When that event was made, in milliseconds since 1970 UTC; `None` where it is not known.
    #[serde(default)]
    pub timestamp: Option<u64>,
    /// Which clients' writes are contained.
    pub state_vector: ClientVector,
    /// When the confirmed state was made, in milliseconds since 1970 UTC.
    pub changed_at: u64,
    /// The number of this client's last write that is contained.
    pub last_client_seq: u64,
    /// Whether the server counts from there as well.
    #[serde(default = "yes")]
    pub certain: bool,
    /// Whether the first of the pending writes may be with the server, under the number after that. Records from before
    /// this was written down don't tell, so it may.
    #[serde(default = "yes")]
    pub sent: bool,
    /// The writes that are not contained, oldest first.
    pub pending: Vec<Pending>,
    /// The writes that can't go, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldWrite>,
    /// The id of the last write that was held; records from before this was written down don't tell.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held_last: u64,
    /// Whether a write that changes nothing goes before the pending ones, as the last one held may be stored under the next
    /// number.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fence: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn yes() -> bool {
    true
}
