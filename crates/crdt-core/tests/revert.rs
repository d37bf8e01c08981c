//! Back to a version of the history: whatever was done since, by whomever, and for all replicas alike.

mod support;

use std::time::Duration;

use crdt_core::{
    Applied, Model, Patch, SessionId, Timestamp, Value,
    document::Compaction,
    model::{Block, EditError, Expand, RichTextCursor, Span, UndoOptions},
};
use proptest::prelude::*;
use serde_json::json;
use support::edits::{Edit, edit, edits, start};

fn model(session: u64, root: impl Into<Value>) -> Model {
    let mut model = Model::new(SessionId::new(session).unwrap());
    model.api().root(root).unwrap();
    model.flush();
    model.keep_history().unwrap();
    model
}

/// Extensions as what they stand for: the tuples that hold them have other ids when they come back, and name these.
fn seen(model: &Model) -> Value {
    model.document().view_extended().in_key_order()
}

fn send(from: &mut Model, to: &mut Model) -> Option<Timestamp> {
    let patch = from.flush()?;
    assert_eq!(to.apply(&patch), Ok(Applied::Merged));
    Some(patch.id())
}

/// Who edits, and what; both have what the other did before.
fn turns() -> impl Strategy<Value = Vec<(bool, Vec<Edit>)>> {
    prop::collection::vec((any::<bool>(), edits(1..5)), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_version_comes_back_as_it_was_and_can_be_left_again(
        turns in turns(), back in any::<prop::sample::Index>(), with_undo in any::<bool>(), more in edits(1..4),
    ) {
        let mut alice = model(70_001, start());
        let mut bob = alice.fork(SessionId::new(70_002).unwrap());
        if with_undo {
            alice.enable_undo(UndoOptions::STANDARD);
        }
        let mut versions = Vec::new();
        for (is_bob, todo) in turns {
            let (from, to) = if is_bob { (&mut bob, &mut alice) } else { (&mut alice, &mut bob) };
            todo.iter().for_each(|todo| edit(from, todo));
            if let Some(id) = send(from, to) {
                versions.push((id, seen(&alice)));
            }
        }
        prop_assume!(!versions.is_empty());
        let (version, shown) = &versions[back.index(versions.len())];
        let now = seen(&alice);
        alice.revert_to(*version).unwrap();
        prop_assert_eq!(&seen(&alice), shown);
        alice.document().check().unwrap();
        if with_undo && alice.has_edits() {
            alice.undo().unwrap();
            prop_assert_eq!(&seen(&alice), &now);
            alice.redo().unwrap();
            prop_assert_eq!(&seen(&alice), shown);
        }
        // Someone else edits at the same time.
        more.iter().for_each(|todo| edit(&mut bob, todo));
        let patches: Vec<Patch> = [alice.flush(), bob.flush()].into_iter().flatten().collect();
        for patch in &patches {
            let _ = alice.apply(patch).unwrap();
            let _ = bob.apply(patch).unwrap();
        }
        prop_assert_eq!(seen(&alice), seen(&bob));
        // And back again to what was there first: the reverting itself is part of the history.
        if let Some(patch) = patches.first() {
            let last = alice.history().unwrap().versions().last().unwrap().id;
            prop_assert!(last >= patch.id());
            let now = seen(&alice);
            alice.revert_to(versions[0].0).unwrap();
            prop_assert_eq!(&seen(&alice), &versions[0].1);
            alice.flush();
            alice.revert_to(last).unwrap();
            prop_assert_eq!(seen(&alice), now);
        }
    }
}

#[derive(Clone, Debug)]
enum Written {
    Ins(usize, String),
    Del(usize, usize),
    Mark(usize, usize, usize, usize),
    Split(usize),
}

fn written() -> impl Strategy<Value = Written> {
    let place = any::<usize>();
    prop_oneof![
        4 => (place, "[a-z]{1,4}").prop_map(|(p, t)| Written::Ins(p, t)),
        4 => (place, 1..5usize).prop_map(|(p, l)| Written::Del(p, l)),
        4 => (place, 1..5usize, 0..4usize, 0..4usize).prop_map(|(p, l, t, e)| Written::Mark(p, l, t, e)),
        1 => place.prop_map(Written::Split),
    ]
}

fn note(model: &mut Model) -> RichTextCursor<'_> {
    model.api().rich_text("/note").unwrap()
}

fn write(model: &mut Model, what: Written) {
    let mut note = note(model);
    let len = note.len();
    match what {
        Written::Ins(place, text) => note.ins(place % (len + 1), text.as_str()).unwrap(),
        Written::Del(place, span) => {
            let place = place % (len + 1);
            note.del(place, span.min(len - place)).unwrap();
        }
        Written::Mark(..) if len == 0 => {}
        Written::Mark(place, span, tag, expand) => {
            let place = place % len;
            let range = place..(place + span).min(len);
            let expand = [Expand::After, Expand::Before, Expand::Both, Expand::None][expand];
            match tag {
                0 => note.mark(range, "bold", true, expand).unwrap(),
                1 => note.unmark(range, "bold", expand).unwrap(),
                2 => note.mark(range, "color", span as f64, expand).unwrap(),
                _ => drop(note.mark_also(range, "comment", place as f64).unwrap()),
            }
        }
        Written::Split(place) => note.split(place % (len + 1), "p", Value::Undefined).unwrap(),
    }
}

/// Of comments beside each other the order is not told: one that comes back is the last.
fn shown(model: &mut Model) -> (Vec<Span>, Vec<Block>) {
    let mut spans = note(model).spans().unwrap();
    for (_, said) in spans.iter_mut().flat_map(|span| &mut span.marks) {
        if let Value::Array(many) = said {
            many.sort_by(|one, two| one.as_f64().partial_cmp(&two.as_f64()).unwrap());
        }
    }
    let mut blocks = note(model).blocks().unwrap();
    blocks.iter_mut().for_each(|block| block.spans.clear());
    (spans, blocks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn text_comes_back_under_its_marks(
        steps in prop::collection::vec((any::<bool>(), written()), 1..16), back in any::<prop::sample::Index>(),
    ) {
        let mut alice = model(70_001, json!({}));
        alice.api().obj("").unwrap().set_rich_text("note", "warp and weft").unwrap();
        alice.flush();
        let mut bob = alice.fork(SessionId::new(70_002).unwrap());
        let mut versions = Vec::new();
        for (is_bob, what) in steps {
            let (from, to) = if is_bob { (&mut bob, &mut alice) } else { (&mut alice, &mut bob) };
            write(from, what);
            if let Some(id) = send(from, to) {
                versions.push((id, shown(&mut alice)));
            }
        }
        prop_assume!(!versions.is_empty());
        let (version, before) = &versions[back.index(versions.len())];
        alice.revert_to(*version).unwrap();
        prop_assert_eq!(&shown(&mut alice), before);
        send(&mut alice, &mut bob);
        prop_assert_eq!(&shown(&mut bob), before);
    }
}

/// What an older state has and this one has not is more than a view shows: marks, the kind of node, who else adds to a sum.
#[test]
fn marks_and_counters_come_back() {
    let mut alice = model(70_001, json!({"rest": [1, 2]}));
    alice.api().obj("").unwrap().set_rich_text("note", "The brown fox jumped").unwrap();
    alice.api().obj("").unwrap().set_counter("likes", 1.0).unwrap();
    let mut note = alice.api().rich_text("/note").unwrap();
    note.mark(4..9, "colour", "brown", Expand::None).unwrap();
    note.mark(10..20, "bold", true, Expand::After).unwrap();
    note.split(9, "p", Value::Undefined).unwrap();
    let version = alice.flush().unwrap().id();
    let shown = |alice: &mut Model| {
        (
            alice.api().rich_text("/note").unwrap().spans().unwrap(),
            alice.api().counter("/likes").unwrap().value(),
        )
    };
    let before = shown(&mut alice);
    let blocks = alice.api().rich_text("/note").unwrap().blocks().unwrap();

    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    bob.api().counter("/likes").unwrap().add(5.0).unwrap();
    let mut note = bob.api().rich_text("/note").unwrap();
    note.del(2, 12).unwrap();
    note.ins(2, "ese").unwrap();
    note.unmark(0..6, "bold", Expand::After).unwrap();
    send(&mut bob, &mut alice);
    alice.api().obj("").unwrap().del(["rest"]).unwrap();
    send(&mut alice, &mut bob);

    alice.revert_to(version).unwrap();
    assert_eq!(shown(&mut alice), before);
    assert_eq!(alice.api().rich_text("/note").unwrap().blocks().unwrap(), blocks);
    assert_eq!(alice.view_at("/rest").unwrap(), Value::from(&json!([1, 2])));
    send(&mut alice, &mut bob);
    assert_eq!(shown(&mut bob), before);

    alice.api().root(0).unwrap();
    send(&mut alice, &mut bob);
    bob.keep_history().unwrap();
    alice.revert_to(version).unwrap();
    assert_eq!(shown(&mut alice), before);
    // It goes on as what it was.
    alice.api().counter("/likes").unwrap().add(2.0).unwrap();
    send(&mut alice, &mut bob);
    assert_eq!(shown(&mut bob).1, before.1 + 2.0);
}

#[test]
fn what_cannot_be_gone_back_to_is_told() {
    let mut alice = Model::new(SessionId::new(70_001).unwrap());
    let any = Timestamp::new(SessionId::new(70_001).unwrap(), 1);
    assert_eq!(alice.revert_to(any), Err(EditError::NoHistory));
    alice.keep_history().unwrap();
    alice.api().root("warp").unwrap();
    assert_eq!(alice.revert_to(any), Err(EditError::Unflushed));
    let version = alice.flush().unwrap().id();
    // Nothing has been done since.
    alice.revert_to(version).unwrap();
    assert_eq!(alice.flush(), None);
    // Before the first version there was nothing.
    alice.revert_to(Timestamp::ORIGIN).unwrap();
    assert_eq!(alice.view(), Value::Undefined);
}

/// A kept history gives up what all have reached, in place; what came since keeps its times.
#[test]
fn a_history_is_compacted_where_it_is_kept() {
    let mut alice = model(70_001, "warp and weft");
    let mut stable = None;
    let mut ids = Vec::new();
    for (second, text) in [(1, "warp weft"), (2, "weft"), (3, "weft!"), (4, "cloth")] {
        alice.set_now(Duration::from_secs(second));
        alice.api().str("").unwrap().update(text).unwrap();
        ids.push(alice.flush().unwrap().id());
        if second == 2 {
            stable = Some(alice.document().state_vector());
        }
    }
    let stable = stable.unwrap();
    let history = alice.history_mut().unwrap();
    assert_eq!(history.at(ids[0]).unwrap().view(), "warp weft".into());
    let before = history.log().start().size_bytes();
    assert!(matches!(history.compact(&stable), Ok(Compaction::Done { .. })));
    let versions: Vec<_> = history.versions().map(|version| (version.id, version.at)).collect();
    assert_eq!(versions, [3, 4].map(|second| (ids[second as usize - 1], Some(Duration::from_secs(second)))));
    assert_eq!(history.at(ids[2]).unwrap().view(), "weft!".into());
    assert_eq!(history.at(ids[0]).unwrap().view(), "weft".into());
    assert_eq!(history.at_time(Duration::from_secs(3)).unwrap().view(), "weft!".into());
    assert!(history.written(ids[0]).is_none() && history.written(ids[3]).is_some());
    assert!(history.log().start().size_bytes() <= before);
    // Nothing that has not all been reached.
    let mut ahead = stable.clone();
    ahead.advance(SessionId::new(70_009).unwrap(), 5);
    assert!(!matches!(history.compact(&ahead), Ok(Compaction::Done { .. })));
    assert_eq!(history.versions().len(), 2);

    // The document itself is compacted further.
    let all = alice.document().state_vector();
    assert!(matches!(alice.compact(&all), Compaction::Done { .. }));
    alice.revert_to(ids[2]).unwrap();
    assert_eq!(alice.view(), "weft!".into());
    alice.flush();
    assert_eq!(alice.history_mut().unwrap().at(ids[3]).unwrap().view(), "cloth".into());
}
