//! Documents from hostile bytes, hostile patches, and in every form and back.

mod support;

use crdt_core::{
    Applied, Document, Model, Patch, PatchBuilder, SessionId, Text, Timespan, Value,
    codec::{
        DocumentFormat,
        document::{
            indexed,
            sidecar::{self, Sidecar},
        },
    },
    document::{Child, Content, NodeRef},
};
use proptest::prelude::*;
use support::{
    plain,
    random::{mutated, patch, sensible},
};

fn receiver() -> Document {
    Document::new(SessionId::new(66_000).unwrap())
}

/// A document out of patches that mostly mean something, with everything that can go wrong in between.
fn document(seeds: &[Vec<u8>]) -> Document {
    let mut document = receiver();
    for (index, seed) in seeds.iter().enumerate() {
        let patch = if index % 5 == 4 { patch(seed) } else { sensible(seed, index as u64) };
        let before = document.clone();
        match document.merge(patch.as_ref()) {
            Ok(_) => {}
            // Refused: then nothing has changed.
            Err(_) => assert_eq!(document.to_binary(), before.to_binary()),
        }
        document.check().unwrap();
    }
    document
}

/// The view as a form brings it back: a slot of an array whose node was removed from elsewhere is not shown, but written
/// as a constant without a value (H5), and that is shown.
fn reloaded_view(document: &Document) -> Value {
    fn view(node: NodeRef<'_>) -> Value {
        let mut child = |child: Child<'_>| child.node().map_or(Value::Undefined, view);
        match node.content() {
            Content::Con(value) => value.to_value(),
            Content::ConId(id) => {
                Value::Array(vec![Value::Int(id.sid.get() as i64), Value::Int(id.time as i64)])
            }
            Content::Val(inner) => inner.map_or(Value::Undefined, child),
            Content::Obj(entries) => Value::Map(
                entries
                    .map(|(key, inner)| (key.to_text(), child(inner)))
                    .filter(|(_, value)| !value.is_undefined())
                    .collect(),
            ),
            Content::Vec(places) => {
                Value::Array(places.map(|place| place.map_or(Value::Undefined, &mut child)).collect())
            }
            Content::Arr(chunks) => {
                let live = chunks.filter(|chunk| !chunk.is_tombstone());
                Value::Array(
                    live.flat_map(|chunk| chunk.children().map(&mut child).collect::<Vec<_>>()).collect(),
                )
            }
            Content::Str(chunks) => {
                let mut text = Text::new();
                for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                    let mut bytes = Vec::new();
                    chunk.write_text(&mut bytes);
                    text.push(crdt_core::Wtf8::new(&bytes).unwrap());
                }
                Value::Text(text)
            }
            Content::Bin(chunks) => {
                let mut bytes = Vec::new();
                chunks.filter(|chunk| !chunk.is_tombstone()).for_each(|chunk| chunk.write_bytes(&mut bytes));
                Value::Bytes(bytes)
            }
        }
    }
    document.root().map_or(Value::Undefined, view)
}

/// All forms are read back to the same view, and are written the same again.
fn check_forms(document: &Document) {
    let view = plain(&reloaded_view(document));
    for form in DocumentFormat::ALL {
        let Ok(bytes) = form.encode(document) else {
            assert_ne!(form, DocumentFormat::Binary);
            continue;
        };
        let back = form.decode(&bytes).unwrap_or_else(|e| panic!("{form:?}: {e}: {document:?}"));
        back.check().unwrap();
        assert_eq!(plain(&back.view()), view, "{form:?}");
        if form == DocumentFormat::Binary {
            // A session that is named and of which nothing is here takes a table entry that is not taken for what was seen.
            let beyond = document.nodes().any(|node| match node.content() {
                Content::ConId(id) => id.sid != SessionId::SYSTEM && !back.has_seen(id),
                _ => false,
            });
            let again = back.to_binary();
            assert!(again == bytes || beyond, "{document:?}");
            assert_eq!(Document::from_binary(&again).unwrap().to_binary(), again);
        }
    }
    if let Ok(parts) = sidecar::encode(document) {
        let back = sidecar::decode(&parts).unwrap_or_else(|e| panic!("sidecar: {e}: {document:?}"));
        assert_eq!(plain(&back.view()), view, "sidecar");
    }
    let back =
        indexed::decode(&indexed::encode(document).unwrap()).unwrap_or_else(|e| panic!("{e}: {document:?}"));
    assert_eq!(plain(&back.view()), view, "indexed");
}

/// Bytes that anyone could send: refused, or a document that holds together and comes back from its own bytes.
fn check_bytes(bytes: &[u8]) {
    for form in DocumentFormat::ALL {
        if let Ok(document) = form.decode(bytes) {
            document.check().unwrap();
            let again = Document::from_binary(&document.to_binary()).unwrap();
            assert_eq!(plain(&again.view()), plain(&document.view()));
        }
    }
    let half = bytes.len() / 2;
    let parts = Sidecar { view: bytes[..half].to_vec(), meta: bytes[half..].to_vec() };
    if let Ok(document) = sidecar::decode(&parts) {
        document.check().unwrap();
    }
}

fn seeds() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8)
}

proptest! {
    #[test]
    fn bytes_do_what_the_patch_in_them_does(
        seeds in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..12),
        spoil in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let (mut by_bytes, mut by_patch) = (receiver(), receiver());
        let (mut model, mut watched) = (Model::from(receiver()), Model::from(receiver()));
        watched.watch();
        for (index, seed) in seeds.iter().enumerate() {
            let bytes = sensible(seed, index as u64).as_bytes().to_vec();
            let bytes = if index % 3 == 2 { mutated(bytes, &spoil) } else { bytes };
            let applied = by_bytes.apply_bytes(&bytes);
            match Patch::decode(&bytes) {
                Ok(patch) => prop_assert_eq!(&applied, &by_patch.apply(&patch).map_err(Into::into)),
                Err(malformed) => prop_assert_eq!(&applied, &Err(malformed.into())),
            }
            prop_assert_eq!(&model.apply_bytes(&bytes), &applied);
            prop_assert_eq!(&watched.apply_bytes(&bytes), &applied);
            prop_assert_eq!(model.document().to_binary(), by_patch.to_binary());
            prop_assert_eq!(watched.document().to_binary(), by_patch.to_binary());
            by_bytes.check().unwrap();
            prop_assert_eq!(by_bytes.to_binary(), by_patch.to_binary());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_form_brings_back_the_document(seeds in seeds()) {
        check_forms(&document(&seeds));
    }

    #[test]
    fn mutated_documents_are_refused_or_sound(seeds in seeds(), change in prop::collection::vec(any::<u8>(), 1..12)) {
        let document = document(&seeds);
        for form in DocumentFormat::ALL {
            if let Ok(bytes) = form.encode(&document) {
                check_bytes(&mutated(bytes, &change));
            }
        }
        if let Ok(parts) = sidecar::encode(&document) {
            let changed = Sidecar { view: mutated(parts.view.clone(), &change), meta: parts.meta.clone() };
            let _ = sidecar::decode(&changed);
            let changed = Sidecar { view: parts.view, meta: mutated(parts.meta, &change) };
            let _ = sidecar::decode(&changed);
        }
        let mut fields = indexed::encode(&document).unwrap();
        let names: Vec<_> = fields.keys().cloned().collect();
        let name = &names[change.len() % names.len()];
        let bytes = fields.remove(name).unwrap();
        let _ = indexed::decode(&fields);
        fields.insert(name.clone(), mutated(bytes, &change));
        if let Ok(document) = indexed::decode(&fields) {
            document.check().unwrap();
        }
    }

    #[test]
    fn any_bytes_are_refused_or_sound(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        check_bytes(&bytes);
        // With a frame around them that lets more of them through.
        let mut framed = (bytes.len() as u32).to_be_bytes().to_vec();
        framed.extend(&bytes);
        framed.extend([1, 0xc0, 0xc4, 0x07, 0x64]);
        check_bytes(&framed);
    }

    #[test]
    fn a_patch_does_the_same_to_a_document_and_its_copy(seeds in seeds(), last in prop::collection::vec(any::<u8>(), 0..60)) {
        let document = document(&seeds);
        let patch = sensible(&last, 99);
        // Orphans are in no structural form (H6), so a patch that names one is left out.
        let mut live = document.clone();
        let mut copy = indexed::decode(&indexed::encode(&document).unwrap()).unwrap();
        let (a, b) = (live.merge(patch.as_ref()), copy.merge(patch.as_ref()));
        prop_assert_eq!(a.is_ok(), b.is_ok());
        prop_assert_eq!(plain(&reloaded_view(&live)), plain(&reloaded_view(&copy)));
        copy.check().unwrap();
    }
}

/// A chain of registers, each in the next: legal, small in bytes, and as deep as it is long.
#[test]
fn the_binary_form_has_room_for_any_depth() {
    let deep = 50_000;
    let mut b = crdt_core::PatchBuilder::new(SessionId::new(70_000).unwrap(), 1);
    let root = b.new_val();
    b.ins_val(crdt_core::Timestamp::ORIGIN, root);
    let mut last = root;
    for _ in 0..deep {
        let next = b.new_val();
        b.ins_val(last, next);
        last = next;
    }
    let patch: Patch = b.finish().unwrap();
    let mut document = receiver();
    assert_eq!(document.apply(&patch), Ok(Applied::Merged));
    let bytes = document.to_binary();
    let back = Document::from_binary(&bytes).unwrap();
    assert_eq!(back.to_binary(), bytes);
    assert_eq!(back.node_count(), deep + 1);
    assert!(DocumentFormat::Verbose.encode(&document).is_err());
    assert!(sidecar::encode(&document).is_err());
}

/// H5: arrays that hold one array twice, sixty deep, have 2^60 paths; the bytes stay in the document's own size.
#[test]
fn aliases_do_not_blow_a_snapshot_up() {
    let mut b = crdt_core::PatchBuilder::new(SessionId::new(70_000).unwrap(), 1);
    // The innermost is the newest, so that each container is older than what it holds.
    let arrays: Vec<_> = (0..60).map(|_| b.new_arr()).collect();
    b.ins_val(crdt_core::Timestamp::ORIGIN, arrays[0]);
    for pair in arrays.windows(2) {
        b.ins_arr(pair[0], pair[0], &[pair[1], pair[1]]);
    }
    let mut document = receiver();
    assert_eq!(document.apply(&b.finish().unwrap()), Ok(Applied::Merged));
    let bytes = document.to_binary();
    assert!(bytes.len() < 4000, "{}", bytes.len());
    let back = Document::from_binary(&bytes).unwrap();
    assert_eq!(back.node_count(), 60);
    assert_eq!(back.to_binary(), bytes);
}

/// H5: what a node holds counts too, not only how often it is referred to. Here nothing refers to most nodes.
#[test]
fn aliases_of_what_is_long_do_not_blow_anything_up() {
    let mut b = crdt_core::PatchBuilder::new(SessionId::new(70_000).unwrap(), 1);
    let (list, text) = (b.new_arr(), b.new_str());
    b.ins_val(crdt_core::Timestamp::ORIGIN, list);
    b.ins_str(text, text, &*"weft".repeat(9_000));
    b.ins_arr(list, list, &vec![text; 60_000]);
    for _ in 0..60_000 {
        b.new_con(&Value::Null);
    }
    let patch = b.finish().unwrap();
    let mut document = receiver();
    assert_eq!(document.apply(&patch), Ok(Applied::Merged));
    let shown = |value: &Value| match value {
        Value::Array(items) => items.iter().filter(|item| **item != Value::Undefined).count(),
        other => panic!("{other:?}"),
    };
    // Once, and as often again as what was shown once and 65 536 more are long.
    assert_eq!(shown(&document.view()), 1 + (65_536 + 36_002) / 36_001);
    let len = patch.as_bytes().len();
    let bytes = document.to_binary();
    assert!(bytes.len() < 10 * len, "{} bytes for {len}", bytes.len());
    let back = Document::from_binary(&bytes).unwrap();
    assert_eq!(shown(&back.view()), shown(&document.view()));
    for format in [DocumentFormat::Verbose, DocumentFormat::Compact, DocumentFormat::CompactBinary] {
        let bytes = format.encode(&document).unwrap();
        assert!(bytes.len() < 40 * len, "{} bytes for {len}", bytes.len());
    }
}

/// Found by the fuzzer: a server's forms spell "no node" as time 0, so a node of that time was written and not read.
#[test]
fn a_server_numbers_from_one() {
    let verbose = r#"{"time":6,"root":{"type":"val","id":[0,0],"value":{"type":"str","id":0,"chunks":[]}}}"#;
    let error = DocumentFormat::Verbose.decode(verbose.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("the system's"), "{error}");
    let mut patch = crdt_core::PatchBuilder::new(SessionId::SERVER, 0);
    let node = patch.new_str();
    patch.ins_val(crdt_core::Timestamp::ORIGIN, node);
    let error = Document::new_server().merge(patch.finish().unwrap().as_ref()).unwrap_err();
    assert_eq!(error.to_string(), "patch 1.0 is of time 0: a server numbers from 1");
}

/// Spans that cover each other again and again. (Each alone takes a step for each of the tombstones.)
#[test]
fn a_deletion_covers_each_element_once_however_often_it_names_it() {
    let mut alice = Model::new(SessionId::new(70_001).unwrap());
    alice.api().root("-").unwrap();
    for _ in 0..30_000 {
        // Each at the front, so each is a chunk of its own.
        alice.api().str("").unwrap().ins(0, "x").unwrap();
    }
    let patch = alice.flush().unwrap();
    let (text, end) = (alice.document().root().unwrap().id(), patch.next_time());
    let mut bob = Document::new(SessionId::new(70_002).unwrap());
    assert_eq!(bob.apply(&patch), Ok(Applied::Merged));
    let mut deletion = PatchBuilder::new(SessionId::new(70_003).unwrap(), end);
    let start = text.tick(1);
    deletion.del(text, &vec![Timespan { start, span: end - start.time }; 60_000]);
    let deletion = deletion.finish().unwrap();
    assert_eq!(bob.apply(&deletion), Ok(Applied::Merged));
    assert_eq!(bob.view(), "".into());
    let mut watched = alice.fork(SessionId::new(70_004).unwrap());
    watched.watch();
    assert_eq!(watched.apply(&deletion), Ok(Applied::Merged));
    assert_eq!(watched.view(), "".into());
}
