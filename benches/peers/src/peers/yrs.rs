//! Yrs, Yjs in Rust: an update per transaction.

use serde_json::Value;
use yrs::{
    Any, Array, ArrayRef, ClientID, Doc, GetString, In, Map, MapPrelim, MapRef, OffsetKind, Options, Out,
    ReadTxn, StateVector, Text, TextRef, Transact, Update, updates::decoder::Decode,
};

use super::{Edit, JsonPeer, Peer, Sink};

pub struct Yrs {
    doc: Doc,
    text: TextRef,
    list: ArrayRef,
    map: MapRef,
}

fn any(value: &Value) -> Any {
    match value {
        Value::Null => Any::Null,
        Value::Bool(value) => Any::Bool(*value),
        Value::Number(value) => value.as_f64().expect("a double").into(),
        Value::String(value) => Any::String(value.as_str().into()),
        other => panic!("{other} is no plain value"),
    }
}

fn input(value: &Value) -> In {
    match value {
        Value::Object(fields) => {
            let map: MapPrelim =
                fields.iter().map(|(key, value)| (key.as_str(), In::Any(any(value)))).collect();
            In::Map(map)
        }
        value => In::Any(any(value)),
    }
}

fn json(value: Any) -> Option<Value> {
    Some(match value {
        Any::Null => Value::Null,
        Any::Bool(value) => value.into(),
        Any::Number(yrs::Number::Int(value)) => value.into(),
        Any::Number(yrs::Number::Float(value)) if value.fract() == 0.0 => (value as i64).into(),
        Any::Number(yrs::Number::Float(value)) => value.into(),
        Any::String(value) => (&*value).into(),
        _ => return None,
    })
}

impl Yrs {
    pub fn save_v2(&self) -> Vec<u8> {
        self.doc.transact().encode_state_as_update_v2(&StateVector::default())
    }
}

impl Peer for Yrs {
    const NAME: &'static str = "yrs";

    fn new(client: u64) -> Self {
        let mut options = Options::with_client_id(ClientID::new(client + 1));
        options.offset_kind = OffsetKind::Utf16;
        let doc = Doc::with_options(options);
        let (text, list, map) =
            (doc.get_or_insert_text("text"), doc.get_or_insert_array("list"), doc.get_or_insert_map("map"));
        Self { doc, text, list, map }
    }

    fn type_all(&mut self, edits: &[Edit], mut sink: Option<Sink<'_>>) {
        for edit in edits {
            let mut txn = self.doc.transact_mut();
            if edit.del > 0 {
                self.text.remove_range(&mut txn, edit.at as u32, edit.del as u32);
            }
            if !edit.ins.is_empty() {
                self.text.insert(&mut txn, edit.at as u32, edit.ins);
            }
            if let Some(sink) = &mut sink {
                sink(&txn.encode_update_v1());
            }
        }
    }

    fn apply(&mut self, message: &[u8]) {
        let update = Update::decode_v1(message).expect("an update");
        self.doc.transact_mut().apply_update(update).expect("an update");
    }

    fn text(&mut self) -> String {
        self.text.get_string(&self.doc.transact())
    }

    fn save(&mut self) -> Vec<u8> {
        self.doc.transact().encode_state_as_update_v1(&StateVector::default())
    }

    fn load(bytes: &[u8], client: u64) -> Self {
        let mut peer = Self::new(client);
        peer.apply(bytes);
        peer
    }
}

impl JsonPeer for Yrs {
    fn list_insert(&mut self, at: usize, values: &[Value]) -> Vec<u8> {
        let mut txn = self.doc.transact_mut();
        if values.iter().any(Value::is_object) {
            for (at, value) in (at..).zip(values) {
                self.list.insert(&mut txn, at as u32, input(value));
            }
        } else {
            self.list.insert_range(&mut txn, at as u32, values.iter().map(any));
        }
        txn.encode_update_v1()
    }

    fn set_all(&mut self, entries: &[(String, Value)]) -> Vec<u8> {
        let mut txn = self.doc.transact_mut();
        for (key, value) in entries {
            self.map.insert(&mut txn, key.as_str(), input(value));
        }
        txn.encode_update_v1()
    }

    fn list_len(&mut self) -> usize {
        self.list.len(&self.doc.transact()) as usize
    }

    fn map_len(&mut self) -> usize {
        self.map.len(&self.doc.transact()) as usize
    }

    fn get(&mut self, key: &str, field: Option<&str>) -> Option<Value> {
        let txn = self.doc.transact();
        match (self.map.get(&txn, key)?, field) {
            (Out::Any(value), None) => json(value),
            (Out::YMap(map), Some(field)) => match map.get(&txn, field)? {
                Out::Any(value) => json(value),
                _ => None,
            },
            _ => None,
        }
    }

    fn record_field(&mut self, at: usize, field: &str) -> Option<Value> {
        let txn = self.doc.transact();
        let Out::YMap(map) = self.list.get(&txn, at as u32)? else { return None };
        match map.get(&txn, field)? {
            Out::Any(value) => json(value),
            _ => None,
        }
    }
}
