//! Extension types: what several do to a counter or a multi-value register at the same time is all there.

mod support;

use crdt_core::{
    Document, Model, PatchBuilder, SessionId, Value,
    model::{EditError, Expand, Extension},
};
use serde_json::json;
use support::hex;

fn pair() -> (Model, Model) {
    let mut alice = Model::new(SessionId::new(123_456).unwrap());
    alice.api().root(Value::Map(Vec::new())).unwrap();
    alice.api().obj("").unwrap().set_counter("likes", 5.0).unwrap();
    alice.api().obj("").unwrap().set_multi_value("name", "draft").unwrap();
    let bob = alice.fork(SessionId::new(200_000).unwrap());
    alice.flush();
    (alice, bob)
}

fn exchange(alice: &mut Model, bob: &mut Model) {
    let (a, b) = (alice.flush(), bob.flush());
    assert!(a.is_none_or(|patch| bob.apply(&patch).is_ok()));
    assert!(b.is_none_or(|patch| alice.apply(&patch).is_ok()));
    assert_eq!(support::plain(&alice.view()), support::plain(&bob.view()));
}

#[test]
fn what_several_add_to_a_counter_adds_up() {
    let (mut alice, mut bob) = pair();
    alice.api().counter("/likes").unwrap().add(2.0).unwrap();
    bob.api().counter("/likes").unwrap().add(-1.5).unwrap();
    bob.api().counter("/likes").unwrap().add(10.0).unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(alice.api().counter("/likes").unwrap().value(), 15.5);
    assert_eq!(bob.api().counter("/likes").unwrap().value(), 15.5);
}

#[test]
fn a_multi_value_register_keeps_what_was_written_at_the_same_time() {
    let (mut alice, mut bob) = pair();
    alice.api().multi_value("/name").unwrap().set("Ada").unwrap();
    bob.api().multi_value("/name").unwrap().set("Bob").unwrap();
    exchange(&mut alice, &mut bob);
    let both = alice.api().multi_value("/name").unwrap().values();
    assert_eq!(both, bob.api().multi_value("/name").unwrap().values());
    assert_eq!(both, ["Bob".into(), "Ada".into()]);
    bob.api().multi_value("/name").unwrap().set("Eve").unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(alice.api().multi_value("/name").unwrap().values(), ["Eve".into()]);
}

#[test]
fn an_extension_is_a_tuple_with_a_header_and_survives_a_snapshot() {
    let (alice, _) = pair();
    let reloaded = Document::from_binary(&alice.document().to_binary()).unwrap();
    let node = reloaded.root().unwrap().get("likes").unwrap();
    assert_eq!(node.extension().unwrap().0, Extension::Counter);
    let Some(Value::Bytes(header)) = alice.view().get("likes").and_then(|likes| likes.at(0)).cloned() else {
        panic!("{:?}", alice.view())
    };
    // Extension 1, then the low bytes of the tuple's session 123456 and of its time 3.
    assert_eq!(hex(&header), "014003");
}

#[test]
fn ordinary_data_is_not_taken_for_an_extension() {
    let (mut alice, _) = pair();
    let header = Value::Bytes(vec![1, 0, 0]);
    alice.api().obj("").unwrap().set([("x", Value::Array(vec![header, Value::Map(Vec::new())]))]).unwrap();
    let error = alice.api().counter("/x").map(drop).unwrap_err();
    assert_eq!(error, EditError::NotFound { path: "/x".into() });
    assert!(alice.api().counter("/name").is_err());
}

#[test]
fn the_extended_view_shows_what_extensions_stand_for() {
    let (mut alice, mut bob) = pair();
    alice.api().obj("").unwrap().set_rich_text("note", "warp and weft").unwrap();
    alice.api().obj("").unwrap().set_quill("quill", "warp and weft").unwrap();
    for path in ["/note", "/quill"] {
        let mut text = alice.api().rich_text(path).unwrap();
        text.mark(0..4, "bold", true, Expand::After).unwrap();
        text.mark_also(5..8, "comment", "why?").unwrap();
        text.split(13, "p", Value::Undefined).unwrap();
    }
    alice.api().obj("").unwrap().set([("list", Value::from(&json!([1, {"a": "b"}])))]).unwrap();
    alice.api().obj("").unwrap().set_extension("other", Extension::Other(77), PatchBuilder::new_obj).unwrap();
    alice.api().multi_value("/name").unwrap().set("Ada").unwrap();
    bob.api().multi_value("/name").unwrap().set(Value::from(&json!({"of": ["Bob"]}))).unwrap();
    exchange(&mut alice, &mut bob);
    let other = alice.view().get("other").cloned().unwrap();
    assert!(matches!(&other, Value::Array(tuple) if tuple.len() == 2));
    let mut expected = Value::from(&json!({
        "likes": 5.0,
        "name": ["Ada", {"of": ["Bob"]}],
        "note": "warp and weft\n",
        "quill": [{"insert": "warp", "attributes": {"bold": true}}, {"insert": " and weft\n"}],
        "list": [1, {"a": "b"}],
    }));
    if let Value::Map(entries) = &mut expected {
        entries.push(("other".into(), other));
    }
    assert_eq!(support::plain(&alice.document().view_extended()), support::plain(&expected));
    assert_eq!(support::plain(&bob.document().view_extended()), support::plain(&expected));
    // Without extensions it is the view.
    alice.api().root(json!({"a": [1]})).unwrap();
    assert_eq!(alice.document().view_extended(), alice.view());
}

/// The clock has so few times left that the new value does not fit: then the old one stays.
#[test]
fn a_multi_value_register_keeps_its_value_if_there_is_no_room_for_another() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(json!({})).unwrap();
    model.api().obj("").unwrap().set_multi_value("choice", "red").unwrap();
    model.flush();
    let mut far = crdt_core::PatchBuilder::new(SessionId::new(70_002).unwrap(), (1 << 53) - 40);
    far.new_obj();
    assert_eq!(model.apply(&far.finish().unwrap()).unwrap(), crdt_core::Applied::Merged);
    let long = "a text that takes more times than there are".repeat(3);
    assert!(model.api().multi_value("/choice").unwrap().set(long.as_str()).is_err());
    assert_eq!(model.api().multi_value("/choice").unwrap().values(), ["red".into()]);
    assert!(!model.has_edits());
}
