//! Copies that share memory, and transactions that go back to one: of a long text and of large JSON. Each ends in an
//! assertion.
//!
//! What is not timed: dropping what was made.

use std::hint::black_box;

use crdt_core::{Document, Model, SessionId};
use criterion::{BatchSize, BenchmarkGroup, Criterion, measurement::WallTime};
use serde_json::{Value, json};

fn session(number: u64) -> SessionId {
    SessionId::new(100_000 + number).expect("an id below the bound")
}

/// A text that was typed here and there, in 20 000 edits.
fn text() -> Document {
    let mut model = Model::new(session(0));
    model.api().root(json!({"text": "", "done": 0})).expect("room");
    let mut text = model.api().str("/text").expect("text");
    // A linear congruential generator, as Knuth's MMIX has it.
    let mut number = 1u64;
    for _ in 0..20_000 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (number >> 33) as usize % (text.len() + 1);
        text.ins(at, "warp").expect("in the text");
    }
    let _ = model.flush();
    model.into_document()
}

/// 120 004 nodes.
fn records() -> Document {
    let record =
        |n: u64| json!({"id": n, "name": format!("record {n}"), "active": n.is_multiple_of(3), "x": n % 97});
    let mut model = Model::new(session(0));
    let records: Value = (0..20_000).map(record).collect();
    model.api().root(json!({"text": "", "done": 0, "records": records})).expect("room");
    let _ = model.flush();
    model.into_document()
}

/// A model whose memory is its own.
fn own(document: &Document) -> Model {
    document.clone().into()
}

fn shared(document: &Document) -> Model {
    let mut model = own(document);
    model.share();
    model
}

fn edit(model: &mut Model) -> Result<(), crdt_core::model::EditError> {
    model.api().str("/text")?.ins(0, "x")?;
    model.api().obj("")?.set([("done", 1)])
}

fn done(model: &Model) -> Option<i64> {
    model.view_at("/done").ok()?.as_i64()
}

fn copies(group: &mut BenchmarkGroup<'_, WallTime>, document: &Document) {
    group.bench_function("fork, memory of its own", |b| {
        b.iter_batched(|| (), |()| document.fork(session(1)), BatchSize::PerIteration);
    });
    group.bench_function("share", |b| {
        b.iter_batched(
            || own(document),
            |mut model| {
                model.share();
                model
            },
            BatchSize::PerIteration,
        );
    });
    let original = shared(document).into_document();
    group.bench_function("fork, shared", |b| b.iter(|| black_box(original.fork(session(1)))));
    assert!(original.fork(session(1)).shares_with(&original));
    group.bench_function("fork, shared, and its first edit", |b| {
        b.iter_batched(
            || Model::from(original.fork(session(1))),
            |mut fork| {
                edit(&mut fork).expect("room");
                fork
            },
            BatchSize::PerIteration,
        );
    });
    let mut fork = Model::from(original.fork(session(1)));
    edit(&mut fork).expect("room");
    assert_eq!((done(&fork), done(&own(&original))), (Some(1), Some(0)));
}

fn transactions(group: &mut BenchmarkGroup<'_, WallTime>, document: &Document) {
    for (name, start) in [("", own as fn(&Document) -> Model), (", shared", shared)] {
        // Somebody else keeps a copy of the shared one.
        let kept = start(document);
        group.bench_function(format!("first transaction, commits{name}"), |b| {
            b.iter_batched(
                || kept.clone(),
                |mut model| {
                    model.transaction(edit).expect("room");
                    assert!(model.has_edits());
                    model
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function(format!("first transaction, fails{name}"), |b| {
            b.iter_batched(
                || kept.clone(),
                |mut model| {
                    let failed = model.transaction(|model| edit(model).and(Err::<(), _>(not_there())));
                    assert!(failed.is_err() && !model.has_edits());
                    model
                },
                BatchSize::PerIteration,
            );
        });
        let mut model = kept.clone();
        model.transaction(edit).expect("room");
        assert_eq!((done(&model), done(&kept)), (Some(1), Some(0)));
        assert_eq!(model.transaction(|model| edit(model).and(Err::<(), _>(not_there()))), Err(not_there()));
        assert_eq!(model.document().view(), {
            let mut once = own(document);
            edit(&mut once).expect("room");
            once.view()
        });
    }
    // Later ones cost what was edited since the last one.
    let mut model = own(document);
    model.transaction(edit).expect("room");
    group.bench_function("next transaction, commits", |b| {
        b.iter(|| {
            model.transaction(edit).expect("room");
            let _ = black_box(model.flush());
        });
    });
    assert_eq!(done(&model), Some(1));
    let before = model.view();
    group.bench_function("next transaction, fails", |b| {
        b.iter(|| {
            let failed = model.transaction(|model| edit(model).and(Err::<(), _>(not_there())));
            assert!(failed.is_err());
        });
    });
    assert_eq!(model.view(), before);
}

fn not_there() -> crdt_core::model::EditError {
    crdt_core::model::EditError::NotFound { path: "/account".to_owned() }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, document) in [("text", text()), ("records", records())] {
        let mut group = criterion.benchmark_group(format!("copies of {name}"));
        group.sample_size(10);
        copies(&mut group, &document);
        transactions(&mut group, &document);
        group.finish();
    }
    criterion.final_summary();
}
