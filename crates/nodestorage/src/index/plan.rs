//! Which index answers a query, and which part of it.

use serde_json::Value;

use super::{Index, key};
use crate::query::{
    Direction, FieldPath, Filter, Query, SortBy,
    filter::{Element, Test},
};

/// How many ranges of an index one query reads; a filter with more values is narrowed down less.
const RANGES_MAX: usize = 128;

/// A place between keys: before or behind all that begin with these bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edge {
    bytes: Vec<u8>,
    behind: bool,
}

/// The values between two edges, as ascending bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interval {
    low: Edge,
    high: Edge,
    /// Whether it is one value.
    point: bool,
}

/// A range of keys, from the first to before the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
}

/// How an index answers a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// In the order of keys.
    pub(crate) ranges: Vec<Range>,
    /// How many fields the filter narrows down.
    pub(crate) narrowed: usize,
    pub(crate) order: Option<Order>,
}

/// An index that has the order of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// How many bytes stand before the fields of the sort: the same for all entries that are read.
    pub(crate) fixed_bytes: usize,
    /// The directions in which the index holds the fields of the sort.
    pub(crate) directions: Vec<Direction>,
    pub(crate) backwards: bool,
    /// Whether nothing stands between the fields of the sort and the id.
    pub(crate) to_the_end: bool,
}

/// How an index answers a query; `None` if it does not help. `several` is whether a document may have several values in
/// one of its fields.
pub(crate) fn choose(index: &Index, several: bool, query: &Query) -> Option<Choice> {
    let fields = index.fields();
    let mut found = Vec::new();
    for (path, direction) in fields {
        let Some(mut intervals) = intervals(&query.filter, path, several) else { break };
        if *direction == Direction::Descending {
            intervals = intervals.into_iter().map(Interval::turned_over).collect();
        }
        let last = !intervals.iter().all(|interval| interval.point);
        found.push(intervals);
        if last {
            // What follows it is not together any more.
            break;
        }
    }
    while found.iter().map(Vec::len).product::<usize>() > RANGES_MAX {
        found.pop();
    }
    let narrowed = found.len();
    let mut order = order(index, &found, &query.sort);
    if several && order.as_ref().is_some_and(|(_, starts)| narrowed > *starts) {
        // A document may be sorted by another of its values than the one that the filter finds: it is read where it is
        // found, and sorted then.
        order = None;
    }
    if narrowed == 0 && order.is_none() {
        return None;
    }
    let mut ranges = vec![Edges::default()];
    for intervals in &found {
        ranges = ranges.iter().flat_map(|edges| intervals.iter().map(|one| edges.with(one))).collect();
    }
    let mut ranges: Vec<_> = ranges.into_iter().map(Edges::range).collect();
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    Some(Choice { ranges, narrowed, order: order.map(|(order, _)| order) })
}

/// Whether the index has the order of a sort, and with which of its fields that starts.
fn order(index: &Index, found: &[Vec<Interval>], sort: &[(SortBy, Direction)]) -> Option<(Order, usize)> {
    let sort = match sort {
        // Documents that are alike are in the order of their ids anyway.
        [before @ .., (SortBy::Id, Direction::Ascending)] => before,
        sort => sort,
    };
    if found.iter().map(Vec::len).product::<usize>() != 1 {
        return None;
    }
    let fixed = found.iter().take_while(|intervals| intervals[0].point).count();
    let fields = index.fields();
    for starts in (0..=fixed).rev() {
        let Some(of_sort) = fields.get(starts..starts + sort.len()) else { continue };
        if sort.is_empty() && starts < fields.len() {
            // Ordered by ids only where nothing else is left.
            continue;
        }
        let same_fields = of_sort.iter().zip(sort).all(|((path, _), (by, _))| match by {
            SortBy::Field(wanted) => wanted == path,
            SortBy::Id => false,
        });
        let mut turned = of_sort.iter().zip(sort).map(|((_, has), (_, wanted))| has != wanted);
        let backwards = turned.next().unwrap_or(false);
        if same_fields && turned.all(|turned| turned == backwards) {
            let order = Order {
                fixed_bytes: found[..starts].iter().map(|intervals| intervals[0].low.bytes.len()).sum(),
                directions: of_sort.iter().map(|(_, direction)| *direction).collect(),
                backwards,
                to_the_end: starts + sort.len() == fields.len(),
            };
            return Some((order, starts));
        }
    }
    None
}

/// The values at a place that a filter can find; `None` if they may be any.
fn intervals(filter: &Filter, path: &FieldPath, several: bool) -> Option<Vec<Interval>> {
    let tests = filter.tests_of(path);
    let found = tests.into_iter().filter_map(of_test);
    if several {
        // Each test may hold for another of the values. One value is better than a range.
        found.min_by_key(|intervals| (intervals.iter().any(|one| !one.point), intervals.len()))
    } else {
        found.reduce(|one, other| both(&one, &other))
    }
}

fn of_test(test: &Test) -> Option<Vec<Interval>> {
    let bytes = |value: &Value| {
        let mut bytes = Vec::new();
        key::encode(value, &mut bytes);
        bytes
    };
    let point = |value: &Value| Interval::point(bytes(value));
    let kind = |value: &Value| vec![key::tag(value)];
    let at = |bytes: Vec<u8>| Edge { bytes, behind: false };
    let behind = |bytes: Vec<u8>| Edge { bytes, behind: true };
    let between = |low, high| Some(vec![Interval { low, high, point: false }]);
    match test {
        Test::Equal(value) => Some(vec![point(value)]),
        Test::In(values) => {
            let mut points: Vec<_> = values.iter().map(point).collect();
            points.sort_by(|a, b| a.low.bytes.cmp(&b.low.bytes));
            points.dedup();
            Some(points)
        }
        Test::All(values) => values.first().map(|value| vec![point(value)]),
        Test::Less(value) => between(at(kind(value)), at(bytes(value))),
        Test::LessOrEqual(value) => between(at(kind(value)), behind(bytes(value))),
        Test::Greater(value) => between(behind(bytes(value)), behind(kind(value))),
        Test::GreaterOrEqual(value) => between(at(bytes(value)), behind(kind(value))),
        Test::Prefix(prefix) => {
            let prefix = key::text_prefix(prefix);
            between(at(prefix.clone()), behind(prefix))
        }
        Test::Element(element) => match &**element {
            // One element passes all of them. Of arrays in arrays an index has nothing.
            Element::Value(tests) => {
                let of_elements = tests.iter().filter(|test| !matches!(test, Test::Element(_)));
                of_elements.filter_map(of_test).reduce(|a, b| both(&a, &b))
            }
            Element::Object(_) => None,
        },
        Test::Exists(_) | Test::Size(_) | Test::Not(_) => None,
    }
}

/// What lies in one of these and in one of those.
fn both(these: &[Interval], those: &[Interval]) -> Vec<Interval> {
    let pairs = these.iter().flat_map(|this| those.iter().map(move |that| this.and(that)));
    pairs.flatten().collect()
}

impl Edge {
    /// The first key that is not before it.
    fn place(&self) -> Option<Vec<u8>> {
        if self.behind { key::behind(&self.bytes) } else { Some(self.bytes.clone()) }
    }

    /// No place is behind everything.
    fn is_before(&self, other: &Self) -> bool {
        match (self.place(), other.place()) {
            (Some(this), Some(other)) => this < other,
            (this, _) => this.is_some(),
        }
    }
}

impl Interval {
    fn point(bytes: Vec<u8>) -> Self {
        let (low, high) = (Edge { bytes: bytes.clone(), behind: false }, Edge { bytes, behind: true });
        Self { low, high, point: true }
    }

    fn and(&self, other: &Self) -> Option<Self> {
        let low = if self.low.is_before(&other.low) { &other.low } else { &self.low };
        let high = if self.high.is_before(&other.high) { &self.high } else { &other.high };
        let point = self.point || other.point;
        low.is_before(high).then(|| Self { low: low.clone(), high: high.clone(), point })
    }

    /// The same values in descending order.
    fn turned_over(mut self) -> Self {
        std::mem::swap(&mut self.low, &mut self.high);
        for edge in [&mut self.low, &mut self.high] {
            key::turn_over(&mut edge.bytes);
            edge.behind = !edge.behind;
        }
        self
    }
}

/// The edges of a range of whole keys, field after field.
#[derive(Debug, Clone)]
struct Edges {
    low: Edge,
    high: Edge,
}

impl Default for Edges {
    /// All keys.
    fn default() -> Self {
        let everything = |behind| Edge { bytes: Vec::new(), behind };
        Self { low: everything(false), high: everything(true) }
    }
}

impl Edges {
    /// Narrowed down by the next field. All fields before it are points, so both edges begin alike.
    fn with(&self, next: &Interval) -> Self {
        let after =
            |edge: &Edge| Edge { bytes: [&self.low.bytes[..], &edge.bytes].concat(), behind: edge.behind };
        Self { low: after(&next.low), high: after(&next.high) }
    }

    fn range(self) -> Range {
        Range { start: self.low.place().unwrap_or_default(), end: self.high.place() }
    }
}
