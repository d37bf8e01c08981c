//! json-joy's own extensions, as far as its npm package exports them, read what ours write and the other way round: counters,
//! registers that keep all, and the blocks of rich text.
//!
//! `json-joy/lib/json-crdt-extensions` exports Peritext with its markers, slices and blocks. A marker may have a type of
//! several steps, a list and an item in it; both sides write such and tell the same steps of what the other wrote.
//!
//! Excluded: a marker whose own character was deleted by itself, as the editor there never does. Ours joins the blocks; there
//! the marker stays and takes the place of a letter, which none of its blocks has then.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, PatchBuilder, SessionId, Timestamp, Value,
    model::{Block, BlockStep, Extension, RichTextCursor},
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::json;
use support::{get, hex, items, node::JsonJoy, plain, text, unhex};

/// A value of the view, which the driver sends as CBOR.
fn value_of(hex: &Value) -> Value {
    crdt_core::codec::cbor::decode(&unhex(text(hex))).unwrap()
}

fn hex_list(patches: &[Patch]) -> String {
    let list: Vec<String> = patches.iter().map(|patch| format!("\"{}\"", hex(patch.as_bytes()))).collect();
    format!("[{}]", list.join(","))
}

#[test]
#[ignore = "needs node and json-joy"]
fn json_joy_takes_our_counters_and_multi_value_registers_for_its_own() {
    let mut joy = JsonJoy::start();
    let mut alice = Model::new(SessionId::new(123_456).unwrap());
    alice.api().root(Value::Map(Vec::new())).unwrap();
    alice.api().obj("").unwrap().set_counter("likes", 5.0).unwrap();
    alice.api().obj("").unwrap().set_multi_value("name", "draft").unwrap();
    alice.flush();
    let before = hex(&alice.document().to_binary());
    let mut bob = alice.fork(SessionId::new(200_000).unwrap());
    alice.api().counter("/likes").unwrap().add(2.0).unwrap();
    bob.api().counter("/likes").unwrap().add(10.0).unwrap();
    alice.api().multi_value("/name").unwrap().set("Ada").unwrap();
    bob.api().multi_value("/name").unwrap().set("Bob").unwrap();
    let patches = [alice.flush().unwrap(), bob.flush().unwrap()];
    assert_eq!(alice.apply(&patches[1]), Ok(Applied::Merged));
    let list = hex_list(&patches);
    let answer = joy.ask(&format!(r#"{{"do":"extensions","data":"{before}","patches":{list}}}"#));
    let view = value_of(get(&answer, "view"));
    assert_eq!(get(&view, "likes"), &17.into());
    assert_eq!(get(&view, "name"), &["Bob", "Ada"].into_iter().collect());
    // What json-joy shows with its extensions registered is our extended view.
    assert_eq!(plain(&view), plain(&alice.document().view_extended()));
    let theirs = Patch::decode(&unhex(text(get(&answer, "patch")))).unwrap();
    assert_eq!(alice.apply(&theirs), Ok(Applied::Merged));
    assert_eq!(alice.api().counter("/likes").unwrap().value(), 21.0);
    assert_eq!(get(&value_of(get(&answer, "after")), "likes"), &21.into());
}

fn note(model: &mut Model) -> RichTextCursor<'_> {
    model.api().rich_text("").unwrap()
}

/// What each block is, step by step, and its text.
type Blocks = Vec<(Value, String)>;

fn ours(model: &mut Model) -> Blocks {
    let note = note(model);
    let units: Vec<u16> = note.text().as_wtf8().utf16().collect();
    let told = |block: &Block| {
        let text = String::from_utf16(&units[block.range.clone()]).unwrap();
        let told = |step: &BlockStep| -> Value {
            let data = if step.data.is_undefined() { Value::Null } else { step.data.clone() };
            [step.tag.clone().into(), step.number.into(), data].into_iter().collect()
        };
        assert_eq!(block.tag.as_ref(), block.steps.last().map(|step| &step.tag));
        (block.steps.iter().map(told).collect(), text)
    };
    note.blocks().unwrap().iter().map(told).collect()
}

fn theirs(blocks: &Value) -> Blocks {
    let pair = |block: &Value| (items(block)[0].clone(), text(&items(block)[1]).to_owned());
    items(blocks).iter().map(pair).collect()
}

/// A block that is split off here or in json-joy, or what is written or deleted between.
#[derive(Clone, Debug)]
enum Edit {
    Ours(usize, Vec<BlockStep>),
    Theirs(usize, &'static str),
    Ins(usize, String),
    Del(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let tag = || prop::sample::select(vec!["p", "h1", "quote", "ul", "li"]);
    let data = prop::sample::select(vec![
        Value::Undefined,
        Value::Map(Vec::new()),
        Value::from(&json!({"x": 1, "y": {"z": "far"}})),
    ]);
    let step = prop_oneof![
        2 => tag().prop_map(BlockStep::from),
        1 => (tag(), 0..3u64, data).prop_map(|(tag, number, data)| BlockStep { tag: tag.into(), number, data }),
    ];
    let steps = prop::collection::vec(step, 1..4);
    // In json-joy the type of a block is one step, or several with what each says.
    let path = prop::sample::select(vec![
        r#""p""#,
        r#"["h2"]"#,
        r#"[["ul",0,{}],["li",0,{"x":1}]]"#,
        r#"["quote","p"]"#,
    ]);
    prop_oneof![
        2 => (any::<usize>(), steps).prop_map(|(at, steps)| Edit::Ours(at, steps)),
        2 => (any::<usize>(), path).prop_map(|(at, path)| Edit::Theirs(at, path)),
        2 => (any::<usize>(), "[a-z]{1,5}").prop_map(|(at, text)| Edit::Ins(at, text)),
        1 => (any::<usize>(), 1..4usize).prop_map(|(at, len)| Edit::Del(at, len)),
    ]
}

#[test]
#[ignore = "needs node and json-joy"]
fn json_joys_blocks_are_ours() {
    let mut joy = JsonJoy::start();
    let mut runner = TestRunner::deterministic();
    let mut split = 0;
    for _ in 0..60 {
        let edits = prop::collection::vec(edit(), 1..12).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new(SessionId::new(123_456).unwrap());
        let mut patch = PatchBuilder::new(model.document().session(), model.document().time());
        let root = patch.new_rich_text(Extension::Peritext, "warp and weft");
        patch.ins_val(Timestamp::ORIGIN, root);
        let mut document = Document::new(SessionId::new(200_000).unwrap());
        assert_eq!(document.apply(&patch.finish().unwrap()), Ok(Applied::Merged));
        model = document.into();
        for edit in &edits {
            let len = note(&mut model).len();
            match edit {
                Edit::Ours(at, steps) => {
                    let (last, outer) = steps.split_last().unwrap();
                    let mut note = note(&mut model);
                    note.split_nested(at % (len + 1), outer.to_vec(), last.clone(), Value::Undefined)
                        .unwrap();
                    split += 1;
                }
                Edit::Theirs(at, path) => {
                    model.flush();
                    let data = hex(&model.document().to_binary());
                    let at = at % (len + 1);
                    let answer =
                        joy.ask(&format!(r#"{{"do":"blocks","data":"{data}","marker":[{at},{path}]}}"#));
                    assert_eq!(ours(&mut model), theirs(get(&answer, "before")), "{edits:?}");
                    let patch = Patch::decode(&unhex(text(get(&answer, "patch")))).unwrap();
                    assert_eq!(model.apply(&patch), Ok(Applied::Merged));
                    assert_eq!(ours(&mut model), theirs(get(&answer, "after")), "{edits:?}");
                    split += 1;
                }
                Edit::Ins(at, text) => note(&mut model).ins(at % (len + 1), text.as_str()).unwrap(),
                Edit::Del(at, most) => {
                    let at = at % (len + 1);
                    let units: Vec<u16> = note(&mut model).text().as_wtf8().utf16().collect();
                    let letters = units[at..].iter().take_while(|&&unit| unit != 10).count();
                    note(&mut model).del(at, (*most).min(letters)).unwrap();
                }
            }
        }
        let data = hex(&model.document().to_binary());
        let answer = joy.ask(&format!(r#"{{"do":"blocks","data":"{data}"}}"#));
        assert_eq!(ours(&mut model), theirs(get(&answer, "before")), "{edits:?}");
    }
    assert!(split > 100, "{split}");
}
