//! Relative positions against a slow, obvious model: all elements ever, in order, counted one by one.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, SessionId, Timestamp,
    codec::Packing,
    document::Content,
    model::{RelativePosition, Selection, Side},
    text::TextUnit,
};
use proptest::prelude::*;
use serde_json::json;
use support::hex;

const SESSIONS: usize = 4;

/// All elements of a node with whether they can be seen.
fn elements(document: &Document, node: Timestamp) -> Vec<(Timestamp, bool)> {
    let (Content::Str(chunks) | Content::Arr(chunks)) = document.node(node).unwrap().content() else {
        panic!("no sequence")
    };
    let mut all = Vec::new();
    for chunk in chunks {
        all.extend((0..chunk.span()).map(|tick| (chunk.id().tick(tick), !chunk.is_tombstone())));
    }
    all
}

/// Where a position is, by counting.
fn count(document: &Document, position: &RelativePosition) -> usize {
    let all = elements(document, position.node);
    if position.anchor == position.node {
        let len = all.iter().filter(|(_, live)| *live).count();
        return if position.side == Side::After { 0 } else { len };
    }
    let at = all.iter().position(|(id, _)| *id == position.anchor).unwrap();
    let before = all[..at].iter().filter(|(_, live)| *live).count();
    before + usize::from(position.side == Side::After && all[at].1)
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, usize, String),
    Delete(usize, usize, usize),
    Anchor(usize, usize, bool),
    Deliver(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (session, place) = (0..SESSIONS, any::<usize>());
    prop_oneof![
        3 => (session.clone(), place, "[a-z🙂]{1,8}").prop_map(|(s, p, t)| Step::Insert(s, p, t)),
        2 => (session.clone(), place, 1..8usize).prop_map(|(s, p, l)| Step::Delete(s, p, l)),
        2 => (session.clone(), place, any::<bool>()).prop_map(|(s, p, b)| Step::Anchor(s, p, b)),
        4 => (session.clone(), session).prop_map(|(to, from)| Step::Deliver(to, from)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn positions_stand_beside_their_elements_in_every_replica(steps in prop::collection::vec(step(), 1..80)) {
        let mut first = Model::new(SessionId::new(70_000).unwrap());
        let node = first.api().root("woven").unwrap();
        let start = first.flush().unwrap();
        let mut replicas: Vec<(Model, [usize; SESSIONS])> = (0..SESSIONS as u64)
            .map(|session| {
                let mut model = Model::new(SessionId::new(80_000 + session).unwrap());
                assert_eq!(model.apply(&start).unwrap(), Applied::Merged);
                (model, [0; SESSIONS])
            })
            .collect();
        let mut logs: Vec<Vec<Patch>> = vec![Vec::new(); SESSIONS];
        let mut anchors = Vec::new();
        let deliver = |replicas: &mut Vec<(Model, [usize; SESSIONS])>, logs: &[Vec<Patch>], to: usize, from: usize| {
            let (model, come) = &mut replicas[to];
            let Some(patch) = logs[from].get(come[from]) else { return false };
            if to == from || matches!(model.apply(patch).unwrap(), Applied::Parked { .. }) {
                return false;
            }
            come[from] += 1;
            true
        };
        for step in steps {
            match step {
                Step::Insert(session, place, text) => {
                    let model = &mut replicas[session].0;
                    let mut str = model.api().str("").unwrap();
                    let place = place % (str.len() + 1);
                    str.ins(place, text.as_str()).unwrap();
                    logs[session].extend(model.flush());
                }
                Step::Delete(session, place, len) => {
                    let model = &mut replicas[session].0;
                    let mut str = model.api().str("").unwrap();
                    let place = place % (str.len() + 1);
                    let len = len.min(str.len() - place);
                    str.del(place, len).unwrap();
                    logs[session].extend(model.flush());
                }
                Step::Anchor(session, place, after) => {
                    let str = replicas[session].0.api().str("").unwrap();
                    let place = place % (str.len() + 1);
                    let side = if after { Side::After } else { Side::Before };
                    let anchor = str.anchor(place, side).unwrap();
                    prop_assert_eq!(anchor.resolve(replicas[session].0.document()).unwrap().position, place);
                    anchors.push(RelativePosition::decode(&anchor.encode()).unwrap());
                }
                Step::Deliver(to, from) => {
                    deliver(&mut replicas, &logs, to, from);
                }
            }
            for (model, _) in &replicas {
                for anchor in &anchors {
                    // What has not come cannot be found; what has, is where counting says.
                    let document = model.document();
                    if let Some(found) = anchor.resolve(document) {
                        prop_assert_eq!(found.position, count(document, anchor));
                    }
                }
            }
        }
        let mut news = true;
        while news {
            news = false;
            for to in 0..SESSIONS {
                for from in 0..SESSIONS {
                    news |= deliver(&mut replicas, &logs, to, from);
                }
            }
        }
        for (model, _) in &replicas {
            let document = model.document();
            let reloaded = Document::from_binary(&document.to_binary()).unwrap();
            for anchor in &anchors {
                let here = anchor.resolve(document).unwrap();
                prop_assert_eq!(here, anchor.resolve(replicas[0].0.document()).unwrap());
                prop_assert_eq!(Some(here), anchor.resolve(&reloaded));
                let refreshed = anchor.refreshed(document).unwrap();
                prop_assert_eq!(refreshed.resolve(document).unwrap().position, here.position);
                prop_assert!(!refreshed.resolve(document).unwrap().deleted);
            }
            assert_eq!(elements(document, node), elements(replicas[0].0.document(), node));
        }
    }

    #[test]
    fn any_bytes_are_a_position_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
        if let Ok(position) = RelativePosition::decode(&bytes) {
            prop_assert_eq!(RelativePosition::decode(&position.encode()).unwrap(), position);
            prop_assert_eq!(position.resolve(&Document::new(SessionId::USER_MIN)), None);
        }
    }
}

#[test]
fn the_side_decides_what_an_insertion_at_the_position_does() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root("ab").unwrap();
    let str = model.api().str("").unwrap();
    let (before, after) = (str.anchor(1, Side::Before).unwrap(), str.anchor(1, Side::After).unwrap());
    let (start, end) = (str.anchor(0, Side::After).unwrap(), str.anchor(2, Side::Before).unwrap());
    model.api().str("").unwrap().ins(1, "xx").unwrap();
    model.api().str("").unwrap().ins(0, "<").unwrap();
    model.api().str("").unwrap().ins(5, ">").unwrap();
    let position = |at: RelativePosition| at.resolve(model.document()).unwrap().position;
    assert_eq!([start, after, before, end].map(position), [0, 2, 4, 6]);
}

#[test]
fn a_position_whose_element_is_deleted_stays_at_its_place() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root("one two three").unwrap();
    let selection = {
        let node = model.api().str("").unwrap().id();
        Selection::range(model.document(), node, 4..7).unwrap()
    };
    model.api().str("").unwrap().del(2, 7).unwrap();
    assert_eq!(selection.resolve(model.document()), Some(2..2));
    assert!(selection.anchor.resolve(model.document()).unwrap().deleted);
}

#[test]
fn a_position_outlives_a_snapshot_of_either_kind() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root("one two three").unwrap();
    model.api().str("").unwrap().del(5, 4).unwrap();
    let anchor = |model: &mut Model, at, side| model.api().str("").unwrap().anchor(at, side).unwrap();
    let positions: Vec<RelativePosition> = (0..=9)
        .flat_map(|at| [Side::Before, Side::After].map(|side| (at, side)))
        .map(|(at, side)| anchor(&mut model, at, side))
        .collect();
    model.api().str("").unwrap().del(2, 3).unwrap();
    model.api().str("").unwrap().ins(1, "🧵🧵").unwrap();
    let document = model.document();
    let session = SessionId::new(70_002).unwrap();
    let loaded = [
        Document::from_native(&document.to_native(Packing::Plain), session).unwrap(),
        Document::from_native(&document.to_native(Packing::Deflate), session).unwrap(),
        Document::from_binary(&document.to_binary()).unwrap(),
    ];
    for (loaded, position) in loaded.iter().flat_map(|loaded| positions.iter().map(move |at| (loaded, at))) {
        let position = RelativePosition::decode(&position.encode()).unwrap();
        assert_eq!(position.resolve(loaded), position.resolve(document));
        assert_eq!(position.resolve(loaded).unwrap().position, count(document, &position));
    }
}

#[test]
fn a_place_is_found_by_characters_and_by_bytes() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root("é🧵b").unwrap();
    let mut text = model.api().str(String::new()).unwrap();
    let at = text.position_of(2, TextUnit::Char).unwrap();
    text.ins(at, "|").unwrap();
    assert_eq!(text.view().to_string(), r#""é🧵|b""#);
    assert_eq!(text.position_of(6, TextUnit::Utf8), Some(3));
    assert_eq!((text.position_of(3, TextUnit::Utf8), text.position_of(9, TextUnit::Char)), (None, None));
    assert_eq!([3, 4].map(|at| text.place_of(at, TextUnit::Utf8)), [Some(6), Some(7)]);
}

#[test]
fn a_position_in_something_that_is_gone_is_none() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(json!({"list": [1, 2]})).unwrap();
    let position = model.api().arr("/list").unwrap().anchor(1, Side::After).unwrap();
    model.api().obj("").unwrap().del(["list"]).unwrap();
    assert_eq!(position.resolve(model.document()), None);
}

#[test]
fn the_bytes_are_the_documented_ones() {
    let id = |time| Timestamp::new(SessionId::new(70_001).unwrap(), time);
    let beside = RelativePosition { node: id(2), anchor: id(9), side: Side::Before };
    let end = RelativePosition { node: id(2), anchor: id(2), side: Side::Before };
    assert_eq!(hex(&beside.encode()), "00f1a20402f1a20409");
    assert_eq!(hex(&end.encode()), "02f1a20402");
}

/// What another types where someone's cursor stands is not selected by that.
#[test]
fn an_empty_selection_stays_empty() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    let text = model.api().root("warp").unwrap();
    for at in 0..=4 {
        let selection = Selection::range(model.document(), text, at..at).unwrap();
        let mut other = model.fork(SessionId::new(70_002).unwrap());
        other.api().str("").unwrap().ins(at, "xyz").unwrap();
        let now = selection.resolve(other.document()).unwrap();
        assert!(now.is_empty(), "at {at}: {now:?}");
    }
}

/// Bytes of others can say anything: the two ends of a selection are then of no one text.
#[test]
fn a_selection_from_one_text_into_another_is_none() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(json!({"long": "warp and weft", "short": "x"})).unwrap();
    let anchor = model.api().str("/long").unwrap().anchor(13, Side::After).unwrap();
    let focus = model.api().str("/short").unwrap().anchor(0, Side::After).unwrap();
    assert_eq!(Selection { anchor, focus }.resolve(model.document()), None);
}

#[test]
fn only_in_a_sequence_there_are_positions() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(json!({"map": {"a": 1}, "number": 1})).unwrap();
    for path in ["", "/map", "/number"] {
        let node = model.document().root().unwrap();
        let id = if path.is_empty() { node.id() } else { node.get(&path[1..]).unwrap().id() };
        for side in [Side::Before, Side::After] {
            for position in 0..3 {
                assert_eq!(RelativePosition::at(model.document(), id, position, side), None);
            }
            let border = RelativePosition { node: id, anchor: id, side };
            assert_eq!(border.resolve(model.document()), None);
        }
    }
}
