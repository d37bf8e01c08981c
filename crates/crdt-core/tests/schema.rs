//! Default contents: the same first patch everywhere, json-joy's included.

mod support;

use crdt_core::{
    Applied, ApplyError, Document, Model, SessionId, Value,
    model::{
        EditError,
        schema::{arr, bin, con, counter, json, multi_value, obj, rich_text, str, val, vec},
    },
};
use support::hex;

/// The bytes are those of json-joy 17.67.0 for
/// `Model.create(s.obj({title: s.str('Untitled'), tags: s.arr([s.val(s.con(1)), s.str('')]), done: s.con(false),
/// pos: s.vec(s.con(0), s.con(1)), data: s.bin([1, 2]), reg: s.val(s.str('x')), nest: s.obj({})}, {opt: s.con(1)}),
/// 123456)`.
#[test]
fn the_document_is_json_joys() {
    let schema = obj([
        ("title", str("Untitled")),
        ("tags", arr([val(con(1)), str("")])),
        ("done", con(false)),
        ("pos", vec([con(0), con(1)])),
        ("data", bin([1, 2])),
        ("reg", val(str("x"))),
        ("nest", obj::<&str>([])),
        ("opt", con(1)),
    ]);
    let model = Model::with_schema(SessionId::new(123_456).unwrap(), &schema).unwrap();
    model.document().check().unwrap();
    assert_eq!(
        hex(&model.document().to_binary()),
        "00000065822048657469746c65821f81821e7808556e7469746c656464746167738216c18211028215208214000182128064\
         646f6e652f00f463706f732e622d00002c000164646174612aa1290201026372656727202681256178646e6573742340636f707422000102c0c407210221"
    );
}

#[test]
fn every_replica_makes_the_same_and_edits_meet_in_it() {
    let schema = obj([
        ("likes", counter()),
        ("name", multi_value("draft")),
        ("note", rich_text("warp")),
        ("rest", json(Value::from(&serde_json::json!({"a": [1]})))),
    ]);
    assert_eq!(schema.patch(), schema.patch());
    let session = |number| SessionId::new(number).unwrap();
    let mut alice = Model::with_schema(session(70_001), &schema).unwrap();
    let mut bob = Model::with_schema(session(70_002), &schema).unwrap();
    alice.api().counter("/likes").unwrap().add(2.0).unwrap();
    bob.api().counter("/likes").unwrap().add(3.0).unwrap();
    bob.api().rich_text("/note").unwrap().ins(4, " and weft").unwrap();
    alice.apply(&bob.flush().unwrap()).map(drop).unwrap();
    bob.apply(&alice.flush().unwrap()).map(drop).unwrap();
    assert_eq!(alice.view().in_key_order(), bob.view().in_key_order());
    assert_eq!(alice.api().counter("/likes").unwrap().value(), 5.0);
    assert_eq!(alice.api().multi_value("/name").unwrap().values(), ["draft".into()]);
    assert_eq!(alice.api().rich_text("/note").unwrap().text(), "warp and weft");
    // Who has the contents from elsewhere takes no harm from making them again.
    assert_eq!(alice.apply(&schema.patch()).unwrap(), Applied::Known);
}

#[test]
fn a_document_that_has_something_keeps_it() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    assert_eq!(model.set_defaults(&str("first")).unwrap(), Applied::Merged);
    assert_eq!(model.set_defaults(&str("second")).unwrap(), Applied::Known);
    assert_eq!(model.view(), "first".into());
    let reloaded = Document::from_binary(&model.document().to_binary()).unwrap();
    let mut reloaded = Model::from(reloaded);
    assert_eq!(reloaded.set_defaults(&str("third")).unwrap(), Applied::Known);
}

#[test]
fn a_tuple_that_is_too_long_is_refused() {
    let long = obj([("places", vec((0..257).map(con)))]);
    let refused = ApplyError::TooLarge { what: "places of a tuple in a schema", value: 257, max: 256 };
    assert_eq!(long.check(), Err(refused.clone()));
    assert_eq!(Model::with_schema(SessionId::USER_MIN, &long).map(drop), Err(refused.clone()));
    let mut model = Model::new(SessionId::USER_MIN);
    assert_eq!(model.set_defaults(&long), Err(refused.clone()));
    model.api().root(serde_json::json!({"list": []})).unwrap();
    let edit = Err(EditError::Refused(refused));
    assert_eq!(model.api().obj("").unwrap().set_node("key", &long), edit);
    assert_eq!(model.api().arr("/list").unwrap().ins_nodes(0, [&long]), edit);
    let full = vec((0..256).map(con));
    assert_eq!(Model::with_schema(SessionId::USER_MIN, &full).unwrap().view().as_array().unwrap().len(), 256);
}

#[test]
fn nodes_of_a_schema_go_into_an_array() {
    let mut alice = Model::new(SessionId::USER_MIN);
    alice.api().root(serde_json::json!({"list": ["first"]})).unwrap();
    let rows = [obj([("text", str("warp"))]), vec([con(1), con(2)])];
    alice.api().arr("/list").unwrap().ins_nodes(1, &rows).unwrap();
    assert!(alice.api().arr("/list").unwrap().ins_nodes(4, &rows).is_err());
    alice.api().str("/list/1/text").unwrap().ins(4, "!").unwrap();
    let shown = serde_json::json!({"list": ["first", {"text": "warp!"}, [1, 2]]});
    assert!(alice.view().is_same_json(&Value::from(&shown)), "{:?}", alice.view());
    let mut bob = Model::new(SessionId::new(70_002).unwrap());
    assert_eq!(bob.apply(&alice.flush().unwrap()), Ok(crdt_core::Applied::Merged));
    assert_eq!(bob.view(), alice.view());
}
