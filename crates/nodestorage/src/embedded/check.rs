//! The check of a store when it is opened: is everything there that was acknowledged?
//!
//! Reads every record once, in order, and compares the spaces with each other. Nothing is repaired: a store that is not
//! whole is refused, as only its owner can decide what to do about it.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound,
};

use super::{
    engine::{Engine, View, corrupt},
    record::{
        self, ChangeRecord, CollectionRecord, DocumentKey, Head, IndexEntry, IndexRecord, LogRecord, Space,
        State, trailing_number,
    },
};
use crate::StorageError;

/// What a store knows about itself.
pub(super) struct Found {
    pub(super) state: State,
    pub(super) collections: HashMap<String, CollectionRecord>,
    /// By collection and number, each with whether a document has several values in one of its fields.
    pub(super) indexes: Vec<(u32, u32, IndexRecord, bool)>,
}

/// Reads the store's state, and checks the store against the watermark and against itself.
pub(super) fn check(engine: &Engine, watermark: Option<u64>) -> Result<Found, StorageError> {
    let view = engine.view();
    let state = view.get(Space::Meta, State::KEY, State::decode)?.unwrap_or_default();
    match watermark {
        Some(batch) if batch > state.batch => {
            return Err(StorageError::Corrupt {
                place: format!("batch {}", state.batch + 1),
                reason: format!("the journal ends at batch {}, but {batch} were acknowledged", state.batch),
            });
        }
        None if state.batch > 0 => {
            return Err(StorageError::Corrupt {
                place: "watermark".into(),
                reason: format!("it is missing or damaged, in a store of {} batches", state.batch),
            });
        }
        _ => {}
    }
    let logged = log(&view, &state)?;
    let recorded = changes_and_documents(&view)?;
    if logged != recorded {
        return Err(StorageError::Corrupt {
            place: "changes".into(),
            reason: format!(
                "{} changes are recorded, the log names {} that differ from them",
                recorded.count, logged.count
            ),
        });
    }
    for answer in view.scan(Space::Answers, &[], Bound::Unbounded, |_, contents| record::answer(contents)) {
        answer?;
    }
    let entry = |key: &[u8], contents: &[u8]| IndexEntry::decode(key, contents).map(drop);
    for entry in view.scan(Space::Indexes, &[], Bound::Unbounded, entry) {
        entry?;
    }
    Ok(Found { state, collections: collections(&view)?, indexes: indexes(&view)? })
}

/// A set of (position, document, version), as its size and a sum over its members.
#[derive(Debug, Default, PartialEq, Eq)]
struct Census {
    count: u64,
    sum: u64,
}

impl Census {
    fn add(&mut self, position: u64, collection: u32, id: &str, version: u64) {
        let mut hasher = DefaultHasher::new();
        (position, collection, id, version).hash(&mut hasher);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }
}

/// The log holds every position from the floor to the last, and nothing else.
fn log(view: &View<'_>, state: &State) -> Result<Census, StorageError> {
    let mut census = Census::default();
    let mut last = state.floor;
    let entries = view.scan(Space::Log, &[], Bound::Unbounded, |key, contents| {
        Ok((trailing_number(key)?, LogRecord::decode(contents)?))
    });
    for entry in entries {
        let (position, entry) = entry?;
        if position != last + 1 {
            return Err(StorageError::Corrupt {
                place: format!("position {}", last + 1),
                reason: format!("the log goes on at {position}"),
            });
        }
        last = position;
        if !entry.removed {
            census.add(position, entry.collection, entry.id.as_str(), entry.version);
        }
    }
    if last != state.position {
        return Err(StorageError::Corrupt {
            place: format!("position {}", last + 1),
            reason: format!("the log ends at {last}, the store at {}", state.position),
        });
    }
    Ok(census)
}

/// The versions of each document's changes have no gap and end at the document's own.
fn changes_and_documents(view: &View<'_>) -> Result<Census, StorageError> {
    let mut census = Census::default();
    let mut changes = view
        .scan(Space::Changes, &[], Bound::Unbounded, |key, contents| {
            let (collection, id, _) = DocumentKey::split(key)?;
            Ok((collection, id, trailing_number(key)?, ChangeRecord::position(contents)?))
        })
        .peekable();
    let documents = view.scan(Space::Documents, &[], Bound::Unbounded, |key, contents| {
        let (collection, id, _) = DocumentKey::split(key)?;
        Ok((collection, id, Head::version(contents)?))
    });
    for document in documents {
        let (collection, id, version) = document?;
        let mut last = None;
        while let Some(Ok((c, i, changed, position))) = changes.peek() {
            if (*c, i) != (collection, &id) {
                break;
            }
            if last.is_some_and(|last| *changed != last + 1) {
                let key = DocumentKey::new(collection, &id);
                let reason = format!("version {changed} follows version {}", last.unwrap_or(0));
                return Err(corrupt(Space::Changes, key.as_bytes(), reason));
            }
            census.add(*position, collection, id.as_str(), *changed);
            last = Some(*changed);
            changes.next();
        }
        if last.is_some_and(|last| last != version) {
            let key = DocumentKey::new(collection, &id);
            let reason =
                format!("the changes end at version {}, the document at {version}", last.unwrap_or(0));
            return Err(corrupt(Space::Documents, key.as_bytes(), reason));
        }
    }
    match changes.next() {
        None => Ok(census),
        Some(Err(error)) => Err(error),
        Some(Ok((collection, id, version, _))) => {
            let key = DocumentKey::new(collection, &id).change(version);
            Err(corrupt(Space::Changes, &key, "there is no document to this change"))
        }
    }
}

fn collections(view: &View<'_>) -> Result<HashMap<String, CollectionRecord>, StorageError> {
    let prefix = CollectionRecord::PREFIX;
    view.scan(Space::Meta, prefix, Bound::Unbounded, |key, contents| {
        let name = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        Ok((name, CollectionRecord::decode(contents)?))
    })
    .collect()
}

fn indexes(view: &View<'_>) -> Result<Vec<(u32, u32, IndexRecord, bool)>, StorageError> {
    let (prefix, several) = (IndexRecord::PREFIX, IndexRecord::SEVERAL);
    let records = view.scan(Space::Meta, prefix, Bound::Unbounded, |key, contents| {
        let (collection, number) = IndexRecord::split(prefix, key)?;
        Ok((collection, number, IndexRecord::decode(contents)?))
    });
    let records = records.map(|record| {
        let (collection, number, record) = record?;
        let several = view.get(Space::Meta, &IndexRecord::key(several, collection, number), |_| Ok(()))?;
        Ok((collection, number, record, several.is_some()))
    });
    records.collect()
}
