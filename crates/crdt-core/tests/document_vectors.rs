//! Documents as json-joy 17.67.0 recorded them: the same patches give the same view, clock and bytes in every form, and
//! every form is read back to the same document.

mod support;

use crdt_core::{
    Document, Patch, SessionId, Value,
    codec::{
        DocumentFormat, cbor,
        document::{
            indexed,
            sidecar::{self, Sidecar},
        },
        msgpack,
    },
};
use support::{get, hex, items, number, plain, text, unhex, vectors};

fn empty(sid: u64) -> Document {
    match SessionId::new(sid).unwrap() {
        SessionId::SERVER => Document::new_server(),
        sid => Document::new(sid),
    }
}

fn merged<'p>(sid: u64, patches: impl IntoIterator<Item = &'p str>) -> Document {
    let mut document = empty(sid);
    for patch in patches {
        let patch = Patch::decode(&unhex(patch)).unwrap();
        let _ = document.merge(patch.as_ref()).unwrap();
    }
    document
}

/// Timestamps in views are written `{"$ts": [sid, time]}` in the vectors; a view of ours shows the same pair.
fn recorded_view(value: &Value) -> Value {
    match value.get("$ts") {
        Some(pair) => pair.clone(),
        None => plain(value),
    }
}

fn is_error(value: &Value) -> bool {
    value.get("$error").is_some()
}

/// Compares a document with all that was recorded of it.
#[track_caller]
fn check(name: &str, document: &Document, recorded: &Value) {
    assert_eq!(document.time(), number(get(recorded, "clock_time")), "{name}: time");
    if let Some(peers) = recorded.get("peers") {
        let ours: Value =
            document.peers().map(|peer| [peer.sid.get(), peer.time].into_iter().collect::<Value>()).collect();
        assert_eq!(&ours, peers, "{name}: peers");
    }
    let view = get(recorded, "view");
    if view.get("$ts").is_none() {
        assert_eq!(plain(&document.view()), recorded_view(view), "{name}: view");
    }
    check_forms(name, document, recorded);
}

#[track_caller]
fn check_forms(name: &str, document: &Document, recorded: &Value) {
    let form = |key: &str| recorded.get(key).filter(|form| !is_error(form) && !form.is_undefined());
    if let Some(binary) = form("model_binary") {
        assert_eq!(hex(&document.to_binary()), text(binary), "{name}: binary");
        let back = Document::from_binary(&unhex(text(binary))).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(plain(&back.view()), plain(&document.view()), "{name}: view of binary");
        assert_eq!(hex(&back.to_binary()), text(binary), "{name}: binary again");
    }
    if let Some(verbose) = form("model_verbose") {
        assert_eq!(
            undefined_left_out(&document.to_verbose().unwrap()),
            undefined_left_out(verbose),
            "{name}: verbose"
        );
        let back = Document::from_verbose(verbose).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(back.to_verbose(), document.to_verbose(), "{name}: verbose again");
    }
    if let Some(compact) = form("model_compact") {
        assert_eq!(&document.to_compact().unwrap(), compact, "{name}: compact");
        let back = Document::from_compact(compact).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(&back.to_compact().unwrap(), compact, "{name}: compact again");
    }
    if let Some(packed) = form("model_compact_msgpack") {
        let ours = DocumentFormat::CompactBinary.encode(document).unwrap();
        assert_eq!(
            hex(&ours),
            text(packed),
            "{name}: msgpack {:?}",
            msgpack::decode(&unhex(text(packed)), 600)
        );
        let back = DocumentFormat::CompactBinary.decode(&ours).unwrap();
        assert_eq!(plain(&back.view()), plain(&document.view()), "{name}: view of msgpack");
    }
    if let Some(Value::Map(fields)) = form("model_indexed") {
        let theirs: indexed::Fields =
            fields.iter().map(|(key, bytes)| (key.to_string(), unhex(text(bytes)))).collect();
        let show = |fields: &indexed::Fields| -> Vec<String> {
            fields.iter().map(|(key, bytes)| format!("{key}={}", hex(bytes))).collect()
        };
        assert_eq!(show(&indexed::encode(document).unwrap()), show(&theirs), "{name}: indexed");
        let back = indexed::decode(&theirs).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(plain(&back.view()), plain(&document.view()), "{name}: view of indexed");
        assert_eq!(show(&indexed::encode(&back).unwrap()), show(&theirs), "{name}: indexed again");
    }
    if let Some(parts) = form("model_sidecar") {
        let theirs =
            Sidecar { view: unhex(text(get(parts, "view_cbor"))), meta: unhex(text(get(parts, "meta"))) };
        let ours = sidecar::encode(document).unwrap();
        assert_eq!(
            hex(&ours.view),
            hex(&theirs.view),
            "{name}: sidecar view {:?}",
            cbor::decode(&theirs.view)
        );
        assert_eq!(hex(&ours.meta), hex(&theirs.meta), "{name}: sidecar meta");
        let back = sidecar::decode(&theirs).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(plain(&back.view()), plain(&document.view()), "{name}: view of sidecar");
        assert_eq!(sidecar::encode(&back).unwrap(), theirs, "{name}: sidecar again");
    }
}

fn undefined_left_out(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(undefined_left_out).collect(),
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .filter(|(_, value)| !value.is_undefined())
                .map(|(key, value)| (key.clone(), undefined_left_out(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

#[test]
fn every_recorded_patch_gives_the_recorded_document() {
    for vector in items(get(vectors(), "vectors")) {
        let name = text(get(vector, "name"));
        let setup = items(get(vector, "setup")).iter().map(text);
        let document =
            merged(number(get(vector, "receiver_sid")), setup.chain([text(get(vector, "binary"))]));
        check(name, &document, get(vector, "result"));
    }
}

#[test]
fn every_delivery_order_of_a_scenario_gives_the_recorded_view() {
    assert_eq!(items(get(vectors(), "scenarios")).len(), 17);
    for scenario in items(get(vectors(), "scenarios")) {
        let name = text(get(scenario, "name"));
        let patches: Vec<_> =
            items(get(scenario, "patches")).iter().map(|patch| text(get(patch, "binary"))).collect();
        for result in items(get(scenario, "results")) {
            let order = items(get(result, "order")).iter().map(|at| patches[number(at) as usize]);
            let document = merged(70_000, order);
            check(&format!("{name} {:?}", get(result, "order")), &document, result);
        }
    }
}

#[test]
fn random_sessions_of_json_joy_give_the_recorded_snapshots() {
    let sessions = items(get(vectors(), "fuzz"));
    assert_eq!(sessions.len(), 60);
    for session in sessions {
        let name = format!("seed {}", number(get(session, "seed")));
        let patches: Vec<_> =
            items(get(session, "patches")).iter().map(|patch| text(get(patch, "binary"))).collect();
        for result in items(get(session, "results")) {
            let order: Vec<_> = match result.get("order") {
                Some(order) => items(order).iter().map(|at| patches[number(at) as usize]).collect(),
                None => patches.clone(),
            };
            let document = merged(number(get(session, "receiver_sid")), order);
            assert_eq!(plain(&document.view()), plain(get(result, "view")), "{name}");
            assert_eq!(hex(&document.to_binary()), text(get(result, "model_binary")), "{name}");
        }
    }
}
