//! The shapes of crdt-benchmarks, with its N.

use serde_json::{Value, json};

use super::text::add_js;
use crate::{
    peers::{Automerge, Edit, JsonPeer, Loro, Peer, Weft, Yrs, json_joy::JsonJoy},
    table::{Row, timed},
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
            edits.push(Edit { at, del, ins: String::new() });
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
fn text_to_other(
    name: &'static str,
    js_name: &'static str,
    edits: &[Edit],
    len: usize,
    js: Option<&JsonJoy>,
    rounds: usize,
) {
    let mut row = Row::new(name, "ms").goal(5.0, "best");
    macro_rules! add {
        ($peer:ident) => {
            row.add($peer::NAME, || {
                let work = |(mut one, mut other): ($peer, $peer)| {
                    let mut messages = Vec::with_capacity(edits.len());
                    one.type_all(edits, Some(&mut messages));
                    messages.iter().for_each(|message| other.apply(message));
                    (one, other)
                };
                timed(($peer::new(0), $peer::new(1)), work, |(mut one, mut other)| {
                    let text = other.text();
                    assert_eq!((text.len(), one.text() == text), (len, true));
                })
            });
        };
    }
    each_talking_peer!(add);
    add_js(&mut row, js, js_name);
    row.run(rounds);
}

/// B1: lists.
fn list_to_other(
    name: &'static str,
    js_name: &'static str,
    inserts: &[(usize, Vec<Value>)],
    js: Option<&JsonJoy>,
    rounds: usize,
) {
    let mut row = Row::new(name, "ms").goal(5.0, "best");
    macro_rules! add {
        ($peer:ident) => {
            row.add($peer::NAME, || {
                let work = |(mut one, mut other): ($peer, $peer)| {
                    for (at, values) in inserts {
                        let message = one.list_insert(*at, values);
                        other.apply(&message);
                    }
                    (one, other)
                };
                timed(($peer::new(0), $peer::new(1)), work, |(mut one, mut other)| {
                    assert_eq!((one.list_len(), other.list_len()), (N, N));
                })
            });
        };
    }
    each_talking_peer!(add);
    add_js(&mut row, js, js_name);
    row.run(rounds);
}

pub fn b1(js: Option<&JsonJoy>, rounds: usize) {
    let char_at = |n: usize| char::from(b'a' + (n % 26) as u8).to_string();
    let long: String = (0..N).map(char_at).collect();
    let append: Vec<Edit> = (0..N).map(|n| Edit::insert(n, char_at(n))).collect();
    text_to_other("B1.1 append N characters", "b1.1", &append, N, js, rounds);
    text_to_other("B1.2 insert a text of N", "b1.2", &[Edit::insert(0, &*long)], N, js, rounds);
    let prepend: Vec<Edit> = (0..N).map(|n| Edit::insert(0, char_at(n))).collect();
    text_to_other("B1.3 prepend N characters", "b1.3", &prepend, N, js, rounds);
    let (edits, len) = random_edits(1, 0, 0);
    text_to_other("B1.4 N characters at random places", "b1.4", &edits, len, js, rounds);
    let (edits, len) = random_edits(2, 0, 1);
    text_to_other("B1.5 N words at random places", "b1.5", &edits, len, js, rounds);
    let both = [Edit::insert(0, &*long), Edit { at: 0, del: N, ins: String::new() }];
    text_to_other("B1.6 insert a text, then delete it", "b1.6", &both, 0, js, rounds);
    let (edits, len) = random_edits(3, 0, 2);
    text_to_other("B1.7 insert and delete at random places", "b1.7", &edits, len, js, rounds);
    let append: Vec<_> = (0..N).map(|n| (n, vec![json!(n)])).collect();
    list_to_other("B1.8 append N numbers", "b1.8", &append, js, rounds);
    let all = [(0, (0..N).map(|n| json!(n)).collect())];
    list_to_other("B1.9 insert an array of N numbers", "b1.9", &all, js, rounds);
    let prepend: Vec<_> = (0..N).map(|n| (0, vec![json!(n)])).collect();
    list_to_other("B1.10 prepend N numbers", "b1.10", &prepend, js, rounds);
    let mut numbers = Numbers(4);
    let random: Vec<_> = (0..N).map(|n| (numbers.below(n + 1), vec![json!(n)])).collect();
    list_to_other("B1.11 N numbers at random places", "b1.11", &random, js, rounds);
}

/// B2: two edit at once, then each gets the other's messages.
pub fn b2(js: Option<&JsonJoy>, rounds: usize) {
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
        let mut row = Row::new(*name, "ms").goal(5.0, "best");
        macro_rules! add {
            ($peer:ident) => {
                row.add($peer::NAME, || {
                    let mut pair = [$peer::new(0), $peer::new(1)];
                    let mut first = Vec::new();
                    pair[0].type_all(&[Edit::insert(0, &*start)], Some(&mut first));
                    pair[1].apply(&first[0]);
                    let work = |[mut one, mut other]: [$peer; 2]| {
                        let (mut from_one, mut from_other) = (Vec::new(), Vec::new());
                        one.type_all(&edits[0].0, Some(&mut from_one));
                        other.type_all(&edits[1].0, Some(&mut from_other));
                        from_one.iter().for_each(|message| other.apply(message));
                        from_other.iter().for_each(|message| one.apply(message));
                        [one, other]
                    };
                    timed(pair, work, |[mut one, mut other]| {
                        let text = one.text();
                        assert!(text == other.text() && !text.is_empty());
                        if js_name != &"b2.4" {
                            assert_eq!(text.len(), edits[0].1 + edits[1].1 - 100);
                        }
                    })
                });
            };
        }
        each_talking_peer!(add);
        add_js(&mut row, js, js_name);
        row.run(rounds);
    }
}

/// B3: many clients make one change each at once; one gets them all.
pub fn b3(js: Option<&JsonJoy>, rounds: usize) {
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
                    let work = |mut peer: $peer| {
                        messages.iter().for_each(|message| peer.apply(message));
                        peer
                    };
                    timed($peer::new(5000), work, |mut peer| {
                        let len = if js_name == "b3.4" { peer.list_len() } else { peer.map_len() };
                        assert_eq!(len, if js_name == "b3.4" { CLIENTS } else { 1 });
                        if js_name == "b3.2" {
                            assert!(peer.get("v", Some("name")).is_some());
                        }
                    })
                });
            };
        }
        each_json_peer!(add);
        add_js(&mut row, js, js_name);
        row.run(rounds);
    }
}
