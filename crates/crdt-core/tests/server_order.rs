//! Documents whose operations a server numbers: what a replica refuses, and drafts that others came before.

mod support;

use crdt_core::{
    Applied, ApplyError, Document, Model, Patch, PatchBuilder, SessionId, Timespan, Timestamp,
    document::ReceiveError,
};
use proptest::prelude::*;
use support::edits::{edit, edits, start};

/// A patch of three times that writes behind the beginning of a text, which it makes if there is none.
fn writes(sid: SessionId, time: u64, into: Option<Timestamp>, text: &str) -> Patch {
    let mut b = PatchBuilder::new(sid, time);
    let at = into.unwrap_or_else(|| {
        let made = b.new_str();
        b.ins_val(Timestamp::ORIGIN, made);
        made
    });
    let first = b.ins_str(at, at, &text[..1]);
    // Its own element is named by an id that moves along.
    b.ins_str(at, first, &text[1..]);
    b.finish().unwrap()
}

fn started() -> (Document, Timestamp) {
    let mut document = Document::new_server();
    let text = Timestamp::new(SessionId::SERVER, 1);
    assert_eq!(document.apply(&writes(SessionId::SERVER, 1, None, "0.")), Ok(Applied::Merged));
    assert_eq!((document.time(), document.view()), (5, "0.".into()));
    (document, text)
}

#[test]
fn what_no_server_can_have_numbered_is_refused_and_changes_nothing() {
    let (document, text) = started();
    let nine = SessionId::new(9).unwrap();
    let (ahead, foreign) = (Timestamp::new(SessionId::SERVER, 6), Timestamp::new(nine, 5));
    let user = Timestamp::new(SessionId::USER_MIN, 5);
    for (id, refused) in [
        (ahead, ApplyError::Ahead { id: ahead, time: 5 }),
        (foreign, ApplyError::NotServer { id: foreign }),
        (user, ApplyError::NotServer { id: user }),
    ] {
        let patch = writes(id.sid, id.time, Some(text), "ab");
        let mut document = document.clone();
        assert_eq!(document.apply(&patch), Err(refused.clone()));
        assert_eq!(document.merge(patch.as_ref()), Err(refused.clone()));
        assert_eq!(document.apply_bytes(patch.as_bytes()), Err(ReceiveError::Refused(refused.clone())));
        let mut model = Model::from(document);
        model.watch();
        assert_eq!(model.apply(&patch), Err(refused));
        assert!(model.poll_changes().is_none());
        let document = model.into_document();
        assert_eq!((document.time(), document.view()), (5, "0.".into()));
        assert_eq!(document.state_vector(), started().0.state_vector());
        document.check().unwrap();
    }
    // At the very next time, and of the last session of a server.
    for sid in [SessionId::SERVER, SessionId::new(8).unwrap()] {
        let mut document = document.clone();
        assert_eq!(document.apply(&writes(sid, 5, Some(text), "ab")), Ok(Applied::Merged));
        assert_eq!((document.time(), document.view()), (7, "ab0.".into()));
    }
}

/// A client numbers its drafts from the server's last time, and anew when the server took others first.
#[test]
fn a_draft_that_another_came_before_is_moved_behind_it() {
    let (mut server, text) = started();
    let mut replicas = [server.clone(), server.clone()];
    let time = server.time();
    let drafts = ["alice", "bob"].map(|name| writes(SessionId::SERVER, time, Some(text), name));
    let mut taken = Vec::new();
    for draft in &drafts {
        let numbered = draft.rebase(server.time(), time).unwrap();
        assert_eq!(server.apply(&numbered), Ok(Applied::Merged));
        taken.push(numbered);
    }
    assert_eq!(taken[0].as_bytes(), drafts[0].as_bytes(), "the first is numbered as it was");
    assert_eq!(taken[1].id(), Timestamp::new(SessionId::SERVER, time + 5));
    assert_eq!(server.view(), "bobalice0.".into());
    for replica in &mut replicas {
        // Before its turn the second one is ahead, and is tried again.
        let ahead = ApplyError::Ahead { id: taken[1].id(), time };
        assert_eq!(replica.apply(&taken[1]), Err(ahead));
        for patch in &taken {
            assert_eq!(replica.apply(patch), Ok(Applied::Merged));
        }
        assert_eq!((replica.view(), replica.time()), (server.view(), server.time()));
        assert_eq!(replica.to_binary(), server.to_binary());
        // What was taken is known.
        for patch in &taken {
            assert_eq!(replica.apply(patch), Ok(Applied::Known));
        }
    }
}

/// Two drafts that were numbered from the same time, and nobody numbered the second anew: it is refused whatever it does, and
/// not taken for the first one come again.
#[test]
fn a_draft_that_has_the_times_of_another_is_refused() {
    let server = SessionId::SERVER;
    let mut document = Document::new_server();
    let mut first = PatchBuilder::new(server, 1);
    let root = first.json(&serde_json::json!({"a": "one", "b": 0}).into());
    let (list, tuple, bytes) = (first.new_arr(), first.new_vec(), first.new_bin());
    let con = first.new_con(&1.into());
    let slots = first.ins_arr(list, list, &[con]);
    first.ins_bin(bytes, bytes, &[1, 2, 3]);
    first.ins_obj(root, [("list", list), ("tuple", tuple), ("bytes", bytes)]);
    first.ins_val(Timestamp::ORIGIN, root);
    assert_eq!(document.apply(&first.finish().unwrap()), Ok(Applied::Merged));
    let text = document.root().unwrap().get("a").unwrap().id();
    let span = |start| Timespan { start, span: 1 };
    type Draft<'d> = &'d dyn Fn(&mut PatchBuilder) -> Timestamp;
    let drafts: [Draft<'_>; 13] = [
        &|b| b.ins_str(text, text, "alice"),
        &|b| b.ins_str(text, text, "alicf"),
        &|b| b.ins_str(text, text.tick(1), "bob"),
        &|b| b.ins_bin(bytes, bytes, &[4]),
        &|b| b.ins_bin(bytes, bytes, &[5]),
        &|b| b.del(text, &[span(text.tick(1))]),
        &|b| b.del(list, &[span(slots)]),
        &|b| {
            let value = b.new_con(&2.into());
            b.ins_obj(root, [("a", value)])
        },
        &|b| {
            let value = b.new_con(&2.into());
            b.ins_obj(root, [("new", value)])
        },
        &|b| {
            let value = b.new_con(&2.into());
            b.ins_vec(tuple, [(0, value)])
        },
        &|b| {
            let value = b.new_con(&2.into());
            b.upd_arr(list, slots, value)
        },
        &|b| {
            let value = b.new_con(&2.into());
            b.ins_arr(list, list, &[value])
        },
        &|b| {
            let value = b.new_con(&2.into());
            b.ins_val(Timestamp::ORIGIN, value)
        },
    ];
    let drafts = drafts.map(|write| {
        let mut b = PatchBuilder::new(server, document.time());
        write(&mut b);
        b.finish().unwrap()
    });
    for (at, one) in drafts.iter().enumerate() {
        let mut taken = document.clone();
        assert_eq!(taken.apply(one), Ok(Applied::Merged), "{at}");
        let mut reloaded = Document::from_binary(&taken.to_binary()).unwrap();
        for document in [&mut taken, &mut reloaded] {
            let before = (document.to_binary(), document.time());
            assert_eq!(document.apply(one), Ok(Applied::Known), "{at}");
            for (other_at, other) in drafts.iter().enumerate().filter(|(_, other)| *other != one) {
                let applied = document.apply(other);
                // What took the whole document away leaves little to compare; then the draft could do nothing anyway.
                let is_gone = at == 12 && applied == Ok(Applied::Known);
                assert!(
                    is_gone || matches!(applied, Err(ApplyError::TimeTaken { .. })),
                    "{at} {other_at}: {applied:?}"
                );
                assert_eq!((document.to_binary(), document.time()), before, "{at} {other_at}");
            }
            document.check().unwrap();
        }
        // Numbered anew it is taken.
        for other in &drafts {
            let mut document = taken.clone();
            let anew = other.rebase(document.time(), other.id().time).unwrap();
            assert_eq!(document.apply(&anew), Ok(Applied::Merged));
        }
    }
}

/// What was sent before there was more of it, and comes again with that: the rest is taken, the beginning is known.
#[test]
fn a_patch_that_goes_on_from_a_known_one_brings_the_rest() {
    let (mut document, text) = started();
    let time = document.time();
    let mut b = PatchBuilder::new(SessionId::SERVER, time);
    let first = b.ins_str(text, text, "ab");
    assert_eq!(document.apply(&b.clone().finish().unwrap()), Ok(Applied::Merged));
    b.del(text, &[Timespan { start: first, span: 1 }]);
    assert_eq!(document.apply(&b.clone().finish().unwrap()), Ok(Applied::Merged));
    b.ins_str(text, first.tick(1), "cd");
    assert_eq!(document.apply(&b.clone().finish().unwrap()), Ok(Applied::Merged));
    assert_eq!(document.view(), "bcd0.".into());
    // The deletion took a time that others would give to an insertion.
    let mut other = PatchBuilder::new(SessionId::SERVER, time);
    other.ins_str(text, text, "abc");
    other.ins_str(text, first, "def");
    let taken = Err(ApplyError::TimeTaken { id: Timestamp::new(SessionId::SERVER, time) });
    assert_eq!(document.apply(&other.finish().unwrap()), taken);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// What was taken is never taken for another one, whatever became of what it made, and also not from a snapshot on.
    #[test]
    fn what_comes_again_is_known(steps in prop::collection::vec(edits(1..6), 1..16)) {
        let mut server = Model::from(Document::new_server());
        server.api().root(start()).unwrap();
        let mut replica = Document::new_server();
        let mut taken: Vec<Patch> = Vec::new();
        for step in steps {
            step.iter().for_each(|todo| edit(&mut server, todo));
            let Some(patch) = server.flush() else { continue };
            prop_assert_eq!(replica.apply(&patch), Ok(Applied::Merged));
            taken.push(patch);
            let mut reloaded = Document::from_binary(&replica.to_binary()).unwrap();
            for patch in &taken {
                prop_assert_eq!(replica.apply(patch), Ok(Applied::Known));
                prop_assert_eq!(reloaded.apply(patch), Ok(Applied::Known));
            }
        }
        prop_assert_eq!(replica.to_binary(), server.document().to_binary());
        replica.check().unwrap();
    }
}
