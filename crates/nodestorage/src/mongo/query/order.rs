//! The order of a query, as the server has it: what it sorts otherwise than all storages do, and what of it is behind a cursor.

use mongodb::bson::{Bson, Document as Bsons, doc};
use serde_json::Value;

use crate::{
    mongo::value::to_bson,
    query::{Cursor, Direction, Query, SortBy, filter::native::name, order::kind},
};

/// What finds the documents that the server sorts otherwise than all storages do. Empty where it can't find any.
pub(super) fn sorted_otherwise(query: &Query, version_field: &str) -> Vec<Bsons> {
    let mut found = Vec::new();
    for (by, _) in &query.sort {
        let SortBy::Field(path) = by else { continue };
        if path.names() == [version_field] {
            continue;
        }
        let place = name(path, Some(version_field));
        for (at, _) in place.match_indices('.') {
            found.push(doc! {&place[..at]: {"$type": "array"}});
        }
        found.push(doc! {&place: {"$in": values_sorted_otherwise()}});
        found.push(doc! {&place: {"$type": TYPES_SORTED_OTHERWISE.to_vec()}});
    }
    found
}

/// What finds all documents behind a cursor, and hardly any other: what is before it would be read again for each page, and
/// of many that are alike in the sort that is nearly everything. Some are found that are not behind it, as arrays are, of
/// which any element may meet a condition. `None` where nothing can be said.
pub(super) fn behind(query: &Query, after: &Cursor, version_field: &str) -> Option<Bsons> {
    let mut found = Vec::new();
    // That all sorts so far are as in the cursor.
    let mut alike = Bsons::new();
    let mut ids_follow = true;
    for ((by, direction), key) in query.sort.iter().zip(&after.keys) {
        let and = |condition: Bsons| {
            let mut all = alike.clone();
            all.extend(condition);
            all
        };
        let SortBy::Field(path) = by else {
            found.push(and(doc! {"_id": {beyond(*direction): after.id.as_str()}}));
            ids_follow = false;
            break;
        };
        let place = name(path, Some(version_field));
        match key {
            // To the server an array field is of the type of arrays, whatever it is sorted by.
            Value::Array(_) => found.push(alike.clone()),
            // Two objects are the same here whatever the order of their names, to the server only in one order.
            Value::Object(_) => {
                found.push(and(doc! {&place: {from(*direction): to_bson(key)}}));
                found.extend(of_kinds_beyond(&place, *direction, key).into_iter().map(and));
            }
            plain => {
                if !plain.is_null() {
                    found.push(and(doc! {&place: {beyond(*direction): to_bson(plain)}}));
                }
                found.extend(of_kinds_beyond(&place, *direction, plain).into_iter().map(and));
                alike.insert(place, to_bson(plain));
                continue;
            }
        }
        ids_follow = false;
        break;
    }
    if ids_follow {
        alike.insert("_id", doc! {"$gt": after.id.as_str()});
        found.push(alike);
    }
    if found.iter().any(Bsons::is_empty) {
        return None;
    }
    if query.sort.is_empty() {
        return found.pop();
    }
    // What came since the first page, and would not be found by its place: it says that the server does not sort any more.
    found.extend(sorted_otherwise(query, version_field));
    Some(doc! {"$or": found})
}

/// What finds the values of the kinds behind that of a key.
fn of_kinds_beyond(place: &str, direction: Direction, key: &Value) -> Vec<Bsons> {
    let own = usize::from(kind(key));
    let (kinds, null) = match direction {
        Direction::Ascending => (&KINDS[own + 1..], false),
        Direction::Descending => (&KINDS[..own], own > 0),
    };
    let kinds: Vec<&str> = kinds.iter().copied().filter(|kind| *kind != "null").collect();
    let mut found = Vec::new();
    if !kinds.is_empty() {
        found.push(doc! {place: {"$type": kinds}});
    }
    if null {
        // What is missing too.
        found.push(doc! {place: Bson::Null});
    }
    found
}

/// The types of the server that the kinds of values here have, in their order.
const KINDS: [&str; 6] = ["null", "number", "string", "object", "array", "bool"];

fn beyond(direction: Direction) -> &'static str {
    match direction {
        Direction::Ascending => "$gt",
        Direction::Descending => "$lt",
    }
}

fn from(direction: Direction) -> &'static str {
    match direction {
        Direction::Ascending => "$gte",
        Direction::Descending => "$lte",
    }
}

pub(super) fn order(direction: Direction) -> i32 {
    match direction {
        Direction::Ascending => 1,
        Direction::Descending => -1,
    }
}

/// Whether there is an array on the way to a place, or something at it that the server sorts otherwise.
pub(super) fn is_placed_otherwise(raw: &Bsons, place: &str) -> bool {
    let mut names = place.split('.').peekable();
    let mut within = raw;
    while let Some(name) = names.next() {
        match within.get(name) {
            None => return false,
            Some(value) if names.peek().is_none() => return is_value_sorted_otherwise(value),
            Some(Bson::Document(members)) => within = members,
            Some(value) => return matches!(value, Bson::Array(_)),
        }
    }
    false
}

fn is_value_sorted_otherwise(value: &Bson) -> bool {
    match value {
        Bson::Array(elements) => {
            let is_otherwise = |element: &Bson| match element {
                Bson::Array(inner) => inner.is_empty(),
                plain => is_value_sorted_otherwise(plain),
            };
            elements.is_empty() || elements.iter().any(is_otherwise)
        }
        Bson::Double(float) => !float.is_finite(),
        Bson::Null
        | Bson::Boolean(_)
        | Bson::Int32(_)
        | Bson::Int64(_)
        | Bson::Decimal128(_)
        | Bson::String(_)
        | Bson::Document(_) => false,
        // All others are read as another kind of values: those that TYPES_SORTED_OTHERWISE names to the server.
        _ => true,
    }
}

/// The types of the server that are read as another kind of values.
const TYPES_SORTED_OTHERWISE: [&str; 10] = [
    "date",
    "objectId",
    "binData",
    "regex",
    "timestamp",
    "javascript",
    "symbol",
    "undefined",
    "minKey",
    "maxKey",
];

/// Values that have another place here, although others of their type are where they are.
fn values_sorted_otherwise() -> Vec<Bson> {
    let floats = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    floats.into_iter().map(Bson::Double).chain([Bson::Array(Vec::new())]).collect()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::bson;

    use super::*;

    /// As `sorted_otherwise` asks the server of all documents.
    #[test]
    fn what_the_server_sorts_otherwise_is_seen_in_one_document() {
        for (raw, is_otherwise) in [
            (bson!({"a": {"b": 1}}), false),
            (bson!({"a": {"b": null}}), false),
            (bson!({"a": {"b": [1, "x", [2]]}}), false),
            (bson!({"a": 5}), false),
            (bson!({}), false),
            (bson!({"a": [{"b": 1}]}), true),
            (bson!({"a": {"b": []}}), true),
            (bson!({"a": {"b": [[]]}}), true),
            (bson!({"a": {"b": (f64::INFINITY)}}), true),
            (bson!({"a": {"b": [1, (f64::NAN)]}}), true),
            (bson!({"a": {"b": (mongodb::bson::DateTime::from_millis(1))}}), true),
        ] {
            let Bson::Document(raw) = raw else { unreachable!("it is one") };
            assert_eq!(is_placed_otherwise(&raw, "a.b"), is_otherwise, "{raw}");
        }
    }
}
