//! The laws of diffs: applying one to *before* gives *after*, in every form.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn body(value: Value) -> Body {
    match value {
        Value::Object(body) => body,
        other => panic!("{other} is not an object"),
    }
}

fn check(before: Value, after: Value, json_patch: Value, merge_patch: Option<Value>) {
    let (before, after) = (as_state(before).unwrap(), as_state(after).unwrap());
    let diff = Diff::between(before.as_ref(), after.as_ref(), 7);
    assert_eq!(serde_json::to_value(&diff.json_patch).unwrap(), json_patch);
    assert_eq!(diff.merge_patch, merge_patch);
    assert_eq!(diff.apply(before).unwrap(), after);
}

#[test]
fn only_what_changed_is_named() {
    check(
        json!({"gold": 1, "items": {"sword": 1, "bow": 2}, "name": "ann"}),
        json!({"gold": 2, "items": {"sword": 1, "axe": 3}, "name": "ann"}),
        json!([
            {"op": "replace", "path": "/gold", "value": 2},
            {"op": "remove", "path": "/items/bow"},
            {"op": "add", "path": "/items/axe", "value": 3},
        ]),
        Some(json!({"gold": 2, "items": {"bow": null, "axe": 3}})),
    );
}

#[test]
fn equal_states_have_an_empty_diff() {
    check(json!({"a": [1, null]}), json!({"a": [1, null]}), json!([]), Some(json!({})));
    check(Value::Null, Value::Null, json!([]), Some(Value::Null));
}

#[test]
fn creation_and_deletion_replace_the_whole() {
    check(
        Value::Null,
        json!({"a": 1}),
        json!([{"op": "replace", "path": "", "value": {"a": 1}}]),
        Some(json!({"a": 1})),
    );
    check(
        json!({"a": 1}),
        Value::Null,
        json!([{"op": "replace", "path": "", "value": null}]),
        Some(Value::Null),
    );
}

#[test]
fn a_null_can_not_be_said_by_a_merge_patch() {
    let set = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    check(json!({}), json!({"a": null}), set("/a", json!(null)), None);
    check(json!({}), json!({"a": {"b": null}}), set("/a", json!({"b": null})), None);
    // In an array and in a place that does not change, it can.
    check(json!({}), json!({"a": [null]}), set("/a", json!([null])), Some(json!({"a": [null]})));
    check(json!({"n": null}), json!({"n": null, "a": 1}), set("/a", json!(1)), Some(json!({"a": 1})));
}

#[test]
fn an_insertion_into_the_middle_is_one_operation() {
    let before: Vec<_> = (0..1000).map(|n| json!({"id": n})).collect();
    let mut after = before.clone();
    after.insert(500, json!({"id": "new"}));
    let patch = json!([{"op": "add", "path": "/list/500", "value": {"id": "new"}}]);
    check(json!({"list": before}), json!({"list": after}), patch, Some(json!({"list": after})));
}

#[test]
fn changes_far_apart_in_an_array_leave_the_rest_alone() {
    check(
        json!({"l": [1, 2, 3, 4, 5, 6, 7, 8]}),
        json!({"l": [1, 3, 4, 5, 60, 7, 8, 9]}),
        json!([
            {"op": "add", "path": "/l/8", "value": 9},
            {"op": "replace", "path": "/l/5", "value": 60},
            {"op": "remove", "path": "/l/1"},
        ]),
        Some(json!({"l": [1, 3, 4, 5, 60, 7, 8, 9]})),
    );
}

#[test]
fn a_move_in_an_array_is_a_move() {
    let list = |l: &[&str]| json!({ "l": l });
    for (after, moves) in [
        (["b", "c", "d", "a", "e"], vec![("/l/0", "/l/3")]),
        (["d", "a", "b", "c", "e"], vec![("/l/3", "/l/0")]),
        (["c", "d", "e", "a", "b"], vec![("/l/0", "/l/4"), ("/l/0", "/l/4")]),
        (["d", "e", "a", "b", "c"], vec![("/l/3", "/l/0"), ("/l/4", "/l/1")]),
    ] {
        let moves: Vec<_> =
            moves.iter().map(|(from, to)| json!({"op": "move", "from": from, "path": to})).collect();
        check(list(&["a", "b", "c", "d", "e"]), list(&after), json!(moves), Some(list(&after)));
    }
}

#[test]
fn odd_keys_are_escaped() {
    check(
        json!({"a/b": 1, "~": 1, "": 1, "ключ": 1}),
        json!({"a/b": 2, "~": 2, "": 2, "ключ": 2}),
        json!([
            {"op": "replace", "path": "/", "value": 2},
            {"op": "replace", "path": "/a~1b", "value": 2},
            {"op": "replace", "path": "/~0", "value": 2},
            {"op": "replace", "path": "/ключ", "value": 2},
        ]),
        Some(json!({"a/b": 2, "~": 2, "": 2, "ключ": 2})),
    );
}

#[test]
fn a_patch_that_does_not_fit_is_refused() {
    let patch: json_patch::Patch =
        serde_json::from_value(json!([{"op": "remove", "path": "/gone"}])).unwrap();
    assert!(matches!(apply_json_patch(Some(Body::new()), &patch), Err(DiffError::DoesNotFit(_))));
    assert_eq!(apply_merge_patch(None, &json!([1])), Err(DiffError::NotAnObject("an array")));
}

/// The test cases of RFC 7396, appendix A, whose targets and results are objects.
#[test]
fn merge_patches_do_what_their_rfc_shows() {
    for (target, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let result = body(result);
        assert_eq!(apply_merge_patch(Some(body(target.clone())), &patch).unwrap().as_ref(), Some(&result));
        let own = Diff::between(Some(&body(target.clone())), Some(&result), 1).merge_patch.unwrap();
        assert_eq!(apply_merge_patch(Some(body(target)), &own).unwrap(), Some(result));
    }
}

/// The examples of RFC 6902, appendix A, that are about objects; those that must fail have no result.
#[test]
fn json_patches_do_what_their_rfc_shows() {
    for (before, patch, result) in [
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux"}]),
            Some(json!({"baz": "qux", "foo": "bar"})),
        ),
        (
            json!({"foo": ["bar", "baz"]}),
            json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
            Some(json!({"foo": ["bar", "qux", "baz"]})),
        ),
        (
            json!({"baz": "qux", "foo": "bar"}),
            json!([{"op": "remove", "path": "/baz"}]),
            Some(json!({"foo": "bar"})),
        ),
        (
            json!({"foo": ["bar", "qux", "baz"]}),
            json!([{"op": "remove", "path": "/foo/1"}]),
            Some(json!({"foo": ["bar", "baz"]})),
        ),
        (
            json!({"baz": "qux"}),
            json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
            Some(json!({"baz": "boo"})),
        ),
        (
            json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
            json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
            Some(json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}})),
        ),
        (
            json!({"foo": ["all", "grass", "cows", "eat"]}),
            json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
            Some(json!({"foo": ["all", "cows", "eat", "grass"]})),
        ),
        (
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
            json!([{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}]),
            Some(json!({"baz": "qux", "foo": ["a", 2, "c"]})),
        ),
        (json!({"baz": "qux"}), json!([{"op": "test", "path": "/baz", "value": "bar"}]), None),
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
            Some(json!({"foo": "bar", "child": {"grandchild": {}}})),
        ),
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
            Some(json!({"foo": "bar", "baz": "qux"})),
        ),
        (json!({"foo": "bar"}), json!([{"op": "add", "path": "/baz/bat", "value": "qux"}]), None),
        (
            json!({"/": 9, "~1": 10}),
            json!([{"op": "test", "path": "/~01", "value": 10}]),
            Some(json!({"/": 9, "~1": 10})),
        ),
        (json!({"/": 9, "~1": 10}), json!([{"op": "test", "path": "/~01", "value": "10"}]), None),
        (
            json!({"foo": ["bar"]}),
            json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
            Some(json!({"foo": ["bar", ["abc", "def"]]})),
        ),
    ] {
        let parsed = serde_json::from_value(patch.clone()).unwrap();
        let actual = apply_json_patch(Some(body(before)), &parsed).ok().flatten().map(Value::Object);
        assert_eq!(actual, result, "{patch}");
    }
}

#[test]
fn a_stored_diff_keeps_the_patch_that_deletes() {
    for merge_patch in [None, Some(Value::Null), Some(json!({"a": null}))] {
        let diff = Diff { merge_patch, ..Diff::empty(3) };
        let json = serde_json::to_string(&diff).unwrap();
        assert_eq!(serde_json::from_str::<Diff>(&json).unwrap(), diff, "{json}");
    }
}

fn check_mongo(before: Value, after: Value, operators: Value, array_filters: Value) {
    let (before, after) = (body(before), body(after));
    let update = MongoUpdate::between(&before, &after).unwrap();
    assert_eq!(Value::Object(update.operators.clone()), operators);
    assert_eq!(Value::Array(update.array_filters.clone()), array_filters);
    let mut applied = before;
    update.apply(&mut applied).unwrap();
    assert_eq!(applied, after);
}

#[test]
fn mongodb_is_told_only_what_changed() {
    check_mongo(
        json!({"gold": 1, "bag": {"axe": 1, "bow": 2}, "old": true}),
        json!({"gold": 2, "bag": {"axe": 1, "rope": 3}}),
        json!({"$set": {"gold": 2, "bag.rope": 3}, "$unset": {"old": "", "bag.bow": ""}}),
        json!([]),
    );
    check_mongo(json!({"a": [1]}), json!({"a": [1]}), json!({}), json!([]));
}

#[test]
fn mongodb_is_told_of_elements_by_what_they_are() {
    let players = |gold: [u64; 3]| {
        let players: Vec<_> =
            gold.iter().enumerate().map(|(n, gold)| json!({"id": n, "gold": gold})).collect();
        json!({ "players": players })
    };
    check_mongo(
        players([1, 2, 3]),
        players([1, 5, 9]),
        json!({"$set": {"players.$[e0].gold": 5, "players.$[e1].gold": 9}}),
        json!([{"e0.id": 1}, {"e1.id": 2}]),
    );
    // The update finds its elements when others have come before them.
    let update = MongoUpdate::between(&body(players([1, 2, 3])), &body(players([1, 2, 9]))).unwrap();
    let mut moved = body(json!({"players": [{"id": 7}, {"id": 2, "gold": 3, "name": "x"}]}));
    update.apply(&mut moved).unwrap();
    assert_eq!(moved["players"], json!([{"id": 7}, {"id": 2, "gold": 9, "name": "x"}]));
}

#[test]
fn an_update_that_can_not_be_read_says_what_was_expected() {
    let before = json!({"l": [{"id": 1, "m": [{"id": 2, "n": 3}]}], "o": {"01": [{"id": 1}]}});
    let check = |operators: Value, array_filters: Value, expected: &str| {
        let array_filters = array_filters.as_array().unwrap().clone();
        let update = MongoUpdate { operators: body(operators), array_filters };
        let mut applied = body(before.clone());
        let refused = update.apply(&mut applied).unwrap_err().to_string();
        assert!(refused.contains(expected), "{update:?}: {refused}");
        assert_eq!(applied, body(before.clone()), "nothing is half done");
    };
    let set = |path: &str| json!({"$set": {path: 9}});
    let e = json!([{"e.id": 1}]);
    check(json!({"$set": 9}), json!([]), "expected an object of paths");
    for path in ["l.$[].n", "l.$.n", "l.$[e.n", "l.$e.n", "l.$[[e]].n", "l.$[E].n", "l.$[1].n"] {
        check(set(path), e.clone(), "expected $[name] of an array filter");
    }
    check(set("l.$[f].n"), e.clone(), "no array filter for $[f]");
    check(set("o.$[e].n"), e.clone(), "expected an array for $[e]");
    // An index is written in one way only: these are names.
    for path in ["l.+0.m.$[e].n", "l.00.m.$[e].n", "l.1.m.$[e].n"] {
        check(set(path), e.clone(), "nothing at");
    }
    check(set("l.$[e].n"), json!([{"e.id": 1}, {"e.id": 2}]), "two array filters for e");
    for filter in [
        json!(1),
        json!({}),
        json!({"e.id": 1, "f.id": 2}),
        json!({"e": 1}),
        json!({"e.id": {"$gt": 1}}),
        json!({"e.a.b": 1}),
    ] {
        check(set("l.$[e].n"), json!([filter]), "expected {\"name.field\": a plain value}");
    }
    let update =
        MongoUpdate { operators: body(set("l.0.m.$[e].n")), array_filters: vec![json!({"e.id": 2})] };
    let mut applied = body(before.clone());
    update.apply(&mut applied).unwrap();
    assert_eq!(applied["l"][0]["m"][0]["n"], 9);
}

#[test]
fn mongodb_is_told_of_arrays_in_the_shortest_way() {
    let list = |list: Value| json!({ "l": list });
    check_mongo(
        list(json!([1, 2])),
        list(json!([1, 2, 3, 4])),
        json!({"$push": {"l": {"$each": [3, 4]}}}),
        json!([]),
    );
    check_mongo(
        list(json!([1, 4])),
        list(json!([1, 2, 3, 4])),
        json!({"$push": {"l": {"$each": [2, 3], "$position": 1}}}),
        json!([]),
    );
    check_mongo(list(json!([1, 2, 3])), list(json!([1, 3])), json!({"$pullAll": {"l": [2]}}), json!([]));
    check_mongo(list(json!([1, [1], 3])), list(json!([[1], 3])), json!({"$pullAll": {"l": [1]}}), json!([]));
    // To pull the one would take the other too.
    check_mongo(list(json!([2, 2, 3])), list(json!([2, 3])), json!({"$set": {"l": [2, 3]}}), json!([]));
    check_mongo(list(json!([1, 2, 3])), list(json!([1, 9, 3])), json!({"$set": {"l.1": 9}}), json!([]));
    check_mongo(list(json!([1, 2, 3])), list(json!([9, 8])), json!({"$set": {"l": [9, 8]}}), json!([]));
}

#[test]
fn a_name_that_is_no_path_is_told_with_what_it_is_in() {
    check_mongo(
        json!({"o": {"a.b": 1, "c": 1}}),
        json!({"o": {"a.b": 2, "c": 1}}),
        json!({"$set": {"o": {"a.b": 2, "c": 1}}}),
        json!([]),
    );
    for name in ["a.b", "$a", "", "_id"] {
        let (before, after) = (body(json!({ name: 1 })), body(json!({ name: 2 })));
        assert_eq!(MongoUpdate::between(&before, &after), None, "{name}");
        let with = |n: u64| body(json!({ name: 1, "n": n }));
        let update = MongoUpdate::between(&with(1), &with(2)).unwrap();
        assert_eq!(Value::Object(update.operators), json!({"$set": {"n": 2}}));
    }
}

#[test]
fn a_diff_tells_mongodb_too() {
    let before = body(json!({"gold": 1}));
    let diff = Diff::between(Some(&before), Some(&body(json!({"gold": 2}))), 2);
    let update = diff.mongo_update(&before).unwrap().unwrap();
    assert_eq!(Value::Object(update.operators), json!({"$set": {"gold": 2}}));
    let deleted = Diff::between(Some(&before), None, 3);
    assert_eq!(deleted.mongo_update(&before).unwrap(), None);
    let other = Diff::between(Some(&body(json!({"a": [1]}))), Some(&body(json!({"a": []}))), 3);
    assert!(matches!(other.mongo_update(&before), Err(DiffError::DoesNotFit(_))));
}

/// A document of about a megabyte.
fn large() -> Body {
    let games: Vec<_> = (0..7_000)
        .map(|n| json!({"id": n, "name": format!("the game of number {n}"), "tags": ["a", "b", n % 7], "at": {"x": n, "y": -n}, "note": "x".repeat(60)}))
        .collect();
    body(json!({"games": games, "title": "large"}))
}

#[test]
fn a_small_change_of_a_large_document_is_a_small_patch() {
    let before = large();
    assert!(serde_json::to_vec(&before).unwrap().len() > 1_000_000);
    let changes: [fn(&mut Vec<Value>); 6] = [
        |games| games[3_000]["at"]["x"] = json!("moved"),
        |games| drop(games.remove(17)),
        |games| games.insert(5_990, json!({"id": "new"})),
        |games| {
            let game = games.remove(10);
            games.insert(5_000, game);
        },
        |games| games.swap(100, 5_900),
        |games| {
            games[1]["name"] = json!("first");
            games.remove(2_500);
            games.push(json!({"id": "last"}));
        },
    ];
    for (nth, change) in changes.into_iter().enumerate() {
        let mut after = before.clone();
        change(after["games"].as_array_mut().unwrap());
        let diff = Diff::between(Some(&before), Some(&after), 2);
        let len = serde_json::to_vec(&diff.json_patch).unwrap().len();
        assert!(len < 1_000, "change {nth} takes {len} bytes");
        assert_eq!(diff.apply(Some(before.clone())).unwrap(), Some(after));
    }
}

/// What follows a document is sent its patches, one after the other: none may be many times the document, and none may take
/// longer to apply than the document took to write.
#[test]
fn a_large_change_is_no_longer_than_what_it_makes() {
    let numbers = |value: u32| json!(vec![value; 200_000]);
    let fields = |value: u32| (0..20_000).map(|n| (format!("k{n}"), json!(value))).collect::<Body>();
    let long = "x".repeat(100_000);
    let rows = |value: u32| (0..3_000).map(|n| json!({"id": n, "n": [value, value]})).collect::<Vec<_>>();
    let mut shuffled: Vec<_> = (0..200_000).map(Value::from).collect();
    let counted = json!(shuffled);
    (0..400).for_each(|n| shuffled.swap(n, 199_999 - n));
    for (before, after) in [
        (json!({"a": numbers(0), "b": 1}), json!({"a": numbers(1), "b": 1})),
        (json!({"a": numbers(0), "b": 1}), json!({"a": [], "b": 1})),
        (json!({"a": [], "b": 1}), json!({"a": numbers(0), "b": 1})),
        (json!({"a": fields(0)}), json!({"a": fields(1)})),
        (json!(fields(0)), json!(fields(1))),
        (json!(fields(0)), json!({})),
        (json!({"a": rows(0)}), json!({"a": rows(1)})),
        (json!({&long: rows(0)}), json!({&long: rows(1)})),
        (json!({&long: {"a": 1, "b": 1, "c": 1}}), json!({&long: {"a": 2, "b": 2, "c": 2}})),
        (json!({"a": counted}), json!({"a": shuffled})),
    ] {
        let diff = Diff::between(Some(&body(before.clone())), Some(&body(after.clone())), 2);
        let (patch, whole) = (serde_json::to_vec(&diff.json_patch).unwrap().len(), after.to_string().len());
        assert!(patch <= whole.max(4_096) + 100, "a patch of {patch} bytes makes {whole}");
        assert_eq!(diff.apply(Some(body(before))).unwrap(), Some(body(after)));
    }
}

#[test]
fn what_comes_and_goes_at_the_end_of_a_long_array_is_named() {
    let long: Vec<_> = (0..200_000).map(Value::from).collect();
    let longer: Vec<_> = (0..200_010).map(Value::from).collect();
    for (before, after, first) in [
        (&long, &longer, json!({"op": "add", "path": "/a/200000", "value": 200_000})),
        (&longer, &long, json!({"op": "remove", "path": "/a/200009"})),
    ] {
        let (before, after) = (body(json!({"a": before})), body(json!({"a": after})));
        let diff = Diff::between(Some(&before), Some(&after), 2);
        assert_eq!(diff.json_patch.0.len(), 10);
        assert_eq!(serde_json::to_value(&diff.json_patch.0[0]).unwrap(), first);
        assert_eq!(diff.apply(Some(before)).unwrap(), Some(after));
    }
}

#[test]
fn moves_among_other_edits_are_moves() {
    let objects =
        |ids: &[u32]| ids.iter().map(|id| json!({"id": id, "text": "x".repeat(30)})).collect::<Vec<_>>();
    for (before, after, most) in [
        (vec![1, 2, 3, 4, 5, 6, 7, 8], vec![1, 7, 3, 4, 5, 6, 2, 8], 2),
        (vec![1, 2, 3, 4, 5, 6, 7, 8], vec![8, 2, 3, 9, 4, 5, 6, 7, 1], 3),
        (vec![1, 2, 3, 4, 5, 6], vec![6, 5, 4, 3, 2, 1], 5),
        (vec![1, 2, 3, 4, 5, 6], vec![4, 7, 1, 3, 5, 6], 3),
    ] {
        let (old, new) = (body(json!({"l": objects(&before)})), body(json!({"l": objects(&after)})));
        let diff = Diff::between(Some(&old), Some(&new), 1);
        assert_eq!(diff.apply(Some(old)).unwrap().as_ref(), Some(&new));
        assert!(diff.json_patch.0.len() <= most, "{before:?} to {after:?}: {:?}", diff.json_patch);
        let moves =
            diff.json_patch.0.iter().filter(|o| matches!(o, json_patch::PatchOperation::Move(_))).count();
        assert!(moves >= most - 2, "{before:?} to {after:?}: {:?}", diff.json_patch);
    }
}

/// Values that are often alike, so that diffs find something in common.
pub(crate) fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0i64..4).prop_map(Value::from),
        // Any at all: a shortcut in reading them shows in one of ten only.
        prop_oneof![Just(0.5f64), Just(-1e300), Just(0.1), Just(188.08999999999997), prop::num::f64::NORMAL]
            .prop_map(Value::from),
        "[ab~/]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map("[abc~/]{0,1}", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn states() -> impl Strategy<Value = Option<Body>> {
    prop_oneof![
        1 => Just(None),
        8 => prop::collection::btree_map("[abc]", values(), 0..4)
            .prop_map(|members| Some(members.into_iter().collect())),
    ]
}

/// An array, what a few edits make of it, and how many there were.
fn edited_arrays() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, usize)> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, 0u8..6), 0..4);
    (prop::collection::vec(0u8..6, 0..30), edits).prop_map(|(before, edits)| {
        let mut after = before.clone();
        let count = edits.len();
        for (place, what, value) in edits {
            let at = place.index(after.len() + 1);
            match what {
                0 => after.insert(at, value),
                _ if at == after.len() => {}
                1 => drop(after.remove(at)),
                2 => after[at] = value,
                _ => {
                    let moved = after.remove(at);
                    after.insert(value as usize % (after.len() + 1), moved);
                }
            }
        }
        (before, after, count)
    })
}

proptest! {
    #[test]
    fn both_forms_lead_from_before_to_after(before in states(), after in states()) {
        let diff = Diff::between(before.as_ref(), after.as_ref(), 1);
        prop_assert_eq!(diff.has_changes(), before != after);
        prop_assert_eq!(&diff.apply(before.clone()).unwrap(), &after);
        if let Some(merge_patch) = &diff.merge_patch {
            prop_assert_eq!(&apply_merge_patch(before, merge_patch).unwrap(), &after);
        }
    }

    #[test]
    fn what_mongodb_is_told_leads_from_before_to_after(before in states(), after in states()) {
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        let update = MongoUpdate::between(&before, &after).expect("the names at the root are plain");
        let mut applied = before.clone();
        update.apply(&mut applied).unwrap();
        prop_assert_eq!(&applied, &after, "{:?}", update);
        prop_assert_eq!(update.is_empty(), before == after);
    }

    #[test]
    fn a_merge_patch_is_missing_only_where_none_exists(before in states(), after in states()) {
        let diff = Diff::between(before.as_ref(), after.as_ref(), 1);
        if diff.merge_patch.is_none() {
            prop_assert!(serde_json::to_string(&after).unwrap().contains("null"));
        }
    }

    #[test]
    fn a_few_edits_of_an_array_are_a_few_operations((before, after, edits) in edited_arrays()) {
        let (old, new) = (body(json!({"l": before})), body(json!({"l": after})));
        let diff = Diff::between(Some(&old), Some(&new), 1);
        prop_assert_eq!(diff.apply(Some(old)).unwrap(), Some(new));
        // A move that is not the only edit is a removal and an insertion.
        prop_assert!(diff.json_patch.0.len() <= 2 * edits, "{:?}", diff.json_patch);
    }

    #[test]
    fn a_diff_survives_every_encoding(before in states(), after in states()) {
        let diff = Diff::between(before.as_ref(), after.as_ref(), 9);
        for format in crdt_core::EncodingFormat::ALL {
            let bytes = format.encode(&diff).unwrap();
            prop_assert_eq!(&format.decode::<Diff>(&bytes).unwrap(), &diff);
        }
    }
}
