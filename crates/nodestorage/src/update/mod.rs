//! Update operators: a documented part of MongoDB's language.

use serde_json::{Number, Value};

use crate::{
    Body, StorageError,
    query::{
        FieldPath, Filter,
        order::{by_name, compare, equal, float, whole},
        path::index,
    },
};

/// How far behind its end an array may be written to; the elements between become `null`.
pub const ARRAY_GAP_MAX: usize = 1_000;

/// What an update changes, field by field.
///
/// Written as in MongoDB: `{"$inc": {"gold": 50}, "$push": {"log": "quest done"}}`. There are `$set $unset $inc $mul $min
/// $max $rename $push` (with `$each`, `$position` and `$slice`) `$addToSet` (with `$each`), `$pull` (a value, or a
/// condition as of [`Filter`]) and `$pullAll`. No two operators may touch the same place. Anything else is
/// [`StorageError::Unsupported`].
#[derive(Debug, Clone, PartialEq)]
pub struct Update(Vec<(FieldPath, Operator)>);

#[derive(Debug, Clone, PartialEq)]
enum Operator {
    Set(Value),
    Unset,
    Increase(Number),
    Multiply(Number),
    Minimum(Value),
    Maximum(Value),
    Rename(FieldPath),
    Push { values: Vec<Value>, position: Option<i64>, slice: Option<i64> },
    AddToSet(Vec<Value>),
    Pull(Pulled),
    PullAll(Vec<Value>),
}

#[derive(Debug, Clone, PartialEq)]
enum Pulled {
    Equal(Value),
    /// Elements that are objects, by their fields.
    Object(Filter),
    /// Elements by operators: a filter over an object that holds the element as its only field.
    Value(Filter),
}

/// The name under which an element is shown to a filter of values.
const ELEMENT: &str = "element";

/// Why an update does not fit a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The place holds something that the operator can't work with.
    #[error("{operator} of {path}, which is {actual}")]
    WrongKind {
        /// The operator.
        operator: &'static str,
        /// The place.
        path: String,
        /// What is there.
        actual: &'static str,
    },
    /// The result is a number that JSON documents can't hold exactly.
    #[error("{operator} of {path} overflows")]
    Overflow {
        /// The operator.
        operator: &'static str,
        /// The place.
        path: String,
    },
    /// An array would have to grow too far.
    #[error("{path} is more than {ARRAY_GAP_MAX} elements behind the end of its array")]
    TooFar {
        /// The place.
        path: String,
    },
}

impl Update {
    /// Reads an update.
    pub fn parse(update: &Value) -> Result<Self, StorageError> {
        let Value::Object(operators) = update else { return Err(bad("an update that is not an object")) };
        let mut parsed = Vec::new();
        // The same for everybody, whatever order the application's maps have.
        for (name, fields) in by_name(operators) {
            let Value::Object(fields) = fields else {
                return Err(bad(&format!("{name} of something else than an object of fields")));
            };
            for (path, argument) in by_name(fields) {
                parsed.push((field(path)?, operator(name, argument)?));
            }
        }
        let mut touched: Vec<&FieldPath> = Vec::new();
        for (path, operator) in &parsed {
            let target = if let Operator::Rename(target) = operator { Some(target) } else { None };
            for place in std::iter::once(path).chain(target) {
                if touched.iter().any(|other| other.overlaps(place)) {
                    return Err(bad(&format!("two operators on {place}")));
                }
                touched.push(place);
            }
        }
        Ok(Self(parsed))
    }

    /// Changes a body. On an error it may be half changed and is not to be kept.
    pub fn apply(&self, body: &mut Body) -> Result<(), UpdateError> {
        self.0.iter().try_for_each(|(path, operator)| operator.apply(path, body))
    }
}

impl Operator {
    fn apply(&self, path: &FieldPath, body: &mut Body) -> Result<(), UpdateError> {
        match self {
            Self::Set(value) => *place(path, body, "$set")? = value.clone(),
            Self::Unset => drop(take(path, body)),
            Self::Increase(by) => arithmetic(path, body, "$inc", by, i128::checked_add, |a, b| a + b)?,
            Self::Multiply(by) => arithmetic(path, body, "$mul", by, i128::checked_mul, |a, b| a * b)?,
            Self::Minimum(value) => choose(path, body, "$min", value, std::cmp::Ordering::is_lt)?,
            Self::Maximum(value) => choose(path, body, "$max", value, std::cmp::Ordering::is_gt)?,
            Self::Rename(target) => {
                if renamed(path, body)? {
                    renamed(target, body)?;
                    let value = take(path, body).expect("it was just seen");
                    *place(target, body, "$rename")? = value;
                }
            }
            Self::Push { values, position, slice } => {
                let array = array(path, body, "$push")?;
                let len = array.len() as i64;
                let at = position.map_or(len, |at| if at < 0 { len + at } else { at }).clamp(0, len) as usize;
                array.splice(at..at, values.iter().cloned());
                match *slice {
                    Some(keep) if keep >= 0 => array.truncate(keep as usize),
                    Some(keep) => {
                        let drop = array.len().saturating_sub(keep.unsigned_abs() as usize);
                        array.drain(..drop);
                    }
                    None => {}
                }
            }
            Self::AddToSet(values) => {
                let array = array(path, body, "$addToSet")?;
                for value in values {
                    if !array.iter().any(|element| equal(element, value)) {
                        array.push(value.clone());
                    }
                }
            }
            Self::Pull(pulled) => match path.find(body) {
                None => {}
                Some(Value::Array(elements)) => elements.retain(|element| !pulled.matches(element)),
                Some(other) => return Err(wrong_kind("$pull", path, other)),
            },
            Self::PullAll(values) => match path.find(body) {
                None => {}
                Some(Value::Array(elements)) => {
                    elements.retain(|element| !values.iter().any(|value| equal(element, value)));
                }
                Some(other) => return Err(wrong_kind("$pullAll", path, other)),
            },
        }
        Ok(())
    }
}

impl Pulled {
    fn matches(&self, element: &Value) -> bool {
        match self {
            Self::Equal(value) => equal(element, value),
            Self::Object(filter) => element.as_object().is_some_and(|body| filter.holds_in(body)),
            Self::Value(filter) => filter.holds_in(&Body::from_iter([(ELEMENT.to_owned(), element.clone())])),
        }
    }
}

/// The place, made if it is missing: with objects on the way, and `null`s before an element behind an array's end.
fn place<'b>(
    path: &FieldPath,
    body: &'b mut Body,
    operator: &'static str,
) -> Result<&'b mut Value, UpdateError> {
    let (first, rest) = path.names().split_first().expect("a path has a name");
    let mut value = body.entry(first.as_str()).or_insert_with(|| empty(rest));
    for (nth, name) in rest.iter().enumerate() {
        let missing = || empty(&rest[nth + 1..]);
        value = match value {
            Value::Object(members) => members.entry(name.as_str()).or_insert_with(missing),
            Value::Array(elements) => {
                let Some(index) = index(name) else {
                    return Err(wrong_kind(operator, path, &Value::Array(Vec::new())));
                };
                if index > elements.len() + ARRAY_GAP_MAX {
                    return Err(UpdateError::TooFar { path: path.to_string() });
                }
                while elements.len() < index {
                    elements.push(Value::Null);
                }
                if elements.len() == index {
                    elements.push(missing());
                }
                &mut elements[index]
            }
            other => return Err(wrong_kind(operator, path, other)),
        };
    }
    Ok(value)
}

/// Whether there is something at a place that can be renamed, or renamed to: elements of arrays can't, and neither can what
/// would be in a value that holds no others.
fn renamed(path: &FieldPath, body: &Body) -> Result<bool, UpdateError> {
    let (first, rest) = path.names().split_first().expect("a path has a name");
    let mut found = body.get(first);
    for name in rest {
        found = match found {
            Some(Value::Object(members)) => members.get(name),
            // Behind the end of an array is nothing, which is no element either.
            Some(Value::Array(elements)) if index(name).is_some_and(|index| index >= elements.len()) => {
                return Ok(false);
            }
            Some(other) => return Err(wrong_kind("$rename", path, other)),
            None => return Ok(false),
        };
    }
    Ok(found.is_some())
}

/// What a missing place holds at first: an object if something follows.
fn empty(rest: &[String]) -> Value {
    if rest.is_empty() { Value::Null } else { Value::Object(Body::new()) }
}

/// Takes a value out of its place. An element of an array leaves a `null`, as the others keep their indexes.
fn take(path: &FieldPath, body: &mut Body) -> Option<Value> {
    let (last, parents) = path.names().split_last()?;
    let Some((first, rest)) = parents.split_first() else { return body.remove(last) };
    let parent = rest.iter().try_fold(body.get_mut(first)?, |value, name| match value {
        Value::Object(members) => members.get_mut(name),
        Value::Array(elements) => elements.get_mut(index(name)?),
        _ => None,
    })?;
    match parent {
        Value::Object(members) => members.remove(last),
        Value::Array(elements) => elements.get_mut(index(last)?).map(Value::take),
        _ => None,
    }
}

fn array<'b>(
    path: &FieldPath,
    body: &'b mut Body,
    operator: &'static str,
) -> Result<&'b mut Vec<Value>, UpdateError> {
    if path.find(body).is_none() {
        *place(path, body, operator)? = Value::Array(Vec::new());
    }
    match place(path, body, operator)? {
        Value::Array(elements) => Ok(elements),
        other => Err(wrong_kind(operator, path, other)),
    }
}

/// Whole numbers stay whole and exact; with a float it is a float. What is missing counts as 0.
fn arithmetic(
    path: &FieldPath,
    body: &mut Body,
    operator: &'static str,
    by: &Number,
    of_whole: fn(i128, i128) -> Option<i128>,
    of_floats: fn(f64, f64) -> f64,
) -> Result<(), UpdateError> {
    let overflow = || UpdateError::Overflow { operator, path: path.to_string() };
    let before = match path.find(body) {
        None => Number::from(0),
        Some(Value::Number(number)) => number.clone(),
        Some(other) => return Err(wrong_kind(operator, path, other)),
    };
    let after = match (whole(&before), whole(by)) {
        (Some(a), Some(b)) => of_whole(a, b).and_then(Number::from_i128),
        _ => Number::from_f64(of_floats(float(&before), float(by))),
    };
    *place(path, body, operator)? = Value::Number(after.ok_or_else(overflow)?);
    Ok(())
}

fn choose(
    path: &FieldPath,
    body: &mut Body,
    operator: &'static str,
    value: &Value,
    better: fn(std::cmp::Ordering) -> bool,
) -> Result<(), UpdateError> {
    if path.find(body).is_none_or(|now| better(compare(value, now))) {
        *place(path, body, operator)? = value.clone();
    }
    Ok(())
}

fn wrong_kind(operator: &'static str, path: &FieldPath, value: &Value) -> UpdateError {
    let actual = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    UpdateError::WrongKind { operator, path: path.to_string(), actual }
}

fn field(path: &str) -> Result<FieldPath, StorageError> {
    if path == FieldPath::ID {
        return Err(bad("an update of _id"));
    }
    FieldPath::new(path).map_err(|e| bad(&e.to_string()))
}

fn operator(name: &str, argument: &Value) -> Result<Operator, StorageError> {
    let number = || match argument {
        Value::Number(number) => Ok(number.clone()),
        _ => Err(bad(&format!("{name} by something else than a number"))),
    };
    Ok(match name {
        "$set" => Operator::Set(argument.clone()),
        "$unset" => Operator::Unset,
        "$inc" => Operator::Increase(number()?),
        "$mul" => Operator::Multiply(number()?),
        "$min" => Operator::Minimum(argument.clone()),
        "$max" => Operator::Maximum(argument.clone()),
        "$rename" => match argument.as_str() {
            Some(target) => Operator::Rename(field(target)?),
            None => return Err(bad("$rename to something else than a path")),
        },
        "$push" => push(argument)?,
        "$addToSet" => match modifiers(argument) {
            Some(modifiers) => Operator::AddToSet(each(name, modifiers, &["$each"])?),
            None => Operator::AddToSet(vec![argument.clone()]),
        },
        "$pull" => Operator::Pull(match argument {
            Value::Object(condition) if condition.keys().any(|name| name.starts_with('$')) => {
                Pulled::Value(Filter::parse(&serde_json::json!({ ELEMENT: argument }))?)
            }
            Value::Object(_) => Pulled::Object(Filter::parse(argument)?),
            value => Pulled::Equal(value.clone()),
        }),
        "$pullAll" => match argument {
            Value::Array(values) => Operator::PullAll(values.clone()),
            _ => return Err(bad("$pullAll of something else than an array")),
        },
        other => return Err(bad(&format!("the operator {other}"))),
    })
}

fn push(argument: &Value) -> Result<Operator, StorageError> {
    let Some(modifiers) = modifiers(argument) else {
        return Ok(Operator::Push { values: vec![argument.clone()], position: None, slice: None });
    };
    let whole = |name: &str| match modifiers.get(name) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(whole) => Ok(Some(whole)),
            None => Err(bad(&format!("{name} of something else than a whole number"))),
        },
    };
    let values = each("$push", modifiers, &["$each", "$position", "$slice"])?;
    Ok(Operator::Push { values, position: whole("$position")?, slice: whole("$slice")? })
}

fn modifiers(argument: &Value) -> Option<&Body> {
    argument.as_object().filter(|members| members.keys().any(|name| name.starts_with('$')))
}

fn each(operator: &str, modifiers: &Body, known: &[&str]) -> Result<Vec<Value>, StorageError> {
    if let Some(other) = modifiers.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(bad(&format!("{operator} with {other}")));
    }
    match modifiers.get("$each") {
        Some(Value::Array(values)) => Ok(values.clone()),
        _ => Err(bad(&format!("{operator} without a list in $each"))),
    }
}

fn bad(what: &str) -> StorageError {
    StorageError::Unsupported { what: what.to_owned(), backend: "updates" }
}

#[cfg(test)]
mod tests;
