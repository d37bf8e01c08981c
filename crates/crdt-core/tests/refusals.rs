//! What is refused, or left out, leaves nothing behind; and what is the same is shown and written the same.

use crdt_core::{
    Applied, Document, Model, SessionId, Timestamp, Value,
    codec::{DocumentFormat, Packing},
    document::ApplyError,
    model::{EditError, InvalidQuill, QuillOp, Selection, schema},
};
use serde_json::json;

fn sid(id: u64) -> SessionId {
    SessionId::new(id).unwrap()
}

/// An array in an array in an array.
fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Int(1), |inner, _| Value::Array(vec![inner]))
}

/// 0.1 + 0.2 + 0.3 is another number than 0.3 + 0.2 + 0.1.
#[test]
fn a_counter_shows_the_same_in_whatever_order_its_parts_came() {
    let mut first = Model::new(sid(70_000));
    first.api().root(json!({})).unwrap();
    first.api().obj("").unwrap().set_counter("likes", 0.0).unwrap();
    first.flush();
    let patches: Vec<_> = (1..=3)
        .map(|at: u32| {
            let mut model = first.fork(sid(70_000 + u64::from(at)));
            model.api().counter("/likes").unwrap().add(f64::from(at) / 10.0).unwrap();
            model.flush().unwrap()
        })
        .collect();
    let mut seen = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut model = first.fork(sid(80_000));
        for at in order {
            assert_eq!(model.apply(&patches[at]).unwrap(), Applied::Merged);
        }
        let native = model.document().to_native(Packing::Plain);
        let mut back = Model::from(Document::from_native(&native, sid(80_000)).unwrap());
        for model in [&mut model, &mut back] {
            seen.push((model.api().counter("/likes").unwrap().value(), model.document().view_extended()));
        }
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
}

#[test]
fn a_deleted_key_of_a_server_document_stays_deleted_in_each_form() {
    let mut model = Model::from(Document::new_server());
    model.api().root(json!({"a": 1, "b": 2})).unwrap();
    model.api().obj("").unwrap().del(["a"]).unwrap();
    for form in DocumentFormat::ALL {
        let back = form.decode(&form.encode(model.document()).unwrap()).unwrap();
        assert_eq!(back.view(), Value::from(&json!({"b": 2})), "{form:?}");
    }
}

/// A distance back from the document's time cannot say it, and 0 is no value at all.
#[test]
fn the_compact_forms_refuse_a_timestamp_beyond_a_servers_time() {
    for ahead in [0, 5] {
        let mut b = crdt_core::PatchBuilder::new(SessionId::SERVER, 1);
        let named = b.new_con_id(Timestamp::new(SessionId::SERVER, 3 + ahead));
        b.ins_val(Timestamp::ORIGIN, named);
        let mut document = Document::new_server();
        assert_eq!(document.merge(b.finish().unwrap().as_ref()).unwrap(), Applied::Merged);
        assert_eq!(document.time(), 3);
        for form in DocumentFormat::ALL {
            match form.encode(&document) {
                Ok(bytes) => assert_eq!(form.decode(&bytes).unwrap().view(), document.view(), "{form:?}"),
                Err(error) => assert!(format!("{form:?}").starts_with("Compact"), "{form:?}: {error}"),
            }
        }
    }
}

#[test]
fn a_delta_that_goes_far_beyond_the_text_is_refused() {
    let mut model = Model::new(sid(70_001));
    model.api().root(json!({})).unwrap();
    model.api().obj("").unwrap().set_quill("text", "abc").unwrap();
    let far = [QuillOp::Retain(1, vec![]), QuillOp::Retain(usize::MAX, vec![]), QuillOp::Delete(1)];
    let refused = model.api().rich_text("/text").unwrap().apply_quill(&far);
    let out = |error: &InvalidQuill| matches!(error, InvalidQuill::Edit(EditError::OutOfRange { .. }));
    assert!(refused.as_ref().is_err_and(out), "{refused:?}");
    assert_eq!(model.api().rich_text("/text").unwrap().text().as_str(), Some("abc"));
}

/// The clock has jumped since the patch was begun: an insertion that is refused does not tell others of that time.
#[test]
fn a_refused_insertion_leaves_the_open_patch_as_it_was() {
    let refused: [fn(&mut Model); 13] = [
        |model| assert!(model.api().str("/str").unwrap().ins(999, "x").is_err()),
        |model| assert!(model.api().bin("/bin").unwrap().ins(999, b"x").is_err()),
        |model| model.api().arr("/arr").unwrap().ins_con(0, [0u32; 0]).unwrap(),
        |model| model.api().arr("/arr").unwrap().ins(0, [0u32; 0]).unwrap(),
        |model| model.api().obj("").unwrap().set([("key", 0u32); 0]).unwrap(),
        |model| model.api().obj("").unwrap().del([""; 0]).unwrap(),
        |model| model.api().vec("/vec").unwrap().set([(0, 0u32); 0]).unwrap(),
        |model| model.api().str("/str").unwrap().ins(0, "").unwrap(),
        |model| model.api().rich_text("/rich").unwrap().ins(0, "").unwrap(),
        |model| {
            let view = model.view();
            model.api().update("", view).unwrap();
        },
        |model| model.api().update("/arr", json!([1])).unwrap(),
        |model| assert!(model.api().root(nested(400)).is_err()),
        |model| assert!(model.api().arr("/arr").unwrap().ins_con(0, [nested(200)]).is_err()),
    ];
    for refused in refused {
        let mut alice = Model::new(sid(70_001));
        alice.api().root(json!({"str": "ab", "arr": [1]})).unwrap();
        alice.api().obj("").unwrap().set([("bin", vec![1u8])]).unwrap();
        alice.api().obj("").unwrap().set_node("vec", &schema::vec([schema::con(1)])).unwrap();
        alice.api().obj("").unwrap().set_rich_text("rich", "text").unwrap();
        alice.flush();
        let mut bob = alice.fork(sid(70_002));
        let mut carol = alice.fork(sid(70_003));
        bob.api().str("/str").unwrap().ins(0, "x".repeat(100).as_str()).unwrap();
        let ahead = bob.flush().unwrap();
        alice.api().str("/str").unwrap().ins(2, "c").unwrap();
        assert_eq!(alice.apply(&ahead).unwrap(), Applied::Merged);
        refused(&mut alice);
        let patch = alice.flush().unwrap();
        assert_eq!(patch.op_count(), 1);
        assert_eq!(carol.apply(&ahead).unwrap(), Applied::Merged);
        assert_eq!(carol.apply(&patch).unwrap(), Applied::Merged);
        assert_eq!(alice.document().state_vector(), carol.document().state_vector());
        let native = [&alice, &carol].map(|model| model.document().to_native(Packing::Plain));
        assert_eq!(native[0], native[1]);
    }
}

/// Its forms tell ids by time alone: two elements of one time could not be read again.
#[test]
fn a_server_gives_each_time_once() {
    let patch = |sid, time| {
        let mut b = crdt_core::PatchBuilder::new(sid, time);
        let made = b.new_con(&"made".into());
        b.ins_val(Timestamp::ORIGIN, made);
        b.finish().unwrap()
    };
    let mut document = Document::new_server();
    assert_eq!(document.apply(&patch(SessionId::GLOBAL, 1)), Ok(Applied::Merged));
    let taken = ApplyError::TimeTaken { id: Timestamp::new(SessionId::SERVER, 2) };
    assert_eq!(document.apply(&patch(SessionId::SERVER, 2)), Err(taken));
    assert_eq!(document.apply(&patch(SessionId::SERVER, 3)), Ok(Applied::Merged));
    let taken = ApplyError::TimeTaken { id: Timestamp::new(SessionId::GLOBAL, 1) };
    assert_eq!(document.apply(&patch(SessionId::GLOBAL, 1)), Err(taken));
    for form in DocumentFormat::ALL {
        let back = form.decode(&form.encode(&document).unwrap()).unwrap();
        assert_eq!((back.view(), back.time()), (document.view(), document.time()), "{form:?}");
    }
}

/// A node that is older than a map never stands in it, whether or not the map is still there; it may elsewhere.
#[test]
fn a_value_older_than_the_map_it_comes_to_is_kept_though_the_map_is_gone() {
    let mut start = Model::new(sid(70_001));
    start.api().root(json!({})).unwrap();
    start.flush();
    let mut b = crdt_core::PatchBuilder::new(sid(70_002), start.document().time());
    let old = b.new_con(&"old".into());
    let map = b.new_obj();
    b.ins_val(Timestamp::ORIGIN, map);
    let first = b.finish().unwrap();
    let time = start.document().time() + 10;
    let mut b = crdt_core::PatchBuilder::new(sid(70_003), time);
    b.ins_obj(map, [("key", old)]);
    let put = b.finish().unwrap();
    let mut b = crdt_core::PatchBuilder::new(sid(70_004), time);
    let other = b.new_con(&"other".into());
    b.ins_val(Timestamp::ORIGIN, other);
    let replaced = b.finish().unwrap();
    let forms = [[&put, &replaced], [&replaced, &put]].map(|order| {
        let mut document = start.document().fork(sid(70_009));
        for patch in [&first].into_iter().chain(order) {
            assert_eq!(document.apply(patch), Ok(Applied::Merged));
        }
        document.check().unwrap();
        document.to_native(Packing::Plain)
    });
    assert_eq!(forms[0], forms[1]);
}

#[test]
fn what_is_nested_too_deep_is_refused_and_not_cut() {
    let mut model = Model::new(sid(70_001));
    model.api().root(json!({"list": [0], "date": 1})).unwrap();
    model.api().obj("").unwrap().set_multi_value("many", 1).unwrap();
    let before = model.view();
    let deep = || nested(400);
    let refused: [Result<(), EditError>; 9] = [
        model.api().root(deep()).map(drop),
        model.api().obj("").unwrap().set([("key", deep())]),
        model.api().arr("/list").unwrap().ins(0, [deep()]),
        model.api().arr("/list").unwrap().upd(0, deep()),
        model.api().val("/list/0").unwrap().set(deep()),
        model.api().arr("/list").unwrap().ins_con(0, [nested(129)]),
        model.api().obj("").unwrap().set_node("key", &schema::con(nested(129))),
        model.api().multi_value("/many").unwrap().set(deep()),
        model.api().update("/list", Value::Array(vec![deep()])),
    ];
    assert!(refused.iter().all(|refused| matches!(refused, Err(EditError::TooDeep { .. }))), "{refused:?}");
    assert_eq!(model.view(), before);
    // Up to there all of it is shown.
    for depth in [100, 128, 200, 255] {
        model.api().root(nested(depth)).unwrap();
        assert_eq!(model.view(), nested(depth), "{depth}");
    }
    model.api().arr("").unwrap().ins_con(0, [nested(128)]).unwrap();
    assert_eq!(model.view_at("/0").unwrap(), nested(128));
}

#[test]
fn a_cursor_whose_node_is_gone_has_no_length() {
    let mut model = Model::new(sid(70_001));
    model.api().root(json!({"str": "ab", "arr": [1]})).unwrap();
    model.api().obj("").unwrap().set([("bin", vec![1u8])]).unwrap();
    let mut text = model.api().str("/str").unwrap();
    text.model().api().obj("").unwrap().del(["str"]).unwrap();
    text.model().api().obj("").unwrap().set([("another", "longer")]).unwrap();
    assert_eq!((text.len(), text.is_empty()), (0, true));
    let mut bytes = model.api().bin("/bin").unwrap();
    *bytes.model() = Model::new(sid(70_001));
    assert_eq!((bytes.len(), bytes.is_empty()), (0, true));
    model.api().root(json!([1, [2, 3]])).unwrap();
    let mut array = model.api().arr("/1").unwrap();
    *array.model() = Model::new(sid(70_001));
    assert_eq!((array.len(), array.is_empty()), (0, true));
}

#[test]
fn a_document_that_lacks_what_was_sent_is_not_gone_on_with() {
    let mut alice = Model::new(sid(70_001));
    alice.api().root("warp").unwrap();
    alice.flush();
    let mut bob = alice.fork(sid(70_002));
    let behind = alice.document().clone();
    alice.api().str("").unwrap().ins(4, "!").unwrap();
    let sent = alice.flush().unwrap();
    let missing = Timestamp::new(sid(70_001), sent.next_time() - 1);
    assert_eq!(alice.replace_document(behind), Err(EditError::Behind { missing }));
    assert_eq!(alice.view(), "warp!".into());
    // What others made counts too; what was not sent goes, as it says.
    assert_eq!(bob.apply(&sent), Ok(Applied::Merged));
    bob.api().str("").unwrap().ins(5, "?").unwrap();
    alice.api().str("").unwrap().ins(0, "unsent ").unwrap();
    assert_eq!(alice.replace_document(bob.document().clone()), Ok(()));
    assert_eq!(alice.view(), "warp!?".into());
    alice.api().str("").unwrap().ins(0, "the ").unwrap();
    assert_eq!(bob.apply(&alice.flush().unwrap()), Ok(Applied::Merged));
    assert_eq!(bob.view(), "the warp!?".into());
}

#[test]
fn nobody_edits_as_the_system() {
    let mut model = Model::new(SessionId::SYSTEM);
    model.api().root("warp").unwrap();
    let patch = model.flush().unwrap();
    assert_eq!(crdt_core::Patch::decode(patch.as_bytes()).as_ref(), Ok(&patch));
    assert_eq!(model.fork(SessionId::SYSTEM).document().session(), SessionId::LOCAL);
}

#[test]
fn a_number_that_is_none_does_not_poison_a_counter() {
    let mut model = Model::new(sid(70_001));
    model.api().root(json!({})).unwrap();
    assert_eq!(model.api().obj("").unwrap().set_counter("bad", f64::NAN), Err(EditError::NotFinite));
    model.api().obj("").unwrap().set_counter("likes", 1.0).unwrap();
    for by in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(model.api().counter("/likes").unwrap().add(by), Err(EditError::NotFinite));
    }
    model.api().counter("/likes").unwrap().add(f64::MAX).unwrap();
    assert_eq!(model.api().counter("/likes").unwrap().add(f64::MAX), Err(EditError::NotFinite));
    assert_eq!(model.api().counter("/likes").unwrap().value(), f64::MAX);
}

/// What is typed at its ends is not part of it, from whichever end it was drawn.
#[test]
fn a_selection_that_is_drawn_backwards_selects_the_same() {
    let mut model = Model::new(sid(70_001));
    let node = model.api().root("warp and weft").unwrap();
    let (from, to) = (8, 5);
    let selection = Selection::range(model.document(), node, from..to).unwrap();
    assert!(selection.focus.resolve(model.document()).unwrap().position < 8);
    model.api().str("").unwrap().ins(8, ">").unwrap();
    model.api().str("").unwrap().ins(5, "<").unwrap();
    assert_eq!(selection.resolve(model.document()), Some(6..9));
}

/// Whatever bits it is drawn by, a session that the document has seen is no fresh one, and neither is its own.
#[test]
fn a_fresh_session_is_none_that_the_document_knows() {
    let own = SessionId::from_random(7);
    let mut document = Document::new(own);
    let peer = sid(own.get() + 1);
    let mut b = crdt_core::PatchBuilder::new(peer, 1);
    let made = b.new_obj();
    b.ins_val(Timestamp::ORIGIN, made);
    assert_eq!(document.apply(&b.finish().unwrap()), Ok(Applied::Merged));
    assert_eq!(document.fresh_session(7), sid(own.get() + 2));
    // Behind the last session comes the first one, which is its own here.
    document.set_session(document.fresh_session(u64::MAX));
    assert_eq!(document.session(), SessionId::from_random(u64::MAX));
    assert_eq!(document.fresh_session(u64::MAX), sid(own.get() + 2));
}

/// A constant can be the id of something that has not come yet: who edits as that session makes another thing of that id.
#[test]
fn a_fresh_session_is_none_that_a_constant_names() {
    let own = SessionId::from_random(7);
    let mut document = Document::new(own);
    let mut b = crdt_core::PatchBuilder::new(own, 1);
    let named = b.new_con_id(Timestamp::new(sid(own.get() + 1), 5));
    b.ins_val(Timestamp::ORIGIN, named);
    assert_eq!(document.apply(&b.finish().unwrap()), Ok(Applied::Merged));
    let native = document.to_native(Packing::Plain);
    let opened = Document::open_native(native.clone(), own).unwrap();
    for document in [document, Document::from_native(&native, own).unwrap(), opened] {
        assert_eq!(document.fresh_session(7), sid(own.get() + 2));
    }
}
