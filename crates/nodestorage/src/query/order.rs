//! The order of values, as MongoDB has it: null, numbers, text, objects, arrays, booleans.

use std::{cmp::Ordering, sync::LazyLock};

use serde_json::{Number, Value};

use crate::Body;

/// The kinds of values in their order. Operators such as `$gt` compare only values of one kind.
pub(crate) fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Number(_) => 1,
        Value::String(_) => 2,
        Value::Object(_) => 3,
        Value::Array(_) => 4,
        Value::Bool(_) => 5,
    }
}

/// Compares any two values. Numbers are compared by what they are, not by how they are written: 1 equals 1.0.
pub(crate) fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => each(a.iter(), b.iter(), compare),
        (Value::Object(a), Value::Object(b)) => each(by_name(a), by_name(b), |(name_a, a), (name_b, b)| {
            kind(a).cmp(&kind(b)).then_with(|| name_a.cmp(name_b)).then_with(|| compare(a, b))
        }),
        _ => kind(a).cmp(&kind(b)),
    }
}

/// Whether two values are the same by [`compare`].
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    compare(a, b).is_eq()
}

/// Whether maps keep the order in which their members came. Any crate of a program may make `serde_json` do so, by its feature
/// `preserve_order`.
static AS_INSERTED: LazyLock<bool> = LazyLock::new(|| {
    let map: Body = [("b", Value::Null), ("a", Value::Null)]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect();
    map.keys().next().is_some_and(|first| first == "b")
});

/// The members of an object in the order of their names, whatever order the map has.
pub(crate) fn by_name(members: &Body) -> impl Iterator<Item = (&String, &Value)> {
    let sorted = AS_INSERTED.then(|| {
        let mut sorted: Vec<_> = members.iter().collect();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        sorted
    });
    let plain = sorted.is_none().then(|| members.iter());
    sorted.into_iter().flatten().chain(plain.into_iter().flatten())
}

/// An object that is written with all names in it in order.
#[cfg(feature = "mongodb")]
pub(crate) struct ByName<'b>(pub(crate) &'b Body);

#[cfg(feature = "mongodb")]
impl serde::Serialize for ByName<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *AS_INSERTED {
            serializer.collect_map(by_name(self.0).map(|(name, value)| (name, Sorted(value))))
        } else {
            self.0.serialize(serializer)
        }
    }
}

/// A value that is written with all names in it in order.
#[cfg(feature = "mongodb")]
struct Sorted<'v>(&'v Value);

#[cfg(feature = "mongodb")]
impl serde::Serialize for Sorted<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(members) => {
                serializer.collect_map(by_name(members).map(|(name, value)| (name, Sorted(value))))
            }
            Value::Array(elements) => serializer.collect_seq(elements.iter().map(Sorted)),
            other => other.serialize(serializer),
        }
    }
}

fn each<T>(
    mut a: impl Iterator<Item = T>,
    mut b: impl Iterator<Item = T>,
    mut compare: impl FnMut(T, T) -> Ordering,
) -> Ordering {
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) => match compare(a, b) {
                Ordering::Equal => {}
                order => return order,
            },
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

fn numbers(a: &Number, b: &Number) -> Ordering {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(a), None) => whole_with_float(a, float(b)),
        (None, Some(b)) => whole_with_float(b, float(a)).reverse(),
        (None, None) => float(a).partial_cmp(&float(b)).expect("JSON has no NaN"),
    }
}

/// Exact, also where a float can't hold the whole number.
fn whole_with_float(whole: i128, float: f64) -> Ordering {
    // Every whole number of JSON is far within 2^100, so a float beyond decides by its sign.
    if float.abs() >= 2f64.powi(100) {
        return 0f64.partial_cmp(&float).expect("JSON has no NaN");
    }
    let floor = float.floor();
    whole.cmp(&(floor as i128)).then(if float > floor { Ordering::Less } else { Ordering::Equal })
}

pub(crate) fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

pub(crate) fn float(number: &Number) -> f64 {
    number.as_f64().expect("every JSON number has a float")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::diff::tests::values;

    #[test]
    fn kinds_stand_in_mongodbs_order() {
        let ordered = [
            json!(null),
            json!(i64::MIN),
            json!(-1.5),
            json!(0),
            json!(0.5),
            json!(1),
            json!(9_007_199_254_740_992i64),
            json!(9_007_199_254_740_993i64),
            json!(u64::MAX),
            json!(1e300),
            json!(""),
            json!("a"),
            json!({}),
            json!({"a": 1}),
            json!([]),
            json!([1]),
            json!([1, 2]),
            json!([2]),
            json!(false),
            json!(true),
        ];
        for (n, a) in ordered.iter().enumerate() {
            for (m, b) in ordered.iter().enumerate() {
                assert_eq!(compare(a, b), n.cmp(&m), "{a} and {b}");
            }
        }
        assert!(equal(&json!(1), &json!(1.0)) && equal(&json!([{"a": 0}]), &json!([{"a": -0.0}])));
    }

    /// Also with the feature `preserve_order` of `serde_json`.
    #[test]
    fn objects_are_compared_by_name_however_they_were_made() {
        let made = |names: [&str; 3]| -> Value {
            names.map(|name| (name.to_owned(), json!({"z": 1, "y": name}))).into_iter().collect()
        };
        let (a, b) = (made(["a", "b", "c"]), made(["c", "a", "b"]));
        assert!(equal(&a, &b));
        let mut keys = [Vec::new(), Vec::new()];
        crate::index::key::encode(&a, &mut keys[0]);
        crate::index::key::encode(&b, &mut keys[1]);
        assert_eq!(keys[0], keys[1]);
    }

    proptest! {
        #[cfg(feature = "mongodb")]
        #[test]
        fn what_is_written_by_name_is_the_same_json(value in values()) {
            prop_assert_eq!(serde_json::to_string(&Sorted(&value)).unwrap(), {
                // With maps that sort, the plain text is the one in order.
                if *AS_INSERTED { return Ok(()) }
                value.to_string()
            });
        }

        #[test]
        fn the_order_is_total(a in values(), b in values(), c in values()) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
            prop_assert!(equal(&a, &a));
        }
    }
}
