//! MongoDB's update operators between two states.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::{
    Body, StorageError,
    query::{FieldPath, order::equal, path},
    update::Update,
};

/// The names that an array's elements are told apart by, the first that fits.
const IDENTITIES: [&str; 2] = ["_id", "id"];

/// A change written as MongoDB's update operators: `$set`, `$unset`, `$push` and `$pullAll`, with array filters.
///
/// An element of an array of objects that have an `_id` or `id` of their own is named by that and not by its index, so that
/// the change still finds it when others have come before it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MongoUpdate {
    /// The operators: the second argument of MongoDB's `updateOne`.
    pub operators: Body,
    /// What the placeholders such as `$[e0]` stand for: its option `arrayFilters`.
    pub array_filters: Vec<Value>,
}

impl MongoUpdate {
    /// The update that leads from one body to another. `None` where operators can't say it: a field at the root whose
    /// name is empty, has a dot, begins with `$` or is `_id`.
    pub fn between(before: &Body, after: &Body) -> Option<Self> {
        let mut writer = Writer::default();
        let before_fits = before.iter().all(|(name, value)| is_plain(name) || after.get(name) == Some(value));
        let after_fits = after.iter().all(|(name, value)| is_plain(name) || before.get(name) == Some(value));
        if !before_fits || !after_fits || before.get(FieldPath::ID) != after.get(FieldPath::ID) {
            return None;
        }
        writer.objects("", before, after);
        Some(writer.finish())
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.operators.is_empty()
    }

    /// Does what MongoDB does with it.
    pub fn apply(&self, body: &mut Body) -> Result<(), StorageError> {
        let mut operators = Map::new();
        for (operator, fields) in &self.operators {
            let fields = fields.as_object().ok_or_else(|| {
                bad(format!("{operator}: {fields}; expected an object of paths and their arguments"))
            })?;
            let mut places = Map::new();
            for (path, argument) in fields {
                let names: Vec<_> = path.split('.').collect();
                for place in self.places(&Value::Object(body.clone()), &names)? {
                    places.insert(place, argument.clone());
                }
            }
            operators.insert(operator.clone(), Value::Object(places));
        }
        let update = Update::parse(&Value::Object(operators))?;
        update.apply(body).map_err(|e| StorageError::Edit(Box::new(e)))
    }

    /// The places that a path with placeholders names.
    fn places(&self, value: &Value, names: &[&str]) -> Result<Vec<String>, StorageError> {
        let Some(at) = names.iter().position(|name| name.starts_with('$')) else {
            return Ok(vec![names.join(".")]);
        };
        let path = names.join(".");
        let placeholder = placeholder(names[at]).ok_or_else(|| {
            bad(format!("{} in the path {path}; expected $[name] of an array filter", names[at]))
        })?;
        let array = names[..at].iter().try_fold(value, |value, name| match value {
            Value::Object(members) => members.get(*name),
            Value::Array(elements) => elements.get(path::index(name)?),
            _ => None,
        });
        let Some(Value::Array(elements)) = array else {
            let found = array.map_or_else(|| "nothing".to_owned(), Value::to_string);
            return Err(bad(format!(
                "{found} at {}; expected an array for {}",
                names[..at].join("."),
                names[at]
            )));
        };
        let (mut wanted, filters) = (None, self.array_filters.iter().map(array_filter));
        for filter in
            filters.collect::<Result<Vec<_>, _>>()?.into_iter().filter(|filter| filter.0 == placeholder)
        {
            if wanted.replace(filter).is_some() {
                return Err(bad(format!("two array filters for {placeholder}; expected one")));
            }
        }
        let Some((_, field, wanted)) = wanted else {
            return Err(bad(format!("no array filter for {} in the path {path}; expected one", names[at])));
        };
        let mut places = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            if element.get(field).is_some_and(|id| equal(id, wanted)) {
                let index = index.to_string();
                let names = [&names[..at], &[index.as_str()], &names[at + 1..]].concat();
                places.extend(self.places(value, &names)?);
            }
        }
        Ok(places)
    }
}

fn bad(what: String) -> StorageError {
    StorageError::Unsupported { what, backend: "updates" }
}

/// The name in `$[name]`: as in MongoDB a small letter, then letters and digits.
fn placeholder(name: &str) -> Option<&str> {
    let name = name.strip_prefix("$[")?.strip_suffix(']')?;
    let plain =
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(|c| c.is_ascii_alphanumeric());
    plain.then_some(name)
}

/// What an array filter is of, and the field and value that it asks for.
fn array_filter(filter: &Value) -> Result<(&str, &str, &Value), StorageError> {
    let one = filter.as_object().filter(|filter| filter.len() == 1).and_then(|filter| filter.iter().next());
    let read = one.and_then(|(name, wanted)| {
        let (of, field) = name.split_once('.')?;
        let is_field = is_plain(field) && placeholder(&format!("$[{of}]")).is_some();
        (is_field && !wanted.is_object() && !wanted.is_array()).then_some((of, field, wanted))
    });
    read.ok_or_else(|| bad(format!("the array filter {filter}; expected {{\"name.field\": a plain value}}")))
}

#[derive(Default)]
struct Writer {
    set: Body,
    unset: Body,
    push: Body,
    pull_all: Body,
    array_filters: Vec<Value>,
}

impl Writer {
    fn finish(self) -> MongoUpdate {
        let operators =
            [("$set", self.set), ("$unset", self.unset), ("$push", self.push), ("$pullAll", self.pull_all)];
        let operators = operators.into_iter().filter(|(_, fields)| !fields.is_empty());
        let operators = operators.map(|(name, fields)| (name.to_owned(), Value::Object(fields)));
        MongoUpdate { operators: operators.collect(), array_filters: self.array_filters }
    }

    fn value(&mut self, path: &str, before: &Value, after: &Value) {
        match (before, after) {
            (before, after) if before == after => {}
            (Value::Object(before), Value::Object(after))
                if before.keys().chain(after.keys()).all(|n| is_plain(n)) =>
            {
                self.objects(path, before, after);
            }
            (Value::Array(before), Value::Array(after)) => self.arrays(path, before, after),
            (_, after) => drop(self.set.insert(path.to_owned(), after.clone())),
        }
    }

    fn objects(&mut self, path: &str, before: &Body, after: &Body) {
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            self.unset.insert(join(path, name), json!(""));
        }
        for (name, after) in after {
            match before.get(name) {
                Some(before) => self.value(&join(path, name), before, after),
                None => drop(self.set.insert(join(path, name), after.clone())),
            }
        }
    }

    /// No two operators may touch one array, so one has to say all of it.
    fn arrays(&mut self, path: &str, before: &[Value], after: &[Value]) {
        let head = before.iter().zip(after).take_while(|(b, a)| b == a).count();
        let (old, new) = (&before[head..], &after[head..]);
        let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(b, a)| b == a).count();
        let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
        if old.is_empty() {
            let mut pushed = json!({ "$each": new });
            if tail > 0 {
                pushed["$position"] = json!(head);
            }
            self.push.insert(path.to_owned(), pushed);
        } else if new.is_empty() && is_pulled_alone(old, before) {
            self.pull_all.insert(path.to_owned(), Value::Array(old.to_vec()));
        } else if before.len() == after.len() {
            self.elements(path, before, after);
        } else {
            self.set.insert(path.to_owned(), Value::Array(after.to_vec()));
        }
    }

    fn elements(&mut self, path: &str, before: &[Value], after: &[Value]) {
        let identity = identity(before, after);
        for (index, (before, after)) in before.iter().zip(after).enumerate() {
            if before == after {
                continue;
            }
            let place = match identity {
                Some(identity) => {
                    let placeholder = format!("e{}", self.array_filters.len());
                    self.array_filters.push(json!({ format!("{placeholder}.{identity}"): before[identity] }));
                    format!("$[{placeholder}]")
                }
                None => index.to_string(),
            };
            self.value(&join(path, &place), before, after);
        }
    }
}

/// Whether to pull these values leaves all other elements.
fn is_pulled_alone(old: &[Value], before: &[Value]) -> bool {
    before.iter().filter(|value| old.iter().any(|old| equal(old, value))).count() == old.len()
}

/// By which field the elements of both arrays are told apart, if they stand in the same order.
fn identity(before: &[Value], after: &[Value]) -> Option<&'static str> {
    let known = |value: &&Value| value.is_string() || value.is_number();
    IDENTITIES.into_iter().find(|identity| {
        let mut distinct = HashSet::new();
        before.iter().zip(after).all(|(before, after)| {
            let Some(id) = before.get(identity).filter(known) else { return false };
            let mut key = Vec::new();
            crate::index::encode(id, &mut key);
            after.get(identity) == Some(id) && distinct.insert(key)
        })
    })
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Whether a name can stand in a path.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('.') && !name.starts_with('$') && !name.contains('\0')
}
