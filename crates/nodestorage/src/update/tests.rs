use proptest::prelude::*;
use serde_json::json;

use super::*;

fn body(value: Value) -> Body {
    match value {
        Value::Object(body) => body,
        other => panic!("{other} is not an object"),
    }
}

fn check(before: Value, update: Value, after: Value) {
    let mut body = body(before.clone());
    Update::parse(&update).unwrap().apply(&mut body).unwrap_or_else(|e| panic!("{update} of {before}: {e}"));
    assert_eq!(Value::Object(body), after, "{update} of {before}");
}

#[test]
fn elements_of_arrays_are_not_renamed() {
    let rename = json!({"$rename": {"a.b": "c"}});
    check_refused(json!({"a": [{"b": 1}]}), rename.clone(), "$rename of a.b, which is an array");
    check_refused(json!({"a": null}), rename.clone(), "$rename of a.b, which is null");
    check(json!({"a": {"c": 1}}), rename, json!({"a": {"c": 1}}));
    check_refused(
        json!({"a": 1, "b": [1]}),
        json!({"$rename": {"a": "b.0"}}),
        "$rename of b.0, which is an array",
    );
}

fn check_refused(before: Value, update: Value, message: &str) {
    let error = Update::parse(&update).unwrap().apply(&mut body(before)).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn set_and_unset_reach_into_objects_and_arrays() {
    check(json!({}), json!({"$set": {"a.b": 1, "c": null}}), json!({"a": {"b": 1}, "c": null}));
    check(json!({"a": [1, {"b": 2}]}), json!({"$set": {"a.1.b": 3}}), json!({"a": [1, {"b": 3}]}));
    check(json!({"a": [1]}), json!({"$set": {"a.3": 4}}), json!({"a": [1, null, null, 4]}));
    check(json!({"a": {"1": 0}}), json!({"$set": {"a.1": 5}}), json!({"a": {"1": 5}}));
    check(json!({"a": {"b": 1, "c": 2}}), json!({"$unset": {"a.b": "", "x.y": 1}}), json!({"a": {"c": 2}}));
    check(json!({"a": [1, 2, 3]}), json!({"$unset": {"a.1": ""}}), json!({"a": [1, null, 3]}));
    check_refused(json!({"a": 1}), json!({"$set": {"a.b": 1}}), "$set of a.b, which is a number");
    check_refused(json!({"a": []}), json!({"$set": {"a.b": 1}}), "$set of a.b, which is an array");
    check_refused(json!({"a": [0, 1]}), json!({"$set": {"a.01": 1}}), "$set of a.01, which is an array");
    check(json!({"a": [1, 2]}), json!({"$unset": {"a.+1": ""}}), json!({"a": [1, 2]}));
    check_refused(
        json!({"a": []}),
        json!({"$set": {"a.99999999": 1}}),
        "a.99999999 is more than 1000 elements behind the end of its array",
    );
}

#[test]
fn numbers_stay_whole_and_exact() {
    check(json!({"n": 1}), json!({"$inc": {"n": 2, "m": -3}}), json!({"n": 3, "m": -3}));
    check(json!({"n": i64::MAX}), json!({"$inc": {"n": 1}}), json!({"n": 9_223_372_036_854_775_808u64}));
    check(json!({"n": 1}), json!({"$inc": {"n": 0.5}}), json!({"n": 1.5}));
    check(json!({"n": 6}), json!({"$mul": {"n": 7, "m": 2}}), json!({"n": 42, "m": 0}));
    check_refused(json!({"n": u64::MAX}), json!({"$inc": {"n": 1}}), "$inc of n overflows");
    check_refused(json!({"n": 1e308}), json!({"$mul": {"n": 10.0}}), "$mul of n overflows");
    check_refused(json!({"n": "1"}), json!({"$inc": {"n": 1}}), "$inc of n, which is a string");
    check_refused(json!({"n": null}), json!({"$inc": {"n": 1}}), "$inc of n, which is null");
}

#[test]
fn min_and_max_compare_across_kinds() {
    check(json!({"a": 5, "b": 5}), json!({"$min": {"a": 3}, "$max": {"b": 3}}), json!({"a": 3, "b": 5}));
    check(json!({"a": 5}), json!({"$max": {"a": "x"}, "$min": {"b": 1}}), json!({"a": "x", "b": 1}));
}

#[test]
fn arrays_are_pushed_to_and_pulled_from() {
    check(json!({}), json!({"$push": {"l": 1}}), json!({"l": [1]}));
    check(json!({"l": [1]}), json!({"$push": {"l": [2]}}), json!({"l": [1, [2]]}));
    let at = |position: i64| json!({"$push": {"l": {"$each": [8, 9], "$position": position}}});
    check(json!({"l": [1, 2]}), at(1), json!({"l": [1, 8, 9, 2]}));
    check(json!({"l": [1, 2]}), at(-1), json!({"l": [1, 8, 9, 2]}));
    check(json!({"l": [1, 2]}), at(100), json!({"l": [1, 2, 8, 9]}));
    let slice = |slice: i64| json!({"$push": {"l": {"$each": [3], "$slice": slice}}});
    check(json!({"l": [1, 2]}), slice(-2), json!({"l": [2, 3]}));
    check(json!({"l": [1, 2]}), slice(1), json!({"l": [1]}));
    check(json!({"l": [1]}), json!({"$addToSet": {"l": 1.0}}), json!({"l": [1]}));
    check(json!({"l": [1]}), json!({"$addToSet": {"l": {"$each": [2, 1, 2]}}}), json!({"l": [1, 2]}));
    check(json!({"l": [1, 2, 1]}), json!({"$pull": {"l": 1, "x": 1}}), json!({"l": [2]}));
    check(json!({"l": [1, 5, 9]}), json!({"$pull": {"l": {"$gte": 5}}}), json!({"l": [1]}));
    check(
        json!({"l": [{"id": 1, "n": 1}, {"id": 2}, 3]}),
        json!({"$pull": {"l": {"id": 1}}}),
        json!({"l": [{"id": 2}, 3]}),
    );
    let of_ids = json!({"l": [{"_id": "x"}, {"_id": "y"}, {"n": 1}]});
    let pull = |condition: Value| json!({"$pull": {"l": {"_id": condition}}});
    check(of_ids.clone(), pull(json!("x")), json!({"l": [{"_id": "y"}, {"n": 1}]}));
    check(of_ids.clone(), pull(json!({"$ne": "x"})), json!({"l": [{"_id": "x"}]}));
    check(of_ids, pull(json!(null)), json!({"l": [{"_id": "x"}, {"_id": "y"}]}));
    check_refused(json!({"l": 1}), json!({"$push": {"l": 1}}), "$push of l, which is a number");
    check_refused(json!({"l": "x"}), json!({"$pull": {"l": 1}}), "$pull of l, which is a string");
}

#[test]
fn a_field_is_renamed() {
    check(
        json!({"a": {"b": 1}}),
        json!({"$rename": {"a.b": "c.d", "x": "y"}}),
        json!({"a": {}, "c": {"d": 1}}),
    );
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    for (update, message) in [
        (json!(1), "an update that is not an object is not supported by updates"),
        (json!({"gold": 1}), "gold of something else than an object of fields is not supported by updates"),
        (json!({"$bit": {"a": 1}}), "the operator $bit is not supported by updates"),
        (json!({"$set": {"a": 1}, "$inc": {"a.b": 1}}), "two operators on a is not supported by updates"),
        (json!({"$rename": {"a": "b", "b": "c"}}), "two operators on b is not supported by updates"),
        (json!({"$push": {"a": {"$each": [1], "$sort": 1}}}), "$push with $sort is not supported by updates"),
        (json!({"$push": {"a": {"$slice": 1}}}), "$push without a list in $each is not supported by updates"),
        (json!({"$inc": {"a": "1"}}), "$inc by something else than a number is not supported by updates"),
        (json!({"$set": {"_id": 1}}), "an update of _id is not supported by updates"),
    ] {
        assert_eq!(Update::parse(&update).unwrap_err().to_string(), message);
    }
    assert!(Update::parse(&json!({"$set": {"a..b": 1}})).is_err());
    assert!(Update::parse(&json!({"$set": {"a.$.b": 1}})).is_err());
}

proptest! {
    #[test]
    fn any_update_is_refused_or_applied(before in crate::diff::tests::values(), argument in crate::diff::tests::values(),
        path in "[abc.0-2]{1,5}", operator in prop::sample::select(vec!["$set", "$unset", "$inc", "$mul", "$min", "$max",
            "$rename", "$push", "$addToSet", "$pull"])) {
        let mut before = Body::from_iter([("a".to_owned(), before)]);
        if let Ok(update) = Update::parse(&json!({ operator: { path: argument } })) {
            let _ = update.apply(&mut before);
        }
    }
}
