//! How a query is answered from an index.

use std::collections::BTreeSet;

pub(crate) use super::plan::Range;
use super::{
    Explained, Index, Plan, key,
    plan::{self, Choice, Order},
};
use crate::{
    Document, DocumentId, StorageError,
    query::{Cursor, Page, Query},
};

/// A key of an index, without the id, and the document that it leads to.
pub(crate) type Entry = (Vec<u8>, DocumentId);

/// One state of a collection with an index, as a backend shows it.
pub(crate) trait Source {
    /// The entries of a range, in the order of keys and then ids, or backwards. Behind `skip` only, if it is given: an
    /// entry that was seen before.
    fn entries<'s>(
        &'s self,
        range: &Range,
        backwards: bool,
        skip: Option<&Entry>,
    ) -> Box<dyn Iterator<Item = Result<Entry, StorageError>> + 's>;

    fn document(&self, id: &DocumentId) -> Result<Option<Document>, StorageError>;
}

/// Chooses the index that answers a query best, and how. `indexes` are those that are ready, each with whether a
/// document may have several values in one of its fields.
pub(crate) fn choose<'i>(
    indexes: impl Iterator<Item = (usize, &'i Index, bool)>,
    query: &Query,
) -> Option<(usize, Choice)> {
    let choices = indexes.filter_map(|(at, index, several)| Some((at, plan::choose(index, several, query)?)));
    // The first of those that are alike.
    choices.reduce(|best, next| if plan::rank(&next.1) > plan::rank(&best.1) { next } else { best })
}

/// Answers a query.
pub(crate) fn answer(
    query: &Query,
    index: &Index,
    choice: Choice,
    source: &dyn Source,
    version_field: &str,
) -> Result<(Page, Explained), StorageError> {
    let plan = Plan::Index { name: index.name(), narrowed: choice.narrowed, ordered: choice.order.is_some() };
    let mut reader = Reader { query, source, version_field, examined: 0, page: Vec::new() };
    match &choice.order {
        Some(order) => {
            for range in &choice.ranges {
                reader.in_order(range, order)?;
            }
        }
        None => reader.unordered(&choice.ranges)?,
    }
    let (examined, page) = (reader.examined, reader.page);
    let page = query.page(page);
    let returned = page.found.len() as u64;
    Ok((page, Explained { plan, examined, returned }))
}

struct Reader<'r> {
    query: &'r Query,
    source: &'r dyn Source,
    version_field: &'r str,
    examined: u64,
    /// In order; one more than the page holds is enough to know that there is more.
    page: Vec<(Cursor, Document)>,
}

impl Reader<'_> {
    fn room(&self) -> usize {
        self.query.limit + 1
    }

    /// The document, if the query finds it and it is behind the page before.
    fn read(&mut self, id: &DocumentId) -> Result<Option<(Cursor, Document)>, StorageError> {
        let Some(document) = self.source.document(id)? else { return Ok(None) };
        self.examined += 1;
        if !self.query.filter.matches(&document, self.version_field) {
            return Ok(None);
        }
        let keys = self.query.keys(&document, self.version_field);
        let at = Cursor { keys, id: document.id.clone() };
        let behind = self.query.after.as_ref().is_none_or(|after| self.query.compare(&at, after).is_gt());
        Ok(behind.then_some((at, document)))
    }

    /// Reads all that is found, and keeps the first page of it.
    fn unordered(&mut self, ranges: &[Range]) -> Result<(), StorageError> {
        for range in ranges {
            for entry in self.source.entries(range, false, None) {
                let (_, id) = entry?;
                if self.page.iter().any(|(at, _)| at.id == id) {
                    continue;
                }
                if let Some(found) = self.read(&id)? {
                    self.keep(found, 0);
                }
            }
        }
        Ok(())
    }

    /// Puts a document into its place behind the first `from` of the page, if it has room.
    fn keep(&mut self, (at, document): (Cursor, Document), from: usize) {
        let (query, room) = (self.query, self.room());
        let place = from + self.page[from..].partition_point(|(other, _)| query.compare(other, &at).is_lt());
        if place < room && self.page.get(place).is_none_or(|(other, _)| *other != at) {
            self.page.insert(place, (at, document));
            self.page.truncate(room);
        }
    }

    /// Reads in the order of the sort until the page is full.
    fn in_order(&mut self, range: &Range, order: &Order) -> Result<(), StorageError> {
        let Some((range, skip)) = self.resumed(range, order) else { return Ok(()) };
        // Those that are alike in the sort come together: their keys up to here, and where they start on the page.
        let mut group: Option<Vec<u8>> = None;
        let mut start = self.page.len();
        let mut seen = BTreeSet::new();
        for entry in self.source.entries(&range, order.backwards, skip.as_ref()) {
            let (entry_key, id) = entry?;
            let same = group.as_ref().is_some_and(|group| entry_key.starts_with(group));
            if !same && self.page.len() >= self.room() {
                break;
            }
            if same && seen.contains(&id) {
                continue;
            }
            let Some((at, document)) = self.read(&id)? else { continue };
            let sorted = sorted_by(&at, order);
            if !entry_key[order.fixed_bytes..].starts_with(&sorted) {
                // It has its place in the order under another of its values.
                continue;
            }
            if !same {
                let upto = order.fixed_bytes + sorted.len();
                group = Some(entry_key[..upto].to_vec());
                start = self.page.len();
                seen.clear();
            }
            if !order.to_the_end {
                seen.insert(id);
            }
            self.keep((at, document), start);
            let ids_in_order = order.to_the_end && !order.backwards;
            if ids_in_order && self.page.len() >= self.room() {
                break;
            }
        }
        Ok(())
    }

    /// The part of a range that is behind the page before.
    fn resumed(&self, range: &Range, order: &Order) -> Option<(Range, Option<Entry>)> {
        let Some(after) = &self.query.after else { return Some((range.clone(), None)) };
        let mut range = range.clone();
        let fixed = range.start.get(..order.fixed_bytes)?;
        let group = [fixed, &sorted_by(after, order)].concat();
        if order.backwards {
            let behind = key::behind(&group);
            range.end = match (range.end, behind) {
                (Some(end), Some(behind)) => Some(end.min(behind)),
                (end, behind) => end.or(behind),
            };
            return Some((range, None));
        }
        let skip = order.to_the_end.then(|| (group.clone(), after.id.clone()));
        range.start = range.start.max(group);
        Some((range, skip))
    }
}

/// The part of a key that the sort is about.
fn sorted_by(at: &Cursor, order: &Order) -> Vec<u8> {
    let mut sorted = Vec::new();
    for (value, direction) in at.keys.iter().zip(&order.directions) {
        key::encode_in(*direction, value, &mut sorted);
    }
    sorted
}
