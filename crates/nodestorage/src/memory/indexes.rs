//! Indexes in memory, kept with each write.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{Collection, Entry, KeptIndex, MemoryStorage};
use crate::{
    Body, Document, DocumentId, Explained, Index, Storage, StorageError,
    index::{
        Entries,
        read::{self, Range, Source},
    },
    query::{Page, Query},
};

impl MemoryStorage {
    pub(super) fn make_index(&self, index: &Index) -> Result<(), StorageError> {
        if index.fields().iter().any(|(path, _)| path.names() == [self.options.version_field.as_str()]) {
            let what = format!("an index of {}, the documents' version", self.options.version_field);
            return Err(self.unsupported(what));
        }
        let mut state = self.open()?;
        let Collection { documents, indexes, .. } = &mut state.collections[self.number];
        if indexes.iter().any(|kept| kept.index == *index) {
            return Ok(());
        }
        let mut kept = KeptIndex { index: index.clone(), several: false, entries: BTreeSet::new() };
        for (id, entry) in documents.iter() {
            let found = Entries::of(index, id, entry.body.as_deref())?;
            kept.several |= found.several;
            kept.entries.extend(found.keys.into_iter().map(|key| (key, id.clone())));
        }
        indexes.push(kept);
        Ok(())
    }

    /// Answers a query from an index; `None` if none helps.
    pub(super) fn read_index(&self, query: &Query) -> Result<Option<(Page, Explained)>, StorageError> {
        query.check()?;
        let state = self.open()?;
        let collection = &state.collections[self.number];
        let ready = collection.indexes.iter().map(|kept| read::Ready {
            index: &kept.index,
            several: kept.several,
            source: IndexView { documents: &collection.documents, entries: &kept.entries },
        });
        read::answer(query, ready.collect(), &self.options.version_field)
    }
}

impl Collection {
    /// Whether the indexes can hold a document.
    pub(super) fn check_indexes(&self, id: &DocumentId, body: Option<&Body>) -> Result<(), StorageError> {
        self.indexes.iter().try_for_each(|kept| Entries::of(&kept.index, id, body).map(drop))
    }

    pub(super) fn index(&mut self, id: &DocumentId, before: Option<&Body>, after: Option<&Body>) {
        for kept in &mut self.indexes {
            let entries = |body| Entries::of(&kept.index, id, body).expect("it was checked");
            let (before, after) = (entries(before), entries(after));
            kept.several |= after.several;
            for key in before.keys {
                kept.entries.remove(&(key, id.clone()));
            }
            kept.entries.extend(after.keys.into_iter().map(|key| (key, id.clone())));
        }
    }
}

/// An index and its documents.
struct IndexView<'s> {
    documents: &'s BTreeMap<DocumentId, Entry>,
    entries: &'s BTreeSet<read::Entry>,
}

impl Source for IndexView<'_> {
    fn entries<'s>(
        &'s self,
        range: &Range,
        backwards: bool,
        skip: Option<&read::Entry>,
    ) -> Box<dyn Iterator<Item = Result<read::Entry, StorageError>> + 's> {
        let first = skip.map_or(&range.start, |(key, _)| key);
        if range.end.as_ref().is_some_and(|end| first >= end) {
            return Box::new(std::iter::empty());
        }
        // No id is before this one.
        let least = |key: &Vec<u8>| (key.clone(), DocumentId::least());
        let start = skip.map_or_else(|| Bound::Included(least(first)), |skip| Bound::Excluded(skip.clone()));
        let end = range.end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(least(end)));
        let entries = self.entries.range((start, end)).cloned().map(Ok);
        if backwards { Box::new(entries.rev()) } else { Box::new(entries) }
    }

    fn document(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        Ok(self.documents.get(id).and_then(|entry| entry.document(id)))
    }
}
