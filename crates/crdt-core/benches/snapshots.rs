//! Snapshots: written, loaded and viewed, of a long text and of large JSON. Each ends in an assertion.
//!
//! The traces are in `benches/traces`; `automerge-paper` is taken instead if `WEFT_TRACES` names the directory that it is
//! in.

use std::{hint::black_box, io::Read, path::Path};

use crdt_core::{
    Document, Model, Patch, SessionId,
    codec::{Log, Packing},
};
use criterion::{BatchSize, Criterion};
use serde_json::{Value, json};

fn session() -> SessionId {
    SessionId::new(123_456).expect("an id below the bound")
}

/// A recorded text, and its history.
fn text() -> (Document, Log) {
    let traces =
        std::env::var_os("WEFT_TRACES").map(|traces| Path::new(&traces).join("automerge-paper.json.gz"));
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/traces/sveltecomponent.json.gz");
    let path = traces.unwrap_or_else(own);
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let trace: Value =
        serde_json::from_reader(flate2::read::GzDecoder::new(file).take(1 << 30)).expect("JSON");
    let mut model = Model::new(session());
    model.api().root("").expect("room");
    let mut patches: Vec<Patch> = model.flush().into_iter().collect();
    let mut text = model.api().str("").expect("the root is text");
    for patch in trace["txns"]
        .as_array()
        .expect("transactions")
        .iter()
        .flat_map(|txn| txn["patches"].as_array())
        .flatten()
    {
        let number = |at: usize| patch[at].as_u64().expect("a position") as usize;
        text.del(number(0), number(1)).expect("in the text");
        text.ins(number(0), patch[2].as_str().expect("text")).expect("in the text");
        patches.extend(text.model().flush());
    }
    assert_eq!(model.view().as_str(), trace["endContent"].as_str());
    let mut log = Log::new(Document::new(session()));
    patches.into_iter().for_each(|patch| assert!(log.push(patch)));
    (model.into_document(), log)
}

/// 260 001 nodes: an array of maps with twelve plain values each.
fn records() -> Value {
    let kinds = ["warp", "weft", "loom"];
    let record = |n: u64| {
        json!({
            "id": n, "name": format!("record {n}"), "active": n.is_multiple_of(3), "score": n as f64 / 8.0, "parent": null,
            "x": n % 97, "y": n % 89, "kind": kinds[n as usize % 3], "note": "", "rank": n / 7,
            "from": 1_700_000_000 + n, "to": 1_800_000_000 + n,
        })
    };
    (0..20_000).map(record).collect()
}

fn keys() -> Value {
    (0..60_000u64).map(|n| (format!("key{n}"), Value::from(n))).collect::<serde_json::Map<_, _>>().into()
}

fn of_json(json: &Value) -> Document {
    let mut model = Model::new(session());
    model.api().root(json).expect("room");
    let _ = model.flush();
    model.into_document()
}

fn document(criterion: &mut Criterion, name: &str, document: &Document) {
    let native = document.to_native(Packing::Plain);
    let packed = document.to_native(Packing::Deflate);
    let binary = document.to_binary();
    println!("{name}: native {} bytes, packed {}, binary {}", native.len(), packed.len(), binary.len());
    println!("{name}: {} bytes of memory live, {} nodes", document.size_bytes(), document.node_count());
    let back = Document::from_native(&packed, session()).expect("our own snapshot");
    assert_eq!(back.to_native(Packing::Plain), native);
    assert_eq!(Document::view_native(&packed).expect("our own snapshot"), back.view());
    println!("{name}: {} bytes of memory loaded", back.size_bytes());
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.bench_function("write native", |b| b.iter(|| black_box(document.to_native(Packing::Plain))));
    group.bench_function("write packed", |b| b.iter(|| black_box(document.to_native(Packing::Deflate))));
    group.bench_function("write binary", |b| b.iter(|| black_box(document.to_binary())));
    group.bench_function("load native", |b| {
        b.iter(|| Document::from_native(black_box(&native), session()).expect("ours"));
    });
    group.bench_function("load packed", |b| {
        b.iter(|| Document::from_native(black_box(&packed), session()).expect("ours"));
    });
    group.bench_function("load binary", |b| {
        b.iter(|| Document::from_binary(black_box(&binary)).expect("ours"));
    });
    group.bench_function("view native", |b| {
        b.iter(|| Document::view_native(black_box(&native)).expect("ours"));
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let (typed, log) = text();
    document(&mut criterion, "text", &typed);
    println!(
        "text: with its history {} bytes, packed {}",
        log.to_native(Packing::Plain).len(),
        log.to_native(Packing::Deflate).len()
    );
    for (name, json) in [("records", records()), ("keys", keys())] {
        let made = of_json(&json);
        document(&mut criterion, name, &made);
        let plain = serde_json::to_vec(&json).expect("JSON");
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        group.bench_function("serde_json, plain view", |b| {
            b.iter(|| serde_json::from_slice::<Value>(black_box(&plain)).expect("JSON"));
        });
        let base = of_json(&json!({}));
        group.bench_function("set, message, apply", |b| {
            b.iter_batched(
                || {
                    (
                        Model::from(base.clone()),
                        base.fork(SessionId::new(200_000).expect("an id below the bound")),
                    )
                },
                |(mut model, mut other)| {
                    let keys =
                        json.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value));
                    model.api().obj("").expect("a map").set(keys).expect("room");
                    let patch = model.flush();
                    let applied = patch.map(|patch| other.apply(&patch).expect("room"));
                    assert_eq!(applied.is_some(), json.is_object());
                    (model, other)
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
    criterion.final_summary();
}
