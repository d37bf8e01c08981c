//! A collection in memory as a [`Storage`]: its verbs and what it reads.

use std::{ops::Bound, sync::Arc};

use async_trait::async_trait;
use crdt_core::{ClientId, StateVector};

use super::{MemoryStorage, State};
use crate::{
    Body, Change, ChangePage, Deleted, Document, DocumentId, EditFn, EditOptions, Edited, Explained, Index,
    IndexStatus, Storage, StorageError, TransactionFn, Upserted, Watch, WatchFilter, WatchFrom,
    edit::SectionFn,
    query::{FieldPath, Page, Query},
    rules,
    transaction::staging,
    verbs::{self, Outcome, SectionVersion},
    watch::PAGE_BYTES_MAX,
};

#[async_trait]
impl Storage for MemoryStorage {
    fn backend(&self) -> &'static str {
        "the storage in memory"
    }

    fn version_field(&self) -> &str {
        &self.options.version_field
    }

    async fn find_one(&self, id: &DocumentId) -> Result<Option<Document>, StorageError> {
        let state = self.open()?;
        Ok(state.collections[self.number].documents.get(id).and_then(|entry| entry.document(id)))
    }

    async fn list(&self, after: Option<&DocumentId>, limit: usize) -> Result<Vec<Document>, StorageError> {
        let state = self.open()?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let documents = state.collections[self.number].documents.range((start, Bound::Unbounded));
        Ok(documents.filter_map(|(id, entry)| entry.document(id)).take(limit).collect())
    }

    async fn list_deleted(
        &self,
        after: Option<&DocumentId>,
        limit: usize,
    ) -> Result<Vec<DocumentId>, StorageError> {
        let state = self.open()?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let documents = state.collections[self.number].documents.range((start, Bound::Unbounded));
        let deleted = documents.filter(|(_, entry)| entry.body.is_none() && !entry.changes.is_empty());
        Ok(deleted.map(|(id, _)| id.clone()).take(limit).collect())
    }

    async fn find_many(&self, query: Query) -> Result<Page, StorageError> {
        match self.read_index(&query)? {
            Some((page, _)) => Ok(page),
            None => query.scan(self).await,
        }
    }

    async fn explain(&self, query: Query) -> Result<Explained, StorageError> {
        match self.read_index(&query)? {
            Some((_, explained)) => Ok(explained),
            None => query.explain_scan(self).await,
        }
    }

    async fn create_index(&self, index: &Index) -> Result<(), StorageError> {
        self.make_index(index)
    }

    async fn drop_index(&self, index: &Index) -> Result<bool, StorageError> {
        let mut state = self.open()?;
        let indexes = &mut state.collections[self.number].indexes;
        let before = indexes.len();
        indexes.retain(|kept| kept.index != *index);
        Ok(indexes.len() < before)
    }

    async fn indexes(&self) -> Result<Vec<IndexStatus>, StorageError> {
        let state = self.open()?;
        let indexes = state.collections[self.number].indexes.iter();
        Ok(indexes.map(|kept| IndexStatus { index: kept.index.clone(), ready: true }).collect())
    }

    async fn find_one_and_upsert(
        &self,
        id: &DocumentId,
        body: Body,
        options: EditOptions,
    ) -> Result<Upserted, StorageError> {
        self.run(id, options, |found| Ok(verbs::upsert(found, body))).map(Outcome::upserted)
    }

    async fn find_one_and_update(
        &self,
        id: &DocumentId,
        edit: EditFn<'_>,
        options: EditOptions,
    ) -> Result<Edited, StorageError> {
        self.run(id, options, |found| verbs::update(id, found, edit)).map(Outcome::edited)
    }

    async fn update_section(
        &self,
        id: &DocumentId,
        section: &FieldPath,
        edit: SectionFn<'_>,
        mut options: EditOptions,
    ) -> Result<Edited, StorageError> {
        let versions = SectionVersion::of(&self.options, &mut options);
        self.run(id, options, |found| verbs::update_section(id, found, section, edit, &versions))
            .map(Outcome::edited)
    }

    async fn with_transaction(
        &self,
        transaction: TransactionFn<'_>,
    ) -> Result<Vec<Arc<Change>>, StorageError> {
        staging::run(Arc::new(self.clone()), transaction).await
    }

    async fn delete_one(&self, id: &DocumentId, options: EditOptions) -> Result<Deleted, StorageError> {
        self.run(id, options, |found| Ok(verbs::delete(found))).map(Outcome::deleted)
    }

    async fn changes(&self, id: &DocumentId, after: u64, limit: usize) -> Result<ChangePage, StorageError> {
        let state = self.open()?;
        let Some(entry) = state.collections[self.number].documents.get(id) else {
            return Ok(ChangePage { changes: Vec::new(), more: false });
        };
        let start = entry.changes.partition_point(|change| change.version <= after);
        let (mut changes, mut len_bytes) = (Vec::new(), 0);
        for change in entry.changes.range(start..).take(limit) {
            if len_bytes >= PAGE_BYTES_MAX {
                break;
            }
            len_bytes += rules::json_bytes(&change.diff) + rules::json_bytes(&change.metadata);
            changes.push((**change).clone());
        }
        Ok(ChangePage { more: start + changes.len() < entry.changes.len(), changes })
    }

    async fn last_version(&self, id: &DocumentId) -> Result<u64, StorageError> {
        Ok(self.open()?.collections[self.number].documents.get(id).map_or(0, |entry| entry.version))
    }

    async fn remove_changes(&self, id: &DocumentId, up_to: u64) -> Result<u64, StorageError> {
        let mut state = self.open()?;
        let State { collections, log, floor, .. } = &mut *state;
        let Some(entry) = collections[self.number].documents.get_mut(id) else { return Ok(0) };
        let count = entry.changes.partition_point(|change| change.version <= up_to);
        for change in entry.changes.drain(..count) {
            log[(change.position - *floor - 1) as usize].change = None;
        }
        for answers in entry.answers.values_mut() {
            let last = answers.last_key_value().map_or(0, |(&last, _)| last);
            answers.retain(|&sequence, &mut version| version > up_to || sequence == last);
        }
        while log.front().is_some_and(|entry| entry.change.is_none()) {
            log.pop_front();
            *floor += 1;
        }
        Ok(count as u64)
    }

    async fn producers(&self, id: &DocumentId) -> Result<StateVector<ClientId>, StorageError> {
        let state = self.open()?;
        let entry = state.collections[self.number].documents.get(id);
        let answers = entry.into_iter().flat_map(|entry| &entry.answers);
        let lasts = answers.filter_map(|(client, answers)| {
            answers.last_key_value().map(|(&last, _)| (client.clone(), last))
        });
        Ok(lasts.collect())
    }

    async fn position(&self) -> Result<u64, StorageError> {
        Ok(self.open()?.position())
    }

    async fn watch(&self, filter: WatchFilter, from: WatchFrom) -> Result<Watch, StorageError> {
        crate::watch::check(&self.options)?;
        let state = self.open()?;
        let after = match from {
            WatchFrom::Now => state.position(),
            WatchFrom::After(position) => position,
        };
        let (tide, closed) = (self.shared.tide.subscribe(), self.closed.subscribe());
        let full = self.options.watch_full_document.then(|| Arc::new(self.clone()) as Arc<dyn Storage>);
        let what = (self.number as u32, filter, after);
        Ok(crate::watch::stream(self.shared.clone(), what, full, tide, closed))
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.closed.send_replace(true);
        Ok(())
    }
}
