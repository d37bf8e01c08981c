//! What documents take, by the allocator: the figures that the benchmarks tell, held on smaller inputs that are in the tree.

#[path = "support/counting.rs"]
#[expect(unreachable_pub, reason = "more than one test includes it")]
mod counting;

use std::io::Read;

use counting::{asks, holding, kept, most};
use crdt_core::{
    Applied, Document, Model, Patch, SessionId, Value,
    codec::{Log, Packing},
};
use serde_json::json;

// The recording has so many keystrokes. What it takes is what it took when this was written, and a twentieth more.
const PATCHES: usize = 19_750;
const MEMORY_MAX: usize = 276_000;
const LOADED_MAX: usize = 204_000;
const SNAPSHOT_MAX: usize = 17_000;
const HISTORY_MAX: usize = 43_000;

fn session(number: u64) -> SessionId {
    SessionId::new(123_456 + number).unwrap()
}

fn empty() -> Model {
    let mut model = Model::new(session(0));
    model.api().root("").unwrap();
    model
}

/// A recorded text, typed again with a patch for each keystroke.
fn typed() -> (Model, Vec<Patch>, usize) {
    let file = include_bytes!("../benches/traces/sveltecomponent.json.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&file[..]).read_to_string(&mut text).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut model = empty();
    let mut patches: Vec<Patch> = model.flush().into_iter().collect();
    let txns = trace["txns"].as_array().unwrap();
    for edit in txns.iter().flat_map(|txn| txn["patches"].as_array().unwrap()) {
        let at = edit[0].as_u64().unwrap() as usize;
        let mut text = model.api().str("").unwrap();
        text.del(at, edit[1].as_u64().unwrap() as usize).unwrap();
        text.ins(at, edit[2].as_str().unwrap()).unwrap();
        patches.extend(model.flush());
    }
    let end = trace["endContent"].as_str().unwrap();
    assert_eq!(model.view().as_str(), Some(end));
    (model, patches, end.len())
}

#[track_caller]
fn at_most(what: &str, value: usize, max: usize) {
    println!("{what}: {value} of {max}");
    assert!(value <= max, "{what}: {value}, at most {max}");
}

/// Also: what a document says it takes is what it takes.
#[test]
fn a_typed_text_is_small_in_memory_and_as_a_snapshot() {
    let (model, patches, _) = typed();
    let document = model.into_document();
    assert_eq!(patches.len(), PATCHES);
    let (copy, bytes) = kept(|| document.clone());
    at_most("memory of a typed text", bytes, MEMORY_MAX);
    let told = copy.size_bytes() - size_of::<Document>();
    assert!(told.abs_diff(bytes) <= bytes / 10, "{told} told of {bytes}");
    let native = document.to_native(Packing::Deflate);
    at_most("snapshot", native.len(), SNAPSHOT_MAX);
    let (loaded, bytes) = kept(|| Document::from_native(&native, session(1)).unwrap());
    at_most("memory of a loaded text", bytes, LOADED_MAX);
    let told = loaded.size_bytes() - size_of::<Document>();
    assert!(told.abs_diff(bytes) <= bytes / 10, "{told} told of {bytes}");
    let mut log = Log::new(Document::new(session(0)));
    for patch in patches {
        assert!(log.push(patch));
    }
    at_most("snapshot with its history", log.to_native(Packing::Deflate).len(), HISTORY_MAX);
}

#[test]
fn a_plain_value_takes_at_most_48_bytes() {
    let keys = 10_000;
    let entries = (0..keys).map(|n| (format!("key{n}"), json!(n)));
    let mut model = Model::new(session(0));
    model.api().root(serde_json::Value::Object(entries.collect())).unwrap();
    let document = model.into_document();
    let names: usize = (0..keys).map(|n| format!("key{n}").len()).sum();
    let native = document.to_native(Packing::Plain);
    let (loaded, bytes) = kept(|| Document::from_native(&native, session(1)).unwrap());
    assert_eq!(loaded.view().get("key77"), Some(&77.into()));
    at_most("bytes a value", (bytes - names) / keys, 48);
    let (back, bytes) = kept(|| Document::from_binary(&document.to_binary()).unwrap());
    assert_eq!(back.view().get("key77"), Some(&77.into()));
    at_most("bytes a value, from the binary form", (bytes - names) / keys, 48);
}

/// Ten thousand letters, here and from elsewhere: memory is asked for when something is full and doubles.
#[test]
fn typing_asks_for_no_memory_per_character() {
    const LETTERS: usize = 10_000;
    for wide in [false, true] {
        let letter = if wide { "\u{d55c}" } else { "x" };
        let mut model = empty();
        let mut other = Model::new(session(1));
        assert_eq!(other.apply(&model.flush().unwrap()), Ok(Applied::Merged));
        // The first one makes room.
        model.api().str("").unwrap().ins(0, letter).unwrap();
        let mut patches = vec![model.flush().unwrap()];
        let ((), times) = asks(|| {
            for at in 1..LETTERS {
                model.api().str("").unwrap().ins(at, letter).unwrap();
            }
        });
        at_most("times that typing asks", times, 60);
        let _ = model.flush();
        // One patch a letter: what a patch itself takes is not counted.
        for at in LETTERS..2 * LETTERS {
            model.api().str("").unwrap().ins(at, letter).unwrap();
            patches.push(model.flush().unwrap());
        }
        let all: Vec<Patch> = patches;
        let whole = Document::from_native(&model.document().to_native(Packing::Plain), session(2)).unwrap();
        assert_eq!(whole.view(), model.view());
        let mut reader = empty();
        let _ = reader.flush();
        assert_eq!(reader.apply(&all[0]), Ok(Applied::Merged));
        let mut typist = Model::from(reader.fork(session(3)).into_document());
        let later: Vec<Patch> = (1..LETTERS)
            .map(|at| {
                typist.api().str("").unwrap().ins(at, letter).unwrap();
                typist.flush().unwrap()
            })
            .collect();
        let ((), times) = asks(|| {
            for patch in &later {
                assert_eq!(reader.apply_bytes(patch.as_bytes()), Ok(Applied::Merged));
            }
        });
        assert_eq!(reader.view(), typist.view());
        at_most("times that taking in asks", times, 60);
    }
}

/// A view from a snapshot holds the value, and no document beside it.
#[test]
fn a_snapshot_is_viewed_without_a_document() {
    let records: Vec<_> = (0..2_000)
        .map(|n| json!({"id": n, "name": format!("record {n}"), "x": n % 97, "on": true}))
        .collect();
    let mut model = Model::new(session(0));
    model.api().root(json!(records)).unwrap();
    let native = model.document().to_native(Packing::Plain);
    let document = kept(|| Document::from_native(&native, session(1)).unwrap()).1;
    let (view, value) = kept(|| model.view());
    let (viewed, peak) = most(|| Document::view_native(&native).unwrap());
    assert!(viewed.is_same_json(&view));
    drop((viewed, view));
    at_most("memory beside the value", peak.saturating_sub(value), document / 4);
    let before = holding();
    let (length, peak) = most(|| Value::from(Document::view_native(&native).unwrap().as_str().is_none()));
    assert_eq!((length, holding()), (true.into(), before));
    assert!(peak > 0);
}
