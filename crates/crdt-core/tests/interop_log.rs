//! Log files beside json-joy: random histories that either side wrote, in each form, are the same history to the other.
//!
//! Excluded: lines of JSON in which json-joy wrote what JSON cannot say, bytes or a constant without value, as the text of a
//! `data:` address. Ours leaves such a file unwritten or the constant's value out, and takes these texts for texts.

mod support;

use crdt_core::{
    Document, Patch, SessionId, Value,
    codec::{
        Log, LogError, LogFormat, cbor,
        log::{LogContainer, LogHistory, LogModel},
    },
};
use support::{get, hex, items, node::JsonJoy, number, plain, text, unhex};

/// The formats that both have: as we say them, and as json-joy does.
fn formats() -> Vec<(LogFormat, String)> {
    let models = [
        (LogModel::None, "none"),
        (LogModel::Sidecar, "sidecar"),
        (LogModel::Binary, "binary"),
        (LogModel::Compact, "compact"),
        (LogModel::Verbose, "verbose"),
    ];
    let histories =
        [(LogHistory::Binary, "binary"), (LogHistory::Compact, "compact"), (LogHistory::Verbose, "verbose")];
    let containers = [(LogContainer::Cbor, "seq.cbor"), (LogContainer::NdJson, "ndjson")];
    let mut formats = Vec::new();
    for (container, format) in containers {
        for (model, model_name) in models {
            for (history, history_name) in histories {
                let names =
                    format!(r#""format":"{format}","model":"{model_name}","history":"{history_name}""#);
                formats.push((LogFormat { container, model, history }, names));
            }
        }
    }
    formats
}

fn value_of(hex: &Value) -> Value {
    cbor::decode(&unhex(text(hex))).unwrap()
}

fn hex_list<'p>(patches: impl Iterator<Item = &'p Patch>) -> String {
    let list: Vec<String> = patches.map(|patch| format!("\"{}\"", hex(patch.as_bytes()))).collect();
    format!("[{}]", list.join(","))
}

/// All nodes with their ids, whatever the order of keys.
fn nodes(document: &Document) -> Value {
    plain(get(&document.to_verbose().unwrap(), "root"))
}

#[test]
#[ignore = "needs node and json-joy"]
fn histories_of_either_side_are_read_by_the_other() {
    let mut joy = JsonJoy::start();
    let (mut read, mut refused, mut unsaid) = (0, 0, 0);
    for seed in 0..12 {
        let replicas = 1 + seed % 3;
        let request = format!(r#"{{"do":"session","seed":{seed},"replicas":{replicas},"steps":20}}"#);
        let answer = joy.ask(&request);
        let patches: Vec<Patch> = items(get(&answer, "patches"))
            .iter()
            .map(|patch| Patch::decode(&unhex(text(patch))).unwrap())
            .collect();
        // The log is replayed in the order of its ids, which is causal.
        let mut patches: Vec<Patch> = patches;
        patches.sort_by_key(Patch::id);
        let (first, rest) = patches.split_at(patches.len() / 3);
        let mut start = Document::new(SessionId::new(99_999).unwrap());
        for patch in first {
            let _ = start.apply(patch).unwrap();
        }
        let mut log = Log::new(start);
        let (appended, kept) = rest.split_last().unwrap();
        for patch in kept {
            assert!(log.push(patch.clone()));
        }
        log.metadata = Value::Map(vec![("author".into(), "weft".into())]);
        for (format, names) in formats() {
            let mut file = match log.encode(format) {
                Ok(file) => file,
                Err(LogError::BytesInJson | LogError::Document(_) | LogError::Patch(_)) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{names}: {error}"),
            };
            let mut whole = log.clone();
            if let Ok(more) = Log::encode_appended(appended, format) {
                file.extend(more);
                whole.push(appended.clone());
            }
            let answer = joy.ask(&format!(r#"{{"do":"readLog",{names},"data":"{}"}}"#, hex(&file)));
            let end = plain(&whole.end().unwrap().view());
            assert_eq!(plain(&value_of(get(&answer, "end"))), end, "{seed} {names}");
            assert_eq!(plain(&value_of(get(&answer, "frontier"))), end, "{seed} {names}");
            assert_eq!(plain(&value_of(get(&answer, "start"))), plain(&log.start().view()), "{seed} {names}");
            assert_eq!(
                hex_list(whole.patches()),
                support::list_of(get(&answer, "patches")),
                "{seed} {names}"
            );
            assert_eq!(plain(get(&answer, "metadata")), plain(&log.metadata), "{seed} {names}");
            read += 1;

            let (first, kept) = (hex_list(first.iter()), hex_list(kept.iter()));
            let request =
                format!(r#"{{"do":"writeLog",{names},"sid":99999,"first":{first},"patches":{kept}}}"#);
            let answer = joy.ask(&request);
            let file = get(&answer, "data");
            if String::from_utf8_lossy(&unhex(text(file))).contains("data:application/") {
                unsaid += 1;
                continue;
            }
            let back = Log::decode(format.container, &unhex(text(file))).unwrap();
            assert_eq!(number(get(&answer, "count")), back.patches().len() as u64);
            assert_eq!(plain(&back.start().view()), plain(&log.start().view()), "{seed} {names}");
            assert_eq!(hex_list(back.patches()), hex_list(log.patches()), "{seed} {names}");
            let end = log.end().unwrap().view();
            assert_eq!(plain(&back.end().unwrap().view()), plain(&end), "{seed} {names}");
            let alone = Log::decode_end(format.container, &unhex(text(file))).unwrap();
            assert_eq!(plain(&alone.view()), plain(&end), "{seed} {names}");
            // Not only what is shown: whoever goes on from there names the same nodes.
            assert_eq!(nodes(&alone), nodes(&log.end().unwrap()), "{seed} {names}");
        }
    }
    assert!(read > 150 && refused > 0 && unsaid < read / 4, "{read} {refused} {unsaid}");
}
