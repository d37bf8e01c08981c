//! The engine underneath: six keyspaces of one fjall database, read and written record by record.

use std::{ops::Bound, panic::AssertUnwindSafe, path::Path};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::record::{self, RecordError, Space};
use crate::StorageError;

/// The most journal bytes that the engine keeps before it writes its tables: bounds the folder and the time to open.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

pub(super) struct Engine {
    pub(super) database: Database,
    pub(super) spaces: [Keyspace; 6],
}

impl Engine {
    /// Opens the database in a folder, creating it if it is absent.
    pub(super) fn open(folder: &Path) -> Result<Self, StorageError> {
        let open = || {
            let database =
                Database::builder(folder).max_journaling_size(JOURNAL_BYTES_MAX).worker_threads(1).open()?;
            let space = |space: Space| database.keyspace(space.name(), KeyspaceCreateOptions::default);
            let [meta, documents, changes, log, answers, indexes] = Space::ALL.map(space);
            let spaces = [meta?, documents?, changes?, log?, answers?, indexes?];
            Ok(Self { database, spaces })
        };
        // On some damaged files the engine panics instead of returning an error.
        match std::panic::catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(engine)) => Ok(engine),
            Ok(Err(fjall::Error::Locked)) => Err(StorageError::Locked { folder: folder.to_owned() }),
            Ok(Err(error)) => Err(failed("engine", error)),
            Err(_) => Err(StorageError::Corrupt {
                place: folder.display().to_string(),
                reason: "the engine can't read its files".into(),
            }),
        }
    }

    /// Writes a batch, all or nothing, and makes it durable before any reader sees it.
    pub(super) fn commit(&self, writes: Vec<Write>, sync: bool) -> Result<(), StorageError> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        for write in writes {
            let Write { space, key, contents } = write;
            match contents {
                Some(mut record) => {
                    record::seal(space, &key, &mut record);
                    batch.insert(&self.spaces[space as usize], key, record);
                }
                None => batch.remove(&self.spaces[space as usize], key),
            }
        }
        batch.commit().map_err(|e| StorageError::Backend(e.to_string()))
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.database.persist(PersistMode::SyncAll).map_err(|e| StorageError::Backend(e.to_string()))
    }

    /// A view that stays as it is while it is read.
    pub(super) fn view(&self) -> View<'_> {
        View { engine: self, snapshot: self.database.snapshot() }
    }

    /// Reads one record and passes on its contents. It looks through a view, as every read does: the engine's own
    /// look-up also finds records of a batch that is being written, and a later view would be behind what it told.
    pub(super) fn get<T>(
        &self,
        space: Space,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, RecordError>,
    ) -> Result<Option<T>, StorageError> {
        self.view().get(space, key, read)
    }

    /// The last record whose key starts like this.
    pub(super) fn last<T>(
        &self,
        space: Space,
        prefix: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> Result<T, RecordError>,
    ) -> Result<Option<T>, StorageError> {
        let view = self.view();
        let Some(last) = view.snapshot.prefix(&self.spaces[space as usize], prefix).next_back() else {
            return Ok(None);
        };
        let (key, record) = last.into_inner().map_err(|e| failed(space.name(), e))?;
        decode(space, &key, &record, |contents| read(&key, contents)).map(Some)
    }
}

/// One record to be written, or removed when it has no contents.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) space: Space,
    pub(super) key: Vec<u8>,
    pub(super) contents: Option<Vec<u8>>,
}

impl Write {
    pub(super) fn put(space: Space, key: impl Into<Vec<u8>>, contents: Vec<u8>) -> Self {
        Self { space, key: key.into(), contents: Some(contents) }
    }

    pub(super) fn remove(space: Space, key: impl Into<Vec<u8>>) -> Self {
        Self { space, key: key.into(), contents: None }
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.key.len() + self.contents.as_ref().map_or(0, Vec::len)
    }
}

pub(super) struct View<'e> {
    engine: &'e Engine,
    snapshot: Snapshot,
}

impl View<'_> {
    pub(super) fn get<T>(
        &self,
        space: Space,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, RecordError>,
    ) -> Result<Option<T>, StorageError> {
        let space_of = &self.engine.spaces[space as usize];
        let found = self.snapshot.get(space_of, key).map_err(|e| failed(space.name(), e))?;
        found.map(|record| decode(space, key, &record, read)).transpose()
    }

    /// The records from `start` on, those with this prefix, in the order of their keys.
    pub(super) fn scan<'v, T: 'v>(
        &'v self,
        space: Space,
        prefix: &[u8],
        start: Bound<&[u8]>,
        mut read: impl FnMut(&[u8], &[u8]) -> Result<T, RecordError> + 'v,
    ) -> impl Iterator<Item = Result<T, StorageError>> + 'v {
        let prefix = prefix.to_vec();
        let start = match start {
            Bound::Unbounded => Bound::Included(prefix.clone()),
            bound => bound.map(<[u8]>::to_vec),
        };
        let records = self.snapshot.range(&self.engine.spaces[space as usize], (start, Bound::Unbounded));
        records
            .map(move |entry| {
                let (key, record) = entry.into_inner().map_err(|e| failed(space.name(), e))?;
                if !key.starts_with(&prefix) {
                    return Ok(None);
                }
                decode(space, &key, &record, |contents| read(&key, contents)).map(Some)
            })
            .map_while(Result::transpose)
    }
}

impl View<'_> {
    /// The records from one key to before another, forwards or backwards.
    pub(super) fn range<'v, T: 'v>(
        &'v self,
        space: Space,
        (start, end): (Bound<Vec<u8>>, Bound<Vec<u8>>),
        backwards: bool,
        mut read: impl FnMut(&[u8], &[u8]) -> Result<T, RecordError> + 'v,
    ) -> Box<dyn Iterator<Item = Result<T, StorageError>> + 'v> {
        if is_empty(&start, &end) {
            return Box::new(std::iter::empty());
        }
        let records = self.snapshot.range(&self.engine.spaces[space as usize], (start, end));
        let read = move |entry: fjall::Guard| {
            let (key, record) = entry.into_inner().map_err(|e| failed(space.name(), e))?;
            decode(space, &key, &record, |contents| read(&key, contents))
        };
        if backwards { Box::new(records.rev().map(read)) } else { Box::new(records.map(read)) }
    }
}

/// The engine takes no range that ends before it starts.
fn is_empty(start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> bool {
    match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end)) => {
            start >= end
        }
        _ => false,
    }
}

fn decode<T>(
    space: Space,
    key: &[u8],
    record: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, RecordError>,
) -> Result<T, StorageError> {
    record::unseal(space, key, record).and_then(read).map_err(|e| corrupt(space, key, e))
}

/// Names the record that is wrong.
pub(super) fn corrupt(space: Space, key: &[u8], reason: impl ToString) -> StorageError {
    let place = format!("{} record {}", space.name(), key.escape_ascii());
    StorageError::Corrupt { place, reason: reason.to_string() }
}

/// What the engine found out itself: damage, or a disk that fails.
fn failed(place: &str, error: fjall::Error) -> StorageError {
    let reason = error.to_string();
    match error {
        fjall::Error::Io(_) | fjall::Error::Poisoned | fjall::Error::Storage(fjall::LsmError::Io(_)) => {
            StorageError::Backend(reason)
        }
        _ => StorageError::Corrupt { place: place.to_owned(), reason },
    }
}
