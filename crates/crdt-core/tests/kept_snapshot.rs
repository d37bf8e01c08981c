//! The bytes that a model keeps of its last writing: never those of another state, whatever was done to it.

mod support;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crdt_core::{
    Applied, Document, Model, Patch, SessionId, Value,
    model::{Expand, UndoOptions, json_patch, schema},
};
use proptest::prelude::*;
use serde_json::json;
use support::edits::{Edit, edit, edits, start};

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

/// Everything that takes a model by `&mut`.
#[derive(Clone, Debug)]
enum Step {
    Edits(Vec<Edit>),
    /// Bob's edits come, by one of three doors.
    Comes(Vec<Edit>, u8),
    /// What has come comes again.
    ComesAgain,
    /// A patch comes before what it builds on.
    ComesEarly,
    Flush,
    FlushInto,
    Transaction(Vec<Self>, End),
    Attempt(Vec<Self>, End),
    Undo,
    Redo,
    Update(i32),
    JsonPatch(bool),
    Defaults,
    RichText,
    /// All that everyone has seen.
    Compact,
    /// To a state that Bob brings, or to another document by the back door.
    Replace,
    Overwrite(Vec<Edit>),
    Share,
    Clone,
    Shrink,
    Watch,
    Unwatch,
    KeepHistory,
    EnableUndo,
    DisableUndo,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Fails,
    Panics,
}

fn step() -> impl Strategy<Value = Step> {
    let plain = prop_oneof![
        8 => edits(1..3).prop_map(Step::Edits),
        4 => (edits(1..3), 0..3u8).prop_map(|(edits, door)| Step::Comes(edits, door)),
        2 => Just(Step::ComesAgain),
        2 => Just(Step::ComesEarly),
        2 => Just(Step::Flush),
        2 => Just(Step::FlushInto),
        2 => Just(Step::Undo),
        2 => Just(Step::Redo),
        1 => any::<i32>().prop_map(Step::Update),
        1 => any::<bool>().prop_map(Step::JsonPatch),
        1 => Just(Step::Defaults),
        1 => Just(Step::RichText),
        2 => Just(Step::Compact),
        1 => Just(Step::Replace),
        1 => edits(0..3).prop_map(Step::Overwrite),
        1 => Just(Step::Share),
        1 => Just(Step::Clone),
        1 => Just(Step::Shrink),
        1 => Just(Step::Watch),
        1 => Just(Step::Unwatch),
        1 => Just(Step::KeepHistory),
        1 => Just(Step::EnableUndo),
        1 => Just(Step::DisableUndo),
    ];
    let end = prop::sample::select(vec![End::Done, End::Fails, End::Panics]);
    plain.prop_recursive(2, 16, 4, move |inner| {
        let steps = prop::collection::vec(inner, 0..4);
        prop_oneof![
            (steps.clone(), end.clone()).prop_map(|(steps, end)| Step::Transaction(steps, end)),
            (steps, end.clone()).prop_map(|(steps, end)| Step::Attempt(steps, end)),
        ]
    })
}

/// Asks for the bytes, as a server does after everything.
#[track_caller]
fn check(model: &Model) {
    let kept = model.snapshot();
    assert_eq!(kept[..], model.document().to_binary());
    assert!(Arc::ptr_eq(&kept, &model.snapshot()));
}

fn run(model: &mut Model, bob: &mut Model, last: &mut Option<Patch>, steps: &[Step]) {
    for step in steps {
        take(model, bob, last, step);
        check(model);
    }
}

fn take(model: &mut Model, bob: &mut Model, last: &mut Option<Patch>, step: &Step) {
    let ended = |end: &End| match end {
        End::Done => Ok(()),
        End::Fails => Err(()),
        End::Panics => panic!("on purpose"),
    };
    match step {
        Step::Edits(edits) => edits.iter().for_each(|one| edit(model, one)),
        Step::Comes(edits, door) => {
            edits.iter().for_each(|one| edit(bob, one));
            let Some(patch) = bob.flush() else { return };
            let before = model.snapshot();
            // Refused by a document that took the place of the one he knows, and was compacted.
            let merged = match door {
                0 => model.apply(&patch) == Ok(Applied::Merged),
                1 => model.apply_ref(patch.as_ref()) == Ok(Applied::Merged),
                _ => model.apply_bytes(patch.as_bytes()) == Ok(Applied::Merged),
            };
            assert_eq!(Arc::ptr_eq(&before, &model.snapshot()), !merged);
            *last = Some(patch);
        }
        Step::ComesAgain => {
            let Some(patch) = last else { return };
            let before = model.snapshot();
            let merged = model.apply_bytes(patch.as_bytes()) == Ok(Applied::Merged);
            assert_eq!(Arc::ptr_eq(&before, &model.snapshot()), !merged);
        }
        Step::ComesEarly => {
            let mut carol = bob.fork(session(3));
            carol.api().root("first").unwrap();
            carol.flush();
            let mut dave = carol.fork(session(4));
            dave.api().str("").unwrap().ins(0, "then ").unwrap();
            let before = model.snapshot();
            let applied = model.apply(&dave.flush().unwrap()).unwrap();
            assert!(matches!(applied, Applied::Parked { .. }), "{applied:?}");
            assert!(Arc::ptr_eq(&before, &model.snapshot()));
        }
        Step::Flush => _ = model.flush(),
        Step::FlushInto => _ = model.flush_into(&mut Vec::new()),
        Step::Transaction(steps, end) => {
            _ = catch_unwind(AssertUnwindSafe(|| {
                model.transaction(|model| {
                    run(model, bob, last, steps);
                    ended(end)
                })
            }));
        }
        Step::Attempt(steps, end) => {
            _ = catch_unwind(AssertUnwindSafe(|| {
                model.attempt(|model| {
                    run(model, bob, last, steps);
                    ended(end)
                })
            }));
        }
        Step::Undo => _ = model.undo().unwrap(),
        Step::Redo => _ = model.redo().unwrap(),
        Step::Update(number) => {
            model.api().update("", json!({"text": "updated", "list": [*number]})).unwrap();
        }
        Step::JsonPatch(fails) => {
            let missing = if *fails { "/is/not/there" } else { "" };
            let ops = json!([{"op": "add", "path": "/map", "value": {"a": 2}}, {"op": "test", "path": missing, "value": 1}]);
            let ops = json_patch::from_value(&Value::from(&ops)).unwrap();
            let _ = model.apply_json_patch(&ops);
        }
        Step::Defaults => _ = model.set_defaults(&schema::json(start())).unwrap(),
        Step::RichText => {
            if let Ok(mut map) = model.api().obj("/map") {
                map.set_rich_text("rich", "warp and weft").unwrap();
                let mut text = model.api().rich_text("/map/rich").unwrap();
                text.mark(0..4, "bold", true, Expand::After).unwrap();
            }
        }
        Step::Compact => {
            let stable = model.document().state_vector();
            let _ = model.compact(&stable);
        }
        Step::Replace => {
            let own = model.document().session();
            let before = model.snapshot();
            if model.replace_document(bob.document().clone()).is_err() {
                // It lacks what was flushed here.
                assert!(Arc::ptr_eq(&before, &model.snapshot()));
                model.flush();
                model.replace_document(model.fork(session(2)).into_document()).unwrap();
            }
            assert_eq!(model.document().session(), own);
        }
        Step::Overwrite(edits) => {
            let mut other = Model::new(model.document().session());
            other.api().root(start()).unwrap();
            edits.iter().for_each(|one| edit(&mut other, one));
            check(&other);
            // The document of the one model becomes that of another.
            *model = Document::from_binary(&other.snapshot()).unwrap().into();
        }
        Step::Share => model.share(),
        Step::Clone => *model = model.clone(),
        Step::Shrink => model.shrink(),
        Step::Watch => model.watch(),
        Step::Unwatch => model.unwatch(),
        Step::KeepHistory => drop(model.keep_history()),
        Step::EnableUndo => model.enable_undo(UndoOptions::STANDARD),
        Step::DisableUndo => model.disable_undo(),
    }
    model.set_now(Duration::from_secs(1));
}

proptest! {
    #[test]
    fn the_bytes_that_are_kept_are_those_that_would_be_written(steps in prop::collection::vec(step(), 1..24)) {
        let mut model = Model::new(session(1));
        check(&model);
        model.api().root(start()).unwrap();
        model.flush();
        let mut bob = model.fork(session(2));
        run(&mut model, &mut bob, &mut None, &steps);
        model.document().check().unwrap();
    }
}

#[test]
fn copies_have_the_same_bytes_until_one_is_edited() {
    let mut model = Model::new(session(1));
    model.api().root("warp").unwrap();
    let bytes = model.snapshot();
    let mut copy = model.clone();
    assert!(Arc::ptr_eq(&bytes, &copy.snapshot()));
    copy.api().str("").unwrap().ins(4, " and weft").unwrap();
    check(&copy);
    assert!(Arc::ptr_eq(&bytes, &model.snapshot()));
    // A fork is another session's, and the bytes say whose they are.
    let fork = model.fork(session(2));
    check(&fork);
    assert_ne!(bytes, fork.snapshot());
}

#[test]
fn reading_and_sharing_cost_nobody_the_bytes() {
    let mut model = Model::new(session(1));
    model.api().root(json!({"text": "warp"})).unwrap();
    let bytes = model.snapshot();
    model.share();
    assert!(model.flush().is_some());
    model.keep_history().unwrap();
    model.watch();
    assert_eq!(model.api().str("/text").unwrap().len(), 4);
    assert!(model.api().str("/nothing").is_err());
    model.transaction(|model| if model.has_edits() { Err(()) } else { Ok(()) }).unwrap();
    assert!(Arc::ptr_eq(&bytes, &model.snapshot()));
    model.shrink();
    assert_eq!(Arc::strong_count(&bytes), 1);
    check(&model);
}
