//! What a transaction has read and means to write.
//!
//! Nothing is locked while a transaction runs. It notes what it has found, and the backend compares that with what is
//! there when it commits, all in one step; if others came between, nothing is written and the transaction runs again.
//! So does one that ended in an error after it had read what does not belong together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use crdt_core::ClientId;

use super::{Staged, Transaction, TransactionFn};
use crate::{
    Body, Change, Document, DocumentId, EditFn, EditOptions, Operation, StorageError, StorageOptions,
    edit::SectionFn,
    query::FieldPath,
    retry::{Backoff, within},
    rules::{self, Turn},
    verbs::{self, SectionVersion, Step},
};

/// A document as it is outside of the transaction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outside {
    /// The version of its last change, also when that was a delete.
    pub(crate) version: u64,
    pub(crate) document: Option<Document>,
}

/// What a backend does for transactions.
#[async_trait]
pub(crate) trait Ground: Send + Sync {
    fn options(&self) -> &StorageOptions;

    async fn outside(&self, id: &DocumentId) -> Result<Outside, StorageError>;

    /// The last sequence of a producer on a document.
    async fn last_sequence(&self, id: &DocumentId, client: &ClientId) -> Result<u64, StorageError>;

    /// What a producer's sequence was answered with.
    async fn answer(&self, id: &DocumentId, client: &ClientId, sequence: u64) -> Result<u64, StorageError>;

    /// Writes everything that is staged as one, if everything that was read is still so.
    async fn commit(&self, plan: &mut Draft) -> Result<Commit, StorageError>;
}

/// How a commit ended.
#[derive(Debug)]
pub(crate) enum Commit {
    Done(Vec<Arc<Change>>),
    /// Somebody came between: what is not as it was.
    Conflict(String),
}

/// What a transaction has read and means to write.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// In the order of ids, so that all transactions take their locks in one order.
    pub(crate) touched: BTreeMap<DocumentId, Touched>,
    pub(crate) entries: Vec<Entry>,
    /// How many of the entries are changes.
    pub(crate) changes: usize,
}

/// A document that a transaction has read.
#[derive(Debug)]
pub(crate) struct Touched {
    /// The version that was found.
    pub(crate) seen: u64,
    /// The last sequences that were found.
    pub(crate) lasts_seen: HashMap<ClientId, u64>,
    version: u64,
    document: Option<Document>,
    lasts: HashMap<ClientId, u64>,
}

/// What is to be written, in order.
#[derive(Debug)]
pub(crate) enum Entry {
    Change(StagedChange),
    /// A counted write that changes nothing.
    Note {
        id: DocumentId,
        client: ClientId,
        sequence: u64,
        version: u64,
    },
}

#[derive(Debug)]
pub(crate) struct StagedChange {
    pub(crate) id: DocumentId,
    pub(crate) operation: Operation,
    pub(crate) before: Option<Document>,
    pub(crate) after: Option<Body>,
    pub(crate) version: u64,
    pub(crate) sequence: u64,
    pub(crate) options: EditOptions,
}

/// Runs a transaction until it is committed, ends in an error, or has lost too often.
pub(crate) async fn run(
    ground: Arc<dyn Ground>,
    mut transaction: TransactionFn<'_>,
) -> Result<Vec<Arc<Change>>, StorageError> {
    let options = ground.options();
    let attempts = async {
        let mut backoff = Backoff::new(options);
        loop {
            let mut staging = Staging { ground: Arc::clone(&ground), draft: Draft::default() };
            let ended = transaction(&mut staging).await;
            let mut draft = staging.draft;
            if ended.is_err() {
                // What it has read is still compared: an error that rests on what never was together is no answer.
                draft.entries.clear();
            }
            let conflict = match (ground.commit(&mut draft).await?, ended) {
                (Commit::Done(changes), Ok(())) => return Ok(changes),
                (Commit::Done(_), Err(error)) => {
                    return Err(error.downcast().map_or_else(StorageError::Edit, |error| *error));
                }
                (Commit::Conflict(reason), _) => reason,
            };
            if !backoff.pause().await {
                return Err(StorageError::TransactionFailed {
                    attempts: backoff.attempts(),
                    reason: conflict,
                });
            }
        }
    };
    within(options.transaction_timeout, attempts).await
}

struct Staging {
    ground: Arc<dyn Ground>,
    draft: Draft,
}

impl Staging {
    async fn touch(&mut self, id: &DocumentId) -> Result<&mut Touched, StorageError> {
        // Looked up twice, as a reference that is returned early is held to the end.
        if !self.draft.touched.contains_key(id) {
            let Outside { version, document } = self.ground.outside(id).await?;
            let (lasts, lasts_seen) = (HashMap::new(), HashMap::new());
            let touched = Touched { seen: version, lasts_seen, version, document, lasts };
            self.draft.touched.insert(id.clone(), touched);
        }
        Ok(self.draft.touched.get_mut(id).expect("it is there now"))
    }

    /// Which of its writes a producer makes, or what that was answered.
    async fn turn(
        &mut self,
        id: &DocumentId,
        options: &EditOptions,
    ) -> Result<Result<u64, u64>, StorageError> {
        let ground = Arc::clone(&self.ground);
        let (client, sequence) = (&options.producer.client_id, options.producer.sequence);
        let touched = self.touch(id).await?;
        let last = match touched.lasts.get(client) {
            Some(last) => *last,
            None => {
                let last = ground.last_sequence(id, client).await?;
                touched.lasts_seen.insert(client.clone(), last);
                touched.lasts.insert(client.clone(), last);
                last
            }
        };
        let seen = touched.lasts_seen.get(client).copied().unwrap_or(0);
        match rules::turn(sequence, last)? {
            Turn::Next(sequence) => Ok(Ok(sequence)),
            Turn::Repeated(sequence) if sequence <= seen => {
                ground.answer(id, client, sequence).await.map(Err)
            }
            Turn::Repeated(sequence) => Ok(Err(self.draft.answer(id, client, sequence))),
        }
    }

    async fn verb(
        &mut self,
        id: &DocumentId,
        options: EditOptions,
        verb: impl FnOnce(Option<&Document>) -> Result<Step, StorageError> + Send,
    ) -> Result<Staged, StorageError> {
        let ground = Arc::clone(&self.ground);
        let of = ground.options();
        rules::check_metadata(id, &options.metadata, of)?;
        let turn = self.turn(id, &options).await?;
        let touched = self.touch(id).await?;
        let before = touched.document.clone();
        let sequence = match turn {
            Ok(sequence) => sequence,
            Err(version) => return Ok(Staged::Repeated { version, document: before }),
        };
        rules::expect_version(id, &options, before.as_ref().map_or(0, |document| document.version))?;
        match verb(before.as_ref())? {
            Step::Keep => {
                if let Some(sequence) = options.producer.sequence {
                    let (client, version) = (options.producer.client_id, touched.version);
                    touched.lasts.insert(client.clone(), sequence);
                    self.draft.entries.push(Entry::Note { id: id.clone(), client, sequence, version });
                }
                Ok(Staged::Unchanged(before))
            }
            Step::Write(operation, after) => {
                if let Some(after) = &after {
                    rules::check_body(id, after, of)?;
                }
                let version = touched.version + 1;
                let document = after.as_ref().map(|body| Document {
                    id: id.clone(),
                    version,
                    body: Arc::new(body.clone()),
                });
                let limit = of.transaction_changes_max;
                if self.draft.changes == limit {
                    return Err(StorageError::Busy { what: "the transaction", limit });
                }
                let touched = self.draft.touched.get_mut(id).expect("it was touched");
                touched.version = version;
                touched.lasts.insert(options.producer.client_id.clone(), sequence);
                touched.document = document.clone();
                let id = id.clone();
                let change = StagedChange { id, operation, before, after, version, sequence, options };
                self.draft.entries.push(Entry::Change(change));
                self.draft.changes += 1;
                Ok(Staged::Changed(document))
            }
        }
    }
}

impl Draft {
    /// What a write of this transaction was answered with.
    fn answer(&self, of: &DocumentId, by: &ClientId, nth: u64) -> u64 {
        let answers = self.entries.iter().rev().filter_map(|entry| match entry {
            Entry::Change(change) if change.id == *of && change.options.producer.client_id == *by => {
                Some(change.version).filter(|_| change.sequence == nth)
            }
            Entry::Note { id, client, sequence, version } if id == of && client == by => {
                Some(*version).filter(|_| *sequence == nth)
            }
            _ => None,
        });
        answers.into_iter().next().expect("it was staged")
    }

    /// Whether a document is not as it was read: what is different.
    pub(crate) fn conflict(
        &self,
        id: &DocumentId,
        version: u64,
        last: impl Fn(&ClientId) -> Result<u64, StorageError>,
    ) -> Result<Option<String>, StorageError> {
        let touched = &self.touched[id];
        if touched.seen != version {
            return Ok(Some(format!("document {id} went from version {} to {version}", touched.seen)));
        }
        for (client, seen) in &touched.lasts_seen {
            if last(client)? != *seen {
                return Ok(Some(format!("client {client} wrote to document {id}")));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Transaction for Staging {
    async fn find_one(&mut self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        Ok(self.touch(id).await?.document.clone())
    }

    async fn find_one_and_upsert(
        &mut self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Staged, StorageError> {
        self.verb(id, options, |found| Ok(verbs::upsert(found, body))).await
    }

    async fn find_one_and_update(
        &mut self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Staged, StorageError> {
        self.verb(id, options, |found| verbs::update(id, found, edit)).await
    }

    async fn update_section(
        &mut self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        mut options: EditOptions,
    ) -> Result<Staged, StorageError> {
        let versions = SectionVersion::of(self.ground.options(), &mut options);
        self.verb(id, options, |found| verbs::update_section(id, found, section, edit, &versions)).await
    }

    async fn delete_one(&mut self, id: &DocumentId, options: EditOptions) -> Result<Staged, StorageError> {
        self.verb(id, options, |found| Ok(verbs::delete(found))).await
    }
}
