//! Quill deltas: against a plain list of units, refused with a reason, and beside json-joy.

mod support;

use std::collections::BTreeMap;

use crdt_core::{
    Applied, Model, Patch, SessionId, Text, Value,
    codec::json,
    model::{InvalidQuill, QuillOp, RichTextCursor},
};
use proptest::prelude::*;

fn rich(text: &str) -> Model {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(Value::Map(Vec::new())).unwrap();
    model.api().obj("").unwrap().set_rich_text("note", text).unwrap();
    model
}

fn note(model: &mut Model) -> RichTextCursor<'_> {
    model.api().rich_text("/note").unwrap()
}

fn attributes() -> impl Strategy<Value = Vec<(Text, Value)>> {
    prop::collection::btree_map(
        "[bis]",
        prop_oneof![Just(Value::Bool(true)), (1..4).prop_map(Value::from)],
        0..3,
    )
    .prop_map(|map| map.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// A delta by its numbers, fitted to a length when it is used.
#[derive(Clone, Debug)]
enum Change {
    Insert(String, Vec<(Text, Value)>),
    Embed(Vec<(Text, Value)>),
    Retain(usize, Vec<(Text, Value)>, bool),
    Delete(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => ("[a-z\n🙂]{1,5}", attributes()).prop_map(|(text, attributes)| Change::Insert(text, attributes)),
        1 => attributes().prop_map(Change::Embed),
        3 => (1..8usize, attributes(), any::<bool>()).prop_map(|(len, a, clear)| Change::Retain(len, a, clear)),
        2 => (1..5usize).prop_map(Change::Delete),
    ]
}

/// The slow model of a Quill document: a list of units, each with its attributes, and what it is if it is an embed.
type Units = Vec<(u16, Option<Value>, BTreeMap<String, Value>)>;

fn units(ops: &[QuillOp]) -> Units {
    let map = |attributes: &[(Text, Value)]| -> BTreeMap<String, Value> {
        attributes.iter().map(|(tag, value)| (tag.to_string(), value.clone())).collect()
    };
    let mut units = Vec::new();
    for op in ops {
        match op {
            QuillOp::Insert(text, attributes) => {
                units.extend(text.as_wtf8().utf16().map(|unit| (unit, None, map(attributes))));
            }
            QuillOp::Embed(embed, attributes) => units.push((10, Some(embed.clone()), map(attributes))),
            other => panic!("{other:?} in a document"),
        }
    }
    units
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn deltas_do_what_they_do_to_a_list(deltas in prop::collection::vec(prop::collection::vec(change(), 1..6), 1..8)) {
        let mut model = Model::new(SessionId::new(70_001).unwrap());
        model.api().root(Value::Map(Vec::new())).unwrap();
        model.api().obj("").unwrap().set_quill("note", "").unwrap();
        let mut list: Units = Vec::new();
        for delta in deltas {
            let (mut ops, mut at) = (Vec::new(), 0);
            for change in delta {
                let op = match change {
                    Change::Insert(text, attributes) => QuillOp::Insert(text.as_str().into(), attributes),
                    Change::Embed(attributes) => {
                        QuillOp::Embed(Value::Map(vec![("image".into(), "u".into())]), attributes)
                    }
                    Change::Retain(len, attributes, clear) => {
                        let value = |value| if clear { Value::Null } else { value };
                        let attributes = attributes.into_iter().map(|(tag, now)| (tag, value(now))).collect();
                        QuillOp::Retain(len.min(list.len() - at), attributes)
                    }
                    Change::Delete(len) => QuillOp::Delete(len.min(list.len() - at)),
                };
                match &op {
                    QuillOp::Retain(len, attributes) => {
                        for unit in &mut list[at..at + len] {
                            for (tag, value) in attributes {
                                match value {
                                    Value::Null => drop(unit.2.remove(&tag.to_string())),
                                    value => drop(unit.2.insert(tag.to_string(), value.clone())),
                                }
                            }
                        }
                        at += len;
                    }
                    QuillOp::Delete(len) => drop(list.drain(at..at + len)),
                    insert => {
                        let new = units(std::slice::from_ref(insert));
                        let len = new.len();
                        list.splice(at..at, new);
                        at += len;
                    }
                }
                ops.push(op);
            }
            // In and out as JSON changes nothing.
            let json = Value::Map(vec![("ops".into(), ops.iter().map(QuillOp::to_value).collect())]);
            prop_assert_eq!(&QuillOp::from_value(&json).unwrap(), &ops);
            note(&mut model).apply_quill(&ops).unwrap();
            prop_assert_eq!(units(&note(&mut model).to_quill().unwrap()), list.clone());
        }
    }
}

#[test]
fn a_delta_that_goes_beyond_the_end_is_an_error() {
    let mut alice = rich("abc");
    let error = note(&mut alice).apply_quill(&[QuillOp::Retain(4, Vec::new())]).unwrap_err();
    assert!(matches!(error, InvalidQuill::Edit(_)), "{error}");
    let error = QuillOp::from_value(&vec![Value::from("insert")].into_iter().collect()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "operation 0 of the delta: expected an insert, a retain or a delete, found text"
    );
}

#[test]
fn what_is_no_operation_of_a_delta_is_told() {
    let read =
        |json: &str| QuillOp::from_value(&json::decode(json.as_bytes()).unwrap()).unwrap_err().to_string();
    for (json, found) in [
        (r#"[{"retain":1},{"delete":1,"insert":"a"}]"#, "insert and delete"),
        (r#"[{"retain":1},{"retain":-1}]"#, "retain of -1"),
        (r#"[{"retain":1},{"delete":1.5}]"#, "delete of 1.5"),
        (r#"[{"retain":1},{"retain":"1"}]"#, "retain of text"),
        (r#"[{"retain":1},{"insert":5}]"#, "a number"),
        (r#"[{"retain":1},{}]"#, "a map"),
    ] {
        let expected =
            format!("operation 1 of the delta: expected an insert, a retain or a delete, found {found}");
        assert_eq!(read(json), expected);
    }
}

/// Both sides show the same delta of the same document, and edit it in turn.
#[test]
#[ignore = "needs node and json-joy"]
fn json_joy_shows_our_quill_texts_as_we_do() {
    let mut node = support::node::JsonJoy::start();
    let attribute = |tag: &str, value: Value| vec![(Text::from(tag), value)];
    let true_ = Value::Bool(true);
    let image = Value::Map(vec![("image".into(), "u".into())]);
    let mut alice =
        Model::with_schema(SessionId::new(123_456).unwrap(), &crdt_core::model::schema::quill("")).unwrap();
    let edits = [
        vec![
            QuillOp::Insert("Hello ".into(), Vec::new()),
            QuillOp::Insert("bold".into(), attribute("bold", true_.clone())),
            QuillOp::Insert("\n".into(), attribute("header", 1.into())),
            QuillOp::Embed(image, Vec::new()),
            QuillOp::Insert("🙂x".into(), Vec::new()),
        ],
        vec![
            QuillOp::Retain(2, Vec::new()),
            QuillOp::Retain(6, vec![("italic".into(), true_), ("bold".into(), Value::Null)]),
            QuillOp::Delete(1),
            QuillOp::Insert("new".into(), attribute("link", "/fox".into())),
        ],
        vec![QuillOp::Delete(3), QuillOp::Retain(3, attribute("color", "red".into()))],
    ];
    let shown = |model: &mut Model| -> Value {
        let ops = model.api().rich_text("").unwrap().to_quill().unwrap();
        ops.iter().map(QuillOp::to_value).collect()
    };
    for edit in edits {
        alice.api().rich_text("").unwrap().apply_quill(&edit).unwrap();
        alice.flush();
        let theirs = json::encode(
            &[QuillOp::Retain(1, attribute("under", "line".into()))].iter().map(QuillOp::to_value).collect(),
        );
        let data = support::hex(&alice.document().to_binary());
        let answer = node.ask(&format!(r#"{{"do":"quill","data":"{data}","delta":{theirs}}}"#));
        assert_eq!(support::plain(answer.get("before").unwrap()), support::plain(&shown(&mut alice)));
        let patch = support::unhex(answer.get("patch").unwrap().as_str().unwrap());
        assert_eq!(alice.apply(&Patch::decode(&patch).unwrap()).unwrap(), Applied::Merged);
        assert_eq!(support::plain(answer.get("after").unwrap()), support::plain(&shown(&mut alice)));
    }
}
