//! Quill editors that are kept in step: a plain list that does what they are told shows what there is.

mod support;

use std::{collections::BTreeMap, ops::Range};

use crdt_core::{
    Applied, Model, SessionId, Text, Value,
    model::{EditError, Expand, InvalidQuill, QuillEditor, QuillOp, RichTextCursor, UndoOptions},
};
use proptest::prelude::*;
use serde_json::json;

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

fn quill(text: &str) -> Model {
    let mut model = Model::new(session(1));
    model.api().root(Value::Map(Vec::new())).unwrap();
    model.api().obj("").unwrap().set_quill("note", text).unwrap();
    model.flush();
    model
}

fn note(model: &mut Model) -> RichTextCursor<'_> {
    model.api().rich_text("/note").unwrap()
}

fn image() -> Value {
    Value::from(&json!({"image": "u"}))
}

/// What Quill has: units, what each is if it is no text, and its attributes.
type Units = Vec<(u16, Option<Value>, BTreeMap<Text, Value>)>;

/// Does what a delta says as Quill does it.
fn compose(list: &mut Units, delta: &[QuillOp]) {
    let look = |attributes: &[(Text, Value)]| -> BTreeMap<Text, Value> {
        attributes.iter().filter(|(_, value)| !value.is_null()).cloned().collect()
    };
    let mut at = 0;
    for op in delta {
        match op {
            QuillOp::Insert(text, attributes) => {
                let units: Units =
                    text.as_wtf8().utf16().map(|unit| (unit, None, look(attributes))).collect();
                let len = units.len();
                list.splice(at..at, units);
                at += len;
            }
            QuillOp::Embed(embed, attributes) => {
                list.insert(at, (10, Some(embed.clone()), look(attributes)));
                at += 1;
            }
            QuillOp::Retain(len, attributes) => {
                for unit in &mut list[at..at + len] {
                    unit.2.extend(attributes.iter().cloned());
                    unit.2.retain(|_, value| !value.is_null());
                }
                at += len;
            }
            QuillOp::Delete(len) => drop(list.drain(at..at + len)),
        }
    }
}

fn shown(model: &mut Model) -> Units {
    let mut units = Units::new();
    compose(&mut units, &note(model).to_quill().unwrap());
    units
}

/// An editor as its window has it.
struct Window {
    editor: QuillEditor,
    units: Units,
}

impl Window {
    fn open(model: &mut Model) -> Self {
        Self { editor: note(model).quill_editor(), units: Vec::new() }
    }

    fn catch_up(&mut self, model: &mut Model) {
        let delta = self.editor.catch_up(model.document()).unwrap();
        for pair in delta.windows(2) {
            let usual = match pair {
                [QuillOp::Retain(_, a), QuillOp::Retain(_, b)]
                | [QuillOp::Insert(_, a), QuillOp::Insert(_, b)] => a != b,
                [QuillOp::Delete(_), next] => matches!(next, QuillOp::Retain(..)),
                _ => true,
            };
            assert!(usual, "{pair:?}");
        }
        let ends_in_nothing = matches!(delta.last(), Some(QuillOp::Retain(_, look)) if look.is_empty());
        assert!(!ends_in_nothing, "{delta:?}");
        compose(&mut self.units, &delta);
        assert_eq!(self.units, shown(model), "{delta:?}");
        assert_eq!(self.editor.catch_up(model.document()).unwrap(), []);
    }
}

/// What is done to a rich text, places fitted to its length when it is done.
#[derive(Clone, Debug)]
enum Change {
    Ins(usize, String),
    Embed(usize),
    Del(usize, usize),
    Mark(usize, usize, &'static str, u8, Expand),
    Comment(usize, usize),
    Unmark(usize, usize, &'static str),
    Uncomment(usize),
    Split(usize, &'static str),
}

fn change() -> impl Strategy<Value = Change> {
    let tag = prop::sample::select(vec!["bold", "italic", "link"]);
    let expand = prop::sample::select(vec![Expand::After, Expand::Before, Expand::Both, Expand::None]);
    let (at, len) = (any::<usize>(), 1..6usize);
    prop_oneof![
        4 => (at, "[a-b🙂\n]{1,5}").prop_map(|(at, text)| Change::Ins(at, text)),
        1 => at.prop_map(Change::Embed),
        3 => (at, len.clone()).prop_map(|(at, len)| Change::Del(at, len)),
        3 => (at, len.clone(), tag.clone(), 0..3u8, expand)
            .prop_map(|(at, len, tag, value, expand)| Change::Mark(at, len, tag, value, expand)),
        1 => (at, len.clone()).prop_map(|(at, len)| Change::Comment(at, len)),
        1 => (at, len, tag).prop_map(|(at, len, tag)| Change::Unmark(at, len, tag)),
        1 => at.prop_map(Change::Uncomment),
        1 => (at, prop::sample::select(vec!["header", "list"])).prop_map(|(at, tag)| Change::Split(at, tag)),
    ]
}

fn make(model: &mut Model, change: &Change) {
    let mut note = note(model);
    let total = note.len();
    let fit = |at: &usize, len: &usize| -> Range<usize> {
        let at = at % (total + 1);
        at..(at + len).min(total)
    };
    let done = match change {
        Change::Ins(at, text) => note.ins(at % (total + 1), text.as_str()),
        Change::Embed(at) => {
            let at = QuillOp::Retain(at % (total + 1), Vec::new());
            note.apply_quill(&[at, QuillOp::Embed(image(), Vec::new())]).unwrap();
            Ok(())
        }
        Change::Del(at, len) => {
            let range = fit(at, len);
            note.del(range.start, range.len())
        }
        Change::Mark(at, len, tag, value, expand) => {
            note.mark(fit(at, len), *tag, Value::from(i64::from(*value)), *expand)
        }
        Change::Comment(at, len) => note.mark_also(fit(at, len), "comment", "why?").map(drop),
        Change::Unmark(at, len, tag) => note.unmark(fit(at, len), *tag, Expand::None),
        Change::Uncomment(which) => {
            let slices = note.slices();
            let found = which.checked_rem(slices.len()).map(|at| slices[at].id);
            found.map_or(Ok(()), |id| note.remove(id))
        }
        Change::Split(at, tag) => note.split(at % (total + 1), *tag, 1),
    };
    match done {
        Ok(()) | Err(EditError::EmptyRange { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// What a window's user does, as Quill tells it.
fn typed(units: &Units, changes: &[(usize, Change)]) -> Vec<QuillOp> {
    let (mut delta, mut left) = (Vec::new(), units.len());
    for (gap, change) in changes {
        let gap = gap % (left + 1);
        delta.push(QuillOp::Retain(gap, Vec::new()));
        left -= gap;
        let op = match change {
            Change::Ins(_, text) => QuillOp::Insert(text.as_str().into(), Vec::new()),
            Change::Embed(_) => QuillOp::Embed(image(), vec![("link".into(), 1.into())]),
            Change::Mark(_, len, tag, value, _) => {
                let len = (*len).min(left);
                left -= len;
                QuillOp::Retain(len, vec![((*tag).into(), Value::from(i64::from(*value)))])
            }
            Change::Unmark(_, len, tag) => {
                let len = (*len).min(left);
                left -= len;
                QuillOp::Retain(len, vec![((*tag).into(), Value::Null)])
            }
            Change::Split(_, tag) => QuillOp::Insert("\n".into(), vec![((*tag).into(), 2.into())]),
            Change::Del(_, len) => {
                let len = (*len).min(left);
                left -= len;
                QuillOp::Delete(len)
            }
            Change::Comment(..) | Change::Uncomment(_) => continue,
        };
        delta.push(op);
    }
    delta
}

#[derive(Clone, Debug)]
enum Step {
    /// Bob changes it elsewhere, and his patch comes.
    Comes(Vec<Change>),
    /// It is changed here, past the editor.
    Here(Vec<Change>),
    /// The editor's user does something.
    Types(Vec<(usize, Change)>),
    Undo,
    /// It is changed and taken back.
    Fails(Vec<Change>),
    Compact,
    /// It goes on with the document that Bob has.
    Replace,
    CatchUp,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = || prop::collection::vec(change(), 1..5);
    prop_oneof![
        4 => changes().prop_map(Step::Comes),
        2 => changes().prop_map(Step::Here),
        4 => prop::collection::vec((any::<usize>(), change()), 1..4).prop_map(Step::Types),
        1 => Just(Step::Undo),
        1 => changes().prop_map(Step::Fails),
        1 => Just(Step::Compact),
        1 => Just(Step::Replace),
        3 => Just(Step::CatchUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_editor_that_does_what_it_is_told_shows_what_there_is(steps in prop::collection::vec(step(), 1..24)) {
        let mut alice = quill("aabbaa\n");
        let mut bob = alice.fork(session(2));
        alice.enable_undo(UndoOptions::STANDARD);
        let mut window = Window::open(&mut alice);
        window.catch_up(&mut alice);
        for step in &steps {
            match step {
                Step::Comes(changes) => {
                    changes.iter().for_each(|change| make(&mut bob, change));
                    if let Some(patch) = bob.flush() {
                        prop_assert_eq!(alice.apply(&patch), Ok(Applied::Merged));
                    }
                }
                Step::Here(changes) => changes.iter().for_each(|change| make(&mut alice, change)),
                Step::Types(changes) => {
                    window.catch_up(&mut alice);
                    let delta = typed(&window.units, changes);
                    window.editor.edit(&mut alice, &delta).unwrap();
                    compose(&mut window.units, &delta);
                }
                Step::Undo => _ = alice.undo().unwrap(),
                Step::Fails(changes) => {
                    let failed: Result<(), ()> = alice.transaction(|alice| {
                        changes.iter().for_each(|change| make(alice, change));
                        Err(())
                    });
                    prop_assert_eq!(failed, Err(()));
                }
                Step::Compact => {
                    if let Some(patch) = alice.flush() {
                        prop_assert_eq!(bob.apply(&patch), Ok(Applied::Merged));
                    }
                    let stable = alice.document().state_vector();
                    let _ = (alice.compact(&stable), bob.compact(&stable));
                }
                Step::Replace => {
                    if let Some(patch) = alice.flush() {
                        prop_assert_eq!(bob.apply(&patch), Ok(Applied::Merged));
                    }
                    alice.replace_document(bob.document().clone()).unwrap();
                }
                Step::CatchUp => window.catch_up(&mut alice),
            }
        }
        window.catch_up(&mut alice);
        // Whoever opens a window only now is told the same.
        let mut late = Window::open(&mut alice);
        late.catch_up(&mut alice);
        prop_assert_eq!(late.units, window.units);
    }
}

fn insert(text: &str) -> QuillOp {
    QuillOp::Insert(text.into(), Vec::new())
}

fn retain(len: usize) -> QuillOp {
    QuillOp::Retain(len, Vec::new())
}

#[test]
fn the_place_is_told_exactly_though_the_text_cannot_tell_it() {
    let mut alice = quill("aaaa\n");
    let mut window = Window::open(&mut alice);
    window.catch_up(&mut alice);
    note(&mut alice).ins(2, "aa").unwrap();
    note(&mut alice).del(5, 1).unwrap();
    assert_eq!(
        window.editor.catch_up(alice.document()).unwrap(),
        [retain(2), insert("aa"), retain(1), QuillOp::Delete(1)]
    );
}

#[test]
fn who_was_not_told_all_cannot_edit() {
    let mut alice = quill("warp\n");
    let mut window = Window::open(&mut alice);
    let native = alice.snapshot();
    assert_eq!(window.editor.edit(&mut alice, &[insert("x")]), Err(InvalidQuill::Behind));
    window.catch_up(&mut alice);
    let beyond = [insert("x"), retain(5), QuillOp::Delete(1)];
    let error = window.editor.edit(&mut alice, &beyond).unwrap_err();
    assert_eq!(error.to_string(), "position 6 is behind the end, 5");
    assert_eq!(alice.snapshot(), native);
    window.editor.edit(&mut alice, &[insert("x")]).unwrap();
    assert_eq!(window.editor.catch_up(alice.document()).unwrap(), []);
}

#[test]
fn a_text_that_is_gone_is_told() {
    let mut alice = quill("warp\n");
    let mut window = Window::open(&mut alice);
    window.catch_up(&mut alice);
    alice.api().obj("").unwrap().del(["note"]).unwrap();
    let gone = window.editor.catch_up(alice.document());
    assert!(matches!(gone, Err(EditError::Removed(_))), "{gone:?}");
}

#[test]
fn ids_that_change_places_end_in_what_there_is() {
    // Two documents of the same session that know nothing of each other: the same ids, in another order.
    let make = |first: bool| {
        let mut model = quill("");
        let places = if first { [0, 1, 2, 3] } else { [0, 0, 0, 1] };
        for (at, text) in places.into_iter().zip(["a", "b", "c", "d"]) {
            note(&mut model).ins(at, text).unwrap();
        }
        model.flush();
        model
    };
    let (mut alice, other) = (make(true), make(false));
    let mut window = Window::open(&mut alice);
    window.catch_up(&mut alice);
    alice.replace_document(other.into_document()).unwrap();
    window.catch_up(&mut alice);
    assert_eq!(window.units.iter().map(|unit| unit.0).collect::<Vec<_>>(), [99, 100, 98, 97]);
}
