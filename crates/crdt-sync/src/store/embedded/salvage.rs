//! What can be saved of a damaged folder: of each document the patches all of whose causes are there.
//!
//! The rest is not thrown away. It moves to a table of its own, under its key, for whoever wants to look; and what a
//! document lacks afterwards comes back from its peers, since its state vector says that it is missing.

use std::{collections::BTreeSet, iter::Peekable, path::Path};

use crdt_core::{SessionId, StateVector};
use fjall::{Iter, PersistMode, UserKey, UserValue};

use super::{OpenError, Tables, backend, blocking, corrupt, layout, watermark::Watermark};
use crate::{PatchRecord, store::PatchStoreError};

/// How many bytes are moved in one batch at the most; a larger patch goes alone.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// What became of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// How many batches are gone that had been durable: the end of the engine's journal.
    pub batches_lost: u64,
    /// The documents that had to be mended, by name.
    pub documents: Vec<SalvagedDocument>,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SalvagedDocument {
    /// Which.
    pub name: String,
    /// How many patches it has now beside its snapshot.
    pub kept: u64,
    /// How many patches were set aside: they are damaged, or something that comes before them is missing.
    pub set_aside: u64,
    /// Whether its snapshot was damaged and set aside.
    pub snapshot_set_aside: bool,
}

pub(super) async fn salvage(path: &Path) -> Result<Salvaged, OpenError> {
    let path = path.to_owned();
    blocking(move || salvage_blocking(&path)).await?
}

fn salvage_blocking(path: &Path) -> Result<Salvaged, OpenError> {
    let tables = Tables::open(path)?;
    let (mut watermark, seen) = Watermark::open(path).map_err(backend)?;
    let found = tables.batch_number()?;
    let mut documents = Vec::new();
    for entry in tables.names.iter() {
        let (key, value) = entry.into_inner().map_err(backend)?;
        let name = layout::name(&key).map_err(|damage| corrupt(&key, damage))?;
        let Some(name) = name.map(str::to_owned) else { continue };
        let number = layout::read_name(&key, &value).map_err(|damage| corrupt(&key, damage))?;
        let mended = Mending { tables: &tables, number }.mend(name)?;
        if mended.set_aside > 0 || mended.snapshot_set_aside {
            documents.push(mended);
        }
    }
    // From here on the folder is taken to be whole: it has more batches than any that was witnessed.
    let (durable, number) = (seen.unwrap_or(0), seen.unwrap_or(0).max(found) + 1);
    let mut batch = tables.database.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&tables.batches, layout::BATCH_KEY, layout::write_batch(number));
    batch.commit().map_err(backend)?;
    watermark.note(number).map_err(backend)?;
    Ok(Salvaged { batches_lost: durable.saturating_sub(found), documents })
}

struct Mending<'a> {
    tables: &'a Tables,
    number: layout::DocumentNumber,
}

impl Mending<'_> {
    fn mend(&self, name: String) -> Result<SalvagedDocument, PatchStoreError> {
        let mut mended = SalvagedDocument { name, kept: 0, set_aside: 0, snapshot_set_aside: false };
        let key = self.number.to_be_bytes();
        let contained = match self.tables.snapshot(self.number) {
            Ok(snapshot) => snapshot.map(|(vector, _)| vector).unwrap_or_default(),
            Err(PatchStoreError::Corrupt { .. }) => {
                let mut batch = self.tables.database.batch().durability(Some(PersistMode::SyncAll));
                if let Some(value) = self.tables.snapshots.get(key).map_err(backend)? {
                    batch.insert(&self.tables.set_aside, key, value);
                }
                batch.remove(&self.tables.snapshots, key);
                batch.commit().map_err(backend)?;
                mended.snapshot_set_aside = true;
                StateVector::new()
            }
            Err(error) => return Err(error),
        };
        let (mut vector, mut behind_snapshot) = (contained, BTreeSet::new());
        let mut aside = Aside { tables: self.tables, moved: Vec::new(), bytes: 0 };
        let mut sessions = self.sessions()?;
        while let Some(stored) = next(&mut sessions, &vector)? {
            let keep = stored.record.as_ref().is_some_and(|record| {
                let last = vector.get(&record.session());
                // As when a document is opened: the first one behind a snapshot may overlap with what that contains.
                let follows = if behind_snapshot.contains(&record.session()) {
                    record.prev == last
                } else {
                    record.prev <= last && record.last() > last
                };
                follows && has_causes(record, &vector)
            });
            match stored.record {
                Some(record) if keep => {
                    behind_snapshot.insert(record.session());
                    vector.advance(record.session(), record.last());
                    mended.kept += 1;
                }
                _ => {
                    mended.set_aside += 1;
                    aside.push(stored.key, stored.value)?;
                }
            }
        }
        aside.flush()?;
        Ok(mended)
    }

    /// The patches of each session, read one at a time. What stands under a key that is none is one of its own.
    fn sessions(&self) -> Result<Vec<Peekable<Patches>>, PatchStoreError> {
        let view = &self.tables.patches;
        let (mut sessions, mut from) = (Vec::new(), self.number.to_be_bytes().to_vec());
        while let Some(entry) = view.range(from.clone()..).next() {
            let key = entry.key().map_err(backend)?;
            if !key.starts_with(&self.number.to_be_bytes()) {
                break;
            }
            let session = key.get(..12).unwrap_or(&key).to_vec();
            sessions.push(Patches { range: view.prefix(&session) }.peekable());
            // The first key behind all that begin with it.
            from = session;
            while from.last() == Some(&0xff) {
                from.pop();
            }
            let Some(last) = from.last_mut() else { break };
            *last += 1;
        }
        Ok(sessions)
    }
}

/// What stands in the table of patches.
struct Stored {
    key: UserKey,
    value: UserValue,
    /// `None` if it is damaged.
    record: Option<PatchRecord>,
}

impl Stored {
    fn order(&self) -> Option<(u64, SessionId)> {
        self.record.as_ref().map(|record| (record.last(), record.session()))
    }
}

struct Patches {
    range: Iter,
}

impl Iterator for Patches {
    type Item = Result<Stored, PatchStoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.range.next()?.into_inner().map_err(backend);
        Some(entry.map(|(key, value)| Stored { record: layout::read_record(&key, &value).ok(), key, value }))
    }
}

fn has_causes(record: &PatchRecord, vector: &StateVector<SessionId>) -> bool {
    record.causes().all(|(sid, time)| vector.get(&sid) >= time)
}

/// The patch that comes first of those that lack no cause; damaged ones and errors come before all. One that lacks a cause
/// waits: what it names may be the beginning of a longer patch that ends behind it. When all that are left wait, no cause
/// comes any more.
fn next(
    sessions: &mut Vec<Peekable<Patches>>,
    have: &StateVector<SessionId>,
) -> Result<Option<Stored>, PatchStoreError> {
    sessions.retain_mut(|session| session.peek().is_some());
    let order = |session: &mut Peekable<Patches>| match session.peek() {
        Some(Ok(stored)) => {
            (stored.record.as_ref().is_some_and(|record| !has_causes(record, have)), stored.order())
        }
        _ => (false, None),
    };
    let first = sessions.iter_mut().map(|session| (order(session), session)).min_by_key(|(order, _)| *order);
    first.and_then(|(_, session)| session.next()).transpose()
}

/// Moves patches out of the way.
struct Aside<'a> {
    tables: &'a Tables,
    moved: Vec<(UserKey, UserValue)>,
    bytes: usize,
}

impl Aside<'_> {
    fn push(&mut self, key: UserKey, value: UserValue) -> Result<(), PatchStoreError> {
        self.bytes += key.len() + value.len();
        self.moved.push((key, value));
        if self.bytes >= BATCH_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), PatchStoreError> {
        let mut batch = self.tables.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in self.moved.drain(..) {
            batch.insert(&self.tables.set_aside, key.clone(), value);
            batch.remove(&self.tables.patches, key);
        }
        self.bytes = 0;
        batch.commit().map_err(backend)
    }
}
