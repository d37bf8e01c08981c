//! Undo of rich text: the marks come back with the text that they are on, and on the same side of what was deleted.

use crdt_core::{
    Model, SessionId,
    model::{Expand, RichTextCursor, UndoOptions},
};
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

const EXPANDS: [Expand; 4] = [Expand::After, Expand::Before, Expand::Both, Expand::None];

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
