//! The log file: byte for byte json-joy's, and a history that can be walked.

mod support;

use crdt_core::{
    Document, Model, Patch, SessionId, Value,
    codec::{
        Log, LogError, LogFormat,
        log::{LogContainer, LogHistory, LogModel},
    },
};
use support::{get, hex, items, named, plain, text, unhex, vectors};

const NDJSON: LogContainer = LogContainer::NdJson;
const CBOR: LogContainer = LogContainer::Cbor;

/// The recorded log: an object with a text, then a key more.
fn recorded() -> (Log, &'static Value) {
    let case = get(named("edge", "log_format"), "result");
    let log = Log::decode(CBOR, &unhex(text(get(case, "seq.cbor/binary/binary")))).unwrap();
    (log, case)
}

#[test]
fn every_recorded_log_is_read_and_written() {
    let (log, case) = recorded();
    assert_eq!(log.patches().len(), 2);
    for (name, container, model, history) in [
        ("ndjson/verbose/verbose", NDJSON, LogModel::Verbose, LogHistory::Verbose),
        ("ndjson/compact/compact", NDJSON, LogModel::Compact, LogHistory::Compact),
        ("seq.cbor/sidecar/binary", CBOR, LogModel::Sidecar, LogHistory::Binary),
        ("seq.cbor/binary/binary", CBOR, LogModel::Binary, LogHistory::Binary),
        ("seq.cbor/none/binary", CBOR, LogModel::None, LogHistory::Binary),
    ] {
        let theirs = match container {
            LogContainer::NdJson => text(get(case, name)).as_bytes().to_vec(),
            LogContainer::Cbor => unhex(text(get(case, name))),
        };
        let ours = log.encode(LogFormat { container, model, history }).unwrap();
        assert_eq!(hex(&ours), hex(&theirs), "{name}: {}", String::from_utf8_lossy(&ours));
        let back = Log::decode(container, &theirs).unwrap();
        assert_eq!(back.end().unwrap().view(), log.end().unwrap().view(), "{name}");
        let end = Log::decode_end(container, &theirs).unwrap();
        assert_eq!(plain(&end.view()), plain(&log.end().unwrap().view()), "{name}");
    }
}

#[test]
fn a_patch_appended_to_the_file_belongs_to_the_history() {
    let (log, _) = recorded();
    let format = LogFormat { container: CBOR, model: LogModel::Sidecar, history: LogHistory::Binary };
    let mut file = log.encode(format).unwrap();
    let mut model = Model::from(log.end().unwrap());
    model.api().obj("").unwrap().set([("c", 3)]).unwrap();
    file.extend(Log::encode_appended(&model.flush().unwrap(), format).unwrap());
    assert_eq!(plain(&Log::decode(CBOR, &file).unwrap().end().unwrap().view()), plain(&model.view()));
    assert_eq!(plain(&Log::decode_end(CBOR, &file).unwrap().view()), plain(&model.view()));
}

#[test]
fn every_state_of_the_past_can_be_seen_and_the_oldest_folded() {
    let session = &items(get(vectors(), "fuzz"))[0];
    let patches: Vec<Patch> = items(get(session, "patches"))
        .iter()
        .map(|patch| Patch::decode(&unhex(text(get(patch, "binary")))).unwrap())
        .collect();
    let mut log = Log::new(Document::new(SessionId::new(66_000).unwrap()));
    for patch in patches.iter().rev() {
        assert!(log.push(patch.clone()));
        assert!(!log.push(patch.clone()));
    }
    let end = log.end().unwrap().view();
    assert_eq!(plain(&end), plain(get(&items(get(session, "results"))[0], "view")));
    let middle = log.patches().nth(patches.len() / 2).unwrap().id();
    let then = log.at(middle).unwrap();
    assert_ne!(then.view(), end);
    log.advance_to(middle).unwrap();
    assert_eq!(log.start().view(), then.view());
    assert!(log.patches().all(|patch| patch.id() > middle));
    assert_eq!(log.end().unwrap().view(), end);
}

#[test]
fn bytes_do_not_go_into_lines_of_json() {
    let (log, _) = recorded();
    let format = LogFormat { container: NDJSON, model: LogModel::Binary, history: LogHistory::Compact };
    assert_eq!(log.encode(format), Err(LogError::BytesInJson));
}

#[test]
fn a_broken_component_is_named() {
    let broken = b"{}\n[{},0]\nnull\n[null,[[]]]\n";
    let error = Log::decode(NDJSON, broken).unwrap_err().to_string();
    assert!(error.starts_with("component 3 of the log: "), "{error}");
    for cut in 0..broken.len() {
        let _ = Log::decode(NDJSON, &broken[..cut]);
        let _ = Log::decode(CBOR, &broken[..cut]);
        let _ = Log::decode_end(CBOR, &broken[..cut]);
    }
}
