//! The shapes of crdt-benchmarks with its N: one edits and another takes each message at once (B1), two edit at the same
//! time (B2), many change one thing each (B3). Each ends in an assertion. `benches/peers` does the same beside others.

use crdt_core::{Applied, Model, SessionId};
use criterion::{BatchSize, Criterion};
use serde_json::{Value, json};

const N: usize = 6000;
/// 20 √N.
const CLIENTS: u64 = 1549;

fn session(client: u64) -> SessionId {
    SessionId::new(100_000 + client).expect("an id below the bound")
}

/// Numbers that look random and are the same each time (a linear congruential generator, as Knuth's MMIX has it).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

/// An edit, as its author makes it.
enum Edit {
    Text(usize, String),
    Delete(usize, usize),
    Numbers(usize, Vec<Value>),
}

/// Everyone starts with the same containers.
fn base() -> Model {
    let mut model = Model::new(session(0));
    model.api().root(json!({"text": "", "list": [], "map": {}})).expect("room");
    let _ = model.flush();
    model
}

fn make(model: &mut Model, edit: &Edit, message: &mut Vec<u8>) {
    match edit {
        Edit::Text(at, text) => model.api().str("/text").expect("text").ins(*at, text.as_str()),
        Edit::Delete(at, len) => model.api().str("/text").expect("text").del(*at, *len),
        Edit::Numbers(at, numbers) => model.api().arr("/list").expect("a list").ins_con(*at, numbers),
    }
    .expect("within bounds");
    message.clear();
    model.flush_into(message);
}

fn take(model: &mut Model, message: &[u8]) {
    assert_eq!(model.apply_bytes(message).expect("our own patch"), Applied::Merged);
}

fn len(model: &Model, key: &str) -> usize {
    model.document().root().and_then(|root| root.get(key)).map_or(0, |node| node.len())
}

fn char_at(n: usize) -> String {
    char::from(b'a' + (n % 26) as u8).to_string()
}

/// B1, with how many elements are there at the end.
fn to_other(criterion: &mut Criterion, name: &str, edits: &[Edit], end: (usize, usize)) {
    let base = base();
    criterion.bench_function(name, |bencher| {
        bencher.iter_batched(
            || (base.fork(session(1)), base.fork(session(2))),
            |(mut one, mut other)| {
                let mut message = Vec::new();
                for edit in edits {
                    make(&mut one, edit, &mut message);
                    take(&mut other, &message);
                }
                assert_eq!((len(&other, "text"), len(&other, "list")), end);
                (one, other)
            },
            BatchSize::PerIteration,
        );
    });
}

fn one_to_other(criterion: &mut Criterion) {
    let long: String = (0..N).map(char_at).collect();
    let mut numbers = Numbers(1);
    let number = |n: usize| vec![json!(n)];
    let at_random: Vec<Edit> = (0..N).map(|n| Edit::Text(numbers.below(n + 1), char_at(n))).collect();
    let all = |edit: &dyn Fn(usize) -> Edit| (0..N).map(edit).collect::<Vec<_>>();
    let rows = [
        ("B1.1 append N characters", all(&|n| Edit::Text(n, char_at(n))), (N, 0)),
        ("B1.2 insert a text of N", vec![Edit::Text(0, long.clone())], (N, 0)),
        ("B1.3 prepend N characters", all(&|n| Edit::Text(0, char_at(n))), (N, 0)),
        ("B1.4 N characters at random places", at_random, (N, 0)),
        ("B1.6 insert a text, then delete it", vec![Edit::Text(0, long), Edit::Delete(0, N)], (0, 0)),
        ("B1.8 append N numbers", all(&|n| Edit::Numbers(n, number(n))), (0, N)),
        (
            "B1.9 insert an array of N numbers",
            vec![Edit::Numbers(0, (0..N).map(|n| json!(n)).collect())],
            (0, N),
        ),
        ("B1.10 prepend N numbers", all(&|n| Edit::Numbers(0, number(n))), (0, N)),
    ];
    for (name, edits, end) in &rows {
        to_other(criterion, name, edits, *end);
    }
}

fn two_at_once(criterion: &mut Criterion) {
    let base = base();
    let mut numbers = Numbers(5);
    let edits =
        [(); 2].map(|()| (0..N).map(|n| Edit::Text(numbers.below(n + 1), char_at(n))).collect::<Vec<_>>());
    criterion.bench_function("B2.2 two insert N characters at once", |bencher| {
        bencher.iter_batched(
            || [base.fork(session(1)), base.fork(session(2))],
            |mut pair| {
                let mut sent = [Vec::with_capacity(N), Vec::with_capacity(N)];
                for ((model, edits), sent) in pair.iter_mut().zip(&edits).zip(&mut sent) {
                    for edit in edits {
                        let mut message = Vec::new();
                        make(model, edit, &mut message);
                        sent.push(message);
                    }
                }
                let [one, other] = &mut pair;
                sent[0].iter().for_each(|message| take(other, message));
                sent[1].iter().for_each(|message| take(one, message));
                assert_eq!(len(one, "text"), 2 * N);
                assert!(one.view() == other.view());
                pair
            },
            BatchSize::PerIteration,
        );
    });
}

fn many(criterion: &mut Criterion) {
    type Change = fn(u64) -> Value;
    let base = base();
    let rows: [(&str, Change); 3] = [
        ("B3.1 1549 set a number in a map", |n| json!(n)),
        ("B3.2 1549 set an object in a map", |n| json!({"name": format!("user {n}"), "address": "here"})),
        ("B3.3 1549 set a text in a map", |n| json!(format!("{n} ").repeat(40))),
    ];
    for (name, change) in rows {
        let messages: Vec<Vec<u8>> = (0..CLIENTS)
            .map(|n| {
                let mut client = base.fork(session(n + 1));
                client.api().obj("/map").expect("a map").set([("v", &change(n))]).expect("room");
                let mut message = Vec::new();
                client.flush_into(&mut message);
                message
            })
            .collect();
        criterion.bench_function(name, |bencher| {
            bencher.iter_batched(
                || base.fork(session(5001)),
                |mut model| {
                    messages.iter().for_each(|message| take(&mut model, message));
                    assert_eq!(len(&model, "map"), 1);
                    model
                },
                BatchSize::PerIteration,
            );
        });
    }
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    one_to_other(&mut criterion);
    two_at_once(&mut criterion);
    many(&mut criterion);
    criterion.final_summary();
}
