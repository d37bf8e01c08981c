//! Undo of rich text: the marks come back with the text that they are on, and on the same side of what was deleted.

use crdt_core::{
    Applied, Document, Model, Patch, SessionId, Text, Value,
    document::Compaction,
    model::{Expand, RelativePosition, RichTextCursor, Slice, UndoOptions},
};
use proptest::prelude::*;
use serde_json::json;

fn rich(text: &str) -> Model {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(json!({})).unwrap();
    model.api().obj("").unwrap().set_rich_text("note", text).unwrap();
    model.flush();
    model.enable_undo(UndoOptions::STANDARD);
    model
}

fn note(model: &mut Model) -> RichTextCursor<'_> {
    model.api().rich_text("/note").unwrap()
}

/// What a rich text shows: each unit with its marks, and its blocks.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    units: Vec<(u16, Vec<(Text, Value)>)>,
    blocks: Vec<(Option<Text>, Value, std::ops::Range<usize>)>,
}

/// `None` without a rich text. Of marks that stand beside each other the order is not told: one that comes back is the last.
fn seen(model: &mut Model) -> Option<Shown> {
    let note = model.api().rich_text("/note").ok()?;
    let mut units = Vec::new();
    for mut span in note.spans().unwrap() {
        for (_, value) in &mut span.marks {
            if let Value::Array(many) = value {
                many.sort_by(|one, two| one.as_f64().partial_cmp(&two.as_f64()).unwrap());
            }
        }
        units.extend(span.text.as_wtf8().utf16().map(|unit| (unit, span.marks.clone())));
    }
    let blocks = note.blocks().unwrap().into_iter().map(|block| (block.tag, block.data, block.range));
    Some(Shown { units, blocks: blocks.collect() })
}

#[derive(Clone, Debug)]
enum Step {
    Ins(usize, String),
    Del(usize, usize),
    Mark(usize, usize, usize, usize),
    Split(usize, usize),
    /// Removes one of the slices.
    Unslice(usize),
    /// Removes all of the text.
    Remove,
    Undo,
    Redo,
}

const EXPANDS: [Expand; 4] = [Expand::After, Expand::Before, Expand::Both, Expand::None];

fn step() -> impl Strategy<Value = Step> {
    let place = any::<usize>();
    prop_oneof![
        4 => (place, "[a-z]{1,4}").prop_map(|(p, t)| Step::Ins(p, t)),
        4 => (place, 1..5usize).prop_map(|(p, l)| Step::Del(p, l)),
        4 => (place, 1..5usize, 0..4usize, 0..4usize).prop_map(|(p, l, t, e)| Step::Mark(p, l, t, e)),
        2 => (place, 0..2usize).prop_map(|(p, t)| Step::Split(p, t)),
        2 => place.prop_map(Step::Unslice),
        1 => Just(Step::Remove),
        6 => Just(Step::Undo),
        3 => Just(Step::Redo),
    ]
}

fn ends_are_there(model: &Model, slice: &Slice) -> bool {
    let is_there = |end: RelativePosition| end.resolve(model.document()).is_some_and(|at| !at.deleted);
    is_there(slice.start) && is_there(slice.end)
}

fn edit(model: &mut Model, step: &Step) {
    if let Step::Remove = step {
        if model.view().get("note").is_some() {
            model.api().obj("").unwrap().del(["note"]).unwrap();
        }
        return;
    }
    let Ok(mut note) = model.api().rich_text("/note") else { return };
    let len = note.len();
    match step {
        Step::Ins(place, text) => note.ins(place % (len + 1), text.as_str()).unwrap(),
        Step::Del(place, some) => {
            let place = place % (len + 1);
            note.del(place, (*some).min(len - place)).unwrap();
        }
        Step::Mark(place, some, tag, expand) => {
            let place = place % (len + 1);
            let range = place..(place + some).min(len);
            if range.is_empty() {
                return;
            }
            let expand = EXPANDS[*expand];
            match tag {
                0 => note.mark(range, "bold", true, expand).unwrap(),
                1 => note.unmark(range, "bold", expand).unwrap(),
                2 => note.mark(range, "colour", place as f64, expand).unwrap(),
                _ => drop(note.mark_also(range, "comment", place as f64).unwrap()),
            }
        }
        Step::Split(place, tag) => {
            note.split(place % (len + 1), ["p", "h1"][*tag], Value::Undefined).unwrap();
        }
        Step::Unslice(place) => {
            let slices = note.slices();
            // One whose end was deleted names a tombstone that nobody need have kept when it comes back.
            let slices: Vec<_> = slices.into_iter().filter(|slice| ends_are_there(model, slice)).collect();
            if !slices.is_empty() {
                let slice = slices[place % slices.len()].id;
                model.api().rich_text("/note").unwrap().remove(slice).unwrap();
            }
        }
        Step::Remove | Step::Undo | Step::Redo => unreachable!("no edits of the text"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 5000 }))]

    /// The slow model is a list of what was seen. Marks that come back themselves, and a text that is made again, are left out:
    /// beside their ends some of what was deleted can come back on the other side (0105).
    #[test]
    fn alone_undo_walks_back_through_all_that_was_seen(steps in prop::collection::vec(step(), 1..40)) {
        let mut model = rich("woven");
        let mut views = vec![seen(&mut model)];
        for step in steps {
            match step {
                Step::Redo | Step::Remove | Step::Unslice(_) => {}
                Step::Undo => {
                    prop_assert_eq!(model.undo().unwrap().is_some(), views.len() > 1);
                    views.truncate(views.len().saturating_sub(1).max(1));
                    model.flush();
                }
                step => {
                    edit(&mut model, &step);
                    if model.flush().is_some() {
                        views.push(seen(&mut model));
                    }
                }
            }
            prop_assert_eq!(Some(&seen(&mut model)), views.last());
            model.document().check().unwrap();
        }
        while model.undo().unwrap().is_some() {
            views.pop();
            prop_assert_eq!(Some(&seen(&mut model)), views.last());
        }
        prop_assert_eq!(views.len(), 1);
    }

    /// Whoever compacts takes in what others undo, and all see the same. (A mark that comes back itself can name what others have
    /// dropped, and text typed at its end goes behind that: those steps are left out.)
    #[test]
    fn all_replicas_agree_whoever_undoes_and_compacts(
        steps in prop::collection::vec((0..3usize, step(), 0..8u8), 1..60),
    ) {
        let first = rich("woven");
        let mut models: Vec<Model> = (0..3).map(|at| first.fork(SessionId::new(80_000 + at).unwrap())).collect();
        models.iter_mut().for_each(|model| model.enable_undo(UndoOptions::STANDARD));
        let mut waiting: Vec<Patch> = Vec::new();
        let end = (0, Step::Undo, 0);
        let brings_no_mark_back =
            |(_, step, _): &(usize, Step, u8)| !matches!(step, Step::Unslice(_) | Step::Redo);
        for (who, step, then) in steps.into_iter().filter(brings_no_mark_back).chain([end]) {
            let model = &mut models[who];
            match step {
                Step::Undo => drop(model.undo().unwrap()),
                Step::Redo => drop(model.redo().unwrap()),
                step => edit(model, &step),
            }
            waiting.extend(model.flush());
            if then < 2 {
                for model in &mut models {
                    for patch in &waiting {
                        let parked = matches!(model.apply(patch).unwrap(), Applied::Parked { .. });
                        prop_assert!(!parked);
                    }
                }
                waiting.clear();
                let view = models[0].view().in_key_order();
                for model in &models {
                    model.document().check().unwrap();
                    prop_assert_eq!(model.view().in_key_order(), view.clone());
                }
            }
            if then == 0 {
                let stable = models[0].document().state_vector();
                let compaction = models[who].compact(&stable);
                prop_assert!(matches!(compaction, Compaction::Done { .. }), "{:?}", compaction);
            }
        }
    }
}

#[test]
fn a_block_is_split_again_when_its_line_feed_comes_back() {
    let mut model = rich("warpweft");
    note(&mut model).split(4, "h1", "data").unwrap();
    model.flush();
    let before = seen(&mut model);
    for (at, len) in [(4, 1), (2, 4), (0, 9)] {
        note(&mut model).del(at, len).unwrap();
        model.flush();
        let joined = seen(&mut model);
        for _ in 0..3 {
            model.undo().unwrap();
            model.flush();
            assert_eq!(seen(&mut model), before, "{at} {len}");
            model.redo().unwrap();
            model.flush();
            assert_eq!(seen(&mut model), joined, "{at} {len}");
        }
        model.undo().unwrap();
        model.flush();
        assert_eq!(note(&mut model).slices().len(), 1);
    }
    // The split itself is found under its new ids.
    model.undo().unwrap();
    assert_eq!(note(&mut model).text(), "warpweft");
    assert_eq!(note(&mut model).slices(), []);
}

#[test]
fn a_mark_on_one_letter_holds_it_again_when_it_comes_back() {
    for expand in EXPANDS {
        for (at, len) in (0..5).flat_map(|at| (1..=5 - at).map(move |len| (at, len))) {
            let mut model = rich("abcde");
            note(&mut model).mark(2..3, "bold", true, expand).unwrap();
            model.flush();
            note(&mut model).del(at, len).unwrap();
            model.flush();
            for _ in 0..3 {
                model.undo().unwrap();
                model.flush();
                assert_eq!(shown(&mut model), "ab[c]de", "{expand:?} {at} {len}");
                model.redo().unwrap();
                model.flush();
            }
            model.undo().unwrap();
            model.flush();
            // The mark has other ids, and the step that made it finds it.
            model.undo().unwrap();
            assert_eq!(shown(&mut model), "abcde", "{expand:?} {at} {len}");
        }
    }
}

#[test]
fn a_mark_that_comes_back_holds_no_longer_than_those_that_came_after_it() {
    let mut model = rich("abcde");
    note(&mut model).mark(0..5, "bold", true, Expand::After).unwrap();
    model.flush();
    note(&mut model).unmark(1..3, "bold", Expand::None).unwrap();
    model.flush();
    note(&mut model).mark(2..3, "bold", true, Expand::None).unwrap();
    model.flush();
    assert_eq!(shown(&mut model), "[a]b[c][de]".replace("][", ""));
    let slices = note(&mut model).slices();
    // The first alone, and the first two in one step, whichever was first.
    for which in [&[0][..], &[1], &[0, 1], &[1, 0], &[2, 1, 0]] {
        let slices = note(&mut model).slices();
        for &at in which {
            note(&mut model).remove(slices[at].id).unwrap();
        }
        model.flush();
        model.undo().unwrap();
        model.flush();
        assert_eq!(shown(&mut model), "[a]b[cde]", "{which:?}");
    }
    assert_eq!(note(&mut model).slices().len(), slices.len());
}

/// Who did not undo keeps what is theirs: what was made anew is new to them like any other edit.
#[test]
fn others_see_a_mark_made_anew_as_it_was() {
    let mut alice = rich("abcde");
    note(&mut alice).mark(2..3, "bold", true, Expand::None).unwrap();
    note(&mut alice).split(5, "p", Value::Undefined).unwrap();
    alice.flush();
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    let exchange = |alice: &mut Model, bob: &mut Model| {
        assert_eq!(bob.apply(&alice.flush().unwrap()).unwrap(), Applied::Merged);
        let stable = bob.document().state_vector();
        assert!(matches!(bob.compact(&stable), Compaction::Done { .. }));
    };
    let before = seen(&mut alice);
    note(&mut alice).del(1, 5).unwrap();
    exchange(&mut alice, &mut bob);
    for _ in 0..3 {
        alice.undo().unwrap();
        exchange(&mut alice, &mut bob);
        assert_eq!((seen(&mut alice), seen(&mut bob)), (before.clone(), before.clone()));
        alice.redo().unwrap();
        exchange(&mut alice, &mut bob);
        assert_eq!(shown(&mut bob), "a");
    }
    let again = Document::from_binary(&bob.document().to_binary()).unwrap();
    assert_eq!(again.view(), bob.view());
}

fn shown(model: &mut Model) -> String {
    let spans = note(model).spans().unwrap();
    spans
        .iter()
        .map(|span| if span.marks.is_empty() { span.text.to_string() } else { format!("[{}]", span.text) })
        .collect()
}

#[test]
fn a_deleted_letter_behind_bold_comes_back_plain() {
    for expand in EXPANDS {
        for (at, len) in (0..5).flat_map(|at| (1..=5 - at).map(move |len| (at, len))) {
            let mut model = rich("abcde");
            note(&mut model).mark(1..3, "bold", true, expand).unwrap();
            model.flush();
            let before = shown(&mut model);
            note(&mut model).del(at, len).unwrap();
            model.flush();
            model.undo().unwrap();
            assert_eq!(shown(&mut model), before, "{expand:?} {at} {len}");
        }
    }
}

/// The text is made again without what was deleted in it; marks that began or ended there still do, and what comes back then
/// comes back on the right side of them.
#[test]
fn marks_whose_ends_were_deleted_come_back_with_the_text() {
    for expand in EXPANDS {
        for (at, len) in (0..5).flat_map(|at| (1..=5 - at).map(move |len| (at, len))) {
            let mut model = rich("abcde");
            note(&mut model).mark(1..3, "bold", true, expand).unwrap();
            model.flush();
            let whole = shown(&mut model);
            note(&mut model).del(at, len).unwrap();
            model.flush();
            let cut = shown(&mut model);
            for _ in 0..2 {
                model.api().obj("").unwrap().del(["note"]).unwrap();
                model.flush();
                model.undo().unwrap();
                model.flush();
                assert_eq!(shown(&mut model), cut, "{expand:?} {at} {len}");
            }
            model.undo().unwrap();
            assert_eq!(shown(&mut model), whole, "{expand:?} {at} {len}");
            model.document().check().unwrap();
        }
    }
}

/// When it comes back the text that it was on has other ids.
#[test]
fn a_mark_that_was_removed_finds_its_text_made_again() {
    let mut model = rich("abcde");
    note(&mut model).mark(1..3, "bold", true, Expand::After).unwrap();
    model.flush();
    let slice = note(&mut model).slices()[0].id;
    note(&mut model).remove(slice).unwrap();
    model.flush();
    model.api().obj("").unwrap().del(["note"]).unwrap();
    model.flush();
    model.undo().unwrap();
    assert_eq!(shown(&mut model), "abcde");
    model.undo().unwrap();
    assert_eq!(shown(&mut model), "a[bc]de");
}

/// Three pieces, since somebody's letter was between them: which stood in front of the mark's tombstone is known by what stood
/// before each when the text was made again.
#[test]
fn pieces_come_back_in_their_order_around_a_tombstone_of_a_mark() {
    let mut model = rich("woven");
    note(&mut model).ins(1, "a").unwrap();
    model.flush();
    model.undo().unwrap();
    model.flush();
    note(&mut model).mark(2..3, "bold", true, Expand::Both).unwrap();
    model.flush();
    note(&mut model).del(0, 3).unwrap();
    model.flush();
    model.api().obj("").unwrap().del(["note"]).unwrap();
    model.flush();
    model.undo().unwrap();
    model.flush();
    assert_eq!(shown(&mut model), "en");
    model.undo().unwrap();
    assert_eq!(shown(&mut model), "wo[v]en");
}
