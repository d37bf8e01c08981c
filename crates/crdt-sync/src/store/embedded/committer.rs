//! The thread that writes: one batch and one sync for all appends that wait.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use crdt_core::{SessionId, StateVector};
use fjall::{OwnedWriteBatch, PersistMode};
use tokio::sync::{mpsc, oneshot};

use super::{
    Document, Tables, backend, corrupt,
    layout::{self, DocumentNumber},
    watermark::Watermark,
};
use crate::{PatchRecord, SharedError, store::PatchStoreError};

/// Jobs that wait for the thread; more wait in front of the queue.
pub(super) const JOBS_MAX: usize = 1024;

/// How many bytes of patches are made durable together at the most; a larger append goes alone.
const GROUP_BYTES_MAX: usize = 4 << 20;

pub(super) type Answer<T> = oneshot::Sender<Result<T, PatchStoreError>>;

pub(super) enum Job {
    /// Find or make the number of a document.
    Name {
        name: String,
        answer: Answer<DocumentNumber>,
    },
    Append {
        document: Arc<Document>,
        records: Vec<PatchRecord>,
        answer: Answer<()>,
    },
    Install {
        document: Arc<Document>,
        vector: StateVector<SessionId>,
        snapshot: Bytes,
        answer: Answer<()>,
    },
    /// Put a patch in the place of what is damaged there.
    Mend {
        document: Arc<Document>,
        record: PatchRecord,
        answer: Answer<()>,
    },
    /// Keep something beside the patches.
    Note {
        document: Arc<Document>,
        note: Bytes,
        answer: Answer<()>,
    },
}

/// What the thread has for itself.
pub(super) struct Writer {
    pub(super) tables: Tables,
    /// The number of the last batch.
    pub(super) batch: u64,
    pub(super) watermark: Watermark,
}

impl Writer {
    /// Works until all senders are gone. After a failed write nothing is written any more: whether the failed one is on
    /// the disk is not known, and a later one must not build on it.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut failed: Option<SharedError> = None;
        let mut next = jobs.blocking_recv();
        while let Some(job) = next.take() {
            if let Some(reason) = &failed {
                refuse(job, reason);
            } else {
                let done = match job {
                    Job::Append { document, records, answer } => {
                        let mut group = Group::new(&self.tables);
                        group.append(document, records, answer);
                        while group.bytes < GROUP_BYTES_MAX {
                            match jobs.try_recv() {
                                Ok(Job::Append { document, records, answer }) => {
                                    group.append(document, records, answer);
                                }
                                Ok(other) => {
                                    next = Some(other);
                                    break;
                                }
                                Err(_) => break,
                            }
                        }
                        let Group { batch, answers, advances, .. } = group;
                        // Of what was there already, nothing is written.
                        let written = if advances.is_empty() { Ok(()) } else { self.commit(batch) };
                        let written = written.map_err(|error| match error {
                            PatchStoreError::Backend(cause) => cause,
                            other => SharedError::new(other),
                        });
                        tell(&written, answers, advances);
                        written
                    }
                    Job::Name { name, answer } => settle(self.number(&name), answer),
                    Job::Mend { document, record, answer } => settle(self.mend(&document, &record), answer),
                    Job::Note { document, note, answer } => settle(self.note(&document, &note), answer),
                    Job::Install { document, vector, snapshot, answer } => {
                        settle(self.install(&document, &vector, &snapshot), answer)
                    }
                };
                failed = done.err();
            }
            if next.is_none() {
                next = jobs.blocking_recv();
            }
        }
    }

    /// Makes a batch durable, and has it witnessed.
    fn commit(&mut self, mut batch: OwnedWriteBatch) -> Result<(), PatchStoreError> {
        let number = self.batch + 1;
        batch.insert(&self.tables.batches, layout::BATCH_KEY, layout::write_batch(number));
        batch.commit().map_err(backend)?;
        self.batch = number;
        self.watermark.note(number).map_err(backend)
    }

    fn number(&mut self, name: &str) -> Result<DocumentNumber, PatchStoreError> {
        let read =
            |key: &[u8], value: &[u8]| layout::read_name(key, value).map_err(|damage| corrupt(key, damage));
        let key = layout::name_key(name);
        if let Some(value) = self.tables.names.get(&key).map_err(backend)? {
            return read(&key, &value);
        }
        // New names are rare, and there is no second place where a count could be wrong.
        let mut highest = 0;
        for entry in self.tables.names.iter() {
            let (key, value) = entry.into_inner().map_err(backend)?;
            if &*key != layout::VERSION_KEY {
                highest = highest.max(read(&key, &value)?);
            }
        }
        let number = highest.checked_add(1).ok_or_else(|| backend("no document number is left"))?;
        let mut batch = self.tables.database.batch().durability(Some(PersistMode::SyncData));
        let value = layout::write_name(&key, number);
        batch.insert(&self.tables.names, key, value);
        self.commit(batch)?;
        Ok(number)
    }

    fn install(
        &mut self,
        document: &Document,
        vector: &StateVector<SessionId>,
        snapshot: &[u8],
    ) -> Result<(), PatchStoreError> {
        {
            let state = document.state();
            // An empty vector contains nothing, and no snapshot holds as much as that.
            if state.contained.contains(vector) && (!vector.is_empty() || self.has_snapshot(document)?) {
                return Ok(());
            }
            if let Some((sid, _, upto)) = vector.missing_from(&state.contained).next() {
                return Err(PatchStoreError::Diverged { sid: *sid, upto });
            }
        }
        let mut batch = self.tables.database.batch().durability(Some(PersistMode::SyncData));
        let key = document.number.to_be_bytes();
        batch.insert(&self.tables.snapshots, key, layout::write_snapshot(&key, vector, snapshot));
        for (sid, last) in vector.iter() {
            let record = |last| layout::record_key(document.number, *sid, last);
            for entry in self.tables.patches.range(record(0)..=record(last)) {
                batch.remove(&self.tables.patches, entry.key().map_err(backend)?);
            }
        }
        let _no_page = document.compaction.write().unwrap_or_else(PoisonError::into_inner);
        self.commit(batch)?;
        let mut state = document.state();
        state.accepted.merge(vector);
        state.vector.merge(vector);
        state.contained = vector.clone();
        Ok(())
    }

    fn mend(&mut self, document: &Document, record: &PatchRecord) -> Result<(), PatchStoreError> {
        let (sid, last) = (record.session(), record.last());
        {
            let state = document.state();
            if last <= state.contained.get(&sid) || last > state.vector.get(&sid) {
                return Ok(());
            }
        }
        let mut batch = self.tables.database.batch().durability(Some(PersistMode::SyncData));
        let key = layout::record_key(document.number, sid, last);
        let value = layout::write_record(&key, record);
        batch.insert(&self.tables.patches, key, value);
        self.commit(batch)
    }

    fn note(&mut self, document: &Document, note: &[u8]) -> Result<(), PatchStoreError> {
        let mut batch = self.tables.database.batch().durability(Some(PersistMode::SyncData));
        let key = document.number.to_be_bytes();
        batch.insert(&self.tables.notes, key, layout::write_note(&key, note));
        self.commit(batch)
    }

    fn has_snapshot(&self, document: &Document) -> Result<bool, PatchStoreError> {
        self.tables.snapshots.contains_key(document.number.to_be_bytes()).map_err(backend)
    }
}

/// A failed write, which ends all writing.
type Written = Result<(), SharedError>;

fn settle<T>(result: Result<T, PatchStoreError>, answer: Answer<T>) -> Written {
    let written = match &result {
        Err(PatchStoreError::Backend(reason)) => Err(reason.clone()),
        _ => Ok(()),
    };
    let _ = answer.send(result); // Or the caller gave up waiting; it is done all the same.
    written
}

fn refuse(job: Job, reason: &SharedError) {
    let error = || PatchStoreError::Broken(reason.clone());
    // A caller that gave up waiting needs no answer.
    match job {
        Job::Name { answer, .. } => drop(answer.send(Err(error()))),
        Job::Append { answer, .. }
        | Job::Install { answer, .. }
        | Job::Mend { answer, .. }
        | Job::Note { answer, .. } => drop(answer.send(Err(error()))),
    }
}

/// Appends that become durable together.
struct Group<'a> {
    tables: &'a Tables,
    batch: OwnedWriteBatch,
    bytes: usize,
    /// What to tell to whom when they are durable: all of it, or up to the patch that did not follow.
    answers: Vec<(Answer<()>, Result<(), PatchStoreError>)>,
    /// What is known to be there when they are durable.
    advances: Vec<(Arc<Document>, SessionId, u64)>,
}

impl<'a> Group<'a> {
    fn new(tables: &'a Tables) -> Self {
        let batch = tables.database.batch().durability(Some(PersistMode::SyncData));
        Self { tables, batch, bytes: 0, answers: Vec::new(), advances: Vec::new() }
    }

    fn append(&mut self, document: Arc<Document>, records: Vec<PatchRecord>, answer: Answer<()>) {
        let result = records.iter().try_for_each(|record| self.append_one(&document, record));
        self.answers.push((answer, result));
    }

    fn append_one(&mut self, document: &Arc<Document>, record: &PatchRecord) -> Result<(), PatchStoreError> {
        let mut state = document.state();
        let last = state.accepted.get(&record.session());
        if record.last() <= last {
            return Ok(());
        }
        if record.prev != last {
            return Err(PatchStoreError::Order { id: record.id, last });
        }
        state.accepted.advance(record.session(), record.last());
        drop(state);
        let key = layout::record_key(document.number, record.session(), record.last());
        let value = layout::write_record(&key, record);
        self.bytes += value.len();
        self.batch.insert(&self.tables.patches, key, value);
        self.advances.push((Arc::clone(document), record.session(), record.last()));
        Ok(())
    }
}

/// Tells everybody what became of a group.
fn tell(
    written: &Written,
    answers: Vec<(Answer<()>, Result<(), PatchStoreError>)>,
    advances: Vec<(Arc<Document>, SessionId, u64)>,
) {
    if written.is_ok() {
        for (document, sid, last) in advances {
            document.state().vector.advance(sid, last);
        }
    }
    for (answer, result) in answers {
        let result = match written {
            Ok(()) => result,
            Err(reason) => Err(PatchStoreError::Broken(reason.clone())),
        };
        let _ = answer.send(result); // Or the caller gave up waiting; it is done all the same.
    }
}
