//! Filters: a documented part of MongoDB's language.

#[cfg(feature = "mongodb")]
pub(crate) mod native;

use serde_json::Value;

use super::{
    FieldPath,
    order::{compare, equal, kind},
    path::Values,
};
use crate::{Body, Document, StorageError};

/// Which documents a query finds.
///
/// Written as in MongoDB: `{"gold": {"$gte": 10}, "tags": "new"}`. Fields are paths; a place that holds an array matches
/// when the array does or one of its elements. There are `$eq $ne $gt $gte $lt $lte $in $nin $exists $size $all $elemMatch
/// $not` and `$regex` (only as `^` and the beginning of a text) for a field, and `$and $or $nor` for filters. `_id` is the document's id, the storage's
/// [`version_field`](crate::StorageOptions::version_field) its version; within `$elemMatch` and `$pull` both are fields of
/// the element. Comparisons hold only within one kind
/// of value, and `null` also matches what is missing. Anything else is [`StorageError::Unsupported`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter(Vec<Condition>);

/// All conditions of a filter hold together.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    /// All tests hold at the place.
    Field(Place, Vec<Test>),
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Nor(Vec<Filter>),
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Id,
    Field(FieldPath),
}

/// What a filter asks of a place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    Equal(Value),
    In(Vec<Value>),
    Less(Value),
    LessOrEqual(Value),
    Greater(Value),
    GreaterOrEqual(Value),
    /// A text that begins like this.
    Prefix(String),
    Exists(bool),
    Size(usize),
    All(Vec<Value>),
    Element(Box<Element>),
    Not(Vec<Test>),
}

/// What an element of an array has to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Element {
    /// An object that a filter finds.
    Object(Filter),
    /// A value that passes tests.
    Value(Vec<Test>),
}

impl Filter {
    /// Finds everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Reads a filter.
    pub fn parse(filter: &Value) -> Result<Self, StorageError> {
        let Value::Object(conditions) = filter else { return Err(bad("a filter that is not an object")) };
        let conditions = conditions.iter().map(|(name, value)| match name.as_str() {
            "$and" => Ok(Condition::And(filters(name, value)?)),
            "$or" => Ok(Condition::Or(filters(name, value)?)),
            "$nor" => Ok(Condition::Nor(filters(name, value)?)),
            name if name.starts_with('$') => Err(bad(&format!("the operator {name}"))),
            FieldPath::ID => Ok(Condition::Field(Place::Id, tests(value)?)),
            name => {
                let path = FieldPath::new(name).map_err(|e| bad(&e.to_string()))?;
                Ok(Condition::Field(Place::Field(path), tests(value)?))
            }
        });
        conditions.collect::<Result<_, _>>().map(Self)
    }

    /// Whether it finds a document whose version has this name.
    pub fn matches(&self, document: &Document, version_field: &str) -> bool {
        self.holds(&document.body, Some((document, version_field)))
    }

    /// Whether it holds for fields that are no document of their own.
    pub(crate) fn holds_in(&self, body: &Body) -> bool {
        self.holds(body, None)
    }

    /// The tests of a place that hold for everything the filter finds.
    pub(crate) fn tests_of(&self, path: &FieldPath) -> Vec<&Test> {
        let tests = self.0.iter().flat_map(|condition| match condition {
            Condition::Field(Place::Field(of), tests) if of == path => tests.iter().collect(),
            Condition::And(filters) => filters.iter().flat_map(|filter| filter.tests_of(path)).collect(),
            _ => Vec::new(),
        });
        tests.collect()
    }

    /// The tests of the id that hold for everything the filter finds.
    pub(crate) fn tests_of_id(&self) -> Vec<&Test> {
        let tests = self.0.iter().flat_map(|condition| match condition {
            Condition::Field(Place::Id, tests) => tests.iter().collect(),
            Condition::And(filters) => filters.iter().flat_map(Self::tests_of_id).collect(),
            _ => Vec::new(),
        });
        tests.collect()
    }

    fn holds(&self, body: &Body, of: Option<(&Document, &str)>) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Field(Place::Id, tests) => match of {
                Some((document, _)) => {
                    let id = Value::from(document.id.as_str());
                    tests.iter().all(|test| test.holds(&At::whole(&[&id])))
                }
                // Within a part of a document it is a field like any other.
                None => {
                    let values: Vec<_> = body.get(FieldPath::ID).into_iter().collect();
                    let at = At { values: &values, missing: values.is_empty(), spread: true };
                    tests.iter().all(|test| test.holds(&at))
                }
            },
            Condition::Field(Place::Field(path), tests) => match of {
                Some((document, version_field)) if path.names() == [version_field] => {
                    let version = Value::from(document.version);
                    tests.iter().all(|test| test.holds(&At::whole(&[&version])))
                }
                _ => {
                    let Values { there, missing, .. } = path.values(body);
                    tests.iter().all(|test| test.holds(&At { values: &there, missing, spread: true }))
                }
            },
            Condition::And(filters) => filters.iter().all(|filter| filter.holds(body, of)),
            Condition::Or(filters) => filters.iter().any(|filter| filter.holds(body, of)),
            Condition::Nor(filters) => !filters.iter().any(|filter| filter.holds(body, of)),
        })
    }
}

/// What tests look at.
struct At<'v> {
    values: &'v [&'v Value],
    /// Whether something on the way has nothing at the place.
    missing: bool,
    /// Whether an array passes a test when one of its elements does. An element of `$elemMatch` is only what it is.
    spread: bool,
}

impl<'v> At<'v> {
    fn whole(values: &'v [&'v Value]) -> Self {
        Self { values, missing: false, spread: false }
    }

    fn any(&self, holds: impl Fn(&Value) -> bool) -> bool {
        self.values.iter().any(|value| holds(value)) || self.spread && self.arrays().flatten().any(holds)
    }

    /// Whether a value is the wanted one. `null` is also what is missing.
    fn is(&self, wanted: &Value) -> bool {
        wanted.is_null() && self.missing || self.any(|value| equal(value, wanted))
    }

    fn arrays(&self) -> impl Iterator<Item = &'v Vec<Value>> {
        self.values.iter().filter_map(|value| value.as_array())
    }
}

impl Test {
    fn holds(&self, at: &At<'_>) -> bool {
        let within_kind = |wanted: &Value, holds: fn(std::cmp::Ordering) -> bool| {
            // What is missing is `null` here too: neither less nor greater than it.
            wanted.is_null() && at.missing && holds(std::cmp::Ordering::Equal)
                || at.any(|value| kind(value) == kind(wanted) && holds(compare(value, wanted)))
        };
        match self {
            Self::Equal(wanted) => at.is(wanted),
            Self::In(wanted) => wanted.iter().any(|wanted| at.is(wanted)),
            Self::Less(wanted) => within_kind(wanted, std::cmp::Ordering::is_lt),
            Self::LessOrEqual(wanted) => within_kind(wanted, std::cmp::Ordering::is_le),
            Self::Greater(wanted) => within_kind(wanted, std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual(wanted) => within_kind(wanted, std::cmp::Ordering::is_ge),
            Self::Prefix(prefix) => {
                at.any(|value| value.as_str().is_some_and(|text| text.starts_with(prefix)))
            }
            Self::Exists(wanted) => *wanted != at.values.is_empty(),
            Self::Size(wanted) => at.arrays().any(|array| array.len() == *wanted),
            Self::All(wanted) => !wanted.is_empty() && wanted.iter().all(|wanted| at.is(wanted)),
            Self::Element(element) => at.arrays().flatten().any(|value| match &**element {
                Element::Object(filter) => value.as_object().is_some_and(|body| filter.holds(body, None)),
                Element::Value(tests) => tests.iter().all(|test| test.holds(&At::whole(&[value]))),
            }),
            Self::Not(tests) => !tests.iter().all(|test| test.holds(at)),
        }
    }
}

/// What the condition of one field says: operators, or the value that it has to be.
fn tests(condition: &Value) -> Result<Vec<Test>, StorageError> {
    match condition {
        Value::Object(operators) if operators.keys().any(|name| name.starts_with('$')) => {
            operators.iter().map(|(name, value)| test(name, value)).collect()
        }
        value => Ok(vec![Test::Equal(value.clone())]),
    }
}

fn test(name: &str, value: &Value) -> Result<Test, StorageError> {
    let list =
        || value.as_array().cloned().ok_or_else(|| bad(&format!("{name} of something else than an array")));
    Ok(match name {
        "$eq" => Test::Equal(value.clone()),
        "$ne" => Test::Not(vec![Test::Equal(value.clone())]),
        "$in" => Test::In(list()?),
        "$nin" => Test::Not(vec![Test::In(list()?)]),
        "$lt" => Test::Less(value.clone()),
        "$lte" => Test::LessOrEqual(value.clone()),
        "$gt" => Test::Greater(value.clone()),
        "$gte" => Test::GreaterOrEqual(value.clone()),
        "$regex" => Test::Prefix(prefix_of(value)?),
        "$exists" => {
            Test::Exists(value.as_bool().ok_or_else(|| bad("$exists of something else than a boolean"))?)
        }
        "$size" => {
            let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
            Test::Size(size.ok_or_else(|| bad("$size of something else than a count"))?)
        }
        "$all" => {
            let is_operator = |name: &String| name.starts_with('$');
            let list = list()?;
            if list.iter().filter_map(Value::as_object).any(|members| members.keys().any(is_operator)) {
                return Err(bad("$all of operators"));
            }
            Test::All(list)
        }
        "$elemMatch" => {
            let Value::Object(members) = value else {
                return Err(bad("$elemMatch of something else than an object"));
            };
            let of_values = members.keys().any(|name| name.starts_with('$') && !is_logical(name));
            let element = if of_values {
                Element::Value(tests(value)?)
            } else {
                Element::Object(Filter::parse(value)?)
            };
            Test::Element(Box::new(element))
        }
        "$not" => {
            // Of anything else it is no negation for the server either.
            let is_of_operators =
                |members: &Body| !members.is_empty() && members.keys().all(|name| name.starts_with('$'));
            if !value.as_object().is_some_and(is_of_operators) {
                return Err(bad("$not of something else than operators"));
            }
            Test::Not(tests(value)?)
        }
        other => return Err(bad(&format!("the operator {other}"))),
    })
}

/// The one kind of pattern that there is: `^` and the beginning of the text, in which `\` stands before a character that
/// would mean something else.
fn prefix_of(pattern: &Value) -> Result<String, StorageError> {
    let unknown = || bad("$regex of something else than ^ and a beginning");
    let mut rest = pattern.as_str().and_then(|text| text.strip_prefix('^')).ok_or_else(unknown)?.chars();
    let mut prefix = String::new();
    while let Some(c) = rest.next() {
        prefix.push(match c {
            '\\' => rest.next().filter(char::is_ascii_punctuation).ok_or_else(unknown)?,
            c if r".+*?()|[]{}^$".contains(c) => return Err(unknown()),
            c => c,
        });
    }
    Ok(prefix)
}

fn is_logical(name: &str) -> bool {
    matches!(name, "$and" | "$or" | "$nor")
}

fn filters(name: &str, value: &Value) -> Result<Vec<Filter>, StorageError> {
    match value.as_array() {
        Some(filters) if !filters.is_empty() => filters.iter().map(Filter::parse).collect(),
        _ => Err(bad(&format!("{name} of something else than a list of filters"))),
    }
}

fn bad(what: &str) -> StorageError {
    StorageError::Unsupported { what: what.to_owned(), backend: "filters" }
}
