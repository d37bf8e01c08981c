//! Patches one after the other, each with its length before it, into one document: it stays sound, and its snapshot is
//! read and written again.
#![no_main]

use crdt_core::{
    Document, Patch, SessionId, Text, Value, Wtf8,
    document::{Child, Content, NodeRef},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut document = Document::new(SessionId::new(66_000).unwrap());
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
});

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
