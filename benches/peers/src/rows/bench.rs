//! The shapes of crdt-benchmarks, with its N.

use serde_json::{Value, json};

use super::text::{PIECE, apply_all};
use crate::{
    peers::{Automerge, Edit, JsonPeer, Loro, Peer, Weft, Yrs},
    table::{Plan, Row, timed_pieces},
};

const N: usize = 6000;
/// 20 √N.
const CLIENTS: usize = 1549;

/// Numbers that look random and are the same each time (a linear congruential generator, as Knuth's MMIX has it).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }

    fn word(&mut self) -> String {
        let len = 2 + self.below(8);
        (0..len).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }
}

/// Edits at random places: characters, words, or words between deletions. Also the length at the end.
fn random_edits(seed: u64, start: usize, kind: u8) -> (Vec<Edit>, usize) {
    let (mut numbers, mut len, mut edits) = (Numbers(seed), start, Vec::with_capacity(N));
    for _ in 0..N {
        let at = numbers.below(len + 1);
        if kind == 2 && len > at && numbers.below(2) == 0 {
            let del = (1 + numbers.below(8)).min(len - at);
            edits.push(Edit { at, del, ins: "" });
            len -= del;
            continue;
        }
        let ins =
            if kind == 0 { char::from(b'a' + numbers.below(26) as u8).to_string() } else { numbers.word() };
        len += ins.len();
        edits.push(Edit::insert(at, ins));
    }
    (edits, len)
}

macro_rules! each_json_peer {
    ($each:ident) => {
        each_talking_peer!($each);
        $each!(Automerge);
    };
}

/// Automerge takes milliseconds for each message, and the first rows have six thousand.
macro_rules! each_talking_peer {
    ($each:ident) => {
        $each!(Weft);
        $each!(Loro);
        $each!(Yrs);
    };
}

/// B1: one edits, the other gets each message at once.
fn text_to_other(name: &'static str, js_name: &'static str, edits: &[Edit], len: usize, plan: &Plan) {
    if !plan.wants(js_name) {
        return;
    }
    let mut row = Row::new(name, "ms").goal(5.0, "best");
    macro_rules! add {
        ($peer:ident) => {
            row.add($peer::NAME, || {
                let work = |(one, other): &mut ($peer, $peer), edits: &[Edit]| {
                    one.type_all(edits, Some(&mut |message| other.apply(message)));
                };
                let check = |(mut one, mut other): ($peer, $peer)| {
                    let text = other.text();
                    assert_eq!((text.len(), one.text() == text), (len, true));
                };
                timed_pieces(($peer::new(0), $peer::new(1)), edits.chunks(PIECE), work, check)
            });
        };
    }
    each_talking_peer!(add);
    row.add_js(plan, js_name);
    row.run(plan.rounds);
}

/// B1: lists.
fn list_to_other(name: &'static str, js_name: &'static str, inserts: &[(usize, Vec<Value>)], plan: &Plan) {
    if !plan.wants(js_name) {
        return;
    }
    let mut row = Row::new(name, "ms").goal(5.0, "best");
    macro_rules! add {
        ($peer:ident) => {
            row.add($peer::NAME, || {
                let work = |(one, other): &mut ($peer, $peer), inserts: &[(usize, Vec<Value>)]| {
                    for (at, values) in inserts {
                        let message = one.list_insert(*at, values);
                        other.apply(&message);
                    }
                };
                let check = |(mut one, mut other): ($peer, $peer)| {
                    assert_eq!((one.list_len(), other.list_len()), (N, N));
                };
                timed_pieces(($peer::new(0), $peer::new(1)), inserts.chunks(PIECE), work, check)
            });
        };
    }
    each_talking_peer!(add);
    row.add_js(plan, js_name);
    row.run(plan.rounds);
}

pub fn b1(plan: &Plan) {
    let char_at = |n: usize| char::from(b'a' + (n % 26) as u8).to_string();
    let long: String = (0..N).map(char_at).collect();
    let append: Vec<Edit> = (0..N).map(|n| Edit::insert(n, char_at(n))).collect();
    text_to_other("B1.1 append N characters", "b1.1", &append, N, plan);
    text_to_other("B1.2 insert a text of N", "b1.2", &[Edit::insert(0, &*long)], N, plan);
    let prepend: Vec<Edit> = (0..N).map(|n| Edit::insert(0, char_at(n))).collect();
    text_to_other("B1.3 prepend N characters", "b1.3", &prepend, N, plan);
    let (edits, len) = random_edits(1, 0, 0);
    text_to_other("B1.4 N characters at random places", "b1.4", &edits, len, plan);
    let (edits, len) = random_edits(2, 0, 1);
    text_to_other("B1.5 N words at random places", "b1.5", &edits, len, plan);
    let both = [Edit::insert(0, &*long), Edit { at: 0, del: N, ins: "" }];
    text_to_other("B1.6 insert a text, then delete it", "b1.6", &both, 0, plan);
    let (edits, len) = random_edits(3, 0, 2);
    text_to_other("B1.7 insert and delete at random places", "b1.7", &edits, len, plan);
    let append: Vec<_> = (0..N).map(|n| (n, vec![json!(n)])).collect();
    list_to_other("B1.8 append N numbers", "b1.8", &append, plan);
    let all = [(0, (0..N).map(|n| json!(n)).collect())];
    list_to_other("B1.9 insert an array of N numbers", "b1.9", &all, plan);
    let prepend: Vec<_> = (0..N).map(|n| (0, vec![json!(n)])).collect();
    list_to_other("B1.10 prepend N numbers", "b1.10", &prepend, plan);
    let mut numbers = Numbers(4);
    let random: Vec<_> = (0..N).map(|n| (numbers.below(n + 1), vec![json!(n)])).collect();
    list_to_other("B1.11 N numbers at random places", "b1.11", &random, plan);
}

/// Who does what in B2.
#[derive(Clone, Copy)]
enum Turn {
    /// One of the two makes its edits.
    Type(usize),
    /// One of the two takes the other's messages in.
    Take(usize),
}

/// B2: two edit at once, then each gets the other's messages.
pub fn b2(plan: &Plan) {
    let long: String = (0..N).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let start = "x".repeat(100);
    let inserts = |seed: u64, kind: u8| random_edits(seed, 100, kind);
    let rows = [
        (
            "B2.1 two insert a text of N at once",
            "b2.1",
            [0, 1].map(|_| (vec![Edit::insert(0, &*long)], N + 100)),
        ),
        ("B2.2 two insert N characters at once", "b2.2", [5, 6].map(|seed| inserts(seed, 0))),
        ("B2.3 two insert N words at once", "b2.3", [7, 8].map(|seed| inserts(seed, 1))),
        ("B2.4 two insert and delete at once", "b2.4", [9, 10].map(|seed| inserts(seed, 2))),
    ];
    for (name, js_name, edits) in &rows {
        if !plan.wants(js_name) {
            continue;
        }
        let mut row = Row::new(*name, "ms").goal(5.0, "best");
        macro_rules! add {
            ($peer:ident) => {
                row.add($peer::NAME, || {
                    let mut pair = [$peer::new(0), $peer::new(1)];
                    let [one, other] = &mut pair;
                    one.type_all(&[Edit::insert(0, &*start)], Some(&mut |message| other.apply(message)));
                    let work = |(pair, sent): &mut ([$peer; 2], [Vec<Vec<u8>>; 2]), piece: (Turn, usize)| {
                        let (turn, at) = piece;
                        match turn {
                            Turn::Type(by) => {
                                let edits = &edits[by].0;
                                let end = edits.len().min(at + PIECE);
                                let keep = &mut |message: &[u8]| sent[by].push(message.to_vec());
                                pair[by].type_all(edits.get(at..end).unwrap_or(&[]), Some(keep));
                            }
                            Turn::Take(by) => {
                                let end = sent[1 - by].len().min(at + PIECE);
                                apply_all(&mut pair[by], sent[1 - by].get(at..end).unwrap_or(&[]));
                            }
                        }
                    };
                    let turns = [Turn::Type(0), Turn::Type(1), Turn::Take(1), Turn::Take(0)];
                    let most = edits[0].0.len().max(edits[1].0.len());
                    let pieces =
                        turns.into_iter().flat_map(|turn| (0..most).step_by(PIECE).map(move |at| (turn, at)));
                    let check = |([mut one, mut other], _): ([$peer; 2], [Vec<Vec<u8>>; 2])| {
                        let text = one.text();
                        assert!(text == other.text() && !text.is_empty());
                        if js_name != &"b2.4" {
                            assert_eq!(text.len(), edits[0].1 + edits[1].1 - 100);
                        }
                    };
                    timed_pieces((pair, <[Vec<Vec<u8>>; 2]>::default()), pieces, work, check)
                });
            };
        }
        each_talking_peer!(add);
        row.add_js(plan, js_name);
        row.run(plan.rounds);
    }
}

/// B3: many clients make one change each at once; one gets them all.
pub fn b3(plan: &Plan) {
    type Change = fn(usize) -> Value;
    let rows: [(&str, &str, Change); 4] = [
        ("B3.1 1549 set a number in a map", "b3.1", |n| json!(n)),
        (
            "B3.2 1549 set an object in a map",
            "b3.2",
            |n| json!({"name": format!("user {n}"), "address": "here"}),
        ),
        ("B3.3 1549 set a text in a map", "b3.3", |n| json!(format!("{n} ").repeat(40))),
        ("B3.4 1549 insert a text in an array", "b3.4", |n| json!(format!("{n} ").repeat(40))),
    ];
    for (name, js_name, change) in rows {
        if !plan.wants(js_name) {
            continue;
        }
        let mut row = Row::new(name, "ms").goal(5.0, "best");
        macro_rules! add {
            ($peer:ident) => {
                let messages: Vec<Vec<u8>> = (0..CLIENTS)
                    .map(|n| {
                        let mut client = $peer::new(n as u64);
                        if js_name == "b3.4" {
                            client.list_insert(0, &[change(n)])
                        } else {
                            client.set_all(&[("v".to_owned(), change(n))])
                        }
                    })
                    .collect();
                row.add($peer::NAME, move || {
                    let check = |mut peer: $peer| {
                        let len = if js_name == "b3.4" { peer.list_len() } else { peer.map_len() };
                        assert_eq!(len, if js_name == "b3.4" { CLIENTS } else { 1 });
                        if js_name == "b3.2" {
                            assert!(peer.get("v", Some("name")).is_some());
                        }
                    };
                    timed_pieces($peer::new(5000), messages.chunks(PIECE), apply_all, check)
                });
            };
        }
        each_json_peer!(add);
        row.add_js(plan, js_name);
        row.run(plan.rounds);
    }
}
