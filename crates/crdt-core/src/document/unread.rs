//! A document as it lies in its snapshot.
//!
//! Who takes over the state of others mostly wants to show it first, and edits it later or never. So a snapshot is looked
//! through, which tells that it can be read and who has been seen in it, and lies there until somebody asks for more than
//! that and its view.

use std::sync::OnceLock;

use super::{Document, sessions::Sessions, store::Store};
use crate::{SessionId, Value, codec::native::Snapshot};

/// A snapshot that was looked through, and what it has been read into, if it was.
#[derive(Debug)]
pub(super) struct Unread {
    snapshot: Snapshot,
    /// Who reads it.
    session: SessionId,
    sessions: Sessions,
    store: OnceLock<Store>,
}

impl Unread {
    /// A snapshot that can be read, for the document that it is told of: one that knows its sessions and its times.
    pub(super) fn new(snapshot: Snapshot, session: SessionId, sessions: Sessions) -> Self {
        Self { snapshot, session, sessions, store: OnceLock::new() }
    }

    /// What it was read into; it is read if it was not.
    pub(super) fn store(&self) -> &Store {
        self.store.get_or_init(|| self.read())
    }

    pub(super) fn into_store(self) -> Store {
        let Self { snapshot, session, store, .. } = self;
        store.into_inner().unwrap_or_else(|| read(&snapshot, session))
    }

    fn read(&self) -> Store {
        read(&self.snapshot, self.session)
    }

    /// The sessions, which reading does not change.
    pub(super) const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The view of the document, as long as the snapshot was not read.
    pub(super) fn view(&self) -> Option<Value> {
        if self.store.get().is_some() { None } else { self.snapshot.view() }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        let store = self.store.get().map_or(0, Store::size_bytes);
        size_of::<Self>() + self.snapshot.size_bytes() + self.sessions.size_bytes() + store
    }
}

fn read(snapshot: &Snapshot, session: SessionId) -> Store {
    match snapshot.read(session) {
        Ok(document) => document.into_store(),
        Err(error) => unreachable!("a snapshot that was looked through: {error}"),
    }
}

impl Document {
    fn into_store(self) -> Store {
        self.store.into_own()
    }
}
