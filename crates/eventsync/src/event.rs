//! What clients are told: one committed change of one document.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use crdt_core::{ClientId, EncodingFormat, StateVector};
use nodestorage::{Body, Change, Diff, DocumentId, Operation, Producer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// One change of one document, as every client gets it: a view of the [`Change`] that was committed with the document.
///
/// There is no second record that could be missing or be there twice, and no second number: the sequence number of an
/// event is the version that it produced. Cheap to clone, and encoded at most once per format however many read it.
#[derive(Debug, Clone)]
pub struct Event(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    change: Arc<Change>,
    json: OnceLock<Bytes>,
    message_pack: OnceLock<Bytes>,
}

/// The state vector of a document: for each client, the highest of its writes that is contained.
pub type ClientVector = StateVector<ClientId>;

impl Event {
    /// The event of a change.
    pub fn new(change: Arc<Change>) -> Self {
        Self(Arc::new(Inner { change, json: OnceLock::new(), message_pack: OnceLock::new() }))
    }

    /// The change that it shows.
    pub fn change(&self) -> &Arc<Change> {
        &self.0.change
    }

    /// A name that no other event has.
    pub fn id(&self) -> String {
        format!("{}@{}", self.0.change.document_id, self.0.change.version)
    }

    /// Which document changed.
    pub fn document_id(&self) -> &DocumentId {
        &self.0.change.document_id
    }

    /// Its place in the document's history, which is also the version it produced: 1, 2, 3 … without a gap.
    pub fn sequence_num(&self) -> u64 {
        self.0.change.version
    }

    /// Its place in the history of the whole collection.
    pub fn position(&self) -> u64 {
        self.0.change.position
    }

    /// When it was made, in milliseconds since 1970 UTC. With its number it names the event: after a backup was put back,
    /// another event may get the number, but not in the same millisecond.
    pub fn timestamp(&self) -> u64 {
        self.0.change.timestamp_ms
    }

    /// What was done.
    pub fn operation(&self) -> Operation {
        self.0.change.operation
    }

    /// From the state before to the state after.
    pub fn diff(&self) -> &Diff {
        &self.0.change.diff
    }

    /// Who did it.
    pub fn client_id(&self) -> &ClientId {
        &self.0.change.producer.client_id
    }

    /// As which of its own writes to this document.
    pub fn client_seq(&self) -> Option<u64> {
        self.0.change.producer.sequence
    }

    /// Adds what this event contains to a state vector.
    pub fn advance(&self, vector: &mut ClientVector) {
        if let Some(sequence) = self.client_seq() {
            vector.advance(self.client_id().clone(), sequence);
        }
    }

    /// Whether a state vector contains this event.
    pub fn is_contained_in(&self, vector: &ClientVector) -> bool {
        self.client_seq().is_some_and(|sequence| vector.get(self.client_id()) >= sequence)
    }

    /// Its bytes on the wire.
    pub fn encoded(&self, format: EncodingFormat) -> &Bytes {
        match format {
            EncodingFormat::Json => self.0.json.get_or_init(|| {
                serde_json::to_vec(self).expect("an event is made of strings, numbers and JSON").into()
            }),
            _ => self.0.message_pack.get_or_init(|| {
                rmp_serde::to_vec_named(self).expect("an event is made of strings, numbers and JSON").into()
            }),
        }
    }

    /// Applies the change to a state; `Null` is an absent document.
    pub fn apply(&self, state: &mut Value) -> Result<(), DoesNotFit> {
        json_patch::patch(state, &self.diff().json_patch)
            .map_err(|e| DoesNotFit { event: self.id(), reason: e.to_string() })
    }
}

/// An event that is applied to a state that it was not made from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {event} does not fit the state: {reason}")]
pub struct DoesNotFit {
    /// The event's id.
    pub event: String,
    /// What did not fit.
    pub reason: String,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.0.change == other.0.change
    }
}

impl From<Arc<Change>> for Event {
    fn from(change: Arc<Change>) -> Self {
        Self::new(change)
    }
}

// The layout is docs/formats/eventsync-wire.md, "Event".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireOut<'a> {
    id: String,
    document_id: &'a DocumentId,
    timestamp: u64,
    sequence_num: u64,
    position: u64,
    operation: Operation,
    diff: &'a Diff,
    vector_clock: ClientVector,
    client_id: &'a ClientId,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_seq: Option<u64>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: &'a Body,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireIn {
    document_id: DocumentId,
    timestamp: u64,
    sequence_num: u64,
    position: u64,
    operation: Operation,
    diff: Diff,
    client_id: ClientId,
    client_seq: Option<u64>,
    #[serde(default)]
    metadata: Body,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let change = &*self.0.change;
        let mut vector_clock = ClientVector::new();
        self.advance(&mut vector_clock);
        WireOut {
            id: self.id(),
            document_id: &change.document_id,
            timestamp: change.timestamp_ms,
            sequence_num: change.version,
            position: change.position,
            operation: change.operation,
            diff: &change.diff,
            vector_clock,
            client_id: &change.producer.client_id,
            client_seq: change.producer.sequence,
            metadata: &change.metadata,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireIn::deserialize(deserializer)?;
        Ok(Self::new(Arc::new(Change {
            document_id: wire.document_id,
            version: wire.sequence_num,
            position: wire.position,
            operation: wire.operation,
            diff: wire.diff,
            timestamp_ms: wire.timestamp,
            producer: Producer { client_id: wire.client_id, sequence: wire.client_seq },
            metadata: wire.metadata,
        })))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn golden() -> Value {
        json!({
            "id": "game-7@12", "documentId": "game-7", "timestamp": 1_767_225_600_000_u64, "sequenceNum": 12,
            "position": 431, "operation": "create",
            "diff": {
                "version": 12,
                "jsonPatch": [{"op": "replace", "path": "", "value": {"name": "Go"}}],
                "mergePatch": {"name": "Go"},
            },
            "vectorClock": {"alice": 4}, "clientId": "alice", "clientSeq": 4,
        })
    }

    #[test]
    fn the_wire_shape_is_the_documented_one() {
        let event: Event = serde_json::from_value(golden()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(event.encoded(EncodingFormat::Json)).unwrap(), golden());
        let packed: Value =
            rmp_serde::from_slice(event.encoded(EncodingFormat::MessagePack)).expect("maps with string keys");
        assert_eq!(packed, golden());
        let back: Event = rmp_serde::from_slice(event.encoded(EncodingFormat::MessagePack)).unwrap();
        assert_eq!(back, event);
    }

    #[test]
    fn a_create_leads_from_null_to_the_document() {
        let event: Event = serde_json::from_value(golden()).unwrap();
        let mut state = Value::Null;
        event.apply(&mut state).unwrap();
        assert_eq!(state, json!({"name": "Go"}));
    }

    #[test]
    fn the_clock_identifies_the_event() {
        // Defects 4 and 5: a clock that never moves, or that holds the document's number, says nothing.
        let event: Event = serde_json::from_value(golden()).unwrap();
        let mut vector = ClientVector::new();
        assert!(!event.is_contained_in(&vector));
        event.advance(&mut vector);
        assert_eq!(vector, ClientVector::from_iter([(ClientId::new("alice").unwrap(), 4)]));
        assert!(event.is_contained_in(&vector));
    }
}
