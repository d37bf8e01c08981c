//! What sessions show of themselves: bytes and back, and where it is after edits.

mod support;

use crdt_core::{
    Model, SessionId, Timestamp, Value,
    model::{RelativePosition, Selection, Side},
    presence::{Others, Shown},
};
use proptest::prelude::*;
use support::hex;

fn session(number: u64) -> SessionId {
    SessionId::new(number).unwrap()
}

fn positions() -> impl Strategy<Value = RelativePosition> {
    let id = (0..1u64 << 53, 0..1u64 << 53).prop_map(|(sid, time)| Timestamp::new(session(sid), time));
    (id.clone(), id, any::<bool>(), any::<bool>()).prop_map(|(node, anchor, after, border)| {
        RelativePosition {
            node,
            anchor: if border { node } else { anchor },
            side: if after { Side::After } else { Side::Before },
        }
    })
}

proptest! {
    #[test]
    fn what_is_shown_comes_back(
        sid in 0..1u64 << 53,
        user in "[a-zé🙂]{0,9}",
        selections in prop::collection::vec((positions(), positions()), 0..9),
        cut in any::<usize>(),
    ) {
        let selections = selections.into_iter().map(|(anchor, focus)| Selection { anchor, focus }).collect();
        let shown = Shown { session: session(sid), user: user.into(), selections };
        let bytes = shown.encode();
        prop_assert_eq!(&Shown::decode(&bytes).unwrap(), &shown);
        prop_assert!(Shown::decode(&bytes[..cut % bytes.len()]).is_err());
    }

    #[test]
    fn any_bytes_are_shown_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), first in any::<bool>()) {
        let bytes = if first { [&[1][..], &bytes].concat() } else { bytes };
        if let Ok(shown) = Shown::decode(&bytes) {
            prop_assert_eq!(Shown::decode(&shown.encode()).unwrap(), shown);
        }
    }
}

#[test]
fn the_bytes_are_the_documented_ones() {
    let id = |time| Timestamp::new(session(70_001), time);
    let cursor = RelativePosition { node: id(2), anchor: id(9), side: Side::Before };
    let selections = vec![Selection::cursor(cursor)];
    let shown = Shown { session: session(70_001), user: "Ada".into(), selections };
    assert_eq!(
        hex(&shown.encode()),
        "01f1a20463416461\
        0100f1a20402f1a2040900f1a20402f1a20409"
    );
}

#[test]
fn another_version_is_refused() {
    let mut bytes = Shown::of(&Model::new(session(70_001))).encode();
    bytes[0] = 2;
    assert!(Shown::decode(&bytes).unwrap_err().to_string().contains("version 1"));
}

#[test]
fn a_selection_whose_text_has_not_come_yet_is_left_out() {
    let mut alice = Model::new(session(70_001));
    let note = alice.api().root("warp").unwrap();
    let bob = alice.fork(session(70_002));
    alice.flush();
    alice.api().str("").unwrap().ins(4, " and weft").unwrap();
    let selections = Selection::range(alice.document(), note, 9..13).into_iter().collect();
    let shown = Shown { selections, ..Shown::of(&alice) };
    let mut others = Others::default();
    assert!(others.shows("alice", &shown.encode()).unwrap());
    assert_eq!(others.selected_in(bob.document(), note).count(), 0);
    let mut bob = bob;
    bob.apply(&alice.flush().unwrap()).map(drop).unwrap();
    let (who, ranges) = others.selected_in(bob.document(), note).next().unwrap();
    assert_eq!((*who, ranges.len(), ranges[0].clone()), ("alice", 1, 9..13));
    assert_eq!(others.gone("alice").unwrap().user, Value::Undefined);
    assert_eq!(others.selected_in(bob.document(), note).count(), 0);
}

#[test]
fn newcomers_above_the_bound_are_not_remembered() {
    let bytes = Shown::of(&Model::new(session(70_001))).encode();
    let mut others = Others::default();
    for who in 0..Others::<usize>::LEN_MAX {
        assert!(others.shows(who, &bytes).unwrap());
    }
    assert!(!others.shows(usize::MAX, &bytes).unwrap());
    assert!(others.shows(0, &bytes).unwrap());
    assert!(others.gone(&0).is_some());
    assert!(others.shows(usize::MAX, &bytes).unwrap());
}

#[test]
fn what_all_show_together_is_bounded_in_bytes() {
    let model = Model::new(SessionId::new(70_001).unwrap());
    let large = Shown { user: "x".repeat(1 << 20).into(), ..Shown::of(&model) }.encode();
    let small = Shown::of(&model).encode();
    let mut others = Others::default();
    let room = (0..).take_while(|who| others.shows(*who, &large).unwrap()).count();
    assert_eq!(room, Others::<usize>::BYTES_MAX / large.len());
    // Who is there can show less, and then there is room for one more.
    assert_eq!(others.shows(0, &small), Ok(true));
    assert_eq!(others.shows(room, &large), Ok(true));
    assert_eq!(others.shows(0, &large), Ok(false));
    assert_eq!(others.get(&0), Shown::decode(&small).ok().as_ref());
    assert!(others.gone(&room).is_some());
    assert_eq!(others.shows(0, &large), Ok(true));
}
