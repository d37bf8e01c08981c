//! Documents that go on from a snapshot in a form of json-joy's take what comes as they would have without it.

use crdt_core::{
    Applied, Document, Model, Patch, PatchBuilder, SessionId, Timestamp, Value,
    codec::{
        DocumentFormat,
        document::{indexed, sidecar},
    },
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
