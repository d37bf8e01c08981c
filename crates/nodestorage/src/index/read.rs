//! How a query is answered from an index.

use std::collections::{BTreeSet, HashSet};

pub(crate) use super::plan::Range;
use super::{
    Explained, Index, Plan, key,
    plan::{self, Choice, Order},
};
use crate::{
    Document, DocumentId, StorageError,
    query::{Cursor, Page, Query, ids::Ids},
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

/// How many entries of an index are counted to find out whether another one has fewer: first so many, then so many.
const COUNTED: [usize; 3] = [64, 1_024, 16_384];

/// How many documents are read in the order of an index, in the hope that they fill the page, where a range of ids has
/// an unknown number of them.
const TRIAL_MIN: u64 = 1_000;

/// An index that is ready.
pub(crate) struct Ready<'i, S> {
    pub(crate) index: &'i Index,
    /// Whether a document may have several values in one of its fields.
    pub(crate) several: bool,
    pub(crate) source: S,
}

/// Answers a query from the index that reads least; `None` if the documents are better read by their ids.
///
/// Of indexes that the filter narrows down, the one with the fewest entries counts, which are counted up to a bound. An
/// index that has the order of the query may read fewer still, as it stops with the page, or nearly all, when the
/// filter finds little of it. That can't be told before, so it is tried: when it has read as many documents as the
/// other would, the other answers. So at most twice as many are read as with the better of the two.
pub(crate) fn answer<S: Source>(
    query: &Query,
    ready: Vec<Ready<'_, S>>,
    version_field: &str,
) -> Result<Option<(Page, Explained)>, StorageError> {
    let ids = Ids::of(&query.filter);
    let ways = ready.iter().filter_map(|ready| {
        let choice = plan::choose(ready.index, ready.several, query)?;
        Some(Way { index: ready.index, source: &ready.source, choice })
    });
    let ways: Vec<_> = ways.collect();
    let narrowing: Vec<_> = ways.iter().filter(|way| way.choice.narrowed > 0).collect();
    let ordered = ways
        .iter()
        .filter(|way| way.choice.order.is_some())
        .reduce(|best, next| if next.choice.narrowed > best.choice.narrowed { next } else { best });
    let mut reader = Reader { query, version_field, examined: 0, spend_max: u64::MAX, page: Vec::new() };
    let best = match (&ways[..], &ids) {
        // Nothing to choose.
        ([only], Ids::Any) => Some((usize::MAX, only)),
        (_, Ids::These(ids)) => match fewest(&narrowing)? {
            Some((entries, best)) if entries < ids.len() => Some((entries, best)),
            _ => return Ok(None),
        },
        _ => fewest(&narrowing)?,
    };
    let tried = ordered.filter(|_| best.is_none_or(|(_, best)| best.choice.order.is_none()));
    if let Some(way) = tried {
        reader.spend_max = match (best, &ids) {
            (Some((entries, _)), _) => entries as u64,
            (None, Ids::Between(..)) => TRIAL_MIN.max(10 * query.limit as u64),
            (None, _) => u64::MAX,
        };
        if reader.in_order(way)? {
            return Ok(Some(reader.explained(way)));
        }
        reader.page.clear();
        reader.spend_max = u64::MAX;
    }
    let Some((_, best)) = best else { return Ok(None) };
    match best.choice.order {
        Some(_) => drop(reader.in_order(best)?),
        None => reader.unordered(best)?,
    }
    Ok(Some(reader.explained(best)))
}

/// An index and how it answers.
struct Way<'w, S> {
    index: &'w Index,
    source: &'w S,
    choice: Choice,
}

impl<S: Source> Way<'_, S> {
    /// How many entries it reads, up to a bound.
    fn entries(&self, max: usize) -> Result<usize, StorageError> {
        let mut count = 0;
        for range in &self.choice.ranges {
            for entry in self.source.entries(range, false, None).take(max - count) {
                entry?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Which of some ways reads the fewest entries, and how many, at least. Of those that are alike, or too many to be
/// counted, the one that narrows down more fields, then the one that has the order, then the first.
fn fewest<'w, S: Source>(ways: &[&'w Way<'w, S>]) -> Result<Option<(usize, &'w Way<'w, S>)>, StorageError> {
    let mut best: Option<(usize, &Way<'_, S>)> = None;
    for max in COUNTED {
        best = None;
        for way in ways {
            let entries = way.entries(max)?;
            let rank = |way: &Way<'_, S>| (way.choice.narrowed, way.choice.order.is_some());
            let fewer =
                |(least, best): (usize, _)| entries < least || entries == least && rank(way) > rank(best);
            if best.is_none_or(fewer) {
                best = Some((entries, way));
            }
        }
        if best.is_none_or(|(least, _)| least < max) {
            break;
        }
    }
    Ok(best)
}

struct Reader<'r> {
    query: &'r Query,
    version_field: &'r str,
    examined: u64,
    /// How many documents may be read in order.
    spend_max: u64,
    /// In order; one more than the page holds is enough to know that there is more.
    page: Vec<(Cursor, Document)>,
}

impl Reader<'_> {
    /// The page, and what it took.
    fn explained<S>(self, way: &Way<'_, S>) -> (Page, Explained) {
        let Choice { narrowed, order, .. } = &way.choice;
        let plan = Plan::Index { name: way.index.name(), narrowed: *narrowed, ordered: order.is_some() };
        let (examined, page) = (self.examined, self.query.page(self.page));
        let returned = page.found.len() as u64;
        (page, Explained { plan, examined, returned })
    }

    fn room(&self) -> usize {
        self.query.limit + 1
    }

    /// The document, if the query finds it and it is behind the page before.
    fn read(
        &mut self,
        source: &impl Source,
        id: &DocumentId,
    ) -> Result<Option<(Cursor, Document)>, StorageError> {
        let Some(document) = source.document(id)? else { return Ok(None) };
        self.examined += 1;
        if !self.query.filter.matches(&document, self.version_field) {
            return Ok(None);
        }
        let keys = self.query.keys(&document, self.version_field);
        let at = Cursor { keys, id: document.id.clone(), sorted_there: false };
        let behind = self.query.after.as_ref().is_none_or(|after| self.query.compare(&at, after).is_gt());
        Ok(behind.then_some((at, document)))
    }

    /// Reads all that is found, and keeps the first page of it.
    fn unordered<S: Source>(&mut self, way: &Way<'_, S>) -> Result<(), StorageError> {
        // What was on the page is on it still, or has no room on it any more.
        let mut kept = HashSet::new();
        for range in &way.choice.ranges {
            for entry in way.source.entries(range, false, None) {
                let (_, id) = entry?;
                if kept.contains(&id) {
                    continue;
                }
                if let Some(found) = self.read(way.source, &id)?
                    && self.keep(found, 0)
                {
                    kept.insert(id);
                }
            }
        }
        Ok(())
    }

    /// Puts a document into its place behind the first `from` of the page, if it has room. Returns whether it has.
    fn keep(&mut self, (at, document): (Cursor, Document), from: usize) -> bool {
        let (query, room) = (self.query, self.room());
        let place = from + self.page[from..].partition_point(|(other, _)| query.compare(other, &at).is_lt());
        let has_room = place < room && self.page.get(place).is_none_or(|(other, _)| *other != at);
        if has_room {
            self.page.insert(place, (at, document));
            self.page.truncate(room);
        }
        has_room
    }

    /// Reads in the order of the sort until the page is full. `false` if that took more than may be spent.
    fn in_order<S: Source>(&mut self, way: &Way<'_, S>) -> Result<bool, StorageError> {
        let Some(order) = &way.choice.order else { return Ok(false) };
        for range in &way.choice.ranges {
            if !self.range_in_order(range, order, way.source)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn range_in_order(
        &mut self,
        range: &Range,
        order: &Order,
        source: &impl Source,
    ) -> Result<bool, StorageError> {
        let Some((range, skip)) = self.resumed(range, order) else { return Ok(true) };
        // Those that are alike in the sort come together: their keys up to here, and where they start on the page.
        let mut group: Option<Vec<u8>> = None;
        let mut start = self.page.len();
        let mut seen = BTreeSet::new();
        for entry in source.entries(&range, order.backwards, skip.as_ref()) {
            let (entry_key, id) = entry?;
            let same = group.as_ref().is_some_and(|group| entry_key.starts_with(group));
            if !same && self.page.len() >= self.room() {
                break;
            }
            if same && seen.contains(&id) {
                continue;
            }
            if self.examined >= self.spend_max {
                return Ok(false);
            }
            let Some((at, document)) = self.read(source, &id)? else { continue };
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
        Ok(true)
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
