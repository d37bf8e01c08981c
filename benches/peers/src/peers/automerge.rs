//! Automerge: a transaction per edit, a change per transaction.

use std::sync::OnceLock;

use automerge::{ActorId, AutoCommit, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, transaction::Transactable};
use serde_json::Value;

use super::{Edit, JsonPeer, Peer, Sink};

pub struct Automerge {
    doc: AutoCommit,
    text: ObjId,
    list: ObjId,
    map: ObjId,
}

/// Everyone starts with the same three containers.
fn base() -> &'static [u8] {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut doc = AutoCommit::new().with_actor(ActorId::from([0; 8]));
        doc.put_object(ROOT, "text", ObjType::Text).expect("a key");
        doc.put_object(ROOT, "list", ObjType::List).expect("a key");
        doc.put_object(ROOT, "map", ObjType::Map).expect("a key");
        doc.save()
    })
}

fn scalar(value: &Value) -> ScalarValue {
    match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(*value),
        Value::Number(value) => value
            .as_i64()
            .map_or_else(|| ScalarValue::F64(value.as_f64().expect("a double")), ScalarValue::Int),
        Value::String(value) => ScalarValue::Str(value.as_str().into()),
        other => panic!("{other} is no plain value"),
    }
}

fn json(value: &automerge::Value<'_>) -> Option<Value> {
    Some(match value.as_scalar()? {
        ScalarValue::Null => Value::Null,
        ScalarValue::Boolean(value) => (*value).into(),
        ScalarValue::Int(value) => (*value).into(),
        ScalarValue::F64(value) => (*value).into(),
        ScalarValue::Str(value) => value.as_str().into(),
        _ => return None,
    })
}

impl Automerge {
    fn open(mut doc: AutoCommit, client: u64) -> Self {
        doc.set_actor(ActorId::from((client + 1).to_be_bytes()));
        let child = |key: &str| doc.get(ROOT, key).expect("a document").expect("a key").1;
        let (text, list, map) = (child("text"), child("list"), child("map"));
        Self { doc, text, list, map }
    }

    fn message(&mut self) -> Vec<u8> {
        self.doc.commit();
        self.doc.get_last_local_change().expect("a change").raw_bytes().to_vec()
    }
}

impl Peer for Automerge {
    const NAME: &'static str = "automerge";

    fn new(client: u64) -> Self {
        Self::open(AutoCommit::load(base()).expect("a document"), client)
    }

    fn type_all(&mut self, edits: &[Edit], mut sink: Option<Sink<'_>>) {
        for edit in edits {
            self.doc.splice_text(&self.text, edit.at, edit.del as isize, edit.ins).expect("in the text");
            self.doc.commit();
            if let Some(sink) = &mut sink {
                sink(self.doc.get_last_local_change().expect("a change").raw_bytes());
            }
        }
    }

    fn apply(&mut self, message: &[u8]) {
        self.doc.load_incremental(message).expect("a change");
    }

    fn text(&mut self) -> String {
        self.doc.text(&self.text).expect("text")
    }

    fn save(&mut self) -> Vec<u8> {
        self.doc.save()
    }

    fn load(bytes: &[u8], client: u64) -> Self {
        Self::open(AutoCommit::load(bytes).expect("a document"), client)
    }
}

impl JsonPeer for Automerge {
    fn list_insert(&mut self, at: usize, values: &[Value]) -> Vec<u8> {
        for (at, value) in (at..).zip(values) {
            match value {
                Value::Object(fields) => {
                    let map = self.doc.insert_object(&self.list, at, ObjType::Map).expect("in the list");
                    fields
                        .iter()
                        .for_each(|(key, value)| self.doc.put(&map, key, scalar(value)).expect("room"));
                }
                value => self.doc.insert(&self.list, at, scalar(value)).expect("in the list"),
            }
        }
        self.message()
    }

    fn set_all(&mut self, entries: &[(String, Value)]) -> Vec<u8> {
        for (key, value) in entries {
            match value {
                Value::Object(fields) => {
                    let map = self.doc.put_object(&self.map, key, ObjType::Map).expect("room");
                    fields
                        .iter()
                        .for_each(|(key, value)| self.doc.put(&map, key, scalar(value)).expect("room"));
                }
                value => self.doc.put(&self.map, key, scalar(value)).expect("room"),
            }
        }
        self.message()
    }

    fn list_len(&mut self) -> usize {
        self.doc.length(&self.list)
    }

    fn map_len(&mut self) -> usize {
        self.doc.length(&self.map)
    }

    fn get(&mut self, key: &str, field: Option<&str>) -> Option<Value> {
        let (value, id) = self.doc.get(&self.map, key).expect("a map")?;
        match field {
            Some(field) => json(&self.doc.get(&id, field).expect("a map")?.0),
            None => json(&value),
        }
    }

    fn record_field(&mut self, at: usize, field: &str) -> Option<Value> {
        let (_, id) = self.doc.get(&self.list, at).expect("a list")?;
        json(&self.doc.get(&id, field).expect("a map")?.0)
    }
}
