//! What is refused, or left out, leaves nothing behind; and what is the same is shown and written the same.

use crdt_core::{
    Applied, Document, Model, SessionId, Timestamp, Value,
    codec::{DocumentFormat, Packing},
    document::ApplyError,
    model::{EditError, InvalidQuill, QuillOp},
};
use serde_json::json;

fn sid(id: u64) -> SessionId {
    SessionId::new(id).unwrap()
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
    let refused: [fn(&mut Model); 3] = [
        |model| assert!(model.api().str("/str").unwrap().ins(999, "x").is_err()),
        |model| assert!(model.api().bin("/bin").unwrap().ins(999, b"x").is_err()),
        |model| model.api().arr("/arr").unwrap().ins_con(0, [0u32; 0]).unwrap(),
    ];
    for refused in refused {
        let mut alice = Model::new(sid(70_001));
        alice.api().root(json!({"str": "ab", "arr": [1]})).unwrap();
        alice.api().obj("").unwrap().set([("bin", vec![1u8])]).unwrap();
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
