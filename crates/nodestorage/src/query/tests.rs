use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn document(body: Value) -> Document {
    let Value::Object(body) = body else { panic!("{body} is not an object") };
    Document { id: DocumentId::new("d1").unwrap(), version: 1, body: Arc::new(body) }
}

fn check(filter: Value, body: Value, expected: bool) {
    let found = Filter::parse(&filter).unwrap().matches(&document(body.clone()), "_version");
    assert_eq!(found, expected, "{filter} of {body}");
}

#[test]
fn a_value_is_compared_as_what_it_is() {
    check(json!({}), json!({"a": 1}), true);
    check(json!({"a": 1}), json!({"a": 1.0}), true);
    check(json!({"a": 1}), json!({"a": "1"}), false);
    check(json!({"a.b": 1}), json!({"a": {"b": 1}}), true);
    check(json!({"a": {"b": 1}}), json!({"a": {"b": 1, "c": 2}}), false);
    check(json!({"_id": "d1", "a": {"$gt": 0}}), json!({"a": 1}), true);
    check(json!({"_id": {"$in": ["d2"]}}), json!({}), false);
}

#[test]
fn null_is_also_what_is_missing() {
    check(json!({"a": null}), json!({}), true);
    check(json!({"a": null}), json!({"a": null}), true);
    check(json!({"a": null}), json!({"a": 0}), false);
    check(json!({"a": {"$ne": null}}), json!({}), false);
    check(json!({"a": {"$exists": false}}), json!({"a": null}), false);
    check(json!({"a": {"$exists": true}}), json!({"a": null}), true);
    check(json!({"a": {"$in": [null, 1]}}), json!({}), true);
    // Of an array, only objects can miss something; each of them can.
    check(json!({"a.b": null}), json!({"a": 5}), true);
    check(json!({"a.b": null}), json!({"a": []}), false);
    check(json!({"a.b": null}), json!({"a": [1, null]}), false);
    check(json!({"a.b": {"$ne": null}}), json!({"a": []}), true);
    check(json!({"a.b": null}), json!({"a": [{"b": 1}, {}]}), true);
    check(json!({"a.b": null}), json!({"a": [{"b": 1}]}), false);
}

/// Each array on the way is looked into as one of elements with that name, and as one with an element of that index: two ways
/// to each next one, which meet again.
#[test]
fn a_path_through_arrays_within_arrays_is_walked_in_no_time() {
    let mut value = json!(7);
    for _ in 0..50 {
        value = json!([{"0": value}]);
    }
    let path = format!("a{}", ".0".repeat(75));
    check(json!({ &path: 7 }), json!({ "a": value }), true);
    check(json!({ &path: 8 }), json!({ "a": value }), false);
}

/// MongoDB's rules: the element of that index, whose own elements count if it is an array at the end of the path; and the
/// field of that name of each element that is an object. An array within an array is not looked into otherwise.
#[test]
fn a_number_in_a_path_is_an_index_and_a_name() {
    for (path, test, found, not_found) in [
        (
            "a.0",
            json!(1),
            vec![
                json!([1]),
                json!([[1]]),
                json!([[2, 1]]),
                json!({"0": 1}),
                json!([{"0": 1}]),
                json!([5, {"0": 1}]),
                json!([{"0": [1]}]),
            ],
            vec![json!([]), json!([[]]), json!([[[1]]]), json!([2, 1]), json!([2, [1]]), json!(1)],
        ),
        // Only an index as it is written is one.
        ("a.+0", json!(1), vec![json!({"+0": 1}), json!([{"+0": 1}])], vec![json!([1])]),
        ("a.00", json!(1), vec![json!({"00": 1}), json!([{"00": 1}])], vec![json!([1])]),
        ("a.0", json!([1]), vec![json!([[1]]), json!([[[1]]])], vec![json!([1]), json!([])]),
        (
            "a.0.0",
            json!(1),
            vec![
                json!([[1]]),
                json!([[[1]]]),
                json!([{"0": 1}]),
                json!([{"0": {"0": 1}}]),
                json!([{"0": [1]}]),
            ],
            vec![json!([1]), json!([[], [1]]), json!([[5], [1]])],
        ),
        (
            "a.0",
            json!(null),
            vec![json!([null]), json!([[null]]), json!([{"b": 1}]), json!([1, {"b": 1}]), json!(5)],
            vec![json!([]), json!([[]]), json!([1]), json!([{"0": 1}])],
        ),
        (
            "a.0",
            json!({"$exists": true}),
            vec![json!([[]]), json!([{}]), json!([null])],
            vec![json!([]), json!(1)],
        ),
        ("a.0", json!({"$size": 1}), vec![json!([[1]]), json!([{"0": [1]}])], vec![json!([1]), json!([[]])]),
        ("a.0", json!({"$elemMatch": {"$gt": 0}}), vec![json!([[0, 1]])], vec![json!([1]), json!([[0]])]),
    ] {
        found.into_iter().for_each(|a| check(json!({path: test}), json!({"a": a}), true));
        not_found.into_iter().for_each(|a| check(json!({path: test}), json!({"a": a}), false));
    }
}

#[test]
fn comparisons_hold_within_one_kind() {
    check(json!({"a": {"$gt": 1, "$lte": 2}}), json!({"a": 2}), true);
    check(json!({"a": {"$gt": 1}}), json!({"a": "x"}), false);
    check(json!({"a": {"$lt": "b"}}), json!({"a": "a"}), true);
    check(json!({"a": {"$lt": 1}}), json!({}), false);
    check(json!({"a": {"$not": {"$lt": 1}}}), json!({}), true);
    check(json!({"a": {"$gte": 9_007_199_254_740_993i64}}), json!({"a": 9_007_199_254_740_992i64}), false);
}

#[test]
fn an_array_matches_by_itself_or_by_an_element() {
    check(json!({"a": 2}), json!({"a": [1, 2]}), true);
    check(json!({"a": [1, 2]}), json!({"a": [1, 2]}), true);
    check(json!({"a": [1]}), json!({"a": [1, 2]}), false);
    check(json!({"a": {"$ne": 2}}), json!({"a": [1, 2]}), false);
    check(json!({"a": {"$gt": 1, "$lt": 1}}), json!({"a": [0, 2]}), true);
    check(json!({"a": {"$elemMatch": {"$gt": 1, "$lt": 1}}}), json!({"a": [0, 2]}), false);
    check(json!({"a.b": 2}), json!({"a": [{"b": 1}, {"b": 2}]}), true);
    check(json!({"a.1.b": 2}), json!({"a": [{"b": 1}, {"b": 2}]}), true);
    check(json!({"a.0.b": 2}), json!({"a": [{"b": 1}, {"b": 2}]}), false);
    check(json!({"a.b": 1, "a.c": 2}), json!({"a": [{"b": 1}, {"c": 2}]}), true);
    // What is missing is `null`, also when it is compared.
    for (operator, found) in [("$gte", true), ("$lte", true), ("$gt", false), ("$lt", false)] {
        check(json!({"b": {operator: null}}), json!({"a": 1}), found);
        check(json!({"a": {operator: null}}), json!({"a": [1, null]}), found);
        check(json!({"a": {operator: null}}), json!({"a": 1}), false);
    }
    // An element that is an array is not spread once more.
    check(json!({"a": {"$elemMatch": {"$gt": 1}}}), json!({"a": [[2]]}), false);
    check(json!({"a": {"$elemMatch": {"$eq": [2]}}}), json!({"a": [[2]]}), true);
    check(json!({"a": {"$elemMatch": {"$elemMatch": {"$gt": 1}}}}), json!({"a": [[2]]}), true);
    check(json!({"a": {"$elemMatch": {"b": 1, "c": 2}}}), json!({"a": [{"b": 1}, {"c": 2}]}), false);
    // `_id` is the document's own only at the top.
    check(json!({"a": {"$elemMatch": {"_id": "x"}}}), json!({"a": [{"_id": "x"}]}), true);
    check(json!({"a": {"$elemMatch": {"_id": "x"}}}), json!({"a": [{"_id": ["x"]}]}), true);
    check(json!({"a": {"$elemMatch": {"_id": "d1"}}}), json!({"a": [{"_id": "x"}]}), false);
    check(json!({"a": {"$elemMatch": {"_id": null}}}), json!({"a": [{"b": 1}]}), true);
    check(json!({"a": {"$elemMatch": {"_id": {"$exists": true}}}}), json!({"a": [{"b": 1}]}), false);
    check(json!({"a": {"$size": 2}}), json!({"a": [1, 2]}), true);
    check(json!({"a": {"$all": [2, 1]}}), json!({"a": [1, 2, 3]}), true);
    check(json!({"a": {"$all": [4, 1]}}), json!({"a": [1, 2, 3]}), false);
}

#[test]
fn filters_are_joined() {
    check(json!({"$or": [{"a": 1}, {"b": 1}]}), json!({"b": 1}), true);
    check(json!({"$and": [{"a": 1}, {"b": 1}]}), json!({"b": 1}), false);
    check(json!({"$nor": [{"a": 1}, {"b": 2}]}), json!({"b": 1}), true);
    check(json!({"a": {"$nin": [1, 2]}}), json!({"a": 3}), true);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    for filter in [
        json!([]),
        json!({"$where": "1"}),
        json!({"a": {"$regex": "x"}}),
        json!({"a": {"$gt": 1, "b": 2}}),
        json!({"a": {"$in": 1}}),
        json!({"a": {"$size": -1}}),
        json!({"a": {"$not": {"b": 1}}}),
        json!({"a": {"$not": {}}}),
        json!({"a": {"$all": [{"$elemMatch": {"b": 1}}]}}),
        json!({"$or": []}),
        json!({"a..b": 1}),
        json!({"a.$.b": 1}),
    ] {
        let refused = Filter::parse(&filter).unwrap_err();
        assert!(matches!(refused, StorageError::Unsupported { .. }), "{filter}: {refused:?}");
    }
    let refused = Filter::parse(&json!({"a": {"$mod": [2, 0]}})).unwrap_err();
    assert_eq!(refused.to_string(), "the operator $mod is not supported by filters");
}

#[test]
fn a_projection_shows_what_was_asked_for() {
    let paths = |paths: &[&str]| paths.iter().map(|path| FieldPath::new(path).unwrap()).collect::<Vec<_>>();
    let whole = document(json!({"a": 1, "b": {"c": 2, "d": 3}, "l": [{"x": 1, "y": 2}, 5]})).body;
    let shown = |projection: Projection| Value::Object(projection.of(&whole));
    assert_eq!(shown(Projection::Whole), Value::Object((*whole).clone()));
    assert_eq!(
        shown(Projection::Only(paths(&["a", "b.c", "l.x", "no"]))),
        json!({"a": 1, "b": {"c": 2}, "l": [{"x": 1}]})
    );
    assert_eq!(
        shown(Projection::Without(paths(&["a", "b.c", "l.y", "no.no"]))),
        json!({"b": {"d": 3}, "l": [{"x": 1}, 5]})
    );
}

proptest! {
    /// JSON's would not: its parser may be off by the last bit.
    #[test]
    fn a_cursor_of_any_number_is_the_same_afterwards(bits in any::<u64>(), part in any::<f64>(), whole in any::<i64>(), sorted_there in any::<bool>()) {
        let keys = [f64::from_bits(bits), part].into_iter().filter(|float| float.is_finite()).map(Value::from);
        let keys: Vec<_> = keys.chain([whole.into(), bits.into()]).collect();
        let cursor = Cursor { keys, id: DocumentId::new("d1").unwrap(), sorted_there };
        prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
    }

    #[test]
    fn any_text_is_a_cursor_or_refused(text in "[0-9a-f]{0,40}") {
        if let Ok(cursor) = text.parse::<Cursor>() {
            prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
    }

    #[test]
    fn any_filter_is_refused_or_answers(value in crate::diff::tests::values(), body in crate::diff::tests::values(),
        operator in prop::sample::select(vec!["$eq", "$ne", "$gt", "$in", "$nin", "$all", "$size", "$not", "$elemMatch"])) {
        let body = json!({"a": body});
        for filter in [json!({"a": value}), json!({"a.b": {operator: value}}), json!({"a": {operator: value}})] {
            if let Ok(filter) = Filter::parse(&filter) {
                filter.matches(&document(body.clone()), "_version");
            }
        }
    }

    #[test]
    fn not_is_the_opposite(value in crate::diff::tests::values(), body in crate::diff::tests::values()) {
        let document = document(json!({"a": body}));
        for (one, other) in [("$eq", "$ne"), ("$in", "$nin")] {
            let value = if one == "$in" { json!([value]) } else { value.clone() };
            let found = |operator: &str| {
                Filter::parse(&json!({"a": {operator: value}})).unwrap().matches(&document, "_version")
            };
            prop_assert_ne!(found(one), found(other));
        }
    }
}

#[test]
fn a_beginning_of_a_text_is_a_pattern() {
    check(json!({"a": {"$regex": "^ab"}}), json!({"a": "abc"}), true);
    check(json!({"a": {"$regex": "^ab"}}), json!({"a": ["x", "ab"]}), true);
    check(json!({"a": {"$regex": "^ab"}}), json!({"a": "xab"}), false);
    check(json!({"a": {"$regex": "^"}}), json!({"a": ""}), true);
    check(json!({"a": {"$regex": r"^a\.b"}}), json!({"a": "a.bc"}), true);
    check(json!({"a": {"$regex": r"^a\.b"}}), json!({"a": "axbc"}), false);
    for pattern in [json!("ab"), json!("^a.b"), json!("^a\\d"), json!("^a$"), json!(1), json!("^(a)")] {
        let refused = Filter::parse(&json!({"a": {"$regex": pattern}})).unwrap_err();
        assert!(matches!(refused, StorageError::Unsupported { .. }), "{pattern}");
    }
}

#[test]
fn a_cursor_survives_as_text_and_anything_else_is_refused() {
    let id = DocumentId::new("d\"1").unwrap();
    let cursor = Cursor { keys: vec![json!(0.1), json!(null), json!(["x"])], id, sorted_there: false };
    let text = cursor.to_string();
    assert_eq!(text.parse::<Cursor>().unwrap(), cursor);
    let (longer, shorter) = (format!("{text}00"), &text[..text.len() - 2]);
    for text in ["", "9", "92", "90", "9x", "ää", "[]", "c0", &longer, shorter] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}
