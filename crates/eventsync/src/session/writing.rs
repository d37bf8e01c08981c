//! What a connection says of its own: writes, presence, what it has.

use std::collections::{VecDeque, btree_map::Entry};

use crdt_core::ClientId;
use nodestorage::DocumentId;
use serde_json::Value;

use super::{PRESENCE_BYTES_MAX, Pushes, Session, SessionOutput, login::Login};
use crate::{
    access::Right,
    broker::EventBroker,
    feed::Scope,
    protocol::{Problem, ProblemType, Push, ServerMessage},
    service::{Refusal, Written},
};

impl Session {
    /// Takes a push that came in a message of so many bytes.
    pub(super) fn push(&mut self, client: ClientId, push: Push, bytes: usize) {
        if let Err(problem) = self.require(Right::Write, Some(&push.document_id)) {
            let Push { document_id, client_seq, .. } = push;
            return self.send(ServerMessage::Rejected { document_id, client_seq, problem, current: None });
        }
        self.pushes_held += 1;
        self.pushes_bytes += bytes;
        match self.pushes.entry(push.document_id.clone()) {
            Entry::Occupied(mut of_document) => of_document.get_mut().waiting.push_back((push, bytes)),
            Entry::Vacant(none) => {
                none.insert(Pushes { under_way_bytes: bytes, waiting: VecDeque::new() });
                self.outputs.push_back(SessionOutput::Write { client, push });
            }
        }
    }

    pub(super) fn written(
        &mut self,
        document: DocumentId,
        client_seq: Option<u64>,
        result: Result<Written, Refusal>,
    ) {
        let document_id = document.clone();
        self.send(match result {
            Ok(Written { version, repeated, changed, .. }) => {
                ServerMessage::Pushed { document_id, client_seq, version, repeated, changed }
            }
            Err(Refusal { problem, current }) => {
                ServerMessage::Rejected { document_id, client_seq, problem, current }
            }
        });
        self.pushes_held -= 1;
        let Some(of_document) = self.pushes.get_mut(&document) else { return };
        self.pushes_bytes -= of_document.under_way_bytes;
        match (of_document.waiting.pop_front(), &self.login) {
            (Some((push, bytes)), Login::Known(known)) => {
                of_document.under_way_bytes = bytes;
                let client = known.client.clone();
                self.outputs.push_back(SessionOutput::Write { client, push });
            }
            _ => {
                self.pushes.remove(&document);
            }
        }
    }

    pub(super) fn show(&mut self, client: ClientId, document: DocumentId, data: Value) {
        let bytes = data.to_string().len();
        if bytes > PRESENCE_BYTES_MAX {
            let detail = format!("presence of {bytes} bytes, at most {PRESENCE_BYTES_MAX} are allowed");
            let problem = Problem::new(ProblemType::TooLarge, detail)
                .with("limit", PRESENCE_BYTES_MAX)
                .with("unit", "bytes");
            return self.send(ServerMessage::Error { problem, document_id: Some(document) });
        }
        if let Err(problem) = self.require(Right::Presence, Some(&document)) {
            return self.send(ServerMessage::Error { problem, document_id: Some(document) });
        }
        if !self.feeds.contains_key(&Scope::Document(document.clone())) {
            let problem = Problem::new(ProblemType::InvalidMessage, "presence needs a subscription");
            return self.send(ServerMessage::Error { problem, document_id: Some(document) });
        }
        let data = if data.is_null() {
            self.shows.remove(&document);
            None
        } else {
            self.shows.insert(document.clone());
            Some(data)
        };
        self.outputs.push_back(SessionOutput::Show { client, document, data });
    }

    /// What was to be shown on a document is not.
    pub(super) fn not_shown(&mut self, document: DocumentId) {
        self.shows.remove(&document);
        let max = EventBroker::PRESENCES_MAX;
        let detail = format!("at most {max} connections can show themselves on a document");
        let problem = Problem::new(ProblemType::TooMany, detail).with("limit", max).with("unit", "presences");
        self.send(ServerMessage::Error { problem, document_id: Some(document) });
    }

    pub(super) fn ack(&mut self, client: ClientId, document: DocumentId, cursor: u64) {
        let given = self.feeds.get(&Scope::Document(document.clone())).map(|(_, feed)| feed.cursor());
        match given {
            Some(given) if cursor <= given => {
                self.outputs.push_back(SessionOutput::Remember { client, document, cursor });
            }
            _ => {
                let detail = format!("ack of {cursor}: only {} was sent here", given.unwrap_or(0));
                let problem = Problem::new(ProblemType::InvalidMessage, detail);
                self.send(ServerMessage::Error { problem, document_id: Some(document) });
            }
        }
    }
}
