//! The public test suites of JSON Patch and Merge Patch.

use nodestorage::{
    Body, Diff,
    diff::{apply_json_patch, apply_merge_patch},
};
use serde_json::{Value, json};

/// Documents of this crate are objects, so what the suites patch stands in one field of one.
const FIELD: &str = "document";

fn within(value: Value) -> Body {
    Body::from_iter([(FIELD.to_owned(), value)])
}

/// The patch for the field instead of the whole.
fn moved_in(patch: &Value) -> Option<json_patch::Patch> {
    let mut patch = patch.clone();
    for operation in patch.as_array_mut()? {
        for pointer in ["path", "from"] {
            if let Some(Value::String(path)) = operation.get_mut(pointer)
                && (path.is_empty() || path.starts_with('/'))
            {
                path.insert_str(0, &format!("/{FIELD}"));
            }
        }
    }
    serde_json::from_value(patch).ok()
}

/// Runs a suite; returns how many cases it has that are not switched off.
fn run(suite: &str) -> usize {
    let cases: Vec<Value> = serde_json::from_str(suite).unwrap();
    let mut ran = 0;
    for case in cases {
        // Comments, and what the suite itself has switched off.
        let (Some(doc), Some(patch)) = (case.get("doc"), case.get("patch")) else { continue };
        if case.get("disabled") == Some(&json!(true)) {
            continue;
        }
        ran += 1;
        let comment = case.get("comment").and_then(Value::as_str).unwrap_or("no comment");
        let result = moved_in(patch).and_then(|patch| {
            let patched = apply_json_patch(Some(within(doc.clone())), &patch).ok()??;
            patched.get(FIELD).cloned()
        });
        match (case.get("error"), case.get("expected")) {
            (Some(_), _) => assert_eq!(result, None, "{comment}: {patch} has to fail"),
            (None, Some(expected)) => {
                assert_eq!(result.as_ref(), Some(expected), "{comment}: {patch}");
                // Our own way from the one to the other.
                let (before, after) = (within(doc.clone()), within(expected.clone()));
                let own = Diff::between(Some(&before), Some(&after), 1);
                assert_eq!(own.apply(Some(before)).unwrap(), Some(after), "{comment}");
            }
            (None, None) => assert!(result.is_some(), "{comment}: {patch} has to fit"),
        }
    }
    ran
}

#[test]
fn json_patches_pass_their_public_suite() {
    assert_eq!(run(include_str!("data/json-patch-tests/tests.json")), 75);
    assert_eq!(run(include_str!("data/json-patch-tests/spec_tests.json")), 16);
}

/// RFC 7396, appendix A, all of it.
#[test]
fn merge_patches_pass_the_cases_of_their_rfc() {
    for (target, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let patched =
            apply_merge_patch(Some(within(target.clone())), &json!({ FIELD: patch })).unwrap().unwrap();
        // A null patch of a field takes the field away.
        let expected = if result.is_null() { Body::new() } else { within(result.clone()) };
        assert_eq!(patched, expected, "{target} patched by {patch}");
        let own = Diff::between(Some(&within(target.clone())), Some(&expected), 1);
        if let Some(merge_patch) = &own.merge_patch {
            let patched = apply_merge_patch(Some(within(target)), merge_patch).unwrap();
            assert_eq!(patched, Some(expected));
        }
    }
}
