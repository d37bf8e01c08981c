//! Loro: messages as its subscription brings them.

use std::sync::{Arc, Mutex};

use loro::{Container, ExportMode, LoroDoc, LoroList, LoroMap, LoroValue, Subscription, ValueOrContainer};
use serde_json::Value;

use super::{Edit, JsonPeer, Peer, Sink};

pub struct Loro {
    doc: LoroDoc,
    sent: Arc<Mutex<Vec<u8>>>,
    /// Keeps the messages coming.
    subscription: Option<Subscription>,
}

impl Loro {
    fn listen(&mut self) {
        if self.subscription.is_none() {
            let sent = Arc::clone(&self.sent);
            self.subscription = Some(self.doc.subscribe_local_update(Box::new(move |update| {
                sent.lock().expect("no panic").extend_from_slice(update);
                true
            })));
        }
    }

    fn message(&mut self) -> Vec<u8> {
        self.doc.commit();
        std::mem::take(&mut self.sent.lock().expect("no panic"))
    }

    pub fn shallow(&self) -> Vec<u8> {
        self.doc.export(ExportMode::shallow_snapshot(&self.doc.oplog_frontiers())).expect("a snapshot")
    }
}

fn fill(map: &LoroMap, fields: &serde_json::Map<String, Value>) {
    for (key, value) in fields {
        map.insert(key, LoroValue::from(value.clone())).expect("room");
    }
}

fn json(value: LoroValue) -> Option<Value> {
    Some(match value {
        LoroValue::Null => Value::Null,
        LoroValue::Bool(value) => value.into(),
        LoroValue::I64(value) => value.into(),
        LoroValue::Double(value) => value.into(),
        LoroValue::String(value) => value.as_str().into(),
        _ => return None,
    })
}

impl Peer for Loro {
    const NAME: &'static str = "loro";

    fn new(client: u64) -> Self {
        let doc = LoroDoc::new();
        doc.set_peer_id(client + 1).expect("a peer id");
        Self { doc, sent: Arc::default(), subscription: None }
    }

    fn type_all(&mut self, edits: &[Edit], mut sink: Option<Sink<'_>>) {
        if sink.is_some() {
            self.listen();
        }
        let text = self.doc.get_text("text");
        for edit in edits {
            if edit.del > 0 {
                text.delete(edit.at, edit.del).expect("in the text");
            }
            if !edit.ins.is_empty() {
                text.insert(edit.at, edit.ins).expect("in the text");
            }
            self.doc.commit();
            if let Some(sink) = &mut sink {
                let mut sent = self.sent.lock().expect("no panic");
                sink(&sent);
                sent.clear();
            }
        }
    }

    fn apply(&mut self, message: &[u8]) {
        self.doc.import(message).expect("a message");
    }

    fn text(&mut self) -> String {
        self.doc.get_text("text").to_string()
    }

    fn save(&mut self) -> Vec<u8> {
        self.doc.export(ExportMode::Snapshot).expect("a snapshot")
    }

    fn load(bytes: &[u8], client: u64) -> Self {
        let peer = Self::new(client);
        peer.doc.import(bytes).expect("a snapshot");
        peer
    }
}

impl JsonPeer for Loro {
    fn list_insert(&mut self, at: usize, values: &[Value]) -> Vec<u8> {
        self.listen();
        let list: LoroList = self.doc.get_list("list");
        for (at, value) in (at..).zip(values) {
            match value {
                Value::Object(fields) => {
                    fill(&list.insert_container(at, LoroMap::new()).expect("room"), fields)
                }
                value => list.insert(at, LoroValue::from(value.clone())).expect("in the list"),
            }
        }
        self.message()
    }

    fn set_all(&mut self, entries: &[(String, Value)]) -> Vec<u8> {
        self.listen();
        let map = self.doc.get_map("map");
        for (key, value) in entries {
            match value {
                Value::Object(fields) => {
                    fill(&map.insert_container(key, LoroMap::new()).expect("room"), fields)
                }
                value => map.insert(key, LoroValue::from(value.clone())).expect("room"),
            }
        }
        self.message()
    }

    fn list_len(&mut self) -> usize {
        self.doc.get_list("list").len()
    }

    fn map_len(&mut self) -> usize {
        self.doc.get_map("map").len()
    }

    fn get(&mut self, key: &str, field: Option<&str>) -> Option<Value> {
        match (self.doc.get_map("map").get(key)?, field) {
            (ValueOrContainer::Value(value), None) => Some(json(value)?),
            (ValueOrContainer::Container(Container::Map(map)), Some(field)) => {
                Some(json(map.get(field)?.get_deep_value())?)
            }
            _ => None,
        }
    }

    fn record_field(&mut self, at: usize, field: &str) -> Option<Value> {
        match self.doc.get_list("list").get(at)? {
            ValueOrContainer::Container(Container::Map(map)) => Some(json(map.get(field)?.get_deep_value())?),
            _ => None,
        }
    }
}
