//! One document at a client: what the server confirmed, and on top of it the client's own writes that are under way.

use std::collections::VecDeque;

use crdt_core::ClientId;
use nodestorage::DocumentId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClientRecord, Conflict, ConflictResolver, Resolution};
use crate::{
    event::{ClientVector, DoesNotFit, Event},
    protocol::{Current, DocumentResume, Problem, ProblemType, Push, PushOp},
    service::apply_locally,
    snapshot::Snapshot,
};

/// A write of this client that is not confirmed yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// What it does.
    pub op: PushOp,
    /// Only if the document is still as the writer saw it.
    pub base_version: Option<u64>,
    /// The state that the writer saw.
    pub base: Value,
    /// When it was written, in milliseconds since 1970 UTC.
    pub written_at: u64,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "after a gap the client has to resume from its cursor"]
pub enum Applied {
    /// It was the next one.
    Merged,
    /// It was had before.
    Known,
    /// Events before it are missing.
    Gap,
}

/// Holds one document. Writes show at once, are sent one after the other, and are sent again with the same number
/// until they are answered, so that each counts once whatever the connection does.
#[derive(Debug, Clone)]
pub struct StateManager {
    document_id: DocumentId,
    client_id: ClientId,
    confirmed: Value,
    version: u64,
    vector: ClientVector,
    changed_at: u64,
    /// The number of the last write that was answered.
    answered: u64,
    /// Whether the first of `pending` has been sent with the number after that. It then keeps it.
    sent: bool,
    pending: VecDeque<Pending>,
    /// Writes that were answered, with the version that contains them, until that version is here: so that nothing
    /// that shows goes away for a moment.
    answered_ahead: VecDeque<(u64, Pending)>,
}

impl StateManager {
    /// A document of which nothing is known. A client that starts again goes on with the number of its last write.
    pub fn new(document_id: DocumentId, client_id: ClientId, last_client_seq: u64) -> Self {
        Self {
            document_id,
            client_id,
            confirmed: Value::Null,
            version: 0,
            vector: ClientVector::new(),
            changed_at: 0,
            answered: last_client_seq,
            sent: false,
            pending: VecDeque::new(),
            answered_ahead: VecDeque::new(),
        }
    }

    /// What an earlier run of the client kept.
    pub fn restore(client_id: ClientId, record: ClientRecord) -> Self {
        Self {
            confirmed: record.state,
            version: record.version,
            vector: record.state_vector,
            changed_at: record.changed_at,
            pending: record.pending.into(),
            ..Self::new(record.document_id, client_id, record.last_client_seq)
        }
    }

    /// What to keep for a later run.
    pub fn to_record(&self) -> ClientRecord {
        ClientRecord {
            document_id: self.document_id.clone(),
            state: self.confirmed.clone(),
            version: self.version,
            state_vector: self.vector.clone(),
            changed_at: self.changed_at,
            last_client_seq: self.answered,
            pending: self.pending.iter().cloned().collect(),
        }
    }

    /// What the user sees: the confirmed state with the client's own writes on top. `Null` for absent.
    pub fn view(&self) -> Value {
        let mut view = self.confirmed.clone();
        for pending in self.answered_ahead.iter().map(|(_, pending)| pending).chain(&self.pending) {
            apply_locally(&pending.op, &mut view);
        }
        view
    }

    /// What the server confirmed.
    pub fn confirmed(&self) -> &Value {
        &self.confirmed
    }

    /// The last event that is contained.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Which clients' writes are contained.
    pub fn state_vector(&self) -> &ClientVector {
        &self.vector
    }

    /// The number of the last write that was answered; to be kept durable.
    pub fn last_client_seq(&self) -> u64 {
        self.answered
    }

    /// The writes that are not answered, oldest first; to be kept durable.
    pub fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter()
    }

    /// Where to go on after a connection was lost.
    pub fn resume(&self) -> DocumentResume {
        match self.version {
            0 => DocumentResume::default(),
            version => DocumentResume { cursor: Some(version), state_vector: None },
        }
    }

    /// Takes an event in.
    pub fn on_event(&mut self, event: &Event) -> Result<Applied, DoesNotFit> {
        if event.sequence_num() <= self.version {
            return Ok(Applied::Known);
        }
        if event.sequence_num() > self.version + 1 {
            return Ok(Applied::Gap);
        }
        event.apply(&mut self.confirmed)?;
        event.advance(&mut self.vector);
        self.version += 1;
        self.changed_at = event.change().timestamp_ms;
        // The own write came back before its answer did. Only this client gives this number, and only to the first.
        if event.client_id() == &self.client_id && event.client_seq() == Some(self.answered + 1) {
            self.answered += 1;
            self.sent = false;
            self.pending.pop_front();
        }
        self.settle();
        Ok(Applied::Merged)
    }

    /// Takes over a state that replaces what is here.
    pub fn on_snapshot(&mut self, snapshot: &Snapshot) {
        self.confirmed = snapshot.value();
        self.version = snapshot.version;
        self.vector.clone_from(&snapshot.state_vector);
        self.changed_at = snapshot.created_at;
        self.settle();
    }

    /// Notes a write of the user: it shows at once and is sent when its turn comes. `guarded`: only if the document is
    /// still as the user sees it.
    pub fn write(&mut self, op: PushOp, guarded: bool, now_ms: u64) {
        let base_version = guarded.then_some(if self.confirmed.is_null() { 0 } else { self.version });
        let base = self.view();
        self.pending.push_back(Pending { op, base_version, base, written_at: now_ms });
    }

    /// The next write to send, if none is under way.
    pub fn poll_push(&mut self) -> Option<Push> {
        if self.sent {
            return None;
        }
        let next = self.pending.front()?;
        self.sent = true;
        Some(Push {
            document_id: self.document_id.clone(),
            client_seq: Some(self.answered + 1),
            base_version: next.base_version,
            op: next.op.clone(),
        })
    }

    /// The connection is lost: what was under way is sent again, with its number.
    pub fn on_disconnected(&mut self) {
        self.sent = false;
    }

    /// A write is durable. Answers to earlier ones are ignored.
    pub fn on_pushed(&mut self, client_seq: u64, version: u64) {
        if !self.sent || client_seq != self.answered + 1 {
            return;
        }
        self.answered += 1;
        self.sent = false;
        if let Some(pending) = self.pending.pop_front() {
            self.answered_ahead.push_back((version, pending));
        }
        // Guards of later writes saw the document with this write in it.
        if let Some(next) = self.pending.front_mut()
            && next.base_version.is_some()
        {
            next.base_version = Some(version);
        }
        self.settle();
    }

    /// A write was refused. Its number is free again; what becomes of it is decided by the resolver.
    pub fn on_rejected(
        &mut self,
        client_seq: u64,
        problem: &Problem,
        current: Option<&Current>,
        resolver: &ConflictResolver,
    ) {
        if !self.sent || client_seq != self.answered + 1 {
            return;
        }
        self.sent = false;
        let Some(refused) = self.pending.pop_front() else { return };
        let conflicts = [
            ProblemType::VersionMismatch,
            ProblemType::AlreadyExists,
            ProblemType::UnknownDocument,
            ProblemType::InvalidPatch,
        ];
        let Some(current) = current.filter(|_| conflicts.iter().any(|kind| problem.is(*kind))) else {
            return;
        };
        let mut mine = refused.base.clone();
        apply_locally(&refused.op, &mut mine);
        let theirs = current.state.as_ref().map_or(Value::Null, |body| Value::Object((**body).clone()));
        let conflict = Conflict {
            op: refused.op,
            base: refused.base,
            mine,
            theirs: theirs.clone(),
            written_at: refused.written_at,
            changed_at: self.changed_at,
        };
        if let Resolution::Write(op) = resolver.resolve(&conflict) {
            let version = if theirs.is_null() { 0 } else { current.version };
            let base_version = refused.base_version.map(|_| version);
            self.pending.push_front(Pending {
                op,
                base_version,
                base: theirs,
                written_at: conflict.written_at,
            });
        }
    }

    fn settle(&mut self) {
        while self.answered_ahead.front().is_some_and(|(version, _)| *version <= self.version) {
            self.answered_ahead.pop_front();
        }
    }
}
