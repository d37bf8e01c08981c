//! One document at a client: what the server confirmed, and on top of it the client's own writes that are under way.

mod held;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use crdt_core::ClientId;
use nodestorage::DocumentId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use held::HeldWrite;

use super::{ClientRecord, Conflict, ConflictResolver, Resolution};
use crate::{
    event::{ClientVector, DoesNotFit, Event},
    protocol::{Current, DocumentResume, Problem, ProblemType, Push, PushOp},
    service::{apply_locally, op_size, size},
    snapshot::Snapshot,
};

/// How long a write waits that is to be sent again, the first time, if the server does not say how long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The longest that it waits, whatever the server says.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// A write of this client that is not confirmed yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// What it does.
    pub op: PushOp,
    /// Only if the document is still as the writer saw it: with everything up to here, and the writes before this one.
    pub base_version: Option<u64>,
    /// The state that the writer saw; `Null` for absent.
    pub base: Value,
    /// When it was written, in milliseconds since 1970 UTC.
    pub written_at: u64,
}

impl Pending {
    /// About as many bytes as it has as JSON, with the state that the writer saw.
    pub fn len_bytes(&self) -> usize {
        op_size(&self.op) + size(&self.base)
    }
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

/// What became of a write that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a write that was kept is to be sent again"]
pub enum Rejected {
    /// It is given up, or replaced by what the resolver made of it.
    Decided,
    /// It can't go: it is out of the view, and [held](StateManager::held).
    Held {
        /// As which.
        id: u64,
    },
    /// It is still the next one, as what was said decides nothing about it: ask for it again after this time.
    Kept {
        /// How long.
        again_after: Duration,
    },
}

/// Where the oldest write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To be sent.
    Waiting,
    /// Sent on this connection.
    Sent {
        /// Not for the first time with this number.
        again: bool,
    },
    /// Durable, as this version, which is still to come.
    Stored(u64),
}

/// Holds one document. Writes show at once, are sent one after the other, and are sent again with the same number
/// until the confirmed state contains them, so that each counts once whatever the connection does.
///
/// The oldest write has the number after the last that the confirmed state contains. It keeps it until the server says
/// that the number is free: an answer that decides nothing (`Problem::is_passing`) says no such thing.
#[derive(Debug, Clone)]
pub struct StateManager {
    document_id: DocumentId,
    client_id: ClientId,
    confirmed: Value,
    version: u64,
    /// When the event of that version was made.
    timestamp: Option<u64>,
    vector: ClientVector,
    /// When others last changed it.
    changed_at: u64,
    /// The number of the last write that is contained.
    contained: u64,
    /// Whether the server counts from there as well. Of an earlier life's writes that changed nothing there are no events,
    /// and their numbers are used up.
    certain: bool,
    /// Whether the first of `pending` may be with the server, under the number after that.
    sent: bool,
    stage: Stage,
    /// Send nothing before this version is here: what others did, the resolver has to know.
    wait_for: u64,
    pending: VecDeque<Pending>,
    held: VecDeque<HeldWrite>,
    /// Whether a fence goes first, under the number after the last that is contained: the last one held may be stored
    /// under it.
    fence: bool,
    /// How often in a row the server could not decide about the oldest write, and did not say when it can.
    undecided: u32,
    /// The id of the last write that was held.
    held_last: u64,
    /// How far the server's clock is ahead of the one by which the times of writes are made: for who asks which of two was
    /// the later one.
    pub clock_offset_ms: i64,
}

impl StateManager {
    /// A document of which nothing is known. What the client wrote in an earlier life it learns from the server, before
    /// it sends anything.
    pub fn new(document_id: DocumentId, client_id: ClientId) -> Self {
        Self {
            document_id,
            client_id,
            confirmed: Value::Null,
            version: 0,
            timestamp: None,
            vector: ClientVector::new(),
            changed_at: 0,
            contained: 0,
            certain: false,
            sent: false,
            stage: Stage::Waiting,
            wait_for: 0,
            pending: VecDeque::new(),
            held: VecDeque::new(),
            fence: false,
            undecided: 0,
            held_last: 0,
            clock_offset_ms: 0,
        }
    }

    /// What an earlier run of the client kept.
    pub fn restore(client_id: ClientId, record: ClientRecord) -> Self {
        Self {
            confirmed: record.state,
            version: record.version,
            timestamp: record.timestamp,
            vector: record.state_vector,
            changed_at: record.changed_at,
            contained: record.last_client_seq,
            certain: record.certain,
            sent: record.sent,
            pending: record.pending.into(),
            held_last: record.held.last().map_or(0, |last| last.id).max(record.held_last),
            held: record.held.into(),
            fence: record.fence,
            ..Self::new(record.document_id, client_id)
        }
    }

    /// What to keep for a later run.
    pub fn to_record(&self) -> ClientRecord {
        ClientRecord {
            document_id: self.document_id.clone(),
            state: self.confirmed.clone(),
            version: self.version,
            timestamp: self.timestamp,
            state_vector: self.vector.clone(),
            changed_at: self.changed_at,
            last_client_seq: self.contained,
            certain: self.certain,
            sent: self.sent,
            pending: self.pending.iter().cloned().collect(),
            held: self.held.iter().cloned().collect(),
            held_last: self.held_last,
            fence: self.fence,
        }
    }

    /// What the user sees: the confirmed state with the client's own writes on top. `Null` for absent.
    pub fn view(&self) -> Value {
        let mut view = self.confirmed.clone();
        for pending in &self.pending {
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

    /// The number of this client's last write that is contained.
    pub fn last_client_seq(&self) -> u64 {
        self.contained
    }

    /// The writes that the confirmed state does not contain yet, oldest first.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &Pending> {
        self.pending.iter()
    }

    /// How many bytes they have, with the states that their writers saw: that is what they need in memory, and in a record.
    pub fn pending_bytes(&self) -> usize {
        self.pending.iter().map(Pending::len_bytes).sum()
    }

    /// How many of them the server has not answered. A question about one that is held counts as well.
    pub fn unsent(&self) -> usize {
        self.pending.len() + usize::from(self.fence) - usize::from(matches!(self.stage, Stage::Stored(_)))
    }

    /// Where to go on after a connection was lost: after the last event, which is named, so that a server that was set back
    /// and has another one of that number since says so.
    pub fn resume(&self) -> DocumentResume {
        match self.version {
            0 => DocumentResume::default(),
            version => {
                DocumentResume { cursor: Some(version), timestamp: self.timestamp, state_vector: None }
            }
        }
    }

    /// Takes an event in.
    pub fn on_event(&mut self, event: &Event) -> Result<Applied, DoesNotFit> {
        if event.sequence_num() <= self.version {
            return Ok(Applied::Known);
        }
        if event.sequence_num() > self.version.saturating_add(1) {
            return Ok(Applied::Gap);
        }
        event.apply(&mut self.confirmed)?;
        event.advance(&mut self.vector);
        self.version += 1;
        self.timestamp = Some(event.timestamp());
        let own = event.client_seq().filter(|_| event.client_id() == &self.client_id);
        match self.contains(own.unwrap_or(0)) {
            Some(write) => self.follow(write.base_version),
            None => self.changed_at = event.timestamp(),
        }
        self.settle();
        Ok(Applied::Merged)
    }

    /// Takes over a state that replaces what is here.
    pub fn on_snapshot(&mut self, snapshot: &Snapshot) {
        self.confirmed = snapshot.value();
        self.version = snapshot.version;
        self.timestamp = snapshot.timestamp;
        self.vector.clone_from(&snapshot.state_vector);
        self.changed_at = snapshot.created_at;
        if self.contains(self.vector.get(&self.client_id)).is_some() {
            self.follow(None);
        }
        self.settle();
    }

    /// Notes a write of the user: it shows at once and is sent when its turn comes. `guarded`: only if the document is
    /// still as the user sees it.
    pub fn write(&mut self, op: PushOp, guarded: bool, now_ms: u64) {
        let base_version = guarded.then_some(self.version);
        let base = self.view();
        self.pending.push_back(Pending { op, base_version, base, written_at: now_ms });
    }

    /// The next write to send, if none is under way. Keep the [record](Self::to_record) before it is sent.
    pub fn poll_push(&mut self) -> Option<Push> {
        if self.stage != Stage::Waiting || self.version < self.wait_for {
            return None;
        }
        let (base_version, op) = match self.pending.front() {
            _ if self.fence => self.fence_op(),
            // On the wire the version of what is absent is 0, whatever was there before.
            Some(next) => {
                (next.base_version.map(|seen| if next.base.is_null() { 0 } else { seen }), next.op.clone())
            }
            None => return None,
        };
        self.stage = Stage::Sent { again: self.sent };
        self.sent = true;
        let (document_id, client_seq) = (self.document_id.clone(), Some(self.next_number()));
        Some(Push { document_id, client_seq, base_version, op })
    }

    /// The connection is lost: what was under way is sent again, with its number, if its event does not come first.
    pub fn on_disconnected(&mut self) {
        self.stage = Stage::Waiting;
        self.wait_for = 0;
    }

    /// A write is durable, as of `version`. Answers to earlier ones are ignored.
    pub fn on_pushed(&mut self, client_seq: u64, version: u64, repeated: bool) {
        let Some(again) = self.is_answered(client_seq) else { return };
        self.undecided = 0;
        if repeated && !(again && (self.certain || version > self.version)) {
            // It was not there before, or would be here: an earlier life of this client has used the number up.
            self.contained = client_seq;
            self.sent = false;
            self.stage = Stage::Waiting;
            self.close_held();
            return;
        }
        self.certain |= !repeated;
        self.stage = Stage::Stored(version);
        self.settle();
    }

    /// A write was refused. If that decides about it, its number is free again; where others were faster the resolver says
    /// what becomes of it, else it is [held](Self::held).
    pub fn on_rejected(
        &mut self,
        client_seq: u64,
        problem: &Problem,
        current: Option<&Current>,
        resolver: &ConflictResolver,
    ) -> Rejected {
        let at_once = Rejected::Kept { again_after: Duration::ZERO };
        if self.is_answered(client_seq).is_none() {
            return at_once;
        }
        self.stage = Stage::Waiting;
        let tries = std::mem::take(&mut self.undecided);
        if problem.is(ProblemType::SequenceGap)
            && let Some(last) = problem.number("expected").and_then(|expected| expected.checked_sub(1))
            && last < self.contained
        {
            // The server has lost writes, as after a backup was restored: it counts from where it is.
            (self.contained, self.certain, self.sent) = (last, true, false);
            self.close_held();
            return at_once;
        }
        let conflicts = [
            ProblemType::VersionMismatch,
            ProblemType::AlreadyExists,
            ProblemType::UnknownDocument,
            ProblemType::InvalidPatch,
        ];
        let conflicts = conflicts.iter().any(|kind| problem.is(*kind));
        self.certain |= conflicts;
        match current {
            Some(current) if conflicts && self.version < current.version => {
                self.wait_for = current.version;
                at_once
            }
            // Whatever is said about a fence, its number is not used up.
            _ if self.fence => self.again_after(problem, tries),
            Some(current) if conflicts => self.resolve(current, resolver),
            None if conflicts => self.again_after(problem, tries),
            _ if problem.is_passing() || problem.is(ProblemType::SequenceGap) => {
                self.again_after(problem, tries)
            }
            _ => {
                let open = problem.status == ProblemType::TooLarge.status();
                self.hold_oldest(problem.clone(), open).map_or(at_once, |id| Rejected::Held { id })
            }
        }
    }

    /// Nothing is decided: the same write is sent again, later each time if the server does not say when.
    fn again_after(&mut self, problem: &Problem, tries: u32) -> Rejected {
        let said = problem.number("retryAfterMs").map(Duration::from_millis);
        self.undecided = tries.saturating_add(u32::from(said.is_none()));
        Rejected::Kept {
            again_after: said.unwrap_or_else(|| pause_after(self.undecided)).min(AGAIN_AFTER_MAX),
        }
    }

    /// Lets the resolver decide about the oldest write, against what is there now.
    fn resolve(&mut self, current: &Current, resolver: &ConflictResolver) -> Rejected {
        self.sent = false;
        let Some(refused) = self.pending.pop_front() else { return Rejected::Decided };
        let mut mine = refused.base.clone();
        apply_locally(&refused.op, &mut mine);
        let theirs = match &current.state {
            // More has come since it was said.
            _ if current.version < self.version => self.confirmed.clone(),
            Some(body) => Value::Object((**body).clone()),
            None => Value::Null,
        };
        let Pending { op, base, base_version, written_at: own_time } = refused;
        let written_at = own_time.saturating_add_signed(self.clock_offset_ms);
        let changed_at = self.changed_at;
        let conflict = Conflict { op, base, mine, theirs, written_at, changed_at };
        if let Resolution::Write(op) = resolver.resolve(&conflict) {
            let base_version = base_version.map(|_| self.version);
            self.pending.push_front(Pending {
                op,
                base_version,
                base: conflict.theirs,
                written_at: own_time,
            });
        }
        Rejected::Decided
    }

    /// The number of the oldest write. A server that counts to the end of all numbers is none, and is no reason to panic.
    fn next_number(&self) -> u64 {
        self.contained.saturating_add(1)
    }

    /// Whether this is the answer to what was sent last, and whether that was sent before.
    fn is_answered(&self, client_seq: u64) -> Option<bool> {
        match self.stage {
            Stage::Sent { again } if client_seq == self.next_number() => Some(again),
            _ => None,
        }
    }

    /// The confirmed state contains this client's writes up to a number. Gives the pending one that is among them: only
    /// what may have been sent can be, the others are of an earlier life.
    fn contains(&mut self, client_seq: u64) -> Option<Pending> {
        if client_seq <= self.contained {
            return None;
        }
        self.contained = client_seq;
        self.stage = Stage::Waiting;
        self.undecided = 0;
        let (sent, fence) = (std::mem::take(&mut self.sent), self.fence);
        let write = match sent {
            // A fence makes no event: that of its number is of the write that is held, which went through after all.
            true if fence => self.take_open(),
            true => self.pending.pop_front(),
            false => None,
        };
        self.certain = write.is_some() || fence;
        write
    }

    /// An own write has become the present version. Who wrote on what was there just before, or on the same state as that
    /// write (`guard`), had that write in view: so this version is what was seen.
    fn follow(&mut self, guard: Option<u64>) {
        for later in &mut self.pending {
            if let Some(seen) = &mut later.base_version
                && (seen.checked_add(1) == Some(self.version) || guard == Some(*seen))
            {
                *seen = self.version;
            }
        }
    }

    /// Takes off a write that is stored and has no event of its own: it changed nothing.
    fn settle(&mut self) {
        if let Stage::Stored(version) = self.stage
            && version <= self.version
        {
            if self.fence {
                self.close_held();
                (self.contained, self.certain, self.sent) = (self.next_number(), true, false);
                self.stage = Stage::Waiting;
            } else {
                self.contains(self.next_number());
            }
        }
    }
}

/// How long a write waits that so many tries have decided nothing about.
pub(super) fn pause_after(tries: u32) -> Duration {
    AGAIN_AFTER_MAX.min(AGAIN_AFTER * 2_u32.saturating_pow(tries.clamp(1, 16) - 1))
}
