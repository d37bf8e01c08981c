//! Recorded keystrokes.

use serde_json::Value;

use crdt_core::{
    Document,
    codec::{Log, Packing},
};

use crate::{
    memory,
    peers::{Automerge, Diamond, Edit, Loro, Peer, Weft, Yrs, type_in_cola},
    table::{Plan, Row, timed, timed_pieces},
};

/// Edits or messages between two looks at the clock.
pub const PIECE: usize = 64;

/// Calls a macro for each peer that has text.
macro_rules! each_text_peer {
    ($each:ident) => {
        each_talking_peer!($each);
        $each!(Automerge);
    };
}

/// Calls a macro for each peer that makes many small messages. Automerge is none of them: it takes milliseconds for each,
/// so a recorded text would take it minutes.
macro_rules! each_talking_peer {
    ($each:ident) => {
        $each!(Weft);
        $each!(Diamond);
        $each!(Loro);
        $each!(Yrs);
    };
}

pub struct Trace {
    pub edits: Vec<Edit>,
    pub end: String,
}

fn read(path: &str) -> Value {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_reader(flate2::read::GzDecoder::new(file)).expect("a trace is JSON")
}

fn edits(patches: &Value) -> Vec<Edit> {
    let number = |value: &Value| value.as_u64().expect("a position") as usize;
    let edit = |patch: &Value| Edit {
        at: number(&patch[0]),
        del: number(&patch[1]),
        ins: patch[2].as_str().expect("text").to_owned().leak(),
    };
    patches.as_array().expect("patches").iter().map(edit).collect()
}

pub fn trace(path: &str) -> Trace {
    let trace = read(path);
    let txns = trace["txns"].as_array().expect("transactions");
    let apart: Vec<Edit> = txns.iter().flat_map(|txn| edits(&txn["patches"])).collect();
    let mut text: &'static str = apart.iter().map(|edit| edit.ins).collect::<String>().leak();
    let together = |edit: &Edit| {
        let ins;
        (ins, text) = text.split_at(edit.ins.len());
        Edit { ins, ..*edit }
    };
    Trace {
        edits: apart.iter().map(together).collect(),
        end: trace["endContent"].as_str().expect("the end").to_owned(),
    }
}

fn typed<P: Peer>(trace: &Trace) -> P {
    let mut peer = P::new(0);
    peer.type_all(&trace.edits, None);
    assert_eq!(peer.text(), trace.end);
    peer
}

/// What is seen of messages as they go by: the same work for everyone's, and no memory for all of them at once.
#[derive(Default)]
struct Tally {
    count: usize,
    bytes: usize,
    hash: u64,
}

impl Tally {
    /// A hash of eight bytes at a time, as rustc's.
    fn take(&mut self, message: &[u8]) {
        self.count += 1;
        self.bytes += message.len();
        let mut mix =
            |word: u64| self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        let (words, rest) = message.as_chunks::<8>();
        words.iter().for_each(|&word| mix(u64::from_le_bytes(word)));
        rest.iter().for_each(|&byte| mix(byte.into()));
    }
}

/// A message for each edit.
fn messages_of<P: Peer>(edits: &[Edit]) -> Vec<Vec<u8>> {
    let mut messages = Vec::with_capacity(edits.len());
    P::new(0).type_all(edits, Some(&mut |message| messages.push(message.to_vec())));
    messages
}

/// Takes messages in, one at a time.
pub fn apply_all<P: Peer>(peer: &mut P, messages: &[Vec<u8>]) {
    messages.iter().for_each(|message| peer.apply(message));
}

pub fn local(trace: &Trace, plan: &Plan) {
    let mut row = Row::new("automerge-paper, each edit committed", "ms")
        .goal(20.0, "json-joy")
        .goal(1.0, "diamond-types");
    macro_rules! add {
        ($peer:ident) => {
            row.add($peer::NAME, || {
                let work = |peer: &mut $peer, edits: &[Edit]| peer.type_all(edits, None);
                let check = |mut peer: $peer| assert_eq!(peer.text(), trace.end);
                timed_pieces($peer::new(0), trace.edits.chunks(PIECE), work, check)
            });
        };
    }
    each_text_peer!(add);
    let units = trace.end.encode_utf16().count();
    row.add("cola, no text", || timed((), |()| type_in_cola(&trace.edits), |len| assert_eq!(len, units)));
    row.add_js(plan, "local");
    row.run(plan.rounds);
}

pub fn messages(trace: &Trace, plan: &Plan) {
    let mut row = Row::new("the same with a message per edit", "ms").goal(30.0, "json-joy");
    macro_rules! add {
        ($peer:ident) => {
            row.add($peer::NAME, || {
                let work = |(peer, tally): &mut ($peer, Tally), edits: &[Edit]| {
                    peer.type_all(edits, Some(&mut |message| tally.take(message)));
                };
                let check = |(mut peer, tally): ($peer, Tally)| {
                    assert_eq!((peer.text(), tally.count), (trace.end.clone(), trace.edits.len()));
                    assert!(tally.bytes > tally.count && tally.hash != 0);
                };
                timed_pieces(($peer::new(0), Tally::default()), trace.edits.chunks(PIECE), work, check)
            });
        };
    }
    each_talking_peer!(add);
    row.add_js(plan, "message");
    row.run(plan.rounds);
}

pub fn remote(trace: &Trace, plan: &Plan) {
    let mut row = Row::new("the same as messages from elsewhere, one at a time", "ms").goal(16.0, "json-joy");
    macro_rules! add {
        ($peer:ident) => {
            let messages = messages_of::<$peer>(&trace.edits);
            row.add($peer::NAME, move || {
                let check = |mut peer: $peer| assert_eq!(peer.text(), trace.end);
                timed_pieces($peer::new(1), messages.chunks(PIECE), apply_all, check)
            });
        };
    }
    each_talking_peer!(add);
    row.add_js(plan, "remote");
    row.run(plan.rounds);
}

/// Plays a trace of several authors, each of whom has seen what the trace says. Returns all messages in causal order.
fn concurrent_messages<P: Peer>(trace: &Value) -> Vec<Vec<u8>> {
    let txns = trace["txns"].as_array().expect("transactions");
    let agents = trace["numAgents"].as_u64().expect("a number of agents") as usize;
    let mut peers: Vec<P> = (0..agents as u64).map(P::new).collect();
    let mut seen = vec![vec![false; txns.len()]; agents];
    let mut messages: Vec<Vec<Vec<u8>>> = Vec::new();
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
        for message in missing.iter().flat_map(|&txn| &messages[txn]) {
            peers[agent].apply(message);
        }
        let mut made = Vec::new();
        peers[agent].type_all(&edits(&txn["patches"]), Some(&mut |message| made.push(message.to_vec())));
        messages.push(made);
        seen[agent][at] = true;
    }
    messages.into_iter().flatten().collect()
}

pub fn concurrent(path: &str, plan: &Plan) {
    let trace = read(path);
    let end = trace["endContent"].as_str().expect("the end");
    let mut row =
        Row::new("friendsforever, two authors at once, one message at a time", "ms").goal(14.0, "yrs");
    macro_rules! add {
        ($peer:ident) => {
            let messages = concurrent_messages::<$peer>(&trace);
            row.add($peer::NAME, move || {
                // Who breaks ties in another way ends elsewhere, in a text of the same length.
                let check = |mut peer: $peer| assert_eq!(peer.text().len(), end.len());
                timed_pieces($peer::new(9), messages.chunks(PIECE), apply_all, check)
            });
        };
    }
    each_talking_peer!(add);
    row.add_js(plan, "concurrent");
    row.run(plan.rounds);
}

pub fn load(trace: &Trace, plan: &Plan) {
    let after = format!("!{}", trace.end);
    let edit = [Edit::insert(0, "!")];
    let mut row = Row::new("load that snapshot and make one edit", "ms").goal(30.0, "yrs");
    macro_rules! add {
        ($peer:ident) => {
            let bytes = typed::<$peer>(trace).save();
            let (edit, after) = (&edit, &after);
            row.add($peer::NAME, move || {
                let work = |()| {
                    let mut peer = $peer::load(&bytes, 1);
                    peer.type_all(edit, None);
                    peer
                };
                timed((), work, |mut peer| assert_eq!(peer.text(), *after))
            });
        };
    }
    each_text_peer!(add);
    let native = typed::<Weft>(trace).document().to_native(Packing::Plain);
    let (edit, after) = (&edit, &after);
    row.add("weft, native", move || {
        let work = |()| {
            let session = crdt_core::SessionId::new(100_002).expect("an id below the bound");
            let mut peer =
                Weft::from_document(Document::from_native(&native, session).expect("our own snapshot"));
            peer.type_all(edit, None);
            peer
        };
        timed((), work, |mut peer| assert_eq!(peer.text(), *after))
    });
    row.add_js(plan, "load");
    row.run(plan.rounds);
}

/// Nothing changes between two writings: Loro copies what it kept of the last one, and so may we.
pub fn encode(trace: &Trace, plan: &Plan) {
    let mut row = Row::new("write that snapshot", "ms").goal(2.5, "loro");
    macro_rules! add {
        ($peer:ident) => {
            let mut peer = typed::<$peer>(trace);
            row.add($peer::NAME, move || timed((), |()| peer.save(), |bytes| assert!(bytes.len() > 50_000)));
        };
    }
    each_text_peer!(add);
    let peer = typed::<Weft>(trace);
    row.add("weft, native", move || {
        timed((), |()| peer.document().to_native(Packing::Plain), |bytes| assert!(bytes.len() > 50_000))
    });
    let peer = typed::<Weft>(trace);
    assert_eq!(peer.kept()[..], peer.document().to_binary());
    row.add("weft, kept", move || timed((), |()| peer.kept(), |bytes| assert!(bytes.len() > 50_000)));
    row.add_js(plan, "save");
    row.run(plan.rounds);
}

/// A server writes after changes: what was kept of the last writing is no more than a part of this one.
pub fn encode_changed(trace: &Trace, plan: &Plan) {
    let edit = [Edit::insert(trace.end.len() / 2, "!")];
    let mut row = Row::new("make one more edit and write it", "ms").goal(2.5, "loro");
    macro_rules! add {
        ($peer:ident) => {
            let mut peer = typed::<$peer>(trace);
            let edit = &edit;
            row.add($peer::NAME, move || {
                let work = |()| {
                    peer.type_all(edit, None);
                    peer.save()
                };
                timed((), work, |bytes| assert!(bytes.len() > 50_000))
            });
        };
    }
    each_text_peer!(add);
    row.add_js(plan, "change and save");
    row.run(plan.rounds);
}

/// The document's history: a patch for each edit.
fn history(trace: &Trace) -> Log {
    let mut peer = Weft::new(0);
    let mut log = Log::new(peer.document().clone());
    let mut keep = |message: &[u8]| {
        assert!(log.push(crdt_core::Patch::decode(message).expect("our own patch")));
    };
    peer.type_all(&trace.edits, Some(&mut keep));
    log
}

pub fn sizes(trace: &Trace, plan: &Plan) {
    let weft = typed::<Weft>(trace);
    let native = weft.document().to_native(Packing::Deflate);
    assert_eq!(
        Document::view_native(&native).expect("our own snapshot").get("text").and_then(|text| text.as_str()),
        Some(&*trace.end)
    );
    let (loro, yrs) = (typed::<Loro>(trace), typed::<Yrs>(trace));
    let mut row = Row::new("snapshot without history", "B").limit(58_000.0);
    row.add("weft, native", || native.len() as f64);
    row.add("weft, native, plain", || weft.document().to_native(Packing::Plain).len() as f64);
    row.add("weft, binary", || weft.document().to_binary().len() as f64);
    row.add("loro, shallow", || loro.shallow().len() as f64);
    row.add("yrs, v2", || yrs.save_v2().len() as f64);
    if let Some(js) = &plan.js {
        row.add("json-joy", || js.run("size"));
    }
    row.run(1);

    let log = history(trace);
    let mut row = Row::new("snapshot with full history", "B").limit(106_000.0);
    row.add("weft, native", || {
        let bytes = log.to_native(Packing::Deflate);
        let session = crdt_core::SessionId::new(100_001).expect("an id below the bound");
        let end = Log::from_native(&bytes, session).expect("our own history").end().expect("our own patches");
        assert_eq!(end.view().get("text").and_then(|text| text.as_str()), Some(&*trace.end));
        bytes.len() as f64
    });
    macro_rules! add {
        ($peer:ident) => {
            let mut peer = typed::<$peer>(trace);
            row.add($peer::NAME, move || peer.save().len() as f64);
        };
    }
    add!(Diamond);
    add!(Loro);
    add!(Automerge);
    row.run(1);
}

pub fn memory(trace: &Trace) {
    let mut typed_row = Row::new("memory after typing it", "B").limit(1e6);
    let mut loaded_row = Row::new("memory after loading it", "B").limit(1e6);
    macro_rules! add {
        ($peer:ident) => {
            let before = memory::live();
            let mut peer = typed::<$peer>(trace);
            let used = (memory::live() - before) as f64;
            typed_row.add($peer::NAME, move || used);
            let bytes = peer.save();
            drop(peer);
            let before = memory::live();
            let mut peer = $peer::load(&bytes, 1);
            peer.type_all(&[Edit::insert(0, "!")], None);
            let used = (memory::live() - before) as f64;
            assert_eq!(peer.text().len(), trace.end.len() + 1);
            loaded_row.add($peer::NAME, move || used);
        };
    }
    each_text_peer!(add);
    typed_row.run(1);
    loaded_row.run(1);
}
