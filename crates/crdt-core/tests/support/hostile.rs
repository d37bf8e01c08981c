//! What must hold for bytes from anyone, one function for each fuzz target. The targets in `fuzz/` are these functions and
//! nothing else; `hostile_bytes.rs` runs them in ordinary tests, on the targets' corpora and on what chance makes of them.

#[path = "checksum.rs"]
mod checksum;

use crdt_core::{
    Applied, Document, Model, Patch, PatchRef, SessionId, Text, Value, Wtf8,
    codec::{
        DocumentFormat, Log, LogFormat, Packing, PatchFormat, RawValue, cbor,
        document::{
            indexed,
            sidecar::{self, Sidecar},
        },
        json,
        log::{LogContainer, LogHistory, LogModel},
        msgpack,
    },
    document::{Child, Content, NodeRef},
    model::{EditError, QuillOp, RelativePosition, UndoOptions, json_patch},
    presence::Shown,
};

/// A fuzz target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("crdt_apply", apply),
    ("crdt_cursor", cursor),
    ("crdt_document", document),
    ("crdt_json_patch", json_patch),
    ("crdt_log", log),
    ("crdt_model", model),
    ("crdt_native", native),
    ("crdt_patch", patch),
    ("crdt_quill", quill),
    ("crdt_sidecar", sidecar),
    ("crdt_value", value),
];

fn session(number: u64) -> SessionId {
    SessionId::new(66_000 + number).unwrap()
}

/// Patches one after the other, each with its length before it, into one document: it stays sound, and its snapshot is
/// read and written again.
pub fn apply(bytes: &[u8]) {
    let mut document = Document::new(session(0));
    let mut rest = bytes;
    while let [len, more @ ..] = rest {
        let (patch, more) = more.split_at(usize::from(*len).min(more.len()));
        rest = more;
        let Ok(patch) = Patch::decode(patch) else { continue };
        if len % 2 == 0 {
            let _ = document.merge(patch.as_ref());
        } else {
            let _ = document.apply(&patch);
        }
        document.check().unwrap();
    }
    let again = Document::from_binary(&document.to_binary()).unwrap();
    again.check().unwrap();
    assert!(again.view() == reloaded(&document));
    assert!(Document::from_binary(&again.to_binary()).unwrap().view() == again.view());
}

/// The view as it comes back: a slot whose node was removed from elsewhere is not shown, but written as a constant without
/// a value (H5), and that is shown.
fn reloaded(document: &Document) -> Value {
    let dangling = document.nodes().any(|node| match node.content() {
        Content::Arr(mut chunks) => {
            chunks.any(|chunk| !chunk.is_tombstone() && chunk.children().any(|child| child.node().is_none()))
        }
        _ => false,
    });
    match document.root() {
        Some(root) if dangling => view(root, 0),
        _ => document.view(),
    }
}

fn view(node: NodeRef<'_>, depth: usize) -> Value {
    if depth == Document::VIEW_DEPTH_MAX {
        return Value::Null;
    }
    let child = |child: Child<'_>| child.node().map_or(Value::Undefined, |node| view(node, depth + 1));
    match node.content() {
        Content::Val(inner) => inner.map_or(Value::Undefined, child),
        Content::Obj(entries) => {
            let shown = entries.map(|(key, inner)| (key.to_text(), child(inner)));
            Value::Map(shown.filter(|(_, value)| !value.is_undefined()).collect())
        }
        Content::Vec(places) => places.map(|place| place.map_or(Value::Undefined, child)).collect(),
        Content::Arr(chunks) => {
            let live = chunks.filter(|chunk| !chunk.is_tombstone());
            live.flat_map(|chunk| chunk.children().map(child).collect::<Vec<_>>()).collect()
        }
        Content::Str(chunks) => {
            let mut text = Text::new();
            for chunk in chunks.filter(|chunk| !chunk.is_tombstone()) {
                let mut bytes = Vec::new();
                chunk.write_text(&mut bytes);
                text.push(Wtf8::new(&bytes).unwrap());
            }
            Value::Text(text)
        }
        Content::Bin(chunks) => {
            let mut bytes = Vec::new();
            chunks.filter(|chunk| !chunk.is_tombstone()).for_each(|chunk| chunk.write_bytes(&mut bytes));
            Value::Bytes(bytes)
        }
        Content::Con(value) => value.to_value(),
        Content::ConId(id) => [id.sid.get() as f64, id.time as f64].into_iter().collect(),
    }
}

/// Relative positions and what sessions show: refused, or the same again from their own bytes.
pub fn cursor(bytes: &[u8]) {
    if let Ok(position) = RelativePosition::decode(bytes) {
        assert_eq!(RelativePosition::decode(&position.encode()), Ok(position));
        assert!(position.resolve(&Document::new(SessionId::USER_MIN)).is_none());
    }
    if let Ok(shown) = Shown::decode(bytes) {
        assert!(Shown::decode(&shown.encode()).unwrap() == shown);
    }
}

/// Documents in the structural forms: whatever is read holds together and comes back from its own bytes and from a native
/// snapshot; and what is wrong lies in the input.
pub fn document(bytes: &[u8]) {
    for form in DocumentFormat::ALL {
        let document = match form.decode(bytes) {
            Ok(document) => document,
            Err(error) => {
                assert!(error.offset().is_none_or(|at| at <= bytes.len()), "{error}");
                continue;
            }
        };
        document.check().unwrap();
        let binary = document.to_binary();
        let again = Document::from_binary(&binary).unwrap();
        assert_eq!(again.view(), document.view());
        assert_eq!(again.to_binary(), binary);
        let native = document.to_native(Packing::Plain);
        let back = Document::from_native(&native, document.session()).unwrap();
        assert_eq!(back.to_native(Packing::Plain), native);
    }
}

/// Something of each kind, to be edited.
fn edited() -> Model {
    let mut model = Model::new(session(0));
    let start =
        serde_json::json!({"text": "warp 🙂", "list": [1, "a", {"b": [null]}], "map": {"": {"~/": 1}}});
    model.api().root(&start).unwrap();
    model.api().obj("").unwrap().set([("bytes", Value::Bytes(vec![1, 2]))]).unwrap();
    model.api().obj("").unwrap().set_rich_text("note", "warp and weft").unwrap();
    model.flush();
    model
}

/// A JSON Patch: refused, or done whole or not at all, and the same again on a replica.
pub fn json_patch(bytes: &[u8]) {
    let Ok(ops) = json_patch::decode(bytes) else { return };
    let mut model = edited();
    let mut replica = model.fork(session(1));
    let before = model.document().to_native(Packing::Plain);
    match model.transaction(|model| model.apply_json_patch(&ops)) {
        Ok(()) => {}
        Err(_) => assert_eq!(model.document().to_native(Packing::Plain), before),
    }
    follow(&mut model, &mut replica);
}

/// The replica takes in what the model edited and is the same.
fn follow(model: &mut Model, replica: &mut Model) {
    model.document().check().unwrap();
    if let Some(patch) = model.flush() {
        assert_eq!(replica.apply(&patch), Ok(Applied::Merged));
    }
    assert_eq!(replica.document().to_native(Packing::Plain), model.document().to_native(Packing::Plain));
}

/// A Quill delta: refused, or done, and the text tells a delta that makes the same text.
pub fn quill(bytes: &[u8]) {
    let Ok(value) = json::decode(bytes) else { return };
    let Ok(ops) = QuillOp::from_value(&value) else { return };
    let written: Value = ops.iter().map(QuillOp::to_value).collect();
    assert_eq!(QuillOp::from_value(&written).as_ref(), Ok(&ops));
    let mut model = edited();
    let mut replica = model.fork(session(1));
    let mut editor = model.api().rich_text("/note").unwrap().quill_editor();
    editor.catch_up(model.document()).unwrap();
    let done = model.transaction(|model| model.api().rich_text("/note").unwrap().apply_quill(&ops));
    follow(&mut model, &mut replica);
    let delta = editor.catch_up(model.document()).unwrap();
    assert!(done.is_ok() || delta.is_empty());
    assert_eq!(editor.edit(&mut model, &delta[..0]), Ok(()));
    let told = model.api().rich_text("/note").unwrap().to_quill().unwrap();
    assert_eq!(replica.api().rich_text("/note").unwrap().to_quill().unwrap(), told);
}

/// Log files: whatever is read is written and read again, and can be walked.
pub fn log(bytes: &[u8]) {
    for container in [LogContainer::NdJson, LogContainer::Cbor] {
        let _ = Log::decode_end(container, bytes);
        let Ok(log) = Log::decode(container, bytes) else { continue };
        log.start().check().unwrap();
        let (model, history) = (LogModel::Binary, LogHistory::Binary);
        let written = log.encode(LogFormat { container: LogContainer::Cbor, model, history });
        if let Ok(written) = written {
            let back = Log::decode(LogContainer::Cbor, &written).unwrap();
            assert!(back.patches().eq(log.patches()));
        }
        if let Ok(end) = log.end() {
            end.check().unwrap();
        }
    }
}

/// What a server does all day: bytes of anyone, own edits, undo, failed transactions and compaction, one after the other.
/// Who watches has the same document as who does not, and as who shares its memory with a copy at every step; the copy stays
/// what it was.
pub fn model(bytes: &[u8]) {
    let [flags, rest @ ..] = bytes else { return };
    let document = || match flags & 1 {
        0 => Document::new(session(0)),
        _ => Document::new_server(),
    };
    let (mut plain, mut watched) = (Model::from(document()), Model::from(document()));
    let mut shared = Model::from(document());
    watched.watch();
    watched.enable_undo(UndoOptions { bytes_max: 1000, ..UndoOptions::STANDARD });
    if flags & 2 != 0 {
        watched.keep_history().unwrap();
    }
    let mut rest = rest;
    while let [step, more @ ..] = rest {
        rest = more;
        shared.share();
        let copy = shared.document().clone();
        let then = copy.to_native(Packing::Plain);
        match step % 8 {
            0..3 => {
                let [len, more @ ..] = rest else { break };
                let (patch, more) = more.split_at(usize::from(*len).min(more.len()));
                rest = more;
                let applied = plain.apply_bytes(patch);
                assert_eq!(watched.apply_bytes(patch), applied);
                assert_eq!(shared.apply_bytes(patch), applied);
            }
            3 => own_edit(&mut watched, *step),
            4 => drop(watched.undo().unwrap()),
            5 => drop(watched.redo().unwrap()),
            6 => {
                let failed: Result<(), ()> = watched.transaction(|model| {
                    own_edit(model, *step);
                    let _ = model.undo();
                    Err(())
                });
                assert_eq!(failed, Err(()));
            }
            _ => {
                let stable = plain.document().state_vector();
                let compaction = plain.compact(&stable);
                assert_eq!(watched.compact(&stable), compaction);
                assert_eq!(shared.compact(&stable), compaction);
            }
        }
        if let Some(patch) = watched.flush() {
            // Its own edits; a session's own patch is taken in like any.
            assert_eq!(plain.apply(&patch), Ok(Applied::Merged));
            assert_eq!(shared.apply(&patch), Ok(Applied::Merged));
        }
        while let Some(set) = watched.poll_changes() {
            assert!(set.missed || !set.changes.is_empty());
        }
        watched.document().check().unwrap();
        plain.document().check().unwrap();
        shared.document().check().unwrap();
        let native = plain.document().to_native(Packing::Plain);
        assert_eq!(watched.document().to_native(Packing::Plain), native);
        assert_eq!(shared.document().to_native(Packing::Plain), native);
        assert_eq!(copy.to_native(Packing::Plain), then);
        assert_eq!(plain.view(), watched.view());
        // What is kept of the last writing is what would be written.
        for model in [&plain, &watched] {
            assert!(model.snapshot()[..] == model.document().to_binary());
        }
    }
}

/// An edit of what is there, or a new root.
fn own_edit(model: &mut Model, step: u8) {
    let done = match step / 8 {
        0..8 => model.api().str("").and_then(|mut text| text.ins(0, "own")),
        8..16 => model.api().arr("").and_then(|mut list| list.ins(0, ["own"])),
        16..24 => model.api().obj("").and_then(|mut map| map.set([("own", 1)])),
        _ => Err(EditError::NotFound { path: String::new() }),
    };
    if done.is_err() {
        model.api().root(["own".into(), Value::Null].into_iter().collect::<Value>()).unwrap();
    }
}

/// Native snapshots: whatever is read holds together and comes back from its own bytes.
pub fn native(bytes: &[u8]) {
    // Chance does not find checksums: it gets the right one.
    let bytes = checksum::repaired(bytes);
    let view = Document::view_native(&bytes);
    let document = Document::from_native(&bytes, SessionId::LOCAL);
    if let Err(error) = &document {
        // In packed columns places count unpacked.
        let len = bytes.len() * 64;
        assert!(error.offset().is_none_or(|at| at <= len), "{error}");
    }
    assert_eq!(
        Document::open_native(bytes.clone(), SessionId::LOCAL).map(drop),
        document.as_ref().map(drop).map_err(Clone::clone)
    );
    if let Ok(document) = document {
        document.check().unwrap();
        assert_eq!(view.unwrap(), document.view());
        let opened = Document::open_native(bytes.clone(), SessionId::LOCAL).unwrap();
        assert_eq!((opened.view(), opened.state_vector()), (document.view(), document.state_vector()));
        opened.check().unwrap();
        assert_eq!(opened.to_native(Packing::Plain), document.to_native(Packing::Plain));
        let again = Document::from_binary(&document.to_binary()).unwrap();
        again.check().unwrap();
        let again = document.to_native(Packing::Plain);
        let back = Document::from_native(&again, SessionId::LOCAL).unwrap();
        assert_eq!(back.to_native(Packing::Plain), again);
    }
    if let Ok(log) = Log::from_native(&bytes, SessionId::LOCAL) {
        log.start().check().unwrap();
        let back = Log::from_native(&log.to_native(Packing::Plain), SessionId::LOCAL).unwrap();
        assert!(back.patches().eq(log.patches()));
    }
}

/// Patches in all forms: whatever is read is canonical, and every form brings it back.
pub fn patch(bytes: &[u8]) {
    for format in PatchFormat::ALL {
        let patch = match format.decode(bytes) {
            Ok(patch) => patch,
            Err(error) => {
                assert!(error.offset().is_none_or(|at| at <= bytes.len()), "{error}");
                continue;
            }
        };
        assert_eq!(PatchRef::decode(patch.as_bytes()).unwrap().to_patch(), patch);
        assert_eq!(patch.ops().map(|(_, op)| op.span()).sum::<u64>(), patch.span());
        let _ = (patch.dependencies(), patch.compact(), patch.rebase(1000, 3));
        for other in PatchFormat::ALL {
            if let Ok(written) = other.encode(&patch) {
                assert_eq!(other.decode(&written).unwrap().span(), patch.span());
            }
        }
    }
}

/// The sidecar and the indexed form, cut out of the input at the places that its first bytes tell.
pub fn sidecar(bytes: &[u8]) {
    let [cut, names @ ..] = bytes else { return };
    let (view, meta) = names.split_at(usize::from(*cut).min(names.len()));
    if let Ok(document) = sidecar::decode(&Sidecar { view: view.to_vec(), meta: meta.to_vec() }) {
        document.check().unwrap();
    }
    let mut fields = indexed::Fields::new();
    for (index, field) in names.split(|&byte| byte == 0xfe).enumerate() {
        let name = match index {
            0 => "c".to_owned(),
            1 => "r".to_owned(),
            _ => format!("{}_{}", index % 2, index),
        };
        fields.insert(name, field.to_vec());
    }
    if let Ok(document) = indexed::decode(&fields) {
        document.check().unwrap();
        assert_eq!(indexed::decode(&indexed::encode(&document).unwrap()).unwrap().view(), document.view());
    }
}

/// JSON, CBOR and MessagePack: whatever is read is written and read again as the same.
pub fn value(bytes: &[u8]) {
    if let Ok(value) = cbor::decode(bytes) {
        let written = cbor::encode(&value);
        assert_eq!(RawValue::new(&written).unwrap().to_value(), value);
    }
    if let Ok(value) = json::decode(bytes)
        && json::is_json(&value)
    {
        assert_eq!(json::decode(json::encode(&value).as_bytes()), Ok(value));
    }
    if let Ok(value) = msgpack::decode(bytes, 128)
        && msgpack::is_msgpack(&value)
    {
        assert_eq!(msgpack::decode(&msgpack::encode(&value), 128), Ok(value));
    }
}
