//! The state vector of each document: which writes of which clients its latest state contains.

use std::collections::HashMap;

use async_trait::async_trait;
use nodestorage::DocumentId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    event::{ClientVector, Event},
    shelf::{self, Durability, Shelf, ShelfError},
};

/// A document's state vector, and the version that it is exact for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentClock {
    /// The version.
    pub version: u64,
    /// What the document contains at that version.
    pub vector: ClientVector,
    /// When the event that made that version was made, in milliseconds since 1970 UTC. Records from before this was
    /// written down don't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
}

impl DocumentClock {
    /// Takes the next event in. Returns whether it was the next one; any other is left alone.
    pub fn advance(&mut self, event: &Event) -> bool {
        let next = event.sequence_num() == self.version + 1;
        if next {
            self.version += 1;
            self.timestamp = Some(event.timestamp());
            event.advance(&mut self.vector);
        }
        next
    }

    /// Whether an event is proof that this clock is of another history, as after a store was put back to a backup: it counts the
    /// event's number as taken in, and knows neither the event's writer at that count nor its time. The times of a
    /// history never go back.
    fn is_refuted_by(&self, event: &Event) -> bool {
        event.sequence_num() <= self.version
            && (event.client_seq().is_some() && !event.is_contained_in(&self.vector)
                || self.timestamp.is_some_and(|timestamp| event.timestamp() > timestamp))
    }
}

/// Remembers the state vectors of documents.
///
/// It is a view of the log that may lag behind it and never runs ahead: whoever needs the vector at an exact version
/// reads the events since [`DocumentClock::version`]. So a manager may forget, and an update that is lost in a crash
/// or to another process costs a few reads and nothing else. That a clock is of the history there is now, and not of one that
/// was lost when the store was put back to a backup, is for its readers to find out: the event of its version, made at its time,
/// proves it.
#[async_trait]
pub trait VectorClockManager: Send + Sync {
    /// The clock of a document as far as it is known; version 0 and an empty vector for nothing.
    async fn get_vector_clock(&self, document: &DocumentId) -> Result<DocumentClock, ShelfError>;

    /// Takes note of an event: counted if it is the next one after what is known, ignored otherwise.
    async fn update_vector_clock(&self, event: &Event) -> Result<(), ShelfError>;

    /// Takes over a clock that was made from the log, if it knows more.
    async fn learn(&self, document: &DocumentId, clock: &DocumentClock) -> Result<(), ShelfError>;

    /// Forgets a clock that turned out to be of another history, wherever it is remembered; another one stays.
    async fn forget(&self, document: &DocumentId, clock: &DocumentClock) -> Result<(), ShelfError>;

    /// Forgets what is in memory, because the store may have been put back: what this process takes in next may not follow
    /// on what it knows.
    fn forget_memory(&self);
}

/// Remembers in memory, for a bounded number of documents.
#[derive(Debug, Default)]
pub struct DefaultVectorClockManager {
    // Held for the moment of a look-up; never across an await.
    clocks: Mutex<HashMap<DocumentId, DocumentClock>>,
}

impl DefaultVectorClockManager {
    /// How many documents are remembered. At the bound another one is forgotten, and read from the log when needed.
    pub const DOCUMENTS_MAX: usize = 16_384;

    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the version if the event was the next one.
    fn note(&self, event: &Event) -> Option<u64> {
        let mut clocks = self.clocks.lock();
        if clocks.get(event.document_id()).is_some_and(|clock| clock.is_refuted_by(event)) {
            clocks.remove(event.document_id());
        }
        if let Some(clock) = clocks.get_mut(event.document_id()) {
            return clock.advance(event).then_some(clock.version);
        }
        if event.sequence_num() != 1 {
            return None;
        }
        let mut clock = DocumentClock::default();
        clock.advance(event);
        insert_bounded(&mut clocks, event.document_id().clone(), clock);
        Some(1)
    }

    fn take_over(&self, document: &DocumentId, clock: &DocumentClock) -> bool {
        let mut clocks = self.clocks.lock();
        match clocks.get_mut(document) {
            Some(known) if known.version >= clock.version => false,
            Some(known) => {
                *known = clock.clone();
                true
            }
            None => {
                insert_bounded(&mut clocks, document.clone(), clock.clone());
                true
            }
        }
    }
}

fn insert_bounded(
    clocks: &mut HashMap<DocumentId, DocumentClock>,
    document: DocumentId,
    clock: DocumentClock,
) {
    if clocks.len() >= DefaultVectorClockManager::DOCUMENTS_MAX {
        let forgotten = clocks.keys().next().cloned();
        forgotten.map(|other| clocks.remove(&other));
    }
    clocks.insert(document, clock);
}

#[async_trait]
impl VectorClockManager for DefaultVectorClockManager {
    async fn get_vector_clock(&self, document: &DocumentId) -> Result<DocumentClock, ShelfError> {
        Ok(self.clocks.lock().get(document).cloned().unwrap_or_default())
    }

    async fn update_vector_clock(&self, event: &Event) -> Result<(), ShelfError> {
        self.note(event);
        Ok(())
    }

    async fn learn(&self, document: &DocumentId, clock: &DocumentClock) -> Result<(), ShelfError> {
        self.take_over(document, clock);
        Ok(())
    }

    async fn forget(&self, document: &DocumentId, clock: &DocumentClock) -> Result<(), ShelfError> {
        let mut clocks = self.clocks.lock();
        if clocks.get(document) == Some(clock) {
            clocks.remove(document);
        }
        Ok(())
    }

    fn forget_memory(&self) {
        self.clocks.lock().clear();
    }
}

/// Remembers in memory and on a shelf, so that a restart does not read long histories again.
pub struct PersistentVectorClockManager<S> {
    memory: DefaultVectorClockManager,
    shelf: S,
}

/// The persistent one on the embedded shelf.
#[cfg(feature = "embedded")]
pub type EmbeddedVectorClockManager = PersistentVectorClockManager<std::sync::Arc<shelf::EmbeddedShelf>>;

/// The persistent one in a MongoDB database.
#[cfg(feature = "mongodb")]
pub type MongoVectorClockManager = PersistentVectorClockManager<std::sync::Arc<shelf::MongoShelf>>;

impl<S: std::ops::Deref<Target: Shelf> + Send + Sync> PersistentVectorClockManager<S> {
    /// Every how many events of a document its clock is written down. A restart reads at most so many again.
    pub const WRITTEN_EVERY: u64 = 64;

    /// Remembers on a shelf.
    pub fn new(shelf: S) -> Self {
        Self { memory: DefaultVectorClockManager::new(), shelf }
    }

    async fn write(&self, document: &DocumentId, clock: &DocumentClock) -> Result<(), ShelfError> {
        // The client ids are inside the value: whatever characters they hold, they break no key. Another process may know
        // more already, and what is written never goes back.
        let grow = |known: Option<&[u8]>| {
            let known = known.and_then(|bytes| shelf::decode::<DocumentClock>("vector clock", bytes));
            let is_more = known.is_none_or(|known| known.version < clock.version);
            Ok((is_more.then(|| shelf::encode(clock)).transpose()?, ()))
        };
        shelf::update(&*self.shelf, key(document), Durability::Lazy, grow).await
    }
}

fn key(document: &DocumentId) -> Vec<u8> {
    shelf::key(&["clock", document.as_str()])
}

#[async_trait]
impl<S: std::ops::Deref<Target: Shelf> + Send + Sync> VectorClockManager for PersistentVectorClockManager<S> {
    async fn get_vector_clock(&self, document: &DocumentId) -> Result<DocumentClock, ShelfError> {
        let known = self.memory.get_vector_clock(document).await?;
        if known.version > 0 {
            return Ok(known);
        }
        let Some(bytes) = self.shelf.get(&key(document)).await? else { return Ok(known) };
        let clock = shelf::decode("vector clock", &bytes).unwrap_or_default();
        self.memory.take_over(document, &clock);
        self.memory.get_vector_clock(document).await
    }

    async fn update_vector_clock(&self, event: &Event) -> Result<(), ShelfError> {
        match self.memory.note(event) {
            Some(version) if version.is_multiple_of(Self::WRITTEN_EVERY) => {
                let clock = self.memory.get_vector_clock(event.document_id()).await?;
                self.write(event.document_id(), &clock).await
            }
            _ => Ok(()),
        }
    }

    async fn learn(&self, document: &DocumentId, clock: &DocumentClock) -> Result<(), ShelfError> {
        let before = self.memory.get_vector_clock(document).await?;
        let written = clock.version / Self::WRITTEN_EVERY > before.version / Self::WRITTEN_EVERY;
        if self.memory.take_over(document, clock) && written {
            self.write(document, clock).await?;
        }
        Ok(())
    }

    async fn forget(&self, document: &DocumentId, clock: &DocumentClock) -> Result<(), ShelfError> {
        self.memory.forget(document, clock).await?;
        let written = self.shelf.get(&key(document)).await?;
        let is_it =
            |bytes: &Vec<u8>| shelf::decode::<DocumentClock>("vector clock", bytes).as_ref() == Some(clock);
        if written.as_ref().is_some_and(is_it) {
            self.shelf.swap(key(document), written, None, Durability::Lazy).await?;
        }
        Ok(())
    }

    fn forget_memory(&self) {
        self.memory.forget_memory();
    }
}
