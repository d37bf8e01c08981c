//! JSON Patch, and edits that lead to a target.

mod support;

use crdt_core::{
    Model, PatchBuilder, SessionId, Timestamp, Value,
    codec::json,
    document::Content,
    model::{
        EditError,
        json_patch::{self, JsonPatchFault},
    },
    patch::Op,
};
use proptest::prelude::*;
use support::{plain, random::Entropy};

fn parse(text: &str) -> Value {
    json::decode(text.as_bytes()).unwrap()
}

fn model(text: &str) -> Model {
    let mut model = Model::new(SessionId::new(70_000).unwrap());
    model.api().root(parse(text)).unwrap();
    model.flush();
    model
}

/// Does a JSON Patch; the view afterwards, or the error.
fn patched(document: &str, patch: &str) -> Result<String, String> {
    let mut model = model(document);
    let ops = json_patch::decode(patch.as_bytes()).map_err(|error| error.to_string())?;
    model.apply_json_patch(&ops).map_err(|error| error.to_string())?;
    model.document().check().unwrap();
    Ok(json::encode(&plain(&model.view())))
}

#[track_caller]
fn check(document: &str, patch: &str, expect: &str) {
    assert_eq!(patched(document, patch).unwrap(), expect);
}

#[track_caller]
fn check_error(document: &str, patch: &str, expect: &str) {
    assert_eq!(patched(document, patch).unwrap_err(), expect);
}

/// The examples of RFC 6902, appendix A.
#[test]
fn the_examples_of_the_rfc_hold() {
    check(
        r#"{"foo":"bar"}"#,
        r#"[{"op":"add","path":"/baz","value":"qux"}]"#,
        r#"{"baz":"qux","foo":"bar"}"#,
    );
    let foo = r#"{"foo":["bar","baz"]}"#;
    check(foo, r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#, r#"{"foo":["bar","qux","baz"]}"#);
    check(r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, r#"{"foo":"bar"}"#);
    check(r#"{"foo":["bar","qux","baz"]}"#, r#"[{"op":"remove","path":"/foo/1"}]"#, foo);
    let baz = r#"[{"op":"replace","path":"/baz","value":"boo"}]"#;
    check(r#"{"baz":"qux","foo":"bar"}"#, baz, r#"{"baz":"boo","foo":"bar"}"#);
    check(
        r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
        r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
        r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
    );
    check(
        r#"{"foo":["all","grass","cows","eat"]}"#,
        r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
        r#"{"foo":["all","cows","eat","grass"]}"#,
    );
    let tests = r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]"#;
    check(r#"{"baz":"qux","foo":["a",2,"c"]}"#, tests, r#"{"baz":"qux","foo":["a",2,"c"]}"#);
    check(
        r#"{"foo":"bar"}"#,
        r#"[{"op":"add","path":"/child","value":{"grand":{}}}]"#,
        r#"{"child":{"grand":{}},"foo":"bar"}"#,
    );
    check(
        r#"{"foo":"bar"}"#,
        r#"[{"op":"add","path":"/baz","value":"qux","xyz":123}]"#,
        r#"{"baz":"qux","foo":"bar"}"#,
    );
    check(r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":10}]"#, r#"{"/":9,"~1":10}"#);
    check(
        r#"{"foo":["bar"]}"#,
        r#"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
        r#"{"foo":["bar",["abc","def"]]}"#,
    );
}

#[test]
fn an_operation_that_cannot_be_done_says_which_and_why() {
    let foo = r#"{"foo":"bar"}"#;
    check_error(
        foo,
        r#"[{"op":"test","path":"/foo","value":"bar"},{"op":"test","path":"/foo","value":"x"}]"#,
        r#"operation 1: the value at "/foo" is not the one that is asked for"#,
    );
    check_error(
        foo,
        r#"[{"op":"add","path":"/a/b","value":1}]"#,
        r#"operation 0: there is no map or array that could hold "/a/b""#,
    );
    check_error(foo, r#"[{"op":"remove","path":"/a"}]"#, r#"operation 0: there is nothing at "/a""#);
    check_error(
        "[1]",
        r#"[{"op":"add","path":"/3","value":1}]"#,
        "operation 0: position 3 is behind the end, 1",
    );
    check_error(
        "[1]",
        r#"[{"op":"add","path":"/01","value":1}]"#,
        r#"operation 0: there is no map or array that could hold "/01""#,
    );
    check_error(
        r#"{"a":{"b":1}}"#,
        r#"[{"op":"move","from":"/a","path":"/a/c"}]"#,
        r#"operation 0: "/a" cannot move to "/a/c", into itself"#,
    );
    check_error(foo, r#"[{"op":"fly","path":""}]"#, r#""fly" at $[0].op: expected the name of an operation"#);
    check_error(foo, r#"[{"op":"remove","path":"a"}]"#, r#""a" at $[0].path: expected a JSON pointer"#);
}

#[test]
fn an_operation_that_fails_loses_nothing() {
    let before = r#"{"a":{"b":[1,"two",{"c":3}]},"d":"text","e":null}"#;
    let failing = [
        r#"{"op":"move","from":"/d","path":"/x/y"}"#,
        r#"{"op":"move","from":"/a","path":"/d/0"}"#,
        r#"{"op":"move","from":"/a/b/0","path":"/a/b/3"}"#,
        r#"{"op":"move","from":"/a/b/0","path":"/a/b/01"}"#,
        r#"{"op":"move","from":"/a/b/1","path":"/a/b/1/c/d"}"#,
        r#"{"op":"move","from":"/a","path":"/a/b"}"#,
        r#"{"op":"move","from":"/nothing","path":"/f"}"#,
        r#"{"op":"copy","from":"/a","path":"/x/y"}"#,
        r#"{"op":"replace","path":"/a/b/3","value":1}"#,
        r#"{"op":"replace","path":"/f","value":1}"#,
        r#"{"op":"remove","path":"/a/b/3"}"#,
        r#"{"op":"add","path":"/a/b/4","value":1}"#,
        r#"{"op":"test","path":"/a","value":1}"#,
        r#"{"op":"str_ins","path":"/a","pos":0,"str":"x"}"#,
        r#"{"op":"str_del","path":"/e","pos":0,"len":1}"#,
    ];
    for op in failing {
        let mut model = model(before);
        let ops = json_patch::decode(format!("[{op}]").as_bytes()).unwrap();
        model.apply_json_patch(&ops).expect_err(op);
        assert_eq!(json::encode(&model.view()), before, "after {op}");
    }
}

#[test]
fn a_failed_patch_in_a_transaction_changes_nothing() {
    let mut model = model(r#"{"a":1}"#);
    let ops =
        json_patch::decode(br#"[{"op":"add","path":"/b","value":2},{"op":"test","path":"/a","value":9}]"#)
            .unwrap();
    let error = model.transaction(|model| model.apply_json_patch(&ops)).unwrap_err();
    assert_eq!((error.index, error.fault), (1, JsonPatchFault::Differs { path: "/a".into() }));
    assert_eq!(json::encode(&model.view()), r#"{"a":1}"#);
    assert_eq!(model.flush(), None);
}

#[test]
fn an_update_of_something_that_was_removed_says_so() {
    let mut model = model(r#"{"text":"warp","list":[1]}"#);
    model.api().obj("").unwrap().set([("bytes", Value::Bytes(vec![1, 2]))]).unwrap();
    let mut text = model.api().str("/text").unwrap();
    let id = text.id();
    text.model().api().obj("").unwrap().del(["text"]).unwrap();
    assert_eq!(text.update("weft"), Err(EditError::Removed(id)));
    assert_eq!(text.ins(0, ""), Err(EditError::Removed(id)));
    assert_eq!(text.del(0, 0), Err(EditError::Removed(id)));
    let mut bytes = model.api().bin("/bytes").unwrap();
    let id = bytes.id();
    bytes.model().api().obj("").unwrap().del(["bytes"]).unwrap();
    assert_eq!(bytes.update(&[3]), Err(EditError::Removed(id)));
    assert_eq!(bytes.ins(0, &[]), Err(EditError::Removed(id)));
}

#[test]
fn text_operations_edit_inside_a_text() {
    let patch = r#"[{"op":"str_ins","path":"/t","pos":99,"str":"!"},{"op":"str_ins","path":"/t","pos":0,"str":"_"},
                   {"op":"str_del","path":"/t","pos":1,"len":2},{"op":"str_del","path":"/t","pos":3,"str":"xxxx"}]"#;
    check(r#"{"t":"hello"}"#, patch, r#"{"t":"_ll"}"#);
}

#[test]
fn a_replaced_root_and_a_constant_inside_are_reached() {
    check("5", r#"[{"op":"replace","path":"","value":[1]},{"op":"test","path":"/0","value":1}]"#, "[1]");
    check(r#"{"a":[{"b":2}]}"#, r#"[{"op":"copy","from":"/a/0/b","path":"/c"}]"#, r#"{"a":[{"b":2}],"c":2}"#);
}

/// What is edited is what differs: others' edits to the rest stay.
#[test]
fn an_update_keeps_what_others_do_to_the_rest() {
    let mut alice = model(r#"{"title":"a long title","tags":["x","y"],"n":1,"old":true}"#);
    let mut bob = alice.fork(SessionId::new(80_000).unwrap());
    alice
        .api()
        .update("", parse(r#"{"title":"a longer title","tags":["x","z","y"],"n":1,"new":[]}"#))
        .unwrap();
    bob.api().str("/title").unwrap().ins(12, "!").unwrap();
    bob.api().obj("").unwrap().set([("n", 2)]).unwrap();
    bob.api().arr("/tags").unwrap().del(1, 1).unwrap();
    let (a, b) = (alice.flush().unwrap(), bob.flush().unwrap());
    assert!(bob.apply(&a).is_ok() && alice.apply(&b).is_ok());
    let expect = r#"{"n":2,"new":[],"tags":["x","z"],"title":"a longer title!"}"#;
    assert_eq!(json::encode(&plain(&alice.view())), expect);
    assert_eq!(json::encode(&plain(&bob.view())), expect);
}

#[test]
fn an_update_of_text_edits_only_what_differs() {
    let mut model = model(r#""the quick brown \ud83d\ude42 fox""#);
    model.api().str("").unwrap().update("the quick red \u{1f643} fox!").unwrap();
    assert_eq!(model.view(), "the quick red \u{1f643} fox!".into());
    let patch = model.flush().unwrap();
    let (mut inserted, mut deleted) = (0, 0);
    for (_, op) in patch.ops() {
        match op {
            Op::InsStr { units, .. } => inserted += units,
            Op::Del { spans, .. } => deleted += spans.map(|span| span.span).sum::<u64>(),
            other => panic!("{other:?}"),
        }
    }
    assert!(inserted <= 6 && deleted <= 7, "{inserted} inserted, {deleted} deleted");
}

#[test]
fn an_update_to_the_same_value_makes_no_patch() {
    let text = r#"{"a":[1,{"b":"text"},null],"c":{"d":[]}}"#;
    let mut model = model(text);
    model.api().update("", parse(text)).unwrap();
    assert_eq!(model.flush(), None);
}

proptest! {
    #[test]
    fn an_update_leads_to_its_target(
        before in prop::collection::vec(any::<u8>(), 0..80),
        after in prop::collection::vec(any::<u8>(), 0..80),
        splice in 0usize..80,
    ) {
        // Half of the targets share much with what is there.
        let mut similar = before.clone();
        similar.splice(splice.min(before.len()).., after.iter().copied());
        for after in [after, similar] {
            let (from, to) = (Entropy(&before).value(4), Entropy(&after).value(4));
            let mut model = Model::new(SessionId::new(70_000).unwrap());
            model.api().root(from.clone()).unwrap();
            model.flush();
            let mut peer = model.fork(SessionId::new(80_000).unwrap());
            model.api().update("", to.clone()).unwrap();
            model.document().check().unwrap();
            prop_assert_eq!(plain(&model.view()), plain(&to));
            if let Some(patch) = model.flush() {
                prop_assert!(peer.apply(&patch).is_ok());
            }
            prop_assert_eq!(plain(&peer.view()), plain(&to));
        }
    }
}

#[test]
fn registers_in_registers_are_stepped_through_however_many() {
    let mut patch = PatchBuilder::new(SessionId::new(70_009).unwrap(), 1);
    let outermost = patch.new_val();
    let mut register = outermost;
    for _ in 0..100_000 {
        let inner = patch.new_val();
        patch.ins_val(register, inner);
        register = inner;
    }
    patch.ins_val(Timestamp::ORIGIN, outermost);
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    let _ = model.apply(&patch.finish().unwrap()).unwrap();
    for target in [1, 2] {
        model.api().update("", target).unwrap();
        match model.document().node(register).unwrap().child().unwrap().content() {
            Content::Con(value) => assert_eq!(value.to_value(), Value::from(target)),
            other => panic!("{other:?}"),
        }
    }
}

/// A number that is not one equals itself in no language, and is the same value all the same.
#[test]
fn an_update_from_nan_to_nan_makes_no_patch() {
    let nan = || Value::Float(f64::NAN);
    let inside = || Value::Map(vec![("x".into(), nan())]);
    let target =
        || Value::Map(vec![("n".into(), nan()), ("list".into(), Value::Array(vec![nan(), inside()]))]);
    for target in [nan(), Value::Array(vec![nan(), 1.into(), nan()]), target()] {
        let mut model = Model::new(SessionId::new(70_000).unwrap());
        model.api().root(target.clone()).unwrap();
        model.flush();
        let other_nan = f64::from_bits(f64::NAN.to_bits() | 1 << 63 | 5);
        let spelled_otherwise = match &target {
            Value::Float(_) => Value::Float(other_nan),
            other => other.clone(),
        };
        model.api().update("", target).unwrap();
        model.api().update("", spelled_otherwise).unwrap();
        assert_eq!(model.flush(), None);
    }
}

/// 2^53 as it was read from JSON and as it is counted in Rust are one number.
#[test]
fn a_large_number_is_the_same_however_it_is_held() {
    let (large, text) = (1i64 << 53, "9007199254740992");
    assert_eq!(Value::from(large), parse(text));
    assert_ne!(Value::from(large + 1), parse(text));
    assert_eq!(Value::from(u64::MAX - 2047), Value::from((u64::MAX - 2047) as f64));
    assert_ne!(Value::from(u64::MAX), Value::from(u64::MAX as f64));
    assert_eq!(Value::from(i64::MIN), Value::from(i64::MIN as f64));
    assert_ne!(Value::from(i64::MAX), Value::from(i64::MAX as f64));
    let mut model = model("{}");
    model.api().root(serde_json::json!({"n": large, "list": [large, large + 2]})).unwrap();
    model.flush();
    let test = format!(r#"[{{"op":"test","path":"/n","value":{text}}}]"#);
    model.apply_json_patch(&json_patch::decode(test.as_bytes()).unwrap()).unwrap();
    let same = parse(&format!(r#"{{"n": {text}, "list": [{text}, 9007199254740994]}}"#));
    model.api().update("", same).unwrap();
    assert_eq!(model.flush(), None);
}

#[test]
fn a_constant_that_is_the_same_json_stays() {
    let mut model = model("{}");
    let mut constant = parse(r#"{"b":1,"a":[{"d":1,"c":2}]}"#);
    if let Value::Map(entries) = &mut constant {
        entries.push(("none".into(), Value::Undefined));
    }
    model.api().obj("").unwrap().set_node("k", &crdt_core::model::schema::con(constant)).unwrap();
    model.flush();
    model.api().update("", parse(r#"{"k":{"a":[{"c":2,"d":1}],"b":1}}"#)).unwrap();
    assert_eq!(model.flush(), None);
}

/// A form that was filled with the view with extensions has the text of a rich text in a field.
#[test]
fn the_text_of_a_rich_text_is_edited_and_keeps_its_marks() {
    let mut model = model("{}");
    model.api().obj("").unwrap().set_rich_text("note", "warp and weft").unwrap();
    let mut note = model.api().rich_text("/note").unwrap();
    note.mark(0..4, "bold", true, crdt_core::model::Expand::After).unwrap();
    model.api().update("/note", "the warp or weft").unwrap();
    let spans = model.api().rich_text("/note").unwrap().spans().unwrap();
    let shown: Vec<_> = spans.iter().map(|span| (span.text.to_string(), span.marks.len())).collect();
    assert_eq!(shown, [("the ".to_owned(), 0), ("warp".to_owned(), 1), (" or weft".to_owned(), 0)]);
    assert_eq!(model.document().view_extended().get("note"), Some(&"the warp or weft".into()));
}

/// A form saves what it was shown: JSON, in which the header of an extension is text.
#[test]
fn an_extension_is_left_alone_when_its_tuple_is_saved() {
    let mut model = model("{}");
    model.api().obj("").unwrap().set_counter("likes", 2.0).unwrap();
    model.api().obj("").unwrap().set_rich_text("note", "warp").unwrap();
    model.flush();
    let before = model.view();
    let shown = [
        before.clone(),
        parse(&json::encode(&before)),
        Value::from(&serde_json::Value::from(&before)),
        model.document().view_extended(),
    ];
    model.api().counter("/likes").unwrap().add(1.0).unwrap();
    let patch = model.flush();
    for shown in &shown[..3] {
        model.api().update("", shown.clone()).unwrap();
        assert_eq!(model.flush(), None, "{shown:?}");
    }
    assert!(patch.is_some());
    assert_eq!(model.api().counter("/likes").unwrap().value(), 3.0);
    let extended = model.document().view_extended();
    model.api().update("", extended).unwrap();
    assert_eq!(model.flush(), None);
    // Something else takes its place.
    model.api().update("/likes", "none").unwrap();
    assert_eq!(model.view_at("/likes").unwrap(), "none".into());
    assert_ne!(shown[3], before);
}
