//! The way of a write: one verb, or a transaction of several, under the lock.

use std::sync::Arc;

use async_trait::async_trait;
use crdt_core::ClientId;

use super::{Entry, MemoryStorage, State};
use crate::{
    Body, Change, Diff, Document, DocumentId, EditOptions, Operation, Producer, StorageError, StorageOptions,
    rules,
    transaction::staging::{Commit, Draft, Entry as StagedEntry, Ground, Outside},
    verbs::{Outcome, Step},
    watch::LogEntry,
};

impl MemoryStorage {
    /// Carries out one verb, under the lock.
    pub(super) fn run(
        &self,
        id: &DocumentId,
        options: EditOptions,
        verb: impl FnOnce(Option<&Document>) -> Result<Step, StorageError>,
    ) -> Result<Outcome, StorageError> {
        rules::check_metadata(id, &options.metadata, &self.options)?;
        let mut state = self.open()?;
        let absent = Entry::default();
        let entry = state.collections[self.number].documents.get(id).unwrap_or(&absent);
        let document = entry.document(id);
        let sequence = match entry.turn(&options.producer)? {
            // Who does not count is counted for, in the record.
            Ok(sequence) => sequence,
            Err(version) => return Ok(Outcome::Repeated { version, document }),
        };
        rules::expect_version(id, &options, document.as_ref().map_or(0, |document| document.version))?;
        match verb(document.as_ref())? {
            Step::Keep => {
                state.note(self.number, id, &options.producer);
                Ok(Outcome::Kept(document))
            }
            Step::Write(operation, after) => {
                if let Some(after) = &after {
                    rules::check_body(id, after, &self.options)?;
                }
                state.collections[self.number].check_indexes(id, after.as_ref())?;
                let outcome = self.commit(&mut state, document, (id, operation, after), (sequence, options));
                self.shared.tell(&state);
                Ok(outcome)
            }
        }
    }

    fn commit(
        &self,
        state: &mut State,
        before: Option<Document>,
        (id, operation, after): (&DocumentId, Operation, Option<Body>),
        (sequence, options): (u64, EditOptions),
    ) -> Outcome {
        let timestamp_ms = (self.shared.clock)().max(state.timestamp_ms);
        state.timestamp_ms = timestamp_ms;
        let position = state.position() + 1;
        let entry = state.collections[self.number].documents.entry(id.clone()).or_default();
        let version = entry.version + 1;
        let client_id = options.producer.client_id;
        let change = Arc::new(Change {
            document_id: id.clone(),
            version,
            position,
            operation,
            diff: Diff::between(before.as_ref().map(|d| &*d.body), after.as_ref(), version),
            timestamp_ms,
            producer: Producer { client_id: client_id.clone(), sequence: Some(sequence) },
            metadata: options.metadata,
        });
        entry.version = version;
        let body = after.map(Arc::new);
        entry.body.clone_from(&body);
        entry.answers.entry(client_id).or_default().insert(sequence, version);
        let was = before.as_ref().map(|document| document.body.clone());
        let document = entry.document(id).or(before).expect("it is there now or was before");
        entry.changes.push_back(change.clone());
        let (collection, of) = (self.number as u32, Some(id.clone()));
        state.log.push_back(LogEntry { position, collection, id: of, change: Some(change.clone()) });
        state.collections[self.number].index(id, was.as_deref(), body.as_deref());
        Outcome::Changed { document, change }
    }
}

#[async_trait]
impl Ground for MemoryStorage {
    fn options(&self) -> &StorageOptions {
        &self.options
    }

    async fn outside(&self, id: &DocumentId) -> Result<Outside, StorageError> {
        let state = self.open()?;
        let entry = state.collections[self.number].documents.get(id);
        let outside = |entry: &Entry| Outside { version: entry.version, document: entry.document(id) };
        Ok(entry.map_or(Outside { version: 0, document: None }, outside))
    }

    async fn last_sequence(&self, id: &DocumentId, client: &ClientId) -> Result<u64, StorageError> {
        let state = self.open()?;
        let entry = state.collections[self.number].documents.get(id);
        Ok(entry.map_or(0, |entry| entry.last_sequence(client)))
    }

    async fn answer(&self, id: &DocumentId, client: &ClientId, sequence: u64) -> Result<u64, StorageError> {
        let state = self.open()?;
        let entry = state.collections[self.number].documents.get(id);
        // Gone since it was found: the commit sees it too, and the transaction runs again.
        Ok(entry.and_then(|entry| entry.answer(client, sequence)).unwrap_or(0))
    }

    async fn commit(&self, draft: &mut Draft) -> Result<Commit, StorageError> {
        let mut state = self.open()?;
        for id in draft.touched.keys() {
            let entry = state.collections[self.number].documents.get(id);
            let last = |client: &ClientId| Ok(entry.map_or(0, |entry| entry.last_sequence(client)));
            if let Some(conflict) = draft.conflict(id, entry.map_or(0, |entry| entry.version), last)? {
                return Ok(Commit::Conflict(conflict));
            }
        }
        for entry in &draft.entries {
            if let StagedEntry::Change(change) = entry {
                state.collections[self.number].check_indexes(&change.id, change.after.as_ref())?;
            }
        }
        let mut changes = Vec::with_capacity(draft.changes);
        for entry in draft.entries.drain(..) {
            match entry {
                StagedEntry::Note { id, client, sequence, .. } => {
                    let producer = Producer { client_id: client, sequence: Some(sequence) };
                    state.note(self.number, &id, &producer);
                }
                StagedEntry::Change(change) => {
                    let what = (&change.id, change.operation, change.after);
                    let by = (change.sequence, change.options);
                    let outcome = self.commit(&mut state, change.before, what, by);
                    let Outcome::Changed { change, .. } = outcome else { unreachable!("it was staged") };
                    changes.push(change);
                }
            }
        }
        // Watchers are told of all of it at once.
        self.shared.tell(&state);
        Ok(Commit::Done(changes))
    }
}
