//! Weft: a patch per edit.

use std::sync::{Arc, OnceLock};

use crdt_core::{
    Applied, Document, Model, SessionId,
    codec::json as json_text,
    document::{Content, NodeRef},
};
use serde_json::{Value, json};

use super::{Edit, JsonPeer, Peer, Sink};

pub struct Weft(Model);

fn session(client: u64) -> SessionId {
    SessionId::new(100_000 + client).expect("an id below the bound")
}

/// Everyone starts with the same three containers.
fn base() -> &'static Model {
    static BASE: OnceLock<Model> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut model = Model::new(session(0));
        model.api().root(&json!({"text": "", "list": [], "map": {}})).expect("room");
        let _ = model.flush();
        model
    })
}

fn plain(node: NodeRef<'_>) -> Value {
    let Content::Con(value) = node.content() else {
        return node_text(node);
    };
    serde_json::from_str(&json_text::encode(&value.to_value())).expect("JSON")
}

/// Text is a node of its own.
fn node_text(node: NodeRef<'_>) -> Value {
    let Content::Str(chunks) = node.content() else { panic!("{:?} is no plain value", node.kind()) };
    let mut bytes = Vec::new();
    chunks.filter(|chunk| !chunk.is_tombstone()).for_each(|chunk| chunk.write_text(&mut bytes));
    String::from_utf8(bytes).expect("whole characters").into()
}

impl Weft {
    pub fn document(&self) -> &Document {
        self.0.document()
    }

    pub fn from_document(document: Document) -> Self {
        Self(document.into())
    }

    /// What was written last, if nothing has changed since.
    pub fn kept(&self) -> Arc<[u8]> {
        self.0.snapshot()
    }

    fn message(&mut self) -> Vec<u8> {
        let mut message = Vec::new();
        self.0.flush_into(&mut message);
        message
    }
}

impl Peer for Weft {
    const NAME: &'static str = "weft";

    fn new(client: u64) -> Self {
        Self(base().fork(session(client + 1)))
    }

    fn type_all(&mut self, edits: &[Edit], mut sink: Option<Sink<'_>>) {
        let mut message = Vec::new();
        let mut text = self.0.api().str("/text").expect("text");
        for edit in edits {
            if edit.del > 0 {
                text.del(edit.at, edit.del).expect("in the text");
            }
            if !edit.ins.is_empty() {
                text.ins(edit.at, edit.ins).expect("in the text");
            }
            text.model().flush_into(&mut message);
            if let Some(sink) = &mut sink {
                sink(&message);
            }
            message.clear();
        }
    }

    fn apply(&mut self, message: &[u8]) {
        assert_eq!(self.0.apply_bytes(message).expect("our own patch"), Applied::Merged);
    }

    fn text(&mut self) -> String {
        self.0.view().get("text").and_then(|text| text.as_str().map(str::to_owned)).expect("text")
    }

    fn save(&mut self) -> Vec<u8> {
        self.0.document().to_binary()
    }

    fn load(bytes: &[u8], client: u64) -> Self {
        let mut document = Document::from_binary(bytes).expect("our own snapshot");
        document.set_session(session(client + 1));
        Self(document.into())
    }
}

impl JsonPeer for Weft {
    fn list_insert(&mut self, at: usize, values: &[Value]) -> Vec<u8> {
        let mut list = self.0.api().arr("/list").expect("a list");
        // Numbers as constants, texts and records as nodes to be edited inside: as json-joy's rows have them.
        if values.iter().all(Value::is_number) { list.ins_con(at, values) } else { list.ins(at, values) }
            .expect("in the list");
        self.message()
    }

    fn set_all(&mut self, entries: &[(String, Value)]) -> Vec<u8> {
        let entries = entries.iter().map(|(key, value)| (&**key, value));
        self.0.api().obj("/map").expect("a map").set(entries).expect("room");
        self.message()
    }

    fn list_len(&mut self) -> usize {
        self.0.document().root().and_then(|root| root.get("list")).map_or(0, |list| list.len())
    }

    fn map_len(&mut self) -> usize {
        self.0.document().root().and_then(|root| root.get("map")).map_or(0, |map| map.len())
    }

    fn get(&mut self, key: &str, field: Option<&str>) -> Option<Value> {
        let node = self.0.document().root()?.get("map")?.get(key)?;
        Some(plain(match field {
            Some(field) => node.get(field)?,
            None => node,
        }))
    }

    fn record_field(&mut self, at: usize, field: &str) -> Option<Value> {
        Some(plain(self.0.document().root()?.get("list")?.at(at)?.get(field)?))
    }
}
