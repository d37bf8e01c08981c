//! A filter as MongoDB reads it. The language is the same; names are written as the server has them.

use mongodb::bson::{Bson, Document as Bsons};

use super::{Condition, Element, Filter, Place, Test};
use crate::{
    mongo::value::{count, escape, escape_field, to_bson},
    query::FieldPath,
};

impl Filter {
    /// Whose version is in a field of this name.
    pub(crate) fn to_bson(&self, version_field: &str) -> Bsons {
        self.written(Some(version_field))
    }

    fn written(&self, of: Option<&str>) -> Bsons {
        let list =
            |filters: &[Self]| -> Vec<Bsons> { filters.iter().map(|filter| filter.written(of)).collect() };
        // A filter names each place once, so one document has room for all of them.
        let conditions = self.0.iter().map(|condition| match condition {
            // The id of a document, and of a part of one a field like any other: the server calls both so.
            Condition::Field(Place::Id, tests) => (FieldPath::ID.to_owned(), operators(tests).into()),
            Condition::Field(Place::Field(path), tests) => (name(path, of), operators(tests).into()),
            Condition::And(filters) => ("$and".to_owned(), list(filters).into()),
            Condition::Or(filters) => ("$or".to_owned(), list(filters).into()),
            Condition::Nor(filters) => ("$nor".to_owned(), list(filters).into()),
        });
        conditions.collect()
    }
}

/// The name of a place, of a document whose version is in a field of the name given, or of a part of one.
pub(crate) fn name(path: &FieldPath, of: Option<&str>) -> String {
    let (first, rest) = path.names().split_first().expect("a path has a name");
    let first = match of {
        Some(version_field) if rest.is_empty() && first == version_field => first.as_str().into(),
        Some(version_field) => escape_field(first, version_field),
        None => escape(first),
    };
    rest.iter().fold(first.into_owned(), |name, next| name + "." + &escape(next))
}

fn operators(tests: &[Test]) -> Bsons {
    let mut written = Bsons::new();
    for test in tests {
        match (operator(test), test) {
            // `$ne` and `$nin` are short for a `$not`, and beside one that says the same there is room for the long form only.
            ((name, _), Test::Not(tests)) if written.contains_key(name) => {
                written.insert("$not", operators(tests));
            }
            ((name, value), _) => drop(written.insert(name, value)),
        }
    }
    written
}

fn operator(test: &Test) -> (&'static str, Bson) {
    let list = |values: &[serde_json::Value]| Bson::Array(values.iter().map(to_bson).collect());
    match test {
        Test::Equal(value) => ("$eq", to_bson(value)),
        Test::In(values) => ("$in", list(values)),
        Test::Less(value) => ("$lt", to_bson(value)),
        Test::LessOrEqual(value) => ("$lte", to_bson(value)),
        Test::Greater(value) => ("$gt", to_bson(value)),
        Test::GreaterOrEqual(value) => ("$gte", to_bson(value)),
        // Every character for itself, whatever it means in a pattern.
        Test::Prefix(start) => {
            let mut pattern = "^".to_owned();
            for c in start.chars() {
                match c {
                    '\0' => pattern.push_str("\\x00"),
                    c if c.is_ascii_punctuation() => pattern.extend(['\\', c]),
                    c => pattern.push(c),
                }
            }
            ("$regex", Bson::String(pattern))
        }
        Test::Exists(wanted) => ("$exists", Bson::Boolean(*wanted)),
        Test::Size(size) => ("$size", Bson::Int64(count(*size as u64))),
        Test::All(values) => ("$all", list(values)),
        Test::Element(element) => (
            "$elemMatch",
            Bson::Document(match &**element {
                Element::Object(filter) => filter.written(None),
                Element::Value(tests) => operators(tests),
            }),
        ),
        Test::Not(tests) => match tests.as_slice() {
            [Test::Equal(value)] => ("$ne", to_bson(value)),
            [Test::In(values)] => ("$nin", list(values)),
            tests => ("$not", Bson::Document(operators(tests))),
        },
    }
}
