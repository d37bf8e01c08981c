//! The messages of the WebSocket, and the bodies that REST shares with it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use crdt_core::{ClientId, EncodingFormat, id::MAX_ID};
use nodestorage::{Body, DocumentId};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::{
    broker::Presence,
    event::{ClientVector, Event},
    feed::{FeedItem, Resume, ResyncReason, Scope},
    protocol::Problem,
    snapshot::Snapshot,
};

/// What a client says.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ClientMessage {
    /// Who it is and what it wants to follow; the first message.
    Hello {
        /// Who.
        client_id: ClientId,
        /// What shows that it is. Not looked at where nobody has to show it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// Documents to follow.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        documents: BTreeMap<DocumentId, DocumentResume>,
        /// Follow the collection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        collection: Option<CollectionResume>,
    },
    /// Shows a new token before the old one expires; it must be of the same name.
    Authenticate {
        /// The token.
        token: String,
    },
    /// Follow more.
    Subscribe {
        /// Documents to follow.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        documents: BTreeMap<DocumentId, DocumentResume>,
        /// Follow the collection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        collection: Option<CollectionResume>,
    },
    /// Follow less.
    Unsubscribe {
        /// Documents to follow no more.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        documents: Vec<DocumentId>,
        /// Follow the collection no more.
        #[serde(default)]
        collection: bool,
    },
    /// Write.
    Push(Push),
    /// Show something of oneself on a document; `null` takes it back.
    Presence {
        /// Which document.
        document_id: DocumentId,
        /// What.
        data: Value,
    },
    /// What the client has of a document for good.
    Ack {
        /// Which document.
        document_id: DocumentId,
        /// Everything up to here.
        #[serde(deserialize_with = "count")]
        cursor: u64,
    },
    /// Are you there?
    Ping {
        /// Comes back with the answer.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_count")]
        id: Option<u64>,
    },
}

/// Where a client is in a document. With neither it gets the latest state; the cursor counts if both are there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentResume {
    /// Everything up to here.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_count")]
    pub cursor: Option<u64>,
    /// When the event at the cursor was made: so the server sees that it is of its history.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_count")]
    pub timestamp: Option<u64>,
    /// Everything that this contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_vector: Option<ClientVector>,
}

impl From<DocumentResume> for Resume {
    fn from(resume: DocumentResume) -> Self {
        match (resume.cursor, resume.state_vector) {
            (Some(cursor), _) => Self::after(cursor, resume.timestamp),
            (None, Some(vector)) => Self::Vector(vector),
            (None, None) => Self::Latest,
        }
    }
}

/// Where a client is in the collection; without a cursor it starts now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct CollectionResume {
    /// Everything up to this position.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_count")]
    pub cursor: Option<u64>,
    /// When the event at the cursor was made.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_count")]
    pub timestamp: Option<u64>,
}

impl From<CollectionResume> for Resume {
    fn from(resume: CollectionResume) -> Self {
        resume.cursor.map_or(Self::Latest, |cursor| Self::after(cursor, resume.timestamp))
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Push {
    /// To which document.
    pub document_id: DocumentId,
    /// As which of the client's writes to it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_count")]
    pub client_seq: Option<u64>,
    /// Only if the document is at this version; 0: only if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_count")]
    pub base_version: Option<u64>,
    /// What.
    #[serde(flatten)]
    pub op: PushOp,
}

/// What a write does.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum PushOp {
    /// Makes a document that is not there.
    Create {
        /// Its fields.
        state: Body,
    },
    /// Sets all fields, and makes the document if it is not there.
    Replace {
        /// Its fields.
        state: Body,
    },
    /// Changes fields by an RFC 7396 merge patch.
    Merge {
        /// The patch.
        patch: Body,
    },
    /// Changes fields by an RFC 6902 patch.
    Patch {
        /// The patch.
        patch: json_patch::Patch,
    },
    /// Deletes the document.
    Delete,
}

/// What is there now.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Current {
    /// Its version; 0 if it never was.
    pub version: u64,
    /// Its fields; `None` for absent.
    pub state: Option<Arc<Body>>,
}

/// What a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Bytes per message.
    pub message_bytes: usize,
    /// Documents per socket.
    pub subscriptions: usize,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are those of docs/formats/eventsync-wire.md")]
pub enum ServerMessage {
    /// Hello, you are known as this.
    Welcome {
        client_id: ClientId,
        server_time: u64,
        ping_interval_ms: u64,
        limits: Limits,
        expires_at: Option<u64>,
    },
    /// A new token was taken.
    Authenticated { expires_at: Option<u64> },
    /// Something of a feed.
    Feed { scope: Scope, item: FeedItem },
    /// A write is durable.
    Pushed { document_id: DocumentId, client_seq: Option<u64>, version: u64, repeated: bool, changed: bool },
    /// A write was refused.
    Rejected { document_id: DocumentId, client_seq: Option<u64>, problem: Problem, current: Option<Current> },
    /// What somebody else shows.
    Presence(Arc<Presence>),
    /// The server goes down; come back elsewhere or later.
    Drain { reconnect_after_ms: u64 },
    /// Yes, I am.
    Pong { id: Option<u64>, server_time: u64 },
    /// Something was wrong.
    Error { problem: Problem, document_id: Option<DocumentId> },
}

impl ServerMessage {
    /// Its bytes.
    pub fn encode(&self, format: EncodingFormat) -> Bytes {
        match self {
            Self::Feed { scope, item: FeedItem::Events(events) } => encode_events(scope, events, format),
            other => encode_value(&other.to_value(), format),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Welcome { client_id, server_time, ping_interval_ms, limits, expires_at } => {
                without_null(json!({
                    "type": "welcome", "clientId": client_id, "serverTime": server_time,
                    "pingIntervalMs": ping_interval_ms, "limits": limits, "expiresAt": expires_at,
                }))
            }
            Self::Authenticated { expires_at } => {
                without_null(json!({"type": "authenticated", "expiresAt": expires_at}))
            }
            Self::Feed { scope, item } => feed_value(scope, item),
            Self::Pushed { document_id, client_seq, version, repeated, changed } => without_null(json!({
                "type": "pushed", "documentId": document_id, "clientSeq": client_seq, "version": version,
                "repeated": repeated, "changed": changed,
            })),
            Self::Rejected { document_id, client_seq, problem, current } => without_null(json!({
                "type": "rejected", "documentId": document_id, "clientSeq": client_seq, "problem": problem,
                "current": current,
            })),
            Self::Presence(presence) => json!({
                "type": "presence", "documentId": presence.document_id, "clientId": presence.client_id,
                "data": presence.data,
            }),
            Self::Drain { reconnect_after_ms } => {
                json!({"type": "drain", "reconnectAfterMs": reconnect_after_ms})
            }
            Self::Pong { id, server_time } => {
                without_null(json!({"type": "pong", "id": id, "serverTime": server_time}))
            }
            Self::Error { problem, document_id } => {
                without_null(json!({"type": "error", "problem": problem, "documentId": document_id}))
            }
        }
    }
}

/// What a feed gives, except events.
fn feed_value(scope: &Scope, item: &FeedItem) -> Value {
    match (scope, item) {
        (_, FeedItem::Snapshot(snapshot)) => snapshot_value(snapshot),
        (Scope::Document(id), FeedItem::Live { cursor }) => {
            json!({"type": "live", "documentId": id, "version": cursor})
        }
        (Scope::Collection, FeedItem::Live { cursor }) => {
            json!({"type": "live", "collection": true, "position": cursor})
        }
        (Scope::Document(id), FeedItem::Resync { reason, .. }) => resync_document(id, *reason),
        (Scope::Collection, FeedItem::Resync { reason, cursor }) => {
            json!({"type": "resync", "collection": true, "reason": reason, "position": cursor})
        }
        (_, FeedItem::Events(_)) => unreachable!("events are encoded one by one"),
    }
}

fn resync_document(id: &DocumentId, reason: ResyncReason) -> Value {
    json!({"type": "resync", "documentId": id, "reason": reason})
}

fn snapshot_value(snapshot: &Snapshot) -> Value {
    let mut value = json!({
        "type": "snapshot", "documentId": snapshot.document_id, "version": snapshot.version,
        "state": snapshot.state, "stateVector": snapshot.state_vector, "createdAt": snapshot.created_at,
    });
    // Not as with other messages: a state that is null means something.
    if let Some(timestamp) = snapshot.timestamp {
        value["timestamp"] = timestamp.into();
    }
    value
}

/// Absent fields are left out, never null.
fn without_null(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null());
    }
    value
}

fn encode_value(value: &Value, format: EncodingFormat) -> Bytes {
    format.encode(value).expect("a JSON value can be written in every format").into()
}

/// The frame of some events around their own bytes, which are made once for all readers.
fn encode_events(scope: &Scope, events: &[Event], format: EncodingFormat) -> Bytes {
    let mut out = Vec::with_capacity(256 + events.iter().map(|e| e.encoded(format).len() + 1).sum::<usize>());
    let head: &[(&str, Value)] = match scope {
        Scope::Document(id) => {
            let mut advanced = ClientVector::new();
            events.iter().for_each(|event| event.advance(&mut advanced));
            &[("type", "events".into()), ("documentId", id.as_str().into()), ("stateVector", json!(advanced))]
        }
        Scope::Collection => {
            let position = events.last().map_or(0, Event::position);
            &[("type", "events".into()), ("collection", true.into()), ("position", position.into())]
        }
    };
    if format == EncodingFormat::Json {
        for (at, (name, value)) in head.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"{\"" } else { b",\"" });
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(&encode_value(value, format));
        }
        out.extend_from_slice(b",\"events\":[");
        for (at, event) in events.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(event.encoded(format));
        }
        out.extend_from_slice(b"]}");
    } else {
        // A fixmap of four, the head, and the events as an array 32.
        out.push(0x84);
        for (name, value) in head {
            out.extend_from_slice(&encode_value(&(*name).into(), format));
            out.extend_from_slice(&encode_value(value, format));
        }
        out.extend_from_slice(&encode_value(&"events".into(), format));
        out.push(0xdd);
        out.extend_from_slice(&u32::try_from(events.len()).unwrap_or(u32::MAX).to_be_bytes());
        for event in events {
            out.extend_from_slice(event.encoded(format));
        }
    }
    out.into()
}

/// A count that JavaScript holds exactly.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let count = u64::deserialize(deserializer)?;
    if count > MAX_ID {
        return Err(serde::de::Error::custom(format_args!("count {count} is above {MAX_ID}")));
    }
    Ok(count)
}

fn optional_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    count(deserializer).map(Some)
}
