//! Undo and redo: one session's steps come and go, what others did stays.

mod support;

use std::time::Duration;

use crdt_core::{
    Applied, Document, Model, Patch, SessionId, Timestamp, Value,
    document::Content,
    model::{Expand, QuillOp, Selection, UndoOptions},
};
use proptest::prelude::*;
use serde_json::json;
use support::edits::{Edit, edit, edits, start};

fn model(session: u64, root: impl Into<Value>) -> Model {
    let mut model = Model::new(SessionId::new(session).unwrap());
    model.api().root(root).unwrap();
    model.flush();
    model.enable_undo(UndoOptions::STANDARD);
    model
}

/// Extensions as what they stand for: the tuples that hold them have other ids when they come back, and name these.
fn seen(model: &Model) -> Value {
    model.document().view_extended().in_key_order()
}

#[derive(Clone, Debug)]
enum Step {
    Edit(Vec<Edit>),
    Undo,
    Redo,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => edits(1..4).prop_map(Step::Edit),
        3 => Just(Step::Undo),
        2 => Just(Step::Redo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 150 } else { 3000 }))]

    /// The slow model is a list of views.
    #[test]
    fn alone_undo_and_redo_walk_through_all_that_was_seen(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = model(70_001, start());
        let mut views = vec![seen(&model)];
        let mut at = 0;
        for step in steps {
            match step {
                Step::Edit(todo) => {
                    todo.iter().for_each(|todo| edit(&mut model, todo));
                    if model.flush().is_some() {
                        at += 1;
                        views.truncate(at);
                        views.push(seen(&model));
                    }
                }
                Step::Undo => {
                    prop_assert_eq!(model.undo().unwrap().is_some(), at > 0);
                    at = at.saturating_sub(1);
                    model.flush();
                }
                Step::Redo => {
                    let more = at + 1 < views.len();
                    prop_assert_eq!(model.redo().unwrap().is_some(), more);
                    at += usize::from(more);
                    model.flush();
                }
            }
            prop_assert_eq!(&seen(&model), &views[at]);
            prop_assert_eq!((model.can_undo(), model.can_redo()), (at > 0, at + 1 < views.len()));
            model.document().check().unwrap();
        }
        while model.undo().unwrap().is_some() {}
        prop_assert_eq!(&seen(&model), &views[0]);
        while model.redo().unwrap().is_some() {}
        prop_assert_eq!(&seen(&model), &views[views.len() - 1]);
    }

    #[test]
    fn all_replicas_agree_whoever_undoes_what(
        steps in prop::collection::vec((0..3usize, step(), 0..3usize), 1..60),
    ) {
        let first = model(70_000, start());
        let mut models: Vec<(Model, [usize; 3])> = (0..3)
            .map(|at| {
                let mut model = first.fork(SessionId::new(80_000 + at).unwrap());
                model.enable_undo(UndoOptions::STANDARD);
                model.watch();
                (model, [0; 3])
            })
            .collect();
        let mut logs: [Vec<Patch>; 3] = Default::default();
        let deliver = |(model, come): &mut (Model, [usize; 3]), logs: &[Vec<Patch>; 3], to: usize, from: usize| {
            let Some(patch) = logs[from].get(come[from]).filter(|_| to != from) else { return false };
            let merged = !matches!(model.apply(patch).unwrap(), Applied::Parked { .. });
            come[from] += usize::from(merged);
            merged
        };
        for (who, step, from) in steps {
            let model = &mut models[who].0;
            match step {
                Step::Edit(todo) => todo.iter().for_each(|todo| edit(model, todo)),
                Step::Undo => drop(model.undo().unwrap()),
                Step::Redo => drop(model.redo().unwrap()),
            }
            model.document().check().unwrap();
            logs[who].extend(model.flush());
            deliver(&mut models[who], &logs, who, from);
        }
        let mut news = true;
        while news {
            news = false;
            for (to, model) in models.iter_mut().enumerate() {
                for from in 0..3 {
                    news |= deliver(model, &logs, to, from);
                }
            }
        }
        for (model, come) in &models {
            model.document().check().unwrap();
            prop_assert!(come.iter().zip(&logs).filter(|(come, log)| **come == log.len()).count() >= 2);
            prop_assert_eq!(model.view().in_key_order(), models[0].0.view().in_key_order());
        }
    }
}

fn text_elements(document: &Document) -> Vec<(Timestamp, u16, bool)> {
    let root = document.root().unwrap();
    let Content::Str(chunks) = root.content() else { panic!("no text") };
    let mut all = Vec::new();
    for chunk in chunks {
        let mut bytes = Vec::new();
        if !chunk.is_tombstone() {
            chunk.write_text(&mut bytes);
        }
        let units: Vec<u16> = crdt_core::Wtf8::new(&bytes).unwrap().utf16().collect();
        for tick in 0..chunk.span() {
            let unit = units.get(tick as usize).copied().unwrap_or_default();
            all.push((chunk.id().tick(tick), unit, !chunk.is_tombstone()));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 3000 }))]

    /// What others typed stays, what they deleted stays gone; the rest is as if the undoing session had never edited.
    #[test]
    fn undoing_everything_leaves_the_text_of_the_others(
        steps in prop::collection::vec((0..3usize, any::<usize>(), 0..6usize, "[a-z]{1,5}", any::<bool>()), 1..50),
    ) {
        let first = model(70_000, "the woven text of the start");
        let mut models: Vec<Model> = (0..3).map(|at| first.fork(SessionId::new(80_000 + at).unwrap())).collect();
        models[0].enable_undo(UndoOptions::STANDARD);
        // Every unit there ever was, and what the first session deleted itself.
        let mut units: std::collections::HashMap<Timestamp, u16> = std::collections::HashMap::new();
        let mut deleted_by_first = std::collections::HashSet::new();
        let mut waiting: Vec<Patch> = Vec::new();
        for (who, place, delete, text, sync) in steps {
            let before = text_elements(models[who].document());
            let visible: Vec<Timestamp> = before.iter().filter(|unit| unit.2).map(|unit| unit.0).collect();
            let place = place % (visible.len() + 1);
            let mut str = models[who].api().str("").unwrap();
            if delete > 0 {
                let len = delete.min(visible.len() - place);
                str.del(place, len).unwrap();
                if who == 0 {
                    deleted_by_first.extend(visible[place..place + len].iter().copied());
                }
            } else {
                str.ins(place, text.as_str()).unwrap();
            }
            for (id, unit, live) in text_elements(models[who].document()).into_iter().chain(before) {
                if live {
                    units.insert(id, unit);
                }
            }
            waiting.extend(models[who].flush());
            if sync {
                for patch in waiting.drain(..) {
                    for model in &mut models {
                        let parked = matches!(model.apply(&patch).unwrap(), Applied::Parked { .. });
                        prop_assert!(!parked);
                    }
                }
            }
        }
        for patch in waiting.drain(..) {
            for model in &mut models {
                let parked = matches!(model.apply(&patch).unwrap(), Applied::Parked { .. });
                        prop_assert!(!parked);
            }
        }
        let own = models[0].document().session();
        let expected: Vec<u16> = text_elements(models[0].document())
            .into_iter()
            .filter(|(id, _, live)| id.sid != own && (*live || deleted_by_first.contains(id)))
            .map(|(id, ..)| units[&id])
            .collect();
        while models[0].undo().unwrap().is_some() {}
        let Value::Text(text) = models[0].view() else { panic!("no text") };
        prop_assert_eq!(text.as_wtf8().utf16().collect::<Vec<_>>(), expected);
        let patch = models[0].flush();
        if let Some(patch) = patch {
            for model in &mut models[1..] {
                prop_assert_eq!(model.apply(&patch).unwrap(), Applied::Merged);
                prop_assert_eq!(model.view(), Value::Text(text.clone()));
            }
        }
    }
}

#[test]
fn a_value_that_someone_else_has_set_since_stays() {
    let mut alice = model(70_001, json!({"a": 1, "b": 1}));
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    alice.api().obj("").unwrap().set([("a", 2), ("b", 2)]).unwrap();
    assert_eq!(bob.apply(&alice.flush().unwrap()).unwrap(), Applied::Merged);
    bob.api().obj("").unwrap().set([("a", 3)]).unwrap();
    assert_eq!(alice.apply(&bob.flush().unwrap()).unwrap(), Applied::Merged);
    alice.undo().unwrap().unwrap();
    assert_eq!(alice.view().in_key_order(), Value::from(&json!({"a": 3, "b": 1})));
    alice.redo().unwrap().unwrap();
    assert_eq!(alice.view().in_key_order(), Value::from(&json!({"a": 3, "b": 2})));
}

#[test]
fn a_step_of_which_others_left_nothing_is_passed_over() {
    let mut alice = model(70_001, json!({"a": 1, "text": ""}));
    alice.api().str("/text").unwrap().ins(0, "abc").unwrap();
    alice.flush();
    alice.api().obj("").unwrap().set([("a", 2)]).unwrap();
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    bob.api().obj("").unwrap().set([("a", 3)]).unwrap();
    assert_eq!(alice.apply(&bob.flush().unwrap()).unwrap(), Applied::Merged);
    alice.undo().unwrap().unwrap();
    assert_eq!(alice.view().in_key_order(), Value::from(&json!({"a": 3, "text": ""})));
}

#[test]
fn what_was_typed_with_short_pauses_is_one_step() {
    let mut model = model(70_001, "");
    for (at, text) in [(1000, "a"), (1100, "b"), (5000, "c"), (5400, "d")] {
        model.set_now(Duration::from_millis(at));
        let mut str = model.api().str("").unwrap();
        let len = str.len();
        str.ins(len, text).unwrap();
        model.flush();
    }
    model.undo().unwrap().unwrap();
    assert_eq!(model.view(), "ab".into());
    model.undo().unwrap().unwrap();
    assert_eq!(model.view(), "".into());
}

#[test]
fn a_transaction_is_a_step_whatever_the_time() {
    let mut model = model(70_001, "");
    model.set_now(Duration::from_secs(1));
    model.api().str("").unwrap().ins(0, "a").unwrap();
    let done: Result<(), crdt_core::model::EditError> = model.transaction(|model| {
        model.api().str("")?.ins(1, "b")?;
        model.flush();
        model.api().str("")?.ins(2, "c")
    });
    done.unwrap();
    model.api().str("").unwrap().ins(3, "d").unwrap();
    let mut views = Vec::new();
    while model.undo().unwrap().is_some() {
        views.push(model.view());
    }
    assert_eq!(views, ["abc", "a", ""].map(Value::from));
}

#[test]
fn the_selection_comes_back_with_the_text() {
    let mut model = model(70_001, "one two three");
    let node = model.api().str("").unwrap().id();
    model.note_selection(Selection::range(model.document(), node, 4..7));
    model.api().str("").unwrap().del(4, 4).unwrap();
    model.note_selection(Selection::range(model.document(), node, 4..4));
    let undone = model.undo().unwrap().unwrap();
    assert_eq!(model.view(), "one two three".into());
    assert_eq!(undone.selections[0].resolve(model.document()), Some(4..7));
    let redone = model.redo().unwrap().unwrap();
    assert_eq!(redone.selections[0].resolve(model.document()), Some(4..4));
}

#[test]
fn steps_above_the_bound_are_forgotten() {
    let mut model = model(70_001, json!({"n": 0}));
    model.enable_undo(UndoOptions { steps_max: 3, ..UndoOptions::STANDARD });
    for n in 1..=10 {
        model.api().obj("").unwrap().set([("n", n)]).unwrap();
        model.flush();
    }
    let steps = std::iter::from_fn(|| model.undo().unwrap()).count();
    assert_eq!(steps, 3);
    assert_eq!(model.view(), Value::from(&json!({"n": 7})));
}

#[test]
fn bytes_above_the_bound_are_forgotten() {
    let mut model = model(70_001, "x".repeat(100_000));
    model.enable_undo(UndoOptions { bytes_max: 30_000, ..UndoOptions::STANDARD });
    for _ in 0..10 {
        model.api().str("").unwrap().del(0, 8_000).unwrap();
        model.flush();
    }
    let steps = std::iter::from_fn(|| model.undo().unwrap()).count();
    assert_eq!(steps, 3);
}

#[test]
fn one_big_step_that_was_undone_leaves_those_before_it() {
    let mut model = model(70_001, "x".repeat(1_000));
    model.enable_undo(UndoOptions { bytes_max: 30_000, ..UndoOptions::STANDARD });
    for _ in 0..5 {
        model.api().str("").unwrap().del(0, 100).unwrap();
        model.flush();
    }
    model.api().str("").unwrap().ins(0, "y".repeat(50_000).as_str()).unwrap();
    model.flush();
    // What the paste put there is too much to be kept for a redo; the older steps are as they were.
    model.undo().unwrap().unwrap();
    assert!(!model.can_redo());
    assert_eq!(std::iter::from_fn(|| model.undo().unwrap()).count(), 5);
    assert_eq!(model.view(), "x".repeat(1_000).as_str().into());
}

#[test]
fn what_can_be_redone_is_within_the_bound_too() {
    let mut model = model(70_001, "");
    model.enable_undo(UndoOptions { bytes_max: 30_000, ..UndoOptions::STANDARD });
    for _ in 0..4 {
        model.api().str("").unwrap().ins(0, "y".repeat(12_000).as_str()).unwrap();
        model.flush();
    }
    assert_eq!(std::iter::from_fn(|| model.undo().unwrap()).count(), 4);
    assert_eq!(std::iter::from_fn(|| model.redo().unwrap()).count(), 2);
    assert_eq!(model.view().as_str().map(str::len), Some(24_000));
}

#[test]
fn text_inside_of_something_that_came_back_can_still_be_undone() {
    let mut model = model(70_001, json!({"notes": ["abcdef"]}));
    model.api().str("/notes/0").unwrap().del(1, 2).unwrap();
    model.flush();
    model.api().str("/notes/0").unwrap().del(2, 1).unwrap();
    model.flush();
    model.api().str("/notes/0").unwrap().ins(0, "<").unwrap();
    model.flush();
    model.api().obj("").unwrap().del(["notes"]).unwrap();
    let mut views = Vec::new();
    while model.undo().unwrap().is_some() {
        views.push(model.view().get("notes").unwrap().at(0).unwrap().clone());
    }
    assert_eq!(views, ["<adf", "adf", "adef", "abcdef"].map(Value::from));
}

/// What is seen, and the marks of the rich text at `note`, of which the view has none; nothing if there is none.
fn shown(model: &Model) -> (Value, Value) {
    let mut copy = model.fork(SessionId::new(70_009).unwrap());
    let note = copy.api().rich_text("/note").map(|note| note.to_quill().unwrap());
    (model.document().view_extended(), note.iter().flatten().map(QuillOp::to_value).collect())
}

/// A header names the tuple that it is in, and the anchors of marks name letters: all of these have new ids when they come
/// back.
#[test]
fn extensions_come_back_as_what_they_were() {
    // Not by chance the same last bytes of an id: each of many tuples.
    for skipped in 0..300 {
        let mut alice = model(70_001, json!({"text": ""}));
        alice.api().str("/text").unwrap().ins(0, "x".repeat(skipped).as_str()).unwrap();
        alice.api().obj("").unwrap().set_counter("likes", 1.5).unwrap();
        alice.api().obj("").unwrap().set_multi_value("choice", "red").unwrap();
        alice.api().obj("").unwrap().set_rich_text("note", "The brown fox jumped").unwrap();
        let mut note = alice.api().rich_text("/note").unwrap();
        note.mark(4..9, "colour", "brown", Expand::None).unwrap();
        note.mark(10..20, "bold", true, Expand::After).unwrap();
        // The last letter of a mark is gone when the text is: what stands before it is the end then.
        note.del(8, 1).unwrap();
        alice.flush();
        let mut bob = alice.fork(SessionId::new(70_002).unwrap());
        let before = shown(&alice);

        let mut exchange = |alice: &mut Model| {
            let patch = alice.flush().unwrap();
            assert_eq!(bob.apply(&patch).unwrap(), Applied::Merged);
            assert_eq!(shown(alice), shown(&bob));
        };
        alice.api().obj("").unwrap().set([("likes", 0), ("choice", 0), ("note", 0)]).unwrap();
        exchange(&mut alice);
        for _ in 0..2 {
            alice.undo().unwrap().unwrap();
            exchange(&mut alice);
            assert_eq!(shown(&alice), before, "with {skipped} ids before");
            alice.redo().unwrap().unwrap();
            exchange(&mut alice);
        }
        alice.undo().unwrap().unwrap();
        alice.api().counter("/likes").unwrap().add(2.0).unwrap();
        alice.api().multi_value("/choice").unwrap().set("blue").unwrap();
        alice.api().rich_text("/note").unwrap().ins(6, "O").unwrap();
        exchange(&mut alice);
        let (after, note) = shown(&alice);
        assert_eq!(after.get("likes"), Some(&Value::from(3.5)));
        assert_eq!(after.get("choice"), Some(&Value::from(&json!(["blue"]))));
        assert_eq!(after.get("note"), Some(&"The brOow fox jumped".into()));
        let expected = json!([
            {"insert": "The "}, {"insert": "brOow", "attributes": {"colour": "brown"}}, {"insert": " "},
            {"insert": "fox jumped", "attributes": {"bold": true}},
        ]);
        assert!(note.is_same_json(&Value::from(&expected)), "{note:?}");
    }
}

/// Whether the time was told before undo was enabled or after, edits without a pause are one step.
#[test]
fn undo_knows_the_time_that_was_told_before_it() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root("").unwrap();
    model.flush();
    model.set_now(Duration::from_secs(1));
    model.enable_undo(UndoOptions::STANDARD);
    for letter in ["a", "b"] {
        model.api().str("").unwrap().ins(0, letter).unwrap();
        model.flush();
    }
    model.undo().unwrap().unwrap();
    assert_eq!(model.view(), "".into());
}
