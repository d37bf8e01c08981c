//! Dropping tombstones: when it is done, and what is refused afterwards. That it changes nothing for honest replicas is
//! in `sequence_oracle`.

use crdt_core::{
    Applied, ApplyError, Document, Model, Patch, PatchBuilder, SessionId, StateVector, Timestamp,
    codec::{Log, Packing},
    document::Compaction,
};
use serde_json::json;

fn session(sid: u64) -> SessionId {
    SessionId::new(sid).unwrap()
}

/// Alice types "warp and weft", Bob has it and deletes "and"; both have seen all.
fn alice_and_bob() -> (Model, Model, Vec<Patch>) {
    let mut alice = Model::new(session(70_000));
    alice.api().root("warp and weft").unwrap();
    let typed = alice.flush().unwrap();
    let mut bob = Model::new(session(80_000));
    assert_eq!(bob.apply(&typed), Ok(Applied::Merged));
    bob.api().str("").unwrap().del(4, 4).unwrap();
    let deleted = bob.flush().unwrap();
    assert_eq!(alice.apply(&deleted), Ok(Applied::Merged));
    (alice, bob, vec![typed, deleted])
}

#[test]
fn tombstones_go_when_everyone_has_seen_the_deletion() {
    let (mut alice, mut bob, _) = alice_and_bob();
    let stable = alice.document().state_vector();
    let before = alice.document().to_native(Packing::Plain).len();
    assert_eq!(alice.compact(&stable), Compaction::Done { elements: 4 });
    assert_eq!(alice.compact(&stable), Compaction::Done { elements: 0 });
    assert!(alice.document().to_native(Packing::Plain).len() < before);
    assert_eq!(alice.document().compacted_to(), 16);
    alice.document().check().unwrap();

    // Bob never compacts; the two go on at once as if nothing had been.
    alice.api().str("").unwrap().ins(4, ",").unwrap();
    bob.api().str("").unwrap().ins(5, "the ").unwrap();
    let (from_alice, from_bob) = (alice.flush().unwrap(), bob.flush().unwrap());
    assert_eq!(alice.apply(&from_bob), Ok(Applied::Merged));
    assert_eq!(bob.apply(&from_alice), Ok(Applied::Merged));
    assert_eq!(alice.view(), bob.view());
    assert_eq!(alice.view().as_str(), Some("warp, the weft"));
}

#[test]
fn a_document_that_is_behind_or_ahead_stays_as_it_is() {
    let (mut alice, _, _) = alice_and_bob();
    let stable = alice.document().state_vector();
    alice.api().str("").unwrap().ins(0, "The ").unwrap();
    let bytes = alice.document().to_native(Packing::Plain);
    assert_eq!(alice.compact(&stable), Compaction::Ahead { extra: Timestamp::new(session(70_000), 20) });
    let mut further = alice.document().state_vector();
    further.advance(session(80_000), 30);
    assert_eq!(alice.compact(&further), Compaction::Behind { missing: Timestamp::new(session(80_000), 30) });
    assert_eq!(alice.document().to_native(Packing::Plain), bytes);
}

#[test]
fn a_patch_of_one_who_had_not_seen_it_all_is_refused() {
    let (mut alice, _, patches) = alice_and_bob();
    // Carol was forgotten: she has not seen the deletion, and inserts in the middle of it.
    let mut carol = Model::new(session(90_000));
    assert_eq!(carol.apply(&patches[0]), Ok(Applied::Merged));
    carol.api().str("").unwrap().ins(6, "!").unwrap();
    let late = carol.flush().unwrap();
    let stable = alice.document().state_vector();
    let _ = alice.compact(&stable);
    let bytes = alice.document().to_native(Packing::Plain);
    let refusal = ApplyError::Compacted { patch: late.id(), names: late.id(), compacted_to: 16 };
    assert_eq!(alice.apply(&late), Err(refusal.clone()));
    let mut document = alice.into_document();
    assert_eq!(document.merge(late.as_ref()), Err(refusal));
    assert_eq!(document.to_native(Packing::Plain), bytes);

    // With a clock that ran on, the element that she names gives her away.
    let obj = patches[0].id();
    let mut b = PatchBuilder::new(session(90_000), 40);
    let _ = b.ins_str(obj, Timestamp::new(session(70_000), 8), "?");
    let later = b.finish().unwrap();
    let refusal = ApplyError::Compacted {
        patch: later.id(),
        names: Timestamp::new(session(70_000), 8),
        compacted_to: 16,
    };
    assert_eq!(document.apply(&later), Err(refusal.clone()));
    assert_eq!(document.to_native(Packing::Plain), bytes);
    assert_eq!(
        refusal.to_string(),
        "patch 90000.40 needs 70000.8, which may be gone: the document was compacted up to time 16"
    );
}

#[test]
fn what_is_known_stays_known() {
    let (mut alice, _, patches) = alice_and_bob();
    let stable = alice.document().state_vector();
    let _ = alice.compact(&stable);
    let mut document = alice.into_document();
    let bytes = document.to_native(Packing::Plain);
    for patch in &patches {
        assert_eq!(document.merge(patch.as_ref()), Ok(Applied::Known));
    }
    assert_eq!(document.to_native(Packing::Plain), bytes);
    let bob = Document::from_native(&bytes, session(80_000)).unwrap();
    assert_eq!(bob.compacted_to(), 16);
}

#[test]
fn an_element_that_a_constant_names_stays() {
    let (mut alice, mut bob, patches) = alice_and_bob();
    let text = patches[0].id();
    // A mark at the "n" of "and", which is deleted: something to anchor at.
    let anchor = Timestamp::new(session(70_000), 8);
    let mut b = PatchBuilder::new(session(80_000), bob.document().time());
    let _ = b.new_con_id(anchor);
    let mark = b.finish().unwrap();
    for model in [&mut alice, &mut bob] {
        let _ = model.apply(&mark).unwrap();
    }
    let stable = alice.document().state_vector();
    assert_eq!(alice.compact(&stable), Compaction::Done { elements: 3 });
    alice.document().check().unwrap();
    let mut b = PatchBuilder::new(session(80_000), alice.document().time());
    let _ = b.ins_str(text, anchor, "!");
    let behind = b.finish().unwrap();
    for model in [&mut alice, &mut bob] {
        assert_eq!(model.apply(&behind), Ok(Applied::Merged));
    }
    assert_eq!(alice.view().as_str(), Some("warp! weft"));
    assert_eq!(bob.view(), alice.view());
}

#[test]
fn a_history_is_cut_at_a_version_and_goes_on() {
    let mut alice = Model::new(session(70_000));
    let mut log = Log::new(Document::new(session(70_000)));
    alice.api().root(json!({"text": "warp and weft", "n": 1})).unwrap();
    log.push(alice.flush().unwrap());
    alice.api().str("/text").unwrap().del(4, 4).unwrap();
    log.push(alice.flush().unwrap());
    let stable = alice.document().state_vector();
    for n in 2..20 {
        alice.api().obj("").unwrap().set([("n", n)]).unwrap();
        alice.api().str("/text").unwrap().ins(4, "+").unwrap();
        log.push(alice.flush().unwrap());
    }
    let whole = log.clone();
    assert_eq!(log.compact(&stable), Ok(Compaction::Done { elements: 4 }));
    assert_eq!(log.patches().len(), 18);
    assert_eq!(log.end().unwrap().view(), alice.view());

    // A shallow snapshot: the state at the version and what happened since.
    let bytes = log.to_native(Packing::Deflate);
    assert!(bytes.len() < whole.to_native(Packing::Deflate).len());
    let back = Log::from_native(&bytes, session(80_000)).unwrap();
    assert_eq!(back.end().unwrap().view(), alice.view());
    let middle = log.patches().nth(7).unwrap().id();
    assert_eq!(back.at(middle).unwrap().view(), whole.at(middle).unwrap().view());

    let mut unknown = StateVector::new();
    unknown.advance(session(99_000), 5);
    assert!(matches!(log.compact(&unknown), Ok(Compaction::Ahead { .. } | Compaction::Behind { .. })));
}

/// A map that came too late for its place holds a text that stands elsewhere, too. When what came too late is dropped, the
/// text stays.
#[test]
fn what_stands_elsewhere_too_stays_when_what_came_too_late_is_dropped() {
    let mut first = Model::new(session(70_000));
    first.api().root(json!({"a": 1, "b": 1})).unwrap();
    let root = first.document().root().unwrap().id();
    let typed = first.flush().unwrap();
    // Of somebody who puts one text into two places, and one of these into a place that is taken already.
    let mut builder = PatchBuilder::new(session(80_000), 50);
    let late = builder.new_obj();
    let text = builder.json(&"warp".into());
    builder.ins_obj(late, [("text", text)]);
    builder.ins_obj(root, [("a", text)]);
    let taken = {
        let mut other = PatchBuilder::new(session(90_000), 500);
        let value = other.json(&"weft".into());
        other.ins_obj(root, [("b", value)]);
        other.finish().unwrap()
    };
    builder.ins_obj(root, [("b", late)]);
    let aliased = builder.finish().unwrap();
    let mut document = Document::new(session(60_000));
    for patch in [&typed, &taken, &aliased] {
        assert_eq!(document.apply(patch), Ok(Applied::Merged));
    }
    let before = document.view().in_key_order();
    assert_eq!(before, crdt_core::Value::from(&json!({"a": "warp", "b": "weft"})));
    let stable = document.state_vector();
    assert!(matches!(document.compact(&stable), Compaction::Done { .. }));
    document.check().unwrap();
    assert_eq!(document.view().in_key_order(), before);
}
