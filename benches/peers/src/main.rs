//! One recorded trace, typed again by Weft and by its peers, round by round in one run.
//!
//! `cargo run --release -- PATH_OF_A_TRACE.json.gz [ROUNDS]`. The rounds are interleaved and the best of each is shown, so
//! that what else the machine does weighs on all alike. Each run ends in an assertion on its text (cola holds none: on
//! its length).

use std::{fs::File, ops::Range, time::Instant};

use automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};
use crdt_core::{Model, SessionId};
use serde_json::Value;
use yrs::{GetString, Text, Transact};

struct Trace {
    edits: Vec<(usize, usize, String)>,
    end: String,
}

fn trace(path: &str) -> Trace {
    let file = File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let json: Value = serde_json::from_reader(flate2::read::GzDecoder::new(file)).expect("a trace is JSON");
    let number = |value: &Value| value.as_u64().expect("a position") as usize;
    let txns = json["txns"].as_array().expect("transactions");
    let patches = txns.iter().flat_map(|txn| txn["patches"].as_array().expect("patches"));
    let edit = |p: &Value| (number(&p[0]), number(&p[1]), p[2].as_str().expect("text").to_owned());
    Trace {
        edits: patches.map(edit).collect(),
        end: json["endContent"].as_str().expect("the end").to_owned(),
    }
}

fn weft(trace: &Trace) {
    let mut model = Model::new(SessionId::new(123_456).expect("a user's id"));
    model.api().root("").expect("room");
    let mut patches = Vec::new();
    {
        let mut text = model.api().str("").expect("the root is text");
        for (position, del, ins) in &trace.edits {
            text.del(*position, *del).expect("in the text");
            text.ins(*position, &**ins).expect("in the text");
            text.model().flush_into(&mut patches);
        }
    }
    assert_eq!(model.view().as_str(), Some(&*trace.end));
}

fn loro(trace: &Trace) {
    let doc = loro::LoroDoc::new();
    let text = doc.get_text("text");
    for (position, del, ins) in &trace.edits {
        if *del > 0 {
            text.delete(*position, *del).expect("in the text");
        }
        if !ins.is_empty() {
            text.insert(*position, ins).expect("in the text");
        }
        doc.commit();
    }
    assert_eq!(text.to_string(), trace.end);
}

fn yrs(trace: &Trace) {
    let options = yrs::Options { offset_kind: yrs::OffsetKind::Utf16, ..yrs::Options::default() };
    let doc = yrs::Doc::with_options(options);
    let text = doc.get_or_insert_text("text");
    for (position, del, ins) in &trace.edits {
        let mut txn = doc.transact_mut();
        if *del > 0 {
            text.remove_range(&mut txn, *position as u32, *del as u32);
        }
        if !ins.is_empty() {
            text.insert(&mut txn, *position as u32, ins);
        }
    }
    assert_eq!(text.get_string(&doc.transact()), trace.end);
}

fn automerge(trace: &Trace) {
    let mut doc = automerge::AutoCommit::new();
    let text = doc.put_object(ROOT, "text", ObjType::Text).expect("a new key");
    for (position, del, ins) in &trace.edits {
        doc.splice_text(&text, *position, *del as isize, ins).expect("in the text");
    }
    doc.commit();
    assert_eq!(doc.text(&text).expect("it is text"), trace.end);
}

fn diamond_types(trace: &Trace) {
    let mut doc = diamond_types::list::ListCRDT::new();
    let agent = doc.get_or_create_agent_id("a");
    for (position, del, ins) in &trace.edits {
        if *del > 0 {
            let range: Range<usize> = *position..*position + *del;
            doc.delete_without_content(agent, range);
        }
        if !ins.is_empty() {
            doc.insert(agent, *position, ins);
        }
    }
    assert_eq!(doc.branch.content().to_string(), trace.end);
}

fn cola(trace: &Trace) {
    let mut replica = cola::Replica::new(1, 0);
    let mut len = 0;
    for (position, del, ins) in &trace.edits {
        if *del > 0 {
            let _ = replica.deleted(*position..*position + *del);
        }
        let units = ins.chars().count();
        if units > 0 {
            let _ = replica.inserted(*position, units);
        }
        len += units;
        len -= *del;
    }
    assert_eq!(len, trace.end.chars().count());
}

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("the path of a trace");
    let rounds: usize = args.next().map_or(5, |rounds| rounds.parse().expect("a number of rounds"));
    let trace = trace(&path);
    let peers: [(&str, fn(&Trace)); 6] = [
        ("weft, a patch per edit", weft),
        ("diamond-types, no patch", diamond_types),
        ("cola, no text, no patch", cola),
        ("loro, a commit per edit", loro),
        ("yrs, a transaction per edit", yrs),
        ("automerge, one transaction", automerge),
    ];
    let mut best = [f64::MAX; 6];
    for _ in 0..rounds {
        for ((_, run), best) in peers.iter().zip(&mut best) {
            let start = Instant::now();
            run(&trace);
            *best = best.min(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    println!("{} edits of {path}, best of {rounds}", trace.edits.len());
    for ((name, _), best_ms) in peers.iter().zip(&best) {
        println!("{name:30} {best_ms:10.2} ms  {:8.2} times weft", best_ms / best[0]);
    }
}
