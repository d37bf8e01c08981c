//! Rich text: the examples of Peritext, and convergence.

mod support;

use std::collections::BTreeMap;

use crdt_core::{
    Applied, Document, Model, Patch, SessionId, Timestamp, Value,
    codec::json,
    document::Content,
    model::{BlockStep, EditError, Expand, RelativePosition, RichTextCursor, Side, Stacking, UndoOptions},
};
use proptest::prelude::*;

fn rich(text: &str) -> (Model, Model) {
    let mut alice = Model::new(SessionId::new(70_001).unwrap());
    alice.api().root(Value::Map(Vec::new())).unwrap();
    alice.api().obj("").unwrap().set_rich_text("note", text).unwrap();
    let bob = alice.fork(SessionId::new(70_002).unwrap());
    alice.flush();
    (alice, bob)
}

fn note(model: &mut Model) -> RichTextCursor<'_> {
    model.api().rich_text("/note").unwrap()
}

/// The text with its marks: `[bold+link=x:text]`, plain text as it is.
fn shown(model: &mut Model) -> String {
    let show = |value: &Value| match value {
        Value::Bool(true) => String::new(),
        value => format!("={}", json::encode(value).replace('"', "")),
    };
    let spans = note(model).spans().unwrap();
    let spans = spans.iter().map(|span| {
        let marks: Vec<_> = span.marks.iter().map(|(tag, value)| format!("{tag}{}", show(value))).collect();
        if marks.is_empty() { span.text.to_string() } else { format!("[{}:{}]", marks.join("+"), span.text) }
    });
    spans.collect()
}

fn exchange(alice: &mut Model, bob: &mut Model) {
    let (a, b) = (alice.flush(), bob.flush());
    if let Some(patch) = a {
        assert_eq!(bob.apply(&patch).unwrap(), Applied::Merged);
    }
    if let Some(patch) = b {
        assert_eq!(alice.apply(&patch).unwrap(), Applied::Merged);
    }
    assert_eq!(shown(alice), shown(bob));
    alice.document().check().unwrap();
}

fn bold(model: &mut Model, range: std::ops::Range<usize>) {
    note(model).mark(range, "bold", true, Expand::After).unwrap();
}

/// Example 1: what is inserted into a range while someone makes it bold is bold.
#[test]
fn text_inserted_into_a_range_that_is_made_bold_is_bold() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    bold(&mut alice, 0..15);
    note(&mut bob).ins(4, "brown ").unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "[bold:The brown fox jumped.]");
}

/// Example 2: overlapping ranges that are made bold are one bold range.
#[test]
fn overlapping_bold_is_one() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    bold(&mut alice, 0..7);
    bold(&mut bob, 4..15);
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "[bold:The fox jumped.]");
}

/// Example 3: different marks overlap.
#[test]
fn bold_and_italic_overlap() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    bold(&mut alice, 0..7);
    note(&mut bob).mark(4..15, "italic", true, Expand::After).unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "[bold:The ][bold+italic:fox][italic: jumped.]");
}

/// Example 4: of two colours one holds, the same for all.
#[test]
fn of_two_colours_one_holds_where_they_overlap() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    note(&mut alice).mark(0..7, "color", "red", Expand::After).unwrap();
    note(&mut bob).mark(4..15, "color", "blue", Expand::After).unwrap();
    exchange(&mut alice, &mut bob);
    // Both are of the same time; Bob's session is the greater one.
    assert_eq!(shown(&mut alice), "[color=red:The ][color=blue:fox jumped.]");
}

/// Example 5: bold and not bold contradict each other only where they overlap.
#[test]
fn bold_and_not_bold_at_the_same_time_agree_everywhere() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    bold(&mut alice, 0..15);
    exchange(&mut alice, &mut bob);
    note(&mut alice).unmark(4..15, "bold", Expand::After).unwrap();
    bold(&mut bob, 0..7);
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "[bold:The fox] jumped.");
}

/// Example 6: comments stand beside each other.
#[test]
fn comments_overlap_and_are_removed_one_by_one() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    let first = note(&mut alice).mark_also(0..7, "comment", "who?").unwrap();
    note(&mut bob).mark_also(4..15, "comment", "where?").unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(
        shown(&mut alice),
        "[comment=[who?]:The ][comment=[who?,where?]:fox][comment=[where?]: jumped.]"
    );
    note(&mut bob).remove(first).unwrap();
    assert_eq!(note(&mut bob).remove(first), Err(EditError::Removed(first)));
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "The [comment=[where?]:fox jumped.]");
}

/// Example 7: bold grows at its end, not at its start.
#[test]
fn bold_grows_at_its_end() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    bold(&mut alice, 4..7);
    exchange(&mut alice, &mut bob);
    note(&mut alice).ins(7, "es").unwrap();
    note(&mut bob).ins(4, "quick ").unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "The quick [bold:foxes] jumped.");
}

/// Example 8: a link does not grow.
#[test]
fn a_link_does_not_grow() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    note(&mut alice).mark(4..7, "link", "/fox", Expand::None).unwrap();
    exchange(&mut alice, &mut bob);
    note(&mut alice).ins(7, "!").unwrap();
    note(&mut bob).ins(4, "?").unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "The ?[link=/fox:fox]! jumped.");
}

/// Of the section on tombstones: the end of a link was deleted; what is typed behind what is left is not part of it, and bold
/// whose end was deleted still grows.
#[test]
fn the_deleted_end_of_a_mark_still_is_its_end() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    note(&mut alice).mark(4..14, "link", "/fox", Expand::None).unwrap();
    exchange(&mut alice, &mut bob);
    note(&mut bob).del(7, 7).unwrap();
    note(&mut bob).ins(7, "es").unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "The [link=/fox:fox]es.");

    let (mut alice, mut bob) = rich("The fox jumped.");
    bold(&mut alice, 4..14);
    note(&mut alice).del(7, 7).unwrap();
    note(&mut alice).ins(7, "es").unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "The [bold:foxes].");
}

#[test]
fn a_mark_at_the_end_of_the_text_grows_with_it() {
    let (mut alice, mut bob) = rich("The fox");
    bold(&mut alice, 4..7);
    exchange(&mut alice, &mut bob);
    note(&mut bob).ins(7, " jumped").unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "The [bold:fox jumped]");
    note(&mut alice).unmark(4..14, "bold", Expand::After).unwrap();
    note(&mut alice).ins(14, ".").unwrap();
    assert_eq!(shown(&mut alice), "The fox jumped.");
}

#[test]
fn paragraphs_are_split_and_joined_by_several_at_once() {
    let (mut alice, mut bob) = rich("Warp and weft");
    note(&mut alice).split(0, "h1", Value::Undefined).unwrap();
    exchange(&mut alice, &mut bob);
    note(&mut alice).split(5, "p", Value::Undefined).unwrap();
    note(&mut bob).split(9, "quote", "Ada").unwrap();
    exchange(&mut alice, &mut bob);
    let blocks = |model: &mut Model| -> Vec<(Option<String>, String)> {
        let text =
            |spans: &[crdt_core::model::Span]| spans.iter().map(|span| span.text.to_string()).collect();
        let blocks = note(model).blocks().unwrap();
        blocks.iter().map(|block| (block.tag.as_ref().map(ToString::to_string), text(&block.spans))).collect()
    };
    let block = |tag: &str, text: &str| (Some(tag.to_owned()), text.to_owned());
    assert_eq!(blocks(&mut alice), [block("h1", "Warp"), block("p", " and"), block("quote", " weft")]);
    assert_eq!(blocks(&mut alice), blocks(&mut bob));
    // Deleting the character of a marker joins the blocks.
    note(&mut bob).del(5, 1).unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(blocks(&mut alice), [block("h1", "Warp and"), block("quote", " weft")]);
}

#[test]
fn marks_are_undone_like_any_edit() {
    let (mut alice, mut bob) = rich("The fox jumped.");
    alice.enable_undo(UndoOptions::STANDARD);
    bold(&mut alice, 0..7);
    note(&mut bob).mark(4..15, "italic", true, Expand::After).unwrap();
    exchange(&mut alice, &mut bob);
    alice.undo().unwrap().unwrap();
    exchange(&mut alice, &mut bob);
    assert_eq!(shown(&mut alice), "The [italic:fox jumped.]");
}

#[derive(Clone, Debug)]
enum Step {
    Ins(usize, usize, String),
    Del(usize, usize, usize),
    Mark(usize, usize, usize, usize, usize),
    Deliver(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (session, place) = (0..3usize, any::<usize>());
    prop_oneof![
        3 => (session.clone(), place, "[a-z🙂]{1,4}").prop_map(|(s, p, t)| Step::Ins(s, p, t)),
        2 => (session.clone(), place, 1..5usize).prop_map(|(s, p, l)| Step::Del(s, p, l)),
        4 => (session.clone(), place, 1..9usize, 0..5usize, 0..4usize)
            .prop_map(|(s, p, l, t, e)| Step::Mark(s, p, l, t, e)),
        4 => (session.clone(), session).prop_map(|(to, from)| Step::Deliver(to, from)),
    ]
}

/// The marks of each visible character, found by going through all characters ever and all slices, one by one.
fn slow_marks(model: &mut Model) -> Vec<BTreeMap<String, Value>> {
    let node = note(model).text_id();
    let slices = note(model).slices();
    let Content::Str(chunks) = model.document().node(node).unwrap().content() else { panic!("no text") };
    let all: Vec<(Timestamp, bool)> = chunks
        .flat_map(|chunk| {
            let live = !chunk.is_tombstone();
            (0..chunk.span()).map(move |tick| (chunk.id().tick(tick), live))
        })
        .collect();
    // Twice the index of a character is the place before it, one more the place after it.
    let place = |at: &RelativePosition| {
        if at.anchor == node {
            return Some(if at.side == Side::After { 0 } else { 2 * all.len() });
        }
        // A mark can come before the text that it stands on: then it waits.
        let index = all.iter().position(|(id, _)| *id == at.anchor)?;
        Some(2 * index + usize::from(at.side == Side::After))
    };
    let mut marks = Vec::new();
    for (index, _) in all.iter().enumerate().filter(|(_, (_, live))| *live) {
        // Of each tag what is said, and whether it is what replaces what is older.
        let mut here: BTreeMap<String, Vec<(bool, Value)>> = BTreeMap::new();
        for slice in &slices {
            let (Some(start), Some(end)) = (place(&slice.start), place(&slice.end)) else { continue };
            if start <= 2 * index && 2 * index < end {
                let values = here.entry(slice.tag.to_string()).or_default();
                match slice.stacking {
                    Stacking::Many => values.push((false, slice.data.clone())),
                    Stacking::One => *values = vec![(true, slice.data.clone())],
                    Stacking::Erase => values.clear(),
                    Stacking::Marker | Stacking::Cursor => {}
                }
            }
        }
        here.retain(|_, values| !values.is_empty());
        let shown = |values: Vec<(bool, Value)>| match &values[..] {
            [(true, only)] => only.clone(),
            many => many.iter().map(|(_, value)| value.clone()).collect(),
        };
        marks.push(here.into_iter().map(|(tag, values)| (tag, shown(values))).collect());
    }
    marks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn all_replicas_show_the_marks_that_going_one_by_one_finds(steps in prop::collection::vec(step(), 1..50)) {
        let (first, _) = rich("woven");
        let mut replicas: Vec<(Model, [usize; 3])> = (0..3)
            .map(|at| (first.fork(SessionId::new(80_000 + at).unwrap()), [0; 3]))
            .collect();
        let mut logs: [Vec<Patch>; 3] = Default::default();
        let deliver = |(model, come): &mut (Model, [usize; 3]), logs: &[Vec<Patch>; 3], to: usize, from: usize| {
            let Some(patch) = logs[from].get(come[from]).filter(|_| to != from) else { return false };
            let merged = !matches!(model.apply(patch).unwrap(), Applied::Parked { .. });
            come[from] += usize::from(merged);
            merged
        };
        for step in steps {
            let who = match step {
                Step::Ins(who, place, text) => {
                    let mut note = note(&mut replicas[who].0);
                    let place = place % (note.len() + 1);
                    note.ins(place, text.as_str()).unwrap();
                    who
                }
                Step::Del(who, place, len) => {
                    let mut note = note(&mut replicas[who].0);
                    let place = place % (note.len() + 1);
                    let len = len.min(note.len() - place);
                    note.del(place, len).unwrap();
                    who
                }
                Step::Mark(who, place, len, tag, expand) => {
                    let mut note = note(&mut replicas[who].0);
                    let place = place % (note.len() + 1);
                    let range = place..(place + len).min(note.len());
                    let expand = [Expand::After, Expand::Before, Expand::Both, Expand::None][expand];
                    if !range.is_empty() {
                        match tag {
                            0 => note.mark(range, "bold", true, expand).unwrap(),
                            1 => note.unmark(range, "bold", expand).unwrap(),
                            2 => note.mark(range, "color", len as f64, expand).unwrap(),
                            3 => drop(note.mark_also(range, "color", place as f64).unwrap()),
                            _ => drop(note.mark_also(range, "comment", place as f64).unwrap()),
                        }
                    }
                    who
                }
                Step::Deliver(to, from) => {
                    deliver(&mut replicas[to], &logs, to, from);
                    to
                }
            };
            logs[who].extend(replicas[who].0.flush());
            let model = &mut replicas[who].0;
            let slow = slow_marks(model);
            let mut fast: Vec<BTreeMap<String, Value>> = Vec::new();
            for span in note(model).spans().unwrap() {
                for _ in 0..span.text.as_wtf8().units() {
                    fast.push(span.marks.iter().map(|(tag, said)| (tag.to_string(), said.clone())).collect());
                }
            }
            prop_assert_eq!(fast, slow);
        }
        let mut news = true;
        while news {
            news = false;
            for (to, replica) in replicas.iter_mut().enumerate() {
                for from in 0..3 {
                    news |= deliver(replica, &logs, to, from);
                }
            }
        }
        let expected = (shown(&mut replicas[0].0), slow_marks(&mut replicas[0].0));
        let ends = |slice: &crdt_core::model::Slice| [slice.start, slice.end];
        let all: Vec<_> = note(&mut replicas[0].0).slices().iter().flat_map(ends).collect();
        prop_assert!(all.iter().all(|at| at.resolve(replicas[0].0.document()).is_some()));
        for (model, _) in &mut replicas {
            prop_assert_eq!(&(shown(model), slow_marks(model)), &expected);
            let binary = model.document().to_binary();
            let mut reloaded = Model::from(Document::from_binary(&binary).unwrap());
            prop_assert_eq!(&shown(&mut reloaded), &expected.0);
        }
    }
}

#[test]
fn a_mark_of_nothing_is_told() {
    let mut alice =
        Model::with_schema(SessionId::new(123_456).unwrap(), &crdt_core::model::schema::quill("abc"))
            .unwrap();
    let mut note = alice.api().rich_text("").unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
    for (range, said) in [
        (1..1, "the range 1..1 has nothing in it to mark"),
        (2..1, "the range 2..1 has nothing in it to mark"),
        (1..9, "position 9 is behind the end, 3"),
    ] {
        assert_eq!(note.mark(range, "b", true, Expand::After).unwrap_err().to_string(), said);
    }
}

/// An empty block has nothing in it, and what looks the same within a block is one span.
#[test]
fn the_spans_of_blocks_are_those_that_are_there() {
    let (mut alice, _) = rich("abcd");
    bold(&mut alice, 0..2);
    bold(&mut alice, 1..4);
    note(&mut alice).split(2, "p", Value::Undefined).unwrap();
    note(&mut alice).split(2, "p", Value::Undefined).unwrap();
    let blocks = note(&mut alice).blocks().unwrap();
    let texts: Vec<Vec<String>> =
        blocks.iter().map(|block| block.spans.iter().map(|span| span.text.to_string()).collect()).collect();
    assert_eq!(texts, [vec!["ab".to_owned()], vec![], vec!["cd".to_owned()]]);
}

/// Data that is nested too deep for the marker: there is no line feed without it.
#[test]
fn a_split_that_is_refused_leaves_the_text_as_it_was() {
    let (mut alice, _) = rich("abcd");
    let before = alice.view();
    let deep = (0..400).fold(Value::from(1), |value, _| Value::Array(vec![value]));
    let refused = note(&mut alice).split(2, "p", deep.clone());
    assert!(matches!(refused, Err(EditError::TooDeep { .. })), "{refused:?}");
    let step = BlockStep { tag: "ul".into(), number: 0, data: deep };
    assert!(note(&mut alice).split_nested(2, [step], "li", Value::Undefined).is_err());
    assert!(note(&mut alice).split(5, "p", Value::Undefined).is_err());
    assert_eq!((alice.view(), alice.flush()), (before, None));
}
