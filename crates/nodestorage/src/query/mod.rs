//! Queries: which documents, in which order, which of their fields, how many.

pub(crate) mod filter;
pub(crate) mod ids;
pub(crate) mod order;
pub(crate) mod path;

use std::{cmp::Ordering, fmt, ops::Bound, str::FromStr};

use crdt_core::EncodingFormat;
use serde_json::Value;

use self::ids::Ids;
pub use self::{
    filter::Filter,
    path::{FieldPath, InvalidPath},
};
use crate::{Body, Document, DocumentId, Explained, Plan, Storage, StorageError};

/// How many documents one page of a query holds at most.
pub const PAGE_MAX: usize = 10_000;

/// How many documents a scan reads at a time, and how many at first where it may end soon.
const SCAN_STEP: usize = 256;
const SCAN_STEP_FIRST: usize = 16;

/// A question about the documents of a collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Which documents.
    pub filter: Filter,
    /// In which order; documents that are alike in it, and all when it is empty, in the order of their ids.
    pub sort: Vec<(SortBy, Direction)>,
    /// Which of their fields.
    pub projection: Projection,
    /// How many on one page: 1 to [`PAGE_MAX`].
    pub limit: usize,
    /// The [`next`](Page::next) of the page before, if this is not the first.
    pub after: Option<Cursor>,
}

impl Default for Query {
    /// Everything, by id, 100 on a page.
    fn default() -> Self {
        Self {
            filter: Filter::all(),
            sort: Vec::new(),
            projection: Projection::Whole,
            limit: 100,
            after: None,
        }
    }
}

/// What to sort by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SortBy {
    /// The document's id.
    Id,
    /// The value at a place. What is missing counts as `null`; an array counts as its least element, or its greatest when
    /// descending.
    Field(FieldPath),
}

/// Which way to sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The least first.
    Ascending,
    /// The greatest first.
    Descending,
}

/// Which fields of the documents a query shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// All.
    Whole,
    /// Only these.
    Only(Vec<FieldPath>),
    /// All but these.
    Without(Vec<FieldPath>),
}

/// Where a page ended. Good for the same filter and sort; writes in between neither repeat nor hide documents that did
/// not move.
#[derive(Debug, Clone, PartialEq)]
pub struct Cursor {
    pub(crate) keys: Vec<Value>,
    pub(crate) id: DocumentId,
    /// Whether the database has sorted the page, because its order is the one that all storages have for what the query
    /// finds. To find that out costs a search of its own, which the next page need not do again.
    pub(crate) sorted_there: bool,
}

/// A cursor that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of a query: {reason}")]
pub struct InvalidCursor {
    reason: String,
}

/// As text that a client can keep, put into an address and give back: MessagePack in hexadecimal digits. Numbers come back as
/// they were to the last bit, which JSON does not promise; a cursor a bit off would skip or repeat documents.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = if self.sorted_there {
            EncodingFormat::MessagePack.encode(&(&self.keys, &self.id, true))
        } else {
            EncodingFormat::MessagePack.encode(&(&self.keys, &self.id))
        };
        let bytes = bytes.map_err(|_| fmt::Error)?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let invalid = |reason: String| InvalidCursor { reason };
        let digit = |c: &u8| char::from(*c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        let bytes = bytes.ok_or_else(|| invalid("it is not pairs of hexadecimal digits".to_owned()))?;
        if let Ok((keys, id, sorted_there)) = EncodingFormat::MessagePack.decode(&bytes) {
            return Ok(Self { keys, id, sorted_there });
        }
        let decoded = EncodingFormat::MessagePack.decode(&bytes);
        let (keys, id) = decoded.map_err(|e| invalid(e.to_string()))?;
        Ok(Self { keys, id, sorted_there: false })
    }
}

/// One page of a query's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The documents found.
    pub found: Vec<Found>,
    /// Where the next page starts, if there is more.
    pub next: Option<Cursor>,
}

/// A document that a query found. Not a [`Document`], as its fields may not be all there are: it can't be mistaken for
/// what is to be written back.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its name.
    pub id: DocumentId,
    /// Its version.
    pub version: u64,
    /// The fields that were asked for.
    pub fields: Body,
}

impl Query {
    /// Answers it by reading the documents of a collection, a few at a time: those whose ids the filter can find.
    pub(crate) async fn scan<S: Storage + ?Sized>(self, storage: &S) -> Result<Page, StorageError> {
        self.scan_and_count(storage).await.map(|(page, _)| page)
    }

    /// Tells what [`scan`](Self::scan) takes.
    pub(crate) async fn explain_scan<S: Storage + ?Sized>(
        self,
        storage: &S,
    ) -> Result<Explained, StorageError> {
        let plan = if Ids::of(&self.filter) == Ids::Any { Plan::Scan } else { Plan::Ids };
        let (page, examined) = self.scan_and_count(storage).await?;
        Ok(Explained { plan, examined, returned: page.found.len() as u64 })
    }

    /// Whether it can be answered at all.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        if !(1..=PAGE_MAX).contains(&self.limit) {
            let what = format!("a page of {} documents (1 to {PAGE_MAX} are)", self.limit);
            return Err(StorageError::Unsupported { what, backend: "queries" });
        }
        match &self.after {
            Some(after) if after.keys.len() != self.sort.len() => {
                let what =
                    format!("a cursor of {} fields for a sort of {}", after.keys.len(), self.sort.len());
                Err(StorageError::Unsupported { what, backend: "queries" })
            }
            _ => Ok(()),
        }
    }

    async fn scan_and_count<S: Storage + ?Sized>(self, storage: &S) -> Result<(Page, u64), StorageError> {
        self.check()?;
        let mut scan =
            Scan { query: &self, version_field: storage.version_field(), page: Vec::new(), examined: 0 };
        let ids = Ids::of(&self.filter);
        // In the order of ids, what the page before has shown is not read again.
        let after = self.after.as_ref().filter(|_| self.sort.is_empty()).map(|after| after.id.clone());
        match &ids {
            Ids::These(ids) => {
                let rest = ids.iter().filter(|id| after.as_ref().is_none_or(|after| *id > after));
                for id in rest {
                    if scan.is_full() {
                        break;
                    }
                    if let Some(document) = storage.find_one(id).await? {
                        scan.take(document);
                    }
                }
            }
            Ids::Any | Ids::Between(..) => {
                let mut last = after;
                if let Ids::Between(Bound::Included(low) | Bound::Excluded(low), _) = &ids
                    && let Ok(low) = DocumentId::new(low.as_str())
                    && last.as_ref().is_none_or(|last| *last < low)
                {
                    // What is read next is behind it.
                    if let Some(document) = storage.find_one(&low).await? {
                        scan.take(document);
                    }
                    last = Some(low);
                }
                let mut step = if ids == Ids::Any { SCAN_STEP } else { SCAN_STEP_FIRST };
                while !scan.is_full() {
                    let documents = storage.list(last.as_ref(), step).await?;
                    let Some(end) = documents.last() else { break };
                    let ended = ids.end_before(&end.id);
                    last = Some(end.id.clone());
                    documents.into_iter().for_each(|document| scan.take(document));
                    if ended {
                        break;
                    }
                    step = (2 * step).min(SCAN_STEP);
                }
            }
        }
        let Scan { page, examined, .. } = scan;
        Ok((self.page(page), examined))
    }

    /// The page of what was found, in order: one document more than it holds, if there is more.
    pub(crate) fn page(&self, mut found: Vec<(Cursor, Document)>) -> Page {
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let next = found.last().filter(|_| more).map(|(at, _)| at.clone());
        let found = found.into_iter().map(|(_, document)| Found {
            fields: self.projection.of(&document.body),
            id: document.id,
            version: document.version,
        });
        Page { found: found.collect(), next }
    }

    /// What a document is sorted by.
    pub(crate) fn keys(&self, document: &Document, version_field: &str) -> Vec<Value> {
        self.sort.iter().map(|sort| key(sort, document, version_field)).collect()
    }

    pub(crate) fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        let keys = self.sort.iter().zip(a.keys.iter().zip(&b.keys));
        let by_keys = keys.map(|((_, direction), (a, b))| match direction {
            Direction::Ascending => order::compare(a, b),
            Direction::Descending => order::compare(b, a),
        });
        by_keys.fold(Ordering::Equal, Ordering::then).then_with(|| a.id.cmp(&b.id))
    }
}

/// The first page of what a scan finds.
struct Scan<'q> {
    query: &'q Query,
    version_field: &'q str,
    /// In order; one more than the page holds is enough to know that there is more.
    page: Vec<(Cursor, Document)>,
    examined: u64,
}

impl Scan<'_> {
    /// Whether nothing that is read from here on has a place on the page.
    fn is_full(&self) -> bool {
        self.query.sort.is_empty() && self.page.len() > self.query.limit
    }

    fn take(&mut self, document: Document) {
        self.examined += 1;
        let (query, room) = (self.query, self.query.limit + 1);
        if !query.filter.matches(&document, self.version_field) {
            return;
        }
        let keys = query.keys(&document, self.version_field);
        let at = Cursor { keys, id: document.id.clone(), sorted_there: false };
        if query.after.as_ref().is_some_and(|after| query.compare(&at, after).is_le()) {
            return;
        }
        let place = self.page.partition_point(|(other, _)| query.compare(other, &at).is_lt());
        if place < room {
            self.page.insert(place, (at, document));
            self.page.truncate(room);
        }
    }
}

fn key((by, direction): &(SortBy, Direction), document: &Document, version_field: &str) -> Value {
    let SortBy::Field(path) = by else { return Value::from(document.id.as_str()) };
    if path.names() == [version_field] {
        return Value::from(document.version);
    }
    let values = path.values(&document.body).with_nulls().into_iter();
    let values = values.flat_map(|value| match value {
        Value::Array(elements) if !elements.is_empty() => elements.iter().collect(),
        value => vec![value],
    });
    let chosen = match direction {
        Direction::Ascending => values.min_by(|a, b| order::compare(a, b)),
        Direction::Descending => values.max_by(|a, b| order::compare(a, b)),
    };
    chosen.cloned().unwrap_or(Value::Null)
}

impl Projection {
    pub(crate) fn of(&self, body: &Body) -> Body {
        match self {
            Self::Whole => body.clone(),
            Self::Only(paths) => only(body, &paths.iter().map(FieldPath::names).collect::<Vec<_>>()),
            Self::Without(paths) => {
                let mut rest = body.clone();
                paths.iter().for_each(|path| without(&mut rest, path.names()));
                rest
            }
        }
    }
}

fn only(body: &Body, paths: &[&[String]]) -> Body {
    let mut shown = Body::new();
    for (name, value) in body {
        let within: Vec<_> = paths.iter().filter(|path| path[0] == *name).map(|path| &path[1..]).collect();
        if within.iter().any(|rest| rest.is_empty()) {
            shown.insert(name.clone(), value.clone());
        } else if !within.is_empty()
            && let Some(value) = only_of(value, &within)
        {
            shown.insert(name.clone(), value);
        }
    }
    shown
}

fn only_of(value: &Value, paths: &[&[String]]) -> Option<Value> {
    match value {
        Value::Object(members) => Some(Value::Object(only(members, paths))),
        Value::Array(elements) => {
            Some(elements.iter().filter_map(|element| only_of(element, paths)).collect())
        }
        _ => None,
    }
}

fn without(body: &mut Body, names: &[String]) {
    match names {
        [name] => drop(body.remove(name)),
        [name, rest @ ..] => {
            if let Some(value) = body.get_mut(name) {
                without_in(value, rest);
            }
        }
        [] => {}
    }
}

fn without_in(value: &mut Value, names: &[String]) {
    match value {
        Value::Object(members) => without(members, names),
        Value::Array(elements) => elements.iter_mut().for_each(|element| without_in(element, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
