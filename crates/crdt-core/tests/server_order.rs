//! Documents whose operations a server numbers: what a replica refuses, and drafts that others came before.

use crdt_core::{
    Applied, ApplyError, Document, Model, Patch, PatchBuilder, SessionId, Timestamp, document::ReceiveError,
};

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
