//! How much memory things take while they run: counted, not estimated.

#[path = "support/checksum.rs"]
#[expect(unreachable_pub, reason = "more than one test includes it")]
mod checksum;
#[path = "support/counting.rs"]
#[expect(unreachable_pub, reason = "more than one test includes it")]
mod counting;
mod support;

use checksum::repaired;
use counting::{holding, most};
use crdt_core::{
    Document, Model, Patch, SessionId, Value,
    codec::{
        DocumentFormat, Log, Packing, PatchFormat, cbor,
        document::{
            indexed,
            sidecar::{self, Sidecar},
        },
        json,
        log::{LogContainer, LogFormat, LogHistory, LogModel},
        msgpack,
    },
    model::{Diff, QuillOp, RelativePosition, json_patch},
    presence::Shown,
};
use proptest::prelude::*;
use serde_json::json;

fn session(number: u64) -> SessionId {
    SessionId::new(70_000 + number).unwrap()
}

/// What a decoder may hold for each byte it reads. A byte of an array is a value of thirty-two bytes, whose vector can be
/// twice as long as it is full and is moved while it grows.
const PER_BYTE_MAX: usize = 200;
/// What it may hold besides: the room for the first items of each of the arrays that are open, one in the other.
const BESIDES_MAX: usize = 512 << 10;

/// What it reads, and how.
type Decoder = (&'static str, fn(&[u8]));

/// All that reads bytes from outside. Packed snapshots are in `native`: what is packed may well be larger than it. So are
/// unpacked ones, which a checksum guards: here with the right one.
fn decoders() -> Vec<Decoder> {
    let mut all: Vec<Decoder> = vec![
        ("JSON", |bytes| drop(json::decode(bytes))),
        ("CBOR", |bytes| drop(cbor::decode(bytes))),
        ("MessagePack", |bytes| drop(msgpack::decode(bytes, 128))),
        ("JSON Patch", |bytes| drop(json_patch::decode(bytes))),
        ("Quill", |bytes| drop(json::decode(bytes).map(|value| QuillOp::from_value(&value)))),
        ("relative position", |bytes| drop(RelativePosition::decode(bytes))),
        ("presence", |bytes| drop(Shown::decode(bytes))),
        ("log of lines", |bytes| drop(Log::decode(LogContainer::NdJson, bytes))),
        ("log", |bytes| drop(Log::decode(LogContainer::Cbor, bytes))),
        ("patch", |bytes| drop(Patch::decode(bytes))),
        ("patch, taken in", |bytes| drop(Document::new(session(1)).apply_bytes(bytes))),
    ];
    all.push(("patch, verbose", |bytes| drop(PatchFormat::Verbose.decode(bytes))));
    all.push(("patch, compact", |bytes| drop(PatchFormat::Compact.decode(bytes))));
    all.push(("patch, compact binary", |bytes| drop(PatchFormat::CompactBinary.decode(bytes))));
    all.push(("document, verbose", |bytes| drop(DocumentFormat::Verbose.decode(bytes))));
    all.push(("document, compact", |bytes| drop(DocumentFormat::Compact.decode(bytes))));
    all.push(("document, compact binary", |bytes| drop(DocumentFormat::CompactBinary.decode(bytes))));
    all.push(("document, binary", |bytes| drop(DocumentFormat::Binary.decode(bytes))));
    // What is split where a reader would get two or more pieces.
    all.push(("document, sidecar", |bytes| {
        for at in [0, bytes.len() / 2, bytes.len()] {
            let (view, meta) = bytes.split_at(at);
            drop(sidecar::decode(&Sidecar { view: view.to_vec(), meta: meta.to_vec() }));
        }
    }));
    all.push(("document, indexed", |bytes| drop(indexed::decode(&fields_of(bytes)))));
    all.push(("snapshot", |bytes| drop(Document::from_native(&repaired(bytes), session(2)))));
    all.push(("snapshot, opened", |bytes| drop(Document::open_native(repaired(bytes), session(2)))));
    all.push(("snapshot, viewed", |bytes| drop(Document::view_native(&repaired(bytes)))));
    all.push(("history", |bytes| drop(Log::from_native(&repaired(bytes), session(2)))));
    all
}

const LINES: LogFormat =
    LogFormat { container: LogContainer::NdJson, model: LogModel::Compact, history: LogHistory::Compact };

/// The fields of a document by what [`put_fields`] wrote, or by whatever became of it.
fn fields_of(bytes: &[u8]) -> indexed::Fields {
    let fields = bytes.split(|&byte| byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|&byte| byte == b'=')?;
        let hex = std::str::from_utf8(&line[at + 1..]).ok()?.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let value = hex.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
        Some((String::from_utf8(line[..at].to_vec()).ok()?, value.collect::<Option<_>>()?))
    });
    fields.collect()
}

fn put_fields(fields: &indexed::Fields) -> Vec<u8> {
    let line = |(name, value): (&String, &Vec<u8>)| format!("{name}={}\n", support::hex(value));
    fields.iter().map(line).collect::<String>().into_bytes()
}

#[track_caller]
fn check(bytes: &[u8]) {
    for (name, decode) in decoders() {
        let ((), held) = most(|| decode(bytes));
        let max = BESIDES_MAX + PER_BYTE_MAX * bytes.len();
        assert!(
            held <= max,
            "{name} held {held} bytes for {} ({max} allowed): {:02x?}",
            bytes.len(),
            &bytes[..bytes.len().min(64)]
        );
    }
}

#[test]
fn lengths_that_are_told_reserve_nothing() {
    let heads: [&[u8]; 12] = [
        &[0x9b, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        &[0xbb, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        &[0x9a, 0x7f, 0xff, 0xff, 0xff],
        &[0xba, 0x00, 0xff, 0xff, 0xff],
        &[0x5b, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        &[0xdd, 0x7f, 0xff, 0xff, 0xff],
        &[0xdf, 0x7f, 0xff, 0xff, 0xff],
        &[0xdc, 0xff, 0xff],
        &[0xc6, 0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x98, 0xff],
        b"[",
    ];
    for head in heads {
        check(head);
        check(&head.repeat(100));
        check(&[head.repeat(20), vec![0; 10_000]].concat());
    }
    check(&[0; 50_000]);
    check(&[b"[".as_slice(), &b"0,".repeat(20_000), b"0]"].concat());
    check(&[b"[".as_slice(), &b"{},".repeat(20_000), b"0]"].concat());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bytes_that_were_changed_on_the_way_reserve_no_more(
        seeds in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4),
        format in 0..14usize,
        changes in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let mut document = Document::new(session(1));
        let mut log = Log::new(document.clone());
        let mut last = None;
        for (turn, seed) in seeds.iter().enumerate() {
            let patch = support::random::sensible(seed, turn as u64);
            let _ = document.merge(patch.as_ref());
            log.push(patch.clone());
            last = Some(patch);
        }
        let patch = last.unwrap();
        let bytes = match format {
            0..4 => DocumentFormat::ALL[format].encode(&document).unwrap_or_default(),
            4 => cbor::encode(&document.view()),
            5 => PatchFormat::Verbose.encode(&patch).unwrap_or_default(),
            6 => PatchFormat::CompactBinary.encode(&patch).unwrap_or_default(),
            7 => PatchFormat::Compact.encode(&patch).unwrap_or_default(),
            8 => document.to_native(Packing::Plain),
            9 => log.to_native(Packing::Plain),
            10 => log.encode(LINES).unwrap_or_default(),
            11 => indexed::encode(&document).map(|fields| put_fields(&fields)).unwrap_or_default(),
            12 => sidecar::encode(&document).map(|both| [both.view, both.meta].concat()).unwrap_or_default(),
            _ => patch.as_bytes().to_vec(),
        };
        check(&support::random::mutated(bytes, &changes));
        // A checksum stands before all that a snapshot tells, so its lengths are those that were written, or chosen.
        let bytes = document.to_native(Packing::Plain);
        let (_, held) = most(|| Document::from_native(&bytes, session(2)));
        prop_assert!(held <= BESIDES_MAX + PER_BYTE_MAX * bytes.len());
    }
}

#[test]
fn shared_copies_take_no_memory_until_they_are_edited() {
    let mut model = Model::new(session(1));
    model.api().root((0..10_000).map(|n| Value::from(f64::from(n))).collect::<Value>()).unwrap();
    let patch = model.flush().unwrap();
    let mut document = model.into_document();
    let size = document.size_bytes();
    let ((), shared) = most(|| document.share());
    assert!(shared < 4096, "{shared} bytes to share {size}");
    let before = holding();
    let copies: Vec<Document> = (0..100).map(|n| document.fork(session(100 + n))).collect();
    let each = (holding() - before) as usize / copies.len();
    assert!(each <= 256, "{each} bytes a copy");
    let mut models: Vec<Model> = copies.into_iter().map(Model::from).collect();
    for model in &mut models {
        // Neither looking nor what is known already, nor what fails, needs a document of its own.
        assert_eq!(model.apply(&patch), Ok(crdt_core::Applied::Known));
        let failed: Result<(), ()> = model
            .transaction(|model| model.document().node_count().checked_sub(usize::MAX).map(drop).ok_or(()));
        assert_eq!(failed, Err(()));
        model.shrink();
        assert!(model.document().shares_with(&document));
    }
    let before = holding();
    models[7].api().arr("").unwrap().del(0, 1).unwrap();
    assert!(holding() - before > size as isize / 2);
    assert!(models.iter().filter(|model| model.document().shares_with(&document)).count() == 99);
    // The last one that shares it has it for itself.
    models.truncate(1);
    drop(document);
    let (_, held) = most(|| models[0].api().arr("").unwrap().del(0, 1).unwrap());
    assert!(held < size / 2, "{held} bytes to edit the last one of {size}");
}

#[test]
fn the_next_transaction_copies_no_document() {
    let mut model = Model::new(session(1));
    let items: Vec<_> =
        (0..5_000).map(|n| json!({"n": n, "text": "some text that is a node of its own"})).collect();
    model.api().root(json!(items)).unwrap();
    model.flush();
    let size = model.document().size_bytes();
    let set = |model: &mut Model, n: i32| -> Result<(), crdt_core::model::EditError> {
        model.api().obj("/7")?.set([("n", n)])
    };
    let (done, first) = most(|| model.transaction(|model| set(model, 1)));
    done.unwrap();
    assert!(first > size / 2, "{first} of {size}");
    // The copy was made to measure, and grows once.
    set(&mut model, 2).unwrap();
    let done: Result<(), ()> = model.transaction(|_| Ok(()));
    done.unwrap();
    for n in 0..20 {
        let (done, next) = most(|| model.transaction(|model| set(model, n)));
        done.unwrap();
        let (_, flushed) = most(|| model.flush());
        assert!(next + flushed < size / 100, "{next} + {flushed} of {size}");
    }
    // Other edits, and it is gone: who makes no transactions holds no second document.
    let before = holding();
    for n in 0..20_000 {
        set(&mut model, n).unwrap();
        model.flush();
        if (before - holding()) as usize > size / 2 {
            return;
        }
    }
    panic!("the copy is still there");
}

#[test]
fn a_model_gives_its_copy_back() {
    let mut model = Model::new(session(1));
    model.api().root((0..10_000).map(|n| Value::from(f64::from(n))).collect::<Value>()).unwrap();
    let (done, held) = most(|| model.transaction(|_| Ok::<_, ()>(())));
    done.unwrap();
    assert!(held < 4096, "{held} bytes for a transaction without edits");
    model.transaction(|model| model.api().arr("")?.del(0, 1)).unwrap();
    let before = holding();
    model.shrink();
    assert!((before - holding()) as usize > model.document().size_bytes() / 2);
}

/// Changes that are being gathered are bounded as those are that wait: without end nobody fetches or flushes them.
#[test]
fn what_is_being_gathered_for_a_watcher_is_bounded() {
    let mut model = Model::new(session(1));
    let large = "x".repeat(1 << 20);
    let texts = 3 * Model::CHANGE_BYTES_MAX / large.len();
    model.api().root(Value::Array(vec![large.as_str().into(); texts])).unwrap();
    model.flush();
    model.watch();
    for _ in 0..texts {
        model.api().arr("").unwrap().del(0, 1).unwrap();
    }
    let mut unwatched = model.clone();
    let gathered = holding();
    unwatched.unwatch();
    let gathered = gathered - holding();
    assert!(gathered < 1 << 20, "{gathered}");
    let set = model.poll_changes().unwrap();
    assert!(set.missed);
    assert_eq!(set.changes[0].diff, Diff::Value { old: Value::Undefined, new: Value::Array(Vec::new()) });
    assert_eq!(model.poll_changes(), None);
    // From there on all is told again.
    model.api().arr("").unwrap().ins(0, ["small"]).unwrap();
    assert!(!model.poll_changes().unwrap().missed);
    assert_eq!(model.poll_changes(), None);
}
