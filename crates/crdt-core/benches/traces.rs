//! Recorded keystrokes, typed again: locally, with a patch per edit, and as remote patches. Each ends in an assertion.
//!
//! The traces are in `benches/traces`, with credit to their authors. `automerge-paper` is run if `WEFT_TRACES` names the
//! directory that it is in.

use std::{hint::black_box, io::Read, path::Path};

use crdt_core::{Applied, Document, Model, Patch, SessionId};
use criterion::{BatchSize, Criterion};
use serde_json::Value;

/// Deletes `del` units at `position`, then inserts `ins` there.
struct Edit {
    position: usize,
    del: usize,
    ins: String,
}

struct Trace {
    edits: Vec<Edit>,
    end: String,
}

fn read(path: &Path) -> Value {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_reader(flate2::read::GzDecoder::new(file).take(1 << 30)).expect("a trace is JSON")
}

fn edits(patches: &Value) -> Vec<Edit> {
    let number = |value: &Value| value.as_u64().expect("a position") as usize;
    let edit = |patch: &Value| Edit {
        position: number(&patch[0]),
        del: number(&patch[1]),
        ins: patch[2].as_str().expect("text").to_owned(),
    };
    patches.as_array().expect("patches").iter().map(edit).collect()
}

fn trace(path: &Path) -> Trace {
    let trace = read(path);
    let txns = trace["txns"].as_array().expect("transactions");
    Trace {
        edits: txns.iter().flat_map(|txn| edits(&txn["patches"])).collect(),
        end: trace["endContent"].as_str().expect("the end").to_owned(),
    }
}

fn session(id: u64) -> SessionId {
    SessionId::new(id).expect("an id below the bound")
}

/// A document with an empty text for its root.
fn empty() -> Model {
    let mut model = Model::new(session(123_456));
    model.api().root("").expect("room");
    let _ = model.flush();
    model
}

fn type_again(model: &mut Model, edits: &[Edit], mut after_each: impl FnMut(&mut Model)) {
    let mut text = model.api().str("").expect("the root is text");
    for edit in edits {
        if edit.del > 0 {
            text.del(edit.position, edit.del).expect("in the text");
        }
        if !edit.ins.is_empty() {
            text.ins(edit.position, &*edit.ins).expect("in the text");
        }
        after_each(text.model());
    }
}

fn take_in(document: &mut Document, patches: &[Vec<u8>]) {
    for patch in patches {
        assert_eq!(document.apply_bytes(patch), Ok(Applied::Merged));
    }
}

fn sequential(criterion: &mut Criterion, name: &str, path: &Path) {
    let Trace { edits, end } = trace(path);
    let mut patches: Vec<Vec<u8>> = Vec::new();
    let mut model = empty();
    type_again(&mut model, &edits, |model| {
        let mut patch = Vec::new();
        if model.flush_into(&mut patch) > 0 {
            patches.push(patch);
        }
    });
    assert_eq!(model.view().as_str(), Some(&*end));
    let mut document = empty().fork(session(999_999)).into_document();
    take_in(&mut document, &patches);
    assert_eq!(document.view(), model.view());

    eprintln!("{name}: {} bytes of memory for {} of text", document.size_bytes(), end.len());

    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.bench_function("local", |bencher| {
        bencher.iter_batched(
            empty,
            |mut model| {
                type_again(&mut model, &edits, |_| {});
                model
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("local, a patch per edit", |bencher| {
        // One queue for all rounds, as a sender has: it is emptied, not made anew.
        let mut out = Vec::new();
        bencher.iter_batched(
            empty,
            |mut model| {
                out.clear();
                type_again(&mut model, &edits, |model| {
                    model.flush_into(&mut out);
                });
                model
            },
            BatchSize::PerIteration,
        );
        assert_eq!(out.len(), patches.iter().map(Vec::len).sum::<usize>());
    });
    group.bench_function("remote, a patch per edit", |bencher| {
        bencher.iter_batched(
            || empty().fork(session(999_999)).into_document(),
            |mut document| {
                take_in(&mut document, &patches);
                document
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(document.to_binary())));
    let snapshot = document.to_binary();
    let loaded = Model::from(Document::from_binary(&snapshot).expect("our own snapshot"));
    assert_eq!(loaded.view(), document.view());
    group.bench_function("load and edit", |bencher| {
        bencher.iter_batched(
            || (),
            |()| {
                let mut model = Model::from(Document::from_binary(&snapshot).expect("our own snapshot"));
                model.api().str("").expect("the root is text").ins(100, "x").expect("in the text");
                model
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("view", |bencher| bencher.iter(|| black_box(document.view())));
    group.bench_function("clone", |bencher| bencher.iter(|| black_box(document.clone())));
    group.finish();
}

/// Plays a trace of several authors, each of whom has seen what the trace says. Returns all patches in causal order.
fn concurrent_patches(trace: &Value) -> Vec<Vec<u8>> {
    let txns = trace["txns"].as_array().expect("transactions");
    let agents = trace["numAgents"].as_u64().expect("a number of agents") as usize;
    let base = empty();
    let mut models: Vec<Model> = (0..agents as u64).map(|at| base.fork(session(200_000 + at))).collect();
    let mut seen = vec![vec![false; txns.len()]; agents];
    let mut patches: Vec<Vec<Patch>> = Vec::new();
    let parents = |txn: usize| -> Vec<usize> {
        let parents = txns[txn]["parents"].as_array().expect("parents");
        parents.iter().map(|parent| parent.as_u64().expect("a number") as usize).collect()
    };
    for (at, txn) in txns.iter().enumerate() {
        let agent = txn["agent"].as_u64().expect("an agent") as usize;
        let (mut open, mut missing) = (parents(at), Vec::new());
        while let Some(txn) = open.pop() {
            if !std::mem::replace(&mut seen[agent][txn], true) {
                missing.push(txn);
                open.extend(parents(txn));
            }
        }
        missing.sort_unstable();
        for patch in missing.iter().flat_map(|&txn| &patches[txn]) {
            assert_eq!(models[agent].apply(patch).expect("room"), Applied::Merged);
        }
        let mut made = Vec::new();
        type_again(&mut models[agent], &edits(&txn["patches"]), |model| made.extend(model.flush()));
        patches.push(made);
        seen[agent][at] = true;
    }
    patches.iter().flatten().map(|patch| patch.as_bytes().to_vec()).collect()
}

fn concurrent(criterion: &mut Criterion, name: &str, path: &Path) {
    let trace = read(path);
    let patches = concurrent_patches(&trace);
    let mut document = empty().fork(session(999_999)).into_document();
    take_in(&mut document, &patches);
    assert_eq!(document.view().as_str(), trace["endContent"].as_str());

    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.bench_function("remote, a patch per edit", |bencher| {
        bencher.iter_batched(
            || empty().fork(session(999_999)).into_document(),
            |mut document| {
                take_in(&mut document, &patches);
                document
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/traces");
    for name in ["rustcode", "sveltecomponent"] {
        sequential(&mut criterion, name, &traces.join(format!("{name}.json.gz")));
    }
    concurrent(&mut criterion, "friendsforever", &traces.join("friendsforever.concurrent.json.gz"));
    match std::env::var_os("WEFT_TRACES") {
        Some(traces) => {
            sequential(
                &mut criterion,
                "automerge-paper",
                &Path::new(&traces).join("automerge-paper.json.gz"),
            );
        }
        None => eprintln!("automerge-paper is skipped: WEFT_TRACES does not name its directory"),
    }
    criterion.final_summary();
}
