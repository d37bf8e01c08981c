//! Where undo puts what comes back: where it stood, whoever has dropped the tombstones there.

use crdt_core::{
    Applied, Model, SessionId, Value,
    model::{Expand, UndoOptions},
};
use serde_json::json;

fn model(session: u64, root: impl Into<Value>) -> Model {
    let mut model = Model::new(SessionId::new(session).unwrap());
    model.api().root(root).unwrap();
    model.flush();
    model.enable_undo(UndoOptions::STANDARD);
    model
}

#[test]
fn text_whose_tombstones_were_dropped_comes_back_where_it_stood() {
    let mut model = model(70_001, "one two three");
    model.api().str("").unwrap().del(4, 4).unwrap();
    model.flush();
    let seen = model.document().state_vector();
    let compaction = model.compact(&seen);
    assert!(matches!(compaction, crdt_core::document::Compaction::Done { elements: 4 }), "{compaction:?}");
    model.undo().unwrap().unwrap();
    assert_eq!(model.view(), "one two three".into());
}

/// Deleting, and taking that back, each in sight of everyone; someone who has compacted in between takes it in.
#[test]
fn what_comes_back_stands_behind_nothing_that_others_may_have_dropped() {
    let mut alice = model(70_001, "warp and weft");
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    alice.api().str("").unwrap().del(4, 4).unwrap();
    assert_eq!(bob.apply(&alice.flush().unwrap()).unwrap(), Applied::Merged);
    let stable = bob.document().state_vector();
    assert!(matches!(bob.compact(&stable), crdt_core::document::Compaction::Done { elements: 4 }));
    for _ in 0..3 {
        alice.undo().unwrap().unwrap();
        assert_eq!(bob.apply(&alice.flush().unwrap()).unwrap(), Applied::Merged);
        assert_eq!((alice.view(), bob.view()), ("warp and weft".into(), "warp and weft".into()));
        alice.redo().unwrap().unwrap();
        assert_eq!(bob.apply(&alice.flush().unwrap()).unwrap(), Applied::Merged);
        assert_eq!((alice.view(), bob.view()), ("warp weft".into(), "warp weft".into()));
        let stable = bob.document().state_vector();
        assert!(matches!(bob.compact(&stable), crdt_core::document::Compaction::Done { elements: 4 }));
    }
}

/// The same in a log that is compacted at a version before the undo.
#[test]
fn a_compacted_log_can_be_replayed_over_an_undo() {
    let mut alice = model(70_001, "warp and weft");
    let mut log = crdt_core::codec::Log::new(alice.document().clone());
    alice.api().str("").unwrap().del(4, 4).unwrap();
    log.push(alice.flush().unwrap());
    let stable = alice.document().state_vector();
    alice.undo().unwrap().unwrap();
    log.push(alice.flush().unwrap());
    assert!(matches!(log.compact(&stable).unwrap(), crdt_core::document::Compaction::Done { elements: 4 }));
    assert_eq!(log.end().unwrap().view(), "warp and weft".into());
}

/// What stood behind comes back first, someone types behind that, and then comes what stood in front of it.
#[test]
fn text_comes_back_in_its_order_whatever_others_typed_behind_it() {
    let mut alice = model(70_001, "abcd");
    for _ in 0..2 {
        alice.api().str("").unwrap().del(1, 1).unwrap();
        alice.flush();
    }
    alice.undo().unwrap().unwrap();
    alice.flush();
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    assert_eq!(bob.view(), "acd".into());
    bob.api().str("").unwrap().ins(2, "X").unwrap();
    assert_eq!(alice.apply(&bob.flush().unwrap()).unwrap(), Applied::Merged);
    assert_eq!(alice.view(), "acXd".into());
    alice.undo().unwrap().unwrap();
    assert_eq!(alice.view(), "abcXd".into());
}

/// A mark keeps the tombstone that it names; what stood around it is dropped, and comes back all the same.
#[test]
fn text_of_which_one_tombstone_is_left_comes_back_whole() {
    let mut model = Model::new(SessionId::new(70_001).unwrap());
    model.api().root(json!({})).unwrap();
    model.api().obj("").unwrap().set_rich_text("text", "abc").unwrap();
    model.flush();
    model.enable_undo(UndoOptions::STANDARD);
    model.api().rich_text("/text").unwrap().mark(1..2, "bold", true, Expand::None).unwrap();
    model.flush();
    model.api().rich_text("/text").unwrap().del(0, 3).unwrap();
    model.flush();
    let stable = model.document().state_vector();
    assert!(matches!(model.compact(&stable), crdt_core::document::Compaction::Done { elements: 2 }));
    model.undo().unwrap().unwrap();
    assert_eq!(model.api().rich_text("/text").unwrap().text().as_str(), Some("abc"));
}

/// What a mark names is kept by whoever compacts: text comes back on the same side of it.
#[test]
fn marked_text_comes_back_marked_though_others_have_compacted() {
    let mut alice = Model::new(SessionId::new(70_001).unwrap());
    alice.api().root(json!({})).unwrap();
    alice.api().obj("").unwrap().set_rich_text("text", "warp and weft").unwrap();
    alice.api().rich_text("/text").unwrap().mark(0..4, "bold", true, Expand::After).unwrap();
    alice.flush();
    alice.enable_undo(UndoOptions::STANDARD);
    let mut bob = alice.fork(SessionId::new(70_002).unwrap());
    let before = alice.api().rich_text("/text").unwrap().spans().unwrap();
    // The one that the mark names, one behind it, and both.
    for (at, len) in [(0, 1), (1, 2), (0, 3)] {
        alice.api().rich_text("/text").unwrap().del(at, len).unwrap();
        assert_eq!(bob.apply(&alice.flush().unwrap()).unwrap(), Applied::Merged);
        let stable = bob.document().state_vector();
        assert!(matches!(bob.compact(&stable), crdt_core::document::Compaction::Done { .. }));
        alice.undo().unwrap().unwrap();
        assert_eq!(bob.apply(&alice.flush().unwrap()).unwrap(), Applied::Merged);
        for model in [&mut alice, &mut bob] {
            assert_eq!(model.api().rich_text("/text").unwrap().spans().unwrap(), before);
        }
    }
}
