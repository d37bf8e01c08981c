//! The ids that a filter can find, so that a query need not read the documents of others.

use std::{collections::BTreeSet, ops::Bound};

use serde_json::Value;

use super::filter::{Filter, Test};
use crate::DocumentId;

/// No document with another id is found. Those with these may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Any.
    Any,
    /// These, in their order.
    These(BTreeSet<DocumentId>),
    /// Those from one place of their order to another.
    Between(Bound<String>, Bound<String>),
}

impl Ids {
    pub(crate) fn of(filter: &Filter) -> Self {
        let mut named: Option<BTreeSet<String>> = None;
        let (mut low, mut high) = (Bound::Unbounded, Bound::Unbounded);
        for test in filter.tests_of_id() {
            let mut only = |values: &[Value]| {
                // An id is a text, so nothing else is one.
                let texts: BTreeSet<_> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                named = Some(match named.take() {
                    Some(named) => named.intersection(&texts).cloned().collect(),
                    None => texts,
                });
            };
            match test {
                Test::Equal(value) => only(std::slice::from_ref(value)),
                Test::In(values) => only(values),
                Test::Less(Value::String(text)) => high = lower(high, Bound::Excluded(text.clone())),
                Test::LessOrEqual(Value::String(text)) => high = lower(high, Bound::Included(text.clone())),
                Test::Greater(Value::String(text)) => low = higher(low, Bound::Excluded(text.clone())),
                Test::GreaterOrEqual(Value::String(text)) => low = higher(low, Bound::Included(text.clone())),
                Test::Prefix(prefix) => {
                    low = higher(low, Bound::Included(prefix.clone()));
                    high = lower(high, behind(prefix));
                }
                // Comparisons hold only within one kind.
                Test::Less(_) | Test::LessOrEqual(_) | Test::Greater(_) | Test::GreaterOrEqual(_) => {
                    only(&[]);
                }
                Test::All(_) | Test::Exists(_) | Test::Size(_) | Test::Element(_) | Test::Not(_) => {}
            }
        }
        match (named, low, high) {
            (Some(named), low, high) => {
                let within = named.into_iter().filter(|id| !is_before(id, &low) && !is_behind(id, &high));
                // What is no id is that of no document.
                Self::These(within.filter_map(|id| DocumentId::new(id).ok()).collect())
            }
            (None, Bound::Unbounded, Bound::Unbounded) => Self::Any,
            (None, low, high) => Self::Between(low, high),
        }
    }

    /// Whether all that follow this id are not among them either.
    pub(crate) fn end_before(&self, id: &DocumentId) -> bool {
        match self {
            Self::Between(_, high) => is_behind(id.as_str(), high),
            Self::Any | Self::These(_) => false,
        }
    }
}

fn is_before(id: &str, low: &Bound<String>) -> bool {
    match low {
        Bound::Included(low) => id < low.as_str(),
        Bound::Excluded(low) => id <= low.as_str(),
        Bound::Unbounded => false,
    }
}

fn is_behind(id: &str, high: &Bound<String>) -> bool {
    match high {
        Bound::Included(high) => id > high.as_str(),
        Bound::Excluded(high) => id >= high.as_str(),
        Bound::Unbounded => false,
    }
}

fn higher(one: Bound<String>, other: Bound<String>) -> Bound<String> {
    match &other {
        Bound::Included(text) if is_before(text, &one) => one,
        // Of the same text, the one that leaves it out.
        Bound::Excluded(text) if is_before(text, &one) && one != Bound::Included(text.clone()) => one,
        _ => other,
    }
}

fn lower(one: Bound<String>, other: Bound<String>) -> Bound<String> {
    match &other {
        Bound::Included(text) if is_behind(text, &one) => one,
        Bound::Excluded(text) if is_behind(text, &one) && one != Bound::Included(text.clone()) => one,
        _ => other,
    }
}

/// The first text behind all that begin like this.
fn behind(prefix: &str) -> Bound<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Bound::Excluded(text);
        }
    }
    Bound::Unbounded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(filter: Value) -> Ids {
        Ids::of(&Filter::parse(&filter).unwrap())
    }

    fn these(ids: &[&str]) -> Ids {
        Ids::These(ids.iter().map(|id| DocumentId::new(*id).unwrap()).collect())
    }

    fn included(text: &str) -> Bound<String> {
        Bound::Included(text.to_owned())
    }

    fn excluded(text: &str) -> Bound<String> {
        Bound::Excluded(text.to_owned())
    }

    #[test]
    fn ids_that_are_named_are_all_that_is_read() {
        assert_eq!(of(json!({"_id": "b"})), these(&["b"]));
        assert_eq!(of(json!({"_id": {"$in": ["c", "a", 1, ""]}, "n": 1})), these(&["a", "c"]));
        assert_eq!(of(json!({"_id": {"$in": ["a", "b", "c"], "$gt": "a", "$lt": "c"}})), these(&["b"]));
        assert_eq!(of(json!({"$and": [{"_id": "a"}, {"_id": {"$in": ["a", "b"]}}]})), these(&["a"]));
        assert_eq!(of(json!({"_id": "a", "$or": [{"_id": "b"}]})), these(&["a"]));
        for nothing in [json!(7), json!({"$gt": 7}), json!({"$lte": null}), json!({"$in": []})] {
            assert_eq!(of(json!({ "_id": nothing })), these(&[]), "{nothing}");
        }
    }

    #[test]
    fn ranges_of_ids_are_as_narrow_as_all_tests_make_them() {
        let range = of(json!({"_id": {"$gte": "b", "$gt": "a", "$lt": "d", "$lte": "d"}}));
        assert_eq!(range, Ids::Between(included("b"), excluded("d")));
        assert_eq!(
            of(json!({"_id": {"$gte": "b", "$gt": "b"}})),
            Ids::Between(excluded("b"), Bound::Unbounded)
        );
        assert_eq!(
            of(json!({"_id": {"$gt": "b", "$gte": "b"}})),
            Ids::Between(excluded("b"), Bound::Unbounded)
        );
        assert_eq!(of(json!({"_id": {"$regex": "^ab"}})), Ids::Between(included("ab"), excluded("ac")));
        let odd = of(json!({"_id": {"$regex": "^a\u{d7ff}"}}));
        assert_eq!(odd, Ids::Between(included("a\u{d7ff}"), excluded("a\u{e000}")));
        assert_eq!(behind("\u{10ffff}"), Bound::Unbounded);
        for any in
            [json!({}), json!({"_id": {"$ne": "a"}}), json!({"$or": [{"_id": "a"}]}), json!({"n": "a"})]
        {
            assert_eq!(of(any.clone()), Ids::Any, "{any}");
        }
    }
}
