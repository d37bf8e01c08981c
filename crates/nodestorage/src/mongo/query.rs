//! Queries and indexes, by the server itself.

mod order;

use futures_util::TryStreamExt;
use mongodb::{
    IndexModel,
    bson::{Bson, Document as Bsons, doc},
};

use self::order::{behind, is_placed_otherwise, order, sorted_otherwise};
use super::{
    failure::{Failure, is_other_index},
    record::{is_ours, shown, whole},
    storage::MongoStorage,
    value::unescape,
};
use crate::{
    Explained, Index, IndexStatus, Plan, Storage, StorageError,
    query::{Cursor, Direction, FieldPath, Found, Page, Query, SortBy, filter::native::name},
};

/// What every index of a collection begins its name with, to tell them from those of other programs.
const INDEX_PREFIX: &str = "weft ";

/// How many times as many documents are asked for when they were not enough for a page.
const ROWS_GROWTH: usize = 4;

impl MongoStorage {
    pub(super) async fn find_natively(&self, query: Query) -> Result<Page, StorageError> {
        query.check()?;
        match self.reading(|| self.page(&query)).await? {
            Some(page) => Ok(page),
            None => query.scan(self).await,
        }
    }

    /// Whether the server's order is not the one that all storages have: an empty array stands before `null` there,
    /// what is behind an array on the way is seen otherwise, nothing is sorted both ways, and what other programs wrote that
    /// JSON has no way to say has a place of its own there, and here that of the text or the `null` that it is read as.
    async fn sorts_otherwise(&self, query: &Query) -> Result<bool, Failure> {
        let by = |nth: usize| &query.sort[nth].0;
        if (1..query.sort.len()).any(|nth| (0..nth).any(|before| by(before) == by(nth))) {
            return Ok(true);
        }
        let places = sorted_otherwise(query, self.version_field());
        if places.is_empty() {
            return Ok(false);
        }
        let found = doc! {"$and": [query.filter.to_bson(self.version_field()), {"$or": places}]};
        Ok(self.documents.find_one(found).projection(doc! {"_id": 1}).await?.is_some())
    }

    /// `None` when the server sorts otherwise.
    async fn page(&self, query: &Query) -> Result<Option<Page>, Failure> {
        // The page before has asked already. What came since that is sorted otherwise is seen when it is read.
        let is_asked = query.after.as_ref().is_some_and(|after| after.sorted_there);
        if !is_asked && self.sorts_otherwise(query).await? {
            return Ok(None);
        }
        // One more tells whether there are more, and another is the one that the cursor is of.
        let mut rows = query.limit.saturating_add(2);
        loop {
            match self.page_of(query, rows).await? {
                Paged::Page(page) => return Ok(Some(page)),
                Paged::Short => rows = rows.saturating_mul(ROWS_GROWTH),
                Paged::SortedOtherwise => return Ok(None),
            }
        }
    }

    /// Whether the server may give a document another place than all storages do: what [`sorts_otherwise`](Self::sorts_otherwise)
    /// asks it of all documents, of one that was read.
    fn is_sorted_otherwise(&self, query: &Query, raw: &Bsons) -> bool {
        query.sort.iter().any(|(by, _)| match by {
            SortBy::Field(path) if path.names() != [self.version_field()] => {
                is_placed_otherwise(raw, &name(path, Some(self.version_field())))
            }
            _ => false,
        })
    }

    /// The page, if so many documents are enough for it: some of them may be none of ours, or be before the cursor. The
    /// server has to know how many, or it sorts all that it finds.
    async fn page_of(&self, query: &Query, rows: usize) -> Result<Paged, Failure> {
        let limit = i64::try_from(rows).unwrap_or(i64::MAX);
        let find = self.documents.find(self.filter(query)).sort(self.sort(query)).limit(limit);
        let batch = u32::try_from(rows).unwrap_or(u32::MAX).min(1_024);
        let mut documents = find.projection(doc! {"_weft.outbox": 0}).batch_size(batch).await?;
        let mut found: Vec<(Cursor, Found)> = Vec::new();
        let (mut more, mut read) = (false, 0);
        let has_fields = query.sort.iter().any(|(by, _)| matches!(by, SortBy::Field(_)));
        while let Some(raw) = documents.try_next().await? {
            read += 1;
            if !is_ours(&raw) {
                continue;
            }
            if has_fields && self.is_sorted_otherwise(query, &raw) {
                return Ok(Paged::SortedOtherwise);
            }
            let Some(document) = shown(&raw, self.version_field())? else { continue };
            let keys = query.keys(&document, self.version_field());
            let at = Cursor { keys, id: document.id.clone(), sorted_there: has_fields };
            if query.after.as_ref().is_some_and(|after| query.compare(&at, after).is_le()) {
                continue;
            }
            if found.len() == query.limit {
                more = true;
                break;
            }
            let fields = query.projection.of(&document.body);
            found.push((at, Found { id: document.id, version: document.version, fields }));
        }
        if !more && read >= rows {
            return Ok(Paged::Short);
        }
        let next = found.last().filter(|_| more).map(|(at, _)| at.clone());
        Ok(Paged::Page(Page { found: found.into_iter().map(|(_, found)| found).collect(), next }))
    }

    /// What the query asks for, as far as the server can tell it from what it has shown already.
    fn filter(&self, query: &Query) -> Bsons {
        let mut all = vec![query.filter.to_bson(self.version_field())];
        // Side by side where they can be: the simplest form is the one that every planner understands.
        let own = doc! {"_id": {"$type": "string"}, "_weft.deleted": {"$exists": false}};
        if all[0].contains_key("_id") {
            all.push(own);
        } else {
            all[0].extend(own);
        }
        if let Some(after) = &query.after {
            all.extend(behind(query, after, self.version_field()));
        }
        if all.len() == 1 {
            all.remove(0)
        } else {
            doc! {"$and": all}
        }
    }

    fn sort(&self, query: &Query) -> Bsons {
        let mut sort = Bsons::new();
        for (by, direction) in &query.sort {
            let name = match by {
                SortBy::Id => "_id".to_owned(),
                SortBy::Field(path) => name(path, Some(self.version_field())),
            };
            if !sort.contains_key(&name) {
                sort.insert(name, order(*direction));
            }
        }
        if !sort.contains_key("_id") {
            sort.insert("_id", 1);
        }
        sort
    }

    pub(super) async fn explain_natively(&self, query: Query) -> Result<Explained, StorageError> {
        query.check()?;
        let Some(page) = self.reading(|| self.page(&query)).await? else {
            return query.explain_scan(self).await;
        };
        let command = doc! {
            "explain": {
                "find": &*self.name, "filter": self.filter(&query), "sort": self.sort(&query),
                "limit": i64::try_from(query.limit).unwrap_or(i64::MAX),
            },
            "verbosity": "executionStats",
        };
        let told = self.reading(|| async { Ok(self.shared().database.run_command(command.clone()).await?) });
        let told = told.await?;
        let examined = told.get_document("executionStats").ok();
        let examined = examined.and_then(|stats| stats.get("totalDocsExamined").and_then(whole)).unwrap_or(0);
        let plan = index_in(&Bson::Document(told.clone())).map_or(Plan::Scan, |(name, narrowed)| {
            Plan::Index { name, narrowed, ordered: !has_stage(&Bson::Document(told), "SORT") }
        });
        Ok(Explained { plan, examined, returned: page.found.len() as u64 })
    }

    /// The indexes that the options ask for.
    pub(super) async fn create_indexes(&self) -> Result<(), StorageError> {
        self.create_tombstone_index().await?;
        for index in &self.options.indexes.clone() {
            self.create_native_index(index).await?;
        }
        Ok(())
    }

    pub(super) async fn create_native_index(&self, index: &Index) -> Result<(), StorageError> {
        let fields = index.fields().iter();
        let mut keys: Bsons = fields
            .map(|(path, direction)| (name(path, Some(self.version_field())), Bson::Int32(order(*direction))))
            .collect();
        // Documents that are alike come in the order of their ids.
        keys.insert("_id", 1);
        let name = format!("{INDEX_PREFIX}{}", index.name());
        let options = mongodb::options::IndexOptions::builder().name(name.clone()).build();
        let model = IndexModel::builder().keys(keys).options(options).build();
        self.reading(|| async {
            match self.documents.create_index(model.clone()).await {
                // One of an earlier release, without the ids.
                Err(error) if is_other_index(&error) => {
                    self.documents.drop_index(&name).await?;
                    self.documents.create_index(model.clone()).await?;
                }
                created => drop(created?),
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn drop_native_index(&self, index: &Index) -> Result<bool, StorageError> {
        if !self.native_indexes().await?.iter().any(|status| status.index == *index) {
            return Ok(false);
        }
        let name = format!("{INDEX_PREFIX}{}", index.name());
        self.reading(|| async {
            self.documents.drop_index(&name).await?;
            Ok(true)
        })
        .await
    }

    pub(super) async fn native_indexes(&self) -> Result<Vec<IndexStatus>, StorageError> {
        self.reading(|| async {
            let mut found = Vec::new();
            let mut indexes = self.documents.list_indexes().await?;
            while let Some(model) = indexes.try_next().await? {
                let named = model.options.and_then(|options| options.name);
                if let Some(name) = named.as_deref().and_then(|name| name.strip_prefix(INDEX_PREFIX)) {
                    let index = index_of(name, &model.keys).map_err(|reason| StorageError::Corrupt {
                        place: format!("index {INDEX_PREFIX}{name} of {}", self.name),
                        reason,
                    })?;
                    found.push(IndexStatus { index, ready: true });
                }
            }
            Ok(found)
        })
        .await
    }
}

/// An index of this store, as the server tells of it; else what it should be.
fn index_of(named: &str, keys: &Bsons) -> Result<Index, String> {
    let mut fields = Vec::new();
    for (at, (name, order)) in keys.iter().enumerate() {
        let direction = match order {
            Bson::Int32(1) | Bson::Int64(1) => Direction::Ascending,
            Bson::Int32(-1) | Bson::Int64(-1) => Direction::Descending,
            Bson::Double(order) if *order == 1.0 => Direction::Ascending,
            Bson::Double(order) if *order == -1.0 => Direction::Descending,
            other => return Err(format!("field {name} is in the order {other}, expected 1 or -1")),
        };
        if name == "_id" {
            if at + 1 < keys.len() || direction == Direction::Descending {
                return Err("_id is in it, expected only behind all fields, and ascending".to_owned());
            }
            continue;
        }
        let names: Vec<_> = name.split('.').map(|name| unescape(name).into_owned()).collect();
        let path = FieldPath::new(&names.join("."))
            .map_err(|error| format!("field {name} is no path, expected names joined by dots: {error}"))?;
        fields.push((path, direction));
    }
    let index = Index::new(fields).map_err(|error| format!("expected fields of an index: {error}"))?;
    if index.name() != named {
        return Err(format!("its fields are those of {}, expected those of {named}", index.name()));
    }
    Ok(index)
}

/// What became of a page that the server was asked for.
enum Paged {
    Page(Page),
    /// It takes more documents.
    Short,
    /// There is something on it that the server sorts otherwise.
    SortedOtherwise,
}

/// The index that a plan of the server scans, and how many of its fields are narrowed down.
fn index_in(plan: &Bson) -> Option<(String, usize)> {
    match plan {
        Bson::Document(stage) => {
            if let Ok(name) = stage.get_str("indexName") {
                let bounds = stage.get_document("indexBounds").ok().into_iter().flatten();
                let all = |bound: &Bson| bound.to_string().contains("MinKey, MaxKey");
                let narrowed = bounds.filter(|(name, bound)| *name != "_id" && !all(bound)).count();
                let name = name.strip_prefix(INDEX_PREFIX)?;
                return Some((name.to_owned(), narrowed));
            }
            stage.values().find_map(index_in)
        }
        Bson::Array(stages) => stages.iter().find_map(index_in),
        _ => None,
    }
}

fn has_stage(plan: &Bson, wanted: &str) -> bool {
    match plan {
        Bson::Document(stage) => {
            stage.get_str("stage").is_ok_and(|stage| stage == wanted)
                || stage.values().any(|stage| has_stage(stage, wanted))
        }
        Bson::Array(stages) => stages.iter().any(|stage| has_stage(stage, wanted)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_the_server_is_read_or_told_what_it_should_be() {
        let read = |named: &str, keys: Bsons| index_of(named, &keys).map(|index| index.name());
        for (named, keys) in [
            ("a_1", doc! {"a": 1}),
            ("a_1", doc! {"a": 1_i64, "_id": 1}),
            ("a_-1_b.c_1", doc! {"a": -1.0, "b.c": 1.0, "_id": 1}),
        ] {
            assert_eq!(read(named, keys).as_deref(), Ok(named));
        }
        for (named, keys, expected) in [
            ("a_1", doc! {"a": "text"}, "expected 1 or -1"),
            ("a_1", doc! {"a": "hashed", "_id": 1}, "expected 1 or -1"),
            ("a_1", doc! {"a": 2}, "expected 1 or -1"),
            ("a_1", doc! {"a": true}, "expected 1 or -1"),
            ("a_1", doc! {"_id": 1, "a": 1}, "expected only behind all fields"),
            ("a_1", doc! {"a": 1, "_id": -1}, "expected only behind all fields"),
            ("a_1", doc! {"a..b": 1}, "expected names joined by dots"),
            ("a_1", doc! {"_id": 1}, "expected fields of an index"),
            ("a_1", doc! {"a": -1}, "expected those of a_1"),
            ("a_1", doc! {"b": 1}, "expected those of a_1"),
        ] {
            let refused = read(named, keys.clone()).unwrap_err();
            assert!(refused.contains(expected), "{keys}: {refused}");
        }
    }
}
