//! Documents that go on from a snapshot in a form of json-joy's take what comes as they would have without it.

use crdt_core::{
    Applied, Document, Model, Patch, PatchBuilder, SessionId, StateVector, Timestamp, Value,
    codec::{
        DocumentFormat, Packing,
        document::{indexed, sidecar},
    },
    document::LoadError,
    model::Expand,
};

fn sid(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

/// The document by way of each form that can hold it: rich text holds bytes, which JSON cannot.
fn reloaded(document: &Document) -> Vec<(String, Document)> {
    let by_form = |form: DocumentFormat| {
        Some((format!("{form:?}"), form.decode(&form.encode(document).ok()?).unwrap()))
    };
    let mut all: Vec<_> = DocumentFormat::ALL.into_iter().filter_map(by_form).collect();
    assert!(!all.is_empty());
    all.push(("sidecar".to_owned(), sidecar::decode(&sidecar::encode(document).unwrap()).unwrap()));
    all.push(("indexed".to_owned(), indexed::decode(&indexed::encode(document).unwrap()).unwrap()));
    all
}

/// A patch that has not come yet is taken by all reloads of a document, once.
fn takes(document: &Document, patch: &Patch) -> Value {
    let mut live = document.clone();
    assert_eq!(live.apply(patch).unwrap(), Applied::Merged);
    for (form, mut document) in reloaded(document) {
        assert!(!document.has_seen(patch.id()), "{form}");
        assert_eq!(document.apply(patch).unwrap(), Applied::Merged, "{form}");
        document.check().unwrap();
        assert!(document.view().is_same_json(&live.view()), "{form}: {:?}", document.view());
        assert_eq!(document.apply(patch).unwrap(), Applied::Known, "{form}");
    }
    live.view()
}

fn mark(model: &mut Model, range: std::ops::Range<usize>) -> Patch {
    model.api().rich_text("/note").unwrap().mark(range, "bold", true, Expand::None).unwrap();
    model.flush().unwrap()
}

fn write(model: &mut Model, text: &str) -> Patch {
    model.api().rich_text("/note").unwrap().ins(0, text).unwrap();
    model.flush().unwrap()
}

/// A mark names the text that it is on by timestamps in constants, and may come before it.
#[test]
fn text_that_a_mark_came_before_is_taken_after_a_reload() {
    // Once nothing was seen of who wrote it, once something was.
    for has_written in [false, true] {
        let mut alice = Model::new(sid(1));
        alice.api().root(Value::Map(Vec::new())).unwrap();
        alice.api().obj("").unwrap().set_rich_text("note", "note").unwrap();
        alice.flush();
        let (mut bob, mut carol) = (alice.fork(sid(2)), alice.fork(sid(3)));
        if has_written {
            let first = write(&mut bob, "first ");
            assert_eq!(alice.apply(&first).unwrap(), Applied::Merged);
            assert_eq!(carol.apply(&first).unwrap(), Applied::Merged);
        }
        let text = write(&mut bob, "text ");
        assert_eq!(alice.apply(&text).unwrap(), Applied::Merged);
        let marked = mark(&mut alice, 1..4);
        assert_eq!(carol.apply(&marked).unwrap(), Applied::Merged);

        assert!(format!("{:?}", takes(carol.document(), &text)).contains("text "));
    }
}

/// The same where a constant in a map names the text: every form holds that.
#[test]
fn text_that_a_constant_came_before_is_taken_after_a_reload() {
    for has_written in [false, true] {
        let mut made = PatchBuilder::new(sid(1), 1);
        let (obj, note) = (made.new_obj(), made.new_str());
        made.ins_obj(obj, [("note", note)]);
        made.ins_val(Timestamp::ORIGIN, obj);
        let mut first = PatchBuilder::new(sid(2), 10);
        first.ins_str(note, note, "first ");
        let mut text = PatchBuilder::new(sid(2), 20);
        let at = text.ins_str(note, note, "text ");
        let mut named = PatchBuilder::new(sid(1), 40);
        let constant = named.new_con_id(at);
        named.ins_obj(obj, [("named", constant)]);

        let mut carol = Document::new(sid(3));
        let before = [Some(made), Some(first).filter(|_| has_written), Some(named)];
        for patch in before.into_iter().flatten() {
            assert_eq!(carol.apply(&patch.finish().unwrap()).unwrap(), Applied::Merged);
        }
        assert!(reloaded(&carol).len() == 6);
        takes(&carol, &text.finish().unwrap());
    }
}

/// What was seen of sessions that are in the document stays known, named or not.
#[test]
fn what_was_seen_stays_known_after_a_reload() {
    let mut alice = Model::new(sid(1));
    alice.api().root(Value::Map(Vec::new())).unwrap();
    alice.api().obj("").unwrap().set_rich_text("note", "note").unwrap();
    let first = alice.flush().unwrap();
    let (mut bob, mut carol) = (alice.fork(sid(2)), alice.fork(sid(3)));
    let text = write(&mut bob, "text ");
    assert_eq!(alice.apply(&text).unwrap(), Applied::Merged);
    let marked = mark(&mut alice, 0..9);
    for patch in [&text, &marked] {
        assert_eq!(carol.apply(patch).unwrap(), Applied::Merged);
    }
    for (form, mut document) in reloaded(carol.document()) {
        for patch in [&first, &text, &marked] {
            assert_eq!(document.apply(patch).unwrap(), Applied::Known, "{form}");
        }
        assert_eq!(document.to_binary(), carol.document().to_binary(), "{form}");
    }
}

/// A document that saw a session of which nothing is left, a patch of that session, and one of another that puts something
/// behind what it made.
fn with_a_session_that_is_gone() -> (Document, Patch, Patch) {
    let mut made = PatchBuilder::new(sid(1), 1);
    let (obj, note) = (made.new_obj(), made.new_str());
    made.ins_obj(obj, [("note", note)]);
    made.ins_val(Timestamp::ORIGIN, obj);
    let mut gone = PatchBuilder::new(sid(2), 10);
    let map = gone.new_obj();
    gone.ins_obj(obj, [("map", map)]);
    let mut removed = PatchBuilder::new(sid(1), 20);
    let constant = removed.new_con(&Value::Undefined);
    removed.ins_obj(obj, [("map", constant)]);
    // Made before it was known that the map is gone.
    let mut late = PatchBuilder::new(sid(4), 15);
    let constant = late.new_con(&1.into());
    late.ins_obj(map, [("n", constant)]);
    late.ins_obj(obj, [("late", constant)]);

    let mut document = Document::new(sid(3));
    let [made, gone, removed, late] = [made, gone, removed, late].map(|patch| patch.finish().unwrap());
    for patch in [&made, &gone, &removed] {
        assert_eq!(document.apply(patch).unwrap(), Applied::Merged);
    }
    (document, gone, late)
}

/// H8: what a snapshot forgets comes back with the state vector beside it.
#[test]
fn a_patch_that_names_what_a_forgotten_session_made_does_not_wait_for_ever() {
    let (mut live, gone, late) = with_a_session_that_is_gone();
    let seen = live.state_vector();
    let all = reloaded(&live);
    assert_eq!(live.apply(&late).unwrap(), Applied::Merged);
    let forgetful = all.iter().filter(|(_, document)| !document.has_seen(gone.id())).count();
    assert_eq!(forgetful, 4, "all but the verbose and the indexed form");
    for (form, mut document) in all {
        if !document.has_seen(gone.id()) {
            let missing = gone.id();
            assert_eq!(document.apply(&late).unwrap(), Applied::Parked { missing }, "{form}");
        }
        document.note_seen(&seen).unwrap();
        assert!(document.state_vector().contains(&seen), "{form}");
        document.check().unwrap();
        assert_eq!(document.apply(&gone).unwrap(), Applied::Known, "{form}");
        assert_eq!(document.apply(&late).unwrap(), Applied::Merged, "{form}");
        assert_eq!(document.view(), live.view(), "{form}");
        document.check().unwrap();
        // What is written from there on has it.
        let back = Document::from_native(&document.to_native(Packing::Plain), sid(5)).unwrap();
        assert!(back.state_vector().contains(&live.state_vector()), "{form}");
    }
}

#[test]
fn what_is_noted_is_seen_and_the_clock_is_above_it() {
    let mut document = Document::new(sid(1));
    let seen: StateVector = [(sid(1), 7), (sid(2), 40), (sid(3), 5)].into_iter().collect();
    document.note_seen(&seen).unwrap();
    assert_eq!((document.state_vector(), document.time()), (seen.clone(), 41));
    // What was seen beyond it stays seen.
    document.note_seen(&[(sid(2), 3), (sid(4), 9)].into_iter().collect()).unwrap();
    assert_eq!((document.state_vector().get(&sid(2)), document.state_vector().get(&sid(4))), (40, 9));
    assert_eq!(document.time(), 41);
    document.check().unwrap();
}

#[test]
fn a_vector_that_no_document_has_is_refused_and_changes_nothing() {
    let max = SessionId::USER_MIN.get() + 1;
    let refused = |mut document: Document, sid: u64, time: u64| {
        let before = (document.state_vector(), document.time(), document.peers().count());
        let vector: StateVector =
            [(SessionId::new(5).unwrap(), 3), (SessionId::new(sid).unwrap(), time)].into_iter().collect();
        let error = document.note_seen(&vector).unwrap_err();
        assert_eq!((document.state_vector(), document.time(), document.peers().count()), before);
        error
    };
    let first = |number| Document::new(sid(number));
    assert_eq!(refused(first(1), 0, 3), LoadError::System(Timestamp::new(SessionId::SYSTEM, 3)));
    let last = (1 << 53) - 1;
    let what = "times";
    assert_eq!(refused(first(1), max, last), LoadError::TooLarge { what, value: last, max: last - 1 });
    let error = refused(Document::new_server(), 9, 3).to_string();
    assert_eq!(error, "session numbers under a server come to 9: at most 8 are allowed");
}
