//! Large JSON: an object of 60 000 keys, and 20 000 records.

use std::hint::black_box;

use crdt_core::{Document, SessionId, codec::Packing};
use serde_json::{Value, json};

use crate::{
    memory,
    peers::{Automerge, JsonPeer, Loro, Peer, Weft, Yrs},
    table::{Plan, Row, timed},
};

macro_rules! each_json_peer {
    ($each:ident) => {
        $each!(Weft);
        $each!(Loro);
        $each!(Yrs);
        $each!(Automerge);
    };
}

fn session() -> SessionId {
    SessionId::new(100_002).expect("an id below the bound")
}

fn entries() -> Vec<(String, Value)> {
    (0..60_000u64).map(|n| (format!("key{n}"), n.into())).collect()
}

pub fn keys(plan: &Plan) {
    let entries = entries();
    if plan.wants("keys.set") {
        set_keys(plan, &entries);
    }
    if plan.wants("keys.load") {
        load_keys(plan, &entries, false);
    }
    if plan.wants("keys.ready") {
        load_keys(plan, &entries, true);
    }
    if plan.wants("keys.memory") {
        keep_keys(&entries);
    }
}

fn set_keys(plan: &Plan, entries: &[(String, Value)]) {
    let mut row = Row::new("60 000 keys: set, message, apply", "ms").goal(10.0, "loro");
    macro_rules! add {
        ($peer:ident) => {
            row.add($peer::NAME, move || {
                let work = |(mut one, mut other): ($peer, $peer)| {
                    let message = one.set_all(entries);
                    other.apply(&message);
                    (one, other)
                };
                timed(($peer::new(0), $peer::new(1)), work, |(_, mut other)| {
                    assert_eq!(other.map_len(), 60_000);
                    assert_eq!(other.get("key59999", None), Some(json!(59_999)));
                })
            });
        };
    }
    each_json_peer!(add);
    row.add_js(plan, "keys");
    row.run(plan.rounds);
}

/// Who reads lazily pays for it, in part or in full, when something is set then: that is the second row.
fn load_keys(plan: &Plan, entries: &[(String, Value)], sets_one: bool) {
    let change = [("key23456".to_owned(), json!(-1))];
    let mut weft = Weft::new(0);
    weft.set_all(entries);
    let native = weft.document().to_native(Packing::Plain);
    let mut row = if sets_one {
        Row::new("the same: load, ask for a key, set one", "ms")
    } else {
        Row::new("the same: load, ask for a key", "ms").goal(40.0, "loro")
    };
    macro_rules! ask {
        ($peer:expr, $change:expr) => {{
            let mut peer = $peer;
            assert_eq!(peer.get("key34567", None), Some(json!(34_567)));
            if sets_one {
                assert!(!peer.set_all($change).is_empty());
            }
            peer
        }};
    }
    macro_rules! check {
        ($peer:ident) => {
            |mut peer: $peer| {
                assert_eq!(peer.map_len(), 60_000);
                let changed = peer.get("key23456", None);
                assert_eq!(changed, Some(if sets_one { json!(-1) } else { json!(23_456) }));
            }
        };
    }
    macro_rules! add {
        ($peer:ident) => {
            let mut peer = $peer::new(0);
            peer.set_all(entries);
            let (bytes, change) = (peer.save(), &change);
            row.add($peer::NAME, move || timed((), |()| ask!($peer::load(&bytes, 1), change), check!($peer)));
        };
    }
    let load = || Weft::from_document(Document::from_native(&native, session()).expect("our own snapshot"));
    row.add("weft, native", || timed((), |()| ask!(load(), &change), check!(Weft)));
    each_json_peer!(add);
    row.add_js(plan, if sets_one { "keys-ready" } else { "keys-load" });
    row.run(plan.rounds);
}

fn keep_keys(entries: &[(String, Value)]) {
    let key_bytes: usize = entries.iter().map(|(key, _)| key.len()).sum();
    let mut row = Row::new("the same: memory per scalar, less the key", "B").limit(48.0);
    macro_rules! add {
        ($peer:ident) => {
            let mut peer = $peer::new(0);
            peer.set_all(entries);
            let bytes = peer.save();
            drop(peer);
            let before = memory::live();
            let mut peer = $peer::load(&bytes, 1);
            assert_eq!(peer.get("key34567", None), Some(json!(34_567)));
            let used = memory::live() - before;
            row.add($peer::NAME, move || used.saturating_sub(key_bytes) as f64 / 60_000.0);
        };
    }
    let mut weft = Weft::new(0);
    weft.set_all(entries);
    let native = weft.document().to_native(Packing::Plain);
    drop(weft);
    let before = memory::live();
    let mut peer = Weft::from_document(Document::from_native(&native, session()).expect("our own snapshot"));
    assert_eq!(peer.get("key34567", None), Some(json!(34_567)));
    let used = memory::live() - before;
    row.add("weft, native", move || used.saturating_sub(key_bytes) as f64 / 60_000.0);
    each_json_peer!(add);
    row.run(1);
}

/// 260 001 nodes with the array: twenty thousand maps with twelve plain values each.
fn records() -> Vec<Value> {
    let record = |n: u64| {
        json!({
            "id": n, "a": n % 97, "b": n % 89, "c": n * 7, "active": n.is_multiple_of(3), "score": n as f64 / 8.0, "parent": null,
            "x": -(n as i64), "y": n / 3, "rank": n / 7, "from": 1_700_000_000 + n, "to": 1_800_000_000 + n,
        })
    };
    (0..20_000).map(record).collect()
}

pub fn large(plan: &Plan) {
    let records = records();
    let plain = serde_json::to_vec(&records).expect("JSON");
    let mut row = Row::new("260 001 nodes of JSON: load, ask for one", "ms").goal(1.0, "serde_json");
    macro_rules! add {
        ($peer:ident) => {
            let mut peer = $peer::new(0);
            peer.list_insert(0, &records);
            let bytes = peer.save();
            row.add($peer::NAME, move || {
                let work = |()| {
                    let mut peer = $peer::load(&bytes, 1);
                    assert_eq!(peer.record_field(12_345, "c"), Some(json!(86_415)));
                    peer
                };
                timed((), work, |mut peer| assert_eq!(peer.list_len(), 20_000))
            });
        };
    }
    let mut weft = Weft::new(0);
    weft.list_insert(0, &records);
    let native = weft.document().to_native(Packing::Plain);
    row.add("weft, native", move || {
        let work = |()| {
            let mut peer =
                Weft::from_document(Document::from_native(&native, session()).expect("our own snapshot"));
            assert_eq!(peer.record_field(12_345, "c"), Some(json!(86_415)));
            peer
        };
        timed((), work, |mut peer| assert_eq!(peer.list_len(), 20_000))
    });
    each_json_peer!(add);
    row.add("serde_json", || {
        let work = |()| serde_json::from_slice::<Value>(black_box(&plain)).expect("JSON");
        timed((), work, |value| assert_eq!(value[12_345]["c"], 86_415))
    });
    row.add_js(plan, "records-load");
    row.run(plan.rounds);
}
